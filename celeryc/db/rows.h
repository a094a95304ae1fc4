/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Parameters of a statement, and small results, for whoever reads the control tables in words of its own. */

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

/* Runs a query that only reads, in a transaction of its own. @token@s are replaced (db_priv.h lists them). */
int db_read(struct db *db, const char *sql, const struct db_val *v, size_t n,
            struct db_rows *ret_rows, struct err *e) WARN_UNUSED;
/* A text as an SQL literal; for db_stream_query, which takes no parameters. */
void db_quote_text(struct buf *dst, struct slice text);
/* "schema.table" or "table" (double quotes honoured) as a quoted identifier. */
void db_quote_table(struct buf *dst, const char *table);
void db_quote_name(struct buf *dst, struct slice name);
/* The name of a column's type for a cast, in the arena; NULL for SQLite, which needs none. */
int db_column_type(struct db *db, const char *table, const char *column, struct arena *a,
                   const char **ret_type, struct err *e) WARN_UNUSED;
/* Turns values (n_rows of n_columns each) into the text form that they have once they stand in their columns. SQLite:
 * leaves them. */
int db_canonical(struct db *db, const char *table, const char *const *columns, size_t n_columns,
                 struct slice *values, size_t n_rows, struct arena *a, struct err *e) WARN_UNUSED;
