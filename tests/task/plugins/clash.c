/* SPDX-License-Identifier: Apache-2.0 */
/* Two tasks of one name. */

#include <celeryc/task.h>

static int nothing(struct celeryc_call *call)
{
    return celeryc_return_none(call);
}
CELERYC_TASK("same.name", nothing)

static int other(struct celeryc_call *call)
{
    return celeryc_return_none(call);
}
CELERYC_TASK("same.name", other)
