/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* A hash map from byte strings to pointers; keys are copied, values are borrowed. */

#include "celeryc/base/buf.h"

struct map;

struct map *map_new(void);
struct map *map_free(struct map *m);
DEFINE_CLEANUP(struct map, map_free)

int map_set(struct map *m, struct slice key, void *value) WARN_UNUSED; /* 0 or -ENOMEM; replaces */
void *map_get(const struct map *m, struct slice key);                  /* NULL when absent */
void *map_remove(struct map *m, struct slice key); /* the value that was there, or NULL */
size_t map_len(const struct map *m);

/* Calls fn for every entry; fn must not change the map. Stops at the first non-zero return and gives it. */
int map_each(const struct map *m, int (*fn)(struct slice key, void *value, void *arg), void *arg);
