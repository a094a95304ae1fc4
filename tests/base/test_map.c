/* SPDX-License-Identifier: Apache-2.0 */

#include "celeryc/base/map.h"

#include <criterion/criterion.h>

static struct slice key_of(char *text, size_t size, int i)
{
    return (struct slice){text, (size_t)snprintf(text, size, "key-%d", i)};
}

static int count(struct slice key, void *value, void *arg)
{
    (void)key;
    *(size_t *)arg += *(int *)value;
    return 0;
}

static int stop(struct slice key, void *value, void *arg)
{
    (void)key;
    (void)value;
    ++*(size_t *)arg;
    return 42;
}

Test(map, keeps_what_is_set)
{
    CLEANUP(map_free) struct map *m = map_new();
    static int values[2000];
    char text[32];
    size_t sum = 0, calls = 0;

    for (int i = 0; i < 2000; i++) {
        values[i] = i;
        cr_assert_eq(map_set(m, key_of(text, sizeof(text), i), &values[i]), 0);
    }
    cr_assert_eq(map_len(m), 2000);
    for (int i = 0; i < 2000; i++)
        cr_assert_eq(map_get(m, key_of(text, sizeof(text), i)), &values[i]);
    cr_assert_null(map_get(m, SLICE_LIT("key-2000")));
    cr_assert_eq(map_each(m, count, &sum), 0);
    cr_assert_eq(sum, 2000 * 1999 / 2);
    cr_assert_eq(map_each(m, stop, &calls), 42);
    cr_assert_eq(calls, 1);
    cr_assert_eq(map_set(m, SLICE_LIT("key-5"), &values[6]), 0);
    cr_assert_eq(map_get(m, SLICE_LIT("key-5")), &values[6]);
    cr_assert_eq(map_len(m), 2000);
    for (int i = 0; i < 2000; i += 2)
        cr_assert(map_remove(m, key_of(text, sizeof(text), i)));
    cr_assert_null(map_remove(m, SLICE_LIT("key-0")));
    cr_assert_eq(map_len(m), 1000);
    cr_assert_null(map_get(m, SLICE_LIT("key-2")));
    cr_assert_eq(map_get(m, SLICE_LIT("key-3")), &values[3]);
}

Test(map, keys_are_bytes)
{
    CLEANUP(map_free) struct map *m = map_new();
    int a, b, c;

    cr_assert_eq(map_set(m, SLICE_NULL, &a), 0);
    cr_assert_eq(map_set(m, SLICE_LIT("\0"), &b), 0);
    cr_assert_eq(map_set(m, SLICE_LIT("\0\0"), &c), 0);
    cr_assert_eq(map_get(m, SLICE_LIT("")), &a);
    cr_assert_eq(map_get(m, SLICE_LIT("\0")), &b);
    cr_assert_eq(map_get(m, SLICE_LIT("\0\0")), &c);
}
