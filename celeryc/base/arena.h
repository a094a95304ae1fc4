/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* One arena per message: what is parsed from a message lives here and dies with it. */

#include "celeryc/base/buf.h"
#include "celeryc/base/util.h"

struct arena;

struct arena *arena_new(void); /* NULL when out of memory */
struct arena *arena_free(struct arena *a);
DEFINE_CLEANUP(struct arena, arena_free)

/* Zeroed memory aligned for any type; NULL when out of memory. size 0 gives a valid pointer. */
void *arena_alloc(struct arena *a, size_t size);
void *arena_alloc_array(struct arena *a, size_t n, size_t size); /* NULL on overflow as well */
char *arena_strdup(struct arena *a, struct slice s);             /* NUL-terminated copy */
char *arena_printf(struct arena *a, const char *fmt, ...) PRINTF_LIKE(2, 3);
void arena_reset(struct arena *a); /* forgets everything, keeps one block */
size_t arena_used(const struct arena *a);
