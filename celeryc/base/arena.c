/* SPDX-License-Identifier: Apache-2.0 */
/* An arena is a chain of blocks; the newest one is filled front to back. Memory is zeroed when it is handed out, not
 * when a block is made, so that a block kept by arena_reset is as good as new. The first block is part of the arena
 * itself: one allocation serves a typical message. Nothing given out is ever moved or freed before reset or free. */

#include "celeryc/base/arena.h"

#include <stdarg.h>
#include <stdint.h>

#define ARENA_FIRST_SIZE 4000
#define ARENA_BLOCK_SIZE 16000

struct block {
    struct block *next; /* older */
    size_t size, used;
    _Alignas(max_align_t) char data[];
};

struct arena {
    struct block *top;
    size_t used;
    struct block first; /* must be last: its bytes follow */
};

struct arena *arena_new(void)
{
    struct arena *a = malloc(sizeof(*a) + ARENA_FIRST_SIZE);

    if (!a)
        return NULL;
    a->first.next = NULL;
    a->first.size = ARENA_FIRST_SIZE;
    a->first.used = 0;
    a->top = &a->first;
    a->used = 0;
    return a;
}

static void drop_blocks(struct arena *a)
{
    while (a->top != &a->first) {
        struct block *b = a->top;

        a->top = b->next;
        free(b);
    }
}

struct arena *arena_free(struct arena *a)
{
    if (!a)
        return NULL;
    drop_blocks(a);
    free(a);
    return NULL;
}

void arena_reset(struct arena *a)
{
    drop_blocks(a);
    a->first.used = 0;
    a->used = 0;
}

size_t arena_used(const struct arena *a)
{
    return a->used;
}

static bool add_block(struct arena *a, size_t size)
{
    size_t bytes;
    struct block *b;

    size = MAX(size, (size_t)ARENA_BLOCK_SIZE);
    if (__builtin_add_overflow(size, sizeof(*b), &bytes))
        return false;
    b = malloc(bytes);
    if (!b)
        return false;
    b->size = size;
    b->used = 0;
    b->next = a->top;
    a->top = b;
    return true;
}

void *arena_alloc(struct arena *a, size_t size)
{
    const size_t align = _Alignof(max_align_t);
    size_t rounded;
    void *p;

    if (__builtin_add_overflow(size ? size : 1, align - 1, &rounded))
        return NULL;
    rounded &= ~(align - 1);
    if (rounded > a->top->size - a->top->used && !add_block(a, rounded))
        return NULL;
    p = a->top->data + a->top->used;
    a->top->used += rounded;
    a->used += rounded;
    memset(p, 0, size);
    return p;
}

void *arena_alloc_array(struct arena *a, size_t n, size_t size)
{
    size_t bytes;

    if (__builtin_mul_overflow(n, size, &bytes))
        return NULL;
    return arena_alloc(a, bytes);
}

char *arena_strdup(struct arena *a, struct slice s)
{
    size_t size;
    char *p;

    if (__builtin_add_overflow(s.len, 1, &size))
        return NULL;
    p = arena_alloc(a, size);
    if (p && s.len)
        memcpy(p, s.p, s.len);
    return p;
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
    va_list ap;
    char *p;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0)
        return NULL;
    p = arena_alloc(a, (size_t)n + 1);
    if (!p)
        return NULL;
    va_start(ap, fmt);
    (void)vsnprintf(p, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return p;
}
