/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What the JSON files of this folder share: fast loops over bytes and the decoding of escapes. */

#include "celeryc/message/json.h"

#include <stdint.h>
#include <string.h>

static inline bool json_is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static inline const char *json_skip_space(const char *p, const char *end)
{
    while (p < end && json_is_space(*p))
        p++;
    return p;
}

#define JSON_ONES  UINT64_C(0x0101010101010101)
#define JSON_HIGHS UINT64_C(0x8080808080808080)

/* Eight bytes at once: the high bit of every byte that equals c (and perhaps of bytes above such a byte). */
static inline uint64_t json_bytes_equal(uint64_t word, unsigned char c)
{
    uint64_t x = word ^ (JSON_ONES * c);

    return (x - JSON_ONES) & ~x & JSON_HIGHS;
}

/* The first byte of [p, end) that needs a look in a string that is being validated: a quote, a backslash, a control
 * character or a byte of a longer UTF-8 character. */
static inline const char *json_plain_end(const char *p, const char *end)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    for (; end - p >= 8; p += 8) {
        uint64_t word, hit;

        memcpy(&word, p, sizeof(word));
        hit = json_bytes_equal(word, '"') | json_bytes_equal(word, '\\') |
              (((word - JSON_ONES * 0x20) & ~word) & JSON_HIGHS) | (word & JSON_HIGHS);
        if (hit)
            return p + (__builtin_ctzll(hit) >> 3);
    }
#endif
    while (p < end && *p != '"' && *p != '\\' && (unsigned char)*p >= 0x20 &&
           (unsigned char)*p < 0x80)
        p++;
    return p;
}

/* The first quote or backslash of [p, end), in text that has been validated. */
static inline const char *json_string_end(const char *p, const char *end)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    for (; end - p >= 8; p += 8) {
        uint64_t word, hit;

        memcpy(&word, p, sizeof(word));
        hit = json_bytes_equal(word, '"') | json_bytes_equal(word, '\\');
        if (hit)
            return p + (__builtin_ctzll(hit) >> 3);
    }
#endif
    while (p < end && *p != '"' && *p != '\\')
        p++;
    return p;
}

/* The text between the quotes. v must be a string. */
static inline struct slice json_inside(struct json_val v)
{
    return (struct slice){v.raw.p + 1, v.raw.len - 2};
}

static inline bool json_has_escape(struct slice inside)
{
    const char *p = inside.p, *end = p + inside.len;

    for (; end - p >= 8; p += 8) {
        uint64_t word;

        memcpy(&word, p, sizeof(word));
        if (json_bytes_equal(word, '\\'))
            return true;
    }
    while (p < end && *p != '\\')
        p++;
    return p < end;
}

/* One character of a string's inside at *pos (validated text, *pos < inside.len): an escape, a surrogate pair of
 * escapes, or a UTF-8 character. Moves *pos behind it. */
uint32_t json_next_char(struct slice inside, size_t *pos);

/* The same for a key with escapes; json_key_is is what callers use. */
bool json_key_is_slow(struct slice inside, struct slice name);

/* Compares a key as it stands in the text with a decoded name; an escape is longer than what it stands for. */
static inline bool json_key_is(struct json_val key, struct slice name)
{
    struct slice inside = json_inside(key);

    if (inside.len == name.len)
        return memcmp(inside.p, name.p, name.len) == 0 && !json_has_escape(inside);
    return inside.len > name.len && json_has_escape(inside) && json_key_is_slow(inside, name);
}

/* A scan that also notes the members it passes, so that the hot path need not walk the text again. Noted are members
 * of objects down to JSON_TAPE_DEPTH, in the order of the text; a member's own members follow it with depth + 1. */
#define JSON_TAPE_DEPTH 3
#define JSON_TAPE_CAP   80

struct json_tape {
    size_t len;
    bool overflow; /* more members than there is room for: walk the text instead */

    struct json_tape_entry {
        struct json_val key, val;
        size_t depth;
    } entries[JSON_TAPE_CAP];
};

/* As json_scan. */
int json_scan_tape(struct slice text, struct json_tape *t, struct json_val *ret_val,
                   struct err *e) WARN_UNUSED;

/* Walks the members of an object from the tape or, after an overflow, from the text. */
struct json_members {
    const struct json_tape *tape; /* NULL: from the text */
    size_t next, depth;
    struct json_iter it;
    struct json_val key, val;
};

/* object: a value that the tape notes, or its outermost value. */
void json_members_init(struct json_members *m, const struct json_tape *t, struct json_val object);
bool json_members_next(struct json_members *m);

/* Writes the shortest decimal text of v that reads back as v, in the layout of Python's repr; no NaN, no infinity. */
#define JSON_F64_SIZE 40
size_t json_format_f64(double v, char dst[JSON_F64_SIZE]);
