# SPDX-License-Identifier: Apache-2.0
"""Results and failures of single tasks, as a Python client sees them."""

from __future__ import annotations

import math
import re
import uuid
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from harness.client import Client
from harness.fleet import Fleet
from harness.waiting import wait_until

DEEP: Any = []
for _ in range(60):
    DEEP = [DEEP]

JSON_VALUES = {
    "none": None,
    "bools": [True, False],
    "int": -1,
    "int64": 2**63 - 1,
    "big int": -(2**100),
    "whole float": 1.0,
    "float": 0.1 + 0.2,
    "large float": 1e22,
    "small float": 5e-324,
    "negative zero": -0.0,
    "nan": math.nan,
    "infinities": [math.inf, -math.inf],
    "empty": ["", [], {}],
    "text": 'quote " backslash \\ slash / tab \t',
    "unicode": "Žluťoučký kůň 电话 😀 \u2028",
    "nul": "a\x00b",
    "lone surrogate": "\ud83d",
    "nested": {"a": [1, {"b": [None, 2.5, {"c": "d"}]}], "": {"e": []}},
    "deep": DEEP,
    "long": "x" * 300_000,
    "many": list(range(20_000)),
    "a dict like a typed value": {"__type__": "datetime"},
}

TYPED_VALUES = {
    "datetime": datetime(2024, 1, 2, 3, 4, 5, 678, tzinfo=timezone.utc),
    "offset": datetime(2024, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=-5, minutes=-30))),
    "naive": datetime(2024, 1, 2, 3, 4, 5),  # noqa: DTZ001
    "date": date(2024, 2, 29),
    "time": time(1, 2, 3),
    "decimal": Decimal("1.10"),
    "uuid": uuid.UUID("12345678123456781234567812345678"),
    "bytes": b"text",
    "binary": b"\xff\x00\xfe",
    "nested": {"a": [Decimal("NaN"), {"b": b"\x80"}]},
}


@pytest.mark.parametrize("name", JSON_VALUES)
def test_value_comes_back(fleet: Fleet, client: Client, name: str) -> None:
    for _ in range(fleet.rounds):
        outcome = client.call("examples.echo", JSON_VALUES[name])
        assert outcome.state == "SUCCESS"
        assert repr(outcome.value) == repr(JSON_VALUES[name])


# Debian's 5.2 has no typed JSON values: it sends them as plain text.
@pytest.mark.fleets("python", "celeryc", "both")
@pytest.mark.clients("celery-5.7")
@pytest.mark.parametrize("name", TYPED_VALUES)
def test_typed_value_comes_back(fleet: Fleet, client: Client, name: str) -> None:
    for _ in range(fleet.rounds):
        outcome = client.call("examples.echo", TYPED_VALUES[name])
        assert outcome.state == "SUCCESS"
        assert repr(outcome.value) == repr(TYPED_VALUES[name])


@pytest.mark.parametrize(
    ("a", "b"),
    [(2, 3), (-7, 7), (2**40, 1), (1.5, 2.25), (1, 0.5)],
    ids=["small", "zero", "large", "float", "mixed"],
)
def test_add(fleet: Fleet, client: Client, a: float, b: float) -> None:
    for _ in range(fleet.rounds):
        outcome = client.call("examples.add", a, b)
        assert (outcome.state, repr(outcome.value)) == ("SUCCESS", repr(a + b))


def test_keyword_arguments(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        assert client.call("interop.named", 7).value == -3
        assert client.call("interop.named", 7, _kwargs={"b": 1}).value == 6
        assert client.call("interop.named", _kwargs={"b": 2, "a": 9}).value == 7


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [([], {}), ([1, 2, 3], {}), ([1], {"a": 2}), ([1], {"c": 2})],
    ids=["few", "many", "twice", "name"],
)
def test_wrong_arguments_are_a_type_error(
    fleet: Fleet, client: Client, args: list[int], kwargs: dict[str, int]
) -> None:
    for _ in range(fleet.rounds):
        outcome = client.call("interop.named", *args, _kwargs=kwargs)
        assert (outcome.state, outcome.exc_type, outcome.exc_module) == (
            "FAILURE",
            "TypeError",
            "builtins",
        )


@pytest.mark.parametrize(
    "kind", ["ValueError", "KeyError", "TypeError", "ZeroDivisionError", "OSError", "RuntimeError"]
)
def test_builtin_exception_by_class(fleet: Fleet, client: Client, kind: str) -> None:
    for _ in range(fleet.rounds):
        outcome = client.call("examples.fail", kind, "it's broken")
        assert outcome.state == "FAILURE"
        assert (outcome.exc_module, outcome.exc_type) == ("builtins", kind)
        assert outcome.exc_args == ["it's broken"]
        assert outcome.traceback is not None
        assert re.search(rf"^{kind}: [\"']?it's broken[\"']?\s*\Z", outcome.traceback, re.MULTILINE)


def test_exception_arguments(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        outcome = client.call("interop.raise_many")
        assert (outcome.exc_type, outcome.exc_args) == ("ValueError", ["boom", 7, None, ["x", 1.5]])


def test_exception_of_a_module_that_the_client_lacks(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        task_id = client.send("examples.fail", "shop.errors.OutOfStock", "none left")
        outcome = client.get(task_id)
        assert (outcome.state, outcome.exc_type, outcome.exc_args) == (
            "FAILURE",
            "OutOfStock",
            ["none left"],
        )
        record = fleet.record(task_id)
        assert record is not None
        assert record["result"] == {
            "exc_type": "OutOfStock",
            "exc_message": ["none left"],
            "exc_module": "shop.errors",
        }


def test_exception_of_a_module_that_the_client_has(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        outcome = client.call("examples.fail", "celery.exceptions.ImproperlyConfigured", "no key")
        assert outcome.exc_type == "ImproperlyConfigured"
        assert outcome.exc_args == ["no key"]


def test_unregistered_task(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        outcome = client.call("nobody.has_this", 1)
        assert (outcome.state, outcome.exc_type) == ("FAILURE", "NotRegistered")
        assert outcome.exc_module == "celery.exceptions"
        assert outcome.exc_args == ["nobody.has_this"]


def test_record_has_celery_fields(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        before = datetime.now(timezone.utc)
        task_id = client.send("examples.add", 1, 2)
        assert client.get(task_id).value == 3
        record = fleet.record(task_id)
        assert record is not None
        assert list(record)[:5] == ["status", "result", "traceback", "children", "date_done"]
        assert list(record)[-1] == "task_id"
        done = datetime.fromisoformat(record.pop("date_done"))
        if done.tzinfo is None:  # 5.2 writes naive UTC
            done = done.replace(tzinfo=timezone.utc)
        assert before <= done <= datetime.now(timezone.utc)
        record.pop("parent_id", None)  # 5.2 writes null
        assert record == {
            "status": "SUCCESS",
            "result": 3,
            "traceback": None,
            "children": [],
            "task_id": task_id,
        }
        assert 86_000 < fleet.redis.client(fleet.db).ttl(f"celery-task-meta-{task_id}") <= 86_400


def test_get_wakes_up_while_it_waits(fleet: Fleet, client: Client) -> None:
    """The record is not there yet when get() looks: only the PUBLISH can end it."""
    for _ in range(fleet.rounds):
        outcome = client.call("examples.sleep", 0.2)
        assert (outcome.state, outcome.value) == ("SUCCESS", 0.2)


def ran_all(path: Path, times: int) -> None:
    """Waits for the lines themselves: between its BRPOP and its HSET a Python worker's message is nowhere to be seen."""
    wait_until(lambda: path.exists() and path.read_text().count("\n") >= times, f"{times} lines")


# A 5.2 worker does not know the header ignore_result.
@pytest.mark.fleets("python", "celeryc", "both")
def test_ignore_result_of_the_call(fleet: Fleet, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    ids = [
        client.send("examples.append", str(path), "ran", ignore_result=True)
        for _ in range(fleet.rounds)
    ]
    ran_all(path, fleet.rounds)
    fleet.settle()
    assert path.read_text() == "ran\n" * fleet.rounds
    assert [fleet.record(task_id) for task_id in ids] == [None] * fleet.rounds


# A 5.2 client says ignore_result=false for every task that it sends by name, which overrides the task's own option.
@pytest.mark.clients("celery-5.7")
def test_ignore_result_of_the_task(fleet: Fleet, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    ids = [client.send("interop.quiet", str(path)) for _ in range(fleet.rounds)]
    ran_all(path, fleet.rounds)
    fleet.settle()
    assert path.read_text() == "ran\n" * fleet.rounds
    assert [fleet.record(task_id) for task_id in ids] == [None] * fleet.rounds


def test_task_started_from_a_task(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        task_id = client.send("interop.spawn", 4, 5)
        child = client.get(task_id)
        assert child.state == "SUCCESS"
        assert client.get(child.value).value == 9
        parent, sub = fleet.record(task_id), fleet.record(child.value)
        assert parent is not None
        assert sub is not None
        assert parent["children"] == [[[child.value, None], None]]
        assert sub["parent_id"] == task_id


def test_death_of_the_process_is_worker_lost(fleet: Fleet, client: Client) -> None:
    for _ in range(min(fleet.rounds, 3)):
        outcome = client.call("interop.die", 9)
        assert (outcome.state, outcome.exc_type) == ("FAILURE", "WorkerLostError")
        assert outcome.exc_args is not None
        assert "signal 9 (SIGKILL)" in outcome.exc_args[0]
        assert client.call("examples.add", 1, 1).value == 2


def test_thousand_tasks_from_eight_threads(fleet: Fleet, client: Client) -> None:
    pairs = client.burst("examples.add", 1000, 8)
    assert pairs == [(i, 2 * i) for i in range(1000)]
