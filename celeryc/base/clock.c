/* SPDX-License-Identifier: Apache-2.0 */
/* The two clocks, and the calendar between microseconds and text. Days are counted from 1970-01-01 in the proleptic
 * Gregorian calendar, as Python's datetime does; only years 1 to 9999 exist. Reading is in iso.c. */

#include "celeryc/base/clock.h"

#include "celeryc/base/clock_priv.h"

#include <time.h>

int64_t clock_mono_ns(void)
{
    struct timespec ts;

    ASSERT(clock_gettime(CLOCK_MONOTONIC, &ts) == 0);
    return (int64_t)ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

int64_t clock_wall_us(void)
{
    struct timespec ts;

    ASSERT(clock_gettime(CLOCK_REALTIME, &ts) == 0);
    return (int64_t)ts.tv_sec * US_PER_S + ts.tv_nsec / 1000;
}

bool clock_is_leap(int64_t year)
{
    return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
}

int clock_month_days(int64_t year, int64_t month)
{
    static const signed char days[12] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

    return days[month - 1] + (month == 2 && clock_is_leap(year));
}

int64_t clock_days(int64_t year, int64_t month, int64_t day)
{
    int64_t before = year - 1;
    int64_t days = before * 365 + before / 4 - before / 100 + before / 400 - DAYS_TO_1970;

    for (int64_t m = 1; m < month; m++)
        days += clock_month_days(year, m);
    return days + day - 1;
}

/* The year that a day lies in: a guess from the mean year, which is at most one off. */
static int64_t year_of(int64_t days)
{
    int64_t year = 1970 + days * 400 / DAYS_PER_400_YEARS;

    while (clock_days(year, 1, 1) > days)
        year--;
    while (clock_days(year + 1, 1, 1) <= days)
        year++;
    return year;
}

void clock_iso_format(int64_t wall_us, char *dst)
{
    int64_t days, rest, year, month = 1, day, second;
    int n;

    wall_us = MAX(MIN(wall_us, CLOCK_MAX_US), CLOCK_MIN_US);
    days = wall_us / US_PER_DAY;
    rest = wall_us % US_PER_DAY;
    if (rest < 0) {
        rest += US_PER_DAY;
        days--;
    }
    year = year_of(days);
    day = days - clock_days(year, 1, 1) + 1;
    while (day > clock_month_days(year, month))
        day -= clock_month_days(year, month++);
    second = rest / US_PER_S;
    n = snprintf(dst, CLOCK_ISO_SIZE, "%04d-%02d-%02dT%02d:%02d:%02d", (int)year, (int)month,
                 (int)day, (int)(second / 3600), (int)(second / 60 % 60), (int)(second % 60));
    if (rest % US_PER_S)
        n += snprintf(dst + n, CLOCK_ISO_SIZE - (size_t)n, ".%06d", (int)(rest % US_PER_S));
    (void)snprintf(dst + n, CLOCK_ISO_SIZE - (size_t)n, "+00:00");
}
