# SPDX-License-Identifier: Apache-2.0
"""Migrations of the tests, and batches made by hand for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard
from django.db import connection

from django_scatter.control import Control, open_control
from django_scatter.migration import Change, Migration, Record, Skip
from django_scatter.runtime import Ended, Request, run_batch

LEASE_MS = 60_000


class Renumber(Migration):
    """Turns a leading 0 into +84; what a phone says decides what happens to it."""

    name = "tests.renumber"
    table = "parcel"
    reads = ("phone",)
    writes = ("phone",)

    def process(self, record: Record) -> Change:
        phone = record["phone"]
        if phone is None:
            return None
        if phone.startswith("skip"):
            return Skip(f"told to skip {record.key}")
        if phone.startswith("raise"):
            raise LookupError(f"no such operator: {phone}")
        if phone.startswith("long"):
            return {"phone": "9" * 30}
        return {"phone": "+84" + phone[1:]} if phone.startswith("0") else None


class Chatty(Renumber):
    """Calls back in front of each record."""

    name = "tests.chatty"

    def __init__(self, before: Callable[[Record], None]) -> None:
        super().__init__()
        self.before = before

    def process(self, record: Record) -> Change:
        self.before(record)
        return super().process(record)


@dataclass
class Plan:
    """One batch on disk and the request that a message would make of it."""

    folder: Path
    rows: Sequence[Sequence[Any]]
    migration: Migration
    columns: Sequence[str] = ("phone",)
    header: dict[str, Any] = field(default_factory=dict)
    batch: int = 1
    lease_ms: int = LEASE_MS

    def __post_init__(self) -> None:
        header = {
            "format": 1, "plan": "plan-1", "batch": self.batch, "migration": self.migration.name,
            "table": "parcel", "key": "id", "columns": list(self.columns), "count": len(self.rows),
            "total_batches": 1, **self.header,
        }  # fmt: skip
        lines = [json.dumps(v, ensure_ascii=False) for v in [header, *self.rows]]
        data = zstandard.ZstdCompressor().compress(("\n".join(lines) + "\n").encode())
        self.path = self.folder / f"batch-{self.batch:06}.ndjson.zst"
        self.path.write_bytes(data)
        self.sha256 = hashlib.sha256(data).hexdigest()

    def request(self, **changes: Any) -> Request:
        wanted: dict[str, Any] = {
            "plan": "plan-1", "batch": self.batch, "source": f"file://{self.path}",
            "database": "default", "sha256": self.sha256, "params": {}, "queue": "q",
            "worker": "w1@test", "owner": "1@test", "redelivered": False,
        }  # fmt: skip
        return Request(**{**wanted, **changes})

    def control(self) -> Control:
        return open_control(connection, self.lease_ms)

    def run(self, **changes: Any) -> Ended:
        return run_batch(self.migration, self.request(**changes), self.control())


def one(sql: str, *params: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        row = cursor.fetchone()
        return row[0] if len(row) == 1 else tuple(row)


def execute(sql: str, *params: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
