/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* A plan's answers to failures: entries of --on-error, then --retry-on, then what the migration says, then the defaults of
 * db_default_action.
 *
 * The plan's row holds them as a JSON object in the order in which they were given, {"23505": "skip", "ValueError":
 * "retry:5"}; the first that matches counts. A name is a SQLSTATE, its first two letters, or an exception's class or one
 * above it. */

#include "celeryc/db/db.h"

#define POLICY_MAX_ATTEMPTS 20 /* at one record or place of a batch; retry:N names another number */

struct policy {
    const char *on_error; /* JSON; NULL */
    const char *retry_on; /* comma-separated; NULL */
    const char *own;      /* the migration's own .retry_on, "ConnectionError:5,55P03"; NULL */
};

struct policy_answer {
    enum db_action action;
    int64_t max_attempts; /* of DB_ACT_RETRY: then the record is set aside, or the batch failed */
};

/* sqlstate "" for what the migration itself raised. A broken connection is never answered with quarantine or skip: nobody
 * knows what the database has done. */
struct policy_answer policy_ask(const struct policy *p, const char *error_class,
                                const char *sqlstate);

/* Appends the JSON for "23505=skip,ValueError=retry:5". -EINVAL with the mistake and the words that there are. */
int policy_parse(const char *text, struct buf *dst, struct err *e) WARN_UNUSED;
