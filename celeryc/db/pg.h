/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Inside db/, PostgreSQL only: the connection and its pipelines. */

#include "celeryc/db/db_priv.h"

#include <libpq-fe.h>

#define PG_MAX_STATEMENTS 8 /* of one pipeline */

struct pg_target; /* the types of a table's columns, looked up once per batch */

struct pg {
    struct db db;
    PGconn *conn;
    int64_t limit_ms; /* statement_timeout of the open transaction; 0: none */
    struct pg_target *target;
    bool rehearsing; /* the open transaction is one of rehearsals */
};

/* One statement of a pipeline; values in text form, NULL is SQL NULL. Where formats says 1, a value is in binary form
 * and of that length; both NULL: none is. */
struct pg_stmt {
    const char *sql;
    int n;
    const char *const *values;
    const int *lengths, *formats;
};

static inline struct pg *pg_of(struct db *db)
{
    return (struct pg *)db;
}

/* Connects again when the connection is lost. 0 or DB_E_RETRY. */
int pg_ready(struct pg *pg, struct err *e) WARN_UNUSED;
/* Sends n statements (at most 8) and reads all answers in one round trip. ret_results[i] is the answer of statement i
 * when 0 is returned, freed by the caller with PQclear; on failure nothing is left to free and the rest of the pipeline
 * was not run. */
int pg_run(struct pg *pg, const struct pg_stmt *stmts, size_t n, PGresult **ret_results,
           struct err *e) WARN_UNUSED;

/* The two statements that open a transaction: BEGIN and its settings. texts must outlive the run. */
struct pg_begin {
    char limit[24], lock[24], idle[24];
    const char *values[3];
    int64_t limit_ms;
};

void pg_begin_stmts(struct pg_begin *b, bool snapshot, int64_t lease_ms, struct pg_stmt stmts[2]);
/* Puts the failure of a result (or of the connection when res is NULL) into e and db. */
int pg_fail(struct pg *pg, const PGresult *res, struct err *e);

/* What db_sqlstate and db_error_class say, put by while something else may fail, and said again. */
struct pg_told {
    char sqlstate[sizeof(((struct db *)0)->sqlstate)];
    char error_class[sizeof(((struct db *)0)->error_class)];
};

struct pg_told pg_told(const struct pg *pg);
void pg_tell(struct pg *pg, const struct pg_told *t);
/* One answer, waited for at most limit_ms beyond the server's own limit; NULL at the end of a query. */
int pg_result(struct pg *pg, PGresult **ret_res, struct err *e) WARN_UNUSED;
void pg_rollback(struct db *db);

static inline bool pg_good(const PGresult *res)
{
    ExecStatusType s = PQresultStatus(res);

    return s == PGRES_COMMAND_OK || s == PGRES_TUPLES_OK;
}

static inline bool pg_committed(const PGresult *res)
{
    return str_eq(PQcmdStatus((PGresult *)res), "COMMIT");
}

/* The literal of a one-dimensional array, element by element. */
struct pg_array {
    struct buf b;
};

#define PG_ARRAY_INIT \
    (struct pg_array) \
    {                 \
        .b = BUF_INIT \
    }
void pg_array_deinit(struct pg_array *a);
DEFINE_CLEANUP_VALUE(struct pg_array, pg_array_deinit)
void pg_array_add(struct pg_array *a, struct slice s); /* p NULL: NULL */
void pg_array_add_int(struct pg_array *a, int64_t v);
const char *pg_array_end(struct pg_array *a); /* borrowed; NULL: out of memory */

/* ---- target types ---- */

struct pg_column {
    const char *name, *type; /* type as format_type gives it, quoted where needed */
    bool array, generated;
    bool leads; /* some index of all rows begins with it */
};

struct pg_target {
    struct arena *arena;
    const char *table; /* as asked */
    char *quoted;
    size_t n;
    struct pg_column *column;
};

/* The table's columns from the catalogue, remembered until pg_target_forget. DB_E_SCHEMA: no such table. */
int pg_target_get(struct pg *pg, const char *table, const struct pg_target **ret_t,
                  struct err *e) WARN_UNUSED;
/* DB_E_SCHEMA naming the columns that there are. */
int pg_target_column(struct pg *pg, const struct pg_target *t, const char *name,
                     const struct pg_column **ret_c, struct err *e) WARN_UNUSED;

/* The key's columns in the catalogue. */
struct pg_key {
    size_t n;
    const struct pg_column *column[LIMIT_KEY_COLUMNS];
};

/* DB_E_SCHEMA as above. */
int pg_target_key(struct pg *pg, const struct pg_target *t, const struct db_target *asked,
                  struct pg_key *ret_k, struct err *e) WARN_UNUSED;
void pg_target_forget(struct pg *pg);

/* ---- the values of a chunk (pg_values.c) ---- */

/* Those of its changed rows, all as text, column by column: the key's (k0, ...), the planned ones (o0, ...), the new ones
 * (n0, ...), and, where some change leaves a column as it is, whether it is set ('t' or 'f': f0, ...). */
struct pg_values {
    const struct db_chunk *c;
    size_t n_rows, n_keys;
    size_t n_bytes; /* of all values together */
    bool partly;
};

struct pg_values pg_values_of(const struct db_chunk *c, size_t n_keys);
size_t pg_values_width(const struct pg_values *v);
/* The value of a row that is changed. */
struct slice pg_values_at(const struct pg_values *v, const struct db_row *row, size_t column);
/* "k0 text, o0 text, ..." with suffix " text". */
void pg_values_names(const struct pg_values *v, const char *suffix, struct buf *dst);
/* One column as a text[] in binary form. */
int pg_values_array(const struct pg_values *v, size_t column, struct buf *dst) WARN_UNUSED;

/* ---- and their way by COPY (pg_copy.c) ---- */

#define PG_COPY_TABLE "pg_temp.scatter_chunk_values" /* i integer, and the values' columns */

bool pg_copy_wanted(const struct pg *pg, const struct pg_values *v);
/* Opens a transaction, brings the values into PG_COPY_TABLE and runs s, which may read it: two round trips. The table ends
 * with the transaction. ret_row is the answer of s, freed by the caller. PG_COPY_REFUSED: there may be no such table;
 * nothing was done but that the transaction is there to be rolled back. */
#define PG_COPY_REFUSED 102 /* beside the codes of db/ */
int pg_copy_run(struct pg *pg, const struct pg_values *v, int64_t lease_ms, const struct pg_stmt *s,
                PGresult **ret_row, struct err *e) WARN_UNUSED;

int pg_chunk(struct db *db, const struct db_chunk *c, struct db_chunk_result *ret_r, struct err *e);
struct db_rehearsal;

int pg_rehearse(struct db *db, const struct db_chunk *c, struct db_rehearsal *ret_x,
                struct buf *plan, struct err *e);
/* The control tables in the open transaction, made when they are missing. */
int pg_schema_here(struct pg *pg, struct err *e) WARN_UNUSED;
/* A transaction for rehearsals, with the control rows, and a savepoint; it is left open when it is there. */
int pg_rehearsal_begin(struct db *db, int64_t lease_ms, struct err *e) WARN_UNUSED;
/* Back to that savepoint; what is known of the last failure stays. */
int pg_rehearsal_back(struct db *db, struct err *e) WARN_UNUSED;
int pg_write(struct db *db, struct db_pieces *p, struct err *e);
int pg_guard(struct db *db, const struct db_chunk *c, bool *ret_stale, struct err *e);
int pg_compute(struct db *db, const struct db_compute *q, struct err *e);
int pg_stream(struct db *db, const char *query, const struct db_stream *s, struct err *e);
int pg_check_target(struct db *db, const struct db_target *t, struct err *e);

static inline void pg_clear_cleanup(PGresult **res)
{
    PQclear(*res);
}
