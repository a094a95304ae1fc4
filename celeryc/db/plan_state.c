/* SPDX-License-Identifier: Apache-2.0 */
/* The states of a plan, and the one function through which a plan changes its state.
 *
 *     planned -> queued -> running -> finished | failed
 *     planned, queued, running -> paused, draining; draining -> paused when the last open batch has ended;
 *     paused, draining -> queued, running (resumed); all but cancelled -> cancelled;
 *     finished, failed -> running: a batch that failed was sent again.
 *
 * Each change leaves a line in scatter_event in the same transaction. What must never happen: a state that is written
 * anywhere else. */

#include "celeryc/db/db_priv.h"

#include <errno.h>

static const char *const names[] = {
    [DB_PLAN_PLANNED] = "planned", [DB_PLAN_QUEUED] = "queued",
    [DB_PLAN_RUNNING] = "running", [DB_PLAN_DRAINING] = "draining",
    [DB_PLAN_PAUSED] = "paused",   [DB_PLAN_FINISHED] = "finished",
    [DB_PLAN_FAILED] = "failed",   [DB_PLAN_CANCELLED] = "cancelled",
};

#define IN(s) DB_PLAN_MASK(s)
#define OPEN  (IN(DB_PLAN_PLANNED) | IN(DB_PLAN_QUEUED) | IN(DB_PLAN_RUNNING) | IN(DB_PLAN_DRAINING))

/* From where each state may be reached. */
static const unsigned sources[] = {
    [DB_PLAN_PLANNED] = 0,
    [DB_PLAN_QUEUED] = IN(DB_PLAN_PLANNED) | IN(DB_PLAN_PAUSED) | IN(DB_PLAN_DRAINING),
    [DB_PLAN_RUNNING] = OPEN | IN(DB_PLAN_PAUSED) | IN(DB_PLAN_FINISHED) | IN(DB_PLAN_FAILED),
    [DB_PLAN_DRAINING] = OPEN,
    [DB_PLAN_PAUSED] = OPEN,
    [DB_PLAN_FINISHED] = OPEN | IN(DB_PLAN_PAUSED),
    [DB_PLAN_FAILED] = OPEN | IN(DB_PLAN_PAUSED),
    [DB_PLAN_CANCELLED] = OPEN | IN(DB_PLAN_PAUSED) | IN(DB_PLAN_FINISHED) | IN(DB_PLAN_FAILED),
};

const char *db_plan_state_name(enum db_plan_state s)
{
    return names[s];
}

int db_plan_state_parse(struct slice text, enum db_plan_state *ret_s)
{
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (slice_eq_str(text, names[i])) {
            *ret_s = (enum db_plan_state)i;
            return 0;
        }
    }
    return -EINVAL;
}

static int write_state(struct db *db, const struct db_plan_move *m, struct err *e)
{
    const struct db_val v[] = {db_text(m->plan), db_text(names[m->to]), db_text(m->reason)};
    bool over = DB_PLAN_OVER & IN(m->to);
    int r = db_exec(db,
                    over ? "UPDATE scatter_plan SET state = $2, reason = $3, resume_at = NULL, "
                           "finished_at = @now@ WHERE plan = $1"
                         : "UPDATE scatter_plan SET state = $2, reason = $3, resume_at = NULL, "
                           "finished_at = NULL WHERE plan = $1",
                    v, ARRAY_SIZE(v), NULL, e);

    if (!r && m->to == DB_PLAN_RUNNING)
        r = db_exec(db,
                    "UPDATE scatter_plan SET started_at = coalesce(started_at, @now@) "
                    "WHERE plan = $1",
                    v, 1, NULL, e);
    return r;
}

int db_plan_move(struct db *db, const struct db_plan_move *m, bool *ret_moved, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    const struct db_val v[] = {db_text(m->plan)};
    enum db_plan_state now;
    int r = db_exec(db, "SELECT p.state FROM scatter_plan p WHERE p.plan = $1 @lock_p@", v, 1,
                    &rows, e);

    if (r)
        return r;
    if (rows.n_rows == 0)
        return err_set(e, -ENOENT, "there is no plan %s in this database", m->plan);
    if (db_plan_state_parse(db_cell(&rows, 0, 0), &now))
        return err_set(e, -EINVAL, "plan %s has a state that this version does not know: %s",
                       m->plan, db_cell(&rows, 0, 0).p);
    if (now == m->to || (m->from && !(m->from & IN(now)))) {
        *ret_moved = false;
        return 0;
    }
    if (!(sources[m->to] & IN(now)))
        return err_set(e, -EINVAL, "plan %s is %s: it cannot become %s", m->plan, names[now],
                       names[m->to]);
    r = write_state(db, m, e);
    if (!r)
        r = db_note_event(db, m->plan, 0, m->who ? m->who : "", names[m->to],
                          m->reason ? m->reason : "", e);
    if (!r)
        r = db_outbox_plan(db, m->plan, names[m->to], m->who, e);
    if (!r && (DB_PLAN_OVER & IN(m->to)))
        r = db_resolve(db, m->plan, e);
    if (!r)
        *ret_moved = true;
    return r;
}

int db_plan_set_state(struct db *db, const struct db_plan_move *m, bool *ret_moved, struct err *e)
{
    bool moved = false;
    int r = db->ops->begin(db, 0, e);

    if (r)
        return r;
    r = db_end(db, db_plan_move(db, m, &moved, e), e);
    if (!r)
        *ret_moved = moved;
    return r;
}

/* A plan that drains is paused when its last open batch has ended. Its row is locked first, so that of two last
 * batches one sees it. */
int db_settle_drain(struct db *db, const char *plan, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0}, open = {0};
    const struct db_val v[] = {db_text(plan)};
    bool moved;
    int r = db_exec(db, "SELECT p.state FROM scatter_plan p WHERE p.plan = $1 @lock_p@", v, 1,
                    &rows, e);

    if (r || rows.n_rows == 0 || !db_cell_is(&rows, 0, 0, "draining"))
        return r;
    r = db_exec(db, "SELECT 1 FROM scatter_batch WHERE plan = $1 AND state = 'running' LIMIT 1", v,
                1, &open, e);
    if (r || open.n_rows > 0)
        return r;
    return db_plan_move(db,
                        &(struct db_plan_move){.plan = plan,
                                               .to = DB_PLAN_PAUSED,
                                               .from = DB_PLAN_MASK(DB_PLAN_DRAINING),
                                               .reason = "drained"},
                        &moved, e);
}
