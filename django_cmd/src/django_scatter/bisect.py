# SPDX-License-Identifier: Apache-2.0
"""Finding the records that a database refuses, with few statements and in file order: celeryc/migrate/bisect.c in
Python."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from django_scatter.chunk import Outcome, Row

MAX_HINTS = 2  # of one search: a text that points at every record must not make it linear


class Writer(Protocol):
    def write(self, rows: Sequence[Row]) -> str | None:
        """None: written. Else one of them at least was refused, nothing was written: the error's text."""

    def single(self, row: Row) -> None:
        """The row was refused alone: marks it, so that it can be written with the next ones, or raises."""


def write_all(writer: Writer, rows: Sequence[Row]) -> None:
    """All rows in order; what stands in front of a row for which the writer raises is written."""
    lo, group, bad, n = 0, len(rows), 0, len(rows)
    while lo < n:
        hi = min(n, lo + group)
        text = writer.write(rows[lo:hi])
        if text is None:
            lo = hi
            continue
        if hi - lo > 1:
            lo, found = isolate(writer, rows, lo, hi, text)
            if not found:
                continue
        writer.single(rows[lo])
        bad += 1
        group = 1 + (lo + n) // (2 * bad)


def isolate(writer: Writer, rows: Sequence[Row], lo: int, hi: int, text: str) -> tuple[int, bool]:
    """rows[lo:hi] was refused as a whole. The row that is refused alone; False: all were written after all."""
    hints = 0
    while lo < hi:
        middle = lo + max(1, (hi - lo) // 2)
        if hi - lo > 1 and hints < MAX_HINTS:
            hints += 1
            at = suspect(rows[lo:hi], text)
            if at is not None:
                middle = lo + max(1, at)
        refused = writer.write(rows[lo:middle])
        if refused is None:
            lo = middle
            continue
        text = refused
        if middle - lo == 1:
            return lo, True
        hi = middle
    return lo, False


def suspect(rows: Sequence[Row], text: str) -> int | None:
    """The first of the rows that an error's text seems to mean: by the key in "Failing row contains (...)", by a new
    value that it quotes, or by the length that it allows."""
    _, failing, row_text = text.partition("Failing row contains ")
    too_long = re.search(r"too long for type [^(]*\((\d+)\)", text)
    words = set(re.findall(r"[(\" ]([^(\"),]+)(?=[),\"])", row_text if failing else text))
    for i, row in enumerate(rows):
        if row.outcome is not Outcome.CHANGED:
            continue
        if failing:
            if row.old[0] in words:
                return i
        elif too_long:
            if any(v is not None and len(v) > int(too_long[1]) for v in row.fresh.values()):
                return i
        elif any(v in words for v in row.fresh.values()):
            return i
    return None
