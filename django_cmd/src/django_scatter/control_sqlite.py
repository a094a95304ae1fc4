# SPDX-License-Identifier: Apache-2.0
"""SQLite: BEGIN IMMEDIATE, the fenced checkpoint, one guarded UPDATE per record, COMMIT.

Values are compared and written in text form, as celeryc does; a column declared as boolean holds 1 and 0 where the
batch file says true and false.
"""

from __future__ import annotations

import random
import re
import time
from typing import Any

from django.db.utils import OperationalError

from django_scatter.batchfile import text_of
from django_scatter.control import Chunk, Control, Row, Target, Unknown
from django_scatter.errors import ScatterError
from django_scatter.rows import as_text, utc_naive
from django_scatter.schema import schema_sql

BUSY_LIMIT_S = 20.0
SECONDS_NOW = "((julianday('now') - 2440587.5) * 86400.0)"
TEXT_TYPE = re.compile(r"(?!.*int)(.*char|.*clob|.*text)", re.IGNORECASE)
INTEGER = re.compile(r"(0|-?[1-9][0-9]{0,18})\Z")


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
        deadline = time.monotonic() + BUSY_LIMIT_S
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
            self.execute(f"PRAGMA busy_timeout = {int(BUSY_LIMIT_S * 1000)}")

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
            raise ScatterError(f"there is no table {target.table} in the target database")
        for column in (target.key, *target.reads, *target.writes):
            if column.lower() not in types:
                raise ScatterError(
                    f"table {target.table} has no column {column} (it has {', '.join(types)})"
                )
        self.target = target
        self.table = ".".join(self.quote(part) for part in target.table.split("."))
        self.text_key = TEXT_TYPE.match(types[target.key.lower()]) is not None
        self.booleans = {
            c
            for c in (*target.reads, *target.writes)
            if types[c.lower()].lower().startswith("bool")
        }

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
        guard = "".join(f" AND CAST({self.quote(c)} AS TEXT) IS %s" for c in self.target.reads)
        sql = f"UPDATE {self.table} SET {sets} WHERE {self.quote(self.target.key)} = %s{guard}"
        params = [self.stored(name, row.fresh[name]) for name in names]
        params.append(self.key_value(row.old[0]))
        params += [self.stored(c, v) for c, v in zip(self.target.reads, row.old[1:])]
        return self.execute(sql, params) > 0

    def key_value(self, text: str | None) -> Any:
        """An integer key is bound as one, so that a column without a type finds it too; "007" stays text."""
        return int(text) if text and not self.text_key and INTEGER.match(text) else text

    def stored(self, column: str, text: str | None) -> str | None:
        if column in self.booleans:
            return {"true": "1", "false": "0"}.get(text or "", text)
        return text

    def value(self, value: Any) -> str | None:
        """Django keeps aware times as UTC without a zone; so does this."""
        return text_of(as_text(utc_naive(value)))
