/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Where records come from: a query of the target database, or NDJSON on a file descriptor. */

#include "celeryc/base/limits.h"
#include "celeryc/db/db.h"
#include "planner/builder.h"

/* Two steps, so that everything can be checked before anything is written: prepare looks at the columns and tells the
 * builder, run streams the rows into it. All return 0, the builder's codes, -EINVAL or -EIO with a text. */

struct query_source {
    struct buf sql; /* the ordered query */
    enum key_order order[LIMIT_KEY_COLUMNS];
    /* Columns behind those of the record, and who looks at every row: 0 takes it, 1 leaves it out. NULL: all. */
    const char *const *extra;
    size_t n_extra;
    int (*accept)(void *arg, const struct slice *values, size_t n, struct err *e);
    void *arg;
};

int query_source_prepare(struct query_source *q, struct db *db, const struct request *r,
                         struct builder *b, struct err *e) WARN_UNUSED;
int query_source_run(struct query_source *q, struct db *db, struct builder *b,
                     struct err *e) WARN_UNUSED;

/* Standard input: the first line is {"columns": [names], "types": [PostgreSQL type names or null] or null,
 * "trailer": true or absent}, then one array a row. A line {"rows": n} ends the rows; with "trailer": true it must
 * come, so that a sender that died is not taken for one that had no more. Keys come in order: integers by their value,
 * everything else byte by byte; or, with "order": "database", as a database sorts them, which puts equal ones together. */
struct stdin_source {
    int fd;
    struct buf text;
    size_t pos;
    bool eof, trailer, ended;
    int64_t line; /* of the current line, 1.. */
    size_t width;
    struct slice *fields;
    enum batch_kind *kinds;
    /* said by the trailer: what the sender's migration took for all records; for one, and its WAL */
    double compute_s, row_s, row_wal;
};

void stdin_source_init(struct stdin_source *s, int fd);
void stdin_source_deinit(struct stdin_source *s);
int stdin_source_prepare(struct stdin_source *s, struct builder *b, struct err *e) WARN_UNUSED;
int stdin_source_run(struct stdin_source *s, struct builder *b, struct err *e) WARN_UNUSED;
