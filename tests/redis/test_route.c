/* SPDX-License-Identifier: Apache-2.0 */
/* Which server: lists, followers, and connections that have gone silent. */
#include <time.h>

#include "celeryc/base/clock.h"
#include "tests/redis/loop.h"
#include "tests/redis/redis_server.h"

static struct redis_server one, two;
static struct redis_endpoint both, nobody_then_two;
static struct seen s, t;

static void endpoint(struct redis_endpoint *ep, const char *first, const char *second)
{
    char url[300];
    (void)snprintf(url, sizeof(url), "%s;%s", first, second);
    cr_assert_eq(redis_endpoint_parse(url, ep, NULL), 0);
}

static void setup(void)
{
    redis_server_start(&one, NULL);
    redis_server_start(&two, NULL);
    endpoint(&both, one.url, two.url);
    endpoint(&nobody_then_two, "redis://127.0.0.1:1", two.url);
    s = t = (struct seen){.c = NULL};
    loop_open();
}

static void teardown(void)
{
    t.c = redis_conn_free(t.c);
    s.c = redis_conn_free(s.c);
    loop_close();
    redis_endpoint_deinit(&both);
    redis_endpoint_deinit(&nobody_then_two);
    redis_server_stop(&one);
    redis_server_stop(&two);
}

TestSuite(route, .init = setup, .fini = teardown, .timeout = 60);

static struct redis_conn_options at(const struct redis_endpoint *ep)
{
    return (struct redis_conn_options){
        .endpoint = ep, .connect_timeout_ms = 500, .reply_timeout_ms = 500};
}

Test(route, the_next_server_is_tried_at_once)
{
    struct redis_conn_options o = at(&nobody_then_two);
    loop_connect(&s, &o);
    until(s.n_up == 1);
    cr_assert_eq(s.n_down, 1);
    cr_assert_eq(s.retry_ms, 0);
    cr_assert(strstr(s.reason, "Error 111 connecting to 127.0.0.1:1"), "%s", s.reason);
    cr_assert_str_eq(redis_conn_server(s.c), two.url);
}

Test(route, a_pause_comes_when_all_have_failed)
{
    struct redis_conn_options o = at(&both);
    redis_server_kill(&one);
    redis_server_kill(&two);
    loop_connect(&s, &o);
    until(s.n_down == 1);
    cr_assert_eq(s.retry_ms, 0);
    until(s.n_down == 2);
    cr_assert_geq(s.retry_ms, 100);
    redis_server_restart(&one, NULL);
    until(s.n_up == 1);
    cr_assert_str_eq(redis_conn_server(s.c), one.url);
}

Test(route, a_lost_connection_comes_back_to_its_server)
{
    struct redis_conn_options o = at(&both);
    loop_connect(&s, &o);
    until(s.n_up == 1);
    free(redis_server_ask(&one, "CLIENT", "KILL", "TYPE", "normal", NULL));
    until(s.n_up == 2);
    cr_assert_str_eq(redis_conn_server(s.c), one.url);
    redis_server_kill(&one);
    until(s.n_up == 3);
    cr_assert_str_eq(redis_conn_server(s.c), two.url);
}

Test(route, a_server_that_refuses_writes_is_left)
{
    struct redis_conn_options o = at(&both);
    loop_connect(&s, &o);
    until(s.n_up == 1);
    free(redis_server_ask(&one, "REPLICAOF", "127.0.0.1", "1", NULL));
    redis_commandv(s.c, seen_reply, &s, "SET", "k", "v", NULL);
    until(s.n_up == 2);
    cr_assert_eq(s.n_null, 1);
    cr_assert(strncmp(s.reason, "READONLY", 8) == 0, "%s", s.reason);
    cr_assert_str_eq(redis_conn_server(s.c), two.url);
}

Test(route, a_replica_is_passed_over)
{
    struct redis_conn_options o = at(&both);
    free(redis_server_ask(&one, "REPLICAOF", "127.0.0.1", "1", NULL));
    loop_connect(&s, &o);
    until(s.n_up == 1);
    cr_assert(strstr(s.reason, "is a replica at the moment"), "%s", s.reason);
    cr_assert_str_eq(redis_conn_server(s.c), two.url);
}

Test(route, shuffle_finds_the_one_that_is_there)
{
    CLEANUP(redis_options_deinit) struct redis_options options = {.shuffle = REDIS_YES};
    cr_assert_eq(redis_endpoint_apply(&nobody_then_two, &options, NULL), 0);
    struct redis_conn_options o = at(&nobody_then_two);
    loop_connect(&s, &o);
    until(s.n_up == 1);
    cr_assert_str_eq(redis_conn_server(s.c), two.url);
}

Test(route, a_follower_goes_where_its_leader_is)
{
    struct redis_conn_options o = at(&both), follower = at(&both);
    redis_server_kill(&one);
    loop_connect(&s, &o);
    until(s.n_up == 1);
    cr_assert_str_eq(redis_conn_server(s.c), two.url);
    /* By itself it would go to the first, which is there again. */
    redis_server_restart(&one, NULL);
    follower.leader = s.c;
    loop_connect(&t, &follower);
    until(t.n_up == 1);
    cr_assert_str_eq(redis_conn_server(t.c), two.url);
    cr_assert_str_eq(redis_conn_run_id(t.c), redis_conn_run_id(s.c));
}

Test(route, a_follower_waits_for_its_leader)
{
    struct redis_conn_options o = at(&one.endpoint), follower = at(&one.endpoint);
    redis_server_kill(&one);
    loop_connect(&s, &o);
    follower.leader = s.c;
    loop_connect(&t, &follower);
    until(s.n_down == 2);
    cr_assert_eq(t.n_up + t.n_down, 0);
    redis_server_restart(&one, NULL);
    until(s.n_up == 1);
    redis_conn_hurry(t.c);
    until(t.n_up == 1);
}

/* The same address, another server: the leader's connection is the old one's. */
Test(route, a_follower_refuses_another_server)
{
    struct redis_conn_options o = at(&one.endpoint), follower = at(&one.endpoint);
    char moved[160], there[160];
    loop_connect(&s, &o);
    until(s.n_up == 1);
    (void)snprintf(moved, sizeof(moved), "%s.old", one.socket);
    (void)snprintf(there, sizeof(there), "%s", one.socket);
    cr_assert_eq(rename(there, moved), 0);
    cr_assert_eq(rename(two.socket, there), 0);
    follower.leader = s.c;
    loop_connect(&t, &follower);
    until(t.n_down == 1);
    cr_assert(strstr(t.reason, "another server"), "%s", t.reason);
    cr_assert_eq(rename(there, two.socket), 0);
    cr_assert_eq(rename(moved, there), 0);
    until(t.n_up == 1);
}

Test(route, a_silent_connection_is_asked)
{
    struct redis_conn_options o = at(&one.endpoint);
    o.health_ms = 50;
    loop_connect(&s, &o);
    until(s.n_up == 1);
    free(redis_server_ask(&one, "CONFIG", "RESETSTAT", NULL));
    uint64_t began = uv_now(&loop.uv);
    until(uv_now(&loop.uv) - began > 300); /* nobody uses it */
    CLEANUP(mem_free) char *stats = redis_server_ask(&one, "INFO", "commandstats", NULL);
    cr_assert(strstr(stats, "cmdstat_ping:calls="), "%s", stats);
    cr_assert_eq(s.n_down, 0);
    free(redis_server_ask(&one, "CLIENT", "PAUSE", "700", "ALL", NULL));
    until(s.n_down == 1);
    cr_assert_str_eq(s.reason, "Timeout reading from server");
}

/* After a freeze the deadlines have passed, but the answers lie in the socket: nothing is lost. */
Test(route, a_frozen_process_takes_the_answers_that_came)
{
    struct redis_conn_options o = at(&one.endpoint);
    loop_connect(&s, &o);
    until(s.n_up == 1);
    redis_commandv(s.c, seen_reply, &s, "ECHO", "there", NULL);
    redis_conn_flush(s.c);
    const struct timespec freeze = {0, 900 * NS_PER_MS};
    (void)nanosleep(&freeze, NULL); /* the loop stands still; this is what is tested */
    until(s.n_reply + s.n_null == 1);
    cr_assert_str_eq(s.last, "there");
    cr_assert_eq(s.n_down, 0);
}

/* One that takes every connection and refuses every write is not asked ten times a second. */
Test(route, pauses_grow_while_a_server_only_refuses)
{
    struct redis_conn_options o = at(&one.endpoint);
    free(redis_server_ask(&one, "REPLICAOF", "127.0.0.1", "1", NULL));
    loop_connect(&s, &o);
    int64_t last_ms = 0;
    for (size_t n = 1; n <= 4; n++) {
        until(s.n_up == n);
        redis_commandv(s.c, seen_reply, &s, "SET", "k", "v", NULL);
        until(s.n_down == n);
        cr_assert_gt(s.retry_ms, last_ms);
        last_ms = s.retry_ms;
    }
    cr_assert_geq(last_ms, 800);
}
