/* SPDX-License-Identifier: Apache-2.0 */
/* Streaming a query, and that what it tells is exactly what the guard of a chunk compares: every type makes the whole
 * way from the query to an update without a single stale row. */

#include "plan.h"

#include <criterion/criterion.h>

#define MAX_ROWS 16
#define MAX_COLS 8

struct got {
    struct arena *arena;
    size_t n_cols, n_rows;
    const char *names[MAX_COLS], *types[MAX_COLS];
    struct slice cell[MAX_ROWS][MAX_COLS];
    int stop_at; /* the row at which the callback refuses; -1 never */
};

static int on_columns(const char *const *names, const char *const *types, size_t n, void *arg)
{
    struct got *g = arg;

    g->n_cols = n;
    for (size_t i = 0; i < n; i++) {
        g->names[i] = arena_strdup(g->arena, slice_str(names[i]));
        g->types[i] = arena_strdup(g->arena, slice_str(types[i]));
    }
    return 0;
}

static int on_row(const struct slice *values, size_t n, void *arg)
{
    struct got *g = arg;

    if ((int)g->n_rows == g->stop_at)
        return -77;
    for (size_t i = 0; i < n && g->n_rows < MAX_ROWS; i++)
        g->cell[g->n_rows][i] =
            values[i].p ? (struct slice){arena_strdup(g->arena, values[i]), values[i].len}
                        : SLICE_NULL;
    g->n_rows++;
    return 0;
}

static int stream(struct db *db, const char *query, struct got *g, struct err *e)
{
    const struct db_stream s = {on_columns, on_row, g};

    *g = (struct got){.arena = g->arena, .stop_at = g->stop_at};
    return db_stream_query(db, query, &s, e);
}

BOTH(values_come_as_they_are)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct got g = {.arena = a, .stop_at = -1};
    struct err e = ERR_INIT;

    run_sql(f->db, "CREATE TABLE s (id bigint PRIMARY KEY, t text)");
    run_sql(f->db, "INSERT INTO s VALUES (1, 'tab\there'), (2, NULL), (3, ''), (4, 'back\\slash "
                   "\\N \\t'), (5, 'line\nfeed\r'), (6, '\xe2\x82\xac \"quoted\"'), (7, '\\N')");
    cr_assert_eq(stream(f->db, "SELECT id, t FROM s; -- a comment behind the end", &g, &e),
                 DB_E_SCHEMA);
    e = ERR_INIT;
    cr_assert_eq(stream(f->db, "SELECT id, t AS \"The text\" FROM s ORDER BY id; \n", &g, &e), 0,
                 "%s", e.text);
    cr_assert_eq(g.n_cols, 2);
    cr_assert_str_eq(g.names[1], "The text");
    cr_assert_str_eq(g.types[0], f->kind == FIXTURE_SQLITE ? "bigint" : "int8");
    cr_assert_eq(strcasecmp(g.types[1], "text"), 0);
    cr_assert_eq(g.n_rows, 7);
    static const char *const want[] = {
        "tab\there", NULL, "", "back\\slash \\N \\t", "line\nfeed\r", "\xe2\x82\xac \"quoted\"",
        "\\N"};

    for (size_t i = 0; i < 7; i++) {
        cr_assert_eq(!g.cell[i][1].p, !want[i], "row %zu", i);
        cr_assert(slice_eq(g.cell[i][1], slice_str(want[i])), "row %zu: %s", i, g.cell[i][1].p);
    }
    /* The connection goes on after the callback's refusal. */
    g.stop_at = 3;
    cr_assert_eq(stream(f->db, "SELECT id, t FROM s ORDER BY id", &g, &e), -77);
    cr_assert_eq(g.n_rows, 3);
    g.stop_at = -1;
    cr_assert_eq(stream(f->db, "SELECT count(*), 'x' FROM s -- comment", &g, &e), 0, "%s", e.text);
    cr_assert_str_eq(g.cell[0][0].p, "7");
}

BOTH(wrong_queries_are_told)
{
    static const char *const wrong[] = {
        "SELEKT 1", "SELECT * FROM nowhere", "DELETE FROM parcel", "UPDATE parcel SET n = 1",
        "",         "SELECT 1; SELECT 2"};
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct got g = {.arena = a, .stop_at = -1};

    make_parcels(f, 3);
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        struct err e = ERR_INIT;

        cr_assert_eq(stream(f->db, wrong[i], &g, &e), DB_E_SCHEMA, "%s", wrong[i]);
        cr_assert_neq(e.text[0], '\0', "%s", wrong[i]);
    }
    cr_assert_eq(query_int(f->db, "SELECT count(*) FROM parcel WHERE n = 0"), 3);
}

Test(postgresql, no_writes_hidden_in_a_query)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct got g = {.arena = a, .stop_at = -1};
    struct err e = ERR_INIT;
    struct fixture f;

    fixture_open(&f, FIXTURE_POSTGRESQL);
    make_parcels(&f, 3);
    run_sql(f.db, "CREATE FUNCTION wipe() RETURNS bigint LANGUAGE sql AS 'UPDATE parcel SET n = 9 "
                  "RETURNING id'");
    cr_assert_eq(stream(f.db, "SELECT wipe()", &g, &e), DB_E_SCHEMA);
    cr_assert_str_eq(db_sqlstate(f.db), "25006");
    cr_assert_eq(query_int(f.db, "SELECT count(*) FROM parcel WHERE n = 0"), 3);
    fixture_close(&f);
}

/* ---- every type, from the query to the chunk ---- */

/* Streams id, v of table zoo and writes `fresh` to w where v is as it was told. The number of stale rows. */
static int64_t there_and_back(struct fixture *f, const char *id, const char *v, const char *w,
                              const char *fresh)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct got g = {.arena = a, .stop_at = -1};
    struct err e = ERR_INIT;
    char sql[200];
    struct db_row rows[MAX_ROWS] = {0};
    const struct slice new_value = slice_str(fresh);
    const struct db_target t = {
        .table = "zoo", .key = id, .reads = &v, .n_reads = 1, .writes = &w, .n_writes = 1};
    struct db_chunk_result res = {0};

    (void)snprintf(sql, sizeof(sql), "SELECT %s, %s FROM zoo ORDER BY %s", id, v, id);
    cr_assert_eq(stream(f->db, sql, &g, &e), 0, "%s", e.text);
    run_sql(f->db, "DELETE FROM scatter_plan");
    make_plan(f, 1, 10);
    for (size_t i = 0; i < g.n_rows; i++)
        rows[i] = (struct db_row){
            .outcome = DB_O_CHANGED, .position = (int64_t)i, .old = g.cell[i], .fresh = &new_value};
    const struct db_chunk c = {.plan = "p",
                               .batch = 1,
                               .token = claim_token(f->db, 1),
                               .new_position = (int64_t)g.n_rows,
                               .target = &t,
                               .rows = rows,
                               .n_rows = g.n_rows,
                               .lease_ms = LEASE_MS,
                               .worker = "w1"};
    int r = db_chunk_apply(f->db, &c, &res, &e);

    cr_assert_eq(r, 0, "%s %s: %s", id, v, err_text(&e, r));
    return res.stale;
}

Test(postgresql, type_zoo)
{
    static const struct {
        const char *type, *values;
    } zoo[] = {
        {"bigint", "9223372036854775807"},
        {"smallint", "-1"},
        {"numeric(20,4)", "12345678.9000"},
        {"double precision", "0.1"},
        {"real", "1e-30"},
        {"boolean", "true"},
        {"text", "'it''s \\ \"q\" {a,b}'"},
        {"char(10)", "'ab'"},
        {"varchar(5)", "'abc  '"},
        {"timestamptz", "'2013-03-10 01:59:59.123456-05'"},
        {"timestamp", "'2013-03-10 01:59:59'"},
        {"date", "'0044-03-15 BC'"},
        {"time", "'12:00:00.5'"},
        {"interval", "'1 year 2 days 03:04:05'"},
        {"uuid", "'6ba7b811-9dad-11d1-80b4-00c04fd430c8'"},
        {"inet", "'10.0.0.1'"},
        {"bytea", "'\\x00ff'"},
        {"json", "'{\"a\":  1}'"},
        {"jsonb", "'{\"a\":  1}'"},
        {"integer[]", "'{1,NULL,3}'"},
        {"text[]", "'{\"a,b\",NULL}'"},
        {"bit(3)", "'101'"},
        {"numrange", "'[1,2)'"},
        {"mood", "'so so'"},
        {"positive", "5"},
    };
    struct fixture f;

    fixture_open(&f, FIXTURE_POSTGRESQL);
    run_sql(f.db, "CREATE TYPE mood AS ENUM ('so so', 'ok')");
    run_sql(f.db, "CREATE DOMAIN positive AS integer CHECK (VALUE > 0)");
    for (size_t i = 0; i < ARRAY_SIZE(zoo); i++) {
        char sql[400];
        CLEANUP(mem_free) char *text = NULL;

        run_sql(f.db, "DROP TABLE IF EXISTS zoo");
        (void)snprintf(sql, sizeof(sql), "CREATE TABLE zoo (id int PRIMARY KEY, v %s, w %s)",
                       zoo[i].type, zoo[i].type);
        run_sql(f.db, sql);
        (void)snprintf(sql, sizeof(sql), "INSERT INTO zoo VALUES (1, %s), (2, NULL)",
                       zoo[i].values);
        run_sql(f.db, sql);
        text = query_text(f.db, "SELECT v::text FROM zoo WHERE id = 1");
        cr_assert_eq(there_and_back(&f, "id", "v", "w", text), 0, "%s", zoo[i].type);
        cr_assert_eq(query_int(f.db, "SELECT count(*) FROM zoo a JOIN zoo b ON b.id = 1 WHERE "
                                     "a.w::text = b.v::text"),
                     2, "%s", zoo[i].type);
        /* A value that differs only in its text (a trailing zero, a case) is another value. */
        cr_assert_eq(there_and_back(&f, "id", "w", "v", NULL), 0, "%s", zoo[i].type);
    }
    fixture_close(&f);
}

/* Keys of other types than integers. */
Test(postgresql, key_zoo)
{
    static const struct {
        const char *type, *values;
    } zoo[] = {{"text", "('a''b'), ('{\"x\\y\"}'), ('')"},
               {"uuid", "('6ba7b811-9dad-11d1-80b4-00c04fd430c8')"},
               {"varchar(9)", "('007'), ('7')"},
               {"timestamptz", "('2020-02-02 02:02:02+02')"},
               {"numeric", "(1.50), (2)"},
               {"char(4)", "('ab')"},
               {"date", "('2020-02-02')"}};
    struct fixture f;

    fixture_open(&f, FIXTURE_POSTGRESQL);
    for (size_t i = 0; i < ARRAY_SIZE(zoo); i++) {
        char sql[400];

        run_sql(f.db, "DROP TABLE IF EXISTS zoo");
        (void)snprintf(sql, sizeof(sql),
                       "CREATE TABLE zoo (id %s PRIMARY KEY, v text DEFAULT 'v', w text)",
                       zoo[i].type);
        run_sql(f.db, sql);
        (void)snprintf(sql, sizeof(sql), "INSERT INTO zoo (id) VALUES %s", zoo[i].values);
        run_sql(f.db, sql);
        cr_assert_eq(there_and_back(&f, "id", "v", "w", "x"), 0, "%s", zoo[i].type);
        cr_assert_eq(query_int(f.db, "SELECT count(*) FROM zoo WHERE w IS NULL"), 0, "%s",
                     zoo[i].type);
    }
    fixture_close(&f);
}

Test(sqlite, type_zoo)
{
    static const struct {
        const char *key, *type, *value, *stored; /* stored: typeof(w) */
    } zoo[] = {
        {"integer", "integer", "42", "integer"},
        {"integer", "bigint", "-9223372036854775808", "integer"},
        {"integer", "real", "0.1", "real"},
        {"integer", "decimal(10, 2)", "12.5", "real"},
        {"integer", "varchar(20)", "'007'", "text"},
        {"integer", "text", "'it''s'", "text"},
        {"integer", "datetime", "'2013-03-10 06:59:59'", "text"},
        {"integer", "", "'plain'", "text"},
        {"text", "integer", "5", "integer"},
        {"varchar(9)", "text", "'x'", "text"},
        {"", "text", "'x'", "text"},
        {"char(32)", "bool", "1", "integer"},
    };
    struct fixture f;

    fixture_open(&f, FIXTURE_SQLITE);
    for (size_t i = 0; i < ARRAY_SIZE(zoo); i++) {
        char sql[400];
        CLEANUP(mem_free) char *text = NULL;

        run_sql(f.db, "DROP TABLE IF EXISTS zoo");
        (void)snprintf(sql, sizeof(sql), "CREATE TABLE zoo (id %s PRIMARY KEY, v %s, w %s)",
                       zoo[i].key, zoo[i].type, zoo[i].type);
        run_sql(f.db, sql);
        (void)snprintf(sql, sizeof(sql), "INSERT INTO zoo VALUES (7, %s, NULL), (8, NULL, NULL)",
                       zoo[i].value);
        run_sql(f.db, sql);
        text = query_text(f.db, "SELECT CAST(v AS TEXT) FROM zoo WHERE v IS NOT NULL");
        cr_assert_eq(there_and_back(&f, "id", "v", "w", text), 0, "%s", zoo[i].type);
        CLEANUP(mem_free) char *stored = query_text(f.db, "SELECT typeof(w) FROM zoo");

        cr_assert_str_eq(stored, zoo[i].stored, "%s: %s", zoo[i].type, stored);
    }
    fixture_close(&f);
}

/* A batch file says true and false where a boolean column of SQLite holds 1 and 0. */
Test(sqlite, booleans_of_the_batch_file)
{
    static const char *const v[] = {"v"};
    const struct slice old[2][2] = {{SLICE_LIT("1"), SLICE_LIT("true")},
                                    {SLICE_LIT("2"), SLICE_LIT("false")}};
    const struct slice fresh[2] = {SLICE_LIT("false"), SLICE_LIT("true")};
    const struct db_target t = {
        .table = "zoo", .key = "id", .reads = v, .n_reads = 1, .writes = v, .n_writes = 1};
    const struct db_row rows[] = {
        {.outcome = DB_O_CHANGED, .position = 0, .old = old[0], .fresh = &fresh[0]},
        {.outcome = DB_O_CHANGED, .position = 1, .old = old[1], .fresh = &fresh[1]}};
    struct db_chunk c = {.plan = "p",
                         .batch = 1,
                         .new_position = 2,
                         .target = &t,
                         .rows = rows,
                         .n_rows = 2,
                         .lease_ms = LEASE_MS,
                         .worker = "w"};
    struct db_chunk_result res = {0};
    struct err e = ERR_INIT;
    struct fixture f;

    fixture_open(&f, FIXTURE_SQLITE);
    run_sql(f.db, "CREATE TABLE zoo (id integer PRIMARY KEY, v bool)");
    run_sql(f.db, "INSERT INTO zoo VALUES (1, 1), (2, 0)");
    make_plan(&f, 1, 10);
    c.token = claim_token(f.db, 1);
    cr_assert_eq(db_chunk_apply(f.db, &c, &res, &e), 0, "%s", e.text);
    cr_assert_eq(res.stale, 0);
    cr_assert_eq(query_int(f.db, "SELECT count(*) FROM zoo WHERE v IS (id = 2) AND typeof(v) = "
                                 "'integer'"),
                 2);
    fixture_close(&f);
}
