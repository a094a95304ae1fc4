/* SPDX-License-Identifier: Apache-2.0 */
/* The plans of a queue, for whoever decides how many workers are worth having. */

#include "celeryc/db/db_priv.h"

#include <errno.h>

static const char plans_sql[] =
    "SELECT CASE WHEN p.state = 'paused' OR coalesce(p.window_ends < @clock@, 1 = 0) OR "
    "coalesce(g.stopped, 1 = 0) THEN 0 ELSE 1 END, coalesce(p.max_workers, 0), "
    "coalesce((SELECT sum(b.records - b.position) FROM scatter_batch b WHERE b.plan = p.plan AND "
    "b.state NOT IN ('done', 'failed', 'cancelled')), 0) "
    "FROM " DB_ORDERS_TABLES " WHERE p.queue = $1 AND p.state IN ('planned', 'queued', 'running', "
    "'draining', 'paused') ORDER BY p.created_at LIMIT 1000";

/* Reads in a transaction of its own, for the settings that come with one. */
static int read_plans(struct db *db, const char *queue, struct db_rows *ret_rows, struct err *e)
{
    const struct db_val v[] = {db_text(queue)};
    struct err first = ERR_INIT;
    int r = db->ops->begin(db, 0, e);

    if (r)
        return r;
    r = db_exec(db, plans_sql, v, ARRAY_SIZE(v), ret_rows, &first);
    db->ops->rollback(db);
    return r ? err_set(e, r, "%s", err_text(&first, r)) : 0;
}

int db_queue_plans(struct db *db, const char *queue, struct db_queue_plan **ret_plans,
                   size_t *ret_n, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    struct db_queue_plan *plans;
    int r = read_plans(db, queue, &rows, e);

    if (r)
        return r;
    plans = calloc(rows.n_rows + 1, sizeof(*plans));
    if (!plans)
        return -ENOMEM;
    for (size_t i = 0; i < rows.n_rows; i++)
        plans[i] = (struct db_queue_plan){.runs = db_cell_i64(&rows, i, 0) != 0,
                                          .max_workers = db_cell_i64(&rows, i, 1),
                                          .remaining = db_cell_i64(&rows, i, 2)};
    *ret_plans = plans;
    *ret_n = rows.n_rows;
    return 0;
}
