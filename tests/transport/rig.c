/* SPDX-License-Identifier: Apache-2.0 */
/* What the transport tests have in common. */
#include "tests/transport/rig.h"

#include <criterion/criterion.h>
#include <string.h>

static const char *const only_celery[] = {"celery", NULL};

static void on_claim(struct claim *c, void *arg)
{
    struct rig *r = arg;
    cr_assert_lt(r->n_claims, RIG_MAX);
    r->claims[r->n_claims++] = c;
    if (r->auto_want)
        return;
    if (r->want)
        r->want--;
    transport_want(r->t, r->want);
}

static bool may_start(struct slice raw, void *arg)
{
    struct rig *r = arg;
    cr_assert_gt(raw.len, 0);
    return r->start_at_once;
}

static void on_orphan(struct claim *c, const char *node, void *arg)
{
    struct rig *r = arg;
    r->orphans[r->n_orphans++] = c;
    (void)snprintf(r->orphan_node, sizeof(r->orphan_node), "%s", node);
}

static void on_up(void *arg)
{
    struct rig *r = arg;
    r->n_up++;
}

static void on_down(const char *reason, int64_t retry_ms, void *arg)
{
    struct rig *r = arg;
    cr_assert_gt(retry_ms, 0);
    r->n_down++;
    (void)snprintf(r->down, sizeof(r->down), "%s", reason);
}

static void on_fatal(const char *reason, void *arg)
{
    struct rig *r = arg;
    (void)snprintf(r->fatal, sizeof(r->fatal), "%s", reason);
}

void rig_init(struct rig *r, const struct redis_server *s, const char *const *queues)
{
    *r = (struct rig){.server = s, .endpoint = &s->endpoint};
    cr_assert_eq(uv_loop_init(&r->loop), 0);
    cr_assert_eq(uv_timer_init(&r->loop, &r->deadline), 0);
    r->options = (struct transport_options){
        .node = "w1@host",
        .key_prefix = "",
        .queues = queues ? queues : only_celery,
        .lease_ms = 30000,
        .beat_ms = 50,
        .dead_after_ms = 300,
    };
}

void rig_open(struct rig *r)
{
    static const struct transport_events ev = {on_claim, may_start, on_orphan,
                                               on_up,    on_down,   on_fatal};
    r->options.endpoint = r->endpoint;
    r->t = transport_new(&r->loop, &r->options, &ev, r);
    cr_assert(r->t);
    transport_start(r->t);
}

static bool is_up(struct rig *r, void *arg)
{
    (void)arg;
    return r->n_up > 0;
}

void rig_start(struct rig *r)
{
    rig_open(r);
    rig_until_(r, is_up, NULL, "up");
}

static void free_claims(struct claim **v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        claim_free(v[i]);
}

void rig_free(struct rig *r)
{
    r->t = transport_free(r->t);
    uv_close((uv_handle_t *)&r->deadline, NULL);
    (void)uv_run(&r->loop, UV_RUN_DEFAULT);
    cr_assert_eq(uv_loop_close(&r->loop), 0);
    free_claims(r->claims, r->n_claims);
    free_claims(r->orphans, r->n_orphans);
}

static void on_deadline(uv_timer_t *t)
{
    ((struct rig *)CONTAINER_OF(t, struct rig, deadline))->late = true;
}

void rig_until_(struct rig *r, bool (*cond)(struct rig *r, void *arg), void *arg, const char *what)
{
    uv_update_time(&r->loop);
    cr_assert_eq(uv_timer_start(&r->deadline, on_deadline, 10000, 0), 0);
    while (!cond(r, arg)) {
        cr_assert(!r->late, "waited in vain: %s (down: %s, fatal: %s)", what, r->down, r->fatal);
        (void)uv_run(&r->loop, UV_RUN_ONCE);
    }
    (void)uv_timer_stop(&r->deadline);
}

void rig_want(struct rig *r, size_t n)
{
    r->want = n;
    transport_want(r->t, n);
}

static bool has_claims(struct rig *r, void *arg)
{
    return r->n_claims >= *(size_t *)arg;
}

void rig_claims(struct rig *r, size_t n)
{
    rig_until_(r, has_claims, &n, "claims");
    cr_assert_eq(r->n_claims, n);
}

static bool has_done(struct rig *r, void *arg)
{
    return r->n_done + r->n_lost >= *(size_t *)arg;
}

void rig_done(struct rig *r, size_t n)
{
    rig_until_(r, has_done, &n, "answers");
}

void rig_on_done(enum transport_done done, void *arg)
{
    struct rig *r = arg;
    if (done == TRANSPORT_DONE)
        r->n_done++;
    else
        r->n_lost++;
}

struct question {
    const char *expect, *a, *b, *c;
};

static bool answers(struct rig *r, void *arg)
{
    const struct question *q = arg;
    char *answer = redis_server_ask(r->server, q->a, q->b, q->c, NULL);
    bool same = strcmp(answer, q->expect) == 0;
    free(answer);
    return same;
}

void rig_until_answer(struct rig *r, const char *expect, const char *a, const char *b,
                      const char *c)
{
    struct question q = {expect, a, b, c};
    rig_until_(r, answers, &q, a);
}

char *rig_message(const char *id, int priority)
{
    struct buf b = BUF_INIT;
    buf_appendf(&b,
                "{\"body\": \"W1tdLCB7fSwge31d\", \"content-encoding\": \"utf-8\", "
                "\"content-type\": \"application/json\", \"headers\": {\"task\": \"t\", \"id\": "
                "\"%s\"}, \"properties\": {\"delivery_info\": {\"exchange\": \"\", "
                "\"routing_key\": \"celery\"}, \"priority\": %d, \"body_encoding\": \"base64\", "
                "\"delivery_tag\": \"tag-%s\"}}",
                id, priority, id);
    return buf_take(&b);
}

void rig_push(const struct redis_server *s, const char *queue, const char *id, int priority)
{
    char *raw = rig_message(id, priority);
    char *key = transport_queue_key("", queue, priority);
    free(redis_server_ask(s, "LPUSH", key, raw, NULL));
    free(key);
    free(raw);
}

const char *rig_id(const char *raw)
{
    static char id[64];
    const char *p = strstr(raw, "\"id\": \"");
    id[0] = '\0';
    if (p)
        (void)snprintf(id, sizeof(id), "%.*s", (int)strcspn(p + 7, "\""), p + 7);
    return id;
}
