# SPDX-License-Identifier: Apache-2.0
"""When and how often tasks run: retry, ETA, expiry, priorities, states on the way; and other forms of messages."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from harness.client import Client
from harness.fleet import Fleet
from harness.messages import message
from harness.waiting import wait_until


@contextmanager
def published(fleet: Fleet, task_id: str) -> Iterator[list[dict[str, Any]]]:
    """The records published for a task, in order; filled when the block ends with a READY state seen."""
    seen: list[dict[str, Any]] = []
    pubsub = fleet.redis.client(fleet.db).pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe(f"celery-task-meta-{task_id}")
    wait_until(lambda: pubsub.subscribed, "subscription")

    def ready() -> bool:
        message = pubsub.get_message(timeout=0.05)
        if message is not None:
            seen.append(json.loads(message["data"]))
        return bool(seen) and seen[-1]["status"] in {"SUCCESS", "FAILURE", "REVOKED"}

    try:
        yield seen
        wait_until(ready, f"a READY state published for {task_id}")
    finally:
        pubsub.close()


def done_at(fleet: Fleet, task_id: str) -> datetime:
    record = fleet.record(task_id)
    assert record is not None
    done = datetime.fromisoformat(record["date_done"])
    return done if done.tzinfo else done.replace(tzinfo=timezone.utc)


def test_retry_until_it_works(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        task_id = str(uuid.uuid4())
        with published(fleet, task_id) as records:
            client.send("examples.flaky", task_id, 3, task_id=task_id)
        assert client.get(task_id).value == 3
        # Celery stores RETRY after it has sent the message, so the next run can be done before.
        assert {r["status"] for r in records[:-1]} == {"RETRY"}
        assert records[-1]["status"] == "SUCCESS"
        first = records[0]
        assert first["result"]["exc_type"]
        assert first["traceback"]
        assert first["date_done"] is None
        assert first["task_id"] == task_id
        assert records[-1]["task_id"] == task_id


def test_retry_gives_up_with_the_cause(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        outcome = client.call("interop.give_up", True)
        assert (outcome.state, outcome.exc_type, outcome.exc_args) == (
            "FAILURE",
            "KeyError",
            ["gone"],
        )


def test_retry_gives_up_without_a_cause(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        outcome = client.call("interop.give_up", False)
        assert (outcome.state, outcome.exc_type) == ("FAILURE", "MaxRetriesExceededError")
        assert outcome.exc_args is not None
        assert "interop.give_up" in outcome.exc_args[0]


def test_custom_state_on_the_way(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        task_id = str(uuid.uuid4())
        with published(fleet, task_id) as records:
            client.send("interop.progress", 40, task_id=task_id)
        assert [r["status"] for r in records] == ["PROGRESS", "SUCCESS"]
        assert records[0]["result"] == {"done": 40}
        assert client.get(task_id).value == "complete"


def test_started_state(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        task_id = str(uuid.uuid4())
        with published(fleet, task_id) as records:
            client.send("interop.tracked", 0.01, task_id=task_id)
        assert [r["status"] for r in records] == ["STARTED", "SUCCESS"]
        nodes = [worker.node for worker in fleet.workers]
        assert records[0]["result"]["hostname"] in nodes
        assert isinstance(records[0]["result"]["pid"], int)
        client.get(task_id)


def test_countdown_is_never_early(fleet: Fleet, client: Client) -> None:
    sent = datetime.now(timezone.utc)
    ids = {
        client.send("examples.echo", countdown, countdown=countdown): countdown
        for countdown in (0.6, 0.4, 0.2) * min(fleet.rounds, 2)
    }
    for task_id, countdown in ids.items():
        assert client.get(task_id).value == countdown
        assert done_at(fleet, task_id) >= sent + timedelta(seconds=countdown)


def test_eta_forms(fleet: Fleet, client: Client) -> None:
    now = datetime.now(timezone.utc)
    soon = now + timedelta(seconds=0.3)
    forms = [
        soon,
        soon.replace(tzinfo=None),
        soon.astimezone(timezone(timedelta(hours=-7))),
        now - timedelta(days=1),
    ]
    ids = [
        client.send("examples.echo", i, eta=eta)
        for i, eta in enumerate(forms)
        for _ in range(fleet.rounds)
    ]
    for k, task_id in enumerate(ids):
        i = k // fleet.rounds
        assert client.get(task_id).value == i
        if i < 3:
            assert done_at(fleet, task_id) >= soon


def test_expired_task_is_revoked(fleet: Fleet, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    for _ in range(fleet.rounds):
        past = datetime.now(timezone.utc) - timedelta(seconds=5)
        outcome = client.call("examples.append", str(path), "ran", expires=past)
        assert (outcome.state, outcome.exc_type, outcome.exc_args) == (
            "REVOKED",
            "TaskRevokedError",
            ["expired"],
        )
        assert outcome.exc_module == "celery.exceptions"
    assert not path.exists()


def test_task_that_expires_before_its_eta(fleet: Fleet, client: Client) -> None:
    for _ in range(min(fleet.rounds, 2)):
        outcome = client.call("examples.add", 1, 1, countdown=0.5, expires=0.1)
        assert (outcome.state, outcome.exc_args) == ("REVOKED", ["expired"])


def test_task_that_has_not_expired_runs(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        assert client.call("examples.add", 1, 2, expires=60).value == 3


def test_every_priority_is_served(fleet: Fleet, client: Client) -> None:
    ids = [
        (i, client.send("examples.echo", i, priority=priority))
        for i, priority in enumerate((9, 6, 3, 0, 1, 5, 8, 2) * fleet.rounds)
    ]
    for i, task_id in ids:
        assert client.get(task_id).value == i


def test_protocol_1(fleet: Fleet, client_version: str) -> None:
    client = fleet.client(client_version, task_protocol=1)
    for _ in range(fleet.rounds):
        assert client.call("examples.add", 20, 22).value == 42
        assert client.call("interop.named", 5, _kwargs={"b": 1}).value == 4
        document = {"a": [1.0, 2**80, "ž"]}
        assert repr(client.call("examples.echo", document).value) == repr(document)
        failed = client.call("examples.fail", "ValueError", "old")
        assert (failed.state, failed.exc_type, failed.exc_args) == (
            "FAILURE",
            "ValueError",
            ["old"],
        )
        assert client.call("examples.add", 1, 1, countdown=0.1).value == 2
        assert client.call("examples.flaky", "k", 2).value == 2
        expired = client.call("examples.add", 1, 1, expires=-5)
        assert expired.state == "REVOKED"
        assert client.call("nobody.has_this").exc_type == "NotRegistered"
    fleet.settle()


def test_zlib_body(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        assert client.call("examples.echo", ["y" * 50_000, 1.0], compression="zlib").value == [
            "y" * 50_000,
            1.0,
        ]


# Debian's 5.2 needs python3-zstandard for this.
@pytest.mark.fleets("python", "celeryc", "both")
@pytest.mark.clients("celery-5.7")
def test_zstd_body(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        assert client.call("examples.echo", ["z" * 50_000, 1.0], compression="zstd").value == [
            "z" * 50_000,
            1.0,
        ]


def test_plain_body_encoding(fleet: Fleet, client: Client) -> None:
    """A producer with body_encoding=None puts the body as text, not base64."""
    r = fleet.redis.client(fleet.db)
    for i in range(fleet.rounds):
        task_id = str(uuid.uuid4())
        r.lpush("celery", json.dumps(message(task_id, "examples.add", [i, 1], body_encoding=None)))
        assert client.get(task_id).value == i + 1


def test_custom_headers_and_unknown_properties_do_no_harm(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        task_id = client.send(
            "examples.flaky", "k", 2, headers={"tenant": "ž", "depth": [1, {"a": None}]}
        )
        assert client.get(task_id).value == 2


# The message of a retry is looked at on its way, so one worker is enough; callbacks themselves are another subject.
@pytest.mark.fleets("python", "celeryc")
@pytest.mark.clients("celery-5.7")
def test_retry_carries_everything_on(fleet: Fleet, client: Client) -> None:
    task_id = str(uuid.uuid4())
    signature = {
        "task": "examples.echo",
        "args": [{"__type__": "decimal", "__value__": "1.10"}, 2**80, 1.0, {"é": [None]}],
        "kwargs": {},
        "options": {"task_id": str(uuid.uuid4()), "queue": "nobody", "priority": None},
        "subtask_type": None,
        "immutable": True,
    }
    embed = {"callbacks": [signature], "errbacks": [signature], "chain": [signature], "chord": None}
    first = message(
        task_id,
        "interop.give_up",
        [True],
        embed=embed,
        shadow="other",
        group=None,
        root_id="the-root",
        parent_id="the-parent",
        timelimit=[100, 50],
        origin="gen9@elsewhere",
        tenant={"a": [1, 2.0]},
    )
    first["properties"]["priority"] = 3
    first["properties"]["reply_to"] = "somebody"
    r = fleet.redis.client(fleet.db)
    pushed: list[dict[str, Any]] = []
    with r.monitor() as monitor:
        r.lpush("celery", json.dumps(first))
        for command in monitor.listen():
            words = command["command"].split(" ", 2)
            if words[0].upper() in {"LPUSH", "RPUSH"} and task_id in command["command"]:
                pushed.append(json.loads(words[2].encode("latin-1", "backslashreplace")))
            if len(pushed) == 3:
                break
    assert client.get(task_id).exc_type == "KeyError"
    for attempt, retried in enumerate(pushed):
        headers, properties = retried["headers"], retried["properties"]
        assert json.loads(base64.b64decode(retried["body"])) == json.loads(
            base64.b64decode(first["body"])
        )
        assert headers["retries"] == attempt
        kept = (
            "id",
            "task",
            "root_id",
            "parent_id",
            "group",
            "shadow",
            "timelimit",
            "origin",
            "tenant",
        )
        assert {k: headers.get(k) for k in kept} == {k: first["headers"].get(k) for k in kept}
        assert properties["priority"] == 3
        assert properties["reply_to"] == "somebody"
        assert properties["correlation_id"] == task_id
        assert properties["delivery_info"]["routing_key"] == "celery"
    assert len({retried["properties"]["delivery_tag"] for retried in pushed}) == 3
