/* SPDX-License-Identifier: Apache-2.0 */
/* The records of one batch, chunk by chunk: compute, apply, move on.
 *
 * The position only ever comes from the database: from the claim, from a chunk that was committed, or, after any doubt,
 * read again under the row's lock. How a chunk is written, and what becomes of refused records: work_apply.c. A failure that the plan wants retried, or that fails batch or
 * plan, stops the work in front of the record that had it; what was done before is committed. */

#include "celeryc/migrate/work.h"
#include "celeryc/base/clock.h"
#include "celeryc/base/key.h"
#include "celeryc/db/chunk.h"
#include "celeryc/migrate/beat.h"
#include "celeryc/migrate/pace.h"
#include "celeryc/task/run.h"

#include <errno.h>
#include <math.h>
#include <time.h>

#define QUICK_RETRIES  3   /* inside the task, before the message waits */
#define EXTERNAL_MAX   100 /* calls to the outside that a crash may repeat */
#define STATEMENT_ROWS 200 /* what a chunk costs besides its rows, in rows: round trips, commit */
/* SQLite has one writer: shorter turns let the others in. */
#define SQLITE_TURN_MS 60

enum db_action work_answer(const struct job *j, int64_t position, const char *error_class,
                           const char *sqlstate)
{
    struct policy_answer a = policy_ask(&j->policy, error_class, sqlstate);
    int64_t tries = position == j->claim.failed_at ? j->claim.failed_times : 0;

    if (a.action == DB_ACT_RETRY && tries + 1 >= a.max_attempts)
        return DB_ACT_QUARANTINE;
    return a.action;
}

int64_t work_attempts(const struct job *j, int64_t position)
{
    return 1 + (position == j->claim.failed_at ? j->claim.failed_times : 0);
}

enum work_end work_end_of(enum db_action action)
{
    switch (action) {
    case DB_ACT_RETRY:
        return WORK_RETRY;
    case DB_ACT_FAIL_PLAN:
        return WORK_FAIL_PLAN;
    default:
        return WORK_FAILED;
    }
}

/* ---- the size of a chunk ---- */

static size_t next_size(const struct work *w)
{
    const struct connection *c = w->j->conn;
    int64_t chunk_ms = w->pace.orders.chunk_ms ? w->pace.orders.chunk_ms : w->chunk_ms;
    double n = c->seconds > 0 ? c->rows / c->seconds * (double)chunk_ms / 1000 : CHUNK_FIRST;

    /* A refused record costs what stands in front of it in its chunk once more: where there are some, and a chunk cannot be
     * had in pieces, the cheapest is the one whose share of that is as large as its share of a statement's own cost. */
    if (c->refused > 0 && !work_has_pieces(w))
        n = fmin(n, sqrt(STATEMENT_ROWS * c->tried / c->refused));
    if (n < CHUNK_MIN)
        n = CHUNK_MIN;
    return pace_size(&w->pace, n > CHUNK_MAX ? CHUNK_MAX : (size_t)n);
}

static void learn_speed(struct connection *c, size_t n, double seconds)
{
    c->rows = 0.75 * c->rows + (double)n;
    c->seconds = 0.75 * c->seconds + seconds;
}

/* A timeout says that chunks were too large for what else goes on there. */
static void learn_timeout(struct connection *c)
{
    c->rows /= 2;
}

/* ---- computing ---- */

static struct slice *fields_of(struct work *w, size_t at)
{
    const struct batch_record *rec = batch_at(w->j->batch, at);
    struct slice *fields = arena_alloc_array(w->arena, w->n_keys + w->n_reads, sizeof(*fields));

    if (!fields)
        return NULL;
    for (size_t i = 0; i < w->n_keys; i++)
        fields[i] = rec->field[i];
    for (size_t i = 0; i < w->n_reads; i++)
        fields[w->n_keys + i] = rec->field[w->read_field[i]];
    return fields;
}

struct migrate_call work_call(const struct work *w, const struct db_row *row)
{
    const struct job *j = w->j;

    return (struct migrate_call){.m = j->m,
                                 .key = w->target.key,
                                 .params = j->params,
                                 .fields = row->old,
                                 .arena = w->arena,
                                 .plan = j->plan,
                                 .batch = j->number,
                                 .position = row->position,
                                 .beat = j->beat};
}

struct db_chunk work_chunk(const struct work *w, const struct db_row *rows, size_t n)
{
    const struct job *j = w->j;

    return (struct db_chunk){.plan = j->plan,
                             .batch = j->number,
                             .token = j->claim.token,
                             .old_position = j->position,
                             .new_position = j->position + (int64_t)n,
                             .target = &w->target,
                             .rows = rows,
                             .n_rows = n,
                             .lease_ms = j->rt->options.lease_ms,
                             .worker = celeryc_hostname(j->call),
                             .open = w->open};
}

/* A function that is slow for its first chunk must not hold the batch until the lease has ended. */
bool work_takes_too_long(const struct work *w, int64_t began_ns)
{
    int64_t limit_ms = w->j->m->record ? 2 * w->chunk_ms : w->chunk_ms;

    return clock_mono_ns() - began_ns > limit_ms * NS_PER_MS || celeryc_should_stop(w->j->call) ||
           beat_stop_wanted(w->j->beat);
}

/* What the plan wants for a record that failed in the migration. false: the work ends in front of it. */
bool work_settle_failed(struct work *w, struct db_row *row)
{
    enum db_action action = work_answer(w->j, row->position, row->error_class, "");

    row->attempts = work_attempts(w->j, row->position);
    if (action == DB_ACT_QUARANTINE)
        return true;
    if (action == DB_ACT_SKIP) {
        row->outcome = DB_O_SKIPPED;
        return true;
    }
    failure_set(&w->pending, row->error_class, action == DB_ACT_RETRY, "%s", row->message);
    w->pending_end = work_end_of(action);
    return false;
}

/* Rows of which only the old values are known. */
int work_fill_rows(struct work *w, size_t n)
{
    size_t from = (size_t)w->j->position;

    arena_reset(w->arena);
    for (size_t i = 0; i < n; i++) {
        w->rows[i] = (struct db_row){.outcome = DB_O_CHANGED,
                                     .position = (int64_t)(from + i),
                                     .old = fields_of(w, from + i)};
        if (!w->rows[i].old)
            return -ENOMEM;
    }
    return 0;
}

/* Which rows have changed since they were planned, before anything is done for them outside. */
static int find_stale(struct work *w, size_t n, bool *stale)
{
    struct db *db = w->j->conn->db;
    const struct db_chunk c = work_chunk(w, w->rows, n);
    int r;

    w->f->e = ERR_INIT;
    r = db_tx_begin(db, &c, &w->f->e);
    if (r)
        return r;
    r = db_tx_guard(db, &c, stale, &w->f->e);
    db_tx_rollback(db);
    return r;
}

/* Fills up to n rows from the present position on. w->pending_end: the record behind the last row failed in a way that
 * ends the work. */
static int compute(struct work *w, size_t n, int64_t began_ns, size_t *ret_n)
{
    bool stale[EXTERNAL_MAX] = {0};
    int r = work_fill_rows(w, n);
    size_t i;

    if (!r && w->j->m->external)
        r = find_stale(w, n, stale);
    for (i = 0; !r && i < n; i++) {
        struct db_row *row = &w->rows[i];
        const struct migrate_call call = work_call(w, row);

        if (w->j->m->external && stale[i]) {
            row->outcome = DB_O_STALE;
            continue;
        }
        r = migrate_call(&call, row);
        if (r == MIGRATE_POSTPONED) {
            r = 0;
            break;
        }
        if (!r && row->outcome == DB_O_QUARANTINED && !work_settle_failed(w, row))
            break;
        if (!r && work_takes_too_long(w, began_ns)) {
            i++;
            break;
        }
    }
    *ret_n = r ? 0 : i;
    return r;
}

/* ---- limits ---- */

static void trip(struct work *w, struct breaker *b, struct err *e)
{
    char reason[200];
    bool moved = false;

    (void)snprintf(reason, sizeof(reason),
                   "breaker: %zu of the last %zu records were set aside, more than %g %%", b->n_bad,
                   b->tried, w->j->claim.max_failure_rate * 100);
    const struct db_plan_move m = {.plan = w->j->plan,
                                   .to = DB_PLAN_PAUSED,
                                   .from = DB_PLAN_MASK(DB_PLAN_RUNNING) |
                                           DB_PLAN_MASK(DB_PLAN_DRAINING),
                                   .who = celeryc_hostname(w->j->call),
                                   .reason = reason};

    if (db_plan_set_state(w->j->conn->db, &m, &moved, e))
        return;
    breaker_forget(b);
    w->unchecked = false;
    w->pace.orders.state = DB_PLAN_PAUSED;
}

/* May the plan go on? Asked only after records were set aside; when the database does not answer, again after the next
 * chunk. */
static void check_limits(struct work *w)
{
    struct job *j = w->j;
    struct err e = ERR_INIT;
    bool paused = false;

    if (!w->unchecked)
        return;
    if (breaker_trips(&j->conn->breaker, j->claim.max_failure_rate)) {
        trip(w, &j->conn->breaker, &e);
        return;
    }
    if (db_plan_check_limits(j->conn->db, j->plan, j->number, celeryc_hostname(j->call), &paused,
                             &e))
        return;
    w->unchecked = false;
    if (paused)
        w->pace.orders.state = DB_PLAN_PAUSED;
}

/* ---- after a failure ---- */

static void pause_ms(int64_t ms)
{
    const struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

    (void)nanosleep(&t, NULL);
}

/* Where are we? The connection may be new, the last chunk committed or not. */
static int find_position(struct work *w)
{
    struct job *j = w->j;
    struct err e = ERR_INIT;

    return db_batch_position(j->conn->db, j->plan, j->number, j->claim.token, &j->position,
                             &j->counts, &e);
}

/* WORK_DONE: go on from the position that was found. */
static enum work_end recover(struct work *w, int r)
{
    struct job *j = w->j;

    if (r == DB_E_FENCED)
        return WORK_FENCED;
    failure_from_db(w->f, j->conn->db, r);
    enum work_end end =
        work_end_of(policy_ask(&j->policy, w->f->error_class, w->f->sqlstate).action);

    if (r != DB_E_RETRY || end != WORK_RETRY)
        return end;
    if (str_eq(w->f->sqlstate, "57014") || str_eq(w->f->sqlstate, "55P03"))
        learn_timeout(j->conn);
    while (w->quick_retries < QUICK_RETRIES && !celeryc_should_stop(j->call)) {
        pause_ms(50 << (2 * w->quick_retries++));
        r = find_position(w);
        if (r == 0)
            return WORK_DONE;
        if (r == DB_E_FENCED)
            return WORK_FENCED;
        if (r != DB_E_RETRY)
            break;
    }
    return WORK_RETRY;
}

/* ---- the loop ---- */

static int prepare(struct work *w)
{
    struct job *j = w->j;
    const struct batch_header *h = batch_get_header(j->batch);

    w->n_keys = key_width(h->key);
    w->n_reads = migrate_columns(j->m->reads);
    w->read_field = arena_alloc_array(j->arena, w->n_reads + 1, sizeof(*w->read_field));
    w->rows = arena_alloc_array(j->arena, CHUNK_MAX, sizeof(*w->rows));
    if (!w->read_field || !w->rows)
        return -ENOMEM;
    for (size_t i = 0; i < w->n_reads; i++)
        for (size_t k = 0; k < h->n_columns; k++)
            if (str_eq(h->columns[k], j->m->reads[i]))
                w->read_field[i] = w->n_keys + k;
    w->target = (struct db_target){.table = h->table,
                                   .key = h->key,
                                   .reads = j->m->reads,
                                   .n_reads = migrate_guarded(j->m),
                                   .writes = j->m->writes,
                                   .n_writes = migrate_columns(j->m->writes)};
    breaker_begin(&j->conn->breaker, j->plan);
    j->conn->no_pieces = false;
    w->unchecked = j->counts.quarantined > 0; /* whoever set them aside may have died since */
    w->chunk_ms = j->rt->options.chunk_ms;
    if (db_is_sqlite(j->conn->db))
        w->chunk_ms = MIN(w->chunk_ms, SQLITE_TURN_MS);
    return 0;
}

/* At most n records, by whatever kind of function there is. */
static int chunk(struct work *w, size_t n, int64_t began_ns, size_t *ret_n)
{
    const struct scatter_migration *m = w->j->m;
    int r;

    if (w->limit)
        n = MIN(w->limit, n);
    if (m->row)
        return work_row_chunk(w, n, began_ns, ret_n);
    if (w->j->sql)
        return work_sql_chunk(w, n, ret_n);
    r = compute(w, m->external ? MIN(n, EXTERNAL_MAX) : n, began_ns, ret_n);
    return r || *ret_n == 0 ? r : work_apply(w, *ret_n);
}

/* One chunk. WORK_DONE: go on. */
static enum work_end step(struct work *w)
{
    struct job *j = w->j;
    size_t left = batch_len(j->batch) - (size_t)j->position, n = 0;
    int64_t began_ns = clock_mono_ns(), before = j->position;
    int r;

    w->pending_end = WORK_DONE;
    r = chunk(w, MIN(next_size(w), left), began_ns, &n);
    if (r == -ENOMEM) {
        failure_set(w->f, "MemoryError", true, "out of memory");
        return WORK_RETRY;
    }
    if (n > 0 || r) {
        check_limits(w);
        if (r && r != WORK_STOPPED_HERE)
            return recover(w, r);
        if (j->position > before)
            learn_speed(j->conn, (size_t)(j->position - before),
                        (double)(clock_mono_ns() - began_ns) / 1e9);
    }
    if (w->pending_end == WORK_DONE || pace_ends(&w->pace))
        return WORK_DONE;
    *w->f = w->pending;
    return w->pending_end;
}

static enum work_end work_loop(struct work *w)
{
    struct job *j = w->j;

    while ((size_t)j->position < batch_len(j->batch)) {
        struct db_orders heard;

        if (beat_lost(j->beat))
            return WORK_FENCED;
        if (beat_heard(j->beat, &heard))
            pace_told(&w->pace, &heard, 0);
        enum work_end end = pace_obey(&w->pace, j);

        if (end == WORK_DONE)
            end = step(w);
        if (end != WORK_DONE)
            return end;
    }
    return WORK_DONE;
}

enum work_end work_batch(struct job *j, struct failure *f)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct work w = {.j = j, .f = f, .arena = a};

    pace_init(&w.pace);
    if (!a || prepare(&w)) {
        failure_set(f, "MemoryError", true, "out of memory");
        return WORK_RETRY;
    }
    j->beat = beat_new(j);
    enum work_end end = work_loop(&w);

    j->beat = beat_free(j->beat);
    if (end != WORK_FENCED)
        pace_end(&w.pace, j);
    return end;
}
