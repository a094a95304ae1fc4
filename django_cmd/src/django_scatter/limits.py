# SPDX-License-Identifier: Apache-2.0
"""What pauses a plan by itself, and whether its tables add up: celeryc/db/limits.c and audit.c in Python.

Asked only after something was set aside or a batch has ended. Everything is kept: a paused plan goes on where it stood.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from django_scatter.schema import schema_text

if TYPE_CHECKING:
    from django_scatter.control import Control

FAILED_BATCHES = 3  # in a row
WORKING = ("queued", "running", "draining")
SHARES = "records finished by workers"  # good to know, no reason to doubt a plan


class Violation(NamedTuple):
    violation: str
    batch: int
    found: int
    expected: int


def check_limits(control: Control, plan: str, batch: int, who: str) -> bool:
    """Pauses the plan when more of its records were set aside, or of the batch's, than it allows. True: the limit is
    passed."""
    with control.transaction():
        reason = over_limit(control, plan, batch)
        if reason:
            control.set_plan_state(plan, "paused", who, reason, WORKING)
    return bool(reason)


def over_limit(control: Control, plan: str, batch: int) -> str:
    """The plan's row is locked first, so that its count is of everything that is committed."""
    limits = control.rows(
        "SELECT p.max_quarantined, p.max_quarantined_batch FROM scatter_plan p "
        f"WHERE p.plan = %s {control.LOCK_P}",
        (plan,),
    )
    if not limits or limits[0] == (None, None):
        return ""
    of_plan, of_batch = limits[0]
    found = control.rows(
        "SELECT coalesce(sum(quarantined), 0), coalesce(sum(CASE WHEN batch = %s THEN quarantined "
        "ELSE 0 END), 0) FROM scatter_batch WHERE plan = %s",
        (batch, plan),
    )[0]
    n_plan, n_batch = int(found[0]), int(found[1])
    if of_plan is not None and n_plan > of_plan:
        return f"quarantine: {n_plan} records were set aside, {of_plan} are allowed"
    if of_batch is not None and n_batch > of_batch:
        return (
            f"quarantine: {n_batch} records of batch {batch} were set aside, {of_batch} are allowed"
        )
    return ""


def check_failed_batches(control: Control, plan: str) -> None:
    found = control.rows(
        "SELECT state, error FROM scatter_batch WHERE plan = %s AND state IN ('done', 'failed') "
        "AND finished_at IS NOT NULL ORDER BY finished_at DESC, batch DESC LIMIT %s",
        (plan, FAILED_BATCHES),
    )
    if len(found) == FAILED_BATCHES and all(state == "failed" for state, _ in found):
        error = str(found[0][1] or "an unknown error")[:200]
        reason = f"breaker: {FAILED_BATCHES} batches have failed in a row, the last by {error}"
        control.set_plan_state(plan, "paused", "", reason, WORKING)


def check_canary(control: Control, plan: str) -> None:
    over = control.rows(
        "SELECT 1 FROM scatter_plan p WHERE p.plan = %s AND p.canary IS NOT NULL AND "
        "p.canary_at IS NULL AND p.canary <= (SELECT coalesce(sum(b.records), 0) FROM "
        "scatter_batch b WHERE b.plan = p.plan AND b.state IN ('done', 'failed'))",
        (plan,),
    )
    if over:
        control.execute(
            f"UPDATE scatter_plan SET canary_at = {control.NOW} WHERE plan = %s", (plan,)
        )
        control.set_plan_state(plan, "paused", "", "canary", WORKING)


def violations(control: Control, plan: str) -> list[Violation]:
    """What does not add up in the control tables."""
    sql = schema_text("audit.sql")
    found = control.rows(sql.replace("%", "%%").replace("$1", "%s"), [plan] * sql.count("$1"))
    return [Violation(str(v), int(b), int(f), int(e)) for v, b, f, e in found]


def doubt(control: Control, plan: str) -> str:
    """Why a plan cannot be called finished; "" when it can."""
    for v in violations(control, plan):
        if v.violation != SHARES:
            return f"audit: batch {v.batch}: {v.violation}: {v.found}, expected {v.expected}"
    return ""
