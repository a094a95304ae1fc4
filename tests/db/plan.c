/* SPDX-License-Identifier: Apache-2.0 */
#include "plan.h"

#include <criterion/criterion.h>
#include <criterion/internal/assert.h>

static const char *const phone[] = {"phone"};

const struct db_target parcel_target = {
    .table = "parcel", .key = "id", .reads = phone, .n_reads = 1, .writes = phone, .n_writes = 1};

void make_parcels(struct fixture *f, int64_t n)
{
    char sql[256];

    run_sql(f->db, "CREATE TABLE parcel (id bigint PRIMARY KEY, phone text, n integer NOT NULL "
                   "DEFAULT 0)");
    (void)snprintf(
        sql, sizeof(sql),
        "WITH RECURSIVE g (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM g WHERE i < %lld) "
        "INSERT INTO parcel (id, phone) SELECT i, 'old' || i FROM g",
        (long long)n);
    run_sql(f->db, sql);
}

static const struct db_plan the_plan = {.plan = "p",
                                        .migration = "m",
                                        .table = "parcel",
                                        .key = "id",
                                        .store = "file:///s",
                                        .queue = "q",
                                        .database = "default",
                                        .columns_json = "[\"phone\"]",
                                        .on_batch = "b",
                                        .retry_on = "40"};

void make_plan(struct fixture *f, int64_t n_batches, int64_t count)
{
    struct db_batch_row rows[8];
    struct db_plan p = the_plan;
    struct err e = ERR_INIT;

    for (int64_t i = 0; i < n_batches; i++)
        rows[i] = (struct db_batch_row){i + 1, "file:///s/p/b", "abc", count};
    p.total = n_batches * count;
    p.n_batches = n_batches;
    int r = db_plan_insert(f->db, &p, rows, (size_t)n_batches, &e);

    cr_assert_eq(r, 0, "%s", err_text(&e, r));
}

struct db_claim claim(struct db *db, int64_t batch, bool takeover)
{
    struct db_claim c = {0};
    struct err e = ERR_INIT;
    const struct db_batch_row row = {batch, "file:///s/p/b", "abc", 10};
    const struct db_claim_request q = {.plan = &the_plan,
                                       .batch = &row,
                                       .worker = "w1",
                                       .owner = "o1",
                                       .takeover = takeover,
                                       .lease_ms = LEASE_MS};
    int r = db_batch_claim(db, &q, &c, &e);

    cr_assert_eq(r, 0, "%s", err_text(&e, r));
    return c;
}

int64_t claim_token(struct db *db, int64_t batch)
{
    CLEANUP(db_claim_deinit) struct db_claim c = claim(db, batch, false);

    cr_assert_eq(c.state, DB_CLAIM_OURS);
    return c.token;
}

int change_leased(struct db *db, int64_t batch, int64_t token, int64_t first, int64_t from,
                  int64_t to, int64_t lease_ms, struct db_chunk_result *ret_r, struct err *e)
{
    size_t n = (size_t)(to - from);
    struct db_row rows[64] = {0};
    struct slice old[64][2], fresh[64];
    char text[64][3][24];

    cr_assert_leq(n, ARRAY_SIZE(rows));
    for (size_t i = 0; i < n; i++) {
        long long id = first + from + (int64_t)i + 1;

        (void)snprintf(text[i][0], sizeof(text[i][0]), "%lld", id);
        (void)snprintf(text[i][1], sizeof(text[i][1]), "old%lld", id);
        (void)snprintf(text[i][2], sizeof(text[i][2]), "new%lld", id);
        old[i][0] = slice_str(text[i][0]);
        old[i][1] = slice_str(text[i][1]);
        fresh[i] = slice_str(text[i][2]);
        rows[i] = (struct db_row){.outcome = DB_O_CHANGED,
                                  .position = from + (int64_t)i,
                                  .old = old[i],
                                  .fresh = &fresh[i]};
    }
    return db_chunk_apply(db,
                          &(struct db_chunk){.plan = "p",
                                             .batch = batch,
                                             .token = token,
                                             .old_position = from,
                                             .new_position = to,
                                             .target = &parcel_target,
                                             .rows = rows,
                                             .n_rows = n,
                                             .lease_ms = lease_ms,
                                             .worker = "w1"},
                          ret_r, e);
}

int change(struct db *db, int64_t batch, int64_t token, int64_t first, int64_t from, int64_t to,
           struct db_chunk_result *ret_r, struct err *e)
{
    return change_leased(db, batch, token, first, from, to, LEASE_MS, ret_r, e);
}
