/* SPDX-License-Identifier: Apache-2.0 */
#include "celeryc/redis/sync.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "tests/redis/redis_server.h"

static struct redis_server server;
static struct redis_sync *s;

static void setup(void)
{
    redis_server_start(&server, NULL);
    cr_assert_eq(redis_sync_open(&server.endpoint, 5000, &s, NULL), 0);
}

static void teardown(void)
{
    s = redis_sync_close(s);
    redis_server_stop(&server);
}

TestSuite(sync, .init = setup, .fini = teardown, .timeout = 60);

static int ask(const char *a, const char *b, const struct redis_reply **ret_reply, struct err *e)
{
    struct slice argv[] = {slice_str(a), slice_str(b)};
    return redis_sync_command(s, 2, argv, ret_reply, e);
}

Test(sync, answers)
{
    const struct redis_reply *reply = NULL;
    struct err e = ERR_INIT;
    cr_assert_eq(ask("ECHO", "hi", &reply, &e), 0);
    cr_assert(slice_eq_str(reply->str, "hi"));
    cr_assert_eq(ask("LPUSH", "k", &reply, &e), -EPROTO);
    cr_assert(strstr(e.text, "wrong number of arguments"));
    static const struct redis_script three = {"three", "return {ARGV[1], {1, 2}, 'x'}"};
    cr_assert_eq(redis_sync_eval(s, &three, 1, &SLICE_LIT("a"), &reply, &e), 0);
    cr_assert_eq(reply->n, 3);
    cr_assert_eq(reply->elem[1]->elem[1]->integer, 2);
}

Test(sync, pipelines_and_tells_the_first_error)
{
    struct slice good[] = {SLICE_LIT("INCR"), SLICE_LIT("n")};
    struct slice bad[] = {SLICE_LIT("LPUSH"), SLICE_LIT("n"), SLICE_LIT("x")};
    struct err e = ERR_INIT;
    for (int i = 0; i < 5000; i++)
        redis_sync_queue(s, 2, good);
    cr_assert_eq(redis_sync_flush(s, &e), 0);
    redis_sync_queue(s, 2, good);
    redis_sync_queue(s, 3, bad);
    redis_sync_queue(s, 2, good);
    cr_assert_eq(redis_sync_flush(s, &e), -EPROTO);
    cr_assert(strstr(e.text, "WRONGTYPE"), "%s", e.text);
    const struct redis_reply *reply = NULL;
    cr_assert_eq(ask("GET", "n", &reply, &e), 0);
    cr_assert(slice_eq_str(reply->str, "5002"));
}

Test(sync, subscribes_beside_commands)
{
    const struct redis_reply *reply = NULL;
    struct err e = ERR_INIT;
    cr_assert_eq(ask("SUBSCRIBE", "ch", &reply, &e), 0);
    struct slice publish[] = {SLICE_LIT("PUBLISH"), SLICE_LIT("ch"), SLICE_LIT("m")};
    cr_assert_eq(redis_sync_command(s, 3, publish, &reply, &e), 0);
    cr_assert_eq(redis_sync_push(s, 5000, &reply, &e), 0);
    cr_assert(slice_eq_str(reply->elem[2]->str, "m"));
    cr_assert_eq(redis_sync_push(s, 20, &reply, &e), -ETIMEDOUT);
}

Test(sync, tells_a_lost_server_and_finds_it_again)
{
    const struct redis_reply *reply = NULL;
    struct err e = ERR_INIT, later = ERR_INIT;
    redis_server_kill(&server);
    cr_assert_eq(ask("ECHO", "hi", &reply, &e), -EIO);
    cr_assert(strstr(e.text, server.socket), "%s", e.text);
    redis_server_restart(&server, NULL);
    int r = -EIO;
    for (int i = 0; r == -EIO && i < 100; i++) { /* each call makes one attempt */
        later.text[0] = '\0';
        r = ask("ECHO", "hi", &reply, &later);
    }
    cr_assert_eq(r, 0, "%s", later.text);
}

Test(sync, refuses_to_open_nothing)
{
    struct redis_endpoint ep;
    struct redis_sync *none = NULL;
    struct err e = ERR_INIT;
    cr_assert_eq(redis_endpoint_parse("redis://:secret@127.0.0.1:1/0", &ep, NULL), 0);
    cr_assert_eq(redis_sync_open(&ep, 1000, &none, &e), -EIO);
    cr_assert_str_eq(e.text, "redis://:**@127.0.0.1:1/0: Error 111 connecting to 127.0.0.1:1. "
                             "Connection refused.");
    redis_endpoint_deinit(&ep);
}
