/* SPDX-License-Identifier: Apache-2.0 */
/* The validating scanner: one pass, no recursion, no memory. The only state that nests is one bit per open container
 * (object or array), so a hostile text cannot use stack. What it lets through is exactly what Python's json.loads takes
 * from UTF-8 bytes: control characters in strings, other escapes, lone commas, leading zeros and a byte order mark are
 * refused; NaN, Infinity, -Infinity and escaped lone surrogates pass. */

#include "celeryc/base/limits.h"
#include "celeryc/message/json_priv.h"
#include "celeryc/message/utf8_priv.h"

#include <errno.h>

struct scan {
    const char *start, *p, *end;
    const char *bad; /* what is wrong at p, NULL while all is well */
    int code;        /* the error that goes with it */
    size_t depth;
    uint64_t objects[LIMIT_JSON_DEPTH / 64 + 1]; /* bit d: the container at depth d is an object */
    struct json_tape *tape;                      /* NULL: nothing is noted */
    size_t open[JSON_TAPE_DEPTH + 1]; /* the entry of the member being read at each depth */
};

static bool fail(struct scan *s, const char *what)
{
    s->bad = what;
    s->code = -EINVAL;
    return false;
}

static bool is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool scan_escape(struct scan *s)
{
    if (s->end - s->p < 2)
        return fail(s, "unterminated string");
    if (s->p[1] != 'u') {
        if (s->p[1] == '\0' || !strchr("\"\\/bfnrt", s->p[1]))
            return fail(s, "unknown escape");
        s->p += 2;
        return true;
    }
    if (s->end - s->p < 6)
        return fail(s, "unterminated string");
    for (int i = 2; i < 6; i++) {
        if (!is_hex(s->p[i]))
            return fail(s, "bad \\u escape");
    }
    s->p += 6;
    return true;
}

/* p stands on the opening quote; leaves it behind the closing one. */
static bool scan_string(struct scan *s)
{
    s->p++;
    for (;;) {
        uint32_t c;
        size_t n;

        s->p = json_plain_end(s->p, s->end);
        if (s->p == s->end)
            return fail(s, "unterminated string");
        if (*s->p == '"') {
            s->p++;
            return true;
        }
        if (*s->p == '\\') {
            if (!scan_escape(s))
                return false;
            continue;
        }
        if ((unsigned char)*s->p < 0x20)
            return fail(s, "control character in a string");
        n = utf8_decode(s->p, s->end, false, &c);
        if (n == 0)
            return fail(s, "not UTF-8");
        s->p += n;
    }
}

static const char *skip_digits(const char *p, const char *end)
{
    while (p < end && *p >= '0' && *p <= '9')
        p++;
    return p;
}

static bool scan_word(struct scan *s, const char *word, size_t len, enum json_kind kind,
                      enum json_kind *ret_kind)
{
    if ((size_t)(s->end - s->p) < len || memcmp(s->p, word, len) != 0)
        return fail(s, "unexpected character");
    s->p += len;
    *ret_kind = kind;
    return true;
}

static bool scan_number(struct scan *s, enum json_kind *ret_kind)
{
    const char *p = s->p, *digits;
    enum json_kind kind = JSON_K_INT;

    p += *p == '-';
    if (p < s->end && *p == 'I')
        return scan_word(s, "-Infinity", 9, JSON_K_FLOAT, ret_kind);
    digits = p;
    p = skip_digits(p, s->end);
    if (p == digits)
        return fail(s, "unexpected character");
    if (*digits == '0')
        p = digits + 1; /* what follows a leading zero is not part of the number */
    if (s->end - p >= 2 && *p == '.' && p[1] >= '0' && p[1] <= '9') {
        p = skip_digits(p + 1, s->end);
        kind = JSON_K_FLOAT;
    }
    if (s->end - p >= 2 && (*p == 'e' || *p == 'E')) {
        const char *e = p + 1 + (p[1] == '+' || p[1] == '-');

        digits = skip_digits(e, s->end);
        if (digits > e) {
            p = digits;
            kind = JSON_K_FLOAT;
        }
    }
    s->p = p;
    *ret_kind = kind;
    return true;
}

static bool scan_scalar(struct scan *s, enum json_kind *ret_kind)
{
    switch (*s->p) {
    case '"':
        *ret_kind = JSON_K_STRING;
        return scan_string(s);
    case 'n':
        return scan_word(s, "null", 4, JSON_K_NULL, ret_kind);
    case 't':
        return scan_word(s, "true", 4, JSON_K_TRUE, ret_kind);
    case 'f':
        return scan_word(s, "false", 5, JSON_K_FALSE, ret_kind);
    case 'N':
        return scan_word(s, "NaN", 3, JSON_K_FLOAT, ret_kind);
    case 'I':
        return scan_word(s, "Infinity", 8, JSON_K_FLOAT, ret_kind);
    case '-':
    case '0' ... '9':
        return scan_number(s, ret_kind);
    default:
        return fail(s, "unexpected character");
    }
}

/* Behind the colon: a member begins. */
static void note_key(struct scan *s, const char *key, const char *key_end)
{
    struct json_tape *t = s->tape;

    if (!t || s->depth > JSON_TAPE_DEPTH)
        return;
    if (t->len == JSON_TAPE_CAP) {
        t->overflow = true;
        s->tape = NULL;
        return;
    }
    s->open[s->depth] = t->len;
    t->entries[t->len].key = (struct json_val){JSON_K_STRING, {key, (size_t)(key_end - key)}};
    t->entries[t->len].val.raw.p = s->p;
    t->entries[t->len++].depth = s->depth;
}

static bool in_object(const struct scan *s)
{
    return s->objects[s->depth / 64] >> (s->depth % 64) & 1;
}

/* Behind a value: when it is a member, its entry is complete. */
static void note_value(struct scan *s, enum json_kind kind)
{
    struct json_val *v;

    if (!s->tape || s->depth == 0 || s->depth > JSON_TAPE_DEPTH || !in_object(s))
        return;
    v = &s->tape->entries[s->open[s->depth]].val;
    v->kind = kind;
    v->raw.len = (size_t)(s->p - v->raw.p);
}

static bool open_container(struct scan *s)
{
    uint64_t bit;

    if (s->depth == LIMIT_JSON_DEPTH) {
        (void)fail(s, "nested too deep");
        s->code = -E2BIG;
        return false;
    }
    s->depth++;
    bit = UINT64_C(1) << (s->depth % 64);
    if (*s->p == '{')
        s->objects[s->depth / 64] |= bit;
    else
        s->objects[s->depth / 64] &= ~bit;
    s->p++;
    return true;
}

/* A key with its colon; p stands behind white space. */
static bool scan_key(struct scan *s)
{
    const char *key = s->p, *key_end;

    if (s->p == s->end || *s->p != '"')
        return fail(s, s->p == s->end ? "unexpected end" : "expected a key in quotes");
    if (!scan_string(s))
        return false;
    key_end = s->p;
    s->p = json_skip_space(s->p, s->end);
    if (s->p == s->end || *s->p != ':')
        return fail(s, s->p == s->end ? "unexpected end" : "expected ':'");
    s->p = json_skip_space(s->p + 1, s->end);
    note_key(s, key, key_end);
    return true;
}

static void close_container(struct scan *s)
{
    enum json_kind kind = *s->p == '}' ? JSON_K_OBJECT : JSON_K_ARRAY;

    s->p++;
    s->depth--;
    note_value(s, kind);
}

/* Behind a value: takes closing brackets and a comma. Afterwards p stands where the next value begins, or depth is 0
 * and the whole value has been read. */
static bool scan_after_value(struct scan *s)
{
    while (s->depth) {
        s->p = json_skip_space(s->p, s->end);
        if (s->p == s->end)
            return fail(s, "unexpected end");
        if (*s->p == ',') {
            s->p = json_skip_space(s->p + 1, s->end);
            return in_object(s) ? scan_key(s) : true;
        }
        if (*s->p != (in_object(s) ? '}' : ']'))
            return fail(s, "expected ',' or a closing bracket");
        close_container(s);
    }
    return true;
}

/* One value of any kind from p on. */
static bool scan_value(struct scan *s, enum json_kind *ret_kind)
{
    bool outermost = true;

    do {
        enum json_kind kind = JSON_K_NONE;

        if (s->p == s->end)
            return fail(s, "unexpected end");
        if (*s->p == '{' || *s->p == '[') {
            kind = *s->p == '{' ? JSON_K_OBJECT : JSON_K_ARRAY;
            if (!open_container(s))
                return false;
            s->p = json_skip_space(s->p, s->end);
            if (outermost)
                *ret_kind = kind;
            outermost = false;
            if (s->p < s->end && *s->p == (kind == JSON_K_OBJECT ? '}' : ']')) {
                close_container(s);
            } else {
                if (kind == JSON_K_OBJECT && !scan_key(s))
                    return false;
                continue;
            }
        } else {
            if (!scan_scalar(s, &kind))
                return false;
            note_value(s, kind);
            if (outermost)
                *ret_kind = kind;
            outermost = false;
        }
        if (!scan_after_value(s))
            return false;
    } while (s->depth);
    return true;
}

int json_scan_tape(struct slice text, struct json_tape *t, struct json_val *ret_val, struct err *e)
{
    struct scan s; /* not zeroed: its arrays are written before they are read */
    struct json_val v;
    const char *from;

    if (text.len == 0)
        return err_set(e, -EINVAL, "not JSON: empty text");
    s.start = text.p;
    s.end = text.p + text.len;
    s.bad = NULL;
    s.depth = 0;
    s.objects[0] = 0;
    s.tape = t;
    if (t) {
        t->len = 0;
        t->overflow = false;
    }
    from = s.p = json_skip_space(text.p, s.end);
    if (scan_value(&s, &v.kind)) {
        v.raw = (struct slice){from, (size_t)(s.p - from)};
        s.p = json_skip_space(s.p, s.end);
        if (s.p == s.end) {
            *ret_val = v;
            return 0;
        }
        (void)fail(&s, "unexpected text after the value");
    }
    return err_set(e, s.code, "not JSON: %s at byte %zu", s.bad, (size_t)(s.p - s.start));
}

int json_scan(struct slice text, struct json_val *ret_val, struct err *e)
{
    return json_scan_tape(text, NULL, ret_val, e);
}

void json_members_init(struct json_members *m, const struct json_tape *t, struct json_val object)
{
    *m = (struct json_members){.depth = 1};
    if (!t || t->overflow) {
        json_iter_init(&m->it, object);
        return;
    }
    m->tape = t;
    /* Its members begin behind its own entry; the outermost value has no entry. */
    while (m->next < t->len && t->entries[m->next].key.raw.p < object.raw.p)
        m->next++;
    if (m->next)
        m->depth = t->entries[m->next - 1].depth + 1;
    if (object.kind != JSON_K_OBJECT)
        m->next = t->len;
}

bool json_members_next(struct json_members *m)
{
    if (!m->tape) {
        if (!json_next(&m->it))
            return false;
        m->key = m->it.key;
        m->val = m->it.val;
        return true;
    }
    for (; m->next < m->tape->len && m->tape->entries[m->next].depth >= m->depth; m->next++) {
        const struct json_tape_entry *entry = &m->tape->entries[m->next];

        if (entry->depth == m->depth) {
            m->key = entry->key;
            m->val = entry->val;
            m->next++;
            return true;
        }
    }
    return false;
}
