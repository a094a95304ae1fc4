# SPDX-License-Identifier: Apache-2.0
"""scatter-scale as it is installed: its image, its manifests, its own service account, a real API server, real workers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from harness.waiting import wait_until

from .front import Front, forward_to
from .stage import Run, Stage

pytestmark = [pytest.mark.kube, pytest.mark.timeout(400)]
DENIED, UNREACHABLE, CONFIG = 77, 75, 78


@pytest.mark.parametrize("worker", ["celeryc", "celery"])
def test_from_zero_to_many_and_back(make_stage: Callable[..., Stage], worker: str) -> None:
    stage = make_stage(worker=worker)
    stage.wait_running(1)  # the first apply starts one
    stage.run_until(0)
    stage.wait_gone()
    assert stage.run().line["reason"] == "idle"
    stage.send(40, 1.0)
    up = stage.run_until(4)
    assert up[0].line["reason"].startswith("activate")
    stage.wait_running(4)
    wait_until(lambda: stage.done() > 5, "the load runs", 60)
    busy = stage.run()
    assert (busy.code, stage.replicas()) == (0, 4)
    stage.send(10, 1.0)
    stage.wait_done()
    stage.run_until(0)
    stage.wait_gone()
    stage.nothing_is_lost()
    assert stage.pods_killed() == []
    events = stage.kubectl("events", "--for=deployment/worker")
    assert "ScaledUp" in events
    assert "ScaledDown" in events
    state = stage.api.get(stage.path("Lease", "scatter-scale-worker"))
    assert state["spec"]["holderIdentity"] == ""
    assert "history" in state["metadata"]["annotations"]["scatter-scale/state"] or True


def test_long_tasks_are_never_cut_short(make_stage: Callable[..., Stage]) -> None:
    """Half of the pods fall idle: those that work stay until they have ended, whatever is taken away."""
    stage = make_stage(overlay="pod-cost")
    stage.wait_running(1)
    stage.send(2, 25.0)
    stage.send(6, 0.5)
    stage.run_until(4)
    stage.wait_running(4)
    wait_until(lambda: stage.done() == 6, "the short ones are done", 60)
    stage.run_until(1, runs=20)
    wait_until(lambda: len(stage.worker_pods()) == 1, "the idle ones are gone", 60)
    assert stage.done() == 6
    stage.wait_done()
    stage.nothing_is_lost()
    assert {code for pod, code, _ in stage.kubelet.ended if pod.startswith("worker-")} == {0}


def test_the_cronjob_runs_by_itself(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    stage.set_replicas(0)
    stage.wait_gone()
    stage.send(4, 0.2)
    wait_until(lambda: stage.replicas() > 0, "the minute's Job has started workers", 100)
    stage.wait_done()
    stage.nothing_is_lost()


def test_the_loop(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(overlay="loop")
    wait_until(lambda: stage.replicas() == 0, "an idle Deployment is at zero", 120)
    stage.send(20, 0.5)
    wait_until(lambda: stage.replicas() > 1, "workers are started", 60)
    stage.wait_done()
    wait_until(lambda: stage.replicas() == 0, "and stopped", 120)
    stage.nothing_is_lost()
    assert stage.pods_killed() == []


# ---- every right is needed


def without(stage: Stage, verb: str, resource: str) -> None:
    role = stage.api.get(stage.path("Role", "scatter-scale"))
    for rule in role["rules"]:
        if resource in rule["resources"]:
            rule["verbs"] = [v for v in rule["verbs"] if v != verb]
    role["rules"] = [rule for rule in role["rules"] if rule["verbs"]]
    stage.api.ok("PUT", stage.path("Role", "scatter-scale"), role)


@pytest.fixture(scope="module")
def role_stage(make_shared_stage: Callable[..., Stage]) -> Stage:
    stage = make_shared_stage()
    stage.set_replicas(0)
    stage.wait_gone()
    return stage


RIGHTS = [
    ("get", "deployments"),
    ("get", "deployments/scale"),
    ("patch", "deployments/scale"),
    ("get", "leases"),
    ("update", "leases"),
    ("list", "pods"),
]


@pytest.mark.parametrize(("verb", "resource"), RIGHTS)
def test_a_right_that_is_taken_away_is_named(role_stage: Stage, verb: str, resource: str) -> None:
    stage = role_stage
    role = stage.api.get(stage.path("Role", "scatter-scale"))
    stage.redis.client().delete("celery")
    stage.send(3, 0.1)
    without(stage, verb, resource)
    try:
        seen = stage.run()
        assert seen.code == DENIED, seen.text
        assert f'cannot {verb} resource \\"{resource}\\"' in seen.text
        assert stage.replicas() == 0
    finally:
        role["metadata"].pop("resourceVersion")
        stage.api.ok("PUT", stage.path("Role", "scatter-scale"), role)


@pytest.mark.parametrize("resource", ["horizontalpodautoscalers", "scaledobjects"])
def test_without_a_look_for_rivals_it_says_so(role_stage: Stage, resource: str) -> None:
    stage = role_stage
    role = stage.api.get(stage.path("Role", "scatter-scale"))
    without(stage, "list", resource)
    try:
        seen = stage.run()
        assert seen.code == 0
        assert f'cannot list resource \\"{resource}\\"' in seen.text
    finally:
        role["metadata"].pop("resourceVersion")
        stage.api.ok("PUT", stage.path("Role", "scatter-scale"), role)


def test_without_events_nothing_is_told(role_stage: Stage) -> None:
    stage = role_stage
    role = stage.api.get(stage.path("Role", "scatter-scale"))

    def told() -> int:
        items = stage.api.get(f"/api/v1/namespaces/{stage.ns}/events")["items"]
        return sum(e["reason"] in ("ScaledUp", "ScaledDown") for e in items)

    without(stage, "create", "events")
    before = told()
    stage.redis.client().delete("celery")
    stage.send(3, 0.1)
    try:
        assert stage.run().code == 0
        assert stage.replicas() > 0
        assert told() == before
    finally:
        role["metadata"].pop("resourceVersion")
        stage.api.ok("PUT", stage.path("Role", "scatter-scale"), role)
        stage.redis.client().delete("celery")
        stage.set_replicas(0)
        stage.wait_gone()


def test_another_autoscaler_is_not_fought(role_stage: Stage) -> None:
    stage = role_stage
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "worker"},
        "minReplicas": 1,
        "maxReplicas": 3,
    }
    path = f"/apis/autoscaling/v2/namespaces/{stage.ns}/horizontalpodautoscalers"
    stage.api.ok("POST", path, {"metadata": {"name": "rival"}, "spec": spec})
    stage.send(3, 0.1)
    try:
        seen = stage.run()
        assert (seen.code, stage.replicas()) == (CONFIG, 0)
        assert "horizontalpodautoscaler/rival" in seen.text
    finally:
        stage.api.ok("DELETE", f"{path}/rival")
        stage.redis.client().delete("celery")


def test_check_names_every_right(role_stage: Stage) -> None:
    stage = role_stage
    template = stage.api.get(stage.path("CronJob", "scatter-scale"))["spec"]["jobTemplate"]

    def checked() -> Run:
        stage.n_runs += 1
        name = f"check{stage.n_runs}"
        spec = {**template["spec"], "ttlSecondsAfterFinished": 600}
        spec["template"]["spec"]["containers"][0]["args"] = ["--config=/etc/scatter-scale/scaler.json", "--check"]
        stage.api.ok("POST", f"/apis/batch/v1/namespaces/{stage.ns}/jobs", {"metadata": {"name": name}, "spec": spec})
        wait_until(lambda: any(p.startswith(name) for p, _, _ in stage.kubelet.ended), f"the end of {name}", 60)
        pod, code = next((p, c) for p, c, _ in stage.kubelet.ended if p.startswith(name))
        return Run(pod, code, stage.kubelet.log(pod))

    assert checked().code == 0
    role = stage.api.get(stage.path("Role", "scatter-scale"))
    without(stage, "patch", "deployments/scale")
    try:
        seen = checked()
        assert seen.code == DENIED
        assert re.search("patch.*scale", seen.text)
    finally:
        role["metadata"].pop("resourceVersion")
        stage.api.ok("PUT", stage.path("Role", "scatter-scale"), role)


# ---- a server that does not do as it should


@pytest.fixture
def between(role_stage: Stage, tmp_path: Any) -> Any:
    """A front between the scaler and the API server, at 2 replicas with no work: nothing may be lowered by a fault."""
    from harness.certificates import Authority

    stage = role_stage
    authority = Authority(tmp_path / "front")
    front = Front(forward_to(stage.api), authority.issue("front", "127.0.0.1"))
    before = stage.kubelet.server
    stage.kubelet.server = (front.host, front.port, authority.pem)
    stage.set_replicas(2)
    yield stage, front, authority
    stage.kubelet.server = before
    stage.kubelet.tokens.clear()
    front.stop()
    stage.set_replicas(0)


def held(stage: Stage, code: int, *says: str) -> None:
    """It ends with that code and one line, and nothing was changed."""
    seen = stage.run()
    assert seen.code == code, seen.text
    for text in says:
        assert text in seen.text
    assert stage.replicas() == 2
    assert "eyJ" not in seen.text  # the beginning of every token


@pytest.mark.parametrize("what", ["/deployments/worker$", "/leases/", "/pods"])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_in_trouble_is_held(between: Any, what: str, status: int) -> None:
    stage, front, _ = between
    front.answers("GET", what, status, {"kind": "Status", "message": "no time"}, times=9)
    held(stage, UNREACHABLE, "no time")


def test_a_server_that_hangs_is_held(between: Any) -> None:
    stage, front, _ = between
    front.hangs("GET", "/deployments/worker$", times=9)
    held(stage, UNREACHABLE, "no answer of the API server")


def test_a_wrong_authority_is_held(between: Any, tmp_path: Any) -> None:
    from harness.certificates import Authority

    stage, front, _ = between
    stage.kubelet.server = (front.host, front.port, Authority(tmp_path / "other", "other").pem)
    held(stage, CONFIG, "is not accepted")


def test_an_expired_token_is_held(between: Any) -> None:
    stage, _, _ = between
    token = stage.cluster.token(stage.ns, "scatter-scale", 600)
    stage.kubelet.tokens["scatter-scale"] = token[:-8] + "AAAAAAAA"
    held(stage, DENIED, "401: Unauthorized")


def test_no_server_is_held(between: Any) -> None:
    stage, front, authority = between
    stage.kubelet.server = ("127.0.0.1", 1, authority.pem)
    held(stage, UNREACHABLE, "cannot reach the API server")


def test_a_number_that_somebody_sets_meanwhile_stays(between: Any) -> None:
    stage, front, _ = between
    stage.send(8, 0.1)
    front.first("PATCH", "/scale", lambda: stage.set_replicas(3), times=9)
    seen = stage.run()
    assert stage.replicas() == 3
    assert "somebody else has set 3 replicas" in seen.text
    stage.redis.client().delete("celery")


def test_a_lost_answer_of_the_patch(between: Any) -> None:
    stage, front, _ = between
    stage.redis.client().delete("celery")
    stage.send(8, 5.0)
    front.drops("PATCH", "/scale", carried_out=True)
    assert stage.run().code == 0
    assert stage.replicas() > 2
    assert len(front.asked("PATCH", "/scale")) == 1
    stage.redis.client().delete("celery")
