/* SPDX-License-Identifier: Apache-2.0 */
/* Retries: the decision, which is taken before anything is published, and the delays.
 *
 * As in Task.retry: when the retries are used up, the cause is raised, or MaxRetriesExceededError without one. The
 * message and the record are made by run.c when the function has returned. */

#include "celeryc/base/codec.h"
#include "celeryc/base/limits.h"
#include "celeryc/task/call_priv.h"

#include <math.h>

#define COUNTDOWN_MAX (100.0 * 365 * 86400) /* seconds; later times cannot be written */

void celeryc_retry_cause(struct celeryc_call *call, const char *type, const char *message)
{
    int rc = exception_set_text(&call->cause, call->arena, type ? type : "",
                                slice_str(message ? message : ""));
    if (rc < 0)
        call->failed_alloc = true;
    call->has_cause = rc == 0;
}

void celeryc_retry_max(struct celeryc_call *call, int max_retries)
{
    call->has_retry_max = true;
    call->retry_max = max_retries == CELERYC_RETRY_NEVER ? 0 : max_retries;
}

static void raise_used_up(struct celeryc_call *call, struct place place)
{
    if (call->has_cause) {
        call->exception = call->cause;
    } else {
        CLEANUP(buf_deinit) struct buf text = BUF_INIT;
        buf_appendf(&text, "Can't retry %s[%s] args:", celeryc_task_name(call), call->id);
        json_write_repr(&text, call->body->args, true, LIMIT_TRACEBACK_BYTES);
        buf_append_str(&text, " kwargs:");
        json_write_repr(&text, call->body->kwargs, false, LIMIT_TRACEBACK_BYTES);
        if (buf_ok(&text) < 0 ||
            exception_set_text(&call->exception, call->arena, "MaxRetriesExceededError",
                               buf_slice(&text)) < 0)
            call->failed_alloc = true;
    }
    call->end = END_RAISE;
    call->place = place;
}

int celeryc_retry_at(struct celeryc_call *call, const char *file, int line, const char *function,
                     double countdown)
{
    struct place place = {file, line, function};
    int max = call->has_retry_max ? call->retry_max : call->task->info.max_retries;
    if (max >= 0 && call->m->retries >= max) {
        raise_used_up(call, place);
        return 0;
    }
    if (!(countdown >= 0))
        countdown = call->task->info.default_retry_delay;
    call->countdown = fmin(countdown, COUNTDOWN_MAX);
    call->end = END_RETRY;
    call->place = place;
    return 0;
}

int(celeryc_retry)(struct celeryc_call *call, double countdown)
{
    return celeryc_retry_at(call, NULL, 0, NULL, countdown);
}

double celeryc_backoff(const struct celeryc_call *call, double factor, double max, bool jitter)
{
    double base = floor(fmax(1.0, factor));
    double retries = fmin(fmax(0, (double)call->m->retries), 64);
    double delay = fmax(0, fmin(max, base * exp2(retries)));
    if (!jitter)
        return delay;
    uint64_t random;
    random_bytes(&random, sizeof random);
    return floor((double)(random >> 11) / 0x1p53 * (floor(fmin(delay, COUNTDOWN_MAX)) + 1));
}
