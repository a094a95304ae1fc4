/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The migrations that plug-ins brought, and their registration as Celery tasks. */

#include "celeryc/base/err.h"
#include "celeryc/db/db.h"
#include "celeryc/task/registry.h"

#include <celeryc/migration.h>

/* All that were registered so far (by loading plug-ins), in order of loading. Borrowed, static for the process. */
size_t migrate_count(void);
const struct scatter_migration *migrate_at(size_t i);
const struct scatter_migration *migrate_find(const char *name);

/* What went wrong while plug-ins registered migrations (a name twice, another ABI). 0, -EINVAL or -ENOMEM with a text;
 * migrate_register_tasks asks it too. */
int migrate_check(struct err *e) WARN_UNUSED;

/* What a worker is told about its surroundings. Strings are borrowed for the process's life. */
struct migrate_options {
    const char *const *
        databases; /* "alias=URL", NULL-terminated; environment SCATTER_DATABASE_<ALIAS> after these */
    int64_t lease_ms;  /* 0: 60,000; SCATTER_LEASE ("60s") overrides */
    int64_t chunk_ms;  /* 0: 250, the time a chunk aims at */
    enum db_copy copy; /* SCATTER_COPY ("auto", "always", "never") overrides */
    const char *default_queue;
};

/* Adds every migration to the registry as a late-ack task that is requeued on worker loss. Called in the zygote, after
 * the plug-ins were loaded and before the first fork. */
int migrate_register_tasks(struct task_registry *r, const struct migrate_options *o,
                           struct err *e) WARN_UNUSED;
