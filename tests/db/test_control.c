/* SPDX-License-Identifier: Apache-2.0 */
/* Plans and batches in the control tables: claims, releases, ends, and what they tell. */

#include "plan.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <unistd.h>

static int64_t count(struct db *db, const char *table, const char *where)
{
    char sql[300];

    (void)snprintf(sql, sizeof(sql), "SELECT count(*) FROM %s WHERE %s", table, where);
    return query_int(db, sql);
}

static int release(struct db *db, int64_t token, enum db_release_kind kind, const char *error,
                   bool *ret_ended)
{
    struct db_release rel = {.kind = kind, .error = error};
    struct err e = ERR_INIT;
    int r = db_batch_release(db, "p", 1, token, &rel, &e);

    if (ret_ended)
        *ret_ended = rel.plan_finished;
    return r;
}

BOTH(plan_is_inserted_once_and_read_back)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct db_batch_row rows[4];
    struct db_plan p = {0};
    const char *state = NULL;
    struct err e = ERR_INIT;
    size_t n = 0;

    make_plan(f, 3, 10);
    make_plan(f, 4, 99); /* is left as it is */
    cr_assert_eq(count(f->db, "scatter_batch", "state = 'planned' AND records = 10"), 3);
    cr_assert_eq(db_plan_get(f->db, "p", a, &p, &state, &e), 0, "%s", e.text);
    cr_assert_str_eq(p.plan, "p");
    cr_assert_str_eq(p.migration, "m");
    cr_assert_str_eq(p.columns_json, "[\"phone\"]");
    cr_assert_str_eq(p.on_batch, "b");
    cr_assert_null(p.on_finish);
    cr_assert_str_eq(p.retry_on, "40");
    cr_assert_str_eq(p.params_json, "{}");
    cr_assert_str_eq(state, "planned");
    cr_assert_eq(p.total, 30);
    cr_assert_eq(p.n_batches, 3);
    cr_assert_eq(db_batches_queued(f->db, "p", 1, 2, &e), 0);
    cr_assert_eq(db_batches_queued(f->db, "p", 1, 2, &e), 0);
    cr_assert_eq(db_batches_planned(f->db, "p", 1, 4, a, rows, &n, &e), 0);
    cr_assert_eq(n, 1);
    cr_assert_eq(rows[0].batch, 3);
    cr_assert_eq(rows[0].count, 10);
    cr_assert_str_eq(rows[0].sha256, "abc");
    cr_assert_eq(count(f->db, "scatter_plan", "state = 'queued'"), 1);
    cr_assert_eq(db_plan_get(f->db, "q", a, &p, &state, &e), -ENOENT);
}

BOTH(many_batches_are_inserted)
{
    static struct db_batch_row rows[12000];
    struct err e = ERR_INIT;
    const struct db_plan p = {.plan = "big",
                              .migration = "m",
                              .table = "t",
                              .key = "id",
                              .total = 12000,
                              .n_batches = 12000};

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        rows[i] = (struct db_batch_row){(int64_t)i + 1, "file:///a\"b\\c", "x", 1};
    cr_assert_eq(db_plan_insert(f->db, &p, rows, ARRAY_SIZE(rows), &e), 0, "%s", e.text);
    cr_assert_eq(count(f->db, "scatter_batch", "source = 'file:///a\"b\\c'"), 12000);
}

BOTH(no_tables_no_plan)
{
    CLEANUP(db_plan_status_deinit) struct db_plan_status s = {0};
    struct err e = ERR_INIT;

    cr_assert_eq(db_plan_status(f->db, "p", &s, &e), -ENOENT);
    run_sql(f->db, "DROP TABLE scatter_governor");
    run_sql(f->db, "DROP TABLE scatter_outbox");
    run_sql(f->db, "DROP TABLE scatter_event");
    run_sql(f->db, "DROP TABLE scatter_share");
    run_sql(f->db, "DROP TABLE scatter_outcome");
    run_sql(f->db, "DROP TABLE scatter_batch");
    run_sql(f->db, "DROP TABLE scatter_plan");
    cr_assert_eq(db_plan_status(f->db, "p", &s, &e), -ENOENT);
    cr_assert_eq(db_ensure_schema(f->db, &e), 0, "%s", e.text);
    cr_assert_eq(db_ensure_schema(f->db, &e), 0);
    cr_assert_eq(count(f->db, "scatter_plan", "1 = 1"), 0);
}

BOTH(live_lease_is_respected)
{
    make_plan(f, 2, 10);
    CLEANUP(db_claim_deinit) struct db_claim first = claim(f->db, 1, false);

    cr_assert_eq(first.state, DB_CLAIM_OURS);
    cr_assert_eq(first.token, 1);
    cr_assert_eq(first.attempts, 1);
    cr_assert_eq(first.position, 0);
    cr_assert_str_eq(first.on_batch, "b");
    cr_assert_str_eq(first.retry_on, "40");
    cr_assert_eq(count(f->db, "scatter_plan", "state = 'running' AND started_at IS NOT NULL"), 1);
    CLEANUP(db_claim_deinit) struct db_claim busy = claim(f->db, 1, false);

    cr_assert_eq(busy.state, DB_CLAIM_BUSY);
    cr_assert_str_eq(busy.owner, "o1");
    cr_assert(busy.retry_after_ms > LEASE_MS / 2 && busy.retry_after_ms <= LEASE_MS);
    CLEANUP(db_claim_deinit) struct db_claim taken = claim(f->db, 1, true);

    cr_assert_eq(taken.state, DB_CLAIM_OURS);
    cr_assert_eq(taken.token, 2);
    cr_assert_eq(taken.attempts, 2);
    cr_assert_eq(count(f->db, "scatter_event", "event = 'takeover' AND batch = 1"), 1);
    /* An expired lease needs no proof of death. */
    run_sql(f->db, f->kind == FIXTURE_SQLITE ? "UPDATE scatter_batch SET lease_until = 1"
                                             : "UPDATE scatter_batch SET lease_until = 'epoch'");
    CLEANUP(db_claim_deinit) struct db_claim late = claim(f->db, 1, false);

    cr_assert_eq(late.state, DB_CLAIM_OURS);
    cr_assert_eq(late.token, 3);
}

BOTH(paused_and_cancelled_plans)
{
    make_plan(f, 1, 10);
    int64_t token = claim_token(f->db, 1);

    run_sql(f->db, "UPDATE scatter_plan SET state = 'paused'");
    /* Somebody works on it and will park it; this message goes. */
    CLEANUP(db_claim_deinit) struct db_claim other = claim(f->db, 1, false);

    cr_assert_eq(other.state, DB_CLAIM_PAUSED);
    cr_assert_eq(count(f->db, "scatter_batch", "state = 'running'"), 1);
    cr_assert_eq(release(f->db, token, DB_RELEASE_CLEAN, NULL, NULL), 0);
    cr_assert_eq(count(f->db, "scatter_batch", "state = 'parked' AND attempts = 0"), 1);
    run_sql(f->db, "UPDATE scatter_plan SET state = 'running'");
    cr_assert_eq(claim_token(f->db, 1), 2);
    run_sql(f->db, "UPDATE scatter_plan SET state = 'cancelled'");
    CLEANUP(db_claim_deinit) struct db_claim gone = claim(f->db, 1, true);

    cr_assert_eq(gone.state, DB_CLAIM_CANCELLED);
    cr_assert_eq(count(f->db, "scatter_batch", "state = 'cancelled'"), 1);
    cr_assert_eq(release(f->db, 2, DB_RELEASE_CLEAN, NULL, NULL), DB_E_FENCED);
}

BOTH(release_for_another_try)
{
    make_plan(f, 1, 10);
    int64_t token = claim_token(f->db, 1);

    cr_assert_eq(release(f->db, token, DB_RELEASE_RETRY, "went away", NULL), 0);
    cr_assert_eq(
        count(f->db, "scatter_batch",
              "state = 'queued' AND error = 'went away' AND attempts = 1 AND lease_until IS "
              "NULL"),
        1);
    CLEANUP(db_claim_deinit) struct db_claim again = claim(f->db, 1, false);

    cr_assert_eq(again.state, DB_CLAIM_OURS);
    cr_assert_eq(again.attempts, 2);
    cr_assert_eq(count(f->db, "scatter_event", "event = 'takeover'"), 0);
}

BOTH(last_batch_ends_the_plan_once)
{
    struct db_chunk_result res = {0};
    struct db_finish one = {0}, two = {0}, again = {0};
    struct err e = ERR_INIT;

    make_parcels(f, 20);
    make_plan(f, 2, 10);
    int64_t first = claim_token(f->db, 1), second = claim_token(f->db, 2);

    cr_assert_eq(change(f->db, 1, first, 0, 0, 10, &res, &e), 0);
    cr_assert_eq(db_batch_finish(f->db, "p", 2, second, &two, &e), -EINVAL);
    cr_assert_eq(db_batch_finish(f->db, "p", 1, first, &one, &e), 0);
    cr_assert_not(one.plan_finished);
    cr_assert_eq(one.ok, 10);
    cr_assert(one.duration_s >= 0 && one.duration_s < 60);
    cr_assert_eq(change(f->db, 2, second, 10, 0, 10, &res, &e), 0);
    cr_assert_eq(db_batch_finish(f->db, "p", 2, second, &two, &e), 0);
    cr_assert(two.plan_finished);
    cr_assert_eq(db_batch_finish(f->db, "p", 2, second, &again, &e), 0);
    cr_assert_not(again.plan_finished);
    cr_assert_eq(again.ok, 10);
    cr_assert_eq(db_batch_finish(f->db, "p", 2, second + 1, &again, &e), DB_E_FENCED);
    CLEANUP(db_claim_deinit) struct db_claim done = claim(f->db, 1, true);

    cr_assert_eq(done.state, DB_CLAIM_DONE);
    cr_assert(done.plan_finished);
    CLEANUP(db_plan_status_deinit) struct db_plan_status s = {0};

    cr_assert_eq(db_plan_status(f->db, "p", &s, &e), 0);
    cr_assert_str_eq(s.state, "finished");
    cr_assert_eq(s.ok, 20);
    cr_assert_eq(s.remaining, 0);
    cr_assert_eq(s.batches_done, 2);
    cr_assert(s.created_us > INT64_C(1600000000000000));
    cr_assert(s.started_us >= s.created_us && s.finished_us >= s.started_us);
    cr_assert_eq(count(f->db, "scatter_event", "event = 'finished'"), 1);
}

struct finisher {
    struct db *db;
    int64_t batch, token;
    int result;
    struct db_finish f;
};

static void *finish_batch(void *arg)
{
    struct finisher *w = arg;
    struct err e = ERR_INIT;

    w->result = db_batch_finish(w->db, "p", w->batch, w->token, &w->f, &e);
    return NULL;
}

/* Two workers end the last two batches at the same time: exactly one sees the end of the plan. */
BOTH(two_last_batches_at_once)
{
    struct err e = ERR_INIT;
    struct db_chunk_result res = {0};

    make_parcels(f, 20);
    for (int round = 0; round < 10; round++) {
        struct finisher w[2];
        pthread_t t[2];

        run_sql(f->db, "DELETE FROM scatter_plan");
        run_sql(f->db, "UPDATE parcel SET phone = 'old' || id");
        make_plan(f, 2, 10);
        for (int i = 0; i < 2; i++) {
            w[i] = (struct finisher){.db = fixture_connect(f), .batch = i + 1};
            w[i].token = claim_token(f->db, i + 1);
            cr_assert_eq(change(f->db, i + 1, w[i].token, i * 10, 0, 10, &res, &e), 0);
        }
        for (int i = 0; i < 2; i++)
            cr_assert_eq(pthread_create(&t[i], NULL, finish_batch, &w[i]), 0);
        for (int i = 0; i < 2; i++)
            cr_assert_eq(pthread_join(t[i], NULL), 0);
        cr_assert(w[0].result == 0 && w[1].result == 0);
        cr_assert_eq(w[0].f.plan_finished + w[1].f.plan_finished, 1, "round %d", round);
        for (int i = 0; i < 2; i++)
            w[i].db = db_close(w[i].db);
    }
}

BOTH(failed_batch_can_be_claimed_again)
{
    bool ended = false;

    make_plan(f, 1, 10);
    int64_t token = claim_token(f->db, 1);

    cr_assert_eq(release(f->db, token, DB_RELEASE_FAILED, "broken", &ended), 0);
    cr_assert(ended);
    cr_assert_eq(count(f->db, "scatter_plan", "state = 'failed'"), 1);
    cr_assert_eq(count(f->db, "scatter_event", "event = 'failed' AND detail = 'broken'"), 1);
    cr_assert_eq(claim_token(f->db, 1), 2);
    cr_assert_eq(count(f->db, "scatter_plan", "state = 'running'"), 1);
    cr_assert_eq(count(f->db, "scatter_batch", "error IS NULL"), 1);
}

/* Another file or migration under a known number is refused. */
BOTH(rows_that_contradict_are_refused)
{
    struct db_plan p = {.plan = "p", .migration = "m", .table = "parcel", .key = "id"};
    struct db_batch_row row = {1, "file:///s/p/b", "another", 10};
    struct db_claim_request q = {
        .plan = &p, .batch = &row, .worker = "w", .owner = "o", .lease_ms = LEASE_MS};
    CLEANUP(db_claim_deinit) struct db_claim c = {0};
    struct err e = ERR_INIT;

    make_plan(f, 1, 10);
    cr_assert_eq(db_batch_claim(f->db, &q, &c, &e), -EBADMSG);
    row.sha256 = "abc";
    p.migration = "n";
    cr_assert_eq(db_batch_claim(f->db, &q, &c, &e), -EBADMSG);
    p.migration = "m";
    row.batch = 2;
    row.source = NULL;
    cr_assert_eq(db_batch_claim(f->db, &q, &c, &e), -ENOENT);
    cr_assert_eq(count(f->db, "scatter_batch", "state = 'planned'"), 1);
    cr_assert_eq(count(f->db, "scatter_batch", "1 = 1"), 1);
}

BOTH(target_is_checked)
{
    static const char *const none[] = {"nothing"};
    struct db_target t = parcel_target;
    struct err e = ERR_INIT;

    make_parcels(f, 1);
    cr_assert_eq(db_check_target(f->db, &t, &e), 0, "%s", e.text);
    t.key = "no";
    cr_assert_eq(db_check_target(f->db, &t, &e), DB_E_SCHEMA);
    cr_assert_not_null(strstr(e.text, "has no column no"), "%s", e.text);
    t.key = "id";
    t.writes = none;
    e = ERR_INIT;
    cr_assert_eq(db_check_target(f->db, &t, &e), DB_E_SCHEMA);
    cr_assert_not_null(strstr(e.text, "nothing"), "%s", e.text);
    t.table = "nowhere";
    e = ERR_INIT;
    cr_assert_eq(db_check_target(f->db, &t, &e), DB_E_SCHEMA);
    cr_assert_not_null(strstr(e.text, "nowhere"), "%s", e.text);
}

/* ---- what each dialect alone can show ---- */

Test(postgresql, read_only_is_told)
{
    struct fixture f;
    struct err e = ERR_INIT;
    char url[300];
    struct db *db = NULL;

    fixture_open(&f, FIXTURE_POSTGRESQL);
    make_parcels(&f, 1);
    char *options = strstr(f.url, "&application_name");

    (void)snprintf(url, sizeof(url), "%.*s%%20-cdefault_transaction_read_only%%3Don",
                   (int)(options - f.url), f.url);
    cr_assert_eq(db_open(url, &db, &e), 0, "%s", e.text);
    cr_assert_eq(db_check_target(db, &parcel_target, &e), DB_E_SCHEMA);
    cr_assert_str_eq(db_sqlstate(db), "25006");
    cr_assert_not_null(strstr(e.text, "read-only"), "%s", e.text);
    db = db_close(db);
    fixture_close(&f);
}

Test(postgresql, rights_are_told)
{
    struct fixture f;
    struct err e = ERR_INIT;

    fixture_open(&f, FIXTURE_POSTGRESQL);
    make_parcels(&f, 1);
    char role[64], sql[200];

    (void)snprintf(role, sizeof(role), "reader_%d", (int)getpid());
    (void)snprintf(sql, sizeof(sql), "CREATE ROLE %s LOGIN", role);
    run_sql(f.db, sql);
    (void)snprintf(sql, sizeof(sql), "GRANT USAGE ON SCHEMA test_%d TO %s", (int)getpid(), role);
    run_sql(f.db, sql);
    (void)snprintf(sql, sizeof(sql), "SET ROLE %s", role);
    run_sql(f.db, sql);
    cr_assert_eq(db_check_target(f.db, &parcel_target, &e), DB_E_SCHEMA);
    cr_assert_str_eq(db_sqlstate(f.db), "42501");
    cr_assert_not_null(strstr(e.text, "phone"), "%s", e.text);
    fixture_close(&f);
}

Test(sqlite, read_only_is_told)
{
    struct fixture f;
    struct err e = ERR_INIT;
    char url[300];
    struct db *db = NULL;

    fixture_open(&f, FIXTURE_SQLITE);
    make_parcels(&f, 1);
    (void)snprintf(url, sizeof(url), "%s?mode=ro", f.url);
    cr_assert_eq(db_open(url, &db, &e), 0, "%s", e.text);
    cr_assert_eq(db_check_target(db, &parcel_target, &e), DB_E_SCHEMA);
    cr_assert_not_null(strstr(e.text, "read-only"), "%s", e.text);
    db = db_close(db);
    fixture_close(&f);
}

Test(open, urls)
{
    static const struct {
        const char *url;
        const char *text;
    } wrong[] = {{"mysql://x/y", "postgresql://"},
                 {"", "postgresql://"},
                 {"sqlite://host/x", "three slashes"},
                 {"sqlite://", "names no file"},
                 {"sqlite:///nowhere/at/all", "there is no SQLite file"},
                 {"sqlite:///nowhere/at/all?cache=shared", "no option but mode=ro"},
                 {"postgresql://nobody@/x?host=/nowhere", "/nowhere"}};

    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        struct db *db = NULL;
        struct err e = ERR_INIT;

        cr_assert_neq(db_open(wrong[i].url, &db, &e), 0, "%s", wrong[i].url);
        cr_assert_null(db);
        cr_assert_not_null(strstr(e.text, wrong[i].text), "%s: %s", wrong[i].url, e.text);
    }
}

Test(sqlite, no_database)
{
    char path[] = "/tmp/scatter-text-XXXXXX", url[64];
    int fd = mkstemp(path);
    struct db *db = NULL;
    struct err e = ERR_INIT;

    cr_assert(fd >= 0 && write(fd, "this is only text, and long enough to be read", 45) == 45);
    (void)close(fd);
    (void)snprintf(url, sizeof(url), "sqlite://%s", path);
    cr_assert_eq(db_open(url, &db, &e), DB_E_SCHEMA);
    cr_assert_not_null(strstr(e.text, "not a database"), "%s", e.text);
    (void)unlink(path);
}

Test(codes, meaning_of_sqlstates)
{
    static const struct {
        const char *state;
        int code;
    } cases[] = {{"40001", DB_E_RETRY},  {"40P01", DB_E_RETRY},  {"55P03", DB_E_RETRY},
                 {"57014", DB_E_RETRY},  {"57P01", DB_E_RETRY},  {"08006", DB_E_RETRY},
                 {"53300", DB_E_RETRY},  {"25P03", DB_E_RETRY},  {"22003", DB_E_DATA},
                 {"23505", DB_E_DATA},   {"P0001", DB_E_DATA},   {"54000", DB_E_DATA},
                 {"42P01", DB_E_SCHEMA}, {"25006", DB_E_SCHEMA}, {"3F000", DB_E_SCHEMA},
                 {"28P01", DB_E_SCHEMA}, {"3D000", DB_E_SCHEMA}, {"0A000", DB_E_SCHEMA},
                 {"XX000", DB_E_SCHEMA}, {"55000", DB_E_SCHEMA}};

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        cr_assert_eq(db_code_of(cases[i].state), cases[i].code, "%s", cases[i].state);
}
