/* SPDX-License-Identifier: Apache-2.0 */
/* The fenced chunk: what it writes, what it refuses, and that it is all or nothing. */

#include "plan.h"

#include <criterion/criterion.h>

static int64_t changed(struct db *db)
{
    return query_int(db, "SELECT count(*) FROM parcel WHERE phone LIKE 'new%'");
}

EVERY_WAY(changes_and_moves_the_checkpoint)
{
    struct db_chunk_result res = {0};
    struct err e = ERR_INIT;

    make_parcels(f, 10);
    make_plan(f, 1, 10);
    int64_t token = claim_token(f->db, 1);
    int r = change(f->db, 1, token, 0, 0, 6, &res, &e);

    cr_assert_eq(r, 0, "%s", err_text(&e, r));
    cr_assert_eq(res.stale, 0);
    cr_assert_eq(changed(f->db), 6);
    cr_assert_eq(query_int(f->db, "SELECT position FROM scatter_batch"), 6);
    cr_assert_eq(query_int(f->db, "SELECT records FROM scatter_share WHERE worker = 'w1'"), 6);
    cr_assert_eq(change(f->db, 1, token, 0, 6, 10, &res, &e), 0);
    cr_assert_eq(changed(f->db), 10);
    cr_assert_eq(query_int(f->db, "SELECT records FROM scatter_share"), 10);
}

EVERY_WAY(other_token_writes_nothing)
{
    struct db_chunk_result res = {0};
    struct err e = ERR_INIT;

    make_parcels(f, 10);
    make_plan(f, 1, 10);
    int64_t token = claim_token(f->db, 1);

    cr_assert_eq(change(f->db, 1, token + 1, 0, 0, 5, &res, &e), DB_E_FENCED);
    CLEANUP(db_claim_deinit) struct db_claim thief = claim(f->db, 1, true);

    cr_assert_eq(thief.state, DB_CLAIM_OURS);
    cr_assert_eq(thief.token, token + 1);
    cr_assert_eq(change(f->db, 1, token, 0, 0, 5, &res, &e), DB_E_FENCED);
    cr_assert_eq(changed(f->db), 0);
    cr_assert_eq(query_int(f->db, "SELECT count(*) FROM scatter_outcome"), 0);
    cr_assert_eq(query_int(f->db, "SELECT count(*) FROM scatter_share"), 0);
    cr_assert_eq(query_int(f->db, "SELECT position FROM scatter_batch"), 0);
}

EVERY_WAY(remembered_position_is_refused)
{
    struct db_chunk_result res = {0};
    struct err e = ERR_INIT;
    struct db_counts counts;
    int64_t position = -1;

    make_parcels(f, 10);
    make_plan(f, 1, 10);
    int64_t token = claim_token(f->db, 1);

    cr_assert_eq(change(f->db, 1, token, 0, 0, 5, &res, &e), 0);
    cr_assert_eq(change(f->db, 1, token, 0, 0, 5, &res, &e), DB_E_RETRY);
    cr_assert_eq(db_batch_position(f->db, "p", 1, token, &position, &counts, &e), 0);
    cr_assert_eq(position, 5);
    cr_assert_eq(counts.stale, 0);
    cr_assert_eq(query_int(f->db, "SELECT records FROM scatter_share"), 5);
}

/* Ids 1 changed, 2 unchanged, 3 skipped, 4 quarantined, 5 changed but the row is another, 6 changed but gone. */
static int mixed(struct db *db, int64_t token, struct db_chunk_result *ret_r, struct err *e)
{
    static const struct slice old[6][2] = {
        {SLICE_LIT("1"), SLICE_LIT("old1")}, {SLICE_LIT("2"), SLICE_LIT("old2")},
        {SLICE_LIT("3"), SLICE_LIT("old3")}, {SLICE_LIT("4"), SLICE_LIT("old4")},
        {SLICE_LIT("5"), SLICE_LIT("old5")}, {SLICE_LIT("6"), SLICE_LIT("old6")}};
    static const struct slice fresh = SLICE_LIT("new \"q\" \\ {,} \xc3\xa9");
    const struct db_row rows[] = {
        {.outcome = DB_O_CHANGED, .position = 0, .old = old[0], .fresh = &fresh},
        {.outcome = DB_O_UNCHANGED, .position = 1, .old = old[1]},
        {.outcome = DB_O_SKIPPED, .position = 2, .old = old[2], .message = "never \"left\""},
        {.outcome = DB_O_QUARANTINED,
         .position = 3,
         .old = old[3],
         .error_class = "ValueError",
         .sqlstate = "22001",
         .message = "bad\nline"},
        {.outcome = DB_O_CHANGED, .position = 4, .old = old[4], .fresh = &fresh},
        {.outcome = DB_O_CHANGED, .position = 5, .old = old[5], .fresh = &fresh},
    };

    return db_chunk_apply(db,
                          &(struct db_chunk){.plan = "p",
                                             .batch = 1,
                                             .token = token,
                                             .new_position = 6,
                                             .target = &parcel_target,
                                             .rows = rows,
                                             .n_rows = ARRAY_SIZE(rows),
                                             .lease_ms = LEASE_MS,
                                             .worker = "w1"},
                          ret_r, e);
}

EVERY_WAY(every_outcome_is_accounted_for)
{
    CLEANUP(db_plan_status_deinit) struct db_plan_status s = {0};
    CLEANUP(buf_deinit) struct buf json = BUF_INIT;
    struct db_chunk_result res = {0};
    struct err e = ERR_INIT;

    make_parcels(f, 10);
    make_plan(f, 1, 10);
    run_sql(f->db, "UPDATE parcel SET phone = 'mine' WHERE id = 5");
    run_sql(f->db, "DELETE FROM parcel WHERE id = 6");
    int64_t token = claim_token(f->db, 1);
    int r = mixed(f->db, token, &res, &e);

    cr_assert_eq(r, 0, "%s", err_text(&e, r));
    cr_assert_eq(res.stale, 2);
    CLEANUP(mem_free) char *one = query_text(f->db, "SELECT phone FROM parcel WHERE id = 1");
    CLEANUP(mem_free) char *five = query_text(f->db, "SELECT phone FROM parcel WHERE id = 5");

    cr_assert_str_eq(one, "new \"q\" \\ {,} \xc3\xa9");
    cr_assert_str_eq(five, "mine");
    cr_assert_eq(db_plan_status(f->db, "p", &s, &e), 0);
    cr_assert_eq(s.ok, 1);
    cr_assert_eq(s.unchanged, 1);
    cr_assert_eq(s.stale, 2);
    cr_assert_eq(s.skipped, 1);
    cr_assert_eq(s.quarantined, 1);
    cr_assert_eq(s.remaining, 4);
    cr_assert_eq(s.total, 10);
    cr_assert_eq(db_failures_json(f->db, "p", 1, 2, &json, &e), 0);
    cr_assert_not_null(strstr(json.data, "ValueError"), "%s", json.data);
    cr_assert_not_null(strstr(json.data, "stale"));
    cr_assert_null(strstr(json.data, "skipped"));
    cr_assert_eq(query_int(f->db, "SELECT count(*) FROM scatter_outcome WHERE message IS NULL AND "
                                  "outcome = 'stale' AND worker = 'w1'"),
                 2);
}

EVERY_WAY(nothing_to_change_moves_the_checkpoint)
{
    static const struct slice old[2] = {SLICE_LIT("1"), SLICE_LIT("old1")};
    const struct db_row row = {.outcome = DB_O_UNCHANGED, .old = old};
    struct db_chunk c = {.plan = "p",
                         .batch = 1,
                         .new_position = 1,
                         .target = &parcel_target,
                         .rows = &row,
                         .n_rows = 1,
                         .lease_ms = LEASE_MS,
                         .worker = "w1"};
    struct db_chunk_result res = {0};
    struct err e = ERR_INIT;

    make_parcels(f, 10);
    make_plan(f, 1, 10);
    c.token = claim_token(f->db, 1);
    cr_assert_eq(db_chunk_apply(f->db, &c, &res, &e), 0, "%s", e.text);
    cr_assert_eq(query_int(f->db, "SELECT unchanged FROM scatter_batch WHERE position = 1"), 1);
}

EVERY_WAY(bad_data_rolls_all_back)
{
    struct db_chunk_result res = {0};
    struct err e = ERR_INIT;

    make_parcels(f, 10);
    make_plan(f, 1, 10);
    run_sql(f->db, "CREATE UNIQUE INDEX parcel_phone ON parcel (phone)");
    run_sql(f->db, "UPDATE parcel SET phone = 'new2' WHERE id = 9");
    int64_t token = claim_token(f->db, 1);

    cr_assert_eq(change(f->db, 1, token, 0, 0, 5, &res, &e), DB_E_DATA);
    cr_assert_str_eq(db_sqlstate(f->db), "23505");
    cr_assert_str_eq(db_error_class(f->db), "UniqueViolation");
    cr_assert_neq(e.text[0], '\0');
    cr_assert_eq(query_int(f->db, "SELECT position FROM scatter_batch"), 0);
    cr_assert_eq(query_int(f->db, "SELECT count(*) FROM parcel WHERE phone LIKE 'old%'"), 9);
    cr_assert_eq(change(f->db, 1, token, 0, 0, 1, &res, &e), 0);
}

EVERY_WAY(missing_column_is_no_data_error)
{
    static const char *const none[] = {"nothing"};
    struct db_target t = parcel_target;
    const struct slice old[2] = {SLICE_LIT("1"), SLICE_LIT("old1")};
    const struct db_row row = {.outcome = DB_O_CHANGED, .old = old, .fresh = &old[1]};
    struct db_chunk c = {.plan = "p",
                         .batch = 1,
                         .new_position = 1,
                         .target = &t,
                         .rows = &row,
                         .n_rows = 1,
                         .lease_ms = LEASE_MS,
                         .worker = "w1"};
    struct db_chunk_result res = {0};
    struct err e = ERR_INIT;

    make_parcels(f, 10);
    make_plan(f, 1, 10);
    c.token = claim_token(f->db, 1);
    t.writes = none;
    cr_assert_eq(db_chunk_apply(f->db, &c, &res, &e), DB_E_SCHEMA);
    cr_assert_not_null(strstr(e.text, "nothing"), "%s", e.text);
    e = ERR_INIT;
    t.table = "nowhere";
    cr_assert_eq(db_chunk_apply(f->db, &c, &res, &e), DB_E_SCHEMA);
    cr_assert_not_null(strstr(e.text, "nowhere"), "%s", e.text);
    cr_assert_eq(query_int(f->db, "SELECT position FROM scatter_batch"), 0);
}

EVERY_WAY(tells_of_pause_and_cancel)
{
    struct db_chunk_result res = {0};
    struct err e = ERR_INIT;

    make_parcels(f, 10);
    make_plan(f, 1, 10);
    int64_t token = claim_token(f->db, 1);

    cr_assert_eq(change(f->db, 1, token, 0, 0, 1, &res, &e), 0);
    cr_assert_eq(res.orders.state, DB_PLAN_RUNNING);
    run_sql(f->db, "UPDATE scatter_plan SET state = 'paused'");
    cr_assert_eq(change(f->db, 1, token, 0, 1, 2, &res, &e), 0);
    cr_assert_eq(res.orders.state, DB_PLAN_PAUSED);
    run_sql(f->db, "UPDATE scatter_plan SET state = 'cancelled'");
    cr_assert_eq(change(f->db, 1, token, 0, 2, 3, &res, &e), 0);
    cr_assert_eq(res.orders.state, DB_PLAN_CANCELLED);
}

EVERY_WAY(columns_that_are_not_set_keep_their_value)
{
    static const char *const reads[] = {"a"}, *const writes[] = {"a", "b"};
    const struct db_target t = {
        .table = "two", .key = "id", .reads = reads, .n_reads = 1, .writes = writes, .n_writes = 2};
    const struct slice old[2][2] = {{SLICE_LIT("1"), SLICE_LIT("x")}, {SLICE_LIT("2"), SLICE_NULL}};
    const struct slice fresh[2][2] = {{SLICE_LIT("y"), SLICE_NULL}, {SLICE_NULL, SLICE_LIT("7")}};
    const bool set[2][2] = {{true, false}, {false, true}};
    const struct db_row rows[] = {
        {.outcome = DB_O_CHANGED, .position = 0, .old = old[0], .fresh = fresh[0], .set = set[0]},
        {.outcome = DB_O_CHANGED, .position = 1, .old = old[1], .fresh = fresh[1], .set = set[1]},
    };
    struct db_chunk c = {.plan = "p",
                         .batch = 1,
                         .new_position = 2,
                         .target = &t,
                         .rows = rows,
                         .n_rows = 2,
                         .lease_ms = LEASE_MS,
                         .worker = "w1"};
    struct db_chunk_result res = {0};
    struct err e = ERR_INIT;

    run_sql(f->db, "CREATE TABLE two (id integer PRIMARY KEY, a text, b integer)");
    run_sql(f->db, "INSERT INTO two VALUES (1, 'x', 1), (2, NULL, 2)");
    make_plan(f, 1, 10);
    c.token = claim_token(f->db, 1);
    int r = db_chunk_apply(f->db, &c, &res, &e);

    cr_assert_eq(r, 0, "%s", err_text(&e, r));
    cr_assert_eq(res.stale, 0);
    cr_assert_eq(query_int(f->db, "SELECT count(*) FROM two WHERE id = 1 AND a = 'y' AND b = 1"),
                 1);
    cr_assert_eq(query_int(f->db, "SELECT count(*) FROM two WHERE id = 2 AND a IS NULL AND b = 7"),
                 1);
}

/* A record that stands twice in a hand-made file has its effect once. */
EVERY_WAY(key_twice_counts_once)
{
    const struct slice old[2] = {SLICE_LIT("1"), SLICE_LIT("old1")};
    const struct slice fresh = SLICE_LIT("new1");
    const struct db_row rows[] = {
        {.outcome = DB_O_CHANGED, .position = 0, .old = old, .fresh = &fresh},
        {.outcome = DB_O_CHANGED, .position = 1, .old = old, .fresh = &fresh},
    };
    struct db_chunk c = {.plan = "p",
                         .batch = 1,
                         .new_position = 2,
                         .target = &parcel_target,
                         .rows = rows,
                         .n_rows = 2,
                         .lease_ms = LEASE_MS,
                         .worker = "w1"};
    struct db_chunk_result res = {0};
    struct err e = ERR_INIT;

    make_parcels(f, 2);
    make_plan(f, 1, 10);
    c.token = claim_token(f->db, 1);
    cr_assert_eq(db_chunk_apply(f->db, &c, &res, &e), 0);
    cr_assert_eq(res.stale, 1);
    cr_assert_eq(changed(f->db), 1);
}

Test(postgresql, quoted_names_and_schemas)
{
    static const char *const odd[] = {"Odd \"one\""};
    const struct db_target t = {.table = "Other.Par\"cel",
                                .key = "Id",
                                .reads = odd,
                                .n_reads = 1,
                                .writes = odd,
                                .n_writes = 1};
    const struct slice old[2] = {SLICE_LIT("k'1"), SLICE_LIT("a")};
    const struct slice fresh = SLICE_LIT("abc");
    const struct db_row row = {.outcome = DB_O_CHANGED, .old = old, .fresh = &fresh};
    struct db_chunk c = {.plan = "p",
                         .batch = 1,
                         .new_position = 1,
                         .target = &t,
                         .rows = &row,
                         .n_rows = 1,
                         .lease_ms = LEASE_MS,
                         .worker = "w1"};
    struct db_chunk_result res = {0};
    struct err e = ERR_INIT;
    struct fixture fx;

    fixture_open(&fx, FIXTURE_POSTGRESQL);
    run_sql(fx.db, "CREATE SCHEMA IF NOT EXISTS \"Other\"");
    run_sql(fx.db, "DROP TABLE IF EXISTS \"Other\".\"Par\"\"cel\"");
    run_sql(fx.db, "CREATE TABLE \"Other\".\"Par\"\"cel\" (\"Id\" varchar(9) PRIMARY KEY, \"Odd "
                   "\"\"one\"\"\" varchar(2))");
    run_sql(fx.db, "INSERT INTO \"Other\".\"Par\"\"cel\" VALUES ('k''1', 'a')");
    make_plan(&fx, 1, 10);
    cr_assert_eq(db_check_target(fx.db, &t, &e), 0, "%s", e.text);
    c.token = claim_token(fx.db, 1);
    /* A value that is too long is refused, never cut by a cast. */
    cr_assert_eq(db_chunk_apply(fx.db, &c, &res, &e), DB_E_DATA);
    cr_assert_str_eq(db_sqlstate(fx.db), "22001");
    const struct slice shorter = SLICE_LIT("ab");
    const struct db_row again = {.outcome = DB_O_CHANGED, .old = old, .fresh = &shorter};

    c.rows = &again;
    e = ERR_INIT;
    cr_assert_eq(db_chunk_apply(fx.db, &c, &res, &e), 0, "%s", e.text);
    cr_assert_eq(res.stale, 0);
    fixture_close(&fx);
}
