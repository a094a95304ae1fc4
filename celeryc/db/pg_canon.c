/* SPDX-License-Identifier: Apache-2.0 */
/* The text form that a value has once it stands in its column: 1.5 in numeric(10,2) is read back as 1.50. */

#include "celeryc/db/pg.h"
#include "celeryc/db/rows.h"

#include <errno.h>

int db_column_type(struct db *db, const char *table, const char *column, struct arena *a,
                   const char **ret_type, struct err *e)
{
    const struct pg_target *target;
    const struct pg_column *c;
    int r;

    if (db_is_sqlite(db)) {
        *ret_type = NULL;
        return 0;
    }
    r = db->ops->begin(db, 0, e);
    if (r)
        return r;
    r = pg_target_get(pg_of(db), table, &target, e);
    if (!r)
        r = pg_target_column(pg_of(db), target, column, &c, e);
    db->ops->rollback(db);
    if (r)
        return r;
    *ret_type = arena_strdup(a, slice_str(c->type));
    return *ret_type ? 0 : -ENOMEM;
}

struct table {
    const char *table;
    const char *const *columns;
    size_t n;
};

/* Types with their length, as an assignment applies it; '' where every text is its own form. */
static int full_type(struct db *db, const struct table *t, size_t k, struct db_rows *ret_rows,
                     struct err *e)
{
    CLEANUP(buf_deinit) struct buf quoted = BUF_INIT;

    db_quote_table(&quoted, t->table);
    if (buf_ok(&quoted))
        return -ENOMEM;
    return db_exec(db,
                   "SELECT CASE WHEN a.atttypid IN ('text'::regtype, 'varchar'::regtype) THEN '' "
                   "ELSE format_type(a.atttypid, a.atttypmod) END FROM pg_attribute a WHERE "
                   "a.attrelid = to_regclass($1) AND a.attname = $2 AND NOT a.attisdropped",
                   (struct db_val[]){db_text(quoted.data), db_text(t->columns[k])}, 2, ret_rows, e);
}

static int one_column(struct db *db, const struct table *t, size_t k, struct slice *values,
                      size_t n_rows, struct arena *a, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows type = {0}, found = {0};
    CLEANUP(pg_array_deinit) struct pg_array list = PG_ARRAY_INIT;
    CLEANUP(buf_deinit) struct buf sql = BUF_INIT;
    int r = full_type(db, t, k, &type, e);

    if (r || type.n_rows == 0 || db_cell(&type, 0, 0).len == 0)
        return r;
    for (size_t i = 0; i < n_rows; i++)
        pg_array_add(&list, values[i * t->n + k]);
    buf_appendf(&sql,
                "SELECT v::%s::text FROM unnest($1::text[]) WITH ORDINALITY AS u (v, i) ORDER BY i",
                db_cell(&type, 0, 0).p);
    const char *text = pg_array_end(&list);

    if (!text || buf_ok(&sql))
        return -ENOMEM;
    r = db->ops->exec(db, sql.data, (struct db_val[]){db_text(text)}, 1, &found, e);
    for (size_t i = 0; !r && i < found.n_rows && i < n_rows; i++) {
        struct slice s = db_cell(&found, i, 0);
        char *copy = s.p ? arena_strdup(a, s) : NULL;

        if (s.p && !copy)
            return -ENOMEM;
        values[i * t->n + k] = (struct slice){copy, s.len};
    }
    return r;
}

/* NOLINTNEXTLINE(readability-function-size): eight parameters */
int db_canonical(struct db *db, const char *table, const char *const *columns, size_t n_columns,
                 struct slice *values, size_t n_rows, struct arena *a, struct err *e)
{
    const struct table t = {table, columns, n_columns};
    int r;

    if (db_is_sqlite(db) || n_rows == 0)
        return 0;
    r = db->ops->begin(db, 0, e);
    for (size_t k = 0; !r && k < n_columns; k++)
        r = one_column(db, &t, k, values, n_rows, a, e);
    db->ops->rollback(db);
    return r;
}
