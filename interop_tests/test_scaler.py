# SPDX-License-Identifier: Apache-2.0
"""What scatter-scale sees of real workers on a real Redis, and what it makes of that. The API server is the stub that
interop_tests/kube compares with the real one."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness.client import Client
from harness.messages import message
from harness.processes import Process
from harness.redis_server import RedisServer, queue_key
from harness.scaler import HEARTBEATS, Scaler
from harness.sentinels import MASTER, Sentinels
from harness.waiting import wait_until
from harness.workers import ROOT, Worker, WorkerFactory
from kube.worlds import World

MakeClient = Callable[..., Client]
MakeScaler = Callable[..., Scaler]
# In full by `make chaos`: what differs is in the others.
DEBIAN = pytest.param("debian", marks=pytest.mark.chaos)
KINDS = pytest.mark.parametrize("kind", ["python", DEBIAN, "celeryc"])
QUICK = {"down_window_s": 0, "zero_cooldown_s": 0, "period_s": 1}
DEAF = {"heartbeat_s": 0.1}  # for tests without workers
POD = "interop"  # the host in the node names of the workers here
HOLD_S = 60.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("world"), None)
    yield made
    made.stop()


@pytest.fixture
def make_scaler(world: World, tmp_path: Path) -> MakeScaler:
    def make(broker: str, **options: Any) -> Scaler:
        return Scaler(world.scene(), tmp_path / "scaler", broker, **options)

    return make


@dataclass
class Rig:
    """One Redis, what is sent to it and works on it, and who looks at it."""

    redis: RedisServer
    workers: WorkerFactory
    make_client: MakeClient
    make_scaler: MakeScaler
    lines: Path  # one for each task that began
    url: str

    def client(self, kind: str = "python", **settings: Any) -> Client:
        version = "debian-5.2" if kind == "debian" else "celery-5.7"
        return self.make_client(self.url, version=version, **settings)

    def scaler(self, **options: Any) -> Scaler:
        return self.make_scaler(self.url, **options)

    def start(self, kind: str, **options: Any) -> Worker:
        return self.workers.start(kind, self.url, options=HEARTBEATS, **options)

    def busy(self, n: int) -> None:
        lines = self.lines
        wait_until(lambda: lines.exists() and len(lines.read_text().split()) == n, f"{n} tasks run")


@pytest.fixture
def rig(
    redis_server: RedisServer,
    workers: WorkerFactory,
    make_client: MakeClient,
    make_scaler: MakeScaler,
    tmp_path: Path,
) -> Rig:
    return Rig(
        redis_server,
        workers,
        make_client,
        make_scaler,
        tmp_path / "lines",
        redis_server.socket_url(),
    )


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("python", "interop.hold"),
        ("python", "interop.hold_late"),
        ("debian", "interop.hold"),
        pytest.param("debian", "interop.hold_late", marks=pytest.mark.chaos),
        ("celeryc", "interop.hold"),
        pytest.param("celeryc", "interop.hold_late", marks=pytest.mark.chaos),
    ],
)
def test_every_task_is_seen_once(kind: str, task: str, rig: Rig) -> None:
    """17 tasks in two priorities, two run: in lists, in `unacked`, or only in the heartbeat."""
    client = rig.client(kind)
    scaler = rig.scaler(max=50)
    worker = rig.start(kind)
    for i in range(17):
        client.send(task, str(rig.lines), f"t{i}", HOLD_S, priority=6 if i % 2 else 0)
    rig.busy(2)
    scaler.pods(POD)
    line = scaler.look()
    sample = line["sample"]
    assert (sample["active"], line["pods"]["busy"]) == (2, 1)
    listed = {k: n for k, n in line["queues"]["celery"].items() if n}
    assert sum(listed.values()) == sample["ready"], "nothing is for later"
    seen = sample["ready"] + sample["unacked"] + (2 if task == "interop.hold" else 0)
    assert seen == 17
    r = rig.redis.client()
    assert listed == {
        str(step): r.llen(queue_key("celery", step))
        for step in (0, 3, 6, 9)
        if r.llen(queue_key("celery", step))
    }
    # 17 tasks, two for each pod. Going up counts what runs or is unacknowledged, whichever is more, so that late-ack tasks
    # are not counted twice; going down counts both.
    up = -(-(sample["ready"] + max(2, sample["unacked"])) // 2)
    assert (line["up"], line["down"]) == (up, -(-(sample["ready"] + sample["unacked"] + 2) // 2))
    assert line["target"] == up
    assert worker.process.alive
    worker.process.stop(0)


@KINDS
def test_tasks_for_later_start_nothing(kind: str, rig: Rig) -> None:
    """A countdown: in the list as long as nobody takes it, then in `unacked`, or put by by celeryc; never load."""
    client = rig.client(kind)
    scaler = rig.scaler()
    for _ in range(20):
        client.send("examples.echo", 1, countdown=200)
    line = scaler.line()
    assert (line["reason"], line["sample"]["ready"], line["later"]) == ("idle", 0, 20)
    worker = rig.start(kind)
    r = rig.redis.client()
    wait_until(lambda: r.hlen("unacked") == 20, "they are held")
    scaler.pods(POD)
    line = scaler.look()
    assert (line["sample"]["unacked"], line["unacked_later"], line["up"]) == (0, 20, 0)
    worker.process.stop(0)
    client.send("examples.echo", 2)
    scaler.scene.set_replicas(0)
    assert scaler.line()["target"] == 1


@pytest.mark.parametrize("kind", ["python", pytest.param("celeryc", marks=pytest.mark.chaos)])
def test_draining_worker_is_no_load_and_its_pod_is_left_alone(kind: str, rig: Rig) -> None:
    """After TERM a Python worker is silent, and keeps what it had reserved until its task ends."""
    client = rig.client()
    scaler = rig.scaler()
    worker = rig.start(kind)
    for i in range(10):
        client.send("interop.hold", str(rig.lines), f"t{i}", HOLD_S)
    rig.busy(2)
    scaler.pods(POD)
    worker.process.send_signal(signal.SIGTERM)
    scaler.terminate(POD)
    scaler.scene.set_replicas(1)
    r = rig.redis.client()
    if kind == "celeryc":  # a Python worker keeps them until its task ends
        wait_until(lambda: r.llen("celery") == 8, "what had not started is given back")
    line = scaler.look()
    assert line["pods"] | {"terminating": 1, "missing": 1, "busy": 0} == line["pods"]
    held = r.hlen("unacked")
    assert line["sample"]["unacked"] == held
    assert line["sample"]["ready"] == r.llen("celery")
    # 2 x (1 + 4) may be with the pod that drains, and what it runs is not the others'.
    assert line["up"] == -(-r.llen("celery") // 2), "what it holds is no new load"
    assert line["sample"]["active"] == 0
    worker.process.stop(0)


def test_orphans_of_a_python_worker_start_one_pod(rig: Rig) -> None:
    client = rig.client()
    scaler = rig.scaler()
    worker = rig.start("python")
    for i in range(6):
        client.send("interop.hold_late", str(rig.lines), f"t{i}", HOLD_S)
    rig.busy(2)
    r = rig.redis.client()
    wait_until(lambda: r.hlen("unacked") == 6, "it holds them all")
    worker.process.stop(0)
    line = scaler.line()
    assert (line["sample"]["ready"], line["sample"]["unacked"]) == (0, 6)
    assert (line["reason"], line["target"]) == ("activate", 1)


def make_dead(redis: RedisServer) -> None:
    """As if 20 s had passed since the last sign of life."""
    r = redis.client()
    seconds, _ = r.time()
    for worker in r.zrange("celeryc:workers", 0, -1):
        r.zadd("celeryc:workers", {worker: (seconds - 20) * 1000})


def test_what_dead_celeryc_workers_hold_wakes_one_pod(rig: Rig) -> None:
    """A started early-ack task in its running hash, a message in its waiting list, delayed ones that have become due;
    each wakes a pod from zero, and none of another queue does."""
    client = rig.client()
    scaler = rig.scaler()
    other = scaler.config | {"targets": [scaler.config["targets"][0] | {"queues": ["other"]}]}
    worker = rig.start("celeryc", concurrency=1)
    client.send("examples.echo", 1, countdown=3600)
    r = rig.redis.client()
    wait_until(lambda: r.zcard("celeryc:delayed") == 1, "one waits at the broker")
    client.send("interop.hold", str(rig.lines), "t0", HOLD_S)
    rig.busy(1)
    worker.process.stop(0)
    assert scaler.look()["sample"]["lost"] == 0, "it may live"
    make_dead(rig.redis)

    def both() -> list[tuple[int, int, int, int]]:
        seen = []
        mine = scaler.config
        for config in (mine, other):
            scaler.config = config
            line = scaler.look()
            sample = line["sample"]
            seen.append((sample["lost"], sample["ready"], line["delayed_due"], line["target"]))
        scaler.config = mine
        return seen

    assert both() == [(1, 0, 0, 1), (0, 0, 0, 0)]
    r.delete(*r.keys("celeryc:running:*"))
    assert both() == [(0, 0, 0, 0)] * 2
    seconds, _ = r.time()
    r.zadd("celeryc:delayed", {r.zrange("celeryc:delayed", 0, 0)[0]: (seconds - 1) * 1000})
    assert both() == [(0, 1, 1, 1), (0, 0, 0, 0)]
    r.delete("celeryc:delayed")
    me = r.zrange("celeryc:workers", 0, 0)[0].decode()
    r.lpush(f"celeryc:waiting:{me}:celery", json.dumps(message("t", "examples.echo", [1])))
    assert both() == [(0, 1, 0, 1), (0, 0, 0, 0)]


@pytest.mark.parametrize(
    "kind", ["python", *(pytest.param(k, marks=pytest.mark.chaos) for k in ("debian", "celeryc"))]
)
def test_two_queues_and_a_prefix_are_told_apart(kind: str, rig: Rig) -> None:
    """`unacked` is one hash for all queues of a database; another prefix is another world."""
    settings = {"broker_transport_options": {"global_keyprefix": "p:"}}
    client = rig.client(kind, **settings)
    worker = rig.start(kind, settings=settings, queues=["one", "two"], concurrency=1)
    for i in range(3):
        client.send("interop.hold_late", str(rig.lines), f"t{i}", HOLD_S, queue="one")
    rig.busy(1)
    for i in range(5):
        client.send("interop.hold_late", str(rig.lines), f"u{i}", HOLD_S, queue="two")
    seen = {}
    for queue in ("one", "two"):
        scaler = rig.scaler(queues=[queue], redis={"global_keyprefix": "p:"})
        sample = scaler.look()["sample"]
        seen[queue] = sample["ready"] + sample["unacked"]
    assert seen == {"one": 3, "two": 5}
    scaler = rig.scaler(queues=["one"], redis={"global_keyprefix": "p:"})
    scaler.pods(POD)
    assert scaler.look()["sample"]["active"] == 1, "heartbeats carry the prefix, too"
    sample = rig.scaler(queues=["one"]).look()["sample"]
    assert (sample["ready"], sample["unacked"]) == (0, 0)
    worker.process.stop(0)


def test_pods_go_when_they_are_idle_and_only_then(rig: Rig) -> None:
    """Two pods with a worker each: the one that runs a task holds, until it is done."""
    client = rig.client()
    scaler = rig.scaler(pod_costs=True, **QUICK)
    first = rig.start("python", host="pod-1", concurrency=1)
    client.send("interop.hold", str(rig.lines), "t0", HOLD_S)
    rig.busy(1)
    second = rig.start("celeryc", host="pod-2", concurrency=1)
    scaler.pods("pod-1", "pod-2")
    assert scaler.line()["reason"] in ("stabilizing", "busy-hold"), "the first run never lowers"
    line = scaler.line()
    assert (line["pods"]["busy"], line["pods"]["idle"]) == (1, 1)
    assert (line["reason"], line["target"], line["wrote"]) == ("down", 1, True)
    cost = "controller.kubernetes.io/pod-deletion-cost"
    costs = {
        pod: scaler.scene.get("Pod", pod)["metadata"]["annotations"][cost]
        for pod in ("pod-1", "pod-2")
    }
    assert costs == {"pod-1": "1001", "pod-2": "-1000"}
    scaler.terminate("pod-2")
    second.process.stop()
    scaler.observed()
    for _ in range(2):
        assert (scaler.line()["target"], scaler.scene.replicas()) == (1, 1), "it works"
    first.process.stop(0)
    rig.start("celeryc", host="pod-1")
    assert scaler.line()["target"] == 1, "heard for the first time"
    line = scaler.line()
    assert (line["reason"], line["target"], scaler.scene.replicas()) == ("down", 0, 0)


def test_silent_pod_counts_as_busy_and_the_fix_is_said(rig: Rig) -> None:
    scaler = rig.scaler(**QUICK)
    rig.start("celeryc", host="elsewhere")
    scaler.pods("pod-1")
    scaler.line()
    line = scaler.line()
    assert (line["target"], line["pods"]["unknown"]) == (1, 1)
    assert any("--hostname NAME@%h" in note for note in line["notes"])


# ---- rights and errors ----


def rule() -> list[str]:
    text = (ROOT / "docs/SCALER.md").read_text()
    found = re.search(r"^ACL SETUSER scaler on ><password> (.*?)^```$", text, re.M | re.S)
    assert found
    return found.group(1).split()


def test_documented_rights_are_enough(rig: Rig) -> None:
    r = rig.redis.client()
    r.execute_command("ACL", "SETUSER", "scaler", "on", ">secret", *rule())
    client = rig.client()
    worker = rig.start("celeryc", concurrency=1)
    for i in range(3):
        client.send("interop.hold_late", str(rig.lines), f"t{i}", HOLD_S)
    client.send("examples.echo", 1, countdown=3600)
    rig.busy(1)
    scaler = rig.make_scaler(rig.redis.url().replace("redis://", "redis://scaler:secret@"))
    scaler.pods(POD)
    assert scaler.look()["sample"]["active"] == 1
    worker.process.stop(0)
    make_dead(rig.redis)
    scaler.scene.set_replicas(0)
    assert scaler.look()["target"] >= 1
    checked = scaler.run("--check")
    assert (checked.returncode, "FAIL" in checked.stdout) == (0, False), checked
    assert r.execute_command("ACL", "LOG") == [], "nothing was refused"


def test_an_error_is_never_a_zero(
    redis_server: RedisServer, make_scaler: MakeScaler, tmp_path: Path
) -> None:
    """Wrong types, a right that is missing, a replica, a Redis that has gone: held, said, and the exit code."""
    r = redis_server.client()
    scaler = make_scaler(redis_server.url(), redis=DEAF, **QUICK)
    scaler.pods("pod-1")

    def held(code: int) -> str:
        line = scaler.line(code=code)
        assert (line["reason"], line["target"], line["wrote"]) == ("error-hold", 1, False)
        assert line["where"] == "redis"
        return str(line["error"])

    for key in ("celery", queue_key("celery", 9)):
        r.set(key, "no list")
        assert "WRONGTYPE" in held(78)
        r.delete(key)
    for key in ("unacked", "unacked_index", "celeryc:workers", "celeryc:delayed"):
        r.set(key, "no hash")
        assert "WRONGTYPE" in held(78)
        r.delete(key)
    r.execute_command("ACL", "SETUSER", "scaler", "on", ">secret", *rule(), "-hscan")
    r.hset("unacked", "a", "b")
    scaler.broker = redis_server.url().replace("redis://", "redis://scaler:secret@")
    assert "hscan" in held(77)
    r.delete("unacked")
    scaler.broker = redis_server.url().replace("redis://", "redis://scaler:wrong@")
    assert "refused the user or password" in held(77)
    scaler.broker = redis_server.url()
    replica = RedisServer(
        tmp_path / "replica", options=["--replicaof", "127.0.0.1", str(redis_server.port)]
    )
    scaler.broker = replica.url()
    assert "replica" in held(75)
    replica.stop()
    assert "refused" in held(75)
    assert scaler.state()["fails"] >= 8
    scaler.broker = redis_server.url()
    assert scaler.line()["reason"] != "error-hold"
    assert scaler.state()["fails"] == 0


def test_redis_that_loads_its_data_is_not_empty(
    redis_server: RedisServer, make_scaler: MakeScaler
) -> None:
    r = redis_server.client()
    r.mset({f"k{i}": i for i in range(20000)})
    r.save()
    redis_server.stop()
    slowly = ["--key-load-delay", "1000"]
    folder, port = redis_server.folder, str(redis_server.port)
    loading = Process("loading", ["redis-server", "--port", port, "--dir", folder, *slowly], folder)
    loading.wait_for_log("Loading RDB")
    scaler = make_scaler(redis_server.url(), redis=DEAF)
    scaler.pods("pod-1")
    line = scaler.line(code=75)
    assert (line["reason"], line["target"]) == ("error-hold", 1)
    loading.stop(0)


def test_restarted_redis_lowers_nothing(redis_server: RedisServer, make_scaler: MakeScaler) -> None:
    """Empty after a restart is not an empty queue, for one window; fuller than before is believed at once."""
    scaler = make_scaler(redis_server.url(), redis=DEAF, **QUICK | {"down_window_s": 100})
    scaler.pods("pod-1")
    assert scaler.line()["sample"]["restarted"] is True, "the server is younger than the window"
    scaler.config["targets"][0]["down_window_s"] = 0
    line = scaler.line()
    assert line["sample"]["restarted"] is False
    redis_server.restart()
    scaler.config["targets"][0]["down_window_s"] = 1000
    assert scaler.line()["sample"]["restarted"] is True
    r = redis_server.client()
    for _ in range(7):
        r.lpush("celery", "x")
    assert scaler.line()["target"] == 4


@pytest.mark.chaos
def test_failover_lowers_nothing(make_scaler: MakeScaler, tmp_path: Path) -> None:
    """By way of the Sentinels; the new master is another Redis, whose emptiness says nothing for one window."""
    sentinels = Sentinels(tmp_path / "sentinels")
    url = ";".join(f"{part}?master_name={MASTER}" for part in sentinels.url().split(";"))
    scaler = make_scaler(url, redis=DEAF, **QUICK)
    sentinels.master().client().lpush("celery", *["x"] * 6)
    assert scaler.line()["target"] == 3
    scaler.observed()
    sentinels.fail_over_cleanly(lambda old: None)
    sentinels.master().client().delete("celery")
    scaler.config["targets"][0]["down_window_s"] = 5
    line = scaler.line()
    assert (line["sample"]["restarted"], line["target"]) == (True, 3)
    sentinels.close()
