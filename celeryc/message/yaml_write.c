/* SPDX-License-Identifier: Apache-2.0 */
/* JSON text -> YAML on one line, which PyYAML and libyaml read as the same values: flow style, quoted texts with YAML's
 * own escapes (a surrogate pair of JSON is one \U), floats with the dot that YAML 1.1 asks for. */

#include "celeryc/base/codec.h"
#include "celeryc/message/json_priv.h"
#include "celeryc/message/wire_priv.h"
#include "celeryc/message/yaml_priv.h"

#include <errno.h>

#define DATE_LEN         10   /* 2024-01-02 */
#define SIMPLE_KEY_CHARS 1000 /* a longer key needs a question mark */
#define CHARS_PER_BYTE   6    /* of JSON: DEL is written as six */

struct writer {
    struct buf *dst;
    struct arena *arena;
    struct err *e;
};

static void write_text(struct buf *dst, struct json_val v)
{
    struct slice inside = json_inside(v);

    buf_append_char(dst, '"');
    for (size_t i = 0; i < inside.len;) {
        uint32_t c = json_next_char(inside, &i);

        if (c == '"' || c == '\\')
            buf_appendf(dst, "\\%c", (char)c);
        else if (c >= 0x20 && c < 0x7f)
            buf_append_char(dst, (char)c);
        else if (c > 0xffff)
            buf_appendf(dst, "\\U%08x", c);
        else
            buf_appendf(dst, "\\u%04x", c);
    }
    buf_append_char(dst, '"');
}

/* 1e22 -> 1.0e+22 */
static void write_float(struct buf *dst, struct slice raw)
{
    bool dot = memchr(raw.p, '.', raw.len) != NULL;

    if (slice_eq_str(raw, "NaN")) {
        buf_append_str(dst, ".nan");
        return;
    }
    if (raw.p[raw.len - 1] == 'y') {
        buf_append_str(dst, raw.p[0] == '-' ? "-.inf" : ".inf");
        return;
    }
    for (size_t i = 0; i < raw.len; i++) {
        bool exponent = raw.p[i] == 'e' || raw.p[i] == 'E';

        if (exponent && !dot)
            buf_append_str(dst, ".0");
        buf_append_char(dst, raw.p[i]);
        if (exponent && raw.p[i + 1] != '+' && raw.p[i + 1] != '-')
            buf_append_char(dst, '+');
    }
}

/* A datetime or date as a timestamp. -EINVAL: it is none that exists. */
static int write_moment(const struct writer *w, struct json_val value, bool date)
{
    CLEANUP(buf_deinit) struct buf read = BUF_INIT;
    struct slice s;
    int r = json_string(w->arena, value, &s);

    if (r)
        return r;
    if (date && s.len > DATE_LEN)
        s.len = DATE_LEN; /* the time behind a date says nothing */
    if (!date && s.len <= DATE_LEN)
        return -EINVAL;
    r = yaml_resolve(s) == YAML_T_TIMESTAMP
            ? yaml_write_scalar(&read, YAML_T_TIMESTAMP, s, false, NULL)
            : -EINVAL;
    if (r == 0)
        buf_append_slice(w->dst, s);
    return r;
}

static int write_typed(const struct writer *w, struct json_val type, struct json_val value)
{
    bool date = slice_eq_str(type.raw, "\"date\""), is;
    struct slice s;
    int r = json_typed_bytes(w->arena, type, value, &is, &s);

    if (r == 0 && is) {
        buf_append_str(w->dst, "!!binary \"");
        base64_encode(w->dst, s);
        buf_append_char(w->dst, '"');
        return 0;
    }
    if (r == 0 && (date || slice_eq_str(type.raw, "\"datetime\"")))
        r = write_moment(w, value, date);
    else if (r == 0)
        r = -EINVAL;
    if (r != -EINVAL)
        return r;
    return err_set(w->e, r, "yaml: a typed value %.*s cannot be written",
                   (int)MIN(type.raw.len, (size_t)40), type.raw.p);
}

static int write_value(const struct writer *w, struct json_val v)
{
    bool map = v.kind == JSON_K_OBJECT, first = true;
    struct json_val type, value;
    struct json_iter it;
    int r = 0;

    if (v.kind == JSON_K_STRING) {
        write_text(w->dst, v);
        return 0;
    }
    if (v.kind == JSON_K_FLOAT) {
        write_float(w->dst, v.raw);
        return 0;
    }
    if (v.kind != JSON_K_ARRAY && !map) {
        buf_append_slice(w->dst, v.raw);
        return 0;
    }
    if (map && json_typed(v, &type, &value))
        return write_typed(w, type, value);
    buf_append_char(w->dst, map ? '{' : '[');
    for (json_iter_init(&it, v); r == 0 && json_next(&it); first = false) {
        buf_append_str(w->dst, first ? "" : ", ");
        if (map) {
            buf_append_str(w->dst, it.key.raw.len > SIMPLE_KEY_CHARS / CHARS_PER_BYTE ? "? " : "");
            write_text(w->dst, it.key);
            buf_append_str(w->dst, ": ");
        }
        r = write_value(w, it.val);
    }
    buf_append_char(w->dst, map ? '}' : ']');
    return r;
}

int yaml_write(struct buf *dst, struct json_val v, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    const struct writer w = {.dst = dst, .arena = a, .e = e};
    int r = a ? write_value(&w, v) : -ENOMEM;

    buf_append_char(dst, '\n');
    return r ? r : buf_ok(dst);
}
