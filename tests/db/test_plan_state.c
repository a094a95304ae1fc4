/* SPDX-License-Identifier: Apache-2.0 */
/* celeryc/db/plan_state.c and orders.c: moves of a plan, what is written with them, and what workers are told. */

#include "plan.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>

static int64_t count(struct db *db, const char *table, const char *where)
{
    char sql[300];

    (void)snprintf(sql, sizeof(sql), "SELECT count(*) FROM %s WHERE %s", table, where);
    return query_int(db, sql);
}

static int move(struct fixture *f, enum db_plan_state to, unsigned from, bool *ret_moved)
{
    struct err e = ERR_INIT;
    const struct db_plan_move m = {
        .plan = "p", .to = to, .from = from, .who = "tester", .reason = "because"};

    return db_plan_set_state(f->db, &m, ret_moved, &e);
}

static struct db_orders orders_now(struct fixture *f, int64_t token, int64_t at)
{
    struct db_chunk_result res = {0};
    struct err e = ERR_INIT;

    cr_assert_eq(change(f->db, 1, token, 0, at, at + 1, &res, &e), 0, "%s", e.text);
    return res.orders;
}

BOTH(moves_are_written_with_their_event)
{
    bool moved = false;

    make_plan(f, 1, 10);
    cr_assert_eq(move(f, DB_PLAN_PAUSED, 0, &moved), 0);
    cr_assert(moved);
    cr_assert_eq(count(f->db, "scatter_plan", "state = 'paused' AND reason = 'because'"), 1);
    cr_assert_eq(
        count(f->db, "scatter_event", "event = 'paused' AND who = 'tester' AND detail = 'because'"),
        1);
    cr_assert_eq(move(f, DB_PLAN_PAUSED, 0, &moved), 0);
    cr_assert_not(moved);
    cr_assert_eq(count(f->db, "scatter_event", "event = 'paused'"), 1);
    cr_assert_eq(move(f, DB_PLAN_RUNNING, DB_PLAN_MASK(DB_PLAN_QUEUED), &moved), 0);
    cr_assert_not(moved, "a state outside of from is left alone");
    cr_assert_eq(move(f, DB_PLAN_RUNNING, 0, &moved), 0);
    cr_assert(moved);
    cr_assert_eq(count(f->db, "scatter_plan", "started_at IS NOT NULL AND finished_at IS NULL"), 1);
    cr_assert_eq(move(f, DB_PLAN_CANCELLED, 0, &moved), 0);
    cr_assert(moved);
    cr_assert_eq(count(f->db, "scatter_plan", "finished_at IS NOT NULL"), 1);
}

BOTH(no_way_back_from_cancelled)
{
    bool moved = false;

    make_plan(f, 1, 10);
    cr_assert_eq(move(f, DB_PLAN_CANCELLED, 0, &moved), 0);
    cr_assert_eq(move(f, DB_PLAN_RUNNING, 0, &moved), -EINVAL);
    cr_assert_eq(move(f, DB_PLAN_PAUSED, 0, &moved), -EINVAL);
    cr_assert_eq(count(f->db, "scatter_plan", "state = 'cancelled'"), 1);
    run_sql(f->db, "DELETE FROM scatter_plan");
    cr_assert_eq(move(f, DB_PLAN_PAUSED, 0, &moved), -ENOENT);
}

BOTH(names_of_states)
{
    enum db_plan_state s;

    for (int i = DB_PLAN_PLANNED; i <= DB_PLAN_CANCELLED; i++) {
        cr_assert_eq(db_plan_state_parse(slice_str(db_plan_state_name(i)), &s), 0);
        cr_assert_eq((int)s, i);
    }
    cr_assert_eq(db_plan_state_parse(SLICE_LIT("asleep"), &s), -EINVAL);
    cr_assert_eq(db_plan_state_parse(SLICE_NULL, &s), -EINVAL);
    (void)f;
}

BOTH(rates_are_shared_by_the_batches_that_run)
{
    make_parcels(f, 30);
    make_plan(f, 3, 10);
    int64_t token = claim_token(f->db, 1);

    cr_assert(isinf(orders_now(f, token, 0).rate));
    run_sql(f->db, "UPDATE scatter_plan SET rate = 90, chunk_ms = 70");
    cr_assert_eq(orders_now(f, token, 1).rate, 90);
    cr_assert_eq(orders_now(f, token, 2).chunk_ms, 70);
    (void)claim_token(f->db, 2);
    (void)claim_token(f->db, 3);
    cr_assert_eq(orders_now(f, token, 3).rate, 30);
    run_sql(f->db, "UPDATE scatter_governor SET rate = 60");
    cr_assert_eq(orders_now(f, token, 4).rate, 20);
}

BOTH(silent_governor_slows_and_stops)
{
    const char *ago = f->kind == FIXTURE_SQLITE
                          ? "UPDATE scatter_governor SET beat_at = strftime('%s', 'now') - 8"
                          : "UPDATE scatter_governor SET beat_at = now() - interval '8 s'";

    make_parcels(f, 10);
    make_plan(f, 1, 10);
    int64_t token = claim_token(f->db, 1);

    run_sql(f->db, ago);
    cr_assert(isinf(orders_now(f, token, 0).rate), "without limits nobody has to speak");
    run_sql(f->db, "UPDATE scatter_governor SET limits = '{\"max_lag_s\": 2}'");
    cr_assert_eq(orders_now(f, token, 1).rate, 100);
    run_sql(f->db, "UPDATE scatter_governor SET beat_at = NULL");
    cr_assert_eq(orders_now(f, token, 2).rate, 0);
    run_sql(f->db, "UPDATE scatter_governor SET stopped = (1 = 1)");
    cr_assert(orders_now(f, token, 3).stopped);
}

BOTH(window_that_is_over)
{
    make_parcels(f, 10);
    make_plan(f, 1, 10);
    int64_t token = claim_token(f->db, 1);

    cr_assert_not(orders_now(f, token, 0).closed);
    run_sql(f->db, f->kind == FIXTURE_SQLITE
                       ? "UPDATE scatter_plan SET window_ends = strftime('%s', 'now') + 60"
                       : "UPDATE scatter_plan SET window_ends = now() + interval '60 s'");
    cr_assert_not(orders_now(f, token, 1).closed);
    run_sql(f->db, f->kind == FIXTURE_SQLITE
                       ? "UPDATE scatter_plan SET window_ends = strftime('%s', 'now') - 1"
                       : "UPDATE scatter_plan SET window_ends = now() - interval '1 s'");
    cr_assert(orders_now(f, token, 2).closed);
}

BOTH(draining_plan_finishes_what_is_open)
{
    struct db_chunk_result res = {0};
    struct db_finish fin = {0};
    struct err e = ERR_INIT;
    bool moved = false;

    make_parcels(f, 20);
    make_plan(f, 2, 10);
    int64_t token = claim_token(f->db, 1);

    cr_assert_eq(move(f, DB_PLAN_DRAINING, 0, &moved), 0);
    CLEANUP(db_claim_deinit) struct db_claim other = claim(f->db, 2, false);

    cr_assert_eq(other.state, DB_CLAIM_PAUSED);
    cr_assert_eq(count(f->db, "scatter_batch", "batch = 2 AND state = 'parked'"), 1);
    cr_assert_eq(change(f->db, 1, token, 0, 0, 10, &res, &e), 0);
    cr_assert_eq(res.orders.state, DB_PLAN_DRAINING);
    cr_assert_eq(count(f->db, "scatter_plan", "state = 'draining'"), 1);
    cr_assert_eq(db_batch_finish(f->db, "p", 1, token, &fin, &e), 0);
    cr_assert_eq(count(f->db, "scatter_plan", "state = 'paused' AND reason = 'drained'"), 1);
}

/* A batch whose worker died is open work too, and its next owner finishes it. */
BOTH(draining_plan_lets_an_open_batch_be_taken_over)
{
    bool moved = false;

    make_plan(f, 2, 10);
    (void)claim_token(f->db, 1);
    cr_assert_eq(move(f, DB_PLAN_DRAINING, 0, &moved), 0);
    CLEANUP(db_claim_deinit) struct db_claim next = claim(f->db, 1, true);

    cr_assert_eq(next.state, DB_CLAIM_OURS);
    struct db_release rel = {.kind = DB_RELEASE_CLEAN};
    struct err e = ERR_INIT;

    cr_assert_eq(db_batch_release(f->db, "p", 1, next.token, &rel, &e), 0);
    cr_assert_eq(count(f->db, "scatter_batch", "batch = 1 AND state = 'parked'"), 1);
    cr_assert_eq(count(f->db, "scatter_plan", "state = 'paused'"), 1);
}

static void age_everything(struct fixture *f)
{
    bool sqlite = f->kind == FIXTURE_SQLITE;

    run_sql(f->db, sqlite ? "UPDATE scatter_batch SET sent_at = '2020-01-01T00:00:00.000Z'"
                          : "UPDATE scatter_batch SET sent_at = 'epoch'");
    run_sql(f->db, sqlite ? "UPDATE scatter_batch SET lease_until = 1 WHERE batch = 1"
                          : "UPDATE scatter_batch SET lease_until = 'epoch' WHERE batch = 1");
}

static size_t take(struct fixture *f, int64_t after_ms)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct db_lost lost[10];
    struct err e = ERR_INIT;
    size_t n = 99;

    cr_assert_eq(
        db_sweep_take(f->db, &(struct db_sweep){.after_ms = after_ms, .max = 10}, a, lost, &n, &e),
        0, "%s", e.text);
    return n;
}

/* Open batches that nobody works on, once; not those whose lease lives, nor what was sent just now. */
BOTH(sweep_takes_what_nobody_works_on)
{
    struct err e = ERR_INIT;

    make_plan(f, 4, 10);
    cr_assert_eq(db_batches_queued(f->db, "p", 1, 4, &e), 0);
    (void)claim_token(f->db, 1);
    (void)claim_token(f->db, 2);
    cr_assert_eq(take(f, 60000), 0, "sent just now");
    age_everything(f); /* the first batch's lease is over, the second one's lives */
    cr_assert_eq(take(f, 60000), 3);
    cr_assert_eq(take(f, 60000), 0, "taken once");
    age_everything(f);
    run_sql(f->db, "UPDATE scatter_plan SET state = 'paused'");
    cr_assert_eq(take(f, 60000), 0, "nobody wants it");
    cr_assert_eq(db_sweep_tidy(f->db, &e), 0);
    cr_assert_eq(count(f->db, "scatter_batch", "batch = 1 AND state = 'parked'"), 1);
    cr_assert_eq(count(f->db, "scatter_batch", "batch = 2 AND state = 'running'"), 1);
}

BOTH(beat_keeps_the_lease_and_brings_orders)
{
    struct db_orders o;
    struct err e = ERR_INIT;

    make_plan(f, 1, 10);
    int64_t token = claim_token(f->db, 1);
    struct db_beat b = {
        .plan = "p", .batch = 1, .token = token, .lease_ms = LEASE_MS, .throttled_ms = 250};

    age_everything(f);
    run_sql(f->db, "UPDATE scatter_plan SET rate = 7");
    cr_assert_eq(db_batch_beat(f->db, &b, &o, &e), 0);
    cr_assert_eq(o.rate, 7);
    cr_assert_eq(count(f->db, "scatter_batch", "throttled_ms = 250"), 1);
    CLEANUP(db_claim_deinit) struct db_claim other = claim(f->db, 1, false);

    cr_assert_eq(other.state, DB_CLAIM_BUSY);
    b.token++;
    cr_assert_eq(db_batch_beat(f->db, &b, &o, &e), DB_E_FENCED);
}

BOTH(no_more_batches_at_a_time_than_allowed)
{
    make_plan(f, 3, 10);
    run_sql(f->db, "UPDATE scatter_plan SET max_workers = 2");
    (void)claim_token(f->db, 1);
    (void)claim_token(f->db, 2);
    CLEANUP(db_claim_deinit) struct db_claim third = claim(f->db, 3, false);

    cr_assert_eq(third.state, DB_CLAIM_BUSY);
    cr_assert(third.retry_after_ms >= 1000);
    /* What is open already may always be taken over. */
    CLEANUP(db_claim_deinit) struct db_claim again = claim(f->db, 1, true);

    cr_assert_eq(again.state, DB_CLAIM_OURS);
}

BOTH(resume_and_cancel_write_the_batches)
{
    struct err e = ERR_INIT;
    bool changed = false;

    make_plan(f, 3, 10);
    (void)claim_token(f->db, 1);
    cr_assert_eq(db_plan_control(f->db, DB_PLAN_PAUSE, "p", "me", NULL, &changed, &e), 0);
    cr_assert(changed);
    CLEANUP(db_claim_deinit) struct db_claim parked = claim(f->db, 2, false);

    cr_assert_eq(parked.state, DB_CLAIM_PAUSED);
    cr_assert_eq(db_plan_control(f->db, DB_PLAN_RESUME, "p", "me", NULL, &changed, &e), 0);
    cr_assert_eq(count(f->db, "scatter_plan", "state = 'running'"), 1);
    cr_assert_eq(count(f->db, "scatter_batch", "state = 'queued' AND sent_at IS NULL"), 2);
    cr_assert_eq(db_plan_control(f->db, DB_PLAN_CANCEL, "p", "me", NULL, &changed, &e), 0);
    cr_assert_eq(count(f->db, "scatter_batch", "state = 'cancelled'"), 2);
    cr_assert_eq(count(f->db, "scatter_batch", "state = 'running'"), 1);
    cr_assert_eq(db_plan_control(f->db, DB_PLAN_RESUME, "p", "me", NULL, &changed, &e), -EINVAL);
}

/* One of several is governor, and a silent one is followed. */
BOTH(one_governor)
{
    struct err e = ERR_INIT;
    bool elected = true;

    cr_assert_eq(db_governor_elect(f->db, "a", &elected, &e), 0);
    cr_assert_not(elected, "without limits nobody is needed");
    cr_assert_eq(db_governor_limit(f->db, "{\"max_lag_s\": 2}", 50, &e), 0);
    cr_assert_eq(db_governor_elect(f->db, "a", &elected, &e), 0);
    cr_assert(elected);
    cr_assert_eq(db_governor_elect(f->db, "b", &elected, &e), 0);
    cr_assert_not(elected);
    run_sql(f->db, f->kind == FIXTURE_SQLITE ? "UPDATE scatter_governor SET beat_at = 1"
                                             : "UPDATE scatter_governor SET beat_at = 'epoch'");
    cr_assert_eq(db_governor_elect(f->db, "b", &elected, &e), 0);
    cr_assert(elected);
}
