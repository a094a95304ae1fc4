# SPDX-License-Identifier: Apache-2.0
"""Orders of people reach every worker, in C and Python, while it works: pause, resume, cancel, drain, set."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.parcels import (
    MIGRATIONS,
    Database,
    create_options,
    postgres_database,
    scatter_plan,
    sqlite_database,
)
from harness.postgres_server import PostgresServer
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.workers import WorkerFactory

N_ROWS = 16_000
BATCH = 1_000
OBEYED_S = 2.0


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "sqlite":
        return sqlite_database(tmp_path / "parcels.sqlite3")
    server = request.getfixturevalue("postgres_server")
    return postgres_database(server, f"control_{uuid.uuid4().hex[:8]}")


class Site:
    def __init__(
        self, redis: RedisServer, workers: WorkerFactory, database: Database, folder: Path
    ) -> None:
        self.database = database
        self.url = redis.socket_url()
        self.workers = workers
        self.store = folder / "store"
        self.store.mkdir()
        database.fill(N_ROWS)

    def plan(self, name: str, rate: int | None = 4000) -> None:
        options = create_options(self.database, f"file://{self.store}", self.url, name, BATCH)
        done = scatter_plan(*options, "--no-enqueue")
        assert done.returncode == 0, done.stderr
        if rate:
            self.order("set", name, f"rate={rate}")
        done = scatter_plan("enqueue", name, "--database-url", self.database.url, "-b", self.url)
        assert done.returncode == 0, done.stderr

    def order(self, verb: str, plan: str, *words: str) -> dict[str, Any]:
        broker = [] if verb == "set" else ["-b", self.url]
        done = scatter_plan(
            verb, plan, *words, "--database-url", self.database.url, "--format", "json", *broker
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def start(self, *kinds: tuple[str, int]) -> None:
        for kind, concurrency in kinds:
            env = (
                {"SCATTER_DATABASE": self.database.url}
                if kind == "celeryc"
                else self.database.django
            )
            self.workers.start(
                kind, self.url, env=env, plugins=[MIGRATIONS], app="scatter_app",
                concurrency=concurrency, wait=False,
            )  # fmt: skip
        for worker in self.workers.workers:
            worker.wait_ready()

    def position(self, plan: str) -> int:
        return self.database.counts(plan)["position"]

    def state(self, plan: str) -> str:
        return str(
            self.database.query(f"SELECT state FROM scatter_plan WHERE plan = '{plan}'")[0][0]
        )

    def wait_for_work(self, plan: str, n_running: int) -> None:
        def busy() -> bool:
            running = self.database.batches(plan).get("running", 0)
            return running >= n_running and self.position(plan) > 0

        wait_until(busy, f"{n_running} batches are being worked on", 30)

    def wait_idle(self, plan: str) -> float:
        began = time.monotonic()
        wait_until(lambda: "running" not in self.database.batches(plan), "every lease given up", 20)
        return time.monotonic() - began


@pytest.fixture
def site(
    redis_server: RedisServer, workers: WorkerFactory, database: Database, tmp_path: Path
) -> Site:
    return Site(redis_server, workers, database, tmp_path)


def test_pause_and_resume(site: Site) -> None:
    """Eight batches at a time. Whoever holds no lease can write nothing, so no lease means no more writes."""
    site.start(("celeryc", 6), ("python", 2))
    site.plan("p1")
    site.wait_for_work("p1", 8)
    assert site.order("pause", "p1", "--reason", "lunch") == {
        "plan": "p1", "state": "paused", "changed": True, "sent": 0,
    }  # fmt: skip
    took = site.wait_idle("p1")
    at = site.position("p1")
    assert 0 < at < N_ROWS
    assert took < OBEYED_S, f"{took:.1f} s until the last lease was given up"
    assert site.database.query("SELECT reason FROM scatter_plan") == [("lunch",)]
    assert site.position("p1") == at
    # Cleanly given back: no attempt was counted.
    assert site.database.query(
        "SELECT count(*) FROM scatter_batch WHERE state = 'parked' AND attempts > 0"
    ) == [(0,)]
    site.order("set", "p1", "rate=none")
    assert site.order("resume", "p1")["sent"] > 0
    wait_until(lambda: site.state("p1") == "finished", "the end of the plan", 60)
    site.database.check_parcels()


def test_cancelled_plan_ends_and_reports(site: Site) -> None:
    site.start(("celeryc", 2), ("python", 1))
    site.plan("p1")
    site.wait_for_work("p1", 3)
    assert site.order("cancel", "p1")["state"] == "cancelled"
    site.wait_idle("p1")
    assert set(site.database.batches("p1")) <= {"cancelled", "done"}
    counts = site.database.counts("p1")
    assert 0 < counts["position"] < N_ROWS
    done = scatter_plan("status", "p1", "--database-url", site.database.url, "--format", "json")
    report = json.loads(done.stdout)
    assert report["state"] == "cancelled"
    assert report["remaining"] == N_ROWS - counts["position"]
    refused = scatter_plan("resume", "p1", "--database-url", site.database.url, "-b", site.url)
    assert refused.returncode == 1
    assert "cancelled" in refused.stderr
    changed = site.database.query("SELECT count(*) FROM parcel WHERE changes > 1")
    assert changed == [(0,)]


def test_drain_finishes_what_is_open(site: Site) -> None:
    site.start(("celeryc", 2), ("python", 1))
    site.plan("p1", 2000)
    site.wait_for_work("p1", 3)
    assert site.order("drain", "p1")["state"] in {"draining", "paused"}
    site.order("set", "p1", "rate=none")
    wait_until(lambda: site.state("p1") == "paused", "the plan has drained", 30)
    half = site.database.query(
        "SELECT count(*) FROM scatter_batch WHERE position > 0 AND position < records"
    )
    assert half == [(0,)]
    assert site.order("resume", "p1")["changed"]
    wait_until(lambda: site.state("p1") == "finished", "the end of the plan", 60)
    site.database.check_parcels()


def test_as_many_batches_at_a_time_as_the_plan_allows(site: Site) -> None:
    site.start(("celeryc", 4), ("python", 2))
    site.plan("p1", None)
    most = 0

    def over() -> bool:
        nonlocal most
        most = max(most, site.database.batches("p1").get("running", 0))
        return site.state("p1") == "finished"

    site.order("set", "p1", "workers=2")
    wait_until(lambda: site.database.batches("p1").get("running", 0) <= 2, "two at a time", 20)
    most = 0
    wait_until(over, "the end of the plan", 90)
    assert most <= 2
    site.database.check_parcels()


def test_plan_waits_for_its_window(site: Site) -> None:
    """Made outside of its window it is paused until the sweep sees it begin; at its end workers give it back."""
    away = time.strftime("%a", time.gmtime(time.time() + 3 * 86400))
    target = ("--database-url", site.database.url, "-b", site.url)
    options = create_options(site.database, f"file://{site.store}", site.url, "p1", BATCH)
    site.start(("celeryc", 2), ("python", 1))
    done = scatter_plan(*options, "--window", f"{away} 01:00-05:00 Asia/Ho_Chi_Minh")
    assert done.returncode == 0, done.stderr
    assert "next start" in done.stdout
    site.order("set", "p1", "rate=2000")
    assert scatter_plan("sweep", *target).returncode == 0
    assert site.state("p1") == "paused"
    site.database.run("""UPDATE scatter_plan SET windows = '["daily 00:00-24:00 UTC"]'""")
    assert scatter_plan("sweep", *target).returncode == 0
    assert site.order("resume", "p1")["state"] in {"queued", "running"}
    site.wait_for_work("p1", 2)
    past = "1" if site.database.postgres is None else "'epoch'"
    site.database.run(f"UPDATE scatter_plan SET window_ends = {past}, rate = NULL")
    wait_until(lambda: site.state("p1") == "paused", "the window is over", 20)
    site.wait_idle("p1")
    assert site.position("p1") < N_ROWS
