# SPDX-License-Identifier: Apache-2.0
"""Reports of plans, read back and compared with the control tables."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

from .parcels import Database
from .plans import command, made
from .site import Site


def report(site: Site, folder: Path, plan: str) -> dict[str, Any]:
    """The manifest of a fresh report, every part of which is what the manifest says."""
    found = made(command(site, "report", plan, "--format", "json"))
    at = folder / "store" / plan / "report"
    text = (at / "manifest.json").read_bytes()
    assert hashlib.sha256(text).hexdigest() == found["sha256"]
    manifest: dict[str, Any] = json.loads(text)
    for part in manifest["parts"]:
        data = (at / part["object"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (part["bytes"], part["sha256"])
    stored = site.database.query(f"SELECT report_sha256 FROM scatter_plan WHERE plan = '{plan}'")
    assert stored == [(found["sha256"],)]
    return manifest | {"sha256": found["sha256"]}


def cells(folder: Path, plan: str, part: str) -> list[dict[str, str]]:
    with (folder / "store" / plan / "report" / part).open(newline="") as f:
        return list(csv.DictReader(f))


def truth(database: Database, plan: str) -> dict[str, int]:
    counts = database.counts(plan)
    done = counts.pop("position")
    counts["ok"] = done - sum(v for k, v in counts.items() if k != "planned")
    counts["remaining"] = counts["planned"] - done
    return counts


def check_parts(site: Site, folder: Path, plan: str) -> None:
    """Every line of the CSV files is a row of the tables, and the other way round."""
    for outcome in ("quarantined", "skipped", "stale"):
        rows = site.database.query(
            "SELECT record_key, batch, position, attempts, error_class, sqlstate, message, worker "
            f"FROM scatter_outcome WHERE plan = '{plan}' AND outcome = '{outcome}' "
            "ORDER BY batch, position"
        )
        names = "key batch position attempts error_class sqlstate message worker".split()
        listed = cells(folder, plan, f"{outcome}-0001.csv") if rows else []
        found = [tuple(line[name] for name in names) for line in listed]
        assert found == [tuple("" if v is None else str(v) for v in row) for row in rows], outcome
    names = "batch state records position unchanged stale skipped quarantined attempts worker sha256".split()
    batches = site.database.query(
        f"SELECT {', '.join(names)} FROM scatter_batch WHERE plan = '{plan}' ORDER BY batch"
    )
    lines = cells(folder, plan, "batches.csv")
    assert [tuple(line[n] for n in names) for line in lines] == [
        tuple(map(str, row)) for row in batches
    ]
    events = site.database.query(f"SELECT count(*) FROM scatter_event WHERE plan = '{plan}'")
    assert len(cells(folder, plan, "events.csv")) == events[0][0]
