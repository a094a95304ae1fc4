/* SPDX-License-Identifier: Apache-2.0 */
/* Waiting for messages and claiming them.
 *
 * An idle worker blocks in one BLMOVE <queue> <waiting list> per queue (the first MAX_WAITERS queues); the other
 * priority steps and queues are tracked (track.c). Either wake-up leads to a claim; messages are only ever taken by the
 * claim script. Per queue:
 *
 *   NONE --free slots, lists empty--> BLOCKED --message or timeout--> NONE
 *                                        |--no free slots--> UNBLOCKING --answer--> NONE
 *
 * `dirty` = the waiting list may hold something: set before a BLMOVE leaves, cleared by a claim that swept the list
 * while no BLMOVE was out. A waiter blocks only after its client id stands in our worker entry, so that a restorer can
 * kill it, and after clients of its earlier connections are killed.
 *
 * Redis serves whoever has blocked for longest, and a Python worker blocks anew every second: so a worker that passes
 * messages on to Python ones blocks briefly for a while, or it would take them back for ever.
 *
 * What must never happen: a message left in a waiting list while nobody will look, a BLMOVE out after
 * transport_stop_claiming has called back. */
#include <errno.h>
#include <string.h>

#include "celeryc/base/limits.h"
#include "celeryc/base/log.h"
#include "celeryc/message/json.h"
#include "celeryc/transport/transport_priv.h"

#define BLOCK_SECONDS     "5"
#define BRIEFLY_SECONDS   "0.5"
#define BLOCK_DEADLINE_MS 10000
#define CHECK_MS          30000
#define UNBLOCK_RETRY_MS  50
#define MAX_HOT_BYTES     4096

static void start_waiter(struct queue *q);
static void stop_waiters(struct transport *t);

/* ---- the claim ---- */

static void rotate(struct transport *t, const bool *delivered)
{
    size_t n = 0;
    CLEANUP(mem_free) size_t *next = calloc(t->n_queues + 1, sizeof(*next));
    if (!next)
        return;
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < t->n_queues; i++) {
            if (delivered[t->order[i]] == (pass == 1))
                next[n++] = t->order[i];
        }
    }
    memcpy(t->order, next, n * sizeof(*next));
}

static void give(struct transport *t, uint64_t seq, struct queue *q, bool started, struct slice raw)
{
    struct claim *c = claim_new(t, seq, raw, q->index, q->name);
    if (!c || held_add(t, seq, started)) {
        claim_free(c);
        transport_die(t, "out of memory");
        return;
    }
    c->started = started;
    if (t->stopping) {
        transport_return(t, c, true, false, NULL, NULL);
        claim_free(c);
        return;
    }
    t->ev.on_claim(c, t->arg);
}

/* What a claim call was made with; the reply is read by it. */
struct claim_call {
    struct transport *t;
    uint64_t first_seq;
    size_t n;
    bool *swept; /* per queue: no BLMOVE was out */
    size_t order[];
};

static void claim_call_free(struct claim_call *call)
{
    free(call->swept);
    free(call);
}

/* Messages were there although nothing had woken us. Once may be chance; twice without a wake-up between, and the
 * connections that should have woken us are made anew. */
static void watchdog(struct transport *t)
{
    if (++t->n_missed < 2)
        return;
    t->n_missed = 0;
    log_warning("transport: messages waited and no wake-up came; the waiting connections are made "
                "anew");
    redis_conn_drop(t->sub, "no wake-up came");
    for (size_t i = 0; i < t->n_queues; i++) {
        if (t->queues[i].conn)
            redis_conn_drop(t->queues[i].conn, "no wake-up came");
    }
}

static void read_claims(struct claim_call *call, const struct redis_reply *reply)
{
    struct transport *t = call->t;
    CLEANUP(mem_free) bool *delivered = calloc(t->n_queues + 1, sizeof(*delivered));
    size_t n = (reply->n - 1) / 3;
    if (n && t->checking)
        watchdog(t);
    for (size_t i = 0; i < n && t->state != TRANSPORT_DEAD; i++) {
        const struct redis_reply *at = reply->elem[1 + 3 * i];
        const struct redis_reply *raw = reply->elem[3 + 3 * i];
        int64_t pos = at->integer - 1;
        if (pos < 0 || (size_t)pos >= t->n_queues || raw->kind != REDIS_R_STRING)
            continue;
        struct queue *q = &t->queues[call->order[pos]];
        if (delivered)
            delivered[q->index] = true;
        give(t, call->first_seq + i, q, reply->elem[2 + 3 * i]->integer == 1, raw->str);
    }
    if (delivered && t->n_queues > 1 && t->state != TRANSPORT_DEAD)
        rotate(t, delivered);
}

static void on_claimed(const struct redis_reply *reply, void *arg)
{
    struct claim_call *call = arg;
    struct transport *t = call->t;
    t->claiming = false;
    if (!reply || t->state == TRANSPORT_DEAD) {
        claim_call_free(call);
        return; /* "enter" sorts out what it did */
    }
    if (is_gone(reply)) {
        transport_enter(t);
    } else if (!reply_failed(t, reply) && reply->kind == REDIS_R_ARRAY && reply->n > 0) {
        for (size_t i = 0; i < t->n_queues; i++) {
            if (call->swept[i])
                t->queues[i].dirty = false;
        }
        if (call->n > 0)
            t->maybe_more =
                reply->elem[0]->integer == 0 || t->n_invalidated != t->invalidated_at_claim;
        read_claims(call, reply);
        t->checking = false;
    }
    claim_call_free(call);
    finish_stopping(t);
}

static void send_claim(struct transport *t, size_t n)
{
    struct claim_call *call = calloc(1, sizeof(*call) + t->n_queues * sizeof(size_t));
    if (call)
        call->swept = calloc(t->n_queues + 1, sizeof(bool));
    if (!call || !call->swept) {
        free(call);
        transport_die(t, "out of memory");
        return;
    }
    call->t = t;
    call->n = n;
    call->first_seq = t->next_seq;
    t->next_seq += n;
    memcpy(call->order, t->order, t->n_queues * sizeof(size_t));
    args_begin(t);
    args_i64(t, (int64_t)call->first_seq);
    args_i64(t, (int64_t)n);
    args_seconds(t, t->lease_ms);
    args_add(t, t->hot && n ? (struct slice){t->hot, t->hot_len} : SLICE_LIT(""));
    args_i64(t, (int64_t)t->n_queues);
    args_i64(t, (int64_t)t->n_steps);
    args_i64(t, CLAIM_BUDGET);
    for (size_t i = 0; i < t->n_queues; i++) {
        struct queue *q = &t->queues[t->order[i]];
        args_str(t, q->tail);
        args_str(t, q->dirty ? q->waiting : "");
        for (size_t s = 0; s < t->n_steps; s++)
            args_str(t, q->keys[s]);
        call->swept[q->index] = q->dirty && q->wait == WAIT_NONE;
        q->woken = false;
    }
    t->claiming = true;
    t->invalidated_at_claim = t->n_invalidated;
    args_eval(t, &script_claim, on_claimed, call);
    free(t->hot);
    t->hot = NULL;
}

/* ---- delayed messages ---- */

static void on_claimed_delayed(const struct redis_reply *reply, void *arg)
{
    struct claim_call *call = arg;
    struct transport *t = call->t;
    if (reply && t->state == TRANSPORT_UP && !is_gone(reply) && !reply_failed(t, reply)) {
        for (size_t i = 0; i < reply->n / 2 && t->state != TRANSPORT_DEAD; i++) {
            int64_t at = reply->elem[2 * i]->integer - 1;
            if (at >= 0 && (size_t)at < t->n_queues)
                give(t, call->first_seq + i, &t->queues[at], false, reply->elem[2 * i + 1]->str);
        }
    }
    claim_call_free(call);
}

void transport_claim_delayed(struct transport *t, size_t n, const struct slice *names)
{
    struct claim_call *call =
        t->state == TRANSPORT_UP && !t->stopping ? calloc(1, sizeof(*call)) : NULL;
    if (!call)
        return;
    n = MIN(n, (size_t)LIMIT_CLAIM_BATCH);
    *call = (struct claim_call){.t = t, .first_seq = t->next_seq, .n = n};
    t->next_seq += n;
    args_begin(t);
    args_i64(t, (int64_t)call->first_seq);
    args_seconds(t, t->lease_ms);
    args_i64(t, (int64_t)t->n_queues);
    args_i64(t, (int64_t)t->n_steps);
    for (size_t i = 0; i < t->n_queues; i++) {
        args_str(t, t->queues[i].tail);
        for (size_t s = 0; s < t->n_steps; s++)
            args_str(t, t->queues[i].keys[s]);
    }
    for (size_t i = 0; i < n; i++)
        args_add(t, names[i]);
    args_eval(t, &script_claim_delayed, on_claimed_delayed, call);
}

void claim_turn(struct transport *t)
{
    /* What goes back to the head does so before the next claim, or order would suffer. */
    if (t->state != TRANSPORT_UP || t->claiming || t->reconciling || !list_empty(&t->heads))
        return;
    size_t n = t->stopping ? 0 : MIN(t->want, (size_t)LIMIT_CLAIM_BATCH);
    bool sweep = false;
    for (size_t i = 0; i < t->n_queues; i++) {
        struct queue *q = &t->queues[i];
        sweep = sweep || q->woken || (n == 0 && q->dirty && q->wait == WAIT_NONE);
    }
    if (sweep || (n > 0 && t->maybe_more)) {
        send_claim(t, n);
        return;
    }
    if (n == 0) {
        stop_waiters(t);
        return;
    }
    track_turn(t);
    for (size_t i = 0; i < t->n_queues && i < MAX_WAITERS; i++)
        start_waiter(&t->queues[i]);
}

void transport_want(struct transport *t, size_t n_free)
{
    t->want = n_free;
}

/* Claims whatever the wake-ups say: they are only ever an optimisation. */
void on_check_timer(uv_timer_t *timer)
{
    struct transport *t = timer->data;
    uint64_t ms = t->tracking ? CHECK_MS : CHECK_NO_TRACK_MS;
    (void)uv_timer_start(&t->check_timer, on_check_timer, ms, 0);
    if (t->state != TRANSPORT_UP)
        return;
    t->checking = !t->maybe_more;
    t->maybe_more = true;
    if (t->tracking)
        for (size_t i = 0; i < t->n_queues; i++)
            t->queues[i].dirty = true;
}

/* ---- waiters ---- */

static void on_moved(const struct redis_reply *reply, void *arg)
{
    struct queue *q = arg;
    struct transport *t = q->t;
    q->wait = WAIT_NONE;
    if (t->state == TRANSPORT_DEAD)
        return;
    if (!reply)
        return;
    if (reply->kind == REDIS_R_ERROR) {
        /* UNBLOCKED by a fail-over, or the key is no list: the claim of the next check goes on. */
        if (!acl_refused(reply->str.p) || !reply_failed(t, reply))
            redis_conn_drop(q->conn, reply->str.p);
        return;
    }
    if (reply->kind != REDIS_R_STRING)
        return;
    q->woken = true;
    t->n_missed = 0;
    if (t->hot || t->stopping || t->want == 0 || !t->ev.may_start ||
        reply->str.len >= MAX_HOT_BYTES || !t->ev.may_start(reply->str, t->arg))
        return;
    t->hot = slice_dup(reply->str);
    t->hot_len = reply->str.len;
}

static void start_waiter(struct queue *q)
{
    if (!q->conn)
        return;
    redis_conn_start(q->conn);
    if (!q->ready || q->wait != WAIT_NONE || !redis_conn_is_up(q->conn))
        return;
    bool briefly = (int64_t)uv_now(q->t->loop) < q->t->brief_until_ms;
    struct slice argv[] = {
        SLICE_LIT("BLMOVE"),   slice_str(q->keys[0]),
        slice_str(q->waiting), SLICE_LIT("RIGHT"),
        SLICE_LIT("LEFT"),     briefly ? SLICE_LIT(BRIEFLY_SECONDS) : SLICE_LIT(BLOCK_SECONDS)};
    q->wait = WAIT_BLOCKED;
    q->dirty = true;
    q->old_id = redis_conn_client_id(q->conn);
    (void)snprintf(q->old_run_id, sizeof(q->old_run_id), "%s", redis_conn_run_id(q->conn));
    redis_command(q->conn, on_moved, q, BLOCK_DEADLINE_MS, ARRAY_SIZE(argv), argv);
    redis_conn_flush(q->conn);
}

/* CLIENT UNBLOCK may come before the BLMOVE does; then it is sent again until the BLMOVE has answered. */
static void stop_waiters(struct transport *t)
{
    bool any = false;
    for (size_t i = 0; i < t->n_queues && i < MAX_WAITERS; i++) {
        struct queue *q = &t->queues[i];
        if (q->wait != WAIT_BLOCKED)
            continue;
        char id[24];
        (void)snprintf(id, sizeof(id), "%lld", (long long)redis_conn_client_id(q->conn));
        q->wait = WAIT_UNBLOCKING;
        redis_commandv(t->cmd, NULL, NULL, "CLIENT", "UNBLOCK", id, NULL);
        any = true;
    }
    if (any)
        (void)uv_timer_start(&t->unblock_timer, on_unblock_timer, UNBLOCK_RETRY_MS, 0);
}

void on_unblock_timer(uv_timer_t *timer)
{
    struct transport *t = timer->data;
    for (size_t i = 0; i < t->n_queues && i < MAX_WAITERS; i++) {
        if (t->queues[i].wait == WAIT_UNBLOCKING)
            t->queues[i].wait = WAIT_BLOCKED;
    }
    if (t->state == TRANSPORT_UP && (t->stopping || t->want == 0))
        stop_waiters(t);
}

static void on_told(const struct redis_reply *reply, void *arg)
{
    struct transport *t = arg;
    if (!reply || t->state != TRANSPORT_UP)
        return;
    if (is_gone(reply)) {
        transport_enter(t);
        return;
    }
    if (reply_failed(t, reply))
        return;
    for (size_t i = 0; i < t->n_queues && i < MAX_WAITERS; i++) {
        struct queue *q = &t->queues[i];
        q->ready = q->conn && redis_conn_is_up(q->conn);
    }
}

/* Every waiter's client id goes into our worker entry before any of them blocks. */
static void tell_waiters(struct transport *t)
{
    CLEANUP(buf_deinit) struct buf ids = BUF_INIT;
    for (size_t i = 0; i < t->n_queues && i < MAX_WAITERS; i++) {
        struct queue *q = &t->queues[i];
        if (q->conn && redis_conn_is_up(q->conn))
            buf_appendf(&ids, "%s%lld", ids.len ? " " : "",
                        (long long)redis_conn_client_id(q->conn));
    }
    if (!ids.len || buf_ok(&ids))
        return;
    args_begin(t);
    args_add(t, buf_slice(&ids));
    args_eval(t, &script_waiters, on_told, t);
}

/* A client of an earlier connection may still stand blocked at the server; its message would go to our list unseen. */
static void kill_old_client(struct queue *q)
{
    char id[24];
    if (!q->old_id || q->old_id == redis_conn_client_id(q->conn))
        return;
    (void)snprintf(id, sizeof(id), "%lld", (long long)q->old_id);
    if (str_eq(q->old_run_id, redis_conn_run_id(q->t->cmd)))
        redis_commandv(q->t->cmd, NULL, NULL, "CLIENT", "KILL", "ID", id, NULL);
    q->old_id = 0;
    q->woken = q->dirty = true; /* sweeps what that client brought */
}

static void on_waiter_up(struct redis_conn *conn, void *arg)
{
    struct queue *q = arg;
    (void)conn;
    if (q->t->state != TRANSPORT_UP)
        return;
    kill_old_client(q);
    tell_waiters(q->t);
}

static void on_waiter_down(struct redis_conn *conn, const char *reason, int64_t retry_ms, void *arg)
{
    struct queue *q = arg;
    (void)conn;
    q->ready = false;
    q->wait = WAIT_NONE;
    if (q->t->state == TRANSPORT_UP)
        log_debug("transport: waiter of queue %s lost: %s (again in %lld ms)", q->name, reason,
                  (long long)retry_ms);
}

/* ---- life ---- */

void claim_enter(struct transport *t)
{
    t->maybe_more = true;
    for (size_t i = 0; i < t->n_queues; i++) {
        struct queue *q = &t->queues[i];
        q->dirty = q->woken = true;
        q->ready = false;
        if (!q->conn)
            continue;
        redis_conn_hurry(q->conn);
        if (redis_conn_is_up(q->conn))
            kill_old_client(q);
    }
    tell_waiters(t);
    track_enter(t);
    (void)uv_timer_start(&t->check_timer, on_check_timer, CHECK_MS, 0);
}

/* The command connection is gone. The others most likely, too; they find out by themselves. */
void claim_down(struct transport *t)
{
    track_down(t);
    free(t->hot);
    t->hot = NULL;
    for (size_t i = 0; i < t->n_queues; i++) {
        struct queue *q = &t->queues[i];
        q->ready = false;
        if (q->conn)
            redis_conn_drop(q->conn, "the command connection was lost");
    }
    finish_stopping(t);
}

void finish_stopping(struct transport *t)
{
    if (!t->stop_fn || t->state == TRANSPORT_DEAD)
        return;
    if (t->state != TRANSPORT_DOWN) {
        if (t->state == TRANSPORT_ENTERING || t->claiming || !list_empty(&t->heads))
            return;
        for (size_t i = 0; i < t->n_queues; i++) {
            const struct queue *q = &t->queues[i];
            if (q->wait != WAIT_NONE || q->woken || q->dirty)
                return;
        }
    }
    void (*fn)(void *) = t->stop_fn;
    t->stop_fn = NULL;
    fn(t->stop_arg);
}

void transport_stop_claiming(struct transport *t, void (*fn)(void *arg), void *arg)
{
    t->stopping = true;
    t->stop_fn = fn;
    t->stop_arg = arg;
    t->want = 0;
    /* Called back from the loop: the claims and waiters that are out answer first. */
    (void)uv_timer_start(&t->unblock_timer, on_unblock_timer, 0, 0);
}

static int setup_queue(struct transport *t, struct queue *q, const char *name)
{
    CLEANUP(buf_deinit) struct buf tail = BUF_INIT;
    q->t = t;
    q->name = slice_dup(slice_str(name));
    buf_append_str(&tail, ", \"\", ");
    json_write_string(&tail, slice_str(name));
    buf_append_char(&tail, ']');
    q->tail = buf_take(&tail);
    for (size_t s = 0; s < t->n_steps; s++) {
        q->keys[s] = transport_list_key(t, name, t->steps[s]);
        if (!q->keys[s])
            return -ENOMEM;
    }
    CLEANUP(buf_deinit) struct buf waiting = BUF_INIT;
    buf_appendf(&waiting, "%sceleryc:waiting:%s:%s", t->prefix, t->me, name);
    q->waiting = buf_take(&waiting);
    return q->name && q->tail && q->waiting ? 0 : -ENOMEM;
}

int claim_setup(struct transport *t, const struct transport_options *o)
{
    while (o->queues[t->n_queues])
        t->n_queues++;
    ASSERT(t->n_queues > 0 && t->n_queues <= MAX_QUEUES);
    t->queues = calloc(t->n_queues, sizeof(*t->queues));
    t->order = calloc(t->n_queues, sizeof(*t->order));
    if (!t->queues || !t->order)
        return -ENOMEM;
    struct redis_conn_options co = {
        .endpoint = t->endpoint, .client_name = "celeryc-wait", .leader = t->cmd};
    struct redis_callbacks cb = {on_waiter_up, on_waiter_down, NULL};
    for (size_t i = 0; i < t->n_queues; i++) {
        struct queue *q = &t->queues[i];
        q->index = t->order[i] = i;
        if (setup_queue(t, q, o->queues[i]))
            return -ENOMEM;
        if (queue_has_waiter(q) && !(q->conn = redis_conn_new(t->loop, &co, &cb, q)))
            return -ENOMEM;
    }
    return track_setup(t);
}

void claim_teardown(struct transport *t)
{
    for (size_t i = 0; t->queues && i < t->n_queues; i++) {
        struct queue *q = &t->queues[i];
        q->conn = redis_conn_free(q->conn);
        free(q->name);
        free(q->tail);
        free(q->waiting);
        for (size_t s = 0; s < t->n_steps; s++)
            free(q->keys[s]);
    }
    t->sub = redis_conn_free(t->sub);
    free(t->queues);
    t->queues = NULL;
    free(t->order);
    free(t->hot);
    t->order = NULL;
    t->hot = NULL;
}
