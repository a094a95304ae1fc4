# SPDX-License-Identifier: Apache-2.0
"""Random canvases as plain data, of the tasks in fleet_app.py: nested up to four deep, with members that fail, retry,
give up, expire, replace themselves and grow their chord, with links, errbacks and options. The seed says everything.

Tasks carry ids made from the seed, so that two fleets give the same tasks the same ids: members of a chord that have
the same index (of a group in the header, of add_to_chord) are ordered by their ids. Errbacks, groups and chords get
theirs where they are frozen."""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass
from typing import Any

from .canvas import Spec, chain, chord, group, task

MAX_TASKS = 24

VALUES = [
    0,
    1,
    -3,
    2**70,
    1.0,
    1e22,
    1e-7,
    "",
    "text",
    "\u00e9\U0001f600\x7f",
    None,
    True,
    [1, [2]],
    {"b": 1, "a": [{}]},
    float("inf"),
]

OPTIONS: list[dict[str, Any]] = [
    {"priority": 5},
    {"priority": 9},
    {"queue": "celery"},
    {"headers": {"x": "y"}},
    {"time_limit": 90, "soft_time_limit": 45.5},
    {"expires": 600},
    {"shadow": "other name"},
    {"ignore_result": True},
    {"compression": "zlib"},
    {"app_id": "mine"},
    {"countdown": 0.01},
]


@dataclass(frozen=True)
class Profile:
    """How often (per plain signature, links per signature) what is wanted."""

    failures: float = 0.0
    retries: float = 0.06
    expired: float = 0.0
    swaps: float = 0.0
    joins: float = 0.0
    links: float = 0.1
    options: float = 0.15


PROFILES = [
    Profile(),
    Profile(failures=0.05),
    Profile(swaps=0.12, joins=0.05),
    Profile(failures=0.1, swaps=0.06, joins=0.03, expired=0.01),
]


class Specs:
    def __init__(self, seed: int, profile: Profile | None = None) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.profile = profile or PROFILES[seed % len(PROFILES)]
        self.n = 0
        self.joined = 0  # how many groups and headers are around: somebody waits for the result

    def chance(self, p: float) -> bool:
        return self.random.random() < p

    def _id(self) -> dict[str, Any]:
        bits = self.random.getrandbits(128)
        return {"task_id": str(uuid.UUID(int=bits, version=4))}

    def _mark(self) -> str:
        self.n += 1
        return f"c{self.seed}.{self.n}"

    def replacement(self) -> Spec:
        """Its end gets the id of what it replaces, so it must not have one of its own. Not a chord whose body is a chain
        or a group, which Celery itself never ends in this place (test_task_canvas.py shows that celeryc does)."""
        sig = last = self.canvas(2)
        behind_chord = in_body = False
        while last["kind"] in ("chain", "chord"):
            chained = last["kind"] == "chain"
            in_body = in_body or (chained and behind_chord)
            behind_chord = behind_chord or not chained
            last = last["members"][-1] if chained else last["body"]
        if behind_chord and (in_body or last["kind"] == "group"):
            return self.replacement()
        last["options"].pop("task_id", None)
        return sig

    def errback(self) -> Spec:
        name = self.random.choice(["errback", "inline"])
        return task(f"canvas.{name}", kwargs={"mark": self._mark()})

    def _name(self) -> str:
        p = self.profile
        r = self.random.random()
        for name, chance in (
            ("fail", p.failures),
            ("again", p.retries),
            ("give_up", p.failures / 4),
            ("swap", p.swaps),
            ("join", p.joins),
        ):
            if r < chance:
                return name
            r -= chance
        return self.random.choice(["sum", "sum", "late", "late", "echo"])

    def plain(self, links: bool = True) -> Spec:
        r = self.random
        mark, name = self._mark(), self._name()
        args = [r.choice(VALUES) for _ in range(r.randrange(3))]
        options = dict(r.choice(OPTIONS)) if self.chance(self.profile.options) else {}
        if self.joined:
            options.pop("ignore_result", None)  # a join waits for ever for what is not stored
        if self.chance(self.profile.expired):
            options["expires"] = -5
        kwargs: dict[str, Any] = {"mark": mark}
        sig = None
        if name == "again":
            kwargs["n"] = r.randrange(1, 3)
        elif name in ("swap", "join"):
            sig = self.replacement() if name == "swap" else self.canvas(0)
        elif self.chance(0.2):
            kwargs["k"] = r.choice(VALUES)
        made = task(
            f"canvas.{name}",
            *args,
            immutable=self.chance(0.12),
            kwargs=kwargs,
            sig=sig,
            **self._id(),
            **options,
        )
        if links and self.chance(self.profile.links):
            made["links"].append(self.canvas(2 if self.chance(0.3) else 0))
        if links and self.chance(self.profile.links):
            made["errbacks"].append(self.errback())
        return made

    def mapped(self) -> Spec:
        """celery.starmap: one message, whose task calls another function in place."""
        r = self.random
        calls = [[r.choice(VALUES) for _ in range(r.randrange(3))] for _ in range(r.randrange(4))]
        kwargs = {"mark": self._mark()}  # for us alone
        made = task("canvas.sum", kwargs=kwargs, **self._id())
        return made | {"kind": "starmap", "it": calls}

    def members(self, depth: int) -> list[Spec]:
        most = 4 if self.n < MAX_TASKS else 2
        return [self.canvas(depth - 1) for _ in range(self.random.randrange(1, most))]

    def joined_members(self, depth: int) -> list[Spec]:
        self.joined += 1
        made = self.members(depth)
        self.joined -= 1
        return made

    def canvas(self, depth: int) -> Spec:
        kind = self.random.choice(["plain", "chain", "chain", "group", "chord"])
        if depth <= 0 or kind == "plain" or self.n > MAX_TASKS:
            return self.mapped() if self.chance(0.03) else self.plain()
        made: Spec
        if kind == "chain":
            made = chain(*self.members(depth))
        elif kind == "group":
            made = group(*self.joined_members(depth))
        else:
            made = chord(self.joined_members(depth), self.canvas(depth - 1))
        if kind != "group" and self.chance(0.1):
            made["errbacks"].append(self.errback())
        return made

    def top(self) -> Spec:
        """A whole canvas of at least two tasks."""
        while True:
            self.n = 0
            made = self.canvas(1 + self.seed % 4)
            if self.n > 1:
                return made


def marks(spec: Spec) -> set[str]:
    return {s["kwargs"]["mark"] for s in every(spec) if "kwargs" in s}


def every(spec: Spec) -> list[Spec]:
    """The spec and everything in it."""
    found = [spec]
    inner = [*spec.get("members", []), *spec["links"], *spec["errbacks"]]
    inner += [spec[key] for key in ("body", "sig") if spec.get(key)]
    for s in inner:
        found += every(s)
    return found
