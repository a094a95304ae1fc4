/* SPDX-License-Identifier: Apache-2.0 */
/* Obeying: what the plan's state, its window, its rate and the governor say, between two chunks.
 *
 * A rate is paid for afterwards: the records of a chunk are owed, and time pays the debt at the batch's share of the
 * rate. Whoever waits tells the database every second that it lives and hears what has changed meanwhile, so that no
 * order is older than that, whatever the rate. */

#include "celeryc/migrate/pace.h"

#include "celeryc/base/clock.h"
#include "celeryc/migrate/beat.h"

#include <math.h>
#include <time.h>

#define SLICE_MS      50
#define BEAT_NS       NS_PER_S
#define STANDSTILL_NS (60 * NS_PER_S) /* then the slot is given back */

void pace_init(struct pace *p)
{
    *p = (struct pace){.orders = {.state = DB_PLAN_RUNNING, .rate = INFINITY},
                       .paid_ns = clock_mono_ns(),
                       .beat_ns = clock_mono_ns()};
}

/* Time pays, at the rate that was known until now. */
static void pay(struct pace *p)
{
    int64_t now_ns = clock_mono_ns();
    double seconds = (double)(now_ns - p->paid_ns) / 1e9;

    if (p->owed > 0 && p->orders.rate > 0)
        p->owed = isinf(p->orders.rate) ? 0 : fmax(p->owed - seconds * p->orders.rate, 0);
    p->paid_ns = now_ns;
}

void pace_told(struct pace *p, const struct db_orders *o, size_t n_records)
{
    pay(p);
    p->orders = *o;
    p->owed = isinf(o->rate) ? 0 : p->owed + (double)n_records;
    p->beat_ns = clock_mono_ns();
}

size_t pace_size(const struct pace *p, size_t n)
{
    if (!isfinite(p->orders.rate) || (double)n <= p->orders.rate)
        return n;
    return p->orders.rate < 1 ? 1 : (size_t)p->orders.rate;
}

static enum work_end meaning(struct job *j, const struct db_orders *o)
{
    struct err e = ERR_INIT;

    switch (o->state) {
    case DB_PLAN_CANCELLED:
        return WORK_CANCELLED;
    case DB_PLAN_RUNNING:
    case DB_PLAN_DRAINING:
        break;
    default:
        return WORK_PAUSED;
    }
    if (!o->closed)
        return WORK_DONE;
    /* When the plan cannot be told so just now, the sweep does it. */
    (void)!db_plan_close_window(j->conn->db, j->plan, &e);
    return WORK_PAUSED;
}

/* DB_E_FENCED ends the work; a database that is away is met by the next chunk. */
static int beat(struct pace *p, struct job *j)
{
    struct db_orders o;
    struct err e = ERR_INIT;
    int64_t throttled_ms = p->throttled_ns / NS_PER_MS;
    const struct db_beat b = {.plan = j->plan,
                              .batch = j->number,
                              .token = j->claim.token,
                              .lease_ms = j->rt->options.lease_ms,
                              .throttled_ms = throttled_ms};
    int r = db_batch_beat(j->conn->db, &b, &o, &e);

    p->beat_ns = clock_mono_ns();
    if (r)
        return r;
    p->throttled_ns -= throttled_ms * NS_PER_MS;
    pace_told(p, &o, 0);
    beat_renewed(j->beat);
    return 0;
}

static bool must_wait(struct pace *p)
{
    pay(p);
    return p->orders.stopped || p->orders.rate <= 0 || p->owed > 0;
}

static void nap(struct pace *p)
{
    const struct timespec t = {.tv_nsec = SLICE_MS * NS_PER_MS};
    int64_t began_ns = clock_mono_ns();

    (void)nanosleep(&t, NULL);
    p->throttled_ns += clock_mono_ns() - began_ns;
}

enum work_end pace_obey(struct pace *p, struct job *j)
{
    int64_t began_ns = clock_mono_ns();

    for (;;) {
        enum work_end end = meaning(j, &p->orders);

        if (end != WORK_DONE)
            return end;
        if (celeryc_should_stop(j->call))
            return WORK_STOPPED;
        if (!must_wait(p))
            return WORK_DONE;
        if (clock_mono_ns() - began_ns > STANDSTILL_NS && p->owed <= 0)
            return WORK_STANDSTILL;
        nap(p);
        if (clock_mono_ns() - p->beat_ns > BEAT_NS && beat(p, j) == DB_E_FENCED)
            return WORK_FENCED;
    }
}

void pace_end(struct pace *p, struct job *j)
{
    if (p->throttled_ns > NS_PER_MS)
        (void)beat(p, j);
}
