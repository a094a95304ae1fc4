/* SPDX-License-Identifier: Apache-2.0 */
/* Chunks that are rolled back. The control rows that a chunk needs, and the control tables where there are none, are made
 * in the same transaction. */

#include "celeryc/db/rehearse.h"

#include "celeryc/db/db_priv.h"

#include <errno.h>

#define PLAN     "scatter-preflight"
#define LEASE_MS 60000
#define RECORDS  1000000 /* more than a chunk may have */

int db_rehearsal_rows(struct db *db, struct err *e)
{
    const struct db_val plan[] = {db_text(PLAN)};
    const struct db_val batch[] = {db_text(PLAN), db_int(RECORDS)};
    int r = db_exec(db,
                    "INSERT INTO scatter_plan (plan, migration, table_name, key_column, store, "
                    "queue, database, total, n_batches, state) VALUES ($1, '', '', '', '', '', '', "
                    "0, 1, 'running')",
                    plan, 1, NULL, e);

    if (!r)
        r = db_exec(db,
                    "INSERT INTO scatter_batch (plan, batch, source, sha256, records, state, "
                    "lease_token) VALUES ($1, 1, '', '', $2, 'running', 1)",
                    batch, 2, NULL, e);
    return r;
}

static struct db_chunk chunk_of(const struct db_target *t, const struct db_row *rows, size_t n)
{
    return (struct db_chunk){.plan = PLAN,
                             .batch = 1,
                             .token = 1,
                             .new_position = (int64_t)n,
                             .target = t,
                             .rows = rows,
                             .n_rows = n,
                             .lease_ms = LEASE_MS,
                             .worker = PLAN};
}

int db_rehearse(struct db *db, const struct db_target *t, const struct db_row *rows, size_t n,
                struct db_rehearsal *ret_x, struct err *e)
{
    const struct db_chunk c = chunk_of(t, rows, n);

    return db->ops->rehearse(db, &c, ret_x, NULL, e);
}

void db_rehearsal_end(struct db *db)
{
    db->ops->rollback(db);
}

int db_explain_chunk(struct db *db, const struct db_target *t, const struct db_row *rows, size_t n,
                     struct buf *dst, struct err *e)
{
    const struct db_chunk c = chunk_of(t, rows, n);
    struct db_rehearsal unused;

    return db->ops->rehearse(db, &c, &unused, dst, e);
}

int db_rehearsal_begin(struct db *db, struct err *e)
{
    return db->ops->rehearsal_begin(db, LEASE_MS, e);
}

int db_rehearsal_back(struct db *db, struct err *e)
{
    return db->ops->rehearsal_back(db, e);
}

int db_rehearsal_meter(struct db *db, const char *table, struct db_meter *ret_m, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    CLEANUP(buf_deinit) struct buf quoted = BUF_INIT;

    *ret_m = (struct db_meter){0};
    if (db_is_sqlite(db))
        return 0;
    db_quote_table(&quoted, table);
    if (buf_ok(&quoted))
        return -ENOMEM;
    int r = db_exec(db,
                    "SELECT pg_stat_get_xact_tuples_updated(t.oid), "
                    "pg_stat_get_xact_tuples_hot_updated(t.oid), "
                    "pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint "
                    "FROM (SELECT to_regclass($1)::oid) AS t (oid)",
                    (struct db_val[]){db_text(quoted.data)}, 1, &rows, e);

    if (!r)
        *ret_m = (struct db_meter){db_cell_i64(&rows, 0, 0), db_cell_i64(&rows, 0, 1),
                                   db_cell_i64(&rows, 0, 2)};
    return r;
}

double db_meter_hot(const struct db_meter *before, const struct db_meter *after)
{
    double updated = (double)(after->updated - before->updated);

    return updated > 0 ? (double)(after->hot - before->hot) / updated : -1;
}

int db_rehearsal_guard(struct db *db, const struct db_target *t, const struct db_row *rows,
                       size_t n, bool *ret_stale, struct err *e)
{
    const struct db_chunk c = chunk_of(t, rows, n);

    return db_tx_guard(db, &c, ret_stale, e);
}
