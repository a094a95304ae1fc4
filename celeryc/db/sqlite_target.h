/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Inside db/, SQLite only: statements on a target table. */

#include "celeryc/base/limits.h"
#include "celeryc/db/sqlite.h"

enum column_kind { COLUMN_OTHER, COLUMN_TEXT, COLUMN_BOOL, COLUMN_BLOB };

/* How the columns keep their values. */
struct sqlite_target {
    enum column_kind *reads, *writes;
    struct key key;
    enum column_kind key_kind[LIMIT_KEY_COLUMNS];
};

/* A statement on the table. */
struct sqlite_update {
    struct sqlite *q;
    const struct db_target *t;
    struct sqlite_target kinds;
    sqlite3_stmt *stmt;
    const bool *set; /* the columns that stmt writes; NULL all */
    bool *set_copy;
    struct arena *arena; /* of the chunk */
};

int sqlite_resolve(struct db *db, const struct db_target *t, struct arena *a,
                   struct sqlite_target *ret_t, struct err *e) WARN_UNUSED;

/* A column in text form, as a stream gives it. A name behind a table's is never taken for a text, as SQLite takes a lone
 * "name" that it does not know. */
void sqlite_append_text_form(struct buf *dst, const char *table, struct slice name);

/* 1 and 0 for a boolean's true and false. */
struct slice sqlite_stored_form(struct slice s, enum column_kind kind);
/* An integer key is bound as one, so that a column without a type finds it too; text stays text ("007" is no 7). */
struct db_val sqlite_key_value(struct slice s, enum column_kind kind);
int sqlite_bind_text(struct sqlite_update *u, int at, struct slice s, struct err *e);
/* A value as the column stores it: a blob's bytes, 1 and 0 for true and false, else its text. */
int sqlite_bind_stored(struct sqlite_update *u, int at, struct slice s, enum column_kind kind,
                       struct err *e);
