/* SPDX-License-Identifier: Apache-2.0 */
/* celeryc/db/outbox.c, child.c, pg_canon.c: callbacks written with a state, what a re-drive resolves, forms of values. */

#include "celeryc/db/rows.h"
#include "plan.h"

#include <criterion/criterion.h>

static void move(struct fixture *f, enum db_plan_state to)
{
    struct err e = ERR_INIT;
    bool moved = false;
    const struct db_plan_move m = {.plan = "p", .to = to, .who = "tester", .reason = "because"};

    cr_assert_eq(db_plan_set_state(f->db, &m, &moved, &e), 0, "%s", e.text);
    cr_assert(moved);
}

static size_t take(struct fixture *f, const char *plan, double age_s, struct arena *a,
                   struct db_outbox_row **ret_rows)
{
    struct err e = ERR_INIT;
    size_t n = 0;

    cr_assert_eq(db_outbox_claim(f->db, plan, age_s, 10, a, ret_rows, &n, &e), 0, "%s", e.text);
    return n;
}

BOTH(callbacks_come_with_the_state_and_are_taken_once)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct db_outbox_row *rows;
    struct err e = ERR_INIT;

    make_plan(f, 1, 10);
    run_sql(f->db,
            "UPDATE scatter_plan SET on_paused = 'tasks.paused', on_failed = 'tasks.failed', "
            "on_finish = 'tasks.end'");
    move(f, DB_PLAN_PAUSED);
    move(f, DB_PLAN_RUNNING);
    move(f, DB_PLAN_PAUSED);
    cr_assert_eq(take(f, NULL, 30, a, &rows), 0, "fresh ones are their writer's");
    cr_assert_eq(take(f, "p", 30, a, &rows), 2);
    cr_assert_str_eq(rows[0].signature, "tasks.paused");
    cr_assert_str_neq(rows[0].task_id, rows[1].task_id, "a second pause is another callback");
    cr_assert(strstr(rows[0].kwargs, "\"reason\": \"because\""), "%s", rows[0].kwargs);
    cr_assert(strstr(rows[0].kwargs, "\"remaining\": 10}"), "%s", rows[0].kwargs);
    int64_t first = rows[0].id, second = rows[1].id;

    cr_assert_eq(take(f, "p", 30, a, &rows), 0, "they are taken");
    cr_assert_eq(db_outbox_sent(f->db, first, NULL, &e), 0);
    cr_assert_eq(db_outbox_sent(f->db, second, "the broker is away", &e), 0);
    cr_assert_eq(take(f, NULL, 0, a, &rows), 1, "what was not sent is anybody's in time");
    cr_assert_eq(rows[0].id, second);
    move(f, DB_PLAN_FAILED);
    cr_assert_eq(take(f, "p", 30, a, &rows), 2);
    cr_assert_str_eq(rows[0].event, "failed");
    cr_assert_str_eq(rows[1].event, "finished");
    for (size_t i = 0; i < 2; i++)
        cr_assert_eq(db_outbox_sent(f->db, rows[i].id, NULL, &e), 0);
    cr_assert_eq(db_outbox_again(f->db, "p", 1, &e), 0);
    cr_assert_eq(take(f, "p", 30, a, &rows), 2, "sent again for a delivery that came again");
}

BOTH(a_change_that_is_rolled_back_tells_nobody)
{
    struct err e = ERR_INIT;
    bool moved;
    const struct db_plan_move m = {.plan = "p", .to = DB_PLAN_PAUSED};

    make_plan(f, 1, 10);
    run_sql(f->db, "UPDATE scatter_plan SET on_paused = 'tasks.paused'");
    cr_assert_eq(f->db->ops->begin(f->db, 0, &e), 0);
    cr_assert_eq(db_plan_move(f->db, &m, &moved, &e), 0, "%s", e.text);
    f->db->ops->rollback(f->db);
    cr_assert_eq(query_int(f->db, "SELECT count(*) FROM scatter_outbox"), 0);
}

static void make_child(struct fixture *f, const char *plan, int64_t position)
{
    const struct db_drive drives[] = {{1, 2}, {1, 5}, {1, 7}};
    const struct db_batch_row rows[] = {{1, "file:///x", "00", 2}, {2, "file:///y", "00", 1}};
    const struct db_plan p = {.plan = plan,
                              .migration = "m",
                              .table = "parcel",
                              .key = "id",
                              .total = 3,
                              .n_batches = 2,
                              .kind = "redrive",
                              .parent = "p",
                              .drives = drives,
                              .n_drives = 3,
                              .batch_size = 2};
    struct err e = ERR_INIT;
    char sql[200];

    cr_assert_eq(db_plan_insert(f->db, &p, rows, 2, &e), 0, "%s", e.text);
    (void)snprintf(sql, sizeof(sql),
                   "UPDATE scatter_batch SET position = %d WHERE plan = '%s' AND batch = 1",
                   (int)position, plan);
    run_sql(f->db, sql);
}

BOTH(a_redrive_resolves_what_lies_before_its_checkpoints)
{
    struct err e = ERR_INIT;

    make_plan(f, 1, 10);
    run_sql(f->db, "UPDATE scatter_plan SET max_quarantined = 7");
    run_sql(f->db,
            "INSERT INTO scatter_outcome (plan, batch, position, record_key, outcome) VALUES "
            "('p', 1, 2, '3', 'stale'), ('p', 1, 5, '6', 'quarantined'), ('p', 1, 7, '8', "
            "'quarantined')");
    make_child(f, "c1", 2);
    cr_assert_eq(query_int(f->db, "SELECT max_quarantined FROM scatter_plan WHERE plan = 'c1'"), 7);
    run_sql(f->db,
            "INSERT INTO scatter_outcome (plan, batch, position, record_key, outcome) VALUES "
            "('c1', 1, 1, '6', 'quarantined')");
    cr_assert_eq(db_plan_resolve(f->db, "p", &e), 0, "%s", e.text);
    cr_assert_eq(query_int(f->db, "SELECT position FROM scatter_outcome WHERE resolved_by = 'c1'"),
                 2);
    cr_assert_eq(query_int(f->db, "SELECT count(*) FROM scatter_outcome WHERE resolved_by IS NULL"),
                 3, "set aside again, its own record of it, and one that was not reached");
    /* A later one does all three: it resolves them in both plans. */
    make_child(f, "c2", 2);
    run_sql(f->db, "UPDATE scatter_batch SET position = 1 WHERE plan = 'c2' AND batch = 2");
    cr_assert_eq(db_plan_resolve(f->db, "c2", &e), 0, "%s", e.text);
    cr_assert_eq(query_int(f->db, "SELECT count(*) FROM scatter_outcome WHERE resolved_by IS NULL"),
                 0);
    cr_assert_eq(query_int(f->db, "SELECT count(*) FROM scatter_outcome WHERE resolved_by = 'c2'"),
                 3);
}

BOTH(values_take_the_form_of_their_columns)
{
    static const char *const columns[] = {"price", "at", "note"};
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct err e = ERR_INIT;
    struct slice v[] = {SLICE_LIT("1.5"), SLICE_LIT("2020-01-02T03:04:05Z"),
                        SLICE_LIT(" x "), SLICE_NULL,
                        SLICE_NULL,       SLICE_NULL};
    bool sqlite = db_is_sqlite(f->db);

    run_sql(f->db, sqlite ? "CREATE TABLE goods (price numeric, at text, note text)"
                          : "CREATE TABLE goods (price numeric(10,2), at timestamptz, note text)");
    cr_assert_eq(db_canonical(f->db, "goods", columns, 3, v, 2, a, &e), 0, "%s", e.text);
    cr_assert(slice_eq_str(v[0], sqlite ? "1.5" : "1.50"));
    cr_assert(slice_eq_str(v[1], sqlite ? "2020-01-02T03:04:05Z" : "2020-01-02 03:04:05+00"));
    cr_assert(slice_eq_str(v[2], " x "));
    cr_assert_null(v[3].p);
    cr_assert_null(v[5].p);
}
