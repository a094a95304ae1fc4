/* SPDX-License-Identifier: Apache-2.0 */
/* tests celeryc/result: keys, the backend of its own, a client's wait. */
#include "celeryc/result/result.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "tests/redis/redis_server.h"

static struct redis_server server;

static void setup(void)
{
    redis_server_start(&server, NULL);
}

static void teardown(void)
{
    redis_server_stop(&server);
}

TestSuite(result, .init = setup, .fini = teardown, .timeout = 60);

Test(result_key, joins_the_prefix_as_celery_does)
{
    static const char *const cases[][2] = {
        {"", "celery-task-meta-i"},     {"p", "p_celery-task-meta-i"},
        {"p_", "p_celery-task-meta-i"}, {"p:", "p:celery-task-meta-i"},
        {"p-", "p-celery-task-meta-i"}, {"p.", "p.celery-task-meta-i"}};
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        CLEANUP(buf_deinit) struct buf b = BUF_INIT;
        result_key(&b, cases[i][0], SLICE_LIT("i"));
        cr_assert_str_eq(b.data, cases[i][1]);
    }
}

struct stores {
    uv_loop_t loop;
    size_t n;
};

static void on_stored(enum result_done done, void *arg)
{
    cr_assert_eq(done, RESULT_DONE);
    ((struct stores *)arg)->n++;
}

Test(result, backend_stores_in_order_over_an_outage)
{
    struct stores s = {.n = 0};
    cr_assert_eq(uv_loop_init(&s.loop), 0);
    redis_server_kill(&server);
    struct result_backend *b = result_backend_new(&s.loop, &server.endpoint);
    cr_assert(b);
    for (int i = 0; i < 450; i++) { /* more than two calls */
        char value[64];
        int n = snprintf(value, sizeof(value), "{\"status\": \"STARTED\", %d}", i);
        const struct result_record r = {SLICE_LIT("k"), {value, (size_t)n}, 60};
        result_backend_apply(b, &r, NULL, on_stored, &s);
    }
    (void)uv_run(&s.loop, UV_RUN_ONCE);
    redis_server_restart(&server, NULL);
    const struct result_record good = {SLICE_LIT("done"), SLICE_LIT("{\"status\": \"SUCCESS\"}"),
                                       0};
    const struct result_record bad = {SLICE_LIT("done"), SLICE_LIT("{\"status\": \"FAILURE\"}"), 0};
    result_backend_apply(b, &good, NULL, on_stored, &s);
    result_backend_apply(b, &bad, NULL, on_stored, &s);
    while (s.n < 452)
        (void)uv_run(&s.loop, UV_RUN_ONCE);
    b = result_backend_free(b);
    (void)uv_run(&s.loop, UV_RUN_DEFAULT);
    cr_assert_eq(uv_loop_close(&s.loop), 0);
    char *last = redis_server_ask(&server, "GET", "k", NULL);
    cr_assert_str_eq(last, "{\"status\": \"STARTED\", 449}");
    free(last);
    last = redis_server_ask(&server, "GET", "done", NULL);
    cr_assert_str_eq(last, "{\"status\": \"SUCCESS\"}");
    free(last);
}

static struct redis_sync *client(void)
{
    struct redis_sync *s = NULL;
    cr_assert_eq(redis_sync_open(&server.endpoint, 5000, &s, NULL), 0);
    return s;
}

Test(result, get_gives_what_is_there)
{
    CLEANUP(redis_sync_close) struct redis_sync *s = client();
    char *record = NULL;
    cr_assert_eq(result_get(s, "", "i", &record, NULL), 0);
    cr_assert_null(record);
    free(redis_server_ask(&server, "SET", "celery-task-meta-i", "x", NULL));
    cr_assert_eq(result_get(s, "", "i", &record, NULL), 0);
    cr_assert_str_eq(record, "x");
    free(record);
}

Test(result, backend_publishes_again_for_who_subscribes_at_that_moment)
{
    struct stores s = {.n = 0};
    cr_assert_eq(uv_loop_init(&s.loop), 0);
    struct result_backend *b = result_backend_new(&s.loop, &server.endpoint);
    const struct result_record own = {SLICE_LIT("own"), SLICE_LIT("1"), 60};
    const struct result_record next = {SLICE_LIT("next"), SLICE_LIT("2"), 60};
    const struct result_effects x = {.n_records = 1, .records = &next};
    result_backend_apply(b, &own, &x, on_stored, &s);
    while (s.n < 1)
        (void)uv_run(&s.loop, UV_RUN_ONCE);

    CLEANUP(redis_sync_close) struct redis_sync *waiter = client();
    const struct redis_reply *reply;
    const struct slice keys[] = {own.key, next.key};
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        const struct slice argv[] = {SLICE_LIT("SUBSCRIBE"), keys[i]};
        cr_assert_eq(redis_sync_command(waiter, 2, argv, &reply, NULL), 0);
    }
    for (size_t heard = 0; heard < ARRAY_SIZE(keys);) {
        (void)uv_run(&s.loop, UV_RUN_NOWAIT);
        if (redis_sync_push(waiter, 1, &reply, NULL) == 0)
            heard++;
    }
    b = result_backend_free(b);
    (void)uv_run(&s.loop, UV_RUN_DEFAULT);
    cr_assert_eq(uv_loop_close(&s.loop), 0);
}

static void *publisher(void *arg)
{
    /* The first message may come before the wait has subscribed; the record is set with the second. */
    static const char started[] = "{\"status\": \"STARTED\", \"result\": null, \"task_id\": \"i\"}";
    static const char good[] = "{\"status\": \"SUCCESS\", \"result\": 7, \"task_id\": \"i\"}";
    (void)arg;
    free(redis_server_ask(&server, "PUBLISH", "celery-task-meta-i", started, NULL));
    for (bool heard = false; !heard;) {
        char *n = redis_server_ask(&server, "PUBLISH", "celery-task-meta-i", good, NULL);
        heard = strcmp(n, "0") != 0;
        free(n);
    }
    return NULL;
}

Test(result, wait_takes_the_message_of_a_ready_state)
{
    CLEANUP(redis_sync_close) struct redis_sync *s = client();
    pthread_t thread;
    char *record = NULL;
    struct err e = ERR_INIT;
    cr_assert_eq(pthread_create(&thread, NULL, publisher, NULL), 0);
    cr_assert_eq(result_wait(s, "", "i", 10000, &record, &e), 0, "%s", e.text);
    cr_assert(strstr(record, "\"result\": 7"));
    free(record);
    (void)pthread_join(thread, NULL);
}

Test(result, wait_takes_the_record_that_is_there_and_ends_in_time)
{
    CLEANUP(redis_sync_close) struct redis_sync *s = client();
    char *record = NULL;
    struct err e = ERR_INIT;
    free(redis_server_ask(&server, "SET", "celery-task-meta-i",
                          "{\"status\": \"FAILURE\", \"result\": null, \"task_id\": \"i\"}", NULL));
    cr_assert_eq(result_wait(s, "", "i", 10000, &record, &e), 0, "%s", e.text);
    free(record);
    cr_assert_eq(result_wait(s, "", "other", 30, &record, &e), -ETIMEDOUT);
}
