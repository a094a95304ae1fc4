/* SPDX-License-Identifier: Apache-2.0 */
/* Looks LOOKS times within the timeout, over a connection of its own that is made only when nothing has come for a
 * while: what it is there to find is a fault of the other ones, or of the code around them.
 *
 * Only what is certain counts. Every look must find the worker hungry, messages waiting, and no sign of life since the
 * look before; a look that Redis does not answer, or answers with an error, begins the count anew, as does any sign of
 * life. So a server that is away, paused or refuses writes is no reason: then the transport's attempts are signs of life.
 * What must never happen: an end of a worker that only has nothing to do. */
#include "celeryc/worker/watchdog.h"

#include <string.h>

#include "celeryc/base/log.h"
#include "celeryc/redis/conn.h"

#define LOOKS 6

struct watchdog {
    struct watchdog_options o;
    uv_loop_t *loop;
    uv_timer_t timer;
    struct redis_conn *conn; /* NULL: no suspicion */
    unsigned strikes;        /* looks in a row that found work waiting */
    bool alive;              /* a sign of life since the last look */
    bool looking;            /* its answers are not all there */
    size_t n_asked;          /* LLENs whose answers are to come */
    int64_t n_waiting;       /* of the look that is under way, or of the last */
    bool freed;
};

static void calm(struct watchdog *d)
{
    d->strikes = 0;
    d->looking = false;
    d->n_asked = 0;
    d->conn = redis_conn_free(d->conn);
}

static void on_length(const struct redis_reply *reply, void *arg)
{
    struct watchdog *d = arg;
    if (!d->looking || d->freed || d->n_asked == 0)
        return;
    if (!reply || reply->kind != REDIS_R_INTEGER) {
        d->looking = false; /* the next tick begins anew */
        return;
    }
    d->n_waiting += reply->integer;
    if (--d->n_asked)
        return;
    d->looking = false;
    if (d->n_waiting == 0)
        d->strikes = 0;
    else
        d->strikes++;
}

static void look(struct watchdog *d)
{
    size_t at = 0;
    CLEANUP(buf_deinit) struct buf key = BUF_INIT;
    d->n_waiting = 0;
    d->n_asked = 0;
    while (d->o.next_key(&key, &at, d->o.arg) && !buf_ok(&key)) {
        const struct slice argv[] = {SLICE_LIT("LLEN"), buf_slice(&key)};
        d->n_asked++;
        redis_command(d->conn, on_length, d, 0, ARRAY_SIZE(argv), argv);
        buf_reset(&key);
    }
}

static void on_up(struct redis_conn *c, void *arg)
{
    struct watchdog *d = arg;
    (void)c;
    if (d->looking)
        look(d);
}

static void connect_own(struct watchdog *d)
{
    const struct redis_conn_options o = {.endpoint = d->o.endpoint,
                                         .client_name = "celeryc-watchdog"};
    const struct redis_callbacks cb = {on_up, NULL, NULL};
    d->conn = redis_conn_new(d->loop, &o, &cb, d);
    if (d->conn)
        redis_conn_start(d->conn);
}

static void on_tick(uv_timer_t *t)
{
    struct watchdog *d = t->data;
    bool alive = d->alive;
    bool answered = !d->looking;
    d->alive = false;
    if (alive || !d->o.hungry(d->o.arg)) {
        calm(d);
        return;
    }
    if (!answered)
        calm(d); /* late answers would be counted for another look */
    if (d->strikes >= LOOKS) {
        int64_t n = d->n_waiting;
        calm(d);
        (void)uv_timer_stop(&d->timer);
        d->o.on_deaf(n, d->o.arg);
        return;
    }
    d->looking = true;
    if (!d->conn)
        connect_own(d);
    else if (redis_conn_is_up(d->conn))
        look(d);
}

struct watchdog *watchdog_new(uv_loop_t *loop, const struct watchdog_options *o)
{
    struct watchdog *d = calloc(1, sizeof(*d));
    if (!d)
        return NULL;
    d->o = *o;
    d->loop = loop;
    (void)uv_timer_init(loop, &d->timer);
    d->timer.data = d;
    uint64_t ms = (uint64_t)MAX(o->timeout_ms / LOOKS, 1);
    (void)uv_timer_start(&d->timer, on_tick, ms, ms);
    return d;
}

static void on_closed(uv_handle_t *h)
{
    free(h->data);
}

struct watchdog *watchdog_free(struct watchdog *d)
{
    if (!d)
        return NULL;
    d->freed = true;
    calm(d);
    uv_close((uv_handle_t *)&d->timer, on_closed);
    return NULL;
}

void watchdog_pat(struct watchdog *d)
{
    if (d)
        d->alive = true;
}
