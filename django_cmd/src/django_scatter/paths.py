# SPDX-License-Identifier: Apache-2.0
"""How the records of a chunk are worked on, by the function that the migration has. celeryc does the same in work.c and
work_row.c.

What must never happen: something of a failed record stays in the database; a record is done that has changed since it
was planned.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from django.db import DatabaseError, Error

from django_scatter.chunk import Outcome, Row, told
from django_scatter.errors import ScatterError
from django_scatter.migration import Skip

if TYPE_CHECKING:
    from django_scatter.failures import Failure
    from django_scatter.runtime import Run

EXTERNAL_MAX = 100  # calls to the outside that a crash may repeat
READS = ("SELECT", "VALUES", "TABLE", "SHOW", "EXPLAIN", "PRAGMA")
ENDS = ("BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "PREPARE")
# Of the last comment behind which a statement begins.
COMMENTS = re.compile(r"(\s|;|--[^\n]*(\n|$)|/\*.*?\*/)*", re.DOTALL)


class Path(Protocol):
    def chunk(self, n: int) -> tuple[int, Failure | None]:
        """At most n records from the position on: how many are done, and why the work ends behind them."""


class TransactionEnded(ScatterError):
    """A migration's statement would end the chunk's transaction."""


class Values:
    """process: new values, written by one guarded statement."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def chunk(self, n: int) -> tuple[int, Failure | None]:
        run = self.run
        rows, failure = self.compute([run.blank(run.position + i) for i in range(n)])
        done = run.apply(rows) if rows else 0
        return done, failure if done == len(rows) else None

    def compute(self, rows: list[Row]) -> tuple[list[Row], Failure | None]:
        """The rows that are to be written; a failure that ends the work behind them."""
        for i, row in enumerate(rows):
            failure = self.one(row)
            if failure is not None:
                return rows[:i], failure
            if self.run.has_enough(2):
                return rows[: i + 1], None
        return rows, None

    def one(self, row: Row) -> Failure | None:
        try:
            self.call(row)
        except Error:
            raise  # the migration's own statement on our connection failed: that is the database's matter
        except Exception as e:  # noqa: BLE001  whatever a migration raises belongs to its record
            return self.run.failed(row, e)
        return None

    def call(self, row: Row) -> None:
        self.run.fill(row, self.run.migration.process(self.run.record(row)))


class ManyValues(Values):
    """process_batch: the same, many records at a time."""

    def compute(self, rows: list[Row]) -> tuple[list[Row], Failure | None]:
        if len(rows) == 1:
            return super().compute(rows)
        try:
            changes = self.changes(rows)
        except Error:
            raise
        except Exception as e:  # noqa: BLE001  one of the records', found by halving
            later = self.run.postponed(e)
            if later is not None:
                return [], later
            middle = len(rows) // 2
            done, failure = self.compute(rows[:middle])
            if failure is None:
                more, failure = self.compute(rows[middle:])
                done = done + more
            return done, failure
        for i, (row, change) in enumerate(zip(rows, changes)):
            try:
                self.run.fill(row, change)
            except Exception as e:  # noqa: BLE001
                failure = self.run.failed(row, e)
                if failure is not None:
                    return rows[:i], failure
        return rows, None

    def changes(self, rows: Sequence[Row]) -> Sequence[Any]:
        changes = list(self.run.migration.process_batch([self.run.record(r) for r in rows]))
        if len(changes) != len(rows):
            raise ValueError(
                f"process_batch gave {len(changes)} changes for {len(rows)} records, it must give "
                "one for each"
            )
        return changes

    def call(self, row: Row) -> None:
        self.run.fill(row, self.changes([row])[0])


class External(Values):
    """process_external: no effect in the database; the checkpoint follows at once."""

    def chunk(self, n: int) -> tuple[int, Failure | None]:
        return super().chunk(min(n, EXTERNAL_MAX))

    def compute(self, rows: list[Row]) -> tuple[list[Row], Failure | None]:
        control = self.run.control
        with control.transaction():
            control.fence(self.run.new_chunk(rows))
            stale = control.guard(rows)
        for i, row in enumerate(rows):
            failure = None
            if i in stale:
                row.outcome = Outcome.STALE
            else:
                failure = self.one(row)
            if failure is not None:
                return rows[:i], failure
            if self.run.has_enough(1):
                return rows[: i + 1], None
        return rows, None

    def call(self, row: Row) -> None:
        done(row, self.run.migration.process_external(self.run.record(row)))


def done(row: Row, answer: Any) -> None:
    if isinstance(answer, Skip):
        row.outcome, row.message = Outcome.SKIPPED, told(answer.reason)
    elif answer is None:
        row.outcome = Outcome.DONE
    else:
        raise TypeError(f"{type(answer).__name__} is neither None nor Skip")


class Computed(Values):
    """A file of SQL: the database computes the values, chunk by chunk; what it cannot is halved until it is alone."""

    def chunk(self, n: int) -> tuple[int, Failure | None]:
        run = self.run
        rows = [run.blank(run.position + i) for i in range(n)]
        for row, fresh in self.computed(rows):
            row.fresh = fresh
        return run.apply(rows), None

    def computed(self, rows: list[Row]) -> list[tuple[Row, dict[str, str | None]]]:
        try:
            found = self.run.control.compute(self.run.migration.body, rows)
        except DatabaseError as e:
            if not self.run.is_refusal(e):
                raise
            if len(rows) == 1:
                self.run.error = e
                self.run.single(rows[0])
                return []
            middle = len(rows) // 2
            return self.computed(rows[:middle]) + self.computed(rows[middle:])
        for i, row in enumerate(rows):
            old = dict(zip(self.run.names, row.old))
            fresh = found.get(i, {})
            same = all(c in old and old[c] == v for c, v in fresh.items())
            row.outcome = Outcome.UNCHANGED if same else Outcome.CHANGED
        return [(row, found[i]) for i, row in enumerate(rows) if row.outcome is Outcome.CHANGED]


class Undo(Exception):
    """A record failed, or is skipped, behind a statement of its own."""


class OwnStatements:
    """process_row: BEGIN, fence, locks, the function record by record, checkpoint, COMMIT.

    There are no savepoints of ours, so a record that fails after it has run a statement takes the chunk with it. What
    stood in front of it is then done again, as a chunk of its own (self.limit); the record comes first in the one after
    that, where only its outcome is written."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.limit = 0
        self.touched = self.changed = False

    def chunk(self, n: int) -> tuple[int, Failure | None]:
        run = self.run
        rows = [run.blank(run.position + i) for i in range(min(n, self.limit or n))]
        self.n = 0
        failure: Failure | None = None
        try:
            with run.control.transaction(), self.as_atomic():
                chunk = run.new_chunk(rows)
                run.control.fence(chunk)
                stale = run.control.guard(rows)
                with run.control.connection.execute_wrapper(self.watch):
                    failure = self.records(rows, stale)
                chunk.rows = rows[: self.n]
                if self.n:
                    orders = run.control.settle(chunk)
                    self.settled = True
        except Undo:
            return self.undone(rows)
        except DatabaseError as e:
            return self.refused(rows, e)
        self.limit = 0
        if self.n:
            run.throttle.told(orders, self.n)
            run.written(chunk)
        return self.n, failure

    def records(self, rows: list[Row], stale: set[int]) -> Failure | None:
        for i, row in enumerate(rows):
            if i in stale:
                row.outcome = Outcome.STALE
            else:
                failure = self.one(row)
                if failure is not None:
                    return failure
            self.n += 1
            if self.run.has_enough(1):
                break
        return None

    def one(self, row: Row) -> Failure | None:
        run = self.run
        self.touched = self.changed = False
        try:
            with run.control.connection.cursor() as cursor:
                run.beat.lend()
                done(row, run.migration.process_row(run.record(row), cursor))
        except Error:
            raise
        except TransactionEnded:
            raise
        except Exception as e:
            if self.touched:
                self.failure = e
                raise Undo from e
            return run.failed(row, e)
        finally:
            run.beat.take_back()
        if row.outcome is Outcome.SKIPPED and self.touched:
            self.failure = None
            raise Undo
        if row.outcome is Outcome.DONE and not self.changed:
            row.outcome = Outcome.UNCHANGED
        return None

    def undone(self, rows: list[Row]) -> tuple[int, Failure | None]:
        self.limit = self.n
        if self.n:
            return 0, None
        if self.failure is not None:
            failure = self.run.failed(rows[0], self.failure)
            if failure is not None:
                return 0, failure
        self.run.apply(rows[:1])
        return 1, None

    def refused(self, rows: list[Row], error: DatabaseError) -> tuple[int, Failure | None]:
        run = self.run
        if not run.is_refusal(error):
            raise error
        if self.settled:  # at the checkpoint, or COMMIT: any of them
            self.n = self.n // 2
        self.limit = self.n
        if self.n:
            return 0, None
        run.error = error
        rows[0].outcome = Outcome.CHANGED
        run.single(rows[0])
        run.apply(rows[:1])
        return 1, None

    settled = False
    failure: Exception | None = None
    n = 0

    @contextmanager
    def as_atomic(self) -> Iterator[None]:
        """Django takes the open transaction for one of its own: an atomic block inside of it is a savepoint, and never
        commits."""
        connection = self.run.control.connection
        self.settled = False
        connection.in_atomic_block = True
        connection.savepoint_ids = []
        try:
            yield
        finally:
            connection.in_atomic_block = False
            connection.needs_rollback = False
            connection.savepoint_ids = []

    def watch(self, execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        text = sql if isinstance(sql, str) else ""
        word = text[COMMENTS.match(text).end() :].split(None, 1)  # type: ignore[union-attr]
        first = word[0].upper().strip("(;") if word else ""
        if first in ENDS and not text.upper().startswith("ROLLBACK TO"):
            raise TransactionEnded(
                "a migration's statements run inside of the chunk's transaction, which they must "
                f"not begin or end: {text[:40]}"
            )
        self.touched = True
        self.run.beat.take_back()
        found = execute(sql, params, many, context)
        self.run.beat.lend()
        if first not in (*READS, "SAVEPOINT", "RELEASE") and context["cursor"].rowcount > 0:
            self.changed = True
        return found


PATHS: dict[str, Callable[[Run], Path]] = {
    "process": Values,
    "process_batch": ManyValues,
    "process_external": External,
    "process_row": OwnStatements,
    "sql": Computed,
}


def path_of(run: Run) -> Path:
    return PATHS[run.migration.kind](run)
