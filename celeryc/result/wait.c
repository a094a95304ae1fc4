/* SPDX-License-Identifier: Apache-2.0 */
/* How a client waits for a result: SUBSCRIBE first, then GET, then messages, so that no change falls between. A
 * connection that is lost on the way is made again with both steps, until the time is up. */
#include "celeryc/result/result.h"

#include <errno.h>

#include "celeryc/base/clock.h"
#include "celeryc/message/record.h"

static int command(struct redis_sync *s, const char *word, struct slice key,
                   const struct redis_reply **ret_reply, struct err *e)
{
    struct slice argv[] = {slice_str(word), key};
    return redis_sync_command(s, ARRAY_SIZE(argv), argv, ret_reply, e);
}

/* The text of what is stored, which may be compressed. */
static int give(struct slice stored, char **ret_record, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct slice text;
    int r = a ? record_inflate(a, stored, &text, e) : -ENOMEM;
    if (r)
        return r;
    *ret_record = slice_dup(text);
    return *ret_record ? 0 : -ENOMEM;
}

/* The same for a record that is an end; else *ret_record stays NULL. */
static int give_ready(struct slice stored, char **ret_record, struct err *e)
{
    CLEANUP(mem_free) char *text = NULL;
    struct record_view v;
    int r = give(stored, &text, e);
    if (r == 0 && record_parse(slice_str(text), &v, NULL) == 0 && record_ready(&v))
        *ret_record = STEAL(text);
    return r;
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
    CLEANUP(mem_free) char *record = NULL;
    if (reply->kind == REDIS_R_STRING)
        r = give_ready(reply->str, &record, e);
    while (!r && !record) {
        r = redis_sync_push(s, left_ms(timeout_ms, started_ns), &reply, e);
        if (!r && reply->n == 3 && slice_eq(reply->elem[1]->str, key))
            r = give_ready(reply->elem[2]->str, &record, e);
    }
    if (!r)
        *ret_record = STEAL(record);
    return r;
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
        return give(reply->str, ret_record, e);
    *ret_record = NULL;
    return 0;
}
