/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What a plan would do, found out by its dry run: every record goes through the migration, a sample of them through the
 * real statement in a transaction that is rolled back. */

#include "celeryc/db/db.h"
#include "planner/request.h"

struct preflight;

/* Another connection than the one that the records come from. The new values of records from standard input are taken
 * from their "+outcome" columns when they have them (see docs of --stdin), else from the plug-in's migration. */
int preflight_new(const struct request *r, struct db *db, struct preflight **ret_p,
                  struct err *e) WARN_UNUSED;
struct preflight *preflight_free(struct preflight *p);
DEFINE_CLEANUP(struct preflight, preflight_free)

/* The names of a row's values. */
int preflight_columns(struct preflight *p, const char *const *names, size_t n) WARN_UNUSED;
/* One record: key and columns, and the row that they come from. */
int preflight_record(struct preflight *p, const struct slice *fields, const struct slice *values,
                     struct err *e) WARN_UNUSED;

/* What the migration took, where the sender of standard input called it. */
struct stdin_source;
void preflight_took(struct preflight *p, const struct stdin_source *s);

/* Asks the database, and appends the answers as members of a JSON object and as text. *ret_blocked: the plan would not
 * end well. */
int preflight_finish(struct preflight *p, struct buf *json, struct buf *text, bool *ret_blocked,
                     struct err *e) WARN_UNUSED;
