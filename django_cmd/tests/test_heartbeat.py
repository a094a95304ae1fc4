# SPDX-License-Identifier: Apache-2.0
"""One record that takes longer than the lease: the batch stays this worker's, and the record hears what is ordered. The same
as tests/migrate/test_beat.c."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper
from migrations import Plan, execute, one
from scatter_test_app.models import Parcel

from django_scatter import runtime
from django_scatter.migration import Change, Migration, Postpone, Record
from django_scatter.runtime import Ended, RetryLater, Stopping

LEASE_MS = 1000
ROW_LEASE_MS = 3000  # the server's patience is a third of it
WAIT_S = 30.0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


class Slow(Migration):
    """Calls `during` for its third record."""

    name = "tests.slow"
    table = "parcel"
    reads = ("phone",)

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.during: Callable[[Record], None] = lambda _: None

    def slow_part(self, record: Record) -> None:
        self.calls += 1
        if record.key == 3:
            self.during(record)


class SlowRecord(Slow):
    writes = ("phone",)

    def process(self, record: Record) -> Change:
        self.slow_part(record)
        return {"phone": "done"}


class SlowMany(Slow):
    writes = ("phone",)

    def process_batch(self, records: Sequence[Record]) -> Sequence[Change | Exception]:
        answers: list[Change | Exception] = []
        for record in records:
            try:
                self.slow_part(record)
            except Postpone as e:
                answers.append(e)
            else:
                answers.append({"phone": "done"})
        return answers


class SlowCall(Slow):
    def process_external(self, record: Record) -> None:
        self.slow_part(record)


class SlowRow(Slow):
    def process_row(self, record: Record, cursor: Any) -> None:
        cursor.execute("UPDATE parcel SET phone = 'done' WHERE id = %s", [record.key])
        if connection.vendor == "postgresql":
            cursor.execute("SELECT pg_backend_pid()")
            self.backend = cursor.fetchone()[0]
        self.slow_part(record)


KINDS = (SlowRecord, SlowMany, SlowCall)


@pytest.fixture
def other(database: str) -> Iterator[BaseDatabaseWrapper]:
    """What somebody else sees, while the worker's connection is in use."""
    found = connection.copy()
    yield found
    found.close()


def ask(other: BaseDatabaseWrapper, sql: str, *params: Any) -> Any:
    with other.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchone()[0]


def order(other: BaseDatabaseWrapper, sql: str) -> None:
    with other.cursor() as cursor:
        cursor.execute(sql)


def plan_of(folder: Path, migration: Slow) -> Plan:
    lease_ms = ROW_LEASE_MS if isinstance(migration, SlowRow) else LEASE_MS
    numbers = range(1, 6)
    Parcel.objects.bulk_create(Parcel(id=i, phone=f"09{i}") for i in numbers)
    rows = [[i, f"09{i}"] for i in numbers]
    return Plan(folder, rows, migration, lease_ms=lease_ms)


def until_it_should_stop(record: Record) -> str:
    wait_until(lambda: bool(record.stop_wanted), "no order is heard")
    return record.stop_wanted


def batch(columns: str) -> Any:
    return one(f"SELECT {columns} FROM scatter_batch")


def done() -> int:
    return Parcel.objects.filter(phone="done").count()


@pytest.mark.parametrize("kind", KINDS)
def test_lease_lasts_as_long_as_a_call(
    other: BaseDatabaseWrapper, tmp_path: Path, kind: type[Slow]
) -> None:
    """It moves twice: after the first time the lease that the claim took is over."""
    migration = kind()

    def moved(record: Record) -> None:
        for _ in range(2):
            before = ask(other, "SELECT lease_until FROM scatter_batch")
            wait_until(
                lambda: ask(other, "SELECT lease_until FROM scatter_batch") != before,  # noqa: B023
                "the lease is not renewed",
            )
        assert record.stop_wanted == ""

    migration.during = moved
    ended = plan_of(tmp_path, migration).run()
    assert (ended.state, ended.counts["ok"], migration.calls) == ("done", 5, 5)
    assert batch("lease_token") == 1


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_transaction_lasts_as_long_as_a_record(other: BaseDatabaseWrapper, tmp_path: Path) -> None:
    """Not renewed during a chunk of its own statements, and not needed: the row is locked. What must not happen is that the
    server takes the transaction for that of a frozen worker."""
    migration = SlowRow()

    def grow_old(record: Record) -> None:
        sql = (
            "SELECT count(*) FROM pg_stat_activity WHERE pid = %s "
            "AND clock_timestamp() - xact_start > %s * interval '1 millisecond'"
        )
        wait_until(lambda: ask(other, sql, migration.backend, ROW_LEASE_MS) == 1, "it is over")
        assert record.stop_wanted == ""

    migration.during = grow_old
    ended = plan_of(tmp_path, migration).run()
    assert (ended.state, ended.counts["ok"], migration.calls, done()) == ("done", 5, 5, 5)


@pytest.mark.parametrize("leave", [False, True])
@pytest.mark.parametrize("kind", [*KINDS, SlowRow])
def test_pause_is_heard(
    other: BaseDatabaseWrapper, tmp_path: Path, kind: type[Slow], leave: bool
) -> None:
    if kind is SlowRow and other.vendor == "sqlite":
        return  # nobody can write an order there while its transaction is open
    migration = kind()

    def pause(record: Record) -> None:
        order(other, "UPDATE scatter_plan SET state = 'paused'")
        assert until_it_should_stop(record) == "paused"
        if leave:
            raise Postpone

    migration.during = pause
    ended = plan_of(tmp_path, migration).run()
    if kind is SlowMany and not leave:  # one call for all
        assert ended.state == "done"
        return
    assert ended.state == "parked"
    # A row's statement can be taken back only together with those in front of it.
    at = (0 if kind is SlowRow else 2) if leave else 3
    assert batch("position, attempts, state") == (at, 0, "parked")
    assert done() == (0 if kind is SlowCall else at)
    assert one("SELECT count(*) FROM scatter_outcome") == 0


@pytest.mark.parametrize("kind", [SlowMany, SlowCall])
def test_postponed_record_is_called_again(
    other: BaseDatabaseWrapper, tmp_path: Path, kind: type[Slow]
) -> None:
    migration = kind()

    def stop_all(record: Record) -> None:
        order(other, "UPDATE scatter_governor SET stopped = (1 = 1)")
        assert until_it_should_stop(record) == "stopped"
        order(other, "UPDATE scatter_governor SET stopped = (1 = 0)")
        migration.during = lambda _: None
        raise Postpone

    migration.during = stop_all
    ended = plan_of(tmp_path, migration).run()
    assert (ended.state, ended.counts["ok"]) == ("done", 5)
    assert migration.calls > 5


def test_a_whole_batch_is_postponed(other: BaseDatabaseWrapper, tmp_path: Path) -> None:
    class All(SlowMany):
        def process_batch(self, records: Sequence[Record]) -> Sequence[Change | Exception]:
            self.slow_part(records[2])
            return []

    migration = All()

    def pause(record: Record) -> None:
        order(other, "UPDATE scatter_plan SET state = 'paused'")
        until_it_should_stop(record)
        raise Postpone

    migration.during = pause
    assert plan_of(tmp_path, migration).run().state == "parked"
    assert (batch("position"), migration.calls) == (0, 1)


def test_lost_batch_is_told(other: BaseDatabaseWrapper, tmp_path: Path) -> None:
    migration = SlowRecord()

    def take_it_away(record: Record) -> None:
        order(other, "UPDATE scatter_batch SET lease_token = lease_token + 1")
        assert until_it_should_stop(record) == "lost"

    migration.during = take_it_away
    with pytest.raises(RetryLater, match="another worker"):
        plan_of(tmp_path, migration).run()
    assert (batch("position"), done()) == (0, 0)


def test_worker_that_ends_is_obeyed_in_the_record(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migration = SlowCall()
    stopping = False
    monkeypatch.setattr(runtime, "stopping", lambda: stopping)

    def stop(record: Record) -> None:
        nonlocal stopping
        stopping = True
        assert record.stop_wanted == "worker"
        raise Postpone

    migration.during = stop
    with pytest.raises(Stopping):
        plan_of(tmp_path, migration).run()
    assert batch("position, attempts, state") == (2, 0, "queued")


@pytest.mark.parametrize("kind", [SlowMany, SlowCall])
def test_record_is_not_postponed_without_an_order(
    database: str, tmp_path: Path, kind: type[Slow]
) -> None:
    migration = kind()

    def leave(record: Record) -> None:
        assert record.stop_wanted == ""
        raise Postpone("I would rather not")

    migration.during = leave
    plan = plan_of(tmp_path, migration)
    ended: Ended = plan.run()
    assert (ended.counts["ok"], ended.counts["quarantined"]) == (4, 1)
    assert one("SELECT error_class, message FROM scatter_outcome") == (
        "Postpone",
        "I would rather not",
    )


def test_no_connection_is_opened_for_quick_records(database: str, tmp_path: Path) -> None:
    migration = SlowRecord()
    plan = plan_of(tmp_path, migration)
    runs: list[runtime.Run] = []
    begin = runtime.Run.run

    def noted(self: runtime.Run, ended: Ended) -> Ended:
        runs.append(self)
        return begin(self, ended)

    runtime.Run.run = noted  # type: ignore[method-assign]
    try:
        plan.run()
    finally:
        runtime.Run.run = begin  # type: ignore[method-assign]
    assert runs[0].beat.own is None
    assert runs[0].beat.thread is not None
    assert not runs[0].beat.thread.is_alive()
    execute("SELECT 1")
