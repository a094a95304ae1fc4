/* SPDX-License-Identifier: Apache-2.0 */
/* kombu's keys: the bare queue for the first step, then queue, separator and step. Length and deletion of one list are
 * one script, so the count is of what was deleted. */

#include "celeryc/worker/queues.h"

#include "celeryc/redis/sync.h"

#define CONNECT_MS 4000

static const int kombu_steps[] = {0, 3, 6, 9};

static const struct redis_script purge_script = {
    .name = "purge",
    .source = "local n = redis.call('LLEN', ARGV[1]) redis.call('DEL', ARGV[1]) return n",
};

static size_t steps_of(const struct settings *s, const int **ret_steps)
{
    *ret_steps = s->n_priority_steps ? s->priority_steps : kombu_steps;
    return s->n_priority_steps ? s->n_priority_steps : ARRAY_SIZE(kombu_steps);
}

void queues_key(struct buf *dst, const struct settings *s, const char *queue, int priority)
{
    const int *steps;
    size_t n = steps_of(s, &steps);
    int step = 0;
    for (size_t i = 0; i < n; i++)
        if (steps[i] <= priority)
            step = steps[i];
    buf_appendf(dst, "%s%s", s->broker_keyprefix ? s->broker_keyprefix : "", queue);
    if (step)
        buf_appendf(dst, "%s%d", s->sep ? s->sep : "\x06\x16", step);
}

static int purge_list(struct redis_sync *c, struct slice key, uint64_t *n, struct err *e)
{
    const struct redis_reply *reply;
    int r = redis_sync_eval(c, &purge_script, 1, &key, &reply, e);
    if (r)
        return r;
    if (reply->kind == REDIS_R_INTEGER && reply->integer > 0)
        *n += (uint64_t)reply->integer;
    return 0;
}

int queues_purge(const struct redis_endpoint *ep, const struct settings *s,
                 const struct strv *queues, uint64_t *ret_n, struct err *e)
{
    CLEANUP(redis_sync_close) struct redis_sync *c = NULL;
    int r = redis_sync_open(ep, CONNECT_MS, &c, e);
    if (r)
        return r;
    CLEANUP(buf_deinit) struct buf key = BUF_INIT;
    const int *steps;
    size_t n_steps = steps_of(s, &steps);
    uint64_t n = 0;
    for (size_t q = 0; r == 0 && q < queues->n; q++) {
        for (size_t i = 0; r == 0 && i < n_steps; i++) {
            buf_reset(&key);
            queues_key(&key, s, queues->v[q], steps[i]);
            r = buf_ok(&key);
            if (r == 0)
                r = purge_list(c, buf_slice(&key), &n, e);
        }
    }
    if (r == 0)
        *ret_n = n;
    return r;
}
