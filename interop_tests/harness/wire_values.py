# SPDX-License-Identifier: Apache-2.0
"""Random values as tasks are given them, and equality that tells 1 from 1.0 and True, and takes NaN for itself."""

from __future__ import annotations

import math
import random
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

TEXTS = [
    "",
    "text",
    'quotes " and \\ and / and \x00\x1f\x7f\x85',
    "caf\u00e9 \u4e16\u754c",
    "\U0001f600",
    "\u2028\ufeff\uffff",
    "yes",
    "~",
    "12",
    "1e3",
    "<<",
    "=",
    "2024-01-02",
    "- a\n- b: c # d\n",
    " leading and trailing ",
    "x" * 300,
]
HALF = ["\ud83d", "a\udc00b"]  # half surrogate pairs: JSON has them, UTF-8 does not
INTS = [0, 1, -1, 127, 128, -32, -33, 255, 256, 65535, 65536, 2**31, -(2**31), 2**63 - 1, -(2**63)]
BIG = [2**64, 2**70, -(2**70), 10**40]
FLOATS = [0.0, -0.0, 1.0, -1.5, 1e22, 1e-7, 0.1, 1.7976931348623157e308, 5e-324, 1e16]
ODD_FLOATS = [math.nan, math.inf, -math.inf]


def typed(r: random.Random) -> list[Any]:
    return [
        datetime(2024, 1, 2, 3, 4, 5, r.choice([0, 678]), tzinfo=UTC),
        datetime(2024, 1, 2, 3, 4, 5, 6),  # noqa: DTZ001  naive times travel too
        datetime(1999, 12, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=5, minutes=30))),
        date(2024, 2, 29),
    ]


def typed_json(r: random.Random) -> list[Any]:
    """What only kombu's JSON carries."""
    return [Decimal("1.10"), Decimal("-0E+3"), uuid.UUID(int=r.getrandbits(128)), time(1, 2, 3, 4)]


class Values:
    """Values that a serializer carries: json, msgpack or yaml."""

    def __init__(self, seed: int, serializer: str = "json") -> None:
        self.random = r = random.Random(seed)
        self.serializer = serializer
        self.leaves: list[Any] = [None, True, False, *TEXTS, *INTS, *FLOATS, *ODD_FLOATS, b"bytes"]
        self.leaves += [b"\xff\x00", b"", bytes(range(256))]
        if serializer != "msgpack":
            self.leaves += [*BIG, *typed(r), *HALF]
        else:
            self.leaves += [2**63, 2**64 - 1]
        if serializer == "json":
            self.leaves += typed_json(r)

    def leaf(self) -> Any:
        r = self.random
        kind = r.random()
        if kind < 0.1:
            bits = 300 if self.serializer != "msgpack" else 63
            return r.getrandbits(r.randrange(1, bits)) * r.choice([1, -1])
        if kind < 0.2:
            return r.uniform(-1, 1) * 10 ** r.randrange(-300, 300)
        if kind < 0.3:
            return "".join(
                chr(r.choice([r.randrange(128), r.randrange(0x20, 0xD800)])) for _ in range(9)
            )
        return r.choice(self.leaves)

    def value(self, depth: int = 3) -> Any:
        r = self.random
        kind = r.random()
        if depth == 0 or kind < 0.5:
            return self.leaf()
        if kind < 0.75:
            return [self.value(depth - 1) for _ in range(r.choice([0, 1, 2, 3, 20]))]
        return {self.key(): self.value(depth - 1) for _ in range(r.choice([0, 1, 2, 3, 20]))}

    def key(self) -> str:
        r = self.random
        if r.random() < 0.02:
            return "k" * r.choice([255, 256, 1100])
        return r.choice([*TEXTS, *(f"k{r.randrange(99)}" for _ in range(20))])

    def arguments(self) -> tuple[list[Any], dict[str, Any]]:
        r = self.random
        return (
            [self.value() for _ in range(r.randrange(4))],
            {self.key(): self.value() for _ in range(r.randrange(3))},
        )


def same(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (
            a == b and math.copysign(1, a) == math.copysign(1, b)
        )
    if isinstance(a, datetime):
        return bool(a == b) and a.isoformat() == b.isoformat()
    return bool(a == b)
