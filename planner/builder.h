/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Rows in, batches out: picks the columns, checks the keys, fills batch files and hands them over. */

#include "celeryc/batch/batch.h"
#include "planner/progress.h"
#include "planner/request.h"

/* How consecutive keys must differ. */
enum key_order {
    KEY_DISTINCT, /* the database sorted them by their type: equal ones are neighbours */
    KEY_INTEGER,  /* ascending integers */
    KEY_BYTES,    /* ascending byte by byte */
    KEY_BY_VALUE, /* the first key says which of the two above (rows from standard input) */
};

#define BUILDER_SAMPLE 5

struct builder;

struct builder_options {
    const struct request *request;
    struct progress *progress;
    bool dry_run;          /* no batch is handed over, samples are kept */
    const char *fix_order; /* what to do about keys out of order or twice, for the error text */
    /* Takes a finished batch (b is empty afterwards). */
    int (*on_batch)(const struct manifest_batch *m, struct buf *b, void *arg, struct err *e);
    /* Dry run: see the names of a row's values, and each record (key, columns; the row's values). NULL: nobody. */
    int (*on_columns)(const char *const *names, size_t n, void *arg);
    int (*on_record)(const struct slice *fields, const struct slice *values, void *arg,
                     struct err *e);
    void *arg;
};

struct builder *builder_new(const struct builder_options *o);
struct builder *builder_free(struct builder *b);
DEFINE_CLEANUP(struct builder, builder_free)

/* The columns that rows will have, and how the key's columns are ordered (one each; NULL: KEY_DISTINCT). types
 * may be NULL. 0; -EINVAL when the key or a column is missing, with the names
 * that are there; -ENOMEM. */
int builder_columns(struct builder *b, const char *const *names, const char *const *types, size_t n,
                    const enum key_order *order, struct err *e) WARN_UNUSED;
/* kinds NULL: by the columns' types. -EINVAL: the key is NULL, out of order or repeated, or a value fits no batch file;
 * -EINTR: a signal asked to stop; on_batch's errors. */
int builder_row(struct builder *b, const struct slice *values, const enum batch_kind *kinds,
                size_t n, struct err *e) WARN_UNUSED;
/* Hands over the last, partly filled batch. */
int builder_finish(struct builder *b, struct err *e) WARN_UNUSED;

int64_t builder_total(const struct builder *b);
/* The batches so far, borrowed until builder_free. */
const struct manifest_batch *builder_batches(const struct builder *b, size_t *ret_n);
/* Dry run: up to BUILDER_SAMPLE first records as JSON arrays, borrowed. */
const char *builder_sample(const struct builder *b, size_t i);
