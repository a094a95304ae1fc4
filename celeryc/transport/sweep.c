/* SPDX-License-Identifier: Apache-2.0 */
/* Our part in kombu's sweep, and the promotion of delayed messages.
 *
 * The sweep gives back what any worker, Python's included, left in `unacked` for longer than our visibility timeout
 * (under kombu's mutex, at most SWEEP_FIELDS at a time, the oldest ones, put so that the oldest is consumed first). A
 * record is [message, exchange, routing_key]: the anonymous exchange names the queue; for a named one the binding set
 * decides, and when that knows nothing the message goes to the queue named by the routing key rather than nowhere.
 * Live claims of celeryc have scores in the future and are never met here.
 *
 * Delayed messages: the beat tells the next due time, a timer waits for it, "promote" moves what is due. */
#include <string.h>

#include "celeryc/base/clock.h"
#include "celeryc/base/log.h"
#include "celeryc/base/num.h"
#include "celeryc/transport/route.h"
#include "celeryc/transport/stored.h"
#include "celeryc/transport/transport_priv.h"

#define SWEEP_FIELDS    200
#define SWEEP_EVERY_MS  60000
#define SWEEP_AGAIN_MS  1000
#define PROMOTE_AT_ONCE 100

/* ---- the sweep ---- */

/* Adds field, raw, lists to the arguments; a record that cannot be read is left where it is. */
static void add_record(struct transport *t, struct slice field, struct slice value,
                       const struct redis_reply *members)
{
    const struct route_keys keys = {t->prefix, t->sep, t->steps, t->n_steps};
    struct route route;
    if (route_record(t->scratch, &keys, value, members, &route))
        return;
    args_add(t, field);
    args_add(t, route.raw);
    args_i64(t, (int64_t)route.n);
    for (size_t i = 0; i < route.n; i++)
        args_str(t, route.lists[i]);
}

static void sweep_later(struct transport *t, uint64_t ms)
{
    if (t->state == TRANSPORT_UP)
        (void)uv_timer_start(&t->sweep_timer, on_sweep_timer, ms, 0);
}

static void on_swept_moved(const struct redis_reply *reply, void *arg)
{
    struct transport *t = arg;
    t->sweeping = false;
    if (!reply || t->state != TRANSPORT_UP || reply_failed(t, reply))
        return;
    if (reply->integer > 0)
        log_info("Restoring %lld unacknowledged message(s)", (long long)reply->integer);
    sweep_later(t, reply->integer >= SWEEP_FIELDS / 2 ? SWEEP_AGAIN_MS : SWEEP_EVERY_MS);
}

static void begin_sweep_args(struct transport *t)
{
    args_begin(t);
    args_str(t, t->k_mutex);
    args_str(t, t->me);
    args_seconds(t, t->visibility_timeout_ms);
}

static void on_swept(const struct redis_reply *reply, void *arg)
{
    struct transport *t = arg;
    if (!reply || t->state != TRANSPORT_UP || is_gone(reply) || reply_failed(t, reply)) {
        t->sweeping = false;
        if (reply && is_gone(reply) && t->state == TRANSPORT_UP)
            transport_enter(t);
        return;
    }
    if (reply->kind != REDIS_R_ARRAY || reply->n < 3) {
        t->sweeping = false;
        sweep_later(t, SWEEP_EVERY_MS);
        return;
    }
    begin_sweep_args(t);
    for (size_t i = reply->n / 3; i-- > 0;)
        add_record(t, reply->elem[3 * i]->str, reply->elem[3 * i + 1]->str, reply->elem[3 * i + 2]);
    args_eval(t, &stored_sweep_move, on_swept_moved, t);
}

void on_sweep_timer(uv_timer_t *timer)
{
    struct transport *t = timer->data;
    if (t->state != TRANSPORT_UP || t->sweeping)
        return;
    t->sweeping = true;
    begin_sweep_args(t);
    args_i64(t, SWEEP_FIELDS);
    args_i64(t, RESTORE_BUDGET);
    CLEANUP(mem_free) char *binding = key_of(t, "_kombu.binding.", NULL);
    args_str(t, binding);
    args_eval(t, &stored_sweep, on_swept, t);
}

/* ---- delayed messages ---- */

static int64_t redis_now_ms(const struct transport *t)
{
    return clock_wall_us() / 1000 + t->clock_offset_ms;
}

static void on_promoted(const struct redis_reply *reply, void *arg)
{
    struct transport *t = arg;
    double due = 0;
    t->promoting = false;
    if (!reply || t->state != TRANSPORT_UP || is_gone(reply) || reply_failed(t, reply))
        return; /* the next beat says when to come again */
    if (reply->kind == REDIS_R_ARRAY && reply->n == 3 && reply->elem[2]->str.len &&
        num_parse_f64(reply->elem[2]->str, &due) == 0)
        promote_expect(t, (int64_t)due);
}

void on_promote_timer(uv_timer_t *timer)
{
    struct transport *t = timer->data;
    t->next_due_ms = 0;
    if (t->state != TRANSPORT_UP || t->promoting)
        return;
    t->promoting = true;
    args_begin(t);
    args_i64(t, PROMOTE_AT_ONCE);
    args_eval(t, &script_promote, on_promoted, t);
}

void promote_expect(struct transport *t, int64_t due_ms)
{
    if (t->next_due_ms && t->next_due_ms <= due_ms &&
        uv_is_active((uv_handle_t *)&t->promote_timer))
        return;
    int64_t wait = due_ms - redis_now_ms(t);
    t->next_due_ms = due_ms;
    /* One millisecond late rather than a call too early. A far one is asked for again by then. */
    wait = MAX(wait + 1, 1);
    (void)uv_timer_start(&t->promote_timer, on_promote_timer, (uint64_t)MIN(wait, 3600000), 0);
}
