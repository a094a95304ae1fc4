/* SPDX-License-Identifier: Apache-2.0 */
/* The public header first and alone, in strict C11: it must bring all that it needs. */

#include <celeryc/task.h>

static int run(struct celeryc_call *call)
{
    if (celeryc_args(call, ""))
        return celeryc_raise(call, "TypeError", "%s", celeryc_args_error(call));
    if (celeryc_retries(call) < 1)
        return celeryc_retry(call, -1);
    return celeryc_raise_json(call, "ValueError", "[]");
}
CELERYC_TASK("header.task", run, .acks_late = true)

extern int header_compiles;
int header_compiles = 1;
