/* SPDX-License-Identifier: Apache-2.0 */
/* The message of a batch: the same from every sender, with a task id that follows from plan and batch. */

#include "celeryc/migrate/sweep.h"

#include "celeryc/base/clock.h"
#include "celeryc/batch/batch.h"
#include "celeryc/message/message.h"

static int task_kwargs(const struct db_plan *p, const struct db_batch_row *b, struct buf *dst)
{
    buf_append_str(dst, "{\"plan\": ");
    json_write_string(dst, slice_str(p->plan));
    buf_appendf(dst, ", \"batch\": %lld, \"source\": ", (long long)b->batch);
    json_write_string(dst, slice_str(b->source));
    buf_append_str(dst, ", \"database\": ");
    json_write_string(dst, slice_str(p->database));
    buf_append_str(dst, ", \"sha256\": ");
    json_write_string(dst, slice_str(b->sha256));
    buf_appendf(dst, ", \"params\": %s}",
                p->params_json && *p->params_json ? p->params_json : "{}");
    return buf_ok(dst);
}

int migrate_queue_message(struct redis_sync *redis, const char *queue, const char *list,
                          const struct db_plan *p, const struct db_batch_row *b)
{
    CLEANUP(buf_deinit) struct buf kwargs = BUF_INIT;
    CLEANUP(buf_deinit) struct buf raw = BUF_INIT;
    char id[37];
    int code = task_kwargs(p, b, &kwargs);

    if (code)
        return code;
    batch_task_id(p->plan, b->batch, id);
    struct message_new m = {.task = slice_str(p->migration),
                            .id = slice_str(id),
                            .kwargs = buf_slice(&kwargs),
                            .queue = slice_str(queue),
                            .now_us = clock_wall_us(),
                            .ignore_result = TRI_UNSET};

    code = message_write_new(&raw, &m);
    if (code)
        return code;
    redis_sync_queue(redis, 3,
                     (struct slice[]){SLICE_LIT("LPUSH"), slice_str(list), buf_slice(&raw)});
    return 0;
}
