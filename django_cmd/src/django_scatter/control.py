# SPDX-License-Identifier: Apache-2.0
"""The control tables and the fenced chunk, through a Django connection: what both dialects share.

One Control is one connection, used by one thread. Every transaction is opened and ended here, explicitly: the caller
must not be inside transaction.atomic(). Settings travel with each BEGIN, because a pooler in transaction mode gives
every transaction another session.

What must never happen: a change without its checkpoint in the same commit, or one under a token that is another's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import DatabaseError

from django_scatter import outbox
from django_scatter.batchfile import key_text
from django_scatter.chunk import Chunk, Outcome, Row, Target
from django_scatter.errors import ScatterError
from django_scatter.orders import OVER, SOURCES, Orders, orders_of

if TYPE_CHECKING:
    from django_scatter.pieces import Pieces


class Fenced(Exception):
    """The lease token is another's: nothing was written, and nothing more may be."""


class Unknown(Exception):
    """A chunk did not move the checkpoint although the token is ours: the stored position counts."""


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

    def write_pieces(self, changed: Sequence[Row], size: int, most: int) -> Pieces:
        """The changes of a chunk inside of a transaction, where there are pieces (pieces.write)."""
        raise NotImplementedError

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
