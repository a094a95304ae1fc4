# SPDX-License-Identifier: Apache-2.0
"""Functions with statements of their own, and with an effect outside, on killed workers of either kind."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from harness.migrations import Site
from harness.parcels import Database, scatter_plan
from harness.pgbouncer import PORT, PgBouncer
from harness.waiting import wait_until

N_ROWS = 2000
QUERY = "SELECT id, word FROM account"


@pytest.fixture
def site(own_site: Site) -> Site:
    account_table(own_site.database)
    return own_site


def account_table(database: Database) -> None:
    database.run(
        "CREATE TABLE account (id bigint PRIMARY KEY, word text, changes int NOT NULL DEFAULT 0)",
        "CREATE TABLE entry (account bigint, word text)",
        f"WITH RECURSIVE g (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM g WHERE i < {N_ROWS}) "
        "INSERT INTO account (id, word) SELECT i, 'w' || i FROM g",
    )


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


@pytest.mark.parametrize("empty_database", ["postgresql"], indirect=True)
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


@pytest.mark.parametrize("empty_database", ["postgresql"], indirect=True)
def test_workers_behind_pgbouncer_in_transaction_mode(site: Site) -> None:
    """Four clients share two sessions, which nobody may leave anything in: planner, workers of both kinds, all paths."""
    server = site.database.postgres
    assert server is not None
    bouncer = PgBouncer(server, 2)
    try:
        site.database.url = bouncer.url(site.database.name)
        site.database.django |= {
            "INTEROP_HOST": str(bouncer.folder),
            "INTEROP_PORT": str(PORT),
        }
        site.plan("bulk", "interop.upper", QUERY, 200, "--table", "account", "--key", "id")
        for kind in ("celeryc", "python"):
            site.start(kind, 2)
        wait_until(lambda: site.all_done("bulk"), "every bulk batch done", 60)
        site.plan("row", "interop.book", QUERY, 200)
        wait_until(lambda: site.all_done("row"), "every row batch done", 60)
    finally:
        bouncer.stop()
    for plan in ("bulk", "row"):
        counts = site.database.counts(plan)
        assert (counts["position"], counts["stale"], counts["quarantined"]) == (N_ROWS, 0, 0), plan
    wrong = site.database.query(
        "SELECT a.id FROM account a LEFT JOIN entry e ON e.account = a.id AND e.word = a.word "
        "WHERE a.word <> 'W' || a.id GROUP BY a.id, a.changes HAVING a.changes <> 1 OR count(e.account) <> 1"
    )
    assert wrong == []


FILE = """-- Words in capitals, 100 % of them but one in ten.
-- table: account
-- key: id
-- reads: word
-- writes: word

SELECT id, upper(word){bad} AS word
FROM old
WHERE id % 10 <> 3 -- the rest stays
"""


@pytest.mark.parametrize("kind", ["python", "celeryc"])
def test_a_file_of_sql(site: Site, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "capitals.sql"
    postgres = site.database.postgres is not None
    # A value that PostgreSQL cannot compute for two of the records.
    file.write_text(FILE.format(bad=" || left('', (1 / (id % 1000 - 7))::int)" if postgres else ""))
    site.plan("p1", f"sql:{file}", QUERY, 500)
    site.database.run("UPDATE account SET word = 'mine' WHERE id IN (1999, 13)")
    site.start(kind)
    wait_until(lambda: site.all_done("p1"), "every batch done", 60)
    counts = site.database.counts("p1")
    bad = 2 if postgres else 0
    assert counts == {
        "planned": N_ROWS,
        "position": N_ROWS,
        "unchanged": N_ROWS // 10,
        "stale": 1,
        "skipped": 0,
        "quarantined": bad,
    }
    done = site.database.query("SELECT count(*) FROM account WHERE word = 'W' || id")
    assert done == [(N_ROWS - N_ROWS // 10 - 1 - bad,)]
    if postgres:
        found = site.database.query(
            "SELECT record_key, sqlstate FROM scatter_outcome "
            "WHERE outcome = 'quarantined' ORDER BY 1"
        )
        assert found == [("1007", "22012"), ("7", "22012")]
    assert site.database.query("SELECT statement, version FROM scatter_plan") == [
        (file.read_text(), str(file))
    ]


@pytest.mark.parametrize("empty_database", ["sqlite", "postgresql"], indirect=True)
def test_a_file_of_sql_is_refused_before_anything_is_made(site: Site, tmp_path: Path) -> None:
    for text, why in (
        (FILE.replace("upper(word)", "uper(word)").format(bad=""), "uper"),
        (FILE.replace(" AS word", " AS name").format(bad=""), "word"),
        (FILE.replace("FROM old", "FROM old, nowhere").format(bad=""), "nowhere"),
        (FILE.replace("-- writes: word", "-- rites: word").format(bad=""), "-- writes:"),
        ("-- table: account\n-- writes: word\nUPDATE account SET word = ''", "one SELECT"),
    ):
        file = tmp_path / "bad.sql"
        file.write_text(text)
        done = scatter_plan(
            *site.create_options("p1", f"sql:{file}", QUERY, 500), env=os.environ | site.env
        )
        assert done.returncode == 1, text
        assert why in done.stderr, done.stderr
    assert not list(Path(site.store.removeprefix("file://")).rglob("*.zst"))
