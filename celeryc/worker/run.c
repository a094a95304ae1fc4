/* SPDX-License-Identifier: Apache-2.0 */
/* What the pool reports about jobs, and the lines that are logged for it, in Celery's words and under the name of the
 * child that ran the job. A job that is not in the table has left already: a late word about it is dropped. */

#include "celeryc/worker/worker_priv.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/log.h"
#include "celeryc/message/record.h"
#include "celeryc/worker/errback.h"

#include <errno.h>
#include <string.h>

static void on_started(uint64_t job, int pid, const char *process, void *arg)
{
    struct worker *w = arg;
    struct delivery *d = delivery_find(w, job);
    if (!d || d->state != DELIVERY_SENT)
        return;
    delivery_move(d, DELIVERY_RUNNING);
    d->pid = pid;
    d->started_us = clock_wall_us();
    (void)process;
    if (d->late)
        transport_note_start(w->transport, d->claim, d->m.id);
    remote_count(d);
    limits_start(d);
    shutdown_started(d);
    shutdown_step(w);
}

static void on_state(uint64_t job, struct slice record, void *arg)
{
    struct worker *w = arg;
    struct delivery *d = delivery_find(w, job);
    if (!d || (d->state != DELIVERY_RUNNING && d->state != DELIVERY_SENT))
        return;
    if (record.len == 0)
        transport_forget_deaths(w->transport, d->m.id);
    else
        finish_store(d, record);
}

static void on_send(uint64_t job, const struct outcome_message *m, void *arg)
{
    struct worker *w = arg;
    (void)job;
    CLEANUP(mem_free) char *queue = slice_dup(m->queue);
    if (!queue) {
        log_critical("out of memory: a message that a task sent is lost");
        return;
    }
    const struct transport_push push = {queue, m->priority, m->raw};
    transport_publish(w->transport, &push, NULL, NULL);
}

/* With a backend of its own: the chords are open, their messages may go. */
struct opened {
    struct worker *w;
    struct arena *arena;
    struct effects fx;
};

static struct opened *opened_free(struct opened *o)
{
    if (o)
        arena_free(o->arena);
    free(o);
    return NULL;
}

DEFINE_CLEANUP(struct opened, opened_free)

static void on_opened(enum result_done done, void *arg)
{
    struct opened *o = arg;
    struct transport_end end = effects_end(&o->fx);
    (void)done;
    end.effects = NULL;
    transport_apply(o->w->transport, &end, NULL, NULL);
    opened_free(o);
}

static int apply(struct worker *w, const struct canvas_effects *from)
{
    CLEANUP(opened_free) struct opened *o = calloc(1, sizeof *o);
    if (!o || !(o->arena = arena_new()))
        return -ENOMEM;
    o->w = w;
    int r =
        effects_make(w, o->arena, from, &(struct canvas_parent){{NULL, 0}, {NULL, 0}, 0}, &o->fx);
    if (r)
        return r;
    if (!w->backend || !o->fx.x.chords) {
        const struct transport_end end = effects_end(&o->fx);
        transport_apply(w->transport, &end, NULL, NULL);
        return 0;
    }
    r = effects_keep(o->arena, &o->fx);
    if (r == 0) {
        result_backend_apply(w->backend, NULL, &o->fx.x, on_opened, o);
        (void)STEAL(o);
    }
    return r;
}

static void on_apply(uint64_t job, const struct outcome *o, void *arg)
{
    struct worker *w = arg;
    CLEANUP(mem_free) struct canvas_message *messages = calloc(o->n_messages + 1, sizeof *messages);
    struct canvas_effects from = {.n_messages = o->n_messages,
                                  .n_starts = o->n_starts,
                                  .n_adds = o->n_adds,
                                  .messages = messages,
                                  .starts = o->starts,
                                  .adds = o->adds};
    (void)job;
    for (size_t i = 0; messages && i < o->n_messages; i++)
        messages[i] = (struct canvas_message){o->messages[i].queue, o->messages[i].priority,
                                              o->messages[i].raw};
    if (!messages || apply(w, &from))
        log_critical("out of memory: what a task applied is lost");
}

static void log_success(const struct delivery *d, const struct outcome *o)
{
    CLEANUP(buf_deinit) struct buf seconds = BUF_INIT;
    json_write_f64(&seconds, (double)o->runtime_ns / (double)NS_PER_S);
    log_info("Task " DELIVERY_FMT " succeeded in %ss: %.*s", DELIVERY_ARGS(d),
             seconds.data ? seconds.data : "", (int)o->repr.len, o->repr.p);
}

static void log_outcome(const struct delivery *d, const struct outcome *o)
{
    switch (o->kind) {
    case OUTCOME_SUCCESS:
        log_success(d, o);
        return;
    case OUTCOME_FAILURE:
        log_error("Task " DELIVERY_FMT " raised unexpected: %.*s\n%.*s", DELIVERY_ARGS(d),
                  (int)o->repr.len, o->repr.p, (int)o->traceback.len,
                  o->traceback.p ? o->traceback.p : "");
        return;
    case OUTCOME_RETRY:
        log_info("Task " DELIVERY_FMT " retry: %.*s", DELIVERY_ARGS(d), (int)o->repr.len,
                 o->repr.p);
        return;
    case OUTCOME_IGNORE:
        log_info("Task " DELIVERY_FMT " ignored", DELIVERY_ARGS(d));
        return;
    case OUTCOME_REJECT:
        log_warning("Task " DELIVERY_FMT " %.*s", DELIVERY_ARGS(d), (int)o->repr.len, o->repr.p);
        return;
    }
}

static enum log_level level_of(enum outcome_kind kind)
{
    if (kind == OUTCOME_FAILURE)
        return LOG_ERROR;
    return kind == OUTCOME_REJECT ? LOG_WARNING : LOG_INFO;
}

/* A child reports a body that it cannot decode as an ordinary failure; it is set aside like any other broken message. */
static bool park_if_broken(struct delivery *d, const struct outcome *o)
{
    static const char mark[] = "DecodeError(";
    struct message_body body;
    struct err e = ERR_INIT;
    if (o->kind != OUTCOME_FAILURE || o->repr.len < sizeof(mark) ||
        memcmp(o->repr.p, mark, sizeof(mark) - 1) != 0 ||
        message_body(d->arena, &d->m, &body, &e) != MESSAGE_E_POISON)
        return false;
    log_error("The message has been set aside in celeryc:dead:%s", d->claim->queue);
    finish_park_outcome(d, err_text(&e, -EINVAL), o);
    return true;
}

static void on_done(uint64_t job, const struct outcome *o, int pid, const char *process, void *arg)
{
    struct worker *w = arg;
    struct delivery *d = delivery_find(w, job);
    (void)pid;
    if (errback_is(job))
        errback_done(w, job);
    if (!d || (d->state != DELIVERY_RUNNING && d->state != DELIVERY_SENT))
        return;
    if (log_enabled(level_of(o->kind))) {
        log_set_process(process);
        log_outcome(d, o);
        log_set_process("MainProcess");
    }
    if (!park_if_broken(d, o))
        finish_outcome(d, o);
    receive_pump(w);
    shutdown_step(w);
}

static void write_lost_text(struct buf *dst, const struct delivery *d, const char *text, bool oom)
{
    if (d->kill == KILL_SHUTDOWN)
        buf_append_str(dst, "Worker was shut down before the task ended.");
    else
        buf_appendf(dst, "Worker exited prematurely: %s Job: %llu.%s", text,
                    (unsigned long long)d->number,
                    oom ? " The memory limit was reached (out of memory)." : "");
}

static void on_lost(uint64_t job, int pid, const char *text, bool oom, void *arg)
{
    struct worker *w = arg;
    struct delivery *d = delivery_find(w, job);
    if (errback_is(job))
        errback_lost(w, job, text);
    if (!d || (d->state != DELIVERY_RUNNING && d->state != DELIVERY_SENT))
        return;
    (void)pid;
    CLEANUP(buf_deinit) struct buf why = BUF_INIT;
    write_lost_text(&why, d, text, oom);
    if (d->kill == KILL_NONE)
        log_error("Task handler raised error: WorkerLostError('%s') in " DELIVERY_FMT,
                  why.data ? why.data : "", DELIVERY_ARGS(d));
    finish_lost(d, why.data ? why.data : "Worker exited prematurely.");
    receive_pump(w);
    shutdown_step(w);
}

static void on_recalled(uint64_t job, void *arg)
{
    struct worker *w = arg;
    struct delivery *d = delivery_find(w, job);
    if (errback_is(job))
        errback_recalled(w, job);
    if (d && (d->state == DELIVERY_SENT || d->state == DELIVERY_RUNNING))
        delivery_move_back(d);
    receive_pump(w);
    shutdown_step(w);
}

static void on_room(void *arg)
{
    receive_pump(arg);
}

static void on_ready(const struct task_registry *table, void *arg)
{
    worker_pool_ready(arg, table);
}

static void on_fatal(const char *reason, int exit_code, void *arg)
{
    worker_pool_failed(arg, reason, exit_code);
}

const struct pool_events run_pool_events = {
    .on_ready = on_ready,
    .on_started = on_started,
    .on_state = on_state,
    .on_send = on_send,
    .on_apply = on_apply,
    .on_done = on_done,
    .on_lost = on_lost,
    .on_recalled = on_recalled,
    .on_room = on_room,
    .on_fatal = on_fatal,
};
