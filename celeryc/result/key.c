/* SPDX-License-Identifier: Apache-2.0 */
/* The name of a result record, as Celery's key-value backends make it (celery/backends/base.py, get_key_for_task). */
#include "celeryc/result/result.h"

#include <string.h>

static void prefix(struct buf *dst, const char *key_prefix)
{
    size_t len = key_prefix ? strlen(key_prefix) : 0;
    if (!len)
        return;
    buf_append(dst, key_prefix, len);
    if (!strchr(":_-.", key_prefix[len - 1]))
        buf_append_char(dst, '_');
}

void result_key(struct buf *dst, const char *key_prefix, struct slice task_id)
{
    prefix(dst, key_prefix);
    buf_append_str(dst, "celery-task-meta-");
    buf_append_slice(dst, task_id);
}

void result_group_key(struct buf *dst, const char *key_prefix, struct slice group_id)
{
    prefix(dst, key_prefix);
    buf_append_str(dst, "celery-taskset-meta-");
    buf_append_slice(dst, group_id);
}

void result_fire_key(struct buf *dst, const char *key_prefix)
{
    prefix(dst, key_prefix);
    buf_append_str(dst, "celeryc:fire");
}
