/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Inside undo: its records, and those of a file of SQL. */

#include "planner/child.h"

#include "celeryc/migrate/runtime.h"
#include "celeryc/migrate/sqlfile.h"

#define UNDO_GROUP \
    1000 /* records whose new values are brought into their columns' form at a time */

struct undo {
    const struct args *args;
    struct parent parent;
    struct servers servers;
    struct batch_files files;
    const struct scatter_migration *m; /* what ran; NULL with --stdin, or of Python */
    bool inverse;                      /* the migration takes back by itself what it did */
    const char **names,
        **types; /* of a row: keys, guards, restores; of an inverse's: keys, old values */
    size_t n_keys, n_guard, n_old;
    struct arena *group; /* of the records below */
    struct slice *rows;  /* n of them, n_keys + 2 * n_guard values each */
    struct slice *fresh; /* n of them, n_guard values each */
    size_t n;
    /* of a file of SQL */
    const struct sql_file *sql;
    const char *sql_undo;               /* its "-- undo:"; NULL */
    size_t places[SCATTER_MAX_COLUMNS]; /* of what it reads, in a record of the present file */
    struct db_row *old;                 /* records that wait to be computed */
    size_t n_waiting;
};

/* Room for UNDO_GROUP records. */
int undo_make_room(struct undo *u) WARN_UNUSED;
int undo_flush(struct undo *u, struct builder *b, struct err *e) WARN_UNUSED;

/* undo_sql.c: the plan's file; the columns of a batch file; a record that was done; those that wait. */
int undo_sql_begin(struct undo *u, struct err *e) WARN_UNUSED;
int undo_sql_file(struct undo *u, const struct batch_header *h, struct err *e) WARN_UNUSED;
int undo_sql_add(struct undo *u, struct builder *b, const struct batch_record *record,
                 struct err *e) WARN_UNUSED;
int undo_sql_flush(struct undo *u, struct builder *b, struct err *e) WARN_UNUSED;
