# SPDX-License-Identifier: Apache-2.0
"""What came out of the suite with each kind of workers, beside each other."""

from __future__ import annotations

import fnmatch
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

BASELINE = "python"
PASSED = ("passed", "xpassed")
FAILED = ("failed", "error")


def load_left_out(path: Path, kind: str) -> list[tuple[str, str]]:
    """Lines `PATTERN  reason` hold for every kind of workers, lines `KIND: PATTERN  reason` for that kind only."""
    listed = []
    for line in path.read_text().splitlines():
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        first, rest = text.split(None, 1)
        if first.endswith(":"):
            if first != f"{kind}:":
                continue
            first, rest = rest.split(None, 1)
        listed.append((first, rest.strip()))
    return listed


def left_out_because(listed: list[tuple[str, str]], node_id: str) -> str | None:
    """A pattern is a node id, the start of one up to a :: or a [, or a shell pattern."""
    for pattern, reason in listed:
        if (
            node_id == pattern
            or node_id.startswith((f"{pattern}::", f"{pattern}["))
            or fnmatch.fnmatchcase(node_id, pattern)
        ):
            return reason
    return None


@dataclass
class Outcomes:
    kind: str
    tests: dict[str, str] = field(default_factory=dict)  # node id -> outcome
    why: dict[str, str] = field(default_factory=dict)
    handled: dict[str, int] = field(default_factory=dict)  # node -> tasks


def load(kind: str, path: Path) -> Outcomes:
    """What suite.py wrote."""
    o = Outcomes(kind)
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if "summary" in row:
            o.handled = row["summary"]["handled"]
        elif row["outcome"] != "left out":
            o.tests[row["id"]] = row["outcome"] or "error"
            o.why[row["id"]] = row.get("why") or ""
    return o


def worse(baseline: Outcomes | None, other: Outcomes, left_out: list[tuple[str, str]]) -> list[str]:
    """The tests that pass with the baseline's workers and do not with the others; without a baseline, those that fail."""
    if baseline is None:
        return [t for t, outcome in other.tests.items() if outcome in FAILED]
    return [
        t
        for t, outcome in baseline.tests.items()
        if outcome in PASSED
        and other.tests.get(t) not in PASSED
        and left_out_because(left_out, t) is None
    ]


def unusable(baseline: Outcomes) -> list[str]:
    """A baseline in which much fails, or that lacks a file, would excuse much; a few tests are flaky with any worker."""
    failed = [t for t, outcome in baseline.tests.items() if outcome in FAILED]
    files = [t for t in failed if "::" not in t]
    if files:
        return [f"{baseline.kind}: cannot be collected: {', '.join(files)}"]
    if baseline.tests and len(failed) <= len(baseline.tests) // 20:
        return []
    return [f"{baseline.kind}: {len(failed)} of {len(baseline.tests)} tests fail: no baseline"]


def complaints(
    baseline: Outcomes | None, other: Outcomes, left_out: list[tuple[str, str]], n_workers: int = 0
) -> list[str]:
    """One text for each reason not to be content with the others' workers; n_workers of them are to have had tasks."""
    found = []
    if n_workers and (len(other.handled) != n_workers or not all(other.handled.values())):
        found.append(f"{other.kind}: not every worker had tasks: {other.handled}")
    for test in worse(baseline, other, left_out):
        why = other.why.get(test, "")[-400:].replace("\n", "\n    ")
        found.append(
            f"{other.kind}: {other.tests.get(test, 'not run')}: {test}\n    {why}".rstrip()
        )
    return found


def _cell(outcomes: Outcomes, file: str | None) -> str:
    counts = Counter(o for t, o in outcomes.tests.items() if file is None or _file(t) == file)
    failed = sum(counts.pop(o, 0) for o in FAILED)
    passed = counts.pop("passed", 0)
    rest = "".join(f", {n} {outcome}" for outcome, n in sorted(counts.items()))
    return f"{passed} passed" + (f", {failed} FAILED" if failed else "") + rest


def _file(node_id: str) -> str:
    return node_id.split("::", maxsplit=1)[0].rsplit("/", 1)[-1]


def table(all_outcomes: list[Outcomes]) -> str:
    """A line for each file, a column for each kind of workers."""
    files = sorted({_file(t) for o in all_outcomes for t in o.tests})
    rows = [["", *(o.kind for o in all_outcomes)]]
    rows += [[f, *(_cell(o, f) for o in all_outcomes)] for f in files]
    rows.append(["all", *(_cell(o, None) for o in all_outcomes)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])
