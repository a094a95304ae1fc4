# SPDX-License-Identifier: Apache-2.0
"""Errbacks of the new style, (request, exc, traceback): called at once in the worker that saw the failure, never sent."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import canvas
from harness.canvas import Spec
from harness.client import Client
from harness.fleet import Fleet, nothing_left
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.workers import WorkerFactory


def on_error(path: Path, seconds: float = 0.0) -> Spec:
    return canvas.task("interop.on_error", str(path), seconds)


def lines(path: Path) -> list[str]:
    return sorted(path.read_text().splitlines()) if path.exists() else []


def ids(path: Path) -> list[str]:
    return [line.split(" ")[0] for line in lines(path)]


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


# ---- chords in the header of a chord ----
# Celery leaves the chord around waiting, so what is called for the inner ones is all that is ever called.


def failing(body: Spec) -> Spec:
    return canvas.chord([canvas.echo(1, immutable=True), canvas.fail("boom", immutable=True)], body)


@pytest.mark.clients("celery-5.7")
@pytest.mark.fleets("python", "celeryc", "both")
def test_of_chords_in_a_header(fleet: Fleet, client: Client, tmp_path: Path) -> None:
    """chord.link_error() links to the chords in the header, and to those in theirs, as well as to the body. Each of the
    chords whose own members have failed calls it; where a Python worker ends a chord around, that one may do so too."""
    for n in range(fleet.rounds):
        path, other = tmp_path / f"{n}", tmp_path / f"{n}-new"
        first, second, inmost, between, outer = (str(uuid.uuid4()) for _ in range(5))
        members = [
            failing(canvas.echo(task_id=first)),
            canvas.add(1, 1),
            failing(canvas.echo(task_id=second)),
            canvas.chord(
                [failing(canvas.echo(task_id=inmost)), canvas.add(2, 2)],
                canvas.echo(task_id=between),
            ),
        ]
        errbacks = [canvas.task("interop.note_failure", str(path)), on_error(other)]
        client.apply(canvas.chord(members, canvas.echo(task_id=outer), errbacks=errbacks))
        want = {first, second, inmost}
        wait_until(
            lambda p=path, o=other, w=want: w <= {*ids(p)} & {*ids(o)},  # type: ignore[misc]
            "the errbacks",
        )
        if fleet.kind == "celeryc":
            wait_until(lambda i=outer: failed(fleet, i), "the chord around")  # type: ignore[misc]
        fleet.settle()
        if fleet.kind == "both":
            assert {*ids(path), *ids(other)} <= want | {between, outer}
        else:
            assert ids(path) == ids(other) == sorted(want)


def test_of_a_chord_whose_outer_one_is_forgotten(
    redis_server: RedisServer,
    workers: WorkerFactory,
    make_client: Callable[..., Client],
    tmp_path: Path,
) -> None:
    """A Python worker ends the chord between and says nothing to the one around: celeryc must not have waited for that."""
    url = redis_server.socket_url(0)
    path = tmp_path / "errback"
    inner, between, outer = (str(uuid.uuid4()) for _ in range(3))
    innermost = canvas.chord([canvas.fail("boom", queue="c")], canvas.echo(task_id=inner))
    middle = canvas.chord(
        [innermost, canvas.add(1, 1, queue="python")], canvas.echo(task_id=between)
    )
    client = make_client(url)
    client.apply(
        canvas.chord(
            [middle, canvas.add(2, 2, queue="c")],
            canvas.echo(task_id=outer),
            errbacks=[canvas.task("interop.note_failure", str(path), queue="c")],
        )
    )
    workers.start("celeryc", url, queues=["c"])
    wait_until(lambda: ids(path) == [inner], "the errback of the inner one")
    workers.start("python", url, queues=["python"])
    wait_until(lambda: ids(path) == sorted([inner, between]), "and of the one between")
    nothing_left(redis_server, queue="c")
    assert client.meta(outer).state == "PENDING"


@pytest.mark.clients("celery-5.7")
@pytest.mark.fleets("python", "celeryc", "both")
def test_of_a_chord_with_steps_behind_it(fleet: Fleet, client: Client, tmp_path: Path) -> None:
    """Here Celery fails the chord around too, by the last step: both call the errback."""
    for n in range(fleet.rounds):
        path = tmp_path / f"{n}"
        inner, outer = str(uuid.uuid4()), str(uuid.uuid4())
        errback = canvas.task("interop.note_failure", str(path))
        member = canvas.chain(
            canvas.add(1, 1),
            failing(canvas.echo(task_id=inner, errbacks=[errback])),
            canvas.echo(),
        )
        client.apply(
            canvas.chord([member, canvas.add(2, 2)], canvas.echo(task_id=outer, errbacks=[errback]))
        )
        wait_until(lambda p=path: len(ids(p)) == 2, "both")  # type: ignore[misc]
        fleet.settle()
        assert ids(path) == sorted([inner, outer])


def test_a_warm_shutdown_waits_for_them(
    redis_server: RedisServer,
    workers: WorkerFactory,
    make_client: Callable[..., Client],
    tmp_path: Path,
) -> None:
    """The second one waits for the only child, which calls the first. (A Python worker calls them in its main process.)"""
    url = redis_server.socket_url(0)
    worker = workers.start("celeryc", url, concurrency=1)
    paths = [tmp_path / "first", tmp_path / "second"]
    errbacks = [on_error(path, 0.5) for path in paths]
    make_client(url).apply(canvas.task("interop.die", 9, errbacks=errbacks))
    worker.process.wait_for_log("Task handler raised error", 15)
    worker.process.send_signal(15)
    wait_until(lambda: not worker.process.alive, "the worker has left")
    assert [len(lines(path)) for path in paths] == [1, 1]


def test_a_warm_shutdown_calls_those_of_a_chord(
    redis_server: RedisServer,
    workers: WorkerFactory,
    make_client: Callable[..., Client],
    tmp_path: Path,
) -> None:
    """What the last task completes is a chord that fails. (In Celery the child that ran the task calls it.)"""
    url = redis_server.socket_url(0)
    worker = workers.start("celeryc", url, concurrency=1)
    path, running = tmp_path / "errback", tmp_path / "running"
    members = [canvas.fail("boom"), canvas.task("interop.hold", str(running), "start", 1.0)]
    body = canvas.echo(errbacks=[on_error(path)])
    make_client(url).apply(canvas.chord(members, body))
    wait_until(running.exists, "the last member runs")
    worker.process.send_signal(15)
    wait_until(lambda: not worker.process.alive, "the worker has left")
    assert len(lines(path)) == 1
