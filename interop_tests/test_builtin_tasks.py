# SPDX-License-Identifier: Apache-2.0
"""The tasks that every Celery worker has: what canvases send to them, and calls by name."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, group
from harness import canvas
from harness.canvas import plain
from harness.client import Client
from harness.fleet import Fleet
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.workers import WorkerFactory

app = Celery("signatures", set_as_current=False)


def add(*args: int) -> Any:
    return plain(app.signature("examples.add", args=args))


def fail(message: str) -> Any:
    return plain(app.signature("examples.fail", args=("ValueError", message)))


def test_replaced_by_a_group_within_a_chord(fleet: Fleet, client: Client) -> None:
    inner = plain(group([add(1, 1), add(2, 2)], app=app))
    for _ in range(fleet.rounds):
        sent = client.apply(
            canvas.chord([canvas.task("interop.replace", inner), canvas.add(3, 3)], canvas.echo())
        )
        replaced, other = client.get(sent).value
        assert (sorted(replaced), other) == ([2, 4], 6)  # 5.2 turns the members round


def test_accumulate(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        assert client.call("celery.accumulate", 1, [2]).value == [1, [2]]
        assert client.call("celery.accumulate", 1, 2, _kwargs={"index": -1}).value == 2
        assert client.call("celery.accumulate", 1, _kwargs={"index": 0, "other": 1}).value == 1
        outcome = client.call("celery.accumulate", _kwargs={"index": 0})
        assert (outcome.exc_type, outcome.exc_args) == ("IndexError", ["tuple index out of range"])


def test_map_and_starmap(fleet: Fleet, client: Client) -> None:
    echo = plain(app.signature("examples.echo"))
    for _ in range(fleet.rounds):
        kwargs: dict[str, Any] = {"task": echo, "it": [1, [2], None, {"a": 1.5}]}
        assert client.call("celery.map", _kwargs=kwargs).value == kwargs["it"]
        assert client.call("celery.starmap", add(), [[1, 2], [3, 4]]).value == [3, 7]
        assert client.call("celery.starmap", add(), []).value == []


def test_a_failure_ends_the_map(fleet: Fleet, client: Client) -> None:
    echo = plain(app.signature("examples.fail"))
    for _ in range(fleet.rounds):
        outcome = client.call("celery.starmap", echo, [["ValueError", "boom"], ["KeyError", "no"]])
        assert (outcome.state, outcome.exc_type, outcome.exc_args) == (
            "FAILURE",
            "ValueError",
            ["boom"],
        )
        outcome = client.call("celery.map", plain(app.signature("no.such")), [1])
        assert (outcome.state, outcome.exc_type) == ("FAILURE", "NotRegistered")


def test_a_retry_fails_the_map(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        flaky = plain(app.signature("interop.give_up"))
        outcome = client.call("celery.map", flaky, [True])
        assert (outcome.state, outcome.exc_type) == ("FAILURE", "KeyError")


def test_what_a_mapped_task_sends_is_the_map_s_child(fleet: Fleet, client: Client) -> None:
    spawn = plain(app.signature("interop.apply"))
    for _ in range(fleet.rounds):
        sent = client.send("celery.map", spawn, [add(1, 1), add(2, 2)])
        ids = [value[0][0] for value in client.get(sent).value]
        assert [fleet.result_of(one) for one in ids] == [2, 4]
        record = fleet.record(sent)
        assert record is not None
        assert [child[0][0] for child in record["children"]] == ids


def test_chunks(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        value = client.call("celery.chunks", add(), [[i, i] for i in range(5)], 2).value
        (_group_id, _parent), members = value
        assert [fleet.result_of(m[0][0]) for m in members] == [[0, 2], [4, 6], [8]]


def test_group(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        ids = [str(uuid.uuid4()) for _ in range(2)]
        gid = str(uuid.uuid4())
        tasks = [
            add(1) | {"options": {"task_id": ids[0]}},
            add(2) | {"options": {"task_id": ids[1]}},
        ]
        result = [[gid, None], [[[i, None], None] for i in ids]]
        sent = client.send("celery.group", tasks, result, gid, [10])
        assert client.get(sent).value == result
        assert [fleet.result_of(i) for i in ids] == [11, 12]
        record = fleet.record(ids[0])
        assert record is not None
        assert record["group_id"] == gid


@pytest.mark.fleets("python", "celeryc", "both")  # 5.2 cannot run the task
def test_chord(fleet: Fleet, client: Client) -> None:
    echo = plain(app.signature("examples.echo"))
    for _ in range(fleet.rounds):
        value = client.call("celery.chord", [add(1, 1), add(2, 2)], echo).value
        assert fleet.result_of(value[0][0]) == [2, 4]


def test_chain_is_no_task(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        outcome = client.call("celery.chain")
        assert (outcome.exc_type, outcome.exc_args) == (
            "NotImplementedError",
            ["chain is not a real task"],
        )


def test_backend_cleanup(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        assert client.call("celery.backend_cleanup").state == "SUCCESS"


def unlock(client: Client, header: list[str], body: Any, **kwargs: Any) -> str:
    """As a client does whose result backend cannot count."""
    result = [[[task_id, None], None] for task_id in header]
    return client.send(
        "celery.chord_unlock",
        str(uuid.uuid4()),
        body,
        _kwargs={"interval": 0.05, "max_retries": None, "result": result, **kwargs},
    )


def body(task_id: str, *errbacks: Any) -> Any:
    options = {"task_id": task_id, "link_error": list(errbacks)}
    return plain(app.signature("examples.echo", options=options))


def ended(fleet: Fleet, task_id: str) -> dict[str, Any]:
    def there() -> bool:
        record = fleet.record(task_id)
        return record is not None and record["status"] in {"SUCCESS", "FAILURE"}

    wait_until(there, f"the end of {task_id}")
    record = fleet.record(task_id)
    assert record is not None
    return record


def test_chord_unlock(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        ids = [str(uuid.uuid4()) for _ in range(3)]
        last = str(uuid.uuid4())
        unlock(client, ids, body(last))  # before its members: it is retried
        for n, task_id in enumerate(ids):
            client.send("examples.add", n, n, task_id=task_id, countdown=0.1 * n)
        assert ended(fleet, last)["result"] == [0, 2, 4]


def test_chord_unlock_of_a_failure(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        ids = [str(uuid.uuid4()) for _ in range(2)]
        last = str(uuid.uuid4())
        client.send("examples.add", 1, 1, task_id=ids[0])
        client.send("examples.fail", "ValueError", "boom", task_id=ids[1])
        unlock(client, ids, body(last))
        record = ended(fleet, last)
        assert record["status"] == "FAILURE"
        assert record["result"]["exc_type"] == "ChordError"
        (text,) = record["result"]["exc_message"]
        # Celery names the member only if it happens to have its record at hand.
        assert text in (f"Dependency {ids[1]} raised ValueError('boom')", "ValueError('boom')")


@pytest.mark.fleets("python", "celeryc", "both")  # 5.2 leaves the body pending
def test_chord_unlock_gives_up(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        last = str(uuid.uuid4())
        unlock(client, [str(uuid.uuid4())], body(last), max_retries=2)
        record = ended(fleet, last)
        assert record["result"]["exc_type"] == "ChordError"
        assert (
            "chord_unlock could not be retried: MaxRetriesExceededError"
            in (record["result"]["exc_message"][0])
        )


def test_chord_unlock_finds_the_results(
    redis_server: RedisServer, workers: WorkerFactory, make_client: Callable[..., Client]
) -> None:
    """Where the worker keeps them: on the command line, under a prefix."""
    broker, backend = redis_server.socket_url(0), redis_server.socket_url(1)
    settings = {"result_backend_transport_options": {"global_keyprefix": "res"}}
    workers.start("celeryc", broker, settings=settings, options=("--result-backend", backend))
    client = make_client(broker, backend, **settings)
    ids = [client.send("examples.add", n, n) for n in range(3)]
    last = str(uuid.uuid4())
    unlock(client, ids, body(last))
    assert client.get(last).value == [0, 2, 4]
