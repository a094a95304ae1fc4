/* SPDX-License-Identifier: Apache-2.0 */
/* The allocation hook. A leak or a wild access on the way is the sanitizers' to find. */

#include "nomem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_FAILURES 10000

void *__real_malloc(size_t size);           /* NOLINT(bugprone-reserved-identifier) */
void *__real_calloc(size_t n, size_t size); /* NOLINT(bugprone-reserved-identifier) */
void *__real_realloc(void *p, size_t size); /* NOLINT(bugprone-reserved-identifier) */
void *__wrap_malloc(size_t size);           /* NOLINT(bugprone-reserved-identifier) */
void *__wrap_calloc(size_t n, size_t size); /* NOLINT(bugprone-reserved-identifier) */
void *__wrap_realloc(void *p, size_t size); /* NOLINT(bugprone-reserved-identifier) */

static size_t countdown; /* 0: nothing fails */
static bool failed;

static bool fails(void)
{
    if (countdown == 0 || --countdown)
        return false;
    failed = true;
    return true;
}

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t size)
{
    return fails() ? NULL : __real_realloc(p, size);
}

size_t nomem_sweep(const char *name, int (*step)(void))
{
    for (size_t n = 1; n < MAX_FAILURES; n++) {
        int r;

        countdown = n;
        failed = false;
        r = step();
        countdown = 0;
        if (r == 0 && !failed && n > 1)
            return n - 1;
        if (r != 0 && (r != -ENOMEM || !failed)) {
            (void)fprintf(stderr, "%s: allocation %zu failed, got %d\n", name, n, r);
            exit(1);
        }
        if (!failed) {
            (void)fprintf(stderr, "%s: allocates nothing\n", name);
            exit(1);
        }
    }
    (void)fprintf(stderr, "%s: does not end\n", name);
    exit(1);
}
