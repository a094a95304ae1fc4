/* SPDX-License-Identifier: Apache-2.0 */
/* Reading plans: the row itself, its batches that wait for a message, its sums, its failures. */

#include "celeryc/db/db_priv.h"

#include <errno.h>

static int no_plan(const char *plan, struct err *e)
{
    return err_set(e, -ENOENT, "there is no plan %s in this database", plan);
}

/* Reads in a transaction of its own, for the settings that come with one. Missing control tables mean no plan. */
static int read_plan(struct db *db, const char *plan, const char *sql, const struct db_val *v,
                     size_t n, struct db_rows *ret_rows, struct err *e)
{
    struct err first = ERR_INIT;
    int r = db->ops->begin(db, 0, e);

    if (r)
        return r;
    r = db_exec(db, sql, v, n, ret_rows, &first);
    db->ops->rollback(db);
    if (r == DB_E_SCHEMA && str_eq(db->sqlstate, "42P01"))
        return no_plan(plan, e);
    return r ? err_set(e, r, "%s", err_text(&first, r)) : 0;
}

static int copy_cells(const struct db_rows *rows, size_t row, size_t first, const char **const *to,
                      size_t n, struct arena *a)
{
    for (size_t i = 0; i < n; i++) {
        struct slice s = db_cell(rows, row, first + i);

        *to[i] = s.p ? arena_strdup(a, s) : NULL;
        if (s.p && !*to[i])
            return -ENOMEM;
    }
    return 0;
}

int db_plan_get(struct db *db, const char *plan, struct arena *a, struct db_plan *ret_p,
                const char **ret_state, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    struct db_plan p = {0};
    const char *state;
    const char **const text[] = {&p.plan,        &p.migration,  &p.table,        &p.key,
                                 &p.store,       &p.queue,      &p.database,     &p.query,
                                 &p.params_json, &p.created_by, &p.columns_json, &p.on_batch,
                                 &p.on_finish,   &p.retry_on,   &state};
    const struct db_val v[] = {db_text(plan)};
    int r =
        read_plan(db, plan,
                  "SELECT plan, migration, table_name, key_column, store, queue, database, query, "
                  "params, created_by, columns, on_batch, on_finish, retry_on, state, total, "
                  "n_batches FROM scatter_plan WHERE plan = $1",
                  v, 1, &rows, e);

    if (r)
        return r;
    if (rows.n_rows == 0)
        return no_plan(plan, e);
    r = copy_cells(&rows, 0, 0, text, ARRAY_SIZE(text), a);
    if (r)
        return r;
    p.total = db_cell_i64(&rows, 0, ARRAY_SIZE(text));
    p.n_batches = db_cell_i64(&rows, 0, ARRAY_SIZE(text) + 1);
    *ret_p = p;
    *ret_state = state;
    return 0;
}

/* NOLINTNEXTLINE(readability-function-size): eight parameters */
int db_batches_planned(struct db *db, const char *plan, int64_t first, size_t max, struct arena *a,
                       struct db_batch_row *rows, size_t *ret_n, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows found = {0};
    const struct db_val v[] = {db_text(plan), db_int(first), db_int((int64_t)max)};
    int r =
        read_plan(db, plan,
                  "SELECT batch, records, source, sha256 FROM scatter_batch WHERE plan = $1 AND "
                  "batch >= $2 AND state = 'planned' AND " DB_OPEN_TO_SEND(
                      "scatter_batch") " ORDER BY batch LIMIT $3",
                  v, ARRAY_SIZE(v), &found, e);

    for (size_t i = 0; !r && i < found.n_rows; i++) {
        const char **const text[] = {&rows[i].source, &rows[i].sha256};

        rows[i].batch = db_cell_i64(&found, i, 0);
        rows[i].count = db_cell_i64(&found, i, 1);
        r = copy_cells(&found, i, 2, text, ARRAY_SIZE(text), a);
    }
    if (!r)
        *ret_n = found.n_rows;
    return r;
}

void db_plan_status_deinit(struct db_plan_status *s)
{
    free(s->state);
    free(s->migration);
    free(s->store);
    free(s->on_finish);
    free(s->queue);
    free(s->reason);
    *s = (struct db_plan_status){0};
}

static int status_row(struct db *db, const char *plan, struct db_plan_status *s, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    const struct db_val v[] = {db_text(plan)};
    int r = read_plan(db, plan,
                      "SELECT p.state, p.migration, p.store, p.on_finish, p.queue, p.total, "
                      "p.n_batches, @created@, @started@, @finished@, p.reason FROM scatter_plan p "
                      "WHERE p.plan = $1",
                      v, 1, &rows, e);
    char **const text[] = {&s->state, &s->migration, &s->store, &s->on_finish, &s->queue};

    if (r)
        return r;
    if (rows.n_rows == 0)
        return no_plan(plan, e);
    for (size_t i = 0; !r && i < ARRAY_SIZE(text); i++)
        r = db_cell_dup(&rows, 0, i, text[i]);
    if (!r)
        r = db_cell_dup(&rows, 0, 10, &s->reason);
    s->total = db_cell_i64(&rows, 0, 5);
    s->n_batches = db_cell_i64(&rows, 0, 6);
    s->created_us = db_cell_i64(&rows, 0, 7);
    s->started_us = db_cell_i64(&rows, 0, 8);
    s->finished_us = db_cell_i64(&rows, 0, 9);
    return r;
}

static int status_sums(struct db *db, const char *plan, struct db_plan_status *s, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    const struct db_val v[] = {db_text(plan)};
    int r = read_plan(db, plan,
                      "SELECT state, count(*), sum(position), sum(unchanged), sum(stale), "
                      "sum(skipped), sum(quarantined) FROM scatter_batch WHERE plan = $1 "
                      "GROUP BY state",
                      v, 1, &rows, e);
    int64_t position = 0;

    if (r)
        return r;
    for (size_t i = 0; i < rows.n_rows; i++) {
        if (db_cell_is(&rows, i, 0, "done"))
            s->batches_done = db_cell_i64(&rows, i, 1);
        else if (db_cell_is(&rows, i, 0, "failed"))
            s->batches_failed = db_cell_i64(&rows, i, 1);
        else if (db_cell_is(&rows, i, 0, "running"))
            s->batches_running = db_cell_i64(&rows, i, 1);
        position += db_cell_i64(&rows, i, 2);
        s->unchanged += db_cell_i64(&rows, i, 3);
        s->stale += db_cell_i64(&rows, i, 4);
        s->skipped += db_cell_i64(&rows, i, 5);
        s->quarantined += db_cell_i64(&rows, i, 6);
    }
    s->ok = position - s->unchanged - s->stale - s->skipped - s->quarantined;
    s->remaining = s->total - position;
    return 0;
}

int db_plan_status(struct db *db, const char *plan, struct db_plan_status *ret_s, struct err *e)
{
    CLEANUP(db_plan_status_deinit) struct db_plan_status s = {0};
    int r = status_row(db, plan, &s, e);

    if (!r)
        r = status_sums(db, plan, &s, e);
    if (r)
        return r;
    *ret_s = s;
    s = (struct db_plan_status){0};
    return 0;
}

/* What failed comes first, so that the cap never hides it behind records that were merely skipped. */
#define FAILURES                                                                                 \
    "SELECT @failures@ FROM (SELECT batch, record_key, outcome, error_class, sqlstate, message " \
    "FROM scatter_outcome WHERE plan = $1 AND (batch = $2 OR CAST($2 AS bigint) = 0) ORDER BY "  \
    "CASE outcome WHEN 'quarantined' THEN 0 WHEN 'stale' THEN 1 ELSE 2 END, batch, position "    \
    "LIMIT $3) f"

static int take_list(const struct db_rows *rows, struct buf *dst)
{
    buf_append_slice(dst, rows->n_rows ? db_cell(rows, 0, 0) : SLICE_LIT("[]"));
    return buf_ok(dst);
}

int db_failures_json(struct db *db, const char *plan, int64_t batch, size_t n, struct buf *dst,
                     struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    const struct db_val v[] = {db_text(plan), db_int(batch), db_int((int64_t)n)};
    int r = read_plan(db, plan, FAILURES, v, ARRAY_SIZE(v), &rows, e);

    return r ? r : take_list(&rows, dst);
}

int db_failures_list(struct db *db, const char *plan, int64_t batch, size_t n, struct buf *dst,
                     struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    const struct db_val v[] = {db_text(plan), db_int(batch), db_int((int64_t)n)};
    int r = db_exec(db, FAILURES, v, ARRAY_SIZE(v), &rows, e);

    return r ? r : take_list(&rows, dst);
}

int db_read(struct db *db, const char *sql, const struct db_val *v, size_t n,
            struct db_rows *ret_rows, struct err *e)
{
    int r = db->ops->begin(db, 0, e);

    if (r)
        return r;
    r = db_exec(db, sql, v, n, ret_rows, e);
    db->ops->rollback(db);
    return r;
}
