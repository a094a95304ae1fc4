/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a database by its URL, the shared face of both dialects, and small results.
 *
 * SQL that both dialects share is written once: parameters are $1, $2, ... and what differs stands as a @token@ that
 * the dialect's table replaces. A statement text is always the program's own; values only ever travel as parameters. */

#include "celeryc/db/db_priv.h"

#include <errno.h>

#include "celeryc/base/num.h"
#include "celeryc/base/url.h"

static bool has_prefix(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

static int open_sqlite_url(const char *text, struct db **ret_db, struct err *e)
{
    CLEANUP(url_deinit) struct url u = {0};
    int r = url_parse(text, &u, e);

    if (r)
        return r;
    if (u.host && u.host[0])
        return err_set(
            e, -EINVAL,
            "an SQLite URL names a file with three slashes, as in sqlite:///srv/app.sqlite3");
    if (!u.path || strlen(u.path) < 2)
        return err_set(e, -EINVAL, "the SQLite URL names no file, write sqlite:///path/to/file");
    if (u.query && !str_eq(u.query, "mode=ro"))
        return err_set(e, -EINVAL, "an SQLite URL takes no option but mode=ro, not \"%s\"",
                       u.query);
    return db_sqlite_open(u.path, u.query != NULL, ret_db, e);
}

int db_open(const char *url, struct db **ret_db, struct err *e)
{
    if (has_prefix(url, "sqlite:"))
        return open_sqlite_url(url, ret_db, e);
    if (has_prefix(url, "postgresql://") || has_prefix(url, "postgres://") ||
        (strchr(url, '=') && !strstr(url, "://")))
        return db_pg_open(url, ret_db, e);
    return err_set(e, -EINVAL,
                   "the database URL is not one of postgresql://user@host/name and "
                   "sqlite:///path/to/file");
}

struct db *db_close(struct db *db)
{
    return db ? db->ops->close(db) : NULL;
}

bool db_is_sqlite(const struct db *db)
{
    return db->ops == &db_sqlite_ops;
}

const char *db_sqlstate(const struct db *db)
{
    return db->sqlstate;
}

const char *db_error_class(const struct db *db)
{
    return db->error_class;
}

int db_ensure_schema(struct db *db, struct err *e)
{
    return db->ops->ensure_schema(db, e);
}

int db_chunk_apply(struct db *db, const struct db_chunk *c, struct db_chunk_result *ret_r,
                   struct err *e)
{
    ASSERT(c->new_position > c->old_position);
    ASSERT((uint64_t)(c->new_position - c->old_position) == c->n_rows);
    return db->ops->chunk(db, c, ret_r, e);
}

void db_set_copy(struct db *db, enum db_copy copy)
{
    db->copy = copy;
}

const char *db_copy_refused(const struct db *db)
{
    return db->copy_refused[0] ? db->copy_refused : NULL;
}

int db_stream_query(struct db *db, const char *query, const struct db_stream *s, struct err *e)
{
    return db->ops->stream(db, query, s, e);
}

int db_check_target(struct db *db, const struct db_target *t, struct err *e)
{
    return db->ops->check_target(db, t, e);
}

/* ---- small results ---- */

void db_rows_deinit(struct db_rows *r)
{
    r->arena = arena_free(r->arena);
    r->cell = NULL;
    r->n_rows = r->n_cols = 0;
}

int db_rows_init(struct db_rows *r, size_t n_cols)
{
    *r = (struct db_rows){.arena = arena_new(), .n_cols = n_cols};
    return r->arena ? 0 : -ENOMEM;
}

/* Rows come one at a time; the table of cells doubles inside the arena (results here are small). */
int db_rows_add(struct db_rows *r, const struct slice *cells)
{
    size_t n = r->n_rows * r->n_cols;

    if (r->n_rows == r->cap) {
        size_t cap = r->cap ? r->cap * 2 : 4;
        struct slice *grown = arena_alloc_array(r->arena, cap * r->n_cols, sizeof(*grown));

        if (!grown)
            return -ENOMEM;
        if (n)
            memcpy(grown, r->cell, n * sizeof(*grown));
        r->cell = grown;
        r->cap = cap;
    }
    for (size_t i = 0; i < r->n_cols; i++) {
        struct slice s = SLICE_NULL;

        if (cells[i].p) {
            s = (struct slice){arena_strdup(r->arena, cells[i]), cells[i].len};
            if (!s.p)
                return -ENOMEM;
        }
        r->cell[n + i] = s;
    }
    r->n_rows++;
    return 0;
}

struct slice db_cell(const struct db_rows *r, size_t row, size_t col)
{
    ASSERT(row < r->n_rows && col < r->n_cols);
    return r->cell[row * r->n_cols + col];
}

int64_t db_cell_i64(const struct db_rows *r, size_t row, size_t col)
{
    int64_t v = 0;

    return num_parse_i64(db_cell(r, row, col), &v) ? 0 : v;
}

double db_cell_f64(const struct db_rows *r, size_t row, size_t col)
{
    double v = 0;

    return num_parse_f64(db_cell(r, row, col), &v) ? 0 : v;
}

bool db_cell_is(const struct db_rows *r, size_t row, size_t col, const char *text)
{
    return slice_eq_str(db_cell(r, row, col), text);
}

bool db_cell_true(const struct db_rows *r, size_t row, size_t col)
{
    return db_cell_is(r, row, col, "t") || db_cell_is(r, row, col, "1");
}

int db_cell_dup(const struct db_rows *r, size_t row, size_t col, char **ret_s)
{
    struct slice s = db_cell(r, row, col);
    char *copy = NULL;

    if (s.p) {
        copy = slice_dup(s);
        if (!copy)
            return -ENOMEM;
    }
    *ret_s = copy;
    return 0;
}

/* ---- keys ---- */

int db_row_key(const struct db_chunk *c, const struct db_row *row, struct arena *a,
               struct slice *ret_s)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    size_t n = key_width(c->target->key);

    if (n == 1) {
        *ret_s = row->old[0].p ? row->old[0] : SLICE_LIT("");
        return 0;
    }
    key_write(&b, row->old, n);
    const char *text = buf_ok(&b) ? NULL : arena_strdup(a, buf_slice(&b));

    if (!text)
        return -ENOMEM;
    *ret_s = (struct slice){text, b.len};
    return 0;
}

int db_target_key(struct db *db, const struct db_target *t, struct key *ret_k, struct err *e)
{
    if (!key_parse(t->key, ret_k))
        return 0;
    return err_set(e, db_fail(db, "42601"), "the key \"%s\" of %s has an empty or repeated column",
                   t->key, t->table);
}

/* ---- shared SQL ---- */

int db_expand(const struct db_ops *ops, const char *sql, struct buf *dst)
{
    while (*sql) {
        const char *at = strchr(sql, '@');
        const char *end = at ? strchr(at + 1, '@') : NULL;

        if (!end) {
            buf_append_str(dst, sql);
            break;
        }
        buf_append(dst, sql, (size_t)(at - sql));
        struct slice name = {at + 1, (size_t)(end - at) - 1};
        const struct db_token *t = ops->tokens;

        while (t->name && !slice_eq_str(name, t->name))
            t++;
        ASSERT(t->name);
        buf_append_str(dst, t->text);
        sql = end + 1;
    }
    return buf_ok(dst);
}

int db_exec(struct db *db, const char *sql, const struct db_val *v, size_t n, struct db_rows *ret_r,
            struct err *e)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    int r = db_expand(db->ops, sql, &text);

    if (r)
        return r;
    return db->ops->exec(db, text.data, v, n, ret_r, e);
}

void db_quote_text(struct buf *dst, struct slice text)
{
    buf_append_char(dst, '\'');
    for (size_t i = 0; i < text.len; i++) {
        if (text.p[i] == '\'')
            buf_append_char(dst, '\'');
        buf_append_char(dst, text.p[i]);
    }
    buf_append_char(dst, '\'');
}

void db_quote_name(struct buf *dst, struct slice name)
{
    buf_append_char(dst, '"');
    for (size_t i = 0; i < name.len; i++) {
        if (name.p[i] == '"')
            buf_append_char(dst, '"');
        buf_append_char(dst, name.p[i]);
    }
    buf_append_char(dst, '"');
}

/* A part in double quotes is taken as it is written there; any other ends at the next dot. Case is kept: Django's
 * names are exact. */
void db_quote_table(struct buf *dst, const char *table)
{
    const char *p = table;

    for (;;) {
        if (*p == '"') {
            const char *end = p + 1;

            while (*end && (*end != '"' || end[1] == '"'))
                end += *end == '"' ? 2 : 1;
            buf_append(dst, p, (size_t)(end - p));
            buf_append_char(dst, '"');
            p = *end ? end + 1 : end;
        } else {
            size_t len = strcspn(p, ".");

            db_quote_name(dst, (struct slice){p, len});
            p += len;
        }
        if (*p != '.')
            break;
        buf_append_char(dst, '.');
        p++;
    }
}
