/* SPDX-License-Identifier: Apache-2.0 */
/* Times against dateutil's answers (tests/data/message/iso.jsonl: [text, microseconds | "range" | "invalid"]). */

#include "../message/vectors.h"
#include "celeryc/base/clock.h"
#include "celeryc/message/json.h"

#include <criterion/criterion.h>
#include <errno.h>

Test(iso, equals_dateutil)
{
    struct vectors v;
    struct json_val line;
    size_t n = 0;

    for (vectors_open(&v, "iso.jsonl"); vectors_next(&v, &line); n++) {
        struct json_val want = json_at(line, 1);
        int64_t us = 0, want_us = 0;
        struct slice text;
        int r;

        cr_assert_eq(json_string_z(v.arena, json_at(line, 0), &text), 0);
        r = clock_iso_parse(text, &us);
        if (json_i64(want, &want_us) == 0)
            cr_assert(r == 0 && us == want_us, "%s: %d, %lld", text.p, r, (long long)us);
        else
            cr_assert_eq(r, slice_eq_str(want.raw, "\"range\"") ? -ERANGE : -EINVAL, "%s: %d",
                         text.p, r);
    }
    cr_assert(n >= 1000);
    vectors_close(&v);
}

Test(iso, refuses_what_is_not_ascii)
{
    int64_t us;

    cr_assert_eq(clock_iso_parse(SLICE_LIT("2026-11-22T14:00:00\xc3\xa9"), &us), -EINVAL);
    cr_assert_eq(clock_iso_parse(SLICE_NULL, &us), -EINVAL);
    cr_assert_eq(clock_iso_parse((struct slice){"2026-11-22", 4}, &us), 0,
                 "only the slice is read");
    cr_assert_eq(us, INT64_C(1767225600000000));
}
