/* SPDX-License-Identifier: Apache-2.0 */
/* The ends of a delivery. Each end is one call to the transport, which removes the claim and only then does the rest;
 * with a result backend of its own the record is stored there first. What must never happen: an end that is told twice,
 * or a record for a task whose claim was lost (except on a separate backend, where it cannot be known in time). */

#include "celeryc/worker/worker_priv.h"

#include "celeryc/base/log.h"
#include "celeryc/message/record.h"
#include "celeryc/worker/chord.h"
#include "celeryc/worker/errback.h"

#include <errno.h>
#include <string.h>

static void ended(enum transport_done done, void *arg)
{
    struct delivery *d = arg;
    struct worker *w = d->w;
    if (done == TRANSPORT_LOST && d->m.id.p)
        log_warning("the claim on " DELIVERY_FMT " was lost: its end here was discarded",
                    DELIVERY_ARGS(d));
    if (done == TRANSPORT_CLAIMED)
        chord_claimed(w, d->effects);
    if (done != TRANSPORT_LOST && d->forget_deaths)
        transport_forget_deaths(w->transport, d->m.id);
    if (done != TRANSPORT_LOST && d->succeeded)
        dedup_remember(d);
    delivery_free(d);
    shutdown_step(w);
}

void finish_discard(struct delivery *d)
{
    ended(TRANSPORT_LOST, d);
}

/* Once it leaves it may be asked about in the store before the end is told. */
static void start_leaving(struct delivery *d)
{
    if (d->state != DELIVERY_LEAVING)
        delivery_move(d, DELIVERY_LEAVING);
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

/* One end with everything that it may carry. record's key and value may be in scratch memory; what follows from it is
 * in d->effects. */
struct end {
    struct slice record; /* p NULL: none */
    bool failure;
    const char *park_reason;
    bool requeue; /* keep the record and return the message to the tail */
};

/* ---- with a backend of its own: the record and the parts first, then the claim ---- */

/* What is to follow when the record is stored; lives in the delivery's arena. */
struct deferred {
    struct delivery *d;
    char *park_reason; /* NULL: finish */
    bool requeue;      /* return to the tail instead */
};

/* The effects without what the backend has done already. */
static struct transport_end pushes_of(const struct delivery *d)
{
    struct transport_end end = effects_end(d->effects);
    end.effects = NULL;
    return end;
}

static void stored(enum result_done done, void *arg)
{
    const struct deferred *f = arg;
    struct delivery *d = f->d;
    struct worker *w = d->w;
    const struct transport_end end = pushes_of(d);
    if (done == RESULT_CLAIMED)
        chord_claimed(w, d->effects);
    if (f->park_reason) {
        transport_park_with(w->transport, d->claim, f->park_reason, &end, ended, d);
    } else if (f->requeue) {
        transport_apply(w->transport, &end, NULL, NULL);
        transport_return(w->transport, d->claim, false, true, ended, d);
    } else {
        transport_finish_with(w->transport, d->claim, &end, ended, d);
    }
}

static void end_for_memory(struct delivery *d)
{
    /* The claim stays: its lease brings the message back, or a peer reports it lost. */
    log_critical("out of memory at the end of " DELIVERY_FMT, DELIVERY_ARGS(d));
    delivery_free(d);
}

static void end_elsewhere(struct delivery *d, const struct end *x,
                          const struct result_record *record)
{
    struct deferred *f = arena_alloc(d->arena, sizeof(*f));
    char *reason = x->park_reason ? arena_strdup(d->arena, slice_str(x->park_reason)) : NULL;
    if (!f || (x->park_reason && !reason) || (d->effects && effects_keep(d->arena, d->effects))) {
        end_for_memory(d);
        return;
    }
    *f = (struct deferred){d, reason, x->requeue};
    result_backend_apply(d->w->backend, record, d->effects ? &d->effects->x : NULL, stored, f);
}

/* ---- a compressed SUCCESS ---- */

static void end(struct delivery *d, const struct end *x);

/* An end that waits for a look at what is stored; lives in the delivery's arena. */
struct looking {
    struct delivery *d;
    struct end x;
};

static void looked(const struct lookup_result *r, void *arg)
{
    struct looking *l = arg;
    if (r->success)
        l->x.record = SLICE_NULL;
    end(l->d, &l->x);
}

/* The script that stores does not overwrite SUCCESS, but it cannot see it in a compressed record (result_compression of a
 * Python worker). Only what was delivered before can have one. */
static bool looks_first(struct delivery *d, const struct end *x)
{
    static const char success[] = "{\"status\": \"SUCCESS\"";
    if (!d->m.redelivered || d->looked || !x->record.p || !lookup_possible(d) ||
        (x->record.len >= sizeof(success) &&
         memcmp(x->record.p, success, sizeof(success) - 1) == 0))
        return false;
    struct looking *l = arena_alloc(d->arena, sizeof(*l));
    char *record = arena_strdup(d->arena, x->record);
    char *reason = x->park_reason ? arena_strdup(d->arena, slice_str(x->park_reason)) : NULL;
    if (!l || !record || (x->park_reason && !reason) ||
        (d->effects && effects_keep(d->arena, d->effects))) {
        end_for_memory(d);
        return true;
    }
    *l = (struct looking){d, *x};
    l->x.record.p = record;
    l->x.park_reason = reason;
    d->looked = true;
    lookup_record(d, looked, l);
    return true;
}

/* ---- all in one step ---- */

static void end(struct delivery *d, const struct end *x)
{
    struct worker *w = d->w;
    start_leaving(d);
    if (looks_first(d, x))
        return;
    /* Only what came back can have died before. A message that is set aside starts from zero if it is ever retried. */
    d->forget_deaths = d->m.id.p && !x->requeue && (d->m.redelivered || x->park_reason);
    bool keep = x->record.p && w->config->has_backend && d->m.id.p && make_key(w, d->m.id);
    int64_t ttl_s = ttl_of(w, x->failure);
    bool effects = d->effects && (d->effects->x.n_records || d->effects->x.chords);
    if (w->backend && (keep || effects)) {
        const struct result_record record = {buf_slice(&w->key), x->record, ttl_s};
        end_elsewhere(d, x, keep ? &record : NULL);
        return;
    }
    struct transport_record record = {.value = x->record, .ttl_s = ttl_s};
    if (keep)
        record.key = buf_slice(&w->key);
    struct transport_end all = effects_end(d->effects);
    all.record = keep ? &record : NULL;
    if (x->park_reason) {
        transport_park_with(w->transport, d->claim, x->park_reason, &all, ended, d);
    } else if (x->requeue) {
        transport_apply(w->transport, &all, NULL, NULL);
        transport_return(w->transport, d->claim, false, true, ended, d);
    } else {
        transport_finish_with(w->transport, d->claim, &all, ended, d);
    }
}

/* ---- what follows ---- */

static int take_effects(struct delivery *d, const struct canvas_effects *fx)
{
    if (fx->n_messages + fx->n_records + fx->n_parts + fx->n_starts + fx->n_adds == 0)
        return 0;
    const struct canvas_parent p = {d->m.id, d->m.root_id.p ? d->m.root_id : d->m.id,
                                    d->m.priority};
    struct effects *e = arena_alloc(d->arena, sizeof(*e));
    int r = e ? effects_make(d->w, d->arena, fx, &p, e) : -ENOMEM;
    if (r < 0)
        return r;
    e->chords.redelivered = d->m.redelivered;
    d->effects = e;
    return 0;
}

static int take_outcome(struct delivery *d, const struct outcome *o)
{
    struct canvas_effects fx = {
        .n_messages = o->n_messages,
        .n_records = o->n_records,
        .n_parts = o->n_parts,
        .n_starts = o->n_starts,
        .n_adds = o->n_adds,
        .records = o->records,
        .parts = o->parts,
        .starts = o->starts,
        .adds = o->adds,
    };
    fx.messages = arena_alloc_array(d->arena, o->n_messages, sizeof(*fx.messages));
    if (!fx.messages)
        return -ENOMEM;
    for (size_t i = 0; i < o->n_messages; i++) {
        const struct outcome_message *m = &o->messages[i];
        fx.messages[i] = (struct canvas_message){m->queue, m->priority, m->raw};
    }
    return take_effects(d, &fx);
}

/* A task that did not end by itself fails like any other: its chord part is counted, the steps behind it fail, its
 * errbacks are called. Celery forgets some of this, and chords stall (wire-messages 4.7). */
static int take_verdict(struct delivery *d, const char *status, const char *type,
                        const char *module, struct slice args_json)
{
    struct canvas_effects fx = canvas_effects_init(d->arena);
    int r = task_verdict_effects(d->w->table, &d->w->settings, &d->m, str_eq(status, "REVOKED"),
                                 type, module, args_json, &fx);
    if (r == 0)
        r = take_effects(d, &fx);
    if (r == 0)
        errbacks_add(d->w, &fx);
    return r;
}

/* ---- the ends ---- */

void finish_outcome(struct delivery *d, const struct outcome *o)
{
    d->succeeded = o->kind == OUTCOME_SUCCESS;
    if (o->kind == OUTCOME_REJECT && o->requeue) {
        finish_return(d, false, true);
        return;
    }
    if (take_outcome(d, o)) {
        end_for_memory(d);
        return;
    }
    const struct end x = {
        .record = o->store ? o->record : SLICE_NULL,
        .failure = o->kind == OUTCOME_FAILURE || o->kind == OUTCOME_REJECT,
    };
    end(d, &x);
}

/* The record of a verdict in w->text; SLICE_NULL when it is not to be stored or memory ran out. */
static struct slice write_record(struct delivery *d, const char *status, const char *type,
                                 const char *module, struct slice args_json)
{
    struct worker *w = d->w;
    buf_reset(&w->text);
    if (!d->m.id.p || !w->config->has_backend || !task_stores_error(&w->settings, d->task, &d->m) ||
        task_write_verdict(&w->text, &w->settings, &d->m, status, type, module, args_json))
        return SLICE_NULL;
    return buf_slice(&w->text);
}

/* Record and consequences of a task that did not end by itself. False: out of memory, and it has ended already. */
static bool judge(struct delivery *d, const char *status, const char *type, const char *module,
                  struct slice args_json, struct end *x)
{
    if (take_verdict(d, status, type, module, args_json)) {
        end_for_memory(d);
        return false;
    }
    x->record = write_record(d, status, type, module, args_json);
    x->failure = str_eq(status, "FAILURE");
    return true;
}

void finish_verdict(struct delivery *d, const char *status, const char *type, const char *module,
                    struct slice args_json)
{
    struct end x = {0};
    if (judge(d, status, type, module, args_json, &x))
        end(d, &x);
}

void finish_failed(struct delivery *d, const char *type, struct slice args_json, bool requeue,
                   const char *park_reason)
{
    struct end x = {.requeue = requeue, .park_reason = park_reason};
    if (judge(d, "FAILURE", type, "billiard.exceptions", args_json, &x))
        end(d, &x);
}

void finish_with(struct delivery *d, struct slice record, const struct canvas_effects *fx)
{
    if (take_effects(d, fx))
        end_for_memory(d);
    else
        end(d, &(struct end){.record = record});
}

void finish_unregistered(struct delivery *d, const char *park_reason)
{
    CLEANUP(buf_deinit) struct buf args = BUF_INIT;
    buf_append_char(&args, '[');
    json_write_string(&args, d->m.task);
    buf_append_char(&args, ']');
    struct end x = {.park_reason = park_reason};
    if (judge(d, "FAILURE", "NotRegistered", "celery.exceptions", buf_slice(&args), &x))
        end(d, &x);
}

void finish_park_plain(struct delivery *d, const char *reason)
{
    end(d, &(struct end){.park_reason = reason});
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
    struct end x = {.park_reason = reason};
    const char *type = "InvalidTaskError", *module = "celery.exceptions";
    if (d->m.refused) {
        type = "ContentDisallowed";
        module = "kombu.exceptions";
    } else if (d->m.eta_out_of_range) { /* the one such failure that Celery stores */
        type = "OverflowError";
        module = "builtins";
    }
    one_text_argument(&args, d->m.eta_out_of_range ? "date value out of range" : reason);
    if (judge(d, "FAILURE", type, module, buf_slice(&args), &x))
        end(d, &x);
}

void finish_park_outcome(struct delivery *d, const char *reason, const struct outcome *o)
{
    if (take_outcome(d, o)) {
        end_for_memory(d);
        return;
    }
    const struct end x = {
        .record = o->store ? o->record : SLICE_NULL, .failure = true, .park_reason = reason};
    end(d, &x);
}

void finish_return(struct delivery *d, bool head, bool redelivered)
{
    start_leaving(d);
    transport_return(d->w->transport, d->claim, head, redelivered, ended, d);
}

static void put_by(enum transport_done done, void *arg)
{
    struct delivery *d = arg;
    /* Revoked on its way there: whoever looked for it did not find it. */
    if (done == TRANSPORT_DONE && control_revoked_id(d->w->control, d->m.id))
        transport_claim_delayed(d->w->transport, 1, &d->m.id);
    ended(done, d);
}

void finish_delay(struct delivery *d, int64_t due_us)
{
    delivery_move(d, DELIVERY_LEAVING);
    transport_delay(d->w->transport, d->claim, d->m.id, due_us, put_by, d);
}

void finish_forward(struct delivery *d, struct slice raw, int64_t due_us)
{
    delivery_move(d, DELIVERY_LEAVING);
    transport_forward(d->w->transport, d->claim, d->m.id, raw, due_us, put_by, d);
}

void finish_store(struct delivery *d, struct slice record)
{
    struct worker *w = d->w;
    if (!w->config->has_backend || !make_key(w, d->m.id))
        return;
    if (w->backend) {
        const struct result_record r = {buf_slice(&w->key), record, ttl_of(w, false)};
        result_backend_apply(w->backend, &r, NULL, NULL, NULL);
        return;
    }
    const struct transport_record r = {buf_slice(&w->key), record, ttl_of(w, false)};
    transport_store(w->transport, &r, NULL, NULL);
}
