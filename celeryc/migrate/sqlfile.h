/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* A migration that is a file of SQL: comments that say what it reads and writes, and one SELECT over its old values.
 *
 *     -- table: parcel
 *     -- key: id
 *     -- reads: phone
 *     -- writes: phone
 *     SELECT id, '+84' || substr(phone, 2) AS phone FROM old WHERE phone LIKE '0%'
 *
 * `old` has the key's columns and those that are read, with their planned values. The SELECT gives the key and the new
 * values; records that it does not give are unchanged. Behind a line "-- check:" there may be another SELECT over the old
 * values, of those records that were done: the key and the `reason` of each that is not as it should be now; and behind
 * "-- undo:" one that gives the key and what an undo writes into the written columns, instead of the old values. */

#include "celeryc/base/arena.h"
#include "celeryc/base/err.h"

#include <celeryc/migration.h>

#define MIGRATE_SQL "scatter.sql" /* the task of all of them */

struct sql_file {
    struct scatter_migration m;
    const char *body;  /* the SELECT */
    const char *check; /* the one behind "-- check:"; NULL */
    const char *undo;  /* the one behind "-- undo:"; NULL */
};

/* Everything of ret_f is the arena's. 0; -EINVAL with what is wrong; -ENOMEM. */
int sql_file_parse(struct slice text, struct arena *a, struct sql_file *ret_f,
                   struct err *e) WARN_UNUSED;
