/* SPDX-License-Identifier: Apache-2.0 */
/* Calls a function that no celeryc has. */

#include <celeryc/task.h>

int celeryc_not_invented_yet(struct celeryc_call *call);

static int call_it(struct celeryc_call *call)
{
    return celeryc_not_invented_yet(call);
}
CELERYC_TASK("undefined.task", call_it)
