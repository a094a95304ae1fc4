/* SPDX-License-Identifier: Apache-2.0 */
/* Writes JSON as Python's json.dumps does with its defaults: ", " and ": ", everything outside printable ASCII as
 * \uXXXX with lower-case digits, floats as float.__repr__ gives them. Chord members are compared byte for byte with
 * what Python wrote, so none of this is a matter of taste. */

#include "celeryc/base/num.h"
#include "celeryc/message/json_priv.h"
#include "celeryc/message/utf8_priv.h"

#include <math.h>

static bool is_plain(char c)
{
    return c >= ' ' && c <= '~' && c != '"' && c != '\\';
}

static void append_u16(struct buf *dst, uint32_t unit)
{
    static const char digits[] = "0123456789abcdef";

    buf_append(dst,
               (char[]){'\\', 'u', digits[unit >> 12 & 15], digits[unit >> 8 & 15],
                        digits[unit >> 4 & 15], digits[unit & 15]},
               6);
}

static void append_escaped(struct buf *dst, uint32_t c)
{
    static const char *const names[] = {
        ['\b'] = "\\b", ['\t'] = "\\t", ['\n'] = "\\n",  ['\f'] = "\\f",
        ['\r'] = "\\r", ['"'] = "\\\"", ['\\'] = "\\\\",
    };

    if (c < ARRAY_SIZE(names) && names[c]) {
        buf_append_str(dst, names[c]);
    } else if (c >= ' ' && c <= '~') {
        buf_append_char(dst, (char)c);
    } else if (c < 0x10000) {
        append_u16(dst, c);
    } else {
        append_u16(dst, 0xd800 + ((c - 0x10000) >> 10));
        append_u16(dst, 0xdc00 + ((c - 0x10000) & 0x3ff));
    }
}

void json_write_string(struct buf *dst, struct slice utf8)
{
    size_t i = 0, from;

    buf_reserve(dst, utf8.len + 2);
    buf_append_char(dst, '"');
    while (i < utf8.len) {
        uint32_t c;
        size_t n;

        for (from = i; i < utf8.len && is_plain(utf8.p[i]);)
            i++;
        buf_append(dst, utf8.p + from, i - from);
        if (i == utf8.len)
            break;
        n = utf8_decode(utf8.p + i, utf8.p + utf8.len, true, &c);
        append_escaped(dst, n ? c : 0xfffd);
        i += n ? n : 1;
    }
    buf_append_char(dst, '"');
}

void json_write_string_or_null(struct buf *dst, struct slice utf8)
{
    if (utf8.p)
        json_write_string(dst, utf8);
    else
        buf_append_str(dst, "null");
}

void json_write_i64(struct buf *dst, int64_t v)
{
    char digits[24];
    char *p = digits + sizeof(digits);
    uint64_t u = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;

    do {
        *--p = (char)('0' + u % 10);
        u /= 10;
    } while (u);
    if (v < 0)
        *--p = '-';
    buf_append(dst, p, (size_t)(digits + sizeof(digits) - p));
}

/* Significant digits of a decimal, d.ddd x 10^exp10. */
struct decimal {
    char digits[20];
    size_t n;
    int exp10;
};

/* v rounded to n digits. The C library's decimal point is skipped, whatever the locale made of it. */
static struct decimal round_to(double v, size_t n)
{
    struct decimal d = {.n = 0};
    char text[64];
    const char *p = text;
    int64_t exp10 = 0;

    (void)snprintf(text, sizeof(text), "%.*e", (int)n - 1, v);
    for (; *p && *p != 'e'; p++) {
        if (*p >= '0' && *p <= '9' && d.n < sizeof(d.digits))
            d.digits[d.n++] = *p;
    }
    if (*p == 'e') {
        p += p[1] == '+' ? 2 : 1;
        if (num_parse_i64(slice_str(p), &exp10))
            exp10 = 0;
    }
    d.exp10 = (int)exp10;
    return d;
}

static bool reads_back(const struct decimal *d, double v)
{
    char text[48];
    double back;
    int n = snprintf(text, sizeof(text), "%.*se%d", (int)d->n, d->digits, d->exp10 - (int)d->n + 1);

    return num_parse_f64((struct slice){text, (size_t)n}, &back) == 0 && back == v;
}

/* Adds one to the last digit; false when it carries through all of them. */
static bool step_up(struct decimal *d)
{
    for (size_t i = d->n; i-- > 0;) {
        if (d->digits[i] != '9') {
            d->digits[i]++;
            return true;
        }
        d->digits[i] = '0';
    }
    return false;
}

/* The fewest digits that read back as v > 0. Up to 15 digits rounding cannot miss; below the smallest normal number
 * fewer can be right than rounding to 15 shows; at a power of two the numbers below lie closer than those above, so
 * the next decimal up may read back where the nearest does not. */
static struct decimal shortest(double v)
{
    struct decimal d, up;
    size_t n = v < 2.2250738585072014e-308 ? 1 : 15;

    for (;; n++) {
        d = round_to(v, n);
        if (n == 17 || reads_back(&d, v))
            break;
        up = d;
        if (n == 16 && step_up(&up) && reads_back(&up, v)) {
            d = up;
            break;
        }
    }
    while (d.n > 1 && d.digits[d.n - 1] == '0')
        d.n--;
    return d;
}

size_t json_format_f64(double v, char dst[JSON_F64_SIZE])
{
    struct decimal d = {.digits = "0", .n = 1};
    char *p = dst;
    int point;

    if (signbit(v))
        *p++ = '-';
    if (v != 0)
        d = shortest(fabs(v));
    point = d.exp10 + 1; /* digits before the decimal point */
    if (point > 16 || point < -3) {
        *p++ = d.digits[0];
        if (d.n > 1)
            *p++ = '.';
        memcpy(p, d.digits + 1, d.n - 1);
        p += d.n - 1;
        p += snprintf(p, 8, "e%c%02d", d.exp10 < 0 ? '-' : '+', abs(d.exp10));
        return (size_t)(p - dst);
    }
    if (point <= 0) {
        *p++ = '0';
        *p++ = '.';
        for (int i = point; i < 0; i++)
            *p++ = '0';
    }
    for (int i = 0; i < (int)d.n || i <= point; i++) {
        if (i == point && point > 0)
            *p++ = '.';
        *p++ = i < (int)d.n ? d.digits[i] : '0';
    }
    *p = '\0';
    return (size_t)(p - dst);
}

void json_write_f64(struct buf *dst, double v)
{
    char text[JSON_F64_SIZE];

    if (isnan(v))
        buf_append_str(dst, "NaN");
    else if (isinf(v))
        buf_append_str(dst, v < 0 ? "-Infinity" : "Infinity");
    else
        buf_append(dst, text, json_format_f64(v, text));
}

static void write_normal_string(struct buf *dst, struct json_val v)
{
    struct slice inside = json_inside(v);
    size_t pos = 0;

    buf_append_char(dst, '"');
    while (pos < inside.len) {
        size_t from = pos;

        while (pos < inside.len && is_plain(inside.p[pos]))
            pos++;
        buf_append(dst, inside.p + from, pos - from);
        if (pos < inside.len)
            append_escaped(dst, json_next_char(inside, &pos));
    }
    buf_append_char(dst, '"');
}

/* Recursion is bounded: the text was scanned, so it nests at most LIMIT_JSON_DEPTH deep. */
void json_write_normal(struct buf *dst, struct json_val v)
{
    struct json_iter it;
    bool first = true;

    if (v.kind == JSON_K_STRING) {
        write_normal_string(dst, v);
        return;
    }
    if (v.kind != JSON_K_ARRAY && v.kind != JSON_K_OBJECT) {
        buf_append_slice(dst, v.raw);
        return;
    }
    buf_append_char(dst, v.kind == JSON_K_OBJECT ? '{' : '[');
    for (json_iter_init(&it, v); json_next(&it); first = false) {
        if (!first)
            buf_append_str(dst, ", ");
        if (it.object) {
            write_normal_string(dst, it.key);
            buf_append_str(dst, ": ");
        }
        json_write_normal(dst, it.val);
    }
    buf_append_char(dst, v.kind == JSON_K_OBJECT ? '}' : ']');
}
