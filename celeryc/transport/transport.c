/* SPDX-License-Identifier: Apache-2.0 */
/* The life of the transport: connections, registration, the end of a loop turn, leaving.
 *
 *   DOWN --command connection up, "enter" answered--> UP
 *    ^  \--> ENTERING --------------------------------^ |
 *    +------------- command connection lost -----------+
 *   any --NOPERM, too old, a key of another type--> DEAD
 *
 * An incarnation keeps its id for the life of the process. One that was declared dead while it was frozen registers
 * again under the same id: its claims are gone one by one (each by HDEL = 1), so what it still finishes is LOST, and
 * fields are never used twice. The epoch, one more at each registration, stands in the worker entry: claims that an old
 * connection left in the server's buffers are refused by it.
 *
 * What must never happen: a claim or batch sent before "enter" has been sent on that connection. */
#include "celeryc/transport/transport.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "celeryc/base/codec.h"
#include "celeryc/base/log.h"
#include "celeryc/message/json.h"
#include "celeryc/transport/route.h"
#include "celeryc/transport/stored.h"
#include "celeryc/transport/transport_priv.h"

#define DEFAULT_SEP    "\x06\x16"
#define MIN_VERSION    60200
#define FIRST_SWEEP_MS 2000

static const int default_steps[] = {0, 3, 6, 9};

/* ---- arguments of scripts ---- */

void args_add(struct transport *t, struct slice s)
{
    if (t->n_args == t->cap_args) {
        size_t cap = t->cap_args ? t->cap_args * 2 : 256;
        struct slice *more = realloc(t->args, cap * sizeof(*more));
        if (!more) {
            t->args_failed = true;
            return;
        }
        t->args = more;
        t->cap_args = cap;
    }
    t->args[t->n_args++] = s;
}

void args_str(struct transport *t, const char *s)
{
    args_add(t, slice_str(s));
}

static void args_text(struct transport *t, const char *text)
{
    if (!text)
        t->args_failed = true;
    else
        args_str(t, text);
}

void args_i64(struct transport *t, int64_t v)
{
    args_text(t, arena_printf(t->scratch, "%lld", (long long)v));
}

void args_seconds(struct transport *t, int64_t ms)
{
    args_text(t, arena_printf(t->scratch, "%lld.%03d", (long long)(ms / 1000), (int)(ms % 1000)));
}

void args_begin(struct transport *t)
{
    arena_reset(t->scratch);
    t->n_args = 0;
    t->args_failed = false;
    args_str(t, t->k_workers);
    args_str(t, t->k_worker);
    args_str(t, t->me);
    args_i64(t, (int64_t)t->epoch);
    args_str(t, t->k_unacked);
    args_str(t, t->k_index);
    args_str(t, t->k_claims);
    args_str(t, t->k_running);
    args_str(t, t->k_delayed);
}

void args_eval(struct transport *t, const struct redis_script *s, redis_reply_fn fn, void *arg)
{
    if (t->args_failed)
        redis_conn_drop(t->cmd, "out of memory");
    redis_eval(t->cmd, s, fn, arg, t->n_args, t->args);
}

/* ---- names ---- */

char *key_of(const struct transport *t, const char *format, const char *name)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    const char *hole = strstr(format, "%s");
    buf_append_str(&b, t->prefix);
    buf_append(&b, format, hole ? (size_t)(hole - format) : strlen(format));
    if (hole) {
        buf_append_str(&b, name);
        buf_append_str(&b, hole + 2);
    }
    return buf_take(&b);
}

char *transport_list_key(const struct transport *t, const char *queue, int priority)
{
    return route_list_key(t->prefix, queue, priority, t->sep, t->steps, t->n_steps);
}

char *transport_queue_key(const char *key_prefix, const char *queue, int priority)
{
    return route_list_key(key_prefix ? key_prefix : "", queue, priority, DEFAULT_SEP, default_steps,
                          ARRAY_SIZE(default_steps));
}

struct claim *claim_new(struct transport *t, uint64_t seq, struct slice raw, size_t queue_index,
                        const char *queue)
{
    CLEANUP(claim_free) struct claim *c = calloc(1, sizeof(*c));
    char field[FIELD_SIZE];
    if (!c)
        return NULL;
    int n = snprintf(field, sizeof(field), FIELD_FORMAT, t->me, (unsigned long long)seq);
    c->field = slice_dup((struct slice){field, (size_t)n});
    c->raw = slice_dup(raw);
    c->raw_len = raw.len;
    c->queue_index = queue_index;
    c->queue = queue;
    return c->field && c->raw ? STEAL(c) : NULL;
}

struct claim *claim_free(struct claim *c)
{
    if (!c)
        return NULL;
    free(c->field);
    free(c->raw);
    free(c);
    return NULL;
}

/* ---- failures ---- */

bool is_status(const struct redis_reply *reply, const char *word)
{
    return reply->kind == REDIS_R_STATUS && slice_eq_str(reply->str, word);
}

bool is_gone(const struct redis_reply *reply)
{
    return is_status(reply, "gone");
}

void transport_die(struct transport *t, const char *reason)
{
    if (t->state == TRANSPORT_DEAD)
        return;
    struct err why = ERR_INIT; /* reason may lie in a reply that goes */
    (void)err_set(&why, -EIO, "%s", reason);
    t->state = TRANSPORT_DEAD;
    if (t->ev.on_fatal)
        t->ev.on_fatal(why.text, t->arg);
}

/* Outside of scripts Redis says NOPERM; inside, 6.2 and 7.0 have "The user executing the script can't ...", later ones
 * "ACL failure in script". */
bool acl_refused(const char *text)
{
    return strstr(text, "NOPERM") || strstr(text, "user executing the script can't") ||
           strstr(text, "ACL failure in script");
}

static void die_of_acl(struct transport *t, const char *reason)
{
    char text[700];
    (void)snprintf(
        text, sizeof(text),
        "Redis refuses what celeryc needs: %.400s. Allow it with: ACL SETUSER <user> ~* &* "
        "+@read +@write +@blocking +@scripting +@pubsub +@connection +client +time +info "
        "(its own keys are celeryc:*, after global_keyprefix)",
        reason);
    transport_die(t, text);
}

bool reply_failed(struct transport *t, const struct redis_reply *reply)
{
    if (reply->kind != REDIS_R_ERROR)
        return false;
    if (acl_refused(reply->str.p)) {
        die_of_acl(t, reply->str.p);
    } else if (strncmp(reply->str.p, "FOREIGN ", 8) == 0) {
        transport_die(t, reply->str.p + 8);
    } else {
        log_error("transport: Redis answered: %s", reply->str.p);
        redis_conn_drop(t->cmd, reply->str.p);
    }
    return true;
}

/* ---- registration ---- */

static void on_policy(const struct redis_reply *reply, void *arg)
{
    struct transport *t = arg;
    if (!reply || reply->kind != REDIS_R_ARRAY || reply->n < 2 || t->policy_told)
        return; /* CONFIG may be denied */
    struct slice policy = reply->elem[1]->str;
    t->policy_told = true;
    if (!slice_eq_str(policy, "noeviction"))
        log_warning("Redis has maxmemory-policy %.*s: it may evict queued messages and claims when "
                    "memory is short, and they are lost then. Set it to noeviction.",
                    (int)policy.len, policy.p);
}

static void on_entered(const struct redis_reply *reply, void *arg)
{
    struct transport *t = arg;
    if (!reply || t->state == TRANSPORT_DEAD || reply_failed(t, reply))
        return;
    if (t->state != TRANSPORT_ENTERING || reply->kind != REDIS_R_ARRAY)
        return;
    t->state = TRANSPORT_UP;
    reconcile(t, reply);
    peers_enter(t);
    claim_enter(t);
    (void)uv_timer_start(&t->sweep_timer, on_sweep_timer, FIRST_SWEEP_MS, 0);
    if (!t->announced && t->ev.on_up) {
        t->announced = true;
        t->ev.on_up(t->arg);
    }
}

static int write_queues(const struct transport *t, struct buf *dst)
{
    buf_append_char(dst, '[');
    for (size_t i = 0; i < t->n_queues; i++) {
        if (i)
            buf_append_str(dst, ", ");
        json_write_string(dst, slice_str(t->queues[i].name));
    }
    buf_append_char(dst, ']');
    return buf_ok(dst);
}

/* Registers, then sends again what had no answer: the server does it in this order. */
void transport_enter(struct transport *t)
{
    CLEANUP(buf_deinit) struct buf queues = BUF_INIT;
    if (t->state == TRANSPORT_ENTERING || t->state == TRANSPORT_DEAD)
        return;
    if (write_queues(t, &queues)) {
        transport_die(t, "out of memory");
        return;
    }
    t->state = TRANSPORT_ENTERING;
    t->epoch++;
    args_begin(t);
    args_str(t, t->node);
    args_add(t, buf_slice(&queues));
    args_str(t, redis_conn_run_id(t->cmd));
    for (size_t i = 0; i < t->n_queues; i++) {
        const char *name = t->queues[i].name;
        args_text(t, arena_printf(t->scratch, "%s_kombu.binding.%s", t->prefix, name));
        args_text(t, arena_printf(t->scratch, "%s_kombu.binding_permanent.%s", t->prefix, name));
        args_text(t, arena_printf(t->scratch, "%s%s%s%s", name, t->sep, t->sep, name));
    }
    args_eval(t, &script_enter, on_entered, t);
    ops_resend(t);
}

static void on_cmd_up(struct redis_conn *c, void *arg)
{
    struct transport *t = arg;
    int version = redis_conn_version(c);
    if (t->state == TRANSPORT_DEAD)
        return;
    if (version && version < MIN_VERSION) {
        char text[128];
        (void)snprintf(text, sizeof(text),
                       "the server is Redis %d.%d.%d; celeryc needs Redis 6.2 or newer",
                       version / 10000, version / 100 % 100, version % 100);
        transport_die(t, text);
        return;
    }
    t->state = TRANSPORT_DOWN;
    redis_commandv(c, on_policy, t, "CONFIG", "GET", "maxmemory-policy", NULL);
    transport_enter(t);
}

static void on_cmd_down(struct redis_conn *c, const char *reason, int64_t retry_ms, void *arg)
{
    struct transport *t = arg;
    (void)c;
    if (t->state == TRANSPORT_DEAD)
        return;
    t->state = TRANSPORT_DOWN;
    t->announced = false;
    t->claiming = false;
    t->batch_out = false;
    t->leave_sent = false;
    (void)uv_timer_stop(&t->sweep_timer);
    (void)uv_timer_stop(&t->check_timer);
    (void)uv_timer_stop(&t->promote_timer);
    peers_down(t);
    claim_down(t);
    if (acl_refused(reason)) {
        die_of_acl(t, reason);
        return;
    }
    if (t->ev.on_down)
        t->ev.on_down(reason, retry_ms, t->arg);
}

/* ---- leaving ---- */

static void end_leave(struct transport *t)
{
    void (*fn)(void *) = t->leave_fn;
    t->leave_fn = NULL;
    (void)uv_timer_stop(&t->leave_timer);
    if (fn)
        fn(t->leave_arg);
}

static void on_leave_timer(uv_timer_t *timer)
{
    end_leave(timer->data);
}

static void leave_turn(struct transport *t);

static void on_left(const struct redis_reply *reply, void *arg)
{
    struct transport *t = arg;
    t->leave_sent = false;
    if (!reply || t->state == TRANSPORT_DEAD)
        return;
    if (reply->kind != REDIS_R_INTEGER || reply->integer != 2) {
        end_leave(t);
        return;
    }
    /* Delayed messages are being given back: as long as that goes on there is no hurry. */
    (void)uv_timer_start(&t->leave_timer, on_leave_timer, (uint64_t)t->leave_ms, 0);
    leave_turn(t);
}

static void leave_turn(struct transport *t)
{
    if (!t->leave_fn || t->leave_sent || t->state != TRANSPORT_UP || t->claiming || !ops_idle(t))
        return;
    args_begin(t);
    args_i64(t, t->dead_after_ms);
    for (size_t i = 0; i < t->n_queues; i++) {
        args_str(t, t->queues[i].waiting);
        args_str(t, t->queues[i].keys[0]);
    }
    t->leave_sent = true;
    args_eval(t, &script_leave, on_left, t);
}

void transport_leave(struct transport *t, int64_t deadline_ms, void (*fn)(void *arg), void *arg)
{
    t->stopping = true;
    t->leaving = true;
    t->want = 0;
    t->leave_fn = fn;
    t->leave_arg = arg;
    if (t->state == TRANSPORT_DEAD)
        deadline_ms = 0;
    t->leave_ms = MAX(deadline_ms, 0);
    (void)uv_timer_start(&t->leave_timer, on_leave_timer, (uint64_t)t->leave_ms, 0);
}

/* ---- the end of a turn ---- */

static void on_turn(uv_prepare_t *h)
{
    struct transport *t = h->data;
    if (t->state == TRANSPORT_UP) {
        ops_turn(t);
        if (!t->leaving)
            claim_turn(t);
        leave_turn(t);
    }
    if (t->state != TRANSPORT_DEAD)
        redis_conn_flush(t->cmd);
    if (t->stop_fn)
        finish_stopping(t);
}

/* ---- life ---- */

static int copy_options(struct transport *t, const struct transport_options *o)
{
    const char *prefix = o->key_prefix ? o->key_prefix : "";
    t->endpoint = o->endpoint;
    t->node = slice_dup(slice_str(o->node));
    t->prefix = slice_dup(slice_str(prefix));
    t->sep = slice_dup(slice_str(o->sep ? o->sep : DEFAULT_SEP));
    const int *steps = o->priority_steps ? o->priority_steps : default_steps;
    t->n_steps = o->priority_steps ? o->n_priority_steps : ARRAY_SIZE(default_steps);
    ASSERT(t->n_steps > 0 && t->n_steps <= MAX_STEPS);
    memcpy(t->steps, steps, t->n_steps * sizeof(*steps));
    t->visibility_timeout_ms = o->visibility_timeout_ms ? o->visibility_timeout_ms : 3600000;
    t->lease_ms = o->lease_ms ? o->lease_ms : 30000;
    t->beat_ms = o->beat_ms ? o->beat_ms : 3000;
    t->dead_after_ms = o->dead_after_ms ? o->dead_after_ms : 12000;
    if (!t->node || !t->prefix || !t->sep)
        return -ENOMEM;
    t->k_workers = key_of(t, "celeryc:workers", NULL);
    t->k_worker = key_of(t, "celeryc:worker:%s", t->me);
    t->k_claims = key_of(t, "celeryc:claims:%s", t->me);
    t->k_running = key_of(t, "celeryc:running:%s", t->me);
    t->k_delayed = key_of(t, "celeryc:delayed", NULL);
    t->k_stray = key_of(t, "celeryc:stray", NULL);
    t->k_deaths = key_of(t, "celeryc:deaths:", NULL);
    t->k_unacked = key_of(t, "%s", o->unacked_key ? o->unacked_key : "unacked");
    t->k_index = key_of(t, "%s", o->unacked_index_key ? o->unacked_index_key : "unacked_index");
    t->k_mutex = key_of(t, "%s", o->unacked_mutex_key ? o->unacked_mutex_key : "unacked_mutex");
    return t->k_workers && t->k_worker && t->k_claims && t->k_running && t->k_delayed &&
                   t->k_stray && t->k_deaths && t->k_unacked && t->k_index && t->k_mutex
               ? 0
               : -ENOMEM;
}

static uv_timer_t *const *timers_of(struct transport *t, uv_timer_t *dst[8])
{
    uv_timer_t *all[] = {&t->beat_timer,  &t->lease_timer,   &t->check_timer, &t->promote_timer,
                         &t->sweep_timer, &t->unblock_timer, &t->leave_timer, NULL};
    memcpy(dst, all, sizeof(all));
    return dst;
}

static void init_handles(struct transport *t)
{
    uv_timer_t *timers[8];
    for (uv_timer_t *const *p = timers_of(t, timers); *p; p++) {
        (void)uv_timer_init(t->loop, *p);
        (*p)->data = t;
        t->n_handles++;
    }
    (void)uv_prepare_init(t->loop, &t->turn);
    t->turn.data = t;
    (void)uv_prepare_start(&t->turn, on_turn);
    uv_unref((uv_handle_t *)&t->turn);
    t->n_handles++;
}

struct transport *transport_new(uv_loop_t *loop, const struct transport_options *o,
                                const struct transport_events *ev, void *arg)
{
    struct transport *t = calloc(1, sizeof(*t));
    if (!t)
        return NULL;
    uint64_t id = 0;
    random_bytes(&id, sizeof(id));
    (void)snprintf(t->me, sizeof(t->me), "%016llx", (unsigned long long)id);
    t->loop = loop;
    t->ev = *ev;
    t->arg = arg;
    t->next_seq = 1;
    ops_setup(t);
    list_init(&t->peers);
    list_init(&t->adoptions);
    init_handles(t);
    t->scratch = arena_new();
    struct redis_conn_options co = {
        .endpoint = o->endpoint, .client_name = "celeryc", .scripts = transport_scripts};
    struct redis_callbacks cb = {on_cmd_up, on_cmd_down, NULL};
    t->cmd = redis_conn_new(loop, &co, &cb, t);
    if (t->cmd)
        t->late = result_late_new(loop, t->cmd);
    if (!t->scratch || !t->late || copy_options(t, o) || claim_setup(t, o))
        return transport_free(t);
    return t;
}

void transport_start(struct transport *t)
{
    redis_conn_start(t->cmd);
}

const char *transport_incarnation(const struct transport *t)
{
    return t->me;
}

const char *transport_server(const struct transport *t)
{
    return redis_conn_server(t->cmd);
}

static void on_closed(uv_handle_t *h)
{
    struct transport *t = h->data;
    if (--t->n_handles > 0)
        return;
    free(t->args);
    arena_free(t->scratch);
    free(t);
}

static void free_names(struct transport *t)
{
    char **all[] = {&t->node,      &t->prefix,    &t->sep,       &t->k_workers, &t->k_worker,
                    &t->k_claims,  &t->k_running, &t->k_delayed, &t->k_stray,   &t->k_deaths,
                    &t->k_unacked, &t->k_index,   &t->k_mutex};
    for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
        free(*all[i]);
        *all[i] = NULL;
    }
}

struct transport *transport_free(struct transport *t)
{
    if (!t)
        return NULL;
    t->state = TRANSPORT_DEAD;
    t->stop_fn = NULL;
    t->leave_fn = NULL;
    t->cmd = redis_conn_free(t->cmd);
    t->late = result_late_free(t->late);
    claim_teardown(t);
    peers_teardown(t);
    ops_teardown(t);
    free_names(t);
    uv_timer_t *timers[8];
    for (uv_timer_t *const *p = timers_of(t, timers); *p; p++)
        uv_close((uv_handle_t *)*p, on_closed);
    uv_close((uv_handle_t *)&t->turn, on_closed);
    return NULL;
}
