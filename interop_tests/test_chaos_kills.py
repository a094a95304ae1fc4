# SPDX-License-Identifier: Apache-2.0
"""Whole celeryc workers are killed under load, again and again, beside Python workers on the same queue.

A place where celeryc is better than Celery, so Celery is only its neighbour here: a Python worker that is killed loses
what it had acked early and shows nobody what else it held until the visibility timeout."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from celery import Celery
from harness.client import Client
from harness.fleet import nothing_left
from harness.load import Load
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.workers import Worker, WorkerFactory

MakeClient = Callable[..., Client]
CLAIMED_AGAIN_WITHIN_S = 20.0
# A worker declares another one dead after 12 s of silence that it has itself seen, so the two others must live longer.
BETWEEN_KILLS_S = 9.0


@dataclass
class Dead:
    """An incarnation of a killed worker whose claims and running tasks must be taken over."""

    keys: list[str]
    deadline: float


class Killer:
    def __init__(self, redis: RedisServer, workers: WorkerFactory) -> None:
        self.redis = redis
        self.workers = workers
        self.alive = [self.start() for _ in range(3)]
        self.dead: list[Dead] = []
        self.pids: set[int] = set()

    def start(self) -> Worker:
        return self.workers.start("celeryc", self.redis.socket_url(), concurrency=8, wait=False)

    def kill(self) -> None:
        """The one that has lived longest, with all that belongs to it; another one is started in its place."""
        victim = self.alive.pop(0)
        victim.wait_ready()
        client = self.redis.client()
        mine = [
            me.decode()
            for me in client.zrange("celeryc:workers", 0, -1)
            if client.hget(f"celeryc:worker:{me.decode()}", "node") == victim.node.encode()
        ]
        assert len(mine) == 1
        self.pids |= {victim.process.pid, *victim.process.descendants()}
        os.killpg(victim.process.pid, signal.SIGKILL)
        wait_until(lambda: not victim.process.descendants(), "the end of the whole tree")
        self.dead.append(
            Dead(
                [f"celeryc:claims:{mine[0]}", f"celeryc:running:{mine[0]}"],
                time.monotonic() + CLAIMED_AGAIN_WITHIN_S,
            )
        )
        self.alive.append(self.start())

    def all_taken_over(self) -> bool:
        client = self.redis.client()
        for dead in list(self.dead):
            if not client.exists(*dead.keys):
                self.dead.remove(dead)
            else:
                assert time.monotonic() < dead.deadline, f"{dead.keys} are still there"
        return not self.dead

    def wait(self) -> None:
        """Until the next kill is due, with an eye on the dead."""
        due = time.monotonic() + BETWEEN_KILLS_S

        def reached() -> bool:
            self.all_taken_over()
            return time.monotonic() >= due

        wait_until(reached, "the next kill", 2 * BETWEEN_KILLS_S)


@pytest.mark.parametrize(
    ("kills", "least"),
    [
        pytest.param(4, 5_000, marks=pytest.mark.timeout(240)),
        pytest.param(100, 200_000, marks=[pytest.mark.chaos, pytest.mark.timeout(3000)]),
    ],
)
def test_kills_under_load(
    kills: int, least: int, redis_server: RedisServer, workers: WorkerFactory, tmp_path: Path
) -> None:
    load = Load(redis_server, tmp_path, least, per_second=least / (kills * BETWEEN_KILLS_S))
    killer = Killer(redis_server, workers)
    pythons = [
        workers.start("python", redis_server.socket_url(), concurrency=2, wait=False)
        for _ in range(2)
    ]
    for worker in [*killer.alive, *pythons]:
        worker.wait_ready()
    load.start()
    try:
        for _ in range(kills):
            killer.wait()
            killer.kill()
    finally:
        load.stop()
    wait_until(killer.all_taken_over, "all claims are taken over", 30.0)
    wait_until(lambda: load.n_results() == load.sent, "every task has a result", 120.0)
    nothing_left(redis_server, deadline_s=60.0)
    check(load, killer.pids)


def check(load: Load, killed: set[int]) -> None:
    records = load.records()
    begun, ended = load.runs()
    failed = {name for name, record in records.items() if record["status"] != "SUCCESS"}
    assert load.sent >= load.least

    assert {name[0] for name in failed} <= {"e"}, "late-ack tasks all succeed"
    assert {records[name]["result"]["exc_type"] for name in failed} <= {"WorkerLostError"}
    assert failed, "no kill has hit a running early-ack task: the load is too light"
    assert set(records) - failed <= ended, "what succeeded came to its end"

    twice = {name: pids for name, pids in begun.items() if len(pids) > 1}
    assert {name[0] for name in twice} <= {"l"}, "an early-ack task never starts twice"
    assert twice, "no kill has hit a running late-ack task: the load is too light"
    for name, pids in twice.items():
        assert set(pids[:-1]) <= killed, f"{name} ran twice without cause"
    for name in failed:
        assert set(begun.get(name, [])) <= killed, f"{name} is said to be lost and was not"

    wait_until(lambda: load.reported() >= failed, "the errbacks of the lost tasks", 60.0)
    assert load.reported() == failed


HASTY = {
    "broker_transport_options": {
        "visibility_timeout": 2,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    }
}


def starts(path: Path) -> int:
    return len(path.read_text().split()) if path.exists() else 0


@pytest.mark.parametrize("seconds", [6.0, pytest.param(20.0, marks=pytest.mark.chaos)])
def test_a_long_task_beside_hasty_peers(
    seconds: float,
    redis_server: RedisServer,
    workers: WorkerFactory,
    make_client: MakeClient,
    tmp_path: Path,
) -> None:
    """The whole fleet thinks that two seconds are enough for any task, and `inspect` is called all the time."""
    url = redis_server.socket_url()
    client = make_client(url)
    owner = workers.start("celeryc", url, concurrency=1, settings=HASTY)
    task_id = client.send("interop.hold_late", str(tmp_path / "lines"), "t", seconds)
    wait_until(lambda: starts(tmp_path / "lines") == 1, "the task runs")
    for kind in ("python", "celeryc"):
        workers.start(kind, url, settings=HASTY)
    app = Celery(broker=url)
    shown = 0

    def ended() -> bool:
        nonlocal shown
        active = app.control.inspect(timeout=0.5).active() or {}
        shown += [task["id"] for task in active.get(owner.node, [])] == [task_id]
        return client.meta(task_id).state == "SUCCESS"

    wait_until(ended, "the task has ended", 3 * seconds)
    assert shown, "inspect has seen it run"
    assert client.meta(task_id).value == 1
    nothing_left(redis_server)
    assert starts(tmp_path / "lines") == 1


def test_a_frozen_worker_comes_too_late(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient, tmp_path: Path
) -> None:
    """A whole worker stands still until another one has taken its task; what it says afterwards is discarded."""
    url = redis_server.socket_url()
    client = make_client(url)
    path = tmp_path / "lines"
    owner = workers.start("celeryc", url, concurrency=1, settings=HASTY)
    task_id = client.send("interop.hold_late", str(path), "t", 20.0)
    wait_until(lambda: starts(path) == 1, "the task runs")
    workers.start("celeryc", url, concurrency=1, settings=HASTY)
    os.killpg(owner.process.pid, signal.SIGSTOP)
    try:
        assert client.get(task_id, CLAIMED_AGAIN_WITHIN_S).value == 2
    finally:
        os.killpg(owner.process.pid, signal.SIGCONT)
    owner.process.wait_for_log("the claim on interop.hold_late.* was lost", 60.0)
    assert client.meta(task_id).value == 2
    assert starts(path) == 2
    nothing_left(redis_server)
    assert owner.process.alive
