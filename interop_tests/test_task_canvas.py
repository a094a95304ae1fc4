# SPDX-License-Identifier: Apache-2.0
"""What a task does with canvases: applies one, puts one in its place, adds to its chord; how it is retried with other
arguments, or by itself; what it sees of its request."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery, chain, chord, group
from harness import canvas
from harness.canvas import plain
from harness.client import Client
from harness.fleet import Fleet

app = Celery("signatures", set_as_current=False)


def sig(name: str, *args: Any) -> Any:
    return app.signature(name, args=args)


def add(*args: int) -> Any:
    return sig("examples.add", *args)


def test_apply_a_task(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        sent = client.send("interop.apply", plain(add(2, 3)))
        child = client.get(sent).value[0][0]
        assert fleet.result_of(child) == 5
        record = fleet.record(sent)
        assert record is not None
        assert record["children"] == [[[child, None], None]]
        child_record = fleet.record(child)
        assert child_record is not None
        assert child_record["parent_id"] == sent


def test_apply_a_chain(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        value = client.call("interop.apply", plain(chain(add(1, 2), add(10), app=app))).value
        (last, parent), _nothing = value
        assert fleet.result_of(last) == 13
        assert fleet.result_of(parent[0][0]) == 3


def test_apply_a_chord(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        header = [add(i, i) for i in range(5)]
        sent = plain(chord(header, sig("examples.echo"), app=app))
        value = client.call("interop.apply", sent).value
        assert fleet.result_of(value[0][0]) == [0, 2, 4, 6, 8]


def test_replaced_by_a_task(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        assert client.call("interop.replace", plain(add(2, 3))).value == 5


def test_replaced_by_a_chain_within_a_chain(fleet: Fleet, client: Client) -> None:
    inner = plain(chain(add(1, 1), add(10), app=app))
    for _ in range(fleet.rounds):
        sent = client.apply(canvas.chain(canvas.task("interop.replace", inner), canvas.add(100)))
        assert client.get(sent).value == 112


def test_replaced_by_nothing(fleet: Fleet, client: Client) -> None:
    empty = plain(chain(app=app)) | {"task": "celery.chain", "subtask_type": "chain"}
    empty.setdefault("kwargs", {"tasks": []})
    for _ in range(fleet.rounds):
        outcome = client.call("interop.replace", empty)
        assert (outcome.state, outcome.exc_type) == ("FAILURE", "ImproperlyConfigured")


@pytest.mark.fleets("celeryc")
@pytest.mark.parametrize("body", ["chain", "group"])
def test_replaced_by_a_chord(fleet: Fleet, client: Client, body: str) -> None:
    """Better than Celery, where a task that is replaced by a chord never ends when the body of the chord is a group, nor
    does the chord around it when the body is a chain: the last step counts for the chord that it is the body of."""
    ends = {
        "chain": (chain(sig("examples.echo"), sig("examples.echo"), app=app), [2, 4]),
        "group": (group(sig("examples.echo"), sig("examples.echo"), app=app), [[2, 4], [2, 4]]),
    }
    step, value = ends[body]
    inner = canvas.task("interop.replace", plain(chord([add(1, 1), add(2, 2)], step, app=app)))
    assert client.get(client.apply(inner)).value == value
    chained = canvas.chain(inner, canvas.echo())
    assert client.get(client.apply(chained)).value == value
    sent = client.apply(canvas.chord([inner, canvas.add(3, 3)], canvas.echo()))
    assert client.get(sent).value == [value, 6]


def test_added_to_the_chord(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        sent = client.apply(
            canvas.chord(
                [canvas.task("interop.add_to_chord", plain(add(20, 30))), canvas.add(3, 3)],
                canvas.echo(),
            )
        )
        assert sorted(client.get(sent).value) == [0, 6, 50]


def test_added_to_no_chord(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        outcome = client.call("interop.add_to_chord", plain(add(1, 1)))
        assert (outcome.exc_type, outcome.exc_args) == (
            "ValueError",
            ["Current task is not member of any chord"],
        )


@pytest.mark.fleets("python", "celeryc", "both")  # 5.2 does not show custom headers
def test_request(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        sent = client.send("interop.field", "headers", headers={"shop": "north"})
        assert client.get(sent).value["shop"] == "north"
        info = client.call("interop.field", "delivery_info").value
        assert not info.pop("redelivered")
        assert info == {"exchange": "", "routing_key": "celery", "priority": 0}
        properties = client.call("interop.field", "properties").value
        assert properties["delivery_info"]["routing_key"] == "celery"
        assert client.call("interop.field", "timelimit").value == [None, None]
        assert client.call("interop.field", "is_eager").value is False


def test_options_of_the_task_when_a_worker_sends_it(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        for field, check in (
            ("expires", lambda v: isinstance(v, str)),
            ("delivery_info", lambda v: v["priority"] == 3),
        ):
            value = client.call("interop.apply", plain(sig("interop.field", field))).value
            assert check(fleet.result_of(value[0][0])), field


@pytest.mark.fleets("python", "celeryc", "both")  # 5.2 does not show custom headers
def test_retried_with_other_arguments(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        outcome = client.call("interop.retry_as", 1, "first")
        assert outcome.value["shop"] == "north"


def test_retried_by_itself(fleet: Fleet, client: Client) -> None:
    for _ in range(fleet.rounds):
        assert client.call("interop.flaky_file", 2).value == 2
        outcome = client.call("interop.flaky_file", 3)
        assert (outcome.state, outcome.exc_type) == ("FAILURE", "FileNotFoundError")


@pytest.mark.parametrize("n", [2, 50])
def test_examples(fleet: Fleet, client: Client, n: int) -> None:
    for _ in range(fleet.rounds):
        assert client.call("examples.fan_out", n).value == n * (n - 1)
        value = client.call("examples.start", n).value
        assert fleet.result_of(value[0][0]) == n * (n - 1)
