/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* UTF-8, one character at a time, for the JSON scanner and writers. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool utf8_is_tail(char c)
{
    return ((unsigned char)c & 0xc0) == 0x80;
}

/* The character at p (p < end) and its length in bytes; 0 when the bytes are not UTF-8. Surrogates (three bytes, as
 * WTF-8 writes them) are given like any other character when wtf8 is set and are no UTF-8 otherwise. */
static inline size_t utf8_decode(const char *p, const char *end, bool wtf8, uint32_t *ret_char)
{
    unsigned char lead = (unsigned char)*p;
    uint32_t c;
    size_t n;

    if (lead < 0x80) {
        *ret_char = lead;
        return 1;
    }
    if (lead < 0xc2 || lead > 0xf4)
        return 0;
    n = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    if ((size_t)(end - p) < n)
        return 0;
    c = lead & (0x7fU >> n);
    for (size_t i = 1; i < n; i++) {
        if (!utf8_is_tail(p[i]))
            return 0;
        c = c << 6 | ((unsigned char)p[i] & 0x3f);
    }
    if ((n == 3 && c < 0x800) || (n == 4 && (c < 0x10000 || c > 0x10ffff)))
        return 0;
    if (!wtf8 && c >= 0xd800 && c <= 0xdfff)
        return 0;
    *ret_char = c;
    return n;
}

/* Writes at most 4 bytes. Surrogates come out as three bytes. */
static inline size_t utf8_encode(uint32_t c, char *dst)
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
