/* SPDX-License-Identifier: Apache-2.0 */
/* The new values of a plan's records in a temporary table, and the questions of unique indexes about them.
 *
 * A row of the table is looked at as it would be afterwards: the subquery n has the table's own column names, with the
 * new values where a column is set, so that the expressions and conditions of any index can be asked of it. */

#include "celeryc/db/rehearse.h"

#include "celeryc/base/key.h"
#include "celeryc/db/pg.h"

#include <errno.h>
#include <strings.h>

#define GROUP     2000
#define SEPARATOR "\x1f" /* between the expressions of an index */

struct db_fresh {
    struct db *db;
    const struct db_target *t;
    struct arena *arena;
    struct key key;
    struct db_rows columns; /* name, type */
    size_t width;           /* of the temporary table */
    struct pg_array *group; /* PostgreSQL: width arrays */
    size_t n_group;
    struct buf insert;
};

struct db_fresh *db_fresh_free(struct db_fresh *f)
{
    if (!f)
        return NULL;
    f->db->ops->rollback(f->db);
    for (size_t i = 0; f->group && i < f->width; i++)
        pg_array_deinit(&f->group[i]);
    db_rows_deinit(&f->columns);
    buf_deinit(&f->insert);
    arena_free(f->arena);
    free(f);
    return NULL;
}

/* ---- the table ---- */

static int load_columns(struct db_fresh *f, struct err *e)
{
    const char *dot = strrchr(f->t->table, '.');
    CLEANUP(buf_deinit) struct buf quoted = BUF_INIT;

    if (db_is_sqlite(f->db)) {
        const char *plain = dot && !strchr(f->t->table, '"') ? dot + 1 : f->t->table;

        return db_exec(f->db, "SELECT name, type FROM pragma_table_xinfo($1)",
                       (struct db_val[]){db_text(plain)}, 1, &f->columns, e);
    }
    db_quote_table(&quoted, f->t->table);
    if (buf_ok(&quoted))
        return -ENOMEM;
    return db_exec(f->db,
                   "SELECT attname, format_type(atttypid, -1) FROM pg_attribute WHERE attrelid = "
                   "to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
                   (struct db_val[]){db_text(quoted.data)}, 1, &f->columns, e);
}

/* k0.., then for each written column c0, s0, .. (new value, is it set). */
static int make_table(struct db_fresh *f, struct err *e)
{
    CLEANUP(buf_deinit) struct buf sql = BUF_INIT;

    buf_append_str(&sql, "CREATE TEMPORARY TABLE scatter_fresh (");
    for (size_t i = 0; i < f->key.n; i++)
        buf_appendf(&sql, "%sk%zu text", i ? ", " : "", i);
    for (size_t i = 0; i < f->t->n_writes; i++)
        buf_appendf(&sql, ", c%zu text, s%zu text", i, i);
    buf_append_char(&sql, ')');
    buf_append_str(&f->insert, db_is_sqlite(f->db)
                                   ? "INSERT INTO scatter_fresh VALUES ("
                                   : "INSERT INTO scatter_fresh SELECT * FROM unnest(");
    for (size_t i = 0; i < f->width; i++)
        buf_appendf(&f->insert, db_is_sqlite(f->db) ? "%s$%zu" : "%s$%zu::text[]", i ? ", " : "",
                    i + 1);
    buf_append_char(&f->insert, ')');
    if (buf_ok(&sql) || buf_ok(&f->insert))
        return -ENOMEM;
    return db_exec(f->db, sql.data, NULL, 0, NULL, e);
}

/* PostgreSQL: one transaction that is never committed, however long it takes. A temporary table of SQLite is outside of
 * the database file, and needs none. */
static int open_table(struct db_fresh *f, struct err *e)
{
    int r = 0;

    if (!db_is_sqlite(f->db)) {
        r = f->db->ops->begin(f->db, 0, e);
        if (!r)
            r = db_exec(f->db, "SET LOCAL statement_timeout = 0", NULL, 0, NULL, e);
        if (!r)
            r = db_exec(f->db, "SET LOCAL idle_in_transaction_session_timeout = 0", NULL, 0, NULL,
                        e);
        pg_of(f->db)->limit_ms = 0;
    }
    if (!r)
        r = load_columns(f, e);
    return r ? r : make_table(f, e);
}

int db_fresh_new(struct db *db, const struct db_target *t, struct db_fresh **ret_f, struct err *e)
{
    CLEANUP(db_fresh_free) struct db_fresh *f = calloc(1, sizeof(*f));

    if (!f)
        return -ENOMEM;
    *f = (struct db_fresh){.db = db, .t = t, .arena = arena_new(), .insert = BUF_INIT};
    if (!f->arena)
        return -ENOMEM;
    ASSERT(key_parse(t->key, &f->key) == 0);
    f->width = f->key.n + 2 * t->n_writes;
    f->group = calloc(f->width, sizeof(*f->group));
    if (!f->group)
        return -ENOMEM;
    for (size_t i = 0; i < f->width; i++)
        f->group[i] = PG_ARRAY_INIT;
    int r = open_table(f, e);

    if (!r)
        *ret_f = STEAL(f);
    return r;
}

/* ---- filling it ---- */

static int flush(struct db_fresh *f, struct err *e)
{
    struct db_val *v = arena_alloc_array(f->arena, f->width, sizeof(*v));

    if (!v)
        return -ENOMEM;
    if (f->n_group == 0)
        return 0;
    for (size_t i = 0; i < f->width; i++) {
        const char *text = pg_array_end(&f->group[i]);

        if (!text)
            return -ENOMEM;
        v[i] = db_text(text);
    }
    int r = db_exec(f->db, f->insert.data, v, f->width, NULL, e);

    for (size_t i = 0; i < f->width; i++) {
        pg_array_deinit(&f->group[i]);
        f->group[i] = PG_ARRAY_INIT;
    }
    f->n_group = 0;
    return r;
}

static struct slice value_at(const struct db_fresh *f, const struct db_row *row, size_t i)
{
    if (i < f->key.n)
        return row->old[i];
    size_t k = (i - f->key.n) / 2;
    bool set = !row->set || row->set[k];

    if ((i - f->key.n) % 2)
        return set ? SLICE_LIT("t") : SLICE_LIT("f");
    return set ? row->fresh[k] : SLICE_NULL;
}

int db_fresh_add(struct db_fresh *f, const struct db_row *row, struct err *e)
{
    if (db_is_sqlite(f->db)) {
        struct db_val v[LIMIT_KEY_COLUMNS + 2 * LIMIT_COLUMNS];

        for (size_t i = 0; i < f->width; i++)
            v[i] = db_slice(value_at(f, row, i));
        return db_exec(f->db, f->insert.data, v, f->width, NULL, e);
    }
    for (size_t i = 0; i < f->width; i++)
        pg_array_add(&f->group[i], value_at(f, row, i));
    arena_reset(f->arena);
    return ++f->n_group == GROUP ? flush(f, e) : 0;
}

/* ---- asking ---- */

/* "CAST(f.c0 AS type)" or "f.c0" where the column has none. */
static void cast(struct buf *sql, const char *what, size_t i, struct slice type)
{
    if (type.len)
        buf_appendf(sql, "CAST(f.%s%zu AS %s)", what, i, type.p);
    else
        buf_appendf(sql, "f.%s%zu", what, i);
}

static bool write_column(const struct db_fresh *f, struct slice name, size_t *ret_i)
{
    for (size_t i = 0; i < f->t->n_writes; i++) {
        if (name.p && strcasecmp(f->t->writes[i], name.p) == 0) {
            *ret_i = i;
            return true;
        }
    }
    return false;
}

static void key_text_of(const struct db_fresh *f, const char *alias, struct buf *sql)
{
    for (size_t i = 0; i < f->key.n; i++) {
        buf_appendf(sql, "%sCAST(%s.", i ? " || ',' || " : "", alias);
        db_quote_name(sql, f->key.column[i]);
        buf_append_str(sql, " AS text)");
    }
}

/* n: the plan's rows as they would be. */
static void rows_after(const struct db_fresh *f, struct buf *sql)
{
    size_t k;

    buf_append_str(sql, "n AS (SELECT ");
    for (size_t i = 0; i < f->columns.n_rows; i++) {
        struct slice name = db_cell(&f->columns, i, 0);

        buf_append_str(sql, i ? ", " : "");
        if (write_column(f, name, &k)) {
            buf_appendf(sql, "CASE WHEN f.s%zu = 't' THEN ", k);
            cast(sql, "c", k, db_cell(&f->columns, i, 1));
            buf_append_str(sql, " ELSE o.");
            db_quote_name(sql, name);
            buf_append_str(sql, " END AS ");
        } else {
            buf_append_str(sql, "o.");
            db_quote_name(sql, name);
            buf_append_str(sql, " AS ");
        }
        db_quote_name(sql, name);
    }
    buf_append_str(sql, ", ");
    key_text_of(f, "o", sql);
    buf_append_str(sql, " AS scatter_k FROM scatter_fresh f JOIN ");
    db_quote_table(sql, f->t->table);
    buf_append_str(sql, " o ON ");
    for (size_t i = 0; i < f->key.n; i++) {
        struct slice type = SLICE_NULL;

        for (size_t c = 0; c < f->columns.n_rows; c++)
            if (slice_eq(db_cell(&f->columns, c, 0), f->key.column[i]))
                type = db_cell(&f->columns, c, 1);
        buf_append_str(sql, i ? " AND o." : "o.");
        db_quote_name(sql, f->key.column[i]);
        buf_append_str(sql, " = ");
        cast(sql, "k", i, type);
    }
    buf_append_char(sql, ')');
}

struct unique {
    const char *name, *condition;
    struct slice expr[LIMIT_KEY_COLUMNS * 4];
    size_t n;
    bool unknown; /* what it is on cannot be told */
};

/* x: key and index values of the plan's rows as they would be; y: of the table's as they are. */
static void index_values(const struct db_fresh *f, const struct unique *u, bool after,
                         struct buf *sql)
{
    buf_appendf(sql, ", %s AS (SELECT scatter_k", after ? "x" : "y");
    for (size_t i = 0; i < u->n; i++) {
        buf_append_str(sql, ", ");
        buf_append_slice(sql, u->expr[i]);
        buf_appendf(sql, " AS e%zu", i);
    }
    if (after) {
        buf_append_str(sql, " FROM n");
    } else {
        buf_append_str(sql, " FROM (SELECT o.*, ");
        key_text_of(f, "o", sql);
        buf_append_str(sql, " AS scatter_k FROM ");
        db_quote_table(sql, f->t->table);
        buf_append_str(sql, " o) t");
    }
    if (u->condition)
        buf_appendf(sql, " WHERE %s", u->condition);
    buf_append_char(sql, ')');
}

static void list(const struct unique *u, const char *format, const char *between, struct buf *sql)
{
    for (size_t i = 0; i < u->n; i++) {
        const char *p = format;

        buf_append_str(sql, i ? between : "");
        for (; *p; p++) {
            if (*p == '#')
                buf_appendf(sql, "%zu", i);
            else
                buf_append_char(sql, *p);
        }
    }
}

static int among(struct db_fresh *f, const struct unique *u, struct db_rows *rows, struct err *e)
{
    CLEANUP(buf_deinit) struct buf sql = BUF_INIT;

    buf_append_str(&sql, "WITH ");
    rows_after(f, &sql);
    index_values(f, u, true, &sql);
    buf_append_str(&sql, " SELECT coalesce(sum(g.c), 0), min(g.ex) FROM (SELECT count(*) AS c, "
                         "min(scatter_k) || ' and ' || max(scatter_k) || ' would both get ' || ");
    list(u, "min(CAST(e# AS text))", " || ', ' || ", &sql);
    buf_append_str(&sql, " AS ex FROM x WHERE ");
    list(u, "e# IS NOT NULL", " AND ", &sql);
    buf_append_str(&sql, " GROUP BY ");
    list(u, "e#", ", ", &sql);
    buf_append_str(&sql, " HAVING count(*) > 1) g");
    return buf_ok(&sql) ? -ENOMEM : db_exec(f->db, sql.data, NULL, 0, rows, e);
}

static int existing(struct db_fresh *f, const struct unique *u, struct db_rows *rows, struct err *e)
{
    CLEANUP(buf_deinit) struct buf sql = BUF_INIT;

    buf_append_str(&sql, "WITH ");
    rows_after(f, &sql);
    index_values(f, u, true, &sql);
    index_values(f, u, false, &sql);
    buf_append_str(&sql, ", g AS (SELECT scatter_k FROM n) SELECT coalesce(sum(CASE WHEN "
                         "g.scatter_k IS NULL THEN 1 ELSE 0 END), 0), coalesce(sum(CASE WHEN "
                         "g.scatter_k IS NULL THEN 0 ELSE 1 END), 0), min(CASE WHEN g.scatter_k IS "
                         "NULL THEN x.scatter_k || ' would get ' || ");
    list(u, "CAST(x.e# AS text)", " || ', ' || ", &sql);
    buf_append_str(&sql, " || ', which ' || y.scatter_k || ' has' END) FROM x JOIN y ON ");
    list(u, "x.e# = y.e#", " AND ", &sql);
    buf_append_str(&sql,
                   " AND x.scatter_k <> y.scatter_k LEFT JOIN g ON g.scatter_k = y.scatter_k");
    return buf_ok(&sql) ? -ENOMEM : db_exec(f->db, sql.data, NULL, 0, rows, e);
}

static int ask(struct db_fresh *f, const struct unique *u, struct arena *a, struct db_collision *c,
               struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows one = {0}, two = {0};
    int r = among(f, u, &one, e);

    if (!r)
        r = existing(f, u, &two, e);
    if (r)
        return r;
    c->among = db_cell_i64(&one, 0, 0);
    c->existing = db_cell_i64(&two, 0, 0);
    c->passing = db_cell_i64(&two, 0, 1);
    struct slice text = c->existing ? db_cell(&two, 0, 2) : db_cell(&one, 0, 1);

    c->example = text.p ? arena_strdup(a, text) : NULL;
    return text.p && !c->example ? -ENOMEM : 0;
}

/* An index that cannot be asked (a new value fits no column, say) is told, and the others are asked all the same. */
static int ask_guarded(struct db_fresh *f, const struct unique *u, struct arena *a,
                       struct db_collision *c, struct err *e)
{
    bool sqlite = db_is_sqlite(f->db);
    struct err why = ERR_INIT;
    int r = sqlite ? 0 : db_exec(f->db, "SAVEPOINT scatter_ask", NULL, 0, NULL, e);

    if (r)
        return r;
    r = u->unknown ? err_set(&why, DB_E_DATA, "it is on an expression, or on a part of the table")
                   : ask(f, u, a, c, &why);
    if (r < 0)
        return r;
    if (r) {
        c->error = arena_strdup(a, slice_str(why.text));
        return !c->error ? -ENOMEM
               : sqlite  ? 0
                         : db_exec(f->db, "ROLLBACK TO SAVEPOINT scatter_ask", NULL, 0, NULL, e);
    }
    return sqlite ? 0 : db_exec(f->db, "RELEASE SAVEPOINT scatter_ask", NULL, 0, NULL, e);
}

static int find_indexes(struct db_fresh *f, struct db_rows *rows, struct err *e)
{
    CLEANUP(buf_deinit) struct buf table = BUF_INIT;
    const char *dot = strrchr(f->t->table, '.');

    db_quote_table(&table, f->t->table);
    if (buf_ok(&table))
        return -ENOMEM;
    if (db_is_sqlite(f->db))
        return db_exec(f->db,
                       "SELECT l.name, NULL, group_concat('\"' || replace(i.name, '\"', '\"\"') || "
                       "'\"', char(31)), sum(i.name IS NULL) + l.partial FROM pragma_index_list($1)"
                       " l JOIN pragma_index_info(l.name) i WHERE l.\"unique\" GROUP BY l.name "
                       "ORDER BY l.name",
                       (struct db_val[]){db_text(dot ? dot + 1 : f->t->table)}, 1, rows, e);
    return db_exec(
        f->db,
        "SELECT i.indexrelid::regclass::text, pg_get_expr(i.indpred, i.indrelid), "
        "(SELECT string_agg(pg_get_indexdef(i.indexrelid, k, true), E'\\x1f' ORDER BY k) "
        "FROM generate_series(1, i.indnkeyatts) AS k), 0 FROM pg_index i WHERE "
        "i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid ORDER BY 1",
        (struct db_val[]){db_text(table.data)}, 1, rows, e);
}

/* Does any written column stand in the index's words? */
static bool concerns(const struct db_fresh *f, const struct db_rows *rows, size_t row)
{
    for (size_t i = 0; i < f->t->n_writes; i++)
        for (size_t cell = 1; cell <= 2; cell++)
            if (db_cell(rows, row, cell).p &&
                strcasestr(db_cell(rows, row, cell).p, f->t->writes[i]))
                return true;
    return db_cell_i64(rows, row, 3) > 0;
}

static void read_index(const struct db_rows *rows, size_t row, struct unique *u)
{
    const char *p = db_cell(rows, row, 2).p;

    *u = (struct unique){.name = db_cell(rows, row, 0).p,
                         .condition = db_cell(rows, row, 1).p,
                         .unknown = db_cell_i64(rows, row, 3) > 0};
    while (p && *p && u->n < ARRAY_SIZE(u->expr)) {
        size_t len = strcspn(p, SEPARATOR);

        u->expr[u->n++] = (struct slice){p, len};
        p += len + (p[len] ? 1 : 0);
    }
}

int db_fresh_collisions(struct db_fresh *f, struct arena *a, struct db_collision **ret_c,
                        size_t *ret_n, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    struct db_collision *c;
    size_t n = 0;
    int r = db_is_sqlite(f->db) ? 0 : flush(f, e);

    if (!r)
        r = db_exec(f->db, db_is_sqlite(f->db) ? "SELECT 1" : "ANALYZE scatter_fresh", NULL, 0,
                    NULL, e);
    if (!r)
        r = find_indexes(f, &rows, e);
    c = r ? NULL : arena_alloc_array(a, rows.n_rows + 1, sizeof(*c));
    if (r || !c)
        return r ? r : -ENOMEM;
    for (size_t i = 0; !r && i < rows.n_rows; i++) {
        struct unique u;

        if (!concerns(f, &rows, i))
            continue;
        read_index(&rows, i, &u);
        c[n] = (struct db_collision){.index = arena_strdup(a, slice_str(u.name))};
        r = c[n].index ? ask_guarded(f, &u, a, &c[n], e) : -ENOMEM;
        n++;
    }
    if (r)
        return r;
    *ret_c = c;
    *ret_n = n;
    return 0;
}
