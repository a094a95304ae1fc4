/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Inside db/: the table of functions that each kind of database fills, and small results. */

#include "celeryc/db/db.h"

enum db_val_kind { DB_V_TEXT, DB_V_INT };

/* A parameter. Text with p NULL is SQL NULL. Borrowed for the call. */
struct db_val {
    enum db_val_kind kind;
    struct slice s;
    int64_t i;
};

static inline struct db_val db_text(const char *s)
{
    return (struct db_val){.kind = DB_V_TEXT, .s = slice_str(s)};
}

static inline struct db_val db_slice(struct slice s)
{
    return (struct db_val){.kind = DB_V_TEXT, .s = s};
}

static inline struct db_val db_int(int64_t i)
{
    return (struct db_val){.kind = DB_V_INT, .i = i};
}

/* A small result in text form, copied. Cells are NUL-terminated; p NULL is SQL NULL. */
struct db_rows {
    struct arena *arena;
    size_t n_rows, n_cols;
    size_t cap;
    struct slice *cell;
    int64_t changed; /* rows that the statement inserted, updated or deleted */
};

void db_rows_deinit(struct db_rows *r);
DEFINE_CLEANUP_VALUE(struct db_rows, db_rows_deinit)
struct slice db_cell(const struct db_rows *r, size_t row, size_t col);
int64_t db_cell_i64(const struct db_rows *r, size_t row, size_t col); /* 0 when NULL or no number */
double db_cell_f64(const struct db_rows *r, size_t row, size_t col);
bool db_cell_true(const struct db_rows *r, size_t row, size_t col); /* either dialect's */
bool db_cell_is(const struct db_rows *r, size_t row, size_t col, const char *text);
/* A copy for the caller; NULL for SQL NULL. */
int db_cell_dup(const struct db_rows *r, size_t row, size_t col, char **ret_s) WARN_UNUSED;
int db_rows_init(struct db_rows *r, size_t n_cols) WARN_UNUSED;
int db_rows_add(struct db_rows *r, const struct slice *cells) WARN_UNUSED;

/* A @token@ of shared SQL and what the dialect writes for it. Both tables hold the same names:
 * now       the current time as the control tables keep it
 * lease     the end of a lease of $1 milliseconds from now
 * left      milliseconds until b.lease_until (NULL: no lease)
 * age       seconds since b.started_at
 * ago       as now, $1 milliseconds before it
 * clock     the current time as lease_until, window_ends, resume_at and beat_at are kept
 * silent    seconds since g.beat_at
 * created, started, finished   p.created_at... as microseconds since the epoch
 * lock_b, skip_b, lock_p       row locks of an aliased table, without and with SKIP LOCKED
 * failures  the JSON array of the rows f (batch, record_key, outcome, error_class, sqlstate, message) */
struct db_token {
    const char *name, *text;
};

struct db_ops {
    const struct db_token *tokens;
    struct db *(*close)(struct db *db);
    /* lease_ms 0: an ordinary control transaction. */
    int (*begin)(struct db *db, int64_t lease_ms, struct err *e);
    int (*exec)(struct db *db, const char *sql, const struct db_val *v, size_t n,
                struct db_rows *ret_r, struct err *e); /* ret_r may be NULL */
    int (*commit)(struct db *db, struct err *e);
    void (*rollback)(struct db *db);
    int (*ensure_schema)(struct db *db, struct err *e);
    int (*insert_batches)(struct db *db, const char *plan, const struct db_batch_row *rows,
                          size_t n, struct err *e);
    /* Drops what is remembered of target tables: they may have changed since the last batch. */
    void (*forget)(struct db *db);
    int (*chunk)(struct db *db, const struct db_chunk *c, struct db_chunk_result *ret_r,
                 struct err *e);
    int (*stream)(struct db *db, const char *query, const struct db_stream *s, struct err *e);
    int (*check_target)(struct db *db, const struct db_target *t, struct err *e);
};

struct db {
    const struct db_ops *ops;
    char sqlstate[6];
    char error_class[48];
};

extern const struct db_ops db_pg_ops, db_sqlite_ops;

int db_pg_open(const char *url, struct db **ret_db, struct err *e) WARN_UNUSED;
int db_sqlite_open(const char *path, bool read_only, struct db **ret_db, struct err *e) WARN_UNUSED;

/* Remembers a failure and gives the DB_E_ code that its SQLSTATE means. */
int db_fail(struct db *db, const char *sqlstate);
int db_code_of(const char *sqlstate);

/* The checkpoint did not move: DB_E_FENCED when the lease is another's, DB_E_RETRY when it is still ours (then the
 * position is another than the caller believed). */
int db_fenced(struct db *db, const struct db_chunk *c, struct err *e);

/* Ends a transaction: commits when r is 0, else rolls back and keeps r. */
int db_end(struct db *db, int r, struct err *e) WARN_UNUSED;
/* A line of the audit; batch 0: of the plan. */
int db_note_event(struct db *db, const char *plan, int64_t batch, const char *who,
                  const char *event, const char *detail, struct err *e) WARN_UNUSED;
/* db_plan_set_state inside a transaction that is open. */
int db_plan_move(struct db *db, const struct db_plan_move *m, bool *ret_moved,
                 struct err *e) WARN_UNUSED;

/* A plan that drains is paused when its last open batch has ended; inside a transaction that is open. */
int db_settle_drain(struct db *db, const char *plan, struct err *e) WARN_UNUSED;

/* db_plan_close_window inside a transaction that is open. */
int db_close_window(struct db *db, const char *plan, struct err *e) WARN_UNUSED;

/* What db_orders_read wants, of the tables p and g. Batches are counted only where a rate is to be shared. */
#define DB_ORDERS_LIVE " r.state = 'running' AND r.lease_until > @clock@"
#define DB_ORDERS_COLUMNS                                                                          \
    "p.state, coalesce(p.window_ends < @clock@, 1 = 0), p.rate, p.chunk_ms, CASE WHEN p.rate IS "  \
    "NOT NULL THEN (SELECT count(*) FROM scatter_batch r WHERE r.plan = p.plan AND" DB_ORDERS_LIVE \
    ") END, g.stopped, g.rate, g.floor_rate, CASE WHEN g.limits <> '{}' THEN "                     \
    "coalesce(@silent@, 1000000000.0) END, CASE WHEN g.rate IS NOT NULL OR g.limits <> '{}' THEN " \
    "(SELECT count(*) FROM scatter_batch r WHERE" DB_ORDERS_LIVE ") END"
#define DB_ORDERS_CELLS  10
#define DB_ORDERS_TABLES "scatter_plan p LEFT JOIN scatter_governor g ON g.id = 1"
int db_orders_read(const struct slice *cells, struct db_orders *ret_o) WARN_UNUSED;

/* Text with the dialect's words for its tokens. */
int db_expand(const struct db_ops *ops, const char *sql, struct buf *dst) WARN_UNUSED;
/* exec with the tokens replaced. */
int db_exec(struct db *db, const char *sql, const struct db_val *v, size_t n, struct db_rows *ret_r,
            struct err *e) WARN_UNUSED;

/* "schema.table" or "table" (double quotes honoured) as a quoted identifier. */
void db_quote_table(struct buf *dst, const char *table);
void db_quote_name(struct buf *dst, struct slice name);
