/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers and times from text. */

#include "celeryc/base/clock.h"
#include "celeryc/base/num.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>

Test(num, integers)
{
    static const char *const bad[] = {"",    "-",   "+1",  " 1", "1 ", "0x1",
                                      "1.0", "1e3", "--1", "1-", "a"};
    int64_t i;
    uint64_t u;
    uint32_t w;

    for (size_t n = 0; n < ARRAY_SIZE(bad); n++) {
        cr_assert_eq(num_parse_i64(slice_str(bad[n]), &i), -EINVAL, "%s", bad[n]);
        cr_assert_eq(num_parse_u64(slice_str(bad[n]), &u), -EINVAL, "%s", bad[n]);
    }
    cr_assert_eq(num_parse_u64(SLICE_LIT("-1"), &u), -EINVAL);
    cr_assert_eq(num_parse_i64(SLICE_LIT("-9223372036854775808"), &i), 0);
    cr_assert_eq(i, INT64_MIN);
    cr_assert_eq(num_parse_i64(SLICE_LIT("9223372036854775807"), &i), 0);
    cr_assert_eq(i, INT64_MAX);
    cr_assert_eq(num_parse_i64(SLICE_LIT("-9223372036854775809"), &i), -ERANGE);
    cr_assert_eq(num_parse_u64(SLICE_LIT("18446744073709551615"), &u), 0);
    cr_assert_eq(u, UINT64_MAX);
    cr_assert_eq(num_parse_u64(SLICE_LIT("18446744073709551616"), &u), -ERANGE);
    cr_assert_eq(num_parse_u32(SLICE_LIT("4294967295"), &w), 0);
    cr_assert_eq(w, UINT32_MAX);
    cr_assert_eq(num_parse_u32(SLICE_LIT("4294967296"), &w), -ERANGE);
    cr_assert_eq(num_parse_u64((struct slice){"12345", 3}, &u), 0);
    cr_assert_eq(u, 123, "never reads behind the slice");
}

Test(num, floats)
{
    static const char *const bad[] = {"",  "nan", "inf",  "0x1p3", "1e", "1e+",
                                      ".", "-",   "1.5x", " 1",    "1,5"};
    char zeros[600];
    double d;

    for (size_t n = 0; n < ARRAY_SIZE(bad); n++)
        cr_assert_eq(num_parse_f64(slice_str(bad[n]), &d), -EINVAL, "%s", bad[n]);
    cr_assert_eq(num_parse_f64(SLICE_LIT("-1.5e-3"), &d), 0);
    cr_assert_eq(d, -1.5e-3);
    cr_assert_eq(num_parse_f64((struct slice){"2.75", 3}, &d), 0);
    cr_assert_eq(d, 2.7);
    cr_assert_eq(num_parse_f64(SLICE_LIT("1e999"), &d), -ERANGE);
    memset(zeros, '0', sizeof(zeros));
    zeros[0] = '7';
    zeros[1] = '.';
    cr_assert_eq(num_parse_f64((struct slice){zeros, sizeof(zeros)}, &d), 0);
    cr_assert_eq(d, 7.0);
}

Test(num, durations)
{
    static const struct {
        const char *text;
        int64_t ns;
    } good[] = {
        {"30", 30 * NS_PER_S},     {"1.5", 1500 * NS_PER_MS}, {"250ms", 250 * NS_PER_MS},
        {"2m", 120 * NS_PER_S},    {"1h", 3600 * NS_PER_S},   {"0", 0},
        {"0.5s", 500 * NS_PER_MS}, {"1e3ms", NS_PER_S},
    };

    static const char *const bad[] = {"", "s", "-1", "1d", "1 s", "1ss", "nan", "m1", "1.5.5"};
    int64_t ns;

    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        cr_assert_eq(num_parse_duration_ns(slice_str(good[i].text), &ns), 0, "%s", good[i].text);
        cr_assert_eq(ns, good[i].ns, "%s", good[i].text);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        cr_assert_eq(num_parse_duration_ns(slice_str(bad[i]), &ns), -EINVAL, "%s", bad[i]);
    cr_assert_eq(num_parse_duration_ns(SLICE_LIT("99999999999h"), &ns), -ERANGE);
}

Test(clock, iso_format)
{
    static const struct {
        int64_t us;
        const char *text;
    } cases[] = {
        {0, "1970-01-01T00:00:00+00:00"},
        {INT64_C(1795358296778014), "2026-11-22T14:38:16.778014+00:00"},
        {-1, "1969-12-31T23:59:59.999999+00:00"},
        {INT64_C(951782400000000), "2000-02-29T00:00:00+00:00"},
        {INT64_C(-62135596800000000), "0001-01-01T00:00:00+00:00"},
        {INT64_C(253402300799999999), "9999-12-31T23:59:59.999999+00:00"},
        {INT64_MAX, "9999-12-31T23:59:59.999999+00:00"},
        {INT64_MIN, "0001-01-01T00:00:00+00:00"},
        {1, "1970-01-01T00:00:00.000001+00:00"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char text[CLOCK_ISO_SIZE];

        clock_iso_format(cases[i].us, text);
        cr_assert_str_eq(text, cases[i].text);
    }
}

/* Every day of the calendar comes back as itself. */
Test(clock, round_trip)
{
    for (int64_t us = INT64_C(-62135596800000000); us < INT64_C(253402300800000000);
         us += INT64_C(86400000000) * 97 + 123457) {
        char text[CLOCK_ISO_SIZE];
        int64_t back;

        clock_iso_format(us, text);
        cr_assert_eq(clock_iso_parse(slice_str(text), &back), 0, "%s", text);
        cr_assert_eq(back, us, "%s", text);
    }
}

Test(clock, advances)
{
    int64_t mono = clock_mono_ns(), wall = clock_wall_us();

    cr_assert(clock_mono_ns() >= mono);
    cr_assert(wall > INT64_C(1600000000000000) && wall < INT64_C(32503680000000000));
}
