# SPDX-License-Identifier: Apache-2.0
"""The governor with a real streaming replica whose replay is held up: the workers slow down, say why, and recover."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from harness.migrations import Site, test_migrations
from harness.parcels import MIGRATIONS, create_options, postgres_database, scatter_plan
from harness.postgres_server import PostgresServer, program
from harness.processes import Process
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.workers import WorkerFactory

LIMIT_MB = 8.0


class Replica:
    """A hot standby of a PostgresServer, on a socket folder of its own beside the primary's."""

    def __init__(self, primary: PostgresServer) -> None:
        self.folder = primary.folder
        self.data = self.folder / "replica"
        run: list[str | Path] = [*primary.drop, program("pg_basebackup"), "-D", self.data, "-h", self.folder, "-U", "postgres", "-R", "-c", "fast"]  # fmt: skip
        subprocess.run(run, check=True, cwd=self.folder, stdout=subprocess.DEVNULL)
        self.process = Process(
            "replica",
            [
                *primary.drop, program("postgres"), "-D", self.data, "-k", self.folder,
                "-c", "listen_addresses=", "-c", "port=5433", "-c", "fsync=off",
                "-c", "cluster_name=db-3", "-c", "max_connections=100",
            ],
            self.folder,
        )  # fmt: skip
        wait_until(self._answers, "the replica answers", 30)

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host=str(self.folder), port=5433, user="postgres", dbname="postgres", autocommit=True
        )

    def _answers(self) -> bool:
        assert self.process.alive, self.process.log_tail()
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def run(self, sql: str) -> None:
        with self.connect() as c:
            c.execute(sql.encode())

    def stop(self) -> None:
        self.process.send_signal(3)
        self.process.stop()


@pytest.fixture
def primary() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.stop()


def lag_mb(server: PostgresServer) -> float:
    with server.connect("postgres") as c:
        row = c.execute(
            "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) FROM pg_stat_replication"
        ).fetchone()
    return float(row[0] or 0) / 2**20 if row else 0.0


def test_delayed_replica(
    redis_server: RedisServer, workers: WorkerFactory, primary: PostgresServer, tmp_path: Path
) -> None:
    """Replay stands still while a plan is running: the lag stays below twice the limit. It goes on: the rate recovers."""
    database = postgres_database(primary, f"governed_{uuid.uuid4().hex[:8]}")
    database.fill(60_000)
    replica = Replica(primary)
    (tmp_path / "store").mkdir()
    url = redis_server.socket_url()

    def governor(*words: str) -> dict[str, Any]:
        done = scatter_plan("governor", *words, "--database-url", database.url, "--format", "json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    try:
        env = {"SCATTER_SWEEP": "1s", "SCATTER_DATABASE": database.url}
        for _ in range(2):
            workers.start("celeryc", url, env=env, plugins=[MIGRATIONS])
        governor("set", f"max_lag_mb={LIMIT_MB:g}", "critical=100", "floor=500")
        wait_until(lambda: governor()["holder"], "a governor is elected", 20)
        options = create_options(database, f"file://{tmp_path / 'store'}", url, "p1", 1000)
        assert scatter_plan(*options, "--no-enqueue").returncode == 0
        # A rate that makes about 2 MB of WAL a second.
        target = ("--database-url", database.url)
        assert scatter_plan("set", "p1", "rate=6000", *target).returncode == 0
        replica.run("SELECT pg_wal_replay_pause()")
        assert scatter_plan("enqueue", "p1", *target, "-b", url).returncode == 0
        most = 0.0

        def pressed() -> bool:
            nonlocal most
            most = max(most, lag_mb(primary))
            return "replica" in governor()["reason"]

        wait_until(pressed, "the governor slows the workers down", 60)
        assert "MB" in governor()["reason"]
        end = time.monotonic() + 5

        def looked_on() -> bool:
            nonlocal most
            most = max(most, lag_mb(primary))
            return time.monotonic() > end

        wait_until(looked_on, "five seconds more")
        assert most < 2 * LIMIT_MB, f"{most:.1f} MB behind"
        replica.run("SELECT pg_wal_replay_resume()")
        wait_until(lambda: database.counts("p1")["position"] == 60_000, "the rate recovers", 100)
        (throttled,) = database.query("SELECT sum(throttled_ms) FROM scatter_batch")[0]
        assert throttled > 1000
        database.check_parcels()
    finally:
        replica.stop()


def test_kill_switch(
    redis_server: RedisServer, workers: WorkerFactory, primary: PostgresServer, tmp_path: Path
) -> None:
    database = postgres_database(primary, f"stopped_{uuid.uuid4().hex[:8]}")
    database.fill(8_000)
    (tmp_path / "store").mkdir()
    url = redis_server.socket_url()
    target = ("--database-url", database.url)
    workers.start("celeryc", url, env={"SCATTER_DATABASE": database.url}, plugins=[MIGRATIONS])
    workers.start("python", url, env=database.django, app="scatter_app")
    options = create_options(database, f"file://{tmp_path / 'store'}", url, "p1", 2000)
    assert scatter_plan("governor", "stop", *target).returncode == 0
    assert scatter_plan(*options, env=dict(os.environ)).returncode == 0

    def position() -> int:
        return database.counts("p1")["position"]

    wait_until(lambda: database.batches("p1").get("running", 0) > 0, "a batch is claimed", 20)
    # What a worker does before it has heard of the switch is one chunk.
    wait_until(
        lambda: database.query("SELECT sum(throttled_ms) > 0 FROM scatter_batch")[0][0],
        "the workers wait", 20,
    )  # fmt: skip
    assert position() < 8_000
    assert scatter_plan("governor", "start", *target).returncode == 0
    wait_until(lambda: position() == 8_000, "the end", 40)
    database.check_parcels()


@pytest.mark.parametrize("kind", ["python", pytest.param("celeryc", marks=pytest.mark.chaos)])
def test_locks_of_workers_are_seen(
    kind: str,
    redis_server: RedisServer,
    workers: WorkerFactory,
    primary: PostgresServer,
    tmp_path: Path,
) -> None:
    """Whatever the database's settings call its sessions: one that waits for a row, and one for which somebody waits."""
    database = postgres_database(primary, f"locked_{uuid.uuid4().hex[:8]}")
    database.run(
        "CREATE TABLE account (id bigint PRIMARY KEY, word text, changes int NOT NULL DEFAULT 0)",
        "INSERT INTO account SELECT i, 'w' FROM generate_series(1, 4) i",
    )
    database.url += "&application_name=shop" if "?" in database.url else "?application_name=shop"
    database.django["PGAPPNAME"] = "shop"
    site = Site(redis_server, workers, database, tmp_path, [test_migrations(tmp_path)])
    site.env |= {"SCATTER_SWEEP": "1s", "SCATTER_LEASE": "60s"}
    target = ("--database-url", database.url)
    limits = scatter_plan("governor", "set", "max_blocked=1000", "max_lock_waits=1000", *target)
    assert limits.returncode == 0, limits.stderr

    def seen(sensor: str) -> bool:
        return bool(json.loads(database.query("SELECT sensors FROM scatter_governor")[0][0]).get(sensor))  # fmt: skip

    go, told = tmp_path / "go", tmp_path / "told"
    options = [f"{name}={value}" for name, value in (("file", told), ("go", go), ("at", 4))]
    with primary.connect(database.name) as other, primary.connect(database.name) as waiting:
        other.autocommit = False
        other.execute("SELECT 1 FROM account WHERE id = 2 FOR UPDATE")
        site.start(kind)
        site.plan("p1", "interop.hold", "SELECT id, word FROM account", 4,
                  *(word for o in options for word in ("--param", o)))  # fmt: skip
        wait_until(lambda: seen("lock_waits"), "a worker waits for a lock", 30)
        other.rollback()
        wait_until(lambda: told.exists() and "p1/1/3" in told.read_text(), "it has the locks", 30)
        waiting.pgconn.send_query(b"UPDATE account SET word = 'mine' WHERE id = 2")
        wait_until(lambda: seen("blocked"), "somebody waits for the worker", 30)
        go.touch()
        wait_until(lambda: site.all_done("p1"), "the end", 30)
        waiting.pgconn.finish()
