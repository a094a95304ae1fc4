# SPDX-License-Identifier: Apache-2.0
"""How tasks end that do not simply return: lost children, retries, rejects, limits; and what settings change about it."""

from __future__ import annotations

import base64
import json
import uuid
import zlib
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from harness.canvas import add, chain, echo, group
from harness.client import Client, Outcome
from harness.fleet import Fleet, nothing_left
from harness.messages import message
from harness.redis_server import SEP, RedisServer
from harness.waiting import wait_until
from harness.workers import WorkerFactory

MakeClient = Callable[..., Client]
KINDS = ["python", "celeryc"]


class World:
    """A Redis with one worker of a kind, and a client."""

    def __init__(
        self, kind: str, redis: RedisServer, workers: WorkerFactory, make_client: MakeClient
    ) -> None:
        self.kind = kind
        self.redis = redis
        self.workers = workers
        self.url = redis.socket_url()
        self.client = make_client(self.url)
        self.r = redis.client()

    def start(self, **options: Any) -> None:
        self.workers.start(self.kind, self.url, concurrency=1, **options)

    def record(self, task_id: str) -> dict[str, Any] | None:
        text = self.r.get(f"celery-task-meta-{task_id}")
        return None if text is None else dict(json.loads(text))

    def wait_state(self, task_id: str, state: str) -> Outcome:
        wait_until(lambda: self.client.meta(task_id).state == state, f"{state} is stored")
        return self.client.meta(task_id)

    def push(self, element: dict[str, Any]) -> str:
        self.r.lpush("celery", json.dumps(element))
        return str(element["headers"]["id"])


@pytest.fixture(params=KINDS)
def world(
    request: pytest.FixtureRequest,
    redis_server: RedisServer,
    workers: WorkerFactory,
    make_client: MakeClient,
) -> World:
    return World(request.param, redis_server, workers, make_client)


def again(element: dict[str, Any]) -> dict[str, Any]:
    """The element as a restore puts it back."""
    element["headers"]["redelivered"] = True
    element["properties"]["delivery_info"]["redelivered"] = True
    return element


def lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


# ---- lost children


@pytest.mark.parametrize("task", ["interop.die_retry", "interop.die_retry_late"])
def test_lost_child_is_retried(world: World, tmp_path: Path, task: str) -> None:
    path = tmp_path / "lines"
    task_id = str(uuid.uuid4())
    seen: list[dict[str, Any]] = []
    pubsub = world.r.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe(f"celery-task-meta-{task_id}")
    sent = world.push(
        message(task_id, task, [str(path), 2], parent_id=None, tenant="x", ignore_result=None)
    )
    with world.r.monitor() as monitor:
        world.start()
        for command in monitor.listen():
            words = command["command"].split(" ", 2)
            if words[0].upper() == "LPUSH" and task_id in command["command"]:
                pushed = json.loads(words[2])
                break
    assert world.client.get(sent).value == 2
    headers = pushed["headers"]
    assert (headers["id"], headers["retries"], headers["tenant"]) == (task_id, 1, "x")
    assert headers["parent_id"] is None
    assert headers["root_id"] == task_id
    assert headers["eta"]
    assert headers["ignore_result"] is False
    assert pushed["properties"]["origin"]

    def all_seen() -> bool:
        published = pubsub.get_message(timeout=0.05)
        if published is not None:
            seen.append(json.loads(published["data"]))
        return bool(seen) and seen[-1]["status"] == "SUCCESS"

    wait_until(all_seen, "the records are published")
    pubsub.close()
    retry = seen[0]
    assert retry["status"] == "RETRY"
    assert retry["result"]["exc_type"] == "WorkerLostError"
    assert retry["result"]["exc_module"] == "billiard.exceptions"
    assert "signal 9 (SIGKILL)" in retry["result"]["exc_message"][0]
    assert retry["children"] == []
    assert retry["date_done"] is None
    assert {s["status"] for s in seen[:-1]} == {"RETRY"}
    nothing_left(world.redis)


def test_lost_too_often(world: World, tmp_path: Path) -> None:
    """Used up: FAILURE and an ack, although the task would be rejected on a lost worker as well."""
    world.start()
    path = tmp_path / "lines"
    outcome = world.client.call("interop.die_retry_late", str(path), 9)
    assert (outcome.state, outcome.exc_type) == ("FAILURE", "WorkerLostError")
    assert lines(path) == 3
    nothing_left(world.redis)


def test_setting_retries_lost_tasks(world: World, tmp_path: Path) -> None:
    world.start(settings={"task_retry_on_worker_lost": True})
    task_id = world.client.send("interop.die", 9)
    outcome = world.wait_state(task_id, "RETRY")
    assert outcome.exc_type == "WorkerLostError"
    assert world.record(task_id)


# Celery 5.2 with Debian's billiard runs into the end of its own child.
@pytest.mark.fleets("python", "celeryc")
@pytest.mark.clients("celery-5.7")
def test_exit_of_a_task_is_a_lost_worker(fleet: Fleet, client: Client) -> None:
    outcome = client.call("interop.leave", 3)
    assert (outcome.state, outcome.exc_type) == ("FAILURE", "WorkerLostError")
    assert outcome.exc_args is not None
    assert "exitcode 3" in outcome.exc_args[0]


def test_success_before_the_loss(world: World, tmp_path: Path) -> None:
    """SUCCESS is there: a death after it is no failure, and nobody's errback is called."""
    path = tmp_path / "lines"
    task_id = str(uuid.uuid4())
    world.r.set(
        f"celery-task-meta-{task_id}",
        json.dumps({"status": "SUCCESS", "result": 5, "children": [], "task_id": task_id}),
    )
    errback: dict[str, Any] = {
        "task": "examples.echo",
        "args": [],
        "options": {"queue": "errors"},
        "kwargs": {},
        "subtask_type": None,
        "immutable": False,
    }
    world.push(message(task_id, "interop.die", [9], embed={"errbacks": [errback]}))
    world.start()
    assert world.client.call("examples.append", str(path), "x").state == "SUCCESS"
    nothing_left(world.redis)
    record = world.record(task_id)
    assert record is not None
    assert (record["status"], record["result"]) == ("SUCCESS", 5)
    assert world.r.llen("errors") == 0


# ---- deduplication

DEDUP = {"worker_deduplicate_successful_tasks": True, "task_acks_late": True}


def step(task_id: str, queue: str = "steps") -> dict[str, Any]:
    return {
        "task": "examples.echo",
        "args": [],
        "kwargs": {},
        "options": {"task_id": task_id, "queue": queue},
        "subtask_type": None,
        "immutable": False,
    }


@pytest.mark.parametrize("children", [True, False], ids=["sent", "not sent"])
def test_successful_task_is_not_run_again(world: World, tmp_path: Path, children: bool) -> None:
    """A redelivered message whose result is stored: its chain goes on from the stored value unless it did already."""
    path = tmp_path / "lines"
    task_id, next_id = str(uuid.uuid4()), str(uuid.uuid4())
    record = {
        "status": "SUCCESS",
        "result": [1, {"é": 2}],
        "traceback": None,
        "children": [[[next_id, None], None]] if children else [],
        "date_done": "2026-01-01T00:00:00+00:00",
        "task_id": task_id,
    }
    world.r.set(f"celery-task-meta-{task_id}", json.dumps(record))
    element = message(
        task_id,
        "interop.hold_late",
        [str(path), "x", 0],
        embed={"chain": [step(next_id)], "callbacks": [step("callback")]},
    )
    world.push(again(element))
    world.start(settings=DEDUP)
    assert world.client.call("examples.add", 1, 1).value == 2
    nothing_left(world.redis)
    assert lines(path) == 0
    assert world.record(task_id) == record
    sent = [json.loads(e) for e in world.r.lrange("steps", 0, -1)]
    if children:
        assert sent == []
        return
    assert {e["headers"]["id"] for e in sent} == {next_id, "callback"}
    for e in sent:
        assert json.loads(base64.b64decode(e["body"]))[0] == [[1, {"é": 2}]]
        assert e["headers"]["parent_id"] == task_id


def test_what_has_not_succeeded_runs_again(world: World, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    ids = [str(uuid.uuid4()) for _ in range(3)]
    world.r.set(
        f"celery-task-meta-{ids[1]}",
        json.dumps({"status": "STARTED", "result": None, "children": [], "task_id": ids[1]}),
    )
    for task_id in ids:
        element = message(task_id, "interop.hold_late", [str(path), task_id, 0])
        world.push(element if task_id == ids[2] else again(element))
    world.r.set(
        f"celery-task-meta-{ids[2]}",
        json.dumps({"status": "SUCCESS", "result": 7, "children": [], "task_id": ids[2]}),
    )
    world.start(settings=DEDUP)
    for task_id in ids[:2]:
        assert world.client.get(task_id).value == 1
    nothing_left(world.redis)
    assert lines(path) == 3, "a message that was not delivered before is not asked about"


@pytest.mark.parametrize("world", ["celeryc"], indirect=True)
def test_success_of_an_ignored_result_is_remembered(world: World, tmp_path: Path) -> None:
    """Better than Celery with prefork, where the master remembers and the child, which would skip it, does not know."""
    path = tmp_path / "lines"
    world.start(settings=DEDUP)
    element = message(
        str(uuid.uuid4()), "interop.hold_late", [str(path), "x", 0], ignore_result=True
    )
    world.push(element)
    wait_until(lambda: lines(path) == 1, "it runs")
    nothing_left(world.redis)
    world.push(again(element))
    assert world.client.call("examples.add", 1, 1).value == 2
    nothing_left(world.redis)
    assert lines(path) == 1


# ---- ends that a task chooses


def test_reject_without_requeue_is_a_failure(world: World, tmp_path: Path) -> None:
    world.start()
    for task in ("interop.reject", "interop.reject_late"):
        outcome = world.client.call(task, str(tmp_path / task), False)
        assert (outcome.state, outcome.exc_type) == ("FAILURE", "Reject")
        assert outcome.exc_args == ["not now", False]
    nothing_left(world.redis)


def test_reject_with_requeue(world: World, tmp_path: Path) -> None:
    world.start()
    path = tmp_path / "lines"
    assert world.client.call("interop.reject_late", str(path), True).value == 3
    nothing_left(world.redis)


@pytest.mark.parametrize("world", ["celeryc"], indirect=True)
def test_early_reject_with_requeue(world: World, tmp_path: Path) -> None:
    """Better than Celery, where the message was acked before the run, and the task is lost."""
    world.start()
    path = tmp_path / "lines"
    assert world.client.call("interop.reject", str(path), True).value == 3
    nothing_left(world.redis)


def test_expired_id_is_revoked(world: World, tmp_path: Path) -> None:
    """What has expired here is flagged like a revoked task: another message of that id does not run either."""
    world.start()
    path = tmp_path / "lines"
    task_id = world.push(
        message(str(uuid.uuid4()), "examples.append", [str(path), "x"], expires=soon(-5))
    )
    assert world.wait_state(task_id, "REVOKED").exc_args == ["expired"]
    world.push(message(task_id, "examples.append", [str(path), "x"]))
    wait_until(
        lambda: world.client.meta(task_id).exc_args == ["revoked"], "the second one is revoked"
    )
    nothing_left(world.redis)
    assert not path.exists()


def test_ignore_stores_nothing(world: World) -> None:
    world.start()
    ids = [world.client.send(task) for task in ("interop.ignore", "interop.ignore_late")]
    assert world.client.call("examples.add", 1, 1).value == 2
    nothing_left(world.redis)
    assert [world.record(i) for i in ids] == [None, None]


def test_text_of_used_up_retries(world: World) -> None:
    world.start()
    task_id = world.client.send("interop.give_up", False)
    outcome = world.client.get(task_id)
    assert outcome.exc_type == "MaxRetriesExceededError"
    assert outcome.exc_module == "celery.exceptions"
    assert outcome.exc_args == [f"Can't retry interop.give_up[{task_id}] args:(False,) kwargs:{{}}"]


# ---- retries


def pushed_again(world: World, element: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Runs the element in a fresh worker; the message of its retry."""
    task_id = element["headers"]["id"]
    world.push(element)
    with world.r.monitor() as monitor:
        world.start(**options)
        for command in monitor.listen():
            words = command["command"].split(" ", 2)
            if words[0].upper() == "LPUSH" and task_id in command["command"]:
                return dict(json.loads(words[2]))
    raise AssertionError("unreachable")


def soon(seconds: float) -> str:
    return (datetime.now(timezone.utc) + timedelta(seconds=seconds)).isoformat()


def test_retry_of_a_root_task(world: World) -> None:
    """A root becomes its own parent; the deadline stays, its rest is counted again; ignore_result is carried."""
    expires = soon(100)
    task_id = str(uuid.uuid4())
    element = message(
        task_id, "examples.flaky", ["k", 2], expires=expires, parent_id=None, ignore_result=True
    )
    element["properties"]["expiration"] = "100000"
    retried = pushed_again(world, element)
    headers, properties = retried["headers"], retried["properties"]
    assert headers["expires"] == expires
    assert 90_000 < int(properties["expiration"]) < 100_000
    assert headers["ignore_result"] is True
    assert headers["parent_id"] == task_id
    assert headers["retries"] == 1
    assert properties["origin"]
    nothing_left(world.redis)
    assert world.record(task_id) is None


def test_a_retry_expires(world: World) -> None:
    """The deadline is not moved by a retry."""
    world.start()
    outcome = world.client.call("interop.hold_retry", "/dev/null", "x", 0, expires=-1)
    assert outcome.state == "REVOKED"


# ---- limits

HOURS = 3600.0


def errback(queue: str = "errors") -> dict[str, Any]:
    return step(str(uuid.uuid4()), queue)


@pytest.mark.parametrize("world", ["celeryc"], indirect=True)
def test_hard_limit_is_told_once(world: World, tmp_path: Path) -> None:
    """Better than Celery, which stores the failure, calls the errbacks and sends the event twice."""
    world.start()
    element = message(
        str(uuid.uuid4()),
        "interop.hold_late",
        [str(tmp_path / "lines"), "x", HOURS],
        timelimit=[0.3, None],
        embed={"errbacks": [errback()]},
    )
    task_id = world.push(element)
    outcome = world.wait_state(task_id, "FAILURE")
    assert (outcome.exc_type, outcome.exc_args) == ("TimeLimitExceeded", [0.3])
    assert outcome.traceback is None
    nothing_left(world.redis)
    assert world.r.llen("errors") == 1


def test_timeout_that_is_not_acked(world: World, tmp_path: Path) -> None:
    """The failure is stored, and the message goes back all the same."""
    world.start(settings={"task_acks_on_timeout": False})
    path = tmp_path / "lines"
    task_id = str(uuid.uuid4())
    world.push(
        message(task_id, "interop.hold_late", [str(path), "x", HOURS], timelimit=[0.3, None])
    )
    wait_until(lambda: lines(path) == 2, "it runs again")
    assert world.wait_state(task_id, "SUCCESS").value == 2
    nothing_left(world.redis)


@pytest.mark.parametrize(
    "settings",
    [
        {"task_acks_on_failure_or_timeout": False},
        {"task_acks_on_failure": False},
        {"task_acks_on_failure_or_timeout": False, "task_acks_on_timeout": True},
    ],
    ids=["both", "failure", "timeout acked"],
)
def test_failure_that_is_not_acked(world: World, tmp_path: Path, settings: dict[str, Any]) -> None:
    """On Redis a reject without requeue removes the message as an ack does."""
    world.start(settings={"task_acks_late": True, **settings})
    outcome = world.client.call("examples.fail", "ValueError", "boom")
    assert (outcome.state, outcome.exc_args) == ("FAILURE", ["boom"])
    nothing_left(world.redis)


def test_eta_out_of_range(world: World, tmp_path: Path) -> None:
    """A failure, with errbacks, and the message is gone from the queue; it does not run."""
    path = tmp_path / "lines"
    world.start()
    task_id = world.push(
        message(
            str(uuid.uuid4()),
            "examples.append",
            [str(path), "x"],
            eta="0001-01-01T00:00:00+23:59",
            embed={"errbacks": [errback()]},
        )
    )
    outcome = world.wait_state(task_id, "FAILURE")
    assert (outcome.exc_type, outcome.exc_args) == ("OverflowError", ["date value out of range"])
    wait_until(lambda: world.r.llen("errors") == 1, "the errback is called")
    nothing_left(world.redis)
    assert not path.exists()


# ---- what settings change


def test_extended_record_with_stamps(world: World) -> None:
    world.start(settings={"result_extended": True})
    task_id = str(uuid.uuid4())
    world.push(
        message(
            task_id,
            "examples.add",
            [1, 2],
            stamped_headers=["tenant", "unset", "n"],
            stamps={"tenant": "ž", "n": [1, None], "not named": 1, "unset": None},
        )
    )
    assert world.client.get(task_id).value == 3
    record = world.record(task_id)
    assert record is not None
    assert {k: record[k] for k in ("name", "args", "kwargs", "retries", "queue")} == {
        "name": "examples.add",
        "args": [1, 2],
        "kwargs": {},
        "retries": 0,
        "queue": "celery",
    }
    assert record["worker"].endswith("@interop")
    extra = {k: v for k, v in record.items() if k in {"tenant", "n", "unset", "not named"}}
    assert (record.get("stamped_headers"), extra) == (
        ["tenant", "unset", "n"],
        {"tenant": "ž", "n": [1, None], "unset": None},
    )


@pytest.mark.parametrize("inherit", [True, False])
def test_inherited_priority(world: World, inherit: bool) -> None:
    world.start(settings={"task_inherit_parent_priority": inherit})
    element = message(
        str(uuid.uuid4()),
        "examples.add",
        [1, 2],
        embed={"chain": [step("next")], "callbacks": [step("callback")]},
    )
    element["properties"]["priority"] = 6
    world.push(element)
    key = f"steps{SEP}6" if inherit else "steps"
    wait_until(lambda: world.r.llen(key) == 2, "the steps are sent")
    for sent in world.r.lrange(key, 0, -1):
        assert json.loads(sent)["properties"]["priority"] == (6 if inherit else 0)


def test_life_of_records(world: World) -> None:
    """result_failure_expires for failures, result_chord_expires for what counts a chord."""
    world.start(
        settings={"result_expires": 1000, "result_failure_expires": 50, "result_chord_expires": 200}
    )
    good = world.client.send("examples.add", 1, 2)
    assert world.client.get(good).value == 3
    bad = world.client.send("examples.fail", "ValueError", "boom")
    assert world.client.get(bad).state == "FAILURE"
    assert 900 < world.r.ttl(f"celery-task-meta-{good}") <= 1000
    assert 0 < world.r.ttl(f"celery-task-meta-{bad}") <= 50
    world.client.apply(chain(add(1, 2), group(add(1), echo(queue="nobody")), echo()))
    wait_until(lambda: world.r.keys("celery-taskset-meta-*.j"), "a part is counted")
    for end in (".s", ".j", ".d"):
        (key,) = world.r.keys(f"celery-taskset-meta-*{end}")
        assert 0 < world.r.ttl(key) <= 200


def test_states_of_ignored_results(world: World) -> None:
    """Nothing is stored but an error, with task_store_errors_even_if_ignored; never STARTED."""
    world.start(
        settings={
            "task_ignore_result": True,
            "task_store_errors_even_if_ignored": True,
            "task_track_started": True,
        }
    )
    good = world.client.send("examples.add", 1, 2, ignore_result=None)
    bad = world.client.send("examples.fail", "ValueError", "boom", ignore_result=None)
    told = world.client.send("examples.add", 3, 4, ignore_result=False)
    assert world.client.get(told).value == 7
    assert world.wait_state(bad, "FAILURE").exc_args == ["boom"]
    nothing_left(world.redis)
    assert world.record(good) is None


def test_compressed_success_is_kept(world: World) -> None:
    """SUCCESS is final also when it lies there compressed (result_compression of a Python worker)."""
    task_id = str(uuid.uuid4())
    record = {"status": "SUCCESS", "result": 5, "children": [], "task_id": task_id}
    stored = b"\0celery-compressed\0application/x-gzip\0" + zlib.compress(
        json.dumps(record).encode()
    )
    world.r.set(f"celery-task-meta-{task_id}", stored)
    settings = {"result_compression": "gzip", "task_track_started": True}
    world.push(again(message(task_id, "examples.fail", ["ValueError", "boom"])))
    world.start(settings=settings)
    assert world.client.call("examples.add", 1, 1).value == 2
    nothing_left(world.redis)
    assert world.r.get(f"celery-task-meta-{task_id}") == stored


# Celery 5.2 calls the link twice.
@pytest.mark.fleets("python", "celeryc", "both")
@pytest.mark.clients("celery-5.7")
def test_link_of_a_replaced_task_runs_once(fleet: Fleet, client: Client, tmp_path: Path) -> None:
    """Up to 5.6 Celery calls it twice when the replacement is a chain."""
    path = tmp_path / "lines"
    callback = step(str(uuid.uuid4()), "celery") | {
        "task": "examples.append",
        "args": [str(path), "called"],
        "immutable": True,
    }
    signatures = [
        {**step("", "celery"), "task": "examples.add", "args": args, "options": {}}
        for args in ([1, 2], [3])
    ]
    inner = {
        "task": "celery.chain",
        "args": [],
        "kwargs": {"tasks": signatures},
        "options": {},
        "subtask_type": "chain",
        "immutable": False,
    }
    task_id = str(uuid.uuid4())
    element = message(task_id, "interop.replace", [inner], embed={"callbacks": [callback]})
    fleet.redis.client(fleet.db).lpush("celery", json.dumps(element))
    assert client.get(task_id).value == 6
    # First its run: a message that a Python worker has just taken is nowhere for a moment.
    wait_until(lambda: lines(path) > 0, "the callback")
    fleet.settle()
    assert lines(path) == 1


def test_default_priority(world: World) -> None:
    """Of tasks that the sending worker has, where nobody says otherwise."""
    world.start(settings={"task_default_priority": 3})
    own = step("own")
    own["options"]["priority"] = 6
    world.push(
        message(
            str(uuid.uuid4()),
            "examples.add",
            [1, 2],
            embed={"chain": [step("next")], "callbacks": [own]},
        )
    )
    wait_until(lambda: world.r.llen(f"steps{SEP}3") == 1, "the step is sent")
    wait_until(lambda: world.r.llen(f"steps{SEP}6") == 1, "the callback is sent")


@pytest.mark.filterwarnings("ignore::celery.exceptions.CPendingDeprecationWarning")
@pytest.mark.parametrize("header", [True, False])
def test_errbacks_of_a_header(world: World, header: bool) -> None:
    """task_allow_error_cb_on_chord_header: an errback that a worker links to a chord goes to the header's members too."""
    world.start(settings={"task_allow_error_cb_on_chord_header": header})
    members = [
        {**step("", "celery"), "task": "examples.fail", "args": ["ValueError", "boom"]},
        {**step("", "celery"), "task": "examples.echo", "args": [1]},
    ]
    body = step("", "celery")
    for signature in (*members, body):
        signature["options"] = {}
    inner = {
        "task": "celery.chord",
        "args": [],
        "kwargs": {"header": members, "body": body, "kwargs": {}},
        "options": {},
        "subtask_type": "chord",
        "immutable": False,
    }
    task_id = world.push(
        message(
            str(uuid.uuid4()), "interop.replace", [inner], embed={"errbacks": [errback("errors")]}
        )
    )
    assert world.wait_state(task_id, "FAILURE").exc_type == "ChordError"
    nothing_left(world.redis)
    called = [json.loads(e) for e in world.r.lrange("errors", 0, -1)]
    failed = {json.loads(base64.b64decode(e["body"]))[0][0] for e in called}
    assert task_id in failed
    assert len(called) == len(failed) == (2 if header else 1)


@pytest.mark.parametrize("chained", [True, False], ids=["chain", "chord"])
def test_success_with_a_backend_of_its_own(
    redis_server: RedisServer,
    workers: WorkerFactory,
    make_client: MakeClient,
    tmp_path: Path,
    chained: bool,
) -> None:
    """The result is stored on one server, what follows from it sent through another: a worker that died in between has
    listed the children that it did not send. They are sent by the next one; and a chord part is counted in any case."""
    url, backend = redis_server.socket_url(), redis_server.socket_url(1)
    client = make_client(url, backend)
    r, results = redis_server.client(), redis_server.client(1)
    task_id, next_id, gid = (str(uuid.uuid4()) for _ in range(3))
    record = {
        "status": "SUCCESS",
        "result": 3,
        "children": [[[next_id, None], None]],
        "task_id": task_id,
    }
    results.set(f"celery-task-meta-{task_id}", json.dumps(record))
    if chained:
        element = message(task_id, "examples.add", [1, 2], embed={"chain": [step(next_id)]})
    else:
        results.set(f"celery-taskset-meta-{gid}.s", 1)
        element = message(
            task_id,
            "examples.add",
            [1, 2],
            embed={"chord": step(next_id)},
            group=gid,
            group_index=0,
        )
    r.lpush("celery", json.dumps(again(element)))
    workers.start("celeryc", url, backend, settings=DEDUP)
    wait_until(lambda: r.llen("steps") == 1, "what follows is sent")
    sent = json.loads(r.lindex("steps", 0))
    assert sent["headers"]["id"] == next_id
    assert json.loads(base64.b64decode(sent["body"]))[0] == ([3] if chained else [[3]])
    nothing_left(redis_server)
    assert client.call("examples.add", 1, 1).value == 2
