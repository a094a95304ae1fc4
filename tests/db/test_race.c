/* SPDX-License-Identifier: Apache-2.0 */
/* Two owners at the same batch, locks and lost connections: each record has its effect once, whoever wins. */

#include "plan.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <time.h>

#define WAIT_LIMIT_S 20

/* A chunk in a thread of its own, on a connection of its own. */
struct holder {
    struct db *db;
    int64_t token, from, to, lease_ms;
    int result;
    struct db_chunk_result res;
    char sqlstate[6];
    pthread_t thread;
};

static void *run_chunk(void *arg)
{
    struct holder *h = arg;
    struct err e = ERR_INIT;

    h->result = change_leased(h->db, 1, h->token, 0, h->from, h->to, h->lease_ms, &h->res, &e);
    (void)snprintf(h->sqlstate, sizeof(h->sqlstate), "%s", db_sqlstate(h->db));
    return NULL;
}

static void start(struct holder *h, struct fixture *f, int64_t token, int64_t from, int64_t to)
{
    *h = (struct holder){
        .db = fixture_connect(f), .token = token, .from = from, .to = to, .lease_ms = LEASE_MS};
    cr_assert_eq(pthread_create(&h->thread, NULL, run_chunk, h), 0);
}

static int join(struct holder *h)
{
    cr_assert_eq(pthread_join(h->thread, NULL), 0);
    return h->result;
}

/* Sessions that wait for a lock of this test's own. Theirs have another name while they are in a transaction. */
#define BLOCKED                                                                                \
    "FROM pg_stat_activity w WHERE w.wait_event_type = 'Lock' AND EXISTS (SELECT 1 FROM "      \
    "pg_stat_activity o WHERE o.pid = ANY (pg_blocking_pids(w.pid)) AND o.application_name = " \
    "current_setting('application_name'))"

/* Until a session of this test waits for a lock. */
static void wait_blocked(struct db *db)
{
    const struct timespec pause = {.tv_nsec = 5000000};
    time_t end = time(NULL) + WAIT_LIMIT_S;

    while (query_int(db, "SELECT count(*) " BLOCKED) == 0) {
        cr_assert_lt(time(NULL), end, "nobody waits for a lock");
        (void)nanosleep(&pause, NULL);
    }
}

static int64_t changed(struct db *db)
{
    return query_int(db, "SELECT count(*) FROM parcel WHERE phone LIKE 'new%' AND n = 1");
}

/* Every change counts in n, so that a second effect would show. */
static void open_counted(struct fixture *f, enum fixture_kind kind)
{
    fixture_open(f, kind);
    make_parcels(f, 10);
    run_sql(f->db, "CREATE FUNCTION count_up() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.n := "
                   "OLD.n + 1; RETURN NEW; END'");
    run_sql(f->db, "CREATE TRIGGER count_up BEFORE UPDATE OF phone ON parcel FOR EACH ROW EXECUTE "
                   "FUNCTION count_up()");
    make_plan(f, 1, 10);
}

/* Chunks as arrays, and by COPY. */
#define RACE(name)                              \
    static void body_##name(struct fixture *f); \
    Test(race, name)                            \
    {                                           \
        struct fixture f;                       \
        open_counted(&f, FIXTURE_POSTGRESQL);   \
        body_##name(&f);                        \
        fixture_close(&f);                      \
    }                                           \
    Test(race_copy, name)                       \
    {                                           \
        struct fixture f;                       \
        open_counted(&f, FIXTURE_COPY);         \
        body_##name(&f);                        \
        fixture_close(&f);                      \
    }                                           \
    static void body_##name(struct fixture *f)

/* The owner's chunk waits for a row; a thief comes, is sent away, comes again. */
RACE(thief_while_a_chunk_is_open)
{
    struct holder h;
    struct db_chunk_result res = {0};
    struct err e = ERR_INIT;

    int64_t token = claim_token(f->db, 1);
    struct db *other = fixture_connect(f);

    run_sql(other, "BEGIN");
    run_sql(other, "UPDATE parcel SET phone = 'mine' WHERE id = 3");
    start(&h, f, token, 0, 5);
    wait_blocked(f->db);
    CLEANUP(db_claim_deinit) struct db_claim busy = claim(f->db, 1, true);

    cr_assert_eq(busy.state, DB_CLAIM_BUSY);
    cr_assert(busy.retry_after_ms > 0 && busy.retry_after_ms <= 1000);
    run_sql(other, "COMMIT");
    cr_assert_eq(join(&h), 0);
    cr_assert_eq(h.res.stale, 1); /* the row changed while the chunk waited for it */
    cr_assert_eq(changed(f->db), 4);
    CLEANUP(db_claim_deinit) struct db_claim thief = claim(f->db, 1, true);

    cr_assert_eq(thief.state, DB_CLAIM_OURS);
    cr_assert_eq(thief.position, 5);
    cr_assert_eq(thief.counts.stale, 1);
    cr_assert_eq(change(h.db, 1, token, 0, 5, 10, &res, &e), DB_E_FENCED);
    cr_assert_eq(change(f->db, 1, thief.token, 0, 5, 10, &res, &e), 0);
    cr_assert_eq(changed(f->db), 9);
    h.db = db_close(h.db);
    other = db_close(other);
}

/* The thief's claim is not committed yet when the owner's chunk arrives and waits behind it. */
RACE(owner_waits_behind_the_thief)
{
    struct holder h;

    int64_t token = claim_token(f->db, 1);
    struct db *thief = fixture_connect(f);

    run_sql(thief, "BEGIN");
    run_sql(thief, "UPDATE scatter_batch SET lease_token = lease_token + 1");
    start(&h, f, token, 0, 5);
    wait_blocked(f->db);
    run_sql(thief, "COMMIT");
    cr_assert_eq(join(&h), DB_E_FENCED);
    cr_assert_eq(changed(f->db), 0);
    cr_assert_eq(query_int(f->db, "SELECT count(*) FROM scatter_share"), 0);
    h.db = db_close(h.db);
    thief = db_close(thief);
}

/* The same chunk twice at once (a resend after an unknown commit, had anybody remembered the position). */
RACE(same_chunk_twice)
{
    int64_t token = claim_token(f->db, 1);

    struct db *other = fixture_connect(f);
    struct holder h[2];

    run_sql(other, "BEGIN");
    run_sql(other, "SELECT 1 FROM scatter_batch FOR UPDATE");
    start(&h[0], f, token, 0, 5);
    start(&h[1], f, token, 0, 5);
    wait_blocked(f->db);
    run_sql(other, "COMMIT");
    int first = join(&h[0]), second = join(&h[1]);

    cr_assert((first == 0) != (second == 0), "%d %d", first, second);
    cr_assert_eq(first + second, DB_E_RETRY);
    cr_assert_eq(changed(f->db), 5);
    cr_assert_eq(query_int(f->db, "SELECT max(n) FROM parcel"), 1);
    cr_assert_eq(query_int(f->db, "SELECT records FROM scatter_share"), 5);
    for (int i = 0; i < 2; i++)
        h[i].db = db_close(h[i].db);
    other = db_close(other);
}

/* The server ends the session in the middle of a chunk. */
RACE(lost_connection)
{
    struct holder h;
    struct err e = ERR_INIT;
    struct db_chunk_result res = {0};
    struct db_counts counts;
    int64_t position = -1;

    int64_t token = claim_token(f->db, 1);
    struct db *other = fixture_connect(f);

    run_sql(other, "BEGIN");
    run_sql(other, "SELECT 1 FROM parcel WHERE id = 3 FOR UPDATE");
    start(&h, f, token, 0, 5);
    wait_blocked(f->db);
    run_sql(f->db, "SELECT pg_terminate_backend(w.pid) " BLOCKED);
    cr_assert_eq(join(&h), DB_E_RETRY);
    cr_assert_str_eq(h.sqlstate, "57P01");
    run_sql(other, "COMMIT");
    cr_assert_eq(db_batch_position(h.db, "p", 1, token, &position, &counts, &e), 0, "%s", e.text);
    cr_assert_eq(position, 0);
    cr_assert_eq(changed(f->db), 0);
    cr_assert_eq(change(h.db, 1, token, 0, 0, 5, &res, &e), 0, "%s", e.text);
    cr_assert_eq(changed(f->db), 5);
    h.db = db_close(h.db);
    other = db_close(other);
}

/* A chunk that cannot get on gives up long before its lease ends. */
RACE(limits_follow_the_lease)
{
    struct holder h = {0};

    int64_t token = claim_token(f->db, 1);
    struct db *other = fixture_connect(f);

    run_sql(other, "BEGIN");
    run_sql(other, "SELECT 1 FROM parcel WHERE id = 3 FOR UPDATE");
    h = (struct holder){.db = fixture_connect(f), .token = token, .to = 5, .lease_ms = 400};
    (void)run_chunk(&h);
    cr_assert_eq(h.result, DB_E_RETRY);
    cr_assert_str_eq(h.sqlstate, "57014");
    run_sql(other, "COMMIT");
    cr_assert_eq(changed(f->db), 0);
    h.db = db_close(h.db);
    other = db_close(other);
}

/* SQLite has one writer: the thief's transaction is open when the owner's chunk begins. */
Test(sqlite, owner_waits_behind_the_thief)
{
    struct fixture f;
    struct holder h;

    fixture_open(&f, FIXTURE_SQLITE);
    make_parcels(&f, 10);
    make_plan(&f, 1, 10);
    int64_t token = claim_token(f.db, 1);

    run_sql(f.db, "BEGIN IMMEDIATE");
    run_sql(f.db, "UPDATE scatter_batch SET lease_token = lease_token + 1");
    start(&h, &f, token, 0, 5);
    run_sql(f.db, "COMMIT");
    cr_assert_eq(join(&h), DB_E_FENCED);
    cr_assert_eq(query_int(f.db, "SELECT count(*) FROM parcel WHERE phone LIKE 'new%'"), 0);
    h.db = db_close(h.db);
    fixture_close(&f);
}
