# SPDX-License-Identifier: Apache-2.0
"""Queue elements that no worker can run: each is parked with a reason, the worker stays up, good tasks still run.

celeryc alone: most of these end a Celery 5.7 worker or lose the message without a word.
"""

from __future__ import annotations

import base64
import json
import uuid
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from harness.client import Client
from harness.fleet import Fleet
from harness.messages import encode, message
from harness.waiting import wait_until

Message = dict[str, Any]
Make = Callable[[Message], "Message | bytes"]


def without(*path: str) -> Make:
    """The good message with one member taken out."""

    def make(good: Message) -> Message:
        inner = good
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        return good

    return make


def having(value: Any, *path: str) -> Make:
    """The good message with one member changed."""

    def make(good: Message) -> Message:
        inner = good
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        return good

    return make


def raw(data: bytes) -> Make:
    return lambda good: data


def body(data: str | bytes) -> Make:
    return having(encode(data), "body")


EMBED = '{"callbacks": null, "errbacks": null, "chain": null, "chord": null}'
BROKEN: dict[str, Make] = {
    "empty": raw(b""),
    "not JSON": raw(b"hello"),
    "NUL bytes": raw(b"\0" * 64),
    "not UTF-8": raw(b'{"body": "\xff\xfe"}'),
    "cut short": lambda good: json.dumps(good).encode()[:200],
    "trailing garbage": lambda good: json.dumps(good).encode() + b"}}",
    "JSON null": raw(b"null"),
    "JSON array": raw(b"[1, 2, 3]"),
    "deeply nested": raw(b"[" * 100_000),
    "deeply nested header": lambda good: (
        json.dumps(good).replace('"lang": "py"', '"lang": ' + "[" * 5000 + "]" * 5000).encode()
    ),
    "no properties": without("properties"),
    "properties is a list": having([], "properties"),
    "no delivery_tag": without("properties", "delivery_tag"),
    "delivery_tag is a number": having(7, "properties", "delivery_tag"),
    "no delivery_info": without("properties", "delivery_info"),
    "no exchange": without("properties", "delivery_info", "exchange"),
    "no routing_key": without("properties", "delivery_info", "routing_key"),
    "no headers": without("headers"),
    "headers is a string": having("x", "headers"),
    "no task": without("headers", "task"),
    "task is a number": having(1, "headers", "task"),
    "no id": without("headers", "id"),
    "id is an object": having({}, "headers", "id"),
    "no body": without("body"),
    "body is a number": having(5, "body"),
    "bad base64": having("W1sxLCA=x", "body"),
    "unknown body_encoding": having("rot13", "properties", "body_encoding"),
    "body is not JSON": body("[[1, 2], {}"),
    "body is not UTF-8": body(b'[["\xff"], {}, {}]'),
    "body is null": body("null"),
    "body is a string": body('"text"'),
    "body has two elements": body("[[1, 2], {}]"),
    "body has four elements": body("[[1, 2], {}, {}, {}]"),
    "args is an object": body(f'[{{"a": 1}}, {{}}, {EMBED}]'),
    "kwargs is null": body(f"[[1, 2], null, {EMBED}]"),
    "kwargs is a list": body(f"[[1, 2], [], {EMBED}]"),
    "embed is a list": body("[[1, 2], {}, []]"),
    "no content-type": without("content-type"),
    "pickle": having("application/x-python-serialize", "content-type"),
    "unknown content-type": having("application/x-nonsense", "content-type"),
    "eta is empty": having("", "headers", "eta"),
    "eta is a number": having(12, "headers", "eta"),
    "eta is garbage": having("tomorrow", "headers", "eta"),
    "eta is out of range": having("9999-12-31T23:59:59-23:59", "headers", "eta"),
    "expires is empty": having("", "headers", "expires"),
    "expires is garbage": having("soon", "headers", "expires"),
    "retries is a string": having("x", "headers", "retries"),
    "compressed but is not": having("application/x-gzip", "headers", "compression"),
    "unknown compression": having("application/x-nonsense", "headers", "compression"),
    "compressed 300 MB of spaces": lambda good: having(
        "application/x-gzip", "headers", "compression"
    )(good | {"body": encode(zlib.compress(b"[[" + b" " * 300_000_000 + b"1, 2], {}, {}]", 9))}),
}


@pytest.mark.fleets("celeryc")
@pytest.mark.clients("celery-5.7")
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_element_is_parked(fleet: Fleet, client: Client, kind: str) -> None:
    r = fleet.redis.client(fleet.db)
    dead = "celeryc:dead:celery"
    broken = BROKEN[kind](message(str(uuid.uuid4()), "examples.add", [1, 2]))
    data = broken if isinstance(broken, bytes) else json.dumps(broken).encode()
    before = r.lrange(dead, 0, -1)
    pid = fleet.workers[0].process.pid

    r.lpush("celery", data)
    wait_until(lambda: r.llen(dead) > len(before), "the element is parked")
    (parked,) = [json.loads(entry) for entry in set(r.lrange(dead, 0, -1)) - set(before)]
    assert base64.b64decode(parked["raw"]) == data
    assert parked["v"] == 1
    assert parked["queue"] == "celery"
    assert len(parked["reason"]) >= 5
    assert parked["time"]
    assert client.call("examples.add", 3, 4).value == 7
    assert r.llen(dead) == len(before) + 1
    assert fleet.workers[0].process.alive
    assert fleet.workers[0].process.pid == pid


@pytest.mark.fleets("celeryc")
@pytest.mark.clients("celery-5.7")
def test_failure_is_stored_where_the_task_can_be_read(fleet: Fleet, client: Client) -> None:
    """Somebody may be waiting for it."""
    r = fleet.redis.client(fleet.db)
    for kind in ("bad base64", "body is null", "eta is garbage", "pickle", "compressed but is not"):
        task_id = str(uuid.uuid4())
        r.lpush("celery", json.dumps(BROKEN[kind](message(task_id, "examples.add", [1, 2]))))
        outcome = client.get(task_id)
        assert outcome.state == "FAILURE", kind
        assert outcome.exc_args, kind
