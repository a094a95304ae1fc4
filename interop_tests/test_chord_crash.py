# SPDX-License-Identifier: Apache-2.0
"""Chords whose members are delivered twice, whose workers die, and which Python and C workers finish together."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.canvas import Spec, add, chain, chord, echo, fail, group, task
from harness.client import Client
from harness.fleet import nothing_left
from harness.redis_gate import RedisGate
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.workers import WorkerFactory

MakeClient = Callable[..., Client]
KINDS = ["python", "celeryc"]
# A claim lives six seconds, the notes are looked at every five.
FIRED_AGAIN_WITHIN_S = 30.0


def base(gid: str) -> str:
    return f"celery-taskset-meta-{gid}"


def redelivered(raw: bytes) -> bytes:
    """As kombu puts a message back that was claimed for too long."""
    message = json.loads(raw)
    message["headers"]["redelivered"] = True
    message["properties"]["delivery_info"]["redelivered"] = True
    return json.dumps(message).encode()


def counted(r: Any, gid: str) -> int:
    """Members counted so far, in either variant."""
    key = base(gid) + ".j"
    return int({b"zset": r.zcard, b"list": r.llen, b"none": lambda _: 0}[r.type(key)](key))


def wait_counted(r: Any, gid: str, n: int) -> None:
    wait_until(lambda: counted(r, gid) == n, f"{n} members are counted")


def records(r: Any, task_ids: list[str]) -> int:
    return sum(1 for v in r.mget([f"celery-task-meta-{i}" for i in task_ids]) if v)


@pytest.mark.parametrize("ordered", [True, False], ids=["zset", "list"])
@pytest.mark.parametrize("last", KINDS)
def test_who_is_last(
    redis_server: RedisServer,
    workers: WorkerFactory,
    make_client: MakeClient,
    last: str,
    ordered: bool,
) -> None:
    """Python counts first and celeryc fires, and the other way round; a duplicate after the end changes nothing."""
    url = redis_server.socket_url()
    options = {"result_backend_transport_options": {"result_chord_ordered": ordered}}
    client = make_client(url, **options)
    first = KINDS[1 - KINDS.index(last)]
    r = redis_server.client()
    gid = str(uuid.uuid4())
    members = [add(i, 0, queue="first") for i in range(5)] + [add(5, 0, queue="last")]
    sent = client.apply(chord(members, echo(queue="last"), task_id=gid))
    copy = r.lindex("last", 0)
    workers.start(first, url, queues=["first"], settings=options)
    wait_counted(r, gid, 5)
    late = workers.start(last, url, queues=["last"], settings=options)
    assert sorted(client.get(sent).value) == list(range(6))
    wait_until(lambda: r.get(base(gid) + ".c") == b"done", "the chord is done")

    r.delete(f"celery-task-meta-{sent}")
    r.lpush("last", redelivered(copy))
    behind = client.send("examples.add", 1, 1, queue="last")
    assert client.get(behind).value == 2
    nothing_left(redis_server)
    assert list(r.keys(base(gid) + "*")) == [f"{base(gid)}.c".encode()]
    assert r.get(f"celery-task-meta-{sent}") is None
    assert late.process.alive


@pytest.mark.parametrize("kind", KINDS)
def test_first_result_wins(
    redis_server: RedisServer,
    workers: WorkerFactory,
    make_client: MakeClient,
    tmp_path: Path,
    kind: str,
) -> None:
    """A member that is delivered twice and returns something else the second time."""
    url = redis_server.socket_url()
    client = make_client(url)
    r = redis_server.client()
    gid, member = str(uuid.uuid4()), str(uuid.uuid4())
    sent = client.apply(
        chord(
            [
                task("interop.hold_late", str(tmp_path / "lines"), "x", 0.0, task_id=member),
                add(1, 1, queue="later"),
            ],
            echo(),
            task_id=gid,
        )
    )
    r.lpush("celery", r.lindex("celery", 0))
    workers.start(kind, url, concurrency=1)
    wait_until((tmp_path / "lines").exists, "it runs")
    wait_until(lambda: len((tmp_path / "lines").read_text().split()) == 2, "it runs twice")
    nothing_left(redis_server)
    assert counted(r, gid) == 1
    workers.start("celeryc", url, queues=["later"])
    assert client.get(sent).value == [1, 2]


def test_duplicate_after_a_failure(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    """A failed chord's errbacks are called once, whatever comes late."""
    url = redis_server.socket_url()
    client = make_client(url)
    r = redis_server.client()
    gid, errback = str(uuid.uuid4()), str(uuid.uuid4())
    body = echo(errbacks=[echo(task_id=errback, queue="errors")])
    client.apply(chord([add(1, 1), fail("boom")], body, task_id=gid))
    copies = r.lrange("celery", 0, -1)
    workers.start("celeryc", url)
    wait_until(lambda: r.llen("errors") == 1, "the errback is sent")
    r.lpush("celery", *copies)
    client.call("examples.add", 1, 1)
    nothing_left(redis_server)
    assert r.llen("errors") == 1
    assert not r.exists(base(gid) + ".s")


@pytest.fixture
def gate(redis_server: RedisServer, tmp_path: Path) -> Iterator[RedisGate]:
    """Shuts when the worker that completed a chord wants to read its results: claimed, and not fired yet."""
    g = RedisGate(tmp_path, redis_server.socket_path, "return {saved, parts}")
    yield g
    g.close()


@pytest.mark.parametrize("claim", ["stands", "has run out"])
@pytest.mark.parametrize("kind", KINDS)
def test_duplicate_between_claim_and_errback(
    redis_server: RedisServer,
    workers: WorkerFactory,
    make_client: MakeClient,
    gate: RedisGate,
    kind: str,
    claim: str,
) -> None:
    """One member is delivered once more, to another worker, while the one that has completed the chord is about to call
    the errback. One of the two calls it: while the claim stands the first one, else who takes it over."""
    url = redis_server.socket_url()
    r = redis_server.client()
    gid, body, errback = (str(uuid.uuid4()) for _ in range(3))
    members = [fail("boom", queue="first"), fail("bang", queue="first")]
    errbacks = [echo(task_id=errback, queue="errors")]
    make_client(url).apply(chord(members, echo(task_id=body, errbacks=errbacks), task_id=gid))
    copy = r.lindex("first", 0)
    workers.start("celeryc", gate.url(), queues=["first"])
    second = workers.start(kind, url, queues=["again"])
    wait_until(gate.shut.is_set, "the chord is claimed")
    if claim == "stands":
        r.expire(base(gid) + ".c", 60)
    else:
        r.delete(base(gid) + ".c")
    r.lpush("again", copy)
    second.process.wait_for_log("raised", 15)
    nothing_left(redis_server, queue="again")
    if claim == "has run out":
        wait_until(lambda: r.llen("errors") == 1, "the second worker has called it")
    else:
        assert r.llen("errors") == 0
    gate.open()
    wait_until(lambda: not r.hlen("celeryc:fire"), "the note is gone")
    assert not r.exists(base(gid) + ".s")
    nothing_left(redis_server, queue="first")
    assert r.llen("errors") == 1


@pytest.mark.parametrize("backend_db", [0, 1], ids=["one database", "backend of its own"])
@pytest.mark.parametrize("failing", [False, True], ids=["success", "failure"])
def test_death_between_claim_and_body(
    redis_server: RedisServer,
    workers: WorkerFactory,
    make_client: MakeClient,
    gate: RedisGate,
    backend_db: int,
    failing: bool,
) -> None:
    """Better than Celery, which loses a chord whose last worker dies before it has sent the body."""
    url, backend = redis_server.socket_url(), redis_server.socket_url(backend_db)
    client = make_client(url, backend)
    r = redis_server.client(backend_db)
    gid, body = str(uuid.uuid4()), str(uuid.uuid4())
    victim = workers.start("celeryc", gate.url(), gate.url(backend_db), queues=["first"])
    last = fail("boom", queue="first") if failing else add(2, 2, queue="first")
    sent = client.apply(chord([add(1, 1, queue="first"), last], echo(task_id=body), task_id=gid))
    wait_until(gate.shut.is_set, "the chord is claimed")
    assert r.hlen("celeryc:fire") == 1
    note = json.loads(r.hvals("celeryc:fire")[0])
    assert (note["v"], note["group"], note["body"]["options"]["task_id"]) == (1, gid, body)
    victim.process.kill_9()
    # A broker's name is part of the note, so the heir must know it under the same one.
    r.hset(
        "celeryc:fire",
        base(gid),
        json.dumps(note).replace(str(gate.path), str(redis_server.socket_path)),
    )
    workers.start("celeryc", url, backend)
    if failing:
        wait_until(
            lambda: client.meta(body).state == "FAILURE", "the chord fails", FIRED_AGAIN_WITHIN_S
        )
        assert client.meta(body).exc_type == "ChordError"
    else:
        assert client.get(sent, FIRED_AGAIN_WITHIN_S).value == [2, 4]
        assert r.get(base(gid) + ".c") == b"done"
    wait_until(lambda: not r.hlen("celeryc:fire"), "the note is gone")


def test_note_of_a_chord_that_python_fired(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient, gate: RedisGate
) -> None:
    """The claimer dies, a member is delivered once more to a Python worker, which fires: the note is only removed."""
    url = redis_server.socket_url()
    client = make_client(url)
    r = redis_server.client()
    gid = str(uuid.uuid4())
    members = [add(1, 1, queue="first"), add(2, 2, queue="first")]
    sent = client.apply(chord(members, echo(queue="bodies"), task_id=gid))
    copy = r.lindex("first", 0)
    victim = workers.start("celeryc", gate.url(), queues=["first"])
    wait_until(gate.shut.is_set, "the chord is claimed")
    victim.process.kill_9()
    wait_until(lambda: not r.exists(base(gid) + ".c"), "the claim runs out", 15.0)
    r.lpush("again", copy)
    workers.start("python", url, queues=["again"])
    wait_until(lambda: r.get(base(gid) + ".c") == b"done", "the Python worker has fired it")
    workers.start("celeryc", url)
    wait_until(lambda: not r.hlen("celeryc:fire"), "the note is gone")
    assert r.llen("bodies") == 1
    workers.start("celeryc", url, queues=["bodies"])
    assert client.get(sent).value == [2, 4]


def test_backend_of_its_own(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    url, backend = redis_server.socket_url(), redis_server.socket_url(1)
    client = make_client(url, backend)
    for kind in ("celeryc", "python"):
        workers.start(kind, url, backend)
    specs: list[tuple[Spec, Any]] = [
        (chord([add(i, i) for i in range(20)], echo()), [2 * i for i in range(20)]),
        (chain(add(1, 2), group(add(1), add(2)), echo()), [4, 5]),
        (chord([chord([add(1, 1), add(2, 2)], echo()), add(3, 3)], echo()), [[2, 4], 6]),
    ]
    for spec, expected in specs * 4:
        assert client.get(client.apply(spec)).value == expected
    nothing_left(redis_server)
    wait_until(lambda: not redis_server.client(1).hlen("celeryc:fire"), "no notes are left")
    wait_until(lambda: not redis_server.client().keys("celeryc:fired:*"), "no marks are left")


def test_compressed_results(
    redis_server: RedisServer, workers: WorkerFactory, make_client: MakeClient
) -> None:
    """Python workers with result_compression store parts and records that are not JSON as they lie."""
    url = redis_server.socket_url()
    client = make_client(url)
    r = redis_server.client()
    gid = str(uuid.uuid4())
    members = [
        chain(add(1, 1, queue="py"), group(add(1, queue="py"), add(2, queue="py"))),
        echo("x" * 1000, queue="py"),
        add(3, 3, queue="c"),
    ]
    sent = client.apply(chord(members, echo(queue="c"), task_id=gid))
    workers.start("python", url, queues=["py"], settings={"result_compression": "gzip"})
    wait_counted(r, gid, 3)
    workers.start("celeryc", url, queues=["c"])
    assert client.get(sent).value == [[3, 4], "x" * 1000, 6]
