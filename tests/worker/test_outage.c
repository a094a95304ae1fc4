/* SPDX-License-Identifier: Apache-2.0 */
/* Celery's steps: after 2, 4, 6 ... 30, 30 seconds. */

#include "celeryc/worker/outage.h"

#include <criterion/criterion.h>

Test(outage, counts_celerys_tries_however_often_it_is_asked)
{
    struct outage o = OUTAGE_NONE;
    static const int64_t at_s[] = {0, 2, 6, 12, 20, 30};
    size_t n = 0;
    for (int64_t ms = 0; ms <= 30000; ms += 100) {
        if (!outage_count(&o, 7000 + ms))
            continue;
        cr_assert_eq(ms, at_s[n] * 1000, "try %zu after %ld ms", n + 1, (long)ms);
        n++;
    }
    cr_assert_eq(n, 6);
    cr_assert_eq(o.tries, 6);
}

Test(outage, a_hundred_take_as_long_as_celerys)
{
    struct outage o = OUTAGE_NONE;
    int64_t s = 0;
    while (o.tries < 101)
        (void)outage_count(&o, 1000 * s++);
    /* 2 + 4 + ... + 30 = 240 s, and 85 times 30 s */
    cr_assert_eq(s - 1, 240 + 85 * 30);
}
