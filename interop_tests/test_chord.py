# SPDX-License-Identifier: Apache-2.0
"""Chords sent by a Python client: whoever runs the members and whoever is last, the body gets the results in order."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.canvas import Spec, add, chain, chord, echo, fail, group, task
from harness.client import Client, Outcome
from harness.fleet import Fleet, nothing_left
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.workers import WorkerFactory


def chord_keys(fleet: Fleet, group_id: str) -> set[str]:
    r = fleet.redis.client(fleet.db)
    base = f"celery-taskset-meta-{group_id}"
    return {key.decode().removeprefix(base) for key in r.keys(base + "*")}


def settled(fleet: Fleet, group_id: str) -> bool:
    """Nothing is left of a chord but the mark that it is done, which workers before 5.7 do not set."""
    return chord_keys(fleet, group_id) <= {".c"} and not fleet.redis.client(fleet.db).hlen(
        "celeryc:fire"
    )


def wait_settled(fleet: Fleet, group_id: str) -> None:
    wait_until(lambda: settled(fleet, group_id), "the chord is cleaned up")


def wait_failed(client: Client, task_id: str) -> Outcome:
    """Without get(), which shows the failure of a parent instead."""
    wait_until(lambda: client.meta(task_id).state == "FAILURE", "the body has failed")
    return client.meta(task_id)


def test_results_in_order(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        gid = str(uuid.uuid4())
        sent = client.apply(chord([add(i, i) for i in range(12)], echo(), task_id=gid))
        assert client.get(sent).value == [2 * i for i in range(12)]
        wait_settled(fleet, gid)


@pytest.mark.parametrize("size", [1, 300])
def test_sizes(fleet: Fleet, client: Client, size: int) -> None:
    sent = client.apply(chord([add(i, 1) for i in range(size)], echo()))
    value = client.get(sent).value
    assert value in ([i + 1 for i in range(size)], 1)  # a chord of one is that member, before 5.7


def shapes() -> dict[str, tuple[Spec, object]]:
    both = group(add(1), add(2))
    return {
        "chord as a step": (chain(add(1, 2), both, echo()), [4, 5]),
        "chain as a member": (chord([chain(add(1, 2), add(10)), add(3, 3)], echo()), [13, 6]),
        "chain as the body": (chord([add(1, 1), add(2, 2)], chain(echo(), echo())), [2, 4]),
        "chord as a member": (
            chord([chord([add(1, 1), add(2, 2)], echo()), add(3, 3)], echo()),
            [[2, 4], 6],
        ),
        "chord after chord": (
            chain(group(add(1, 1), add(2, 2)), group(echo(), echo()), echo()),
            [[2, 4], [2, 4]],
        ),
        "odd values": (
            chord(
                [
                    echo(v)
                    for v in (2**70, 1.0, 1e22, "\u00e9\U0001f600", None, {"b": 1, "a": [{}]})
                ],
                echo(),
            ),
            [2**70, 1.0, 1e22, "\u00e9\U0001f600", None, {"b": 1, "a": [{}]}],
        ),
    }


@pytest.mark.parametrize("shape", shapes())
def test_shapes(fleet: Fleet, client: Client, shape: str) -> None:
    spec, expected = shapes()[shape]
    for _ in range(fleet.rounds):
        assert client.get(client.apply(spec)).value == expected


@pytest.mark.clients("celery-5.7")
def test_group_as_a_member(fleet: Fleet, client: Client) -> None:
    """A nested header is joined in the shape of the group result that the client saved."""
    spec = chord([chain(add(1, 1), group(add(1), add(2))), add(3, 3)], echo())
    for _ in range(fleet.rounds):
        assert client.get(client.apply(spec)).value == [[3, 4], 6]


def test_failing_member(fleet: Fleet, client: Client) -> None:
    """All members report, then the body fails with a ChordError that names the member, and its errback is called."""
    for _ in range(fleet.rounds):
        gid, body, member, errback = (str(uuid.uuid4()) for _ in range(4))
        client.apply(
            chord(
                [add(1, 1), fail("boom", task_id=member), add(2, 2)],
                echo(task_id=body, errbacks=[echo(task_id=errback)]),
                task_id=gid,
            )
        )
        assert client.get(errback).value == body
        outcome = wait_failed(client, body)
        assert outcome.exc_type == "ChordError"
        assert outcome.exc_args == [f"Dependency {member} raised ValueError('boom')"]
        record = fleet.record(body)
        assert record is not None
        assert record["result"]["exc_module"] == "celery.exceptions"
        ((_, [errback_result]),) = record["children"]
        assert errback_result == [[errback, None], None]


@pytest.mark.fleets("celeryc")
@pytest.mark.clients("celery-5.7")
@pytest.mark.parametrize(
    ("member", "text"),
    [
        (task("no.such"), "NotRegistered('no.such')"),
        (add(1, 1, expires=-1), "TaskRevokedError('expired')"),
        (task("interop.die", 9), "WorkerLostError("),
    ],
    ids=["unregistered", "expired", "lost"],
)
def test_member_that_never_ran(fleet: Fleet, client: Client, member: Spec, text: str) -> None:
    """Better than Celery, where an unregistered member leaves its chord waiting for ever."""
    body = str(uuid.uuid4())
    client.apply(chord([add(1, 1), member], echo(task_id=body)))
    outcome = wait_failed(client, body)
    assert outcome.exc_type == "ChordError"
    assert outcome.exc_args is not None
    assert text in outcome.exc_args[0]


@pytest.mark.fleets("celeryc")
@pytest.mark.clients("celery-5.7")
def test_failing_inner_header(fleet: Fleet, client: Client) -> None:
    """Better than Celery, where the outer chord waits for ever for the body of the inner one."""
    outer, inner = str(uuid.uuid4()), str(uuid.uuid4())
    client.apply(
        chord(
            [chord([add(1, 1), fail("boom")], echo(task_id=inner)), add(3, 3)], echo(task_id=outer)
        )
    )
    outcome = wait_failed(client, outer)
    assert outcome.exc_args is not None
    assert f"Dependency {inner} raised ChordError(" in outcome.exc_args[0]


# ---- the same beside Python workers: whoever counts last, what celeryc counted is enough


def on(queue: str, spec: Spec) -> Spec:
    return {**spec, "options": {**spec["options"], "queue": queue}}


def stalls() -> dict[str, tuple[Callable[[], Spec], str | list[Any]]]:
    """Members that end on celeryc in a way after which Celery's chords wait for ever; and how the chord ends now: a list,
    or a word of the ChordError. Two more members run on the queue of the worker that is last."""
    return {
        "unregistered": (lambda: on("c", task("no.such")), "no.such"),
        "ignored": (lambda: on("c", task("interop.ignore")), [None, 6, 8]),
        "ignored in a chain": (
            lambda: chain(on("c", task("interop.ignore")), on("c", echo())),
            [None, 6, 8],
        ),
        "expired before the last step": (
            lambda: chain(on("c", add(1, 1, expires=-5)), on("c", echo())),
            "TaskRevokedError('expired')",
        ),
        "inner header fails": (
            lambda: chord([on("c", add(1, 1)), on("c", fail("boom"))], on("c", echo())),
            "ChordError(",
        ),
        "step in front of an inner chord fails": (
            lambda: chain(
                on("c", fail("boom")), group(on("c", add(1)), on("c", add(2))), on("c", echo())
            ),
            "ValueError('boom')",
        ),
        "step in front of an inner chord expired": (
            lambda: chain(
                on("c", add(1, 1, expires=-5)),
                group(on("c", add(1)), on("c", add(2))),
                on("c", echo()),
            ),
            "TaskRevokedError('expired')",
        ),
        "step in front of a group fails": (
            lambda: chain(on("c", fail("boom")), group(on("c", add(1)), on("c", add(2)))),
            "ValueError('boom')",
        ),
        "inner header ends in a group": (
            lambda: chain(on("c", add(1, 1)), group(on("c", add(1)), on("c", add(2)))),
            [[3, 4], 6, 8],
        ),
    }


@pytest.mark.parametrize("last", ["python", "debian", "celeryc"])
@pytest.mark.parametrize("case", stalls())
def test_stalls_no_more(
    redis_server: RedisServer,
    workers: WorkerFactory,
    make_client: Callable[..., Client],
    case: str,
    last: str,
) -> None:
    """Better than Celery, which counts no part for these, so that the chord waits for ever; also where the last part is
    counted by a Python worker, old or new."""
    url = redis_server.socket_url()
    client = make_client(url)
    r = redis_server.client()
    make, expected = stalls()[case]
    gid, body = str(uuid.uuid4()), str(uuid.uuid4())
    members = [make(), on("last", add(3, 3)), on("last", add(4, 4))]
    client.apply(chord(members, on("bodies", echo(task_id=body)), task_id=gid))
    first = workers.start("celeryc", url, queues=["c", "bodies"])
    nothing_left(redis_server, queue="c")
    workers.start(last, url, queues=["last"])
    wait_until(lambda: client.meta(body).state in {"SUCCESS", "FAILURE"}, "the chord ends")
    outcome = client.meta(body)
    if isinstance(expected, list):
        assert outcome.value == expected
    else:
        assert outcome.exc_type == "ChordError"
        assert outcome.exc_args is not None
        assert expected in outcome.exc_args[0]
    assert first.process.alive
    assert not r.hlen("celeryc:fire")


@pytest.mark.fleets("celeryc")
@pytest.mark.clients("celery-5.7")
def test_ignored_member_of_a_nested_group(fleet: Fleet, client: Client) -> None:
    """Better than Celery, which joins a nested header from records, and there is none of what was ignored."""
    member = chain(add(1, 1), group(task("interop.ignore", immutable=True), add(2)))
    assert client.get(client.apply(chord([member, add(3, 3)], echo()))).value == [[None, 4], 6]


@pytest.mark.fleets("celeryc")
@pytest.mark.clients("celery-5.7")
def test_expired_step_in_front_of_a_chord(fleet: Fleet, client: Client) -> None:
    """Better than Celery, where nothing is said of what will not run, and whoever waits for the body waits for ever."""
    body = str(uuid.uuid4())
    client.apply(chain(add(1, 1, expires=-5), group(add(1), add(2)), echo(task_id=body), echo()))
    wait_until(lambda: client.meta(body).state == "REVOKED", "the body is revoked")
    assert client.meta(body).exc_args == ["expired"]


@pytest.mark.fleets("celeryc")
@pytest.mark.clients("celery-5.7")
def test_one_signature_twice(fleet: Fleet, client: Client) -> None:
    """Better than Celery, where two members of one id with equal results are one element of the zset."""
    twice = add(2, 2, task_id=str(uuid.uuid4()))
    assert client.get(client.apply(chord([twice, add(1, 1), twice], echo()))).value == [4, 2, 4]


@pytest.mark.fleets("celeryc")  # Celery leaves the outer chord waiting
def test_shared_errback_is_called_once(fleet: Fleet, client: Client, tmp_path: Path) -> None:
    """chord.link_error() links what it is given to the chords in the header too. The inner chord calls it, as in Celery,
    and the outer chord, which fails with its member, does not call it again."""
    inner, outer = str(uuid.uuid4()), str(uuid.uuid4())
    shared, own = tmp_path / "shared", tmp_path / "own"
    errback = task("interop.quiet", str(shared), immutable=True)
    inner_errbacks = [errback, task("interop.quiet", str(own), immutable=True)]
    client.apply(
        chord(
            [
                chord([add(1, 1), fail("boom")], echo(task_id=inner, errbacks=inner_errbacks)),
                add(2, 2),
            ],
            echo(task_id=outer, errbacks=[errback]),
        )
    )
    assert wait_failed(client, outer).exc_type == "ChordError"
    assert wait_failed(client, inner).exc_type == "ChordError"
    fleet.settle()
    assert shared.read_text() == "ran\n"
    assert own.read_text() == "ran\n"


@pytest.mark.clients("celery-5.7")  # earlier ones leave no mark
@pytest.mark.fleets("celeryc")  # Celery loses the part of a member that is quicker than the client
def test_frozen_chord_applied_again(fleet: Fleet, client: Client, tmp_path: Path) -> None:
    """The client sends all members but the last before it takes away the mark that the first run has left."""
    r = fleet.redis.client(fleet.db)
    gid, first, last = (str(uuid.uuid4()) for _ in range(3))
    key, ran = f"celery-taskset-meta-{gid}", tmp_path / "ran"
    members = [add(1, 1, task_id=first, queue="parked"), add(2, 2, task_id=last, queue="parked")]
    body = task("interop.quiet", str(ran), immutable=True)
    client.apply(chord(members, body, task_id=gid))
    messages = r.lrange("parked", 0, -1)[::-1]
    r.delete("parked")
    r.lpush("celery", *messages)
    wait_until(lambda: r.get(f"{key}.c") == b"done", "the first run")

    r.lpush("celery", messages[0])
    wait_until(lambda: r.exists(f"{key}.j"), "the part of the first member")
    r.delete(f"{key}.c")
    r.set(f"{key}.s", 2)
    r.lpush("celery", messages[1])
    wait_until(lambda: ran.read_text() == "ran\n" * 2, "the second run of the body")
    wait_settled(fleet, gid)
