/* SPDX-License-Identifier: Apache-2.0 */
/* Walks text that json_scan has accepted. Nothing here checks syntax again; every loop is bounded by the slice all the
 * same, so that a caller's mistake reads wrong values but never other memory. */

#include "celeryc/message/json.h"

#include "celeryc/base/num.h"
#include "celeryc/message/json_priv.h"
#include "celeryc/message/utf8_priv.h"

#include <errno.h>
#include <math.h>

/* p stands on the opening quote; gives the byte behind the closing one. */
static const char *skip_string(const char *p, const char *end)
{
    p++;
    for (;;) {
        p = json_string_end(p, end);
        if (p >= end)
            return end;
        if (*p == '"')
            return p + 1;
        p += end - p >= 2 ? 2 : 1;
    }
}

static const char *skip_container(const char *p, const char *end)
{
    size_t depth = 0;

    while (p < end) {
        switch (*p) {
        case '"':
            p = skip_string(p, end);
            continue;
        case '{':
        case '[':
            depth++;
            break;
        case '}':
        case ']':
            if (--depth == 0)
                return p + 1;
            break;
        default:
            break;
        }
        p++;
    }
    return end;
}

static bool ends_scalar(char c)
{
    return c == ',' || c == ']' || c == '}' || json_is_space(c);
}

/* The value at p, which is not white space. */
static struct json_val value_at(const char *p, const char *end)
{
    struct json_val v = {JSON_K_INT, {p, 0}};
    const char *q = p;

    switch (*p) {
    case '"':
        v.kind = JSON_K_STRING;
        q = skip_string(p, end);
        break;
    case '{':
    case '[':
        v.kind = *p == '{' ? JSON_K_OBJECT : JSON_K_ARRAY;
        q = skip_container(p, end);
        break;
    case 'n':
        v.kind = JSON_K_NULL;
        q = p + 4;
        break;
    case 't':
        v.kind = JSON_K_TRUE;
        q = p + 4;
        break;
    case 'f':
        v.kind = JSON_K_FALSE;
        q = p + 5;
        break;
    default:
        for (; q < end && !ends_scalar(*q); q++) {
            if (*q == '.' || *q == 'e' || *q == 'E' || *q == 'N' || *q == 'I')
                v.kind = JSON_K_FLOAT;
        }
        break;
    }
    v.raw.len = (size_t)(MIN(q, end) - p);
    return v;
}

void json_iter_init(struct json_iter *it, struct json_val v)
{
    *it = (struct json_iter){.object = v.kind == JSON_K_OBJECT};
    if ((v.kind == JSON_K_OBJECT || v.kind == JSON_K_ARRAY) && v.raw.len >= 2)
        it->rest = (struct slice){v.raw.p + 1, v.raw.len - 1};
}

bool json_next(struct json_iter *it)
{
    const char *p, *end;

    if (it->rest.len == 0)
        return false;
    end = it->rest.p + it->rest.len;
    p = json_skip_space(it->rest.p, end);
    if (p < end && *p == ',')
        p = json_skip_space(p + 1, end);
    if (p >= end || *p == '}' || *p == ']') {
        it->rest.len = 0;
        return false;
    }
    if (it->object) {
        it->key = value_at(p, end);
        p = json_skip_space(p + it->key.raw.len, end);
        if (p < end && *p == ':')
            p = json_skip_space(p + 1, end);
        if (p >= end) {
            it->rest.len = 0;
            return false;
        }
    }
    it->val = value_at(p, end);
    p += it->val.raw.len;
    it->rest = (struct slice){p, (size_t)(end - p)};
    return true;
}

struct json_val json_get(struct json_val v, const char *key)
{
    struct json_val found = {JSON_K_NONE, SLICE_NULL};
    struct slice name = slice_str(key);
    struct json_iter it;

    if (v.kind != JSON_K_OBJECT)
        return found;
    json_iter_init(&it, v);
    while (json_next(&it)) {
        if (json_key_is(it.key, name))
            found = it.val;
    }
    return found;
}

struct json_val json_at(struct json_val v, size_t index)
{
    struct json_iter it;

    if (v.kind == JSON_K_ARRAY) {
        json_iter_init(&it, v);
        while (json_next(&it)) {
            if (index-- == 0)
                return it.val;
        }
    }
    return (struct json_val){JSON_K_NONE, SLICE_NULL};
}

size_t json_len(struct json_val v)
{
    struct json_iter it;
    size_t n = 0;

    json_iter_init(&it, v);
    while (json_next(&it))
        n++;
    return n;
}

static uint32_t hex4(const char *p)
{
    uint32_t v = 0;

    for (int i = 0; i < 4; i++) {
        char c = p[i];

        v = v << 4 | (uint32_t)(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    return v;
}

static uint32_t simple_escape(char c)
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
    default:
        return (unsigned char)c;
    }
}

uint32_t json_next_char(struct slice inside, size_t *pos)
{
    const char *p = inside.p + *pos;
    size_t left = inside.len - *pos;
    uint32_t c, low;
    size_t n;

    if (*p != '\\') {
        n = utf8_decode(p, p + left, true, &c);
        *pos += n ? n : 1;
        return n ? c : 0xfffd;
    }
    if (left < 2) {
        *pos += 1;
        return '\\';
    }
    if (p[1] != 'u' || left < 6) {
        *pos += 2;
        return simple_escape(p[1]);
    }
    c = hex4(p + 2);
    *pos += 6;
    if ((c & 0xfc00) == 0xd800 && left >= 12 && p[6] == '\\' && p[7] == 'u') {
        low = hex4(p + 8);
        if ((low & 0xfc00) == 0xdc00) {
            *pos += 6;
            return 0x10000 + ((c & 0x3ff) << 10) + (low & 0x3ff);
        }
    }
    return c;
}

bool json_key_is_slow(struct slice inside, struct slice name)
{
    size_t pos = 0, matched = 0;
    char utf8[4];

    while (pos < inside.len) {
        size_t n = utf8_encode(json_next_char(inside, &pos), utf8);

        if (name.len - matched < n || memcmp(name.p + matched, utf8, n) != 0)
            return false;
        matched += n;
    }
    return matched == name.len;
}

static char *decode(struct slice inside, char *dst)
{
    size_t pos = 0;

    while (pos < inside.len)
        dst += utf8_encode(json_next_char(inside, &pos), dst);
    *dst = '\0';
    return dst;
}

int json_string(struct arena *a, struct json_val v, struct slice *ret_s)
{
    struct slice inside;
    char *text;

    if (v.kind != JSON_K_STRING)
        return -EINVAL;
    inside = json_inside(v);
    if (!json_has_escape(inside)) {
        *ret_s = inside;
        return 0;
    }
    /* Decoded text is never longer: the shortest escape has two bytes, a \uXXXX of six gives at most three. */
    text = arena_alloc(a, inside.len + 1);
    if (!text)
        return -ENOMEM;
    *ret_s = (struct slice){text, (size_t)(decode(inside, text) - text)};
    return 0;
}

int json_string_z(struct arena *a, struct json_val v, struct slice *ret_s)
{
    struct slice s;
    int r = json_string(a, v, &s);

    if (r)
        return r;
    if (s.p == v.raw.p + 1) {
        s.p = arena_strdup(a, s);
        if (!s.p)
            return -ENOMEM;
    }
    *ret_s = s;
    return 0;
}

int json_i64(struct json_val v, int64_t *ret_v)
{
    if (v.kind != JSON_K_INT)
        return -EINVAL;
    return num_parse_i64(v.raw, ret_v);
}

int json_f64(struct json_val v, double *ret_v)
{
    bool negative;
    double d = 0;
    int r;

    if (v.kind != JSON_K_INT && v.kind != JSON_K_FLOAT)
        return -EINVAL;
    negative = v.raw.p[0] == '-';
    if (memchr(v.raw.p, 'N', v.raw.len)) {
        *ret_v = NAN;
        return 0;
    }
    r = v.raw.p[negative ? 1 : 0] == 'I' ? -ERANGE : num_parse_f64(v.raw, &d);
    if (r == -ERANGE)
        d = negative ? -INFINITY : INFINITY;
    else if (r)
        return r;
    *ret_v = d;
    return 0;
}
