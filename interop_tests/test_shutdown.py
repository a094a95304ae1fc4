# SPDX-License-Identifier: Apache-2.0
"""The end of a worker that is asked to go, of one whose Redis goes, and of one that is killed: nobody is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.client import Client
from harness.fleet import leftovers, nothing_left
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.workers import Worker, WorkerFactory

KINDS = pytest.mark.parametrize("kind", ["python", "celeryc"])
MakeClient = Callable[..., Client]


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


@KINDS
@pytest.mark.parametrize("task", ["interop.hold", "interop.hold_late"], ids=["early", "late"])
def test_term_finishes_what_runs_and_returns_the_rest(
    kind: str,
    task: str,
    redis_server: RedisServer,
    workers: WorkerFactory,
    make_client: MakeClient,
    tmp_path: Path,
) -> None:
    url = redis_server.socket_url()
    client = make_client(url)
    path = tmp_path / "lines"
    worker = workers.start(kind, url, concurrency=1)
    running = client.send(task, str(path), "t0", 1.5)
    wait_until(lambda: lines(path) == ["t0"], "the first task runs")
    rest = [client.send(task, str(path), f"t{i}", 0.0) for i in range(1, 9)]
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait() == 0
    assert client.get(running).value == 1
    assert lines(path) == ["t0"]
    assert leftovers(redis_server, 0) == {"celery": 8}
    waiting = [json.loads(raw) for raw in reversed(redis_server.client().lrange("celery", 0, -1))]
    in_queue = [message["headers"]["id"] for message in waiting]
    if kind == "celeryc":
        assert in_queue == rest
    assert set(in_queue) == set(rest)  # Celery reverses the order of those that it had reserved
    workers.start(kind, url, concurrency=1)
    assert [client.get(task_id).value for task_id in rest] == [1] * 8
    nothing_left(redis_server)


@pytest.mark.parametrize("task", ["interop.hold", "interop.hold_late"], ids=["early", "late"])
def test_term_returns_what_was_claimed_ahead(
    task: str,
    redis_server: RedisServer,
    workers: WorkerFactory,
    make_client: MakeClient,
    tmp_path: Path,
) -> None:
    """Tiny tasks are claimed ahead of their turn; then one is slow, and the worker is asked to go.

    celeryc alone: Celery gives back what it had reserved in reverse order."""
    url = redis_server.socket_url()
    client = make_client(url)
    path = tmp_path / "lines"
    ids = [client.send(task, str(path), f"t{i}", 1.5 if i == 300 else 0.0) for i in range(600)]
    worker = workers.start("celeryc", url, concurrency=1)
    wait_until(lambda: "t300" in lines(path), "the slow task runs")
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait() == 0
    assert lines(path) == [f"t{i}" for i in range(301)]
    assert leftovers(redis_server, 0) == {"celery": 299}
    waiting = [json.loads(raw) for raw in reversed(redis_server.client().lrange("celery", 0, -1))]
    assert [message["headers"]["id"] for message in waiting] == ids[301:]
    workers.start("celeryc", url, concurrency=1)
    assert [client.get(task_id).value for task_id in ids] == [1] * 600
    assert lines(path) == [f"t{i}" for i in range(600)]


# An idle Celery 5.7 now and then hangs in its handler of QUIT, so Celery is not asked (its code is 0, too).
@pytest.mark.parametrize(
    ("kind", "number", "code"),
    [
        ("python", signal.SIGTERM, 0),
        ("python", signal.SIGINT, 1),
        ("celeryc", signal.SIGTERM, 0),
        ("celeryc", signal.SIGINT, 1),
        ("celeryc", signal.SIGQUIT, 0),
    ],
)
def test_exit_code_of_an_idle_worker(
    kind: str,
    number: int,
    code: int,
    redis_server: RedisServer,
    workers: WorkerFactory,
    make_client: MakeClient,
) -> None:
    url = redis_server.socket_url()
    worker = workers.start(kind, url)
    assert make_client(url).call("examples.add", 1, 1).value == 2
    worker.process.send_signal(number)
    assert worker.process.wait() == code
    wait_until(lambda: not worker.process.descendants(), "the end of its children")
    assert leftovers(redis_server, 0) == {}


@KINDS
def test_quit_gives_late_acks_back(
    kind: str,
    redis_server: RedisServer,
    workers: WorkerFactory,
    make_client: MakeClient,
    tmp_path: Path,
) -> None:
    """A cold shutdown stops what runs: an unfinished late-ack task is delivered again."""
    url = redis_server.socket_url()
    client = make_client(url)
    path = tmp_path / "lines"
    worker = workers.start(kind, url, concurrency=1)
    task_id = client.send("interop.hold_late", str(path), "t", 60)
    wait_until(lambda: lines(path) == ["t"], "the task runs")
    worker.process.send_signal(signal.SIGQUIT)
    assert worker.process.wait() == 0
    wait_until(lambda: not worker.process.descendants(), "the end of its children")
    assert leftovers(redis_server, 0) == {"celery": 1}
    message = json.loads(redis_server.client().lindex("celery", 0))
    assert message["headers"]["redelivered"] is True
    assert message["properties"]["delivery_info"]["redelivered"] is True
    workers.start(kind, url, concurrency=1)
    assert client.get(task_id).value == 2


@KINDS
def test_second_int_is_cold(
    kind: str,
    redis_server: RedisServer,
    workers: WorkerFactory,
    make_client: MakeClient,
    tmp_path: Path,
) -> None:
    url = redis_server.socket_url()
    client = make_client(url)
    path = tmp_path / "lines"
    worker = workers.start(kind, url, concurrency=1)
    client.send("interop.hold_late", str(path), "t", 60)
    wait_until(lambda: lines(path) == ["t"], "the task runs")
    worker.process.send_signal(signal.SIGINT)
    worker.process.wait_for_log("Hitting Ctrl.C again|Warm shutdown")
    worker.process.send_signal(signal.SIGINT)
    assert worker.process.wait() in {
        0,
        1,
    }  # Celery's own code depends on when the second one arrives
    assert leftovers(redis_server, 0) == {"celery": 1}


@KINDS
def test_redis_restarts(
    kind: str, redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    url = redis_server.socket_url()
    worker = workers.start(kind, url)
    assert make_client(url).call("examples.add", 1, 1).value == 2
    redis_server.restart()
    client = make_client(url)
    for i in range(20):
        assert client.call("examples.add", i, 1, _timeout=40).value == i + 1
    assert client.call("examples.flaky", "k", 2).value == 2
    assert worker.process.alive


def test_redis_restarts_under_running_tasks(
    workers: WorkerFactory, make_client: MakeClient, tmp_path: Path
) -> None:
    """celeryc alone: Celery 5.7 ends when Redis goes away while it holds unacked messages."""
    server = RedisServer(
        tmp_path / "redis", options=["--appendonly", "yes", "--appendfsync", "always"]
    )
    try:
        url = server.socket_url()
        path = tmp_path / "lines"
        worker = workers.start("celeryc", url, concurrency=2)
        client = make_client(url)
        early = client.send("interop.hold", str(path), "early", 2.0)
        late = client.send("interop.hold_late", str(path), "late", 2.0)
        wait_until(lambda: sorted(lines(path)) == ["early", "late"], "both tasks run")
        rest = [client.send("examples.echo", i) for i in range(10)]
        server.restart()
        after = make_client(url)
        assert after.get(early).value == 1
        assert after.get(late).value == 1
        assert [after.get(task_id).value for task_id in rest] == list(range(10))
        assert sorted(lines(path)) == ["early", "late"]
        assert worker.process.alive
        nothing_left(server)
    finally:
        workers.stop_all()
        server.stop()


@KINDS
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_no_orphan_after_kill_9(
    kind: str,
    pool: str,
    redis_server: RedisServer,
    workers: WorkerFactory,
    make_client: MakeClient,
    tmp_path: Path,
) -> None:
    url = redis_server.socket_url()
    client = make_client(url)
    path = tmp_path / "lines"
    worker = workers.start(kind, url, pool=pool)
    client.send("interop.hold_late", str(path), "t", 60)
    wait_until(lambda: lines(path) == ["t"], "the task runs")
    worker.process.kill_9()
    wait_until(lambda: not worker.process.descendants(), "the end of its children")


def family(worker: Worker) -> dict[int, str]:
    """The processes of a worker in a namespace of its own, dead ones included: pid in there -> state."""
    parents = {str(pid) for pid in worker.process.descendants()}
    found = {}
    for path in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            lines = path.read_text().splitlines()
            fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
            if fields["PPid"] in parents:
                found[int(fields["NSpid"].split()[-1])] = fields["State"][0]
    return found


def test_works_as_pid_1(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    """As in a container without an init: signals are heard, and what tasks leave behind is reaped.

    celeryc alone: Celery is run under an init there."""
    url = redis_server.socket_url()
    client = make_client(url)
    worker = workers.start(
        "celeryc", url, concurrency=2, wrapper=["unshare", "-pf", "--kill-child"]
    )
    left = client.call("interop.orphan").value
    wait_until(lambda: left not in family(worker), "the orphan is reaped")
    assert "Z" not in family(worker).values()
    master = next(
        pid
        for pid, line in worker.process.descendants().items()
        if " worker " in line and "unshare" not in line
    )
    os.kill(master, signal.SIGTERM)
    assert worker.process.wait() == 0
    assert client.send("examples.add", 1, 1)
    assert leftovers(redis_server, 0) == {"celery": 1}
