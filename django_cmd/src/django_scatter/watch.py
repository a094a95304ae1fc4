# SPDX-License-Identifier: Apache-2.0
"""Follows a plan until nothing more will happen by itself."""

from __future__ import annotations

import time
from collections.abc import Callable

from django_scatter import operator, planner
from django_scatter.errors import ScatterError
from django_scatter.progress import Output, Progress
from django_scatter.status import FINAL, Status, read_status

POLL_S = 0.3
QUIET_S = 30.0


def note_of(status: Status) -> str:
    counts = status.counts
    parts = [
        f"{value:,} {name}"
        for name, value in (
            ("stale", counts.stale),
            ("skipped", counts.skipped),
            ("quarantined", counts.quarantined),
        )
        if value
    ]
    if status.state == "paused":
        parts.insert(0, "paused")
    return ", ".join(parts)


def sweep(alias: str, out: Output) -> None:
    """What a lost Redis has lost is sent again; who cannot do that only watches."""
    try:
        found = operator.sweep(alias)
    except ScatterError as e:
        out.write(f"no sweep: {e}", ending="\n")
        return
    if found["sent"]:
        out.write(f"{found['sent']} lost messages were sent again", ending="\n")


def watch(
    alias: str,
    plan: str,
    out: Output,
    poll_s: float = POLL_S,
    sleep: Callable[[float], None] = time.sleep,
) -> Status:
    """Shows progress until the plan is over; says so when no record ends for a while."""
    status = read_status(alias, plan)
    progress = Progress(out, "running", status.counts.planned)
    moved_at, done = progress.clock(), status.counts.done
    while not status.over:
        progress.update(status.counts.done, note_of(status))
        sleep(poll_s)
        status = read_status(alias, plan, max_failures=0)
        if status.counts.done != done:
            moved_at, done = progress.clock(), status.counts.done
        elif progress.clock() - moved_at > QUIET_S:
            moved_at = progress.clock()
            out.write(
                f"no record was finished for {QUIET_S:.0f} s: does a worker with the migration "
                f"{status.migration} consume queue {status.queue}?",
                ending="\n",
            )
            sweep(alias, out)
    progress.finish(status.counts.done, note_of(status))
    if status.report_sha256 is None and status.state in FINAL:
        write_report(alias, plan, out)
    return read_status(alias, plan)


def write_report(alias: str, plan: str, out: Output) -> None:
    """The plan is over: whoever watches it writes its report."""
    try:
        planner.run(planner.plan_arguments("report", plan, alias, {}), alias)
    except ScatterError as e:
        out.write(f"the report was not written: {e}", ending="\n")
