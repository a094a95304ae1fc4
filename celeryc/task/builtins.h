/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The tasks named celery.* that every worker has. */

#include "celeryc/task/registry.h"

/* Adds those whose names are not taken: call it after the plug-ins were loaded. */
int task_builtins_register(struct task_registry *r, struct err *e) WARN_UNUSED;

/* Celery shows no task of these names unless it is asked to. */
bool task_is_builtin(const char *name);
