# SPDX-License-Identifier: Apache-2.0
"""The control tables and the fenced chunk, through a Django connection: what both dialects share.

One Control is one connection, used by one thread. Every transaction is opened and ended here, explicitly: the caller
must not be inside transaction.atomic(). Settings travel with each BEGIN, because a pooler in transaction mode gives
every transaction another session.

What must never happen: a change without its checkpoint in the same commit, or one under a token that is another's.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import DatabaseError, IntegrityError

from django_scatter import limits, outbox
from django_scatter.batchfile import key_text
from django_scatter.errors import ScatterError
from django_scatter.orders import OVER, SOURCES, Orders, orders_of
from django_scatter.policy import DEFAULT_RATE

# How often the record at the position has stopped its batch, by whether it did now.
TRIES = (
    "failed_at = failed_at",
    "failed_times = CASE WHEN failed_at = position THEN failed_times + 1 ELSE 1 END, "
    "failed_at = position",
)

RESUMED_S = 0.1  # a claim during which its plan was resumed
RETRY_SOON_S = 1.0  # a claim that met a locked batch row


class ClaimState(enum.Enum):
    OURS = "ours"
    DONE = "done"
    CANCELLED = "cancelled"
    PAUSED = "paused"
    BUSY = "busy"
    UNKNOWN = "unknown"  # not planned here, and the message brought no file that says what it is


class Release(enum.Enum):
    CLEAN = "clean"  # a pause, a shutdown: not counted as an attempt
    RETRY = "retry"
    FAILED = "failed"
    FAIL_PLAN = "fail-plan"  # and with the batch its plan: no record would fare better


class Fenced(Exception):
    """The lease token is another's: nothing was written, and nothing more may be."""


class Unknown(Exception):
    """A chunk did not move the checkpoint although the token is ours: the stored position counts."""


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
plan_state retry_on on_batch on_finish max_workers closed failed_at failed_times max_failure_rate
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


class Outcome(enum.Enum):
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    SKIPPED = "skipped"
    QUARANTINED = "quarantined"
    DONE = "done"  # by statements of the migration's own, or outside of the database
    STALE = "stale"  # found by guard


@dataclass
class Row:
    """One processed record. old: the key's and the read columns in text form; fresh: only the columns that were
    set."""

    outcome: Outcome
    position: int
    old: Sequence[str | None]
    fresh: dict[str, str | None] = field(default_factory=dict)
    error_class: str | None = None
    sqlstate: str | None = None
    message: str | None = None
    attempts: int = 1
    values: Sequence[Any] = ()  # the old ones as Python has them


@dataclass
class Target:
    table: str
    keys: Sequence[str]
    reads: Sequence[str]
    writes: Sequence[str]


@dataclass
class Chunk:
    plan: str
    batch: int
    token: int
    position: int
    rows: Sequence[Row]
    worker: str
    keys: int = 1  # columns of the key

    def count(self, outcome: Outcome) -> int:
        return sum(1 for r in self.rows if r.outcome is outcome)

    @property
    def changed(self) -> list[Row]:
        return [r for r in self.rows if r.outcome is Outcome.CHANGED]


@dataclass
class BatchEnd:
    """A batch that is done, and whether it was the plan's last."""

    plan_finished: bool
    duration_s: float


def by_number(
    found: Sequence[tuple[Any, ...]], columns: Sequence[str]
) -> dict[int, dict[str, str | None]]:
    """Rows of (number from 1, values...)."""
    fresh: dict[int, dict[str, str | None]] = {}
    for number, *values in found:
        if number - 1 in fresh:
            raise IntegrityError("the SELECT gives two rows for one key")
        fresh[number - 1] = dict(zip(columns, values))
    return fresh


class Control(ABC):
    """SQL that both dialects share; what differs stands in the class attributes and methods of each."""

    NOW: str
    LEASE: str  # end of a lease of %s milliseconds from now
    LEFT: str  # milliseconds until b.lease_until
    AGE: str  # seconds since b.started_at
    PLAN_AGE: str  # seconds from p.started_at to p.finished_at or now
    CLOCK: str  # the time as lease_until, window_ends, resume_at and beat_at are kept
    SILENT: str  # seconds since g.beat_at
    LOCK_B: str
    SKIP_B: str
    LOCK_P: str
    OUTBOX_AGE: str  # seconds since o was tried, or made
    SKIP_O: str

    def __init__(self, connection: BaseDatabaseWrapper, lease_ms: int) -> None:
        self.connection = connection
        self.lease_ms = lease_ms
        self.patience_s = 20.0  # how long it waits for its turn to write, on SQLite

    # ---- transactions ----

    @abstractmethod
    def begin(self) -> None: ...

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """BEGIN ... COMMIT; ROLLBACK when anything is raised."""
        if self.connection.in_atomic_block:
            raise ScatterError("a migration's batch cannot run inside transaction.atomic()")
        self.connection.ensure_connection()
        self.begin()
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            self.rollback()
            raise

    def rollback(self) -> None:
        """A connection that is broken is closed: the server rolls back by itself."""
        try:
            self.execute("ROLLBACK")
        except DatabaseError:
            self.connection.close()

    def execute(self, sql: str, params: Sequence[Any] | None = None) -> int:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, params)
            return int(cursor.rowcount)

    def rows(self, sql: str, params: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, params)
            return [tuple(r) for r in cursor.fetchall()]

    @abstractmethod
    def ensure_schema(self) -> None: ...

    def note_event(self, plan: str, batch: int | None, who: str, event: str, detail: str) -> None:
        self.execute(
            "INSERT INTO scatter_event (plan, batch, who, event, detail) VALUES (%s, %s, %s, %s, %s)",
            (plan, batch, who, event, detail),
        )

    # ---- the plan's state ----

    def set_plan_state(
        self, plan: str, to: str, who: str, reason: str | None = None, sources: Sequence[str] = ()
    ) -> bool:
        """The one way in which a plan changes its state, inside the caller's transaction. False: it was in that
        state already, or in none of `sources`. Raises ScatterError for a state from which there is no way."""
        found = self.rows(
            f"SELECT p.state FROM scatter_plan p WHERE p.plan = %s {self.LOCK_P}", (plan,)
        )
        if not found:
            raise ScatterError(f"there is no plan {plan} in this database")
        state = str(found[0][0])
        if state == to or (sources and state not in sources):
            return False
        if state not in SOURCES[to]:
            raise ScatterError(f"plan {plan} is {state}: it cannot become {to}")
        finished_at = self.NOW if to in OVER else "NULL"
        started_at = f", started_at = coalesce(started_at, {self.NOW})" if to == "running" else ""
        self.execute(
            "UPDATE scatter_plan SET state = %s, reason = %s, resume_at = NULL, "
            f"finished_at = {finished_at}{started_at} WHERE plan = %s",
            (to, reason, plan),
        )
        self.note_event(plan, None, who, to, reason or "")
        outbox.put_plan(self, plan, to, who)
        if to in OVER:
            outbox.resolve(self, plan)
        return True

    def settle_drain(self, plan: str) -> None:
        """A plan that drains is paused when its last open batch has ended. Its row is locked first, so that of two
        last batches one sees it."""
        found = self.rows(
            f"SELECT p.state FROM scatter_plan p WHERE p.plan = %s {self.LOCK_P}", (plan,)
        )
        if not found or found[0][0] != "draining":
            return
        open_batches = "SELECT 1 FROM scatter_batch WHERE plan = %s AND state = 'running' LIMIT 1"
        if not self.rows(open_batches, (plan,)):
            self.set_plan_state(plan, "paused", "", "drained")

    @property
    def orders_sql(self) -> str:
        """The columns and tables of what a worker obeys; batches are counted only where a rate is to be shared."""
        live = f"r.state = 'running' AND r.lease_until > {self.CLOCK}"
        count = "SELECT count(*) FROM scatter_batch r WHERE"
        return (
            f"p.state, coalesce(p.window_ends < {self.CLOCK}, 1 = 0), p.rate, p.chunk_ms, "
            f"CASE WHEN p.rate IS NOT NULL THEN ({count} r.plan = p.plan AND {live}) END, "
            "g.stopped, g.rate, g.floor_rate, "
            f"CASE WHEN g.limits <> '{{}}' THEN coalesce({self.SILENT}, 1000000000.0) END, "
            f"CASE WHEN g.rate IS NOT NULL OR g.limits <> '{{}}' THEN ({count} {live}) END "
            "FROM scatter_plan p LEFT JOIN scatter_governor g ON g.id = 1"
        )

    def beat(self, plan: str, batch: int, token: int, throttled_ms: int) -> Orders:
        """Where no chunk is due: the lease goes on, and what is to be obeyed comes back."""
        with self.transaction():
            beaten = self.execute(
                f"UPDATE scatter_batch SET lease_until = {self.LEASE}, "
                "throttled_ms = throttled_ms + %s "
                "WHERE plan = %s AND batch = %s AND lease_token = %s AND state = 'running'",
                (self.lease_ms, throttled_ms, plan, batch, token),
            )
            if beaten != 1:
                raise Fenced
            return self.orders(plan)

    @property
    def look_sql(self) -> str:
        ours = (
            "SELECT count(*) FROM scatter_batch x WHERE x.plan = %s AND x.batch = %s "
            "AND x.lease_token = %s AND x.state = 'running'"
        )
        return f"SELECT ({ours}), {self.orders_sql} WHERE p.plan = %s"

    def look(self, plan: str, batch: int, token: int, raw: Any) -> Orders:
        """Only what is to be obeyed; `raw`: the driver's connection, or Django's. Fenced when the batch is another's."""
        with raw.cursor() as cursor:
            cursor.execute(self.look_sql, (plan, batch, token, plan))
            found = cursor.fetchone()
        if found is None or found[0] != 1:
            raise Fenced
        return orders_of(found[1:])

    def watch(self, plan: str, batch: int, token: int, renew: bool) -> tuple[Orders, bool]:
        """As beat, beside a call that takes long and on a connection of its own: never waits for the batch's row. False:
        the lease was not to be renewed, or the row is locked, so that nobody else can have it either."""
        if not renew and self.connection.vendor == "sqlite":  # a reader needs no turn there
            return self.look(plan, batch, token, self.connection), False
        with self.transaction():
            renewed = renew and self.execute(
                f"UPDATE scatter_batch SET lease_until = {self.LEASE} WHERE plan = %s AND batch = "
                "(SELECT b.batch FROM scatter_batch b WHERE b.plan = %s AND b.batch = %s "
                f"AND b.lease_token = %s AND b.state = 'running' {self.SKIP_B})",
                (self.lease_ms, plan, plan, batch, token),
            )
            return self.look(plan, batch, token, self.connection), renewed == 1

    def orders(self, plan: str) -> Orders:
        found = self.rows(f"SELECT {self.orders_sql} WHERE p.plan = %s", (plan,))
        if not found:
            raise Fenced
        return orders_of(found[0])

    # ---- claim ----

    def claim(
        self, plan: PlanRow, batch: BatchRow, worker: str, owner: str, takeover: bool
    ) -> Claim:
        """What this delivery may do. A batch that is ours comes with a fresh token; so does one whose lease lives,
        when the message was delivered again (takeover): its old owner can write nothing more."""
        with self.transaction():
            found = self.read_batch(plan.plan, batch.batch, self.SKIP_B)
            if found is None and batch.source is not None:
                self.insert_missing(plan, batch)
                found = self.read_batch(plan.plan, batch.batch, self.SKIP_B)
            if found is None:
                # Locked by a chunk that is being written (or by a frozen worker, whom the server ends soon).
                found = self.read_batch(plan.plan, batch.batch, "")
                if found is None:
                    state = ClaimState.UNKNOWN if batch.source is None else ClaimState.BUSY
                    return Claim(state, retry_after_s=RETRY_SOON_S)
                claim = claim_of(found)
                claim.state = ClaimState.BUSY
                claim.retry_after_s = max(0.1, claim.left_s)
                if takeover:
                    claim.retry_after_s = min(claim.retry_after_s, RETRY_SOON_S)
                return claim
            claim = claim_of(found)
            if batch.source is not None and found["sha256"] != batch.sha256:
                raise ScatterError(
                    f"batch {batch.batch} of plan {plan.plan} was planned with another file "
                    "(its SHA-256 differs)"
                )
            self.decide(claim, found, plan.plan, batch.batch, worker, owner, takeover)
        return claim

    def read_batch(self, plan: str, batch: int, lock: str) -> dict[str, Any] | None:
        found = self.rows(
            "SELECT b.state, b.position, b.unchanged, b.stale, b.skipped, b.quarantined, b.lease_token, "
            f"b.attempts, {self.LEFT}, b.owner, b.sha256, p.state, p.retry_on, p.on_batch, p.on_finish, "
            f"p.max_workers, coalesce(p.window_ends < {self.CLOCK}, 1 = 0), "
            "b.failed_at, b.failed_times, p.max_failure_rate, p.policy "
            "FROM scatter_batch b JOIN scatter_plan p ON p.plan = b.plan "
            f"WHERE b.plan = %s AND b.batch = %s {lock}",
            (plan, batch),
        )
        return dict(zip(CLAIM_NAMES, found[0])) if found else None

    def decide(
        self, claim: Claim, found: dict[str, Any], plan: str, batch: int, worker: str, owner: str,
        takeover: bool,
    ) -> None:  # fmt: skip
        running = found["state"] == "running"
        live = running and claim.left_s > 0
        if found["state"] == "done":
            claim.state = ClaimState.DONE
        elif "cancelled" in (found["state"], found["plan_state"]):
            claim.state = ClaimState.CANCELLED
            if takeover or not live:
                self.set_batch_state(plan, batch, "cancelled")
        elif self.is_held_back(found, plan):
            claim.state = ClaimState.PAUSED
            if takeover or not live:
                self.park(claim, plan, batch)
        elif live and not takeover:
            claim.state = ClaimState.BUSY
            claim.retry_after_s = claim.left_s
        elif not running and self.is_full(claim, plan, found["max_workers"]):
            claim.state = ClaimState.BUSY
        else:
            if running:
                why = "message delivered again" if live else "lease expired"
                self.note_event(
                    plan, batch, worker, "takeover",
                    f"from {claim.owner or 'nobody'} at position {claim.position}, {why}",
                )  # fmt: skip
            self.take_lease(claim, plan, batch, worker, owner)

    def park(self, claim: Claim, plan: str, batch: int) -> None:
        """The message goes, resuming sends it again. The state is read once more under the plan's lock: who resumed it
        meanwhile has not seen this batch, and its message must stay."""
        found = self.rows(
            f"SELECT p.state FROM scatter_plan p WHERE p.plan = %s {self.LOCK_P}", (plan,)
        )
        if found and found[0][0] in ("queued", "running"):
            claim.state = ClaimState.BUSY
            claim.retry_after_s = RESUMED_S
            return
        self.set_batch_state(plan, batch, "parked")
        self.settle_drain(plan)

    def is_held_back(self, found: dict[str, Any], plan: str) -> bool:
        """The plan does not want this batch to be begun, or to go on: its message goes, resuming sends it again."""
        if found["closed"] and found["plan_state"] != "paused":
            self.close_window(plan)
        if found["plan_state"] == "failed":
            # In a plan that failed only a batch that failed with it may be tried again.
            return bool(found["state"] != "failed")
        begun = found["state"] == "running"
        return (
            bool(found["closed"])
            or found["plan_state"] == "paused"
            or (found["plan_state"] == "draining" and not begun)
        )

    def is_full(self, claim: Claim, plan: str, max_workers: int | None) -> bool:
        """As many batches as the plan may have at a time are being worked on. The plan's row is locked, so that two
        claims do not both see the last free place. Messages that must wait come again in turns, four a second."""
        if not max_workers:
            return False
        self.rows(f"SELECT 1 FROM scatter_plan p WHERE p.plan = %s {self.LOCK_P}", (plan,))
        running, waiting = self.rows(
            f"SELECT coalesce(sum(CASE WHEN r.state = 'running' AND r.lease_until > {self.CLOCK} "
            "THEN 1 ELSE 0 END), 0), count(*) FROM scatter_batch r WHERE r.plan = %s "
            "AND r.state IN ('planned', 'queued', 'running')",
            (plan,),
        )[0]
        claim.retry_after_s = min(max(int(waiting) * 0.25, 1.0), 300.0)
        return int(running) >= int(max_workers)

    def close_window(self, plan: str) -> None:
        """The window in which the plan may run is over: it is paused until the next one begins."""
        sources = ("queued", "running", "draining")
        reason = "outside of its maintenance window"
        if self.set_plan_state(plan, "paused", "", reason, sources):
            self.execute("UPDATE scatter_plan SET resume_at = window_next WHERE plan = %s", (plan,))

    def set_batch_state(self, plan: str, batch: int, state: str) -> None:
        self.execute(
            "UPDATE scatter_batch SET state = %s, lease_until = NULL, owner = NULL "
            "WHERE plan = %s AND batch = %s",
            (state, plan, batch),
        )

    def insert_missing(self, plan: PlanRow, batch: BatchRow) -> None:
        """A message that nobody planned here brings its own rows; the plan grows by each batch that is new to it."""
        self.execute(
            "INSERT INTO scatter_plan (plan, migration, table_name, key_column, columns, "
            "store, queue, database, params, total, n_batches, created_by) "
            "VALUES (%s, %s, %s, %s, %s, '', %s, %s, %s, 0, %s, %s) ON CONFLICT (plan) DO NOTHING",
            (plan.plan, plan.migration, plan.table, plan.key, plan.columns, plan.queue, plan.database,
             plan.params, plan.n_batches, plan.created_by),
        )  # fmt: skip
        inserted = self.execute(
            "INSERT INTO scatter_batch (plan, batch, source, sha256, records, state) "
            "VALUES (%s, %s, %s, %s, %s, 'queued') ON CONFLICT (plan, batch) DO NOTHING",
            (plan.plan, batch.batch, batch.source, batch.sha256, batch.records),
        )
        if inserted != 1:
            return
        count = "(SELECT count(*) FROM scatter_batch b WHERE b.plan = scatter_plan.plan)"
        self.execute(
            f"UPDATE scatter_plan SET total = total + %s, "
            f"n_batches = CASE WHEN n_batches < {count} THEN {count} ELSE n_batches END "
            "WHERE plan = %s",
            (batch.records, plan.plan),
        )

    def take_lease(self, claim: Claim, plan: str, batch: int, worker: str, owner: str) -> None:
        claim.state = ClaimState.OURS
        claim.token += 1
        claim.attempts += 1
        self.execute(
            f"UPDATE scatter_batch SET state = 'running', lease_token = %s, lease_until = {self.LEASE}, "
            "owner = %s, worker = %s, attempts = attempts + 1, error = NULL, finished_at = NULL, "
            f"started_at = coalesce(started_at, {self.NOW}) WHERE plan = %s AND batch = %s",
            (claim.token, self.lease_ms, owner, worker, plan, batch),
        )
        self.set_plan_state(
            plan, "running", worker, sources=("planned", "queued", "failed", "finished")
        )

    # ---- the chunk ----

    @abstractmethod
    def prepare(self, target: Target) -> None:
        """Looks up what the chunk statement needs to know about the table."""

    @abstractmethod
    def change(self, chunk: Chunk) -> list[Row]:
        """Inside the transaction: checkpoint and guarded change. Gives the stale rows; Unknown when the checkpoint
        did not move."""

    @abstractmethod
    def value(self, column: str, value: Any) -> str | None:
        """What process returned for a column, in the text form that is sent to the database."""

    def apply(self, chunk: Chunk) -> Orders:
        """One transaction: change, checkpoint, outcomes, share. What to obey is read on the way."""
        with self.transaction():
            return self.settle(chunk)

    def settle(self, chunk: Chunk) -> Orders:
        """The same inside of a transaction that is open."""
        stale = self.change(chunk) + [r for r in chunk.rows if r.outcome is Outcome.STALE]
        if stale:
            self.execute(
                "UPDATE scatter_batch SET stale = stale + %s WHERE plan = %s AND batch = %s",
                (len(stale), chunk.plan, chunk.batch),
            )
        self.insert_outcomes(chunk, stale)
        self.execute(
            "INSERT INTO scatter_share (plan, batch, worker, records) VALUES (%s, %s, %s, %s) "
            "ON CONFLICT (plan, batch, worker) "
            "DO UPDATE SET records = scatter_share.records + excluded.records",
            (chunk.plan, chunk.batch, chunk.worker, len(chunk.rows)),
        )
        return self.orders(chunk.plan)

    # ---- a chunk whose changes are the migration's own statements ----

    @abstractmethod
    def guard(self, rows: Sequence[Row]) -> set[int]:
        """Inside of a transaction: the numbers of the rows that do not hold their planned values any more. The others
        are locked, in their order."""

    @abstractmethod
    def compute(self, body: str, rows: Sequence[Row]) -> dict[int, dict[str, str | None]]:
        """What the SELECT of an SQL file makes of the old values: the written columns by the row's number."""

    def fence(self, chunk: Chunk) -> None:
        """Inside of a transaction: the batch's row is locked and its lease renewed; Unknown when the checkpoint is not
        there, or not ours."""
        moved = self.execute(
            f"UPDATE scatter_batch SET lease_until = {self.LEASE} WHERE plan = %s AND batch = %s "
            "AND lease_token = %s AND position = %s AND state = 'running'",
            (self.lease_ms, chunk.plan, chunk.batch, chunk.token, chunk.position),
        )
        if moved != 1:
            raise Unknown

    def checkpoint_params(self, chunk: Chunk) -> list[Any]:
        """For CHECKPOINT below."""
        return [
            chunk.position + len(chunk.rows),
            self.lease_ms,
            chunk.count(Outcome.UNCHANGED),
            chunk.count(Outcome.SKIPPED),
            chunk.count(Outcome.QUARANTINED),
            chunk.plan,
            chunk.batch,
            chunk.token,
            chunk.position,
        ]

    @property
    def checkpoint_sql(self) -> str:
        return (
            f"UPDATE scatter_batch SET position = %s, lease_until = {self.LEASE}, "
            "unchanged = unchanged + %s, skipped = skipped + %s, quarantined = quarantined + %s "
            "WHERE plan = %s AND batch = %s AND lease_token = %s AND position = %s "
            "AND state = 'running'"
        )

    def insert_outcomes(self, chunk: Chunk, stale: Sequence[Row]) -> None:
        found = [(r, "stale") for r in stale] + [
            (r, r.outcome.value)
            for r in chunk.rows
            if r.outcome in (Outcome.SKIPPED, Outcome.QUARANTINED)
        ]
        if not found:
            return
        with self.connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO scatter_outcome (plan, batch, position, record_key, outcome, error_class, "
                "sqlstate, message, worker, attempts) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                [
                    (chunk.plan, chunk.batch, r.position, key_text(r.old[: chunk.keys]), outcome, r.error_class, r.sqlstate,
                     r.message, chunk.worker, r.attempts)
                    for r, outcome in found
                ],
            )  # fmt: skip

    def position(self, plan: str, batch: int, token: int) -> int:
        """The stored position after an unknown outcome; Fenced when the batch is another's."""
        with self.transaction():
            found = self.rows(
                "SELECT b.position FROM scatter_batch b WHERE b.plan = %s AND b.batch = %s "
                f"AND b.lease_token = %s AND b.state = 'running' {self.LOCK_B}",
                (plan, batch, token),
            )
        if not found:
            raise Fenced
        return int(found[0][0])

    # ---- the end ----

    def finish(self, plan: str, batch: int, token: int) -> BatchEnd:
        """running -> done, and the plan -> finished (or failed) with its last batch. Idempotent for our token."""
        with self.transaction():
            found = self.rows(
                f"SELECT b.state, b.position, b.records, {self.AGE} FROM scatter_batch b "
                f"WHERE b.plan = %s AND b.batch = %s AND b.lease_token = %s {self.LOCK_B}",
                (plan, batch, token),
            )
            if not found or found[0][0] not in ("running", "done"):
                raise Fenced
            state, position, records, age = found[0]
            if position != records:
                raise ScatterError(f"batch {batch} of plan {plan} is not at its end")
            finished = False
            if state == "running":
                self.execute(
                    f"UPDATE scatter_batch SET state = 'done', finished_at = {self.NOW}, "
                    "lease_until = NULL, owner = NULL "
                    "WHERE plan = %s AND batch = %s AND lease_token = %s",
                    (plan, batch, token),
                )
                outbox.put_batch(self, plan, batch, "done", None)
                finished = self.end_plan(plan)
                if not finished:
                    limits.check_canary(self, plan)
                self.settle_drain(plan)
        return BatchEnd(plan_finished=finished, duration_s=float(age or 0.0))

    def end_plan(self, plan: str) -> bool:
        """The plan's row is locked first, so that of two last batches exactly one sees that it is the last. A plan whose
        numbers do not add up is never called finished."""
        (n_batches,) = self.rows(
            f"SELECT p.n_batches FROM scatter_plan p WHERE p.plan = %s {self.LOCK_P}", (plan,)
        )[0]
        over, failed = self.rows(
            "SELECT count(*), coalesce(sum(CASE WHEN state = 'failed' THEN 1 ELSE 0 END), 0) "
            "FROM scatter_batch WHERE plan = %s AND state IN ('done', 'failed', 'cancelled')",
            (plan,),
        )[0]
        if over < n_batches:
            return False
        reason = f"{failed} of {n_batches} batches failed" if failed else limits.doubt(self, plan)
        end = "failed" if reason else "finished"
        return self.set_plan_state(
            plan, end, "", reason or None, sources=("running", "draining", "paused")
        )

    def release(
        self, plan: str, batch: int, token: int, how: Release, error: str | None,
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
        with self.transaction():
            given = self.execute(
                f"UPDATE scatter_batch SET state = {state}, lease_until = NULL, owner = NULL, "
                f"error = %s, attempts = attempts - %s, {TRIES[how is Release.RETRY]}, "
                f"finished_at = {self.NOW if failed else 'NULL'} "
                "WHERE plan = %s AND batch = %s AND lease_token = %s AND state = 'running'",
                (error, int(how is Release.CLEAN), plan, batch, token),
            )
            if given == 0:
                raise Fenced
            ended = False
            if failed:
                ended = self.fail_plan_or_go_on(plan, batch, how, error, parts)
            self.settle_drain(plan)
            return ended

    def fail_plan_or_go_on(
        self,
        plan: str,
        batch: int,
        how: Release,
        error: str | None,
        parts: Mapping[str, Any] | None,
    ) -> bool:
        self.note_event(plan, batch, "", "failed", error or "")
        outbox.put_batch(self, plan, batch, "failed", parts)
        if how is Release.FAIL_PLAN:
            sources = ("queued", "running", "draining", "paused")
            return self.set_plan_state(plan, "failed", "", error, sources)
        if self.end_plan(plan):
            return True
        limits.check_canary(self, plan)
        limits.check_failed_batches(self, plan)
        return False

    def plan_state(self, plan: str) -> str:
        found = self.rows("SELECT state FROM scatter_plan WHERE plan = %s", (plan,))
        return str(found[0][0]) if found else ""

    def batch_counts(self, plan: str, batch: int) -> dict[str, int]:
        return self.sums("plan = %s AND batch = %s", (plan, batch))

    def plan_counts(self, plan: str) -> dict[str, int]:
        return self.sums("plan = %s", (plan,))

    def sums(self, where: str, params: tuple[Any, ...]) -> dict[str, int]:
        planned, position, unchanged, stale, skipped, quarantined = (
            int(v)
            for v in self.rows(
                "SELECT coalesce(sum(records), 0), coalesce(sum(position), 0), "
                "coalesce(sum(unchanged), 0), coalesce(sum(stale), 0), coalesce(sum(skipped), 0), "
                f"coalesce(sum(quarantined), 0) FROM scatter_batch WHERE {where}",
                params,
            )[0]
        )
        return {
            "planned": planned,
            "ok": position - unchanged - stale - skipped - quarantined,
            "unchanged": unchanged,
            "stale": stale,
            "skipped": skipped,
            "quarantined": quarantined,
            "remaining": planned - position,
        }

    def plan_seconds(self, plan: str) -> float:
        """From the first claim to the end of the plan, or to now."""
        found = self.rows(f"SELECT {self.PLAN_AGE} FROM scatter_plan p WHERE p.plan = %s", (plan,))
        return float(found[0][0] or 0.0) if found else 0.0

    def failures(self, plan: str, batch: int | None, limit: int) -> list[dict[str, Any]]:
        where, params = "plan = %s", [plan, limit]
        if batch is not None:
            where, params = "plan = %s AND batch = %s", [plan, batch, limit]
        names = ("batch", "key", "outcome", "error_class", "sqlstate", "message")
        found = self.rows(
            "SELECT batch, record_key, outcome, error_class, sqlstate, message FROM scatter_outcome "
            f"WHERE {where} ORDER BY batch, position LIMIT %s",
            params,
        )
        return [dict(zip(names, r)) for r in found]


def open_control(connection: BaseDatabaseWrapper, lease_ms: int) -> Control:
    if connection.vendor == "postgresql":
        from django_scatter.control_postgresql import PostgresControl

        return PostgresControl(connection, lease_ms)
    if connection.vendor == "sqlite":
        from django_scatter.control_sqlite import SqliteControl

        return SqliteControl(connection, lease_ms)
    raise ScatterError(
        f"database {connection.alias!r} is {connection.display_name}; "
        "migrations run on PostgreSQL and SQLite"
    )
