/* SPDX-License-Identifier: Apache-2.0 */
/* msgpack <-> JSON text, in one pass and without a tree: the format is one tag byte, a length, a payload.
 *
 * Read as kombu reads it (unpackb with raw=False) and written as it writes it (packb with use_bin_type=True: the
 * shortest form, floats in 64 bits). Two differences: keys that are numbers, null or booleans are taken and become text
 * as json.dumps has it, where Python's reader refuses them; and nesting has our limit. */

#include "celeryc/base/limits.h"
#include "celeryc/message/json_priv.h"
#include "celeryc/message/utf8_priv.h"
#include "celeryc/message/wire_priv.h"

#include <errno.h>

static int bad(struct err *e, const char *what)
{
    return err_set(e, -EINVAL, "msgpack: %s", what);
}

/* ---- reading ---- */

struct unpacker {
    struct buf *dst;
    const unsigned char *p, *end;
    struct err *e;
};

static int need(const struct unpacker *u, size_t n)
{
    return (size_t)(u->end - u->p) < n ? bad(u->e, "it ends early") : 0;
}

static int take_uint(struct unpacker *u, size_t size, uint64_t *ret_v)
{
    uint64_t v = 0;
    int r = need(u, size);

    if (r)
        return r;
    for (size_t i = 0; i < size; i++)
        v = v << 8 | *u->p++;
    *ret_v = v;
    return 0;
}

static int take_bytes(struct unpacker *u, size_t size, struct slice *ret_s)
{
    int r = need(u, size);

    if (r)
        return r;
    *ret_s = (struct slice){(const char *)u->p, size};
    u->p += size;
    return 0;
}

static int read_str(struct unpacker *u, size_t len)
{
    struct slice s;
    uint32_t c;
    int r = take_bytes(u, len, &s);

    if (r)
        return r;
    for (size_t i = 0; i < s.len;) {
        size_t n = utf8_decode(s.p + i, s.p + s.len, false, &c);

        if (n == 0)
            return bad(u->e, "a text is not UTF-8");
        i += n;
    }
    json_write_string(u->dst, s);
    return 0;
}

static int read_bin(struct unpacker *u, size_t len, bool key)
{
    struct slice s;
    int r = take_bytes(u, len, &s);

    if (r)
        return r;
    if (key)
        return bad(u->e, "bytes as a key of a map");
    json_write_bytes(u->dst, s);
    return 0;
}

static void write_key_mark(struct unpacker *u, bool key)
{
    if (key)
        buf_append_char(u->dst, '"');
}

static int read_float(struct unpacker *u, size_t size, bool key)
{
    uint64_t bits;
    double d;
    int r = take_uint(u, size, &bits);

    if (r)
        return r;
    if (size == 4) {
        uint32_t half = (uint32_t)bits;
        float f;

        memcpy(&f, &half, sizeof(f));
        d = f;
    } else {
        memcpy(&d, &bits, sizeof(d));
    }
    write_key_mark(u, key);
    json_write_f64(u->dst, d);
    write_key_mark(u, key);
    return 0;
}

static int read_int(struct unpacker *u, size_t size, bool is_signed, bool key)
{
    uint64_t v;
    int r = take_uint(u, size, &v);

    ASSERT(size >= 1 && size <= 8);
    if (r)
        return r;
    if (is_signed && size < 8 && v >> (size * 8 - 1))
        v |= ~UINT64_C(0) << (size * 8);
    write_key_mark(u, key);
    if (is_signed)
        buf_appendf(u->dst, "%lld", (long long)v);
    else
        buf_appendf(u->dst, "%llu", (unsigned long long)v);
    write_key_mark(u, key);
    return 0;
}

static int read_word(struct unpacker *u, const char *word, bool key)
{
    write_key_mark(u, key);
    buf_append_str(u->dst, word);
    write_key_mark(u, key);
    return 0;
}

static int read_value(struct unpacker *u, size_t depth, bool key);

/* n elements, or 2 n for a map. Counted as they come: a length that lies costs nothing. */
static int read_items(struct unpacker *u, size_t n, bool map, size_t depth, bool key)
{
    int r = key ? bad(u->e, "a list or map as a key of a map") : 0;

    if (r == 0 && depth >= LIMIT_JSON_DEPTH)
        r = bad(u->e, "nested too deep");
    buf_append_char(u->dst, map ? '{' : '[');
    for (size_t i = 0; r == 0 && i < n; i++) {
        if (i)
            buf_append_str(u->dst, ", ");
        if (map) {
            r = read_value(u, depth + 1, true);
            buf_append_str(u->dst, ": ");
        }
        if (r == 0)
            r = read_value(u, depth + 1, false);
        if (r == 0 && u->dst->len > LIMIT_MESSAGE_BYTES)
            r = bad(u->e, "it is too big");
    }
    buf_append_char(u->dst, map ? '}' : ']');
    return r;
}

/* Types whose length follows the tag in 1, 2 or 4 bytes. */
static int read_long(struct unpacker *u, unsigned char tag, size_t depth, bool key)
{
    static const unsigned char sizes[] = {1, 2, 4};
    uint64_t len;
    size_t size;

    if (tag >= 0xdc)
        size = tag % 2 ? 4 : 2; /* dc, dd array; de, df map */
    else
        size = sizes[tag >= 0xd9 ? tag - 0xd9 : tag - 0xc4];
    int r = take_uint(u, size, &len);
    if (r)
        return r;
    if (tag >= 0xdc)
        return read_items(u, len, tag >= 0xde, depth, key);
    return tag >= 0xd9 ? read_str(u, len) : read_bin(u, len, key);
}

static int read_value(struct unpacker *u, size_t depth, bool key)
{
    unsigned char tag;
    int r = need(u, 1);

    if (r)
        return r;
    tag = *u->p++;
    if (tag < 0x80 || tag >= 0xe0) {
        u->p--;
        return read_int(u, 1, true, key);
    }
    if (tag < 0xa0)
        return read_items(u, tag & 0x0f, tag < 0x90, depth, key);
    if (tag < 0xc0)
        return read_str(u, tag & 0x1f);
    if ((tag >= 0xc4 && tag <= 0xc6) || tag >= 0xd9)
        return read_long(u, tag, depth, key);
    if (tag >= 0xcc && tag <= 0xd3)
        return read_int(u, (size_t)1 << (tag & 3), tag >= 0xd0, key);
    switch (tag) {
    case 0xc0:
        return read_word(u, "null", key);
    case 0xc2:
        return read_word(u, "false", key);
    case 0xc3:
        return read_word(u, "true", key);
    case 0xca:
        return read_float(u, 4, key);
    case 0xcb:
        return read_float(u, 8, key);
    case 0xc1:
        return bad(u->e, "a byte that is no tag");
    default:
        return bad(u->e, "an extension type, which has no form in JSON");
    }
}

int msgpack_read(struct buf *dst, struct slice src, struct err *e)
{
    const unsigned char *p = (const unsigned char *)src.p;
    struct unpacker u = {.dst = dst, .p = p, .end = p + src.len, .e = e};
    int r = read_value(&u, 0, false);

    if (r == 0 && u.p < u.end)
        r = bad(e, "bytes behind the value");
    return r ? r : buf_ok(dst);
}

/* ---- writing ---- */

struct packer {
    struct buf *dst;
    struct arena *arena;
    struct err *e;
};

static void put_uint(struct buf *dst, unsigned char tag, size_t size, uint64_t v)
{
    buf_append_char(dst, (char)tag);
    for (size_t i = size; i-- > 0;)
        buf_append_char(dst, (char)(v >> (i * 8) & 0xff));
}

/* The shortest of tags with 1, 2, 4 bytes of length; tag1 0: there is none with one byte. */
static void put_length(struct buf *dst, unsigned char tag1, unsigned char tag2, uint64_t len)
{
    if (tag1 && len < 256)
        put_uint(dst, tag1, 1, len);
    else if (len < 65536)
        put_uint(dst, tag2, 2, len);
    else
        put_uint(dst, tag2 + 1, 4, len);
}

static void put_unsigned(struct buf *dst, uint64_t v)
{
    if (v < 0x80)
        buf_append_char(dst, (char)v);
    else if (v <= UINT8_MAX)
        put_uint(dst, 0xcc, 1, v);
    else if (v <= UINT16_MAX)
        put_uint(dst, 0xcd, 2, v);
    else if (v <= UINT32_MAX)
        put_uint(dst, 0xce, 4, v);
    else
        put_uint(dst, 0xcf, 8, v);
}

static void put_negative(struct buf *dst, int64_t v)
{
    if (v >= -32)
        buf_append_char(dst, (char)v);
    else if (v >= INT8_MIN)
        put_uint(dst, 0xd0, 1, (uint64_t)v);
    else if (v >= INT16_MIN)
        put_uint(dst, 0xd1, 2, (uint64_t)v);
    else if (v >= INT32_MIN)
        put_uint(dst, 0xd2, 4, (uint64_t)v);
    else
        put_uint(dst, 0xd3, 8, (uint64_t)v);
}

static int write_int(const struct packer *p, struct json_val v)
{
    uint64_t big = 0;
    int64_t n;

    if (json_i64(v, &n) == 0) {
        if (n < 0)
            put_negative(p->dst, n);
        else
            put_unsigned(p->dst, (uint64_t)n);
        return 0;
    }
    for (size_t i = 0; i < v.raw.len; i++) {
        if (v.raw.p[i] < '0' || v.raw.p[i] > '9' || __builtin_mul_overflow(big, 10, &big) ||
            __builtin_add_overflow(big, (uint64_t)(v.raw.p[i] - '0'), &big))
            return bad(p->e, "an integer of more than 64 bits cannot be written");
    }
    put_unsigned(p->dst, big);
    return 0;
}

static int write_float(const struct packer *p, struct json_val v)
{
    uint64_t bits;
    double d;

    if (json_f64(v, &d))
        return bad(p->e, "a number cannot be written");
    memcpy(&bits, &d, sizeof(bits));
    put_uint(p->dst, 0xcb, 8, bits);
    return 0;
}

static int write_str(const struct packer *p, struct json_val v)
{
    struct slice s;
    uint32_t c;
    int r = json_string(p->arena, v, &s);

    if (r)
        return r;
    for (size_t i = 0; i < s.len;) {
        size_t n = utf8_decode(s.p + i, s.p + s.len, false, &c);

        if (n == 0)
            return bad(p->e, "a text with half a surrogate pair cannot be written");
        i += n;
    }
    if (s.len < 32)
        buf_append_char(p->dst, (char)(0xa0 | s.len));
    else
        put_length(p->dst, 0xd9, 0xda, s.len);
    buf_append_slice(p->dst, s);
    return 0;
}

static int write_typed(const struct packer *p, struct json_val type, struct json_val value)
{
    struct slice s;
    bool is;
    int r = json_typed_bytes(p->arena, type, value, &is, &s);

    if (r == -EINVAL)
        return bad(p->e, "a typed value of bytes is damaged");
    if (r)
        return r;
    if (!is)
        return err_set(p->e, -EINVAL, "msgpack: a typed value %.*s cannot be written",
                       (int)MIN(type.raw.len, (size_t)40), type.raw.p);
    put_length(p->dst, 0xc4, 0xc5, s.len);
    buf_append_slice(p->dst, s);
    return 0;
}

static int write_value(const struct packer *p, struct json_val v);

static int write_items(const struct packer *p, struct json_val v, bool map)
{
    size_t n = json_len(v);
    struct json_val type, value;
    struct json_iter it;
    int r = 0;

    if (map && json_typed(v, &type, &value))
        return write_typed(p, type, value);
    if (n > UINT32_MAX)
        return bad(p->e, "too many elements");
    if (n < 16)
        buf_append_char(p->dst, (char)((map ? 0x80 : 0x90) | n));
    else
        put_length(p->dst, 0, map ? 0xde : 0xdc, n);
    for (json_iter_init(&it, v); r == 0 && json_next(&it);) {
        if (map)
            r = write_str(p, it.key);
        if (r == 0)
            r = write_value(p, it.val);
    }
    return r;
}

static int write_value(const struct packer *p, struct json_val v)
{
    switch (v.kind) {
    case JSON_K_NONE:
    case JSON_K_NULL:
        buf_append_char(p->dst, (char)0xc0);
        return 0;
    case JSON_K_TRUE:
        buf_append_char(p->dst, (char)0xc3);
        return 0;
    case JSON_K_FALSE:
        buf_append_char(p->dst, (char)0xc2);
        return 0;
    case JSON_K_INT:
        return write_int(p, v);
    case JSON_K_FLOAT:
        return write_float(p, v);
    case JSON_K_STRING:
        return write_str(p, v);
    case JSON_K_ARRAY:
    case JSON_K_OBJECT:
        return write_items(p, v, v.kind == JSON_K_OBJECT);
    }
    return 0;
}

int msgpack_write(struct buf *dst, struct json_val v, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    const struct packer p = {.dst = dst, .arena = a, .e = e};
    int r = a ? write_value(&p, v) : -ENOMEM;

    return r ? r : buf_ok(dst);
}
