# SPDX-License-Identifier: Apache-2.0
"""The end of a batch: done, or given back; and with the last batch the end of its plan."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django_scatter import limits, outbox
from django_scatter.control import Control, Fenced
from django_scatter.errors import ScatterError

# How often the record at the position has stopped its batch, by whether it did now.
TRIES = (
    "failed_at = failed_at",
    "failed_times = CASE WHEN failed_at = position THEN failed_times + 1 ELSE 1 END, "
    "failed_at = position",
)


class Release(enum.Enum):
    CLEAN = "clean"  # a pause, a shutdown: not counted as an attempt
    RETRY = "retry"
    FAILED = "failed"
    FAIL_PLAN = "fail-plan"  # and with the batch its plan: no record would fare better


@dataclass
class BatchEnd:
    """A batch that is done, and whether it was the plan's last."""

    plan_finished: bool
    duration_s: float


def finish_batch(control: Control, plan: str, batch: int, token: int) -> BatchEnd:
    """running -> done, and the plan -> finished (or failed) with its last batch. Idempotent for our token."""
    with control.transaction():
        found = control.rows(
            f"SELECT b.state, b.position, b.records, {control.AGE} FROM scatter_batch b "
            f"WHERE b.plan = %s AND b.batch = %s AND b.lease_token = %s {control.LOCK_B}",
            (plan, batch, token),
        )
        if not found or found[0][0] not in ("running", "done"):
            raise Fenced
        state, position, records, age = found[0]
        if position != records:
            raise ScatterError(f"batch {batch} of plan {plan} is not at its end")
        finished = False
        if state == "running":
            control.execute(
                f"UPDATE scatter_batch SET state = 'done', finished_at = {control.NOW}, "
                "lease_until = NULL, owner = NULL "
                "WHERE plan = %s AND batch = %s AND lease_token = %s",
                (plan, batch, token),
            )
            outbox.put_batch(control, plan, batch, "done", None)
            finished = end_plan(control, plan)
            if not finished:
                limits.check_canary(control, plan)
            control.settle_drain(plan)
    return BatchEnd(plan_finished=finished, duration_s=float(age or 0.0))


def end_plan(control: Control, plan: str) -> bool:
    """The plan's row is locked first, so that of two last batches exactly one sees that it is the last. A plan whose
    numbers do not add up is never called finished."""
    (n_batches,) = control.rows(
        f"SELECT p.n_batches FROM scatter_plan p WHERE p.plan = %s {control.LOCK_P}", (plan,)
    )[0]
    over, failed = control.rows(
        "SELECT count(*), coalesce(sum(CASE WHEN state = 'failed' THEN 1 ELSE 0 END), 0) "
        "FROM scatter_batch WHERE plan = %s AND state IN ('done', 'failed', 'cancelled')",
        (plan,),
    )[0]
    if over < n_batches:
        return False
    reason = f"{failed} of {n_batches} batches failed" if failed else limits.doubt(control, plan)
    end = "failed" if reason else "finished"
    return control.set_plan_state(
        plan, end, "", reason or None, sources=("running", "draining", "paused")
    )


def release_batch(
    control: Control, plan: str, batch: int, token: int, how: Release, error: str | None,
    parts: Mapping[str, Any] | None = None,
) -> bool:  # fmt: skip
    """Gives the lease up; a paused, draining or failed plan's batch is parked, a cancelled one's cancelled. True when
    the plan ended with a failed batch."""
    plan_state = "(SELECT p.state FROM scatter_plan p WHERE p.plan = scatter_batch.plan)"
    state = "'failed'"
    failed = how in (Release.FAILED, Release.FAIL_PLAN)
    if not failed:
        state = (
            f"CASE WHEN {plan_state} IN ('paused', 'draining', 'failed') THEN 'parked' "
            f"WHEN {plan_state} = 'cancelled' THEN 'cancelled' ELSE 'queued' END"
        )
    with control.transaction():
        given = control.execute(
            f"UPDATE scatter_batch SET state = {state}, lease_until = NULL, owner = NULL, "
            f"error = %s, attempts = attempts - %s, {TRIES[how is Release.RETRY]}, "
            f"finished_at = {control.NOW if failed else 'NULL'} "
            "WHERE plan = %s AND batch = %s AND lease_token = %s AND state = 'running'",
            (error, int(how is Release.CLEAN), plan, batch, token),
        )
        if given == 0:
            raise Fenced
        ended = False
        if failed:
            ended = fail_plan_or_go_on(control, plan, batch, how, error, parts)
        control.settle_drain(plan)
        return ended


def fail_plan_or_go_on(
    control: Control,
    plan: str,
    batch: int,
    how: Release,
    error: str | None,
    parts: Mapping[str, Any] | None,
) -> bool:
    control.note_event(plan, batch, "", "failed", error or "")
    outbox.put_batch(control, plan, batch, "failed", parts)
    if how is Release.FAIL_PLAN:
        sources = ("queued", "running", "draining", "paused")
        return control.set_plan_state(plan, "failed", "", error, sources)
    if end_plan(control, plan):
        return True
    limits.check_canary(control, plan)
    limits.check_failed_batches(control, plan)
    return False
