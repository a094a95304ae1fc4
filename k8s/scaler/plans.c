/* SPDX-License-Identifier: Apache-2.0 */
/* Batches of a paused plan, or outside of its window, are parked: no pod helps them. What is left of the others says how
 * many pods are worth having. Only for a Deployment whose queues carry nothing but plans: the cap holds for all of it. */

#include "k8s/scaler/plans.h"

#include "celeryc/db/db.h"
#include "k8s/scaler/run.h"

#include <errno.h>
#include <math.h>

/* Pods that one plan can use. */
static double pods_of(const struct target *t, const struct db_queue_plan *p)
{
    double pods;

    if (!p->runs || p->remaining <= 0)
        return 0;
    pods = MAX(1.0, ceil((double)p->remaining / (t->plan_rate * t->plan_drain_s)));
    if (p->max_workers > 0)
        pods = MIN(pods, ceil((double)p->max_workers / (double)t->rules.concurrency));
    return pods;
}

static int read_queues(const struct target *t, struct db *db, double *pods, size_t *n_plans,
                       struct err *e)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < t->queues.n; i++) {
        struct db_queue_plan *plans = NULL;
        size_t n = 0;

        r = db_queue_plans(db, t->queues.v[i], &plans, &n, e);
        for (size_t j = 0; r == 0 && j < n; j++)
            *pods += pods_of(t, &plans[j]);
        *n_plans += n;
        free(plans);
    }
    return r;
}

void plans_read(struct job *j)
{
    const struct target *t = j->target;
    const char *url = t->plans_url       ? t->plans_url
                      : t->plans_url_env ? opt_env(t->plans_url_env)
                                         : NULL;
    CLEANUP(db_close) struct db *db = NULL;
    struct err e = ERR_INIT;
    double pods = 0;
    size_t n_plans = 0;
    int r;

    if (!url && !t->plans_url_env)
        return;
    r = url ? db_open(url, &db, &e)
            : err_set(&e, -EINVAL, "the variable %s is not set (\"plans_url_env\")",
                      t->plans_url_env);
    if (r == 0)
        r = read_queues(t, db, &pods, &n_plans, &e);
    if (r) {
        job_note(j, "plans are not known: %s", err_text(&e, r));
        j->plans_failed = true;
    } else if (n_plans) {
        j->plan_cap = (int64_t)MIN(pods, 100000.0);
    }
}
