/* SPDX-License-Identifier: Apache-2.0 */
/* What a delivery of a batch may do: the claim; where a batch stands when an answer was lost.
 *
 * The row is looked at with SKIP LOCKED: a batch that another is writing is "busy", never waited for. Rows of the control
 * tables are locked batch first, then plan. */

#include "celeryc/db/db_priv.h"

#include <errno.h>

#define RESUMED_MS    100  /* a claim during which its plan was resumed */
#define RETRY_SOON_MS 1000 /* a claim that met a locked batch row */

void db_claim_deinit(struct db_claim *c)
{
    free(c->retry_on);
    free(c->on_error);
    free(c->on_batch);
    free(c->on_finish);
    free(c->owner);
    *c = (struct db_claim){0};
}

/* What a claim reads; the names of columns by place. */
#define CLAIM_COLUMNS                                                                             \
    "SELECT b.state, b.position, b.unchanged, b.stale, b.skipped, b.quarantined, b.lease_token, " \
    "b.attempts, @left@, b.owner, b.sha256, b.records, p.state, p.retry_on, p.on_batch, "         \
    "p.on_finish, p.migration, b.failed_at, b.failed_times, p.max_failure_rate, p.policy, "       \
    "p.max_workers, coalesce(p.window_ends < @clock@, 1 = 0) FROM scatter_batch b JOIN "          \
    "scatter_plan p ON p.plan = b.plan WHERE b.plan = $1 AND b.batch = $2 "

enum {
    AT_STATE,
    AT_POSITION,
    AT_UNCHANGED,
    AT_STALE,
    AT_SKIPPED,
    AT_QUARANTINED,
    AT_TOKEN,
    AT_ATTEMPTS,
    AT_LEFT,
    AT_OWNER,
    AT_SHA256,
    AT_RECORDS,
    AT_PLAN_STATE,
    AT_RETRY_ON,
    AT_ON_BATCH,
    AT_ON_FINISH,
    AT_MIGRATION,
    AT_FAILED_AT,
    AT_FAILED_TIMES,
    AT_MAX_FAILURE_RATE,
    AT_POLICY,
    AT_MAX_WORKERS,
    AT_CLOSED,
};

static int read_batch(struct db *db, const struct db_claim_request *q, const char *lock,
                      struct db_rows *ret_rows, struct err *e)
{
    CLEANUP(buf_deinit) struct buf sql = BUF_INIT;
    const struct db_val v[] = {db_text(q->plan->plan), db_int(q->batch->batch)};

    buf_append_str(&sql, CLAIM_COLUMNS);
    buf_append_str(&sql, lock);
    if (buf_ok(&sql))
        return -ENOMEM;
    return db_exec(db, sql.data, v, ARRAY_SIZE(v), ret_rows, e);
}

/* A message that nobody planned here brings its own rows; the plan grows by each batch that is new to it. */
static int insert_missing(struct db *db, const struct db_claim_request *q, struct err *e)
{
    struct db_plan p = *q->plan;
    int64_t inserted;
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    const struct db_val v[] = {db_text(p.plan), db_int(q->batch->batch), db_text(q->batch->source),
                               db_text(q->batch->sha256), db_int(q->batch->count)};
    int r;

    p.total = 0;
    r = db_plan_row_insert(db, &p, &inserted, e);
    if (!r)
        r = db_exec(db,
                    "INSERT INTO scatter_batch (plan, batch, source, sha256, records, state) "
                    "VALUES ($1, $2, $3, $4, $5, 'queued') ON CONFLICT (plan, batch) DO NOTHING",
                    v, ARRAY_SIZE(v), &rows, e);
    if (r || rows.changed == 0)
        return r;
    const struct db_val grow[] = {db_text(p.plan), db_int(q->batch->count)};

    return db_exec(db,
                   "UPDATE scatter_plan SET total = total + CAST($2 AS bigint), n_batches = CASE "
                   "WHEN n_batches < (SELECT count(*) FROM scatter_batch WHERE plan = $1) THEN "
                   "(SELECT count(*) FROM scatter_batch WHERE plan = $1) ELSE n_batches END "
                   "WHERE plan = $1",
                   grow, ARRAY_SIZE(grow), NULL, e);
}

static int fill_claim(const struct db_rows *rows, struct db_claim *c)
{
    c->position = db_cell_i64(rows, 0, AT_POSITION);
    c->counts = (struct db_counts){.unchanged = db_cell_i64(rows, 0, AT_UNCHANGED),
                                   .stale = db_cell_i64(rows, 0, AT_STALE),
                                   .skipped = db_cell_i64(rows, 0, AT_SKIPPED),
                                   .quarantined = db_cell_i64(rows, 0, AT_QUARANTINED)};
    c->token = db_cell_i64(rows, 0, AT_TOKEN);
    c->attempts = db_cell_i64(rows, 0, AT_ATTEMPTS);
    c->plan_finished = db_cell_is(rows, 0, AT_PLAN_STATE, "finished") ||
                       db_cell_is(rows, 0, AT_PLAN_STATE, "failed");
    c->failed_at = db_cell(rows, 0, AT_FAILED_AT).p ? db_cell_i64(rows, 0, AT_FAILED_AT) : -1;
    c->failed_times = db_cell_i64(rows, 0, AT_FAILED_TIMES);
    c->max_failure_rate = db_cell(rows, 0, AT_MAX_FAILURE_RATE).p
                              ? db_cell_f64(rows, 0, AT_MAX_FAILURE_RATE)
                              : DB_MAX_FAILURE_RATE;
    int r = db_cell_dup(rows, 0, AT_RETRY_ON, &c->retry_on);

    if (!r)
        r = db_cell_dup(rows, 0, AT_POLICY, &c->on_error);
    if (!r)
        r = db_cell_dup(rows, 0, AT_ON_BATCH, &c->on_batch);
    if (!r)
        r = db_cell_dup(rows, 0, AT_ON_FINISH, &c->on_finish);
    if (!r)
        r = db_cell_dup(rows, 0, AT_OWNER, &c->owner);
    return r;
}

static int set_batch_state(struct db *db, const struct db_claim_request *q, const char *state,
                           struct err *e)
{
    const struct db_val v[] = {db_text(q->plan->plan), db_int(q->batch->batch), db_text(state)};

    return db_exec(db,
                   "UPDATE scatter_batch SET state = $3, lease_until = NULL, owner = NULL "
                   "WHERE plan = $1 AND batch = $2",
                   v, ARRAY_SIZE(v), NULL, e);
}

/* Who takes a running batch over leaves a line in the audit. */
static int note_takeover(struct db *db, const struct db_claim_request *q, const struct db_claim *c,
                         bool live, struct err *e)
{
    CLEANUP(buf_deinit) struct buf detail = BUF_INIT;

    buf_appendf(&detail, "from %s at position %lld, %s", c->owner ? c->owner : "nobody",
                (long long)c->position, live ? "message delivered again" : "lease expired");
    if (buf_ok(&detail))
        return -ENOMEM;
    return db_note_event(db, q->plan->plan, q->batch->batch, q->worker, "takeover", detail.data, e);
}

/* The plan does not want this batch to be begun (or to go on): its message goes, resuming sends it again. The state is
 * read once more under the plan's lock: who resumed it meanwhile has not seen this batch, and its message must stay. */
static int park(struct db *db, const struct db_claim_request *q, struct db_claim *c, bool live,
                struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    const struct db_val v[] = {db_text(q->plan->plan)};
    enum db_plan_state now;
    int r = 0;

    c->state = DB_CLAIM_PAUSED;
    if (live && !q->takeover)
        return 0;
    r = db_exec(db, "SELECT p.state FROM scatter_plan p WHERE p.plan = $1 @lock_p@", v, 1, &rows,
                e);
    if (r)
        return r;
    if (rows.n_rows && !db_plan_state_parse(db_cell(&rows, 0, 0), &now) &&
        (DB_PLAN_MASK(now) & (DB_PLAN_MASK(DB_PLAN_QUEUED) | DB_PLAN_MASK(DB_PLAN_RUNNING)))) {
        c->state = DB_CLAIM_BUSY;
        c->retry_after_ms = RESUMED_MS;
        return 0;
    }
    r = set_batch_state(db, q, "parked", e);
    return r ? r : db_settle_drain(db, q->plan->plan, e);
}

static int take_lease(struct db *db, const struct db_claim_request *q, struct db_claim *c,
                      struct err *e)
{
    const struct db_val v[] = {db_int(q->lease_ms),     db_text(q->plan->plan),
                               db_int(q->batch->batch), db_int(c->token + 1),
                               db_text(q->owner),       db_text(q->worker)};
    bool moved;
    int r = db_exec(db,
                    "UPDATE scatter_batch SET state = 'running', lease_token = $4, lease_until = "
                    "@lease@, owner = $5, worker = $6, attempts = attempts + 1, error = NULL, "
                    "finished_at = NULL, started_at = coalesce(started_at, @now@) "
                    "WHERE plan = $2 AND batch = $3",
                    v, ARRAY_SIZE(v), NULL, e);

    if (r)
        return r;
    c->token++;
    c->attempts++;
    c->state = DB_CLAIM_OURS;
    return db_plan_move(db,
                        &(struct db_plan_move){
                            .plan = q->plan->plan,
                            .to = DB_PLAN_RUNNING,
                            .from = DB_PLAN_MASK(DB_PLAN_PLANNED) | DB_PLAN_MASK(DB_PLAN_QUEUED) |
                                    DB_PLAN_MASK(DB_PLAN_FAILED) | DB_PLAN_MASK(DB_PLAN_FINISHED),
                            .who = q->worker},
                        &moved, e);
}

/* As many batches as the plan may have at a time are being worked on. The plan's row is locked, so that two claims do
 * not both see the last free place. The messages that must wait come again in turns, four a second, however many. */
static int find_place(struct db *db, const struct db_claim_request *q, const struct db_rows *row,
                      struct db_claim *c, bool *ret_full, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    const struct db_val v[] = {db_text(q->plan->plan)};
    int64_t most = db_cell_i64(row, 0, AT_MAX_WORKERS);

    if (most <= 0)
        return 0;
    int r = db_exec(db, "SELECT 1 FROM scatter_plan p WHERE p.plan = $1 @lock_p@", v, 1, NULL, e);

    if (!r)
        r = db_exec(db,
                    "SELECT coalesce(sum(CASE WHEN r.state = 'running' AND r.lease_until > @clock@ "
                    "THEN 1 ELSE 0 END), 0), count(*) FROM scatter_batch r WHERE r.plan = $1 AND "
                    "r.state IN ('planned', 'queued', 'running')",
                    v, 1, &rows, e);
    if (r)
        return r;
    *ret_full = db_cell_i64(&rows, 0, 0) >= most;
    c->retry_after_ms = MIN(MAX(db_cell_i64(&rows, 0, 1) * 250, 1000), 300000);
    return 0;
}

/* What the locked row means for this delivery. */
static int decide(struct db *db, const struct db_claim_request *q, const struct db_rows *rows,
                  struct db_claim *c, struct err *e)
{
    struct slice left = db_cell(rows, 0, AT_LEFT);
    int64_t left_ms = left.p ? db_cell_i64(rows, 0, AT_LEFT) : 0;
    bool running = db_cell_is(rows, 0, AT_STATE, "running");
    bool live = running && left_ms > 0;

    if (!slice_eq_str(db_cell(rows, 0, AT_MIGRATION), q->plan->migration))
        return err_set(e, -EBADMSG, "plan %s is of migration %s, not of %s", q->plan->plan,
                       db_cell(rows, 0, AT_MIGRATION).p, q->plan->migration);
    if (q->batch->source && !slice_eq_str(db_cell(rows, 0, AT_SHA256), q->batch->sha256))
        return err_set(e, -EBADMSG,
                       "batch %lld of plan %s was planned with another file (its SHA-256 differs)",
                       (long long)q->batch->batch, q->plan->plan);
    if (db_cell_is(rows, 0, AT_STATE, "done")) {
        c->state = DB_CLAIM_DONE;
        return 0;
    }
    if (db_cell_is(rows, 0, AT_PLAN_STATE, "cancelled") ||
        db_cell_is(rows, 0, AT_STATE, "cancelled")) {
        c->state = DB_CLAIM_CANCELLED;
        return live && !q->takeover ? 0 : set_batch_state(db, q, "cancelled", e);
    }
    /* In a plan that failed only a batch that failed with it may be tried again. */
    if (db_cell_is(rows, 0, AT_PLAN_STATE, "paused") ||
        (db_cell_is(rows, 0, AT_PLAN_STATE, "draining") && !running) ||
        (db_cell_is(rows, 0, AT_PLAN_STATE, "failed") && !db_cell_is(rows, 0, AT_STATE, "failed")))
        return park(db, q, c, live, e);
    if (db_cell_true(rows, 0, AT_CLOSED)) {
        int r = db_close_window(db, q->plan->plan, e);

        return r ? r : park(db, q, c, live, e);
    }
    if (live && !q->takeover) {
        c->state = DB_CLAIM_BUSY;
        c->retry_after_ms = left_ms;
        return 0;
    }
    bool full = false;
    int r = running ? note_takeover(db, q, c, live, e) : find_place(db, q, rows, c, &full, e);

    if (r)
        return r;
    if (full) {
        c->state = DB_CLAIM_BUSY;
        return 0;
    }
    return take_lease(db, q, c, e);
}

/* The row is locked by a chunk that is being written , which may take longer than the lease, or by a
 * frozen worker, whom the server ends soon. */
static int locked(const struct db_claim_request *q, const struct db_rows *rows, struct db_claim *c)
{
    int r = fill_claim(rows, c);

    c->state = DB_CLAIM_BUSY;
    int64_t left_ms = db_cell_i64(rows, 0, AT_LEFT);

    c->retry_after_ms = left_ms > 0 ? MAX(left_ms, 100) : RETRY_SOON_MS;
    if (q->takeover)
        c->retry_after_ms = MIN(c->retry_after_ms, RETRY_SOON_MS);
    return r;
}

/* The row cannot be locked: another has it, or there is none. It is looked for before it is inserted, because an INSERT
 * that meets a locked row would wait for it. */
static int not_locked(struct db *db, const struct db_claim_request *q, struct db_claim *c,
                      struct db_rows *rows, struct err *e)
{
    int r = read_batch(db, q, "", rows, e);

    if (r)
        return r;
    if (rows->n_rows)
        return locked(q, rows, c);
    if (!q->batch->source)
        return err_set(e, -ENOENT, "batch %lld of plan %s is not known here",
                       (long long)q->batch->batch, q->plan->plan);
    db_rows_deinit(rows);
    r = insert_missing(db, q, e);
    if (!r)
        r = read_batch(db, q, "@lock_b@", rows, e);
    if (r)
        return r;
    if (rows->n_rows == 0)
        return err_set(e, db_fail(db, "40001"), "the batch row went away");
    r = fill_claim(rows, c);
    return r ? r : decide(db, q, rows, c, e);
}

static int claim(struct db *db, const struct db_claim_request *q, struct db_claim *c, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    int r = read_batch(db, q, "@skip_b@", &rows, e);

    if (r)
        return r;
    if (rows.n_rows == 0) {
        db_rows_deinit(&rows);
        return not_locked(db, q, c, &rows, e);
    }
    r = fill_claim(&rows, c);
    return r ? r : decide(db, q, &rows, c, e);
}

int db_batch_claim(struct db *db, const struct db_claim_request *q, struct db_claim *ret_c,
                   struct err *e)
{
    CLEANUP(db_claim_deinit) struct db_claim c = {0};
    int r = db->ops->begin(db, 0, e);

    if (r)
        return r;
    db->ops->forget(db);
    r = db_end(db, claim(db, q, &c, e), e);
    if (r)
        return r;
    *ret_c = c;
    c = (struct db_claim){0};
    return 0;
}

/* ---- position after doubt ---- */

/* Reads under the row lock: an open transaction of ours that the server still holds ends first. */
static int read_position(struct db *db, const char *plan, int64_t batch, int64_t token,
                         int64_t *ret_position, struct db_counts *ret_counts, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    const struct db_val v[] = {db_text(plan), db_int(batch)};
    int r =
        db_exec(db,
                "SELECT b.lease_token, b.state, b.position, b.unchanged, b.stale, b.skipped, "
                "b.quarantined FROM scatter_batch b WHERE b.plan = $1 AND b.batch = $2 @lock_b@",
                v, ARRAY_SIZE(v), &rows, e);

    if (r)
        return r;
    if (rows.n_rows == 0 || db_cell_i64(&rows, 0, 0) != token ||
        !db_cell_is(&rows, 0, 1, "running"))
        return err_set(e, DB_E_FENCED, "batch %lld of plan %s belongs to another worker now",
                       (long long)batch, plan);
    *ret_position = db_cell_i64(&rows, 0, 2);
    *ret_counts = (struct db_counts){.unchanged = db_cell_i64(&rows, 0, 3),
                                     .stale = db_cell_i64(&rows, 0, 4),
                                     .skipped = db_cell_i64(&rows, 0, 5),
                                     .quarantined = db_cell_i64(&rows, 0, 6)};
    return 0;
}

int db_batch_position(struct db *db, const char *plan, int64_t batch, int64_t token,
                      int64_t *ret_position, struct db_counts *ret_counts, struct err *e)
{
    int r = db->ops->begin(db, 0, e);

    if (r)
        return r;
    r = read_position(db, plan, batch, token, ret_position, ret_counts, e);
    return db_end(db, r, e);
}

int db_fenced(struct db *db, const struct db_chunk *c, struct err *e)
{
    int64_t position = -1;
    struct db_counts counts;
    int r = db_batch_position(db, c->plan, c->batch, c->token, &position, &counts, e);

    if (r)
        return r;
    return err_set(e, db_fail(db, "40001"), "the checkpoint stands at %lld, not at %lld",
                   (long long)position, (long long)c->old_position);
}
