/* SPDX-License-Identifier: Apache-2.0 */
/* From a claim to the pool: parse, decide, wait for the eta, tell Redis that it starts, hand over.
 *
 * An early-ack task is handed to the pool only after Redis knows that it started; a late-ack task at once. Whatever
 * cannot be run leaves through finish.c, so that nothing stays claimed without a reason. */

#include "celeryc/worker/watchdog.h"
#include "celeryc/worker/worker_priv.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/limits.h"
#include "celeryc/base/log.h"
#include "celeryc/worker/errback.h"

#include <errno.h>

static struct slice raw_of(const struct claim *c)
{
    return (struct slice){c->raw, c->raw_len};
}

static bool acks_late(const struct worker *w, const struct task_info *task)
{
    return task->acks_late || w->config->settings.acks_late;
}

static void discard_expired(struct delivery *d)
{
    control_flag_revoked(d->w->control, d->m.id);
    log_info("Discarding revoked task: " DELIVERY_FMT, DELIVERY_ARGS(d));
    finish_verdict(d, "REVOKED", "TaskRevokedError", "celery.exceptions",
                   SLICE_LIT("[\"expired\"]"));
}

static void discard_revoked(struct delivery *d, const char *why)
{
    log_info("Discarding revoked task: " DELIVERY_FMT "%s", DELIVERY_ARGS(d), why);
    finish_verdict(d, "REVOKED", "TaskRevokedError", "celery.exceptions",
                   SLICE_LIT("[\"revoked\"]"));
}

/* Its id or a stamp of it was revoked: then it leaves. Asked before each run. */
static bool left_as_revoked(struct delivery *d)
{
    CLEANUP(buf_deinit) struct buf why = BUF_INIT;
    if (!control_revoked(d->w->control, &d->m, &why))
        return false;
    discard_revoked(d, why.data ? why.data : "");
    return true;
}

static enum admission decide(const struct worker *w, const struct task_info *task,
                             const struct message *m)
{
    const struct admission_facts f = {
        .task = task,
        .message = m,
        .now_us = clock_wall_us(),
        .held = w->n[DELIVERY_HELD],
        .held_limit = w->held_limit,
        .held_bytes = w->held_bytes,
    };
    return admission_decide(&f);
}

static void hold(struct delivery *d)
{
    int64_t wait_us = admission_due(&d->m) - clock_wall_us();
    delivery_move(d, DELIVERY_HELD);
    if (limits_hold(d, wait_us > 0 ? wait_us : 0)) {
        log_error("no memory to wait for the eta of " DELIVERY_FMT, DELIVERY_ARGS(d));
        delivery_move_back(d);
    }
}

static void admit(struct delivery *d)
{
    struct worker *w = d->w;
    d->task = task_registry_find(w->table, d->m.task);
    enum admission a = decide(w, d->task, &d->m);
    if (a != ADMISSION_UNKNOWN) {
        d->late = acks_late(w, d->task);
        log_info("Task " DELIVERY_FMT " received", DELIVERY_ARGS(d));
        if (a != ADMISSION_EXPIRED && control_revoked_id(w->control, d->m.id)) {
            discard_revoked(d, "");
            return;
        }
    }
    switch (a) {
    case ADMISSION_NOW:
        delivery_move(d, DELIVERY_RESERVED);
        return;
    case ADMISSION_HOLD:
        hold(d);
        return;
    case ADMISSION_DELAY:
        finish_delay(d, admission_due(&d->m));
        return;
    case ADMISSION_UNKNOWN:
        forward_unknown(d);
        return;
    case ADMISSION_EXPIRED:
        discard_expired(d);
        return;
    }
}

/* Parses the claim of a new delivery. Anything but true: it has left already. */
static bool parse(struct delivery *d)
{
    struct err e = ERR_INIT;
    int r = message_parse_as(d->arena, d->w->settings.wire, raw_of(d->claim), &d->m, &e);
    if (r == 0)
        return true;
    if (r == MESSAGE_E_POISON) {
        log_error("Received invalid message on queue %s: %s\n"
                  "It has been set aside in celeryc:dead:%s.",
                  d->claim->queue, err_text(&e, -EINVAL), d->claim->queue);
        finish_park(d, err_text(&e, -EINVAL));
    } else {
        log_error("cannot take a message of queue %s now: %s", d->claim->queue, err_text(&e, r));
        finish_return(d, false, false);
    }
    return false;
}

void receive_claim(struct claim *c_take, void *arg)
{
    struct worker *w = arg;
    watchdog_pat(w->watchdog);
    struct delivery *d = delivery_new(w, c_take);
    if (!d) {
        /* The lease brings the message back. */
        log_critical("out of memory: a claimed message stays unserved until its lease ends");
        return;
    }
    if (parse(d))
        admit(d);
    receive_pump(w);
    shutdown_step(w);
}

bool receive_may_start(struct slice raw, void *arg)
{
    struct worker *w = arg;
    if (w->phase != PHASE_RUNNING || w->n[DELIVERY_RESERVED] || !pool_free_slots(w->pool) ||
        pool_room(w->pool) <= w->n[DELIVERY_STARTING])
        return false;
    struct message m;
    arena_reset(w->scratch);
    if (message_parse_as(w->scratch, w->settings.wire, raw, &m, NULL))
        return false;
    const struct task_info *task = task_registry_find(w->table, m.task);
    return task && !acks_late(w, task) && decide(w, task, &m) == ADMISSION_NOW &&
           !control_revoked(w->control, &m, NULL);
}

void receive_orphan(struct claim *c_take, const char *dead_node, void *arg)
{
    struct worker *w = arg;
    struct delivery *d = delivery_new(w, c_take);
    if (!d) {
        log_critical("out of memory: an orphan of %s stays unfinished", dead_node);
        return;
    }
    if (!parse(d))
        return;
    d->task = task_registry_find(w->table, d->m.task);
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    buf_appendf(&text, "Worker exited prematurely: node %s died while it ran this task.",
                dead_node);
    log_error("Task " DELIVERY_FMT " was lost: node %s died while it ran it", DELIVERY_ARGS(d),
              dead_node);
    const char *why = text.data ? text.data : "Worker exited prematurely.";
    if (d->claim->poison)
        finish_poison(d, why);
    else
        finish_lost(d, why);
}

/* The wall clock may have been put back meanwhile. One that is due only because it has expired leaves at the hand-over. */
void receive_due(struct delivery *d)
{
    if (d->puzzled) {
        forward_due(d);
        return;
    }
    int64_t early_us = admission_due(&d->m) - clock_wall_us();
    if (early_us <= 0 || limits_hold(d, early_us))
        delivery_move_back(d);
}

/* ---- hand-over ---- */

static void submit(struct delivery *d)
{
    delivery_move(d, DELIVERY_SENT);
    pool_submit(d->w->pool, d->number, slice_str(d->claim->queue), raw_of(d->claim));
}

static void started(enum transport_done done, void *arg)
{
    struct delivery *d = arg;
    struct worker *w = d->w;
    if (done == TRANSPORT_LOST) {
        log_warning("the claim on " DELIVERY_FMT
                    " was lost before it started: another worker has it",
                    DELIVERY_ARGS(d));
        delivery_free(d);
    } else {
        d->claim->started = true;
        if (left_as_revoked(d))
            ;
        else if (w->phase == PHASE_RUNNING && pool_room(w->pool) > 0)
            submit(d);
        else
            delivery_move_back(d);
    }
    receive_pump(w);
    shutdown_step(w);
}

static void hand_over(struct delivery *d, int64_t now_us)
{
    if (admission_expired(&d->m, now_us)) {
        discard_expired(d);
        return;
    }
    if (left_as_revoked(d) || dedup_takes(d))
        return;
    if (d->late || d->claim->started) {
        submit(d);
        return;
    }
    delivery_move(d, DELIVERY_STARTING);
    transport_start_claim(d->w->transport, d->claim, started, d);
}

static struct capacity_facts capacity(const struct worker *w)
{
    return (struct capacity_facts){
        .accepting = w->phase == PHASE_RUNNING,
        .room = pool_room(w->pool),
        .free_slots = pool_free_slots(w->pool),
        .concurrency = w->config->concurrency,
        .multiplier = w->config->prefetch_multiplier,
        .no_prefetch = w->config->settings.disable_prefetch,
        .reserved = w->n[DELIVERY_RESERVED],
        .starting = w->n[DELIVERY_STARTING],
        .in_pool = w->n[DELIVERY_SENT] + w->n[DELIVERY_RUNNING],
    };
}

void receive_pump(struct worker *w)
{
    if (w->pumping || !w->transport)
        return;
    w->pumping = true;
    errbacks_pump(w);
    struct list *reserved = &w->lists[DELIVERY_RESERVED];
    struct capacity_facts f = capacity(w);
    if (!list_empty(reserved) && capacity_hand_over(&f)) {
        int64_t now_us = clock_wall_us();
        while (!list_empty(reserved) && capacity_hand_over(&f)) {
            hand_over(LIST_ENTRY(reserved->next, struct delivery, node), now_us);
            f = capacity(w);
        }
    }
    transport_want(w->transport, capacity_want(&f));
    w->pumping = false;
}
