/* SPDX-License-Identifier: Apache-2.0 */
/* How a client waits for a result: SUBSCRIBE first, then GET, then messages, so that no change falls between. A
 * connection that is lost on the way is made again with both steps, until the time is up. */
#include "celeryc/result/result.h"

#include <errno.h>

#include "celeryc/base/clock.h"
#include "celeryc/message/record.h"

static bool is_ready(struct slice text)
{
    struct record_view v;
    return record_parse(text, &v, NULL) == 0 && record_ready(&v);
}

static int command(struct redis_sync *s, const char *word, struct slice key,
                   const struct redis_reply **ret_reply, struct err *e)
{
    struct slice argv[] = {slice_str(word), key};
    return redis_sync_command(s, ARRAY_SIZE(argv), argv, ret_reply, e);
}

static int give(struct slice text, char **ret_record)
{
    char *copy = slice_dup(text);
    if (!copy)
        return -ENOMEM;
    *ret_record = copy;
    return 0;
}

static int64_t left_ms(int64_t timeout_ms, int64_t started_ns)
{
    if (timeout_ms < 0)
        return -1;
    return MAX(timeout_ms - (clock_mono_ns() - started_ns) / NS_PER_MS, 0);
}

/* One connection's worth of waiting. */
static int wait_once(struct redis_sync *s, struct slice key, int64_t timeout_ms, int64_t started_ns,
                     char **ret_record, struct err *e)
{
    const struct redis_reply *reply = NULL;
    int r = command(s, "SUBSCRIBE", key, &reply, e);
    if (!r)
        r = command(s, "GET", key, &reply, e);
    if (r)
        return r;
    if (reply->kind == REDIS_R_STRING && is_ready(reply->str))
        return give(reply->str, ret_record);
    for (;;) {
        r = redis_sync_push(s, left_ms(timeout_ms, started_ns), &reply, e);
        if (r)
            return r;
        if (reply->n == 3 && slice_eq(reply->elem[1]->str, key) && is_ready(reply->elem[2]->str))
            return give(reply->elem[2]->str, ret_record);
    }
}

int result_wait(struct redis_sync *s, const char *key_prefix, const char *task_id,
                int64_t timeout_ms, char **ret_record, struct err *e)
{
    CLEANUP(buf_deinit) struct buf key = BUF_INIT;
    int64_t started_ns = clock_mono_ns();
    result_key(&key, key_prefix, slice_str(task_id));
    int r = buf_ok(&key);
    if (r)
        return r;
    for (bool again = false;; again = true) {
        struct err why = ERR_INIT;
        r = wait_once(s, buf_slice(&key), timeout_ms, started_ns, ret_record, &why);
        /* A lost connection is made anew once; a server that is gone for good is told. */
        if (r != -EIO || again)
            return r ? err_set(e, r, "%s", err_text(&why, r)) : 0;
    }
}

int result_get(struct redis_sync *s, const char *key_prefix, const char *task_id, char **ret_record,
               struct err *e)
{
    CLEANUP(buf_deinit) struct buf key = BUF_INIT;
    const struct redis_reply *reply = NULL;
    result_key(&key, key_prefix, slice_str(task_id));
    int r = buf_ok(&key);
    if (!r)
        r = command(s, "GET", buf_slice(&key), &reply, e);
    if (r)
        return r;
    if (reply->kind == REDIS_R_STRING)
        return give(reply->str, ret_record);
    *ret_record = NULL;
    return 0;
}
