/* SPDX-License-Identifier: Apache-2.0 */
/* Chunks by COPY: hostile values, what stays behind, and where no temporary table may be made. test_chunk.c and
 * test_race.c run by COPY what holds for every chunk. */

#include "celeryc/db/pg.h"
#include "celeryc/db/rehearse.h"
#include "pgserver.h"
#include "plan.h"

#include <criterion/criterion.h>
#include <unistd.h>

/* One change for each id from 1 on: phone from "old<id>" to fresh. */
static int change_to(struct db *db, int64_t token, const struct slice *fresh, size_t n,
                     struct db_chunk_result *ret_r, struct err *e)
{
    struct db_row rows[16];
    struct slice old[16][2];
    char text[16][2][16];

    cr_assert_leq(n, ARRAY_SIZE(rows));
    for (size_t i = 0; i < n; i++) {
        (void)snprintf(text[i][0], sizeof(text[i][0]), "%zu", i + 1);
        (void)snprintf(text[i][1], sizeof(text[i][1]), "old%zu", i + 1);
        old[i][0] = slice_str(text[i][0]);
        old[i][1] = slice_str(text[i][1]);
        rows[i] = (struct db_row){
            .outcome = DB_O_CHANGED, .position = (int64_t)i, .old = old[i], .fresh = &fresh[i]};
    }
    return db_chunk_apply(db,
                          &(struct db_chunk){.plan = "p",
                                             .batch = 1,
                                             .token = token,
                                             .new_position = (int64_t)n,
                                             .target = &parcel_target,
                                             .rows = rows,
                                             .n_rows = n,
                                             .lease_ms = LEASE_MS,
                                             .worker = "w'1 \\ $1"},
                          ret_r, e);
}

static void hostile_values(enum fixture_kind kind)
{
    static char large[300000];
    struct fixture f;
    struct db_chunk_result res = {0};
    struct err e = ERR_INIT;

    memset(large, 'x', sizeof(large));
    const struct slice fresh[] = {SLICE_LIT(""),
                                  SLICE_LIT("\\N"),
                                  SLICE_LIT("\\."),
                                  SLICE_LIT("a\tb\nc\rd\\t"),
                                  SLICE_LIT("'\"{,}NULL$1"),
                                  SLICE_LIT("NULL"),
                                  SLICE_LIT("\xc4\x90\xe1\xba\xb7ng"),
                                  {large, sizeof(large)},
                                  SLICE_NULL};

    fixture_open(&f, kind);
    make_parcels(&f, 10);
    make_plan(&f, 1, 10);
    int r = change_to(f.db, claim_token(f.db, 1), fresh, ARRAY_SIZE(fresh), &res, &e);

    cr_assert_eq(r, 0, "%s", err_text(&e, r));
    cr_assert_eq(res.stale, 0);
    for (size_t i = 0; i < ARRAY_SIZE(fresh); i++) {
        char sql[80];

        (void)snprintf(sql, sizeof(sql), "SELECT phone FROM parcel WHERE id = %zu", i + 1);
        CLEANUP(mem_free) char *found = query_text(f.db, sql);

        cr_assert_eq(found == NULL, fresh[i].p == NULL, "%zu", i);
        cr_assert(!found || slice_eq(slice_str(found), fresh[i]), "%zu", i);
    }
    CLEANUP(mem_free) char *worker = query_text(f.db, "SELECT worker FROM scatter_share");

    cr_assert_str_eq(worker, "w'1 \\ $1");
    fixture_close(&f);
}

Test(copy, values_arrive_as_they_are)
{
    hostile_values(FIXTURE_COPY);
}

Test(postgresql, values_arrive_as_they_are)
{
    hostile_values(FIXTURE_POSTGRESQL);
}

static void values_that_are_no_text(enum fixture_kind kind)
{
    static const struct slice fresh[][2] = {{SLICE_LIT("good"), SLICE_LIT("\xff\xfe")},
                                            {SLICE_LIT("good"), SLICE_LIT("a\0b")}};
    static const struct slice good[] = {SLICE_LIT("good"), SLICE_LIT("fine")};
    struct fixture f;
    struct db_chunk_result res = {0};

    fixture_open(&f, kind);
    make_parcels(&f, 10);
    make_plan(&f, 1, 10);
    int64_t token = claim_token(f.db, 1);

    for (size_t i = 0; i < ARRAY_SIZE(fresh); i++) {
        struct err e = ERR_INIT;

        cr_assert_eq(change_to(f.db, token, fresh[i], 2, &res, &e), DB_E_DATA);
        cr_assert_str_eq(db_sqlstate(f.db), "22021");
        cr_assert_eq(query_int(f.db, "SELECT position FROM scatter_batch"), 0);
    }
    struct err e = ERR_INIT;

    cr_assert_eq(change_to(f.db, token, good, 2, &res, &e), 0, "%s", e.text);
    fixture_close(&f);
}

Test(copy, values_that_are_no_text_are_refused)
{
    values_that_are_no_text(FIXTURE_COPY);
}

Test(postgresql, values_that_are_no_text_are_refused)
{
    values_that_are_no_text(FIXTURE_POSTGRESQL);
}

/* A trigger looks, while a chunk runs, whether there is its table; it may not stay. */
Test(copy, values_go_as_they_are_told_to)
{
    static const int64_t tables[] = {[DB_COPY_AUTO] = 0, [DB_COPY_ALWAYS] = 1, [DB_COPY_NEVER] = 0};
    struct fixture f;
    struct db_chunk_result res = {0};
    struct err e = ERR_INIT;

    fixture_open(&f, FIXTURE_POSTGRESQL);
    make_parcels(&f, 20);
    make_plan(&f, 1, 20);
    run_sql(f.db,
            "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.n := (SELECT "
            "count(*) FROM pg_class WHERE oid = to_regclass(''pg_temp.scatter_chunk_values'')); "
            "RETURN NEW; END'");
    run_sql(f.db,
            "CREATE TRIGGER look BEFORE UPDATE OF phone ON parcel FOR EACH ROW EXECUTE FUNCTION "
            "look()");
    int64_t token = claim_token(f.db, 1);

    for (int64_t i = 0; i < (int64_t)ARRAY_SIZE(tables); i++) {
        db_set_copy(f.db, (enum db_copy)i);
        cr_assert_eq(change(f.db, 1, token, 0, 5 * i, 5 * i + 5, &res, &e), 0, "%s", e.text);
        CLEANUP(mem_free)
        char *seen = query_text(
            f.db, "SELECT n FROM parcel WHERE phone LIKE 'new%' ORDER BY id DESC LIMIT 1");

        cr_assert_eq(strtoll(seen, NULL, 10), tables[i], "%d", (int)i);
        cr_assert_eq(query_int(f.db, "SELECT count(*) FROM pg_class WHERE oid = "
                                     "to_regclass('pg_temp.scatter_chunk_values')"),
                     0);
    }
    fixture_close(&f);
}

/* The number of values decides, and their size only where it must. */
Test(copy, what_is_quicker_is_chosen)
{
    static const char *const names[] = {"a", "b", "c", "d", "e", "f", "g", "h"};
    const struct db_target wide = {.reads = names, .n_reads = 8, .writes = names, .n_writes = 8};
    const struct db_target narrow = {.reads = names, .n_reads = 1, .writes = names, .n_writes = 1};
    const struct pg pg = {.conn = NULL}, never = {.db = {.copy = DB_COPY_NEVER}};
    const struct pg refused = {.db = {.copy = DB_COPY_ALWAYS, .copy_refused = "no"}};
    const struct db_chunk cw = {.target = &wide}, cn = {.target = &narrow};
    struct pg_values v = {.c = &cw, .n_keys = 1, .n_rows = 1000};

    cr_assert_not(pg_copy_wanted(&pg, &v));
    v.n_rows = 2000;
    cr_assert(pg_copy_wanted(&pg, &v));
    cr_assert_not(pg_copy_wanted(&never, &v));
    cr_assert_not(pg_copy_wanted(&refused, &v));
    v = (struct pg_values){.c = &cn, .n_keys = 1, .n_rows = 1000000};
    cr_assert_not(pg_copy_wanted(&pg, &v));
    v.n_bytes = 300u << 20;
    cr_assert(pg_copy_wanted(&pg, &v));
    cr_assert_not(pg_copy_wanted(&never, &v));
}

static void admin(const char *sql)
{
    PGconn *conn = PQconnectdb(pgserver_url());
    PGresult *res = PQexec(conn, sql);

    cr_assert_eq(PQresultStatus(res), PGRES_COMMAND_OK, "%s: %s", sql, PQerrorMessage(conn));
    PQclear(res);
    PQfinish(conn);
}

/* A role that may not make temporary tables: the chunk goes as arrays, and so do those after it. */
Test(copy, arrays_where_temporary_tables_are_refused)
{
    char sql[200], url[300];
    struct fixture f = {.kind = FIXTURE_POSTGRESQL, .by_copy = true};
    struct db_chunk_result res = {0};
    struct err e = ERR_INIT;
    int id = (int)getpid();

    (void)snprintf(sql, sizeof(sql), "CREATE ROLE poor_%d LOGIN", id);
    admin(sql);
    (void)snprintf(sql, sizeof(sql), "CREATE DATABASE poor_%d OWNER poor_%d", id, id);
    admin(sql);
    (void)snprintf(sql, sizeof(sql), "REVOKE TEMPORARY ON DATABASE poor_%d FROM PUBLIC, poor_%d",
                   id, id);
    admin(sql);
    (void)snprintf(url, sizeof(url), "%s", pgserver_url() + strlen("postgresql:///postgres?"));
    url[strlen(url) - strlen("user=postgres")] = '\0';
    cr_assert_lt(
        snprintf(f.url, sizeof(f.url), "postgresql:///poor_%d?%suser=poor_%d", id, url, id),
        (int)sizeof(f.url));
    f.db = fixture_connect(&f);
    cr_assert_eq(db_ensure_schema(f.db, &e), 0, "%s", e.text);
    make_parcels(&f, 10);
    make_plan(&f, 1, 10);
    int64_t token = claim_token(f.db, 1);

    cr_assert_null(db_copy_refused(f.db));
    for (int64_t i = 0; i < 10; i += 5) {
        int r = change(f.db, 1, token, 0, i, i + 5, &res, &e);

        cr_assert_eq(r, 0, "%s", err_text(&e, r));
        cr_assert_not_null(strstr(db_copy_refused(f.db), "permission denied"));
    }
    cr_assert_eq(query_int(f.db, "SELECT count(*) FROM parcel WHERE phone LIKE 'new%'"), 10);
    cr_assert_eq(change(f.db, 1, token + 1, 0, 0, 5, &res, &e), DB_E_FENCED);
    f.db = db_close(f.db);
}

/* Half of a small table, and yet no join that would read it whole and lock its rows in another order. */
Test(postgresql, rows_are_looked_up_by_their_key)
{
    CLEANUP(buf_deinit) struct buf plan = BUF_INIT;
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct err e = ERR_INIT;
    struct fixture f;

    fixture_open(&f, FIXTURE_POSTGRESQL);
    make_parcels(&f, 2000);
    run_sql(f.db, "ANALYZE parcel");
    struct db_row *rows = arena_alloc_array(a, 1000, sizeof(*rows));

    for (size_t i = 0; i < 1000; i++) {
        struct slice *values = arena_alloc_array(a, 2, sizeof(*values));

        values[0] = slice_str(arena_printf(a, "%zu", i + 1));
        values[1] = SLICE_LIT("old");
        rows[i] = (struct db_row){
            .outcome = DB_O_CHANGED, .position = (int64_t)i, .old = values, .fresh = &values[1]};
    }
    cr_assert_eq(db_explain_chunk(f.db, &parcel_target, rows, 1000, &plan, &e), 0, "%s", e.text);
    cr_assert_not_null(strstr(plan.data, "Index Scan using parcel_pkey"), "%s", plan.data);
    cr_assert_null(strstr(plan.data, "Hash Join"), "%s", plan.data);
    cr_assert_null(strstr(plan.data, "Merge Join"), "%s", plan.data);
    fixture_close(&f);
}
