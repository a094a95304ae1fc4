/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Small language helpers: scope-owned locals, assertions that stay on, array sizes. */

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#define WARN_UNUSED          __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, va) __attribute__((format(printf, fmt, va)))
#define PACKED               __attribute__((packed))

/* A local that owns: CLEANUP(x_free) struct x *x = NULL;  x_free must be declared by DEFINE_CLEANUP. */
#define CLEANUP(fn) __attribute__((cleanup(fn##_cleanup)))

/* For a destructor `type *fn(type *)` that takes NULL and returns NULL. */
#define DEFINE_CLEANUP(type, fn)                                                       \
    static inline void fn##_cleanup(type **p) /* NOLINT(bugprone-macro-parentheses) */ \
    {                                                                                  \
        *p = fn(*p);                                                                   \
    }

/* For a value with `void fn(type *)`: CLEANUP(buf_deinit) struct buf b = BUF_INIT; */
#define DEFINE_CLEANUP_VALUE(type, fn)                                                \
    static inline void fn##_cleanup(type *p) /* NOLINT(bugprone-macro-parentheses) */ \
    {                                                                                 \
        fn(p);                                                                        \
    }

static inline void *mem_free(void *p)
{
    free(p);
    return NULL;
}

static inline void mem_free_cleanup(void *p)
{
    free(*(void **)p);
}

/* Gives a pointer away: the local becomes NULL and its cleanup does nothing. */
#define STEAL(p)                    \
    __extension__({                 \
        __typeof__(p) steal_ = (p); \
        (p) = NULL;                 \
        steal_;                     \
    })

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)     ((a) < (b) ? (a) : (b))
#define MAX(a, b)     ((a) > (b) ? (a) : (b))

#define CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* For our own mistakes only, never for bytes that came from outside; stays on in release builds. */
#define ASSERT(cond)                                                                           \
    do {                                                                                       \
        if (!(cond)) {                                                                         \
            (void)fprintf(stderr, "%s:%d: assertion failed: %s\n", __FILE__, __LINE__, #cond); \
            abort();                                                                           \
        }                                                                                      \
    } while (0)
