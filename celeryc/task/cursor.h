/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Reading the small binary forms (task table, outcome, pool frames): little endian, a u32 length before every text.
 * A read past the end gives zero or an empty slice and sets `bad`, so that a reader checks once at its end. */

#include "celeryc/base/buf.h"

struct cursor {
    const unsigned char *p;
    size_t left;
    bool bad;
};

static inline struct cursor cursor_init(struct slice s)
{
    return (struct cursor){(const unsigned char *)s.p, s.len, false};
}

static inline const unsigned char *cursor_take(struct cursor *c, size_t n)
{
    if (c->bad || c->left < n) {
        c->bad = true;
        return NULL;
    }
    const unsigned char *p = c->p;
    c->p += n;
    c->left -= n;
    return p;
}

static inline uint8_t cursor_u8(struct cursor *c)
{
    const unsigned char *p = cursor_take(c, 1);
    return p ? p[0] : 0;
}

static inline uint32_t cursor_u32(struct cursor *c)
{
    const unsigned char *p = cursor_take(c, 4);
    if (!p)
        return 0;
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t cursor_u64(struct cursor *c)
{
    uint64_t low = cursor_u32(c);
    return low | (uint64_t)cursor_u32(c) << 32;
}

static inline double cursor_f64(struct cursor *c)
{
    uint64_t bits = cursor_u64(c);
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

/* p is NULL when the writer's was. */
static inline struct slice cursor_slice(struct cursor *c)
{
    uint32_t len = cursor_u32(c);
    if (len == UINT32_MAX)
        return SLICE_NULL;
    const unsigned char *p = cursor_take(c, len);
    return p ? (struct slice){(const char *)p, len} : SLICE_NULL;
}

/* What is left, as it stands. */
static inline struct slice cursor_rest(struct cursor *c)
{
    size_t left = c->left;
    const unsigned char *p = cursor_take(c, left);
    return p ? (struct slice){(const char *)p, left} : SLICE_NULL;
}

static inline void cursor_put_f64(struct buf *dst, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    buf_append_u64le(dst, bits);
}

/* Texts are far below 4 GiB (LIMIT_FRAME_BYTES); a longer one fails the buffer. */
static inline void cursor_put_slice(struct buf *dst, struct slice s)
{
    if (s.len >= UINT32_MAX) {
        dst->failed = true;
        return;
    }
    buf_append_u32le(dst, s.p ? (uint32_t)s.len : UINT32_MAX);
    if (s.p)
        buf_append_slice(dst, s);
}
