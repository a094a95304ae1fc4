/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The task table: filled by plug-ins and by the migration runtime, read by children; its description travels to the
 * master. */

#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"

#include <celeryc/task.h>

struct task_registry;

/* One entry as the master sees it (no function pointers). Strings are owned by the table. */
struct task_info {
    const char *name;
    const char *arg_names; /* NULL */
    const char *rate_limit;
    const char *queue; /* NULL: default queue */
    bool acks_late, acks_on_failure, reject_on_worker_lost, ignore_result,
        store_errors_even_if_ignored, track_started, retry_on_worker_lost;
    bool has_errback; /* it is one of the new style */
    int priority;     /* 0..9 */
    double expires;   /* seconds, 0: none */
    int max_retries;  /* -1: for ever; 0..: the real number (Celery's default already filled in) */
    double default_retry_delay, time_limit, soft_time_limit;
};

struct task_registry *task_registry_new(void);
struct task_registry *task_registry_free(struct task_registry *r);
DEFINE_CLEANUP(struct task_registry, task_registry_free)

/* Loads a plug-in (dlopen RTLD_NOW|RTLD_LOCAL); its constructors register. "name" without a slash and without ".so"
 * is tried as given and as ./name.so. 0; -ENOENT/-EINVAL with a text naming file, cause and fix. */
int task_registry_load(struct task_registry *r, const char *path, struct err *e) WARN_UNUSED;

/* A task whose function carries a context (the migration runtime). Names and strings are copied. */
typedef int (*task_ctx_fn)(struct celeryc_call *call, void *ctx);
int task_registry_add(struct task_registry *r, const struct celeryc_task *t, task_ctx_fn fn,
                      void *ctx, struct err *e) WARN_UNUSED;

size_t task_registry_len(const struct task_registry *r);
const struct task_info *task_registry_at(const struct task_registry *r,
                                         size_t i); /* sorted by name */
const struct task_info *task_registry_find(const struct task_registry *r, struct slice name);

/* The table as bytes for the master, and back (a registry that can be read but not run). */
int task_registry_encode(const struct task_registry *r, struct buf *dst) WARN_UNUSED;
int task_registry_decode(struct slice bytes, struct task_registry **ret_r,
                         struct err *e) WARN_UNUSED;
