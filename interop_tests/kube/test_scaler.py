# SPDX-License-Identifier: Apache-2.0
"""scatter-scale as it is installed: its image, its manifests, its own service account, a real API server, real workers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.certificates import Authority
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
    assert state["metadata"]["annotations"]["scatter-scale/state"].startswith("{")


def test_a_long_task_is_never_cut_short(make_stage: Callable[..., Stage]) -> None:
    """Of four pods three fall idle and go; the one that works stays, though another one would do as well. Its task
    outlasts the test, however slow the machine is."""
    stage = make_stage(overlay="pod-cost")
    stage.wait_running(1)
    long = stage.send(1, 3600.0)[0]
    first = stage.running()[0]
    wait_until(lambda: long in stage.kubelet.log(first), "the long one runs", 30)
    stage.send(80, 0.5)
    stage.run_until(4)
    stage.wait_running(4)
    wait_until(lambda: stage.done() == 80, "the short ones are done", 60)
    runs = stage.run_until(1)
    assert runs[-1].line["reason"].startswith("down")
    wait_until(lambda: len(stage.worker_pods()) == 1, "the idle ones are gone", 60)
    assert stage.running() == [first]
    assert (stage.done(), stage.pods_killed()) == (80, [])
    assert {code for pod, code, _ in stage.kubelet.ended if pod.startswith("worker-")} == {0}


def test_the_cronjob_runs_by_itself(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(each_minute=True)
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
def shared_stage(make_shared_stage: Callable[..., Stage]) -> Stage:
    return make_shared_stage()


@pytest.fixture
def stage(shared_stage: Stage) -> Iterator[Stage]:
    """Without worker and work, with the whole Role before and after."""
    path = shared_stage.path("Role", "scatter-scale")
    role = shared_stage.api.get(path)
    role["metadata"].pop("resourceVersion")
    shared_stage.empty()
    yield shared_stage
    shared_stage.api.ok("PUT", path, role)


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("get", "deployments"),
        ("get", "deployments/scale"),
        ("patch", "deployments/scale"),
        ("get", "leases"),
        ("update", "leases"),
        ("list", "pods"),
    ],
)
def test_a_right_that_is_taken_away_is_named(stage: Stage, verb: str, resource: str) -> None:
    stage.send(3, 0.1)
    without(stage, verb, resource)
    seen = stage.run()
    assert seen.code == DENIED, seen.text
    assert f'cannot {verb} resource \\"{resource}\\"' in seen.text
    assert stage.replicas() == 0


@pytest.mark.parametrize("resource", ["horizontalpodautoscalers", "scaledobjects"])
def test_without_a_look_at_other_autoscalers_it_says_so(stage: Stage, resource: str) -> None:
    stage.send(3, 0.1)
    without(stage, "list", resource)
    seen = stage.run()
    assert (seen.code, stage.replicas()) == (0, 2)
    assert f'cannot list resource \\"{resource}\\"' in seen.text


@pytest.mark.parametrize("right", [True, False])
def test_what_was_done_is_told_in_an_event(stage: Stage, *, right: bool) -> None:
    def told() -> int:
        items = stage.api.get(f"/api/v1/namespaces/{stage.ns}/events")["items"]
        return sum(e["reason"] == "ScaledUp" for e in items)

    if not right:
        without(stage, "create", "events")
    before = told()
    stage.send(3, 0.1)
    assert stage.run().code == 0
    assert stage.replicas() == 2
    assert told() == before + right


def test_another_autoscaler_is_not_fought(stage: Stage) -> None:
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


def test_check_names_every_right(stage: Stage) -> None:
    template = stage.api.get(stage.path("CronJob", "scatter-scale"))["spec"]["jobTemplate"]

    def checked() -> Run:
        stage.n_runs += 1
        name = f"check{stage.n_runs}"
        spec = {**template["spec"], "ttlSecondsAfterFinished": 600}
        spec["template"]["spec"]["containers"][0]["args"] = [
            "--config=/etc/scatter-scale/scaler.json",
            "--check",
        ]
        stage.api.ok(
            "POST",
            f"/apis/batch/v1/namespaces/{stage.ns}/jobs",
            {"metadata": {"name": name}, "spec": spec},
        )
        wait_until(
            lambda: any(p.startswith(name) for p, _, _ in stage.kubelet.ended),
            f"the end of {name}",
            60,
        )
        pod, code = next((p, c) for p, c, _ in stage.kubelet.ended if p.startswith(name))
        return Run(pod, code, stage.kubelet.log(pod))

    assert checked().code == 0
    without(stage, "patch", "deployments/scale")
    seen = checked()
    assert seen.code == DENIED
    assert re.search("patch.*scale", seen.text)


# ---- a server that does not do as it should


class Between:
    """A front between the scaler and the API server, and two replicas without work: no fault may lower them."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.stage = stage
        self.authority = Authority(folder / "front")
        certificate = self.authority.issue("front", "127.0.0.1")
        self.front = Front(forward_to(stage.api), certificate)
        stage.kubelet.server = (self.front.host, self.front.port, self.authority.pem)
        stage.set_replicas(2)
        stage.wait_running(2)

    def held(self, code: int, *says: str) -> None:
        """It ends with that code and one line, and nothing was changed."""
        seen = self.stage.run()
        assert seen.code == code, seen.text
        for text in says:
            assert text in seen.text
        assert self.stage.replicas() == 2
        assert "eyJ" not in seen.text  # the beginning of every token


@pytest.fixture
def between(stage: Stage, tmp_path: Path) -> Iterator[Between]:
    before = stage.kubelet.server
    made = Between(stage, tmp_path)
    yield made
    stage.kubelet.server = before
    stage.kubelet.tokens.clear()
    made.front.stop()


@pytest.mark.parametrize("what", ["/deployments/worker$", "/leases/", "/pods"])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_in_trouble_is_held(between: Between, what: str, status: int) -> None:
    trouble = {"kind": "Status", "message": "no time"}
    between.front.answers("GET", what, status, trouble, times=9)
    between.held(UNREACHABLE, "no time")


def test_a_server_that_hangs_is_held(between: Between) -> None:
    between.front.hangs("GET", "/deployments/worker$", times=9)
    between.held(UNREACHABLE, "no answer of the API server")


def test_a_wrong_authority_is_held(between: Between, tmp_path: Path) -> None:
    host, port, _ = between.stage.kubelet.server
    between.stage.kubelet.server = (host, port, Authority(tmp_path / "other", "other").pem)
    between.held(CONFIG, "is not accepted")


def test_an_expired_token_is_held(between: Between) -> None:
    stage = between.stage
    expired = stage.cluster.expired_token(stage.ns, "scatter-scale")
    stage.kubelet.tokens["scatter-scale"] = expired
    between.held(DENIED, "401: Unauthorized")


def test_no_server_is_held(between: Between) -> None:
    between.stage.kubelet.server = ("127.0.0.1", 1, between.authority.pem)
    between.held(UNREACHABLE, "cannot reach the API server")


def test_a_number_that_somebody_sets_meanwhile_stays(between: Between) -> None:
    stage = between.stage
    stage.send(8, 5.0)
    between.front.first("PATCH", "/scale", lambda: stage.set_replicas(3))
    seen = stage.run()
    assert stage.replicas() == 3, seen.text
    assert "somebody else has set" in seen.text


def test_a_patch_whose_answer_is_lost_is_sent_once(between: Between) -> None:
    between.stage.send(8, 5.0)
    between.front.drops("PATCH", "/scale", carried_out=True)
    seen = between.stage.run()
    assert (seen.code, between.stage.replicas()) == (0, 4), seen.text
    assert len(between.front.asked("PATCH", "/scale")) == 1
