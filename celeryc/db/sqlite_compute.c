/* SPDX-License-Identifier: Apache-2.0 */
/* SQLite: the SELECT of an SQL file, run once for each record with its old values. */

#include "celeryc/base/num.h"
#include "celeryc/db/sqlite_target.h"

#include <errno.h>

/* WITH old (names) AS (SELECT ?, ...), fresh AS (file) SELECT new values as text FROM fresh */
static int compute_text(const struct sqlite_update *u, const char *body, struct buf *dst)
{
    CLEANUP(buf_deinit) struct buf marks = BUF_INIT;
    size_t at;

    buf_append_str(dst, "WITH old (");
    for (size_t i = 0; i < u->kinds.key.n + u->t->n_reads; i++) {
        size_t k = i - u->kinds.key.n;
        struct slice name = i < u->kinds.key.n ? u->kinds.key.column[i] : slice_str(u->t->reads[k]);

        if (i >= u->kinds.key.n && key_find(u->t->key, u->t->reads[k], &at))
            continue;
        buf_append_str(dst, i ? ", " : "");
        db_quote_name(dst, name);
        buf_append_str(&marks, i ? ", ?" : "?");
    }
    if (buf_ok(&marks))
        return -ENOMEM;
    /* The line feed ends a comment that may end the file. */
    buf_appendf(dst, ") AS (SELECT %s), fresh AS (%s\n) SELECT ", marks.data, body);
    for (size_t i = 0; i < u->t->n_writes; i++) {
        buf_append_str(dst, i ? ", " : "");
        sqlite_append_text_form(dst, "f.", slice_str(u->t->writes[i]));
    }
    buf_append_str(dst, " FROM fresh AS f");
    return buf_ok(dst);
}

/* As the column keeps it: a number is one to the file's expressions. */
static int bind_typed(struct sqlite_update *u, int at, struct slice s, enum column_kind kind,
                      struct err *e)
{
    struct slice stored = sqlite_stored_form(s, kind);
    struct db_val v = sqlite_key_value(stored, kind);
    double real;

    if (v.kind == DB_V_INT)
        return sqlite3_bind_int64(u->stmt, at, v.i) ? sqlite_fail(u->q, e) : 0;
    if (kind == COLUMN_OTHER && s.p && !num_parse_f64(s, &real))
        return sqlite3_bind_double(u->stmt, at, real) ? sqlite_fail(u->q, e) : 0;
    return sqlite_bind_stored(u, at, s, kind, e);
}

static int bind_old(struct sqlite_update *u, const struct db_row *row, struct err *e)
{
    size_t n_keys = u->kinds.key.n, at;
    int mark = 1, r = 0;

    for (size_t i = 0; !r && i < n_keys; i++)
        r = bind_typed(u, mark++, row->old[i], u->kinds.key_kind[i], e);
    for (size_t i = 0; !r && i < u->t->n_reads; i++)
        if (!key_find(u->t->key, u->t->reads[i], &at))
            r = bind_typed(u, mark++, row->old[n_keys + i], u->kinds.reads[i], e);
    return r;
}

static int take_fresh(struct sqlite_update *u, struct arena *a, struct slice *fresh)
{
    for (size_t i = 0; i < u->t->n_writes; i++) {
        const char *p = (const char *)sqlite3_column_text(u->stmt, (int)i);
        struct slice s = {p, p ? (size_t)sqlite3_column_bytes(u->stmt, (int)i) : 0};

        if (u->kinds.writes[i] == COLUMN_BOOL && slice_eq_str(s, "1"))
            s = SLICE_LIT("true");
        else if (u->kinds.writes[i] == COLUMN_BOOL && slice_eq_str(s, "0"))
            s = SLICE_LIT("false");
        char *copy = s.p ? arena_strdup(a, s) : NULL;

        if (s.p && !copy)
            return -ENOMEM;
        fresh[i] = (struct slice){copy, s.len};
    }
    return 0;
}

static int compute_row(struct sqlite_update *u, const struct db_compute *q, size_t i, struct err *e)
{
    int r = bind_old(u, &q->rows[i], e);
    int step = r ? SQLITE_DONE : sqlite3_step(u->stmt);

    q->found[i] = step == SQLITE_ROW;
    if (q->found[i]) {
        r = take_fresh(u, q->arena, q->fresh + i * u->t->n_writes);
        step = sqlite3_step(u->stmt);
        if (!r && step == SQLITE_ROW)
            r = err_set(e, db_fail(&u->q->db, "21000"),
                        "the SELECT gives two rows for the key \"%.60s\"", q->rows[i].old[0].p);
    }
    if (!r && step != SQLITE_ROW && step != SQLITE_DONE)
        r = sqlite_fail(u->q, e);
    (void)sqlite3_reset(u->stmt);
    return r;
}

static int resolve(struct sqlite_update *u, const struct db_compute *q, struct err *e)
{
    struct db_target t = *q->target;

    t.n_writes = q->free_names ? 0 : t.n_writes;
    int r = sqlite_resolve(&u->q->db, &t, q->arena, &u->kinds, e);

    if (r || !q->free_names)
        return r;
    u->kinds.writes = arena_alloc_array(q->arena, u->t->n_writes + 1, sizeof(*u->kinds.writes));
    return u->kinds.writes ? 0 : -ENOMEM;
}

int sqlite_compute(struct db *db, const struct db_compute *q, struct err *e)
{
    CLEANUP(buf_deinit) struct buf sql = BUF_INIT;
    struct sqlite_update u = {.q = sqlite_of(db), .t = q->target, .arena = q->arena};
    int r = resolve(&u, q, e);

    if (!r)
        r = compute_text(&u, q->body, &sql);
    if (!r)
        r = sqlite_prepare(u.q, sql.data, &u.stmt, e);
    if (!r && !sqlite3_stmt_readonly(u.stmt))
        r = err_set(e, db_fail(db, "25006"), "the file's statement writes, give a SELECT");
    for (size_t i = 0; !r && i < q->n_rows; i++)
        r = compute_row(&u, q, i, e);
    (void)sqlite3_finalize(u.stmt);
    return r;
}
