/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The text that a worker prints when it starts, laid out as Celery's. */

#include "celeryc/base/buf.h"
#include "celeryc/task/registry.h"
#include "celeryc/worker/config.h"

/* version: "0.1.0"; platform and now are texts for people. The task list is left out above level INFO, tasks whose
 * name starts with "celery." above DEBUG. */
void banner_write(struct buf *dst, const struct worker_config *c, const struct task_registry *table,
                  const char *version, const char *platform, const char *now);
