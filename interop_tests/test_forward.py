# SPDX-License-Identifier: Apache-2.0
"""A Python worker and celeryc on one queue, each with a task that the other does not have.

Better than Celery, which drops what it does not know, so that two kinds of workers need two queues; here both pass it on to
whoever knows it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from harness.canvas import chain, chord, task
from harness.client import Client
from harness.fleet import nothing_left
from harness.messages import message
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.workers import WorkerFactory

MakeClient = Callable[..., Client]


def send_many(server: RedisServer, tasks: list[str], n: int) -> list[str]:
    """n of each, mixed."""
    ids = [str(uuid.uuid4()) for _ in range(n * len(tasks))]
    raws = [
        json.dumps(message(task_id, tasks[i % len(tasks)], [i])) for i, task_id in enumerate(ids)
    ]
    for start in range(0, len(raws), 1000):
        server.client().lpush("celery", *raws[start : start + 1000])
    return ids


def records(server: RedisServer, ids: list[str]) -> list[dict[str, Any]]:
    found = server.client().mget([f"celery-task-meta-{task_id}" for task_id in ids])
    return [json.loads(text) for text in found if text is not None]


@pytest.mark.parametrize("python", ["python", "debian"])
@pytest.mark.parametrize(
    "n",
    [
        pytest.param(300),
        pytest.param(10_000, marks=[pytest.mark.chaos, pytest.mark.timeout(1200)]),
    ],
)
def test_each_runs_what_it_knows(
    redis_server: RedisServer, workers: WorkerFactory, python: str, n: int
) -> None:
    url = redis_server.socket_url()
    workers.start("celeryc", url, wait=False)
    workers.start(python, url, app="forward_app", wait=False)
    for worker in workers.workers:
        worker.wait_ready()
    ids = send_many(redis_server, ["python.only", "examples.echo"], n)
    wait_until(lambda: len(records(redis_server, ids)) == len(ids), "every task has ended", 600)
    states = {record["status"] for record in records(redis_server, ids)}
    assert states == {"SUCCESS"}
    results = sorted(record["result"] for record in records(redis_server, ids))
    assert results == list(range(2 * n))
    nothing_left(redis_server)


@pytest.mark.parametrize("kind", ["celeryc", "python"])
def test_nobody_has_it(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient, kind: str
) -> None:
    """Within seconds, as in Celery; also when the one who had it has just died."""
    url = redis_server.socket_url()
    client = make_client(url)
    other_kind, name = (
        ("python", "python.only") if kind == "celeryc" else ("celeryc", "examples.echo")
    )
    workers.start(kind, url, app="forward_app")
    lonely = client.call(name, 1)
    assert (lonely.state, lonely.exc_type) == ("FAILURE", "NotRegistered")

    other = workers.start(other_kind, url, app="forward_app")
    assert [client.call(name, i).value for i in range(5)] == list(range(5)), "it is asked anew"
    other.process.kill_9()
    outcomes = [client.call(name, i, _timeout=40) for i in range(3)]
    assert {outcome.exc_type for outcome in outcomes} == {"NotRegistered"}
    nothing_left(redis_server)


def test_other_queue_is_no_help(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    """A worker that has the task but serves another queue would never see it."""
    url = redis_server.socket_url()
    client = make_client(url)
    workers.start("celeryc", url)
    workers.start("python", url, app="forward_app", queues=["elsewhere"])
    assert client.call("python.only", 1).exc_type == "NotRegistered"
    assert client.call("python.only", 1, queue="elsewhere").value == 1


def test_chord_part_of_the_other_kind(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    """Chains and chords cross over as if both kinds had every task; a retry or step does not inherit the count."""
    url = redis_server.socket_url()
    client = make_client(url)
    workers.start("celeryc", url)
    workers.start("python", url, app="forward_app")

    members = [task("python.only" if i % 2 else "examples.echo", i) for i in range(6)]
    body = chain(task("python.only"), task("examples.echo"))
    task_id = client.apply(chord(members, body))
    assert client.get(task_id).value == list(range(6))
    nothing_left(redis_server)


def test_nothing_circles_for_ever(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    """At the limit it is set aside, with a result; its bytes are kept."""
    url = redis_server.socket_url()
    client = make_client(url)
    workers.start("celeryc", url)
    workers.start("python", url, app="forward_app", queues=["celery", "other"])
    task_id = str(uuid.uuid4())
    tired = message(task_id, "python.only", [1])
    tired["properties"]["celeryc_bounces"] = 5000
    workers.workers[1].process.kill_9()
    redis_server.client().lpush("celery", json.dumps(tired))
    outcome = client.get(task_id)
    assert (outcome.state, outcome.exc_type) == ("FAILURE", "NotRegistered")
    wait_until(lambda: redis_server.client().llen("celeryc:dead:celery") == 1, "it is set aside")
