/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Bytes: a borrowed slice and a growing buffer. */

#include "celeryc/base/util.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Borrowed bytes, not NUL-terminated. p may be NULL only when len is 0. */
struct slice {
    const char *p;
    size_t len;
};

#define SLICE_NULL \
    (struct slice) \
    {              \
        NULL, 0    \
    }
#define SLICE_LIT(s)       \
    (struct slice)         \
    {                      \
        (s), sizeof(s) - 1 \
    }

static inline struct slice slice_str(const char *s)
{
    return (struct slice){s, s ? strlen(s) : 0};
}

static inline bool slice_eq(struct slice a, struct slice b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.p, b.p, a.len) == 0);
}

static inline bool slice_eq_str(struct slice a, const char *s)
{
    return slice_eq(a, slice_str(s));
}

bool str_eq(const char *a, const char *b); /* NULL equals only NULL */

/* A growing byte buffer; data is NUL-terminated one past len whenever data is not NULL. An allocation failure is
 * remembered in `failed` and later appends do nothing, so a builder checks once at its end (buf_ok). */
struct buf {
    char *data;
    size_t len;
    size_t cap;
    bool failed;
};

#define BUF_INIT          \
    (struct buf)          \
    {                     \
        NULL, 0, 0, false \
    }

void buf_deinit(struct buf *b);
DEFINE_CLEANUP_VALUE(struct buf, buf_deinit)

void buf_reset(struct buf *b); /* len = 0, failed = false; keeps the memory */
void buf_reserve(struct buf *b, size_t extra);
void buf_append(struct buf *b, const void *p, size_t len);
void buf_append_slice(struct buf *b, struct slice s);
void buf_append_str(struct buf *b, const char *s);
void buf_append_char(struct buf *b, char c);
void buf_append_u32le(struct buf *b, uint32_t v);
void buf_append_u64le(struct buf *b, uint64_t v);
void buf_appendf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
void buf_consume(struct buf *b, size_t len); /* drops len bytes from the front */

/* 0, or -ENOMEM when any append failed. */
int buf_ok(const struct buf *b) WARN_UNUSED;

static inline struct slice buf_slice(const struct buf *b)
{
    return (struct slice){b->data, b->len};
}

/* Gives the bytes to the caller, who frees them with free(3); NUL-terminated. NULL when an append failed. */
char *buf_take(struct buf *b);

/* NUL-terminated copy, freed with free(3). NULL when out of memory. */
char *slice_dup(struct slice s);
