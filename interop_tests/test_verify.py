# SPDX-License-Identifier: Apache-2.0
"""Verification: what the table holds is what the plan says it did, or the wrong row is named."""

from __future__ import annotations

import json

from harness.phones import renumbered, sample
from harness.plans import command, plant, planted_ids, state
from harness.site import Site
from harness.waiting import wait_until

OLD = next(i for i in range(100, 200) if renumbered(sample(i)) != sample(i))


def test_a_row_that_was_corrupted_is_named(site: Site) -> None:
    n = 2000
    site.database.fill(n)
    plant(site.database)
    site.start("celeryc")
    site.plan("p1", 500)
    wait_until(lambda: state(site, "p1") == "finished", "the plan is finished", 60)
    check = ("--check", "phone IS NULL OR length(phone) < 30")
    clean = command(site, "verify", "p1", "--format", "json", *check)
    assert clean.returncode == 0, clean.stdout + clean.stderr
    found = json.loads(clean.stdout)
    bad = planted_ids(n)
    assert (found["ok"], found["residue"]["residue"], found["residue"]["late"]) == (True, 0, 0)
    assert (found["residue"]["open"], found["residue"]["judged_by"]) == (len(bad), "migration")
    assert (found["check"]["failed"], found["check"]["checked"]) == (0, n - len(bad))

    # By hand: one row as it was before, one that breaks the check, and one that is new.
    site.database.run(
        f"UPDATE parcel SET phone = '{sample(OLD)}' WHERE id = {OLD}",
        "UPDATE parcel SET phone = 'much too long to be the number of a phone' WHERE id = 7",
        f"INSERT INTO parcel (id, phone) VALUES ({n + 1}, '01201234567')",
    )
    wrong = command(site, "verify", "p1", "--format", "json", "--top-up", "--as", "t1", *check)
    assert wrong.returncode == 3, wrong.stderr
    found = json.loads(wrong.stdout)
    assert found["residue"]["residue_keys"] == [str(OLD)]
    assert found["check"]["failed_keys"] == ["7"]
    assert found["residue"]["late_keys"] == [str(n + 1)]
    assert found["top_up"] == "t1"
    wait_until(lambda: state(site, "t1") == "finished", "the top-up is finished", 30)
    phone = site.database.query(f"SELECT phone FROM parcel WHERE id = {n + 1}")
    assert phone == [(renumbered("01201234567"),)]
    [(kept, kind)] = site.database.query(
        "SELECT p.verification, t.kind FROM scatter_plan p, scatter_plan t "
        "WHERE p.plan = 'p1' AND t.parent = 'p1'"
    )
    assert kind == "topup"
    assert json.loads(kept)["check"]["failed_keys"] == ["7"]


def test_a_sample_says_how_sure_it_is(site: Site) -> None:
    site.database.fill(1000)
    site.start("celeryc")
    site.plan("p1", 500)
    wait_until(lambda: state(site, "p1") == "finished", "the plan is finished", 60)
    options = ("--no-residue", "--check", "id > 0", "--sample", "100")
    found = json.loads(command(site, "verify", "p1", "--format", "json", *options).stdout)
    assert found["residue"] is None
    assert (found["check"]["checked"], found["check"]["of"]) == (100, 1000)
    assert (found["check"]["below"], found["check"]["confidence"]) == (0.03, 0.95)
    options = ("--no-residue", "--check", "id > 990", "--sample", "100")
    found = json.loads(command(site, "verify", "p1", "--format", "json", *options).stdout)
    assert found["check"]["failed"] == 99
    refused = command(site, "verify", "p1", "--no-residue", "--check", "no_such_column")
    assert refused.returncode == 1
    assert "no_such_column" in refused.stderr
