/* SPDX-License-Identifier: Apache-2.0 */
/* SQLite: the fenced chunk, its rehearsal, and the guard of a chunk of own statements.
 *
 * Values are compared and told in text form, CAST(col AS TEXT), which is also what a stream gives. A column that is
 * declared as boolean holds 1 and 0 where the batch file says true and false: both directions are translated. The text
 * form of a blob is PostgreSQL's, \\x and hexadecimal digits; it is written as a blob again where the column is one. */

#include "celeryc/db/sqlite_target.h"

#include "celeryc/base/clock.h"
#include "celeryc/db/rehearse.h"

#include <errno.h>

/* ---- the guarded update ---- */

/* " WHERE key = ? AND ... AND old value IS ?" */
static void append_where(const struct sqlite_update *u, struct buf *dst)
{
    for (size_t i = 0; i < u->kinds.key.n; i++) {
        buf_append_str(dst, i ? " AND " : " WHERE ");
        db_quote_name(dst, u->kinds.key.column[i]);
        buf_append_str(dst, " = ?");
    }
    for (size_t i = 0; i < u->t->n_reads; i++) {
        buf_append_str(dst, " AND ");
        sqlite_append_text_form(dst, "", slice_str(u->t->reads[i]));
        buf_append_str(dst, " IS ?");
    }
}

/* Parameters in order: the new values, the key, the old values. Columns that are not set keep their value. */
static int update_text(const struct sqlite_update *u, struct buf *dst)
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

static bool same_set(const struct sqlite_update *u, const bool *set)
{
    if (!u->set || !set)
        return !u->set && !set;
    return memcmp(u->set, set, u->t->n_writes * sizeof(*set)) == 0;
}

/* The statement is compiled again only when another set of columns is written. */
static int choose(struct sqlite_update *u, const bool *set, struct err *e)
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

/* Key and old values, from parameter `at` on. */
static int bind_where(struct sqlite_update *u, int at, const struct db_row *row, struct err *e)
{
    size_t n_keys = u->kinds.key.n;
    int r = 0;

    for (size_t i = 0; !r && i < n_keys; i++) {
        struct db_val key = sqlite_key_value(row->old[i], u->kinds.key_kind[i]);

        if (key.kind == DB_V_INT)
            r = sqlite3_bind_int64(u->stmt, at++, key.i) ? sqlite_fail(u->q, e) : 0;
        else
            r = sqlite_bind_stored(u, at++, key.s, u->kinds.key_kind[i], e);
    }
    for (size_t i = 0; !r && i < u->t->n_reads; i++)
        r = sqlite_bind_text(u, at++, sqlite_stored_form(row->old[n_keys + i], u->kinds.reads[i]),
                             e);
    return r;
}

static int bind_row(struct sqlite_update *u, const struct db_row *row, struct err *e)
{
    int at = 1, r = 0;

    for (size_t i = 0; !r && i < u->t->n_writes; i++)
        if (!u->set || u->set[i])
            r = sqlite_bind_stored(u, at++, row->fresh[i], u->kinds.writes[i], e);
    return r ? r : bind_where(u, at, row, e);
}

static int apply_row(struct sqlite_update *u, const struct db_row *row, bool *ret_hit,
                     struct err *e)
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

static int apply_rows(struct db *db, const struct db_chunk *c, struct sqlite_update *u,
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

static int chunk_body(struct db *db, const struct db_chunk *c, struct sqlite_update *u,
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
        r = sqlite_resolve(db, c->target, a, &u->kinds, e);
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
    struct sqlite_update u = {.q = sqlite_of(db), .t = c->target, .arena = a};
    int r = a ? sqlite_resolve(db, c->target, a, &u.kinds, e) : -ENOMEM;

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

int sqlite_chunk(struct db *db, const struct db_chunk *c, struct db_chunk_result *ret_r,
                 struct err *e)
{
    struct sqlite_update u = {.q = sqlite_of(db), .t = c->target};
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
    struct sqlite_update u = {.q = sqlite_of(db), .t = c->target, .arena = a};
    int r = a ? sqlite_resolve(db, c->target, a, &u.kinds, e) : -ENOMEM;

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
    struct sqlite_update u = {.q = sqlite_of(db), .t = c->target};
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
