# SPDX-License-Identifier: Apache-2.0
"""Dry runs of migrations whose new values no function computes: a file of SQL, statements of their own, calls to the
outside."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.migrations import Site, databases_of, test_migrations
from harness.parcels import Database, scatter_plan
from harness.postgres_server import PostgresServer
from harness.redis_server import RedisServer
from harness.workers import WorkerFactory

N_ROWS = 5000
QUERY = "SELECT id, word FROM account"


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.stop()


@pytest.fixture(scope="module")
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
    site.database.run(
        "CREATE TABLE account (id bigint PRIMARY KEY, word text, changes int NOT NULL DEFAULT 0)",
        "CREATE TABLE entry (account bigint, word text CHECK (word <> 'bad'))",
        f"WITH RECURSIVE g (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM g WHERE i < {N_ROWS}) "
        "INSERT INTO account (id, word) SELECT i, CASE WHEN i % 25 = 7 THEN 'bad' ELSE 'w' || i END FROM g",
    )
    return site


def dry_run(site: Site, migration: str, *more: str) -> tuple[int, dict[str, Any]]:
    options = site.create_options("p1", migration, QUERY, 1000, "--dry-run", *more)
    done = scatter_plan(*options, env=os.environ | site.env)
    assert done.returncode in (0, 3), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, found


def check_of(found: dict[str, Any], name: str) -> dict[str, str]:
    [check] = [c for c in found["preflight"]["checks"] if c["name"] == name]
    return dict(check)


def test_statements_of_its_own_are_tried_and_taken_back(site: Site) -> None:
    _, found = dry_run(site, "interop.book")
    assert site.database.query("SELECT count(*) FROM entry") == [(0,)]
    assert site.database.query("SELECT max(changes) FROM account") == [(0,)]
    told = found["preflight"]
    [error] = told["errors"]
    assert (error["error_class"], error["sqlstate"]) == ("CheckViolation", "23514")
    assert (told["estimated"], error["counted"]) == (True, False)
    assert abs(error["records"] / (N_ROWS // 25) - 1) < 0.25
    assert abs(told["changed"] / (N_ROWS * 0.96) - 1) < 0.05
    assert check_of(found, "errors")["level"] == "warn"
    assert "about 4,8" in found["preflight_text"]
    if site.database.postgres is not None:
        assert told["forecast"]["wal_bytes"] > 0


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_statement_that_can_never_run_blocks(site: Site) -> None:
    site.database.run("DROP TABLE entry")
    code, found = dry_run(site, "interop.book")
    assert code == 3
    assert check_of(found, "statement")["level"] == "block"
    assert "entry" in check_of(found, "statement")["text"]


def test_calls_are_not_made(site: Site, tmp_path: Path) -> None:
    told = tmp_path / "told"
    code, found = dry_run(site, "interop.tell", "--param", f"file={told}")
    assert code == 0
    assert not told.exists()
    assert "none of its 5000 calls was made" in check_of(found, "calls")["text"]
    assert "--canary" in check_of(found, "calls")["fix"]


FILE = """-- table: account
-- key: id
-- reads: word
-- writes: word
SELECT id, upper(word){bad} AS word FROM old WHERE id % 10 <> 3
"""


def test_a_file_of_sql_is_computed(site: Site, tmp_path: Path) -> None:
    postgres = site.database.postgres is not None
    site.database.run(
        "UPDATE account SET word = 'w' || id WHERE word = 'bad'",
        "UPDATE account SET word = 'W22' WHERE id = 12",
        "CREATE UNIQUE INDEX words ON account (word)",
    )
    file = tmp_path / "capitals.sql"
    # A value that PostgreSQL cannot compute for five of the records.
    bad = " || left('', (1 / (id % 1000 - 8))::int)" if postgres else ""
    file.write_text(FILE.format(bad=bad))
    code, found = dry_run(site, f"sql:{file}")
    assert code == 3, "12 and 22 meet"
    told = found["preflight"]
    assert told["estimated"] is False
    assert (told["unchanged"], told["failed"]) == (N_ROWS // 10 + 1, 5 if postgres else 0)
    if postgres:
        counted = [(e["sqlstate"], e["records"]) for e in told["errors"] if e["counted"]]
        assert counted == [("22012", 5)]
        assert told["forecast"]["wal_bytes"] > 0
    collision = next(c for c in told["checks"] if c["level"] == "block")
    assert "words" in collision["text"]
    assert told["pairs"][0] == {"key": "1", "before": {"word": "w1"}, "after": {"word": "W1"}}
    assert site.database.query("SELECT count(*) FROM account WHERE word = 'W' || id") == [(0,)]
