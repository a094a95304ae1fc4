# SPDX-License-Identifier: Apache-2.0
"""What becomes of a message whose task is not known; with real workers in interop_tests/test_forward.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from django_scatter import forwarding
from django_scatter.forwarding import BOUNCES, MAX_BOUNCES, Forwarder, pause_s

RAW = {"body": "W10=", "headers": {"task": "c.only"}, "properties": {"priority": 9}}


class FakeRedis:
    def __init__(self) -> None:
        self.stored: bytes | None = json.dumps([RAW, "", "celery"]).encode()
        self.evals: list[tuple[Any, ...]] = []

    def execute_command(self, name: str, *args: Any) -> Any:
        if name == "HGET":
            return self.stored
        assert name == "EVAL"
        self.evals.append(args[2:])
        return 1


class FakeChannel:
    unacked_key = "unacked"
    unacked_index_key = "unacked_index"
    global_keyprefix = "p:"

    def __init__(self) -> None:
        self.redis = FakeRedis()

    @contextmanager
    def conn_or_acquire(self) -> Iterator[FakeRedis]:
        yield self.redis

    def _get_message_priority(self, raw: dict[str, Any], *, reverse: bool) -> int:
        return int(raw["properties"]["priority"])

    def _q_for_pri(self, queue: str, priority: int) -> str:
        return f"{queue}:{priority}"

    def _lookup(self, exchange: str, key: str) -> list[str]:
        return [f"{exchange}-{key}"] if key else []


class FakeConsumer:
    hostname = "w1@host"
    app = None

    def __init__(self) -> None:
        self.dropped: list[Any] = []
        self.waiting: list[tuple[float, Callable[[], None]]] = []
        self.prefetch = 0
        self.qos = SimpleNamespace(
            increment_eventually=lambda: self.change(1),
            decrement_eventually=lambda: self.change(-1),
        )
        self.timer = SimpleNamespace(call_after=lambda s, fn: self.waiting.append((s, fn)))

    def change(self, n: int) -> None:
        self.prefetch += n

    def on_unknown_task(self, body: Any, message: Any, exc: BaseException) -> None:
        self.dropped.append(message)


class FakeMessage(SimpleNamespace):
    def ack(self) -> None:
        self.acked = True


def unknown(bounces: int | None = None, **delivery_info: str) -> FakeMessage:
    return FakeMessage(
        headers={"task": "c.only"},
        properties={} if bounces is None else {BOUNCES: bounces},
        delivery_info={"exchange": "", "routing_key": "celery"} | delivery_info,
        channel=FakeChannel(),
        delivery_tag="tag",
        acked=False,
    )


@pytest.fixture
def consumer() -> FakeConsumer:
    return FakeConsumer()


def forwarder(consumer: FakeConsumer, *answers: bool | None) -> Forwarder:
    made = Forwarder(consumer)
    given = iter(answers)
    made.census.somebody_has = lambda task, queue, since: next(given)  # type: ignore[method-assign]
    return made


def test_goes_to_the_tail_with_its_count(consumer: FakeConsumer) -> None:
    message = unknown()
    forwarder(consumer, True).on_unknown_task(None, message, KeyError("c.only"))
    ((unacked, index, tag, key, raw),) = message.channel.redis.evals
    assert (unacked, index, tag, key) == ("p:unacked", "p:unacked_index", "tag", "p:celery:9")
    assert json.loads(raw) == RAW | {"properties": {"priority": 9, BOUNCES: 1}}
    assert message.acked
    assert consumer.dropped == []


def test_nobody_has_it(consumer: FakeConsumer) -> None:
    message = unknown()
    forwarder(consumer, None, False).on_unknown_task(None, message, KeyError("c.only"))
    ((_, again),) = consumer.waiting
    assert consumer.prefetch == 1, "what waits takes no part of the prefetch"
    again()
    assert consumer.prefetch == 0
    assert consumer.dropped == [message]
    assert message.channel.redis.evals == []


def test_waits_longer_each_time(consumer: FakeConsumer) -> None:
    message = unknown(bounces=4)
    forwarder(consumer, True).on_unknown_task(None, message, KeyError("c.only"))
    ((seconds, pass_on),) = consumer.waiting
    assert seconds >= 0.02 * 2**3
    assert message.channel.redis.evals == []
    pass_on()
    assert len(message.channel.redis.evals) == 1
    assert pause_s(1) == 0
    assert all(forwarding.MAX_PAUSE_S <= pause_s(n) <= 1.25 for n in (20, 5000))


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(unknown(bounces=MAX_BOUNCES), id="too often"),
        pytest.param(unknown(exchange="ex", routing_key=""), id="no queue"),
        pytest.param(unknown(routing_key=""), id="no routing key"),
    ],
)
def test_ends_as_in_celery(consumer: FakeConsumer, message: FakeMessage) -> None:
    forwarder(consumer).on_unknown_task(None, message, KeyError("c.only"))
    assert consumer.dropped == [message]


def test_claim_that_somebody_else_took(consumer: FakeConsumer) -> None:
    message = unknown()
    message.channel.redis.stored = None
    forwarder(consumer, True).on_unknown_task(None, message, KeyError("c.only"))
    assert message.channel.redis.evals == [], "nothing is pushed twice"
    assert message.acked


def test_named_exchange(consumer: FakeConsumer) -> None:
    message = unknown(exchange="ex", routing_key="key")
    forwarder(consumer, True).on_unknown_task(None, message, KeyError("c.only"))
    assert message.channel.redis.evals[0][3] == "p:ex-key:9"
