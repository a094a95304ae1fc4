/* SPDX-License-Identifier: Apache-2.0 */
/* A chunk in pieces: exactly the refused changes stop it, whatever the server's words point at, and the others are written
 * once. Only PostgreSQL has them. */

#include "plan.h"

#include <criterion/criterion.h>

#define MAX_ROWS 300

/* What becomes of the changed values of a trial; ids are the records' numbers from 1 on. */
struct trial {
    struct fixture f;
    struct db_row rows[MAX_ROWS];
    struct slice old[MAX_ROWS][2], fresh[MAX_ROWS];
    char text[MAX_ROWS][2][40];
    size_t row[MAX_ROWS], n;
    bool stale[MAX_ROWS];
    struct db_chunk chunk;
    struct db_pieces p;
    int64_t token;
    bool written;
    size_t told;
};

#define BAD_CHECK  "bad 23514"
#define BAD_ZERO   "bad 22012"
#define BAD_UNIQUE "taken"
#define BAD_CLASS  "bad P0001"

/* Every record gets "new<id>"; refused are the values above. */
static void open_trial(struct trial *t, size_t n, size_t size)
{
    *t = (struct trial){.n = n};
    fixture_open(&t->f, FIXTURE_POSTGRESQL);
    run_sql(t->f.db, "DROP TABLE IF EXISTS parcel");
    run_sql(t->f.db, "TRUNCATE scatter_plan CASCADE");
    make_parcels(&t->f, (int64_t)n);
    make_plan(&t->f, 1, (int64_t)n);
    run_sql(t->f.db, "INSERT INTO parcel (id, phone) VALUES (100000, 'taken')");
    run_sql(t->f.db, "CREATE UNIQUE INDEX u ON parcel (phone)");
    run_sql(t->f.db, "ALTER TABLE parcel ADD CHECK (phone <> 'bad 23514')");
    run_sql(t->f.db,
            "ALTER TABLE parcel ADD CHECK (1 / (CASE WHEN phone = 'bad 22012' THEN 0 ELSE 1 END) "
            "= 1)");
    for (size_t i = 0; i < n; i++) {
        (void)snprintf(t->text[i][0], sizeof(t->text[i][0]), "%zu", i + 1);
        (void)snprintf(t->text[i][1], sizeof(t->text[i][1]), "old%zu", i + 1);
        t->old[i][0] = slice_str(t->text[i][0]);
        t->old[i][1] = slice_str(t->text[i][1]);
        t->fresh[i] = SLICE_NULL;
        t->rows[i] = (struct db_row){.outcome = DB_O_CHANGED,
                                     .position = (int64_t)i,
                                     .old = t->old[i],
                                     .fresh = &t->fresh[i]};
        t->row[i] = i;
    }
    t->token = claim_token(t->f.db, 1);
    t->chunk = (struct db_chunk){.plan = "p",
                                 .batch = 1,
                                 .token = t->token,
                                 .new_position = (int64_t)n,
                                 .target = &parcel_target,
                                 .rows = t->rows,
                                 .n_rows = n,
                                 .lease_ms = LEASE_MS,
                                 .worker = "w1"};
    t->p = (struct db_pieces){.chunk = &t->chunk,
                              .row = t->row,
                              .n = n,
                              .size = size,
                              .most = MAX_ROWS,
                              .stale = t->stale};
    t->p.arena = arena_new();
}

static void set_fresh(struct trial *t, size_t i, const char *value)
{
    t->fresh[i] = slice_str(value);
}

static int begin(struct trial *t)
{
    static char fresh[MAX_ROWS][40];
    struct err e = ERR_INIT;

    for (size_t i = 0; i < t->n; i++) {
        (void)snprintf(fresh[i], sizeof(fresh[i]), "new%zu", i + 1);
        if (!t->fresh[i].p)
            t->fresh[i] = slice_str(fresh[i]);
    }
    return db_tx_begin(t->f.db, &t->chunk, &e);
}

static void close_trial(struct trial *t)
{
    arena_free(t->p.arena);
    fixture_close(&t->f);
}

/* The next refused change, which is marked: its number, or -1 at the end. */
static int next_bad(struct trial *t, struct err *e)
{
    if (!t->written) {
        *e = ERR_INIT;
        int r = db_tx_write(t->f.db, &t->p, e);

        cr_assert_eq(r, 0, "%s", err_text(e, r));
        cr_assert_eq(t->p.at, t->p.n);
        t->written = true;
    }
    if (t->told == t->p.n_refused)
        return -1;
    const struct db_refusal *f = &t->p.refused[t->told++];

    (void)db_refusal_tell(t->f.db, f, e);
    t->rows[f->at].outcome = DB_O_QUARANTINED;
    t->rows[f->at].error_class = "E";
    return (int)f->at;
}

/* The checkpoint, and COMMIT. */
static void commit(struct trial *t)
{
    struct db_chunk_result res;
    struct err e = ERR_INIT;

    for (size_t i = 0; i < t->n; i++)
        if (t->rows[i].outcome == DB_O_CHANGED)
            t->rows[i].outcome = t->stale[i] ? DB_O_STALE : DB_O_DONE;
    t->chunk.open = true;
    int r = db_chunk_apply(t->f.db, &t->chunk, &res, &e);

    cr_assert_eq(r, 0, "%s", err_text(&e, r));
}

static int64_t n_new(struct trial *t)
{
    return query_int(t->f.db, "SELECT count(*) FROM parcel WHERE phone = 'new' || id");
}

/* k bad ones at places of a fixed sequence, the first and the last among them. */
static void trial_of(size_t n, size_t size, size_t k, unsigned seed)
{
    static const char *const values[] = {BAD_CHECK, BAD_ZERO, BAD_UNIQUE};
    static const char *const states[] = {"23514", "22012", "23505"};
    static struct trial t;
    struct err e;
    size_t found = 0;

    open_trial(&t, n, size);
    for (size_t j = 0; j < k; j++) {
        size_t at = j == 0 ? 0 : j == 1 ? n - 1 : (size_t)rand_r(&seed) % n;

        set_fresh(&t, at, values[at % 3]);
    }
    cr_assert_eq(begin(&t), 0);
    size_t expect = 0;
    int at;

    while ((at = next_bad(&t, &e)) >= 0) {
        while (expect < n && !t.fresh[expect].p[0])
            expect++;
        while (expect < n && memcmp(t.fresh[expect].p, "new", 3) == 0)
            expect++;
        cr_assert_eq((size_t)at, expect++, "%zu of %zu by %zu: %d", k, n, size, at);
        cr_assert_str_eq(db_sqlstate(t.f.db), states[at % 3]);
        cr_assert(strlen(e.text) > 0);
        found++;
    }
    for (; expect < n; expect++)
        cr_assert_eq(memcmp(t.fresh[expect].p, "new", 3), 0, "%zu was not found", expect);
    commit(&t);
    cr_assert_eq(n_new(&t), (int64_t)(n - found));
    cr_assert_eq(query_int(t.f.db, "SELECT position FROM scatter_batch"), (int64_t)n);
    cr_assert_eq(query_int(t.f.db, "SELECT quarantined FROM scatter_batch"), (int64_t)found);
    close_trial(&t);
}

Test(pieces, exactly_the_refused_ones)
{
    static const size_t sizes[] = {1, 2, 7, 50, 300};

    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
        trial_of(300, sizes[i], 1 + 4 * i, (unsigned)i + 1);
    trial_of(2, 2, 2, 1);
    trial_of(1, 5, 1, 1);
    trial_of(40, 100, 200, 7); /* nearly all */
    trial_of(60, 10, 0, 1);
}

/* The server's words name another record's key and another record's value. */
Test(pieces, hints_that_lie)
{
    static struct trial t;
    struct err e;

    open_trial(&t, 100, 100);
    /* The row begins with a column that looks like another record's key. */
    run_sql(t.f.db, "ALTER TABLE parcel RENAME TO parcel_old");
    run_sql(t.f.db, "CREATE TABLE parcel AS SELECT (id + 7) % 100 AS decoy, id, phone FROM "
                    "parcel_old WHERE id < 100000");
    run_sql(t.f.db, "ALTER TABLE parcel ADD PRIMARY KEY (id), ADD CHECK (phone <> 'bad 23514')");
    run_sql(t.f.db, "CREATE FUNCTION lie() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                    "IF NEW.phone = 'bad P0001' THEN RAISE EXCEPTION 'x: \"new3\"' USING ERRCODE = "
                    "'22P02', DETAIL = 'Key (phone)=(new5) already exists.'; END IF; "
                    "IF NEW.phone = 'taken' THEN RAISE EXCEPTION E'line\\nline' USING ERRCODE = "
                    "'23505', DETAIL = 'Key ()=(new70'')=(new71) (\"\\ already.'; END IF; "
                    "RETURN NEW; END $$");
    run_sql(t.f.db, "CREATE TRIGGER lie BEFORE UPDATE ON parcel FOR EACH ROW EXECUTE FUNCTION "
                    "lie()");
    set_fresh(&t, 20, BAD_CHECK);
    set_fresh(&t, 40, BAD_CLASS);
    set_fresh(&t, 41, BAD_CLASS);
    set_fresh(&t, 60, BAD_UNIQUE);
    cr_assert_eq(begin(&t), 0);
    cr_assert_eq(next_bad(&t, &e), 20);
    cr_assert_eq(next_bad(&t, &e), 40);
    cr_assert_str_eq(e.text, "x: \"new3\": Key (phone)=(new5) already exists.");
    cr_assert_eq(next_bad(&t, &e), 41);
    cr_assert_eq(next_bad(&t, &e), 60);
    cr_assert_eq(strncmp(e.text, "line: Key", 9), 0, "%s", e.text);
    cr_assert_eq(next_bad(&t, &e), -1);
    commit(&t);
    cr_assert_eq(n_new(&t), 96);
    close_trial(&t);
}

Test(pieces, rows_of_others_are_stale)
{
    static struct trial t;
    struct err e;

    open_trial(&t, 100, 10);
    run_sql(t.f.db, "UPDATE parcel SET phone = 'mine' || id WHERE id IN (1, 35, 36, 100)");
    run_sql(t.f.db, "DELETE FROM parcel WHERE id = 50");
    set_fresh(&t, 35, BAD_ZERO); /* refused no more, as it is not written */
    set_fresh(&t, 36, BAD_ZERO);
    cr_assert_eq(begin(&t), 0);
    cr_assert_eq(next_bad(&t, &e), 36);
    cr_assert_eq(next_bad(&t, &e), -1);
    commit(&t);
    cr_assert_eq(n_new(&t), 100 - 5 - 1);
    cr_assert_eq(query_int(t.f.db, "SELECT stale FROM scatter_batch"), 5);
    cr_assert_eq(query_int(t.f.db,
                           "SELECT count(*) FROM scatter_outcome WHERE outcome = 'stale' AND "
                           "position IN (0, 34, 35, 49, 99)"),
                 5);
    cr_assert_eq(query_int(t.f.db, "SELECT count(*) FROM parcel WHERE phone = 'mine' || id"), 4);
    close_trial(&t);
}

/* What is no record's fault is not looked for: the transaction is to end. */
Test(pieces, deadlocks_are_passed_on)
{
    static struct trial t;
    struct err e = ERR_INIT;

    open_trial(&t, 50, 10);
    run_sql(t.f.db, "CREATE FUNCTION locked() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                    "IF NEW.id = 25 THEN RAISE EXCEPTION 'no' USING ERRCODE = '40P01'; END IF; "
                    "RETURN NEW; END $$");
    run_sql(t.f.db, "CREATE TRIGGER locked BEFORE UPDATE ON parcel FOR EACH ROW EXECUTE FUNCTION "
                    "locked()");
    cr_assert_eq(begin(&t), 0);
    cr_assert_eq(db_tx_write(t.f.db, &t.p, &e), DB_E_RETRY);
    cr_assert_eq(t.p.at, 0);
    cr_assert_str_eq(db_sqlstate(t.f.db), "40P01");
    db_tx_rollback(t.f.db);
    cr_assert_eq(n_new(&t), 0);
    cr_assert_eq(query_int(t.f.db, "SELECT position FROM scatter_batch"), 0);
    close_trial(&t);
}

/* Names that would end a literal, a column that is left as it is, NULL. */
Test(pieces, names_and_flags)
{
    static const char *const reads[] = {"a'b\\c"}, *const writes[] = {"a'b\\c", "lo"};
    static const struct db_target target = {.table = "it's \"@x@\" $$",
                                            .key = "id",
                                            .reads = reads,
                                            .n_reads = 1,
                                            .writes = writes,
                                            .n_writes = 2};
    static struct trial t;
    struct slice fresh[3][2] = {{SLICE_LIT("q'\"\\"), SLICE_NULL},
                                {SLICE_NULL, SLICE_LIT("5")},
                                {SLICE_LIT("x"), SLICE_LIT("no number")}};
    const bool set[3][2] = {{true, false}, {true, true}, {true, true}};
    struct err e;

    open_trial(&t, 3, 3);
    run_sql(t.f.db,
            "CREATE TABLE \"it's \"\"@x@\"\" $$\" AS SELECT id, phone AS \"a'b\\c\", 9 AS lo "
            "FROM parcel WHERE id <= 3");
    t.chunk.target = &target;
    for (size_t i = 0; i < 3; i++) {
        t.rows[i].fresh = fresh[i];
        t.rows[i].set = set[i];
    }
    cr_assert_eq(begin(&t), 0);
    cr_assert_eq(next_bad(&t, &e), 2);
    cr_assert_str_eq(db_sqlstate(t.f.db), "22P02");
    cr_assert_eq(next_bad(&t, &e), -1);
    commit(&t);
    cr_assert_eq(query_int(t.f.db,
                           "SELECT count(*) FROM \"it's \"\"@x@\"\" $$\" WHERE (id, \"a'b\\c\") "
                           "IS NOT DISTINCT FROM (1, 'q''\"\\') AND lo = 9 OR id = 2 AND "
                           "\"a'b\\c\" IS NULL AND lo = 5 OR id = 3 AND lo = 9"),
                 3);
    close_trial(&t);
}
