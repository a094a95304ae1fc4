/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What a plan would do to a database, found out without doing it: chunks that are rolled back, and the new values of all
 * its records in a temporary table, where they can be held against unique indexes. */

#include "celeryc/db/db.h"

struct db_rehearsal {
    double seconds;    /* of the chunk's statement */
    int64_t wal_bytes; /* that the whole server wrote meanwhile; -1: not known (SQLite) */
    double
        hot; /* part of the updates that stayed on their page, beside the indexes; -1: not known */
};

/* The chunk of the n rows (positions 0..n-1), control rows included, in a transaction that is rolled back. Codes as of
 * db_chunk_apply; what a refused chunk cost is told as well. On PostgreSQL the transaction stays open for the next one, and
 * only what the chunk did is taken back; db_rehearsal_end ends it. */
int db_rehearse(struct db *db, const struct db_target *t, const struct db_row *rows, size_t n,
                struct db_rehearsal *ret_x, struct err *e) WARN_UNUSED;
void db_rehearsal_end(struct db *db);
/* Appends how the server would run that chunk's statement, as its EXPLAIN says it. SQLite: the guarded UPDATE's. */
int db_explain_chunk(struct db *db, const struct db_target *t, const struct db_row *rows, size_t n,
                     struct buf *dst, struct err *e) WARN_UNUSED;

/* ---- statements of a migration's own, taken back ---- */

/* Opens the transaction when it is not open; then back to its beginning, as often as one likes; db_rehearsal_end. */
int db_rehearsal_begin(struct db *db, struct err *e) WARN_UNUSED;
int db_rehearsal_back(struct db *db, struct err *e) WARN_UNUSED;

/* Updates of the table in this transaction, those of them that stayed on their page, and where the server's WAL stands.
 * SQLite: zeros. */
struct db_meter {
    int64_t updated, hot, wal;
};

int db_rehearsal_meter(struct db *db, const char *table, struct db_meter *ret_m,
                       struct err *e) WARN_UNUSED;
/* The part on their page between two readings; -1: nothing was updated. */
double db_meter_hot(const struct db_meter *before, const struct db_meter *after);
/* ret_stale[i]: row i does not hold its planned values. The others are locked. */
int db_rehearsal_guard(struct db *db, const struct db_target *t, const struct db_row *rows,
                       size_t n, bool *ret_stale, struct err *e) WARN_UNUSED;

/* New values of a plan's records, on a connection of their own. */
struct db_fresh;

int db_fresh_new(struct db *db, const struct db_target *t, struct db_fresh **ret_f,
                 struct err *e) WARN_UNUSED;
struct db_fresh *db_fresh_free(struct db_fresh *f);
DEFINE_CLEANUP(struct db_fresh, db_fresh_free)
/* A record that is changed; copied. */
int db_fresh_add(struct db_fresh *f, const struct db_row *row, struct err *e) WARN_UNUSED;

/* What a unique index would say once all records have their new values. */
struct db_collision {
    const char *index;
    int64_t among;    /* records of the plan that would get a value another one gets too */
    int64_t existing; /* that would get the value of a row outside of the plan */
    int64_t passing;  /* that would get a value which a row of the plan has until its own turn */
    const char *example;
    const char *error; /* it could not be found out; NULL */
};

/* One for each unique index that a written column is part of. Texts are the arena's. */
int db_fresh_collisions(struct db_fresh *f, struct arena *a, struct db_collision **ret_c,
                        size_t *ret_n, struct err *e) WARN_UNUSED;
