# SPDX-License-Identifier: Apache-2.0
"""A plain client of an API server for the tests' own use: what it sends is what is written here, it retries nothing."""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"


@dataclass
class Answer:
    status: int
    body: Any
    headers: dict[str, str]

    @property
    def message(self) -> str:
        return str(self.body.get("message", "")) if isinstance(self.body, dict) else str(self.body)


class Refused(Exception):
    def __init__(self, what: str, answer: Answer) -> None:
        super().__init__(f"{what}: {answer.status}: {answer.message}")
        self.answer = answer


class Api:
    """`ok` raises when the answer is no success; `raw` gives whatever came."""

    def __init__(self, host: str, port: int, ca: Path, token: str | None) -> None:
        self.host = host
        self.port = port
        self.ca = ca
        self.token = token
        self.context = ssl.create_default_context(cafile=str(ca))

    def raw(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPSConnection(
            self.host, self.port, context=self.context, timeout=30
        )
        sent = {"Accept": "application/json", **(headers or {})}
        if self.token is not None:
            sent["Authorization"] = f"Bearer {self.token}"
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent["Content-Type"] = content_type
        try:
            connection.request(method, path, data, sent)
            response = connection.getresponse()
            text = response.read()
            try:
                parsed = json.loads(text)
            except ValueError:
                parsed = text.decode(errors="replace")
            return Answer(response.status, parsed, {k.lower(): v for k, v in response.getheaders()})
        finally:
            connection.close()

    def ok(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> Any:
        answer = self.raw(method, path, body, content_type)
        if not 200 <= answer.status < 300:
            raise Refused(f"{method} {path}", answer)
        return answer.body

    def get(self, path: str) -> Any:
        return self.ok("GET", path)

    def merge(self, path: str, body: Any) -> Any:
        return self.ok("PATCH", path, body, MERGE)


GROUPS = {
    "Namespace": ("/api/v1", "namespaces"),
    "Pod": ("/api/v1", "pods"),
    "Secret": ("/api/v1", "secrets"),
    "ConfigMap": ("/api/v1", "configmaps"),
    "ServiceAccount": ("/api/v1", "serviceaccounts"),
    "Event": ("/api/v1", "events"),
    "Service": ("/api/v1", "services"),
    "Deployment": ("/apis/apps/v1", "deployments"),
    "CronJob": ("/apis/batch/v1", "cronjobs"),
    "Job": ("/apis/batch/v1", "jobs"),
    "Lease": ("/apis/coordination.k8s.io/v1", "leases"),
    "Role": ("/apis/rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "rolebindings"),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets"),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies"),
    "HorizontalPodAutoscaler": ("/apis/autoscaling/v2", "horizontalpodautoscalers"),
    "ValidatingAdmissionPolicy": (
        "/apis/admissionregistration.k8s.io/v1",
        "validatingadmissionpolicies",
    ),
    "ValidatingAdmissionPolicyBinding": (
        "/apis/admissionregistration.k8s.io/v1",
        "validatingadmissionpolicybindings",
    ),
    "CustomResourceDefinition": ("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions"),
}
CLUSTER_WIDE = {
    "Namespace",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "CustomResourceDefinition",
}


def collection(kind: str, namespace: str) -> str:
    group, plural = GROUPS[kind]
    return (
        f"{group}/{plural}" if kind in CLUSTER_WIDE else f"{group}/namespaces/{namespace}/{plural}"
    )


def path_of(kind: str, namespace: str, name: str) -> str:
    return f"{collection(kind, namespace)}/{quote(name)}"


def apply(api: Api, manifest: dict[str, Any], namespace: str, *, dry_run: bool = False) -> Answer:
    """Server-side apply with strict validation: an unknown or doubled field is refused, as `kubectl apply
    --server-side --validate=strict` does it."""
    kind, name = manifest["kind"], manifest["metadata"]["name"]
    query = "?fieldManager=kubectl&force=true&fieldValidation=Strict" + (
        "&dryRun=All" if dry_run else ""
    )
    return api.raw("PATCH", path_of(kind, namespace, name) + query, manifest, APPLY)
