# SPDX-License-Identifier: Apache-2.0
"""Plans made from plans: what was set aside is driven again, what was changed is put back."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.client import Client
from harness.parcels import scatter_plan
from harness.phones import renumbered, sample
from harness.plans import (
    command,
    made,
    open_records,
    plant,
    planted_ids,
    run_child,
    state,
    table,
    unplant,
)
from harness.site import Site
from harness.waiting import wait_until

MakeClient = Callable[..., Client]


@pytest.mark.parametrize(
    ("database", "kind", "n"),
    [
        ("postgresql", "celeryc", 20_000),
        ("sqlite", "python", 2000),
    ],
    indirect=["database"],
)
def test_redrive_after_a_fix_leaves_nothing_open(site: Site, kind: str, n: int) -> None:
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


@pytest.mark.parametrize(
    ("database", "kind"),
    [("postgresql", "celeryc"), ("sqlite", "python")],
    indirect=["database"],
)
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


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_cancel_leaves_a_plan_that_reports_and_undoes(
    site: Site, tmp_path: Path, make_client: MakeClient
) -> None:
    n = 3000
    site.database.fill(n, slow_s=0.002)
    before = table(site.database)
    paused = {"task": "scatter_app.seen", "options": {"queue": "callbacks"}}
    site.plan("p1", 300, "--on-paused", json.dumps(paused))
    site.start("celeryc")
    wait_until(lambda: site.database.batches("p1").get("done", 0) >= 1, "a batch is done", 60)
    assert command(site, "undo", "p1").returncode == 1, "it runs"
    control = ("--database-url", site.database.url, "-b", site.url)
    assert scatter_plan("pause", "p1", *control, "--reason", "a look").returncode == 0
    site.start("python", 1, "-Q", "callbacks")
    told = str(uuid.uuid5(uuid.NAMESPACE_URL, "scatter:p1:on_paused"))
    [_, kwargs] = make_client(site.url).get(told).value
    assert (kwargs["state"], kwargs["reason"]) == ("paused", "a look")
    assert scatter_plan("cancel", "p1", *control).returncode == 0
    wait_until(lambda: not site.database.batches("p1").get("running"), "no batch runs", 30)
    changed = int(site.database.query("SELECT count(*) FROM parcel WHERE changes > 0")[0][0])
    assert 0 < changed < n / 2, "cancelled too late for this test to mean anything"
    made(command(site, "report", "p1", "--format", "json"))
    manifest = json.loads((tmp_path / "store/p1/report/manifest.json").read_text())
    assert manifest["state"] == "cancelled"
    assert manifest["counts"]["ok"] == changed
    assert manifest["counts"]["remaining"] > 0
    found = run_child(site, "undo", "p1", "u1")
    assert found["total"] == changed
    assert table(site.database) == before


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_key_of_two_columns(site: Site) -> None:
    site.database.run(
        "CREATE TABLE parcel (shop text, n bigint, phone varchar(30), PRIMARY KEY (shop, n))",
        "INSERT INTO parcel SELECT 'a,' || (i % 3), i, '0120' || lpad(i::text, 7, '0') "
        "FROM generate_series(1, 300) i",
        "CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN IF NEW.n % 50 = 0 THEN RAISE check_violation USING MESSAGE = 'planted'; END IF; "
        "RETURN NEW; END$$",
        "CREATE TRIGGER planted BEFORE UPDATE ON parcel FOR EACH ROW EXECUTE FUNCTION planted()",
    )
    site.start("celeryc")
    options = site.options("p1", 100)
    options[options.index("--query") + 1] = "SELECT shop, n, phone FROM parcel"
    done = scatter_plan(*options, "--key", "shop,n", env=site.environment)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: state(site, "p1") == "finished", "the plan is finished", 60)
    assert open_records(site, "p1") == 6
    site.database.run("DROP TRIGGER planted ON parcel")
    found = json.loads(command(site, "verify", "p1", "--format", "json").stdout)
    assert (found["ok"], found["residue"]["open"]) == (True, 6)
    assert run_child(site, "redrive", "p1", "p2")["total"] == 6
    assert open_records(site, "p1") == 0
    assert site.database.query("SELECT count(*) FROM parcel WHERE phone LIKE '070%'") == [(300,)]
    assert run_child(site, "undo", "p1", "u1")["total"] == 294
    assert run_child(site, "undo", "p2", "u2")["total"] == 6
    assert site.database.query("SELECT count(*) FROM parcel WHERE phone LIKE '0120%'") == [(300,)]


def test_what_a_failed_batch_has_left_is_driven_again(site: Site) -> None:
    site.database.fill(300)
    site.plan("p1", 300)
    site.database.run("ALTER TABLE parcel RENAME COLUMN phone TO number")
    site.start("celeryc")
    wait_until(lambda: site.database.batches("p1") == {"failed": 1}, "the batch has failed", 60)
    site.database.run(
        "ALTER TABLE parcel RENAME COLUMN number TO phone",
        f"UPDATE parcel SET phone = '{sample(8)}' WHERE id = 16",
        "DELETE FROM parcel WHERE id = 17",
    )
    assert run_child(site, "redrive", "p1", "p2", "--outcome", "failed")["total"] == 299
    rows = site.database.query("SELECT id, phone FROM parcel ORDER BY id")
    assert all(phone == renumbered(sample(8 if i == 16 else i)) for i, phone in rows)
    again = made(command(site, "redrive", "p1", "--outcome", "failed", "--format", "json"))
    assert again["total"] == 0


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_plan_of_an_sql_file_is_driven_again_and_undone(site: Site, tmp_path: Path) -> None:
    site.database.fill(200)
    plant(site.database)
    file = tmp_path / "mark.sql"
    file.write_text(
        "-- table: parcel\n-- key: id\n-- reads: phone\n-- writes: phone\n"
        "SELECT id, 'was ' || phone AS phone FROM old WHERE phone IS NOT NULL\n"
    )
    options = site.options("p1", 100)
    options[options.index("--migration") + 1] = f"sql:{file}"
    done = scatter_plan(*options, env=site.environment)
    assert done.returncode == 0, done.stderr
    site.start("celeryc")
    wait_until(lambda: state(site, "p1") == "finished", "the plan is finished", 60)
    left = open_records(site, "p1")
    assert left > 0
    unplant(site.database)
    file.unlink()  # the plan keeps its text
    assert run_child(site, "redrive", "p1", "p2")["total"] == left
    assert open_records(site, "p1") == 0
    rows = site.database.query("SELECT id, phone FROM parcel WHERE phone IS NOT NULL ORDER BY id")
    assert all(phone == f"was {sample(i)}" for i, phone in rows)
    assert run_child(site, "undo", "p1", "u1")["total"] == len(rows) - left
    assert run_child(site, "undo", "p2", "u2")["total"] == left
    rows = site.database.query("SELECT id, phone FROM parcel WHERE phone IS NOT NULL ORDER BY id")
    assert all(phone == sample(i) for i, phone in rows)
