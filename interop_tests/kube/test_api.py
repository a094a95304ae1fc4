# SPDX-License-Identifier: Apache-2.0
"""What the scaler relies on in an API server, asked without our client: the stub must answer as the real one does."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from .api import JSON_PATCH, MERGE, STRATEGIC
from .worlds import Scene

COST = "controller.kubernetes.io/pod-deletion-cost"


@pytest.fixture
def scale(scene: Scene) -> str:
    return scene.path("Deployment") + "/scale"


def test_the_scale_at_zero_has_an_empty_spec(scene: Scene, scale: str) -> None:
    seen = scene.admin.get(scale)
    assert seen["kind"] == "Scale"
    assert seen["spec"] == {}
    scene.set_replicas(2)
    assert scene.admin.get(scale)["spec"] == {"replicas": 2}


def test_the_scale_has_the_version_of_the_deployment_and_status_moves_it(
    scene: Scene, scale: str
) -> None:
    def versions() -> list[str]:
        objects = [scene.get("Deployment"), scene.admin.get(scale)]
        return [str(o["metadata"]["resourceVersion"]) for o in objects]

    # A real controller may write the status between the two reads.
    first = next(v for v in iter(versions, None) if v[0] == v[1])
    scene.admin.merge(scene.path("Deployment") + "/status", {"status": {"collisionCount": 1}})
    assert versions()[1] != first[1]


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        (MERGE, {"spec": {"replicas": 3}}, 200),
        (STRATEGIC, {"spec": {"replicas": 3}}, 200),
        (MERGE, {"spec": {"replica": 3}}, 200),
        (MERGE, {"spec": {"replicas": -1}}, 422),
        (MERGE, {"spec": {"replicas": 1.5}}, 422),
        (MERGE, {"spec": {"replicas": "3"}}, 422),
        (MERGE, {"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 3}}, 409),
        (MERGE, b"{broken", 400),
        ("application/json", {"spec": {"replicas": 3}}, 415),
        (JSON_PATCH, [{"op": "test", "path": "/spec/replicas", "value": 0}], 422),
        (
            JSON_PATCH,
            [
                {"op": "test", "path": "/spec", "value": {}},
                {"op": "add", "path": "/spec", "value": {"replicas": 3}},
            ],
            200,
        ),
    ],
)
def test_patches_of_the_scale(
    scene: Scene, scale: str, content_type: str, body: Any, status: int
) -> None:
    answer = scene.admin.raw("PATCH", scale, body, content_type)
    assert answer.status == status, answer.body
    misspelt = isinstance(body, dict) and "replica" in body.get("spec", {})
    assert scene.replicas() == (3 if status == 200 and not misspelt else 0)
    if status == 200:
        assert answer.body["kind"] == "Scale"
    else:
        assert answer.body["kind"] == "Status"
        assert answer.body["code"] == status


def test_a_dry_run_stores_nothing(scene: Scene, scale: str) -> None:
    answer = scene.admin.raw("PATCH", scale + "?dryRun=All", {"spec": {"replicas": 9}}, MERGE)
    assert (answer.status, answer.body["spec"]) == (200, {"replicas": 9})
    assert scene.replicas() == 0


def test_what_is_not_there(scene: Scene) -> None:
    named = scene.admin.raw("GET", scene.path("Deployment", "nobody"))
    assert (named.status, named.body["reason"]) == (404, "NotFound")
    assert named.body["details"]["name"] == "nobody"
    kind = scene.admin.raw("GET", f"/apis/keda.sh/v1alpha1/namespaces/{scene.ns}/scaledobjects")
    assert (kind.status, kind.body) == (404, "404 page not found\n")
    gone = {"metadata": {"annotations": {COST: "1"}}}
    assert scene.admin.raw("PATCH", scene.path("Pod", "nobody"), gone, MERGE).status == 404


def test_who_may_not(scene: Scene, scale: str) -> None:
    def asked(token: str | None, method: str, path: str, body: Any = None) -> tuple[int, str]:
        answer = scene.world.api(token).raw(method, path, body, MERGE)
        return answer.status, answer.message

    assert asked("nonsense", "GET", scale) == (401, "Unauthorized")
    nobody = asked(None, "GET", scale)
    assert nobody[0] == 403
    assert 'User "system:anonymous" cannot get resource "deployments/scale"' in nobody[1]
    token = scene.token()
    assert asked(token, "GET", scale)[0] == 200
    other = asked(token, "PATCH", scene.path("Deployment", "other") + "/scale", {"spec": {}})
    assert other == (
        403,
        'deployments.apps "other" is forbidden: User "system:serviceaccount:'
        f'{scene.ns}:scaler" cannot patch resource "deployments/scale" in API group "apps" in the '
        f'namespace "{scene.ns}"',
    )
    assert asked(token, "PATCH", scene.path("Deployment"), {"spec": {"replicas": 9}})[0] == 403


def test_a_lease(scene: Scene) -> None:
    path = scene.path("Lease")
    seen = scene.get("Lease")
    assert seen["spec"] == {}
    good = copy.deepcopy(seen)
    good["spec"] = {
        "holderIdentity": "",
        "leaseDurationSeconds": 55,
        "renewTime": "2026-01-01T00:00:00.000000Z",
        "leaseTransitions": 1,
    }
    assert scene.admin.raw("PUT", path, good).status == 200
    assert scene.admin.raw("PUT", path, good).status == 409
    now = scene.get("Lease")
    for field, value, status in [
        ("renewTime", "2026-01-01T00:00:00Z", 400),
        ("leaseDurationSeconds", 0, 422),
        ("leaseTransitions", -1, 422),
    ]:
        bad = copy.deepcopy(now)
        bad["spec"][field] = value
        assert scene.admin.raw("PUT", path, bad).status == status, field
    assert scene.get("Lease") == now


def test_a_list_in_pages_that_expires(scene: Scene) -> None:
    for i in range(5):
        scene.pod(f"bare{i}")
    path = f"/api/v1/namespaces/{scene.ns}/pods?labelSelector=app%3Dbare&limit=2"
    first = scene.admin.get(path)
    assert [o["metadata"]["name"] for o in first["items"]] == ["bare0", "bare1"]
    more = first["metadata"]["continue"]
    second = scene.admin.get(f"{path}&continue={more}")
    assert [o["metadata"]["name"] for o in second["items"]] == ["bare2", "bare3"]
    scene.pod("bare5")
    scene.world.expire_lists()
    late = scene.admin.raw("GET", f"{path}&continue={more}")
    assert (late.status, late.body["reason"]) == (410, "Expired")
    assert scene.admin.raw("GET", f"{path}&continue=nonsense").status == 400


def test_a_deletion_cost_is_a_text(scene: Scene) -> None:
    scene.pod("bare")
    path = scene.path("Pod", "bare")
    for value, status in [("-100", 200), (-100, 422), ("much", 422)]:
        body = {"metadata": {"annotations": {COST: value}}}
        assert scene.admin.raw("PATCH", path, body, MERGE).status == status, value
    assert scene.get("Pod", "bare")["metadata"]["annotations"] == {COST: "-100"}


def test_a_pod_that_is_deleted_stays_until_its_kubelet_lets_it_go(scene: Scene) -> None:
    scene.pod("bare")
    scene.run_pod("bare")
    path = scene.path("Pod", "bare")
    scene.admin.ok("DELETE", path)
    assert "deletionTimestamp" in scene.get("Pod", "bare")["metadata"]
    scene.admin.ok("DELETE", path, {"gracePeriodSeconds": 0})
    assert scene.admin.raw("GET", path).status == 404
