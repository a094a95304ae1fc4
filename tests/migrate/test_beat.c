/* SPDX-License-Identifier: Apache-2.0 */
/* One record that takes longer than the lease: the batch stays this worker's, and the record hears what is ordered. */

#include "harness.h"

#include "celeryc/base/clock.h"

#include <celeryc/migration.h>
#include <criterion/criterion.h>
#include <string.h>
#include <time.h>

#define WAIT_NS  (30 * NS_PER_S)
#define SLOW_KEY "3"

static struct harness *site;
static size_t n_calls;
static void (*during)(const struct scatter_record *r); /* the slow record */
static const char *why;
static bool postpone;

static bool wait_for(bool (*done)(void *arg), void *arg)
{
    const struct timespec pause = {.tv_nsec = 10 * NS_PER_MS};
    int64_t end_ns = clock_mono_ns() + WAIT_NS;

    while (!done(arg)) {
        if (clock_mono_ns() > end_ns)
            return false;
        (void)nanosleep(&pause, NULL);
    }
    return true;
}

static char *lease(void)
{
    return query_text(site->db.db, "SELECT lease_until FROM scatter_batch");
}

static bool lease_moved(void *arg)
{
    char **last = arg, *now = lease();
    bool moved = now && strcmp(now, *last) != 0;

    if (moved) {
        free(*last);
        *last = now;
    } else {
        free(now);
    }
    return moved;
}

/* Twice: after the first time the lease that the claim took is over. */
static void until_it_has_moved_twice(const struct scatter_record *r)
{
    char *last = lease();

    cr_assert(wait_for(lease_moved, &last), "the lease is not renewed");
    cr_assert(wait_for(lease_moved, &last), "the lease is renewed only once");
    cr_assert_null(scatter_stop_wanted(r));
    free(last);
}

static bool is_stopped(void *arg)
{
    why = scatter_stop_wanted(arg);
    return why != NULL;
}

static void until_it_should_stop(const struct scatter_record *r)
{
    cr_assert(wait_for(is_stopped, (void *)r), "no order is heard");
}

static void pause_it(const struct scatter_record *r)
{
    run_sql(site->db.db, "UPDATE scatter_plan SET state = 'paused'");
    until_it_should_stop(r);
}

static void go_on(const struct scatter_record *r)
{
    (void)r;
    postpone = false;
}

static void stop_everything(const struct scatter_record *r)
{
    run_sql(site->db.db, "UPDATE scatter_governor SET stopped = (1 = 1)");
    until_it_should_stop(r);
    during = go_on;
    run_sql(site->db.db, "UPDATE scatter_governor SET stopped = (1 = 0)");
}

static void take_it_away(const struct scatter_record *r)
{
    run_sql(site->db.db, "UPDATE scatter_batch SET lease_token = lease_token + 1");
    until_it_should_stop(r);
}

static void stop_the_worker(const struct scatter_record *r)
{
    site->stop = 1;
    until_it_should_stop(r);
}

static int end_of(struct scatter_change *c, bool slow)
{
    return slow && postpone ? scatter_postpone(c) : 0;
}

static bool slow_part(const struct scatter_record *r)
{
    bool slow = strcmp(scatter_key(r), SLOW_KEY) == 0;

    n_calls++;
    if (slow && during)
        during(r);
    return slow;
}

static int slow_record(const struct scatter_record *r, struct scatter_change *c)
{
    bool slow = slow_part(r);
    int rc = scatter_set_text(c, "phone", "done");

    return rc ? rc : end_of(c, slow);
}

static int slow_call(const struct scatter_record *r, struct scatter_change *c)
{
    return end_of(c, slow_part(r));
}

static char backend[24];

static int slow_row(const struct scatter_record *r, struct scatter_tx *tx, struct scatter_change *c)
{
    const char *values[] = {scatter_key(r)};
    const struct scatter_rows *rows;
    int rc = scatter_exec(tx, "UPDATE parcel SET n = n + 1 WHERE id = $1", values, 1, NULL);

    if (!rc && strcmp(scatter_dialect(tx), "postgresql") == 0) {
        rc = scatter_query(tx, "SELECT pg_backend_pid()", NULL, 0, &rows);
        if (!rc)
            (void)snprintf(backend, sizeof(backend), "%s", scatter_cell(rows, 0, 0));
    }
    return rc ? rc : end_of(c, slow_part(r));
}

SCATTER_MIGRATION("test.slow_record", .record = slow_record, .table = "parcel", .reads = {"phone"},
                  .writes = {"phone"})
SCATTER_MIGRATION("test.slow_call", .external = slow_call, .table = "parcel", .reads = {"phone"})
SCATTER_MIGRATION("test.slow_row", .row = slow_row, .table = "parcel", .reads = {"phone"})

static void plan(struct harness *h, const char *name, void (*f)(const struct scatter_record *r))
{
    site = h;
    during = f;
    harness_plan(h, name, 5, 5, NULL, NULL, NULL);
}

static int64_t position(struct harness *h)
{
    return query_int(h->db.db, "SELECT position FROM scatter_batch");
}

static void check_lasts(struct harness *h, const char *name)
{
    plan(h, name, until_it_has_moved_twice);
    CLEANUP(delivery_deinit) struct delivery d = deliver(h, name, 1, false);

    cr_assert_eq(d.kind, OUTCOME_SUCCESS, "%s", d.repr);
    check_holds(&d, "\"ok\": 5,");
    cr_assert_eq(n_calls, 5);
    cr_assert_eq(query_int(h->db.db, "SELECT lease_token FROM scatter_batch"), 1);
}

BOTH_WORKERS(lease_lasts_as_long_as_a_record)
{
    check_lasts(h, "test.slow_record");
}

BOTH_WORKERS(lease_lasts_as_long_as_a_call)
{
    check_lasts(h, "test.slow_call");
}

/* Not renewed during a chunk of its own statements, and not needed: the row is locked. What must not happen is that the
 * server takes the transaction for that of a frozen worker. */
static bool is_old(void *arg)
{
    char sql[160];

    (void)arg;
    (void)snprintf(sql, sizeof(sql),
                   "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND clock_timestamp() - "
                   "xact_start > interval '%d ms'",
                   backend, LEASE_MS);
    return query_int(site->db.db, sql) == 1;
}

static void until_it_is_old(const struct scatter_record *r)
{
    cr_assert(wait_for(is_old, NULL), "the transaction has not lasted");
    cr_assert_null(scatter_stop_wanted(r));
}

Test(postgresql, transaction_lasts_as_long_as_a_record)
{
    static struct harness h;

    harness_open(&h, FIXTURE_POSTGRESQL);
    plan(&h, "test.slow_row", until_it_is_old);
    CLEANUP(delivery_deinit) struct delivery d = deliver(&h, "test.slow_row", 1, false);

    cr_assert_eq(d.kind, OUTCOME_SUCCESS, "%s", d.repr);
    check_holds(&d, "\"ok\": 5,");
    cr_assert_eq(n_calls, 5);
    cr_assert_eq(query_int(h.db.db, "SELECT sum(n) FROM parcel"), 5);
    harness_close(&h);
}

static void check_paused(struct harness *h, const char *name, bool leave, int64_t at)
{
    postpone = leave;
    plan(h, name, pause_it);
    CLEANUP(delivery_deinit) struct delivery d = deliver(h, name, 1, false);

    cr_assert_eq(d.kind, OUTCOME_SUCCESS, "%s", d.repr);
    check_holds(&d, "\"state\": \"parked\"");
    cr_assert_str_eq(why, "paused");
    cr_assert_eq(position(h), at);
    cr_assert_eq(query_int(h->db.db, "SELECT attempts FROM scatter_batch"), 0);
    cr_assert_eq(query_int(h->db.db, "SELECT count(*) FROM scatter_outcome"), 0);
}

BOTH_WORKERS(pause_is_obeyed_behind_the_record)
{
    check_paused(h, "test.slow_record", false, 3);
}

BOTH_WORKERS(pause_is_obeyed_in_the_record)
{
    check_paused(h, "test.slow_record", true, 2);
    cr_assert_eq(query_int(h->db.db, "SELECT count(*) FROM parcel WHERE phone = 'done'"), 2);
}

BOTH_WORKERS(pause_is_obeyed_in_the_call)
{
    check_paused(h, "test.slow_call", true, 2);
}

Test(postgresql, pause_is_obeyed_behind_the_row)
{
    static struct harness h;

    harness_open(&h, FIXTURE_POSTGRESQL);
    check_paused(&h, "test.slow_row", false, 3);
    cr_assert_eq(query_int(h.db.db, "SELECT sum(n) FROM parcel"), 3);
    harness_close(&h);
}

/* Its own statement can be taken back only together with those in front of it. */
Test(postgresql, pause_is_obeyed_in_the_transaction)
{
    static struct harness h;

    harness_open(&h, FIXTURE_POSTGRESQL);
    check_paused(&h, "test.slow_row", true, 0);
    cr_assert_eq(query_int(h.db.db, "SELECT sum(n) FROM parcel"), 0);
    harness_close(&h);
}

BOTH_WORKERS(postponed_record_is_called_again)
{
    postpone = true;
    plan(h, "test.slow_call", stop_everything);
    CLEANUP(delivery_deinit) struct delivery d = deliver(h, "test.slow_call", 1, false);

    cr_assert_eq(d.kind, OUTCOME_SUCCESS, "%s", d.repr);
    cr_assert_str_eq(why, "stopped");
    check_holds(&d, "\"ok\": 5,");
    cr_assert_eq(n_calls, 6);
}

BOTH_WORKERS(lost_batch_is_told)
{
    plan(h, "test.slow_record", take_it_away);
    CLEANUP(delivery_deinit) struct delivery d = deliver(h, "test.slow_record", 1, false);

    cr_assert_eq(d.kind, OUTCOME_RETRY, "%s", d.repr);
    cr_assert_str_eq(why, "lost");
    cr_assert_eq(position(h), 0);
    cr_assert_eq(query_int(h->db.db, "SELECT count(*) FROM parcel WHERE phone = 'done'"), 0);
}

BOTH_WORKERS(worker_that_ends_is_obeyed_in_the_record)
{
    postpone = true;
    plan(h, "test.slow_call", stop_the_worker);
    CLEANUP(delivery_deinit) struct delivery d = deliver(h, "test.slow_call", 1, false);

    cr_assert_eq(d.kind, OUTCOME_REJECT, "%s", d.repr);
    cr_assert(d.requeue);
    cr_assert_str_eq(why, "worker");
    cr_assert_eq(position(h), 2);
}

BOTH_WORKERS(record_is_not_postponed_without_an_order)
{
    postpone = true;
    plan(h, "test.slow_record", NULL);
    run_sql(h->db.db, "UPDATE scatter_plan SET max_failure_rate = 1");
    CLEANUP(delivery_deinit) struct delivery d = deliver(h, "test.slow_record", 1, false);

    cr_assert_eq(d.kind, OUTCOME_SUCCESS, "%s", d.repr);
    check_holds(&d, "\"quarantined\": 1,");
    cr_assert_eq(query_int(h->db.db, "SELECT count(*) FROM scatter_outcome WHERE error_class = "
                                     "'RuntimeError' AND message LIKE '%scatter_stop_wanted%'"),
                 1);
}
