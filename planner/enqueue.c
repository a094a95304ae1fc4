/* SPDX-License-Identifier: Apache-2.0 */
/* The second phase: one Celery message for each batch that is still "planned".
 *
 * Groups are pushed in one pipeline and then marked as queued. Killed between the two, the next run sends a group
 * again: the messages have the same task ids, and a worker that finds its batch done or leased acks without work.
 * What must never happen is the other order, a batch marked as queued that no message carries. */

#include "planner/plan.h"

#include "celeryc/migrate/sweep.h"
#include "celeryc/transport/transport.h"
#include "planner/stop.h"

#include <errno.h>

#define GROUP 500

struct sender {
    struct servers *s;
    const char *queue;
    char *list; /* the queue's key */
    struct db_plan plan;
    struct arena *arena; /* of the group */
};

/* Sends the next group; *ret_n 0 when there is none. */
static int send_group(struct sender *n, int64_t first, int64_t *ret_last, size_t *ret_n,
                      int64_t *ret_records, struct err *e)
{
    struct db_batch_row *rows;
    size_t found = 0;
    int code;

    arena_reset(n->arena);
    rows = arena_alloc_array(n->arena, GROUP, sizeof(*rows));
    if (!rows)
        return -ENOMEM;
    code = db_batches_planned(n->s->db, n->plan.plan, first, GROUP, n->arena, rows, &found, e);
    for (size_t i = 0; i < found && !code; i++) {
        code = migrate_queue_message(n->s->redis, n->queue, n->list, &n->plan, &rows[i]);
        *ret_records += rows[i].count;
    }
    if (!code && found)
        code = redis_sync_flush(n->s->redis, e);
    if (!code && found)
        code = db_batches_queued(n->s->db, n->plan.plan, rows[0].batch, rows[found - 1].batch, e);
    if (code)
        return code;
    *ret_last = found ? rows[found - 1].batch : first;
    *ret_n = found;
    return 0;
}

static int send_all(struct sender *n, struct progress *p, struct result *r, struct err *e)
{
    int64_t first = 1, records = 0;
    size_t found;

    progress_begin(p, "enqueueing");
    do {
        int64_t last;
        int code = stop_requested() ? err_set(e, -EINTR, "interrupted") : 0;

        if (!code)
            code = send_group(n, first, &last, &found, &records, e);
        if (code)
            return err_prefix(
                e, code < 0 ? code : -EIO,
                "plan %s is made, but %lld of its %lld batches may lack their message; "
                "run scatter-plan enqueue --plan %s",
                n->plan.plan, (long long)(n->plan.n_batches - r->enqueued),
                (long long)n->plan.n_batches, n->plan.plan);
        r->enqueued += (int64_t)found;
        first = last + 1;
        progress_update(p, records, r->enqueued, n->plan.total);
    } while (found);
    progress_end(p, records, r->enqueued, n->plan.total);
    return 0;
}

static bool is_over(const char *state)
{
    return str_eq(state, "finished") || str_eq(state, "failed") || str_eq(state, "cancelled");
}

static int fill_result(const struct db_plan *p, const char *queue, struct result *r)
{
    r->total = p->total;
    r->batches = p->n_batches;
    free(r->plan);
    free(r->store);
    free(r->queue);
    r->plan = slice_dup(slice_str(p->plan));
    r->store = slice_dup(slice_str(p->store));
    r->queue = slice_dup(slice_str(queue));
    return r->plan && r->store && r->queue ? 0 : -ENOMEM;
}

static int note(struct result *r, const char *plan, const char *state)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    buf_appendf(&b, "plan %s is %s already: nothing was sent", plan, state);
    free(r->note);
    r->note = buf_take(&b);
    return r->note ? 0 : -ENOMEM;
}

/* A plan that is made outside of its window is no mistake: its messages go when the window begins. */
static int paused(struct db *db, const char *plan, const struct args *a, struct result *r,
                  struct err *e)
{
    CLEANUP(db_plan_status_deinit) struct db_plan_status s = {0};
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    if (a->command == COMMAND_CREATE && a->windows.n) {
        int code = db_plan_status(db, plan, &s, e);

        if (code)
            return code < 0 ? code : -EIO;
        buf_appendf(&b, "the plan waits: %s", s.reason ? s.reason : "");
        free(r->note);
        r->note = buf_take(&b);
        return r->note ? 0 : -ENOMEM;
    }
    return err_set(e, -EINVAL, "plan %s is paused: resume it, which sends its messages again",
                   plan);
}

int plan_enqueue(struct servers *s, const struct args *a, const char *plan, struct progress *p,
                 struct result *ret_r, struct err *e)
{
    CLEANUP(arena_free) struct arena *keep = arena_new();
    CLEANUP(arena_free) struct arena *group = arena_new();
    CLEANUP(mem_free) char *list = NULL;
    struct sender n = {.s = s, .arena = group};
    const char *state = NULL;
    int code;

    if (!keep || !group)
        return -ENOMEM;
    code = db_plan_get(s->db, plan, keep, &n.plan, &state, e);
    if (code)
        return code < 0 ? code : -EIO;
    n.queue = a->command == COMMAND_ENQUEUE && a->queue ? a->queue : n.plan.queue;
    code = fill_result(&n.plan, n.queue, ret_r);
    if (code)
        return code;
    if (is_over(state))
        return note(ret_r, plan, state);
    if (str_eq(state, "paused"))
        return paused(s->db, plan, a, ret_r, e);
    list = transport_queue_key(a->key_prefix, n.queue, 0);
    if (!list)
        return -ENOMEM;
    n.list = list;
    return send_all(&n, p, ret_r, e);
}
