/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Plans made from plans: re-drives, undos, top-ups. */

#include "celeryc/db/rows.h"
#include "celeryc/message/json.h"
#include "planner/builder.h"
#include "planner/plan.h"

struct plan_child {
    const char *kind, *parent;
    void *arg; /* of the functions */
    /* Feed the builder instead of the query or standard input. NULL: those do. */
    int (*prepare)(void *arg, struct builder *b, struct err *e);
    int (*run)(void *arg, struct builder *b, struct err *e);
    /* Sees each row of the query, whose last values are the extra columns. 0: take it; 1: leave it out; or an error. */
    const char *const *extra;
    size_t n_extra;
    int (*accept)(void *arg, const struct slice *values, size_t n, struct err *e);
    /* Of the columns, those that the table has; the rest live in the batch files alone. 0: all. */
    size_t n_guard;
    /* A re-drive's: where each record stands in the parent, filled by accept. */
    struct db_drive *drives;
    size_t n_drives, cap_drives;
    const int64_t *failed; /* a re-drive's of failed batches: their numbers */
    size_t n_failed;
};

/* As plan_create, for a plan that comes from another one. What an interrupted try under the same id left is made anew. */
int plan_make(const struct args *a, struct plan_child *child, struct progress *p,
              struct result *ret_r, struct err *e) WARN_UNUSED;

/* The plan that a command names, and the arguments that a child of it has. */
struct parent {
    struct arena *arena;
    struct db_plan plan;
    const char *state, *kind, *statement;
    struct json_val params;
    char **keys, **columns;
    size_t n_keys, n_columns;
    struct args args; /* borrows; its lists are owned */
};

int parent_load(struct parent *p, struct db *db, const struct args *a, struct err *e) WARN_UNUSED;
void parent_deinit(struct parent *p);
DEFINE_CLEANUP_VALUE(struct parent, parent_deinit)

/* " AND "-joined comparison of the key columns of alias t with the text o.record_key, so that the index of the key
 * serves. */
int parent_key_condition(const struct parent *p, struct db *db, struct buf *dst,
                         struct err *e) WARN_UNUSED;
/* A key as outcomes have it: the text, or for several columns a JSON array. Appends. */
void key_text(struct buf *dst, const struct slice *values, size_t n);

/* Batch files of a plan that is there, one after another; the store stays open between them. */
struct batch_files {
    char *store_url;
    struct store *store;
};

void batch_files_deinit(struct batch_files *f);
DEFINE_CLEANUP_VALUE(struct batch_files, batch_files_deinit)
/* Fetched, its SHA-256 compared, parsed. */
int batch_files_get(struct batch_files *f, const char *source, const char *sha256,
                    struct batch **ret_b, struct err *e) WARN_UNUSED;
