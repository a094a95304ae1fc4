# SPDX-License-Identifier: Apache-2.0
"""The other functions that a migration may have: process_batch, process_row, process_external, and retry_on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from migrations import Plan, execute, one
from scatter_test_app.models import Parcel
from test_runtime import fill, outcomes, phones

from django_scatter.errors import ScatterError
from django_scatter.migration import Change, Migration, Record, Retry, Skip
from django_scatter.runtime import RetryLater


class Many(Migration):
    name = "tests.many"
    table = "parcel"
    reads = ("phone",)
    writes = ("phone",)

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def process_batch(self, records: Sequence[Record]) -> Sequence[Change | Exception]:
        self.calls.append(len(records))
        if any(r["phone"] == "boom" for r in records):
            raise LookupError("boom")
        return [self.one(r["phone"]) for r in records]

    def one(self, phone: str) -> Change | Exception:
        if phone == "bad":
            return ValueError("bad one")
        return Skip("told to") if phone == "skip" else {"phone": phone.upper()}


def test_process_batch_gives_a_change_per_record(database: str, tmp_path: Path) -> None:
    migration = Many()
    rows = fill(["a", "bad", "skip", "boom", "D", *"efghijkl"])
    ended = Plan(tmp_path, rows, migration).run()
    assert migration.calls[0] == 13
    assert len(migration.calls) <= 9  # halves, not one by one
    assert phones() == ["A", "bad", "skip", "boom", "D", *"EFGHIJKL"]
    assert (ended.counts["ok"], ended.counts["unchanged"]) == (9, 1)
    assert outcomes() == [
        (1, "2", "quarantined", "ValueError", None),
        (2, "3", "skipped", None, None),
        (3, "4", "quarantined", "LookupError", None),
    ]


class Own(Migration):
    """Counts in pieces, by SQL and by models; what the phone says decides what else happens."""

    name = "tests.own"
    table = "parcel"
    reads = ("phone",)

    def process_row(self, record: Record, cursor: Any) -> Skip | None:
        phone = record["phone"]
        if phone == "nothing":
            return None
        cursor.execute("UPDATE parcel SET pieces = pieces + 1 WHERE id = %s", [record.key])
        with transaction.atomic():  # must not commit what is not complete
            Parcel.objects.create(id=record.key + 1000, phone="copy")
        if phone == "raise":
            raise LookupError("no such operator")
        if phone == "twice":
            Parcel.objects.create(id=record.key + 1000, phone="copy")
        if phone == "commit":
            cursor.execute("COMMIT")
        return Skip("told to") if phone == "skip" else None


def test_process_row_leaves_nothing_of_a_failed_record(database: str, tmp_path: Path) -> None:
    rows = fill(["a", "b", "raise", "c", "skip", "nothing", "twice", "d", "e"])
    Parcel.objects.filter(id=2).update(phone="changed since")
    ended = Plan(tmp_path, rows, Own()).run()
    assert ended.state == "done"
    assert ended.counts == {
        "planned": 9, "ok": 4, "unchanged": 1, "stale": 1, "skipped": 1, "quarantined": 2,
        "remaining": 0,
    }  # fmt: skip
    changed = set(Parcel.objects.filter(pieces=2).values_list("id", flat=True))
    assert changed == {1, 4, 8, 9}
    copies = set(Parcel.objects.filter(phone="copy").values_list("id", flat=True))
    assert copies == {1001, 1004, 1008, 1009}
    assert [(o[1], o[2], o[3]) for o in outcomes()] == [
        ("2", "stale", None),
        ("3", "quarantined", "LookupError"),
        ("5", "skipped", None),
        ("7", "quarantined", "UniqueViolation"),
    ]


def test_process_row_may_not_end_the_transaction(database: str, tmp_path: Path) -> None:
    ended = Plan(tmp_path, fill(["a", "commit"]), Own()).run()
    assert ended.state == "failed"
    assert one("SELECT sum(pieces) FROM parcel") == 2
    assert one("SELECT position FROM scatter_batch") == 0


class Caller(Migration):
    name = "tests.caller"
    table = "parcel"
    reads = ("phone",)
    retry_on = {ConnectionError: Retry(times=3, backoff=0.5)}  # noqa: RUF012  as a user writes it

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures
        self.keys: list[str] = []

    def process_external(self, record: Record) -> Skip | None:
        self.keys.append(record.idempotency_key)
        if record["phone"] == "far" and self.failures:
            self.failures -= 1
            raise ConnectionResetError("gone")
        return None


@pytest.mark.parametrize("failures", [2, 9])
def test_process_external_is_retried_with_the_same_key(
    database: str, tmp_path: Path, failures: int
) -> None:
    migration = Caller(failures)
    plan = Plan(tmp_path, fill(["a", "b", "far", "c"]), migration)
    execute_later = []
    for _ in range(2):
        with pytest.raises(RetryLater) as later:
            plan.run()
        execute_later.append(later.value.seconds)
    assert max(execute_later) <= 1.0  # the migration's own backoff
    execute("UPDATE parcel SET phone = 'changed since' WHERE id = 4")
    ended = plan.run()
    assert ended.state == "done"
    assert migration.keys == [
        "plan-1/1/0", "plan-1/1/1", *["plan-1/1/2"] * 3,
    ]  # fmt: skip
    assert ended.counts["stale"] == 1
    assert ended.counts["quarantined"] == int(failures > 2)
    assert ended.counts["ok"] == 3 - int(failures > 2)


def test_a_migration_has_exactly_one_function() -> None:
    class Two(Many):
        def process(self, record: Record) -> Change:
            return None

    with pytest.raises(ScatterError, match="has process and process_batch"):
        Two()
