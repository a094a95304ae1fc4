/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* A loop with connections on it, and what they told, for tests. */

#include "celeryc/redis/conn.h"

#include <criterion/criterion.h>
#include <string.h>

struct seen {
    struct redis_conn *c;
    size_t n_up, n_down, n_null, n_reply;
    int64_t retry_ms; /* of the last on_down */
    char reason[700];
    char last[256]; /* text of the last reply */
};

struct loop {
    uv_loop_t uv;
    uv_timer_t deadline;
    bool late;
};

static struct loop loop;

static void seen_up(struct redis_conn *c, void *arg)
{
    (void)c;
    ((struct seen *)arg)->n_up++;
}

static void seen_down(struct redis_conn *c, const char *reason, int64_t retry_ms, void *arg)
{
    struct seen *s = arg;
    (void)c;
    s->n_down++;
    s->retry_ms = retry_ms;
    (void)snprintf(s->reason, sizeof(s->reason), "%s", reason);
}

static inline void seen_reply(const struct redis_reply *reply, void *arg)
{
    struct seen *s = arg;
    if (!reply) {
        s->n_null++;
        return;
    }
    s->n_reply++;
    (void)snprintf(s->last, sizeof(s->last), "%s", reply->str.p ? reply->str.p : "");
}

static inline void loop_connect(struct seen *s, const struct redis_conn_options *o)
{
    const struct redis_callbacks cb = {seen_up, seen_down, NULL};
    s->c = redis_conn_new(&loop.uv, o, &cb, s);
    cr_assert(s->c);
    redis_conn_start(s->c);
}

static void loop_on_deadline(uv_timer_t *t)
{
    (void)t;
    loop.late = true;
}

#define until(cond)                                                            \
    do {                                                                       \
        (void)uv_timer_start(&loop.deadline, loop_on_deadline, 20000, 0);      \
        while (!(cond)) {                                                      \
            cr_assert(!loop.late, "line %d: in vain for %s", __LINE__, #cond); \
            (void)uv_run(&loop.uv, UV_RUN_ONCE);                               \
        }                                                                      \
        (void)uv_timer_stop(&loop.deadline);                                   \
    } while (0)

static inline void loop_open(void)
{
    loop = (struct loop){.late = false};
    cr_assert_eq(uv_loop_init(&loop.uv), 0);
    (void)uv_timer_init(&loop.uv, &loop.deadline);
}

static inline void loop_close(void)
{
    uv_close((uv_handle_t *)&loop.deadline, NULL);
    (void)uv_run(&loop.uv, UV_RUN_DEFAULT);
    if (uv_loop_close(&loop.uv))
        abort();
}
