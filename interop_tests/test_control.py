# SPDX-License-Identifier: Apache-2.0
"""Remote control: every reply is compared with what a Python worker says, key by key. Commands come from Celery 5.7's own
app.control and command line; Python workers run the same tests."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from harness import canvas
from harness.client import Client
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.workers import Worker, WorkerFactory

KINDS = pytest.mark.parametrize("kind", ["python", "celeryc"])
MakeClient = Callable[..., Client]

TASK_INFO: dict[str, Any] = {
    "id": str,
    "name": str,
    "args": list,
    "kwargs": dict,
    "type": str,
    "hostname": str,
    "time_start": (float, type(None)),
    "acknowledged": bool,
    "delivery_info": dict,
    "worker_pid": (int, type(None)),
}
RUSAGE = "utime stime maxrss ixrss idrss isrss minflt majflt nswap inblock oublock msgsnd msgrcv nsignals nvcsw nivcsw"
BROKER = (
    "hostname userid virtual_host port insist ssl transport connect_timeout transport_options login_method uri_prefix "
    "heartbeat failover_strategy alternates credential_provider"
)
POOL = "implementation max-concurrency processes max-tasks-per-child put-guarded-by-semaphore timeouts writes"


class Panel:
    """One worker on a Redis of its own, and app.control to ask it."""

    def __init__(self, worker: Worker, redis: RedisServer, client: Client) -> None:
        self.worker = worker
        self.redis = redis
        self.client = client
        url = redis.socket_url()
        self.app = Celery("panel", broker=url, backend=url)

    def replies(self, method: str, _timeout: float = 5.0, **arguments: Any) -> list[Any]:
        """Waits for one reply, or `_timeout`."""
        found = self.app.control.broadcast(
            method, arguments=arguments, reply=True, timeout=_timeout, limit=1
        )
        assert isinstance(found, list)
        return found

    def ask(self, method: str, **arguments: Any) -> Any:
        replies = self.replies(method, **arguments)
        assert [list(reply) for reply in replies] == [[self.worker.node]], method
        return replies[0][self.worker.node]

    def record(self, task_id: str) -> dict[str, Any] | None:
        text = self.redis.client().get(f"celery-task-meta-{task_id}")
        if text is None:
            return None
        record = json.loads(text)
        assert isinstance(record, dict)
        return record

    def hold(self, path: Path, line: str, seconds: float = 60.0, **options: Any) -> str:
        """A task that runs until it is killed; returns when it runs."""
        task_id = self.client.send("interop.hold", str(path), line, seconds, **options)
        wait_until(lambda: path.exists() and line in path.read_text().split(), f"{line} runs")
        wait_until(lambda: task_id in ids_of(self.ask("active")), f"{line} is active")
        return task_id


def ids_of(tasks: list[dict[str, Any]]) -> set[str]:
    return {task["id"] for task in tasks}


def check_task(info: dict[str, Any], node: str) -> None:
    assert list(info) == list(TASK_INFO)
    for key, kind in TASK_INFO.items():
        assert isinstance(info[key], kind), key
    assert info["hostname"] == node
    assert list(info["delivery_info"]) == ["exchange", "routing_key", "priority", "redelivered"]


@pytest.fixture
def panel(
    kind: str, redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient
) -> Iterator[Panel]:
    url = redis_server.socket_url()
    worker = workers.start(kind, url, concurrency=1)
    made = Panel(worker, redis_server, make_client(url))
    wait_until(lambda: made.replies("ping", 0.3), "the mailbox answers")
    yield made
    made.app.close()


@KINDS
def test_ping_and_clock(panel: Panel) -> None:
    assert panel.ask("ping") == {"ok": "pong"}
    assert panel.ask("ping", unknown="ignored") == {"ok": "pong"}
    first = panel.ask("clock")
    assert list(first) == ["clock"]
    assert panel.ask("clock")["clock"] > first["clock"]


@KINDS
def test_stats(panel: Panel) -> None:
    for i in range(3):
        assert panel.client.call("examples.add", i, 1).value == i + 1
    stats = panel.ask("stats")
    assert list(stats) == [
        "total",
        "pid",
        "clock",
        "uptime",
        "pool",
        "broker",
        "prefetch_count",
        "rusage",
    ]
    assert stats["total"] == {"examples.add": 3}
    assert stats["pid"] == panel.worker.process.pid
    assert stats["clock"].isdigit()
    assert isinstance(stats["uptime"], int)
    assert list(stats["pool"]) == POOL.split()
    assert stats["pool"]["max-concurrency"] == 1
    assert stats["pool"]["max-tasks-per-child"] == "N/A"
    assert stats["pool"]["timeouts"] == [0, 0]
    assert [type(pid) for pid in stats["pool"]["processes"]] == [int]
    writes = stats["pool"]["writes"]
    assert list(writes) == ["total", "avg", "all", "raw", "strategy", "inqueues"]
    assert writes["total"] == 3
    assert list(stats["broker"]) == BROKER.split()
    assert stats["broker"]["hostname"].startswith("redis+socket://")
    assert stats["broker"]["virtual_host"] == "/"
    assert stats["broker"]["transport"] == "redis"
    assert isinstance(stats["prefetch_count"], int)
    assert list(stats["rusage"]) == RUSAGE.split()


@KINDS
def test_registered(panel: Panel) -> None:
    names = panel.ask("registered")
    assert names == sorted(names)
    assert {"examples.add", "examples.sleep", "interop.hold"} <= set(names)
    assert not [name for name in names if name.startswith("celery.")]
    items = panel.ask("registered", taskinfoitems=["acks_late", "max_retries", "name", "nothing"])
    assert "examples.add [acks_late=False max_retries=3 name=examples.add]" in items
    assert "examples.sleep [acks_late=True max_retries=3 name=examples.sleep]" in items
    assert "examples.flaky [acks_late=False name=examples.flaky]" in items
    assert set(names) <= set(panel.ask("registered", builtins=True))


@KINDS
def test_active_queues(panel: Panel) -> None:
    assert panel.ask("active_queues") == [
        {
            "name": "celery",
            "exchange": {
                "name": "celery",
                "type": "direct",
                "arguments": None,
                "durable": True,
                "passive": False,
                "auto_delete": False,
                "delivery_mode": None,
                "no_declare": False,
            },
            "routing_key": "celery",
            "queue_arguments": None,
            "binding_arguments": None,
            "consumer_arguments": None,
            "durable": True,
            "exclusive": False,
            "auto_delete": False,
            "no_ack": False,
            "alias": None,
            "bindings": [],
            "no_declare": None,
            "expires": None,
            "message_ttl": None,
            "max_length": None,
            "max_length_bytes": None,
            "max_priority": None,
        }
    ]


@KINDS
def test_conf_and_report(panel: Panel) -> None:
    conf = panel.ask("conf")
    assert isinstance(conf, dict)
    assert "ok" not in conf
    assert {"deprecated_settings", "include"} <= set(conf)
    everything = panel.ask("conf", with_defaults=True)
    assert everything["task_acks_late"] is False
    assert everything["worker_enable_remote_control"] is True
    assert everything["accept_content"] == ["json"]
    report = panel.ask("report")
    assert list(report) == ["ok"]
    assert "software -> celery:" in report["ok"]


@KINDS
def test_tasks_of_all_kinds(panel: Panel, tmp_path: Path) -> None:
    """Active, reserved, scheduled and query_task, answered while the only child is busy."""
    scheduled = panel.client.send("examples.add", 1, 2, countdown=200, shadow="nick")
    wait_until(lambda: panel.ask("scheduled"), "the eta task is held")
    running = panel.hold(tmp_path / "lines", "busy", priority=3)
    waiting = panel.client.send("examples.echo", 1, _kwargs={})
    active = panel.ask("active")
    assert ids_of(active) == {running}
    check_task(active[0], panel.worker.node)
    assert active[0]["name"] == active[0]["type"] == "interop.hold"
    assert active[0]["args"] == [str(tmp_path / "lines"), "busy", 60.0]
    assert active[0]["kwargs"] == {}
    assert active[0]["acknowledged"] is True
    assert isinstance(active[0]["time_start"], float)
    assert active[0]["worker_pid"] in panel.ask("stats")["pool"]["processes"]
    assert active[0]["delivery_info"] == {
        "exchange": "",
        "routing_key": "celery",
        "priority": 3,
        "redelivered": False,
    }
    safe = panel.ask("active", safe=True)[0]
    assert isinstance(safe["args"], str)
    assert safe["kwargs"] == "{}"
    assert ids_of(panel.ask("dump_active")) == {running}

    held = panel.ask("scheduled")
    assert [list(item) for item in held] == [["eta", "priority", "request"]]
    assert held[0]["priority"] == 6
    assert held[0]["eta"].endswith("+00:00")
    check_task(held[0]["request"], panel.worker.node)
    assert held[0]["request"]["id"] == scheduled
    assert (held[0]["request"]["name"], held[0]["request"]["type"]) == ("nick", "examples.add")
    assert held[0]["request"]["time_start"] is None

    found = panel.ask("query_task", ids=[running, scheduled, "nobody"])
    assert {task_id: state for task_id, (state, _) in found.items()} == {
        running: "active",
        scheduled: "scheduled",
    }
    check_task(found[running][1], panel.worker.node)
    assert list(panel.ask("query_task", ids=scheduled)) == [scheduled]
    assert panel.ask("query_task", ids=[]) == {}
    assert "nobody" not in ids_of(panel.ask("reserved"))
    panel.ask("revoke", task_id=[running], terminate=True, signal="KILL")
    assert panel.client.get(waiting).value == 1


@KINDS
def test_reserved(
    kind: str,
    redis_server: RedisServer,
    workers: WorkerFactory,
    make_client: MakeClient,
    tmp_path: Path,
) -> None:
    url = redis_server.socket_url()
    worker = workers.start(kind, url, concurrency=1, settings={"worker_prefetch_multiplier": 4})
    panel = Panel(worker, redis_server, make_client(url))
    wait_until(lambda: panel.replies("ping", 0.3), "the mailbox answers")
    running = panel.hold(tmp_path / "lines", "busy")
    waiting = [panel.client.send("examples.echo", i) for i in range(3)]
    wait_until(lambda: ids_of(panel.ask("reserved")) == set(waiting), "three are reserved")
    for info in panel.ask("reserved"):
        check_task(info, worker.node)
        assert info["time_start"] is None
        assert info["worker_pid"] is None
        assert info["acknowledged"] is False
    assert panel.ask("query_task", ids=waiting[0])[waiting[0]][0] == "reserved"
    assert panel.ask("revoke", task_id=waiting[1]) == {
        "ok": f"tasks {{'{waiting[1]}'}} flagged as revoked"
    }
    panel.ask("revoke", task_id=running, terminate=True)
    assert panel.client.get(waiting[0]).value == 0
    assert panel.client.get(waiting[2]).value == 2
    assert panel.client.get(waiting[1]).state == "REVOKED"
    worker.process.wait_for_log(rf"Discarding revoked task: examples\.echo\[{waiting[1]}\]")
    panel.app.close()


@KINDS
@pytest.mark.parametrize(
    ("method", "arguments", "error"),
    [
        ("nosuch", {}, "KeyError('nosuch')"),
        ("no'su\"ch", {}, "KeyError('no\\'su\"ch')"),
        (
            "query_task",
            {},
            "TypeError(\"query_task() missing 1 required positional argument: 'ids'\")",
        ),
        (
            "rate_limit",
            {},
            "TypeError(\"rate_limit() missing 2 required positional arguments: 'task_name' and "
            "'rate_limit'\")",
        ),
        (
            "enable_events",
            {"x": 1},
            "TypeError(\"enable_events() got an unexpected keyword argument 'x'\")",
        ),
        (
            "active_queues",
            {"state": 1},
            "TypeError(\"active_queues() got multiple values for argument 'state'\")",
        ),
        (
            "revoke",
            {"task_id": "a", "terminate": True, "signal": "sigkill"},
            "TypeError('signal name must be uppercase string.')",
        ),
        (
            "revoke",
            {"task_id": "a", "terminate": True, "signal": "NOSUCH"},
            "AttributeError(\"module 'signal' has no attribute 'SIGNOSUCH'\")",
        ),
        ("revoke_by_stamped_headers", {"headers": ["ab"]}, "IndexError('list index out of range')"),
        ("rate_limit", {"task_name": "no", "rate_limit": "10/s"}, "unknown task"),
        (
            "rate_limit",
            {"task_name": "examples.add", "rate_limit": "abc"},
            "Invalid rate limit string: ValueError(\"could not convert string to float: 'abc'\")",
        ),
        ("rate_limit", {"task_name": "examples.add", "rate_limit": "1/x"}, "KeyError('x')"),
        ("time_limit", {"task_name": "no"}, "unknown task"),
        ("pool_restart", {}, "ValueError('Pool restarts not enabled')"),
        ("autoscale", {"max": 3, "min": 1}, "ValueError('Autoscale not enabled')"),
    ],
)
def test_errors(panel: Panel, method: str, arguments: dict[str, Any], error: str) -> None:
    assert panel.ask(method, **arguments) == {"error": error}
    assert panel.ask("ping") == {"ok": "pong"}


@pytest.mark.parametrize("kind", ["celeryc"])
def test_what_is_not_supported_says_so(panel: Panel) -> None:
    """A Python worker can do these; celeryc says that it cannot instead of an ok that means nothing."""
    for method, arguments in (
        ("pool_grow", {"n": 1}),
        ("pool_shrink", {"n": 1}),
        ("add_consumer", {"queue": "other"}),
        ("cancel_consumer", {"queue": "celery"}),
        ("enable_events", {}),
        ("rate_limit", {"task_name": "examples.add", "rate_limit": "10/s"}),
        ("memdump", {}),
        ("objgraph", {}),
    ):
        reply = panel.ask(method, **arguments)
        assert list(reply) == ["error"], method
        assert len(reply["error"]) > 20, method


@KINDS
def test_small_commands(panel: Panel) -> None:
    assert panel.ask("disable_events") == {"ok": "task events already disabled"}
    assert panel.ask("cancel_consumer", queue="nobody's") == {
        "ok": "no longer consuming from nobody's"
    }
    assert panel.ask("rate_limit", task_name="examples.add", rate_limit=0) == {
        "ok": "rate limit disabled successfully"
    }
    assert panel.ask("heartbeat") is None


@KINDS
def test_revoke_records(panel: Panel, tmp_path: Path) -> None:
    """REVOKED is written over nothing and over what nobody works on, and kept from everything else."""
    r = panel.redis.client()
    for state in ("RECEIVED", "RETRY", "REJECTED", "STARTED", "SUCCESS", "FAILURE", "CUSTOM"):
        r.set(
            f"celery-task-meta-{state}",
            json.dumps({"status": state, "result": None, "task_id": state}),
        )
    running = panel.hold(tmp_path / "lines", "busy")
    ids = ["none", "RECEIVED", "RETRY", "REJECTED", "STARTED", "SUCCESS", "FAILURE", "CUSTOM"]
    reply = panel.ask("revoke", task_id=[*ids, running])
    assert list(reply) == ["ok"]
    assert reply["ok"].startswith("tasks {'")
    assert reply["ok"].endswith("'} flagged as revoked")
    states = {task_id: (panel.record(task_id) or {}).get("status") for task_id in [*ids, running]}
    assert states == {
        "none": "REVOKED",
        "RECEIVED": "REVOKED",
        "RETRY": "REVOKED",
        "REJECTED": "REVOKED",
        "STARTED": "STARTED",
        "SUCCESS": "SUCCESS",
        "FAILURE": "FAILURE",
        "CUSTOM": "CUSTOM",
        running: None,
    }
    record = panel.record("none")
    assert record is not None
    assert record.pop("date_done").endswith("+00:00")
    assert record == {
        "status": "REVOKED",
        "result": {
            "exc_type": "TaskRevokedError",
            "exc_message": ["revoked"],
            "exc_module": "celery.exceptions",
        },
        "traceback": None,
        "children": None,
        "task_id": "none",
    }
    assert 86000 < r.ttl("celery-task-meta-none") <= 86400
    assert set(panel.ask("revoked")) == {*ids, running}
    assert panel.ask("revoke", task_id=[]) == {"ok": "tasks set() flagged as revoked"}
    assert panel.ask("revoke", task_id="lone") == {"ok": "tasks {'lone'} flagged as revoked"}


@KINDS
def test_revoke_compressed_records(
    kind: str, redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    """What is there may be compressed (result_compression); its state decides all the same."""
    url = redis_server.socket_url()
    worker = workers.start(kind, url, concurrency=1)
    panel = Panel(worker, redis_server, make_client(url))
    wait_until(lambda: panel.replies("ping", 0.3), "the mailbox answers")
    r = redis_server.client()
    for state in ("RETRY", "SUCCESS", "STARTED"):
        error = {"exc_type": "ValueError", "exc_message": ["x" * 1000], "exc_module": "builtins"}
        text = json.dumps({"status": state, "result": error, "task_id": state})
        mark = b"\0celery-compressed\0application/x-gzip\0"
        r.set(f"celery-task-meta-{state}", mark + zlib.compress(text.encode()))
    panel.ask("revoke", task_id=["RETRY", "SUCCESS", "STARTED", "none"])
    states = {
        name: panel.client.meta(name).state for name in ("RETRY", "SUCCESS", "STARTED", "none")
    }
    panel.app.close()
    assert states == {
        "RETRY": "REVOKED",
        "SUCCESS": "SUCCESS",
        "STARTED": "STARTED",
        "none": "REVOKED",
    }


@KINDS
def test_revoke_with_results_elsewhere(
    kind: str, redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    broker, backend = redis_server.socket_url(1), redis_server.url(2)
    workers.start(kind, broker, backend, concurrency=1)
    app = Celery("panel", broker=broker, backend=backend)
    wait_until(app.control.inspect(timeout=0.5).ping, "the mailbox answers")
    ids = [f"task-{i}" for i in range(450)]
    app.control.revoke(ids, reply=True, timeout=10, limit=1)
    r = redis_server.client(2)
    assert all(b'"REVOKED"' in r.get(f"celery-task-meta-{task_id}") for task_id in ids)
    assert not redis_server.client(1).keys("celery-task-meta-*")
    app.close()


@KINDS
def test_revoked_before_it_is_received(panel: Panel, tmp_path: Path) -> None:
    panel.ask("revoke", task_id="early")
    path = tmp_path / "lines"
    assert panel.client.send("examples.append", str(path), "ran", task_id="early") == "early"
    panel.worker.process.wait_for_log(r"Discarding revoked task: examples\.append\[early\]")
    assert panel.client.call("examples.add", 1, 1).value == 2
    assert not path.exists()
    assert panel.client.meta("early").state == "REVOKED"


@KINDS
@pytest.mark.parametrize("method", ["revoke", "terminate"])
@pytest.mark.parametrize("late", [False, True])
def test_terminate(panel: Panel, tmp_path: Path, method: str, late: bool) -> None:
    path = tmp_path / "lines"
    name = "interop.hold_late" if late else "interop.hold"
    task_id = panel.client.send(name, str(path), "busy", 60.0)
    wait_until(lambda: task_id in ids_of(panel.ask("active")), "it runs")
    pid = panel.ask("active")[0]["worker_pid"]
    arguments = {"terminate": True} if method == "revoke" else {}
    assert panel.ask(method, task_id=task_id, signal="SIGKILL", **arguments) == {
        "ok": f"terminate: {task_id}"
    }
    outcome = panel.client.get(task_id)
    assert outcome.state == "REVOKED"
    assert outcome.exc_type == "TaskRevokedError"
    assert outcome.exc_args == ["terminated"]
    wait_until(lambda: pid not in panel.ask("stats")["pool"]["processes"], "the child is gone")
    assert panel.client.call("examples.add", 1, 1).value == 2
    assert path.read_text().split() == ["busy"], "it must not run again"
    assert panel.ask(method, task_id="unknown", signal="TERM", **arguments) == {
        "ok": "terminate: tasks unknown"
    }


def chord_error(panel: Panel, body: str) -> str:
    wait_until(lambda: panel.client.meta(body).state == "FAILURE", "the chord fails")
    outcome = panel.client.meta(body)
    assert outcome.exc_type == "ChordError"
    assert outcome.exc_args is not None
    return str(outcome.exc_args[0])


@KINDS
@pytest.mark.parametrize("runs", [False, True], ids=["waiting", "running"])
def test_revoked_member_of_a_chord(panel: Panel, tmp_path: Path, runs: bool) -> None:
    """Whether it waited or ran: it counts, and the chord fails."""
    body, task_id = str(uuid.uuid4()), str(uuid.uuid4())
    if not runs:
        panel.ask("revoke", task_id=[task_id])
    held = canvas.task("interop.hold", str(tmp_path / "lines"), "x", 60.0, task_id=task_id)
    panel.client.apply(canvas.chord([canvas.add(1, 1), held], canvas.echo(task_id=body)))
    if runs:
        wait_until(lambda: task_id in ids_of(panel.ask("active")), "the member runs")
        panel.ask("revoke", task_id=[task_id], terminate=True, signal="KILL")
    assert f"Dependency {task_id} raised TaskRevokedError(" in chord_error(panel, body)


@pytest.mark.parametrize("kind", ["celeryc"])
def test_revoked_step_of_a_member(panel: Panel, tmp_path: Path) -> None:
    """Better than Celery, where the steps behind it are forgotten, and the chord waits for ever."""
    body, task_id = str(uuid.uuid4()), str(uuid.uuid4())
    panel.ask("revoke", task_id=[task_id])
    member = canvas.chain(canvas.add(1, 1, task_id=task_id), canvas.echo(), canvas.echo())
    panel.client.apply(canvas.chord([member, canvas.add(1, 1)], canvas.echo(task_id=body)))
    assert "raised TaskRevokedError('revoked')" in chord_error(panel, body)


@KINDS
def test_revoke_by_stamps(panel: Panel, tmp_path: Path) -> None:
    r: dict[str, Any] = {
        "headers": {"stamped_headers": ["owner"], "stamps": {"owner": ["ann", "bob"]}}
    }
    task_id = panel.hold(tmp_path / "lines", "busy", **r)
    assert panel.ask("revoke_by_stamped_headers", headers={"owner": "eve"}, terminate=True) == {
        "ok": "headers {'owner': 'eve'} were not terminated"
    }
    assert panel.ask("revoke_by_stamped_headers", headers={"other": ["x"]}) == {
        "ok": "headers {'other': ['x']} flagged as revoked, but not terminated"
    }
    assert panel.ask(
        "revoke_by_stamped_headers", headers=["owner=ann"], terminate=True, signal="KILL"
    ) == {"ok": "headers defaultdict(<class 'set'>, {'owner': {'ann'}}) revoked"}
    assert panel.client.get(task_id).state == "REVOKED"
    later = panel.client.send("examples.add", 1, 1, **r)
    assert panel.client.get(later).state == "REVOKED"
    panel.worker.process.wait_for_log(
        rf"Discarding revoked task: examples\.add\[{later}\] \(revoked by header: {{'owner': 'ann'}}\)"
    )
    free = panel.client.send(
        "examples.add", 1, 1, headers={"stamped_headers": ["owner"], "stamps": {"owner": "joe"}}
    )
    assert panel.client.get(free).value == 2


@pytest.mark.parametrize("kind", ["celeryc"])
def test_time_limit(panel: Panel, tmp_path: Path) -> None:
    """A Python worker gives the same replies, but its consumer keeps the limits that it started with."""
    assert panel.ask("time_limit", task_name="interop.hold", hard=0.3) == {
        "ok": "time limits set successfully"
    }
    outcome = panel.client.call("interop.hold", str(tmp_path / "lines"), "busy", 60.0)
    assert outcome.exc_type == "TimeLimitExceeded"
    assert panel.ask("time_limit", task_name="interop.hold") == {
        "ok": "time limits set successfully"
    }


@KINDS
def test_shutdown(panel: Panel) -> None:
    assert panel.replies("shutdown", 0.5) == []
    assert panel.worker.process.wait() == 0
    assert "Got shutdown from remote" in panel.worker.process.log()


@pytest.mark.parametrize("kind", ["celeryc"])
def test_answers_while_it_drains(panel: Panel, tmp_path: Path) -> None:
    """A Python worker leaves the mailbox when it is told to stop; celeryc stays to be asked, and to be told to give up."""
    task_id = panel.hold(tmp_path / "lines", "busy")
    panel.worker.process.send_signal(15)
    panel.worker.process.wait_for_log("Warm shutdown")
    assert panel.ask("ping") == {"ok": "pong"}
    assert ids_of(panel.ask("active")) == {task_id}
    assert panel.ask("revoke", task_id=task_id, terminate=True) == {"ok": f"terminate: {task_id}"}
    assert panel.worker.process.wait() == 0
    assert panel.client.meta(task_id).state == "REVOKED"


@KINDS
def test_hello(panel: Panel) -> None:
    panel.ask("revoke", task_id="mine")
    reply = panel.ask("hello", from_node="other@host", revoked=["theirs", "another"])
    assert list(reply) == ["revoked", "clock"]
    assert reply["revoked"] == ["mine", "theirs", "another"]
    assert isinstance(reply["clock"], int)
    old = panel.ask("hello", from_node="old@host", revoked={"older": [12.5, "older"]})
    assert old["revoked"] == ["mine", "theirs", "another", "older"]
    assert panel.ask("hello", from_node=panel.worker.node) is None
    panel.client.send("examples.add", 1, 1, task_id="theirs")
    panel.worker.process.wait_for_log(r"Discarding revoked task: examples\.add\[theirs\]")


@pytest.mark.parametrize(
    ("first", "second"),
    [("python", "python"), ("celeryc", "python"), ("python", "celeryc"), ("celeryc", "celeryc")],
)
def test_mingle(first: str, second: str, redis_server: RedisServer, workers: WorkerFactory) -> None:
    """A worker that starts learns what was revoked before."""
    url = redis_server.socket_url()
    old = workers.start(first, url, concurrency=1)
    app = Celery("panel", broker=url, backend=url)
    wait_until(app.control.inspect([old.node], timeout=0.5).ping, "the mailbox answers")
    app.control.revoke(["gone", "lost"], reply=True, destination=[old.node], timeout=5, limit=1)
    new = workers.start(second, url, concurrency=1, mingle=True)
    new.process.wait_for_log("mingle: sync with 1 nodes")
    new.process.wait_for_log("mingle: sync complete")
    old.process.wait_for_log(f"sync with {new.node}")
    revoked = wait_until(app.control.inspect([new.node], timeout=0.5).revoked, "it answers")
    assert revoked is not None
    assert {node: set(ids) for node, ids in revoked.items()} == {new.node: {"gone", "lost"}}
    members = redis_server.client().smembers("_kombu.binding.reply.celery.pidbox")
    app.close()
    assert len(members) <= 1, "only the test's own"


@pytest.mark.parametrize("kind", ["celeryc"])
def test_alone_and_without_mingle(panel: Panel, workers: WorkerFactory) -> None:
    panel.worker.process.wait_for_log("mingle: all alone")
    other = workers.start("celeryc", panel.redis.socket_url(), options=["--without-mingle"])
    assert "mingle: " not in other.process.log()


@KINDS
def test_who_is_meant(panel: Panel) -> None:
    def answered(**options: Any) -> bool:
        """With a connection of its own: kombu leaves its BRPOP behind on one whose wait was in vain."""
        with panel.app.connection() as connection:
            found = panel.app.control.broadcast(
                "ping", reply=True, timeout=0.5, limit=1, connection=connection, **options
            )
        return found == [{panel.worker.node: {"ok": "pong"}}]

    node = panel.worker.node
    name = node.split("@")[0]
    assert answered(destination=[node])
    assert answered(destination=["other@host", node])
    assert not answered(destination=["other@host"])
    assert answered(destination=[])
    assert answered(pattern=f"{name[:3]}*@?nter[!x]p", matcher="glob")
    assert not answered(pattern=f"{name}", matcher="glob")
    assert answered(pattern=rf"{name[0]}[a-z]+\d@(x|inter)", matcher="pcre")
    assert not answered(pattern="nterop", matcher="pcre")
    assert answered(pattern="nobody")
    assert not answered(pattern="x", matcher="nosuch")
    assert answered()


@KINDS
def test_command_line(panel: Panel) -> None:
    def celery(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "celery", "-b", panel.redis.socket_url(), *words],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done.returncode, done.stdout

    code, text = celery("status")
    assert code == 0
    assert f"->  {panel.worker.node}: OK" in text
    assert "1 node online." in text
    code, text = celery("inspect", "-j", "ping")
    assert json.loads(text) == {panel.worker.node: {"ok": "pong"}}
    code, text = celery("control", "revoke", "a-task")
    assert "tasks {'a-task'} flagged as revoked" in text


@KINDS
def test_no_key_stays_behind(panel: Panel) -> None:
    """A reply to a client that has gone is dropped, and a worker that leaves takes its binding with it."""
    r = panel.redis.client()
    queue = f"{panel.worker.node}.celery.pidbox".encode()
    wait_until(
        lambda: any(m.endswith(queue) for m in r.smembers("_kombu.binding.celery.pidbox")),
        "the mailbox is bound",
    )
    message = {
        "method": "ping",
        "arguments": {},
        "ticket": "t",
        "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "gone"},
    }
    publish(panel, message)
    assert panel.ask("ping") == {"ok": "pong"}
    assert not [key for key in r.keys("*") if b"reply" in key and b"_kombu" not in key]
    panel.worker.process.send_signal(15)
    panel.worker.process.wait()
    assert not r.smembers("_kombu.binding.celery.pidbox")


def publish(panel: Panel, command: Any, **envelope: Any) -> None:
    """A broadcast by hand, so that it can be wrong."""
    text = command if isinstance(command, bytes) else json.dumps(command).encode()
    message = {
        "body": base64.b64encode(text).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"clock": 1, "expires": 0},
        "properties": {
            "delivery_mode": 2,
            "delivery_info": {"exchange": "celery.pidbox", "routing_key": ""},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": "tag",
        },
    }
    message.update(envelope)
    panel.redis.client().publish("/0.celery.pidbox", json.dumps(message))


@pytest.mark.parametrize("kind", ["celeryc"])
def test_hostile_messages(panel: Panel) -> None:
    """A Python worker ends on some of these (a broadcast without properties, say); celeryc logs a line and goes on."""
    r = panel.redis.client()
    r.sadd("_kombu.binding.celery", "celery\x06\x16\x06\x16celery")
    reply_to = {"exchange": "celery", "routing_key": "celery"}
    for raw in (b"", b"{", b"[]", b"null", b"\xff\x00", b'{"body": 5}', b"[" * 100_000):
        r.publish("/0.celery.pidbox", raw)
    publish(panel, {"method": "ping"}, properties=None)
    publish(panel, {"method": "ping"}, body="*")
    publish(panel, {"method": "ping"}, **{"content-type": "application/x-python-serialize"})
    publish(panel, b"not json")
    commands: list[Any] = [
        [],
        {},
        {"method": None},
        {"method": ["x"]},
        {"method": "ping", "arguments": [1]},
        {"method": "ping", "arguments": "x", "reply_to": 5},
        {"method": "ping", "reply_to": {"exchange": 1}},
        {"method": "ping", "ticket": {"a": ["b"]}, "reply_to": reply_to},
        {"method": "revoke", "arguments": {"task_id": {"a": 1}}},
        {"method": "revoke", "arguments": {"task_id": [None, 5, "x" * 5000]}},
        {"method": "hello", "arguments": {"from_node": 7, "revoked": [7, None, ["x"]]}},
        {"method": "query_task", "arguments": {"ids": 7}},
        {"method": "registered", "arguments": {"taskinfoitems": {"a": 1}}},
        {"method": "ping", "pattern": "(((((", "matcher": "pcre"},
        {"method": "ping", "pattern": "(" * 900, "matcher": "pcre"},
        {"method": "ping", "pattern": "(a?){999}(a?){999}", "matcher": "pcre"},
        {"method": "ping", "destination": {"a": 1}},
        {"method": "x" * 100_000},
    ]
    for command in commands:
        publish(panel, command)
    assert panel.ask("ping") == {"ok": "pong"}
    assert panel.ask("revoked") == []
    assert r.llen("celery") == 0, "no reply may land in a task queue"
    assert panel.worker.process.log().count("Control command error") >= 15
    assert panel.client.call("examples.add", 1, 1).value == 2
