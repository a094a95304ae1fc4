/* SPDX-License-Identifier: Apache-2.0 */
/* Encodings of bytes as text. A decoder that refuses its input leaves dst as it was. */

#include "celeryc/base/codec.h"

#include <errno.h>
#include <sys/random.h>

static const char base64_alphabet[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#define XX 0xff
static const unsigned char base64_values[256] = {
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, 62, XX, XX, XX, 63,
    52, 53, 54, 55, 56, 57, 58, 59, 60, 61, XX, XX, XX, XX, XX, XX, XX, 0,  1,  2,  3,  4,  5,  6,
    7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, XX, XX, XX, XX, XX,
    XX, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48,
    49, 50, 51, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,
    XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX, XX,
};

void base64_encode(struct buf *dst, struct slice src)
{
    const unsigned char *p = (const unsigned char *)src.p;
    size_t size, i = 0;
    char *out;

    if (__builtin_mul_overflow(src.len / 3 + 1, 4, &size)) {
        dst->failed = true;
        return;
    }
    buf_reserve(dst, size);
    if (dst->failed)
        return;
    out = dst->data + dst->len;
    for (; src.len - i >= 3; i += 3) {
        uint32_t v = (uint32_t)p[i] << 16 | (uint32_t)p[i + 1] << 8 | p[i + 2];

        *out++ = base64_alphabet[v >> 18];
        *out++ = base64_alphabet[v >> 12 & 63];
        *out++ = base64_alphabet[v >> 6 & 63];
        *out++ = base64_alphabet[v & 63];
    }
    if (i < src.len) {
        bool two = src.len - i == 2;
        uint32_t v = (uint32_t)p[i] << 16 | (two ? (uint32_t)p[i + 1] << 8 : 0);

        *out++ = base64_alphabet[v >> 18];
        *out++ = base64_alphabet[v >> 12 & 63];
        *out++ = two ? base64_alphabet[v >> 6 & 63] : '=';
        *out++ = '=';
    }
    dst->len = (size_t)(out - dst->data);
    *out = '\0';
}

static int decode_strict(unsigned char *out, struct slice src, size_t *ret_len)
{
    const unsigned char *p = (const unsigned char *)src.p;
    const unsigned char *tab = base64_values;
    unsigned char *start = out;
    size_t pad = 0, full;
    unsigned a, b, c, d;

    if (src.len % 4)
        return -EINVAL;
    if (src.len && p[src.len - 1] == '=')
        pad = p[src.len - 2] == '=' ? 2 : 1;
    for (full = pad ? src.len - 4 : src.len; full; full -= 4, p += 4) {
        a = tab[p[0]], b = tab[p[1]], c = tab[p[2]], d = tab[p[3]];
        if ((a | b | c | d) > 63)
            return -EINVAL;
        *out++ = (unsigned char)(a << 2 | b >> 4);
        *out++ = (unsigned char)(b << 4 | c >> 2);
        *out++ = (unsigned char)(c << 6 | d);
    }
    if (pad) {
        a = tab[p[0]], b = tab[p[1]], c = pad == 1 ? tab[p[2]] : 0;
        if ((a | b | c) > 63 || (pad == 2 ? b & 15 : c & 3))
            return -EINVAL;
        *out++ = (unsigned char)(a << 2 | b >> 4);
        if (pad == 1)
            *out++ = (unsigned char)(b << 4 | c >> 2);
    }
    *ret_len = (size_t)(out - start);
    return 0;
}

static int decode_lax(unsigned char *out, struct slice src, size_t *ret_len)
{
    unsigned char *start = out;
    unsigned quad = 0, pads = 0, left = 0;

    for (size_t i = 0; i < src.len; i++) {
        unsigned v = base64_values[(unsigned char)src.p[i]];

        if (src.p[i] == '=') {
            if (quad >= 2 && quad + ++pads >= 4) {
                quad = 0;
                break;
            }
            continue;
        }
        if (v > 63)
            continue;
        pads = 0;
        if (quad)
            *out++ = (unsigned char)(left << (2 * quad) | v >> (6 - 2 * quad));
        left = v;
        quad = (quad + 1) % 4;
    }
    if (quad)
        return -EINVAL;
    *ret_len = (size_t)(out - start);
    return 0;
}

int base64_decode_to(char *dst, struct slice src, bool lax, size_t *ret_len)
{
    unsigned char *out = (unsigned char *)dst;

    return lax ? decode_lax(out, src, ret_len) : decode_strict(out, src, ret_len);
}

int base64_decode(struct buf *dst, struct slice src)
{
    size_t len;

    buf_reserve(dst, BASE64_DECODED_MAX(src.len));
    if (dst->failed)
        return -ENOMEM;
    if (base64_decode_to(dst->data + dst->len, src, false, &len)) {
        dst->data[dst->len] = '\0';
        return -EINVAL;
    }
    dst->len += len;
    dst->data[dst->len] = '\0';
    return 0;
}

static const char hex_digits[] = "0123456789abcdef";

void hex_encode(struct buf *dst, struct slice src)
{
    size_t size;

    if (__builtin_mul_overflow(src.len, 2, &size)) {
        dst->failed = true;
        return;
    }
    buf_reserve(dst, size);
    for (size_t i = 0; i < src.len; i++) {
        unsigned char c = (unsigned char)src.p[i];

        buf_append(dst, (char[]){hex_digits[c >> 4], hex_digits[c & 15]}, 2);
    }
}

void random_bytes(void *dst, size_t len)
{
    char *p = dst;

    while (len) {
        ssize_t n = getrandom(p, len, 0);

        ASSERT(n >= 0 || errno == EINTR);
        n = MAX(n, 0);
        p += n;
        len -= (size_t)n;
    }
}

void uuid4_text(char dst[UUID_TEXT_SIZE])
{
    unsigned char b[16];
    char *out = dst;

    random_bytes(b, sizeof(b));
    b[6] = (unsigned char)((b[6] & 0x0f) | 0x40);
    b[8] = (unsigned char)((b[8] & 0x3f) | 0x80);
    for (size_t i = 0; i < sizeof(b); i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            *out++ = '-';
        *out++ = hex_digits[b[i] >> 4];
        *out++ = hex_digits[b[i] & 15];
    }
    *out = '\0';
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int percent_decode(struct buf *dst, struct slice src)
{
    for (size_t i = 0; i < src.len; i++) {
        int hi = -1, lo = -1;

        if (src.p[i] == '%' && src.len - i > 2) {
            hi = hex_value(src.p[i + 1]);
            lo = hex_value(src.p[i + 2]);
        }
        if (hi >= 0 && lo >= 0) {
            buf_append_char(dst, (char)(hi << 4 | lo));
            i += 2;
        } else {
            buf_append_char(dst, src.p[i]);
        }
    }
    return buf_ok(dst);
}
