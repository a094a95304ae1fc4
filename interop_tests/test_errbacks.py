# SPDX-License-Identifier: Apache-2.0
"""Errbacks of the new style, (request, exc, traceback): called at once in the worker that saw the failure, never sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness import canvas
from harness.canvas import Spec
from harness.client import Client
from harness.fleet import Fleet
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.workers import WorkerFactory


def on_error(path: Path, seconds: float = 0.0) -> Spec:
    return canvas.task("interop.on_error", str(path), seconds)


def lines(path: Path) -> list[str]:
    return sorted(path.read_text().splitlines()) if path.exists() else []


def failed(fleet: Fleet, task_id: str) -> bool:
    record = fleet.record(task_id)
    return record is not None and record["status"] == "FAILURE"


@pytest.mark.fleets(
    "python", "celeryc", "both"
)  # in 5.2 what an errback raises takes the place of the failure
def test_of_a_task_that_raises(fleet: Fleet, client: Client, tmp_path: Path) -> None:
    for n in range(fleet.rounds):
        path = tmp_path / f"{n}"
        sent = client.apply(canvas.fail("boom", errbacks=[on_error(path)]))
        wait_until(lambda p=path: lines(p), "the errback")  # type: ignore[misc]
        wait_until(lambda i=sent: failed(fleet, i), "the record")  # type: ignore[misc]
        assert lines(path) == [f'{sent} ValueError ["boom"]']


@pytest.mark.fleets(
    "python", "celeryc", "both"
)  # in 5.2 what an errback raises takes the place of the failure
def test_beside_one_that_is_sent(fleet: Fleet, client: Client, tmp_path: Path) -> None:
    for n in range(fleet.rounds):
        path, other = tmp_path / f"{n}", tmp_path / f"{n}-old"
        old = canvas.task("interop.quiet", str(other), immutable=True)
        sent = client.apply(canvas.fail("boom", errbacks=[on_error(path), old]))
        wait_until(lambda p=path, o=other: lines(p) and lines(o), "both")  # type: ignore[misc]
        assert lines(path) == [f'{sent} ValueError ["boom"]']
        assert lines(other) == ["ran"]


@pytest.mark.fleets(
    "python", "celeryc", "both"
)  # in 5.2 what an errback raises takes the place of the failure
def test_of_each_step_that_will_not_run(fleet: Fleet, client: Client, tmp_path: Path) -> None:
    """Once: for the step that failed."""
    for n in range(fleet.rounds):
        path = tmp_path / f"{n}"
        sent = client.apply(
            canvas.chain(canvas.fail("boom"), canvas.echo(), errbacks=[on_error(path)])
        )
        wait_until(lambda p=path: lines(p), "the errback")  # type: ignore[misc]
        wait_until(lambda i=sent: failed(fleet, i), "the record")  # type: ignore[misc]
        (line,) = lines(path)
        assert line.split(" ", 1)[1] == 'ValueError ["boom"]'


@pytest.mark.fleets(
    "python", "celeryc", "both"
)  # in 5.2 what an errback raises takes the place of the failure
def test_of_a_chord(fleet: Fleet, client: Client, tmp_path: Path) -> None:
    for n in range(fleet.rounds):
        path = tmp_path / f"{n}"
        body = canvas.echo(errbacks=[on_error(path)])
        sent = client.apply(canvas.chord([canvas.add(1, 1), canvas.fail("boom")], body))
        wait_until(lambda p=path: lines(p), "the errback")  # type: ignore[misc]
        (line,) = lines(path)
        task_id, exc_type, _args = line.split(" ", 2)
        assert (task_id, exc_type) == (sent, "ChordError")


@pytest.mark.fleets(
    "python", "celeryc", "both"
)  # in 5.2 what an errback raises takes the place of the failure
def test_of_a_lost_child(fleet: Fleet, client: Client, tmp_path: Path) -> None:
    for n in range(fleet.rounds):
        path = tmp_path / f"{n}"
        sent = client.apply(canvas.task("interop.die", 9, errbacks=[on_error(path)]))
        wait_until(lambda p=path: lines(p), "the errback")  # type: ignore[misc]
        (line,) = lines(path)
        task_id, exc_type, _args = line.split(" ", 2)
        assert (task_id, exc_type) == (sent, "WorkerLostError")


@pytest.mark.fleets(
    "python", "celeryc", "both"
)  # in 5.2 what an errback raises takes the place of the failure
def test_of_a_time_limit(fleet: Fleet, client: Client, tmp_path: Path) -> None:
    """At least once: Celery calls it twice."""
    for n in range(fleet.rounds):
        path = tmp_path / f"{n}"
        spec = canvas.task("interop.tracked", 30.0, errbacks=[on_error(path)], time_limit=0.3)
        sent = client.apply(spec)
        wait_until(lambda p=path: lines(p), "the errback")  # type: ignore[misc]
        assert {line.split(" ", 2)[:2] == [sent, "TimeLimitExceeded"] for line in lines(path)} == {
            True
        }


def test_a_warm_shutdown_waits_for_it(
    redis_server: RedisServer,
    workers: WorkerFactory,
    make_client: Callable[..., Client],
    tmp_path: Path,
) -> None:
    """The child that is to call it has to be made first. (A Python worker calls it in its main process.)"""
    url = redis_server.socket_url(0)
    worker = workers.start("celeryc", url, concurrency=1)
    path = tmp_path / "errback"
    make_client(url).apply(canvas.task("interop.die", 9, errbacks=[on_error(path, 1.0)]))
    worker.process.wait_for_log("Task handler raised error", 15)
    worker.process.send_signal(15)
    wait_until(lambda: not worker.process.alive, "the worker has left")
    assert len(lines(path)) == 1
