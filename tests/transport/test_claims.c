/* SPDX-License-Identifier: Apache-2.0 */
/* Claims from the lists and what becomes of them, against a real server. */
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

TestSuite(claims, .init = setup, .fini = teardown, .timeout = 60);

static void expect_order(const char *ids)
{
    struct buf b = BUF_INIT;
    for (size_t i = 0; i < rig.n_claims; i++)
        buf_appendf(&b, "%s%s", i ? " " : "", rig_id(rig.claims[i]->raw));
    cr_assert_str_eq(b.data, ids);
    buf_deinit(&b);
}

static void expect_nothing_left(void)
{
    char *keys = redis_server_ask(&server, "EVAL",
                                  "return #redis.call('KEYS', 'unacked*') + "
                                  "#redis.call('KEYS', 'celeryc:claims:*') + "
                                  "#redis.call('KEYS', 'celeryc:running:*') + "
                                  "#redis.call('KEYS', 'celeryc:waiting:*')",
                                  "0", NULL);
    cr_assert_str_eq(keys, "0");
    free(keys);
}

Test(claims, come_by_priority_and_then_age)
{
    rig_push(&server, "celery", "low", 9);
    rig_push(&server, "celery", "a", 0);
    rig_push(&server, "celery", "mid", 5);
    rig_push(&server, "celery", "b", 2);
    rig_start(&rig);
    rig_want(&rig, 10);
    rig_claims(&rig, 4);
    expect_order("a b mid low");
    expect_answer(&server, "4", "HLEN", "unacked");
    expect_answer(&server, "4", "ZCARD", "unacked_index");
    cr_assert_eq(rig.claims[0]->queue_index, 0);
    cr_assert_str_eq(rig.claims[0]->queue, "celery");
    char *raw = rig_message("a", 0), stored[2048];
    (void)snprintf(stored, sizeof(stored), "[%s, \"\", \"celery\"]", raw);
    expect_answer(&server, stored, "HGET", "unacked", rig.claims[0]->field);
    free(raw);
}

Test(claims, are_no_more_than_wanted)
{
    for (int i = 0; i < 5; i++)
        rig_push(&server, "celery", "x", 0);
    rig_start(&rig);
    rig_want(&rig, 2);
    rig_claims(&rig, 2);
    rig_want(&rig, 1);
    rig_claims(&rig, 3);
    expect_answer(&server, "2", "LLEN", "celery");
}

Test(claims, take_turns_between_queues)
{
    static const char *const queues[] = {"one", "two", NULL};
    rig.options.queues = queues;
    for (int i = 0; i < 3; i++) {
        char id[8];
        (void)snprintf(id, sizeof(id), "1%c", 'a' + i);
        rig_push(&server, "one", id, 0);
        (void)snprintf(id, sizeof(id), "2%c", 'a' + i);
        rig_push(&server, "two", id, 0);
    }
    rig_start(&rig);
    for (size_t i = 1; i <= 6; i++) {
        rig_want(&rig, 1);
        rig_claims(&rig, i);
    }
    expect_order("1a 2a 1b 2b 1c 2c");
}

Test(claims, share_one_call_between_queues)
{
    static const char *const queues[] = {"one", "two", NULL};
    rig.options.queues = queues;
    for (int i = 0; i < 10; i++) {
        rig_push(&server, "one", "1", 0);
        rig_push(&server, "two", "2", 0);
    }
    rig_start(&rig);
    rig_want(&rig, 4);
    rig_claims(&rig, 4);
    expect_order("1 1 2 2");
}

static bool waits(struct rig *r, void *arg)
{
    char *list = redis_server_ask(r->server, "CLIENT", "LIST", NULL);
    bool blocked = strstr(list, "cmd=blmove") && strstr(list, "flags=b");
    (void)arg;
    free(list);
    return blocked;
}

Test(claims, wake_an_idle_worker)
{
    rig_start(&rig);
    rig_want(&rig, 2);
    rig_until_(&rig, waits, NULL, "a blocked waiter");
    rig_push(&server, "celery", "a", 0);
    rig_claims(&rig, 1);
    cr_assert(!rig.claims[0]->started);
    rig_until_(&rig, waits, NULL, "a blocked waiter again");
    rig_push(&server, "celery", "b", 0);
    rig_claims(&rig, 2);
}

/* A claim that was under way for another reason may take a message first, so more than one is tried. */
Test(claims, start_in_the_wake_up)
{
    bool started = false;
    rig.start_at_once = true;
    rig_start(&rig);
    for (size_t i = 1; !started; i++) {
        cr_assert_lt(i, 50);
        rig_want(&rig, 2);
        rig_until_(&rig, waits, NULL, "a blocked waiter");
        rig_push(&server, "celery", "a", 0);
        rig_claims(&rig, i);
        started = rig.claims[i - 1]->started;
        expect_answer(&server, started ? "0" : "1", "HEXISTS", "unacked", rig.claims[i - 1]->field);
        transport_finish(rig.t, rig.claims[i - 1], NULL, 0, NULL, rig_on_done, &rig);
        rig_done(&rig, i);
    }
    cr_assert_eq(rig.n_lost, 0);
    expect_nothing_left();
}

/* Lists of lower priority have no waiter: invalidations wake for them. */
Test(claims, wake_for_a_low_priority)
{
    rig_start(&rig);
    rig_want(&rig, 2);
    rig_until_(&rig, waits, NULL, "a blocked waiter");
    rig_push(&server, "celery", "low", 9);
    rig_claims(&rig, 1);
    rig_push(&server, "celery", "low", 6);
    rig_claims(&rig, 2);
}

Test(claims, wake_for_a_queue_without_a_waiter)
{
    static const char *const queues[] = {"q0", "q1", "q2", "q3", "q4", "q5",
                                         "q6", "q7", "q8", "q9", NULL};
    rig.options.queues = queues;
    rig_start(&rig);
    rig_want(&rig, 2);
    rig_until_(&rig, waits, NULL, "a blocked waiter");
    rig_push(&server, "q9", "a", 0);
    rig_claims(&rig, 1);
    cr_assert_eq(rig.claims[0]->queue_index, 9);
}

Test(claims, finish_stores_publishes_and_pushes)
{
    rig_push(&server, "celery", "a", 0);
    rig_start(&rig);
    rig_want(&rig, 1);
    rig_claims(&rig, 1);
    struct transport_record record = {SLICE_LIT("celery-task-meta-a"),
                                      SLICE_LIT("{\"status\": \"SUCCESS\"}"), 60};
    struct transport_push push[] = {{"other", 0, SLICE_LIT("m0")}, {"other", 9, SLICE_LIT("m9")}};
    transport_start_claim(rig.t, rig.claims[0], rig_on_done, &rig);
    rig_done(&rig, 1);
    rig.claims[0]->started = true;
    expect_answer(&server, "0", "HLEN", "unacked");
    transport_finish(rig.t, rig.claims[0], &record, 2, push, rig_on_done, &rig);
    rig_done(&rig, 2);
    cr_assert_eq(rig.n_done, 2);
    expect_answer(&server, "{\"status\": \"SUCCESS\"}", "GET", "celery-task-meta-a");
    expect_answer(&server, "60", "TTL", "celery-task-meta-a");
    expect_answer(&server, "m0", "LRANGE", "other", "0", "-1");
    expect_answer(&server, "m9", "LRANGE",
                  "other\x06\x16"
                  "9",
                  "0", "-1");
    expect_nothing_left();
}

/* How many messages a subscriber has got. */
static bool heard_all(struct rig *r, void *arg)
{
    struct {
        struct redis_sync *sync;
        size_t n;
    } *waiter = arg;
    const struct redis_reply *push;
    (void)r;
    while (waiter->n && redis_sync_push(waiter->sync, 0, &push, NULL) == 0)
        waiter->n--;
    return waiter->n == 0;
}

/* Python's .get() subscribes and reads over two connections; Redis may serve the reading first. */
Test(claims, a_record_is_published_again_for_who_subscribes_at_that_moment)
{
    rig_push(&server, "celery", "a", 0);
    rig_start(&rig);
    rig_want(&rig, 1);
    rig_claims(&rig, 1);
    const struct transport_record own = {SLICE_LIT("celery-task-meta-a"), SLICE_LIT("own"), 60};
    const struct result_record next = {SLICE_LIT("celery-task-meta-b"), SLICE_LIT("next"), 60};
    const struct result_effects x = {.n_records = 1, .records = &next};
    const struct transport_end end = {.record = &own, .effects = &x};
    transport_finish_with(rig.t, rig.claims[0], &end, rig_on_done, &rig);
    rig_done(&rig, 1);

    struct {
        struct redis_sync *sync;
        size_t n;
    } waiter = {.n = 2};
    const struct redis_reply *reply;
    cr_assert_eq(redis_sync_open(&server.endpoint, 5000, &waiter.sync, NULL), 0);
    const struct slice keys[] = {own.key, next.key};
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        const struct slice argv[] = {SLICE_LIT("SUBSCRIBE"), keys[i]};
        cr_assert_eq(redis_sync_command(waiter.sync, 2, argv, &reply, NULL), 0);
    }
    rig_until_(&rig, heard_all, &waiter, "both records for the late subscriber");
    redis_sync_close(waiter.sync);
}

Test(claims, finish_of_a_lost_claim_does_nothing)
{
    rig_push(&server, "celery", "a", 0);
    rig_start(&rig);
    rig_want(&rig, 1);
    rig_claims(&rig, 1);
    free(redis_server_ask(&server, "HDEL", "unacked", rig.claims[0]->field, NULL));
    struct transport_record record = {SLICE_LIT("celery-task-meta-a"), SLICE_LIT("{}"), 60};
    struct transport_push push = {"other", 0, SLICE_LIT("m0")};
    transport_finish(rig.t, rig.claims[0], &record, 1, &push, rig_on_done, &rig);
    rig_done(&rig, 1);
    cr_assert_eq(rig.n_lost, 1);
    expect_answer(&server, "0", "EXISTS", "celery-task-meta-a", "other");
}

Test(claims, start_of_a_lost_claim_runs_nothing)
{
    rig_push(&server, "celery", "a", 0);
    rig_start(&rig);
    rig_want(&rig, 1);
    rig_claims(&rig, 1);
    free(redis_server_ask(&server, "HDEL", "unacked", rig.claims[0]->field, NULL));
    transport_start_claim(rig.t, rig.claims[0], rig_on_done, &rig);
    rig_done(&rig, 1);
    cr_assert_eq(rig.n_lost, 1);
}

Test(claims, success_is_never_overwritten)
{
    rig_start(&rig);
    struct transport_record good = {SLICE_LIT("k"), SLICE_LIT("{\"status\": \"SUCCESS\", 1}"), 0};
    struct transport_record bad = {SLICE_LIT("k"), SLICE_LIT("{\"status\": \"FAILURE\", 1}"), 0};
    transport_store(rig.t, &bad, rig_on_done, &rig);
    transport_store(rig.t, &good, rig_on_done, &rig);
    transport_store(rig.t, &bad, rig_on_done, &rig);
    rig_done(&rig, 3);
    expect_answer(&server, "{\"status\": \"SUCCESS\", 1}", "GET", "k");
    expect_answer(&server, "-1", "TTL", "k");
}

Test(claims, go_back_to_the_head_in_order)
{
    for (int i = 0; i < 500; i++) {
        char id[8];
        (void)snprintf(id, sizeof(id), "%03d", i);
        rig_push(&server, "celery", id, i % 2 ? 3 : 0);
    }
    rig_start(&rig);
    rig_want(&rig, 500);
    rig_claims(&rig, 500);
    for (size_t i = 0; i < 500; i++) /* more than one batch */
        transport_return(rig.t, rig.claims[i], true, false, rig_on_done, &rig);
    rig_done(&rig, 500);
    cr_assert_eq(rig.n_done, 500);
    expect_nothing_left();
    for (size_t i = 0; i < 500; i++)
        claim_free(rig.claims[i]);
    rig.n_claims = 0;
    rig_want(&rig, 500);
    rig_claims(&rig, 500);
    for (size_t i = 0; i < 500; i++) {
        char id[8];
        (void)snprintf(id, sizeof(id), "%03d", (int)(i < 250 ? 2 * i : 2 * (i - 250) + 1));
        cr_assert_str_eq(rig_id(rig.claims[i]->raw), id);
        cr_assert_null(strstr(rig.claims[i]->raw, "redelivered"));
    }
}

Test(claims, go_back_marked_and_to_the_tail)
{
    rig_push(&server, "celery", "a", 0);
    rig_start(&rig);
    rig_want(&rig, 1);
    rig_claims(&rig, 1);
    rig_push(&server, "celery", "b", 0);
    transport_return(rig.t, rig.claims[0], false, true, rig_on_done, &rig);
    rig_done(&rig, 1);
    rig_want(&rig, 2);
    rig_claims(&rig, 3);
    cr_assert_str_eq(rig_id(rig.claims[1]->raw), "b");
    cr_assert_str_eq(rig_id(rig.claims[2]->raw), "a");
    cr_assert(strstr(rig.claims[2]->raw, "\"redelivered\": true"));
}

Test(claims, of_a_later_time_come_when_due)
{
    rig_push(&server, "celery", "a", 3);
    rig_start(&rig);
    rig_want(&rig, 1);
    rig_claims(&rig, 1);
    int64_t due_us = clock_wall_us() + 200000;
    transport_delay(rig.t, rig.claims[0], SLICE_LIT("a"), due_us, rig_on_done, &rig);
    rig_done(&rig, 1);
    expect_nothing_left();
    expect_answer(&server, "1", "ZCARD", "celeryc:delayed");
    expect_answer(&server, "1", "HEXISTS", "celeryc:delayed:messages", "a");
    rig_want(&rig, 1);
    rig_claims(&rig, 2);
    cr_assert_geq(clock_wall_us(), due_us);
    cr_assert_str_eq(rig.claims[0]->raw, rig.claims[1]->raw);
    expect_answer(&server, "0", "EXISTS", "celeryc:delayed", "celeryc:delayed:messages");
}

Test(claims, that_cannot_be_read_are_parked)
{
    free(redis_server_ask(&server, "LPUSH", "celery", "no \x01 json", NULL));
    rig_start(&rig);
    rig_want(&rig, 1);
    rig_claims(&rig, 1);
    transport_park(rig.t, rig.claims[0], "not JSON: \"no\"", NULL, rig_on_done, &rig);
    rig_done(&rig, 1);
    char *item = redis_server_ask(&server, "LRANGE", "celeryc:dead:celery", "0", "-1", NULL);
    cr_assert(strstr(item, "{\"v\": 1, \"reason\": \"not JSON: \\\"no\\\"\", \"time\": \""));
    cr_assert(strstr(item, "\"queue\": \"celery\", \"raw\": \"bm8gASBqc29u\"}"));
    free(item);
    expect_nothing_left();
}

static void set_stopped(void *arg)
{
    ((struct rig *)arg)->stopped = true;
}

static bool is_stopped(struct rig *r, void *arg)
{
    (void)arg;
    return r->stopped;
}

Test(claims, stay_where_they_are_once_stopped)
{
    rig_start(&rig);
    rig_want(&rig, 5);
    rig_until_(&rig, waits, NULL, "a blocked waiter");
    transport_stop_claiming(rig.t, set_stopped, &rig);
    rig_push(&server, "celery", "a", 0);
    rig_push(&server, "celery", "b", 0);
    rig_until_(&rig, is_stopped, NULL, "stopped");
    cr_assert_eq(rig.n_claims, 0);
    expect_answer(&server, "2", "LLEN", "celery");
    expect_nothing_left();
    char *next = redis_server_ask(&server, "LINDEX", "celery", "-1", NULL);
    cr_assert_str_eq(rig_id(next), "a");
    free(next);
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

Test(claims, leave_nothing_behind)
{
    rig_push(&server, "celery", "a", 0);
    rig_start(&rig);
    rig_want(&rig, 2);
    rig_claims(&rig, 1);
    transport_finish(rig.t, rig.claims[0], NULL, 0, NULL, NULL, NULL);
    transport_leave(rig.t, 5000, set_left, &rig);
    rig_until_(&rig, has_left, NULL, "left");
    char *keys = redis_server_ask(&server, "KEYS", "celeryc:*", NULL);
    cr_assert_str_eq(keys, "");
    free(keys);
}

static bool nobody_waits(struct rig *r, void *arg)
{
    return !waits(r, arg);
}

Test(claims, full_slots_leave_messages_to_others)
{
    rig_start(&rig);
    rig_want(&rig, 1);
    rig_until_(&rig, waits, NULL, "a blocked waiter");
    rig_want(&rig, 0);
    rig_until_(&rig, nobody_waits, NULL, "no blocked waiter");
    rig_push(&server, "celery", "a", 0);
    expect_answer(&server, "1", "LLEN", "celery");
    rig_want(&rig, 1);
    rig_claims(&rig, 1);
}
