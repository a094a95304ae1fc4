/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What is to be planned: the command line, completed by what the migration says of itself. */

#include "celeryc/base/arena.h"
#include "celeryc/db/db.h"
#include "planner/args.h"

struct task_registry;

struct request {
    struct arena *arena;           /* owns every text that args does not */
    struct task_registry *plugins; /* keeps the migration's description loaded */
    const struct args *args;
    const char *plan;
    const char *table, *key;
    char **columns; /* the old values that are kept, without the key */
    size_t n_columns;
    const char *const *writes;
    size_t n_writes;
    const char *columns_json, *params_json;
    const char *query; /* "" for rows from standard input */
};

/* Loads the plug-ins, finds the migration, settles table, key, columns and the plan's id. Nothing is contacted.
 * 0; -EINVAL or -ENOENT with the fix named; -ENOMEM. */
int request_init(struct request *r, const struct args *a, struct err *e) WARN_UNUSED;
/* Only loads the plug-ins, and keeps them until request_deinit. */
int request_load_plugins(struct request *r, const struct args *a, struct err *e) WARN_UNUSED;
void request_deinit(struct request *r);
DEFINE_CLEANUP_VALUE(struct request, request_deinit)

/* Letters, digits, '.', '_', '-', at most 100 of them, a letter or digit first. 0 or -EINVAL. */
int request_check_plan_id(const char *plan, struct err *e) WARN_UNUSED;
