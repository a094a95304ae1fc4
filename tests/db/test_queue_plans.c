/* SPDX-License-Identifier: Apache-2.0 */
/* What the plans of a queue have left. */

#include "plan.h"

#include <criterion/criterion.h>

static size_t plans_of(struct fixture *f, const char *queue, struct db_queue_plan **ret_plans)
{
    struct err e = ERR_INIT;
    size_t n = 99;

    cr_assert_eq(db_queue_plans(f->db, queue, ret_plans, &n, &e), 0, "%s", e.text);
    return n;
}

BOTH(queue_plans)
{
    CLEANUP(mem_free) char *queue = NULL;
    struct db_queue_plan *plans = NULL;

    make_plan(f, 3, 10);
    queue = query_text(f->db, "SELECT queue FROM scatter_plan");
    cr_assert_eq(plans_of(f, "another", &plans), 0);
    free(plans);
    run_sql(f->db, "UPDATE scatter_batch SET state = 'done', position = 10 WHERE batch = 1");
    run_sql(f->db, "UPDATE scatter_batch SET position = 4 WHERE batch = 2");
    cr_assert_eq(plans_of(f, queue, &plans), 1);
    cr_assert(plans[0].runs);
    cr_assert_eq(plans[0].remaining, 16);
    cr_assert_eq(plans[0].max_workers, 0);
    free(plans);
    run_sql(f->db, "UPDATE scatter_plan SET max_workers = 4, state = 'paused'");
    cr_assert_eq(plans_of(f, queue, &plans), 1);
    cr_assert_not(plans[0].runs);
    cr_assert_eq(plans[0].max_workers, 4);
    free(plans);
    run_sql(f->db, "UPDATE scatter_plan SET state = 'finished'");
    cr_assert_eq(plans_of(f, queue, &plans), 0);
    free(plans);
}

BOTH(queue_plans_that_stand_still)
{
    CLEANUP(mem_free) char *queue = NULL;
    struct db_queue_plan *plans = NULL;
    bool pg = f->kind == FIXTURE_POSTGRESQL;

    make_plan(f, 1, 10);
    queue = query_text(f->db, "SELECT queue FROM scatter_plan");
    run_sql(f->db, pg ? "UPDATE scatter_plan SET window_ends = now() + interval '1 hour'"
                      : "UPDATE scatter_plan SET window_ends = 1e12");
    cr_assert_eq(plans_of(f, queue, &plans), 1);
    cr_assert(plans[0].runs);
    free(plans);
    run_sql(f->db, pg ? "UPDATE scatter_plan SET window_ends = now() - interval '1 hour'"
                      : "UPDATE scatter_plan SET window_ends = 1");
    cr_assert_eq(plans_of(f, queue, &plans), 1);
    cr_assert_not(plans[0].runs, "outside of its window");
    free(plans);
    run_sql(f->db, "UPDATE scatter_plan SET window_ends = NULL");
    run_sql(f->db, pg ? "UPDATE scatter_governor SET stopped = true"
                      : "UPDATE scatter_governor SET stopped = 1");
    cr_assert_eq(plans_of(f, queue, &plans), 1);
    cr_assert_not(plans[0].runs, "everything is stopped");
    free(plans);
}
