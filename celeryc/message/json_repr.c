/* SPDX-License-Identifier: Apache-2.0 */
/* Values as Python shows them. Two forms: json_write_python is repr(); json_write_repr is the shortened form that
 * Celery puts into argsrepr and into its log lines (celery/utils/saferepr.py). The latter is a stream of tokens with a
 * budget of characters: every token may be cut to what is left of the budget (at a space if there is one), and the
 * first token after the budget is used up is replaced by ", ..." and the closing brackets of what is open. */

#include "celeryc/message/json_priv.h"
#include "celeryc/message/utf8_priv.h"

#include <math.h>

#define REPR_LEVELS 3

/* ---- repr() ---- */

/* Ranges that str.isprintable refuses: controls, formats, separators other than the space, surrogates, private use. */
static bool is_printable(uint32_t c)
{
    static const struct {
        uint32_t first, last;
    } hidden[] = {
        {0x0, 0x1f},        {0x7f, 0xa0},        {0xad, 0xad},       {0x600, 0x605},
        {0x61c, 0x61c},     {0x6dd, 0x6dd},      {0x70f, 0x70f},     {0x890, 0x891},
        {0x8e2, 0x8e2},     {0x1680, 0x1680},    {0x180e, 0x180e},   {0x2000, 0x200f},
        {0x2028, 0x202f},   {0x205f, 0x206f},    {0x3000, 0x3000},   {0xd800, 0xf8ff},
        {0xfeff, 0xfeff},   {0xfff0, 0xfffb},    {0xfffe, 0xffff},   {0x110bd, 0x110bd},
        {0x110cd, 0x110cd}, {0x13430, 0x1343f},  {0x1bca0, 0x1bca3}, {0x1d173, 0x1d17a},
        {0xe0000, 0xe00ff}, {0xe01f0, 0x10ffff},
    };

    for (size_t i = 0; i < ARRAY_SIZE(hidden); i++) {
        if (c >= hidden[i].first && c <= hidden[i].last)
            return false;
    }
    return true;
}

static void append_python_char(struct buf *dst, uint32_t c, char quote)
{
    char utf8[4];

    if (c == (unsigned char)quote || c == '\\')
        buf_append(dst, (char[]){'\\', (char)c}, 2);
    else if (c == '\n')
        buf_append_str(dst, "\\n");
    else if (c == '\r')
        buf_append_str(dst, "\\r");
    else if (c == '\t')
        buf_append_str(dst, "\\t");
    else if (is_printable(c))
        buf_append(dst, utf8, utf8_encode(c, utf8));
    else if (c < 0x100)
        buf_appendf(dst, "\\x%02x", (unsigned)c);
    else if (c < 0x10000)
        buf_appendf(dst, "\\u%04x", (unsigned)c);
    else
        buf_appendf(dst, "\\U%08x", (unsigned)c);
}

static void write_python_string(struct buf *dst, struct json_val v)
{
    struct slice inside = json_inside(v);
    bool single = false, twofold = false;
    char quote;

    for (size_t pos = 0; pos < inside.len;) {
        uint32_t c = json_next_char(inside, &pos);

        single = single || c == '\'';
        twofold = twofold || c == '"';
    }
    quote = single && !twofold ? '"' : '\'';
    buf_append_char(dst, quote);
    for (size_t pos = 0; pos < inside.len;)
        append_python_char(dst, json_next_char(inside, &pos), quote);
    buf_append_char(dst, quote);
}

static void write_python_scalar(struct buf *dst, struct json_val v)
{
    double d;

    switch (v.kind) {
    case JSON_K_TRUE:
        buf_append_str(dst, "True");
        break;
    case JSON_K_FALSE:
        buf_append_str(dst, "False");
        break;
    case JSON_K_INT:
        if (slice_eq_str(v.raw, "-0"))
            buf_append_char(dst, '0');
        else
            buf_append_slice(dst, v.raw);
        break;
    case JSON_K_FLOAT:
        if (json_f64(v, &d))
            buf_append_slice(dst, v.raw);
        else if (isnan(d))
            buf_append_str(dst, "nan");
        else if (isinf(d))
            buf_append_str(dst, d < 0 ? "-inf" : "inf");
        else
            json_write_f64(dst, d);
        break;
    default:
        buf_append_str(dst, "None");
        break;
    }
}

/* Recursion is bounded by LIMIT_JSON_DEPTH. */
void json_write_python(struct buf *dst, struct json_val v)
{
    struct json_iter it;
    bool first = true;

    if (v.kind == JSON_K_STRING) {
        write_python_string(dst, v);
        return;
    }
    if (v.kind != JSON_K_ARRAY && v.kind != JSON_K_OBJECT) {
        write_python_scalar(dst, v);
        return;
    }
    buf_append_char(dst, v.kind == JSON_K_OBJECT ? '{' : '[');
    for (json_iter_init(&it, v); json_next(&it); first = false) {
        if (!first)
            buf_append_str(dst, ", ");
        if (it.object) {
            write_python_string(dst, it.key);
            buf_append_str(dst, ": ");
        }
        json_write_python(dst, it.val);
    }
    buf_append_char(dst, v.kind == JSON_K_OBJECT ? '}' : ']');
}

/* ---- the shortened form ---- */

struct repr {
    struct buf *dst;
    int64_t left; /* characters */
    size_t level;
    const char *closers[REPR_LEVELS]; /* of the containers that are open */
    bool done;
};

/* True when the budget is used up: ends the output. A token that only closes a bracket never comes here. */
static bool used_up(struct repr *r)
{
    if (r->done)
        return true;
    if (r->left > 0)
        return false;
    buf_append_str(r->dst, ", ...");
    for (size_t i = r->level; i-- > 0;)
        buf_append_str(r->dst, r->closers[i]);
    r->done = true;
    return true;
}

static void emit_literal(struct repr *r, const char *text)
{
    if (used_up(r))
        return;
    buf_append_str(r->dst, text);
    r->left -= (int64_t)strlen(text);
}

/* ASCII text, cut as celery.utils.text.truncate does. */
static void emit_scalar(struct repr *r, struct json_val v)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    size_t len;

    if (used_up(r))
        return;
    write_python_scalar(&text, v);
    if (text.failed) {
        r->dst->failed = true;
        return;
    }
    len = text.len;
    if ((int64_t)len >= r->left) {
        buf_append(r->dst, text.data, (size_t)r->left);
        buf_append_str(r->dst, "...");
        len = (size_t)r->left + 3;
    } else {
        buf_append_slice(r->dst, buf_slice(&text));
    }
    r->left -= (int64_t)len;
}

/* How many characters of a string are shown: all, or those before the last space within the budget. Stops counting at
 * the budget, so that a long string costs no more than is shown of it. */
static size_t shown_chars(struct slice inside, int64_t budget, bool *ret_cut)
{
    size_t pos = 0, last_space = 0;
    int64_t n = 0;
    bool space = false;

    while (pos < inside.len && n < budget) {
        if (json_next_char(inside, &pos) == ' ') {
            space = true;
            last_space = (size_t)n;
        }
        n++;
    }
    *ret_cut = n >= budget;
    return *ret_cut && space ? last_space : (size_t)n;
}

/* A string or key in single quotes. Only quotes inside are escaped, as Celery does it. */
static void emit_quoted(struct repr *r, struct json_val v)
{
    struct slice inside = json_inside(v);
    size_t n, pos = 0;
    bool cut;
    char utf8[4];

    if (used_up(r))
        return;
    n = shown_chars(inside, r->left, &cut);
    buf_append_char(r->dst, '\'');
    r->left -= 2;
    for (size_t i = 0; i < n; i++) {
        uint32_t c = json_next_char(inside, &pos);

        if (c == '\'') {
            buf_append_char(r->dst, '\\');
            r->left--;
        }
        buf_append(r->dst, utf8, utf8_encode(c, utf8));
        r->left--;
    }
    if (cut) {
        buf_append_str(r->dst, "...");
        r->left -= 3;
    }
    buf_append_char(r->dst, '\'');
}

static void emit_value(struct repr *r, struct json_val v, bool tuple);

static void emit_members(struct repr *r, struct json_val v)
{
    struct json_iter it;
    bool first = true;

    for (json_iter_init(&it, v); !r->done && json_next(&it); first = false) {
        if (!first)
            emit_literal(r, ", ");
        if (it.object) {
            emit_quoted(r, it.key);
            emit_literal(r, ": ");
        }
        emit_value(r, it.val, false);
    }
}

static void emit_container(struct repr *r, struct json_val v, bool tuple)
{
    const char *opener = v.kind == JSON_K_OBJECT ? "{" : tuple ? "(" : "[";
    const char *closer = v.kind == JSON_K_OBJECT ? "}"
                         : !tuple                ? "]"
                         : json_len(v) == 1      ? ",)"
                                                 : ")";

    if (r->level >= REPR_LEVELS) {
        emit_literal(r, v.kind == JSON_K_OBJECT ? "{...}" : "[...]");
        return;
    }
    emit_literal(r, opener);
    if (r->done)
        return;
    r->closers[r->level++] = closer;
    emit_members(r, v);
    if (r->done)
        return;
    /* A closing bracket is shown even when the budget is used up; nothing is left out then. */
    buf_append_str(r->dst, closer);
    if (r->left > 0)
        r->left -= (int64_t)strlen(closer);
    r->level--;
}

static void emit_value(struct repr *r, struct json_val v, bool tuple)
{
    if (r->done)
        return;
    if (v.kind == JSON_K_STRING)
        emit_quoted(r, v);
    else if (v.kind == JSON_K_ARRAY || v.kind == JSON_K_OBJECT)
        emit_container(r, v, tuple);
    else
        emit_scalar(r, v);
}

void json_write_repr(struct buf *dst, struct json_val v, bool tuple, size_t max_chars)
{
    struct repr r = {.dst = dst, .left = (int64_t)MIN(max_chars, (size_t)INT32_MAX)};

    emit_value(&r, v, tuple);
}
