/* SPDX-License-Identifier: Apache-2.0 */
/* What PostgreSQL's catalogue says about the table of a migration, and array literals.
 *
 * Types come from format_type(oid, -1): the name without a length, because a cast to varchar(20) or bit(8) would cut
 * a value silently where the assignment to the column refuses it. */

#include "celeryc/db/pg.h"

#include <errno.h>

/* ---- array literals ---- */

void pg_array_deinit(struct pg_array *a)
{
    buf_deinit(&a->b);
}

static void next_element(struct pg_array *a)
{
    buf_append_char(&a->b, a->b.len ? ',' : '{');
}

void pg_array_add(struct pg_array *a, struct slice s)
{
    next_element(a);
    if (!s.p) {
        buf_append_str(&a->b, "NULL");
        return;
    }
    buf_append_char(&a->b, '"');
    for (size_t from = 0; from < s.len;) {
        size_t to = from;

        while (to < s.len && s.p[to] != '"' && s.p[to] != '\\')
            to++;
        buf_append(&a->b, s.p + from, to - from);
        if (to < s.len) {
            buf_append_char(&a->b, '\\');
            buf_append_char(&a->b, s.p[to++]);
        }
        from = to;
    }
    buf_append_char(&a->b, '"');
}

void pg_array_add_int(struct pg_array *a, int64_t v)
{
    next_element(a);
    buf_appendf(&a->b, "%lld", (long long)v);
}

const char *pg_array_end(struct pg_array *a)
{
    buf_append_str(&a->b, a->b.len ? "}" : "{}");
    return buf_ok(&a->b) ? NULL : a->b.data;
}

/* ---- the target table ---- */

void pg_target_forget(struct pg *pg)
{
    if (pg->target)
        (void)arena_free(pg->target->arena); /* the struct lives in its own arena */
    pg->target = NULL;
}

static int fill(struct pg_target *t, const struct db_rows *rows)
{
    t->n = rows->n_rows;
    t->column = arena_alloc_array(t->arena, t->n, sizeof(*t->column));
    if (!t->column)
        return -ENOMEM;
    for (size_t i = 0; i < t->n; i++) {
        t->column[i] = (struct pg_column){.name = arena_strdup(t->arena, db_cell(rows, i, 0)),
                                          .type = arena_strdup(t->arena, db_cell(rows, i, 1)),
                                          .array = db_cell_is(rows, i, 2, "A"),
                                          .generated = db_cell_is(rows, i, 3, "t"),
                                          .leads = db_cell_is(rows, i, 4, "t")};
        if (!t->column[i].name || !t->column[i].type)
            return -ENOMEM;
    }
    return 0;
}

static int make(struct pg *pg, const char *table, struct arena *a, struct pg_target **ret_t,
                struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    CLEANUP(buf_deinit) struct buf quoted = BUF_INIT;
    struct pg_target *t = arena_alloc(a, sizeof(*t));
    int r;

    db_quote_table(&quoted, table);
    if (!t || buf_ok(&quoted))
        return -ENOMEM;
    t->arena = a;
    t->table = arena_strdup(a, slice_str(table));
    t->quoted = arena_strdup(a, buf_slice(&quoted));
    if (!t->table || !t->quoted)
        return -ENOMEM;
    r = pg->db.ops->exec(
        &pg->db,
        "SELECT a.attname, format_type(a.atttypid, -1), y.typcategory, "
        "a.attgenerated <> '' OR a.attidentity = 'a', EXISTS (SELECT FROM pg_index x "
        "WHERE x.indrelid = a.attrelid AND x.indisvalid AND x.indpred IS NULL AND "
        "x.indkey[0] = a.attnum) FROM pg_attribute a "
        "JOIN pg_type y ON y.oid = a.atttypid WHERE a.attrelid = to_regclass($1) "
        "AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        (struct db_val[]){db_text(t->quoted)}, 1, &rows, e);
    if (r)
        return r;
    if (rows.n_rows == 0)
        return err_set(e, db_fail(&pg->db, "42P01"),
                       "there is no table %s in the target database (check --table and the "
                       "search_path)",
                       table);
    r = fill(t, &rows);
    if (!r)
        *ret_t = t;
    return r;
}

int pg_target_get(struct pg *pg, const char *table, const struct pg_target **ret_t, struct err *e)
{
    if (!pg->target || !str_eq(pg->target->table, table)) {
        CLEANUP(arena_free) struct arena *a = arena_new();
        struct pg_target *t = NULL;

        if (!a)
            return -ENOMEM;
        int r = make(pg, table, a, &t, e);

        if (r)
            return r;
        ASSERT(t);
        pg_target_forget(pg);
        pg->target = t;
        a = NULL;
    }
    *ret_t = pg->target;
    return 0;
}

static int find_column(struct pg *pg, const struct pg_target *t, struct slice name,
                       const struct pg_column **ret_c, struct err *e)
{
    CLEANUP(buf_deinit) struct buf all = BUF_INIT;

    for (size_t i = 0; i < t->n; i++) {
        if (slice_eq_str(name, t->column[i].name)) {
            *ret_c = &t->column[i];
            return 0;
        }
        buf_appendf(&all, "%s%s", i ? ", " : "", t->column[i].name);
    }
    return err_set(e, db_fail(&pg->db, "42703"), "table %s has no column %.*s (it has %s)",
                   t->table, (int)name.len, name.p, buf_ok(&all) ? "" : all.data);
}

int pg_target_column(struct pg *pg, const struct pg_target *t, const char *name,
                     const struct pg_column **ret_c, struct err *e)
{
    return find_column(pg, t, slice_str(name), ret_c, e);
}

int pg_target_key(struct pg *pg, const struct pg_target *t, const struct db_target *asked,
                  struct pg_key *ret_k, struct err *e)
{
    struct pg_key out = {0};
    struct key key;
    int r = db_target_key(&pg->db, asked, &key, e);

    for (size_t i = 0; !r && i < key.n; i++)
        r = find_column(pg, t, key.column[i], &out.column[out.n++], e);
    if (!r)
        *ret_k = out;
    return r;
}

/* ---- checks before anything is made ---- */

static int check_columns(struct pg *pg, const struct db_target *t, struct err *e)
{
    const struct pg_target *target;
    const struct pg_column *c = NULL;
    struct pg_key key = {0};
    int r = pg_target_get(pg, t->table, &target, e);

    if (!r)
        r = pg_target_key(pg, target, t, &key, e);
    for (size_t i = 0; !r && i < key.n; i++)
        if (key.column[i] && key.column[i]->array)
            r = err_set(e, db_fail(&pg->db, "42804"), "the key column %s of %s is an array",
                        key.column[i]->name, t->table);
    for (size_t i = 0; !r && i < t->n_reads; i++)
        r = pg_target_column(pg, target, t->reads[i], &c, e);
    for (size_t i = 0; !r && i < t->n_writes; i++) {
        r = pg_target_column(pg, target, t->writes[i], &c, e);
        if (!r && c && c->generated)
            r = err_set(e, db_fail(&pg->db, "428C9"),
                        "column %s of %s is generated by the database and cannot be written",
                        t->writes[i], t->table);
    }
    return r;
}

static int check_writes(struct pg *pg, const struct db_target *t, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    const char *refused = NULL;

    for (size_t i = 0; !refused && i < t->n_writes; i++) {
        struct db_val v[] = {db_text(pg->target->quoted), db_text(t->writes[i])};
        int r = pg->db.ops->exec(
            &pg->db, "SELECT has_column_privilege($1::text, $2::text, 'UPDATE')", v, 2, &rows, e);

        if (r)
            return r;
        if (!db_cell_is(&rows, 0, 0, "t"))
            refused = t->writes[i];
        db_rows_deinit(&rows);
    }
    if (refused)
        return err_set(
            e, db_fail(&pg->db, "42501"),
            "the database user may not update column %s of %s (GRANT UPDATE ON %s TO it)", refused,
            t->table, t->table);
    return 0;
}

/* Read-only is asked of the session outside of any transaction of ours, which says READ WRITE. */
static int check_read_only(struct pg *pg, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    int r = pg_ready(pg, e);

    if (!r)
        r = pg->db.ops->exec(&pg->db,
                             "SELECT pg_is_in_recovery(), "
                             "current_setting('default_transaction_read_only') = 'on'",
                             NULL, 0, &rows, e);
    if (r)
        return r;
    if (db_cell_is(&rows, 0, 0, "t"))
        return err_set(e, db_fail(&pg->db, "25006"),
                       "the database is a read-only replica, give the URL of the primary");
    if (db_cell_is(&rows, 0, 1, "t"))
        return err_set(e, db_fail(&pg->db, "25006"),
                       "the database is read-only for this user "
                       "(default_transaction_read_only is on), give one that may write");
    return 0;
}

int pg_check_target(struct db *db, const struct db_target *t, struct err *e)
{
    struct pg *pg = pg_of(db);
    int r = check_read_only(pg, e);

    if (r)
        return r;
    pg_target_forget(pg);
    r = db->ops->begin(db, 0, e);
    if (r)
        return r;
    r = check_columns(pg, t, e);
    if (!r)
        r = check_writes(pg, t, e);
    if (!r)
        r = pg_schema_here(pg, e);
    pg_rollback(db);
    return r;
}
