# SPDX-License-Identifier: Apache-2.0
"""Runs of one migration over 50,000 records on C and Python workers, with faults at moments that a seed says.

In each run every kind of fault strikes at least once: workers are killed, or stopped for longer than the lease and then go
on; every message comes once more; Redis loses everything; PostgreSQL is restarted. Nothing is done for a run but starting
a worker in the place of one that was killed. Beside the 50,000 there are 20 records of each other outcome."""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import random
import signal
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from .parcels import create_options, postgres_database, scatter_plan
from .postgres_server import PostgresServer
from .redis_server import RedisServer
from .reports import check_parts, report, truth
from .site import LEASE, Site
from .waiting import wait_until
from .workers import ROOT, Worker, WorkerFactory, compile_plugin

N_BATCHES = 10
STRIDE = 2504  # 2,500 that change, and one of each other outcome
BATCH = 2 * STRIDE
N_ROWS = N_BATCHES * BATCH
N_CHANGED = 50_000
N_PLANTED = N_ROWS // STRIDE
DISTURBED_S = 4.0
LEASE_S = float(LEASE.removesuffix("s"))
END_S = 90.0
KINDS = ("celeryc", "celeryc", "python")
QUERY = "SELECT id, name FROM marked ORDER BY id"
HELD = "?virtual_host=1"  # the database in Redis where messages are made, so that a run has all of them

TABLE = (
    "CREATE TABLE marked (id bigint PRIMARY KEY, name text NOT NULL, done int, changes int NOT NULL DEFAULT 0, "
    "CONSTRAINT no_bad CHECK (done IS NULL OR name <> 'bad'))",
    "CREATE FUNCTION counted() RETURNS trigger LANGUAGE plpgsql AS "
    "$$BEGIN NEW.changes := OLD.changes + 1; RETURN NEW; END$$",
    "CREATE TRIGGER counted BEFORE UPDATE OF done ON marked FOR EACH ROW EXECUTE FUNCTION counted()",
)
PLANTED = {"bad": 100, "skip": 500, "same": 900, "late": 1300}  # the place in each stride
ROWS = (
    "INSERT INTO marked (id, name) SELECT i, CASE i % "
    f"{STRIDE} {' '.join(f'WHEN {at} THEN {name!r}' for name, at in PLANTED.items())} "
    f"ELSE 'record ' || i END FROM generate_series(1, {N_ROWS}) i"
)
COUNTS = {
    "planned": N_ROWS,
    "ok": N_CHANGED,
    "unchanged": N_PLANTED,
    "stale": N_PLANTED,
    "skipped": N_PLANTED,
    "quarantined": N_PLANTED,
    "remaining": 0,
}


@dataclass
class Story:
    """What has happened in a run."""

    seed: int
    seconds: float = 0.0
    struck: Counter[str] = field(default_factory=Counter)  # faults while the plan was open
    missed: Counter[str] = field(default_factory=Counter)  # and after its end
    again: int = 0  # batches that were claimed more than once
    both: int = 0  # batches that both kinds of workers had a share in
    shares: Counter[str] = field(default_factory=Counter)  # records by kind of worker

    def __str__(self) -> str:
        faults = " ".join(f"{name}:{n}" for name, n in sorted(self.struck.items()))
        late = f", too late {' '.join(sorted(self.missed))}" if self.missed else ""
        shares = ", ".join(f"{n} {kind}" for kind, n in sorted(self.shares.items()))
        return (
            f"seed {self.seed}: {self.seconds:.1f} s, {faults}{late}; {self.again} batches claimed again, "
            f"{self.both} by both kinds; {shares}"
        )


class FaultSite(Site):
    """Servers and workers that live through many runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.frozen: list[Worker] = []
        self.alive: list[Worker] = []
        self.messages: list[bytes] = []
        folder.mkdir(parents=True)
        redis, self.postgres = RedisServer(folder / "redis"), PostgresServer()
        factory = WorkerFactory(folder / "workers", [])
        database = postgres_database(self.postgres, f"faults_{uuid.uuid4().hex[:8]}")
        super().__init__(redis, factory, database, folder)
        self.env["SCATTER_SWEEP"] = "1s"
        database.run(*TABLE)
        self.plugin = compile_plugin(folder / "faults.so", ROOT / "interop_tests/plugin_faults")
        self.alive = [self.launch(kind) for kind in KINDS]
        for worker in self.alive:
            worker.wait_ready()

    def launch(self, kind: str) -> Worker:
        if kind == "celeryc":
            env = self.env | {"SCATTER_DATABASE": self.database.url}
            return self.workers.start(kind, self.url, env=env, plugins=[self.plugin], wait=False)
        env = self.env | self.database.django
        return self.workers.start(kind, self.url, env=env, app="scatter_app", wait=False)

    def close(self) -> None:
        for worker in self.frozen:
            self.signal(worker, signal.SIGCONT)
        self.workers.stop_all()
        self.postgres.stop()
        self.redis.stop()

    def make_plan(self, name: str) -> None:
        """A plan whose messages are kept here as well. The application changes some records behind its back."""
        self.database.run("TRUNCATE marked", ROWS)
        options = create_options(
            self.database, self.store, self.url, name, BATCH, QUERY, "faults.mark"
        )
        done = scatter_plan(*options, "-A", self.plugin, "--no-enqueue", env=self.environment)
        assert done.returncode == 0, done.stderr
        self.database.run("UPDATE marked SET name = 'changed' WHERE name = 'late'")
        done = scatter_plan(
            "enqueue", name, "--database-url", self.database.url, "-b", self.url + HELD
        )
        assert done.returncode == 0, done.stderr
        held = self.redis.client(1)
        self.messages = held.lrange("celery", 0, -1)
        assert len(self.messages) == N_BATCHES
        held.flushdb()
        self.redis.client().lpush("celery", *reversed(self.messages))

    # ---- faults ----

    def signal(self, worker: Worker, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.process.pid, number)

    def kill(self, chance: random.Random) -> None:
        """Somebody who is not stopped: that one is to wake up."""
        victim = chance.choice([w for w in self.alive if w not in self.frozen]).wait_ready()
        self.signal(victim, signal.SIGKILL)
        victim.process.stop(0)
        self.alive[self.alive.index(victim)] = self.launch(victim.kind)

    def holders(self) -> set[str]:
        """The nodes whose names stand in a batch that is being worked on."""
        try:
            rows = self.database.query(
                "SELECT worker FROM scatter_batch WHERE state = 'running' AND worker IS NOT NULL"
            )
        except psycopg.OperationalError:
            return set()
        return {str(worker) for (worker,) in rows}

    def frozen_hold(self) -> bool:
        return bool(self.holders() & {w.node for w in self.frozen})

    def freeze(self, chance: random.Random) -> None:
        """Somebody who has work, if anybody has."""
        holders = self.holders()
        busy = [w for w in self.alive if w.node in holders]
        victim = chance.choice(busy or self.alive).wait_ready()
        self.signal(victim, signal.SIGSTOP)
        self.frozen.append(victim)

    def thaw(self, chance: random.Random) -> None:
        """Its batches were taken over meanwhile, and it believes that they are its own."""
        for worker in self.frozen:
            self.signal(worker, signal.SIGCONT)
        self.frozen.clear()

    def twins(self, chance: random.Random) -> None:
        """Every message of the plan once more, whatever has become of it."""
        for raw in self.messages:
            twin = json.loads(raw)
            twin["properties"]["delivery_tag"] = str(uuid.uuid4())
            self.redis.client().lpush("celery", json.dumps(twin))

    def flush(self, chance: random.Random) -> None:
        self.redis.client().flushall()

    def restart(self, chance: random.Random) -> None:
        self.postgres.restart()

    # ---- the end ----

    def state(self, plan: str) -> str:
        try:
            return str(
                self.database.query(f"SELECT state FROM scatter_plan WHERE plan = '{plan}'")[0][0]
            )
        except psycopg.OperationalError:  # while the server is restarted
            return ""

    def check(self, plan: str, n_rows: int = N_ROWS) -> None:
        """By the table's own counter, by the control tables, by the audit and by the report."""
        planted = ", ".join(str(at) for at in PLANTED.values())
        changed = f"CASE WHEN id % {STRIDE} IN ({planted}) THEN 0 ELSE 1 END"
        wrong = self.database.query(
            f"SELECT id, name, changes FROM marked WHERE changes <> {changed} OR "
            f"coalesce(done, 0) <> {changed} LIMIT 5"
        )
        assert wrong == [], "records that did not change exactly once"
        assert self.database.batches(plan) == {"done": N_BATCHES}
        assert truth(self.database, plan) == COUNTS
        for outcome, name in (("quarantined", "bad"), ("skipped", "skip"), ("stale", "late")):
            keys = self.database.query(
                f"SELECT record_key::bigint FROM scatter_outcome WHERE plan = '{plan}' "
                f"AND outcome = '{outcome}' ORDER BY 1"
            )
            assert keys == [(PLANTED[name] + STRIDE * i,) for i in range(N_PLANTED)], outcome
        self.check_audit(plan)
        first = report(self, self.folder, plan)
        assert first["counts"] == COUNTS
        check_parts(self, self.folder, plan)
        assert report(self, self.folder, plan)["sha256"] == first["sha256"]

    def check_audit(self, plan: str) -> None:
        target = ("--database-url", self.database.url)
        done = scatter_plan("audit", plan, *target, "--files", "--format", "json")
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        assert (found["holds"], found["files_checked"]) == (True, N_BATCHES)
        assert {name: found[name] for name in COUNTS} == COUNTS

    def tell(self, story: Story, plan: str) -> None:
        where = f"WHERE plan = '{plan}'"
        query = self.database.query
        story.again = query(f"SELECT count(*) FROM scatter_batch {where} AND attempts > 1")[0][0]
        kind = "CASE WHEN worker LIKE 'celeryc%' THEN 'celeryc' ELSE 'python' END"
        shares = query(
            f"SELECT batch, {kind}, sum(records) FROM scatter_share {where} GROUP BY 1, 2"
        )
        for _, name, records in shares:
            story.shares[name] += int(records)
        story.both = len(shares) - len({batch for batch, _, _ in shares})
        assert sum(story.shares.values()) == N_ROWS


FAULTS: dict[str, Callable[[FaultSite, random.Random], None]] = {
    "kill": FaultSite.kill,
    "freeze": FaultSite.freeze,
    "thaw": FaultSite.thaw,
    "twins": FaultSite.twins,
    "flush": FaultSite.flush,
    "restart": FaultSite.restart,
}


class Schedule:
    """What is due when, in seconds from the first message on. A restart of PostgreSQL cuts the connections of frozen workers,
    which then wake up harmless: mostly it comes behind that."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        frozen = chance.uniform(0.2, 1.0)
        self.longest = frozen + LEASE_S + 3.0
        self.late_restart = chance.random() < 0.75
        self.due = [(frozen, "freeze"), (frozen + LEASE_S + 0.1, "thaw")]
        others = ["twins", "flush", *["kill"] * chance.randint(1, 3)]
        if not self.late_restart:
            others.append("restart")
        self.due += [(chance.uniform(0.0, DISTURBED_S), name) for name in others]
        heapq.heapify(self.due)

    def put(self, at: float, name: str) -> None:
        heapq.heappush(self.due, (at, name))


def disturb(site: FaultSite, plan: str, chance: random.Random, story: Story) -> None:
    schedule = Schedule(chance)
    began = time.monotonic()
    while schedule.due:
        at, name = heapq.heappop(schedule.due)
        wait_until(lambda at=at: time.monotonic() - began >= at, "the time of a fault")  # type: ignore[misc]
        # A frozen worker wakes up while its successor is at work, if there is one in time.
        if name == "thaw" and at < schedule.longest and site.frozen_hold():
            schedule.put(at + 0.05, "thaw")
            continue
        (story.missed if site.state(plan) == "finished" else story.struck)[name] += 1
        FAULTS[name](site, chance)
        if name == "thaw" and schedule.late_restart:
            schedule.put(at + chance.uniform(0.0, 1.0), "restart")


def run(site: FaultSite, seed: int) -> Story:
    chance, story = random.Random(seed), Story(seed)
    plan = f"run-{seed}-{uuid.uuid4().hex[:6]}"
    began = time.monotonic()
    site.make_plan(plan)
    try:
        disturb(site, plan, chance, story)
        wait_until(lambda: site.state(plan) == "finished", "the end of the plan", END_S)
        site.check(plan)
        site.tell(story, plan)
    except AssertionError as e:
        batches = site.database.query(
            "SELECT batch, state, position, owner, lease_until, sent_at, attempts, error "
            f"FROM scatter_batch WHERE plan = '{plan}' AND state <> 'done'"
        )
        events = site.database.query(
            f"SELECT id, at, batch, who, event, detail FROM scatter_event WHERE plan = '{plan}' "
            "ORDER BY id DESC LIMIT 20"
        )
        text = (
            f"{story}: {site.state(plan)}: {traceback.format_exc(limit=-2)}\n"
            f"open batches: {batches}\nlast events: {events}\nlogs: {site.folder}/workers"
        )
        raise AssertionError(text) from e
    story.seconds = time.monotonic() - began
    return story
