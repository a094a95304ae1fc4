/* SPDX-License-Identifier: Apache-2.0 */
/* Wake-ups for the lists that no BLMOVE waits on: lower priorities, and queues beyond MAX_WAITERS.
 *
 * The command connection has CLIENT TRACKING on in OPTIN mode, redirected to the subscriber connection. When a claim
 * found everything empty each such list is read once by CLIENT CACHING YES + LLEN; its next change comes as one message
 * on __redis__:invalidate and the list counts as untracked again. Plain commands, because a script's reads are tracked
 * by what the EVALSHA declares in some versions of Redis and by what runs in others; OPTIN, because else every key that a
 * script reads would be tracked, too.
 *
 * What must never happen: a list counted as tracked across a new connection of either kind. */
#include <errno.h>
#include <string.h>

#include "celeryc/base/log.h"
#include "celeryc/transport/transport_priv.h"

#define INVALIDATE_CHANNEL "__redis__:invalidate"

static void forget_all(struct transport *t)
{
    for (size_t i = 0; i < t->n_queues; i++)
        memset(t->queues[i].tracked, 0, sizeof(t->queues[i].tracked));
    t->n_invalidated++;
    t->maybe_more = true;
}

static void on_tracking(const struct redis_reply *reply, void *arg)
{
    struct transport *t = arg;
    if (!reply || t->state == TRANSPORT_DEAD)
        return;
    t->tracking = reply->kind != REDIS_R_ERROR;
    forget_all(t);
    if (t->tracking)
        return;
    if (!t->tracking_denied)
        log_warning("CLIENT TRACKING is refused by the server (%s): queues are looked at every %d "
                    "ms instead. Allow it with: ACL SETUSER <user> +client &__redis__:invalidate",
                    reply->str.p, CHECK_NO_TRACK_MS);
    t->tracking_denied = true;
    on_check_timer(&t->check_timer);
}

static void on_subscribed(const struct redis_reply *reply, void *arg)
{
    struct transport *t = arg;
    char id[24];
    if (!reply || t->state != TRANSPORT_UP)
        return;
    if (reply->kind == REDIS_R_ERROR) {
        on_tracking(reply, t);
        return;
    }
    (void)snprintf(id, sizeof(id), "%lld", (long long)redis_conn_client_id(t->sub));
    redis_commandv(t->cmd, NULL, NULL, "CLIENT", "TRACKING", "OFF", NULL);
    redis_commandv(t->cmd, on_tracking, t, "CLIENT", "TRACKING", "ON", "REDIRECT", id, "OPTIN",
                   NULL);
}

static void subscribe(struct transport *t)
{
    if (t->state == TRANSPORT_UP && redis_conn_is_up(t->sub))
        redis_commandv(t->sub, on_subscribed, t, "SUBSCRIBE", INVALIDATE_CHANNEL, NULL);
}

static void on_sub_up(struct redis_conn *conn, void *arg)
{
    (void)conn;
    subscribe(arg);
}

static void on_sub_down(struct redis_conn *conn, const char *reason, int64_t retry_ms, void *arg)
{
    struct transport *t = arg;
    (void)conn;
    if (t->state == TRANSPORT_UP)
        log_debug("transport: subscriber lost: %s (again in %lld ms)", reason, (long long)retry_ms);
    t->tracking = false;
    forget_all(t);
}

static void forget_key(struct transport *t, struct slice key)
{
    for (size_t i = 0; i < t->n_queues; i++) {
        struct queue *q = &t->queues[i];
        for (size_t s = 0; s < t->n_steps; s++) {
            if (!slice_eq_str(key, q->keys[s]))
                continue;
            q->tracked[s] = false;
            t->n_invalidated++;
            t->maybe_more = true;
        }
    }
}

/* message, channel, [key, ...], or nil when the whole database was flushed. */
static void on_invalidated(struct redis_conn *conn, const struct redis_reply *reply, void *arg)
{
    struct transport *t = arg;
    (void)conn;
    t->n_missed = 0;
    if (reply->n < 3 || reply->elem[2]->kind != REDIS_R_ARRAY) {
        forget_all(t);
        return;
    }
    for (size_t i = 0; i < reply->elem[2]->n; i++)
        forget_key(t, reply->elem[2]->elem[i]->str);
}

static void on_length(const struct redis_reply *reply, void *arg)
{
    struct transport *t = arg;
    if (!reply || t->state == TRANSPORT_DEAD)
        return;
    if (reply->kind == REDIS_R_INTEGER && reply->integer > 0)
        t->maybe_more = true; /* it came between the claim and this look */
}

void track_turn(struct transport *t)
{
    if (!t->tracking)
        return;
    for (size_t i = 0; i < t->n_queues; i++) {
        struct queue *q = &t->queues[i];
        for (size_t s = queue_has_waiter(q) ? 1 : 0; s < t->n_steps; s++) {
            if (q->tracked[s])
                continue;
            q->tracked[s] = true;
            redis_commandv(t->cmd, NULL, NULL, "CLIENT", "CACHING", "YES", NULL);
            redis_commandv(t->cmd, on_length, t, "LLEN", q->keys[s], NULL);
        }
    }
}

void track_enter(struct transport *t)
{
    redis_conn_start(t->sub);
    redis_conn_hurry(t->sub);
    subscribe(t);
}

void track_down(struct transport *t)
{
    t->tracking = false;
    forget_all(t);
    redis_conn_drop(t->sub, "the command connection was lost"); /* it may be half-open, too */
}

int track_setup(struct transport *t)
{
    struct redis_conn_options co = {
        .endpoint = t->endpoint, .client_name = "celeryc-sub", .leader = t->cmd};
    struct redis_callbacks cb = {on_sub_up, on_sub_down, on_invalidated};
    t->sub = redis_conn_new(t->loop, &co, &cb, t);
    return t->sub ? 0 : -ENOMEM;
}
