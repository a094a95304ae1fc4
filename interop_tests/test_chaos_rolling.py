# SPDX-License-Identifier: Apache-2.0
"""A rolling restart under load: each worker is asked to go, with a drain deadline, and another one takes its place."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.client import Client
from harness.fleet import nothing_left
from harness.load import Load
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.workers import Worker, WorkerFactory

MakeClient = Callable[..., Client]
DRAIN_S = 10
LONG_S = (
    30.0  # beyond the deadline, and beyond the five seconds in which a task is then asked to stop
)


@pytest.mark.parametrize(
    ("restarts", "least"),
    [
        pytest.param(4, 4_000, marks=pytest.mark.timeout(240)),
        pytest.param(40, 100_000, marks=[pytest.mark.chaos, pytest.mark.timeout(2000)]),
    ],
)
def test_rolling_restart(
    restarts: int,
    least: int,
    redis_server: RedisServer,
    workers: WorkerFactory,
    make_client: MakeClient,
    tmp_path: Path,
) -> None:
    """celeryc alone: Celery has no drain deadline, and gives back in reverse order what it had reserved."""
    client = make_client(redis_server.socket_url())
    options = ["--drain-timeout", str(DRAIN_S)]

    def start() -> Worker:
        return workers.start(
            "celeryc", redis_server.socket_url(), concurrency=4, options=options, wait=False
        )

    fleet = [start() for _ in range(4)]
    for worker in fleet:
        worker.wait_ready()
    load = Load(redis_server, tmp_path, least, per_second=least / (restarts * 4.0))
    long = client.send("interop.hold_late", str(tmp_path / "long"), "t", LONG_S)
    wait_until((tmp_path / "long").exists, "the long task runs")
    load.start()
    try:
        for _ in range(restarts):
            old = fleet.pop(0)
            old.wait_ready()
            old.process.send_signal(signal.SIGTERM)
            assert old.process.wait(2.0 * DRAIN_S) == 0
            fleet.append(start())
    finally:
        load.stop()
    wait_until(lambda: load.n_results() == load.sent, "every task has a result", 120.0)
    assert {record["status"] for record in load.records().values()} == {"SUCCESS"}
    begun, ended = load.runs()
    assert set(begun) == ended == set(load.ids()), "each task has run"
    assert {len(pids) for pids in begun.values()} == {1}, "none was started twice"
    assert client.get(long, 2 * LONG_S).state == "SUCCESS"
    starts = (tmp_path / "long").read_text().split()
    assert len(starts) == 2, "the one beyond the deadline was given back, once"
    nothing_left(redis_server, deadline_s=60.0)
