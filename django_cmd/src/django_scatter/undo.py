# SPDX-License-Identifier: Apache-2.0
"""The records of an undo plan, for a migration that is written in Python: scatter-plan undo --stdin reads them.

What was changed follows from the old batch files and the control tables: records before a batch's checkpoint that were not
set aside and that the migration changes. Its new values, which guard the row, are computed once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connections

from django_scatter import batchfile
from django_scatter.chunk import Target
from django_scatter.control import Control, open_control
from django_scatter.done import Done, DoneRecords, place_of
from django_scatter.errors import ScatterError
from django_scatter.migration import INVERSES, Change, Inverse, Migration, Record, Skip
from django_scatter.restore import PREFIX
from django_scatter.rows import encode
from django_scatter.status import query

GROUP = 1000  # records whose new values are brought into their columns' form at a time


@dataclass
class Undo(DoneRecords):
    def __post_init__(self) -> None:
        if self.migration.kind not in ("process", "process_batch"):
            if isinstance(self.migration, Inverse):
                raise ScatterError(
                    f"plan {self.plan} is an undo by the migration's own inverse: make a plan of the migration "
                    "once more instead"
                )
            raise ScatterError(
                f"migration {self.migration.name} makes its changes itself: what they were is not known; "
                f"give it {INVERSES.get(self.migration.kind)} to say how they are taken back"
            )
        missing = [c for c in self.migration.writes if c not in self.migration.reads]
        if missing:
            raise ScatterError(
                f"migration {self.migration.name} writes {', '.join(missing)} without reading it: "
                "its old value was never kept, so it cannot be undone"
            )
        self.control: Control = open_control(connections[self.alias], 60_000)
        target = Target(self.table, tuple(self.keys), (), tuple(self.migration.writes))
        self.control.prepare(target)

    @property
    def columns(self) -> list[str]:
        return [*self.migration.writes, *(PREFIX + c for c in self.migration.writes)]

    def stream(self) -> Iterator[bytes]:
        """NDJSON: the columns, a row for each record, how many there were."""
        count = 0
        yield encode({"columns": [*self.keys, *self.columns], "trailer": True}) + b"\n"
        for file in self.files():
            done = list(file)
            for start in range(0, len(done), GROUP):
                rows = self.rows(done[start : start + GROUP])
                self.canonical(rows)
                count += len(rows)
                yield b"\n".join([*(encode(r) for r in rows), b""])
        yield encode({"rows": count}) + b"\n"

    def rows(self, done: Sequence[Done]) -> list[list[Any]]:
        """Key, new values, old values of those that the migration changed."""
        rows: list[list[Any]] = []
        records = [self.record(d) for d in done]
        for d, record, change in zip(done, records, self.answers(records)):
            if isinstance(change, (Skip, Exception)):
                raise self.other_answer(record.key)
            fresh = {c: self.control.value(c, v) for c, v in (change or {}).items()}
            texts = {c: batchfile.text_of(d.old[c]) for c in self.migration.writes}
            if any(texts[c] != v for c, v in fresh.items()):
                rows.append([*d.key, *(texts | fresh).values(), *texts.values()])
        return rows

    def answers(self, records: Sequence[Record]) -> Sequence[Change | Exception]:
        if self.migration.kind == "process_batch":
            return list(self.migration.process_batch(records))
        found: list[Change | Exception] = []
        for record in records:
            try:
                found.append(self.migration.process(record))
            except Exception as e:  # noqa: BLE001  whatever a migration raises
                found.append(e)
        return found

    def other_answer(self, key: Any) -> ScatterError:
        return ScatterError(
            f"migration {self.migration.name} does not change the record with key {key!r} any more, "
            "as it did when the plan ran: install the version that ran"
        )

    def canonical(self, rows: Sequence[list[Any]]) -> None:
        """New values in the text form that they have once they stand in their columns (PostgreSQL)."""
        if connections[self.alias].vendor != "postgresql" or not rows:
            return
        types = self.column_types()
        with self.control.transaction():
            for k, column in enumerate(self.migration.writes, len(self.keys)):
                if types.get(column) in (None, "text", "character varying"):
                    continue
                found = self.control.rows(
                    f"SELECT v::{types[column]}::text FROM unnest(%s::text[]) "
                    "WITH ORDINALITY AS u (v, i) ORDER BY i",
                    ([row[k] for row in rows],),
                )
                for row, (text,) in zip(rows, found):
                    row[k] = text

    def column_types(self) -> dict[str, str]:
        """Types with their length, as an assignment applies it; without it where it only limits."""
        rows = query(
            self.alias,
            "SELECT a.attname, CASE WHEN a.atttypid = 'varchar'::regtype THEN 'character varying' "
            "ELSE format_type(a.atttypid, a.atttypmod) END FROM pg_attribute a "
            "JOIN scatter_plan p ON a.attrelid = to_regclass(p.table_name) "
            "WHERE p.plan = %s AND a.attnum > 0 AND NOT a.attisdropped",
            (self.plan,),
        )
        return {str(name): str(kind) for name, kind in rows}


def of_plan(alias: str, plan: str, migration: Migration, batch: int | None) -> Undo:
    return Undo(*place_of(alias, plan, migration), batch)
