/* SPDX-License-Identifier: Apache-2.0 */
/* Dead workers, frozen workers, lost answers, lost servers. */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/transport/proxy.h"
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

TestSuite(failures, .init = setup, .fini = teardown, .timeout = 60);

static char *script(const char *source)
{
    return redis_server_ask(&server, "EVAL", source, "0", NULL);
}

/* A worker "dead" that holds two unstarted claims, one started one and one message in its waiting list. */
static void forge_dead(void)
{
    char *m[4];
    static const char *const ids[] = {"old", "newer", "started", "waiting"};
    for (size_t i = 0; i < 4; i++)
        m[i] = rig_message(ids[i], 0);
    free(redis_server_ask(
        &server, "EVAL",
        "local function v(m) return '[' .. m .. ', \"\", \"celery\"]' end "
        "redis.call('ZADD', 'celeryc:workers', 1000, 'dead') "
        "redis.call('HSET', 'celeryc:worker:dead', 'v', '1', 'node', 'w9@gone', 'queues', "
        "'[\"celery\"]', 'waiters', '', 'run', 'x') "
        "redis.call('HSET', 'unacked', 'dead:1', v(ARGV[1]), 'dead:2', v(ARGV[2])) "
        "redis.call('ZADD', 'unacked_index', 9999999999, 'dead:1', 9999999999, 'dead:2') "
        "redis.call('HSET', 'celeryc:running:dead', 'dead:3', v(ARGV[3])) "
        "redis.call('HSET', 'celeryc:claims:dead', 'dead:1', 'celery', 'dead:2', 'celery', "
        "'dead:3', 'celery', 'dead:4', 'celery') "
        "redis.call('LPUSH', 'celeryc:waiting:dead:celery', ARGV[4])",
        "0", m[0], m[1], m[2], m[3], NULL));
    for (size_t i = 0; i < 4; i++)
        free(m[i]);
}

static const char dead_keys[] = "return #redis.call('KEYS', '*dead*') + "
                                "(redis.call('ZSCORE', 'celeryc:workers', 'dead') and 1 or 0)";

Test(failures, the_dead_give_everything_back)
{
    forge_dead();
    rig_push(&server, "celery", "fresh", 0);
    rig_start(&rig);
    rig_until_answer(&rig, "0", "EVAL", dead_keys, "0");
    cr_assert_eq(rig.n_orphans, 1);
    cr_assert_str_eq(rig_id(rig.orphans[0]->raw), "started");
    cr_assert_str_eq(rig.orphan_node, "w9@gone");
    cr_assert(rig.orphans[0]->started);
    cr_assert_eq(rig.orphans[0]->queue_index, 0);
    rig_want(&rig, 10);
    rig_claims(&rig, 4);
    static const char *const order[] = {"old", "newer", "waiting", "fresh"};
    for (size_t i = 0; i < 4; i++)
        cr_assert_str_eq(rig_id(rig.claims[i]->raw), order[i]);
    cr_assert(strstr(rig.claims[0]->raw, "redelivered"));
    cr_assert_null(strstr(rig.claims[2]->raw, "redelivered"));
    transport_finish(rig.t, rig.orphans[0], NULL, 0, NULL, rig_on_done, &rig);
    rig_done(&rig, 1);
    cr_assert_eq(rig.n_done, 1);
}

/* Runs the loops of both until a script's answer is the expected one. */
struct pair {
    struct rig *other;
    const char *source, *expect;
};

static bool pair_answers(struct rig *r, void *arg)
{
    struct pair *p = arg;
    (void)r;
    (void)uv_run(&p->other->loop, UV_RUN_NOWAIT);
    char *answer = script(p->source);
    bool same = strcmp(answer, p->expect) == 0;
    free(answer);
    return same;
}

Test(failures, two_restorers_restore_once)
{
    struct rig second;
    forge_dead();
    rig_init(&second, &server, NULL);
    rig_start(&second);
    rig_start(&rig);
    struct pair p = {&second, dead_keys, "0"};
    rig_until_(&rig, pair_answers, &p, "the dead buried");
    cr_assert_eq(rig.n_orphans + second.n_orphans, 1);
    expect_answer(&server, "3", "LLEN", "celery");
    rig_free(&second);
}

Test(failures, a_newer_format_is_left_alone)
{
    forge_dead();
    free(redis_server_ask(&server, "HSET", "celeryc:worker:dead", "v", "3", NULL));
    rig_start(&rig);
    /* A second dead worker of our own format is restored: by then the first has been looked at. */
    free(script("redis.call('ZADD', 'celeryc:workers', 1, 'late')"));
    rig_until_answer(&rig, "", "ZSCORE", "celeryc:workers", "late");
    expect_answer(&server, "1", "EXISTS", "celeryc:running:dead");
    expect_answer(&server, "2", "HLEN", "unacked");
}

/* A frozen worker: its loop does not run. */
Test(failures, a_zombie_finishes_nothing_and_comes_back)
{
    struct rig zombie;
    rig_push(&server, "celery", "a", 0);
    rig_init(&zombie, &server, NULL);
    rig_start(&zombie);
    rig_want(&zombie, 1);
    rig_claims(&zombie, 1);
    rig_start(&rig);
    rig_want(&rig, 1);
    rig_claims(&rig, 1);
    cr_assert_str_eq(rig_id(rig.claims[0]->raw), "a");
    cr_assert(strstr(rig.claims[0]->raw, "redelivered"));
    struct transport_record record = {SLICE_LIT("k"), SLICE_LIT("{}"), 0};
    transport_finish(zombie.t, zombie.claims[0], &record, 0, NULL, rig_on_done, &zombie);
    rig_done(&zombie, 1);
    cr_assert_eq(zombie.n_lost, 1);
    expect_answer(&server, "0", "EXISTS", "k");
    expect_answer(&server, "1", "HLEN", "unacked");
    rig_push(&server, "celery", "b", 0);
    rig_want(&zombie, 1);
    rig_claims(&zombie, 2);
    rig_free(&zombie);
}

Test(failures, the_living_are_left_alone)
{
    struct rig second;
    rig_push(&server, "celery", "a", 0);
    rig_start(&rig);
    rig_want(&rig, 1);
    rig_claims(&rig, 1);
    rig_init(&second, &server, NULL);
    rig_start(&second);
    /* A forged dead one, seen later than our neighbour, is buried while the neighbour is not. */
    free(script("redis.call('ZADD', 'celeryc:workers', 1, 'late')"));
    struct pair p = {&second, "return redis.call('ZSCORE', 'celeryc:workers', 'late') and 1 or 0",
                     "0"};
    rig_until_(&rig, pair_answers, &p, "the dead buried");
    expect_answer(&server, "1", "HLEN", "unacked");
    expect_answer(&server, "2", "ZCARD", "celeryc:workers");
    rig_free(&second);
}

Test(failures, an_unregistered_worker_claims_nothing_until_it_is_back)
{
    rig.options.beat_ms = 60000;
    rig_start(&rig);
    free(redis_server_ask(&server, "DEL", "celeryc:workers", NULL));
    rig_push(&server, "celery", "a", 0);
    rig_want(&rig, 1);
    rig_claims(&rig, 1);
    expect_answer(&server, "1", "ZCARD", "celeryc:workers");
}

static const char index_score[] =
    "return redis.call('ZRANGE', 'unacked_index', 0, 0, 'WITHSCORES')[2]";

static bool is_renewed(struct rig *r, void *arg)
{
    char *now = script(index_score);
    bool renewed = strcmp(arg, now) < 0;
    (void)r;
    free(now);
    return renewed;
}

Test(failures, leases_stand_in_the_future_and_are_renewed)
{
    rig.options.lease_ms = 300;
    rig_push(&server, "celery", "a", 0);
    rig_start(&rig);
    rig_want(&rig, 1);
    rig_claims(&rig, 1);
    char *first = script(index_score);
    rig_until_(&rig, is_renewed, first, "a renewed lease");
    free(first);
}

/* ---- answers that are lost ---- */

static struct proxy *proxied(struct rig *r)
{
    struct proxy *p = proxy_new(&r->loop, server.socket);
    r->endpoint = proxy_endpoint(p);
    return p;
}

Test(failures, a_finish_whose_answer_is_lost_happens_once)
{
    struct proxy *p = proxied(&rig);
    rig_push(&server, "celery", "a", 0);
    rig_start(&rig);
    rig_want(&rig, 1);
    rig_claims(&rig, 1);
    struct transport_record record = {SLICE_LIT("result-a"), SLICE_LIT("{}"), 0};
    struct transport_push push = {"other", 0, SLICE_LIT("m0")};
    proxy_swallow(p, "result-a");
    transport_finish(rig.t, rig.claims[0], &record, 1, &push, rig_on_done, &rig);
    rig_done(&rig, 1);
    cr_assert_eq(proxy_swallowed(p), 1);
    cr_assert_eq(rig.n_done, 1, "told as lost");
    cr_assert_eq(rig.n_down, 1);
    expect_answer(&server, "1", "LLEN", "other");
    proxy_free(p);
}

Test(failures, a_start_whose_answer_is_lost_starts_once)
{
    struct proxy *p = proxied(&rig);
    rig_push(&server, "celery", "a", 0);
    rig_start(&rig);
    rig_want(&rig, 1);
    rig_claims(&rig, 1);
    char needle[96];
    (void)snprintf(needle, sizeof(needle), "\r\nS\r\n$%zu\r\n%s", strlen(rig.claims[0]->field),
                   rig.claims[0]->field);
    proxy_swallow(p, needle);
    transport_start_claim(rig.t, rig.claims[0], rig_on_done, &rig);
    rig_done(&rig, 1);
    cr_assert_eq(proxy_swallowed(p), 1);
    cr_assert_eq(rig.n_done, 1);
    proxy_free(p);
}

Test(failures, a_claim_whose_answer_is_lost_is_claimed_again)
{
    struct proxy *p = proxied(&rig);
    rig_start(&rig);
    static const char *const ids[] = {"a", "b", "c", "d", "e"};
    for (int i = 0; i < 5; i++)
        rig_push(&server, "celery", ids[i], 0);
    proxy_swallow(p, "$7\r\n4194304"); /* the budget of bytes stands in claims alone */
    rig_want(&rig, 3);
    rig_claims(&rig, 3);
    cr_assert_eq(proxy_swallowed(p), 1);
    for (size_t i = 0; i < 3; i++)
        cr_assert_str_eq(rig_id(rig.claims[i]->raw), ids[i]);
    cr_assert_null(strstr(rig.claims[0]->raw, "redelivered"));
    expect_answer(&server, "3", "HLEN", "unacked");
    expect_answer(&server, "2", "LLEN", "celery");
    proxy_free(p);
}

Test(failures, a_started_claim_whose_answer_is_lost_goes_back)
{
    struct proxy *p = proxied(&rig);
    rig.start_at_once = true;
    rig_start(&rig);
    rig_want(&rig, 1);
    rig_until_answer(&rig, "1", "EVAL",
                     "return redis.call('HGET', 'celeryc:worker:' .. redis.call('ZRANGE', "
                     "'celeryc:workers', 0, 0)[1], 'waiters') ~= '' and 1 or 0",
                     "0");
    proxy_swallow(p, "\"id\": \"hot\""); /* the wake-up's bytes travel in the claim */
    rig_push(&server, "celery", "hot", 0);
    rig_claims(&rig, 1);
    cr_assert_leq(proxy_swallowed(p), 1);
    expect_answer(&server, "0", "LLEN", "celery");
    proxy_free(p);
}

/* ---- servers that are lost ---- */

static bool is_down(struct rig *r, void *arg)
{
    (void)arg;
    return r->n_down > 0;
}

static bool is_up_again(struct rig *r, void *arg)
{
    (void)arg;
    return r->n_up > 1;
}

Test(failures, a_restarted_server_is_found_again)
{
    rig_start(&rig);
    rig_want(&rig, 1);
    redis_server_kill(&server);
    rig_until_(&rig, is_down, NULL, "down");
    redis_server_restart(&server, NULL);
    rig_until_(&rig, is_up_again, NULL, "up again");
    rig_push(&server, "celery", "a", 0);
    rig_claims(&rig, 1);
}

Test(failures, killed_connections_come_back)
{
    rig_start(&rig);
    rig_want(&rig, 2);
    for (size_t i = 1; i <= 2; i++) {
        free(redis_server_ask(&server, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes", NULL));
        free(redis_server_ask(&server, "CLIENT", "KILL", "TYPE", "pubsub", NULL));
        rig_push(&server, "celery", "a", i == 1 ? 0 : 9);
        rig_claims(&rig, i);
    }
}

static bool is_fatal(struct rig *r, void *arg)
{
    (void)arg;
    return r->fatal[0] != '\0';
}

Test(failures, a_key_of_another_kind_is_told)
{
    free(redis_server_ask(&server, "SET", "unacked", "mine", NULL));
    rig_open(&rig);
    rig_until_(&rig, is_fatal, NULL, "fatal");
    cr_assert(strstr(rig.fatal, "\"unacked\" is a string, not a hash"), "%s", rig.fatal);
}

Test(failures, missing_permissions_are_told_with_the_rule)
{
    free(redis_server_ask(&server, "ACL", "SETUSER", "poor", "on", ">pw", "~*", "&*", "+@all",
                          "-@scripting", NULL));
    char url[200];
    struct redis_endpoint ep;
    (void)snprintf(url, sizeof(url), "redis+socket://poor:pw@%s", server.socket);
    cr_assert_eq(redis_endpoint_parse(url, &ep, NULL), 0);
    rig.endpoint = &ep;
    rig_open(&rig);
    rig_until_(&rig, is_fatal, NULL, "fatal");
    cr_assert(strstr(rig.fatal, "ACL SETUSER <user>"), "%s", rig.fatal);
    redis_endpoint_deinit(&ep);
}

Test(failures, missing_rights_to_our_keys_are_told_from_inside_a_script)
{
    free(redis_server_ask(&server, "ACL", "SETUSER", "narrow", "on", ">pw", "~celery", "~unacked*",
                          "~_kombu*", "&*", "+@all", NULL));
    char url[200];
    struct redis_endpoint ep;
    (void)snprintf(url, sizeof(url), "redis+socket://narrow:pw@%s", server.socket);
    cr_assert_eq(redis_endpoint_parse(url, &ep, NULL), 0);
    rig.endpoint = &ep;
    rig_open(&rig);
    rig_until_(&rig, is_fatal, NULL, "fatal");
    cr_assert(strstr(rig.fatal, "celeryc:*"), "%s", rig.fatal);
    redis_endpoint_deinit(&ep);
}

Test(failures, an_acl_of_the_documented_rule_is_enough)
{
    free(redis_server_ask(&server, "ACL", "SETUSER", "fair", "on", ">pw", "~*", "&*", "+@read",
                          "+@write", "+@blocking", "+@scripting", "+@pubsub", "+@connection",
                          "+client", "+time", "+info", NULL));
    char url[200];
    struct redis_endpoint ep;
    (void)snprintf(url, sizeof(url), "redis+socket://fair:pw@%s", server.socket);
    cr_assert_eq(redis_endpoint_parse(url, &ep, NULL), 0);
    rig.endpoint = &ep;
    rig_start(&rig);
    rig_want(&rig, 2);
    rig_push(&server, "celery", "a", 0);
    rig_claims(&rig, 1);
    rig_push(&server, "celery", "b", 9);
    rig_claims(&rig, 2);
    transport_finish(rig.t, rig.claims[0], NULL, 0, NULL, rig_on_done, &rig);
    rig_done(&rig, 1);
    cr_assert_eq(rig.n_done, 1);
    rig.t = transport_free(rig.t);
    (void)uv_run(&rig.loop, UV_RUN_NOWAIT);
    redis_endpoint_deinit(&ep);
}

/* ---- kombu's sweep ---- */

Test(failures, foreign_records_are_restored_when_too_old)
{
    rig.options.visibility_timeout_ms = 5000;
    char *a = rig_message("a", 3), *b = rig_message("b", 0);
    free(redis_server_ask(
        &server, "EVAL",
        "local now = tonumber(redis.call('TIME')[1]) "
        "redis.call('HSET', 'unacked', 't1', '[' .. ARGV[1] .. ', \"\", \"celery\"]', 't2', "
        "'[' .. ARGV[2] .. ', \"ex\", \"rk.x\"]', 't3', '[' .. ARGV[2] .. ', \"\", \"celery\"]') "
        "redis.call('SADD', '_kombu.binding.ex', 'rk.*\\6\\22^rk\\\\.[^\\\\.]+$\\6\\22topics') "
        "redis.call('ZADD', 'unacked_index', now - 100, 't1', now - 90, 't2', now - 1, 't3', now - "
        "80, 'ghost')",
        "0", a, b, NULL));
    rig_start(&rig);
    rig_until_answer(&rig, "1", "HLEN", "unacked", NULL);
    expect_answer(&server, "1", "LLEN", "topics");
    char *raw = redis_server_ask(&server, "LINDEX",
                                 "celery\x06\x16"
                                 "3",
                                 "0", NULL);
    cr_assert(strstr(raw, "\"redelivered\": true"), "%s", raw);
    free(raw);
    expect_answer(&server, "t3", "ZRANGE", "unacked_index", "0", "-1");
    expect_answer(&server, "0", "EXISTS", "unacked_mutex");
    free(a);
    free(b);
}
