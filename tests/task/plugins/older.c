/* SPDX-License-Identifier: Apache-2.0 */
/* As a plug-in that was built with the first header: its struct ends before the newer options, and what lies behind it
 * in memory is none of them. */

#include <celeryc/task.h>

#include <stddef.h>

static int run(struct celeryc_call *call)
{
    return celeryc_return_none(call);
}

static const struct celeryc_task task = {.name = "older.task",
                                         .run = run,
                                         .max_retries = 7,
                                         .soft_time_limit = 2,
                                         .rate_limit = "10/s",
                                         .retry_on_worker_lost = true,
                                         .queue = "not an option",
                                         .priority = 9};

__attribute__((constructor)) static void add(void)
{
    celeryc_task_register(&task, offsetof(struct celeryc_task, retry_on_worker_lost), 1);
}
