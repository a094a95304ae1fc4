/* SPDX-License-Identifier: Apache-2.0 */
/* Liveness: our beat, our leases, and who has died.
 *
 * A peer is dead when its score stood still for dead_after while we looked: each look adds the time since the last one,
 * but never more than one and a half beats, so that a pause of ours or of the server counts little. A new connection or
 * a new run of the server starts the count again. The dead are restored one at a time (restore.c).
 *
 * Claims that have not started stand in `unacked` with a score one lease in the future, renewed every third of it. */
#include <string.h>

#include "celeryc/base/clock.h"
#include "celeryc/base/num.h"
#include "celeryc/transport/transport_priv.h"

#define RENEW_AT_ONCE 500

static struct peer *peer_find(struct transport *t, struct slice id)
{
    LIST_FOREACH(it, &t->peers) {
        struct peer *p = LIST_ENTRY(it, struct peer, link);
        if (slice_eq_str(id, p->id))
            return p;
    }
    return NULL;
}

static void peer_free(struct peer *p)
{
    list_remove(&p->link);
    free(p->id);
    free(p->score);
    free(p);
}

static void peer_add(struct transport *t, struct slice id, struct slice score, int64_t now)
{
    struct peer *p = calloc(1, sizeof(*p));
    if (!p)
        return; /* the next look tries again */
    list_push_back(&t->peers, &p->link);
    p->id = slice_dup(id);
    p->score = slice_dup(score);
    p->seen_ms = now;
    p->present = true;
    if (!p->id || !p->score)
        peer_free(p);
}

static void peer_look(struct transport *t, struct peer *p, struct slice score, int64_t now)
{
    p->present = true;
    if (!slice_eq_str(score, p->score)) {
        char *copy = slice_dup(score);
        if (copy) {
            free(p->score);
            p->score = copy;
        }
        p->still_ms = 0;
        p->strange = false;
    } else {
        p->still_ms += MIN(now - p->seen_ms, t->beat_ms + t->beat_ms / 2);
    }
    p->seen_ms = now;
}

/* Forgets who left, restores one who died. */
static void judge(struct transport *t)
{
    const struct peer *dead = NULL;
    LIST_FOREACH(it, &t->peers) {
        struct peer *p = LIST_ENTRY(it, struct peer, link);
        if (!p->present)
            peer_free(p);
        else if (p->still_ms >= t->dead_after_ms && !dead && !p->strange)
            dead = p;
    }
    if (dead && !t->restore && !t->stopping)
        restore_begin(t, dead);
}

bool transport_is_first(const struct transport *t)
{
    if (t->state != TRANSPORT_UP)
        return false;
    LIST_FOREACH(it, &t->peers) {
        const struct peer *p = LIST_ENTRY(it, struct peer, link);
        if (p->still_ms < t->dead_after_ms && strcmp(p->id, t->me) < 0)
            return false;
    }
    return true;
}

static void on_beaten(const struct redis_reply *reply, void *arg)
{
    struct transport *t = arg;
    t->beating = false;
    if (!reply || t->state != TRANSPORT_UP)
        return;
    if (is_gone(reply)) {
        transport_enter(t);
        return;
    }
    if (reply_failed(t, reply) || reply->kind != REDIS_R_ARRAY || reply->n < 2)
        return;
    t->clock_offset_ms = reply->elem[0]->integer - clock_wall_us() / 1000;
    double due = 0;
    if (reply->elem[1]->str.len && num_parse_f64(reply->elem[1]->str, &due) == 0)
        promote_expect(t, (int64_t)due);
    int64_t now = (int64_t)uv_now(t->loop);
    LIST_FOREACH(it, &t->peers)
        LIST_ENTRY(it, struct peer, link)->present = false;
    for (size_t i = 2; i + 1 < reply->n; i += 2) {
        struct slice id = reply->elem[i]->str, score = reply->elem[i + 1]->str;
        struct peer *p = peer_find(t, id);
        if (slice_eq_str(id, t->me))
            continue;
        if (p)
            peer_look(t, p, score, now);
        else
            peer_add(t, id, score, now);
    }
    judge(t);
}

void on_beat_timer(uv_timer_t *timer)
{
    struct transport *t = timer->data;
    if (t->state != TRANSPORT_UP || t->beating)
        return;
    t->beating = true;
    args_begin(t);
    args_eval(t, &script_beat, on_beaten, t);
}

static void on_renewed(const struct redis_reply *reply, void *arg)
{
    struct transport *t = arg;
    if (reply && t->state == TRANSPORT_UP)
        (void)reply_failed(t, reply);
}

void on_lease_timer(uv_timer_t *timer)
{
    struct transport *t = timer->data;
    if (t->state != TRANSPORT_UP)
        return;
    struct list *it = t->held.next;
    while (it != &t->held) {
        size_t n = 0;
        args_begin(t);
        args_seconds(t, t->lease_ms);
        for (; it != &t->held && n < RENEW_AT_ONCE; it = it->next) {
            const struct held *h = LIST_ENTRY(it, struct held, link);
            if (h->started)
                continue;
            const char *field =
                arena_printf(t->scratch, FIELD_FORMAT, t->me, (unsigned long long)h->seq);
            if (!field)
                return; /* the next third of the lease tries again */
            args_str(t, field);
            n++;
        }
        if (n)
            args_eval(t, &script_renew, on_renewed, t);
    }
}

void peers_enter(struct transport *t)
{
    LIST_FOREACH(it, &t->peers) {
        struct peer *p = LIST_ENTRY(it, struct peer, link);
        p->still_ms = 0;
        p->seen_ms = (int64_t)uv_now(t->loop);
    }
    (void)uv_timer_start(&t->beat_timer, on_beat_timer, 0, (uint64_t)t->beat_ms);
    /* At once: what we held through an outage has an old lease. */
    (void)uv_timer_start(&t->lease_timer, on_lease_timer, 0, (uint64_t)(t->lease_ms / 3));
}

void peers_down(struct transport *t)
{
    t->beating = false;
    (void)uv_timer_stop(&t->beat_timer);
    (void)uv_timer_stop(&t->lease_timer);
    restore_cancel(t);
}

void peers_teardown(struct transport *t)
{
    restore_teardown(t);
    while (!list_empty(&t->peers))
        peer_free(LIST_ENTRY(t->peers.next, struct peer, link));
}
