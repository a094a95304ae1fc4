/* SPDX-License-Identifier: Apache-2.0 */
/* One record line: a JSON array of scalars, parsed in place.
 *
 * Strings are decoded towards the front of their own bytes (a decoded string is never longer than its escaped form),
 * so no field needs memory of its own; the byte after a field becomes NUL once it has been read. Nothing is read or
 * written outside of line[0..len], line[len] included. Objects and arrays inside of a record, NaN, lone surrogates and
 * NUL characters are refused: no database column would take them back as they were. */

#include "celeryc/batch/batch_priv.h"

#include <errno.h>

struct row {
    char *p;
    size_t i, len;
    size_t column; /* 1.. for error texts */
    struct err *err;
};

static int bad(struct row *r, const char *what)
{
    return err_set(r->err, -EBADMSG, "value %zu: %s", r->column, what);
}

static void skip_space(struct row *r)
{
    while (r->i < r->len && (r->p[r->i] == ' ' || r->p[r->i] == '\t' || r->p[r->i] == '\r'))
        r->i++;
}

static int hex4(struct row *r, uint32_t *ret_v)
{
    uint32_t v = 0;

    if (r->len - r->i < 4)
        return bad(r, "a \\u escape is cut short");
    for (int k = 0; k < 4; k++) {
        char c = r->p[r->i++];

        v <<= 4;
        if (c >= '0' && c <= '9')
            v |= (uint32_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            v |= (uint32_t)(c - 'a' + 10);
        else if (c >= 'A' && c <= 'F')
            v |= (uint32_t)(c - 'A' + 10);
        else
            return bad(r, "a \\u escape has no four hexadecimal digits");
    }
    *ret_v = v;
    return 0;
}

static size_t put_utf8(char *dst, uint32_t c)
{
    if (c < 0x80) {
        dst[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        dst[0] = (char)(0xc0 | c >> 6);
        dst[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        dst[0] = (char)(0xe0 | c >> 12);
        dst[1] = (char)(0x80 | (c >> 6 & 0x3f));
        dst[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    dst[0] = (char)(0xf0 | c >> 18);
    dst[1] = (char)(0x80 | (c >> 12 & 0x3f));
    dst[2] = (char)(0x80 | (c >> 6 & 0x3f));
    dst[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

/* r->i stands behind "\u". */
static int unicode_escape(struct row *r, uint32_t *ret_c)
{
    uint32_t c = 0, low = 0;
    int code = hex4(r, &c);

    if (code)
        return code;
    if (c >= 0xd800 && c <= 0xdbff) {
        if (r->len - r->i < 2 || r->p[r->i] != '\\' || r->p[r->i + 1] != 'u')
            return bad(r, "half of a surrogate pair");
        r->i += 2;
        code = hex4(r, &low);
        if (code)
            return code;
        if (low < 0xdc00 || low > 0xdfff)
            return bad(r, "half of a surrogate pair");
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
    } else if (c >= 0xdc00 && c <= 0xdfff) {
        return bad(r, "half of a surrogate pair");
    } else if (c == 0) {
        return bad(r, "a NUL character");
    }
    *ret_c = c;
    return 0;
}

/* r->i stands behind the backslash. */
static int escape(struct row *r, size_t *out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *at;
    uint32_t c = 0;
    int code;

    if (r->i == r->len)
        return bad(r, "a string has no end");
    if (r->p[r->i] == 'u') {
        r->i++;
        code = unicode_escape(r, &c);
        if (code)
            return code;
        *out += put_utf8(r->p + *out, c);
        return 0;
    }
    at = r->p[r->i] ? strchr(from, r->p[r->i]) : NULL;
    if (!at)
        return bad(r, "an unknown escape");
    r->i++;
    r->p[(*out)++] = to[at - from];
    return 0;
}

/* r->i stands behind the opening quote. */
static int parse_string(struct row *r, struct slice *ret_field)
{
    size_t start = r->i, out = r->i;

    for (;;) {
        size_t n = text_plain(r->p + r->i, r->len - r->i);
        unsigned char c;

        if (n && out != r->i)
            memmove(r->p + out, r->p + r->i, n);
        out += n;
        r->i += n;
        if (r->i == r->len)
            return bad(r, "a string has no end");
        c = (unsigned char)r->p[r->i];
        if (c == '"') {
            r->i++;
            r->p[out] = '\0';
            *ret_field = (struct slice){r->p + start, out - start};
            return 0;
        }
        if (c == '\\') {
            int code;

            r->i++;
            code = escape(r, &out);
            if (code)
                return code;
            continue;
        }
        if (c < 0x20)
            return bad(r, "a raw control character in a string");
        n = text_sequence(r->p + r->i, r->len - r->i);
        if (n == 0)
            return bad(r, "not UTF-8");
        memmove(r->p + out, r->p + r->i, n);
        out += n;
        r->i += n;
    }
}

static int parse_word(struct row *r, const char *word)
{
    size_t n = strlen(word);

    if (r->len - r->i < n || memcmp(r->p + r->i, word, n) != 0)
        return bad(r, "neither string, number, true, false nor null");
    r->i += n;
    return 0;
}

/* Strings are ended with NUL at once, the others by the caller, which first has to read the byte behind them. */
static int parse_value(struct row *r, struct slice *ret_field, enum batch_kind *ret_kind)
{
    size_t start = r->i, n;
    char c = r->i < r->len ? r->p[r->i] : '\0';
    int code;

    *ret_kind = BATCH_TEXT;
    if (c == '"') {
        r->i++;
        return parse_string(r, ret_field);
    }
    if (c == 'n') {
        *ret_field = SLICE_NULL;
        return parse_word(r, "null");
    }
    if (c == 't' || c == 'f') {
        code = parse_word(r, c == 't' ? "true" : "false");
        if (code)
            return code;
        *ret_kind = BATCH_BOOL;
    } else if (c == '[' || c == '{') {
        return bad(r, "an array or object (its text form belongs here)");
    } else {
        n = text_number(r->p + r->i, r->len - r->i);
        if (n == 0)
            return bad(r, "neither string, number, true, false nor null");
        r->i += n;
        *ret_kind = BATCH_NUMBER;
    }
    *ret_field = (struct slice){r->p + start, r->i - start};
    return 0;
}

/* Values up to the closing bracket; r->i stands behind the opening one. */
static int parse_values(struct row *r, size_t max, struct slice *fields, enum batch_kind *kinds,
                        size_t *ret_n)
{
    for (size_t n = 0;;) {
        enum batch_kind kind;
        struct slice field;
        char next;
        int code;

        r->column = n + 1;
        if (n == max)
            return bad(r, "more values than columns");
        skip_space(r);
        code = parse_value(r, &field, &kind);
        if (code)
            return code;
        skip_space(r);
        if (r->i == r->len)
            return bad(r, "the line ends inside of its array");
        next = r->p[r->i++];
        if (next != ',' && next != ']')
            return bad(r, "no comma or bracket behind it");
        if (kind != BATCH_TEXT)
            r->p[(size_t)(field.p - r->p) + field.len] = '\0';
        fields[n] = field;
        if (kinds)
            kinds[n] = kind;
        n++;
        if (next == ']') {
            *ret_n = n;
            return 0;
        }
    }
}

int batch_row_parse(char *line, size_t len, size_t max, struct slice *fields,
                    enum batch_kind *kinds, size_t *ret_n, struct err *e)
{
    struct row r = {.p = line, .len = len, .column = 1, .err = e};
    size_t n = 0;
    int code;

    skip_space(&r);
    if (r.i == r.len || r.p[r.i] != '[')
        return err_set(e, -EBADMSG, "not a JSON array");
    r.i++;
    code = parse_values(&r, max, fields, kinds, &n);
    if (code)
        return code;
    skip_space(&r);
    if (r.i != r.len)
        return err_set(e, -EBADMSG, "text behind the closing bracket");
    line[len] = '\0';
    *ret_n = n;
    return 0;
}
