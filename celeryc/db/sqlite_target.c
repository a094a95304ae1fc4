/* SPDX-License-Identifier: Apache-2.0 */
/* SQLite: the columns of a target table, and the checks before anything is made. */

#include "celeryc/db/sqlite_target.h"

#include <errno.h>
#include <strings.h>

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

int sqlite_resolve(struct db *db, const struct db_target *t, struct arena *a,
                   struct sqlite_target *ret_t, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows info = {0};
    struct sqlite_target out = {
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

/* ---- checks before anything is made ---- */

int sqlite_check_target(struct db *db, const struct db_target *t, struct err *e)
{
    struct sqlite *q = sqlite_of(db);
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct sqlite_target kinds;
    int r;

    if (!a)
        return -ENOMEM;
    if (sqlite3_db_readonly(q->conn, "main") == 1)
        return err_set(e, db_fail(db, "25006"),
                       "the SQLite file is read-only for this user: give it and its folder write "
                       "permission");
    r = sqlite_resolve(db, t, a, &kinds, e);
    if (!r)
        r = sqlite_begin(db, 0, e);
    if (!r)
        r = sqlite_schema_here(db, e);
    sqlite_rollback(db);
    return r;
}
