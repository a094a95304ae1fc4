# SPDX-License-Identifier: Apache-2.0
"""kill -9, freezes and child deaths: nothing is lost, nothing that had started and was acked runs twice.

These are places where celeryc is better than Celery, so Celery appears here only as its neighbour.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.client import Client
from harness.fleet import nothing_left
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.workers import WorkerFactory

MakeClient = Callable[..., Client]
RESTORED_WITHIN_S = 20.0
# A Python worker that looks for lost messages every second and thinks that 5 s are enough for any task.
HASTY = {
    "broker_transport_options": {
        "visibility_timeout": 5,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    }
}


def starts(path: Path) -> Counter[str]:
    return Counter(path.read_text().split() if path.exists() else [])


def children_of(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_claims_of_a_killed_worker(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient, tmp_path: Path
) -> None:
    url = redis_server.socket_url()
    client = make_client(url)
    path = tmp_path / "lines"
    victim = workers.start("celeryc", url, concurrency=6)
    ids = {
        name: client.send(f"interop.{task}", str(path), name, seconds)
        for name, task, seconds in (
            ("live1", "hold_late", 9.0),
            ("live2", "hold_late", 9.0),
            ("late1", "hold_late", 600.0),
            ("late2", "hold_late", 600.0),
            ("early1", "hold", 600.0),
            ("early2", "hold", 600.0),
        )
    }
    wait_until(lambda: starts(path) == Counter(list(ids)), "all six tasks run")
    queued = [client.send("examples.add", i, 1) for i in range(10)]

    other = workers.start("celeryc", url, concurrency=2, wait=False)
    python = workers.start("python", url, concurrency=2, settings=HASTY, wait=False)
    other.wait_ready()
    python.wait_ready()
    assert [client.get(task_id).value for task_id in queued] == list(range(1, 11))

    # Nine seconds of life beside a worker whose patience is five: nobody takes a live claim.
    assert [client.get(ids[name]).value for name in ("live1", "live2")] == [1, 1]
    assert starts(path) == Counter(list(ids))
    assert python.received(ids.values()) | other.received(ids.values()) == set()

    victim.process.kill_9()
    for name in ("late1", "late2"):
        assert client.get(ids[name], RESTORED_WITHIN_S).value == 2
    for name in ("early1", "early2"):
        outcome = client.get(ids[name], RESTORED_WITHIN_S)
        assert (outcome.state, outcome.exc_type) == ("FAILURE", "WorkerLostError"), name
    assert starts(path) == Counter({**dict.fromkeys(ids, 1), "late1": 2, "late2": 2})
    nothing_left(redis_server)
    assert python.process.alive
    assert other.process.alive


def test_kill_in_the_middle_of_a_load(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient, tmp_path: Path
) -> None:
    url = redis_server.socket_url()
    client = make_client(url)
    early, late = tmp_path / "early", tmp_path / "late"
    victim = workers.start("celeryc", url, concurrency=4)
    workers.start("celeryc", url, concurrency=2)
    ids = {}
    for i in range(600):
        ids[f"e{i}"] = client.send("interop.hold", str(early), f"e{i}", 0.002)
        ids[f"l{i}"] = client.send("interop.hold_late", str(late), f"l{i}", 0.002)
        if i == 300:
            victim.process.kill_9()
    outcomes = {name: client.get(task_id, RESTORED_WITHIN_S) for name, task_id in ids.items()}
    lost = {name for name, outcome in outcomes.items() if outcome.state != "SUCCESS"}
    assert {outcomes[name].exc_type for name in lost} <= {"WorkerLostError"}
    assert all(name.startswith("e") for name in lost), "only early-ack tasks may be lost"
    assert len(lost) <= 4 * 2, "only what the victim's children had at hand"
    assert max(starts(early).values()) == 1, "an early-ack task never starts twice"
    assert set(starts(early)) >= {name for name in ids if name.startswith("e")} - lost
    assert set(starts(late)) == {name for name in ids if name.startswith("l")}
    nothing_left(redis_server)


def test_effect_of_a_frozen_worker_is_discarded(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient, tmp_path: Path
) -> None:
    """A master that was stopped for longer than others wait wakes up as a zombie: its claim is somebody else's."""
    url = redis_server.socket_url()
    client = make_client(url)
    path = tmp_path / "lines"
    frozen = workers.start("celeryc", url, concurrency=1)
    task_id = client.send("interop.hold_retry", str(path), "t", 1.0)
    wait_until(lambda: starts(path)["t"] == 1, "the task runs")
    workers.start("celeryc", url, concurrency=1)
    frozen.process.send_signal(signal.SIGSTOP)
    try:
        assert client.get(task_id, RESTORED_WITHIN_S).value == 2
    finally:
        frozen.process.send_signal(signal.SIGCONT)
    ids = [client.send("examples.add", i, 0) for i in range(50)]
    assert [client.get(i).value for i in ids] == list(range(50))
    nothing_left(redis_server)
    assert client.meta(task_id).value == 2
    assert starts(path)["t"] == 2, "the retry of the zombie was sent"
    assert frozen.process.alive
    wait_until(
        lambda: frozen.received([client.send("examples.add", 1, 1)]),
        "the worker that was frozen works again",
    )


def test_child_death_of_a_late_task(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient, tmp_path: Path
) -> None:
    """reject_on_worker_lost: delivered again; the worker has a new child and goes on."""
    url = redis_server.socket_url()
    client = make_client(url)
    workers.start("celeryc", url, concurrency=1)
    path = tmp_path / "lines"
    assert client.call("interop.die_requeue", str(path), 3).value == 3
    assert client.call("examples.add", 1, 1).value == 2
    nothing_left(redis_server)


def test_child_death_leaves_its_neighbours_alone(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient, tmp_path: Path
) -> None:
    url = redis_server.socket_url()
    client = make_client(url)
    workers.start("celeryc", url, concurrency=2)
    path = tmp_path / "lines"
    neighbour = client.send("interop.hold", str(path), "t", 1.0)
    wait_until(lambda: starts(path)["t"] == 1, "the neighbour runs")
    deaths = [client.send("interop.die", number) for number in (9, 11, 6)]
    behind = [client.send("examples.add", i, 1) for i in range(20)]
    for task_id, name in zip(deaths, ("SIGKILL", "SIGSEGV", "SIGABRT")):
        outcome = client.get(task_id)
        assert (outcome.state, outcome.exc_type) == ("FAILURE", "WorkerLostError")
        assert outcome.exc_args is not None
        assert name in outcome.exc_args[0]
    assert [client.get(task_id).value for task_id in behind] == list(range(1, 21))
    assert client.get(neighbour).value == 1
    nothing_left(redis_server)


def test_killed_zygote_costs_no_late_task(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient, tmp_path: Path
) -> None:
    """Its children die with it, and the worker gives up: late-ack tasks go back, they are not to blame."""
    url = redis_server.socket_url()
    client = make_client(url)
    path = tmp_path / "lines"
    victim = workers.start("celeryc", url, concurrency=2)
    late = client.send("interop.hold_late", str(path), "late", 600.0)
    early = client.send("interop.hold", str(path), "early", 600.0)
    wait_until(lambda: starts(path) == Counter(["late", "early"]), "both run")
    (zygote,) = children_of(victim.process.pid)
    os.kill(zygote, signal.SIGKILL)
    wait_until(lambda: not victim.process.alive, "the worker ends")
    outcome = client.get(early)
    assert (outcome.state, outcome.exc_type) == ("FAILURE", "WorkerLostError")
    workers.start("celeryc", url, concurrency=2)
    assert client.get(late).value == 2
    nothing_left(redis_server)


@pytest.mark.parametrize("backend_db", [0, 1], ids=["one database", "backend of its own"])
def test_lost_node_is_a_retry(
    redis_server: RedisServer,
    workers: WorkerFactory,
    make_client: MakeClient,
    tmp_path: Path,
    backend_db: int,
) -> None:
    """retry_on_worker_lost, and the whole worker is lost: another one sends the retry. Celery loses the task."""
    url, backend = redis_server.socket_url(), redis_server.socket_url(backend_db)
    client = make_client(url, backend)
    path = tmp_path / "lines"
    victim = workers.start("celeryc", url, backend, queues=["theirs"])
    task_id = client.send("interop.hold_lost", str(path), "x", 600.0, queue="theirs")
    wait_until(lambda: starts(path)["x"] == 1, "it runs")
    workers.start("celeryc", url, backend)
    victim.process.kill_9()
    wait_until(lambda: client.meta(task_id).state == "RETRY", "it is retried", RESTORED_WITHIN_S)
    workers.start("celeryc", url, backend, queues=["theirs"])
    assert client.get(task_id).value == 2
    nothing_left(redis_server, queue="theirs")
