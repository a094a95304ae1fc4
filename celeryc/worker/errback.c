/* SPDX-License-Identifier: Apache-2.0 */
/* Errbacks of the new style for failures that the master decides: jobs of their own for the pool, beside those of the
 * deliveries. They go first, are waited for by a warm shutdown, and run once: one whose child dies is only told. */

#include "celeryc/worker/errback.h"

#include "celeryc/base/log.h"
#include "celeryc/worker/worker_priv.h"

#include <errno.h>

#define ERRBACK_JOB (UINT64_C(1) << 63) /* deliveries are numbered from 1 */

struct errback {
    struct list node;
    uint64_t job;
    struct buf text;
    bool sent;
};

static struct errback *errback_free(struct errback *b)
{
    if (!b)
        return NULL;
    if (list_linked(&b->node))
        list_remove(&b->node);
    buf_deinit(&b->text);
    free(b);
    return NULL;
}

DEFINE_CLEANUP(struct errback, errback_free)

bool errback_is(uint64_t job)
{
    return (job & ERRBACK_JOB) != 0;
}

static struct errback *find(struct worker *w, uint64_t job)
{
    LIST_FOREACH(it, &w->errbacks) {
        struct errback *b = LIST_ENTRY(it, struct errback, node);
        if (b->job == job)
            return b;
    }
    return NULL;
}

static void drop(struct worker *w, struct errback *b)
{
    errback_free(b);
    w->n_errbacks--;
    shutdown_step(w);
}

static int add(struct worker *w, const struct canvas_call *c)
{
    CLEANUP(errback_free) struct errback *b = calloc(1, sizeof *b);
    if (!b || task_errback_write(&b->text, c))
        return -ENOMEM;
    b->job = ERRBACK_JOB | ++w->next_errback;
    list_push_back(&w->errbacks, &b->node);
    w->n_errbacks++;
    (void)STEAL(b);
    return 0;
}

void errbacks_add(struct worker *w, const struct canvas_effects *fx)
{
    for (size_t i = 0; i < fx->n_calls; i++) {
        const struct canvas_call *c = &fx->calls[i];
        if (w->pool_stopping)
            log_warning("an errback of %.*s[%.*s] is not called: the worker is leaving",
                        (int)c->task.len, c->task.p ? c->task.p : "", (int)c->task_id.len,
                        c->task_id.p ? c->task_id.p : "");
        else if (add(w, c))
            log_critical("out of memory: an errback is not called");
    }
    errbacks_pump(w);
}

void errbacks_pump(struct worker *w)
{
    if (w->pool_stopping)
        return;
    LIST_FOREACH(it, &w->errbacks) {
        struct errback *b = LIST_ENTRY(it, struct errback, node);
        if (b->sent)
            continue;
        if (pool_room(w->pool) == 0)
            return;
        b->sent = true;
        pool_submit(w->pool, b->job, SLICE_NULL, buf_slice(&b->text));
    }
}

void errback_done(struct worker *w, uint64_t job)
{
    struct errback *b = find(w, job);
    if (b)
        drop(w, b);
}

void errback_lost(struct worker *w, uint64_t job, const char *text)
{
    log_error("An errback was lost: Worker exited prematurely: %s", text);
    errback_done(w, job);
}

void errback_recalled(struct worker *w, uint64_t job)
{
    struct errback *b = find(w, job);
    if (b)
        b->sent = false;
    errbacks_pump(w);
}

void errbacks_drop(struct worker *w)
{
    if (w->n_errbacks)
        log_warning("worker: %zu errback(s) were not called to their end", w->n_errbacks);
    while (w->errbacks.next && !list_empty(&w->errbacks))
        errback_free(LIST_ENTRY(w->errbacks.next, struct errback, node));
    w->n_errbacks = 0;
}
