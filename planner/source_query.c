/* SPDX-License-Identifier: Apache-2.0 */
/* Records from a query of the target database.
 *
 * The query is asked for its columns first (LIMIT 0). Then it is wrapped so that the key comes first and the database
 * sorts by it: integers and the like by their own order, texts byte by byte, whatever the database's collation. */

#include "planner/source.h"

#include <errno.h>
#include <strings.h>

struct probe {
    struct builder *builder;
    const struct request *request;
    bool sqlite;
    bool seen;
    enum key_order order;
    const char *order_by; /* what is put around the quoted key: %s */
    struct err err;
};

static bool is_one_of(const char *type, const char *const *names)
{
    for (; *names; names++)
        if (strcasecmp(type, *names) == 0)
            return true;
    return false;
}

/* How the key sorts, and what its rows must therefore show. */
static void choose_order(struct probe *p, const char *type)
{
    static const char *const own[] = {"numeric",   "float4",      "float8", "date",
                                      "timestamp", "timestamptz", "time",   NULL};

    p->order_by = "%s";
    if (type && batch_kind_of_type(type) == BATCH_NUMBER) {
        p->order = KEY_INTEGER;
    } else if (p->sqlite) {
        /* Any column may hold anything: SQLite sorts numbers before texts and puts equal ones together. */
        p->order = KEY_DISTINCT;
        p->order_by = "%s COLLATE BINARY";
    } else if (type && strcasecmp(type, "uuid") == 0) {
        p->order = KEY_BYTES;
    } else if (type && is_one_of(type, own)) {
        p->order = KEY_DISTINCT;
    } else {
        p->order = KEY_BYTES;
        p->order_by = "%s::text COLLATE \"C\"";
    }
}

static int on_probe_columns(const char *const *names, const char *const *types, size_t n, void *arg)
{
    struct probe *p = arg;

    p->seen = true;
    for (size_t i = 0; i < n; i++)
        if (str_eq(names[i], p->request->key))
            choose_order(p, types ? types[i] : NULL);
    return builder_columns(p->builder, names, types, n, p->order, &p->err);
}

static int on_probe_row(const struct slice *values, size_t n, void *arg)
{
    (void)values;
    (void)n;
    (void)arg;
    return 0; /* LIMIT 0 */
}

static void quote_name(struct buf *b, const char *name)
{
    buf_append_char(b, '"');
    for (; *name; name++) {
        if (*name == '"')
            buf_append_char(b, '"');
        buf_append_char(b, *name);
    }
    buf_append_char(b, '"');
}

static void from_query(struct buf *b, const struct request *r)
{
    /* The line feed ends a comment that may end the query. */
    buf_appendf(b, " FROM (%s\n) AS scatter_source", r->query);
}

static int ordered_sql(struct query_source *q, const struct request *r, const char *order_by)
{
    CLEANUP(buf_deinit) struct buf key = BUF_INIT;
    const char *at = strstr(order_by, "%s");
    struct buf *sql = &q->sql;

    quote_name(&key, r->key);
    if (buf_ok(&key))
        return -ENOMEM;
    buf_appendf(sql, "SELECT %s", key.data);
    for (size_t i = 0; i < r->n_columns; i++) {
        if (str_eq(r->columns[i], r->key))
            continue;
        buf_append_str(sql, ", ");
        quote_name(sql, r->columns[i]);
    }
    for (size_t i = 0; i < q->n_extra; i++) {
        buf_append_str(sql, ", ");
        quote_name(sql, q->extra[i]);
    }
    from_query(sql, r);
    buf_appendf(sql, " ORDER BY %s%s", key.data, at + 2);
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
    struct probe p = {.builder = b,
                      .request = r,
                      .sqlite = db_is_sqlite(db),
                      .order_by = "%s",
                      .order = KEY_BYTES,
                      .err = ERR_INIT};
    const struct db_stream s = {on_probe_columns, on_probe_row, &p};
    CLEANUP(buf_deinit) struct buf sql = BUF_INIT;
    int code;

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
    q->order = p.order;
    return ordered_sql(q, r, p.order_by);
}

struct rows {
    struct builder *builder;
    const struct query_source *source;
    enum key_order order;
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
