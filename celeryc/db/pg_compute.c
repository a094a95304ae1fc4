/* SPDX-License-Identifier: Apache-2.0 */
/* PostgreSQL: the SELECT of an SQL file over the old values of a chunk.
 *
 *   WITH old AS (the planned values, as the columns' types), fresh AS (the file's SELECT)
 *   SELECT number of the record, new values as text FROM the keys JOIN fresh ON the key */

#include "celeryc/db/pg.h"

#include "celeryc/base/num.h"

#include <errno.h>

struct compute {
    const struct db_compute *q;
    struct buf arrays, names, old, keys, key_names, on;
    struct db_val *values;
    size_t n;
};

static void compute_deinit(struct compute *c)
{
    buf_deinit(&c->arrays);
    buf_deinit(&c->names);
    buf_deinit(&c->old);
    buf_deinit(&c->keys);
    buf_deinit(&c->key_names);
    buf_deinit(&c->on);
}

DEFINE_CLEANUP_VALUE(struct compute, compute_deinit)

static int add_column(struct compute *c, const struct pg_column *col, size_t at, bool key)
{
    CLEANUP(pg_array_deinit) struct pg_array a = PG_ARRAY_INIT;
    size_t k = c->n;

    for (size_t i = 0; i < c->q->n_rows; i++)
        pg_array_add(&a, c->q->rows[i].old[at]);
    const char *text = pg_array_end(&a);

    text = text ? arena_strdup(c->q->arena, slice_str(text)) : NULL;
    if (!text)
        return -ENOMEM;
    c->values[c->n++] = db_text(text);
    buf_appendf(&c->arrays, "%s$%zu::text[]", k ? ", " : "", k + 1);
    buf_appendf(&c->names, "%sc%zu", k ? ", " : "", k);
    buf_appendf(&c->old, "%sv.c%zu::%s AS ", k ? ", " : "", k, col->type);
    db_quote_name(&c->old, slice_str(col->name));
    if (!key)
        return 0;
    buf_appendf(&c->keys, "%s$%zu::%s[]", k ? ", " : "", k + 1, col->type);
    buf_appendf(&c->key_names, "k%zu, ", k);
    buf_append_str(&c->on, k ? " AND f." : "f.");
    db_quote_name(&c->on, slice_str(col->name));
    buf_appendf(&c->on, " = v.k%zu", k);
    return 0;
}

static int add_columns(struct compute *c, struct pg *pg, struct err *e)
{
    const struct db_target *t = c->q->target;
    const struct pg_target *target;
    const struct pg_column *col;
    struct pg_key key = {0};
    size_t at;
    int r = pg_target_get(pg, t->table, &target, e);

    if (!r)
        r = pg_target_key(pg, target, t, &key, e);
    for (size_t i = 0; !r && i < key.n; i++)
        r = add_column(c, key.column[i], i, true);
    for (size_t i = 0; !r && i < t->n_reads; i++) {
        if (key_find(t->key, t->reads[i], &at))
            continue;
        r = pg_target_column(pg, target, t->reads[i], &col, e);
        if (!r)
            r = add_column(c, col, key.n + i, false);
    }
    return r;
}

static int statement(struct compute *c, struct buf *sql)
{
    if (buf_ok(&c->arrays) || buf_ok(&c->names) || buf_ok(&c->old) || buf_ok(&c->keys) ||
        buf_ok(&c->key_names) || buf_ok(&c->on))
        return -ENOMEM;
    /* The line feed ends a comment that may end the file. */
    buf_appendf(sql,
                "WITH old AS (SELECT %s FROM unnest(%s) AS v (%s)), fresh AS (%s\n) SELECT v.i",
                c->old.data, c->arrays.data, c->names.data, c->q->body);
    for (size_t i = 0; i < c->q->target->n_writes; i++) {
        buf_append_str(sql, ", f.");
        db_quote_name(sql, slice_str(c->q->target->writes[i]));
        buf_append_str(sql, "::text");
    }
    buf_appendf(sql, " FROM unnest(%s) WITH ORDINALITY AS v (%si) JOIN fresh AS f ON %s",
                c->keys.data, c->key_names.data, c->on.data);
    return buf_ok(sql);
}

static int take(struct pg *pg, const struct db_compute *q, const struct db_rows *rows,
                struct err *e)
{
    size_t width = q->target->n_writes;

    memset(q->found, 0, q->n_rows * sizeof(*q->found));
    for (size_t r = 0; r < rows->n_rows; r++) {
        int64_t i = db_cell_i64(rows, r, 0) - 1;

        if (i < 0 || (uint64_t)i >= q->n_rows || q->found[i])
            return err_set(e, db_fail(&pg->db, "21000"),
                           "the SELECT gives two rows for the key \"%.60s\"",
                           i < 0 ? "" : q->rows[i].old[0].p);
        q->found[i] = true;
        for (size_t k = 0; k < width; k++) {
            struct slice s = db_cell(rows, r, k + 1);
            char *copy = s.p ? arena_strdup(q->arena, s) : NULL;

            if (s.p && !copy)
                return -ENOMEM;
            q->fresh[(size_t)i * width + k] = (struct slice){copy, s.len};
        }
    }
    return 0;
}

int pg_compute(struct db *db, const struct db_compute *q, struct err *e)
{
    CLEANUP(compute_deinit) struct compute c = {.q = q};
    CLEANUP(buf_deinit) struct buf sql = BUF_INIT;
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    int r = db->ops->begin(db, q->lease_ms, e);

    if (r)
        return r;
    c.values =
        arena_alloc_array(q->arena, LIMIT_KEY_COLUMNS + q->target->n_reads, sizeof(*c.values));
    r = c.values ? db->ops->exec(db, "SET TRANSACTION READ ONLY", NULL, 0, NULL, e) : -ENOMEM;
    if (!r)
        r = add_columns(&c, pg_of(db), e);
    if (!r)
        r = statement(&c, &sql);
    if (!r)
        r = db->ops->exec(db, sql.data, c.values, c.n, &rows, e);
    if (!r && q->n_rows)
        r = take(pg_of(db), q, &rows, e);
    pg_rollback(db);
    return r;
}
