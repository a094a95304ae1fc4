/* SPDX-License-Identifier: Apache-2.0 */
/* The growing byte buffer. Invariants: len < cap whenever data is not NULL, data[len] is 0; once `failed` is set the
 * bytes are meaningless and nothing is appended until buf_reset. */

#include "celeryc/base/buf.h"

#include <errno.h>
#include <stdarg.h>

#define BUF_FIRST_CAP 64

bool str_eq(const char *a, const char *b)
{
    if (!a || !b)
        return a == b;
    return strcmp(a, b) == 0;
}

void buf_deinit(struct buf *b)
{
    if (!b)
        return;
    free(b->data);
    *b = BUF_INIT;
}

void buf_reset(struct buf *b)
{
    b->len = 0;
    b->failed = false;
    if (b->data)
        b->data[0] = '\0';
}

void buf_reserve(struct buf *b, size_t extra)
{
    size_t need, cap;
    char *data;

    if (b->failed)
        return;
    if (__builtin_add_overflow(b->len, extra, &need) || __builtin_add_overflow(need, 1, &need)) {
        b->failed = true;
        return;
    }
    if (need <= b->cap)
        return;
    cap = b->cap ? b->cap : BUF_FIRST_CAP;
    while (cap < need)
        cap = cap > SIZE_MAX / 2 ? need : cap * 2;
    data = realloc(b->data, cap);
    if (!data) {
        b->failed = true;
        return;
    }
    b->data = data;
    b->cap = cap;
    b->data[b->len] = '\0';
}

void buf_append(struct buf *b, const void *p, size_t len)
{
    buf_reserve(b, len);
    if (b->failed)
        return;
    if (len)
        memcpy(b->data + b->len, p, len);
    b->len += len;
    b->data[b->len] = '\0';
}

void buf_append_slice(struct buf *b, struct slice s)
{
    buf_append(b, s.p, s.len);
}

void buf_append_str(struct buf *b, const char *s)
{
    buf_append(b, s, strlen(s));
}

void buf_append_char(struct buf *b, char c)
{
    buf_append(b, &c, 1);
}

void buf_append_u32le(struct buf *b, uint32_t v)
{
    unsigned char bytes[4];

    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (unsigned char)(v >> (8 * i));
    buf_append(b, bytes, sizeof(bytes));
}

void buf_append_u64le(struct buf *b, uint64_t v)
{
    unsigned char bytes[8];

    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (unsigned char)(v >> (8 * i));
    buf_append(b, bytes, sizeof(bytes));
}

void buf_appendf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    int n;

    buf_reserve(b, BUF_FIRST_CAP);
    if (b->failed)
        return;
    va_start(ap, fmt);
    n = vsnprintf(b->data + b->len, b->cap - b->len, fmt, ap);
    va_end(ap);
    if (n < 0) {
        b->failed = true;
        return;
    }
    if ((size_t)n >= b->cap - b->len) {
        buf_reserve(b, (size_t)n);
        if (b->failed)
            return;
        va_start(ap, fmt);
        (void)vsnprintf(b->data + b->len, b->cap - b->len, fmt, ap);
        va_end(ap);
    }
    b->len += (size_t)n;
}

void buf_consume(struct buf *b, size_t len)
{
    ASSERT(len <= b->len);
    if (len == 0)
        return;
    memmove(b->data, b->data + len, b->len - len);
    b->len -= len;
    b->data[b->len] = '\0';
}

int buf_ok(const struct buf *b)
{
    return b->failed ? -ENOMEM : 0;
}

char *buf_take(struct buf *b)
{
    char *data;

    buf_reserve(b, 0); /* an empty buffer gives an empty string */
    if (b->failed) {
        buf_deinit(b);
        return NULL;
    }
    data = b->data;
    *b = BUF_INIT;
    return data;
}

char *slice_dup(struct slice s)
{
    char *p;
    size_t size;

    if (__builtin_add_overflow(s.len, 1, &size))
        return NULL;
    p = malloc(size);
    if (!p)
        return NULL;
    if (s.len)
        memcpy(p, s.p, s.len);
    p[s.len] = '\0';
    return p;
}
