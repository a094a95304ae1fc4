# SPDX-License-Identifier: Apache-2.0
"""Randomized faults over 50,000 records on C and Python workers: each record changes exactly once, and every run ends by
itself.

A seed says what happens when: workers are killed, or stopped for longer than the lease and then go on; every message is
there twice; Redis loses everything; PostgreSQL is restarted. A run that fails is run again with FAULT_SEED=<seed>
FAULT_RUNS=1. Nothing is done for a run but starting a worker in the place of one that was killed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from harness.parcels import Database, create_options, postgres_database, scatter_plan
from harness.postgres_server import PostgresServer
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.workers import ROOT, Worker, WorkerFactory, compile_plugin

N_ROWS = 50_000
BATCH = 2_000
RATE = 25_000  # records a second, so that a run lasts long enough to be disturbed
LEASE_S = 3.0
DEADLINE_S = 90.0
KINDS = ("celeryc", "celeryc", "python")
QUERY = "SELECT id, name FROM marked ORDER BY id"

TABLE = (
    "CREATE TABLE marked (id bigint PRIMARY KEY, name text NOT NULL, done int, changes int NOT NULL DEFAULT 0)",
    "CREATE FUNCTION counted() RETURNS trigger LANGUAGE plpgsql AS "
    "$$BEGIN NEW.changes := OLD.changes + 1; RETURN NEW; END$$",
    "CREATE TRIGGER counted BEFORE UPDATE OF done ON marked FOR EACH ROW EXECUTE FUNCTION counted()",
)
ROWS = f"INSERT INTO marked (id, name) SELECT i, 'record ' || i FROM generate_series(1, {N_ROWS}) i"


class Site:
    """Servers and workers that live through many runs."""

    def __init__(
        self, redis: RedisServer, postgres: PostgresServer, workers: WorkerFactory, folder: Path
    ) -> None:
        self.redis = redis
        self.postgres = postgres
        self.workers = workers
        self.database: Database = postgres_database(postgres, f"faults_{uuid.uuid4().hex[:8]}")
        self.database.run(*TABLE)
        self.plugin = compile_plugin(folder / "faults.so", ROOT / "interop_tests/plugin_faults")
        self.store = folder / "store"
        self.store.mkdir()
        self.env = {"SCATTER_LEASE": f"{LEASE_S:g}s", "SCATTER_SWEEP": "1s"}
        self.alive: list[Worker] = [self.start(kind) for kind in KINDS]
        for worker in self.alive:
            worker.wait_ready()

    def start(self, kind: str) -> Worker:
        url = self.redis.socket_url()
        if kind == "celeryc":
            env = self.env | {"SCATTER_DATABASE": self.database.url}
            return self.workers.start(kind, url, env=env, plugins=[self.plugin], wait=False)
        env = self.env | self.database.django
        return self.workers.start(kind, url, env=env, app="scatter_app", wait=False)

    def plan(self, name: str) -> None:
        self.database.run("TRUNCATE marked", ROWS)
        options = create_options(
            self.database, f"file://{self.store}", self.redis.socket_url(), name, BATCH, QUERY, "faults.mark"
        )  # fmt: skip
        done = scatter_plan(*options, "-A", self.plugin, "--no-enqueue", env=os.environ | self.env)
        assert done.returncode == 0, done.stderr
        self.database.run(f"UPDATE scatter_plan SET rate = {RATE} WHERE plan = '{name}'")
        done = scatter_plan(
            "enqueue", "--plan", name, "--database-url", self.database.url, "-b",
            self.redis.socket_url(),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    # ---- faults ----

    def kill(self, chance: random.Random) -> None:
        victim = chance.choice(self.alive)
        victim.wait_ready()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(victim.process.pid, signal.SIGKILL)
        victim.process.stop(0)
        self.alive[self.alive.index(victim)] = self.start(victim.kind)

    def freeze(self, chance: random.Random) -> None:
        """Past the lease; its batches are taken over meanwhile, and it wakes up believing that they are its own."""
        victim = chance.choice(self.alive)
        os.killpg(victim.process.pid, signal.SIGSTOP)
        end = time.monotonic() + LEASE_S + chance.uniform(0.2, 1.5)
        wait_until(lambda: time.monotonic() > end, "the lease of the frozen worker is over")
        os.killpg(victim.process.pid, signal.SIGCONT)

    def twins(self, chance: random.Random) -> None:
        r = self.redis.client()
        for raw in r.lrange("celery", 0, -1):
            twin = json.loads(raw)
            twin["properties"]["delivery_tag"] = str(uuid.uuid4())
            r.lpush("celery", json.dumps(twin))

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

    def check(self, plan: str) -> None:
        wrong = self.database.query("SELECT id, changes FROM marked WHERE changes <> 1 LIMIT 5")
        assert wrong == [], "records that did not change exactly once"
        counts = self.database.counts(plan)
        assert counts["planned"] == counts["position"] == N_ROWS
        assert [counts[k] for k in ("unchanged", "stale", "skipped", "quarantined")] == [0] * 4
        assert self.database.batches(plan) == {"done": N_ROWS // BATCH}
        (shares,) = self.database.query(
            f"SELECT sum(records) FROM scatter_share WHERE plan = '{plan}'"
        )[0]
        assert int(shares) == N_ROWS


FAULTS = (Site.kill, Site.freeze, Site.twins, Site.flush, Site.restart)


def run(site: Site, seed: int, n_faults: int) -> None:
    chance = random.Random(seed)
    plan = f"run-{seed}-{uuid.uuid4().hex[:6]}"
    site.plan(plan)
    for fault in chance.sample(FAULTS, n_faults):
        at = time.monotonic() + chance.uniform(0.0, 1.0)
        wait_until(lambda at=at: time.monotonic() > at, "the time of the next fault")  # type: ignore[misc]
        fault(site, chance)
    try:
        wait_until(lambda: site.state(plan) == "finished", "the end of the plan", DEADLINE_S)
        site.check(plan)
    except AssertionError as e:
        batches = site.database.query(
            "SELECT batch, state, position, owner, lease_until, sent_at, attempts, error "
            f"FROM scatter_batch WHERE plan = '{plan}' AND state <> 'done'"
        )
        raise AssertionError(
            f"seed {seed}, {site.state(plan)}: {e}\nopen batches: {batches}"
        ) from e


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("faults")
    redis = RedisServer(folder / "redis")
    postgres = PostgresServer()
    workers = WorkerFactory(folder / "workers", [])
    try:
        yield Site(redis, postgres, workers, folder)
    finally:
        workers.stop_all()
        postgres.stop()
        redis.stop()


def test_faults(site: Site) -> None:
    """Two runs with all five faults, in an order of their own."""
    for seed in (1, 2):
        run(site, seed, len(FAULTS))


@pytest.mark.chaos
@pytest.mark.timeout(3 * 3600)
def test_many_faults(site: Site) -> None:
    first, n = int(os.environ.get("FAULT_SEED", "100")), int(os.environ.get("FAULT_RUNS", "200"))
    for seed in range(first, first + n):
        run(site, seed, 2)
