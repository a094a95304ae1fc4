/* SPDX-License-Identifier: Apache-2.0 */
/* planner/window.c and governor.c: when a plan may run, and how fast. */

#include "planner/governor.h"
#include "planner/window.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>

static struct window window(const char *text)
{
    struct window w = {.days = 0};
    struct err e = ERR_INIT;

    cr_assert_eq(window_parse(text, &w, &e), 0, "%s: %s", text, e.text);
    return w;
}

static struct window_times at(const char *text, int64_t now_s)
{
    const struct window w = window(text);
    struct window_times t;

    windows_at(&w, 1, now_s, &t);
    return t;
}

/* 2026-11-30 is a Monday; 00:00 UTC is 1795996800. */
#define MONDAY INT64_C(1795996800)
#define HOUR   3600

Test(window, open_and_closed)
{
    const char *text =
        "Mon-Fri 01:00-05:00 Asia/Ho_Chi_Minh"; /* UTC+7: Sunday 18:00 to 22:00 UTC */
    struct window_times t = at(text, MONDAY - 5 * HOUR);

    cr_assert(t.open);
    cr_assert_eq(t.ends_s, MONDAY - 2 * HOUR);
    cr_assert_eq(t.next_s, MONDAY + 18 * HOUR);
    t = at(text, MONDAY);
    cr_assert_not(t.open);
    cr_assert_eq(t.ends_s, MONDAY);
    cr_assert_eq(t.next_s, MONDAY + 18 * HOUR);
    /* Friday's is the last of the week. */
    t = at(text, MONDAY + 4 * 24 * HOUR);
    cr_assert_eq(t.next_s, MONDAY + (6 * 24 + 18) * HOUR);
}

Test(window, over_midnight)
{
    struct window_times t = at("Sat,Sun 22:00-02:00 UTC", MONDAY + HOUR);

    cr_assert(t.open);
    cr_assert_eq(t.ends_s, MONDAY + 2 * HOUR);
    cr_assert_eq(t.next_s, MONDAY + (5 * 24 + 22) * HOUR);
}

/* On 2026-03-29 Berlin's clocks go from 02:00 to 03:00: the window is an hour shorter. */
Test(window, hour_that_is_skipped)
{
    int64_t sunday = INT64_C(1774738800); /* 2026-03-29 00:00 +01:00 */
    struct window_times t = at("daily 01:00-05:00 Europe/Berlin", sunday + HOUR);

    cr_assert(t.open);
    cr_assert_eq(t.ends_s, sunday + 4 * HOUR);
}

Test(window, several)
{
    const struct window w[] = {window("daily 01:00-02:00 UTC"), window("daily 01:30-03:00 UTC")};
    struct window_times t;
    char text[64];

    windows_at(w, 2, MONDAY + HOUR + HOUR / 2, &t);
    cr_assert(t.open);
    cr_assert_eq(t.ends_s, MONDAY + 3 * HOUR);
    cr_assert_eq(t.next_s, MONDAY + 25 * HOUR);
    window_clock(&w[0], t.next_s, text, sizeof(text));
    cr_assert_str_eq(text, "2026-12-01 01:00 +0000");
}

Test(window, mistakes_are_named)
{
    static const char *const bad[] = {"",
                                      "Mon",
                                      "Mon-Fry 01:00-05:00 UTC",
                                      "Mon 1:00-05:00 UTC",
                                      "Mon 01:00-25:00 UTC",
                                      "Mon 01:00-01:00 UTC",
                                      "Mon 01:00-05:00",
                                      "Mon 01:00-05:00 Asia/Nowhere",
                                      "Mon 01:00-05:00 ../../etc/passwd",
                                      "Mon 01:00-05:00 /etc/passwd",
                                      "Mon, 01:00-05:00 UTC",
                                      "Mon 01:00-05:00 UTC and more"};
    struct window w;

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct err e = ERR_INIT;

        cr_assert_eq(window_parse(bad[i], &w, &e), -EINVAL, "%s", bad[i]);
        cr_assert(e.text[0]);
    }
}

static struct governor_verdict step(struct governor *g, double lag_mb, double per_s)
{
    struct governor_sample s = {.replica = "db-3", .done = g->done + per_s};
    struct governor_verdict v;

    s.of[SENSOR_LAG_MB] = lag_mb;
    s.at_ns = g->at_ns + INT64_C(1000000000);
    governor_decide(g, &s, &v);
    return v;
}

Test(governor, slows_stops_and_recovers)
{
    struct governor_limits l = {.critical = 0};
    struct governor g;
    struct err e = ERR_INIT;

    cr_assert_eq(governor_set_word(&l, "max_lag_mb=10", &e), 0);
    governor_init(&g, &l, 100, INFINITY);
    g.at_ns = 1;
    for (int i = 0; i < 10; i++)
        cr_assert(isinf(step(&g, 1, 10000).rate), "nothing presses");
    struct governor_verdict v = step(&g, 7.5, 10000);

    cr_assert(v.rate > 5000 && v.rate < 10000);
    cr_assert_str_eq(v.reason, "throttled 25 %: replica db-3 lag 7.5 MB > 5.0 MB");
    v = step(&g, 11, 7500);
    cr_assert_eq(v.rate, 0);
    cr_assert(strstr(v.reason, "lag 11.0 MB > 10.0 MB"));
    v = step(&g, 2, 0);
    cr_assert(v.rate >= 100 && v.rate < 10000);
    for (int i = 0; i < 200 && !isinf(v.rate); i++)
        v = step(&g, 2, fmin(v.rate, 10000));
    cr_assert(isinf(v.rate) || v.rate > 9000, "it recovers: %f", v.rate);
}

Test(governor, pauses_what_stays_critical)
{
    struct governor_limits l = {.critical = 0};
    struct governor g;

    l.of[SENSOR_LAG_MB] = 10;
    governor_init(&g, &l, 100, INFINITY);
    g.at_ns = 1;
    cr_assert_not(step(&g, 31, 1000).pause);
    cr_assert(step(&g, 31, 0).pause);
    cr_assert_not(step(&g, 3, 0).pause);
}

Test(governor, words)
{
    struct governor_limits l = {.critical = 0};
    struct err e = ERR_INIT;

    cr_assert_eq(governor_set_word(&l, "max_lag_s=2.5", &e), 0);
    cr_assert_eq(l.of[SENSOR_LAG_S], 2.5);
    cr_assert_eq(governor_set_word(&l, "max_lag_s=none", &e), 0);
    cr_assert_eq(l.of[SENSOR_LAG_S], 0);
    cr_assert_neq(governor_set_word(&l, "max_lag_s=-1", &e), 0);
    cr_assert_neq(governor_set_word(&l, "max_lagg=1", &e), 0);
    cr_assert_neq(governor_set_word(&l, "max_lag_s", &e), 0);
}
