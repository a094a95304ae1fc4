# SPDX-License-Identifier: Apache-2.0
"""A load that lasts: early-ack and late-ack tasks of mixed durations, pushed at a pace, and what became of each of them."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from .messages import message
from .redis_server import RedisServer
from .waiting import wait_until

PIECE = 200  # messages of one push
MAX_QUEUED = 5000


def duration(r: random.Random) -> float:
    """0 to 3 s: most tasks are tiny, a few are long, so that each kill hits some of them."""
    p = r.random()
    if p < 0.96:
        return 0.0
    return r.uniform(0.05, 0.5) if p < 0.99 else r.uniform(0.5, 3.0)


class Load:
    """`start` pushes until `stop` and until `least` tasks are out. Names are e<n> (early) and l<n> (late), also as ids."""

    def __init__(self, redis: RedisServer, folder: Path, least: int, per_second: float) -> None:
        self.redis = redis
        self.notes = folder / "notes"
        self.failures = folder / "failures"
        self.least = least
        self.per_second = per_second
        self.random = random.Random(1)
        self.sent = 0
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self.stopping.set()
        self.thread.join()

    def ids(self) -> list[str]:
        return [self.name(i) for i in range(self.sent)]

    @staticmethod
    def name(i: int) -> str:
        return f"{'el'[i % 2]}{i}"

    def _message(self, i: int) -> str:
        name = self.name(i)
        errback: dict[str, Any] = {
            "task": "interop.note_failure",
            "args": [str(self.failures)],
            "kwargs": {},
            "options": {},
            "subtask_type": None,
            "immutable": False,
        }
        task = "interop.note" if name[0] == "e" else "interop.note_late"
        args = [str(self.notes), name, duration(self.random)]
        return json.dumps(message(name, task, args, embed={"errbacks": [errback]}))

    def _run(self) -> None:
        client = self.redis.client()
        begun = time.monotonic()

        def due() -> bool:
            on_time = self.sent <= self.per_second * (time.monotonic() - begun)
            return on_time and client.llen("celery") < MAX_QUEUED

        while not self.stopping.is_set() or self.sent < self.least:
            wait_until(due, "the workers make room for more", 120.0)
            client.lpush("celery", *(self._message(self.sent + k) for k in range(PIECE)))
            self.sent += PIECE

    # ---- afterwards ----

    def records(self) -> dict[str, dict[str, Any]]:
        client, found = self.redis.client(), {}
        ids = self.ids()
        for at in range(0, len(ids), 1000):
            part = ids[at : at + 1000]
            values = client.mget([f"celery-task-meta-{name}" for name in part])
            found.update({n: json.loads(v) for n, v in zip(part, values) if v is not None})
        return found

    def n_results(self) -> int:
        """How many tasks have ended, without reading them all."""
        client, n = self.redis.client(), 0
        ids = self.ids()
        for at in range(0, len(ids), 1000):
            n += client.exists(*(f"celery-task-meta-{name}" for name in ids[at : at + 1000]))
        return n

    def runs(self) -> tuple[dict[str, list[int]], set[str]]:
        """By task: the processes that began it, in order; and the tasks that came to their end."""
        begun: dict[str, list[int]] = defaultdict(list)
        ended = set()
        for line in self.notes.read_text().splitlines():
            what, name, pid = line.split()
            if what == "s":
                begun[name].append(int(pid))
            else:
                ended.add(name)
        return begun, ended

    def reported(self) -> set[str]:
        return set(self.failures.read_text().split()) if self.failures.exists() else set()
