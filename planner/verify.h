/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Inside verify: keys that were found, and the migration's own check of what was done. */

#include "planner/child.h"

#include "celeryc/migrate/runtime.h"

#define SHOWN 20 /* keys in a result */

struct finding {
    int64_t n;
    size_t n_keys;
    char *keys[SHOWN], *reasons[SHOWN]; /* reasons: of the check function alone */
};

void finding_deinit(struct finding *f);
int finding_add(struct finding *f, struct slice key, const char *reason) WARN_UNUSED;
/* Appends , "NAME": n, "NAME_keys": [...] */
void finding_write(struct buf *b, const char *name, const struct finding *f);

/* The check function of a migration in C, or the SELECT behind "-- check:" of a file of SQL. */
struct checker;

/* *ret_c NULL: the migration has none. */
int checker_new(const struct parent *p, const char *database_url, struct checker **ret_c,
                struct err *e) WARN_UNUSED;
struct checker *checker_free(struct checker *c);
DEFINE_CLEANUP(struct checker, checker_free)

/* A record that was done, from a batch file with that header. */
int checker_add(struct checker *c, const struct batch_header *h, int64_t position,
                const struct batch_record *record, struct err *e) WARN_UNUSED;
/* Asks for those that wait: at the end of each file, and at the end. */
int checker_flush(struct checker *c, struct err *e) WARN_UNUSED;
bool checker_holds(const struct checker *c);
/* {"checked": n, "of": n, "gone": n, "failed": n, "failed_keys": [...], "reasons": [...]}; c NULL: null. */
void checker_write(struct buf *b, const struct checker *c, int64_t of);
void checker_text(struct buf *b, const struct checker *c, int64_t of);
