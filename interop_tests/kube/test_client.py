# SPDX-License-Identifier: Apache-2.0
"""The scaler's client: what it reads, what it sends, and what it does when the server does not do as it should."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest
from harness.certificates import Authority

from .api import Api
from .cluster import kubeconfig
from .front import Front
from .probe import Probe
from .worlds import Scene, deployment

SCALE = r"/deployments/worker/scale"
LEASE = r"/leases/worker"


@pytest.fixture
def probe(scene: Scene) -> Probe:
    made = scene.probe()
    made.opened.ok()
    return made


# ---- reading


def test_a_deployment(scene: Scene, probe: Probe) -> None:
    scene.annotate("Deployment", **{"scatter-scale/paused": "true"})
    scene.set_replicas(3)
    seen = probe("target", "worker").ok()
    assert (seen["replicas"], seen["selector"], seen["paused"]) == (3, "app=worker", "true")
    assert seen["paused_replicas"] is None
    assert seen["generation"] >= seen["observed"] >= 0
    scene.set_replicas(0)
    assert probe("target", "worker").ok()["replicas"] == 0


def test_a_selector_with_expressions(scene: Scene, probe: Probe) -> None:
    made = deployment("worker", 0)
    made["metadata"]["name"] = "other"
    made["spec"]["selector"]["matchExpressions"] = [
        {"key": "tier", "operator": "In", "values": ["a", "b"]},
        {"key": "app", "operator": "Exists"},
        {"key": "canary", "operator": "DoesNotExist"},
        {"key": "tier", "operator": "NotIn", "values": ["c"]},
    ]
    made["spec"]["template"]["metadata"]["labels"] = {"app": "worker", "tier": "a"}
    scene.create("Deployment", made)
    role = scene.get("Role", "scaler")
    role["rules"][0]["resourceNames"].append("other")
    scene.admin.ok("PUT", scene.path("Role", "scaler"), role)
    seen = probe("target", "other").ok()["selector"]
    assert seen == "app=worker,tier in (a,b),app,!canary,tier notin (c)"
    scene.pod("one", {"app": "worker", "tier": "b"})
    scene.pod("two", {"app": "worker", "tier": "c"})
    # The probe takes words: a request as the client escapes it is what is asked for.
    probe("pods", seen.replace(" ", "\t")).ok()
    assert "tier%09in%09%28a%2Cb%29" in scene.front.asked("GET", "/pods")[-1].path


def test_pods_of_every_kind(scene: Scene, probe: Probe) -> None:
    for name in ("waiting", "running", "leaving", "ended"):
        scene.pod(name)
    scene.pod("other", {"app": "other"})
    for name in ("running", "leaving"):
        scene.run_pod(name)
    scene.admin.ok("DELETE", scene.path("Pod", "leaving"))
    scene.admin.merge(scene.path("Pod", "ended") + "/status", {"status": {"phase": "Succeeded"}})
    probe("cost", "running", -1000).ok()
    pods = {p["name"]: p for p in probe("pods", "app=bare").ok()["pods"]}
    assert sorted(pods) == ["ended", "leaving", "running", "waiting"]
    assert [n for n, p in pods.items() if p["deleting"]] == ["leaving"]
    assert [n for n, p in pods.items() if p["ended"]] == ["ended"]
    assert {n for n, p in pods.items() if p["ready"]} == {"leaving", "running"}
    assert {n: p["cost"] for n, p in pods.items() if p["cost"] is not None} == {"running": -1000}
    started = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc).timestamp()
    assert pods["running"]["started"] == int(started) * 1_000_000
    assert pods["waiting"]["started"] > pods["running"]["started"]


def test_a_list_that_expires_between_its_pages_is_begun_again(scene: Scene, probe: Probe) -> None:
    scene.pod("bare")
    page = {
        "kind": "PodList",
        "metadata": {"continue": "next page"},
        "items": [{"metadata": {"name": "of-long-ago"}}],
    }
    scene.front.answers("GET", r"/pods\?limit=500&labelSelector=app%3Dbare$", 200, page)
    scene.front.answers(
        "GET", r"continue=next%20page$", 410, {"kind": "Status", "message": "too old"}
    )
    assert [p["name"] for p in probe("pods", "app=bare").ok()["pods"]] == ["bare"]
    assert len(scene.front.asked("GET", "/pods")) == 3


def test_the_clock_is_the_servers(scene: Scene, probe: Probe) -> None:
    assert probe("now")["now"] == 0
    probe("target", "worker").ok()
    apart = probe("now")["now"] / 1e6 - datetime.datetime.now(datetime.timezone.utc).timestamp()
    assert -5 < apart < 5


def test_rights(scene: Scene, probe: Probe) -> None:
    for words, allowed in [
        (["get", "apps", "deployments", "-", "worker"], True),
        (["patch", "apps", "deployments", "scale", "worker"], True),
        (["patch", "apps", "deployments", "-", "worker"], False),
        (["patch", "apps", "deployments", "scale", "other"], False),
        (["list", "-", "pods"], True),
        (["delete", "-", "pods"], False),
    ]:
        assert probe("may", *words).ok()["allowed"] is allowed, words


def test_a_rival(scene: Scene, probe: Probe) -> None:
    def autoscaler(name: str, of: str) -> None:
        spec = {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": of},
            "maxReplicas": 3,
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {
                        "name": "cpu",
                        "target": {"type": "Utilization", "averageUtilization": 80},
                    },
                }
            ],
        }
        scene.create("HorizontalPodAutoscaler", {"metadata": {"name": name}, "spec": spec})

    assert probe("rival", "worker").ok()["rival"] is None
    autoscaler("unrelated", "other")
    assert probe("rival", "worker").ok()["rival"] is None
    autoscaler("mine", "worker")
    assert probe("rival", "worker").ok()["rival"] == "horizontalpodautoscaler/mine"


def test_a_scaled_object_of_keda(scene: Scene, probe: Probe) -> None:
    found = {
        "kind": "ScaledObjectList",
        "metadata": {},
        "items": [{"metadata": {"name": "mine"}, "spec": {"scaleTargetRef": {"name": "worker"}}}],
    }
    scene.front.answers("GET", "/scaledobjects", 200, found)
    assert probe("rival", "worker").ok()["rival"] == "scaledobject/mine"


# ---- the scale


def test_scaling_up_and_to_zero(scene: Scene, probe: Probe) -> None:
    probe("target", "worker").ok()
    probe("scale", "worker", 3).ok()
    assert scene.replicas() == 3
    sent = scene.front.asked("PATCH", SCALE)
    assert len(sent) == 1
    assert sent[0].headers["content-type"] == "application/merge-patch+json"
    assert sent[0].headers["user-agent"].startswith("scatter-scale/")
    assert sent[0].path.endswith("/scale?fieldManager=scatter-scale")
    assert set(sent[0].json) == {"metadata", "spec"}
    assert sent[0].json["spec"] == {"replicas": 3}
    probe("target", "worker").ok()
    probe("scale", "worker", 0).ok()
    assert scene.replicas() == 0


def test_a_dry_run_changes_nothing(scene: Scene, probe: Probe) -> None:
    probe("target", "worker").ok()
    probe("scale", "worker", 3, "dry").ok()
    assert scene.replicas() == 0


def test_a_version_that_only_the_status_moved(scene: Scene, probe: Probe) -> None:
    probe("target", "worker").ok()
    scene.front.first("PATCH", SCALE, lambda: scene.annotate("Deployment", moved="yes"))
    probe("scale", "worker", 3).ok()
    assert scene.replicas() == 3
    assert len(scene.front.asked("PATCH", SCALE)) == 2


def test_a_number_that_somebody_else_has_set_stays(scene: Scene, probe: Probe) -> None:
    probe("target", "worker").ok()
    scene.set_replicas(7)
    seen = probe("scale", "worker", 3)
    assert seen.code == "conflict"
    assert "somebody else has set 7 replicas while 3 were decided from 0" in seen.error
    assert scene.front.asked("PATCH", SCALE) == []


def test_the_same_between_our_look_and_our_write(scene: Scene, probe: Probe) -> None:
    probe("target", "worker").ok()
    scene.front.first("PATCH", SCALE, lambda: scene.set_replicas(7))
    assert probe("scale", "worker", 3).code == "conflict"
    assert scene.replicas() == 7


def test_an_answer_that_says_200_and_another_number(scene: Scene, probe: Probe) -> None:
    probe("target", "worker").ok()
    same = {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {"resourceVersion": "1"},
        "spec": {"replicas": 2},
    }
    scene.front.answers("PATCH", SCALE, 200, same)
    seen = probe("scale", "worker", 3)
    assert seen.code == "config"
    assert "left replicas at 2 instead of 3" in seen.error


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_lost_answer_is_looked_up_and_never_sent_again_blindly(
    scene: Scene, probe: Probe, *, carried_out: bool
) -> None:
    probe("target", "worker").ok()
    scene.front.drops("PATCH", SCALE, carried_out=carried_out)
    probe("scale", "worker", 3).ok()
    assert scene.replicas() == 3
    assert len(scene.front.asked("PATCH", SCALE)) == (1 if carried_out else 2)
    methods = [r.method for r in scene.front.requests if SCALE in r.resource]
    assert methods == ["GET", "PATCH", "GET"] + ([] if carried_out else ["PATCH"])


def test_a_lost_answer_and_somebody_elses_number(scene: Scene, probe: Probe) -> None:
    probe("target", "worker").ok()
    scene.front.drops("PATCH", SCALE)
    scene.front.first("GET", SCALE, lambda: None)
    scene.front.first("GET", SCALE, lambda: scene.set_replicas(5))
    assert probe("scale", "worker", 3).code == "conflict"
    assert scene.replicas() == 5


# ---- the Lease


def test_taking_keeping_and_giving_up(scene: Scene, probe: Probe) -> None:
    assert probe("take", "worker", "pod-a", 55).ok()["state"] is None
    held = scene.get("Lease")
    assert held["spec"]["holderIdentity"] == "pod-a"
    assert held["spec"]["leaseDurationSeconds"] == 55
    assert held["spec"]["leaseTransitions"] == 1
    assert re.fullmatch(r"[-\dT:]{19}\.\d{6}Z", held["spec"]["renewTime"])
    probe("put", "worker", '{"a":"b\\"c"}', "keep").ok()
    assert probe("take", "worker", "pod-a", 55).ok()["state"] == '{"a":"b\\"c"}'
    probe("put", "worker", "{}").ok()
    free = scene.get("Lease")
    assert free["spec"]["holderIdentity"] == ""
    assert free["spec"]["leaseTransitions"] == 1
    assert free["spec"]["acquireTime"] == held["spec"]["acquireTime"]
    assert free["metadata"]["labels"] == {"kept": "yes"}
    assert free["metadata"]["annotations"] == {"other/note": 'a "b"', "scatter-scale/state": "{}"}
    assert probe("peek", "worker").ok()["state"] == "{}"


def test_one_that_another_pod_holds(scene: Scene, probe: Probe) -> None:
    probe("take", "worker", "pod-a", 55).ok()
    other = scene.probe()
    seen = other("take", "worker", "pod-b", 55)
    assert seen.code == "conflict"
    assert re.search(r"leases/worker is held by pod-a until \d{4}-", seen.error)
    probe("put", "worker", "-").ok()
    other("take", "worker", "pod-b", 55).ok()
    assert scene.get("Lease")["spec"]["leaseTransitions"] == 2


def test_one_whose_holder_is_gone(scene: Scene, probe: Probe) -> None:
    probe("take", "worker", "pod-a", 55).ok()
    probe("put", "worker", "{}", "keep").ok()
    held = scene.get("Lease")
    held["spec"]["renewTime"] = "2026-01-01T00:00:00.000000Z"
    scene.admin.ok("PUT", scene.path("Lease"), held)
    other = scene.probe()
    assert other("take", "worker", "pod-b", 55).ok()["state"] == "{}"
    lost = probe("put", "worker", "lost")
    assert lost.code == "conflict"
    assert scene.get("Lease")["spec"]["holderIdentity"] == "pod-b"


def test_two_that_take_it_at_the_same_time(scene: Scene, probe: Probe) -> None:
    other = scene.probe()
    scene.front.first("PUT", LEASE, lambda: other("take", "worker", "pod-b", 55).ok())
    assert probe("take", "worker", "pod-a", 55).code == "conflict"
    assert scene.get("Lease")["spec"]["holderIdentity"] == "pod-b"


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_lost_answer_of_the_lease(scene: Scene, probe: Probe, *, carried_out: bool) -> None:
    scene.front.drops("PUT", LEASE, carried_out=carried_out)
    probe("take", "worker", "pod-a", 55).ok()
    assert scene.get("Lease")["spec"]["holderIdentity"] == "pod-a"
    assert len(scene.front.asked("PUT", LEASE)) == (1 if carried_out else 2)
    probe("put", "worker", "{}").ok()


def test_a_lost_answer_and_another_pod(scene: Scene, probe: Probe) -> None:
    other = scene.probe()
    scene.front.drops("PUT", LEASE)
    scene.front.first("GET", LEASE, lambda: None)
    scene.front.first("GET", LEASE, lambda: other("take", "worker", "pod-b", 55).ok())
    # The second read is the other pod's own, in the middle of ours.
    seen = probe("take", "worker", "pod-a", 55)
    assert (seen.code, "another scaler has taken it" in seen.error) == ("conflict", True)


# ---- pods, Events


def test_the_cost_of_a_pod_that_is_gone(scene: Scene, probe: Probe) -> None:
    seen = probe("cost", "nobody", 5)
    assert (seen.code, seen.error) == (
        "not-found",
        'PATCH pods/nobody: 404: pods "nobody" not found',
    )


def test_an_event(scene: Scene, probe: Probe) -> None:
    probe("target", "worker").ok()
    probe("event", "worker", "ScaledUp", "0-3").ok()
    events = scene.admin.get(f"/api/v1/namespaces/{scene.ns}/events")["items"]
    ours = [e for e in events if e["reason"] == "ScaledUp"]
    assert len(ours) == 1
    assert ours[0]["message"] == "0-3"
    assert ours[0]["source"]["component"] == "scatter-scale"
    assert ours[0]["involvedObject"]["uid"] == scene.get("Deployment")["metadata"]["uid"]


# ---- a server that does not do as it should


def test_a_busy_server_says_when_to_come_back(scene: Scene, probe: Probe) -> None:
    busy = {"kind": "Status", "message": "too many requests, please try again later"}
    scene.front.answers("GET", "/deployments/worker$", 429, busy, Retry_After="1")
    scene.front.answers("PATCH", SCALE, 429, busy)
    probe("target", "worker").ok()
    probe("scale", "worker", 3).ok()
    assert scene.replicas() == 3


def test_one_that_wants_more_time_than_there_is(scene: Scene, probe: Probe) -> None:
    scene.front.answers("GET", "/deployments/worker$", 429, "later", Retry_After="3600", times=9)
    seen = probe("target", "worker")
    assert (seen.code, seen.error) == ("unreachable", "GET deployments/worker: 429: later")
    assert len(scene.front.asked("GET", "/deployments/worker$")) == 1


def test_a_server_in_trouble(scene: Scene, probe: Probe) -> None:
    scene.front.answers("GET", "/deployments/worker$", 503, "no leader", times=2)
    probe("target", "worker").ok()
    scene.front.answers(
        "GET", "/deployments/worker$", 500, {"kind": "Status", "message": "etcd"}, times=9
    )
    seen = probe("target", "worker")
    assert (seen.code, seen.error) == ("unreachable", "GET deployments/worker: 500: etcd")
    scene.front.plans.clear()
    scene.front.answers("PATCH", SCALE, 503, "no leader", times=9)
    seen = probe("scale", "worker", 3)
    assert (seen.code, scene.replicas()) == ("unreachable", 0)


def test_a_server_that_hangs(scene: Scene) -> None:
    probe = scene.probe(deadline_ms=300)
    scene.front.hangs("GET", "/deployments/worker$", times=9)
    seen = probe("target", "worker")
    assert seen.code == "unreachable"
    assert "no answer of the API server https://127.0.0.1" in seen.error


def test_half_an_answer(scene: Scene, probe: Probe) -> None:
    scene.front.cuts("GET", "/deployments/worker$")
    probe("target", "worker").ok()


@pytest.mark.parametrize(
    ("status", "body", "code", "says"),
    [
        (200, "<html>Sign in</html>", "unreachable", "not the answer of an API server"),
        (200, "{}", "unreachable", "not the answer of an API server"),
        (200, {"kind": "Deployment"}, "unreachable", "metadata.generation is no number"),
        (200, {"kind": "Pod"}, "unreachable", "the answer is no Deployment"),
        (302, "", "config", "a redirect, which an API server does not send"),
        (400, {"kind": "Status", "message": "what?"}, "config", "400: what?"),
        (404, "404 page not found", "config", "does not know this kind of object"),
        (
            403,
            {"kind": "Status", "message": 'admission webhook "x" denied the request: no'},
            "denied",
            "no",
        ),
        (403, {"kind": "Status", "message": "exceeded quota: q"}, "denied", "exceeded quota"),
    ],
)
def test_answers_that_are_none(
    scene: Scene, probe: Probe, status: int, body: object, code: str, says: str
) -> None:
    scene.front.answers("GET", "/deployments/worker$", status, body, times=9, Location="https://x/")
    seen = probe("target", "worker")
    assert (seen.code, says in seen.error) == (code, True), seen
    assert "\n" not in seen.error


def test_a_deployment_that_is_not_there_or_no_name(scene: Scene, probe: Probe) -> None:
    role = scene.get("Role", "scaler")
    role["rules"][0]["resourceNames"].append("nobody")
    scene.admin.ok("PUT", scene.path("Role", "scaler"), role)
    seen = probe("target", "nobody")
    assert seen.code == "not-found"
    assert seen.error == 'GET deployments/nobody: 404: deployments.apps "nobody" not found'
    for name in ("../secrets/x", "a?b", "A", "a%2fb"):
        assert probe("target", name).code == "config", name


def test_a_right_that_is_missing(scene: Scene, probe: Probe) -> None:
    seen = probe("target", "other")
    assert seen.code == "auth"
    assert 'cannot get resource "deployments"' in seen.error
    assert "scatter-scale --check" in seen.error


# ---- who we are, and who the server is


def test_a_token_that_has_expired_and_a_new_one(scene: Scene) -> None:
    folder = scene.account_folder(token="expired")
    probe = scene.probe(folder)
    seen = probe("target", "worker")
    assert seen.code == "auth"
    assert "401: Unauthorized; the API server does not accept the token" in seen.error
    assert "expired;" not in seen.error
    (folder / "token").write_text(scene.token() + "\n")
    probe("target", "worker").ok()
    scene.front.answers(
        "GET", "/deployments/worker$", 401, {"kind": "Status", "message": "Unauthorized"}
    )
    probe("target", "worker").ok()  # renewed between our reading it and its arrival


def test_a_token_is_never_shown(scene: Scene, probe: Probe) -> None:
    token = "secret-" + scene.ns
    folder = scene.account_folder(token=token)
    echo = {"kind": "Status", "message": f"who is {token}?"}
    scene.front.answers("GET", "/deployments/worker$", 400, echo)
    seen = scene.probe(folder)("target", "worker")
    assert seen.code == "config"
    assert token not in seen.error
    (folder / "token").unlink()
    assert scene.probe(folder)("target", "worker").code == "auth"


def test_a_wrong_authority_and_a_wrong_name(scene: Scene, tmp_path: Path) -> None:
    for name in ("ca", "another"):  # of the same name as the right one, and of another
        wrong = scene.account_folder(ca=Authority(tmp_path / name, name).pem)
        seen = scene.probe(wrong)("target", "worker")
        assert seen.code == "config", seen
        assert "is not accepted" in seen.error
        assert "ca.crt of the service account" in seen.error
    assert scene.front.requests == []
    named = Front(scene.world.backend, scene.world.authority.issue("elsewhere", "example.com"))
    try:
        probe = Probe(
            {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(named.port)},
            service_account=scene.account_folder(),
        )
        scene.probes.append(probe)
        assert probe("target", "worker").code == "config"
    finally:
        named.stop()


def test_no_server_at_all(scene: Scene) -> None:
    probe = Probe(
        {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"},
        service_account=scene.account_folder(),
    )
    scene.probes.append(probe)
    seen = probe("target", "worker")
    assert seen.code == "unreachable"
    assert "cannot reach the API server https://127.0.0.1:1: Connection refused" in seen.error


def test_ipv6(scene: Scene) -> None:
    front = Front(scene.world.backend, scene.world.certificate, "::1")
    try:
        probe = Probe(
            {"KUBERNETES_SERVICE_HOST": "::1", "KUBERNETES_SERVICE_PORT": str(front.port)},
            service_account=scene.account_folder(),
        )
        scene.probes.append(probe)
        probe("target", "worker").ok()
        assert probe("now")["server"] == f"https://[::1]:{front.port}"
    finally:
        front.stop()


def test_proxies_count_only_when_asked_for(scene: Scene) -> None:
    env = {
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": str(scene.front.port),
        "HTTPS_PROXY": "http://127.0.0.1:1",
    }
    folder = scene.account_folder()
    for options, code in [({}, "ok"), ({"use_proxy": "yes"}, "unreachable")]:
        probe = Probe(env, service_account=folder, **options)
        scene.probes.append(probe)
        assert probe("target", "worker").code == code


def test_a_kubeconfig(scene: Scene, tmp_path: Path) -> None:
    front, world = scene.front, scene.world
    kubeconfig(
        tmp_path / "config",
        Api(front.host, front.port, world.authority.pem, scene.token()),
        scene.ns,
    )
    for probe in (
        Probe(kubeconfig=tmp_path / "config"),
        Probe({"KUBECONFIG": str(tmp_path / "config")}, context="test"),
    ):
        scene.probes.append(probe)
        assert probe("now")["namespace"] == scene.ns
        probe("target", "worker").ok()


def test_a_kubeconfig_with_another_name_of_the_server(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(scene.world.authority.pem.read_bytes())
    (tmp_path / "token").write_text(scene.token())
    (tmp_path / "config").write_text(
        f"""
apiVersion: v1
kind: Config
current-context: a
contexts:
- name: a
  context: {{cluster: c, user: u, namespace: {scene.ns}}}
clusters:
- name: c
  cluster:
    server: https://127.0.0.1:{scene.front.port}/
    certificate-authority: ca.pem
    tls-server-name: kube.example
users:
- name: u
  user: {{tokenFile: token}}
"""
    )
    probe = Probe(kubeconfig=tmp_path / "config")
    scene.probes.append(probe)
    probe("target", "worker").ok()
    assert scene.front.requests[-1].headers["host"] == f"127.0.0.1:{scene.front.port}"
