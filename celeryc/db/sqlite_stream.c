/* SPDX-License-Identifier: Apache-2.0 */
/* SQLite: the rows of a query in text form, one at a time. The text form of a blob is PostgreSQL's, \\x and hexadecimal
 * digits. */

#include "celeryc/base/limits.h"
#include "celeryc/db/sqlite.h"

#include <errno.h>

static int stream_columns(sqlite3_stmt *stmt, size_t n, struct arena *a, const struct db_stream *s)
{
    const char **names = arena_alloc_array(a, n, sizeof(*names));
    const char **types = arena_alloc_array(a, n, sizeof(*types));

    if (!names || !types)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        const char *type = sqlite3_column_decltype(stmt, (int)i);

        names[i] = sqlite3_column_name(stmt, (int)i);
        types[i] = type ? type : "";
        if (!names[i])
            return -ENOMEM;
    }
    return s->on_columns(names, types, n, s->arg);
}

/* Text form of one value; a blob's in the arena. */
static int stream_value(sqlite3_stmt *stmt, int at, struct arena *a, struct slice *ret_s)
{
    static const char digits[] = "0123456789abcdef";

    if (sqlite3_column_type(stmt, at) != SQLITE_BLOB) {
        const char *p = (const char *)sqlite3_column_text(stmt, at);

        if (!p && sqlite3_column_type(stmt, at) != SQLITE_NULL)
            return -ENOMEM;
        *ret_s = (struct slice){p, p ? (size_t)sqlite3_column_bytes(stmt, at) : 0};
        return 0;
    }
    const unsigned char *bytes = sqlite3_column_blob(stmt, at);
    size_t n = (size_t)sqlite3_column_bytes(stmt, at);
    char *text = arena_alloc(a, 2 * n + 3);

    if (!text)
        return -ENOMEM;
    text[0] = '\\';
    text[1] = 'x';
    for (size_t i = 0; i < n; i++) {
        text[2 + 2 * i] = digits[bytes[i] >> 4];
        text[3 + 2 * i] = digits[bytes[i] & 15];
    }
    *ret_s = (struct slice){text, 2 * n + 2};
    return 0;
}

static int stream_rows(struct sqlite *q, sqlite3_stmt *stmt, const struct db_stream *s,
                       struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(arena_free) struct arena *row = arena_new();
    size_t n = (size_t)sqlite3_column_count(stmt);
    struct slice *fields = a && row ? arena_alloc_array(a, n, sizeof(*fields)) : NULL;
    int r, step;

    if (!fields)
        return -ENOMEM;
    r = stream_columns(stmt, n, a, s);
    while (!r && (step = sqlite3_step(stmt)) != SQLITE_DONE) {
        if (step != SQLITE_ROW)
            return sqlite_fail(q, e);
        for (size_t i = 0; !r && i < n; i++)
            r = stream_value(stmt, (int)i, row, &fields[i]);
        if (!r)
            r = s->on_row(fields, n, s->arg);
        arena_reset(row);
    }
    return r;
}

/* One statement is one snapshot. */
int sqlite_stream(struct db *db, const char *query, const struct db_stream *s, struct err *e)
{
    struct sqlite *q = sqlite_of(db);
    CLEANUP(sqlite_stmt) sqlite3_stmt *stmt = NULL;
    const char *tail = NULL;

    if (sqlite3_prepare_v2(q->conn, query, -1, &stmt, &tail))
        return sqlite_fail(q, e);
    if (!stmt || sqlite3_column_count(stmt) == 0)
        return err_set(e, db_fail(db, "42601"), "the query returns no columns, give a SELECT");
    if (!sqlite3_stmt_readonly(stmt))
        return err_set(e, db_fail(db, "25006"), "the query writes, give a SELECT");
    if (tail[strspn(tail, "; \t\r\n")])
        return err_set(e, db_fail(db, "42601"), "the query has more than one statement");
    if ((size_t)sqlite3_column_count(stmt) > LIMIT_COLUMNS)
        return err_set(e, db_fail(db, "54011"), "the query has %d columns, at most %u",
                       sqlite3_column_count(stmt), LIMIT_COLUMNS);
    return stream_rows(q, stmt, s, e);
}
