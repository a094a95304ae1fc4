/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* A list of strings that owns them; v is NULL-terminated whenever it is not NULL. */

#include "celeryc/base/util.h"

#include <stdbool.h>

struct strv {
    char **v;
    size_t n;
};

int strv_add(struct strv *l, const char *s) WARN_UNUSED; /* a copy; 0 or -ENOMEM */
/* Adds the non-empty parts between commas, white space around them dropped. 0 or -ENOMEM. */
int strv_add_commas(struct strv *l, const char *s) WARN_UNUSED;
bool strv_has(const struct strv *l, const char *s);
/* Removes every s. */
void strv_drop(struct strv *l, const char *s);
void strv_deinit(struct strv *l);
DEFINE_CLEANUP_VALUE(struct strv, strv_deinit)

/* The candidate nearest to word (fewest edits), NULL when none is near enough to be what was meant. next(i, arg) gives
 * candidates until NULL. */
const char *strv_nearest(const char *word, const char *(*next)(size_t i, const void *arg),
                         const void *arg);
