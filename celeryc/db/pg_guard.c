/* SPDX-License-Identifier: Apache-2.0 */
/* PostgreSQL: which rows of a chunk still hold their planned values, and locks on those, in file order. */

#include "celeryc/db/pg.h"

#include "celeryc/base/num.h"

#include <errno.h>

struct guard {
    struct arena *arena;
    struct buf arrays, names, on;
    struct db_val *values;
    size_t n;
};

static void guard_deinit(struct guard *g)
{
    buf_deinit(&g->arrays);
    buf_deinit(&g->names);
    buf_deinit(&g->on);
}

DEFINE_CLEANUP_VALUE(struct guard, guard_deinit)

/* Column k of the rows as one parameter, and what it is compared with. */
static int add_column(struct guard *g, const struct db_chunk *c, const struct pg_column *col,
                      bool key)
{
    CLEANUP(pg_array_deinit) struct pg_array a = PG_ARRAY_INIT;
    size_t k = g->n;

    for (size_t i = 0; i < c->n_rows; i++)
        pg_array_add(&a, c->rows[i].old[k]);
    const char *text = pg_array_end(&a);

    text = text ? arena_strdup(g->arena, slice_str(text)) : NULL;
    if (!text)
        return -ENOMEM;
    g->values[g->n++] = db_text(text);
    buf_appendf(&g->arrays, "%s$%zu::%s[]", k ? ", " : "", k + 1, key ? col->type : "text");
    buf_appendf(&g->names, "c%zu, ", k);
    buf_append_str(&g->on, k ? " AND t." : "t.");
    db_quote_name(&g->on, slice_str(col->name));
    if (key)
        buf_appendf(&g->on, " = v.c%zu", k);
    else
        buf_appendf(&g->on, "::text COLLATE \"C\" IS NOT DISTINCT FROM v.c%zu", k);
    return 0;
}

static int add_columns(struct guard *g, struct pg *pg, const struct db_chunk *c,
                       const struct pg_target **ret_target, struct err *e)
{
    const struct pg_column *col;
    struct pg_key key;
    int r = pg_target_get(pg, c->target->table, ret_target, e);

    if (!r)
        r = pg_target_key(pg, *ret_target, c->target, &key, e);
    for (size_t i = 0; !r && i < key.n; i++)
        r = add_column(g, c, key.column[i], true);
    for (size_t i = 0; !r && i < c->target->n_reads; i++) {
        r = pg_target_column(pg, *ret_target, c->target->reads[i], &col, e);
        if (!r)
            r = add_column(g, c, col, false);
    }
    return r;
}

/* Numbers from 1, separated by commas. */
static void mark(const char *numbers, bool *stale, size_t n)
{
    while (*numbers) {
        char *end;
        size_t i = strtoul(numbers, &end, 10);

        if (i >= 1 && i <= n)
            stale[i - 1] = true;
        numbers = *end ? end + 1 : end;
    }
}

int pg_guard(struct db *db, const struct db_chunk *c, bool *ret_stale, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(guard_deinit) struct guard g = {.arena = a};
    CLEANUP(buf_deinit) struct buf sql = BUF_INIT;
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    const struct pg_target *target;
    int r;

    g.values =
        a ? arena_alloc_array(a, LIMIT_KEY_COLUMNS + c->target->n_reads, sizeof(*g.values)) : NULL;
    if (!g.values)
        return -ENOMEM;
    r = add_columns(&g, pg_of(db), c, &target, e);
    if (r)
        return r;
    if (buf_ok(&g.arrays) || buf_ok(&g.names) || buf_ok(&g.on))
        return -ENOMEM;
    buf_appendf(&sql,
                "WITH l AS MATERIALIZED (SELECT v.i FROM unnest(%s) WITH ORDINALITY AS v (%si) "
                "JOIN %s AS t ON %s ORDER BY v.i FOR NO KEY UPDATE OF t) "
                "SELECT string_agg(g.i::text, ',') FROM generate_series(1, %zu) AS g (i) "
                "WHERE g.i NOT IN (SELECT l.i FROM l)",
                g.arrays.data, g.names.data, target->quoted, g.on.data, c->n_rows);
    if (buf_ok(&sql))
        return -ENOMEM;
    r = db->ops->exec(db, sql.data, g.values, g.n, &rows, e);
    if (r)
        return r;
    memset(ret_stale, 0, c->n_rows * sizeof(*ret_stale));
    if (rows.n_rows && db_cell(&rows, 0, 0).p)
        mark(db_cell(&rows, 0, 0).p, ret_stale, c->n_rows);
    return 0;
}
