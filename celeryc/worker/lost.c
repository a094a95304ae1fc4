/* SPDX-License-Identifier: Apache-2.0 */
/* The end of a task whose child, or whose node, died under it (celery/worker/request.py on_failure and on_timeout).
 *
 *     hard time limit -> FAILURE TimeLimitExceeded, once (Celery tells it twice)
 *     terminated      -> REVOKED
 *     killed by our own shutdown or beside another's limit -> a late-ack task goes back unmarked
 *     else            -> SUCCESS is there already: nothing more; retry_on_worker_lost: a retry; reject_on_worker_lost: back to
 *                        the queue, until it has died too often; else FAILURE WorkerLostError */

#include "celeryc/worker/worker_priv.h"

#include "celeryc/base/log.h"

#include <errno.h>

static bool requeues(const struct delivery *d)
{
    return d->task && d->late &&
           (d->task->reject_on_worker_lost || d->w->config->settings.reject_on_worker_lost);
}

static bool retries(const struct delivery *d)
{
    return d->task && d->m.id.p &&
           (d->task->retry_on_worker_lost || d->w->config->settings.retry_on_worker_lost);
}

/* A hard limit leaves a record; with acks_on_timeout off the message goes back as well. */
static void time_out(struct delivery *d)
{
    const struct settings *s = &d->w->config->settings;
    CLEANUP(buf_deinit) struct buf args = BUF_INIT;
    buf_appendf(&args, "[%.15g]", d->limits.hard);
    bool acks =
        (s->acks_on_timeout >= 0 ? s->acks_on_timeout != 0 : s->acks_on_failure_or_timeout) &&
        d->task->acks_on_failure;
    finish_failed(d, "TimeLimitExceeded", buf_slice(&args), d->late && !acks, NULL);
}

static void one_text_argument(struct buf *dst, const char *text)
{
    buf_append_char(dst, '[');
    json_write_string(dst, slice_str(text));
    buf_append_char(dst, ']');
}

/* ---- a worker lost ---- */

/* The next message leaves in the step that ends this one. False: it cannot be made. */
static bool retry(struct delivery *d, struct slice args)
{
    struct worker *w = d->w;
    CLEANUP(task_lost_retry_deinit) struct task_lost_retry r = {0};
    int rc = task_write_lost_retry(d->arena, &w->settings, d->task, &d->m, args, &r);
    if (rc) {
        log_error("Failed to retry task " DELIVERY_FMT " after worker was lost: %s",
                  DELIVERY_ARGS(d), rc < 0 ? err_errno(rc) : "its body cannot be read");
        return false;
    }
    const char *queue = d->claim->queue;
    struct canvas_message m = {queue ? slice_str(queue) : d->m.routing_key, d->m.priority,
                               buf_slice(&r.message)};
    struct canvas_effects fx = canvas_effects_init(d->arena);
    fx.n_messages = 1;
    fx.messages = &m;
    log_info("Task " DELIVERY_FMT " retry: %s", DELIVERY_ARGS(d), r.text.data);
    finish_with(d, r.record.len ? buf_slice(&r.record) : SLICE_NULL, &fx);
    return true;
}

/* ---- back to the queue ---- */

void finish_poison(struct delivery *d, const char *text)
{
    CLEANUP(buf_deinit) struct buf why = BUF_INIT;
    CLEANUP(buf_deinit) struct buf args = BUF_INIT;
    buf_appendf(&why, "%s It has died %d times while it ran.", text, TRANSPORT_MAX_DEATHS);
    log_error("Task " DELIVERY_FMT " has died %d times while it ran: it has been set aside in "
              "celeryc:dead:%s",
              DELIVERY_ARGS(d), TRANSPORT_MAX_DEATHS, d->claim->queue);
    one_text_argument(&args, why.data ? why.data : text);
    finish_failed(d, "WorkerLostError", buf_slice(&args), false, why.data ? why.data : text);
}

static void death_counted(enum transport_done done, void *arg)
{
    struct delivery *d = arg;
    if (done == TRANSPORT_POISON)
        finish_poison(d, d->lost_text);
    else if (done == TRANSPORT_DONE)
        finish_return(d, false, true);
    else
        finish_discard(d);
}

/* It comes back, unless it has died too often. */
static void return_the_lost(struct delivery *d, const char *text)
{
    d->lost_text = arena_strdup(d->arena, slice_str(text));
    if (!d->lost_text) {
        /* The claim stays: its lease brings the message back. */
        log_critical("out of memory at the end of " DELIVERY_FMT, DELIVERY_ARGS(d));
        delivery_free(d);
        return;
    }
    if (d->state != DELIVERY_LEAVING)
        delivery_move(d, DELIVERY_LEAVING);
    transport_count_death(d->w->transport, d->claim, d->m.id, death_counted, d);
}

static void lose(struct delivery *d, const char *text)
{
    CLEANUP(buf_deinit) struct buf args = BUF_INIT;
    one_text_argument(&args, text);
    bool used_up = retries(d) && d->task->max_retries >= 0 && d->m.retries >= d->task->max_retries;
    if (retries(d) && !used_up && retry(d, buf_slice(&args)))
        return;
    if (!used_up && requeues(d))
        return_the_lost(d, text);
    else
        finish_failed(d, "WorkerLostError", buf_slice(&args), false, NULL);
}

struct loss {
    struct delivery *d;
    char *text;
};

/* A record may have been stored by a run that did not get to its end (a backend of its own), or elsewhere: then errbacks
 * must not be called, and nothing runs again. */
static void looked(const struct lookup_result *r, void *arg)
{
    const struct loss *l = arg;
    if (!r->success) {
        lose(l->d, l->text);
        return;
    }
    log_warning("Task " DELIVERY_FMT " succeeded before the worker was lost: %s",
                DELIVERY_ARGS(l->d), l->text);
    const struct canvas_effects none = canvas_effects_init(l->d->arena);
    finish_with(l->d, SLICE_NULL, &none);
}

void finish_lost(struct delivery *d, const char *text)
{
    if (d->kill == KILL_TIME_LIMIT) {
        time_out(d);
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
    struct loss *l = arena_alloc(d->arena, sizeof(*l));
    char *kept = arena_strdup(d->arena, slice_str(text));
    if (d->kill != KILL_NONE || !l || !kept || !lookup_possible(d) ||
        task_ignores_result(&d->w->settings, d->task, &d->m) == TRI_YES) {
        lose(d, text);
        return;
    }
    *l = (struct loss){d, kept};
    d->looked = true;
    delivery_move(d, DELIVERY_LEAVING);
    lookup_record(d, looked, l);
}
