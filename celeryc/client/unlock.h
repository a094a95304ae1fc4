/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* celery.chord_unlock, which clients send whose result backend cannot count a chord. */

#include "celeryc/task/registry.h"

/* Where the results are, as the worker was told; both may be NULL. Borrowed for the life of the process. */
struct unlock_options {
    const char *config;  /* file of settings */
    const char *backend; /* URL */
};

/* Adds the task unless a plug-in has one of that name. */
int unlock_register(struct task_registry *r, struct unlock_options *o, struct err *e) WARN_UNUSED;
