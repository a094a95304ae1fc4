/* SPDX-License-Identifier: Apache-2.0 */
/* The public header first and alone, as C++. */

#include <celeryc/client.h>

static int run(struct celeryc_call *call)
{
    if (celeryc_args(call, ""))
        return celeryc_raise(call, "TypeError", "%s", celeryc_args_error(call));
    if (celeryc_retries(call) < 1)
        return celeryc_retry(call, -1);
    return celeryc_raise_json(call, "ValueError", "[]");
}

void header_add();

void header_add()
{
    static celeryc_task task = celeryc_task();
    task.name = "header.task";
    task.run = run;
    celeryc_task_register(&task, sizeof task, CELERYC_ABI);
}
