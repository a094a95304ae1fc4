# SPDX-License-Identifier: Apache-2.0
"""scatter.sql, the migration of plans made with --migration sql:FILE: the database computes the new values.

The file stands in the header of each batch. Its first comments say what it reads and writes (-- table:, -- key:,
-- reads:, -- writes:); behind them is one SELECT over `old`, the planned values, that gives the key and the new values.
Records that it does not give are unchanged. celeryc reads the same files in celeryc/migrate/sqlfile.c.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from django_scatter.errors import ScatterError
from django_scatter.migration import Migration

if TYPE_CHECKING:
    from django_scatter.batchfile import Batch

NAME = "scatter.sql"
BLANKS = " \t\r\n;"
SECTION = re.compile(r"^\s*--\s*(?:check|undo)\s*:[\s;]*$", re.IGNORECASE | re.MULTILINE)


class SqlFile(Migration):
    """Values that a SELECT gives."""

    name = NAME
    body = ""

    def __init__(self, text: str | None = None) -> None:
        if text is not None:
            self.read(text)

    @property
    def kind(self) -> str:
        return "sql"

    def read(self, text: str) -> None:
        said: dict[str, str] = {}
        text = text.strip(BLANKS)
        while text.startswith("--"):
            line, _, text = text.partition("\n")
            name, _, value = line[2:].partition(":")
            said[name.strip().lower()] = value.strip(BLANKS)
            text = text.strip(BLANKS)
        self.table = said.get("table", "")
        self.key = said.get("key", "id")
        self.reads = names(said.get("reads", ""))
        self.writes = names(said.get("writes", ""))
        self.body = SECTION.split(text, maxsplit=1)[0].strip(BLANKS)  # scatter-plan reads the rest
        if not self.table or not self.writes or not text.lower().startswith(("select", "with")):
            raise ScatterError("the SQL of the plan is no file of --migration sql:FILE")

    def of_batch(self, batch: Batch) -> Migration:
        if batch.statement is None:
            raise ScatterError(f"{batch.source} has no statement")
        found = SqlFile(batch.statement)
        missing = [c for c in found.reads if c not in batch.columns]
        if missing:
            raise ScatterError(f"{batch.source} has no column {', '.join(missing)}")
        return found


def names(text: str) -> list[str]:
    return [name.strip(BLANKS) for name in text.split(",") if name.strip(BLANKS)]
