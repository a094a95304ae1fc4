# SPDX-License-Identifier: Apache-2.0
"""What a delivery of a batch may do: the claim, and the rows of a batch that nobody planned here.

Rows are always locked batch first, then plan. A lease is a token that grows with every claim, and an end by the
database's own clock. The end only decides who may claim, never what is right: every later statement names the token.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from django_scatter.control import Control
from django_scatter.errors import ScatterError
from django_scatter.policy import DEFAULT_RATE

RESUMED_S = 0.1  # a claim during which its plan was resumed
RETRY_SOON_S = 1.0  # a claim that met a locked batch row


class ClaimState(enum.Enum):
    OURS = "ours"
    DONE = "done"
    CANCELLED = "cancelled"
    PAUSED = "paused"
    BUSY = "busy"
    UNKNOWN = "unknown"  # not planned here, and the message brought no file that says what it is


@dataclass
class PlanRow:
    """What is inserted for a plan that has no row yet (a batch enqueued by hand)."""

    plan: str
    migration: str
    table: str
    key: str
    columns: str
    queue: str
    database: str
    params: str
    n_batches: int
    created_by: str

    @classmethod
    def unknown(cls, plan: str) -> PlanRow:
        return cls(plan, "", "", "", "[]", "", "", "{}", 0, "")


@dataclass
class BatchRow:
    """source None: the file could not be had, nothing is inserted."""

    batch: int
    source: str | None
    sha256: str | None
    records: int


@dataclass
class Claim:
    state: ClaimState
    token: int = 0
    position: int = 0
    attempts: int = 0
    unchanged: int = 0
    stale: int = 0
    skipped: int = 0
    quarantined: int = 0
    left_s: float = 0.0  # of a live lease
    retry_after_s: float = 0.0
    retry_on: str | None = None
    on_error: str | None = None  # JSON
    failed_at: int | None = None  # position of the record that stopped the batch last
    failed_times: int = 0
    max_failure_rate: float = DEFAULT_RATE
    on_batch: str | None = None
    on_finish: str | None = None
    owner: str | None = None
    plan_finished: bool = False


CLAIM_NAMES = """state position unchanged stale skipped quarantined token attempts left owner sha256
plan_state migration retry_on on_batch on_finish max_workers closed failed_at failed_times max_failure_rate
on_error""".split()


def claim_of(found: dict[str, Any]) -> Claim:
    return Claim(
        ClaimState.OURS,
        position=int(found["position"]),
        token=int(found["token"]),
        attempts=int(found["attempts"]),
        unchanged=int(found["unchanged"]),
        stale=int(found["stale"]),
        skipped=int(found["skipped"]),
        quarantined=int(found["quarantined"]),
        left_s=float(found["left"] or 0) / 1000,
        owner=found["owner"],
        retry_on=found["retry_on"],
        on_error=found["on_error"],
        failed_at=found["failed_at"],
        failed_times=int(found["failed_times"]),
        max_failure_rate=(
            DEFAULT_RATE if found["max_failure_rate"] is None else float(found["max_failure_rate"])
        ),
        on_batch=found["on_batch"],
        on_finish=found["on_finish"],
        plan_finished=found["plan_state"] in ("finished", "failed"),
    )


def claim_batch(
    control: Control, plan: PlanRow, batch: BatchRow, worker: str, owner: str, takeover: bool
) -> Claim:
    """What this delivery may do. A batch that is ours comes with a fresh token; so does one whose lease lives,
    when the message was delivered again (takeover): its old owner can write nothing more."""
    with control.transaction():
        found = read_batch(control, plan.plan, batch.batch, control.SKIP_B)
        if found is None and batch.source is not None:
            insert_missing(control, plan, batch)
            found = read_batch(control, plan.plan, batch.batch, control.SKIP_B)
        if found is None:
            # Locked by a chunk that is being written (or by a frozen worker, whom the server ends soon).
            found = read_batch(control, plan.plan, batch.batch, "")
            if found is None:
                state = ClaimState.UNKNOWN if batch.source is None else ClaimState.BUSY
                return Claim(state, retry_after_s=RETRY_SOON_S)
            claim = claim_of(found)
            claim.state = ClaimState.BUSY
            claim.retry_after_s = max(0.1, claim.left_s) if claim.left_s > 0 else RETRY_SOON_S
            if takeover:
                claim.retry_after_s = min(claim.retry_after_s, RETRY_SOON_S)
            return claim
        claim = claim_of(found)
        if batch.source is not None and found["migration"] != plan.migration:
            raise ScatterError(
                f"plan {plan.plan} is of migration {found['migration']}, not of {plan.migration}"
            )
        if batch.source is not None and found["sha256"] != batch.sha256:
            raise ScatterError(
                f"batch {batch.batch} of plan {plan.plan} was planned with another file "
                "(its SHA-256 differs)"
            )
        decide(control, claim, found, plan.plan, batch.batch, worker, owner, takeover)
    return claim


def read_batch(control: Control, plan: str, batch: int, lock: str) -> dict[str, Any] | None:
    found = control.rows(
        "SELECT b.state, b.position, b.unchanged, b.stale, b.skipped, b.quarantined, b.lease_token, "
        f"b.attempts, {control.LEFT}, b.owner, b.sha256, p.state, p.migration, p.retry_on, p.on_batch, p.on_finish, "
        f"p.max_workers, coalesce(p.window_ends < {control.CLOCK}, 1 = 0), "
        "b.failed_at, b.failed_times, p.max_failure_rate, p.policy "
        "FROM scatter_batch b JOIN scatter_plan p ON p.plan = b.plan "
        f"WHERE b.plan = %s AND b.batch = %s {lock}",
        (plan, batch),
    )
    return dict(zip(CLAIM_NAMES, found[0])) if found else None


def decide(
    control: Control, claim: Claim, found: dict[str, Any], plan: str, batch: int, worker: str, owner: str,
    takeover: bool,
) -> None:  # fmt: skip
    running = found["state"] == "running"
    live = running and claim.left_s > 0
    if found["state"] == "done":
        claim.state = ClaimState.DONE
    elif "cancelled" in (found["state"], found["plan_state"]):
        claim.state = ClaimState.CANCELLED
        if takeover or not live:
            set_batch_state(control, plan, batch, "cancelled")
    elif is_held_back(control, found, plan):
        claim.state = ClaimState.PAUSED
        if takeover or not live:
            park(control, claim, plan, batch)
    elif live and not takeover:
        claim.state = ClaimState.BUSY
        claim.retry_after_s = claim.left_s
    elif not running and is_full(control, claim, plan, found["max_workers"]):
        claim.state = ClaimState.BUSY
    else:
        if running:
            why = "message delivered again" if live else "lease expired"
            control.note_event(
                plan, batch, worker, "takeover",
                f"from {claim.owner or 'nobody'} at position {claim.position}, {why}",
            )  # fmt: skip
        take_lease(control, claim, plan, batch, worker, owner)


def park(control: Control, claim: Claim, plan: str, batch: int) -> None:
    """The message goes, resuming sends it again. The state is read once more under the plan's lock: who resumed it
    meanwhile has not seen this batch, and its message must stay."""
    found = control.rows(
        f"SELECT p.state FROM scatter_plan p WHERE p.plan = %s {control.LOCK_P}", (plan,)
    )
    if found and found[0][0] in ("queued", "running"):
        claim.state = ClaimState.BUSY
        claim.retry_after_s = RESUMED_S
        return
    set_batch_state(control, plan, batch, "parked")
    control.settle_drain(plan)


def is_held_back(control: Control, found: dict[str, Any], plan: str) -> bool:
    """The plan does not want this batch to be begun, or to go on: its message goes, resuming sends it again."""
    if found["closed"] and found["plan_state"] != "paused":
        close_window(control, plan)
    if found["plan_state"] == "failed":
        # In a plan that failed only a batch that failed with it may be tried again.
        return bool(found["state"] != "failed")
    begun = found["state"] == "running"
    return (
        bool(found["closed"])
        or found["plan_state"] == "paused"
        or (found["plan_state"] == "draining" and not begun)
    )


def is_full(control: Control, claim: Claim, plan: str, max_workers: int | None) -> bool:
    """As many batches as the plan may have at a time are being worked on. The plan's row is locked, so that two
    claims do not both see the last free place. Messages that must wait come again in turns, four a second."""
    if not max_workers:
        return False
    control.rows(f"SELECT 1 FROM scatter_plan p WHERE p.plan = %s {control.LOCK_P}", (plan,))
    running, waiting = control.rows(
        f"SELECT coalesce(sum(CASE WHEN r.state = 'running' AND r.lease_until > {control.CLOCK} "
        "THEN 1 ELSE 0 END), 0), count(*) FROM scatter_batch r WHERE r.plan = %s "
        "AND r.state IN ('planned', 'queued', 'running')",
        (plan,),
    )[0]
    claim.retry_after_s = min(max(int(waiting) * 0.25, 1.0), 300.0)
    return int(running) >= int(max_workers)


def close_window(control: Control, plan: str) -> None:
    """The window in which the plan may run is over: it is paused until the next one begins."""
    sources = ("queued", "running", "draining")
    reason = "outside of its maintenance window"
    if control.set_plan_state(plan, "paused", "", reason, sources):
        control.execute("UPDATE scatter_plan SET resume_at = window_next WHERE plan = %s", (plan,))


def set_batch_state(control: Control, plan: str, batch: int, state: str) -> None:
    control.execute(
        "UPDATE scatter_batch SET state = %s, lease_until = NULL, owner = NULL "
        "WHERE plan = %s AND batch = %s",
        (state, plan, batch),
    )


def insert_missing(control: Control, plan: PlanRow, batch: BatchRow) -> None:
    """A message that nobody planned here brings its own rows; the plan grows by each batch that is new to it."""
    control.execute(
        "INSERT INTO scatter_plan (plan, migration, table_name, key_column, columns, "
        "store, queue, database, params, total, n_batches, created_by) "
        "VALUES (%s, %s, %s, %s, %s, '', %s, %s, %s, 0, %s, %s) ON CONFLICT (plan) DO NOTHING",
        (plan.plan, plan.migration, plan.table, plan.key, plan.columns, plan.queue, plan.database,
         plan.params, plan.n_batches, plan.created_by),
    )  # fmt: skip
    inserted = control.execute(
        "INSERT INTO scatter_batch (plan, batch, source, sha256, records, state) "
        "VALUES (%s, %s, %s, %s, %s, 'queued') ON CONFLICT (plan, batch) DO NOTHING",
        (plan.plan, batch.batch, batch.source, batch.sha256, batch.records),
    )
    if inserted != 1:
        return
    count = "(SELECT count(*) FROM scatter_batch b WHERE b.plan = scatter_plan.plan)"
    control.execute(
        f"UPDATE scatter_plan SET total = total + %s, "
        f"n_batches = CASE WHEN n_batches < {count} THEN {count} ELSE n_batches END "
        "WHERE plan = %s",
        (batch.records, plan.plan),
    )


def take_lease(
    control: Control, claim: Claim, plan: str, batch: int, worker: str, owner: str
) -> None:
    claim.state = ClaimState.OURS
    claim.token += 1
    claim.attempts += 1
    control.execute(
        f"UPDATE scatter_batch SET state = 'running', lease_token = %s, lease_until = {control.LEASE}, "
        "owner = %s, worker = %s, attempts = attempts + 1, error = NULL, finished_at = NULL, "
        f"started_at = coalesce(started_at, {control.NOW}) WHERE plan = %s AND batch = %s",
        (claim.token, control.lease_ms, owner, worker, plan, batch),
    )
    control.set_plan_state(
        plan, "running", worker, sources=("planned", "queued", "failed", "finished")
    )
