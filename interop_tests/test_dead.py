# SPDX-License-Identifier: Apache-2.0
"""Messages that die again and again are set aside with a result; `celeryc dead` shows them and gives them back.

celeryc alone: Celery delivers a message that kills its workers for ever, or loses it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.client import Client
from harness.fleet import nothing_left
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.workers import WorkerFactory

MakeClient = Callable[..., Client]
DEAD = "celeryc:dead:celery"


def parked(server: RedisServer) -> list[dict[str, Any]]:
    return [json.loads(entry) for entry in server.client().lrange(DEAD, 0, -1)]


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def test_children_of_several_workers_count_together(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient, tmp_path: Path
) -> None:
    url = redis_server.socket_url()
    client = make_client(url)
    path = tmp_path / "starts"
    for _ in range(2):
        workers.start("celeryc", url, concurrency=1, wait=False)
    for worker in workers.workers:
        worker.wait_ready()
    task_id = client.send("interop.die_requeue", str(path), 100)
    outcome = client.get(task_id)
    assert (outcome.state, outcome.exc_type) == ("FAILURE", "WorkerLostError")
    assert len(lines(path)) == 3
    (entry,) = parked(redis_server)
    assert json.loads(base64.b64decode(entry["raw"]))["headers"]["id"] == task_id
    assert "SIGKILL" in entry["reason"]
    assert client.call("examples.add", 1, 1).value == 2
    nothing_left(redis_server)
    wait_until(lambda: not redis_server.client().keys("celeryc:deaths:*"), "the count is forgotten")


def test_a_success_forgets_earlier_deaths(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient, tmp_path: Path
) -> None:
    url = redis_server.socket_url()
    client = make_client(url)
    workers.start("celeryc", url, concurrency=1)
    assert client.call("interop.die_requeue", str(tmp_path / "starts"), 3).value == 3
    wait_until(lambda: not redis_server.client().keys("celeryc:deaths:*"), "the count is forgotten")
    assert parked(redis_server) == []


def test_deaths_of_workers_count(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient, tmp_path: Path
) -> None:
    """A late-ack task under which two workers have died and now a third does; what had not started only goes back."""
    url = redis_server.socket_url()
    r = redis_server.client()
    client = make_client(url)
    path = tmp_path / "lines"
    victim = workers.start("celeryc", url, concurrency=2, options=["--prefetch-multiplier", "2"])
    poison = client.send("interop.hold_late", str(path), "poison", 600)
    first = client.send("interop.hold_late", str(path), "first", 600)
    wait_until(lambda: sorted(lines(path)) == ["first", "poison"], "both run")
    idle = client.send("interop.hold_late", str(path), "idle", 0)
    wait_until(lambda: r.hlen("unacked") == 3, "the third is claimed")
    r.set(f"celeryc:deaths:{poison}", 2)
    wait_until(
        lambda: (
            sum(b"\0" in note for key in r.keys("celeryc:claims:*") for note in r.hvals(key)) == 2
        ),
        "both starts are noted",
    )
    victim.process.kill_9()

    workers.start("celeryc", url, concurrency=2)
    outcome = client.get(poison, 30)
    assert (outcome.state, outcome.exc_type) == ("FAILURE", "WorkerLostError")
    assert client.get(first).value == 2
    assert client.get(idle).value == 1
    (entry,) = parked(redis_server)
    assert json.loads(base64.b64decode(entry["raw"]))["headers"]["id"] == poison
    assert sorted(lines(path)) == ["first", "first", "idle", "poison"]
    nothing_left(redis_server)
    wait_until(lambda: not r.keys("celeryc:deaths:*"), "the counts are forgotten")
