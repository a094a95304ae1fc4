# SPDX-License-Identifier: Apache-2.0
"""SQLite: BEGIN IMMEDIATE, the fenced checkpoint, one guarded UPDATE per record, COMMIT.

Values are compared and written in text form, as celeryc does; a column declared as boolean holds 1 and 0 where the
batch file says true and false, a blob is told as PostgreSQL tells bytea.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.db.utils import OperationalError

from django_scatter.batchfile import text_of
from django_scatter.chunk import Chunk, Row, Target, by_number
from django_scatter.control import Control, Unknown
from django_scatter.errors import SchemaError
from django_scatter.rows import as_text, utc_naive
from django_scatter.schema import schema_sql

SECONDS_NOW = "((julianday('now') - 2440587.5) * 86400.0)"
TEXT_TYPE = re.compile(r"(?!.*int)(.*char|.*clob|.*text)", re.IGNORECASE)
INTEGER = re.compile(r"(0|-?[1-9][0-9]{0,18})\Z")
BLOB = re.compile(r"\\x([0-9a-fA-F]{2})*\Z")


def kind_of(declared: str) -> str:
    """How a column keeps its values, by SQLite's own affinity rule as far as it matters here."""
    if declared.lower().startswith("bool"):
        return "bool"
    if TEXT_TYPE.match(declared):
        return "text"
    return "blob" if "blob" in declared.lower() and "int" not in declared.lower() else ""


class SqliteControl(Control):
    NOW = "strftime('%%Y-%%m-%%dT%%H:%%M:%%fZ', 'now')"
    LEASE = f"({SECONDS_NOW} + %s / 1000.0)"
    LEFT = f"(b.lease_until - {SECONDS_NOW}) * 1000.0"
    AGE = "(julianday('now') - julianday(b.started_at)) * 86400.0"
    PLAN_AGE = "(julianday(coalesce(p.finished_at, 'now')) - julianday(p.started_at)) * 86400.0"
    CLOCK = SECONDS_NOW
    SILENT = f"({SECONDS_NOW} - g.beat_at)"
    LOCK_B = ""
    SKIP_B = ""
    LOCK_P = ""
    OUTBOX_AGE = "(julianday('now') - julianday(coalesce(o.tried_at, o.created_at))) * 86400.0"
    SKIP_O = ""

    target: Target
    table = ""

    def begin(self) -> None:
        """Waits for its turn with short pauses of random length: SQLite's own handler sleeps up to 100 ms, which
        starves a waiter beside a writer that begins again at once."""
        self.execute("PRAGMA busy_timeout = 0")
        deadline = time.monotonic() + self.patience_s
        pause = 0.001
        try:
            while True:
                try:
                    self.execute("BEGIN IMMEDIATE")
                    break
                except OperationalError as e:
                    if "locked" not in str(e) or time.monotonic() > deadline:
                        raise
                time.sleep(pause * random.random())
                pause = min(pause * 2, 0.008)
        finally:
            self.execute(f"PRAGMA busy_timeout = {int(self.patience_s * 1000)}")

    def ensure_schema(self) -> None:
        if self.rows("SELECT 1 FROM sqlite_master WHERE name = 'scatter_governor'"):
            return
        self.rows("PRAGMA journal_mode = WAL")
        with self.transaction():
            for statement in self.connection.ops.prepare_sql_script(schema_sql("sqlite")):
                self.execute(statement)

    def prepare(self, target: Target) -> None:
        types = {
            str(name).lower(): str(declared)
            for name, declared in self.rows(
                "SELECT name, type FROM pragma_table_xinfo(%s)", (target.table.split(".")[-1],)
            )
        }
        if not types:
            raise SchemaError(f"there is no table {target.table} in the target database", "42P01")
        for column in (*target.keys, *target.reads, *target.writes):
            if column.lower() not in types:
                raise SchemaError(
                    f"table {target.table} has no column {column} (it has {', '.join(types)})",
                    "42703",
                )
        self.target = target
        self.table = ".".join(self.quote(part) for part in target.table.split("."))
        self.kinds = {
            c: kind_of(types[c.lower()]) for c in (*target.keys, *target.reads, *target.writes)
        }
        self.where = " AND ".join(
            [f"{self.quote(c)} = %s" for c in target.keys]
            + [f"{self.text_form(c)} IS %s" for c in target.reads]
        )

    def text_form(self, column: str, table: str = "") -> str:
        """A column as the batch file has it."""
        # A name behind a table's is never taken for a text, as SQLite takes a lone one that it does not know.
        name = table + self.quote(column)
        return (
            f"CASE typeof({name}) WHEN 'blob' THEN '\\x' || lower(hex({name})) "
            f"ELSE CAST({name} AS TEXT) END"
        )

    def quote(self, name: str) -> str:
        # A percent sign would be taken for a parameter.
        return '"' + name.strip('"').replace('"', '""').replace("%", "%%") + '"'

    def change(self, chunk: Chunk) -> list[Row]:
        if self.execute(self.checkpoint_sql, self.checkpoint_params(chunk)) != 1:
            raise Unknown
        return [row for row in chunk.changed if not self.change_row(row)]

    def change_row(self, row: Row) -> bool:
        names = list(row.fresh)
        sets = ", ".join(f"{self.quote(name)} = %s" for name in names)
        sql = f"UPDATE {self.table} SET {sets} WHERE {self.where}"
        params = [self.stored(name, row.fresh[name]) for name in names]
        return self.execute(sql, params + self.where_params(row)) > 0

    def guard(self, rows: Sequence[Row]) -> set[int]:
        """Inside of BEGIN IMMEDIATE nobody else writes: what was looked at stays as it is."""
        sql = f"SELECT 1 FROM {self.table} WHERE {self.where}"
        return {i for i, row in enumerate(rows) if not self.rows(sql, self.where_params(row))}

    def compute(self, body: str, rows: Sequence[Row]) -> dict[int, dict[str, str | None]]:
        keys = self.target.keys
        places = [
            (i, c)
            for i, c in enumerate([*keys, *self.target.reads])
            if i < len(keys) or c not in keys
        ]
        sql = (
            f"WITH old ({', '.join(self.quote(c) for _, c in places)}) "
            f"AS (SELECT {', '.join(['%s'] * len(places))}), "
            # The line feed ends a comment that may end the file.
            f"fresh AS ({body.replace('%', '%%')}\n) "
            f"SELECT {', '.join(self.text_form(c, 'f.') for c in self.target.writes)} FROM fresh AS f"
        )
        found: list[tuple[Any, ...]] = []
        for number, row in enumerate(rows, 1):
            typed = [self.typed(c, row.old[i]) for i, c in places]
            found += [
                (number, *(self.told(c, v) for c, v in zip(self.target.writes, values)))
                for values in self.rows(sql, typed)
            ]
        return by_number(found, self.target.writes)

    def typed(self, column: str, text: str | None) -> Any:
        """As the column keeps it: a number is one to the file's expressions."""
        value = self.key_value(column, self.compared(column, text))
        if isinstance(value, str) and not self.kinds[column]:
            try:
                return float(value)
            except ValueError:
                return value
        return value

    def told(self, column: str, text: str | None) -> str | None:
        if self.kinds[column] == "bool":
            return {"1": "true", "0": "false"}.get(text or "", text)
        return text

    def where_params(self, row: Row) -> list[Any]:
        keys, reads = self.target.keys, self.target.reads
        params = [self.key_value(c, v) for c, v in zip(keys, row.old)]
        return params + [self.compared(c, v) for c, v in zip(reads, row.old[len(keys) :])]

    def key_value(self, column: str, text: str | None) -> Any:
        """An integer key is bound as one, so that a column without a type finds it too; "007" stays text."""
        if text and self.kinds[column] != "text" and INTEGER.match(text):
            return int(text)
        return self.stored(column, text)

    def compared(self, column: str, text: str | None) -> str | None:
        if self.kinds[column] == "bool":
            return {"true": "1", "false": "0"}.get(text or "", text)
        return text

    def stored(self, column: str, text: str | None) -> Any:
        if self.kinds[column] == "blob" and text and BLOB.match(text):
            return bytes.fromhex(text[2:])
        return self.compared(column, text)

    def value(self, column: str, value: Any) -> str | None:
        """Django keeps aware times as UTC without a zone, and durations as microseconds; so does this."""
        if isinstance(value, timedelta) and not self.kinds[column]:
            return str(value // timedelta(microseconds=1))
        return text_of(as_text(utc_naive(value)))
