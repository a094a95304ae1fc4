# SPDX-License-Identifier: Apache-2.0
"""The long form of test_redrive_undo.py: 1,500,000 records, undone after the application has changed one in a hundred."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from harness.plans import command, made, run_child, state
from harness.site import Site
from harness.waiting import wait_until

N = 1_500_000
WAIT_S = 900.0
CHECKSUM = (
    "SELECT md5(string_agg(md5(id || ':' || coalesce(phone, '-')), '' ORDER BY id)) FROM parcel"
)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_million_and_a_half_are_undone(site: Site, tmp_path: Path) -> None:
    site.database.run(
        "CREATE TABLE parcel (id bigint PRIMARY KEY, phone text)",
        "INSERT INTO parcel SELECT i, CASE WHEN i % 2 = 0 THEN '0120' || lpad(i::text, 7, '0') "
        f"ELSE '09' || lpad(i::text, 8, '0') END FROM generate_series(1, {N}) i",
    )
    untouched = f"{CHECKSUM} WHERE id % 100 <> 0"
    before = site.database.query(untouched)
    site.start("celeryc", 2)
    site.plan("p1", 10_000)
    wait_until(lambda: state(site, "p1") == "finished", "the plan is finished", WAIT_S)
    assert site.database.query(untouched) != before
    site.database.run("UPDATE parcel SET phone = 'application' WHERE id % 100 = 0")
    found = run_child(site, "undo", "p1", "u1", wait_s=WAIT_S)
    assert found["total"] == N // 2
    assert site.database.query(untouched) == before
    assert site.database.counts("u1")["stale"] == N // 100
    # The report of it: the same bytes when it is made again.
    first = made(command(site, "report", "u1", "--format", "json"))["sha256"]
    assert made(command(site, "report", "u1", "--format", "json"))["sha256"] == first
    at = tmp_path / "store/u1/report"
    manifest = json.loads((at / "manifest.json").read_text())
    assert manifest["counts"]["stale"] == N // 100
    for part in manifest["parts"]:
        assert hashlib.sha256((at / part["object"]).read_bytes()).hexdigest() == part["sha256"]
