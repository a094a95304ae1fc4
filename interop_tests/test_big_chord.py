# SPDX-License-Identifier: Apache-2.0
"""A chord of many late-ack members, which Python and C workers share, one of which is killed on the way: the list is right.

`make test` runs the small one, `make chaos` the one of 10,000 members and shows what it cost."""

from __future__ import annotations

import signal
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from harness.canvas import chord, echo, task
from harness.client import Client
from harness.fleet import nothing_left
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.workers import Worker, WorkerFactory


def redis_cpu_s(r: Any) -> float:
    info = r.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def claims_of(r: Any, node: str) -> int:
    """How many messages the node has in hand."""
    for me in r.zrange("celeryc:workers", 0, -1):
        if r.hget(b"celeryc:worker:" + me, "node") == node.encode():
            return int(r.hlen(b"celeryc:claims:" + me))
    return 0


def kill_with_work_in_hand(r: Any, worker: Worker) -> None:
    """It is held still first, so that there is something to lose when it dies."""

    def caught() -> bool:
        worker.process.send_signal(signal.SIGSTOP)
        if claims_of(r, worker.node):
            return True
        worker.process.send_signal(signal.SIGCONT)
        return False

    wait_until(caught, "the victim has messages in hand")
    worker.process.kill_9()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("n", [1000, pytest.param(10_000, marks=pytest.mark.chaos)])
def test_kill_in_the_middle(
    redis_server: RedisServer,
    workers: WorkerFactory,
    make_client: Callable[..., Client],
    n: int,
) -> None:
    """Better than Celery, where what the dead worker had in hand comes back after an hour."""
    url = redis_server.socket_url()
    client = make_client(url)
    r = redis_server.client()
    gid, body = str(uuid.uuid4()), str(uuid.uuid4())
    ids = [str(uuid.uuid4()) for _ in range(n)]
    # Each its own, so that a wrong order or a double would show.
    expected = [0.002 + i / 1e7 for i in range(n)]
    members = [task("examples.sleep", v, task_id=i) for i, v in zip(ids, expected)]
    sent = client.request("apply", 300.0, spec=chord(members, echo(task_id=body), task_id=gid))
    assert sent == body

    began_s, redis_began_s = time.monotonic(), redis_cpu_s(r)
    parts = f"celery-taskset-meta-{gid}.j"
    python = workers.start("python", url)
    wait_until(lambda: r.zcard(parts) >= 10, "the slow starter has its share")
    victim, other = (workers.start("celeryc", url, wait=False) for _ in range(2))
    wait_until(lambda: r.zcard(parts) >= n // 4, "a quarter is counted", 60.0)
    kill_with_work_in_hand(r, victim)
    at_kill = r.zcard(parts)
    wait_until(lambda: r.exists(f"celery-task-meta-{body}"), "the body has run", 60.0)
    done_s = time.monotonic()
    value = client.get(sent, 300.0).value

    assert value == expected
    assert at_kill < n
    for worker in (python, victim, other):
        assert worker.received(ids), f"{worker.node} had no share in it"
    nothing_left(redis_server)
    wait_until(lambda: r.get(f"celery-taskset-meta-{gid}.c") == b"done", "the chord is done")
    assert not r.hlen("celeryc:fire")
    assert len(r.keys("celery-task-meta-*")) == n + 1
    print(
        f"\n{n} members, {at_kill} counted at the kill: the list after {done_s - began_s:.1f} s, "
        f"{redis_cpu_s(r) - redis_began_s:.2f} s of Redis's processor"
    )
