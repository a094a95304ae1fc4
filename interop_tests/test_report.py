# SPDX-License-Identifier: Apache-2.0
"""The report of a plan tells what the tables hold, to the byte, however often it is made."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from harness.parcels import scatter_plan
from harness.plans import plant, planted_ids, run_child, state, unplant
from harness.reports import cells, check_parts, report, truth
from harness.site import Site
from harness.waiting import wait_until


def test_counts_are_the_tables_and_the_bytes_stay(site: Site, tmp_path: Path) -> None:
    n = 3000
    bad = planted_ids(n)
    site.database.fill(n)
    plant(site.database)
    site.plan("p1", 300)
    site.database.run("UPDATE parcel SET phone = '=1+2 <b>\"' WHERE id IN (1, 2)")
    site.start("celeryc")
    wait_until(lambda: state(site, "p1") == "finished", "the plan is finished", 60)
    first = report(site, tmp_path, "p1")
    assert first["counts"] == truth(site.database, "p1")
    assert first["open"] == len(bad) + 2
    check_parts(site, tmp_path, "p1")
    rows = cells(tmp_path, "p1", "quarantined-0001.csv")
    assert [int(r["key"]) for r in rows] == bad
    assert {r["message"] for r in rows} == {"planted"}
    assert len(cells(tmp_path, "p1", "batches.csv")) == 10
    assert report(site, tmp_path, "p1")["sha256"] == first["sha256"]
    page = (tmp_path / "store/p1/report/report.html").read_text()
    assert not re.search(r"(src|href)=|url\(|<script|https?://(?!www.w3.org)", page)
    # What is resolved later shows in a report that is made later.
    unplant(site.database)
    run_child(site, "redrive", "p1", "p2", "--outcome", "quarantined")
    second = report(site, tmp_path, "p1")
    assert (second["open"], second["children"][0]["plan"]) == (2, "p2")
    assert {r["resolved_by"] for r in cells(tmp_path, "p1", "quarantined-0001.csv")} == {"p2"}
    assert report(site, tmp_path, "p2")["parent"] == "p1"
    # The one of a child found nothing new: its parent's stays what it is.
    kept = site.database.query("SELECT report_sha256 FROM scatter_plan WHERE plan = 'p1'")
    assert kept == [(second["sha256"],)]


def test_a_sweep_writes_what_nobody_has_asked_for(site: Site, tmp_path: Path) -> None:
    site.database.fill(300)
    site.start("celeryc")
    site.plan("p1", 100)
    wait_until(lambda: state(site, "p1") == "finished", "the plan is finished", 60)
    swept = scatter_plan(
        "sweep", "--database-url", site.database.url, "-b", site.url, env=site.environment
    )
    assert swept.returncode == 0, swept.stderr
    manifest = tmp_path / "store/p1/report/manifest.json"
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    stored = site.database.query("SELECT report_sha256 FROM scatter_plan WHERE plan = 'p1'")
    assert stored == [(digest,)]
