/* SPDX-License-Identifier: Apache-2.0 */
/* Two generations of keys: fresh ones age for one tick, aged ones are looked at and forgotten. So each is looked at
 * once, one to two ticks after it was stored, which is longer than any SUBSCRIBE that left before is under way. */
#include "celeryc/result/late.h"

#include "celeryc/base/limits.h"
#include "celeryc/base/log.h"

#include <stdlib.h>

#define TICK_MS       100
#define KEYS_PER_CALL 500

struct keys {
    struct buf bytes; /* one after the other */
    size_t n, cap;
    uint32_t *len;
};

struct result_late {
    struct redis_conn *conn;
    uv_timer_t timer;
    bool ticking;
    bool refused; /* PUBSUB is not allowed here: told once */
    struct keys fresh, aged;
};

/* Counts in one call, because each call from a script costs as much as the count itself. */
const struct redis_script result_late_script = {
    "late",
    "local all = redis.call('PUBSUB', 'NUMSUB', unpack(ARGV))\n"
    "for i = 1, #all, 2 do\n"
    "  if all[i + 1] > 0 then\n"
    "    local value = redis.pcall('GET', all[i])\n"
    "    if type(value) == 'string' then redis.call('PUBLISH', all[i], value) end\n"
    "  end\n"
    "end\n"
    "return #all\n",
};

static void keys_deinit(struct keys *k)
{
    buf_deinit(&k->bytes);
    free(k->len);
    *k = (struct keys){0};
}

/* Without memory the key is left out: its client is no worse off than with Celery. */
static void keys_add(struct keys *k, struct slice key)
{
    if (k->n == k->cap) {
        size_t cap = k->cap ? k->cap * 2 : 256;
        uint32_t *more = reallocarray(k->len, cap, sizeof(*more));
        if (!more)
            return;
        k->len = more;
        k->cap = cap;
    }
    buf_append_slice(&k->bytes, key);
    if (buf_ok(&k->bytes) == 0)
        k->len[k->n++] = (uint32_t)key.len;
}

static void keys_clear(struct keys *k)
{
    buf_reset(&k->bytes);
    k->n = 0;
}

static void on_looked(const struct redis_reply *reply, void *arg)
{
    struct result_late *l = arg;
    if (!reply || reply->kind != REDIS_R_ERROR || l->refused)
        return;
    l->refused = true;
    log_warning("results are not published again for clients that begin to wait at that moment: %s",
                reply->str.p);
}

static void look(struct result_late *l, const struct keys *k)
{
    struct slice argv[KEYS_PER_CALL];
    const char *p = k->bytes.data;
    size_t n = 0;
    for (size_t i = 0; i < k->n; i++) {
        argv[n++] = (struct slice){p, k->len[i]};
        p += k->len[i];
        if (n == ARRAY_SIZE(argv) || i + 1 == k->n) {
            redis_eval(l->conn, &result_late_script, on_looked, l, n, argv);
            n = 0;
        }
    }
}

static void on_tick(uv_timer_t *timer)
{
    struct result_late *l = timer->data;
    look(l, &l->aged);
    const struct keys done = l->aged;
    l->aged = l->fresh;
    l->fresh = done;
    keys_clear(&l->fresh);
    l->ticking = l->aged.n > 0;
    if (!l->ticking)
        (void)uv_timer_stop(timer);
}

void result_late_note(struct result_late *l, struct slice key)
{
    if (key.len == 0 || l->refused || l->fresh.n >= LIMIT_LATE_RESULTS)
        return;
    keys_add(&l->fresh, key);
    if (!l->ticking) {
        l->ticking = true;
        (void)uv_timer_start(&l->timer, on_tick, TICK_MS, TICK_MS);
        uv_unref((uv_handle_t *)&l->timer);
    }
}

struct result_late *result_late_new(uv_loop_t *loop, struct redis_conn *conn)
{
    struct result_late *l = calloc(1, sizeof(*l));
    if (!l)
        return NULL;
    l->conn = conn;
    (void)uv_timer_init(loop, &l->timer);
    l->timer.data = l;
    return l;
}

static void on_closed(uv_handle_t *h)
{
    free(h->data);
}

struct result_late *result_late_free(struct result_late *l)
{
    if (!l)
        return NULL;
    keys_deinit(&l->fresh);
    keys_deinit(&l->aged);
    uv_close((uv_handle_t *)&l->timer, on_closed);
    return NULL;
}
