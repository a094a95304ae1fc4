/* SPDX-License-Identifier: Apache-2.0 */
/* PostgreSQL: the values of a large chunk by COPY.
 *
 * First round trip: one query of several statements, which opens the transaction, makes a temporary table that ends with
 * it (a pooler in transaction mode knows of nothing that outlives a transaction), and begins the COPY. Second: the values
 * in binary form, after which the server runs the last statement of the same query, the chunk's own. Such a query takes
 * no parameters, so that those few which are no values stand in it as literals.
 *
 * The table has no statistics; the statement does not ask for any (see key_clause in pg_chunk.c). While the server waits
 * for values it holds no lock that a takeover would meet: the fence comes with the last statement. */

#include "celeryc/db/pg.h"

#include "celeryc/db/chunk.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>

#define SLICE_BYTES ((size_t)64 << 10) /* of one CopyData message, about */

static const char signature[] = "PGCOPY\n\377\r\n"; /* and the NUL behind it */

bool pg_copy_wanted(const struct pg *pg, const struct pg_values *v)
{
    if (v->n_rows == 0 || db_copy_refused(&pg->db) || pg->db.copy == DB_COPY_NEVER)
        return false;
    if (pg->db.copy == DB_COPY_ALWAYS || v->n_bytes >= CHUNK_COPY_BYTES)
        return true;
    size_t width = pg_values_width(v);

    return width > CHUNK_COPY_FREE && v->n_rows * (width - CHUNK_COPY_FREE) >= CHUNK_COPY_VALUES;
}

/* ---- the query ---- */

static int add_literal(struct pg *pg, const char *value, struct buf *dst, struct err *e)
{
    char *quoted = value ? PQescapeLiteral(pg->conn, value, strlen(value)) : NULL;

    if (value && !quoted)
        return err_set(e, db_fail(&pg->db, "22021"), "a text is not valid in UTF-8");
    buf_append_str(dst, value ? quoted : "NULL");
    PQfreemem(quoted);
    return 0;
}

/* Up to the next parameter, or the end; in quotes a '$' means nothing. */
static const char *next_parameter(const char *p)
{
    char quote = '\0';

    for (; *p; p++) {
        if (!quote && *p == '$' && isdigit((unsigned char)p[1]))
            break;
        if (*p == quote)
            quote = '\0';
        else if (!quote && (*p == '"' || *p == '\''))
            quote = *p;
    }
    return p;
}

/* A statement with its parameters as literals. */
static int add_statement(struct pg *pg, const struct pg_stmt *s, struct buf *dst, struct err *e)
{
    const char *from = s->sql;
    int r = 0;

    buf_append_str(dst, dst->len ? "; " : "");
    while (!r) {
        const char *to = next_parameter(from);
        char *end;

        buf_append(dst, from, (size_t)(to - from));
        if (!*to)
            break;
        size_t n = strtoul(to + 1, &end, 10);

        ASSERT(n >= 1 && n <= (size_t)s->n);
        r = add_literal(pg, s->values[n - 1], dst, e);
        from = end;
    }
    return r;
}

static int whole_query(struct pg *pg, const struct pg_values *v, int64_t lease_ms,
                       const struct pg_stmt *s, struct buf *dst, struct err *e)
{
    CLEANUP(buf_deinit) struct buf columns = BUF_INIT;
    struct pg_begin b;
    struct pg_stmt begin[2];

    pg_begin_stmts(&b, false, lease_ms, begin);
    pg->limit_ms = b.limit_ms;
    int r = add_statement(pg, &begin[0], dst, e);

    if (!r)
        r = add_statement(pg, &begin[1], dst, e);
    if (r)
        return r;
    pg_values_names(v, " text", &columns);
    if (buf_ok(&columns))
        return -ENOMEM;
    buf_appendf(dst,
                "; CREATE TEMPORARY TABLE %s (i integer, %s) ON COMMIT DROP; COPY %s FROM STDIN "
                "(FORMAT binary)",
                PG_COPY_TABLE, columns.data, PG_COPY_TABLE);
    r = add_statement(pg, s, dst, e);
    return r ? r : buf_ok(dst);
}

/* ---- the values ---- */

static void put_i16(struct buf *dst, size_t n)
{
    uint16_t be = htons((uint16_t)n);

    buf_append(dst, &be, sizeof(be));
}

static void put_i32(struct buf *dst, size_t n)
{
    uint32_t be = htonl((uint32_t)n);

    buf_append(dst, &be, sizeof(be));
}

static void put_row(struct buf *dst, const struct pg_values *v, const struct db_row *row,
                    size_t number)
{
    size_t width = pg_values_width(v);

    put_i16(dst, width + 1);
    put_i32(dst, sizeof(uint32_t));
    put_i32(dst, number);
    for (size_t k = 0; k < width; k++) {
        struct slice s = pg_values_at(v, row, k);

        put_i32(dst, s.p ? s.len : UINT32_MAX); /* -1: NULL */
        buf_append_slice(dst, s);
    }
}

static int flush(struct pg *pg, struct buf *b, struct err *e)
{
    if (buf_ok(b))
        return -ENOMEM;
    if (b->len && PQputCopyData(pg->conn, b->data, (int)b->len) != 1)
        return pg_fail(pg, NULL, e);
    buf_reset(b);
    return 0;
}

static int send_values(struct pg *pg, const struct pg_values *v, struct err *e)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    size_t number = 0;
    int r = 0;

    buf_append(&b, signature, sizeof(signature));
    put_i32(&b, 0); /* flags */
    put_i32(&b, 0); /* of the header's extension */
    for (size_t i = 0; !r && i < v->c->n_rows; i++) {
        if (v->c->rows[i].outcome != DB_O_CHANGED)
            continue;
        put_row(&b, v, &v->c->rows[i], ++number);
        if (b.len >= SLICE_BYTES || b.failed)
            r = flush(pg, &b, e);
    }
    put_i16(&b, UINT16_MAX); /* the end */
    return r ? r : flush(pg, &b, e);
}

/* ---- running it ---- */

/* Reads answers up to the end of the query, or to where the server waits for values. ret_row is the last one that has
 * rows. The failure that is told is the first; the connection may end with it. */
static int read_answers(struct pg *pg, bool *ret_copying, PGresult **ret_row, struct err *e)
{
    CLEANUP(pg_clear) PGresult *row = NULL;
    struct pg_told first = {0};
    bool copying = false;
    int failed = 0, r = 0;

    while (!copying) {
        CLEANUP(pg_clear) PGresult *res = NULL;

        r = pg_result(pg, &res, e);
        if (r || !res)
            break;
        copying = PQresultStatus(res) == PGRES_COPY_IN;
        if (!failed && !copying && !pg_good(res)) {
            failed = pg_fail(pg, res, e);
            first = pg_told(pg);
        } else if (PQresultStatus(res) == PGRES_TUPLES_OK) {
            PQclear(row);
            row = res;
            res = NULL;
        }
    }
    if (failed)
        pg_tell(pg, &first);
    if (failed || r)
        return failed ? failed : r;
    *ret_copying = copying;
    *ret_row = row;
    row = NULL;
    return 0;
}

/* Until the COPY has begun nothing of ours can have failed but that the table was refused: by a missing right, or by an
 * event trigger. */
static int begin_copy(struct pg *pg, const char *query, struct err *e)
{
    CLEANUP(pg_clear) PGresult *row = NULL;
    bool copying = false;

    if (!PQsendQuery(pg->conn, query))
        return pg_fail(pg, NULL, e);
    int r = read_answers(pg, &copying, &row, e);

    if (r)
        return r == DB_E_RETRY ? r : PG_COPY_REFUSED;
    if (!copying)
        return err_set(e, db_fail(&pg->db, "58000"), "the server did not begin to COPY");
    return 0;
}

int pg_copy_run(struct pg *pg, const struct pg_values *v, int64_t lease_ms, const struct pg_stmt *s,
                PGresult **ret_row, struct err *e)
{
    CLEANUP(buf_deinit) struct buf query = BUF_INIT;
    bool copying = false;
    int r = whole_query(pg, v, lease_ms, s, &query, e);

    if (!r)
        r = begin_copy(pg, query.data, e);
    if (r)
        return r;
    int sent = send_values(pg, v, e);

    if (PQputCopyEnd(pg->conn, sent ? "values are missing" : NULL) != 1)
        return sent ? sent : pg_fail(pg, NULL, e);
    struct err ignored = ERR_INIT;

    r = read_answers(pg, &copying, ret_row, sent ? &ignored : e);
    if (sent)
        return sent;
    if (!r && !*ret_row)
        r = err_set(e, db_fail(&pg->db, "58000"), "the chunk's statement gave no answer");
    return r;
}
