# SPDX-License-Identifier: Apache-2.0
"""Plans made from plans: what was set aside is driven again, what was changed is put back."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest
from harness.parcels import MIGRATIONS, Database, postgres_database, scatter_plan, sqlite_database
from harness.phones import renumbered, sample
from harness.redis_server import RedisServer
from harness.site import Site
from harness.waiting import wait_until
from harness.workers import WorkerFactory

BAD = 67  # every so many records is refused by the database


@pytest.fixture(params=["sqlite", "postgresql"])
def site(
    request: pytest.FixtureRequest,
    redis_server: RedisServer,
    workers: WorkerFactory,
    tmp_path: Path,
) -> Site:
    if request.param == "sqlite":
        database = sqlite_database(tmp_path / "parcels.sqlite3")
    else:
        server = request.getfixturevalue("postgres_server")
        database = postgres_database(server, f"parcels_{uuid.uuid4().hex[:8]}")
    return Site(redis_server, workers, database, tmp_path)


def command(site: Site, name: str, plan: str, *more: str) -> subprocess.CompletedProcess[str]:
    words = [name, plan, "--database-url", site.database.url, "--store", site.store]
    if name in ("redrive", "undo", "verify"):
        words += ["-b", site.url, "-A", str(MIGRATIONS)]
    return scatter_plan(*words, *more, env=os.environ | site.env)


def made(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def run_child(site: Site, name: str, plan: str, child: str, *more: str) -> dict[str, Any]:
    found = made(command(site, name, plan, "--as", child, "--format", "json", *more))
    assert found["plan"] == child
    wait_until(lambda: state(site, child) == "finished", f"{child} is finished", 60)
    return found


def state(site: Site, plan: str) -> str:
    return str(site.database.query(f"SELECT state FROM scatter_plan WHERE plan = '{plan}'")[0][0])


def plant(database: Database) -> None:
    """Changes of some records are refused from now on."""
    if database.postgres is None:
        database.run(
            f"CREATE TRIGGER planted BEFORE UPDATE OF phone ON parcel WHEN NEW.id % {BAD} = 0 "
            "BEGIN SELECT RAISE(ABORT, 'planted'); END"
        )
        return
    database.run(
        "CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$BEGIN IF NEW.id % {BAD} = 0 THEN RAISE check_violation USING MESSAGE = 'planted'; END IF; "
        "RETURN NEW; END$$",
        "CREATE TRIGGER planted BEFORE UPDATE OF phone ON parcel FOR EACH ROW EXECUTE FUNCTION planted()",
    )


def unplant(database: Database) -> None:
    database.run("DROP TRIGGER planted" + (" ON parcel" if database.postgres is not None else ""))


def open_records(site: Site, plan: str) -> int:
    where = f"plan = '{plan}' AND resolved_by IS NULL"
    return int(site.database.query(f"SELECT count(*) FROM scatter_outcome WHERE {where}")[0][0])


def planted_ids(n: int) -> list[int]:
    return [i for i in range(BAD, n + 1, BAD) if renumbered(sample(i)) != sample(i)]


@pytest.mark.parametrize("kind", ["celeryc", "python"])
def test_redrive_after_a_fix_leaves_nothing_open(site: Site, kind: str) -> None:
    n = 20_000
    bad = planted_ids(n)
    site.database.fill(n)
    plant(site.database)
    site.start(kind)
    site.plan("p1", 5000)
    wait_until(lambda: state(site, "p1") == "finished", "the plan is finished", 90)
    assert open_records(site, "p1") == len(bad)
    # Without the fix they are set aside once more, and stay open in both plans.
    found = run_child(site, "redrive", "p1", "p2", "--limit", "3")
    assert found["total"] == 3
    assert (open_records(site, "p1"), open_records(site, "p2")) == (len(bad), 3)
    # A row that somebody deleted, and one that somebody changed: its present value counts.
    site.database.run(f"DELETE FROM parcel WHERE id = {bad[4]}")
    unplant(site.database)
    site.database.run(f"UPDATE parcel SET phone = '0120 7654321' WHERE id = {bad[5]}")
    found = run_child(site, "redrive", "p1", "p3")
    assert found["total"] == len(bad) - 1
    assert "1 records" in found["note"]
    assert (open_records(site, "p1"), open_records(site, "p2")) == (0, 0)
    by = dict(
        site.database.query(
            "SELECT resolved_by, count(*) FROM scatter_outcome WHERE plan = 'p1' GROUP BY resolved_by"
        )
    )
    assert by == {"p3": len(bad) - 1, "gone": 1}
    phone = site.database.query(f"SELECT phone FROM parcel WHERE id = {bad[5]}")
    assert phone == [(renumbered("0120 7654321"),)]
    again = made(command(site, "redrive", "p1", "--format", "json"))
    assert again["total"] == 0


def table(database: Database, where: str = "1 = 1") -> str:
    rows = database.query(f"SELECT id, phone FROM parcel WHERE {where} ORDER BY id")
    return hashlib.sha256(repr([tuple(r) for r in rows]).encode()).hexdigest()


@pytest.mark.parametrize("kind", ["celeryc", "python"])
def test_undo_puts_back_all_but_what_was_changed_since(site: Site, kind: str) -> None:
    n = 5000
    site.database.fill(n)
    before = table(site.database, "id % 100 <> 0")
    site.start(kind)
    site.plan("p1", 1000)
    wait_until(lambda: state(site, "p1") == "finished", "the plan is finished", 60)
    assert table(site.database, "id % 100 <> 0") != before
    changed = [i for i in range(1, n + 1) if renumbered(sample(i)) != sample(i)]
    hundredth = [i for i in changed if i % 100 == 0]
    site.database.run("UPDATE parcel SET phone = 'by the application' WHERE id % 100 = 0")
    found = run_child(site, "undo", "p1", "u1")
    assert found["total"] == len(changed)
    assert table(site.database, "id % 100 <> 0") == before
    stale = site.database.query("SELECT record_key FROM scatter_outcome WHERE plan = 'u1'")
    assert sorted(int(key) for (key,) in stale) == hundredth
    assert site.database.query("SELECT DISTINCT phone FROM parcel WHERE id % 100 = 0") == [
        ("by the application",)
    ]
    # And the undo can be undone.
    run_child(site, "undo", "u1", "r1")
    rows = site.database.query("SELECT id, phone FROM parcel WHERE id % 100 <> 0 ORDER BY id")
    assert all(phone == renumbered(sample(i)) for i, phone in rows)


def test_undo_of_one_batch_and_of_a_cancelled_plan(site: Site) -> None:
    site.database.fill(1000)
    worker = site.start("celeryc")
    site.plan("p1", 100)
    wait_until(lambda: state(site, "p1") == "finished", "the plan is finished", 30)
    run_child(site, "undo", "p1", "u1", "--batch", "2")
    rows = site.database.query("SELECT id, phone FROM parcel ORDER BY id")
    assert all(
        phone == (sample(i) if 100 < i <= 200 else renumbered(sample(i))) for i, phone in rows
    )
    refused = command(site, "undo", "p9")
    assert refused.returncode == 1
    assert "there is no plan p9" in refused.stderr
    assert worker.process.alive
