/* SPDX-License-Identifier: Apache-2.0 */
/* When credentials are asked for again, by a clock that the tests turn. */

#include "celeryc/store/creds.h"
#include "celeryc/store/store.h"

#include <criterion/criterion.h>
#include <errno.h>

#define SECOND INT64_C(1000000)
#define HOUR   (3600 * SECOND)

static struct creds_keeper *keeper;
static int64_t now_us = 1000 * HOUR;
static int64_t life_us = HOUR; /* of what is loaded; 0 forever */
static int loads, fault;
static const char *asked;

static int64_t now(void)
{
    return now_us;
}

static int load(const char *source, int64_t left_ms, struct creds *ret_c, struct err *e)
{
    char key[16];

    (void)left_ms;
    asked = source;
    loads++;
    if (fault)
        return err_set(e, fault, "out of order");
    (void)snprintf(key, sizeof(key), "KEY%d", loads);
    *ret_c = (struct creds){.key_id = slice_dup(slice_str(key)),
                            .secret = slice_dup(SLICE_LIT("secret")),
                            .expires_us = life_us ? now_us + life_us : 0,
                            .source = "test"};
    return 0;
}

static void start(void)
{
    keeper = creds_keeper_new(&(struct creds_ways){load, now});
    cr_assert(keeper);
}

static void finish(void)
{
    keeper = creds_keeper_free(keeper);
}

static void expect(const char *key)
{
    CLEANUP(creds_deinit) struct creds c = {0};
    struct err e = ERR_INIT;

    cr_assert_eq(creds_get(keeper, 1000, &c, &e), 0, "%s", e.text);
    cr_assert_str_eq(c.key_id, key);
}

TestSuite(creds, .init = start, .fini = finish);

Test(creds, renewed_five_to_six_minutes_before_the_end)
{
    expect("KEY1");
    cr_assert_null(asked);
    now_us += HOUR - 361 * SECOND;
    expect("KEY1");
    cr_assert_eq(loads, 1);
    now_us += 61 * SECOND;
    expect("KEY2");
    cr_assert_str_eq(asked, "test", "the source that gave the first ones");
}

Test(creds, the_moment_is_drawn_at_random)
{
    int early = 0;

    for (int i = 0; i < 64; i++) {
        finish();
        start();
        loads = 0;
        expect("KEY1");
        now_us += HOUR - 330 * SECOND; /* the middle of the minute */
        {
            CLEANUP(creds_deinit) struct creds c = {0};

            cr_assert_eq(creds_get(keeper, 1000, &c, NULL), 0);
        }
        early += loads == 2;
    }
    cr_assert(early > 0 && early < 64, "%d", early); /* wrong once in 2^63 */
}

Test(creds, old_ones_serve_while_they_are_good)
{
    CLEANUP(creds_deinit) struct creds c = {0};
    struct err e = ERR_INIT;

    expect("KEY1");
    fault = STORE_E_TRANSIENT;
    now_us += HOUR - 200 * SECOND;
    expect("KEY1");
    expect("KEY1");
    cr_assert_eq(loads, 2, "not asked at every turn");
    now_us += 61 * SECOND;
    expect("KEY1");
    cr_assert_eq(loads, 3);
    now_us += 200 * SECOND;
    cr_assert_eq(creds_get(keeper, 1000, &c, &e), STORE_E_TRANSIENT);
    cr_assert_str_eq(e.text, "out of order");
    fault = 0;
    expect("KEY5");
}

Test(creds, short_lives_are_used_for_half)
{
    life_us = 60 * SECOND;
    expect("KEY1");
    now_us += 29 * SECOND;
    expect("KEY1");
    now_us += 2 * SECOND;
    expect("KEY2");
}

Test(creds, what_never_expires_is_kept)
{
    life_us = 0;
    expect("KEY1");
    now_us += 10000 * HOUR;
    expect("KEY1");
}

Test(creds, refused_ones_are_not_given_again)
{
    CLEANUP(creds_deinit) struct creds first = {0}, c = {0};

    cr_assert_eq(creds_get(keeper, 1000, &first, NULL), 0);
    cr_assert(creds_reject(keeper, &first));
    fault = STORE_E_DENIED;
    cr_assert_eq(creds_get(keeper, 1000, &c, NULL), STORE_E_DENIED);
    fault = 0;
    expect("KEY3");
    /* A late word about the old ones says nothing about the new. */
    cr_assert(creds_reject(keeper, &first));
    expect("KEY3");
}
