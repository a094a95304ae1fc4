# SPDX-License-Identifier: Apache-2.0
"""The manifests on a real API server: every field is one, the Role is as small as it can be, the policy holds."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from harness.waiting import wait_until

from .api import CLUSTER_WIDE, MERGE, STRATEGIC, Api, apply, collection, path_of
from .cluster import Cluster
from .stage import MANIFESTS, manifests

pytestmark = pytest.mark.kube
OVERLAYS = ["base", *sorted(f"overlays/{p.name}" for p in (MANIFESTS / "overlays").iterdir())]
COST = "controller.kubernetes.io/pod-deletion-cost"
numbers = itertools.count(1)


@pytest.fixture
def ns(cluster: Cluster) -> str:
    return cluster.namespace(f"manifests{next(numbers)}")


def applied(cluster: Cluster, overlay: str, ns: str, *, dry_run: bool) -> list[dict[str, Any]]:
    made = manifests(MANIFESTS / overlay)
    for one in sorted(made, key=lambda o: o["kind"] != "Namespace"):
        at = one["metadata"].get("namespace", ns)
        answer = apply(cluster.admin, one, at, dry_run=dry_run and one["kind"] != "Namespace")
        assert answer.status in (200, 201), answer.body
        assert "warning" not in answer.headers, answer.headers["warning"]
    return made


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_field_is_known(cluster: Cluster, ns: str, overlay: str) -> None:
    made = applied(cluster, overlay, ns, dry_run=True)
    kinds = {(one["kind"], one["metadata"]["name"]) for one in made}
    assert ("Deployment", "worker") in kinds
    assert ("Lease", "scatter-scale-worker") in kinds
    assert ("CronJob", "scatter-scale") in kinds or overlay == "overlays/loop"
    worker = next(o for o in made if (o["kind"], o["metadata"]["name"]) == ("Deployment", "worker"))
    assert "replicas" not in worker["spec"]


def test_a_field_that_is_misspelt_is_refused(cluster: Cluster, ns: str) -> None:
    worker = next(o for o in manifests(MANIFESTS / "base") if o["kind"] == "Deployment")
    worker["spec"]["replica"] = 3
    answer = apply(cluster.admin, worker, ns, dry_run=True)
    assert (answer.status, "replica" in answer.message) == (500, True) or answer.status == 400, (
        answer
    )


def test_the_namespace_may_be_restricted(cluster: Cluster) -> None:
    """Pod security admission accepts every pod of ours at the strictest level."""
    ns = cluster.namespace(f"restricted{next(numbers)}")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.admin.merge(f"/api/v1/namespaces/{ns}", {"metadata": {"labels": labels}})
    for overlay in ("base", "overlays/loop"):
        for one in applied(cluster, overlay, ns, dry_run=True):
            spec = one.get("spec", {})
            template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
            if template is None:
                continue
            pod = {
                "metadata": {"name": "pod", "labels": {}},
                "spec": copy.deepcopy(template["spec"]),
            }
            pod["spec"]["serviceAccountName"] = "default"
            answer = cluster.admin.raw("POST", collection("Pod", ns) + "?dryRun=All", pod)
            assert answer.status == 201, answer.body


def test_applying_again_leaves_what_the_scaler_wrote(cluster: Cluster, ns: str) -> None:
    admin = cluster.admin
    applied(cluster, "base", ns, dry_run=False)
    scale = path_of("Deployment", ns, "worker") + "/scale"
    lease = path_of("Lease", ns, "scatter-scale-worker")
    held = admin.get(lease)
    held["spec"] = {"holderIdentity": "pod", "leaseDurationSeconds": 55}
    held["metadata"].setdefault("annotations", {})["scatter-scale/state"] = "{}"
    admin.ok("PUT", lease, held)
    admin.merge(scale, {"spec": {"replicas": 7}})
    applied(cluster, "base", ns, dry_run=False)
    assert admin.get(scale)["spec"]["replicas"] == 7
    assert admin.get(lease)["spec"]["holderIdentity"] == "pod"
    assert admin.get(lease)["metadata"]["annotations"] == {"scatter-scale/state": "{}"}


def test_the_scaler_may_do_what_the_role_says_and_nothing_else(cluster: Cluster, ns: str) -> None:
    applied(cluster, "base", ns, dry_run=False)
    scaler = cluster.api_for(ns, "scatter-scale")
    rules = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
    body = {"spec": {"namespace": ns}}
    found = scaler.ok("POST", rules, body)["status"]["resourceRules"]
    of_everybody = {"selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"}
    flat = {
        (verb, resource, *(rule.get("resourceNames") or ["*"]))
        for rule in found
        for verb in rule["verbs"]
        for resource in rule["resources"]
        if resource not in of_everybody
    }
    assert flat == {
        ("get", "deployments", "worker"),
        ("get", "deployments/scale", "worker"),
        ("patch", "deployments/scale", "worker"),
        ("get", "leases", "scatter-scale-worker"),
        ("update", "leases", "scatter-scale-worker"),
        ("list", "pods", "*"),
        ("list", "horizontalpodautoscalers", "*"),
        ("list", "scaledobjects", "*"),
        ("create", "events", "*"),
    }
    for method, path, what in [
        ("PATCH", path_of("Deployment", ns, "worker"), {"spec": {"replicas": 3}}),
        ("PATCH", path_of("Deployment", ns, "other") + "/scale", {"spec": {"replicas": 3}}),
        ("PATCH", path_of("Pod", ns, "any"), {"metadata": {}}),
        ("GET", path_of("Secret", ns, "celery-broker"), None),
        ("GET", path_of("Lease", ns, "other"), None),
        ("DELETE", path_of("Pod", ns, "any"), None),
    ]:
        assert scaler.raw(method, path, what, MERGE).status == 403, path


# ---- overlays/pod-cost


@pytest.fixture(scope="module")
def costs(cluster: Cluster) -> Iterator[tuple[Api, str]]:
    """The scaler of a namespace with that overlay, and a pod's path there. Made once: a server goes on for a moment with
    a policy that was deleted."""
    ns = cluster.namespace("costs")
    made = applied(cluster, "overlays/pod-cost", ns, dry_run=False)
    admin = cluster.admin
    spec = {"containers": [{"name": "worker", "image": "good"}]}
    meta = {"name": "pod", "labels": {"a": "b"}, "annotations": {"kept": "yes"}}
    admin.ok("POST", collection("Pod", ns), {"metadata": meta, "spec": spec})
    path = path_of("Pod", ns, "pod")
    scaler = cluster.api_for(ns, "scatter-scale")
    note = {"metadata": {"annotations": {"new": "x"}}}

    def policy_is_in_force() -> bool:
        return scaler.raw("PATCH", path + "?dryRun=All", note, MERGE).status == 422

    wait_until(policy_is_in_force, "the policy is in force", 30)
    yield scaler, path
    for one in made:
        if one["kind"] in CLUSTER_WIDE:
            admin.ok("DELETE", path_of(one["kind"], ns, one["metadata"]["name"]))


def test_the_scaler_may_set_a_cost(costs: tuple[Api, str]) -> None:
    scaler, path = costs
    for value in ("-1000", "1002", None):
        made = scaler.merge(path, {"metadata": {"annotations": {COST: value}}})
        assert made["metadata"]["annotations"].get(COST) == value


@pytest.mark.parametrize(
    "patch",
    [
        {"spec": {"containers": [{"name": "worker", "image": "bad"}]}},
        {"spec": {"activeDeadlineSeconds": 1}},
        {"metadata": {"labels": {"a": "c"}}},
        {"metadata": {"labels": {"new": "c"}}},
        {"metadata": {"annotations": {"kept": "no"}}},
        {"metadata": {"annotations": {"kept": None}}},
        {"metadata": {"annotations": {"new": "x", COST: "1"}}},
        {"metadata": {"finalizers": ["example.com/never"]}},
    ],
)
def test_and_nothing_else_of_a_pod(
    costs: tuple[Api, str], cluster: Cluster, patch: dict[str, Any]
) -> None:
    scaler, path = costs
    before = cluster.admin.get(path)
    answer = scaler.raw("PATCH", path, patch, STRATEGIC)
    assert (answer.status, "the scaler may" in answer.message) == (422, True), answer.body
    assert cluster.admin.get(path) == before
    # The policy is about the scaler: others go on as before.
    assert cluster.admin.raw("PATCH", path + "?dryRun=All", patch, STRATEGIC).status == 200
