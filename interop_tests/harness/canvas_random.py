# SPDX-License-Identifier: Apache-2.0
"""Random canvases, nested up to four deep, with failing members, links, options and odd values."""

from __future__ import annotations

import json
import random
from typing import Any

from celery import chain, chord, group
from celery.canvas import _chain

VALUES = [
    0,
    1,
    -3,
    2**70,
    1.0,
    1e22,
    "",
    "text",
    "\u00e9\U0001f600",
    None,
    True,
    [1, [2]],
    {"a": 1},
]


class Canvases:
    def __init__(
        self, tasks: dict[str, Any], seed: int, failures: float = 0.1, swaps: float = 0.0
    ) -> None:
        self.tasks = tasks
        self.random = random.Random(seed)
        self.failures = failures
        self.swaps = swaps

    def chance(self, p: float) -> bool:
        return self.random.random() < p

    def plain(self, links: bool = True) -> Any:
        r = self.random
        name = "fail" if self.chance(self.failures) else r.choice(["t", "t", "t", "echo"])
        args = [r.choice(VALUES) for _ in range(r.randrange(3))]
        kwargs = {"k": r.choice(VALUES)} if self.chance(0.2) else {}
        if self.chance(self.swaps):
            name = self.random.choice(["swap", "swap", "join"])
            depth = 2 if name == "swap" else 0
            kwargs = {"sig": json.loads(json.dumps(self.canvas(depth)))}
        s = self.tasks[name].signature(args, kwargs, immutable=self.chance(0.15))
        if self.chance(0.15):
            s.set(**r.choice(self.options()))
        if links and self.chance(0.12):
            s.link(self.link())
        if links and self.chance(0.12):
            s.link_error(self.tasks["eb"].s().set(shadow=f"eb{r.randrange(9)}"))
        return s

    def options(self) -> list[dict[str, Any]]:
        return [
            {"priority": 5},
            {"queue": "other"},
            {"headers": {"x": "y"}},
            {"time_limit": 9, "soft_time_limit": 4.5},
            {"countdown": 3},
            {"eta": "2030-01-01T00:00:00+00:00"},
            {"expires": 600},
            {"shadow": "other name"},
            {"ignore_result": True},
            {"app_id": "mine", "retries": 2},
            {"stamped_headers": ["mark"], "mark": "value"},
        ]

    def link(self) -> Any:
        return self.canvas(2) if self.chance(0.3) else self.plain(links=False)

    def members(self, depth: int, least: int = 1) -> list[Any]:
        return [self.canvas(depth - 1) for _ in range(self.random.randrange(least, 4))]

    def canvas(self, depth: int) -> Any:
        kind = self.random.choice(["plain", "chain", "chain", "group", "chord"])
        if depth <= 0 or kind == "plain":
            return self.plain()
        made: Any
        if kind == "chain":
            steps = self.members(depth)
            made = chain(*steps) if len(steps) > 1 and self.chance(0.8) else _chain(*steps)
        elif kind == "group":
            made = group(self.members(depth))
        else:
            made = chord(self.members(depth), self.canvas(depth - 1))
        if kind != "group" and self.chance(0.1):
            made.link_error(self.tasks["eb"].s())
        return made
