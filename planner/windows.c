/* SPDX-License-Identifier: Apache-2.0 */
/* Windows of plans: when they begin and end is kept in the plan's row, where workers see it; what has begun is resumed and
 * what is over is paused, by every sweep. */

#include "planner/plan.h"
#include "planner/window.h"

#include "celeryc/base/clock.h"
#include "celeryc/db/rows.h"
#include "celeryc/message/json.h"

#include <errno.h>

int windows_json(const struct args *a, struct buf *dst, struct err *e)
{
    struct window w;
    int r = 0;

    buf_append_char(dst, '[');
    for (size_t i = 0; !r && i < a->windows.n; i++) {
        r = window_parse(a->windows.items[i], &w, e);
        buf_append_str(dst, i ? ", " : "");
        json_write_string(dst, slice_str(a->windows.items[i]));
    }
    buf_append_char(dst, ']');
    return r ? r : buf_ok(dst);
}

static int parse_all(struct arena *a, const char *text, struct window **ret_w, size_t *ret_n,
                     struct err *e)
{
    struct json_val v;
    struct json_iter it;
    struct slice s;
    size_t n = 0;
    int r = json_scan(slice_str(text), &v, e);
    struct window *w = arena_alloc_array(a, strlen(text) / 4 + 1, sizeof(*w));

    if (!w)
        return -ENOMEM;
    if (r)
        return r;
    json_iter_init(&it, v);
    while (!r && json_next(&it)) {
        r = json_string_z(a, it.val, &s);
        if (!r)
            r = window_parse(s.p, &w[n++], e);
    }
    *ret_w = w;
    *ret_n = n;
    return r;
}

/* One plan. cells: plan, state, windows, whether it waits for a window that has begun. */
static int roll(struct db *db, struct arena *a, const struct db_rows *rows, size_t i, struct err *e)
{
    const char *plan = db_cell(rows, i, 0).p;
    struct window *w = NULL;
    struct window_times t;
    size_t n = 0;
    char reason[120], when[64];
    bool changed;
    int r = parse_all(a, db_cell(rows, i, 2).p, &w, &n, e);

    if (r || n == 0)
        return r;
    windows_at(w, n, clock_wall_us() / 1000000, &t);
    window_clock(&w[0], t.next_s, when, sizeof(when));
    (void)snprintf(reason, sizeof(reason), "outside of its maintenance window, next start %s",
                   when);
    const struct db_window row = {
        .plan = plan, .ends_s = t.ends_s, .next_s = t.next_s, .reason = reason};

    r = db_plan_window(db, &row, e);
    if (!r && !t.open)
        r = db_plan_close_window(db, plan, e);
    if (!r && !t.open)
        r = db_plan_window(db, &row, e);
    if (!r && t.open && db_cell_true(rows, i, 3))
        r = db_plan_control(db, DB_PLAN_RESUME, plan, "window", NULL, &changed, e);
    return r;
}

int windows_roll(struct db *db, const char *plan, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    CLEANUP(arena_free) struct arena *a = arena_new();
    const struct db_val v[] = {db_text(plan)};
    int r = a ? db_read(db,
                        "SELECT p.plan, p.state, p.windows, CASE WHEN p.state = 'paused' AND "
                        "p.resume_at IS NOT NULL THEN 1 ELSE 0 END FROM scatter_plan p WHERE "
                        "p.windows IS NOT NULL AND (CAST($1 AS text) IS NULL OR p.plan = $1) AND "
                        "p.state IN ('planned', 'queued', 'running', 'draining', 'paused')",
                        v, 1, &rows, e)
              : -ENOMEM;

    for (size_t i = 0; !r && i < rows.n_rows; i++)
        r = roll(db, a, &rows, i, e);
    return r;
}

/* At its making: what was asked for is written down, and a plan that is outside waits. */
int windows_begin(struct db *db, const struct args *a, const char *plan, struct err *e)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;

    if (a->windows.n == 0)
        return 0;
    int r = windows_json(a, &text, e);

    if (!r)
        r = db_plan_window(db, &(struct db_window){.plan = plan, .windows = text.data}, e);
    return r ? r : windows_roll(db, plan, e);
}
