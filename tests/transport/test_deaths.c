/* SPDX-License-Identifier: Apache-2.0 */
/* How often a message has died after it had started: noted, counted, acted on. */
#include <criterion/criterion.h>
#include <string.h>

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

TestSuite(deaths, .init = setup, .fini = teardown, .timeout = 60);

static const char dead_keys[] = "return #redis.call('KEYS', '*dead*') + "
                                "(redis.call('ZSCORE', 'celeryc:workers', 'dead') and 1 or 0)";

/* A worker "dead" with two late-ack claims, of which "ran" had started; with_id: the latter stands in `where`. */
static void forge_dead(const char *where)
{
    char *ran = rig_message("ran", 0), *idle = rig_message("idle", 0);
    free(redis_server_ask(
        &server, "EVAL",
        "local function v(m) return '[' .. m .. ', \"\", \"celery\"]' end "
        "redis.call('ZADD', 'celeryc:workers', 1000, 'dead') "
        "redis.call('HSET', 'celeryc:worker:dead', 'v', '2', 'node', 'w9@gone', 'queues', "
        "'[\"celery\"]', 'waiters', '', 'run', 'x') "
        "redis.call('HSET', ARGV[3], 'dead:1', v(ARGV[1])) "
        "redis.call('HSET', 'unacked', 'dead:2', v(ARGV[2])) "
        "redis.call('ZADD', 'unacked_index', 9999999999, 'dead:1', 9999999999, 'dead:2') "
        "redis.call('HSET', 'celeryc:claims:dead', 'dead:1', 'celery\\0ran', 'dead:2', 'celery')",
        "0", ran, idle, where, NULL));
    free(ran);
    free(idle);
}

Test(deaths, of_a_worker_count_for_what_had_started)
{
    forge_dead("unacked");
    rig_start(&rig);
    rig_until_answer(&rig, "0", "EVAL", dead_keys, "0");
    expect_answer(&server, "2", "LLEN", "celery");
    expect_answer(&server, "1", "GET", "celeryc:deaths:ran");
    expect_answer(&server, "1", "EVAL", "return redis.call('TTL', 'celeryc:deaths:ran') > 600000",
                  "0");
    expect_answer(&server, "0", "EXISTS", "celeryc:deaths:idle");
    cr_assert_eq(rig.n_orphans, 0);
}

static void expect_poison(void)
{
    rig_start(&rig);
    rig_until_answer(&rig, "0", "EVAL", dead_keys, "0");
    cr_assert_eq(rig.n_orphans, 1);
    cr_assert(rig.orphans[0]->poison);
    cr_assert_str_eq(rig_id(rig.orphans[0]->raw), "ran");
    expect_answer(&server, "1", "LLEN", "celery");
    expect_answer(&server, "0", "HLEN", "unacked");
    expect_answer(&server, "0", "ZCARD", "unacked_index");
    transport_park(rig.t, rig.orphans[0], "it dies", NULL, rig_on_done, &rig);
    rig_done(&rig, 1);
    expect_answer(&server, "1", "LLEN", "celeryc:dead:celery");
}

Test(deaths, the_third_hands_the_message_out_to_be_parked)
{
    forge_dead("unacked");
    free(redis_server_ask(&server, "SET", "celeryc:deaths:ran", "2", NULL));
    expect_poison();
}

Test(deaths, one_that_was_handed_out_stays_poison_when_its_restorer_dies)
{
    forge_dead("celeryc:running:dead");
    expect_poison();
}

Test(deaths, a_count_of_another_type_stops_nothing)
{
    forge_dead("unacked");
    free(redis_server_ask(&server, "LPUSH", "celeryc:deaths:ran", "x", NULL));
    rig_start(&rig);
    rig_until_answer(&rig, "0", "EVAL", dead_keys, "0");
    expect_answer(&server, "2", "LLEN", "celery");
}

static void claim_one(void)
{
    rig_push(&server, "celery", "a", 0);
    rig_start(&rig);
    rig_want(&rig, 1);
    rig_claims(&rig, 1);
}

#define NOTE                                                                            \
    "return string.gsub(redis.call('HGET', redis.call('KEYS', 'celeryc:claims:*')[1], " \
    "ARGV[1]), '%z', '/')"

Test(deaths, a_start_is_noted_with_the_id)
{
    claim_one();
    const char *field = rig.claims[0]->field;
    transport_note_start(rig.t, rig.claims[0], SLICE_LIT("the-id"));
    char *note = NULL;
    do {
        free(note);
        (void)uv_run(&rig.loop, UV_RUN_NOWAIT);
        note = redis_server_ask(&server, "EVAL", NOTE, "0", field, NULL);
    } while (strcmp(note, "celery/the-id") != 0);
    free(note);
    transport_return(rig.t, rig.claims[0], true, true, rig_on_done, &rig);
    rig_done(&rig, 1);
    expect_answer(&server, "1", "LLEN", "celery");
}

Test(deaths, a_start_that_is_over_is_not_noted)
{
    claim_one();
    transport_note_start(rig.t, rig.claims[0], SLICE_LIT("the-id"));
    transport_return(rig.t, rig.claims[0], false, false, rig_on_done, &rig);
    rig_done(&rig, 1);
    expect_answer(&server, "1", "LLEN", "celery");
    expect_answer(&server, "0", "EVAL", "return #redis.call('KEYS', 'celeryc:claims:*')", "0");
}

static enum transport_done last;

static void on_counted(enum transport_done done, void *arg)
{
    last = done;
    rig_on_done(TRANSPORT_DONE, arg);
}

Test(deaths, of_children_count_until_they_are_too_many)
{
    claim_one();
    transport_note_start(rig.t, rig.claims[0], SLICE_LIT("a"));
    for (size_t i = 1; i <= TRANSPORT_MAX_DEATHS; i++) {
        transport_count_death(rig.t, rig.claims[0], SLICE_LIT("a"), on_counted, &rig);
        rig_done(&rig, i);
        cr_assert_eq(last, i < TRANSPORT_MAX_DEATHS ? TRANSPORT_DONE : TRANSPORT_POISON);
    }
    expect_answer(&server, "celery", "EVAL", NOTE, "0", rig.claims[0]->field);
    transport_forget_deaths(rig.t, SLICE_LIT("a"));
    transport_finish(rig.t, rig.claims[0], NULL, 0, NULL, rig_on_done, &rig);
    rig_done(&rig, TRANSPORT_MAX_DEATHS + 1);
    expect_answer(&server, "0", "EXISTS", "celeryc:deaths:a");
    transport_count_death(rig.t, rig.claims[0], SLICE_LIT("a"), on_counted, &rig);
    rig_done(&rig, TRANSPORT_MAX_DEATHS + 2);
    cr_assert_eq(last, TRANSPORT_LOST);
    expect_answer(&server, "0", "EXISTS", "celeryc:deaths:a");
}
