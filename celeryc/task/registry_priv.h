/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* An entry of the task table with what only a process that runs tasks needs. */

#include "celeryc/task/registry.h"

struct task_entry {
    struct task_info info; /* strings owned */
    celeryc_task_fn run;   /* NULL for a task with a context, and in a decoded table */
    task_ctx_fn run_ctx;
    void *ctx;
    celeryc_errback_fn errback;               /* NULL */
    char *autoretry_for, *dont_autoretry_for; /* lists of names, NULL */
    double retry_backoff, retry_backoff_max;  /* 0: no backoff */
    bool retry_jitter;
    char *file;    /* the plug-in, for tracebacks and clashes; NULL: the program itself */
    char **params; /* arg_names split, NULL-terminated; NULL: positional only */
    size_t n_params;
};

const struct task_entry *task_registry_entry(const struct task_registry *r, struct slice name);

/* Adds a task; strings are copied. file may be NULL. 0, -ENOMEM, -EINVAL, -EEXIST with a text. */
int task_registry_insert(struct task_registry *r, const struct celeryc_task *from, task_ctx_fn fn,
                         void *ctx, const char *file, struct err *e) WARN_UNUSED;
