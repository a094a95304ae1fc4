/* SPDX-License-Identifier: Apache-2.0 */
/* Streaming a query: one REPEATABLE READ snapshot, described once, then COPY TO STDOUT row by row.
 *
 * The query is wrapped so that every column is cast to text: the chunk's guard compares col::text, and for some types
 * (boolean, char(n), inet) that is not what COPY alone would write. Both sides therefore speak of the same text. */

#include "celeryc/db/pg.h"

#include "celeryc/base/limits.h"

#include <errno.h>

struct columns {
    struct arena *arena;
    size_t n;
    const char **names, **types;
};

static int ask(struct pg *pg, const char *sql, const struct db_val *v, size_t n,
               struct db_rows *ret_r, struct err *e)
{
    return pg->db.ops->exec(&pg->db, sql, v, n, ret_r, e);
}

static int type_names(struct pg *pg, const Oid *oids, struct columns *c, struct err *e)
{
    for (size_t i = 0; i < c->n; i++) {
        CLEANUP(db_rows_deinit) struct db_rows rows = {0};
        struct db_val v[] = {db_int(oids[i])};
        int r = ask(pg, "SELECT typname FROM pg_type WHERE oid = $1::oid", v, 1, &rows, e);

        if (r)
            return r;
        c->types[i] = rows.n_rows ? arena_strdup(c->arena, db_cell(&rows, 0, 0)) : "";
        if (!c->types[i])
            return -ENOMEM;
    }
    return 0;
}

/* The unnamed statement, prepared and described but never run. */
static int describe(struct pg *pg, const char *query, struct columns *c, struct err *e)
{
    CLEANUP(pg_clear) PGresult *parsed = PQprepare(pg->conn, "", query, 0, NULL);

    if (PQresultStatus(parsed) != PGRES_COMMAND_OK)
        return pg_fail(pg, parsed, e);
    CLEANUP(pg_clear) PGresult *described = PQdescribePrepared(pg->conn, "");

    if (PQresultStatus(described) != PGRES_COMMAND_OK)
        return pg_fail(pg, described, e);
    if (PQnparams(described) > 0)
        return err_set(e, db_fail(&pg->db, "42P02"), "the query has parameters ($1), give values");
    c->n = (size_t)PQnfields(described);
    if (c->n == 0)
        return err_set(e, db_fail(&pg->db, "42601"), "the query returns no columns, give a SELECT");
    if (c->n > LIMIT_COLUMNS)
        return err_set(e, db_fail(&pg->db, "54011"), "the query has %zu columns, at most %u", c->n,
                       LIMIT_COLUMNS);
    c->names = arena_alloc_array(c->arena, c->n, sizeof(*c->names));
    c->types = arena_alloc_array(c->arena, c->n, sizeof(*c->types));
    Oid *oids = arena_alloc_array(c->arena, c->n, sizeof(*oids));

    if (!c->names || !c->types || !oids)
        return -ENOMEM;
    for (size_t i = 0; i < c->n; i++) {
        c->names[i] = arena_strdup(c->arena, slice_str(PQfname(described, (int)i)));
        oids[i] = PQftype(described, (int)i);
        if (!c->names[i])
            return -ENOMEM;
    }
    return type_names(pg, oids, c, e);
}

/* The line feed ends a comment that may end the query. */
static int copy_statement(struct buf *dst, struct slice query, size_t n)
{
    buf_append_str(dst, "COPY (SELECT ");
    for (size_t i = 0; i < n; i++)
        buf_appendf(dst, "%sc%zu::text", i ? ", " : "", i);
    buf_append_str(dst, " FROM (");
    buf_append_slice(dst, query);
    buf_append_str(dst, "\n) AS q (");
    for (size_t i = 0; i < n; i++)
        buf_appendf(dst, "%sc%zu", i ? ", " : "", i);
    buf_append_str(dst, ")) TO STDOUT");
    return buf_ok(dst);
}

static char unescape(char c)
{
    switch (c) {
    case 'b':
        return '\b';
    case 'f':
        return '\f';
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    case 'v':
        return '\v';
    default:
        return c;
    }
}

/* Splits one line of COPY's text format in place: tabs between fields, \N is NULL, backslash escapes. The line ends
 * with a line feed. Returns the number of fields, or max + 1 when there are more. */
static size_t split_row(char *line, size_t len, struct slice *fields, size_t max)
{
    char *in = line, *end = line + len, *out = line, *start = line;
    size_t n = 0;
    bool null = false;

    if (len && end[-1] == '\n')
        end--;
    for (;; in++) {
        if (in == end || *in == '\t') {
            if (n == max)
                return max + 1;
            fields[n++] = null ? SLICE_NULL : (struct slice){start, (size_t)(out - start)};
            if (in == end)
                return n;
            /* The tab's own place takes the NUL that ends the field. */
            *out++ = '\0';
            start = out;
            null = false;
        } else if (*in == '\\' && in + 1 < end) {
            in++;
            null = *in == 'N';
            if (!null)
                *out++ = unescape(*in);
        } else {
            *out++ = *in;
        }
    }
}

/* Reads the rows; the callback's refusal ends the copy by cancelling it. */
static int copy_rows(struct pg *pg, const struct columns *c, const struct db_stream *s,
                     struct slice *fields, struct err *e)
{
    for (;;) {
        char *line = NULL;
        int len = PQgetCopyData(pg->conn, &line, 0);

        if (len == -1)
            return 0;
        if (len < 0)
            return pg_fail(pg, NULL, e);
        size_t n = split_row(line, (size_t)len, fields, c->n);
        int r = n == c->n ? s->on_row(fields, n, s->arg)
                          : err_set(e, db_fail(&pg->db, "08P01"),
                                    "the database sent a row of %zu "
                                    "fields instead of %zu",
                                    n, c->n);

        PQfreemem(line);
        if (r)
            return r;
    }
}

/* Stops a copy that is not wanted any more, so that the connection can be used again. */
static void cancel_copy(struct pg *pg)
{
    PGcancel *cancel = PQgetCancel(pg->conn);
    char text[256], *line = NULL;

    if (cancel)
        (void)PQcancel(cancel, text, sizeof(text));
    PQfreeCancel(cancel);
    while (PQgetCopyData(pg->conn, &line, 0) >= 0)
        PQfreemem(line);
}

static int copy_out(struct pg *pg, const struct columns *c, const char *sql,
                    const struct db_stream *s, struct err *e)
{
    struct slice *fields = arena_alloc_array(c->arena, c->n, sizeof(*fields));
    CLEANUP(pg_clear) PGresult *start = fields ? PQexec(pg->conn, sql) : NULL;
    int r;

    if (!fields)
        return -ENOMEM;
    if (PQresultStatus(start) != PGRES_COPY_OUT)
        return pg_fail(pg, start, e);
    r = copy_rows(pg, c, s, fields, e);
    if (r)
        cancel_copy(pg);
    for (PGresult *res; (res = PQgetResult(pg->conn)); PQclear(res))
        if (!r && PQresultStatus(res) != PGRES_COMMAND_OK)
            r = pg_fail(pg, res, e);
    return r;
}

static int begin_snapshot(struct pg *pg, struct err *e)
{
    struct pg_begin b;
    struct pg_stmt stmts[2];
    PGresult *res[2];
    int r = pg_ready(pg, e);

    if (r)
        return r;
    pg_begin_stmts(&b, true, 0, stmts);
    pg->limit_ms = 0;
    r = pg_run(pg, stmts, 2, res, e);
    for (size_t i = 0; !r && i < 2; i++)
        PQclear(res[i]);
    return r;
}

int pg_stream(struct db *db, const char *query, const struct db_stream *s, struct err *e)
{
    struct pg *pg = pg_of(db);
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(buf_deinit) struct buf sql = BUF_INIT;
    struct slice q = slice_str(query);
    struct columns c = {.arena = a};
    int r;

    if (!a)
        return -ENOMEM;
    while (q.len && strchr("; \t\r\n", q.p[q.len - 1]))
        q.len--;
    r = begin_snapshot(pg, e);
    if (!r)
        r = describe(pg, query, &c, e);
    if (!r)
        r = s->on_columns(c.names, c.types, c.n, s->arg);
    if (!r)
        r = copy_statement(&sql, q, c.n);
    if (!r)
        r = copy_out(pg, &c, sql.data, s, e);
    pg_rollback(db);
    return r;
}
