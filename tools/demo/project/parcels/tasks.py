# SPDX-License-Identifier: Apache-2.0
"""The two bundled migrations in Python, under the names that they have in C: a Python Celery worker that imports this
shares the queue with celeryc, and each goes on with batches that the other began."""

from __future__ import annotations

import datetime
import re
from zoneinfo import ZoneInfo

from django_scatter.migration import Change, Migration, Record, Skip, register

# Mobile numbers of eleven digits lost one in 2018: old operator code -> new one, without the leading zero.
NEW_CODES = {
    "120": "70", "121": "79", "122": "77", "123": "83", "124": "84", "125": "85", "126": "76",
    "127": "81", "128": "78", "129": "82", "162": "32", "163": "33", "164": "34", "165": "35",
    "166": "36", "167": "37", "168": "38", "169": "39", "186": "56", "188": "58", "199": "59",
}  # fmt: skip

# +84 or 0, the code, seven digits; spaces and dots anywhere.
OLD_NUMBER = re.compile(
    r"(?P<head>\s*(?:\+\s*8[ .]*4|0)[ .]*)(?P<code>1[ .]*\d[ .]*\d)(?P<tail>(?:[ .]*\d){7}[ .]*)",
    re.ASCII,
)
NEW_YORK = ZoneInfo("America/New_York")


@register
class Renumber(Migration):
    """Vietnam's renumbering of 2018. Separators stay where they were."""

    name = "phones.vn_renumber"
    table = "parcel"
    reads = ("phone",)
    writes = ("phone",)

    def process(self, record: Record) -> Change:
        found = OLD_NUMBER.fullmatch(record["phone"] or "")
        if found is None:
            return None
        code = NEW_CODES.get(re.sub(r"[ .]", "", found["code"]))
        if code is None:
            return None
        return {"phone": found["head"] + replace_digits(found["code"], code) + found["tail"]}


def replace_digits(written: str, digits: str) -> str:
    """Three written digits become two; what stands between them stays."""
    fresh = iter(digits)
    return "".join(next(fresh, "") if c.isdigit() else c for c in written)


@register
class DepartureUtc(Migration):
    """The scheduled local departure of a flight as a moment in UTC."""

    name = "flights.departure_utc"
    table = "flight"
    reads = ("year", "month", "day", "sched_dep_time", "dep_time", "departure_utc")
    writes = ("departure_utc",)

    def process(self, record: Record) -> Change:
        if record["dep_time"] is None:
            return Skip("the flight never left")
        hour, minute = divmod(record["sched_dep_time"], 100)
        local = datetime.datetime(
            record["year"], record["month"], record["day"], hour, minute, tzinfo=NEW_YORK
        )
        return {"departure_utc": local.astimezone(datetime.timezone.utc)}
