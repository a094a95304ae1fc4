# SPDX-License-Identifier: Apache-2.0
"""A chunk of records, as it is handed to the control tables, and what became of each record."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db.utils import IntegrityError

MESSAGE_CHARS = 1000


def told(text: object) -> str:
    """Somebody else's words as every database stores them: no NUL, no half of a surrogate pair, and not too many."""
    found = str(text)[:MESSAGE_CHARS]
    return found.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


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
