/* SPDX-License-Identifier: Apache-2.0 */
/* Scalars of YAML 1.1 as PyYAML's SafeLoader reads them (yaml/resolver.py, yaml/constructor.py): which plain text is a
 * number, a time or a truth, and what Python value it becomes. Integers have any size. */

#include "celeryc/base/clock.h"
#include "celeryc/base/codec.h"
#include "celeryc/base/limits.h"
#include "celeryc/base/num.h"
#include "celeryc/message/json_priv.h"
#include "celeryc/message/wire_priv.h"
#include "celeryc/message/yaml_priv.h"

#include <errno.h>
#include <math.h>

/* ---- what a text is ---- */

struct scan {
    const char *p, *end;
};

static struct scan scan_of(struct slice s)
{
    return (struct scan){s.p, s.p + s.len};
}

/* Characters of the set, at least min and at most max. */
static bool span(struct scan *s, const char *set, size_t min, size_t max)
{
    size_t n = 0;

    while (n < max && s->p < s->end && *s->p && strchr(set, *s->p)) {
        s->p++;
        n++;
    }
    return n >= min;
}

#define ANY    SIZE_MAX
#define DIGITS "0123456789"
#define LOOSE  "0123456789_"

static bool one(struct scan *s, const char *set)
{
    return span(s, set, 1, 1);
}

static bool done(const struct scan *s)
{
    return s->p == s->end;
}

/* (?::[0-5]?[0-9])+ */
static bool sixties(struct scan *s)
{
    size_t n = 0;

    while (s->p < s->end && *s->p == ':') {
        const char *digits = ++s->p;

        if (!span(s, DIGITS, 1, 2) || (s->p - digits == 2 && *digits > '5'))
            return false;
        n++;
    }
    return n > 0;
}

static bool is_int(struct slice text)
{
    struct scan s = scan_of(text), rest;

    (void)span(&s, "+-", 0, 1);
    if (done(&s))
        return false;
    rest = s;
    if (*s.p == '0') {
        s.p++;
        if (done(&s))
            return true;
        rest = s;
        if (one(&s, "b"))
            return span(&s, "01_", 1, ANY) && done(&s);
        if (one(&s, "x"))
            return span(&s, "0123456789abcdefABCDEF_", 1, ANY) && done(&s);
        return span(&rest, "01234567_", 1, ANY) && done(&rest);
    }
    if (!one(&s, "123456789"))
        return false;
    (void)span(&s, LOOSE, 0, ANY);
    return done(&s) || (sixties(&s) && done(&s));
}

static bool is_float(struct slice text)
{
    struct scan s = scan_of(text), at;

    if (slice_eq_str(text, ".nan") || slice_eq_str(text, ".NaN") || slice_eq_str(text, ".NAN"))
        return true;
    if (s.p < s.end && *s.p == '.' && s.end - s.p > 1 && s.p[1] >= '0' && s.p[1] <= '9') {
        s.p++;
        (void)span(&s, LOOSE, 1, ANY);
        return done(&s) || (one(&s, "eE") && one(&s, "+-") && span(&s, DIGITS, 1, ANY) && done(&s));
    }
    (void)span(&s, "+-", 0, 1);
    struct slice body = {s.p, (size_t)(s.end - s.p)};
    if (slice_eq_str(body, ".inf") || slice_eq_str(body, ".Inf") || slice_eq_str(body, ".INF"))
        return true;
    if (!one(&s, DIGITS))
        return false;
    (void)span(&s, LOOSE, 0, ANY);
    at = s;
    if (sixties(&at))
        return one(&at, ".") && span(&at, LOOSE, 0, ANY) && done(&at);
    if (!one(&s, "."))
        return false;
    (void)span(&s, LOOSE, 0, ANY);
    return done(&s) || (one(&s, "eE") && one(&s, "+-") && span(&s, DIGITS, 1, ANY) && done(&s));
}

struct moment {
    int year, month, day;
    bool has_time, has_zone;
    int hour, minute, second, fraction; /* microseconds */
    int zone_minutes;
};

static bool number(struct scan *s, size_t min, size_t max, int *ret_v)
{
    const char *p = s->p;

    if (!span(s, DIGITS, min, max))
        return false;
    *ret_v = 0;
    for (; p < s->p; p++)
        *ret_v = *ret_v * 10 + (*p - '0');
    return true;
}

static void fraction(struct scan *s, struct moment *m)
{
    int digits = 0;

    for (const char *p = s->p; p < s->end && *p >= '0' && *p <= '9'; p++, digits++) {
        if (digits < 6)
            m->fraction = m->fraction * 10 + (*p - '0');
        s->p = p + 1;
    }
    for (; digits < 6; digits++)
        m->fraction *= 10;
}

static bool zone(struct scan *s, struct moment *m)
{
    int hours, minutes = 0;
    bool minus;

    (void)span(s, " \t", 0, ANY);
    if (done(s))
        return false; /* white space needs a zone behind it */
    m->has_zone = true;
    if (one(s, "Z"))
        return done(s);
    minus = *s->p == '-';
    if (!one(s, "+-") || !number(s, 1, 2, &hours))
        return false;
    if (one(s, ":") && !number(s, 2, 2, &minutes))
        return false;
    m->zone_minutes = (hours * 60 + minutes) * (minus ? -1 : 1);
    return done(s);
}

static bool parse_moment(struct slice text, struct moment *m)
{
    struct scan s = scan_of(text);
    const char *month, *day;
    bool strict;

    *m = (struct moment){0};
    if (!number(&s, 4, 4, &m->year) || !one(&s, "-"))
        return false;
    month = s.p;
    if (!number(&s, 1, 2, &m->month) || !one(&s, "-"))
        return false;
    strict = s.p - month == 3;
    day = s.p;
    if (!number(&s, 1, 2, &m->day))
        return false;
    if (done(&s))
        return strict && s.p - day == 2;
    m->has_time = true;
    if (!one(&s, "Tt") && !span(&s, " \t", 1, ANY))
        return false;
    if (!number(&s, 1, 2, &m->hour) || !one(&s, ":") || !number(&s, 2, 2, &m->minute) ||
        !one(&s, ":") || !number(&s, 2, 2, &m->second))
        return false;
    if (one(&s, "."))
        fraction(&s, m);
    return done(&s) || zone(&s, m);
}

static bool is_among(struct slice text, const char *words)
{
    for (const char *p = words; *p;) {
        size_t len = strcspn(p, " ");

        if (slice_eq((struct slice){p, len}, text))
            return true;
        p += len + (p[len] == ' ');
    }
    return false;
}

enum yaml_type yaml_resolve(struct slice text)
{
    struct moment m;

    if (text.len == 0 || is_among(text, "~ null Null NULL"))
        return YAML_T_NULL;
    if (is_among(text,
                 "yes Yes YES no No NO true True TRUE false False FALSE on On ON off Off OFF"))
        return YAML_T_BOOL;
    if (is_float(text))
        return YAML_T_FLOAT;
    if (is_int(text))
        return YAML_T_INT;
    if (parse_moment(text, &m))
        return YAML_T_TIMESTAMP;
    if (slice_eq_str(text, "<<"))
        return YAML_T_MERGE;
    return slice_eq_str(text, "=") ? YAML_T_VALUE : YAML_T_STR;
}

/* ---- what it becomes ---- */

static int bad(struct err *e, const char *what, struct slice text)
{
    return err_set(e, -EINVAL, "yaml: %.*s is not %s", (int)MIN(text.len, (size_t)40), text.p,
                   what);
}

/* The text without '_', at most this long: numbers in other bases are converted in a square of their length. */
#define NUMBER_CHARS 1024

static int plain_number(struct slice text, char dst[NUMBER_CHARS + 1], struct slice *ret_s)
{
    size_t n = 0;

    while (text.len && json_is_space(text.p[0]))
        text = (struct slice){text.p + 1, text.len - 1};
    while (text.len && json_is_space(text.p[text.len - 1]))
        text.len--;
    for (size_t i = 0; i < text.len; i++) {
        if (text.p[i] == '_')
            continue;
        if (n == NUMBER_CHARS)
            return -EINVAL;
        dst[n++] = text.p[i];
    }
    dst[n] = '\0';
    *ret_s = (struct slice){dst, n};
    return 0;
}

/* A natural number of any size, decimal digits with the last first. */
struct natural {
    size_t n;
    unsigned char digits[NUMBER_CHARS * 2];
};

static bool mul_add(struct natural *v, unsigned factor, unsigned add)
{
    unsigned carry = add;

    for (size_t i = 0; i < v->n; i++) {
        carry += v->digits[i] * factor;
        v->digits[i] = (unsigned char)(carry % 10);
        carry /= 10;
    }
    for (; carry; carry /= 10) {
        if (v->n == sizeof(v->digits))
            return false;
        v->digits[v->n++] = (unsigned char)(carry % 10);
    }
    return true;
}

static int digit_of(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
}

static bool read_base(struct natural *v, struct slice s, int base)
{
    for (size_t i = 0; i < s.len; i++) {
        int d = digit_of(s.p[i]);

        if (d >= base || !mul_add(v, (unsigned)base, (unsigned)d))
            return false;
    }
    return s.len > 0;
}

/* 190:20:30 */
static bool read_sixties(struct natural *v, struct slice s)
{
    const char *colon = memchr(s.p, ':', s.len);
    size_t first = (size_t)(colon - s.p);

    if (!read_base(v, (struct slice){s.p, first}, 10))
        return false;
    for (size_t i = first; i < s.len;) {
        int part = 0;
        size_t digits = 0;

        for (i++; i < s.len && s.p[i] != ':'; i++, digits++) {
            if (digit_of(s.p[i]) > 9 || digits == 4)
                return false;
            part = part * 10 + digit_of(s.p[i]);
        }
        if (digits == 0 || !mul_add(v, 60, (unsigned)part))
            return false;
    }
    return true;
}

static bool read_natural(struct natural *v, struct slice s)
{
    if (s.len > 2 && s.p[0] == '0' && (s.p[1] == 'b' || s.p[1] == 'x'))
        return read_base(v, (struct slice){s.p + 2, s.len - 2}, s.p[1] == 'b' ? 2 : 16);
    if (s.len > 1 && s.p[0] == '0')
        return read_base(v, s, 8);
    if (memchr(s.p, ':', s.len))
        return read_sixties(v, s);
    return read_base(v, s, 10);
}

/* Decimal digits are copied, however many. */
static bool write_decimal(struct buf *dst, struct slice text)
{
    bool minus = text.len && text.p[0] == '-';
    struct slice s = {text.p + minus, text.len - minus};
    struct scan digits = scan_of(s);

    if (!one(&digits, "123456789") || !span(&digits, DIGITS, 0, ANY) || !done(&digits))
        return false;
    buf_append_slice(dst, text);
    return true;
}

static int write_int(struct buf *dst, struct slice text, struct err *e)
{
    char plain[NUMBER_CHARS + 1];
    struct natural v = {.n = 0};
    bool negative = false;
    struct slice s;

    if (write_decimal(dst, text))
        return 0;
    if (plain_number(text, plain, &s))
        return bad(e, "an integer that can be read", text);
    if (s.len && (s.p[0] == '-' || s.p[0] == '+')) {
        negative = s.p[0] == '-';
        s = (struct slice){s.p + 1, s.len - 1};
    }
    if (s.len == 0 || !read_natural(&v, s))
        return bad(e, "an integer", text);
    if (v.n == 0) {
        buf_append_char(dst, '0');
        return 0;
    }
    if (negative)
        buf_append_char(dst, '-');
    while (v.n)
        buf_append_char(dst, (char)('0' + v.digits[--v.n]));
    return 0;
}

/* One number as Python's float() reads it; inf and nan are the callers'. */
static bool read_float(struct slice s, double *ret_v)
{
    int r = num_parse_f64(s, ret_v);

    if (r == -ERANGE)
        *ret_v = INFINITY;
    return r == 0 || r == -ERANGE;
}

static bool read_float_sixties(struct slice s, double *ret_v)
{
    double v = 0, base = 1, part;

    /* Horner's rule would round elsewhere than Python, which starts with the last part. */
    for (size_t end = s.len, i = s.len;; i--) {
        if (i > 0 && s.p[i - 1] != ':')
            continue;
        if (!read_float((struct slice){s.p + i, end - i}, &part))
            return false;
        v += part * base;
        base *= 60;
        if (i == 0)
            break;
        end = i - 1;
    }
    *ret_v = v;
    return true;
}

static int write_float(struct buf *dst, struct slice text, struct err *e)
{
    char plain[NUMBER_CHARS + 1];
    double sign = 1, v;
    struct slice s;
    bool ok;

    if (plain_number(text, plain, &s))
        return bad(e, "a number that can be read", text);
    for (size_t i = 0; i < s.len; i++) {
        if (plain[i] >= 'A' && plain[i] <= 'Z')
            plain[i] = (char)(plain[i] | 0x20);
    }
    if (s.len && (s.p[0] == '-' || s.p[0] == '+')) {
        sign = s.p[0] == '-' ? -1 : 1;
        s = (struct slice){s.p + 1, s.len - 1};
    }
    ok = true;
    if (is_among(s, ".inf inf infinity"))
        v = INFINITY;
    else if (is_among(s, ".nan nan"))
        v = NAN;
    else
        ok = s.len && memchr(s.p, ':', s.len) ? read_float_sixties(s, &v) : read_float(s, &v);
    if (!ok)
        return bad(e, "a number", text);
    json_write_f64(dst, sign * v);
    return 0;
}

static int check_moment(const struct moment *m, struct slice text, struct err *e)
{
    bool day = m->year >= 1 && m->month >= 1 && m->month <= 12 && m->day >= 1 &&
               m->day <= clock_month_days(m->year, m->month);
    bool time = m->hour < 24 && m->minute < 60 && m->second < 60;

    return day && time && abs(m->zone_minutes) < 24 * 60 ? 0 : bad(e, "a time that exists", text);
}

static int write_timestamp(struct buf *dst, struct slice text, struct err *e)
{
    struct moment m;
    int r = parse_moment(text, &m) ? 0 : bad(e, "a time", text);

    if (r == 0)
        r = check_moment(&m, text, e);
    if (r)
        return r;
    buf_appendf(dst, "{\"__type__\": \"%s\", \"__value__\": \"%04d-%02d-%02d",
                m.has_time ? "datetime" : "date", m.year, m.month, m.day);
    if (m.has_time) {
        buf_appendf(dst, "T%02d:%02d:%02d", m.hour, m.minute, m.second);
        if (m.fraction)
            buf_appendf(dst, ".%06d", m.fraction);
        if (m.has_zone)
            buf_appendf(dst, "%c%02d:%02d", m.zone_minutes < 0 ? '-' : '+',
                        abs(m.zone_minutes) / 60, abs(m.zone_minutes) % 60);
    }
    buf_append_str(dst, "\"}");
    return 0;
}

static int write_binary(struct buf *dst, struct slice text, struct err *e)
{
    CLEANUP(mem_free) char *bytes = malloc(BASE64_DECODED_MAX(text.len));
    size_t len;

    if (!bytes)
        return -ENOMEM;
    if (base64_decode_to(bytes, text, true, &len))
        return err_set(e, -EINVAL, "yaml: !!binary is not base64");
    json_write_bytes(dst, (struct slice){bytes, len});
    return 0;
}

static int write_bool(struct buf *dst, struct slice text, struct err *e)
{
    static const char yes[] = "yes true on", no[] = "no false off";
    char low[8] = "";

    for (size_t i = 0; i < text.len && i < sizeof(low) - 1; i++)
        low[i] = (char)(text.p[i] >= 'A' && text.p[i] <= 'Z' ? text.p[i] | 0x20 : text.p[i]);
    if (text.len < sizeof(low) && (is_among(slice_str(low), yes) || is_among(slice_str(low), no))) {
        buf_append_str(dst, is_among(slice_str(low), yes) ? "true" : "false");
        return 0;
    }
    return bad(e, "a truth", text);
}

static int write_bare(struct buf *dst, enum yaml_type type, struct slice text, struct err *e)
{
    switch (type) {
    case YAML_T_NULL:
        buf_append_str(dst, "null");
        return 0;
    case YAML_T_BOOL:
        return write_bool(dst, text, e);
    case YAML_T_INT:
        return write_int(dst, text, e);
    case YAML_T_FLOAT:
        return write_float(dst, text, e);
    case YAML_T_TIMESTAMP:
        return write_timestamp(dst, text, e);
    case YAML_T_BINARY:
        return write_binary(dst, text, e);
    case YAML_T_STR:
        json_write_string(dst, text.p ? text : SLICE_LIT(""));
        return 0;
    case YAML_T_MERGE:
    case YAML_T_VALUE:
        break;
    }
    return bad(e, "a value where it stands", text);
}

int yaml_write_scalar(struct buf *dst, enum yaml_type type, struct slice text, bool key,
                      struct err *e)
{
    int r;

    if (!key)
        return write_bare(dst, type, text, e);
    if (type == YAML_T_STR || type == YAML_T_VALUE)
        return write_bare(dst, YAML_T_STR, text, e);
    if (type == YAML_T_TIMESTAMP || type == YAML_T_BINARY || type == YAML_T_MERGE)
        return bad(e, "a key that JSON has a form for", text);
    buf_append_char(dst, '"');
    r = write_bare(dst, type, text, e);
    buf_append_char(dst, '"');
    return r;
}
