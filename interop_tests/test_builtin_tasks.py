# SPDX-License-Identifier: Apache-2.0
"""The tasks that every Celery worker has: what canvases send to them, and calls by name."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from celery import Celery, group
from harness import canvas
from harness.client import Client
from harness.fleet import Fleet
from harness.waiting import wait_until

app = Celery("signatures", set_as_current=False)


def plain(signature: Any) -> Any:
    """As JSON has it."""
    return json.loads(json.dumps(signature))


def result_of(fleet: Fleet, task_id: str) -> Any:
    """From the store: the get() of 5.2 may miss a result that is stored in the moment in which it begins."""

    def there() -> bool:
        record = fleet.record(task_id)
        return record is not None and record["status"] == "SUCCESS"

    wait_until(there, f"the result of {task_id}")
    record = fleet.record(task_id)
    assert record is not None
    return record["result"]


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
        assert [result_of(fleet, one) for one in ids] == [2, 4]
        record = fleet.record(sent)
        assert record is not None
        assert [child[0][0] for child in record["children"]] == ids


def test_chunks(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        value = client.call("celery.chunks", add(), [[i, i] for i in range(5)], 2).value
        (_group_id, _parent), members = value
        assert [result_of(fleet, m[0][0]) for m in members] == [[0, 2], [4, 6], [8]]


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
        assert [result_of(fleet, i) for i in ids] == [11, 12]
        record = fleet.record(ids[0])
        assert record is not None
        assert record["group_id"] == gid


@pytest.mark.fleets("python", "celeryc", "both")  # 5.2 cannot run the task
def test_chord(fleet: Fleet, client: Client) -> None:
    echo = plain(app.signature("examples.echo"))
    for _ in range(fleet.rounds):
        value = client.call("celery.chord", [add(1, 1), add(2, 2)], echo).value
        assert result_of(fleet, value[0][0]) == [2, 4]


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
