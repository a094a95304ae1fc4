# SPDX-License-Identifier: Apache-2.0
"""Write new_york.h: for each year the local hours at which New York's clock is put forward and back, by Python's
zoneinfo (fold=0: an ambiguous hour is the first one). make_new_york.py > new_york.h"""

from __future__ import annotations

import datetime
from zoneinfo import ZoneInfo

NEW_YORK = ZoneInfo("America/New_York")


def main() -> None:
    print("/* SPDX-License-Identifier: Apache-2.0 */")
    print("#pragma once")
    print(
        "/* Made by make_new_york.py: year, first hour of daylight time and first hour after it (month, day, hour). */"
    )
    print("static const struct {\n    int year, from[3], to[3];\n} new_york[] = {")
    for year in range(1987, 2038):
        turns = []
        before = -5
        hour = datetime.datetime(year, 1, 1)
        while hour.year == year:
            offset = hour.replace(tzinfo=NEW_YORK).utcoffset()
            assert offset is not None
            now = int(offset.total_seconds()) // 3600
            if now != before:
                turns.append((hour.month, hour.day, hour.hour))
                before = now
            hour += datetime.timedelta(hours=1)
        assert len(turns) == 2 and before == -5
        (a, b, c), (d, e, f) = turns
        print(f"    {{{year}, {{{a}, {b}, {c}}}, {{{d}, {e}, {f}}}}},")
    print("};")


main()
