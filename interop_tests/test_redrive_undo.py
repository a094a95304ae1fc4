# SPDX-License-Identifier: Apache-2.0
"""Plans made from plans: what was set aside is driven again, what was changed is put back."""

from __future__ import annotations

import pytest
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


@pytest.mark.parametrize(
    ("database", "kind", "n"),
    [
        ("postgresql", "celeryc", 20_000),
        ("sqlite", "celeryc", 2000),
        ("postgresql", "python", 2000),
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
    [("postgresql", "celeryc"), ("sqlite", "python"), ("postgresql", "python")],
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
