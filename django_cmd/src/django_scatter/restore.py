# SPDX-License-Identifier: Apache-2.0
"""scatter.restore, the migration of undo plans: writes values that stand in the batch file.

A file of it has each column twice: under its own name with the value that must be there now, which is the guard, and as
"restore:<name>" with the value to write. So its columns are known only with the file.
"""

from __future__ import annotations

from collections.abc import Sequence

from django_scatter.migration import Change, Migration, Record

NAME = "scatter.restore"
PREFIX = "restore:"


class Restore(Migration):
    """Writes old values back."""

    name = NAME

    def __init__(self, columns: Sequence[str] = ()) -> None:
        self.writes = [c for c in columns if not c.startswith(PREFIX)]
        self.reads = [*self.writes, *(PREFIX + c for c in self.writes)]

    @property
    def guards(self) -> Sequence[str]:
        return self.writes

    def of_file(self, columns: Sequence[str]) -> Migration:
        return Restore(columns)

    def process(self, record: Record) -> Change:
        return {column: record[PREFIX + column] for column in self.writes}
