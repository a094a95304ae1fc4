/* SPDX-License-Identifier: Apache-2.0 */
/* flights.departure_utc: the scheduled local departure of a flight out of New York as a moment in UTC, written as
 * "YYYY-MM-DD HH:MM:SS" (a timestamptz of PostgreSQL and a datetime of Django on SQLite both read it as UTC).
 *
 * New York is five hours behind UTC, four under daylight saving time, which by law begins and ends at 2:00 on the
 * Sundays of the table below. As usual, an hour that comes twice is taken as the first one and an hour that is left out
 * as if the clock had not been changed yet. */

#include <celeryc/migration.h>

#include <stdio.h>

#define MINUTES_OF_DAY  1440
#define STANDARD_BEHIND 300 /* minutes */
#define DAYLIGHT_BEHIND 240

/* nth Sunday of a month; 0 is the last one. */
struct sunday {
    int month, nth;
};

static const struct dst_rule {
    int from_year;
    struct sunday begins, ends;
} rules[] = {
    {2007, {3, 2}, {11, 1}}, /* Energy Policy Act of 2005 */
    {1987, {4, 1}, {10, 0}},
};

/* Days since 1970-01-01 in the Gregorian calendar: whole 400-year cycles, with years that begin in March. */
static int64_t days_of(int year, int month, int day)
{
    int y = month > 2 ? year : year - 1;
    int cycle = y / 400, in_cycle = y % 400;
    int since_march = (month + 9) % 12;
    int day_of_year = (153 * since_march + 2) / 5 + day - 1;

    return (int64_t)cycle * 146097 + (int64_t)in_cycle * 365 + in_cycle / 4 - in_cycle / 100 +
           day_of_year - 719468;
}

static void date_of(int64_t days, int *year, int *month, int *day)
{
    int64_t n = days + 719468;
    int64_t cycle = n / 146097, d = n % 146097;
    int64_t y = (d - d / 1460 + d / 36524 - d / 146096) / 365;
    int64_t day_of_year = d - (365 * y + y / 4 - y / 100);
    int64_t since_march = (5 * day_of_year + 2) / 153;

    *day = (int)(day_of_year - (153 * since_march + 2) / 5) + 1;
    *month = (int)(since_march < 10 ? since_march + 3 : since_march - 9);
    *year = (int)(y + cycle * 400 + (*month <= 2));
}

static int days_in_month(int year, int month)
{
    int64_t next = month == 12 ? days_of(year + 1, 1, 1) : days_of(year, month + 1, 1);

    return (int)(next - days_of(year, month, 1));
}

/* 1970-01-01 was a Thursday: day 3 is a Sunday. */
static int64_t sunday_of(int year, struct sunday s)
{
    int64_t first = days_of(year, s.month, 1);
    int64_t sunday = first + (3 - first % 7 + 7) % 7;

    if (s.nth > 0)
        return sunday + (int64_t)7 * (s.nth - 1);
    int64_t last = first + days_in_month(year, s.month) - 1;

    return last - (last - sunday) % 7;
}

/* Minutes behind UTC at a local time; -1 for years without a rule here. */
static int minutes_behind(int year, int64_t local_minutes)
{
    for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
        if (year < rules[i].from_year)
            continue;
        /* The hour from 2:00 is left out in spring and the one from 1:00 comes twice in autumn. */
        int64_t begins = sunday_of(year, rules[i].begins) * MINUTES_OF_DAY + (int64_t)3 * 60;
        int64_t ends = sunday_of(year, rules[i].ends) * MINUTES_OF_DAY + (int64_t)2 * 60;

        return local_minutes >= begins && local_minutes < ends ? DAYLIGHT_BEHIND : STANDARD_BEHIND;
    }
    return -1;
}

static int bad_time(struct scatter_change *c, int64_t year, int64_t month, int64_t day, int64_t hmm)
{
    return scatter_fail(c, "ValueError", "%lld-%lld-%lld %04lld is no time of departure",
                        (long long)year, (long long)month, (long long)day, (long long)hmm);
}

static int departure_utc(const struct scatter_record *r, struct scatter_change *c)
{
    int64_t year, month, day, hmm;
    char text[64];

    if (!scatter_text(r, "dep_time"))
        return scatter_skip(c, "the flight never left");
    if (scatter_int(r, "year", &year) || scatter_int(r, "month", &month) ||
        scatter_int(r, "day", &day) || scatter_int(r, "sched_dep_time", &hmm))
        return scatter_fail(c, "ValueError",
                            "year, month, day and sched_dep_time must all be integers");
    if (year < 1 || year > 9999 || month < 1 || month > 12 || day < 1 ||
        day > days_in_month((int)year, (int)month) || hmm < 0 || hmm > 2400 || hmm % 100 > 59)
        return bad_time(c, year, month, day, hmm);
    int64_t local =
        days_of((int)year, (int)month, (int)day) * MINUTES_OF_DAY + hmm / 100 * 60 + hmm % 100;
    int behind = minutes_behind((int)year, local);

    if (behind < 0)
        return scatter_fail(c, "ValueError", "the rules of daylight saving before %d are not known",
                            rules[sizeof(rules) / sizeof(rules[0]) - 1].from_year);
    int64_t utc = local + behind;
    int y, m, d;

    date_of(utc / MINUTES_OF_DAY, &y, &m, &d);
    (void)snprintf(text, sizeof(text), "%04d-%02d-%02d %02d:%02d:00", y, m, d,
                   (int)(utc % MINUTES_OF_DAY / 60), (int)(utc % 60));
    return scatter_set_text(c, "departure_utc", text);
}

SCATTER_MIGRATION("flights.departure_utc", .record = departure_utc, .table = "flight", .key = "id",
                  .reads = {"year", "month", "day", "sched_dep_time", "dep_time", "departure_utc"},
                  .writes = {"departure_utc"}, .version = "1")
