# SPDX-License-Identifier: Apache-2.0
"""Messages as Celery itself writes them, of every serializer and compression, without a broker; and how Python reads
one."""

from __future__ import annotations

import base64
import random
from typing import Any

import kombu.transport.memory
from celery import Celery, chain, chord, group
from kombu import compression
from kombu.serialization import loads
from kombu.transport import TRANSPORT_ALIASES
from kombu.utils import json

from harness.wire_values import Values

TYPES = ["json", "msgpack", "yaml"]
COMPRESSIONS = [None, None, None, "zlib", "bzip2", "lzma", "zstd", "brotli"]


sent: list[bytes] = []


class Channel(kombu.transport.memory.Channel):
    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        sent.append(json.dumps(message).encode())


class Transport(kombu.transport.memory.Transport):
    Channel = Channel


TRANSPORT_ALIASES["wire"] = "harness.wire_messages:Transport"


class Producer:
    """`send` gives the envelopes that an apply_async puts on queues, as Redis would hold them."""

    def __init__(self) -> None:
        self.app = Celery(
            "wire", broker="wire://localhost", backend="cache+memory://", set_as_current=False
        )

    def send(self, signature: Any, **options: Any) -> list[bytes]:
        sent.clear()
        signature.apply_async(**options)
        return sent.copy()

    def close(self) -> None:
        self.app.close()


def random_message(producer: Producer, seed: int) -> bytes:
    r = random.Random(seed)
    serializer = r.choice(TYPES)
    values = Values(seed, serializer)

    def task() -> Any:
        args, kwargs = values.arguments()
        return producer.app.signature("wire.task", args, kwargs)

    signature = task()
    options: dict[str, Any] = {"serializer": serializer, "compression": r.choice(COMPRESSIONS)}
    if serializer != "yaml" and r.random() < 0.5:
        # A group in msgpack is damaged by msgpack for Python: it takes the number of its tasks for that of its keys.
        if serializer == "msgpack" or r.random() < 0.5:
            last = r.choice([task(), group(task(), task())]) if serializer == "json" else task()
            signature = chain(signature, task(), last)
        elif r.random() < 0.5:
            signature.link(task())
            signature.link_error(task())
        else:
            signature = chain(signature, chord([task(), task()], task()))
    some = {
        "priority": r.randrange(10),
        "expires": r.choice([10, 1.5]),
        "headers": {"mine": Values(seed).value()},
        "shadow": "shadow",
        "time_limit": 9,
    }
    options |= {name: value for name, value in some.items() if r.random() < 0.2}
    return producer.send(signature, **options)[0]


def read_body(raw: bytes) -> Any:
    envelope = json.loads(raw)
    body: Any = envelope["body"].encode()
    if envelope["properties"].get("body_encoding") == "base64":
        body = base64.b64decode(body)
    if envelope["headers"].get("compression"):
        body = compression.decompress(body, envelope["headers"]["compression"])
    return loads(
        body, envelope["content-type"], envelope["content-encoding"], accept=None, force=True
    )
