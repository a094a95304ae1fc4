/* SPDX-License-Identifier: Apache-2.0 */
/* What people ask of a plan (pause, resume, cancel, drain, set), and what the sweep finds to be done.
 *
 * Pausing, draining and cancelling only write the plan's state: workers see it with their next chunk and give their
 * batches back. Resuming makes every batch that is not being worked on wait for a message; sending them is the
 * sweep's work, so that a resume that is interrupted is finished by whoever sweeps next. */

#include "celeryc/db/db_priv.h"

#include <errno.h>

/* Batches that nobody works on. One that is being claimed just now is left out: its row is locked, and who locks a batch
 * goes for the plan's row next, which is ours. It begins, is told at its first chunk, or is found by the sweep. */
#define WAITING                                                                         \
    "SELECT b.batch FROM scatter_batch b WHERE b.plan = $1 AND b.state IN ('planned', " \
    "'queued', 'parked') @skip_b@"

/* ---- orders of people ---- */

/* Who resumes a plan that went over its limit has seen what was set aside: one more pauses it again, not the first batch
 * that is looked at. */
static int allow_what_was_set_aside(struct db *db, const char *plan, struct err *e)
{
    static const char sql[] =
        "UPDATE scatter_plan SET max_quarantined = CASE WHEN max_quarantined < q.n THEN q.n ELSE "
        "max_quarantined END, max_quarantined_batch = CASE WHEN max_quarantined_batch < q.most "
        "THEN q.most ELSE max_quarantined_batch END FROM (SELECT coalesce(sum(quarantined), 0) AS "
        "n, coalesce(max(quarantined), 0) AS most FROM scatter_batch WHERE plan = $1) AS q WHERE "
        "scatter_plan.plan = $1";

    return db_exec(db, sql, (struct db_val[]){db_text(plan)}, 1, NULL, e);
}

static int resume(struct db *db, const struct db_plan_move *m, bool *ret_moved, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    const struct db_val v[] = {db_text(m->plan)};
    struct db_plan_move move = *m;
    int r = db_exec(
        db, "SELECT p.started_at IS NOT NULL, p.state FROM scatter_plan p WHERE p.plan = $1", v, 1,
        &rows, e);

    enum db_plan_state now = DB_PLAN_PLANNED;

    if (!r && rows.n_rows && !db_plan_state_parse(db_cell(&rows, 0, 1), &now) &&
        (now == DB_PLAN_CANCELLED || now == DB_PLAN_FINISHED))
        r = err_set(e, -EINVAL, "plan %s is %s, only a paused or failed one can go on", m->plan,
                    db_plan_state_name(now));
    if (r)
        return r;
    move.to = rows.n_rows && db_cell_true(&rows, 0, 0) ? DB_PLAN_RUNNING : DB_PLAN_QUEUED;
    move.from = DB_PLAN_MASK(DB_PLAN_PAUSED) | DB_PLAN_MASK(DB_PLAN_DRAINING) |
                DB_PLAN_MASK(DB_PLAN_FAILED);
    r = db_plan_move(db, &move, ret_moved, e);
    if (!r && *ret_moved)
        r = allow_what_was_set_aside(db, m->plan, e);
    if (r || !*ret_moved)
        return r;
    /* A batch that failed is tried again: somebody has mended what it failed by. */
    return db_exec(
        db,
        "UPDATE scatter_batch SET state = 'queued', sent_at = NULL, failed_times = 0 "
        "WHERE plan = $1 AND batch IN (SELECT b.batch FROM scatter_batch b WHERE b.plan = "
        "$1 AND (b.state IN ('queued', 'parked', 'failed') OR (b.state = 'planned' "
        "AND " DB_OPEN_TO_SEND("b") ")) @skip_b@)",
        v, 1, NULL, e);
}

/* Whoever works on one of the others gives it back as cancelled. */
static int cancel_waiting(struct db *db, const char *plan, struct err *e)
{
    const struct db_val v[] = {db_text(plan)};

    return db_exec(db,
                   "UPDATE scatter_batch SET state = 'cancelled' WHERE plan = $1 AND batch IN "
                   "(" WAITING ")",
                   v, 1, NULL, e);
}

static int act(struct db *db, enum db_plan_verb verb, const char *plan, const char *who,
               const char *reason, bool *ret_changed, struct err *e)
{
    static const enum db_plan_state to[] = {[DB_PLAN_PAUSE] = DB_PLAN_PAUSED,
                                            [DB_PLAN_RESUME] = DB_PLAN_RUNNING,
                                            [DB_PLAN_CANCEL] = DB_PLAN_CANCELLED,
                                            [DB_PLAN_DRAIN] = DB_PLAN_DRAINING};
    const struct db_plan_move m = {.plan = plan, .to = to[verb], .who = who, .reason = reason};
    int r = verb == DB_PLAN_RESUME ? resume(db, &m, ret_changed, e)
                                   : db_plan_move(db, &m, ret_changed, e);

    if (!r && verb == DB_PLAN_CANCEL)
        r = cancel_waiting(db, plan, e);
    if (!r && verb == DB_PLAN_DRAIN)
        r = db_settle_drain(db, plan, e);
    return r;
}

int db_plan_control(struct db *db, enum db_plan_verb verb, const char *plan, const char *who,
                    const char *reason, bool *ret_changed, struct err *e)
{
    bool changed = false;
    int r = db->ops->begin(db, 0, e);

    if (r)
        return r;
    r = db_end(db, act(db, verb, plan, who, reason, &changed, e), e);
    if (!r)
        *ret_changed = changed;
    return r;
}

int db_close_window(struct db *db, const char *plan, struct err *e)
{
    const struct db_val v[] = {db_text(plan)};
    bool moved = false;
    int r = db_plan_move(db,
                         &(struct db_plan_move){
                             .plan = plan,
                             .to = DB_PLAN_PAUSED,
                             .from = DB_PLAN_MASK(DB_PLAN_PLANNED) | DB_PLAN_MASK(DB_PLAN_QUEUED) |
                                     DB_PLAN_MASK(DB_PLAN_RUNNING) | DB_PLAN_MASK(DB_PLAN_DRAINING),
                             .reason = "outside of its maintenance window"},
                         &moved, e);

    if (r || !moved)
        return r;
    return db_exec(db, "UPDATE scatter_plan SET resume_at = window_next WHERE plan = $1", v, 1,
                   NULL, e);
}

int db_plan_close_window(struct db *db, const char *plan, struct err *e)
{
    int r = db->ops->begin(db, 0, e);

    return r ? r : db_end(db, db_close_window(db, plan, e), e);
}

int db_plan_window(struct db *db, const struct db_window *w, struct err *e)
{
    const struct db_val v[] = {db_text(w->plan), db_text(w->windows),
                               w->ends_s ? db_int(w->ends_s) : db_text(NULL),
                               w->next_s ? db_int(w->next_s) : db_text(NULL), db_text(w->reason)};
    int r = db->ops->begin(db, 0, e);

    if (r)
        return r;
    r = db_exec(db,
                "UPDATE scatter_plan SET windows = coalesce($2, windows), window_ends = @at3@, "
                "window_next = @at4@, resume_at = CASE WHEN resume_at IS NULL THEN NULL ELSE @at4@ "
                "END, reason = CASE WHEN resume_at IS NULL THEN reason ELSE $5 END WHERE plan = $1",
                v, ARRAY_SIZE(v), NULL, e);
    return db_end(db, r, e);
}

static void write_knob(struct buf *b, bool set, const char *name, double v)
{
    if (!set)
        return;
    buf_appendf(b, "%s%s=", b->len ? " " : "", name);
    if (v > 0)
        buf_appendf(b, "%.6g", v);
    else
        buf_append_str(b, "none");
}

static int set(struct db *db, const struct db_plan_knobs *k, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    CLEANUP(buf_deinit) struct buf detail = BUF_INIT;
    char rate[40] = "";

    write_knob(&detail, k->set_rate, "rate", k->rate);
    write_knob(&detail, k->set_chunk_ms, "chunk_ms", (double)k->chunk_ms);
    write_knob(&detail, k->set_max_workers, "workers", (double)k->max_workers);
    if (buf_ok(&detail))
        return -ENOMEM;
    (void)snprintf(rate, sizeof(rate), "%.17g", k->rate);
    const struct db_val v[] = {db_text(k->plan),
                               db_text(k->set_rate ? "1" : NULL),
                               db_text(k->rate > 0 ? rate : NULL),
                               db_text(k->set_chunk_ms ? "1" : NULL),
                               k->chunk_ms ? db_int(k->chunk_ms) : db_text(NULL),
                               db_text(k->set_max_workers ? "1" : NULL),
                               k->max_workers ? db_int(k->max_workers) : db_text(NULL)};
    int r = db_exec(
        db,
        "UPDATE scatter_plan SET rate = CASE WHEN CAST($2 AS text) IS NULL THEN rate ELSE CAST($3 "
        "AS "
        "double precision) END, chunk_ms = CASE WHEN CAST($4 AS text) IS NULL THEN chunk_ms ELSE "
        "CAST($5 AS integer) END, max_workers = CASE WHEN CAST($6 AS text) IS NULL THEN "
        "max_workers "
        "ELSE CAST($7 AS integer) END WHERE plan = $1",
        v, ARRAY_SIZE(v), &rows, e);

    if (r)
        return r;
    if (rows.changed == 0)
        return err_set(e, -ENOENT, "there is no plan %s in this database", k->plan);
    return db_note_event(db, k->plan, 0, k->who ? k->who : "", "set", detail.data, e);
}

int db_plan_set(struct db *db, const struct db_plan_knobs *k, struct err *e)
{
    int r = db->ops->begin(db, 0, e);

    return r ? r : db_end(db, set(db, k, e), e);
}

/* ---- the sweep ---- */

/* Batches whose owner died while their plan was not to go on. */
static int tidy_batches(struct db *db, struct err *e)
{
    return db_exec(
        db,
        "UPDATE scatter_batch SET state = CASE (SELECT p.state FROM scatter_plan p WHERE "
        "p.plan = scatter_batch.plan) WHEN 'cancelled' THEN 'cancelled' ELSE 'parked' "
        "END, lease_until = NULL, owner = NULL WHERE state = 'running' AND lease_until < "
        "@clock@ AND plan IN (SELECT p.plan FROM scatter_plan p WHERE p.state IN "
        "('paused', 'failed', 'cancelled'))",
        NULL, 0, NULL, e);
}

static int tidy_plans(struct db *db, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    int r =
        db_exec(db, "SELECT plan FROM scatter_plan WHERE state = 'draining'", NULL, 0, &rows, e);

    for (size_t i = 0; !r && i < rows.n_rows; i++)
        r = db_settle_drain(db, db_cell(&rows, i, 0).p, e);
    return r;
}

int db_sweep_tidy(struct db *db, struct err *e)
{
    int r = db->ops->begin(db, 0, e);

    if (r)
        return r;
    r = tidy_batches(db, e);
    if (!r)
        r = tidy_plans(db, e);
    return db_end(db, r, e);
}

/* Marked as sent before they are: whoever takes them sends them, or the next sweep does. */
static const char take_sql[] =
    "UPDATE scatter_batch SET sent_at = @now@, state = CASE WHEN state = 'running' THEN state ELSE "
    "'queued' END WHERE (plan, batch) IN (SELECT b.plan, b.batch FROM scatter_batch b JOIN "
    "scatter_plan p ON p.plan = b.plan WHERE (CAST($2 AS text) IS NULL OR b.plan = $2) AND "
    "coalesce(b.sent_at, p.created_at) < @ago@ AND ((b.state IN ('planned', 'queued', 'parked') "
    "AND "
    "p.state IN ('queued', 'running') AND (b.state <> 'planned' OR " DB_OPEN_TO_SEND(
        "b") ")) OR (b.state = 'running' AND b.lease_until < @clock@ AND p.state IN ('running', "
             "'draining'))) "
             "ORDER BY b.plan, b.batch LIMIT $3 @skip_b@) RETURNING plan, batch, records, source, "
             "sha256";

static int copy_lost(const struct db_rows *rows, struct arena *a, struct db_lost *lost)
{
    for (size_t i = 0; i < rows->n_rows; i++) {
        lost[i].plan = arena_strdup(a, db_cell(rows, i, 0));
        lost[i].row.batch = db_cell_i64(rows, i, 1);
        lost[i].row.count = db_cell_i64(rows, i, 2);
        lost[i].row.source = arena_strdup(a, db_cell(rows, i, 3));
        lost[i].row.sha256 = arena_strdup(a, db_cell(rows, i, 4));
        if (!lost[i].plan || !lost[i].row.source || !lost[i].row.sha256)
            return -ENOMEM;
    }
    return 0;
}

int db_sweep_take(struct db *db, const struct db_sweep *s, struct arena *a, struct db_lost *lost,
                  size_t *ret_n, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    const struct db_val v[] = {db_int(s->after_ms), db_text(s->plan), db_int((int64_t)s->max)};
    int r = db->ops->begin(db, 0, e);

    if (r)
        return r;
    r = db_end(db, db_exec(db, take_sql, v, ARRAY_SIZE(v), &rows, e), e);
    if (!r)
        r = copy_lost(&rows, a, lost);
    if (!r)
        *ret_n = rows.n_rows;
    return r;
}
