/* SPDX-License-Identifier: Apache-2.0 */
/* Functions that run their own statements, or do something outside: each effect once, nothing of a failed record. */

#include "harness.h"

#include <celeryc/migration.h>
#include <criterion/criterion.h>
#include <string.h>

/* ---- .row ---- */

#define WRITE "UPDATE parcel SET n = n + 1 WHERE id = $1"

/* Record 7 of a hundred fails behind its statement, 8 is skipped behind it, 9 does nothing, 10 fails before it, and 13
 * is refused by the database. */
static int row(const struct scatter_record *r, struct scatter_tx *tx, struct scatter_change *c)
{
    int64_t id = strtoll(scatter_key(r), NULL, 10), changed = -1;
    const char *values[] = {scatter_key(r)};
    const struct scatter_rows *rows;

    if (id % 100 == 9)
        return scatter_unchanged(c);
    if (id % 100 == 10)
        return scatter_fail(c, "ValueError", "ten");
    int rc = scatter_query(tx, "SELECT phone, n FROM parcel WHERE id = $1", values, 1, &rows);

    if (rc)
        return rc;
    if (scatter_rows_len(rows) != 1 || strcmp(scatter_cell(rows, 0, 0), scatter_text(r, "phone")))
        return scatter_fail(c, "AssertionError", "another row");
    rc = scatter_exec(tx, WRITE, values, 1, &changed);
    if (rc)
        return rc;
    if (changed != 1)
        return scatter_fail(c, "AssertionError", "%lld rows", (long long)changed);
    if (id % 100 == 7)
        return scatter_fail(c, "ValueError", "seven");
    if (id % 100 == 8)
        return scatter_skip(c, "eight");
    if (id % 100 == 13)
        return scatter_exec(tx, "UPDATE parcel SET id = id + 1 WHERE id = $1", values, 1, NULL);
    return 0;
}

SCATTER_MIGRATION("test.row", .row = row, .table = "parcel", .reads = {"phone"})

static int64_t outcomes(struct harness *h, const char *where)
{
    char sql[200];

    (void)snprintf(sql, sizeof(sql), "SELECT count(*) FROM scatter_outcome WHERE %s", where);
    return query_int(h->db.db, sql);
}

BOTH_WORKERS(row_functions_run_their_own_statements)
{
    harness_plan(h, "test.row", 1000, 1000, NULL, NULL, NULL);
    run_sql(h->db.db, "UPDATE parcel SET phone = 'mine' WHERE id IN (1, 500)");
    run_sql(h->db.db, "UPDATE scatter_plan SET max_failure_rate = 1");
    CLEANUP(delivery_deinit) struct delivery d = deliver(h, "test.row", 1, false);

    cr_assert_eq(d.kind, OUTCOME_SUCCESS, "%s", d.repr);
    check_holds(&d, "\"ok\": 948, \"unchanged\": 10, \"stale\": 2, \"skipped\": 10, "
                    "\"quarantined\": 30, \"remaining\": 0");
    cr_assert_eq(query_int(h->db.db, "SELECT sum(n) FROM parcel WHERE n = 1"), 948);
    cr_assert_eq(query_int(h->db.db, "SELECT count(*) FROM parcel WHERE n > 1"), 0);
    cr_assert_eq(query_int(h->db.db, "SELECT count(*) FROM parcel WHERE n = 1 AND "
                                     "(id % 100 IN (7, 8, 9, 10, 13) OR phone = 'mine')"),
                 0);
    cr_assert_eq(outcomes(h, "error_class = 'UniqueViolation' AND sqlstate = '23505'"), 10);
    cr_assert_eq(outcomes(h, "error_class = 'ValueError' AND outcome = 'quarantined'"), 20);
    cr_assert_eq(outcomes(h, "message = 'eight' AND outcome = 'skipped'"), 10);
}

/* One that ends the transaction would lose what holds everything together. */
static int commits(const struct scatter_record *r, struct scatter_tx *tx, struct scatter_change *c)
{
    const char *values[] = {scatter_key(r)};
    int rc = scatter_exec(tx, WRITE, values, 1, NULL);

    return rc ? rc : scatter_exec(tx, "-- now\n /* really */ commit", NULL, 0, NULL);
}

SCATTER_MIGRATION("test.commits", .row = commits, .table = "parcel", .reads = {"phone"})

BOTH_WORKERS(row_functions_may_not_end_the_transaction)
{
    harness_plan(h, "test.commits", 10, 10, NULL, NULL, NULL);
    CLEANUP(delivery_deinit) struct delivery d = deliver(h, "test.commits", 1, false);

    cr_assert_eq(query_int(h->db.db, "SELECT sum(n) FROM parcel"), 0);
    cr_assert_eq(query_int(h->db.db, "SELECT position FROM scatter_batch"), 0);
    cr_assert_eq(d.kind, OUTCOME_FAILURE, "%s", d.repr);
    check_holds(&d, "must not begin, end or divide");
}

/* ---- .external ---- */

static char seen[64][80];
static size_t n_seen;
static int fail_for;

static int call_out(const struct scatter_record *r, struct scatter_change *c)
{
    int64_t id = strtoll(scatter_key(r), NULL, 10);

    cr_assert_lt(n_seen, 64);
    (void)snprintf(seen[n_seen++], sizeof(seen[0]), "%s", scatter_idempotency_key(r));
    if (id == 5 && fail_for) {
        fail_for--;
        return scatter_fail(c, "ConnectionResetError", "gone");
    }
    return 0;
}

SCATTER_MIGRATION("test.external", .external = call_out, .table = "parcel", .reads = {"phone"},
                  .retry_on = "ConnectionError:3")

BOTH_WORKERS(external_functions_keep_their_key)
{
    n_seen = 0;
    fail_for = 2;
    harness_plan(h, "test.external", 10, 10, NULL, NULL, NULL);
    run_sql(h->db.db, "UPDATE parcel SET phone = 'mine' WHERE id = 2");
    for (int i = 0; i < 2; i++) {
        CLEANUP(delivery_deinit) struct delivery d = deliver(h, "test.external", 1, false);

        cr_assert_eq(d.kind, OUTCOME_RETRY, "%s", d.repr);
        cr_assert_eq(query_int(h->db.db, "SELECT position FROM scatter_batch"), 4);
    }
    CLEANUP(delivery_deinit) struct delivery d = deliver(h, "test.external", 1, false);

    cr_assert_eq(d.kind, OUTCOME_SUCCESS, "%s", d.repr);
    check_holds(&d, "\"ok\": 9, \"unchanged\": 0, \"stale\": 1,");
    cr_assert_eq(n_seen, 11); /* 9, and the fifth twice more; never the one that changed */
    cr_assert_str_eq(seen[0], "p/1/0");
    cr_assert_str_eq(seen[1], "p/1/2");
    for (size_t i = 3; i < 6; i++)
        cr_assert_str_eq(seen[i], "p/1/4");
}

BOTH_WORKERS(external_functions_are_tried_as_often_as_they_say)
{
    n_seen = 0;
    fail_for = 100;
    harness_plan(h, "test.external", 10, 10, NULL, NULL, NULL);
    for (int i = 0; i < 2; i++) {
        CLEANUP(delivery_deinit) struct delivery d = deliver(h, "test.external", 1, false);

        cr_assert_eq(d.kind, OUTCOME_RETRY, "%s", d.repr);
    }
    CLEANUP(delivery_deinit) struct delivery d = deliver(h, "test.external", 1, false);

    cr_assert_eq(d.kind, OUTCOME_SUCCESS, "%s", d.repr);
    check_holds(&d, "\"ok\": 9,");
    check_holds(&d, "\"quarantined\": 1,");
    cr_assert_eq(outcomes(h, "error_class = 'ConnectionResetError' AND attempts = 3"), 1);
}
