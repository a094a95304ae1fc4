# SPDX-License-Identifier: Apache-2.0
"""The check function of a migration in Python, on the records that a plan has done. Of one in C, and of a file of SQL,
scatter-plan verify runs it (planner/verify_check.c)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import connections

from django_scatter.batchfile import text_of
from django_scatter.control import open_control
from django_scatter.done import Done, DoneRecords
from django_scatter.migration import Migration, Record
from django_scatter.preflight import PLAIN
from django_scatter.rows import pinned

GROUP = 500  # records that are asked about at a time
SHOWN = 20  # keys in a result
REASON_CHARS = 1000


def has_check(migration: Migration | None) -> bool:
    return migration is not None and type(migration).check is not Migration.check


def key_text(key: Sequence[Any]) -> str:
    """As outcomes have it: the text, or for several columns a JSON array."""
    texts = [text_of(k) for k in key]
    return str(texts[0]) if len(texts) == 1 else json.dumps(texts, ensure_ascii=False)


@dataclass
class Verification(DoneRecords):
    sample: int | None = None  # so many records, spread evenly, instead of all
    checked: int = 0
    gone: int = 0  # rows that are no longer there: nobody says that they must stay
    failed: int = 0
    failed_keys: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def run(self) -> dict[str, Any]:
        of = sum(1 for file in self.files() for _ in file) if self.sample else 0
        stride = max(of // self.sample, 1) if self.sample else 1
        count = 0
        for file in self.files():
            chosen: list[Done] = []
            for done in file:
                if count % stride == 0:
                    chosen.append(done)
                count += 1
            for start in range(0, len(chosen), GROUP):
                self.check_group(chosen[start : start + GROUP])
        return {
            "checked": self.checked, "of": count, "gone": self.gone, "failed": self.failed,
            "failed_keys": self.failed_keys, "reasons": self.reasons,
        }  # fmt: skip

    def check_group(self, group: Sequence[Done]) -> None:
        now = {key_text(list(key)): record for key, record in self.now(group)}
        for done in group:
            self.checked += 1
            found = now.get(key_text(done.key))
            if found is None:
                self.gone += 1
                continue
            try:
                reason = self.migration.check(self.record(done), found)
            except Exception as e:  # noqa: BLE001  whatever it raises speaks against the record
                reason = f"{type(e).__name__}: {e}"
            if reason is not None:
                self.fail(done, str(reason)[:REASON_CHARS])

    def fail(self, done: Done, reason: str) -> None:
        self.failed += 1
        if len(self.failed_keys) < SHOWN:
            self.failed_keys.append(key_text(done.key))
            self.reasons.append(reason)

    def now(self, group: Sequence[Done]) -> Iterator[tuple[tuple[Any, ...], Record]]:
        """The rows as they stand in the table, in the form that planned values have."""
        connection = connections[self.alias]
        quote = connection.ops.quote_name
        names = list(dict.fromkeys([*self.keys, *self.migration.reads, *self.migration.writes]))
        table = ".".join(quote(part) for part in self.table.split("."))
        n = len(self.keys)
        with pinned(self.alias), connection.cursor() as cursor:
            cursor.execute(f"SELECT {', '.join(quote(c) for c in names)} FROM {table} LIMIT 0")
            types = {d[0]: d[1] for d in cursor.description or ()}
            chosen = ", ".join(self.expression(quote(c), types.get(c)) for c in names)
            where = " AND ".join(f"{quote(c)} = %s" for c in self.keys)
            cursor.execute(
                f"SELECT {chosen} FROM {table} WHERE " + " OR ".join([f"({where})"] * len(group)),
                [k for done in group for k in done.key],
            )
            rows = cursor.fetchall()
        for row in rows:
            key = row[0] if n == 1 else tuple(row[:n])
            yield tuple(row[:n]), Record(key, dict(zip(names, row)), self.params)

    def expression(self, column: str, oid: Any) -> str:
        if connections[self.alias].vendor == "sqlite":
            return f"CASE typeof({column}) WHEN 'integer' THEN {column} ELSE CAST({column} AS TEXT) END"
        return column if oid in PLAIN else f"CAST({column} AS text)"


def keep(alias: str, plan: str, result: dict[str, Any]) -> None:
    """In the plan's row, as scatter-plan does."""
    control = open_control(connections[alias], 60_000)
    with control.transaction():
        control.execute(
            f"UPDATE scatter_plan SET verification = %s, verified_at = {control.NOW} WHERE plan = %s",
            (json.dumps(result, ensure_ascii=False), plan),
        )
