/* SPDX-License-Identifier: Apache-2.0 */
/* Celery waits 2 s before its first retry, 2 s more before each next one, at most 30 s, and gives up after
 * broker_connection_max_retries of them (kombu: Connection.ensure_connection). Our connections come back within 2.5 s of
 * the server, so they are tried far more often. What is logged and counted keeps to Celery's steps: the log does not
 * fill, and 100 retries last three quarters of an hour, as operators expect. */
#include "celeryc/worker/outage.h"

#define STEP_MS 2000
#define MAX_MS  30000

/* When Celery makes the try of this number, the first being 1. */
static int64_t due_ms(unsigned number)
{
    int64_t n = (int64_t)number - 1, steep = MAX_MS / STEP_MS;
    if (n <= steep)
        return STEP_MS * n * (n + 1) / 2;
    return STEP_MS * steep * (steep + 1) / 2 + (n - steep) * MAX_MS;
}

bool outage_count(struct outage *o, int64_t now_ms)
{
    if (o->since_ms < 0) {
        o->since_ms = now_ms;
        o->tries = 0;
    }
    if (now_ms - o->since_ms < due_ms(o->tries + 1))
        return false;
    o->tries++;
    return true;
}
