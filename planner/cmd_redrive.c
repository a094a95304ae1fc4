/* SPDX-License-Identifier: Apache-2.0 */
/* scatter-plan redrive: a child plan of the records that a plan set aside, with their present values.
 *
 * The records come from one query, a join of scatter_outcome with the table, in one snapshot. A record that an earlier
 * re-drive still works on is left to it: nothing is ever done by two plans at a time. */

#include "planner/child.h"
#include "planner/failed.h"

#include "celeryc/base/num.h"

#include <errno.h>

struct redrive {
    const struct args *args;
    struct parent parent;
    struct buf selection; /* of outcomes o: what is asked for, and open */
    struct plan_child child;
};

static void redrive_deinit(struct redrive *d)
{
    parent_deinit(&d->parent);
    buf_deinit(&d->selection);
    free(d->child.drives);
}

DEFINE_CLEANUP_VALUE(struct redrive, redrive_deinit)

static void filter(struct buf *b, const char *what, const char *value)
{
    buf_appendf(b, " AND %s = ", what);
    db_quote_text(b, slice_str(value));
}

/* Open outcomes that were asked for, and that no living re-drive has. */
static int select_outcomes(struct redrive *d)
{
    const struct args *a = d->args;
    struct buf *b = &d->selection;

    buf_append_str(b, "o.plan = ");
    db_quote_text(b, slice_str(d->parent.plan.plan));
    buf_append_str(b,
                   " AND o.resolved_by IS NULL AND (o.driven_by IS NULL OR EXISTS (SELECT 1 FROM "
                   "scatter_plan d WHERE d.plan = o.driven_by AND d.state IN ('finished', "
                   "'failed', 'cancelled') AND NOT EXISTS (SELECT 1 FROM scatter_batch w WHERE "
                   "w.plan = d.plan AND w.state = 'running')))");
    if (a->outcome)
        filter(b, "o.outcome", a->outcome);
    else
        buf_append_str(b, " AND o.outcome IN ('quarantined', 'stale')");
    if (a->error_class)
        filter(b, "o.error_class", a->error_class);
    if (a->sqlstate)
        filter(b, strlen(a->sqlstate) == 2 ? "substr(o.sqlstate, 1, 2)" : "o.sqlstate",
               a->sqlstate);
    return buf_ok(b);
}

/* SELECT t.*, place FROM table t JOIN (outcomes) o ON key = record_key */
static int write_query(struct redrive *d, struct db *db, struct buf *sql, struct err *e)
{
    buf_append_str(sql, "SELECT t.*, o.batch AS scatter_batch, o.position AS scatter_position "
                        "FROM ");
    db_quote_table(sql, d->parent.plan.table);
    buf_append_str(sql, " AS t JOIN (SELECT o.record_key, o.batch, o.position FROM "
                        "scatter_outcome AS o WHERE ");
    buf_append_slice(sql, buf_slice(&d->selection));
    buf_append_str(sql, " ORDER BY o.batch, o.position");
    if (d->args->limit)
        buf_appendf(sql, " LIMIT %lld", (long long)d->args->limit);
    buf_append_str(sql, ") AS o ON ");
    return parent_key_condition(&d->parent, db, sql, e);
}

/* Records whose row was deleted: nothing is left to be done for them. */
static int forget_gone(struct redrive *d, struct db *db, int64_t *ret_n, struct err *e)
{
    CLEANUP(buf_deinit) struct buf where = BUF_INIT;

    buf_append_slice(&where, buf_slice(&d->selection));
    buf_append_str(&where, " AND NOT EXISTS (SELECT 1 FROM ");
    db_quote_table(&where, d->parent.plan.table);
    buf_append_str(&where, " AS t WHERE ");
    int r = parent_key_condition(&d->parent, db, &where, e);

    buf_append_char(&where, ')');
    if (!r)
        r = buf_ok(&where);
    return r ? r : db_plan_forget_gone(db, d->parent.plan.plan, where.data, ret_n, e);
}

static int take_place(void *arg, const struct slice *values, size_t n, struct err *e)
{
    struct plan_child *c = &((struct redrive *)arg)->child;
    struct db_drive at;

    if (num_parse_i64(values[n - 2], &at.batch) || num_parse_i64(values[n - 1], &at.position))
        return err_set(e, -EBADMSG, "scatter_outcome has a place that is no number");
    if (c->n_drives == c->cap_drives) {
        size_t cap = c->cap_drives ? 2 * c->cap_drives : 256;
        struct db_drive *more = reallocarray(c->drives, cap, sizeof(*more));

        if (!more)
            return -ENOMEM;
        c->drives = more;
        c->cap_drives = cap;
    }
    c->drives[c->n_drives++] = at;
    return 0;
}

static int look_at_parent(struct redrive *d, struct buf *sql, int64_t *ret_gone, struct err *e)
{
    CLEANUP(servers_deinit) struct servers s = {0};
    int r = servers_open_db(&s, d->args->database_url, e);

    if (!r)
        r = parent_load(&d->parent, s.db, d->args, e);
    if (!r)
        r = db_plan_resolve(s.db, d->parent.plan.plan, e);
    if (!r)
        r = select_outcomes(d);
    if (!r && !d->args->dry_run)
        r = forget_gone(d, s.db, ret_gone, e);
    if (!r)
        r = write_query(d, s.db, sql, e);
    return r > 0 ? -EIO : r;
}

static int note(struct result *r, const struct redrive *d, int64_t gone)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    if (gone)
        buf_appendf(&b, "%lld records of plan %s have no row any more: marked as gone",
                    (long long)gone, d->parent.plan.plan);
    else if (r->total == 0)
        buf_appendf(&b, "plan %s has no open record of this kind", d->parent.plan.plan);
    if (b.len == 0)
        return 0;
    free(r->note);
    r->note = buf_take(&b);
    return r->note ? 0 : -ENOMEM;
}

int plan_redrive(const struct args *a, struct progress *p, struct result *ret_r, struct err *e)
{
    static const char *const place[] = {"scatter_batch", "scatter_position"};
    CLEANUP(redrive_deinit) struct redrive d = {.args = a, .selection = BUF_INIT};
    CLEANUP(buf_deinit) struct buf sql = BUF_INIT;
    int64_t gone = 0;

    if (a->outcome && str_eq(a->outcome, "failed"))
        return redrive_failed(a, p, ret_r, e);
    int r = look_at_parent(&d, &sql, &gone, e);

    if (r)
        return r;
    d.child = (struct plan_child){.kind = "redrive",
                                  .parent = d.parent.plan.plan,
                                  .arg = &d,
                                  .extra = place,
                                  .n_extra = ARRAY_SIZE(place),
                                  .accept = take_place};
    d.parent.args.query = sql.data;
    r = plan_make(&d.parent.args, &d.child, p, ret_r, e);
    return r ? r : note(ret_r, &d, gone);
}
