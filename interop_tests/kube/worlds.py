# SPDX-License-Identifier: Apache-2.0
"""A server to run the script against: behind the same front the stub or the real one."""

from __future__ import annotations

import itertools
import json
import urllib.request
from pathlib import Path
from typing import Any

from harness.certificates import Authority

from .api import Answer, Api, collection, path_of
from .cluster import Cluster
from .front import Front, Request, forward_to
from .probe import Probe, service_account
from .stub import Stub

numbers = itertools.count(1)


def deployment(name: str, replicas: int, **labels: str) -> dict[str, Any]:
    labels = labels or {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "worker", "image": "worker"}]},
            },
        },
    }


def lease(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": name,
            "labels": {"kept": "yes"},
            "annotations": {"other/note": 'a "b"'},
        },
        "spec": {},
    }


RULES: list[dict[str, Any]] = [
    {
        "apiGroups": ["apps"],
        "resources": ["deployments"],
        "resourceNames": ["worker"],
        "verbs": ["get"],
    },
    {
        "apiGroups": ["apps"],
        "resources": ["deployments/scale"],
        "resourceNames": ["worker"],
        "verbs": ["get", "patch"],
    },
    {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "resourceNames": ["worker"],
        "verbs": ["get", "update"],
    },
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "patch"]},
    {
        "apiGroups": ["autoscaling"],
        "resources": ["horizontalpodautoscalers"],
        "verbs": ["list"],
    },
    {"apiGroups": ["keda.sh"], "resources": ["scaledobjects"], "verbs": ["list"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
]


class Direct(Api):
    """Asks the stub without a connection."""

    def __init__(self, stub: Stub, token: str | None) -> None:
        self.stub = stub
        self.token = token

    def raw(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        sent = {"content-type": content_type, **(headers or {})}
        if self.token is not None:
            sent["authorization"] = f"Bearer {self.token}"
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = self.stub.handle(Request(method, path, sent, b"" if body is None else data))
        return Answer(answer.status, json.loads(json.dumps(answer.body)), answer.headers)


class World:
    """One server; `scene` makes a namespace of its own in it."""

    def __init__(self, folder: Path, cluster: Cluster | None) -> None:
        self.folder = folder
        self.cluster = cluster
        self.authority = Authority(folder / "front")
        self.certificate = self.authority.issue(
            "front", "127.0.0.1", "::1", "localhost", "kube.example"
        )
        self.stub = Stub()
        self.backend = forward_to(cluster.admin) if cluster is not None else self.stub.handle
        self.front = Front(self.backend, self.certificate)
        # What the test itself asks goes another way, so that nothing planned meets it.
        self.admin = self.api("admin-token")

    def scene(self) -> Scene:
        return Scene(self, f"scene{next(numbers)}")

    def expire_lists(self) -> None:
        if self.cluster is None:
            self.stub.expire_lists()
            return
        at = int(self.admin.get("/api/v1/namespaces?limit=1")["metadata"]["resourceVersion"])
        body = json.dumps({"revision": at, "physical": True}).encode()
        with urllib.request.urlopen(f"{self.cluster.etcd_url}/v3/kv/compaction", body) as answer:
            assert answer.status == 200

    def stop(self) -> None:
        self.front.stop()

    def api(self, token: str | None) -> Api:
        if self.cluster is not None:
            return Api(self.cluster.host, self.cluster.port, self.cluster.ca, token)
        return Direct(self.stub, token)


class Scene:
    """A namespace with a Deployment `worker`, a Lease `worker` and a service account `scaler` that may do what a scaler
    may. `front.requests` holds what the probes sent since the scene was set."""

    def __init__(self, world: World, ns: str) -> None:
        self.world = world
        self.ns = ns
        self.front = world.front
        self.admin = world.admin
        self.probes: list[Probe] = []
        if world.cluster is not None:
            world.cluster.namespace(ns)
        self.create("ServiceAccount", {"metadata": {"name": "scaler"}})
        self.create("Role", {"metadata": {"name": "scaler"}, "rules": RULES})
        self.create(
            "RoleBinding",
            {
                "metadata": {"name": "scaler"},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "Role",
                    "name": "scaler",
                },
                "subjects": [{"kind": "ServiceAccount", "name": "scaler", "namespace": ns}],
            },
        )
        self.create("Deployment", deployment("worker", 0))
        self.create("Lease", lease("worker"))
        self.front.plans.clear()
        self.front.requests.clear()

    def create(self, kind: str, body: dict[str, Any]) -> Any:
        return self.admin.ok("POST", collection(kind, self.ns), body)

    def path(self, kind: str, name: str = "worker") -> str:
        return path_of(kind, self.ns, name)

    def get(self, kind: str, name: str = "worker") -> Any:
        return self.admin.get(self.path(kind, name))

    def replicas(self) -> int:
        return int(self.get("Deployment")["spec"]["replicas"])

    def set_replicas(self, n: int) -> None:
        self.admin.merge(self.path("Deployment") + "/scale", {"spec": {"replicas": n}})

    def annotate(self, kind: str, name: str = "worker", **values: str | None) -> None:
        self.admin.merge(self.path(kind, name), {"metadata": {"annotations": values}})

    def token(self, account: str = "scaler") -> str:
        path = f"{self.path('ServiceAccount', account)}/token"
        return str(self.admin.ok("POST", path, {"spec": {}})["status"]["token"])

    def pod(self, name: str, labels: dict[str, str] | None = None) -> None:
        spec = {"containers": [{"name": "worker", "image": "worker"}]}
        meta = {"name": name, "labels": {"app": "bare"} if labels is None else labels}
        self.create("Pod", {"metadata": meta, "spec": spec})

    def run_pod(self, name: str) -> None:
        """As a scheduler and a kubelet would."""
        at = self.path("Pod", name)
        self.admin.ok(
            "POST",
            f"{at}/binding",
            {"metadata": {"name": name}, "target": {"kind": "Node", "name": "n"}},
        )
        ready = {
            "phase": "Running",
            "startTime": "2026-01-02T03:04:05Z",
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        self.admin.merge(f"{at}/status", {"status": ready})

    def account_folder(self, token: str | None = None, ca: Path | None = None) -> Path:
        folder = self.world.folder / f"account{next(numbers)}"
        return service_account(
            folder,
            self.token() if token is None else token,
            ca or self.world.authority.pem,
            self.ns,
        )

    def probe(
        self, folder: Path | None = None, host: str = "127.0.0.1", **options: object
    ) -> Probe:
        """In a pod of this namespace."""
        made = Probe(
            {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": str(self.front.port)},
            service_account=folder or self.account_folder(),
            **options,
        )
        self.probes.append(made)
        return made

    def close(self) -> None:
        for probe in self.probes:
            assert probe.close() == 0
