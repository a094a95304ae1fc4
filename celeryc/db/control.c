/* SPDX-License-Identifier: Apache-2.0 */
/* The life of plans and batches in the control tables, for both dialects.
 *
 * A batch: planned -> queued -> running -> done | failed, with running -> queued (released), queued -> parked (its plan
 * is paused) and -> cancelled. A plan: planned -> queued -> running -> finished | failed, and paused, cancelled, which
 * only people set. Rows are always locked batch first, then plan.
 *
 * A lease is a token that grows with every claim, and an end by the database's own clock. Whoever holds an old token can
 * write nothing: every later statement names the token. The end only decides who may claim, never what is right. */

#include "celeryc/db/db_priv.h"

#include <errno.h>

int db_end(struct db *db, int r, struct err *e)
{
    if (!r)
        return db->ops->commit(db, e);
    db->ops->rollback(db);
    return r;
}

int db_note_event(struct db *db, const char *plan, int64_t batch, const char *who,
                  const char *event, const char *detail, struct err *e)
{
    const struct db_val v[] = {db_text(plan), batch ? db_int(batch) : db_text(NULL), db_text(who),
                               db_text(event), db_text(detail)};

    return db_exec(db,
                   "INSERT INTO scatter_event (plan, batch, who, event, detail) "
                   "VALUES ($1, $2, $3, $4, $5)",
                   v, ARRAY_SIZE(v), NULL, e);
}

/* ---- planning ---- */

static const char *or_empty(const char *s)
{
    return s ? s : "";
}

int db_plan_row_insert(struct db *db, const struct db_plan *p, int64_t *ret_inserted, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    const struct db_val v[] = {
        db_text(p->plan),
        db_text(p->migration),
        db_text(p->table),
        db_text(p->key),
        db_text(p->columns_json ? p->columns_json : "[]"),
        db_text(or_empty(p->store)),
        db_text(or_empty(p->queue)),
        db_text(or_empty(p->database)),
        db_text(or_empty(p->query)),
        db_text(p->params_json ? p->params_json : "{}"),
        db_text(p->on_batch),
        db_text(p->on_finish),
        db_text(p->retry_on),
        db_int(p->total),
        db_int(p->n_batches),
        db_text(or_empty(p->created_by)),
    };
    int r = db_exec(db,
                    "INSERT INTO scatter_plan (plan, migration, table_name, key_column, columns, "
                    "store, queue, database, query, params, on_batch, on_finish, retry_on, total, "
                    "n_batches, created_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, "
                    "$12, $13, $14, $15, $16) ON CONFLICT (plan) DO NOTHING",
                    v, ARRAY_SIZE(v), &rows, e);

    if (!r)
        *ret_inserted = rows.changed;
    return r;
}

/* The columns that a planner may set, and their types. */
static const struct {
    const char *column, *type;
} settable[] = {
    {"policy", "text"},
    {"max_quarantined", "bigint"},
    {"max_quarantined_batch", "bigint"},
    {"max_failure_rate", "double precision"},
    {"canary", "bigint"},
    {"statement", "text"},
    {"version", "text"},
};

static int apply_setting(struct db *db, const char *plan, const struct db_setting *s, struct err *e)
{
    const struct db_val v[] = {db_text(plan), db_text(s->value)};
    char sql[160];

    for (size_t i = 0; i < ARRAY_SIZE(settable); i++) {
        if (!str_eq(settable[i].column, s->column))
            continue;
        (void)snprintf(sql, sizeof(sql),
                       "UPDATE scatter_plan SET %s = CAST($2 AS %s) WHERE plan = $1",
                       settable[i].column, settable[i].type);
        return db_exec(db, sql, v, ARRAY_SIZE(v), NULL, e);
    }
    return err_set(e, -EINVAL, "plans have no setting \"%s\" in this version", s->column);
}

int db_plan_insert(struct db *db, const struct db_plan *p, const struct db_batch_row *rows,
                   size_t n, struct err *e)
{
    int64_t inserted = 0;
    int r = db->ops->begin(db, 0, e);

    if (r)
        return r;
    r = db_plan_row_insert(db, p, &inserted, e);
    if (!r && inserted)
        r = db->ops->insert_batches(db, p->plan, rows, n, e);
    for (size_t i = 0; !r && inserted && i < p->n_settings; i++)
        r = apply_setting(db, p->plan, &p->settings[i], e);
    if (!r && inserted)
        r = db_note_event(db, p->plan, 0, or_empty(p->created_by), "planned", "", e);
    if (!r && inserted)
        r = db_plan_extras(db, p, e);
    return db_end(db, r, e);
}

int db_batches_queued(struct db *db, const char *plan, int64_t first, int64_t last, struct err *e)
{
    const struct db_val v[] = {db_text(plan), db_int(first), db_int(last)};
    bool moved;
    int r = db->ops->begin(db, 0, e);

    if (r)
        return r;
    r = db_exec(db,
                "UPDATE scatter_batch SET state = 'queued', sent_at = @now@ WHERE plan = $1 AND "
                "batch >= $2 AND "
                "batch <= $3 AND state = 'planned'",
                v, ARRAY_SIZE(v), NULL, e);
    if (!r)
        r = db_plan_move(db,
                         &(struct db_plan_move){.plan = plan,
                                                .to = DB_PLAN_QUEUED,
                                                .from = DB_PLAN_MASK(DB_PLAN_PLANNED)},
                         &moved, e);
    return db_end(db, r, e);
}
