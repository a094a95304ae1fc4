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
#include "celeryc/message/message.h"
#include "celeryc/transport/transport_priv.h"

#define SWEEP_FIELDS    200
#define SWEEP_EVERY_MS  60000
#define SWEEP_AGAIN_MS  1000
#define PROMOTE_AT_ONCE 100
#define MAX_LISTS       64

/* ---- routing of a restored record ---- */

static bool next_word(struct slice *rest, struct slice *ret_word)
{
    if (!rest->p)
        return false;
    const char *dot = memchr(rest->p, '.', rest->len);
    size_t len = dot ? (size_t)(dot - rest->p) : rest->len;
    *ret_word = (struct slice){rest->p, len};
    *rest = dot ? (struct slice){dot + 1, rest->len - len - 1} : SLICE_NULL;
    return true;
}

/* Topic rules of kombu 5.7: "*" is one word, "#" any text, the rest is literal. */
static bool topic_matches(struct slice pattern, struct slice key)
{
    struct slice p, k;
    while (next_word(&pattern, &p)) {
        if (slice_eq_str(p, "#")) {
            if (!pattern.p)
                return true;
            for (;;) {
                if (topic_matches(pattern, key))
                    return true;
                if (!next_word(&key, &k) || !key.p)
                    return false;
            }
        }
        if (!next_word(&key, &k))
            return false;
        if (slice_eq_str(p, "*") ? k.len == 0 : !slice_eq(p, k))
            return false;
    }
    return key.p == NULL;
}

struct route {
    const char *lists[MAX_LISTS];
    size_t n;
};

static void route_add(struct transport *t, struct route *route, struct slice queue, int priority)
{
    CLEANUP(mem_free) char *name = slice_dup(queue);
    CLEANUP(mem_free) char *list = name ? transport_list_key(t, name, priority) : NULL;
    const char *kept = list ? arena_strdup(t->scratch, slice_str(list)) : NULL;
    for (size_t i = 0; kept && i < route->n; i++) {
        if (str_eq(route->lists[i], kept))
            return;
    }
    if (kept && route->n < MAX_LISTS)
        route->lists[route->n++] = kept;
}

/* A member is routing key SEP pattern SEP queue. */
static void route_member(struct transport *t, struct route *route, struct slice member,
                         struct slice key, int priority)
{
    size_t len = strlen(t->sep);
    const char *a = memmem(member.p, member.len, t->sep, len);
    if (!a)
        return;
    struct slice bound = {member.p, (size_t)(a - member.p)};
    struct slice rest = {a + len, member.len - bound.len - len};
    const char *b = memmem(rest.p, rest.len, t->sep, len);
    if (!b)
        return;
    bool direct = b == rest.p;
    struct slice queue = {b + len, rest.len - (size_t)(b - rest.p) - len};
    if (direct ? slice_eq(bound, key) : topic_matches(bound, key))
        route_add(t, route, queue, priority);
}

static int record_priority(struct json_val message)
{
    int64_t v = 0;
    if (json_i64(json_get(json_get(message, "properties"), "priority"), &v))
        return 0;
    return (int)MAX(0, MIN(v, 9));
}

/* Adds field, raw, lists to the arguments; a record that cannot be read is left where it is. */
static void add_record(struct transport *t, struct arena *a, struct slice field, struct slice value,
                       const struct redis_reply *members)
{
    struct json_val v;
    struct slice exchange, key;
    struct route route = {.n = 0};
    if (json_scan(value, &v, NULL) || v.kind != JSON_K_ARRAY || json_len(v) != 3 ||
        json_string(a, json_at(v, 1), &exchange) || json_string(a, json_at(v, 2), &key))
        return;
    struct json_val message = json_at(v, 0);
    int priority = record_priority(message);
    for (size_t i = 0; exchange.len && i < members->n; i++)
        route_member(t, &route, members->elem[i]->str, key, priority);
    if (route.n == 0 && key.len)
        route_add(t, &route, key, priority);
    CLEANUP(buf_deinit) struct buf marked = BUF_INIT;
    if (route.n == 0 || message_write_redelivered(&marked, message.raw))
        return;
    const char *raw = arena_strdup(t->scratch, buf_slice(&marked));
    if (!raw)
        return;
    args_add(t, field);
    args_add(t, (struct slice){raw, marked.len});
    args_i64(t, (int64_t)route.n);
    for (size_t i = 0; i < route.n; i++)
        args_str(t, route.lists[i]);
}

/* ---- the sweep ---- */

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
    CLEANUP(arena_free) struct arena *a = arena_new();
    if (reply->kind != REDIS_R_ARRAY || reply->n < 3 || !a) {
        t->sweeping = false;
        sweep_later(t, SWEEP_EVERY_MS);
        return;
    }
    begin_sweep_args(t);
    for (size_t i = reply->n / 3; i-- > 0;)
        add_record(t, a, reply->elem[3 * i]->str, reply->elem[3 * i + 1]->str,
                   reply->elem[3 * i + 2]);
    args_eval(t, &script_sweep_move, on_swept_moved, t);
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
    args_eval(t, &script_sweep, on_swept, t);
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
