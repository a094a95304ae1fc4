/* SPDX-License-Identifier: Apache-2.0 */
/* Callbacks on their way: rows of scatter_outbox.
 *
 *     written with the change of state that they tell of, in its transaction
 *       -> claimed by a sender for a while (tried_at) -> sent -> marked (sent_at)
 *
 * Whoever changed the state sends right after its commit. Whoever dies in between leaves a row that any later sender
 * takes when it is old enough. What must never happen: a message of a change that was rolled back, or a change whose
 * callback nobody knows of any more. */

#include "celeryc/db/db_priv.h"

#include "celeryc/batch/batch.h"
#include "celeryc/message/json.h"

#include <errno.h>

#define MAX_FAILURES 100 /* listed in a callback */
#define MAX_ATTEMPTS 20

/* ---- keyword arguments ---- */

struct counts {
    int64_t planned, position, unchanged, stale, skipped, quarantined;
};

static void write_counts(struct buf *b, const struct counts *c)
{
    int64_t ok = c->position - c->unchanged - c->stale - c->skipped - c->quarantined;

    buf_appendf(b,
                ", \"counts\": {\"planned\": %lld, \"ok\": %lld, \"unchanged\": %lld, \"stale\": "
                "%lld, \"skipped\": %lld, \"quarantined\": %lld, \"remaining\": %lld}",
                (long long)c->planned, (long long)ok, (long long)c->unchanged, (long long)c->stale,
                (long long)c->skipped, (long long)c->quarantined,
                (long long)(c->planned - c->position));
}

static void write_text(struct buf *b, const char *name, struct slice text)
{
    buf_appendf(b, ", \"%s\": ", name);
    json_write_string_or_null(b, text);
}

/* Records as the database lists them, with the batch's own failure in front. */
static int write_failures(struct buf *b, struct db *db, const char *plan, int64_t batch,
                          const struct db_failure *f, struct err *e)
{
    CLEANUP(buf_deinit) struct buf list = BUF_INIT;
    int r = db_failures_list(db, plan, batch, MAX_FAILURES, &list, e);

    if (r)
        return r;
    buf_append_str(b, ", \"failures\": ");
    if (!f) {
        buf_append_slice(b, buf_slice(&list));
        return 0;
    }
    buf_appendf(b, "[{\"batch\": %lld, \"key\": null, \"outcome\": \"failed\"", (long long)batch);
    write_text(b, "error_class", slice_str(f->error_class));
    write_text(b, "sqlstate", f->sqlstate && *f->sqlstate ? slice_str(f->sqlstate) : SLICE_NULL);
    write_text(b, "message", slice_str(f->message));
    buf_append_char(b, '}');
    if (list.len > 2)
        buf_append_str(b, ", ");
    buf_append(b, list.data + 1, list.len - 1);
    return 0;
}

/* ---- writing ---- */

struct callback {
    const char *plan, *event;
    int64_t batch; /* 0: of the plan */
    struct slice signature;
};

/* "scatter:<plan>:on_finish", "scatter:<plan>:<batch>:on_batch"; from the second time on with ":<n>". */
static int task_id(const struct callback *c, int64_t n, char dst[37])
{
    static const char *const words[][2] = {{"planned", "on_planned"},
                                           {"batch", "on_batch"},
                                           {"paused", "on_paused"},
                                           {"failed", "on_failed"},
                                           {"finished", "on_finish"}};
    CLEANUP(buf_deinit) struct buf name = BUF_INIT;

    buf_appendf(&name, "scatter:%s:", c->plan);
    if (c->batch)
        buf_appendf(&name, "%lld:", (long long)c->batch);
    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        if (str_eq(words[i][0], c->event))
            buf_append_str(&name, words[i][1]);
    if (n > 1)
        buf_appendf(&name, ":%lld", (long long)n);
    if (buf_ok(&name))
        return -ENOMEM;
    batch_name_id(buf_slice(&name), dst);
    return 0;
}

static int put(struct db *db, const struct callback *c, const struct buf *kwargs, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows before = {0};
    const struct db_val where[] = {db_text(c->plan), db_text(c->event), db_int(c->batch)};
    char id[37];
    int r = db_exec(db,
                    "SELECT count(*) FROM scatter_outbox WHERE plan = $1 AND event = $2 AND "
                    "coalesce(batch, 0) = $3",
                    where, ARRAY_SIZE(where), &before, e);

    if (!r)
        r = task_id(c, db_cell_i64(&before, 0, 0) + 1, id);
    if (r)
        return r;
    const struct db_val v[] = {db_text(c->plan),      c->batch ? db_int(c->batch) : db_text(NULL),
                               db_text(c->event),     db_slice(c->signature),
                               db_text(kwargs->data), db_text(id)};

    return db_exec(db,
                   "INSERT INTO scatter_outbox (plan, batch, event, signature, kwargs, task_id) "
                   "VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (task_id) DO NOTHING",
                   v, ARRAY_SIZE(v), NULL, e);
}

static void begin_kwargs(struct buf *b, const struct callback *c, struct slice migration,
                         const char *state)
{
    buf_append_str(b, "{\"plan\": ");
    json_write_string(b, slice_str(c->plan));
    if (c->batch)
        buf_appendf(b, ", \"batch\": %lld", (long long)c->batch);
    write_text(b, "migration", migration);
    write_text(b, "state", slice_str(state));
}

static void write_duration(struct buf *b, double seconds)
{
    buf_append_str(b, ", \"duration\": ");
    json_write_f64(b, seconds);
}

int db_outbox_batch(struct db *db, const char *plan, int64_t batch, const char *state,
                    const struct db_failure *f, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    CLEANUP(buf_deinit) struct buf kwargs = BUF_INIT;
    const struct db_val v[] = {db_text(plan), db_int(batch)};
    int r = db_exec(db,
                    "SELECT p.on_batch, p.migration, b.records, b.position, b.unchanged, b.stale, "
                    "b.skipped, b.quarantined, @age@, b.worker FROM scatter_plan p JOIN "
                    "scatter_batch b ON b.plan = p.plan WHERE p.plan = $1 AND b.batch = $2 AND "
                    "p.on_batch IS NOT NULL",
                    v, ARRAY_SIZE(v), &rows, e);

    if (r || rows.n_rows == 0)
        return r;
    const struct callback c = {plan, "batch", batch, db_cell(&rows, 0, 0)};
    const struct counts counts = {db_cell_i64(&rows, 0, 2), db_cell_i64(&rows, 0, 3),
                                  db_cell_i64(&rows, 0, 4), db_cell_i64(&rows, 0, 5),
                                  db_cell_i64(&rows, 0, 6), db_cell_i64(&rows, 0, 7)};

    begin_kwargs(&kwargs, &c, db_cell(&rows, 0, 1), state);
    write_counts(&kwargs, &counts);
    write_duration(&kwargs, db_cell_f64(&rows, 0, 8));
    write_text(&kwargs, "worker", db_cell(&rows, 0, 9));
    r = write_failures(&kwargs, db, plan, batch, f, e);
    buf_append_char(&kwargs, '}');
    if (!r)
        r = buf_ok(&kwargs);
    return r ? r : put(db, &c, &kwargs, e);
}

/* The row of the plan and the sums of its batches. */
static int read_plan(struct db *db, const char *plan, struct db_rows *ret_rows, struct err *e)
{
    return db_exec(
        db,
        "SELECT p.migration, p.state, p.reason, @plan_age@, p.total, coalesce(sum(b.position), 0), "
        "coalesce(sum(b.unchanged), 0), coalesce(sum(b.stale), 0), coalesce(sum(b.skipped), 0), "
        "coalesce(sum(b.quarantined), 0), p.on_planned, p.on_paused, p.on_failed, p.on_finish "
        "FROM scatter_plan p LEFT JOIN scatter_batch b ON b.plan = p.plan WHERE p.plan = $1 "
        "GROUP BY p.plan",
        (struct db_val[]){db_text(plan)}, 1, ret_rows, e);
}

static int plan_kwargs(struct db *db, const struct callback *c, const char *who,
                       const struct db_rows *rows, struct buf *dst, struct err *e)
{
    const struct counts counts = {db_cell_i64(rows, 0, 4), db_cell_i64(rows, 0, 5),
                                  db_cell_i64(rows, 0, 6), db_cell_i64(rows, 0, 7),
                                  db_cell_i64(rows, 0, 8), db_cell_i64(rows, 0, 9)};

    begin_kwargs(dst, c, db_cell(rows, 0, 0), db_cell(rows, 0, 1).p);
    write_counts(dst, &counts);
    write_duration(dst, db_cell_f64(rows, 0, 3));
    write_text(dst, "worker", slice_str(who && *who ? who : NULL));
    if (str_eq(c->event, "paused") || str_eq(c->event, "failed"))
        write_text(dst, "reason", db_cell(rows, 0, 2));
    int r = write_failures(dst, db, c->plan, 0, NULL, e);

    buf_append_char(dst, '}');
    return r ? r : buf_ok(dst);
}

/* What is told when a plan comes into a state: on_finish of every end but a cancelled one. */
int db_outbox_plan(struct db *db, const char *plan, const char *state, const char *who,
                   struct err *e)
{
    static const struct {
        const char *state, *event;
        size_t column;
    } told[] = {{"planned", "planned", 10},
                {"paused", "paused", 11},
                {"failed", "failed", 12},
                {"failed", "finished", 13},
                {"finished", "finished", 13}};
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    int r = 0;

    for (size_t i = 0; !r && i < ARRAY_SIZE(told); i++) {
        if (!str_eq(told[i].state, state))
            continue;
        if (!rows.arena)
            r = read_plan(db, plan, &rows, e);
        if (r || rows.n_rows == 0 || !db_cell(&rows, 0, told[i].column).p)
            continue;
        CLEANUP(buf_deinit) struct buf kwargs = BUF_INIT;
        const struct callback c = {plan, told[i].event, 0, db_cell(&rows, 0, told[i].column)};

        r = plan_kwargs(db, &c, who, &rows, &kwargs, e);
        if (!r)
            r = put(db, &c, &kwargs, e);
    }
    return r;
}

/* ---- sending ---- */

static int copy_rows(const struct db_rows *found, struct arena *a, struct db_outbox_row **ret_rows)
{
    struct db_outbox_row *rows = arena_alloc_array(a, found->n_rows + 1, sizeof(*rows));

    if (!rows)
        return -ENOMEM;
    for (size_t i = 0; i < found->n_rows; i++) {
        const char **const text[] = {&rows[i].plan,      &rows[i].event,  &rows[i].queue,
                                     &rows[i].signature, &rows[i].kwargs, &rows[i].task_id};

        rows[i].id = db_cell_i64(found, i, 0);
        for (size_t k = 0; k < ARRAY_SIZE(text); k++) {
            *text[k] = arena_strdup(a, db_cell(found, i, k + 1));
            if (!*text[k])
                return -ENOMEM;
        }
    }
    *ret_rows = rows;
    return 0;
}

/* $1: a plan whose fresh rows are wanted at once, or ''; $2: the age, in seconds, from which any other row is. */
#define DUE                                                                            \
    "o.sent_at IS NULL AND o.attempts < $3 AND ((o.plan = $1 AND o.tried_at IS NULL) " \
    "OR @outbox_age@ >= CAST($2 AS double precision))"

static int claim(struct db *db, const struct db_val *v, size_t n, struct db_rows *ret_rows,
                 struct err *e)
{
    int r = db_exec(db,
                    "SELECT o.id, o.plan, o.event, p.queue, o.signature, o.kwargs, o.task_id FROM "
                    "scatter_outbox o JOIN scatter_plan p ON p.plan = o.plan WHERE " DUE
                    " ORDER BY o.id LIMIT $4 @skip_o@",
                    v, n, ret_rows, e);

    for (size_t i = 0; !r && i < ret_rows->n_rows; i++)
        r = db_exec(db,
                    "UPDATE scatter_outbox SET tried_at = @now@, attempts = attempts + 1 "
                    "WHERE id = $1",
                    (struct db_val[]){db_int(db_cell_i64(ret_rows, i, 0))}, 1, NULL, e);
    return r;
}

/* NOLINTNEXTLINE(readability-function-size): eight parameters */
int db_outbox_claim(struct db *db, const char *plan, double age_s, size_t max, struct arena *a,
                    struct db_outbox_row **ret_rows, size_t *ret_n, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows found = {0};
    const char *age = arena_printf(a, "%.3f", age_s);
    const struct db_val v[] = {db_text(plan ? plan : ""), db_text(age), db_int(MAX_ATTEMPTS),
                               db_int((int64_t)max)};
    int r = age ? db->ops->begin(db, 0, e) : -ENOMEM;

    if (r)
        return r;
    r = db_end(db, claim(db, v, ARRAY_SIZE(v), &found, e), e);
    if (!r)
        r = copy_rows(&found, a, ret_rows);
    if (!r)
        *ret_n = found.n_rows;
    return r;
}

int db_outbox_sent(struct db *db, int64_t id, const char *error, struct err *e)
{
    const struct db_val v[] = {db_int(id), db_text(error)};
    int r = db->ops->begin(db, 0, e);

    if (r)
        return r;
    r = db_exec(db,
                error ? "UPDATE scatter_outbox SET error = $2 WHERE id = $1"
                      : "UPDATE scatter_outbox SET sent_at = @now@, error = $2 WHERE id = $1",
                v, ARRAY_SIZE(v), NULL, e);
    return db_end(db, r, e);
}

int db_outbox_again(struct db *db, const char *plan, int64_t batch, struct err *e)
{
    const struct db_val v[] = {db_text(plan), db_int(batch)};
    int r = db->ops->begin(db, 0, e);

    if (r)
        return r;
    r = db_exec(db,
                "UPDATE scatter_outbox SET sent_at = NULL, tried_at = NULL WHERE plan = $1 AND "
                "(batch = $2 OR (batch IS NULL AND event IN ('failed', 'finished')))",
                v, ARRAY_SIZE(v), NULL, e);
    return db_end(db, r, e);
}
