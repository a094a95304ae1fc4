# SPDX-License-Identifier: Apache-2.0
"""Runs canvases of canvas_specs.py on workers of any kind and tells how each of them ended: what the client's get() gave,
which tasks ran with which arguments, which records are stored; with every id replaced by the mark of its task."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .canvas import Spec
from .canvas_specs import every
from .client import Client
from .fleet import leftovers
from .redis_server import RedisServer
from .waiting import DeadlineError, wait_until
from .workers import WorkerFactory

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
SEED = re.compile(r"\bc(\d+)\.\d+")
# Not parent_id: of a chord's body it is the member that happened to end last. Not group_id: 5.2 has none for a body.
RECORD_KEYS = ("status", "result", "children")
SETTLED_S = 1.0
STUCK_S = 8.0
DEADLINE_S = 120.0
AT_ONCE = 300


def seed_of(mark: str) -> int:
    return int(mark[1:].partition(".")[0])


@dataclass
class Ending:
    """How one canvas ended; equal for equal ends."""

    get: str = "nothing was sent"
    blocks: bool = False  # a worker waited in a task until it was killed
    runs: Counter[str] = field(default_factory=Counter)  # "mark, retries, arguments"
    records: Counter[str] = field(default_factory=Counter)  # "mark: record"
    retried_by_python: set[str] = field(default_factory=set)  # marks
    run_by_debian: set[str] = field(default_factory=set)  # marks


@dataclass
class Run:
    """One line of the tasks' log."""

    mark: str
    task_id: str
    retries: str
    node: str
    digest: str
    args: str


class Names:
    """Ids to marks. An id that is in no canvas and never ran becomes '?'."""

    def __init__(self) -> None:
        self.marks: dict[str, str] = {}

    def take_specs(self, specs: Iterable[Spec]) -> None:
        for top in specs:
            for s in every(top):
                if "task_id" in s["options"]:
                    self.marks[s["options"]["task_id"]] = s["kwargs"]["mark"]

    def take_runs(self, runs: Sequence[Run]) -> None:
        for run in runs:
            if run.task_id != "-":
                self.marks.setdefault(run.task_id, run.mark)

    def rename(self, text: str) -> str:
        return UUID.sub(lambda m: self.marks.get(m[0], "?"), text)


class CanvasFleet:
    """Workers of the kinds given on one queue of a Redis of their own."""

    def __init__(
        self,
        folder: Path,
        kinds: Sequence[str],
        plugin: Path,
        *,
        concurrency: int = 2,
        client_version: str = "celery-5.7",
    ) -> None:
        self.folder = folder
        self.redis = RedisServer(folder / "redis")
        self.log = folder / "canvas.log"
        self.log.touch()
        self.read = 0
        self.shares: Counter[str] = Counter()  # runs, by kind of worker
        self.unknown: Counter[str] = Counter()  # records that belong to no canvas for sure
        self.kinds = list(kinds)
        self.concurrency = concurrency
        self.factory = WorkerFactory(folder / "workers", [plugin])
        self._start(*kinds)
        url = self.redis.socket_url()
        self.client = Client(client_version, url, url)

    def _start(self, *kinds: str) -> None:
        for kind in kinds:
            self.factory.start(
                kind,
                self.redis.socket_url(),
                app="fleet_app",
                concurrency=self.concurrency,
                env={"CANVAS_LOG": str(self.log)},
                wait=False,
            )
        for worker in self.factory.workers:
            worker.wait_ready()

    def close(self) -> None:
        self.client.close()
        self.factory.stop_all()
        self.redis.stop()

    def run(self, specs: Mapping[int, Spec]) -> dict[int, Ending]:
        """Sends all of them, some at a time, waits until nothing moves any more, and reads how they ended."""
        endings: dict[int, Ending] = {}
        seeds = list(specs)
        for i in range(0, len(seeds), AT_ONCE):
            endings |= self._run_some({seed: specs[seed] for seed in seeds[i : i + AT_ONCE]})
        return endings

    def _run_some(self, specs: Mapping[int, Spec]) -> dict[int, Ending]:
        sent = {seed: self.client.request("send_canvas", spec=s) for seed, s in specs.items()}
        stuck = self._settle()
        if stuck:
            return self._run_without(stuck, specs)
        gets = self.client.request("ends", keys=[k for k in sent.values() if k is not None])
        runs = self._new_runs()
        names = Names()
        names.take_specs(specs.values())
        names.take_runs(runs)
        kinds = {worker.node: worker.kind for worker in self.factory.workers}
        endings = {seed: Ending() for seed in specs}
        for seed, key in sent.items():
            if key is not None:
                endings[seed].get = names.rename(gets[key])
        for run in runs:
            if run.node in kinds:
                self.shares[kinds[run.node]] += 1
            args = names.rename(run.args) if UUID.search(run.args) else run.digest
            line = f"{run.mark}, {run.retries} retries, {args}"
            endings[seed_of(run.mark)].runs[line] += 1
        self._read_records(names, endings)
        last = {run.task_id: run.retries for run in runs}
        for run in runs:
            if kinds.get(run.node) == "debian":
                endings[seed_of(run.mark)].run_by_debian.add(run.mark)
            if run.retries < last[run.task_id] and kinds.get(run.node) != "celeryc":
                endings[seed_of(run.mark)].retried_by_python.add(run.mark)
        return endings

    def _settle(self) -> dict[str, str]:
        """Waits until nothing is queued or claimed and nothing runs. Or else until nothing has moved for long: then the
        tasks that still run wait for what will never come, and these are given, with their workers."""
        r = self.redis.client()
        last: object = None
        since = time.monotonic()
        stuck: dict[str, str] = {}

        def quiet(seconds: float) -> bool:
            nonlocal last, since
            now = (leftovers(self.redis, 0), self.log.stat().st_size)
            if now != last:
                last, since = now, time.monotonic()
            return (not now[0] or seconds == STUCK_S) and time.monotonic() - since > seconds

        def settled() -> bool:
            nonlocal stuck
            if not quiet(SETTLED_S) and not quiet(STUCK_S):
                return False
            stuck = self.client.request("active", n_workers=len(self.kinds))
            return quiet(STUCK_S) if stuck else quiet(SETTLED_S)

        try:
            wait_until(settled, "all canvases ended", DEADLINE_S)
        except DeadlineError as e:
            held = [v[:3000] for v in r.hvals("unacked")[:3]]
            raise AssertionError(f"{e}: {last}, running {stuck}, held {held}") from None
        for key in [] if stuck else r.keys("celeryc:*"):
            assert key.startswith((b"celeryc:worker:", b"celeryc:workers")), (
                f"{key!r} is left: {r.hgetall(key) if r.type(key) == b'hash' else r.type(key)}"
            )
        return stuck

    def _run_without(
        self, stuck: Mapping[str, str], specs: Mapping[int, Spec]
    ) -> dict[int, Ending]:
        """A blocked Celery worker is killed; as that loses messages, all but what blocks it starts again."""
        names = Names()
        names.take_runs(self._new_runs())
        blocking = {seed_of(names.marks[task_id]) for task_id in stuck}
        for worker in self.factory.workers:
            assert worker.kind != "celeryc" or worker.node not in stuck.values(), f"{stuck} stuck"
        self.factory.stop_all()
        self.redis.client().flushall()
        self._start(*self.kinds)
        self.client.request("ends", keys=[])
        rest = self._run_some({s: spec for s, spec in specs.items() if s not in blocking})
        return rest | {seed: Ending(blocks=True) for seed in blocking}

    def _new_runs(self) -> list[Run]:
        text = self.log.read_bytes()[self.read :]
        self.read += len(text)
        runs = [Run(*line.split("\t")) for line in text.decode().splitlines()]
        return [run for run in runs if run.mark != "-"]  # celery.starmap calls functions in place

    def _read_records(self, names: Names, endings: dict[int, Ending]) -> None:
        r = self.redis.client()
        prefix = "celery-task-meta-"
        keys = [k.decode() for k in r.scan_iter(f"{prefix}*", count=1000)]
        for key, text in zip(keys, r.mget(keys) if keys else [], strict=True):
            record = json.loads(text)
            kept = {k: record[k] for k in RECORD_KEYS if k in record}
            if record["status"] == "FAILURE":
                del kept["children"]  # of a failed chord: those of the member that ended last
            line = names.rename(f"{key.removeprefix(prefix)}: {json.dumps(kept)}")
            seed = SEED.search(line)
            if seed:
                endings[int(seed[1])].records[line] += 1
            else:  # the id of a group, with a reason that names no member
                self.unknown[line] += 1
        stale = [*keys, *r.keys("celery-taskset-meta-*")]
        if stale:
            r.delete(*stale)
