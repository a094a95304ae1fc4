/* SPDX-License-Identifier: Apache-2.0 */
/* Whole deliveries: from the message to the rows, the control tables, the result and the callbacks. */

#include "harness.h"

#include "celeryc/base/clock.h"

#include <celeryc/migration.h>
#include <criterion/criterion.h>
#include <unistd.h>

#define PHONES "phones.vn_renumber"

/* ---- migrations of the test's own ---- */

static int calls;

/* Every hundredth record fails, by name of the parameter's rest. */
static int some_fail(const struct scatter_record *r, struct scatter_change *c)
{
    int64_t id = strtoll(scatter_key(r), NULL, 10);

    calls++;
    if (id % 100 == 7)
        return scatter_fail(c, "ConnectionResetError", "record %s", scatter_key(r));
    if (id % 100 == 8)
        return scatter_skip(c, "eight");
    if (id % 100 == 9)
        return scatter_unchanged(c);
    return scatter_set_text(c, "phone", scatter_key(r));
}

SCATTER_MIGRATION("test.some_fail", .record = some_fail, .table = "parcel", .reads = {"phone"},
                  .writes = {"phone"})

/* Gives 20 records of 1,000 a number that is too long, so that the database refuses them. */
static int too_long(const struct scatter_record *r, struct scatter_change *c)
{
    int64_t id = strtoll(scatter_key(r), NULL, 10);

    return scatter_set_int(c, "n", id % 50 == 13 ? 99999999999 : id);
}

SCATTER_MIGRATION("test.too_long", .record = too_long, .table = "parcel", .reads = {"phone"},
                  .writes = {"n"})

static int no_column(const struct scatter_record *r, struct scatter_change *c)
{
    return scatter_set_text(c, "nowhere", scatter_key(r));
}

SCATTER_MIGRATION("test.no_column", .record = no_column, .table = "parcel", .reads = {"phone"},
                  .writes = {"nowhere"})

/* Words that were cut in the middle of a letter, or never were UTF-8. */
static int odd_words(const struct scatter_record *r, struct scatter_change *c)
{
    int64_t id = strtoll(scatter_key(r), NULL, 10);

    if (id % 10 == 7)
        return scatter_fail(c, "ValueError", "%.6s", "Dang \xe1\xba\xb7");
    if (id % 10 == 8)
        return scatter_skip(c, "caf\xe9");
    return scatter_set_text(c, "phone", scatter_key(r));
}

SCATTER_MIGRATION("test.odd_words", .record = odd_words, .table = "parcel", .reads = {"phone"},
                  .writes = {"phone"})

/* Three milliseconds of work for each record. */
static int slow(const struct scatter_record *r, struct scatter_change *c)
{
    int64_t end_ns = clock_mono_ns() + 3 * NS_PER_MS;

    while (clock_mono_ns() < end_ns)
        ;
    return scatter_set_text(c, "phone", scatter_key(r));
}

SCATTER_MIGRATION("test.slow", .record = slow, .table = "parcel", .reads = {"phone"},
                  .writes = {"phone"})

/* ---- deliveries ---- */

static int64_t renumbered(struct harness *h)
{
    return query_int(h->db.db, "SELECT count(*) FROM parcel WHERE phone LIKE '032 %'");
}

BOTH_WORKERS(batches_are_done_once)
{
    harness_plan(h, PHONES, 2500, 1000, "cb.batch", "cb.finish", NULL);
    for (int64_t batch = 1; batch <= 3; batch++) {
        CLEANUP(delivery_deinit) struct delivery d = deliver(h, PHONES, batch, false);

        cr_assert_eq(d.kind, OUTCOME_SUCCESS, "%s", d.repr);
        check_holds(&d, "\"state\": \"done\"");
        check_holds(&d, batch == 3 ? "\"ok\": 500," : "\"ok\": 1000,");
        check_holds(&d, "\"worker\": \"w1@here\"");
    }
    cr_assert_eq(renumbered(h), 2500);
    cr_assert_eq(query_int(h->db.db, "SELECT count(*) FROM scatter_plan WHERE state = 'finished'"),
                 1);
    cr_assert_eq(query_int(h->db.db, "SELECT sum(records) FROM scatter_share"), 2500);
    cr_assert_eq(h->n_sent, 4);
    cr_assert_not_null(strstr(h->sent[0].raw, "cb.batch"));
    cr_assert_not_null(strstr(h->sent[3].raw, "cb.finish"));
    cr_assert_str_eq(h->sent[3].queue, "celery");
    /* The same message again: nothing is done again, the callbacks are sent with their old ids. */
    CLEANUP(delivery_deinit) struct delivery again = deliver(h, PHONES, 3, true);

    cr_assert_eq(again.kind, OUTCOME_SUCCESS);
    cr_assert_eq(h->n_sent, 6);
    for (size_t i = 0; i < 2; i++) {
        const char *id = strstr(h->sent[2 + i].raw, "\"id\": \"");

        cr_assert_not_null(id);
        CLEANUP(mem_free) char *text = slice_dup((struct slice){id, 43});

        cr_assert_not_null(strstr(h->sent[4 + i].raw, text), "%s in %s", text, h->sent[4 + i].raw);
    }
    CLEANUP(delivery_deinit) struct delivery once_more = deliver(h, PHONES, 3, false);

    cr_assert_eq(once_more.kind, OUTCOME_SUCCESS);
    cr_assert_eq(h->n_sent, 6);
}

BOTH_WORKERS(goes_on_behind_another_owner)
{
    harness_plan(h, PHONES, 1000, 1000, NULL, NULL, NULL);
    /* A worker that died at position 400, as the database would hold it. */
    run_sql(h->db.db, "UPDATE parcel SET phone = '032 000 ' || substr(phone, 10) WHERE id <= 400");
    run_sql(h->db.db,
            h->db.kind == FIXTURE_SQLITE
                ? "UPDATE scatter_batch SET state = 'running', position = 400, lease_token "
                  "= 5, lease_until = (julianday('now') - 2440587.5) * 86400 + 60, owner = "
                  "'dead'"
                : "UPDATE scatter_batch SET state = 'running', position = 400, lease_token "
                  "= 5, lease_until = now() + interval '60 s', owner = 'dead'");
    CLEANUP(delivery_deinit) struct delivery busy = deliver(h, PHONES, 1, false);

    cr_assert_eq(busy.kind, OUTCOME_RETRY);
    cr_assert_gt(busy.countdown, 30);
    cr_assert_eq(renumbered(h), 400);
    CLEANUP(delivery_deinit) struct delivery d = deliver(h, PHONES, 1, true);

    cr_assert_eq(d.kind, OUTCOME_SUCCESS, "%s", d.repr);
    check_holds(&d, "\"ok\": 1000,");
    check_holds(&d, "\"stale\": 0,");
    cr_assert_eq(renumbered(h), 1000);
    cr_assert_eq(query_int(h->db.db, "SELECT lease_token FROM scatter_batch"), 6);
    cr_assert_eq(query_int(h->db.db, "SELECT sum(records) FROM scatter_share"), 600);
    cr_assert_eq(query_int(h->db.db, "SELECT count(*) FROM scatter_event WHERE event = 'takeover'"),
                 1);
}

/* Deaths of a batch that comes back count only while its position stands still. */
BOTH_WORKERS(a_batch_that_came_back_tells_that_it_gets_on)
{
    harness_plan(h, PHONES, 2000, 1000, NULL, NULL, NULL);
    CLEANUP(delivery_deinit) struct delivery first = deliver(h, PHONES, 1, false);

    cr_assert_eq(h->n_advanced, 0);
    CLEANUP(delivery_deinit) struct delivery back = deliver(h, PHONES, 2, true);

    cr_assert_eq(back.kind, OUTCOME_SUCCESS, "%s", back.repr);
    cr_assert_eq(h->n_advanced, 1);
    CLEANUP(delivery_deinit) struct delivery done = deliver(h, PHONES, 2, true);

    cr_assert_eq(h->n_advanced, 1);
}

BOTH_WORKERS(outcomes_of_the_function)
{
    harness_plan(h, "test.some_fail", 1000, 1000, NULL, "cb.finish", NULL);
    run_sql(h->db.db, "UPDATE parcel SET phone = 'other' WHERE id = 5");
    CLEANUP(delivery_deinit) struct delivery d = deliver(h, "test.some_fail", 1, false);

    cr_assert_eq(d.kind, OUTCOME_SUCCESS, "%s", d.repr);
    check_holds(&d,
                "\"ok\": 969, \"unchanged\": 10, \"stale\": 1, \"skipped\": 10, \"quarantined\": "
                "10, \"remaining\": 0}");
    cr_assert_eq(query_int(h->db.db, "SELECT count(*) FROM scatter_outcome WHERE outcome = "
                                     "'quarantined' AND error_class = 'ConnectionResetError' AND "
                                     "record_key LIKE '%7'"),
                 10);
    cr_assert_not_null(strstr(h->sent[0].raw, "cb.finish"));
}

BOTH_WORKERS(retry_on_stops_in_front_of_the_record)
{
    harness_plan(h, "test.some_fail", 300, 300, NULL, NULL, "ConnectionError");
    CLEANUP(delivery_deinit) struct delivery d = deliver(h, "test.some_fail", 1, false);

    cr_assert_eq(d.kind, OUTCOME_RETRY, "%s", d.repr);
    cr_assert_eq(query_int(h->db.db, "SELECT position FROM scatter_batch"), 6);
    cr_assert_eq(query_int(h->db.db,
                           "SELECT count(*) FROM scatter_batch WHERE state = 'queued' AND "
                           "error LIKE 'record 7%'"),
                 1);
    /* After its last attempt the record is set aside; the next one has attempts of its own. */
    run_sql(h->db.db, "UPDATE scatter_batch SET failed_times = 19");
    CLEANUP(delivery_deinit) struct delivery last = deliver(h, "test.some_fail", 1, false);

    cr_assert_eq(last.kind, OUTCOME_RETRY, "%s", last.repr);
    cr_assert_eq(query_int(h->db.db, "SELECT attempts FROM scatter_outcome WHERE record_key = '7'"),
                 20);
    cr_assert_eq(query_int(h->db.db, "SELECT count(*) FROM scatter_batch WHERE position = 106 AND "
                                     "failed_at = 106 AND failed_times = 1"),
                 1);
}

/* ---- error policy ---- */

BOTH_WORKERS(policy_by_class)
{
    harness_plan(h, "test.some_fail", 300, 300, NULL, NULL, NULL);
    run_sql(h->db.db, "UPDATE scatter_plan SET policy = '{\"OSError\": \"skip\"}'");
    CLEANUP(delivery_deinit) struct delivery d = deliver(h, "test.some_fail", 1, false);

    check_holds(&d, "\"skipped\": 6, \"quarantined\": 0,");
    cr_assert_eq(query_int(h->db.db,
                           "SELECT count(*) FROM scatter_outcome WHERE outcome = 'skipped' "
                           "AND error_class = 'ConnectionResetError'"),
                 3);
}

BOTH_WORKERS(policy_retries_a_refused_record)
{
    harness_plan(h, "test.too_long", 100, 100, NULL, NULL, NULL);
    run_sql(h->db.db, "UPDATE scatter_plan SET policy = '{\"DatabaseError\": \"retry:2\"}'");
    if (h->db.kind == FIXTURE_SQLITE)
        run_sql(h->db.db,
                "CREATE TRIGGER t BEFORE UPDATE ON parcel WHEN NEW.n > 1000000 BEGIN SELECT "
                "RAISE(ABORT, 'too long'); END");
    CLEANUP(delivery_deinit) struct delivery one = deliver(h, "test.too_long", 1, false);

    cr_assert_eq(one.kind, OUTCOME_RETRY, "%s", one.repr);
    cr_assert_eq(query_int(h->db.db, "SELECT position FROM scatter_batch"), 12,
                 "what stands in front is written");
    CLEANUP(delivery_deinit) struct delivery two = deliver(h, "test.too_long", 1, false);
    CLEANUP(delivery_deinit) struct delivery three = deliver(h, "test.too_long", 1, false);

    cr_assert_eq(two.kind, OUTCOME_RETRY, "%s", two.repr);
    cr_assert_eq(three.kind, OUTCOME_SUCCESS, "%s", three.repr);
    cr_assert_eq(query_int(h->db.db, "SELECT count(*) FROM scatter_outcome WHERE attempts = 2 AND "
                                     "outcome = 'quarantined'"),
                 2);
    cr_assert_eq(query_int(h->db.db, "SELECT count(*) FROM parcel WHERE n = id"), 98);
}

BOTH_WORKERS(words_that_are_no_text_are_mended)
{
    harness_plan(h, "test.odd_words", 20, 10, NULL, NULL, NULL);
    CLEANUP(delivery_deinit) struct delivery one = deliver(h, "test.odd_words", 1, false);

    cr_assert_eq(one.kind, OUTCOME_SUCCESS, "%s", one.repr);
    cr_assert_eq(query_int(h->db.db, "SELECT count(*) FROM scatter_outcome WHERE (outcome = "
                                     "'quarantined' AND message = 'Dang ?') OR (outcome = "
                                     "'skipped' AND message = 'caf?')"),
                 2);
    run_sql(h->db.db, "UPDATE scatter_plan SET policy = '{\"ValueError\": \"fail-batch\"}'");
    CLEANUP(delivery_deinit) struct delivery two = deliver(h, "test.odd_words", 2, false);

    cr_assert_eq(two.kind, OUTCOME_FAILURE, "%s", two.repr);
    cr_assert_eq(query_int(h->db.db, "SELECT count(*) FROM scatter_batch WHERE state = 'failed' "
                                     "AND error LIKE '%Dang ?%'"),
                 1);
}

BOTH_WORKERS(policy_fails_the_plan_at_the_first_hit)
{
    harness_plan(h, "test.some_fail", 300, 100, NULL, "cb.finish", NULL);
    run_sql(h->db.db, "UPDATE scatter_plan SET policy = '{\"OSError\": \"fail-plan\"}'");
    CLEANUP(delivery_deinit) struct delivery one = deliver(h, "test.some_fail", 1, false);
    CLEANUP(delivery_deinit) struct delivery two = deliver(h, "test.some_fail", 2, false);

    cr_assert_eq(one.kind, OUTCOME_FAILURE, "%s", one.repr);
    check_holds(&two, "\"state\": \"parked\"");
    cr_assert_eq(h->n_sent, 1);
    cr_assert_eq(query_int(h->db.db, "SELECT count(*) FROM scatter_plan WHERE state = 'failed' AND "
                                     "reason LIKE '%record 7'"),
                 1);
    cr_assert_eq(query_int(h->db.db, "SELECT sum(position) FROM scatter_batch"), 6);
    /* Another answer, and somebody resumes it: the plan goes on, the batch that failed too. */
    bool changed = false;
    struct err e = ERR_INIT;

    run_sql(h->db.db, "UPDATE scatter_plan SET policy = NULL");
    cr_assert_eq(db_plan_control(h->db.db, DB_PLAN_RESUME, "p", "me", NULL, &changed, &e), 0, "%s",
                 e.text);
    cr_assert(changed);
    cr_assert_eq(query_int(h->db.db, "SELECT count(*) FROM scatter_batch WHERE state = 'queued'"),
                 3);
    for (int64_t batch = 1; batch <= 3; batch++) {
        CLEANUP(delivery_deinit) struct delivery d = deliver(h, "test.some_fail", batch, false);

        cr_assert_eq(d.kind, OUTCOME_SUCCESS, "%s", d.repr);
    }
    cr_assert_eq(query_int(h->db.db, "SELECT count(*) FROM scatter_plan WHERE state = 'finished'"),
                 1);
}

/* ---- what pauses a plan ---- */

static int64_t paused_by(struct harness *h, const char *reason)
{
    char sql[200];

    (void)snprintf(sql, sizeof(sql),
                   "SELECT count(*) FROM scatter_plan WHERE state = 'paused' AND reason LIKE '%s'",
                   reason);
    return query_int(h->db.db, sql);
}

/* One record more than is allowed pauses the plan; nothing is lost, and it goes on. */
BOTH_WORKERS(limit_of_the_plan)
{
    harness_plan(h, "test.some_fail", 2000, 200, NULL, NULL, NULL);
    run_sql(h->db.db, "UPDATE scatter_plan SET max_quarantined = 5");
    for (int64_t batch = 1; batch <= 3; batch++) {
        CLEANUP(delivery_deinit) struct delivery d = deliver(h, "test.some_fail", batch, false);

        cr_assert_eq(d.kind, OUTCOME_SUCCESS, "%s", d.repr);
    }
    cr_assert_eq(paused_by(h, "quarantine: 6 records were set aside, 5 are allowed"), 1);
    CLEANUP(delivery_deinit) struct delivery parked = deliver(h, "test.some_fail", 4, false);

    check_holds(&parked, "\"state\": \"parked\"");
    run_sql(h->db.db, "UPDATE scatter_plan SET state = 'running', max_quarantined = NULL");
    for (int64_t batch = 1; batch <= 10; batch++) {
        CLEANUP(delivery_deinit) struct delivery d = deliver(h, "test.some_fail", batch, false);

        cr_assert_eq(d.kind, OUTCOME_SUCCESS, "%s", d.repr);
    }
    cr_assert_eq(query_int(h->db.db, "SELECT count(*) FROM scatter_outcome WHERE outcome = "
                                     "'quarantined'"),
                 20);
    cr_assert_eq(query_int(h->db.db, "SELECT count(*) FROM scatter_plan WHERE state = 'finished'"),
                 1);
}

BOTH_WORKERS(limit_of_the_batch)
{
    harness_plan(h, "test.some_fail", 600, 300, NULL, NULL, NULL);
    run_sql(h->db.db, "UPDATE scatter_plan SET max_quarantined_batch = 2");
    CLEANUP(delivery_deinit) struct delivery d = deliver(h, "test.some_fail", 1, false);

    cr_assert_eq(d.kind, OUTCOME_SUCCESS, "%s", d.repr);
    cr_assert_eq(paused_by(h, "quarantine: 3 records of batch 1 were set aside, 2 are allowed"), 1);
}

BOTH_WORKERS(breaker_pauses)
{
    harness_plan(h, "test.some_fail", 1000, 1000, NULL, NULL, NULL);
    run_sql(h->db.db, "UPDATE scatter_plan SET max_failure_rate = 0.005");
    CLEANUP(delivery_deinit) struct delivery d = deliver(h, "test.some_fail", 1, false);

    check_holds(&d, "\"state\": \"parked\"");
    cr_assert_eq(paused_by(h, "breaker: % records were set aside, more than 0.5 _"), 1);
}

/* By the breaker that tripped, and by one that only saw the pause. */
BOTH_WORKERS(breaker_starts_afresh_when_the_plan_is_resumed)
{
    static const char afresh[] = "breaker: 5 of the last 500 records were set aside%";

    harness_plan(h, "test.some_fail", 2000, 500, NULL, NULL, NULL);
    run_sql(h->db.db, "UPDATE scatter_plan SET max_failure_rate = 1");
    CLEANUP(delivery_deinit) struct delivery first = deliver(h, "test.some_fail", 1, false);

    check_holds(&first, "\"quarantined\": 5");
    run_sql(h->db.db, "UPDATE scatter_plan SET state = 'paused', max_failure_rate = 0.005");
    CLEANUP(delivery_deinit) struct delivery parked = deliver(h, "test.some_fail", 2, false);

    check_holds(&parked, "\"state\": \"parked\"");
    for (int64_t batch = 2; batch <= 3; batch++) {
        run_sql(h->db.db, "UPDATE scatter_plan SET state = 'running', reason = NULL");
        CLEANUP(delivery_deinit) struct delivery d = deliver(h, "test.some_fail", batch, false);

        cr_assert_eq(paused_by(h, afresh), 1, "%s", d.repr);
    }
}

BOTH_WORKERS(failed_batches_in_a_row)
{
    harness_plan(h, "test.some_fail", 500, 100, NULL, NULL, NULL);
    run_sql(h->db.db, "UPDATE scatter_plan SET policy = '{\"OSError\": \"fail-batch\"}'");
    for (int64_t batch = 1; batch <= 3; batch++) {
        cr_assert_eq(paused_by(h, "%"), 0);
        CLEANUP(delivery_deinit) struct delivery d = deliver(h, "test.some_fail", batch, false);

        cr_assert_eq(d.kind, OUTCOME_FAILURE, "%s", d.repr);
    }
    cr_assert_eq(paused_by(h, "breaker: 3 batches have failed in a row, the last by %record 207"),
                 1);
}

BOTH_WORKERS(canary_pauses_once)
{
    harness_plan(h, PHONES, 400, 100, NULL, NULL, NULL);
    run_sql(h->db.db, "UPDATE scatter_plan SET canary = 200");
    CLEANUP(delivery_deinit) struct delivery one = deliver(h, PHONES, 1, false);

    cr_assert_eq(one.kind, OUTCOME_SUCCESS, "%s", one.repr);
    cr_assert_eq(paused_by(h, "%"), 0);
    CLEANUP(delivery_deinit) struct delivery two = deliver(h, PHONES, 2, false);

    cr_assert_eq(paused_by(h, "canary"), 1);
    bool changed = false;
    struct err e = ERR_INIT;

    cr_assert_eq(db_plan_control(h->db.db, DB_PLAN_RESUME, "p", "me", NULL, &changed, &e), 0, "%s",
                 e.text);
    cr_assert(changed);
    CLEANUP(delivery_deinit) struct delivery three = deliver(h, PHONES, 3, false);
    CLEANUP(delivery_deinit) struct delivery four = deliver(h, PHONES, 4, false);

    cr_assert_eq(renumbered(h), 400);
    cr_assert_eq(query_int(h->db.db, "SELECT count(*) FROM scatter_plan WHERE state = 'finished'"),
                 1);
}

/* ---- the accounting ---- */

BOTH_WORKERS(wrong_numbers_are_never_finished)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct db_audit x = {0};
    struct err e = ERR_INIT;

    harness_plan(h, "test.some_fail", 400, 200, NULL, NULL, NULL);
    CLEANUP(delivery_deinit) struct delivery one = deliver(h, "test.some_fail", 1, false);

    cr_assert_eq(db_plan_audit(h->db.db, "p", a, &x, &e), 0, "%s", e.text);
    cr_assert_eq(x.n, 0, "%s", x.n ? x.lines[0].violation : "");
    run_sql(h->db.db, "DELETE FROM scatter_outcome WHERE outcome = 'quarantined' AND position = 6");
    CLEANUP(delivery_deinit) struct delivery two = deliver(h, "test.some_fail", 2, false);

    cr_assert_eq(two.kind, OUTCOME_SUCCESS, "%s", two.repr);
    cr_assert_eq(query_int(h->db.db, "SELECT count(*) FROM scatter_plan WHERE state = 'failed' AND "
                                     "reason = 'audit: batch 1: quarantined records that are "
                                     "listed: 1, expected 2'"),
                 1);
    cr_assert_eq(db_plan_audit(h->db.db, "p", a, &x, &e), 0, "%s", e.text);
    cr_assert_eq(x.n, 1);
    cr_assert_eq(x.lines[0].batch, 1);
}

/* SQLite knows no range of integers: a CHECK refuses there. */
BOTH_WORKERS(refused_records_are_found)
{
    harness_plan(h, "test.too_long", 1000, 1000, NULL, NULL, NULL);
    if (h->db.kind == FIXTURE_SQLITE) {
        run_sql(h->db.db,
                "CREATE TRIGGER t BEFORE UPDATE ON parcel WHEN NEW.n > 1000000 BEGIN SELECT "
                "RAISE(ABORT, 'too long'); END");
    }
    CLEANUP(delivery_deinit) struct delivery d = deliver(h, "test.too_long", 1, false);

    cr_assert_eq(d.kind, OUTCOME_SUCCESS, "%s", d.repr);
    check_holds(
        &d, "\"ok\": 980, \"unchanged\": 0, \"stale\": 0, \"skipped\": 0, \"quarantined\": 20,");
    cr_assert_eq(query_int(h->db.db, "SELECT count(*) FROM parcel WHERE n = id"), 980);
    cr_assert_eq(query_int(h->db.db, "SELECT count(*) FROM scatter_outcome WHERE sqlstate IN "
                                     "('22003', 'P0001')"),
                 20);
}

BOTH_WORKERS(wrong_column_fails_the_batch)
{
    harness_plan(h, "test.no_column", 100, 100, "cb.batch", "cb.finish", NULL);
    CLEANUP(delivery_deinit) struct delivery d = deliver(h, "test.no_column", 1, false);

    cr_assert_eq(d.kind, OUTCOME_FAILURE);
    check_holds(&d, "UndefinedColumn");
    check_holds(&d, "nowhere");
    cr_assert_eq(query_int(h->db.db,
                           "SELECT count(*) FROM scatter_batch WHERE state = 'failed' AND "
                           "error LIKE '%nowhere%' AND position = 0"),
                 1);
    cr_assert_eq(query_int(h->db.db, "SELECT count(*) FROM scatter_plan WHERE state = 'failed'"),
                 1);
    cr_assert_eq(h->n_sent, 2);
    /* The column is made, the message sent again: the plan ends well. */
    run_sql(h->db.db, "ALTER TABLE parcel ADD COLUMN nowhere text");
    CLEANUP(delivery_deinit) struct delivery again = deliver(h, "test.no_column", 1, false);

    cr_assert_eq(again.kind, OUTCOME_SUCCESS, "%s", again.repr);
    cr_assert_eq(query_int(h->db.db, "SELECT count(*) FROM scatter_plan WHERE state = 'finished'"),
                 1);
}

BOTH_WORKERS(stop_pause_cancel)
{
    harness_plan(h, PHONES, 1000, 1000, NULL, NULL, NULL);
    h->stop = 1;
    CLEANUP(delivery_deinit) struct delivery stopped = deliver(h, PHONES, 1, false);

    cr_assert_eq(stopped.kind, OUTCOME_REJECT);
    cr_assert(stopped.requeue);
    cr_assert_eq(query_int(h->db.db,
                           "SELECT count(*) FROM scatter_batch WHERE state = 'queued' AND "
                           "attempts = 0 AND owner IS NULL"),
                 1);
    h->stop = 0;
    run_sql(h->db.db, "UPDATE scatter_plan SET state = 'paused'");
    CLEANUP(delivery_deinit) struct delivery parked = deliver(h, PHONES, 1, true);

    cr_assert_eq(parked.kind, OUTCOME_SUCCESS);
    check_holds(&parked, "\"state\": \"parked\"");
    cr_assert_eq(query_int(h->db.db, "SELECT count(*) FROM scatter_batch WHERE state = 'parked'"),
                 1);
    run_sql(h->db.db, "UPDATE scatter_plan SET state = 'cancelled'");
    CLEANUP(delivery_deinit) struct delivery cancelled = deliver(h, PHONES, 1, false);

    cr_assert_eq(cancelled.kind, OUTCOME_SUCCESS);
    check_holds(&cancelled, "\"state\": \"cancelled\"");
    cr_assert_eq(renumbered(h), 0);
}

BOTH_WORKERS(hand_made_message_brings_its_plan)
{
    harness_plan(h, PHONES, 200, 100, NULL, NULL, NULL);
    run_sql(h->db.db, "DELETE FROM scatter_plan");
    cr_assert_eq(query_int(h->db.db, "SELECT count(*) FROM scatter_batch"), 0);
    CLEANUP(delivery_deinit) struct delivery one = deliver(h, PHONES, 1, false);
    CLEANUP(delivery_deinit) struct delivery two = deliver(h, PHONES, 2, false);

    cr_assert_eq(one.kind, OUTCOME_SUCCESS, "%s", one.repr);
    cr_assert_eq(two.kind, OUTCOME_SUCCESS, "%s", two.repr);
    cr_assert_eq(renumbered(h), 200);
    cr_assert_eq(query_int(h->db.db, "SELECT total FROM scatter_plan WHERE state = 'finished' AND "
                                     "n_batches = 2"),
                 200);
}

BOTH_WORKERS(wrong_messages_and_files)
{
    static const char *const wrong[] = {
        "{}",
        "{\"plan\": \"p\", \"batch\": 0, \"source\": \"file:///x/y\"}",
        "{\"plan\": \"p\", \"batch\": 1}",
        "{\"plan\": \"p\", \"batch\": 1, \"source\": \"file:///x/y\", \"params\": []}",
        "{\"plan\": \"p\\u0000q\", \"batch\": 1, \"source\": \"file:///x/y\"}",
    };

    harness_plan(h, PHONES, 200, 100, NULL, NULL, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        CLEANUP(delivery_deinit) struct delivery d = deliver_kwargs(h, PHONES, wrong[i], false);

        cr_assert_eq(d.kind, OUTCOME_FAILURE, "case %zu", i);
        check_holds(&d, "TypeError");
    }
    CLEANUP(delivery_deinit)
    struct delivery alias = deliver_kwargs(
        h, PHONES,
        "{\"plan\": \"p\", \"batch\": 1, \"source\": \"file:///x/y\", \"database\": \"other\"}",
        false);

    check_holds(&alias, "--database other=URL");
    /* A file that is gone fails the batch that was planned, so that the plan can end. */
    CLEANUP(delivery_deinit)
    struct delivery gone = deliver_kwargs(
        h, PHONES, "{\"plan\": \"p\", \"batch\": 1, \"source\": \"file:///nowhere/y\"}", false);

    cr_assert_eq(gone.kind, OUTCOME_FAILURE);
    check_holds(&gone, "FileNotFoundError");
    cr_assert_eq(query_int(h->db.db,
                           "SELECT count(*) FROM scatter_batch WHERE batch = 1 AND state = "
                           "'failed'"),
                 1);
    /* The file of another batch, and another migration. */
    char kwargs[300], name[40];

    batch_object_name(1, name);
    (void)snprintf(kwargs, sizeof(kwargs),
                   "{\"plan\": \"p\", \"batch\": 2, \"source\": \"file://%s/%s\"}", h->dir, name);
    CLEANUP(delivery_deinit) struct delivery other = deliver_kwargs(h, PHONES, kwargs, false);

    cr_assert_eq(other.kind, OUTCOME_FAILURE);
    check_holds(&other, "another plan or batch");
    CLEANUP(delivery_deinit) struct delivery task = deliver(h, "test.some_fail", 1, false);

    cr_assert_eq(task.kind, OUTCOME_FAILURE);
    check_holds(&task, "another migration");
    cr_assert_eq(renumbered(h), 0);
}

/* The first chunk of a slow function ends early, so that the lease is renewed in time. */
Test(sqlite, slow_functions_get_small_chunks)
{
    static struct harness h;

    harness_open(&h, FIXTURE_SQLITE);
    harness_plan(&h, "test.slow", 200, 200, NULL, NULL, NULL);
    run_sql(h.db.db, "CREATE TABLE moves (position integer)");
    run_sql(h.db.db, "CREATE TRIGGER m AFTER UPDATE OF position ON scatter_batch BEGIN INSERT INTO "
                     "moves VALUES (NEW.position); END");
    CLEANUP(delivery_deinit) struct delivery d = deliver(&h, "test.slow", 1, false);

    cr_assert_eq(d.kind, OUTCOME_SUCCESS, "%s", d.repr);
    check_holds(&d, "\"ok\": 200,");
    cr_assert_geq(query_int(h.db.db, "SELECT count(*) FROM moves"), 3);
    harness_close(&h);
}

Test(postgresql, dropped_connections_are_survived)
{
    static struct harness h;

    harness_open(&h, FIXTURE_POSTGRESQL);
    harness_plan(&h, PHONES, 200, 100, NULL, NULL, NULL);
    CLEANUP(delivery_deinit) struct delivery one = deliver(&h, PHONES, 1, false);

    cr_assert_eq(one.kind, OUTCOME_SUCCESS, "%s", one.repr);
    run_sql(h.db.db, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> "
                     "pg_backend_pid() AND application_name = current_setting('application_name')");
    CLEANUP(delivery_deinit) struct delivery two = deliver(&h, PHONES, 2, false);

    cr_assert_eq(two.kind, OUTCOME_SUCCESS, "%s", two.repr);
    cr_assert_eq(renumbered(&h), 200);
    harness_close(&h);
}
