/* SPDX-License-Identifier: Apache-2.0 */
/* SQLite: a value's text form in SQL, and binding one in the form in which its column keeps it. */

#include "celeryc/base/num.h"
#include "celeryc/db/sqlite_target.h"

#include <errno.h>

void sqlite_append_text_form(struct buf *dst, const char *table, struct slice name)
{
    buf_appendf(dst, "CASE typeof(%s", table);
    db_quote_name(dst, name);
    buf_appendf(dst, ") WHEN 'blob' THEN '\\x' || lower(hex(%s", table);
    db_quote_name(dst, name);
    buf_appendf(dst, ")) ELSE CAST(%s", table);
    db_quote_name(dst, name);
    buf_append_str(dst, " AS TEXT) END");
}

struct slice sqlite_stored_form(struct slice s, enum column_kind kind)
{
    if (kind == COLUMN_BOOL && slice_eq_str(s, "true"))
        return SLICE_LIT("1");
    if (kind == COLUMN_BOOL && slice_eq_str(s, "false"))
        return SLICE_LIT("0");
    return s;
}

struct db_val sqlite_key_value(struct slice s, enum column_kind kind)
{
    char again[24];
    int64_t v;

    if (kind != COLUMN_TEXT && s.p && !num_parse_i64(s, &v)) {
        (void)snprintf(again, sizeof(again), "%lld", (long long)v);
        if (slice_eq_str(s, again))
            return db_int(v);
    }
    return db_slice(s);
}

int sqlite_bind_text(struct sqlite_update *u, int at, struct slice s, struct err *e)
{
    int r = s.p ? sqlite3_bind_text64(u->stmt, at, s.p, s.len, SQLITE_STATIC, SQLITE_UTF8)
                : sqlite3_bind_null(u->stmt, at);

    return r ? sqlite_fail(u->q, e) : 0;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The bytes of "\x0a1b" in the arena; *ret_is false: s is no such text. */
static int blob_of(struct arena *a, struct slice s, bool *ret_is, struct slice *ret_bytes)
{
    *ret_is = s.p && s.len >= 2 && s.len % 2 == 0 && s.p[0] == '\\' && s.p[1] == 'x';
    char *bytes = *ret_is ? arena_alloc(a, s.len / 2) : NULL;

    if (!*ret_is)
        return 0;
    if (!bytes)
        return -ENOMEM;
    for (size_t i = 2; i < s.len; i += 2) {
        int high = hex_digit(s.p[i]), low = hex_digit(s.p[i + 1]);

        if (high < 0 || low < 0) {
            *ret_is = false;
            return 0;
        }
        bytes[i / 2 - 1] = (char)(high << 4 | low);
    }
    *ret_bytes = (struct slice){bytes, s.len / 2 - 1};
    return 0;
}

int sqlite_bind_stored(struct sqlite_update *u, int at, struct slice s, enum column_kind kind,
                       struct err *e)
{
    struct slice bytes;
    bool blob = false;

    if (kind == COLUMN_BLOB && blob_of(u->arena, s, &blob, &bytes))
        return -ENOMEM;
    if (!blob)
        return sqlite_bind_text(u, at, sqlite_stored_form(s, kind), e);
    return sqlite3_bind_blob64(u->stmt, at, bytes.p, bytes.len, SQLITE_STATIC)
               ? sqlite_fail(u->q, e)
               : 0;
}
