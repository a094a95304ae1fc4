/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What create's options say about how a plan is to be run, as columns of its row. The manifest keeps them as one JSON
 * object of texts, {"canary": "1000"}, so that a planner that was killed goes on with what was asked of it first. */

#include "celeryc/db/db.h"
#include "planner/args.h"

#define SETTINGS_MAX 16

struct settings {
    struct db_setting list[SETTINGS_MAX];
    size_t n;
};

/* Are the options well formed? -EINVAL names the mistake. */
int settings_check(const struct args *a, struct err *e) WARN_UNUSED;
/* Percentages are of total, and of the batch size. Texts are the arena's. */
int settings_from_args(struct settings *s, const struct args *a, int64_t total, struct arena *arena,
                       struct err *e) WARN_UNUSED;
int settings_write(const struct settings *s, struct buf *dst) WARN_UNUSED;
/* NULL: none. */
int settings_read(struct settings *s, const char *json, struct arena *arena,
                  struct err *e) WARN_UNUSED;
