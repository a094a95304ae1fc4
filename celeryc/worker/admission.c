/* SPDX-License-Identifier: Apache-2.0 */
/* Celery's order: is the task known, has it expired, is it due. */

#include "celeryc/worker/admission.h"

#include "celeryc/base/limits.h"

bool admission_expired(const struct message *m, int64_t now_us)
{
    return m->has_expires && now_us > m->expires_us;
}

int64_t admission_due(const struct message *m)
{
    return m->has_expires ? MIN(m->eta_us, m->expires_us + 1) : m->eta_us;
}

enum admission admission_decide(const struct admission_facts *f)
{
    const struct message *m = f->message;
    if (!f->task)
        return ADMISSION_UNKNOWN;
    if (admission_expired(m, f->now_us))
        return ADMISSION_EXPIRED;
    if (!m->has_eta || m->eta_us <= f->now_us)
        return ADMISSION_NOW;
    if (admission_due(m) - f->now_us > ADMISSION_NEAR_US || f->held >= f->held_limit ||
        f->held_bytes >= LIMIT_ETA_HELD_BYTES)
        return ADMISSION_DELAY;
    return ADMISSION_HOLD;
}

static size_t less(size_t a, size_t b)
{
    return a > b ? a - b : 0;
}

size_t capacity_hand_over(const struct capacity_facts *f)
{
    return f->accepting ? less(f->room, f->starting) : 0;
}

size_t capacity_want(const struct capacity_facts *f)
{
    size_t here = f->reserved + f->starting;
    if (!f->accepting)
        return 0;
    if (f->no_prefetch)
        return less(f->free_slots, here);
    if (f->multiplier < 0)
        return less(f->room, here);
    if (f->multiplier == 0)
        return less(LIMIT_CLAIM_BATCH, here);
    size_t limit;
    if (__builtin_mul_overflow(f->concurrency, (size_t)f->multiplier, &limit))
        limit = LIMIT_CLAIM_BATCH;
    return MIN(less(limit, here + f->in_pool), LIMIT_CLAIM_BATCH);
}

static double first_set(double a, double b, double c)
{
    if (a > 0)
        return a;
    return b > 0 ? b : c;
}

struct limits limits_of(const struct message *m, const struct task_info *task, double worker_soft,
                        double worker_hard)
{
    return (struct limits){
        .soft = first_set(m->soft_time_limit_s, task->soft_time_limit, worker_soft),
        .hard = first_set(m->time_limit_s, task->time_limit, worker_hard),
    };
}
