/* SPDX-License-Identifier: Apache-2.0 */
/* What pauses a plan by itself: more records set aside than it allows, batches that fail one after the other, the end of
 * its canary. Asked only after something was set aside or a batch has ended. Everything is kept: a paused plan goes on
 * where it stood. */

#include "celeryc/db/db_priv.h"

#include <errno.h>

#define FAILED_BATCHES 3 /* in a row */
#define WORKING \
    (DB_PLAN_MASK(DB_PLAN_QUEUED) | DB_PLAN_MASK(DB_PLAN_RUNNING) | DB_PLAN_MASK(DB_PLAN_DRAINING))

static int pause_plan(struct db *db, const char *plan, const char *who, const char *reason,
                      bool *ret_paused, struct err *e)
{
    const struct db_plan_move m = {
        .plan = plan, .to = DB_PLAN_PAUSED, .from = WORKING, .who = who, .reason = reason};

    return db_plan_move(db, &m, ret_paused, e);
}

/* The plan's row is locked first, so that its count is of everything that is committed. */
static int over_limit(struct db *db, const char *plan, int64_t batch, char reason[static 160],
                      struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows limits = {0}, counts = {0};
    const struct db_val v[] = {db_text(plan), db_int(batch)};
    int r = db_exec(db,
                    "SELECT p.max_quarantined, p.max_quarantined_batch FROM scatter_plan p "
                    "WHERE p.plan = $1 @lock_p@",
                    v, 1, &limits, e);

    if (r || limits.n_rows == 0)
        return r;
    struct slice plan_limit = db_cell(&limits, 0, 0), batch_limit = db_cell(&limits, 0, 1);

    if (!plan_limit.p && !batch_limit.p)
        return 0;
    r = db_exec(db,
                "SELECT coalesce(sum(quarantined), 0), coalesce(sum(CASE WHEN batch = $2 THEN "
                "quarantined ELSE 0 END), 0) FROM scatter_batch WHERE plan = $1",
                v, 2, &counts, e);
    if (r)
        return r;
    if (plan_limit.p && db_cell_i64(&counts, 0, 0) > db_cell_i64(&limits, 0, 0))
        (void)snprintf(reason, 160, "quarantine: %lld records were set aside, %lld are allowed",
                       (long long)db_cell_i64(&counts, 0, 0),
                       (long long)db_cell_i64(&limits, 0, 0));
    else if (batch_limit.p && db_cell_i64(&counts, 0, 1) > db_cell_i64(&limits, 0, 1))
        (void)snprintf(reason, 160,
                       "quarantine: %lld records of batch %lld were set aside, %lld are allowed",
                       (long long)db_cell_i64(&counts, 0, 1), (long long)batch,
                       (long long)db_cell_i64(&limits, 0, 1));
    return 0;
}

int db_plan_check_limits(struct db *db, const char *plan, int64_t batch, const char *who,
                         bool *ret_paused, struct err *e)
{
    char reason[160] = "";
    bool paused = false;
    int r = db->ops->begin(db, 0, e);

    if (r)
        return r;
    r = over_limit(db, plan, batch, reason, e);
    if (!r && reason[0])
        r = pause_plan(db, plan, who, reason, &paused, e);
    r = db_end(db, r, e);
    if (!r)
        *ret_paused = paused || reason[0];
    return r;
}

int db_check_failed_batches(struct db *db, const char *plan, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    CLEANUP(buf_deinit) struct buf reason = BUF_INIT;
    const struct db_val v[] = {db_text(plan), db_int(FAILED_BATCHES)};
    bool paused;
    int r = db_exec(db,
                    "SELECT state, error FROM scatter_batch WHERE plan = $1 AND state IN ('done', "
                    "'failed') AND finished_at IS NOT NULL ORDER BY finished_at DESC, batch DESC "
                    "LIMIT $2",
                    v, ARRAY_SIZE(v), &rows, e);

    if (r || rows.n_rows < FAILED_BATCHES)
        return r;
    for (size_t i = 0; i < rows.n_rows; i++)
        if (!db_cell_is(&rows, i, 0, "failed"))
            return 0;
    struct slice error = db_cell(&rows, 0, 1);

    buf_appendf(&reason, "breaker: %d batches have failed in a row, the last by %.200s",
                FAILED_BATCHES, error.p ? error.p : "an unknown error");
    if (buf_ok(&reason))
        return -ENOMEM;
    db_mend_text(reason.data);
    return pause_plan(db, plan, "", reason.data, &paused, e);
}

int db_check_canary(struct db *db, const char *plan, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    const struct db_val v[] = {db_text(plan)};
    bool paused;
    int r = db_exec(db,
                    "SELECT 1 FROM scatter_plan p WHERE p.plan = $1 AND p.canary IS NOT NULL AND "
                    "p.canary_at IS NULL AND p.canary <= (SELECT coalesce(sum(b.records), 0) FROM "
                    "scatter_batch b WHERE b.plan = p.plan AND b.state IN ('done', 'failed'))",
                    v, 1, &rows, e);

    if (r || rows.n_rows == 0)
        return r;
    r = db_exec(db, "UPDATE scatter_plan SET canary_at = @now@ WHERE plan = $1", v, 1, NULL, e);
    return r ? r : pause_plan(db, plan, "", "canary", &paused, e);
}
