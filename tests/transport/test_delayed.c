/* SPDX-License-Identifier: Apache-2.0 */
/* Messages that wait at the broker for their time. */
#include <criterion/criterion.h>
#include <string.h>

#include "celeryc/base/clock.h"
#include "tests/transport/rig.h"

static struct redis_server server;
static struct rig rig;

static void setup(void)
{
    redis_server_start(&server, NULL);
    rig_init(&rig, &server, NULL);
}

static void teardown(void)
{
    rig_free(&rig);
    redis_server_stop(&server);
}

TestSuite(delayed, .init = setup, .fini = teardown, .timeout = 60);

#define HOUR_US INT64_C(3600000000)

static void expect_nothing_delayed(void)
{
    expect_answer(&server, "0", "EXISTS", "celeryc:delayed", "celeryc:delayed:messages");
}

/* Pushes, claims and delays n messages "m", named by `name` (NULL: by m0, m1, ...). */
static void delay_some(size_t n, const char *name, int64_t due_us)
{
    for (size_t i = 0; i < n; i++)
        rig_push(&server, "celery", "m", i % 2 ? 9 : 0);
    rig_start(&rig);
    rig.auto_want = true;
    transport_want(rig.t, n);
    rig_claims(&rig, n);
    transport_want(rig.t, 0);
    for (size_t i = 0; i < n; i++) {
        char own[24];
        (void)snprintf(own, sizeof(own), "m%zu", i);
        transport_delay(rig.t, rig.claims[i], slice_str(name ? name : own), due_us, rig_on_done,
                        &rig);
    }
    rig_done(&rig, n);
}

Test(delayed, are_claimed_by_name)
{
    static const struct slice names[] = {{"m2", 2}, {"none", 4}, {"m0", 2}};
    delay_some(3, NULL, clock_wall_us() + HOUR_US);
    transport_claim_delayed(rig.t, 3, names);
    rig_claims(&rig, 5);
    expect_answer(&server, "1", "ZCARD", "celeryc:delayed");
    expect_answer(&server, "1", "HLEN", "celeryc:delayed:messages");
    expect_answer(&server, "2", "ZCARD", "unacked_index");
    /* One goes back to the list of its priority, the other is done. */
    transport_return(rig.t, rig.claims[3], false, false, rig_on_done, &rig);
    transport_finish(rig.t, rig.claims[4], NULL, 0, NULL, rig_on_done, &rig);
    rig_done(&rig, 5);
    cr_assert_eq(rig.n_lost, 0);
    expect_answer(&server, "1", "LLEN",
                  "celery\x06\x16"
                  "9");
    expect_answer(&server, "0", "HLEN", "unacked");
}

Test(delayed, of_queues_that_are_not_ours_stay)
{
    static const struct slice name = {"theirs", 6};
    rig_start(&rig);
    free(redis_server_ask(&server, "EVAL",
                          "redis.call('ZADD', 'celeryc:delayed', 9e12, 'theirs') "
                          "redis.call('HSET', 'celeryc:delayed:messages', 'theirs', "
                          "'2\\0other\\0{}')",
                          "0", NULL));
    rig_push(&server, "celery", "a", 0);
    transport_claim_delayed(rig.t, 1, &name);
    rig_want(&rig, 1);
    rig_claims(&rig, 1);
    expect_answer(&server, "1", "ZCARD", "celeryc:delayed");
}

Test(delayed, of_one_name_are_kept_apart)
{
    delay_some(3, "same", clock_wall_us() + 100000);
    expect_answer(&server, "3", "ZCARD", "celeryc:delayed");
    transport_want(rig.t, 3);
    rig_claims(&rig, 6);
    expect_nothing_delayed();
}

Test(delayed, with_names_that_are_too_long_or_strange_come_all_the_same)
{
    static char name[2000];
    memset(name, 'x', sizeof(name) - 1);
    delay_some(2, name, clock_wall_us() + 100000);
    transport_want(rig.t, 2);
    rig_claims(&rig, 4);
    expect_nothing_delayed();
}

static void forge(const char *member, const char *value)
{
    free(redis_server_ask(&server, "EVAL",
                          "redis.call('ZADD', 'celeryc:delayed', 1000, (string.gsub(ARGV[1], '/', "
                          "'\\0'))) if ARGV[2] ~= '' then redis.call('HSET', "
                          "'celeryc:delayed:messages', ARGV[1], (string.gsub(ARGV[2], '/', "
                          "'\\0'))) end",
                          "0", member, value, NULL));
}

Test(delayed, of_the_format_before_are_read)
{
    forge("celery/uuid/{raw}", "");
    rig_start(&rig);
    rig_want(&rig, 1);
    rig_claims(&rig, 1);
    cr_assert_str_eq(rig.claims[0]->raw, "{raw}");
    expect_nothing_delayed();
}

Test(delayed, of_an_unknown_format_stay_and_lost_names_go)
{
    forge("newer", "3/celery/{raw}");
    forge("nothing", "");
    forge("good", "2/celery/{raw}");
    rig_start(&rig);
    rig_want(&rig, 1);
    rig_claims(&rig, 1);
    rig_until_answer(&rig, "newer", "EVAL",
                     "return table.concat(redis.call('ZRANGE', 'celeryc:delayed', 0, -1), ' ')",
                     "0");
    expect_answer(&server, "1", "HLEN", "celeryc:delayed:messages");
}

static void set_left(void *arg)
{
    ((struct rig *)arg)->left = true;
}

static bool has_left(struct rig *r, void *arg)
{
    (void)arg;
    return r->left;
}

static void forge_many(void)
{
    free(
        redis_server_ask(&server, "EVAL",
                         "for i = 1, 5000 do "
                         "redis.call('ZADD', 'celeryc:delayed', 9e12 + i, 'm' .. i) "
                         "redis.call('HSET', 'celeryc:delayed:messages', 'm' .. i, '2\\0celery\\0' "
                         ".. i) end",
                         "0", NULL));
}

Test(delayed, go_back_with_the_last_who_leaves)
{
    forge_many();
    rig_start(&rig);
    transport_leave(rig.t, 5000, set_left, &rig);
    rig_until_(&rig, has_left, NULL, "left");
    expect_nothing_delayed();
    expect_answer(&server, "5000", "LLEN", "celery");
    expect_answer(&server, "1", "LINDEX", "celery", "-1");
    expect_answer(&server, "0", "ZCARD", "celeryc:workers");
}

Test(delayed, stay_while_others_live)
{
    struct rig second;
    forge_many();
    rig_init(&second, &server, NULL);
    rig_start(&second);
    rig_start(&rig);
    transport_leave(rig.t, 5000, set_left, &rig);
    rig_until_(&rig, has_left, NULL, "left");
    expect_answer(&server, "5000", "ZCARD", "celeryc:delayed");
    transport_leave(second.t, 5000, set_left, &second);
    rig_until_(&second, has_left, NULL, "left");
    expect_nothing_delayed();
    rig_free(&second);
}

struct firsts {
    struct rig *other;
};

static bool one_is_first(struct rig *r, void *arg)
{
    struct firsts *f = arg;
    (void)uv_run(&f->other->loop, UV_RUN_NOWAIT);
    return transport_is_first(r->t) != transport_is_first(f->other->t);
}

Test(delayed, are_told_of_by_one_worker)
{
    struct rig second;
    rig_init(&second, &server, NULL);
    rig_start(&second);
    rig_start(&rig);
    struct firsts f = {&second};
    rig_until_(&rig, one_is_first, &f, "just one is first");
    rig_free(&second);
}
