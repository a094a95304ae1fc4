/* SPDX-License-Identifier: Apache-2.0 */
/* SQLite: the fenced chunk, streaming a query, and the checks of a target.
 *
 * Values are compared and told in text form, CAST(col AS TEXT), which is also what a stream gives. A column that is
 * declared as boolean holds 1 and 0 where the batch file says true and false: both directions are translated. The text
 * form of a blob is PostgreSQL's, \\x and hexadecimal digits; it is written as a blob again where the column is one. */

#include "celeryc/db/sqlite.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/limits.h"
#include "celeryc/base/num.h"
#include "celeryc/db/rehearse.h"

#include <errno.h>
#include <strings.h>

enum column_kind { COLUMN_OTHER, COLUMN_TEXT, COLUMN_BOOL, COLUMN_BLOB };

struct target {
    enum column_kind *reads, *writes;
    struct key key;
    enum column_kind key_kind[LIMIT_KEY_COLUMNS];
};

/* ---- columns ---- */

/* SQLite's own affinity rule, as far as it matters here. */
static enum column_kind kind_of(struct slice declared)
{
    char *type = declared.p ? slice_dup(declared) : NULL;
    enum column_kind kind = COLUMN_OTHER;

    if (!type)
        return kind;
    if (strncasecmp(type, "bool", 4) == 0)
        kind = COLUMN_BOOL;
    else if (!strcasestr(type, "int") &&
             (strcasestr(type, "char") || strcasestr(type, "clob") || strcasestr(type, "text")))
        kind = COLUMN_TEXT;
    else if (!strcasestr(type, "int") && strcasestr(type, "blob"))
        kind = COLUMN_BLOB;
    free(type);
    return kind;
}

static int find_column(struct db *db, const struct db_rows *info, const char *table,
                       struct slice column, enum column_kind *ret_kind, struct err *e)
{
    CLEANUP(buf_deinit) struct buf all = BUF_INIT;

    for (size_t i = 0; i < info->n_rows; i++) {
        struct slice name = db_cell(info, i, 0);

        if (name.p && name.len == column.len && strncasecmp(name.p, column.p, column.len) == 0) {
            *ret_kind = kind_of(db_cell(info, i, 1));
            return 0;
        }
        buf_appendf(&all, "%s%s", i ? ", " : "", name.p ? name.p : "");
    }
    return err_set(e, db_fail(db, "42703"), "table %s has no column %.*s (it has %s)", table,
                   (int)column.len, column.p, buf_ok(&all) ? "" : all.data);
}

/* The plain name of the table for the catalogue: quotes and a schema in front are left out. */
static const char *plain_name(const char *table)
{
    const char *dot = strrchr(table, '.');

    return dot && !strchr(table, '"') ? dot + 1 : table;
}

static int resolve(struct db *db, const struct db_target *t, struct arena *a, struct target *ret_t,
                   struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows info = {0};
    struct target out = {
        .reads = arena_alloc_array(a, t->n_reads + 1, sizeof(*out.reads)),
        .writes = arena_alloc_array(a, t->n_writes + 1, sizeof(*out.writes)),
    };
    int r;

    if (!out.reads || !out.writes)
        return -ENOMEM;
    r = sqlite_exec(db, "SELECT name, type FROM pragma_table_xinfo($1)",
                    (struct db_val[]){db_text(plain_name(t->table))}, 1, &info, e);
    if (r)
        return r;
    if (info.n_rows == 0)
        return err_set(e, db_fail(db, "42P01"),
                       "there is no table %s in the target database (check --table)", t->table);
    r = db_target_key(db, t, &out.key, e);
    for (size_t i = 0; !r && i < out.key.n; i++)
        r = find_column(db, &info, t->table, out.key.column[i], &out.key_kind[i], e);
    for (size_t i = 0; !r && i < t->n_reads; i++)
        r = find_column(db, &info, t->table, slice_str(t->reads[i]), &out.reads[i], e);
    for (size_t i = 0; !r && i < t->n_writes; i++)
        r = find_column(db, &info, t->table, slice_str(t->writes[i]), &out.writes[i], e);
    if (!r)
        *ret_t = out;
    return r;
}

/* ---- the guarded update ---- */

struct update {
    struct sqlite *q;
    const struct db_target *t;
    struct target kinds;
    sqlite3_stmt *stmt;
    const bool *set; /* the columns that stmt writes; NULL all */
    bool *set_copy;
    struct arena *arena; /* of the chunk */
};

/* A column in text form, as a stream gives it. A name behind a table's is never taken for a text, as SQLite takes a lone
 * "name" that it does not know. */
static void append_text_form(struct buf *dst, const char *table, struct slice name)
{
    buf_appendf(dst, "CASE typeof(%s", table);
    db_quote_name(dst, name);
    buf_appendf(dst, ") WHEN 'blob' THEN '\\x' || lower(hex(%s", table);
    db_quote_name(dst, name);
    buf_appendf(dst, ")) ELSE CAST(%s", table);
    db_quote_name(dst, name);
    buf_append_str(dst, " AS TEXT) END");
}

/* " WHERE key = ? AND ... AND old value IS ?" */
static void append_where(const struct update *u, struct buf *dst)
{
    for (size_t i = 0; i < u->kinds.key.n; i++) {
        buf_append_str(dst, i ? " AND " : " WHERE ");
        db_quote_name(dst, u->kinds.key.column[i]);
        buf_append_str(dst, " = ?");
    }
    for (size_t i = 0; i < u->t->n_reads; i++) {
        buf_append_str(dst, " AND ");
        append_text_form(dst, "", slice_str(u->t->reads[i]));
        buf_append_str(dst, " IS ?");
    }
}

/* Parameters in order: the new values, the key, the old values. Columns that are not set keep their value. */
static int update_text(const struct update *u, struct buf *dst)
{
    bool first = true;

    buf_append_str(dst, "UPDATE ");
    db_quote_table(dst, u->t->table);
    buf_append_str(dst, " SET ");
    for (size_t i = 0; i < u->t->n_writes; i++) {
        if (u->set && !u->set[i])
            continue;
        buf_append_str(dst, first ? "" : ", ");
        db_quote_name(dst, slice_str(u->t->writes[i]));
        buf_append_str(dst, " = ?");
        first = false;
    }
    append_where(u, dst);
    return buf_ok(dst);
}

static bool same_set(const struct update *u, const bool *set)
{
    if (!u->set || !set)
        return !u->set && !set;
    return memcmp(u->set, set, u->t->n_writes * sizeof(*set)) == 0;
}

/* The statement is compiled again only when another set of columns is written. */
static int choose(struct update *u, const bool *set, struct err *e)
{
    CLEANUP(buf_deinit) struct buf sql = BUF_INIT;

    if (u->stmt && same_set(u, set))
        return 0;
    (void)sqlite3_finalize(u->stmt);
    u->stmt = NULL;
    u->set = NULL;
    if (set) {
        memcpy(u->set_copy, set, u->t->n_writes * sizeof(*set));
        u->set = u->set_copy;
    }
    if (update_text(u, &sql))
        return -ENOMEM;
    return sqlite_prepare(u->q, sql.data, &u->stmt, e);
}

static struct slice stored_form(struct slice s, enum column_kind kind)
{
    if (kind == COLUMN_BOOL && slice_eq_str(s, "true"))
        return SLICE_LIT("1");
    if (kind == COLUMN_BOOL && slice_eq_str(s, "false"))
        return SLICE_LIT("0");
    return s;
}

/* An integer key is bound as one, so that a column without a type finds it too; text stays text ("007" is no 7). */
static struct db_val key_value(struct slice s, enum column_kind kind)
{
    char again[24];
    int64_t v;

    if (kind != COLUMN_TEXT && s.p && !num_parse_i64(s, &v)) {
        (void)snprintf(again, sizeof(again), "%lld", (long long)v);
        if (slice_eq_str(s, again))
            return db_int(v);
    }
    return db_slice(s);
}

static int bind_text(struct update *u, int at, struct slice s, struct err *e)
{
    int r = s.p ? sqlite3_bind_text64(u->stmt, at, s.p, s.len, SQLITE_STATIC, SQLITE_UTF8)
                : sqlite3_bind_null(u->stmt, at);

    return r ? sqlite_fail(u->q, e) : 0;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The bytes of "\x0a1b" in the arena; *ret_is false: s is no such text. */
static int blob_of(struct arena *a, struct slice s, bool *ret_is, struct slice *ret_bytes)
{
    *ret_is = s.p && s.len >= 2 && s.len % 2 == 0 && s.p[0] == '\\' && s.p[1] == 'x';
    char *bytes = *ret_is ? arena_alloc(a, s.len / 2) : NULL;

    if (!*ret_is)
        return 0;
    if (!bytes)
        return -ENOMEM;
    for (size_t i = 2; i < s.len; i += 2) {
        int high = hex_digit(s.p[i]), low = hex_digit(s.p[i + 1]);

        if (high < 0 || low < 0) {
            *ret_is = false;
            return 0;
        }
        bytes[i / 2 - 1] = (char)(high << 4 | low);
    }
    *ret_bytes = (struct slice){bytes, s.len / 2 - 1};
    return 0;
}

/* A value as the column stores it: a blob's bytes, 1 and 0 for true and false, else its text. */
static int bind_stored(struct update *u, int at, struct slice s, enum column_kind kind,
                       struct err *e)
{
    struct slice bytes;
    bool blob = false;

    if (kind == COLUMN_BLOB && blob_of(u->arena, s, &blob, &bytes))
        return -ENOMEM;
    if (!blob)
        return bind_text(u, at, stored_form(s, kind), e);
    return sqlite3_bind_blob64(u->stmt, at, bytes.p, bytes.len, SQLITE_STATIC)
               ? sqlite_fail(u->q, e)
               : 0;
}

/* Key and old values, from parameter `at` on. */
static int bind_where(struct update *u, int at, const struct db_row *row, struct err *e)
{
    size_t n_keys = u->kinds.key.n;
    int r = 0;

    for (size_t i = 0; !r && i < n_keys; i++) {
        struct db_val key = key_value(row->old[i], u->kinds.key_kind[i]);

        if (key.kind == DB_V_INT)
            r = sqlite3_bind_int64(u->stmt, at++, key.i) ? sqlite_fail(u->q, e) : 0;
        else
            r = bind_stored(u, at++, key.s, u->kinds.key_kind[i], e);
    }
    for (size_t i = 0; !r && i < u->t->n_reads; i++)
        r = bind_text(u, at++, stored_form(row->old[n_keys + i], u->kinds.reads[i]), e);
    return r;
}

static int bind_row(struct update *u, const struct db_row *row, struct err *e)
{
    int at = 1, r = 0;

    for (size_t i = 0; !r && i < u->t->n_writes; i++)
        if (!u->set || u->set[i])
            r = bind_stored(u, at++, row->fresh[i], u->kinds.writes[i], e);
    return r ? r : bind_where(u, at, row, e);
}

static int apply_row(struct update *u, const struct db_row *row, bool *ret_hit, struct err *e)
{
    int r = choose(u, row->set, e);

    if (!r)
        r = bind_row(u, row, e);
    if (!r)
        r = sqlite_step_done(u->q, u->stmt, e);
    if (!r)
        *ret_hit = sqlite3_changes64(u->q->conn) > 0;
    (void)sqlite3_reset(u->stmt);
    return r;
}

/* ---- the chunk ---- */

struct chunk_counts {
    int64_t unchanged, stale, skipped, quarantined;
};

static int move_checkpoint(struct db *db, const struct db_chunk *c, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    const struct db_val v[] = {db_int(c->lease_ms), db_int(c->new_position),
                               db_text(c->plan),    db_int(c->batch),
                               db_int(c->token),    db_int(c->old_position)};
    int r = db_exec(db,
                    "UPDATE scatter_batch SET position = $2, lease_until = @lease@ WHERE plan = $3 "
                    "AND batch = $4 AND lease_token = $5 AND position = $6 AND state = 'running'",
                    v, ARRAY_SIZE(v), &rows, e);

    if (r)
        return r;
    return rows.changed == 1 ? 0 : DB_E_FENCED;
}

static int add_outcome(struct db *db, sqlite3_stmt **s, const struct db_chunk *c,
                       const struct db_row *row, const char *outcome, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct sqlite *q = sqlite_of(db);
    struct slice key;

    if (!a || db_row_key(c, row, a, &key))
        return -ENOMEM;
    const struct db_val v[] = {db_text(c->plan),       db_int(c->batch),
                               db_int(row->position),  db_slice(key),
                               db_text(outcome),       db_text(row->error_class),
                               db_text(row->sqlstate), db_text(row->message),
                               db_text(c->worker),     db_int(row->attempts ? row->attempts : 1)};
    int r = *s ? 0
               : sqlite_prepare(q,
                                "INSERT INTO scatter_outcome (plan, batch, position, record_key, "
                                "outcome, error_class, sqlstate, message, worker, attempts) VALUES "
                                "($1, $2, $3, coalesce($4, ''), $5, $6, $7, $8, $9, $10)",
                                s, e);

    for (size_t i = 0; !r && i < ARRAY_SIZE(v); i++)
        r = sqlite_bind(q, *s, (int)i + 1, v[i], e);
    if (!r)
        r = sqlite_step_done(q, *s, e);
    (void)sqlite3_reset(*s);
    return r;
}

static int apply_rows(struct db *db, const struct db_chunk *c, struct update *u,
                      struct chunk_counts *n, struct err *e)
{
    CLEANUP(sqlite_stmt) sqlite3_stmt *outcome = NULL;
    int r = 0;

    for (size_t i = 0; !r && i < c->n_rows; i++) {
        const struct db_row *row = &c->rows[i];
        bool hit = false;

        switch (row->outcome) {
        case DB_O_UNCHANGED:
            n->unchanged++;
            break;
        case DB_O_DONE:
            break;
        case DB_O_STALE:
            n->stale++;
            r = add_outcome(db, &outcome, c, row, "stale", e);
            break;
        case DB_O_SKIPPED:
            n->skipped++;
            r = add_outcome(db, &outcome, c, row, "skipped", e);
            break;
        case DB_O_QUARANTINED:
            n->quarantined++;
            r = add_outcome(db, &outcome, c, row, "quarantined", e);
            break;
        case DB_O_CHANGED:
            r = apply_row(u, row, &hit, e);
            if (!r && !hit) {
                n->stale++;
                r = add_outcome(db, &outcome, c, row, "stale", e);
            }
            break;
        }
    }
    return r;
}

static int settle(struct db *db, const struct db_chunk *c, const struct chunk_counts *n,
                  struct db_chunk_result *ret_r, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    const struct db_val counts[] = {db_text(c->plan), db_int(c->batch),   db_int(n->unchanged),
                                    db_int(n->stale), db_int(n->skipped), db_int(n->quarantined)};
    const struct db_val share[] = {db_text(c->plan), db_int(c->batch), db_text(c->worker),
                                   db_int((int64_t)c->n_rows)};
    int r = sqlite_exec(db,
                        "UPDATE scatter_batch SET unchanged = unchanged + $3, stale = stale + $4, "
                        "skipped = skipped + $5, quarantined = quarantined + $6 WHERE plan = $1 "
                        "AND batch = $2",
                        counts, ARRAY_SIZE(counts), NULL, e);

    if (!r)
        r = sqlite_exec(db,
                        "INSERT INTO scatter_share (plan, batch, worker, records) VALUES ($1, $2, "
                        "$3, $4) ON CONFLICT (plan, batch, worker) DO UPDATE SET records = records "
                        "+ excluded.records",
                        share, ARRAY_SIZE(share), NULL, e);
    if (!r)
        r = db_exec(db, "SELECT " DB_ORDERS_COLUMNS " FROM " DB_ORDERS_TABLES " WHERE p.plan = $1",
                    share, 1, &rows, e);
    if (r)
        return r;
    ret_r->stale = n->stale;
    if (rows.n_rows != 1 || db_orders_read(rows.cell, &ret_r->orders))
        return err_set(e, db_fail(db, "58000"), "the plan's row cannot be understood");
    return 0;
}

static int chunk_body(struct db *db, const struct db_chunk *c, struct update *u,
                      struct db_chunk_result *ret_r, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct chunk_counts n = {0};
    int r;

    if (!a)
        return -ENOMEM;
    u->set_copy = arena_alloc_array(a, c->target->n_writes + 1, sizeof(bool));
    if (!u->set_copy)
        return -ENOMEM;
    u->arena = a;
    r = move_checkpoint(db, c, e);
    if (!r)
        r = resolve(db, c->target, a, &u->kinds, e);
    if (!r)
        r = apply_rows(db, c, u, &n, e);
    if (!r)
        r = settle(db, c, &n, ret_r, e);
    (void)sqlite3_finalize(u->stmt);
    return r;
}

/* Inside BEGIN IMMEDIATE nobody else writes: what was looked at stays as it is. */
int sqlite_guard(struct db *db, const struct db_chunk *c, bool *ret_stale, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(buf_deinit) struct buf sql = BUF_INIT;
    struct update u = {.q = sqlite_of(db), .t = c->target, .arena = a};
    int r = a ? resolve(db, c->target, a, &u.kinds, e) : -ENOMEM;

    if (r)
        return r;
    buf_append_str(&sql, "SELECT 1 FROM ");
    db_quote_table(&sql, c->target->table);
    append_where(&u, &sql);
    r = buf_ok(&sql) ? -ENOMEM : sqlite_prepare(u.q, sql.data, &u.stmt, e);
    for (size_t i = 0; !r && i < c->n_rows; i++) {
        r = bind_where(&u, 1, &c->rows[i], e);
        int step = r ? SQLITE_DONE : sqlite3_step(u.stmt);

        if (!r && step != SQLITE_ROW && step != SQLITE_DONE)
            r = sqlite_fail(u.q, e);
        ret_stale[i] = step == SQLITE_DONE;
        (void)sqlite3_reset(u.stmt);
    }
    (void)sqlite3_finalize(u.stmt);
    return r;
}

/* ---- the SELECT of an SQL file ---- */

/* WITH old (names) AS (SELECT ?, ...), fresh AS (file) SELECT new values as text FROM fresh */
static int compute_text(const struct update *u, const char *body, struct buf *dst)
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
        append_text_form(dst, "f.", slice_str(u->t->writes[i]));
    }
    buf_append_str(dst, " FROM fresh AS f");
    return buf_ok(dst);
}

/* As the column keeps it: a number is one to the file's expressions. */
static int bind_typed(struct update *u, int at, struct slice s, enum column_kind kind,
                      struct err *e)
{
    struct slice stored = stored_form(s, kind);
    struct db_val v = key_value(stored, kind);
    double real;

    if (v.kind == DB_V_INT)
        return sqlite3_bind_int64(u->stmt, at, v.i) ? sqlite_fail(u->q, e) : 0;
    if (kind == COLUMN_OTHER && s.p && !num_parse_f64(s, &real))
        return sqlite3_bind_double(u->stmt, at, real) ? sqlite_fail(u->q, e) : 0;
    return bind_stored(u, at, s, kind, e);
}

static int bind_old(struct update *u, const struct db_row *row, struct err *e)
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

static int take_fresh(struct update *u, struct arena *a, struct slice *fresh)
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

static int compute_row(struct update *u, const struct db_compute *q, size_t i, struct err *e)
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

int sqlite_compute(struct db *db, const struct db_compute *q, struct err *e)
{
    CLEANUP(buf_deinit) struct buf sql = BUF_INIT;
    struct update u = {.q = sqlite_of(db), .t = q->target, .arena = q->arena};
    int r = resolve(db, q->target, q->arena, &u.kinds, e);

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

int sqlite_chunk(struct db *db, const struct db_chunk *c, struct db_chunk_result *ret_r,
                 struct err *e)
{
    struct update u = {.q = sqlite_of(db), .t = c->target};
    struct db_chunk_result out = {0};
    int r = c->open ? 0 : sqlite_begin(db, 0, e);

    if (r)
        return r;
    r = chunk_body(db, c, &u, &out, e);
    if (!r)
        r = sqlite_commit(db, e);
    sqlite_rollback(db);
    if (r == DB_E_FENCED)
        return db_fenced(db, c, e);
    if (!r)
        *ret_r = out;
    return r;
}

/* ---- running it, and taking it back ---- */

/* SCAN or SEARCH, as EXPLAIN QUERY PLAN says it. */
static int explain(struct db *db, const struct db_chunk *c, struct buf *dst, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(buf_deinit) struct buf sql = BUF_INIT;
    struct update u = {.q = sqlite_of(db), .t = c->target, .arena = a};
    int r = a ? resolve(db, c->target, a, &u.kinds, e) : -ENOMEM;

    buf_append_str(&sql, "EXPLAIN QUERY PLAN ");
    if (!r)
        r = update_text(&u, &sql);
    if (!r)
        r = sqlite_exec(db, sql.data, NULL, 0, &rows, e);
    for (size_t i = 0; !r && i < rows.n_rows; i++)
        buf_appendf(dst, "%s\n", db_cell(&rows, i, 3).p);
    return r ? r : buf_ok(dst);
}

static int measure(struct db *db, const struct db_chunk *c, struct db_rehearsal *x, struct err *e)
{
    struct update u = {.q = sqlite_of(db), .t = c->target};
    struct db_chunk_result unused = {0};
    int64_t began_ns = clock_mono_ns();
    int r = chunk_body(db, c, &u, &unused, e);

    x->seconds = (double)(clock_mono_ns() - began_ns) / 1e9;
    return r;
}

int sqlite_rehearse(struct db *db, const struct db_chunk *c, struct db_rehearsal *ret_x,
                    struct buf *plan, struct err *e)
{
    struct db_rehearsal x = {.wal_bytes = -1, .hot = -1};
    int r;

    if (plan)
        return explain(db, c, plan, e);
    r = sqlite_begin(db, 0, e);
    if (!r)
        r = sqlite_schema_here(db, e);
    if (!r)
        r = db_rehearsal_rows(db, e);
    if (!r)
        r = measure(db, c, &x, e);
    sqlite_rollback(db);
    *ret_x = x;
    return r;
}

/* ---- streaming ---- */

static int stream_columns(sqlite3_stmt *stmt, size_t n, struct arena *a, const struct db_stream *s)
{
    const char **names = arena_alloc_array(a, n, sizeof(*names));
    const char **types = arena_alloc_array(a, n, sizeof(*types));

    if (!names || !types)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        const char *type = sqlite3_column_decltype(stmt, (int)i);

        names[i] = sqlite3_column_name(stmt, (int)i);
        types[i] = type ? type : "";
        if (!names[i])
            return -ENOMEM;
    }
    return s->on_columns(names, types, n, s->arg);
}

/* Text form of one value; a blob's in the arena. */
static int stream_value(sqlite3_stmt *stmt, int at, struct arena *a, struct slice *ret_s)
{
    static const char digits[] = "0123456789abcdef";

    if (sqlite3_column_type(stmt, at) != SQLITE_BLOB) {
        const char *p = (const char *)sqlite3_column_text(stmt, at);

        if (!p && sqlite3_column_type(stmt, at) != SQLITE_NULL)
            return -ENOMEM;
        *ret_s = (struct slice){p, p ? (size_t)sqlite3_column_bytes(stmt, at) : 0};
        return 0;
    }
    const unsigned char *bytes = sqlite3_column_blob(stmt, at);
    size_t n = (size_t)sqlite3_column_bytes(stmt, at);
    char *text = arena_alloc(a, 2 * n + 3);

    if (!text)
        return -ENOMEM;
    text[0] = '\\';
    text[1] = 'x';
    for (size_t i = 0; i < n; i++) {
        text[2 + 2 * i] = digits[bytes[i] >> 4];
        text[3 + 2 * i] = digits[bytes[i] & 15];
    }
    *ret_s = (struct slice){text, 2 * n + 2};
    return 0;
}

static int stream_rows(struct sqlite *q, sqlite3_stmt *stmt, const struct db_stream *s,
                       struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(arena_free) struct arena *row = arena_new();
    size_t n = (size_t)sqlite3_column_count(stmt);
    struct slice *fields = a && row ? arena_alloc_array(a, n, sizeof(*fields)) : NULL;
    int r, step;

    if (!fields)
        return -ENOMEM;
    r = stream_columns(stmt, n, a, s);
    while (!r && (step = sqlite3_step(stmt)) != SQLITE_DONE) {
        if (step != SQLITE_ROW)
            return sqlite_fail(q, e);
        for (size_t i = 0; !r && i < n; i++)
            r = stream_value(stmt, (int)i, row, &fields[i]);
        if (!r)
            r = s->on_row(fields, n, s->arg);
        arena_reset(row);
    }
    return r;
}

/* One statement is one snapshot. */
int sqlite_stream(struct db *db, const char *query, const struct db_stream *s, struct err *e)
{
    struct sqlite *q = sqlite_of(db);
    CLEANUP(sqlite_stmt) sqlite3_stmt *stmt = NULL;
    const char *tail = NULL;

    if (sqlite3_prepare_v2(q->conn, query, -1, &stmt, &tail))
        return sqlite_fail(q, e);
    if (!stmt || sqlite3_column_count(stmt) == 0)
        return err_set(e, db_fail(db, "42601"), "the query returns no columns, give a SELECT");
    if (!sqlite3_stmt_readonly(stmt))
        return err_set(e, db_fail(db, "25006"), "the query writes, give a SELECT");
    if (tail[strspn(tail, "; \t\r\n")])
        return err_set(e, db_fail(db, "42601"), "the query has more than one statement");
    if ((size_t)sqlite3_column_count(stmt) > LIMIT_COLUMNS)
        return err_set(e, db_fail(db, "54011"), "the query has %d columns, at most %u",
                       sqlite3_column_count(stmt), LIMIT_COLUMNS);
    return stream_rows(q, stmt, s, e);
}

/* ---- checks before anything is made ---- */

int sqlite_check_target(struct db *db, const struct db_target *t, struct err *e)
{
    struct sqlite *q = sqlite_of(db);
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct target kinds;
    int r;

    if (!a)
        return -ENOMEM;
    if (sqlite3_db_readonly(q->conn, "main") == 1)
        return err_set(e, db_fail(db, "25006"),
                       "the SQLite file is read-only for this user: give it and its folder write "
                       "permission");
    r = resolve(db, t, a, &kinds, e);
    if (!r)
        r = sqlite_begin(db, 0, e);
    if (!r)
        r = sqlite_schema_here(db, e);
    sqlite_rollback(db);
    return r;
}
