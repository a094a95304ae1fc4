# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL: one statement moves the checkpoint and changes the rows that still hold the planned values."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from django.db import DatabaseError
from django.db.backends.postgresql.psycopg_any import is_psycopg3

from django_scatter import pieces, sqlstates
from django_scatter.batchfile import text_of
from django_scatter.chunk import Chunk, Row, Target, by_number
from django_scatter.conf import copy_setting
from django_scatter.control import Control, Unknown
from django_scatter.errors import SchemaError
from django_scatter.orders import Orders
from django_scatter.pieces import Pieces, block_of
from django_scatter.rows import array_text, as_text
from django_scatter.schema import schema_sql

logger = logging.getLogger("django_scatter")

LOCK_LIMIT_MS = 2000

COPY_TABLE = "pg_temp.scatter_chunk_values"
# Values of a chunk from which on COPY is quicker than arrays (make bench-chunk measures it).
COPY_VALUES = 5000


# The databases of this process, by alias, where it was: by the role's rights, or an event trigger.
copy_refused: set[str] = set()


class CopyRefused(Exception):
    """There can be no temporary table; the transaction is to be rolled back."""


# The text form of every value depends on these, and by the name the governor knows the sessions of migrations; celeryc and
# scatter-plan set the same.
SETTINGS = (
    "SELECT set_config('statement_timeout', %s, true), set_config('lock_timeout', %s, true), "
    "set_config('idle_in_transaction_session_timeout', %s, true), set_config('TimeZone', 'UTC', true), "
    "set_config('DateStyle', 'ISO, MDY', true), set_config('IntervalStyle', 'postgres', true), "
    "set_config('bytea_output', 'hex', true), set_config('extra_float_digits', '1', true), "
    "set_config('application_name', 'scatter', true)"
)


class PostgresControl(Control):
    NOW = "clock_timestamp()"
    LEASE = "clock_timestamp() + CAST(%s AS bigint) * interval '1 millisecond'"
    LEFT = "CAST(extract(epoch FROM b.lease_until - clock_timestamp()) * 1000 AS bigint)"
    AGE = "extract(epoch FROM clock_timestamp() - b.started_at)"
    PLAN_AGE = "extract(epoch FROM coalesce(p.finished_at, clock_timestamp()) - p.started_at)"
    CLOCK = "clock_timestamp()"
    SILENT = "extract(epoch FROM clock_timestamp() - g.beat_at)"
    LOCK_B = "FOR UPDATE OF b"
    SKIP_B = "FOR UPDATE OF b SKIP LOCKED"
    LOCK_P = "FOR NO KEY UPDATE OF p"
    OUTBOX_AGE = "extract(epoch FROM clock_timestamp() - coalesce(o.tried_at, o.created_at))"
    SKIP_O = "FOR UPDATE OF o SKIP LOCKED"

    sql = guard_sql = pieces_sql = ""
    types: dict[str, str]
    target: Target
    copy = "auto"

    def begin(self) -> None:
        self.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
        limits = (max(self.lease_ms // 2, 100), LOCK_LIMIT_MS, max(self.lease_ms // 3, 100))
        try:
            self.rows(SETTINGS, [str(v) for v in limits])
        except DatabaseError:
            self.rollback()
            raise

    def ensure_schema(self) -> None:
        """Asked first, so that a worker without the right to create tables can live with those that are there."""
        if self.rows("SELECT to_regclass('scatter_governor') IS NOT NULL")[0][0]:
            return
        with self.transaction():
            # CREATE TABLE IF NOT EXISTS is not safe against its own kind.
            self.rows("SELECT pg_advisory_xact_lock(7235421763)")
            for statement in self.connection.ops.prepare_sql_script(schema_sql("postgresql")):
                self.execute(statement)

    def prepare(self, target: Target) -> None:
        found = {
            str(name): str(kind)
            for name, kind in self.rows(
                # Without the length: a cast to varchar(20) would cut silently what an assignment refuses.
                "SELECT attname, format_type(atttypid, -1) FROM pg_attribute "
                "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
                (self.quoted_table(target.table),),
            )
        }
        if not found:
            raise SchemaError(f"there is no table {target.table} in the target database", "42P01")
        for column in (*target.keys, *target.reads, *target.writes):
            if column not in found:
                raise SchemaError(
                    f"table {target.table} has no column {column} (it has {', '.join(found)})",
                    "42703",
                )
        self.target = target
        self.array_columns = {c for c, kind in found.items() if kind.endswith("[]")}
        self.copy = copy_setting()
        self.names = self.value_names(target)
        self.keyed = self.is_keyed(target)
        arrays = ", ".join("%s::text[]" for _ in self.names)
        self.sql = self.chunk_sql(
            target, found, f"unnest({arrays}) WITH ORDINALITY v({', '.join(self.names)}, i)"
        )
        self.copy_sql = self.chunk_sql(target, found, f"{COPY_TABLE} v")
        self.guard_sql = self.lock_sql(target, found)
        self.pieces_sql = block_of(target, found)
        self.types = found

    def quoted_table(self, table: str) -> str:
        return ".".join(self.quote(part) for part in table.split("."))

    def quote(self, name: str) -> str:
        # A percent sign would be taken for a parameter.
        return '"' + name.strip('"').replace('"', '""').replace("%", "%%") + '"'

    def value_names(self, target: Target) -> list[str]:
        """Of what travels for a changed row, all as text: the key's columns, the old values, then for each written column
        the new value and whether it is set."""
        names = [f"k{i}" for i in range(len(target.keys))]
        names += [f"o{i}" for i in range(len(target.reads))]
        for i in range(len(target.writes)):
            names += [f"n{i}", f"s{i}"]
        return names

    def is_keyed(self, target: Target) -> bool:
        """Some index of all rows begins with a column of the key."""
        return bool(
            self.rows(
                "SELECT 1 FROM pg_index x JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[0] "
                "WHERE x.indrelid = to_regclass(%s) AND x.indisvalid AND x.indpred IS NULL AND a.attname = ANY(%s)",
                (self.quoted_table(target.table), list(target.keys)),
            )
        )

    def chunk_sql(self, target: Target, types: dict[str, str], values: str) -> str:
        sets = ", ".join(
            f"{self.quote(c)} = CASE WHEN v.s{i} = 't' THEN v.n{i}::{types[c]} ELSE t.{self.quote(c)} END"
            for i, c in enumerate(target.writes)
        )
        # Not an equality, where there is an index: the server then looks rows up by it one by one, in their order, and
        # cannot join by hash or merge instead, which reads the table or its index whole.
        equal = "= ANY (ARRAY[v.k{i}::{type}])" if self.keyed else "= v.k{i}::{type}"
        where = " AND ".join(
            f"t.{self.quote(c)} {equal.format(i=i, type=types[c])}"
            for i, c in enumerate(target.keys)
        )
        guard = "".join(
            f' AND t.{self.quote(c)}::text COLLATE "C" IS NOT DISTINCT FROM v.o{i}'
            for i, c in enumerate(target.reads)
        )
        return (
            f"WITH ck AS ({self.checkpoint_sql} RETURNING 1), "
            f"u AS (UPDATE {self.quoted_table(target.table)} t SET {sets} "
            f"FROM {values} "
            f"WHERE {where}{guard} "
            "AND EXISTS (SELECT 1 FROM ck) RETURNING v.i) "
            "SELECT (SELECT count(*) FROM ck), (SELECT array_agg(i) FROM u)"
        )

    def lock_sql(self, target: Target, types: dict[str, str]) -> str:
        names = [f"k{i}" for i in range(len(target.keys))]
        names += [f"o{i}" for i in range(len(target.reads))]
        on = [f"t.{self.quote(c)} = v.k{i}::{types[c]}" for i, c in enumerate(target.keys)]
        on += [
            f't.{self.quote(c)}::text COLLATE "C" IS NOT DISTINCT FROM v.o{i}'
            for i, c in enumerate(target.reads)
        ]
        return (
            f"SELECT v.i FROM unnest({', '.join(['%s::text[]'] * len(names))}) "
            f"WITH ORDINALITY v({', '.join(names)}, i) "
            f"JOIN {self.quoted_table(target.table)} t ON {' AND '.join(on)} "
            "ORDER BY v.i FOR NO KEY UPDATE OF t"
        )

    def compute(self, body: str, rows: Sequence[Row]) -> dict[int, dict[str, str | None]]:
        keys, types = self.target.keys, self.types
        places = [
            (i, c)
            for i, c in enumerate([*keys, *self.target.reads])
            if i < len(keys) or c not in keys
        ]
        arrays = [[row.old[i] for row in rows] for i, _ in places]
        old = ", ".join(f"v.c{i}::{types[c]} AS {self.quote(c)}" for i, c in places)
        fresh = "".join(f", f.{self.quote(c)}::text" for c in self.target.writes)
        sql = (
            f"WITH old AS (SELECT {old} FROM unnest({', '.join(['%s::text[]'] * len(places))}) "
            f"AS v ({', '.join(f'c{i}' for i, _ in places)})), "
            # The line feed ends a comment that may end the file.
            f"fresh AS ({body.replace('%', '%%')}\n) SELECT v.i{fresh} "
            f"FROM unnest({', '.join(f'%s::{types[c]}[]' for c in keys)}) "
            f"WITH ORDINALITY AS v ({', '.join(f'k{i}' for i in range(len(keys)))}, i) "
            f"JOIN fresh AS f ON {' AND '.join(f'f.{self.quote(c)} = v.k{i}' for i, c in enumerate(keys))}"
        )
        with self.transaction():
            self.execute("SET TRANSACTION READ ONLY")
            found = self.rows(sql, [*arrays, *arrays[: len(keys)]])
        return by_number(found, self.target.writes)

    def guard(self, rows: Sequence[Row]) -> set[int]:
        width = len(self.target.keys) + len(self.target.reads)
        columns = [[row.old[i] for row in rows] for i in range(width)]
        held = {int(i) - 1 for (i,) in self.rows(self.guard_sql, columns)}
        return set(range(len(rows))) - held

    def apply(self, chunk: Chunk) -> Orders:
        try:
            return super().apply(chunk)
        except CopyRefused as e:
            copy_refused.add(self.connection.alias)
            logger.warning("chunks go as arrays, not by COPY: %s", e)
            return super().apply(chunk)

    def change(self, chunk: Chunk) -> list[Row]:
        changed = chunk.changed
        params = self.checkpoint_params(chunk)
        if not changed:
            if self.execute(self.checkpoint_sql, params) != 1:
                raise Unknown
            return []
        if self.goes_by_copy(len(changed)):
            self.bring(changed)
            moved, written = self.rows(self.copy_sql, params)[0]
        else:
            moved, written = self.rows(self.sql, params + self.arrays(changed))[0]
        if moved != 1:
            raise Unknown
        done = {int(i) for i in written or ()}
        return [row for i, row in enumerate(changed, 1) if i not in done]

    def goes_by_copy(self, n: int) -> bool:
        if self.copy == "never" or self.connection.alias in copy_refused or not is_psycopg3:
            return False
        return self.copy == "always" or n * len(self.names) >= COPY_VALUES

    def bring(self, changed: Sequence[Row]) -> None:
        """The values by COPY into a table that ends with the transaction, so that a pooler need not know of it."""
        columns = ", ".join(f"{name} text" for name in self.names)
        try:
            self.execute(
                f"CREATE TEMPORARY TABLE {COPY_TABLE} (i integer, {columns}) ON COMMIT DROP"
            )
        except DatabaseError as e:
            if sqlstates.kind_of(sqlstates.sqlstate_of(e)) is sqlstates.Kind.RETRY:
                raise
            raise CopyRefused(str(e)) from e
        with (
            self.connection.cursor() as cursor,
            self.connection.wrap_database_errors,
            cursor.copy(f"COPY {COPY_TABLE} FROM STDIN") as copy,
        ):
            for number, values in enumerate(zip(*self.arrays(changed)), 1):
                copy.write_row((number, *values))

    def write_pieces(self, changed: Sequence[Row], size: int, most: int) -> Pieces:
        return pieces.write(self, changed, size, most)

    def arrays(self, changed: Sequence[Row]) -> list[list[str | None]]:
        columns: list[list[str | None]] = [
            [row.old[i] for row in changed]
            for i in range(len(self.target.keys) + len(self.target.reads))
        ]
        for name in self.target.writes:
            columns.append([row.fresh.get(name) for row in changed])
            columns.append(["t" if name in row.fresh else "f" for row in changed])
        return columns

    def value(self, column: str, value: Any) -> str | None:
        if isinstance(value, (list, tuple)) and column in self.array_columns:
            value = array_text(value)
        text = text_of(as_text(value))
        if text is not None and "\0" in text:
            raise ValueError("PostgreSQL cannot store a NUL character in text")
        return text
