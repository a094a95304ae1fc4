# SPDX-License-Identifier: Apache-2.0
"""The dry run of a migration that only Python knows: its records with what the migration makes of them, on the standard
input of scatter-plan, which does the rest as for one in C.

Behind a record's columns come "+outcome", "+class", "+message", and for each written column "=column" and "?column": its
new value, and whether it is set.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connections

from django_scatter.batchfile import key_columns, text_of
from django_scatter.chunk import Target, told
from django_scatter.control import open_control
from django_scatter.migration import Migration, Record, Skip
from django_scatter.rows import CHUNK_ROWS, LINES_PER_WRITE, encode, pinned

PLAIN = (16, 20, 21, 23)  # boolean and integers, by PostgreSQL's type oids


@dataclass
class Query:
    """Rows of a query, as rows.stream gives those of a queryset."""

    alias: str
    query: str
    key: str
    columns: Sequence[str]

    def stream(self) -> Iterator[bytes]:
        connection = connections[self.alias]
        names = [*key_columns(self.key), *self.columns]
        yield (
            encode({"columns": names, "types": None, "trailer": True, "order": "database"}) + b"\n"
        )
        count = 0
        with pinned(self.alias), connection.chunked_cursor() as cursor:
            cursor.execute(self.sql(names))
            while found := cursor.fetchmany(CHUNK_ROWS):
                yield b"\n".join([*(encode(list(row)) for row in found), b""])
                count += len(found)
        yield encode({"rows": count}) + b"\n"

    def sql(self, names: Sequence[str]) -> str:
        """Ordered by the key; what is neither integer nor boolean as text."""
        connection = connections[self.alias]
        source = f"FROM ({self.query.rstrip().rstrip(';')}\n) AS scatter_source"
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT * {source} LIMIT 0")
            types = {d[0]: d[1] for d in cursor.description or ()}
        quoted = [connection.ops.quote_name(n) for n in names]
        chosen = [self.expression(q, types.get(n)) for q, n in zip(quoted, names)]
        order = ", ".join(quoted[: len(key_columns(self.key))])
        return f"SELECT {', '.join(chosen)} {source} ORDER BY {order}"

    def expression(self, column: str, oid: Any) -> str:
        if connections[self.alias].vendor == "sqlite":
            return f"CASE typeof({column}) WHEN 'integer' THEN {column} ELSE CAST({column} AS TEXT) END"
        return column if oid in PLAIN else f"CAST({column} AS text)"


@dataclass
class Rehearsal:
    migration: Migration
    alias: str
    key: str
    table: str
    params: Mapping[str, str]

    def __post_init__(self) -> None:
        keys = key_columns(self.key)
        self.n_keys = len(keys)
        self.seconds = 0.0  # in the migration
        self.control = open_control(connections[self.alias], 60_000)
        self.control.prepare(Target(self.table, keys, self.migration.reads, self.migration.writes))

    def lines(self, source: Iterable[bytes]) -> Iterator[bytes]:
        iterator = iter(source)
        header = json.loads(next(iterator))
        names = list(header["columns"])
        more = ["+outcome", "+class", "+message"]
        for column in self.migration.writes:
            more += [f"={column}", f"?{column}"]
        header["columns"] = names + more
        yield encode(header) + b"\n"
        lines: list[bytes] = []
        for block in iterator:
            lines += [
                self.trailer(json.loads(line))
                if line.startswith(b"{")
                else self.line(names, json.loads(line))
                for line in block.splitlines()
            ]
            if len(lines) >= LINES_PER_WRITE:
                yield b"\n".join([*lines, b""])
                lines = []
        yield b"\n".join([*lines, b""])

    def trailer(self, said: dict[str, Any]) -> bytes:
        return encode({**said, "compute_seconds": self.seconds})

    def line(self, names: Sequence[str], values: list[Any]) -> bytes:
        return encode([*values, *self.answer(dict(zip(names, values)), values)])

    def answer(self, named: dict[str, Any], values: Sequence[Any]) -> list[Any]:
        wanted = {c: named[c] for c in (*key_columns(self.key), *self.migration.reads)}
        key = values[0] if self.n_keys == 1 else tuple(values[: self.n_keys])
        began = time.perf_counter()
        try:
            change = self.ask(Record(key, wanted, self.params))
            if isinstance(change, Skip):
                return ["skipped", None, told(change.reason), *self.values({})]
            fresh = self.fresh(change or {})
        except Exception as e:  # noqa: BLE001  whatever a migration raises belongs to its record
            return ["failed", type(e).__name__, told(e), *self.values({})]
        finally:
            self.seconds += time.perf_counter() - began
        same = all(c in wanted and text_of(wanted[c]) == v for c, v in fresh.items())
        return ["unchanged" if same else "changed", None, None, *self.values({} if same else fresh)]

    def fresh(self, change: Mapping[str, Any]) -> dict[str, str | None]:
        for column in change:
            if column not in self.migration.writes:
                raise KeyError(f"{column} is not in writes of {self.migration.name}")
        return {column: self.control.value(column, value) for column, value in change.items()}

    def ask(self, record: Record) -> Any:
        if self.migration.kind == "process_batch":
            (change,) = self.migration.process_batch([record])
            if isinstance(change, Exception):
                raise change
            return change
        return self.migration.process(record)

    def values(self, fresh: Mapping[str, str | None]) -> list[Any]:
        found: list[Any] = []
        for column in self.migration.writes:
            found += [fresh.get(column), "t" if column in fresh else "f"]
        return found


def can_rehearse(migration: Migration) -> bool:
    """What a function does outside of the database nobody could take back."""
    return migration.kind in ("process", "process_batch", "process_row")
