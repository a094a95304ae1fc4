/* SPDX-License-Identifier: Apache-2.0 */
/* Plans made from plans: their parentage, and what a re-drive has resolved.
 *
 * A record that was set aside names the re-drive that has it and its place there, written with the re-drive's own rows.
 * Whether it is resolved follows from that batch's checkpoint and outcomes alone, whatever became of the re-drive; what
 * is resolved stays so. A re-drive may leave records behind that a later one takes: then the later one resolves both. */

#include "celeryc/db/db_priv.h"

#include <errno.h>

#define GROUP 500 /* drives in one statement */

static int write_callbacks(struct db *db, const struct db_plan *p, struct err *e)
{
    const struct db_val v[] = {db_text(p->plan), db_text(p->on_planned), db_text(p->on_paused),
                               db_text(p->on_failed)};

    if (!p->on_planned && !p->on_paused && !p->on_failed)
        return 0;
    return db_exec(db,
                   "UPDATE scatter_plan SET on_planned = $2, on_paused = $3, on_failed = $4 "
                   "WHERE plan = $1",
                   v, ARRAY_SIZE(v), NULL, e);
}

static int write_parent(struct db *db, const struct db_plan *p, struct err *e)
{
    const struct db_val v[] = {db_text(p->plan), db_text(p->kind), db_text(p->parent)};

    return db_exec(
        db,
        "UPDATE scatter_plan SET kind = $2, parent = $3, (retry_on, policy, max_quarantined, "
        "max_quarantined_batch, max_failure_rate, rate, chunk_ms, max_workers, windows, statement) "
        "= (SELECT coalesce(scatter_plan.retry_on, q.retry_on), q.policy, q.max_quarantined, "
        "q.max_quarantined_batch, q.max_failure_rate, q.rate, q.chunk_ms, q.max_workers, "
        "q.windows, CASE WHEN $2 = 'undo' THEN NULL ELSE q.statement END FROM scatter_plan q "
        "WHERE q.plan = $3) WHERE plan = $1",
        v, ARRAY_SIZE(v), NULL, e);
}

/* (batch, position, batch here, position here), ... as VALUES, whose columns both dialects name alike. */
static void write_values(struct buf *sql, const struct db_plan *p, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++) {
        const long long n = (long long)i, size = (long long)p->batch_size;

        buf_appendf(sql, "%s(%lld, %lld, %lld, %lld)", i > from ? ", " : "",
                    (long long)p->drives[i].batch, (long long)p->drives[i].position, n / size + 1,
                    n % size);
    }
}

static int mark_group(struct db *db, const struct db_plan *p, size_t from, size_t to, struct err *e)
{
    CLEANUP(buf_deinit) struct buf before = BUF_INIT, own = BUF_INIT;
    const struct db_val v[] = {db_text(p->plan), db_text(p->parent)};

#define SET_DRIVEN \
    " SET driven_by = $1, driven_batch = v.column3, driven_position = v.column4 FROM (VALUES "
    /* The same record in an earlier re-drive that did not do it. */
    buf_append_str(&before, "UPDATE scatter_outcome AS c" SET_DRIVEN);
    write_values(&before, p, from, to);
    buf_append_str(&before,
                   ") AS v JOIN scatter_outcome AS o ON o.plan = $2 AND o.batch = v.column1 AND "
                   "o.position = v.column2 WHERE c.plan = o.driven_by AND c.batch = "
                   "o.driven_batch AND c.position = o.driven_position");
    buf_append_str(&own, "UPDATE scatter_outcome AS o" SET_DRIVEN);
    write_values(&own, p, from, to);
    buf_append_str(&own, ") AS v WHERE o.plan = $2 AND o.batch = v.column1 AND o.position = "
                         "v.column2");
    if (buf_ok(&before) || buf_ok(&own))
        return -ENOMEM;
    int r = db_exec(db, before.data, v, ARRAY_SIZE(v), NULL, e);

    return r ? r : db_exec(db, own.data, v, ARRAY_SIZE(v), NULL, e);
}

/* Batches that failed, and of which the re-drive has the rest. */
static int mark_failed(struct db *db, const struct db_plan *p, struct err *e)
{
    int r = 0;

    for (size_t i = 0; !r && i < p->n_failed; i++)
        r = db_exec(db, "UPDATE scatter_batch SET driven_by = $1 WHERE plan = $2 AND batch = $3",
                    (struct db_val[]){db_text(p->plan), db_text(p->parent), db_int(p->failed[i])},
                    3, NULL, e);
    return r;
}

int db_plan_extras(struct db *db, const struct db_plan *p, struct err *e)
{
    int r = write_callbacks(db, p, e);

    if (!r && p->kind)
        r = write_parent(db, p, e);
    for (size_t i = 0; !r && i < p->n_drives; i += GROUP)
        r = mark_group(db, p, i, MIN(i + GROUP, p->n_drives), e);
    if (!r)
        r = mark_failed(db, p, e);
    return r ? r : db_outbox_plan(db, p->plan, "planned", p->created_by, e);
}

/* ---- what was resolved ---- */

/* Records of a re-drive that lie before its checkpoint and were not set aside again. */
static const char done_now[] =
    "UPDATE scatter_outcome AS o SET resolved_by = o.driven_by WHERE (o.driven_by = $1 OR o.plan = "
    "$1) AND o.driven_by IS NOT NULL AND o.resolved_by IS NULL AND EXISTS (SELECT 1 FROM "
    "scatter_batch b WHERE b.plan = o.driven_by AND b.batch = o.driven_batch AND "
    "o.driven_position < b.position) AND NOT EXISTS (SELECT 1 FROM scatter_outcome c WHERE c.plan "
    "= o.driven_by AND c.batch = o.driven_batch AND c.position = o.driven_position)";

/* Records that an earlier re-drive had, and a later one did. */
static const char done_later[] =
    "UPDATE scatter_outcome AS o SET resolved_by = c.resolved_by FROM scatter_outcome AS c WHERE "
    "o.driven_by IS NOT NULL AND o.resolved_by IS NULL AND c.plan = o.driven_by AND c.batch = "
    "o.driven_batch AND c.position = o.driven_position AND c.resolved_by IS NOT NULL";

/* The report of a plan, and its parent's, tell something else now. */
static int forget_reports(struct db *db, const char *plan, struct err *e)
{
    return db_exec(db,
                   "UPDATE scatter_plan SET report_sha256 = NULL WHERE plan = $1 OR plan = (SELECT "
                   "c.parent FROM scatter_plan c WHERE c.plan = $1)",
                   (struct db_val[]){db_text(plan)}, 1, NULL, e);
}

static int counted_update(struct db *db, const char *sql, const struct db_val *v, size_t n,
                          int64_t *ret_changed, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    int r = db_exec(db, sql, v, n, &rows, e);

    if (!r)
        *ret_changed = rows.changed;
    return r;
}

static int resolve(struct db *db, const char *plan, int64_t *ret_n, struct err *e)
{
    int64_t n = 0, more = 1;
    int r = counted_update(db, done_now, (struct db_val[]){db_text(plan)}, 1, &n, e);

    for (; !r && more; n += more)
        r = counted_update(db, done_later, NULL, 0, &more, e);
    if (!r)
        *ret_n = n;
    return r;
}

int db_resolve(struct db *db, const char *plan, struct err *e)
{
    int64_t n;
    int r = forget_reports(db, plan, e);

    return r ? r : resolve(db, plan, &n, e);
}

/* A report that is being written must not lose its digest to another that finds nothing new. */
static int resolve_news(struct db *db, const char *plan, struct err *e)
{
    int64_t n = 0;
    int r = resolve(db, plan, &n, e);

    return !r && n ? forget_reports(db, plan, e) : r;
}

int db_plan_resolve(struct db *db, const char *plan, struct err *e)
{
    int r = db->ops->begin(db, 0, e);

    return r ? r : db_end(db, resolve_news(db, plan, e), e);
}

static int one_update(struct db *db, const char *sql, const char *plan, const char *text,
                      int64_t *ret_n, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    const struct db_val v[] = {db_text(plan), db_text(text)};
    int r = db->ops->begin(db, 0, e);

    if (r)
        return r;
    r = db_end(db, db_exec(db, sql, v, text ? 2 : 1, &rows, e), e);
    if (!r && ret_n)
        *ret_n = rows.changed;
    return r;
}

int db_plan_forget_gone(struct db *db, const char *plan, const char *sql_gone, int64_t *ret_n,
                        struct err *e)
{
    CLEANUP(buf_deinit) struct buf sql = BUF_INIT;

    buf_appendf(&sql,
                "UPDATE scatter_outcome AS o SET resolved_by = 'gone' WHERE o.plan = $1 AND "
                "o.resolved_by IS NULL AND %s",
                sql_gone);
    return buf_ok(&sql) ? -ENOMEM : one_update(db, sql.data, plan, NULL, ret_n, e);
}

int db_plan_note_verification(struct db *db, const char *plan, const char *json, struct err *e)
{
    return one_update(
        db,
        "UPDATE scatter_plan SET verification = $2, verified_at = @now@, report_sha256 = NULL "
        "WHERE plan = $1",
        plan, json, NULL, e);
}

int db_plan_note_report(struct db *db, const char *plan, const char *sha256, struct err *e)
{
    return one_update(db, "UPDATE scatter_plan SET report_sha256 = $2 WHERE plan = $1", plan,
                      sha256, NULL, e);
}
