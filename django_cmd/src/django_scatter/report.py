# SPDX-License-Identifier: Apache-2.0
"""A plan's status as text for people."""

from __future__ import annotations

from collections.abc import Sequence

from django_scatter.progress import duration
from django_scatter.status import Counts, Status

COUNT_NAMES = ("planned", "ok", "unchanged", "stale", "skipped", "quarantined", "remaining")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns as wide as their widest cell; `right` are the numeric ones."""
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    lines = []
    for row in [head, *rows]:
        cells = [
            c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def counts_table(counts: Counts) -> str:
    values = [f"{getattr(counts, name):,}" for name in COUNT_NAMES]
    return table(COUNT_NAMES, [values], right=range(len(COUNT_NAMES)))


def invariant(counts: Counts) -> str:
    parts = " + ".join(f"{getattr(counts, name)} {name}" for name in COUNT_NAMES[1:])
    verdict = "every record is accounted for" if counts.holds else "THE SUM IS WRONG"
    return f"{counts.planned} planned = {parts}: {verdict}"


def headline(status: Status) -> str:
    took, done = status.seconds, status.counts.done
    speed = ""
    if took is not None:
        speed = f", {duration(took)}"
        if took > 0 and done:
            speed += f", {done / took:,.0f} records/s"
    parent = f", {status.kind} of {status.parent}" if status.parent else ""
    reason = f" ({status.reason})" if status.reason else ""
    what = f"{status.migration} on {status.table}{parent}"
    return f"plan {status.plan}: {what}, {status.state}{reason}{speed}"


def full_text(status: Status) -> str:
    blocks = [headline(status), counts_table(status.counts), invariant(status.counts)]
    states = ", ".join(f"{n} {s}" for s, n in sorted(status.batches.items()))
    blocks.append(f"batches: {states or 'none'} of {status.n_batches}")
    if status.workers:
        done = status.counts.done or 1
        rows = [[w, f"{n:,}", f"{n / done:.1%}"] for w, n in status.workers.items()]
        blocks.append(table(["worker", "records", "share"], rows, right=(1, 2)))
    if status.batch_errors:
        rows = [[str(b.batch), b.state, str(b.attempts), b.error] for b in status.batch_errors]
        blocks.append(table(["batch", "state", "attempts", "error"], rows, right=(0, 2)))
    if status.failure_groups:
        rows = [
            [
                f"{g.count:,}",
                g.outcome,
                g.error_class or "",
                g.sqlstate or "",
                g.message or "",
                g.example,
            ]
            for g in status.failure_groups
        ]
        head = ["records", "outcome", "class", "sqlstate", "message", "for example"]
        blocks.append(table(head, rows, right=(0,)))
        more = status.n_failures - sum(g.count for g in status.failure_groups)
        if more > 0:
            blocks.append(f"... and {more:,} more for other reasons")
    blocks += more_about(status)
    return "\n\n".join(blocks)


def more_about(status: Status) -> list[str]:
    """What was resolved later, what was checked, which plans were made from this one, what waits to be sent."""
    lines = []
    if status.n_failures:
        open_now = status.n_failures - status.n_resolved
        lines.append(
            f"set aside: {status.n_failures:,}, resolved: {status.n_resolved:,}, open: {open_now:,}"
        )
    lines += [f"{kind} {plan}: {state}" for plan, kind, state in status.children]
    if status.verification is not None:
        lines.append(
            "verified: " + ("it holds" if status.verification["ok"] else "IT DOES NOT HOLD")
        )
    if status.callbacks_pending:
        lines.append(f"callbacks that wait to be sent: {status.callbacks_pending}")
    return ["\n".join(lines)] if lines else []


def plans_text(plans: Sequence[Status]) -> str:
    rows = [
        [p.plan, p.migration, p.state, f"{p.counts.planned:,}", f"{p.counts.remaining:,}",
         p.created_at or ""]
        for p in plans
    ]  # fmt: skip
    return table(
        ["plan", "migration", "state", "planned", "remaining", "created"], rows, right=(3, 4)
    )
