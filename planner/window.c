/* SPDX-License-Identifier: Apache-2.0 */
/* Reading windows and finding their next beginnings and ends.
 *
 * The C library knows the zones: TZ is set for the calculation and put back. Days are gone through one by one, so that
 * an hour that is skipped or comes twice is the library's matter. */

#include "planner/window.h"

#include "celeryc/base/buf.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#define DAY_MIN (24 * 60)
#define EVERY   0x7fU

static const char *const day_names[] = {"sun", "mon", "tue", "wed", "thu", "fri", "sat"};

/* ---- reading ---- */

static int take_day(const char **p, int *ret_day)
{
    for (int i = 0; i < 7; i++) {
        if (strncasecmp(*p, day_names[i], 3) == 0) {
            *p += 3;
            *ret_day = i;
            return 0;
        }
    }
    return -EINVAL;
}

/* "Mon-Fri", "Sat,Sun", "daily" */
static int take_days(const char **p, unsigned *ret_days)
{
    unsigned days = 0;
    int from, to;

    if (strncasecmp(*p, "daily", 5) == 0) {
        *p += 5;
        *ret_days = EVERY;
        return 0;
    }
    for (;;) {
        if (take_day(p, &from))
            return -EINVAL;
        to = from;
        if (**p == '-') {
            (*p)++;
            if (take_day(p, &to))
                return -EINVAL;
        }
        for (int d = from;; d = (d + 1) % 7) {
            days |= 1U << d;
            if (d == to)
                break;
        }
        if (**p != ',')
            break;
        (*p)++;
    }
    *ret_days = days;
    return 0;
}

static bool two_digits(const char *p, int max, int *ret_v)
{
    if (!isdigit((unsigned char)p[0]) || !isdigit((unsigned char)p[1]))
        return false;
    *ret_v = (p[0] - '0') * 10 + (p[1] - '0');
    return *ret_v <= max;
}

static int take_time(const char **p, int *ret_min)
{
    int h, m;

    if (!two_digits(*p, 24, &h) || (*p)[2] != ':' || !two_digits(*p + 3, 59, &m) ||
        h * 60 + m > DAY_MIN)
        return -EINVAL;
    *p += 5;
    *ret_min = h * 60 + m;
    return 0;
}

static bool zone_exists(const char *zone)
{
    char path[512];
    const char *folder = getenv("TZDIR"); /* NOLINT(concurrency-mt-unsafe): one thread */

    for (const char *p = zone; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("_+-/", *p))
            return false;
    if (!*zone || *zone == '/')
        return false;
    (void)snprintf(path, sizeof(path), "%s/%s", folder && *folder ? folder : "/usr/share/zoneinfo",
                   zone);
    return str_eq(zone, "UTC") || access(path, R_OK) == 0;
}

int window_parse(const char *text, struct window *ret_w, struct err *e)
{
    static const char form[] = "write DAYS HH:MM-HH:MM ZONE, as Mon-Fri 01:00-05:00 "
                               "Asia/Ho_Chi_Minh, or daily for the days";
    struct window w = {.days = 0};
    const char *p = text;
    bool good = take_days(&p, &w.days) == 0 && *p++ == ' ' && take_time(&p, &w.from_min) == 0 &&
                *p++ == '-' && take_time(&p, &w.to_min) == 0 && w.from_min < DAY_MIN &&
                w.from_min != w.to_min && *p++ == ' ' && strlen(p) < sizeof(w.zone);

    if (!good)
        return err_set(e, -EINVAL, "window \"%s\": %s", text, form);
    (void)snprintf(w.zone, sizeof(w.zone), "%s", p);
    if (!zone_exists(w.zone))
        return err_set(e, -EINVAL,
                       "window \"%s\": there is no time zone %s on this machine (is tzdata "
                       "installed?)",
                       text, w.zone);
    *ret_w = w;
    return 0;
}

/* ---- when ---- */

struct zone {
    char old[128];
    bool had;
};

/* NOLINTBEGIN(concurrency-mt-unsafe): one thread */
static void enter(struct zone *z, const char *name)
{
    const char *old = getenv("TZ");
    char value[WINDOW_ZONE_MAX + 1];

    z->had = old != NULL;
    (void)snprintf(z->old, sizeof(z->old), "%s", old ? old : "");
    (void)snprintf(value, sizeof(value), ":%s", name);
    (void)setenv("TZ", value, 1);
    tzset();
}

static void leave(const struct zone *z)
{
    if (z->had)
        (void)setenv("TZ", z->old, 1);
    else
        (void)unsetenv("TZ");
    tzset();
}

/* NOLINTEND(concurrency-mt-unsafe) */

static int64_t at_minute(const struct tm *day, int offset, int minute)
{
    struct tm t = {.tm_year = day->tm_year,
                   .tm_mon = day->tm_mon,
                   .tm_mday = day->tm_mday + offset,
                   .tm_hour = minute / 60,
                   .tm_min = minute % 60,
                   .tm_isdst = -1};

    return (int64_t)mktime(&t);
}

static void one_window(const struct window *w, int64_t now_s, struct window_times *t)
{
    struct zone z;
    struct tm now;
    time_t now_t = (time_t)now_s;

    enter(&z, w->zone);
    (void)localtime_r(&now_t, &now);
    for (int d = -1; d <= 8; d++) {
        int64_t from = at_minute(&now, d, w->from_min);
        int64_t to = at_minute(&now, d + (w->to_min <= w->from_min), w->to_min);

        if (!(w->days & (1U << ((now.tm_wday + d + 7) % 7))))
            continue;
        if (from <= now_s && now_s < to) {
            t->open = true;
            t->ends_s = MAX(t->ends_s, to);
        } else if (from > now_s && (!t->next_s || from < t->next_s)) {
            t->next_s = from;
        }
    }
    leave(&z);
}

void windows_at(const struct window *w, size_t n, int64_t now_s, struct window_times *ret_t)
{
    struct window_times t = {.ends_s = now_s};

    for (size_t i = 0; i < n; i++)
        one_window(&w[i], now_s, &t);
    *ret_t = t;
}

void window_clock(const struct window *w, int64_t at_s, char *dst, size_t size)
{
    struct zone z;
    struct tm t;
    time_t at = (time_t)at_s;

    enter(&z, w->zone);
    (void)localtime_r(&at, &t);
    if (strftime(dst, size, "%Y-%m-%d %H:%M %z", &t) == 0)
        dst[0] = '\0';
    leave(&z);
}
