/* SPDX-License-Identifier: Apache-2.0 */
/* One task with every option. */

#include <celeryc/task.h>

static int nothing(struct celeryc_call *call)
{
    return celeryc_return_none(call);
}
CELERYC_TASK("good.task", nothing, .arg_names = "a, b", .acks_late = true,
             .no_acks_on_failure = true, .reject_on_worker_lost = true, .ignore_result = true,
             .store_errors_even_if_ignored = true, .track_started = true,
             .max_retries = CELERYC_RETRY_FOREVER, .default_retry_delay = 1.5, .time_limit = 20,
             .soft_time_limit = 10, .rate_limit = "10/s")
