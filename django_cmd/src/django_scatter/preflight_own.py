# SPDX-License-Identifier: Apache-2.0
"""The dry run of a migration in Python that runs statements of its own: process_row is called for a sample, in a
transaction that is rolled back, and what it does there is what is told.

The rows are read twice: once to draw the sample, and once for the standard input of scatter-plan, with what became of
those that were tried. Behind a record's columns come "+outcome" (untried, done, unchanged, skipped, stale or failed),
"+class", "+sqlstate", "+message", and for each column that is read "=column" and "?column": its value afterwards, and
whether it is another one. The same in C: planner/preflight_own.c.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from django.db import DatabaseError, connections

from django_scatter import sqlstates
from django_scatter.batchfile import key_columns, text_of
from django_scatter.chunk import Outcome, Row, Target, told
from django_scatter.control import open_control
from django_scatter.errors import ScatterError
from django_scatter.migration import Migration, Record
from django_scatter.paths import OwnStatements, Undo
from django_scatter.rows import encode
from django_scatter.sqlstates import Kind

RUN_LENGTH = 25  # neighbours, as they meet in a chunk
RUNS, RUNS_MIN = 200, 40  # of a small table not more than a tenth: each try leaves dead rows in it
GROUP = 100  # records between two ways back: locks are held no longer
COST = 500  # records whose statements are measured
LOOKED = 100  # records whose row is read again

Source = Callable[[], Iterable[bytes]]


def lines_of(source: Iterable[bytes]) -> Iterator[bytes]:
    for block in source:
        yield from block.splitlines()


class RolledBack(Exception):
    """Ends a transaction without any of its effects."""


class NoBeat:
    """In the place of the heartbeat of a batch: there is none to keep."""

    def lend(self) -> None:
        """Nobody uses the connection meanwhile."""

    def take_back(self) -> None:
        """Nor has anybody."""


class Trial:
    """What a path of the runtime wants of its run, for records that nobody has planned."""

    def __init__(self, migration: Migration, alias: str, params: Mapping[str, str]) -> None:
        self.migration = migration
        self.params = params
        self.control = open_control(connections[alias], 60_000)
        self.beat = NoBeat()
        self.names: list[str] = []
        self.n_keys = 1

    def record(self, row: Row) -> Record:
        values = row.values
        key = values[0] if self.n_keys == 1 else tuple(values[: self.n_keys])
        return Record(key, dict(zip(self.names, values)), self.params, f"dry-run/1/{row.position}")

    def failed(self, row: Row, error: Exception) -> None:
        row.outcome = Outcome.QUARANTINED
        row.error_class, row.message = type(error).__name__, told(error)


@dataclass
class OwnRehearsal:
    migration: Migration
    alias: str
    key: str
    table: str
    params: Mapping[str, str]
    source: Source
    tried: dict[bytes, Row] = field(default_factory=dict)  # by the key
    seconds: float = 0.0  # for each record that was done
    wal: float | None = None

    def __post_init__(self) -> None:
        self.keys = key_columns(self.key)
        self.reads = list(self.migration.reads)
        self.trial = Trial(self.migration, self.alias, self.params)
        self.trial.names = [*self.keys, *self.reads]
        self.trial.n_keys = len(self.keys)
        self.control = self.trial.control
        self.path = OwnStatements(cast(Any, self.trial))

    def lines(self) -> Iterator[bytes]:
        rows = self.draw()
        self.control.prepare(Target(self.table, self.keys, self.reads, list(self.migration.writes)))
        for start in range(0, len(rows), GROUP):
            self.roll_back(self.try_group, rows[start : start + GROUP])
        self.roll_back(self.measure, [r for r in rows if r.outcome is Outcome.DONE][:COST])
        lines = lines_of(self.source())
        header = json.loads(next(lines))
        self.places = [header["columns"].index(c) for c in self.trial.names]
        header["columns"] += ["+outcome", "+class", "+sqlstate", "+message"]
        for column in self.reads:
            header["columns"] += [f"={column}", f"?{column}"]
        yield encode(header) + b"\n"
        for line in lines:
            said = json.loads(line)
            if isinstance(said, dict):
                said |= {"row_seconds": self.seconds, "row_wal_bytes": self.wal}
                yield encode(said) + b"\n"
            else:
                yield encode([*said, *self.answer(said)]) + b"\n"

    def answer(self, values: Sequence[Any]) -> list[Any]:
        row = self.tried.get(self.key_of([values[i] for i in self.places]))
        if row is None:
            return ["untried", None, None, None, *[None, "f"] * len(self.reads)]
        outcome = "failed" if row.outcome is Outcome.QUARANTINED else row.outcome.value
        found: list[Any] = [outcome, row.error_class, row.sqlstate, row.message]
        for column in self.reads:
            found += [row.fresh.get(column), "t" if column in row.fresh else "f"]
        return found

    def key_of(self, values: Sequence[Any]) -> bytes:
        return encode(values[: len(self.keys)])

    # ---- the sample ----

    def draw(self) -> list[Row]:
        """Runs of neighbours by lot, in their order; the same plan gives the same sample."""
        lot = random.Random(1)
        lines = lines_of(self.source())
        columns = json.loads(next(lines))["columns"]
        places = [columns.index(c) for c in self.trial.names]
        runs: list[list[bytes]] = []
        taking: list[bytes] | None = None
        count = 0
        for line in lines:
            if line.startswith(b"{"):
                continue
            number, within = divmod(count, RUN_LENGTH)
            count += 1
            if within == 0:
                at = number if number < RUNS else lot.randrange(number + 1)
                taking = [] if at < RUNS else None
                if taking is not None:
                    runs[at : at + 1] = [taking]
            if taking is not None:
                taking.append(line)
        want = max(count // RUN_LENGTH // 10, RUNS_MIN)
        runs = runs[:: max(-(-len(runs) // want), 1)]
        found = [json.loads(line) for run in runs for line in run]
        rows = [self.row([values[i] for i in places], n) for n, values in enumerate(found)]
        # By the key as rows come, so that locks are taken in one order.
        self.tried = {self.key_of(row.values): row for row in rows}
        return rows

    def row(self, values: list[Any], position: int) -> Row:
        return Row(Outcome.CHANGED, position, [text_of(v) for v in values], values=values)

    # ---- trying ----

    def roll_back(self, function: Callable[[Sequence[Row]], None], rows: Sequence[Row]) -> None:
        with suppress(RolledBack), self.control.transaction(), self.path.as_atomic():
            self.control.execute("SAVEPOINT rehearsal")
            function(rows)
            raise RolledBack

    def back(self) -> None:
        connection = self.control.connection
        connection.needs_rollback = False  # an atomic block of the migration has failed
        connection.savepoint_ids = []
        self.control.execute("ROLLBACK TO SAVEPOINT rehearsal")

    def try_group(self, rows: Sequence[Row]) -> None:
        stale = self.control.guard(rows)
        for i, row in enumerate(rows):
            if i in stale:
                row.outcome = Outcome.STALE
            else:
                self.try_row(row)
        self.looked += len(rows)

    looked = 0

    def call(self, row: Row) -> None:
        with self.control.connection.execute_wrapper(self.path.watch):
            self.path.one(row)

    def try_row(self, row: Row) -> None:
        try:
            self.call(row)
        except Undo:
            if self.path.failure is not None:
                self.trial.failed(row, self.path.failure)
            self.back()
        except DatabaseError as e:
            self.refused(row, e)
        else:
            if row.outcome is Outcome.DONE and self.looked < LOOKED:
                self.look(row)

    def refused(self, row: Row, error: DatabaseError) -> None:
        state = sqlstates.sqlstate_of(error)
        if sqlstates.kind_of(state) is not Kind.DATA:
            raise ScatterError(
                f"a statement of {self.migration.name} fails for every record: "
                f"{sqlstates.class_of(state)} {state}: {sqlstates.text_of(error)}"
            ) from error
        row.outcome = Outcome.QUARANTINED
        row.error_class, row.sqlstate = sqlstates.class_of(state), state
        row.message = told(sqlstates.text_of(error))
        self.back()

    def look(self, row: Row) -> None:
        """What stands in the columns that are read now, where it is something else."""
        if not self.reads:
            return
        quote = self.control.connection.ops.quote_name
        table = ".".join(quote(part) for part in self.table.split("."))
        columns = ", ".join(f"CAST({quote(c)} AS text)" for c in self.reads)
        where = " AND ".join(f"{quote(c)} = %s" for c in self.keys)
        keys = list(row.values[: len(self.keys)])
        now = self.control.rows(f"SELECT {columns} FROM {table} WHERE {where}", keys)
        if now:
            old = row.old[len(self.keys) :]
            row.fresh = {c: v for c, v, o in zip(self.reads, now[0], old) if v != o}

    # ---- what it costs ----

    def measure(self, rows: Sequence[Row]) -> None:
        """For the second time: the pages have been touched by then."""
        if not rows:
            return
        for _ in range(2):
            self.control.guard(rows)
            before, began, done = self.wal_position(), time.perf_counter(), 0
            for row in rows:
                try:
                    self.call(self.row(list(row.values), row.position))
                except (Undo, DatabaseError):
                    break  # beside the others it fails: those in front of it tell enough
                done += 1
            self.seconds = (time.perf_counter() - began) / max(done, 1)
            if done == len(rows) and before is not None:
                self.wal = ((self.wal_position() or before) - before) / done
            self.back()

    def wal_position(self) -> float | None:
        if self.control.connection.vendor != "postgresql":
            return None
        sql = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"
        return float(self.control.rows(sql)[0][0])
