/* SPDX-License-Identifier: Apache-2.0 */
/* A migration that runs statements of its own (.row): its function is called for a sample, in a transaction that is rolled
 * back, and what it does there is what is told. A record that fails takes what came before it with it, which is taken back
 * anyway.
 *
 * A function with an effect outside of the database (.external) is not called: nobody could take that back. */

#include "planner/preflight_priv.h"

#include "celeryc/base/clock.h"

#include <errno.h>
#include <math.h>

#define CHUNK     500.0  /* records of a worker's chunk, about */
#define CHUNK_WAL 1000.0 /* of its fence, checkpoint, share and outcome */
#define GROUP     100    /* records between two ways back: locks are held no longer */
#define LOOKED    100    /* records whose row is read again, for the pairs */

static int call(struct preflight *p, const struct db_row *row, struct scatter_tx *tx,
                struct db_row *ret_answer)
{
    const struct migrate_call c = {.m = p->m,
                                   .key = p->target.key,
                                   .params = p->params,
                                   .fields = row->old,
                                   .arena = p->record,
                                   .tx = tx,
                                   .plan = p->request->plan,
                                   .batch = 1,
                                   .position = row->position};

    *tx = (struct scatter_tx){.db = p->db, .arena = p->record};
    return migrate_call(&c, ret_answer);
}

/* ---- what became of the row ---- */

static int look_sql(const struct preflight *p, struct buf *sql)
{
    buf_append_str(sql, "SELECT ");
    for (size_t i = 0; i < p->target.n_reads; i++) {
        buf_append_str(sql, i ? ", CAST(" : "CAST(");
        db_quote_name(sql, slice_str(p->target.reads[i]));
        buf_append_str(sql, " AS text)");
    }
    buf_append_str(sql, " FROM ");
    db_quote_table(sql, p->target.table);
    for (size_t i = 0; i < p->key.n; i++) {
        buf_append_str(sql, i ? " AND " : " WHERE ");
        db_quote_name(sql, p->key.column[i]);
        buf_appendf(sql, " = $%zu", i + 1);
    }
    return buf_ok(sql);
}

/* Columns that are read and have another value now, as new values of the row. */
static int look(struct preflight *p, struct db_row *row, struct err *e)
{
    CLEANUP(buf_deinit) struct buf sql = BUF_INIT;
    CLEANUP(db_rows_deinit) struct db_rows found = {0};
    size_t n = p->target.n_reads;
    struct slice *fresh = arena_alloc_array(p->arena, n + 1, sizeof(*fresh));
    bool *set = arena_alloc_array(p->arena, n + 1, sizeof(*set));

    row->fresh = fresh;
    row->set = set;
    if (!fresh || !set || look_sql(p, &sql))
        return -ENOMEM;
    int r = n ? db_tx_run(p->db, sql.data, row->old, p->key.n, &found, e) : 0;

    if (r || found.n_rows != 1)
        return r;
    for (size_t i = 0; i < n; i++) {
        struct slice now = db_cell(&found, 0, i), old = row->old[p->key.n + i];

        set[i] = !now.p || !old.p ? now.p != old.p : !slice_eq(now, old);
        if (set[i] && preflight_copy(p->arena, now, &fresh[i]))
            return -ENOMEM;
    }
    return 0;
}

/* ---- trying ---- */

/* 0; DB_E_SCHEMA: no record would fare better; or an error. */
static int try_record(struct preflight *p, struct db_row *row, struct err *e)
{
    struct scatter_tx tx;
    struct db_row answer = {0};
    int r = call(p, row, &tx, &answer);

    p->own.tried++;
    if (r == DB_E_DATA) {
        error_of(p, db_error_class(p->db), db_sqlstate(p->db), tx.e.text)->sampled++;
        row->outcome = DB_O_QUARANTINED;
        return db_rehearsal_back(p->db, e);
    }
    if (r) {
        *e = tx.e;
        return r;
    }
    row->outcome = answer.outcome == DB_O_DONE ? DB_O_CHANGED : answer.outcome;
    p->own.skipped += answer.outcome == DB_O_SKIPPED;
    p->own.unchanged += answer.outcome == DB_O_UNCHANGED;
    if (answer.outcome == DB_O_QUARANTINED)
        error_of(p, answer.error_class, "", answer.message)->sampled++;
    if (answer.outcome == DB_O_DONE)
        return p->own.done++ < LOOKED ? look(p, row, e) : 0;
    return tx.touched && answer.outcome != DB_O_UNCHANGED ? db_rehearsal_back(p->db, e) : 0;
}

static int try_group(struct preflight *p, size_t from, size_t n, struct err *e)
{
    bool stale[GROUP] = {0};
    int r = db_rehearsal_begin(p->db, e);

    if (!r)
        r = db_rehearsal_guard(p->db, &p->target, p->sample + from, n, stale, e);
    for (size_t i = 0; !r && i < n; i++) {
        struct db_row *row = &p->sample[from + i];

        if (stale[i])
            row->outcome = DB_O_STALE;
        else
            r = try_record(p, row, e);
    }
    arena_reset(p->record);
    return r ? r : db_rehearsal_back(p->db, e);
}

/* ---- what it costs ---- */

static int measure_once(struct preflight *p, const struct db_row *chunk, size_t n, struct err *e)
{
    struct db_meter before, after;
    bool stale[COST]; /* none, a moment ago */
    size_t done = 0;
    int r = db_rehearsal_begin(p->db, e);

    if (!r)
        r = db_rehearsal_meter(p->db, p->target.table, &before, e);
    int64_t began_ns = clock_mono_ns();

    if (!r)
        r = db_rehearsal_guard(p->db, &p->target, chunk, n, stale, e);
    for (; !r && done < n; done++) {
        struct scatter_tx tx;
        struct db_row answer;

        r = call(p, &chunk[done], &tx, &answer);
        if (r > 0 || (!r && answer.outcome != DB_O_DONE))
            break; /* beside the others it is not done: those in front of it tell enough */
    }
    double seconds = (double)(clock_mono_ns() - began_ns) / 1e9;

    if (r > 0)
        return db_rehearsal_back(p->db, e);
    if (!r)
        r = db_rehearsal_meter(p->db, p->target.table, &after, e);
    if (r || done == 0)
        return r;
    p->n_cost = done;
    p->cost = (struct db_rehearsal){.seconds = seconds,
                                    .wal_bytes = after.wal - before.wal,
                                    .hot = db_meter_hot(&before, &after)};
    return db_rehearsal_back(p->db, e);
}

/* A record that fails has what stands in front of it in its chunk done again, in a chunk of its own, and its outcome
 * written in another. */
static void add_repeats(struct preflight *p)
{
    struct forecast *f = &p->forecast;
    double bad = (double)(p->failed + p->skipped), all = (double)p->n_records;
    double twice = 1 + fmin(1, bad * CHUNK / fmax(all, 1));

    f->seconds_row *= twice;
    f->wal_row = f->wal_row * twice + 3 * CHUNK_WAL * bad / fmax((double)p->changed, 1);
}

/* For the second time, as for other migrations: the pages have been touched by then. */
static int measure(struct preflight *p, struct err *e)
{
    struct db_row chunk[COST];
    size_t n = preflight_choose_chunk(p, chunk);
    int r = 0;

    for (int i = 0; !r && n && i < 2; i++) {
        r = measure_once(p, chunk, n, e);
        arena_reset(p->record);
    }
    if (r || p->n_cost == 0)
        return r;
    p->forecast.seconds_row = p->cost.seconds / (double)p->n_cost;
    p->forecast.wal_row = (double)p->cost.wal_bytes / (double)p->n_cost;
    add_repeats(p);
    return 0;
}

/* ---- all of it ---- */

static void count_all(struct preflight *p)
{
    const struct own *o = &p->own;
    double each = o->tried ? (double)p->n_records / (double)o->tried : 0;
    double failed = (double)(o->tried - o->done - o->unchanged - o->skipped);

    p->changed = llround((double)o->done * each);
    p->unchanged = llround((double)o->unchanged * each);
    p->skipped = llround((double)o->skipped * each);
    p->failed = llround(failed * each);
}

int preflight_own_sample(struct preflight *p, struct err *e)
{
    int r = 0;

    if (p->computed) { /* by Python, which has told of it */
        count_all(p);
        p->n_kept = p->n_sample;
        add_repeats(p);
        return 0;
    }
    for (size_t i = 0; !r && i < p->n_sample; i += GROUP)
        r = try_group(p, i, MIN(GROUP, p->n_sample - i), e);
    if (r)
        return r;
    count_all(p);
    p->n_kept = preflight_only_good(p);
    return measure(p, e);
}
