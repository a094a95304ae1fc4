/* SPDX-License-Identifier: Apache-2.0 */
/* The ends of a delivery. Each end is one call to the transport, which removes the claim and only then does the rest;
 * with a result backend of its own the record is stored there first. What must never happen: an end that is told twice,
 * or a record for a task whose claim was lost (except on a separate backend, where it cannot be known in time). */

#include "celeryc/worker/worker_priv.h"

#include "celeryc/base/log.h"
#include "celeryc/message/record.h"

#include <errno.h>
#include <string.h>

#define MAX_DEATHS      3     /* a message that killed so many children is set aside */
#define MAX_DEATHS_KEPT 10000 /* message ids whose deaths are remembered */

static void ended(enum transport_done done, void *arg)
{
    struct delivery *d = arg;
    struct worker *w = d->w;
    if (done == TRANSPORT_LOST && d->m.id.p)
        log_warning("the claim on " DELIVERY_FMT " was lost: its end here was discarded",
                    DELIVERY_ARGS(d));
    delivery_free(d);
    shutdown_step(w);
}

/* The full key in w->key; false when out of memory. */
static bool make_key(struct worker *w, struct slice id)
{
    const char *prefix = w->config->settings.result_keyprefix;
    buf_reset(&w->key);
    result_key(&w->key, prefix ? prefix : "", id);
    return buf_ok(&w->key) == 0;
}

static int64_t ttl_of(const struct worker *w, bool failure)
{
    const struct settings *s = &w->config->settings;
    return (int64_t)(failure && s->result_failure_expires >= 0 ? s->result_failure_expires
                                                               : s->result_expires);
}

/* ---- with a backend of its own: the record first, then the claim ---- */

/* What is to follow when the record is stored; lives in the delivery's arena. */
struct deferred {
    struct delivery *d;
    char *park_reason; /* NULL: finish */
    bool requeue;      /* return to the tail instead */
    size_t n;
    struct transport_push *push;
};

static void finish_now(struct delivery *d, const struct transport_record *record, size_t n,
                       const struct transport_push *push)
{
    transport_finish(d->w->transport, d->claim, record, n, push, ended, d);
}

static void stored(void *arg)
{
    const struct deferred *f = arg;
    struct delivery *d = f->d;
    if (f->park_reason)
        transport_park(d->w->transport, d->claim, f->park_reason, NULL, ended, d);
    else if (f->requeue)
        transport_return(d->w->transport, d->claim, false, true, ended, d);
    else
        finish_now(d, NULL, f->n, f->push);
}

static struct transport_push *keep_pushes(struct delivery *d, size_t n,
                                          const struct transport_push *push)
{
    struct transport_push *copy = arena_alloc_array(d->arena, n, sizeof(*copy));
    for (size_t i = 0; copy && i < n; i++) {
        char *queue = arena_strdup(d->arena, slice_str(push[i].queue));
        char *raw = arena_strdup(d->arena, push[i].raw);
        if (!queue || !raw)
            return NULL;
        copy[i] = (struct transport_push){queue, push[i].priority, {raw, push[i].raw.len}};
    }
    return copy;
}

/* One end with everything that it may carry. record's key and value may be in scratch memory. */
struct end {
    struct slice record; /* p NULL: none */
    bool failure;
    const char *park_reason;
    bool requeue; /* keep the record and return the message to the tail */
    size_t n;
    const struct transport_push *push;
};

static void end_elsewhere(struct delivery *d, const struct end *x, struct slice key)
{
    struct worker *w = d->w;
    struct deferred *f = arena_alloc(d->arena, sizeof(*f));
    struct transport_push *push = x->n ? keep_pushes(d, x->n, x->push) : NULL;
    char *reason = x->park_reason ? arena_strdup(d->arena, slice_str(x->park_reason)) : NULL;
    if (!f || (x->n && !push) || (x->park_reason && !reason)) {
        /* The claim stays: its lease brings the message back, or a peer reports it lost. */
        log_critical("out of memory at the end of " DELIVERY_FMT, DELIVERY_ARGS(d));
        delivery_free(d);
        return;
    }
    *f = (struct deferred){d, reason, x->requeue, x->n, push};
    result_backend_store(w->backend, key, x->record, ttl_of(w, x->failure), stored, f);
}

static void end(struct delivery *d, const struct end *x)
{
    struct worker *w = d->w;
    delivery_move(d, DELIVERY_LEAVING);
    bool keep = x->record.p && w->config->has_backend && d->m.id.p && make_key(w, d->m.id);
    if (keep && w->backend) {
        end_elsewhere(d, x, buf_slice(&w->key));
        return;
    }
    struct transport_record record = {.value = x->record, .ttl_s = ttl_of(w, x->failure)};
    if (keep)
        record.key = buf_slice(&w->key);
    const struct transport_record *told = keep ? &record : NULL;
    if (x->park_reason) {
        transport_park(w->transport, d->claim, x->park_reason, told, ended, d);
    } else if (x->requeue) {
        if (told)
            transport_store(w->transport, told, NULL, NULL);
        transport_return(w->transport, d->claim, false, true, ended, d);
    } else {
        finish_now(d, told, x->n, x->push);
    }
}

/* ---- the ends ---- */

static size_t collect_pushes(struct delivery *d, const struct outcome *o,
                             struct transport_push **ret_push)
{
    struct transport_push *push =
        o->n_messages ? arena_alloc_array(d->arena, o->n_messages, sizeof(*push)) : NULL;
    if (o->n_messages && !push)
        return SIZE_MAX;
    for (size_t i = 0; i < o->n_messages; i++) {
        const struct outcome_message *m = &o->messages[i];
        char *queue = arena_strdup(d->arena, m->queue);
        if (!queue)
            return SIZE_MAX;
        push[i] = (struct transport_push){queue, m->priority, m->raw};
    }
    *ret_push = push;
    return o->n_messages;
}

static void forget_deaths(struct delivery *d)
{
    if (map_len(d->w->deaths))
        (void)map_remove(d->w->deaths, d->m.id);
}

void finish_outcome(struct delivery *d, const struct outcome *o)
{
    forget_deaths(d);
    if (o->kind == OUTCOME_REJECT && o->requeue) {
        finish_return(d, false, true);
        return;
    }
    struct transport_push *push = NULL;
    size_t n = collect_pushes(d, o, &push);
    if (n == SIZE_MAX) {
        log_critical("out of memory at the end of " DELIVERY_FMT, DELIVERY_ARGS(d));
        delivery_free(d);
        return;
    }
    const struct end x = {
        .record = o->store ? o->record : SLICE_NULL,
        .failure = o->kind == OUTCOME_FAILURE || o->kind == OUTCOME_REJECT,
        .n = n,
        .push = push,
    };
    end(d, &x);
}

/* The record of a verdict in w->text; SLICE_NULL when it is not to be stored or memory ran out. */
static struct slice write_verdict(struct delivery *d, const char *status, const char *type,
                                  const char *module, struct slice args_json)
{
    struct worker *w = d->w;
    buf_reset(&w->text);
    if (!d->m.id.p || !w->config->has_backend || !task_stores_error(&w->settings, d->task, &d->m) ||
        task_write_verdict(&w->text, &w->settings, &d->m, status, type, module, args_json))
        return SLICE_NULL;
    return buf_slice(&w->text);
}

void finish_verdict(struct delivery *d, const char *status, const char *type, const char *module,
                    struct slice args_json)
{
    const struct end x = {.record = write_verdict(d, status, type, module, args_json),
                          .failure = str_eq(status, "FAILURE")};
    end(d, &x);
}

static void one_text_argument(struct buf *dst, const char *text)
{
    buf_append_char(dst, '[');
    json_write_string(dst, slice_str(text));
    buf_append_char(dst, ']');
}

void finish_park(struct delivery *d, const char *reason)
{
    CLEANUP(buf_deinit) struct buf args = BUF_INIT;
    one_text_argument(&args, reason);
    const struct end x = {.record = write_verdict(d, "FAILURE", "InvalidTaskError",
                                                  "celery.exceptions", buf_slice(&args)),
                          .failure = true,
                          .park_reason = reason};
    end(d, &x);
}

void finish_park_outcome(struct delivery *d, const char *reason, const struct outcome *o)
{
    const struct end x = {
        .record = o->store ? o->record : SLICE_NULL, .failure = true, .park_reason = reason};
    end(d, &x);
}

/* How often this message has killed a child of ours, this time included. */
static uintptr_t count_death(struct delivery *d)
{
    struct map *m = d->w->deaths;
    uintptr_t n = (uintptr_t)map_get(m, d->m.id) + 1;
    if (map_len(m) >= MAX_DEATHS_KEPT) {
        struct map *fresh = map_new();
        if (!fresh)
            return n;
        map_free(m);
        d->w->deaths = fresh;
    }
    return map_set(d->w->deaths, d->m.id, (void *)n) == 0 ? n : MAX_DEATHS;
}

static bool requeues_when_lost(const struct delivery *d)
{
    return d->task && d->late &&
           (d->task->reject_on_worker_lost || d->w->config->settings.reject_on_worker_lost);
}

/* A hard limit leaves a record; with acks_on_timeout off the message goes back as well. */
static void finish_timed_out(struct delivery *d)
{
    const struct settings *s = &d->w->config->settings;
    CLEANUP(buf_deinit) struct buf args = BUF_INIT;
    buf_appendf(&args, "[%.15g]", d->limits.hard);
    bool acks =
        (s->acks_on_timeout >= 0 ? s->acks_on_timeout != 0 : s->acks_on_failure_or_timeout) &&
        d->task->acks_on_failure;
    const struct end x = {.record = write_verdict(d, "FAILURE", "TimeLimitExceeded",
                                                  "billiard.exceptions", buf_slice(&args)),
                          .failure = true,
                          .requeue = d->late && !acks};
    end(d, &x);
}

void finish_lost(struct delivery *d, const char *text)
{
    if (d->kill == KILL_TIME_LIMIT) {
        finish_timed_out(d);
        return;
    }
    if (d->kill == KILL_REVOKED) {
        finish_verdict(d, "REVOKED", "TaskRevokedError", "celery.exceptions",
                       SLICE_LIT("[\"terminated\"]"));
        return;
    }
    if (d->kill != KILL_NONE && d->late) {
        finish_return(d, true, true);
        return;
    }
    CLEANUP(buf_deinit) struct buf args = BUF_INIT;
    one_text_argument(&args, text);
    struct end x = {.failure = true};
    if (requeues_when_lost(d)) {
        if (count_death(d) < MAX_DEATHS) {
            finish_return(d, false, true);
            return;
        }
        x.park_reason = text;
        forget_deaths(d);
        log_error("Task " DELIVERY_FMT " has killed %d children: it has been set aside in "
                  "celeryc:dead:%s",
                  DELIVERY_ARGS(d), MAX_DEATHS, d->claim->queue);
    }
    x.record =
        write_verdict(d, "FAILURE", "WorkerLostError", "billiard.exceptions", buf_slice(&args));
    end(d, &x);
}

void finish_return(struct delivery *d, bool head, bool redelivered)
{
    delivery_move(d, DELIVERY_LEAVING);
    transport_return(d->w->transport, d->claim, head, redelivered, ended, d);
}

void finish_delay(struct delivery *d)
{
    delivery_move(d, DELIVERY_LEAVING);
    transport_delay(d->w->transport, d->claim, d->m.eta_us, ended, d);
}

void finish_store(struct delivery *d, struct slice record)
{
    struct worker *w = d->w;
    if (!w->config->has_backend || !make_key(w, d->m.id))
        return;
    if (w->backend) {
        result_backend_store(w->backend, buf_slice(&w->key), record, ttl_of(w, false), NULL, NULL);
        return;
    }
    const struct transport_record r = {buf_slice(&w->key), record, ttl_of(w, false)};
    transport_store(w->transport, &r, NULL, NULL);
}
