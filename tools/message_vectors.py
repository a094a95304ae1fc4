#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the test data in tests/data/message from a real Celery.

The data says what Celery, kombu and dateutil do, so that the C tests need no Python:

    python3 tools/message_vectors.py tests/data/message

Needs celery 5.7.0 (any 5.7 should give the same bytes). Each file holds one JSON value a line; the seed is fixed, only
ids, host names and delivery tags differ from run to run, and the tests replace those.
"""

from __future__ import annotations

import json
import math
import random
import struct
import sys
import types
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import kombu.transport.memory
from celery import Celery, signature
from celery.utils.saferepr import saferepr
from celery.worker.request import Request
from dateutil.parser import isoparse
from kombu.transport import redis as kombu_redis
from kombu.utils.json import dumps, loads

NOW = datetime(2090, 11, 22, 14, 0, 0, 123456, tzinfo=timezone.utc)
EPOCH = datetime(1970, 1, 1)
RANDOM = random.Random(20261122)
WORDS = [
    "a",
    "b",
    "z",
    " ",
    '"',
    "'",
    "\\",
    "\n",
    "\t",
    "\x7f",
    "\0",
    "/",
    "é",
    "☃",
    "😀",
    "\ud800",
    "​",
]

published: list[str] = []


def keep(_channel: object, _queue: str, message: Any, **_options: object) -> None:
    """Stands in for the LPUSH of the Redis transport, which sends exactly this text."""
    published.append(dumps(message))


kombu.transport.memory.Channel._put = keep  # noqa: SLF001
app = Celery("app", broker="memory://", backend="cache+memory://")
app.now = lambda: NOW
retry_options: dict[str, Any] = {}


@app.task(bind=True, name="app.again")
def again(self: Any, *_args: Any, **_kwargs: Any) -> None:
    raise self.retry(exc=KeyError("k"), **retry_options)


app.finalize()


def micros(when: datetime) -> int:
    return (when.astimezone(timezone.utc).replace(tzinfo=None) - EPOCH) // timedelta(microseconds=1)


def some_text() -> str:
    length = 1100 if RANDOM.random() < 0.01 else RANDOM.choice([0, 1, 3, 8, 20, 40])
    return "".join(RANDOM.choice([*WORDS, *["q"] * 20]) for _ in range(length))


def some_float() -> float:
    kind = RANDOM.randrange(5)
    if kind == 0:
        return float(struct.unpack("d", RANDOM.randbytes(8))[0])
    if kind == 1:
        return math.ldexp(1.0, RANDOM.randrange(-1074, 1024))
    if kind == 2:
        return round(RANDOM.random() * 1000, RANDOM.randrange(5))
    if kind == 3:
        return float(RANDOM.randrange(10 ** RANDOM.randrange(1, 22)))
    return RANDOM.choice(
        [0.0, -0.0, 1e22, 1e16, 1e15, 1e-5, 1e-4, 5e-324, math.nan, math.inf, -math.inf]
    )


def some_value(depth: int = 0) -> Any:
    kind = RANDOM.randrange(9 if depth < 5 else 6)
    if kind == 0:
        return RANDOM.choice([None, True, False])
    if kind == 1:
        return RANDOM.randrange(-(10 ** RANDOM.randrange(1, 40)), 10 ** RANDOM.randrange(1, 40))
    if kind == 2:
        return some_float()
    if kind <= 5:
        return some_text()
    size = RANDOM.choice([0, 1, 1, 2, 3, 6])
    if kind <= 7:
        return [some_value(depth + 1) for _ in range(size)]
    return {some_text()[:30]: some_value(depth + 1) for _ in range(size)}


def some_args() -> list[Any]:
    return [some_value(2) for _ in range(RANDOM.choice([0, 1, 2, 2, 3]))]


def some_kwargs() -> dict[str, Any]:
    return {some_text()[:12] or "k": some_value(2) for _ in range(RANDOM.choice([0, 0, 1, 2]))}


def sometimes(chance: float) -> bool:
    return RANDOM.random() < chance


def put(into: dict[str, Any], chance: float, **values: Any) -> None:
    for key, value in values.items():
        if sometimes(chance):
            into[key] = value


def new_vector() -> dict[str, Any]:
    """send_task with options; "in" is what the C side is given."""
    given: dict[str, Any] = {
        "task": RANDOM.choice(["app.add", "tasks.größe", "x"]),
        "id": f"id-{RANDOM.randrange(10**9)}",
        "queue": RANDOM.choice(["celery", "a b", "warteschlange-ü"]),
        "args": some_args(),
        "kwargs": some_kwargs(),
        "now_us": micros(NOW),
    }
    put(given, 0.2, root_id="root", parent_id="parent", group="g", group_index=RANDOM.randrange(9))
    put(given, 0.2, shadow="näme", reply_to="oid-1", retries=RANDOM.randrange(4))
    put(given, 0.2, ignore_result=sometimes(0.5), priority=RANDOM.randrange(10))
    put(given, 0.2, time_limit=RANDOM.choice([10, 1.5]), soft_time_limit=RANDOM.choice([5, 0.25]))
    options = dict(given)
    options["group_id"] = options.pop("group", None)
    for key in ("task", "id", "now_us"):
        options.pop(key)
    options["task_id"] = given["id"]
    options["args"] = tuple(given["args"])
    if sometimes(0.3):
        options["eta"] = NOW + timedelta(microseconds=RANDOM.randrange(10**9))
        given["eta_us"] = micros(options["eta"])
    if sometimes(0.3):
        options["expires"] = NOW + timedelta(microseconds=RANDOM.randrange(-(10**6), 10**10))
        given["expires_us"] = micros(options["expires"])
    if sometimes(0.2):
        link = signature("app.link", args=(1, "ü"), immutable=True)
        options.update(link=link, chain=[link])
        given["embed"] = loads(
            dumps({"callbacks": [link], "errbacks": None, "chain": [link], "chord": None})
        )
    app.send_task(given["task"], **options)
    return {"in": given, "out": published[-1]}


def wire_request(envelope: str) -> Request:
    channel = app.connection_for_read().default_channel
    return Request(
        channel.Message(loads(envelope), channel=channel), app=app, task=again, hostname="w@h"
    )


def retry_vector() -> dict[str, Any]:
    options: dict[str, Any] = {"args": tuple(some_args()), "kwargs": some_kwargs()}
    put(options, 0.3, priority=RANDOM.randrange(10), shadow="shown", ignore_result=sometimes(0.5))
    put(options, 0.3, group_id="g", group_index=2, root_id="root", parent_id="parent", retries=1)
    put(
        options,
        0.3,
        time_limit=10,
        soft_time_limit=2.5,
        queue="other",
        origin="gen1@host",
        reply_to="oid",
    )
    put(
        options,
        0.3,
        link=signature("app.link"),
        chord=signature("app.body", options={"task_id": "B"}),
    )
    put(
        options,
        0.3,
        headers={"x": "y", "update": 1, "x-death": [1], "redelivered": True, "größe": {"a": [1.0]}},
    )
    if sometimes(0.3):
        options.update(stamped_headers=["s", "t"], s="v", t=["w"])
    if sometimes(0.3):
        options["expires"] = NOW + timedelta(microseconds=RANDOM.randrange(1, 10**10))
    options.setdefault("reply_to", "oid")
    again.apply_async(**options)
    before = published[-1]
    retry_options.clear()
    retry_options["countdown"] = RANDOM.choice([0, 1, 7.5])
    put(retry_options, 0.2, args=tuple(some_args()), kwargs=some_kwargs())
    count = len(published)
    request = wire_request(before)
    keep_parent = sometimes(0.2)
    if keep_parent:  # as Request._retry_worker_lost does, outside the task
        retry_options.pop("args", None)
        retry_options.pop("kwargs", None)
        context = request._context  # noqa: SLF001
        again.signature_from_request(
            context, countdown=retry_options["countdown"], retries=context.retries + 1
        ).apply_async()
    else:
        request.execute()
    if len(published) != count + 1:
        raise SystemExit("the task was not retried")
    vector = {
        "in": before,
        "out": published[-1],
        "now_us": micros(NOW),
        "eta_us": micros(NOW + timedelta(seconds=retry_options["countdown"]))
        if retry_options["countdown"]
        else 0,
        "ignore_result": bool(options.get("ignore_result")),
        "keep_parent": keep_parent,
    }
    if "args" in retry_options:
        vector["args"] = retry_options["args"]
    if "kwargs" in retry_options:
        vector["kwargs"] = retry_options["kwargs"]
    return vector


def restored(envelope: str) -> str:
    pushed: list[str] = []
    channel = types.SimpleNamespace(
        _lookup=lambda _exchange, key: [key],
        _get_message_priority=lambda *_a, **_k: 0,
        _q_for_pri=lambda queue, _pri: queue,
        connection_errors=(),
    )
    pipe = types.SimpleNamespace(rpush=lambda _queue, text: pushed.append(text))
    kombu_redis.Channel._do_restore_message(channel, loads(envelope), "", "celery", pipe)  # noqa: SLF001
    return pushed[0]


def iso_text() -> str:
    def two(low: int, high: int) -> str:
        return RANDOM.choice(
            [f"{RANDOM.randrange(low, high + 1):02d}"] * 30 + [" 3", "+1", "1_", "9", "", "99"]
        )

    year = RANDOM.choice(
        [f"{RANDOM.randrange(10000):04d}", "2026", "2024", "0001", "9999", "+202", "202"]
    )
    dash = RANDOM.choice(["-", ""])
    text = year + RANDOM.choice(
        ["", f"-{two(1, 12)}", f"-{two(1, 12)}-{two(1, 28)}", f"-{two(1, 12)}-{two(1, 31)}", f"{two(1, 12)}{two(1, 31)}",
         f"{dash}W{two(1, 53)}", f"{dash}W{two(1, 53)}{dash}{RANDOM.randrange(9)}", f"{dash}{RANDOM.randrange(368):03d}"]
    )  # fmt: skip
    if sometimes(0.8):
        colon = RANDOM.choice([":", ":", ""])
        clock = RANDOM.choice(
            [
                two(0, 24),
                f"{two(0, 24)}{colon}{two(0, 59)}",
                f"24{colon}00",
                f"24{colon}00{colon}00.1",
            ]
            + [f"{two(0, 23)}{colon}{two(0, 59)}{colon}{two(0, 59)}"] * 4
        )
        if sometimes(0.4):
            clock += RANDOM.choice(".,") + "".join(
                RANDOM.choices("0123456789", k=RANDOM.choice([0, 1, 3, 6, 9]))
            )
        zone = RANDOM.choice(
            ["", "", "Z", "z", "+00:00", "-05:30", "+14", "+0130", "+24:00", "+01:60", "x"]
        )
        text += RANDOM.choice("TTTT t_5") + clock + zone
    return text


def iso_vector(text: str) -> list[Any]:
    low, high = (micros(t.replace(tzinfo=timezone.utc)) for t in (datetime.min, datetime.max))
    try:
        when = isoparse(text)
    except OverflowError:
        return [text, "range"]
    except ValueError:
        return [text, "invalid"]
    offset = when.utcoffset() or timedelta()
    value = (when.replace(tzinfo=None) - EPOCH - offset) // timedelta(microseconds=1)
    return [text, value if low <= value <= high else "range"]


def repr_vector() -> dict[str, Any]:
    value = json.loads(json.dumps(some_value()))
    limit = RANDOM.choice([1, 5, 17, 40, 100, 1024, 1024])
    vector = {
        "value": json.dumps(value),
        "repr": repr(value),
        "safe": saferepr(value, limit),
        "limit": limit,
    }
    if isinstance(value, list):
        vector["tuple"] = saferepr(tuple(value), limit)
    return vector


ISO_EDGES = [
    "", "1", "9999-12-31T24:00", "9999-12-31T24:00+05:00", "0001-01-01T00:00+05:00", "9999-W53", "9999-W52-7",
    "2026-11-22T14:36:35.874679+00:00", "2026-11-22T09:44:24.451540-05:00", "2030-01-01T12:00:00", "20201", "202012",
]  # fmt: skip


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    retries = [retry_vector() for _ in range(60)]
    files: dict[str, list[Any]] = {
        "new.jsonl": [new_vector() for _ in range(60)],
        "retry.jsonl": retries,
        "redelivered.jsonl": [{"in": v["in"], "out": restored(v["in"])} for v in retries[:10]],
        "iso.jsonl": [iso_vector(t) for t in [*ISO_EDGES, *(iso_text() for _ in range(1000))]],
        "repr.jsonl": [repr_vector() for _ in range(250)],
    }
    for name, rows in files.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
