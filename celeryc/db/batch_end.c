/* SPDX-License-Identifier: Apache-2.0 */
/* The end of a batch: done, or given back; and with the last batch the end of its plan. */

#include "celeryc/db/db_priv.h"

#include <errno.h>

/* The plan ends with its last open batch. Its row is locked first, so that of two last batches exactly one sees it. A plan
 * whose numbers do not add up is never called finished. */
static int end_plan(struct db *db, const char *plan, bool *ret_finished, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0}, left = {0};
    const struct db_val v[] = {db_text(plan)};
    int r = db_exec(db, "SELECT p.n_batches FROM scatter_plan p WHERE p.plan = $1 @lock_p@", v, 1,
                    &rows, e);

    if (!r)
        r = db_exec(
            db,
            "SELECT count(*), coalesce(sum(CASE WHEN state = 'failed' THEN 1 ELSE 0 END), 0) "
            "FROM scatter_batch WHERE plan = $1 AND state IN ('done', 'failed', 'cancelled')",
            v, 1, &left, e);
    if (r)
        return r;
    if (rows.n_rows == 0 || db_cell_i64(&left, 0, 0) < db_cell_i64(&rows, 0, 0))
        return 0;
    CLEANUP(buf_deinit) struct buf reason = BUF_INIT;
    int64_t failed = db_cell_i64(&left, 0, 1);

    if (failed)
        buf_appendf(&reason, "%lld of %lld batches failed", (long long)failed,
                    (long long)db_cell_i64(&rows, 0, 0));
    else
        r = db_audit_first(db, plan, &reason, e);
    if (r || buf_ok(&reason))
        return r ? r : -ENOMEM;
    return db_plan_move(db,
                        &(struct db_plan_move){.plan = plan,
                                               .to = reason.len ? DB_PLAN_FAILED : DB_PLAN_FINISHED,
                                               .from = DB_PLAN_MASK(DB_PLAN_RUNNING) |
                                                       DB_PLAN_MASK(DB_PLAN_DRAINING) |
                                                       DB_PLAN_MASK(DB_PLAN_PAUSED),
                                               .reason = reason.len ? reason.data : NULL},
                        ret_finished, e);
}

static int finish(struct db *db, const char *plan, int64_t batch, int64_t token,
                  struct db_finish *f, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    const struct db_val v[] = {db_text(plan), db_int(batch), db_int(token)};
    int r = db_exec(db,
                    "SELECT b.state, b.position, b.records, b.unchanged, b.stale, b.skipped, "
                    "b.quarantined, @age@, b.worker FROM scatter_batch b WHERE b.plan = $1 AND "
                    "b.batch = $2 AND b.lease_token = $3 @lock_b@",
                    v, ARRAY_SIZE(v), &rows, e);

    if (r)
        return r;
    if (rows.n_rows == 0 ||
        !(db_cell_is(&rows, 0, 0, "running") || db_cell_is(&rows, 0, 0, "done")))
        return err_set(e, DB_E_FENCED, "batch %lld of plan %s belongs to another worker now",
                       (long long)batch, plan);
    if (db_cell_i64(&rows, 0, 1) != db_cell_i64(&rows, 0, 2))
        return err_set(e, -EINVAL, "batch %lld of plan %s is not at its end", (long long)batch,
                       plan);
    f->counts = (struct db_counts){.unchanged = db_cell_i64(&rows, 0, 3),
                                   .stale = db_cell_i64(&rows, 0, 4),
                                   .skipped = db_cell_i64(&rows, 0, 5),
                                   .quarantined = db_cell_i64(&rows, 0, 6)};
    f->ok = db_cell_i64(&rows, 0, 1) - f->counts.unchanged - f->counts.stale - f->counts.skipped -
            f->counts.quarantined;
    f->duration_s = db_cell_f64(&rows, 0, 7);
    if (db_cell_is(&rows, 0, 0, "done"))
        return 0;
    r = db_exec(db,
                "UPDATE scatter_batch SET state = 'done', finished_at = @now@, lease_until = NULL, "
                "owner = NULL WHERE plan = $1 AND batch = $2 AND lease_token = $3",
                v, ARRAY_SIZE(v), NULL, e);
    if (!r)
        r = db_outbox_batch(db, plan, batch, "done", NULL, e);
    if (!r)
        r = end_plan(db, plan, &f->plan_finished, e);
    if (!r && !f->plan_finished)
        r = db_check_canary(db, plan, e);
    return r ? r : db_settle_drain(db, plan, e);
}

int db_batch_finish(struct db *db, const char *plan, int64_t batch, int64_t token,
                    struct db_finish *ret_f, struct err *e)
{
    struct db_finish f = {0};
    int r = db->ops->begin(db, 0, e);

    if (r)
        return r;
    r = db_end(db, finish(db, plan, batch, token, &f, e), e);
    if (!r)
        *ret_f = f;
    return r;
}

/* A batch that failed, and what that means for its plan. */
static int fail_plan_or_go_on(struct db *db, const char *plan, int64_t batch,
                              struct db_release *rel, struct err *e)
{
    const struct db_plan_move m = {
        .plan = plan,
        .to = DB_PLAN_FAILED,
        .from = DB_PLAN_MASK(DB_PLAN_QUEUED) | DB_PLAN_MASK(DB_PLAN_RUNNING) |
                DB_PLAN_MASK(DB_PLAN_DRAINING) | DB_PLAN_MASK(DB_PLAN_PAUSED),
        .reason = rel->error};
    int r = db_note_event(db, plan, batch, "", "failed", rel->error ? rel->error : "", e);

    if (!r)
        r = db_outbox_batch(db, plan, batch, "failed", rel->failure, e);
    if (r)
        return r;
    if (rel->kind == DB_RELEASE_FAIL_PLAN)
        return db_plan_move(db, &m, &rel->plan_finished, e);
    r = end_plan(db, plan, &rel->plan_finished, e);
    if (!r && !rel->plan_finished)
        r = db_check_canary(db, plan, e);
    if (!r && !rel->plan_finished)
        r = db_check_failed_batches(db, plan, e);
    return r;
}

static int give_back(struct db *db, const char *plan, int64_t batch, int64_t token,
                     struct db_release *rel, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    bool failed = rel->kind == DB_RELEASE_FAILED || rel->kind == DB_RELEASE_FAIL_PLAN;
    const struct db_val v[] = {db_text(plan),
                               db_int(batch),
                               db_int(token),
                               db_text(rel->error),
                               db_text(failed ? "failed" : "queued"),
                               db_int(rel->kind == DB_RELEASE_CLEAN ? 1 : 0),
                               db_int(rel->kind == DB_RELEASE_RETRY ? 1 : 0)};
    int r =
        db_exec(db,
                "UPDATE scatter_batch SET state = CASE WHEN $5 = 'failed' THEN 'failed' WHEN "
                "(SELECT p.state FROM scatter_plan p WHERE p.plan = $1) IN ('paused', 'draining', "
                "'failed') THEN 'parked' WHEN (SELECT p.state FROM scatter_plan p WHERE p.plan = "
                "$1) = 'cancelled' THEN "
                "'cancelled' ELSE 'queued' END, lease_until = NULL, owner = NULL, error = $4, "
                "attempts = attempts - CAST($6 AS integer), failed_times = CASE WHEN "
                "CAST($7 AS integer) = 0 THEN failed_times WHEN failed_at = position THEN "
                "failed_times + 1 ELSE 1 END, failed_at = CASE WHEN CAST($7 AS integer) = 1 THEN "
                "position ELSE failed_at END, finished_at = CASE WHEN $5 = 'failed' THEN @now@ "
                "END WHERE plan = $1 AND batch = $2 AND "
                "lease_token = $3 AND state = 'running'",
                v, ARRAY_SIZE(v), &rows, e);

    if (r)
        return r;
    if (rows.changed == 0)
        return err_set(e, DB_E_FENCED, "batch %lld of plan %s belongs to another worker now",
                       (long long)batch, plan);
    if (failed)
        r = fail_plan_or_go_on(db, plan, batch, rel, e);
    return r ? r : db_settle_drain(db, plan, e);
}

int db_batch_release(struct db *db, const char *plan, int64_t batch, int64_t token,
                     struct db_release *rel, struct err *e)
{
    int r = db->ops->begin(db, 0, e);

    if (r)
        return r;
    return db_end(db, give_back(db, plan, batch, token, rel, e), e);
}
