/* SPDX-License-Identifier: Apache-2.0 */
/* The records of one batch, chunk by chunk: compute, apply, move on.
 *
 * The position only ever comes from the database: from the claim, from a chunk that was committed, or, after any doubt,
 * read again under the row's lock. A chunk whose data is refused is bisected, in order, each half its own transaction,
 * until the refused record is alone and can be set aside. A failure that the plan wants retried stops the work in front
 * of the record that had it; what was done before is committed. */

#include "celeryc/base/clock.h"
#include "celeryc/base/key.h"
#include "celeryc/migrate/pace.h"
#include "celeryc/task/run.h"

#include <errno.h>
#include <time.h>

#define CHUNK_MIN     50
#define CHUNK_MAX     5000
#define CHUNK_FIRST   500
#define QUICK_RETRIES 3 /* inside the task, before the message waits */
/* SQLite has one writer: shorter turns let the others in. */
#define SQLITE_TURN_MS 60

struct work {
    struct job *j;
    struct failure *f;
    struct arena *arena; /* of the chunk */
    size_t *read_field;  /* place of each read column in a record */
    size_t n_keys, n_reads;
    struct db_target target;
    int64_t chunk_ms;
    struct db_row *rows;
    struct pace pace;
    int quick_retries; /* since the last commit */
    bool is_pending;   /* the record behind the chunk is to be retried, because of: */
    struct failure pending;
};

static bool may_retry(const struct work *w)
{
    return w->j->claim.attempts < MIGRATE_MAX_ATTEMPTS;
}

/* ---- the size of a chunk ---- */

static size_t next_size(const struct work *w)
{
    const struct connection *c = w->j->conn;
    int64_t chunk_ms = w->pace.orders.chunk_ms ? w->pace.orders.chunk_ms : w->chunk_ms;
    double n = c->seconds > 0 ? c->rows / c->seconds * (double)chunk_ms / 1000 : CHUNK_FIRST;

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

/* A function that is slow for its first chunk must not hold the batch until the lease has ended. */
static bool takes_too_long(const struct work *w, int64_t began_ns)
{
    return clock_mono_ns() - began_ns > 2 * w->chunk_ms * NS_PER_MS ||
           celeryc_should_stop(w->j->call);
}

/* Fills up to n rows from the present position on. w->is_pending: the record behind the last row failed in a way that is to
 * be retried. */
static int compute(struct work *w, size_t n, int64_t began_ns, size_t *ret_n)
{
    const struct job *j = w->j;
    size_t from = (size_t)j->position, i;

    arena_reset(w->arena);
    for (i = 0; i < n; i++) {
        struct slice *fields = fields_of(w, from + i);
        struct db_row *row = &w->rows[i];

        if (!fields || migrate_compute(j->m, w->target.key, j->params, fields, w->arena, row))
            return -ENOMEM;
        row->position = (int64_t)(from + i);
        if (row->outcome == DB_O_QUARANTINED && may_retry(w) &&
            failure_listed(j->claim.retry_on, row->error_class, "")) {
            failure_set(&w->pending, row->error_class, true, "%s", row->message);
            w->is_pending = true;
            break;
        }
        if (takes_too_long(w, began_ns)) {
            i++;
            break;
        }
    }
    *ret_n = i;
    return 0;
}

/* ---- applying ---- */

static int apply_once(struct work *w, struct db_row *rows, size_t n)
{
    struct job *j = w->j;
    const struct db_chunk c = {.plan = j->plan,
                               .batch = j->number,
                               .token = j->claim.token,
                               .old_position = j->position,
                               .new_position = j->position + (int64_t)n,
                               .target = &w->target,
                               .rows = rows,
                               .n_rows = n,
                               .lease_ms = j->rt->options.lease_ms,
                               .worker = celeryc_hostname(j->call)};
    struct db_chunk_result res = {0};
    int r;

    w->f->e = ERR_INIT;
    r = db_chunk_apply(j->conn->db, &c, &res, &w->f->e);
    if (r)
        return r;
    j->position = c.new_position;
    j->counts.stale += res.stale;
    for (size_t i = 0; i < n; i++) {
        j->counts.unchanged += rows[i].outcome == DB_O_UNCHANGED;
        j->counts.skipped += rows[i].outcome == DB_O_SKIPPED;
        j->counts.quarantined += rows[i].outcome == DB_O_QUARANTINED;
    }
    pace_told(&w->pace, &res.orders, n);
    w->quick_retries = 0;
    if (!j->advanced)
        task_call_advanced(j->call);
    j->advanced = true;
    return 0;
}

static int set_aside(struct work *w, struct db_row *row)
{
    const struct db *db = w->j->conn->db;
    const char *class = arena_strdup(w->arena, slice_str(db_error_class(db)));
    const char *state = arena_strdup(w->arena, slice_str(db_sqlstate(db)));
    const char *text = arena_strdup(w->arena, slice_str(w->f->e.text));

    if (!class || !state || !text)
        return -ENOMEM;
    row->outcome = DB_O_QUARANTINED;
    row->error_class = class;
    row->sqlstate = state;
    row->message = text;
    return apply_once(w, row, 1);
}

/* Rows stand at the present position. Depth: log2(CHUNK_MAX). */
static int apply(struct work *w, struct db_row *rows, size_t n)
{
    const struct job *j = w->j;
    int r = apply_once(w, rows, n);

    if (r != DB_E_DATA ||
        (may_retry(w) &&
         failure_listed(j->claim.retry_on, db_error_class(j->conn->db), db_sqlstate(j->conn->db))))
        return r;
    if (n == 1)
        return rows[0].outcome == DB_O_CHANGED ? set_aside(w, rows) : r;
    r = apply(w, rows, n / 2);
    return r ? r : apply(w, rows + n / 2, n - n / 2);
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
    if (r != DB_E_RETRY)
        return w->f->transient ||
                       (may_retry(w) &&
                        failure_listed(j->claim.retry_on, w->f->error_class, w->f->sqlstate))
                   ? WORK_RETRY
                   : WORK_FAILED;
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
    w->chunk_ms = j->rt->options.chunk_ms;
    if (db_is_sqlite(j->conn->db))
        w->chunk_ms = MIN(w->chunk_ms, SQLITE_TURN_MS);
    return 0;
}

/* One chunk. WORK_DONE: go on. */
static enum work_end step(struct work *w)
{
    struct job *j = w->j;
    size_t left = batch_len(j->batch) - (size_t)j->position, n = 0;
    int64_t began_ns = clock_mono_ns();

    w->is_pending = false;
    if (compute(w, MIN(next_size(w), left), began_ns, &n)) {
        failure_set(w->f, "MemoryError", true, "out of memory");
        return WORK_RETRY;
    }
    if (n > 0) {
        int r = apply(w, w->rows, n);

        if (r)
            return recover(w, r);
        learn_speed(j->conn, n, (double)(clock_mono_ns() - began_ns) / 1e9);
    }
    if (!w->is_pending || pace_ends(&w->pace))
        return WORK_DONE;
    *w->f = w->pending;
    return WORK_RETRY;
}

static enum work_end work_loop(struct work *w)
{
    struct job *j = w->j;

    while ((size_t)j->position < batch_len(j->batch)) {
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
    enum work_end end = work_loop(&w);

    if (end != WORK_FENCED)
        pace_end(&w.pace, j);
    return end;
}
