# SPDX-License-Identifier: Apache-2.0
"""Functions with statements of their own, and with an effect outside, on killed workers of either kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.migrations import Site, databases_of, test_migrations
from harness.parcels import Database
from harness.postgres_server import PostgresServer
from harness.redis_server import RedisServer
from harness.waiting import wait_until
from harness.workers import WorkerFactory

N_ROWS = 2000
QUERY = "SELECT id, word FROM account"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return test_migrations(tmp_path_factory.mktemp("migrations"))


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return databases_of(request, tmp_path)


@pytest.fixture
def site(
    redis_server: RedisServer,
    workers: WorkerFactory,
    database: Database,
    tmp_path: Path,
    plugin: Path,
) -> Site:
    site = Site(redis_server, workers, database, tmp_path, [plugin])
    database.run(
        "CREATE TABLE account (id bigint PRIMARY KEY, word text, changes int NOT NULL DEFAULT 0)",
        "CREATE TABLE entry (account bigint, word text)",
        f"WITH RECURSIVE g (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM g WHERE i < {N_ROWS}) "
        "INSERT INTO account (id, word) SELECT i, 'w' || i FROM g",
    )
    return site


def kill_in_turn(site: Site, plan: str, kinds: tuple[str, ...]) -> None:
    """Each kind works until the batch has moved, and is killed. What a killed Python worker holds comes back after an hour
    only, so that each has a message of its own."""
    for kind in kinds:
        before = site.database.counts(plan)["position"]
        worker = site.start(kind)
        wait_until(
            lambda: site.database.counts(plan)["position"] > before,  # noqa: B023
            f"{kind} makes progress",
            60,
        )
        worker.process.kill_9()
    assert site.database.counts(plan)["position"] < N_ROWS, "killed too late to mean anything"


def finish(site: Site, plan: str, n_workers: int) -> None:
    site.start("celeryc")
    wait_until(lambda: site.all_done(plan), "every batch done", 60)
    shares = site.database.query("SELECT worker, records FROM scatter_share")
    assert sum(n for _, n in shares) == N_ROWS
    assert len(shares) >= n_workers, shares


def test_a_batch_of_own_statements_changes_hands(site: Site) -> None:
    if site.database.postgres:
        site.database.run(
            "CREATE FUNCTION nap() RETURNS trigger LANGUAGE plpgsql AS "
            "$$BEGIN PERFORM pg_sleep(0.001); RETURN NEW; END$$",
            "CREATE TRIGGER nap BEFORE INSERT ON entry FOR EACH ROW EXECUTE FUNCTION nap()",
        )
    site.plan("p1", "interop.book", QUERY, N_ROWS)
    site.send_twins(3)
    site.database.run("UPDATE account SET word = 'mine' WHERE id = 1999")
    if site.database.postgres:  # SQLite has nothing to slow it down with
        kill_in_turn(site, "p1", ("celeryc", "python", "celeryc"))
    for kind in ("celeryc", "python"):
        site.start(kind)
    wait_until(lambda: site.all_done("p1"), "every batch done", 60)
    counts = site.database.counts("p1")
    assert (counts["position"], counts["stale"], counts["unchanged"]) == (N_ROWS, 1, 0)
    wrong = site.database.query(
        "SELECT a.id, a.changes, count(e.account) FROM account a LEFT JOIN entry e "
        "ON e.account = a.id AND e.word = a.word GROUP BY a.id, a.changes "
        "HAVING a.changes <> 1 OR count(e.account) <> 1"
    )
    assert wrong == [(1999, 0, 0)]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_calls_to_the_outside_are_repeated_only_behind_the_checkpoint(
    site: Site, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    site.plan("p1", "interop.tell", QUERY, N_ROWS, "--param", f"file={told}")
    site.send_twins(2)
    kinds = ("celeryc", "python")
    kill_in_turn(site, "p1", kinds)
    finish(site, "p1", 2)
    calls = Counter(told.read_text().splitlines())
    assert set(calls) == {f"p1/1/{i}" for i in range(N_ROWS)}
    repeated = sum(n - 1 for n in calls.values())
    assert repeated <= 100 * len(kinds), repeated
    assert max(calls.values()) <= 1 + len(kinds)
