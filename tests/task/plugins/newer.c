/* SPDX-License-Identifier: Apache-2.0 */
/* Built for an ABI that does not exist yet. */

#include <celeryc/task.h>

static const struct celeryc_task task = {.name = "newer.task"};

__attribute__((constructor)) static void add(void)
{
    celeryc_task_register(&task, sizeof task, CELERYC_ABI + 1);
}
