# SPDX-License-Identifier: Apache-2.0
"""Worker events: exactly Celery's fields, and what monitors and gossiping workers make of them."""

from __future__ import annotations

import base64
import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.workers import WorkerFactory

KINDS = pytest.mark.parametrize("kind", ["python", "celeryc"])

HEARTBEAT = "hostname utcoffset pid clock freq active processed loadavg sw_ident sw_ver sw_sys timestamp type"


class Listener:
    """Everything that is published under celeryev, as (channel, envelope, event)."""

    def __init__(self, redis: RedisServer, pattern: str) -> None:
        self.pubsub = redis.client().pubsub()
        self.pubsub.psubscribe(pattern)
        self.events: list[tuple[str, dict[str, Any], dict[str, Any]]] = []

    def drain(self) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
        while (message := self.pubsub.get_message(timeout=0.01)) is not None:
            if message["type"] == "pmessage":
                envelope = json.loads(message["data"])
                event = json.loads(base64.b64decode(envelope["body"]))
                self.events.append((message["channel"].decode(), envelope, event))
        return self.events

    def wait_for(self, kind: str, n: int = 1) -> list[dict[str, Any]]:
        def found() -> list[dict[str, Any]]:
            events = [event for _, _, event in self.drain() if event["type"] == kind]
            return events if len(events) >= n else []

        return wait_until(found, f"{n} events {kind}")

    def close(self) -> None:
        self.pubsub.close()


@pytest.fixture
def listener(redis_server: RedisServer) -> Iterator[Listener]:
    made = Listener(redis_server, "*celeryev/*")
    yield made
    made.close()


@KINDS
def test_worker_events(
    kind: str, redis_server: RedisServer, workers: WorkerFactory, listener: Listener
) -> None:
    worker = workers.start(kind, redis_server.socket_url(3), concurrency=1)
    listener.wait_for("worker-heartbeat", 2)
    worker.process.send_signal(signal.SIGTERM)
    worker.process.wait()
    listener.wait_for("worker-offline")
    for channel, envelope, event in listener.events:
        assert list(event) == HEARTBEAT.split()
        assert channel == "/3.celeryev/" + event["type"].replace("-", ".")
        assert list(envelope) == [
            "body",
            "content-encoding",
            "content-type",
            "headers",
            "properties",
        ]
        assert envelope["headers"] == {"hostname": worker.node}
        tag = envelope["properties"].pop("delivery_tag")
        assert len(tag) == 36
        assert envelope["properties"] == {
            "delivery_mode": 1,
            "delivery_info": {
                "exchange": "celeryev",
                "routing_key": event["type"].replace("-", "."),
            },
            "priority": 0,
            "body_encoding": "base64",
        }
        assert event["hostname"] == worker.node
        assert event["pid"] == worker.process.pid
        assert event["freq"] == 2.0
        for key in ("utcoffset", "freq", "timestamp"):
            assert type(event[key]) is float, key
        for key in ("clock", "active", "processed"):
            assert type(event[key]) is int, key
        assert [type(load) for load in event["loadavg"]] == [float] * 3
        assert event["sw_ident"] == {"python": "py-celery", "celeryc": "celeryc"}[kind]
        assert event["sw_sys"] == "Linux"
    types = [event["type"] for _, _, event in listener.events]
    assert types[0] == "worker-online"
    assert types[-1] == "worker-offline"
    assert set(types[1:-1]) == {"worker-heartbeat"}
    clocks = [event["clock"] for _, _, event in listener.events]
    assert clocks == sorted(set(clocks))


@KINDS
def test_options(
    kind: str, redis_server: RedisServer, workers: WorkerFactory, listener: Listener
) -> None:
    url = redis_server.socket_url()
    silent = workers.start(kind, url, options=["--without-heartbeat"])
    loud = workers.start(kind, url, options=["--heartbeat-interval", "1"])
    assert listener.wait_for("worker-heartbeat", 2)[0]["freq"] == 1.0
    assert {event["hostname"] for _, _, event in listener.events} == {loud.node}
    assert silent.process.alive


@KINDS
def test_names_and_prefix(
    kind: str, redis_server: RedisServer, workers: WorkerFactory, listener: Listener
) -> None:
    """global_keyprefix, control_exchange and event_exchange are in every name."""
    settings = {
        "broker_transport_options": {"global_keyprefix": "shop*:"},
        "control_exchange": "ops",
        "event_exchange": "shop.celeryev",
    }
    url = redis_server.socket_url()
    worker = workers.start(kind, url, settings=settings)
    app = Celery("panel", broker=url)
    app.conf.update(settings)
    assert wait_until(lambda: app.control.inspect(timeout=0.5).ping(), "it answers") == {
        worker.node: {"ok": "pong"}
    }
    listener.wait_for("worker-heartbeat")
    assert listener.events[-1][0].startswith("shop*:/0.shop.celeryev/worker.")
    keys = redis_server.client().keys("*")
    assert [key for key in keys if not key.startswith(b"shop*:")] == []
    app.close()


@KINDS
def test_asked_heartbeat(
    kind: str, redis_server: RedisServer, workers: WorkerFactory, listener: Listener
) -> None:
    url = redis_server.socket_url()
    worker = workers.start(kind, url, options=["--heartbeat-interval", "60"])
    listener.wait_for("worker-online")
    app = Celery("panel", broker=url)

    def asked() -> list[dict[str, Any]]:
        app.control.broadcast("heartbeat")
        return [event for _, _, event in listener.drain() if event["type"] == "worker-heartbeat"]

    event = wait_until(asked, "a heartbeat")[0]
    assert list(event) == (
        "hostname utcoffset pid clock freq sw_ident sw_ver sw_sys timestamp type".split()
    )
    assert event["freq"] == 5
    assert event["hostname"] == worker.node
    app.close()


@KINDS
def test_in_the_state_of_a_monitor(
    kind: str, redis_server: RedisServer, workers: WorkerFactory, listener: Listener
) -> None:
    """Celery's own receiver and state, as Flower uses them."""
    url = redis_server.socket_url()
    app = Celery("monitor", broker=url)
    state = app.events.State()
    worker = workers.start(kind, url, concurrency=1)
    listener.wait_for("worker-heartbeat", 1)
    with app.connection() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": state.event})
        for _, _, event in listener.events:
            receiver.process(*receiver.event_from_message(event))
        known = state.workers[worker.node]
        assert known.alive
        assert (known.freq, known.active, known.processed) == (2.0, 0, 0)
        listener.events.clear()
        worker.process.send_signal(signal.SIGTERM)
        worker.process.wait()
        listener.wait_for("worker-offline")
        for _, _, event in listener.events:
            receiver.process(*receiver.event_from_message(event))
        assert not known.alive
    app.close()


def test_a_gossiping_worker_lives_beside_celeryc(
    redis_server: RedisServer, workers: WorkerFactory
) -> None:
    url = redis_server.socket_url()
    python = workers.start(
        "python", url, concurrency=1, gossip=True, mingle=True, options=["-l", "DEBUG"]
    )
    first = workers.start("celeryc", url, concurrency=1)
    python.process.wait_for_log(rf"{first.node} joined the party")
    app = Celery("panel", broker=url)
    app.control.broadcast("heartbeat")
    first.process.send_signal(signal.SIGTERM)
    first.process.wait()
    python.process.wait_for_log(rf"{first.node} left")
    crashed = workers.start("celeryc", url, concurrency=1)
    python.process.wait_for_log(rf"{crashed.node} joined the party")
    crashed.process.kill_9()
    python.process.wait_for_log(rf"missed heartbeat from {crashed.node}", 40.0)
    assert app.control.inspect([python.node], timeout=5).ping() == {python.node: {"ok": "pong"}}
    app.close()


def test_reconnect(redis_server: RedisServer, workers: WorkerFactory) -> None:
    """After an outage the mailbox is subscribed again and the worker says so."""
    url = redis_server.url()
    worker = workers.start("celeryc", url, concurrency=1)
    redis_server.restart()
    again = Listener(redis_server, "*celeryev/*")
    again.wait_for("worker-online")
    app = Celery("panel", broker=url)
    assert app.control.inspect(timeout=5, limit=1).ping() == {worker.node: {"ok": "pong"}}
    app.close()
    again.close()


def test_remote_control_can_be_turned_off(
    redis_server: RedisServer, workers: WorkerFactory, listener: Listener
) -> None:
    url = redis_server.socket_url()
    workers.start("celeryc", url, settings={"worker_enable_remote_control": False})
    listener.wait_for("worker-heartbeat")
    assert redis_server.client().pubsub_numsub("/0.celery.pidbox") == [(b"/0.celery.pidbox", 0)]
