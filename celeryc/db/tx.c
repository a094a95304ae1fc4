/* SPDX-License-Identifier: Apache-2.0 */
/* A chunk whose changes come one after the other: BEGIN, fence, then pieces of it, or guard and the migration's own
 * statements, then the checkpoint and COMMIT by db_chunk_apply.
 *
 * The fence is an UPDATE of the batch's row: whoever took the batch over has changed its token, and nobody can take it
 * over while the row is locked. A savepoint stands in front of each piece of a few hundred records, never of each record:
 * what one record of a .row function did is taken back only together with its chunk. */

#include "celeryc/db/db_priv.h"

#include <ctype.h>
#include <strings.h>

int db_tx_begin(struct db *db, const struct db_chunk *c, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    const struct db_val v[] = {db_int(c->lease_ms), db_text(c->plan), db_int(c->batch),
                               db_int(c->token), db_int(c->old_position)};
    int r = db->ops->begin(db, c->lease_ms, e);

    if (r)
        return r;
    r = db_exec(db,
                "UPDATE scatter_batch SET lease_until = @lease@ WHERE plan = $2 AND batch = $3 AND "
                "lease_token = $4 AND position = $5 AND state = 'running'",
                v, ARRAY_SIZE(v), &rows, e);
    if (!r && rows.changed == 1)
        return 0;
    db->ops->rollback(db);
    return r ? r : db_fenced(db, c, e);
}

int db_tx_guard(struct db *db, const struct db_chunk *c, bool *ret_stale, struct err *e)
{
    return db->ops->guard(db, c, ret_stale, e);
}

bool db_tx_has_pieces(const struct db *db)
{
    return db->ops->write != NULL;
}

int db_tx_write(struct db *db, struct db_pieces *p, struct err *e)
{
    return db->ops->write(db, p, e);
}

int db_refusal_tell(struct db *db, const struct db_refusal *f, struct err *e)
{
    *e = ERR_INIT;
    return err_set(e, db_fail(db, f->sqlstate), "%s", f->text);
}

static const char *skip_comments(const char *sql)
{
    for (;;) {
        const char *end;

        while (isspace((unsigned char)*sql) || *sql == ';')
            sql++;
        if (strncmp(sql, "--", 2) == 0)
            end = strchr(sql, '\n');
        else if (strncmp(sql, "/*", 2) == 0)
            end = strstr(sql + 2, "*/");
        else
            return sql;
        if (!end)
            return sql + strlen(sql);
        sql = end + (*end == '*' ? 2 : 1);
    }
}

static bool begins_with(const char *sql, const char *const *words)
{
    sql = skip_comments(sql);
    for (; *words; words++) {
        size_t n = strlen(*words);

        if (strncasecmp(sql, *words, n) == 0 && !isalnum((unsigned char)sql[n]) && sql[n] != '_')
            return true;
    }
    return false;
}

bool db_tx_only_reads(const char *sql)
{
    static const char *const words[] = {"SELECT",  "VALUES", "TABLE", "SHOW",
                                        "EXPLAIN", "PRAGMA", NULL};

    return begins_with(sql, words);
}

static bool ends_transaction(const char *sql)
{
    static const char *const words[] = {"BEGIN", "START",     "COMMIT",  "END",     "ROLLBACK",
                                        "ABORT", "SAVEPOINT", "RELEASE", "PREPARE", NULL};

    return begins_with(sql, words);
}

int db_tx_run(struct db *db, const char *sql, const struct slice *values, size_t n,
              struct db_rows *ret_rows, struct err *e)
{
    struct db_val v[LIMIT_COLUMNS];

    if (ends_transaction(sql))
        return err_set(e, db_fail(db, "0A000"),
                       "a migration's statements run inside of the chunk's transaction, which they "
                       "must not begin, end or divide: %.40s",
                       sql);
    if (n > ARRAY_SIZE(v))
        return err_set(e, db_fail(db, "54023"), "more than %zu parameters", ARRAY_SIZE(v));
    for (size_t i = 0; i < n; i++)
        v[i] = db_slice(values[i]);
    return db->ops->exec(db, sql, v, n, ret_rows, e);
}

int db_compute(struct db *db, const struct db_compute *q, struct err *e)
{
    return db->ops->compute(db, q, e);
}

void db_tx_rollback(struct db *db)
{
    db->ops->rollback(db);
}
