/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Between two chunks: what a worker obeys, and how long it waits for its rate. */

#include "celeryc/migrate/runtime.h"

struct pace {
    struct db_orders orders; /* as last heard */
    double owed;             /* records that the rate has not paid yet */
    int64_t paid_ns, beat_ns, throttled_ns;
};

void pace_init(struct pace *p);
/* A chunk of n records went through and brought these orders. */
void pace_told(struct pace *p, const struct db_orders *o, size_t n_records);
/* At most n records for the next chunk, and about a second's worth of the rate. */
size_t pace_size(const struct pace *p, size_t n);

/* The plan does not want the batch to go on. */
static inline bool pace_ends(const struct pace *p)
{
    return p->orders.state != DB_PLAN_RUNNING && p->orders.state != DB_PLAN_DRAINING;
}

/* Waits while the rate, the governor or the kill switch wants it. WORK_DONE: go on; any other end: the batch is to be given
 * up. */
enum work_end pace_obey(struct pace *p, struct job *j);
/* Writes down how long it waited. */
void pace_end(struct pace *p, struct job *j);
