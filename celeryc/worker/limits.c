/* SPDX-License-Identifier: Apache-2.0 */
/* One timer for every eta and every time limit. Its callback takes what is due, one by one, and sets itself again. */

#include "celeryc/worker/worker_priv.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/log.h"

#include <math.h>
#include <signal.h>

static void set_timer(struct worker *w)
{
    const struct due *first = due_first(&w->due);
    if (!first) {
        (void)uv_timer_stop(&w->due_timer);
        w->due_at_ns = 0;
        return;
    }
    if (w->due_at_ns == first->at_ns)
        return;
    w->due_at_ns = first->at_ns;
    int64_t wait_ns = first->at_ns - clock_mono_ns();
    uint64_t wait_ms = wait_ns > 0 ? (uint64_t)((wait_ns + NS_PER_MS - 1) / NS_PER_MS) : 0;
    uv_update_time(&w->loop);
    (void)uv_timer_start(&w->due_timer, limits_tick, wait_ms, 0);
}

int limits_hold(struct delivery *d, int64_t wait_us)
{
    int r = due_set(&d->w->due, &d->due, clock_mono_ns() + wait_us * 1000);
    set_timer(d->w);
    return r;
}

static int64_t limit_ns(double seconds)
{
    return seconds < 1e9 ? (int64_t)ceil(seconds * (double)NS_PER_S) : INT64_MAX / 4;
}

/* The next limit of a running delivery: soft first, unless hard comes earlier. */
static void arm(struct delivery *d)
{
    bool soft = d->limits.soft > 0 && !d->soft_done &&
                !(d->limits.hard > 0 && d->limits.hard <= d->limits.soft);
    double next = soft ? d->limits.soft : d->limits.hard;
    if (next <= 0)
        return;
    if (due_set(&d->w->due, &d->due, d->started_ns + limit_ns(next)))
        log_error("no memory to watch the time limit of " DELIVERY_FMT, DELIVERY_ARGS(d));
    set_timer(d->w);
}

void limits_start(struct delivery *d)
{
    const struct limits *told =
        map_len(d->w->time_limits) ? map_get(d->w->time_limits, d->m.task) : NULL;
    struct task_info task = *d->task;
    if (told) {
        task.soft_time_limit = told->soft;
        task.time_limit = told->hard;
    }
    d->limits = limits_of(&d->m, &task, d->w->config->soft_time_limit, d->w->config->time_limit);
    if (d->limits.soft <= 0 && d->limits.hard <= 0)
        return;
    d->started_ns = clock_mono_ns();
    arm(d);
}

void limits_stop(struct delivery *d)
{
    if (!d->due.slot)
        return;
    due_clear(&d->w->due, &d->due);
    set_timer(d->w);
}

/* With threads the whole child goes: the tasks beside this one did nothing wrong and are given back where they can. */
static void mark_neighbours(const struct delivery *d)
{
    LIST_FOREACH(it, &d->w->lists[DELIVERY_RUNNING]) {
        struct delivery *other = LIST_ENTRY(it, struct delivery, node);
        if (other != d && other->pid == d->pid && other->kill == KILL_NONE)
            other->kill = KILL_NEIGHBOUR;
    }
}

static void limit_reached(struct delivery *d)
{
    struct worker *w = d->w;
    bool hard = d->soft_done || d->limits.soft <= 0 ||
                (d->limits.hard > 0 && d->limits.hard <= d->limits.soft);
    if (!hard) {
        d->soft_done = true;
        log_warning("Soft time limit (%gs) exceeded for " DELIVERY_FMT, d->limits.soft,
                    DELIVERY_ARGS(d));
        pool_soft_stop(w->pool, d->number);
        if (d->limits.hard > 0)
            arm(d);
        return;
    }
    log_error("Hard time limit (%gs) exceeded for " DELIVERY_FMT, d->limits.hard, DELIVERY_ARGS(d));
    if (d->kill == KILL_NONE)
        d->kill = KILL_TIME_LIMIT;
    mark_neighbours(d);
    pool_kill(w->pool, d->number, SIGKILL);
}

void limits_tick(uv_timer_t *t)
{
    struct worker *w = t->data;
    int64_t now_ns = clock_mono_ns();
    struct due *first;
    w->due_at_ns = 0;
    while ((first = due_first(&w->due)) != NULL && first->at_ns <= now_ns) {
        struct delivery *d = CONTAINER_OF(first, struct delivery, due);
        due_clear(&w->due, first);
        if (d->state == DELIVERY_HELD)
            receive_due(d);
        else
            limit_reached(d);
    }
    set_timer(w);
    receive_pump(w);
    shutdown_step(w);
}
