/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Inside db/, SQLite only. */

#include "celeryc/db/db_priv.h"

#include <sqlite3.h>

struct sqlite {
    struct db db;
    sqlite3 *conn;
    int64_t busy_since_ns; /* when the present wait for the write lock began */
    int64_t patience_ms;   /* how long it may last */
};

static inline struct sqlite *sqlite_of(struct db *db)
{
    return (struct sqlite *)db;
}

/* Puts SQLite's last failure into e and db; gives the DB_E_ code. */
int sqlite_fail(struct sqlite *q, struct err *e);
/* Compiles one statement; finalized by the caller. */
int sqlite_prepare(struct sqlite *q, const char *sql, sqlite3_stmt **ret_s,
                   struct err *e) WARN_UNUSED;
/* Parameter $number; does nothing when the statement does not use it. */
int sqlite_bind(struct sqlite *q, sqlite3_stmt *s, int number, struct db_val v,
                struct err *e) WARN_UNUSED;
/* Runs a statement that gives no rows. */
int sqlite_step_done(struct sqlite *q, sqlite3_stmt *s, struct err *e) WARN_UNUSED;

int sqlite_begin(struct db *db, int64_t lease_ms, struct err *e);
int sqlite_commit(struct db *db, struct err *e);
void sqlite_rollback(struct db *db);
int sqlite_exec(struct db *db, const char *sql, const struct db_val *v, size_t n,
                struct db_rows *ret_r, struct err *e);

struct db_rehearsal;

int sqlite_rehearse(struct db *db, const struct db_chunk *c, struct db_rehearsal *ret_x,
                    struct buf *plan, struct err *e);
/* The control tables in the open transaction, made when they are missing. */
int sqlite_schema_here(struct db *db, struct err *e) WARN_UNUSED;
int sqlite_chunk(struct db *db, const struct db_chunk *c, struct db_chunk_result *ret_r,
                 struct err *e);
int sqlite_guard(struct db *db, const struct db_chunk *c, bool *ret_stale, struct err *e);
int sqlite_compute(struct db *db, const struct db_compute *q, struct err *e);
int sqlite_stream(struct db *db, const char *query, const struct db_stream *s, struct err *e);
int sqlite_check_target(struct db *db, const struct db_target *t, struct err *e);

static inline void sqlite_stmt_cleanup(sqlite3_stmt **s)
{
    (void)sqlite3_finalize(*s);
}
