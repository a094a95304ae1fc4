# SPDX-License-Identifier: Apache-2.0
"""The records that a plan has done, from its batch files and the control tables: before a batch's checkpoint, and not set
aside."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django_scatter import batchfile, store
from django_scatter.errors import ScatterError
from django_scatter.migration import Migration, Record
from django_scatter.status import query


@dataclass
class Done:
    """A record of an old batch file that was done."""

    key: list[Any]
    old: dict[str, Any]
    place: str = ""  # plan/batch/position


@dataclass
class DoneRecords:
    alias: str
    plan: str
    migration: Migration
    params: Mapping[str, str]
    table: str
    keys: list[str]
    batch: int | None = None

    def files(self) -> Iterator[Iterator[Done]]:
        """Those of each batch."""
        for number, source, sha256, position in self.batches():
            file = batchfile.parse(store.fetch(source), source, sha256)
            yield self.done(file, number, position)

    def batches(self) -> list[tuple[Any, ...]]:
        return query(
            self.alias,
            "SELECT batch, source, sha256, position FROM scatter_batch WHERE plan = %s AND position > 0 "
            "AND (batch = %s OR %s = 0) ORDER BY batch",
            (self.plan, self.batch or 0, self.batch or 0),
        )

    def done(self, file: batchfile.Batch, number: int, position: int) -> Iterator[Done]:
        aside = {
            int(p)
            for (p,) in query(
                self.alias,
                "SELECT position FROM scatter_outcome WHERE plan = %s AND batch = %s",
                (self.plan, number),
            )
        }
        for i in range(position):
            if i not in aside:
                found = file.record(i)
                n = len(self.keys)
                old = dict(zip(file.columns, found[n:]))
                yield Done(found[:n], old, f"{self.plan}/{number}/{i}")

    def record(self, done: Done) -> Record:
        """As the migration had it."""
        key = done.key[0] if len(done.key) == 1 else tuple(done.key)
        named = dict(zip(self.keys, done.key)) | {c: done.old[c] for c in self.migration.reads}
        return Record(key, named, self.params, done.place)


def place_of(
    alias: str, plan: str, migration: Migration
) -> tuple[str, str, Migration, Mapping[str, str], str, list[str]]:
    """What DoneRecords wants to know of a plan, from its row."""
    found = query(
        alias, "SELECT params, table_name, key_column FROM scatter_plan WHERE plan = %s", (plan,)
    )
    if not found:
        raise ScatterError(f"database {alias!r} has no plan {plan!r}; scatter_status lists them")
    params, table, keys = found[0]
    return alias, plan, migration, json.loads(params), str(table), str(keys).split(",")
