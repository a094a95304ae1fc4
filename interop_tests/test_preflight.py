# SPDX-License-Identifier: Apache-2.0
"""Migrations whose new values no function computes, a file of SQL, statements of their own, calls to the outside: their dry
runs, their own checks of what was done, and how it is taken back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from harness.migrations import Site
from harness.parcels import scatter_plan
from harness.waiting import wait_until

N_ROWS = 5000
QUERY = "SELECT id, word FROM account"


@pytest.fixture
def site(own_site: Site) -> Site:
    own_site.database.run(
        "CREATE TABLE account (id bigint PRIMARY KEY, word text, changes int NOT NULL DEFAULT 0)",
        "CREATE TABLE entry (account bigint, word text CHECK (word <> 'bad'))",
        f"WITH RECURSIVE g (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM g WHERE i < {N_ROWS}) "
        "INSERT INTO account (id, word) SELECT i, CASE WHEN i % 25 = 7 THEN 'bad' ELSE 'w' || i END FROM g",
    )
    return own_site


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


@pytest.mark.parametrize("empty_database", ["postgresql"], indirect=True)
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


# ---- checks of their own ----


def verify(site: Site, *more: str) -> tuple[int, dict[str, Any]]:
    words = ["verify", "p1", "--database-url", site.database.url, "--format", "json", *more]
    done = scatter_plan(*words, "-A", str(site.plugins[0]), env=os.environ | site.env)
    assert done.returncode in (0, 3), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, found


def run_plan(site: Site, migration: str, n: int) -> None:
    site.plan("p1", migration, f"{QUERY} WHERE id <= {n}", n // 2, "--max-failure-rate", "off")
    site.start("celeryc")
    wait_until(lambda: site.all_done("p1"), "every batch done", 60)


def test_a_check_function_judges_what_was_done(site: Site) -> None:
    n = 1200
    run_plan(site, "interop.book", n)
    bad = n // 25
    code, found = verify(site)
    assert code == 0
    assert (found["function"]["checked"], found["function"]["gone"]) == (n - bad, 0)
    assert (found["residue"]["judged_by"], found["residue"]["open"]) == ("check", bad)
    site.database.run(
        "UPDATE account SET changes = 2 WHERE id = 600",
        "UPDATE account SET word = 'mine' WHERE id = 9",
        "DELETE FROM account WHERE id = 10",
    )
    code, found = verify(site)
    assert code == 3
    told = found["function"]
    assert dict(zip(told["failed_keys"], told["reasons"])) == {
        "600": "changed 2 times",
        "9": "it was w9",
    }
    assert (told["failed"], told["gone"], found["ok"]) == (2, 1, False)
    code, found = verify(site, "--sample", "100", "--no-residue")
    assert found["function"]["checked"] == (n - bad) // 12
    assert found["residue"] is None


CHECK = """
-- check:
SELECT o.id, 'it is ' || a.word AS reason FROM old o JOIN account a ON a.id = o.id
WHERE a.word <> upper(o.word)
"""


def test_the_check_of_a_file_of_sql(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "capitals.sql"
    file.write_text(FILE.format(bad="").replace("WHERE id % 10 <> 3", "") + CHECK)
    run_plan(site, f"sql:{file}", 1000)
    code, found = verify(site)
    assert (code, found["function"]["checked"], found["function"]["failed"]) == (0, 1000, 0)
    site.database.run("UPDATE account SET word = 'mine' WHERE id = 777")
    code, found = verify(site)
    assert code == 3
    assert found["function"]["failed_keys"] == ["777"]
    assert found["function"]["reasons"] == ["it is mine"]


def test_a_section_that_is_no_select_is_refused(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "capitals.sql"
    file.write_text(FILE.format(bad="") + "-- check:\nDELETE FROM account")
    options = site.create_options("p1", f"sql:{file}", QUERY, 500)
    done = scatter_plan(*options, env=os.environ | site.env)
    assert done.returncode == 1
    assert 'behind "-- check:" there must be one SELECT' in done.stderr


# ---- taking it back ----


def undo(site: Site, plan: str, child: str) -> dict[str, Any]:
    words = ["undo", plan, "--as", child, "--database-url", site.database.url, "-b", site.url]
    words += ["--store", site.store, "--format", "json", "-A", str(site.plugins[0])]
    done = scatter_plan(*words, env=os.environ | site.env)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    wait_until(lambda: site.all_done(child), f"every batch of {child} done", 60)
    return found


@pytest.mark.parametrize("kind", ["celeryc", "python"])
def test_an_inverse_takes_back_statements(site: Site, kind: str) -> None:
    """The plan runs in C; its inverse in C, and in Python."""
    n = 600
    site.plan("p1", "interop.book", f"{QUERY} WHERE id <= {n}", 300, "--max-failure-rate", "off")
    worker = site.start("celeryc")
    wait_until(lambda: site.all_done("p1"), "every batch done", 60)
    worker.stop()
    site.database.run("UPDATE account SET changes = 5 WHERE id = 500")
    site.start(kind)
    found = undo(site, "p1", "u1")
    bad = n // 25
    assert found["total"] == n - bad
    assert site.database.query("SELECT account FROM entry") == [(500,)]
    assert site.database.query("SELECT id FROM account WHERE changes <> 0") == [(500,)]
    counts = site.database.counts("u1")
    assert (counts["position"], counts["skipped"], counts["stale"]) == (n - bad, 1, 0)
    refused = scatter_plan(
        "undo", "u1", "--database-url", site.database.url, "-b", site.url, "-A",
        str(site.plugins[0]), env=os.environ | site.env,
    )  # fmt: skip
    assert refused.returncode == 1
    assert "an undo by the migration's own inverse" in refused.stderr


def test_without_an_inverse_undo_names_the_fix(site: Site, tmp_path: Path) -> None:
    options = ["--param", f"file={tmp_path / 'told'}"]
    site.plan("p1", "interop.tell", f"{QUERY} WHERE id <= 50", 50, *options)
    site.start("celeryc")
    wait_until(lambda: site.all_done("p1"), "every batch done", 60)
    words = ["undo", "p1", "--database-url", site.database.url, "-b", site.url]
    refused = scatter_plan(*words, "-A", str(site.plugins[0]), env=os.environ | site.env)
    assert refused.returncode == 1
    assert "give it .undo_external" in refused.stderr


def test_a_file_of_sql_is_undone(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "capitals.sql"
    file.write_text(FILE.format(bad=""))
    run_plan(site, f"sql:{file}", 1000)
    before = site.database.query("SELECT id, word FROM account ORDER BY id")
    assert (before[0][1], before[2][1]) == ("W1", "w3")
    site.database.run("UPDATE account SET word = 'mine' WHERE id = 600")
    found = undo(site, "p1", "u1")
    assert found["total"] == 900
    now = dict(site.database.query("SELECT id, word FROM account WHERE id <= 1000"))
    assert [i for i, w in now.items() if w != ("bad" if i % 25 == 7 else f"w{i}")] == [600]
    counts = site.database.counts("u1")
    assert (counts["position"], counts["stale"]) == (900, 1)


UNDO = """
-- check:
SELECT id, 'never' AS reason FROM old WHERE 1 = 0
-- undo:
SELECT id, 0 AS changes FROM old WHERE id <> 4
"""


def test_a_file_of_sql_says_how_it_is_undone(site: Site, tmp_path: Path) -> None:
    """Its column was never read, so that there is no old value."""
    file = tmp_path / "count.sql"
    text = "-- table: account\n-- reads: word\n-- writes: changes\nSELECT id, 7 AS changes FROM old"
    file.write_text(text)
    run_plan(site, f"sql:{file}", 100)
    words = ["undo", "p1", "--database-url", site.database.url, "-b", site.url]
    refused = scatter_plan(*words, env=os.environ | site.env)
    assert refused.returncode == 1
    assert "writes column changes without reading it" in refused.stderr
    file.write_text(text + UNDO)
    site.database.run("UPDATE account SET changes = 0")
    site.plan("p2", f"sql:{file}", f"{QUERY} WHERE id <= 100", 50)
    wait_until(lambda: site.all_done("p2"), "every batch done", 60)
    assert undo(site, "p2", "u2")["total"] == 99
    assert site.database.query("SELECT id FROM account WHERE changes <> 0") == [(4,)]
