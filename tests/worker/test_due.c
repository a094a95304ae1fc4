/* SPDX-License-Identifier: Apache-2.0 */
/* The heap of times. */

#include "celeryc/worker/due.h"

#include <criterion/criterion.h>

Test(due, gives_the_earliest_first)
{
    enum { N = 1000 };
    static struct due d[N];
    struct due_heap h = {NULL, 0, 0};
    uint64_t x = 88172645463325252u;
    for (size_t i = 0; i < N; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        cr_assert_eq(due_set(&h, &d[i], (int64_t)(x % 5000)), 0);
    }
    /* A third leaves, a third is moved: the order of the rest must hold. */
    size_t gone = 0;
    for (size_t i = 0; i < N; i += 3, gone++)
        due_clear(&h, &d[i]);
    for (size_t i = 1; i < N; i += 3)
        cr_assert_eq(due_set(&h, &d[i], d[i].at_ns / 2 + 7), 0);
    cr_assert_eq(h.n, N - gone);
    int64_t last = INT64_MIN;
    size_t seen = 0;
    for (struct due *f; (f = due_first(&h)) != NULL; seen++) {
        cr_assert_geq(f->at_ns, last);
        last = f->at_ns;
        due_clear(&h, f);
        cr_assert_eq(f->slot, 0);
    }
    cr_assert_eq(seen, N - gone);
    due_deinit(&h);
}

Test(due, clearing_what_is_not_there_is_harmless)
{
    struct due_heap h = {NULL, 0, 0};
    struct due a = {0, 0}, b = {0, 0};
    due_clear(&h, &a);
    cr_assert_null(due_first(&h));
    cr_assert_eq(due_set(&h, &a, 5), 0);
    due_clear(&h, &b);
    cr_assert_eq(due_first(&h), &a);
    due_clear(&h, &a);
    due_clear(&h, &a);
    cr_assert_null(due_first(&h));
    due_deinit(&h);
}
