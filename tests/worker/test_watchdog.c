/* SPDX-License-Identifier: Apache-2.0 */
/* The watchdog over a real server: it ends a worker that is deaf, and no other. */

#include "celeryc/worker/watchdog.h"

#include <criterion/criterion.h>
#include <string.h>

#include "celeryc/base/buf.h"
#include "tests/redis/redis_server.h"

#define TIMEOUT_MS 240

struct fixture {
    uv_loop_t loop;
    uv_timer_t deadline, pats;
    bool late, hungry;
    int n_deaf;
    int64_t n_waiting;
    uint64_t began_ms;
    struct watchdog *d;
};

static struct redis_server server;
static struct fixture f;

static bool hungry(void *arg)
{
    return ((struct fixture *)arg)->hungry;
}

static bool next_key(struct buf *dst, size_t *at, void *arg)
{
    static const char *const keys[] = {"celery", "other"};
    (void)arg;
    if (*at == ARRAY_SIZE(keys))
        return false;
    buf_append_str(dst, keys[(*at)++]);
    return true;
}

static void on_deaf(int64_t n_waiting, void *arg)
{
    struct fixture *x = arg;
    x->n_deaf++;
    x->n_waiting = n_waiting;
}

static void on_deadline(uv_timer_t *t)
{
    (void)t;
    f.late = true;
}

static void on_pat(uv_timer_t *t)
{
    (void)t;
    watchdog_pat(f.d);
}

static void setup(void)
{
    redis_server_start(&server, NULL);
    f = (struct fixture){.hungry = true};
    cr_assert_eq(uv_loop_init(&f.loop), 0);
    (void)uv_timer_init(&f.loop, &f.deadline);
    (void)uv_timer_init(&f.loop, &f.pats);
    const struct watchdog_options o = {
        .endpoint = &server.endpoint,
        .timeout_ms = TIMEOUT_MS,
        .hungry = hungry,
        .next_key = next_key,
        .on_deaf = on_deaf,
        .arg = &f,
    };
    f.d = watchdog_new(&f.loop, &o);
    cr_assert(f.d);
    f.began_ms = uv_now(&f.loop);
}

static void teardown(void)
{
    f.d = watchdog_free(f.d);
    uv_close((uv_handle_t *)&f.deadline, NULL);
    uv_close((uv_handle_t *)&f.pats, NULL);
    (void)uv_run(&f.loop, UV_RUN_DEFAULT);
    if (uv_loop_close(&f.loop))
        abort();
    redis_server_stop(&server);
}

TestSuite(watchdog, .init = setup, .fini = teardown, .timeout = 60);

static void push(const char *key)
{
    free(redis_server_ask(&server, "LPUSH", key, "message", NULL));
}

/* Runs until it barks or `ms` have passed. */
static bool barks_within(uint64_t ms)
{
    f.late = false;
    (void)uv_timer_start(&f.deadline, on_deadline, ms, 0);
    while (!f.late && !f.n_deaf)
        (void)uv_run(&f.loop, UV_RUN_ONCE);
    (void)uv_timer_stop(&f.deadline);
    return f.n_deaf > 0;
}

Test(watchdog, ends_a_worker_that_is_deaf)
{
    push("other");
    push("celery");
    cr_assert(barks_within(10000));
    cr_assert_eq(f.n_waiting, 2);
    cr_assert_geq(uv_now(&f.loop) - f.began_ms, TIMEOUT_MS);
    f.n_deaf = 0;
    cr_assert_not(barks_within(3 * TIMEOUT_MS), "it is told once");
}

Test(watchdog, an_idle_worker_lives)
{
    cr_assert_not(barks_within(8 * TIMEOUT_MS));
    push("celery");
    cr_assert(barks_within(10000));
}

Test(watchdog, a_busy_worker_lives)
{
    push("celery");
    f.hungry = false;
    cr_assert_not(barks_within(4 * TIMEOUT_MS));
    f.hungry = true;
    cr_assert(barks_within(10000));
}

Test(watchdog, signs_of_life_begin_the_count_anew)
{
    push("celery");
    (void)uv_timer_start(&f.pats, on_pat, TIMEOUT_MS / 2, TIMEOUT_MS / 2);
    cr_assert_not(barks_within(8 * TIMEOUT_MS));
    (void)uv_timer_stop(&f.pats);
    cr_assert(barks_within(10000));
}

Test(watchdog, a_server_that_is_away_is_no_reason)
{
    push("celery");
    cr_assert_not(barks_within(TIMEOUT_MS / 2));
    redis_server_kill(&server);
    cr_assert_not(barks_within(4 * TIMEOUT_MS));
    redis_server_restart(&server, NULL);
    push("celery");
    cr_assert(barks_within(10000));
}

Test(watchdog, a_server_that_says_nothing_is_no_reason)
{
    push("celery");
    cr_assert_not(barks_within(TIMEOUT_MS / 2));
    free(redis_server_ask(&server, "CLIENT", "PAUSE", "1000", "ALL", NULL));
    cr_assert_not(barks_within(3 * TIMEOUT_MS));
    cr_assert(barks_within(10000));
}

Test(watchdog, an_error_is_no_reason)
{
    push("celery");
    free(redis_server_ask(&server, "SET", "other", "no list", NULL));
    cr_assert_not(barks_within(4 * TIMEOUT_MS));
}
