/* SPDX-License-Identifier: Apache-2.0 */
/* Records from a query of the target database.
 *
 * The query is asked for its columns first (LIMIT 0). Then it is wrapped so that the key comes first and the database
 * sorts by it: integers and the like by their own order, texts byte by byte, whatever the database's collation. */

#include "planner/source.h"

#include "celeryc/base/key.h"

#include <errno.h>
#include <strings.h>

struct probe {
    struct builder *builder;
    const struct request *request;
    struct key key;
    bool sqlite;
    bool seen;
    enum key_order order[LIMIT_KEY_COLUMNS];
    const char *order_by[LIMIT_KEY_COLUMNS]; /* what is put behind the quoted column */
    struct err err;
};

static bool is_one_of(const char *type, const char *const *names)
{
    for (; *names; names++)
        if (strcasecmp(type, *names) == 0)
            return true;
    return false;
}

/* How a column of the key sorts, and what its rows must therefore show. Texts are sorted byte by byte: only that order
 * can be checked here, and a collation may call different texts equal. Every other type has an order of its own, in which
 * equal values are neighbours. */
static void choose_order(struct probe *p, size_t i, const char *type)
{
    static const char *const texts[] = {"text", "varchar", "bpchar", "char",
                                        "name", "citext",  NULL};

    if (type && batch_kind_of_type(type) == BATCH_NUMBER) {
        p->order[i] = KEY_INTEGER;
    } else if (p->sqlite) {
        /* Any column may hold anything: SQLite sorts numbers before texts and puts equal ones together. */
        p->order[i] = KEY_DISTINCT;
        p->order_by[i] = " COLLATE BINARY";
    } else if (type && (strcasecmp(type, "uuid") == 0 || strcasecmp(type, "bytea") == 0)) {
        p->order[i] = KEY_BYTES;
    } else if (!type || is_one_of(type, texts)) {
        p->order[i] = KEY_BYTES;
        p->order_by[i] = "::text COLLATE \"C\"";
    } else {
        p->order[i] = KEY_DISTINCT;
    }
}

static int on_probe_columns(const char *const *names, const char *const *types, size_t n, void *arg)
{
    struct probe *p = arg;

    p->seen = true;
    for (size_t k = 0; k < p->key.n; k++)
        for (size_t i = 0; i < n; i++)
            if (slice_eq_str(p->key.column[k], names[i]))
                choose_order(p, k, types ? types[i] : NULL);
    return builder_columns(p->builder, names, types, n, p->order, &p->err);
}

static int on_probe_row(const struct slice *values, size_t n, void *arg)
{
    (void)values;
    (void)n;
    (void)arg;
    return 0; /* LIMIT 0 */
}

static void quote_name(struct buf *b, struct slice name)
{
    buf_append_char(b, '"');
    for (size_t i = 0; i < name.len; i++) {
        if (name.p[i] == '"')
            buf_append_char(b, '"');
        buf_append_char(b, name.p[i]);
    }
    buf_append_char(b, '"');
}

static void from_query(struct buf *b, const struct request *r)
{
    /* The line feed ends a comment that may end the query. */
    buf_appendf(b, " FROM (%s\n) AS scatter_source", r->query);
}

static int ordered_sql(struct query_source *q, const struct request *r, const struct probe *p)
{
    struct buf *sql = &q->sql;
    size_t at;

    buf_append_str(sql, "SELECT ");
    for (size_t i = 0; i < p->key.n; i++) {
        buf_append_str(sql, i ? ", " : "");
        quote_name(sql, p->key.column[i]);
    }
    for (size_t i = 0; i < r->n_columns; i++) {
        if (key_find(r->key, r->columns[i], &at))
            continue;
        buf_append_str(sql, ", ");
        quote_name(sql, slice_str(r->columns[i]));
    }
    for (size_t i = 0; i < q->n_extra; i++) {
        buf_append_str(sql, ", ");
        quote_name(sql, slice_str(q->extra[i]));
    }
    from_query(sql, r);
    buf_append_str(sql, " ORDER BY ");
    for (size_t i = 0; i < p->key.n; i++) {
        buf_append_str(sql, i ? ", " : "");
        quote_name(sql, p->key.column[i]);
        buf_append_str(sql, p->order_by[i]);
    }
    return buf_ok(sql);
}

static int stream(struct db *db, const char *sql, const struct db_stream *s, const char *doing,
                  struct err *mine, struct err *e)
{
    struct err theirs = ERR_INIT;
    int code = db_stream_query(db, sql, s, &theirs);

    if (code == 0 || code == -ENOMEM)
        return code;
    if (mine->text[0])
        return err_set(e, code < 0 ? code : -EIO, "%s", mine->text);
    return err_set(e, code < 0 ? code : -EIO, "%s: %s", doing, err_text(&theirs, code));
}

int query_source_prepare(struct query_source *q, struct db *db, const struct request *r,
                         struct builder *b, struct err *e)
{
    struct probe p = {.builder = b, .request = r, .sqlite = db_is_sqlite(db), .err = ERR_INIT};
    const struct db_stream s = {on_probe_columns, on_probe_row, &p};
    CLEANUP(buf_deinit) struct buf sql = BUF_INIT;
    int code;

    ASSERT(key_parse(r->key, &p.key) == 0); /* the request was checked */
    for (size_t i = 0; i < p.key.n; i++) {
        p.order[i] = KEY_BYTES;
        p.order_by[i] = "";
    }
    buf_append_str(&sql, "SELECT *");
    from_query(&sql, r);
    buf_append_str(&sql, " LIMIT 0");
    if (buf_ok(&sql))
        return -ENOMEM;
    code = stream(db, sql.data, &s, "the query is refused", &p.err, e);
    if (code)
        return code;
    if (!p.seen)
        return err_set(e, -EINVAL, "the query gives no columns: write a SELECT");
    memcpy(q->order, p.order, sizeof(q->order));
    return ordered_sql(q, r, &p);
}

struct rows {
    struct builder *builder;
    const struct query_source *source;
    const enum key_order *order;
    struct err err;
};

/* The ordered query has fewer columns than the one that was asked before, in another order. */
static int on_columns(const char *const *names, const char *const *types, size_t n, void *arg)
{
    struct rows *r = arg;

    return builder_columns(r->builder, names, types, n, r->order, &r->err);
}

static int on_row(const struct slice *values, size_t n, void *arg)
{
    struct rows *r = arg;
    int taken = r->source->accept ? r->source->accept(r->source->arg, values, n, &r->err) : 0;

    if (taken)
        return taken > 0 ? 0 : taken;
    return builder_row(r->builder, values, NULL, n, &r->err);
}

int query_source_run(struct query_source *q, struct db *db, struct builder *b, struct err *e)
{
    struct rows r = {b, q, q->order, ERR_INIT};
    const struct db_stream s = {on_columns, on_row, &r};

    return stream(db, q->sql.data, &s, "the query failed", &r.err, e);
}
