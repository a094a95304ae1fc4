/* SPDX-License-Identifier: Apache-2.0 */
/* String lists and guesses. */

#include "celeryc/base/strv.h"

#include "celeryc/base/buf.h"

#include <criterion/criterion.h>

Test(strv, splits_at_commas_and_drops_white_space)
{
    CLEANUP(strv_deinit) struct strv l = {NULL, 0};
    cr_assert_eq(strv_add_commas(&l, " a, b ,,c,"), 0);
    cr_assert_eq(l.n, 3);
    cr_assert_str_eq(l.v[0], "a");
    cr_assert_str_eq(l.v[1], "b");
    cr_assert_str_eq(l.v[2], "c");
    cr_assert_null(l.v[3]);
}

Test(strv, drops_every_occurrence)
{
    CLEANUP(strv_deinit) struct strv l = {NULL, 0};
    cr_assert_eq(strv_add_commas(&l, "x,y,x"), 0);
    strv_drop(&l, "x");
    cr_assert_eq(l.n, 1);
    cr_assert(strv_has(&l, "y"));
    cr_assert_not(strv_has(&l, "x"));
    cr_assert_null(l.v[1]);
    strv_drop(&l, "y");
    strv_drop(&l, "nothing");
    cr_assert_eq(l.n, 0);
}

static const char *next_word(size_t i, const void *arg)
{
    (void)arg;
    static const char *const words[] = {"concurrency", "queues", "loglevel", NULL};
    return words[i];
}

Test(strv, nearest_name_is_found_or_none)
{
    cr_assert_str_eq(strv_nearest("concurency", next_word, NULL), "concurrency");
    cr_assert_str_eq(strv_nearest("quesue", next_word, NULL), "queues");
    cr_assert_str_eq(strv_nearest("loglevle", next_word, NULL), "loglevel");
    cr_assert_null(strv_nearest("zzzzzzzzzz", next_word, NULL));
    cr_assert_null(strv_nearest("", next_word, NULL));
}
