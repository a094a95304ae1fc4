/* SPDX-License-Identifier: Apache-2.0 */
/* The sample through the real statement, rolled back: which records the database refuses, what a chunk costs, and from it
 * what the run will.
 *
 * The first rehearsal touches pages that no checkpoint has seen since (full-page images); the next ones do not, and give the
 * WAL of the rows themselves. The images of the run are reckoned from the pages that there are. */

#include "planner/preflight_priv.h"

#include "celeryc/migrate/bisect.h"

#include <errno.h>
#include <math.h>
#include <unistd.h>

#define TRIAL          500   /* rows that are tried at once */
#define STATEMENT_ROWS 60.0  /* what a statement costs besides its rows, in rows */
#define STATEMENT_WAL  450.0 /* its checkpoint, the worker's share, an outcome */
#define PAGE           8192.0
#define PAGE_IMAGE     7600.0 /* a page without its hole, on average */

/* ---- what the database refuses ---- */

struct trial {
    struct preflight *p;
    struct err *e;
    size_t first; /* of the rows that are tried */
    size_t n_refused;
};

static int try_rows(void *arg, size_t from, size_t n)
{
    struct trial *t = arg;
    struct db_rehearsal x = {0};

    *t->e = ERR_INIT;
    int r = db_rehearse(t->p->db, &t->p->target, t->p->sample + t->first + from, n, &x, t->e);

    return r == DB_E_DATA ? BISECT_REFUSED : r;
}

static int refused(void *arg, size_t at)
{
    struct trial *t = arg;
    struct preflight *p = t->p;

    struct db_row *row = &p->sample[t->first + at];

    error_of(p, db_error_class(p->db), db_sqlstate(p->db), t->e->text)->sampled++;
    t->n_refused++;
    /* Does the text point at its record? Then a worker finds it with fewer tries. */
    row->message =
        bisect_suspect(row, 1, p->target.n_writes, t->e->text) == 0 ? "found by its text" : NULL;
    row->outcome = DB_O_QUARANTINED;
    return 0;
}

static size_t suspected(void *arg, size_t from, size_t n)
{
    struct trial *t = arg;

    return from +
           bisect_suspect(t->p->sample + t->first + from, n, t->p->target.n_writes, t->e->text);
}

static int try_all(struct trial *t)
{
    const struct bisect b = {.apply = try_rows, .single = refused, .suspect = suspected, .arg = t};
    int r = 0;

    for (; !r && t->first < t->p->n_sample; t->first += TRIAL)
        r = bisect_run(&b, MIN(TRIAL, t->p->n_sample - t->first));
    return r;
}

static int by_position(const void *a, const void *b)
{
    const struct run *x = a, *y = b;

    return x->first < y->first ? -1 : x->first > y->first;
}

/* Of a small table not more than a tenth, but for some: each try leaves dead rows in it. */
static size_t every_nth(const struct preflight *p)
{
    size_t have = (size_t)MIN(p->n_runs, RUNS), want = (size_t)MAX(p->n_runs / 10, RUNS_MIN);

    return MAX((have + want - 1) / want, 1);
}

static void gather(struct preflight *p)
{
    size_t have = (size_t)MIN(p->n_runs, RUNS);

    qsort(p->runs, have, sizeof(p->runs[0]), by_position);
    for (size_t i = 0; i < have; i += every_nth(p)) {
        for (size_t k = 0; k < p->runs[i].n; k++) {
            const struct db_row *row = &p->runs[i].rows[k];

            if (row->outcome != DB_O_CHANGED)
                continue;
            p->sample[p->n_sample] = *row;
            p->sample[p->n_sample].position = (int64_t)p->n_sample;
            p->n_sample++;
        }
    }
}

/* ---- what it costs ---- */

/* Good rows first, so that they are one chunk. */
size_t preflight_only_good(struct preflight *p)
{
    size_t n = 0;

    for (size_t i = 0; i < p->n_sample; i++) {
        if (p->sample[i].outcome != DB_O_CHANGED)
            continue;
        struct db_row row = p->sample[i];

        row.position = (int64_t)n;
        p->sample[n++] = row;
    }
    return n;
}

/* Rows and statements beyond the good ones, as a worker would have them that has learnt how often a record is refused:
 * played with the answers that are known by now. */
struct play {
    const struct preflight *p;
    size_t first, at; /* of the rows that are bisected; the last refused one */
    bool aside[SAMPLE];
    size_t rows, statements;
};

static bool is_refused(const struct db_row *row)
{
    return row->outcome == DB_O_QUARANTINED;
}

static int play_rows(void *arg, size_t from, size_t n)
{
    struct play *t = arg;

    for (size_t i = t->first + from; i < t->first + from + n; i++) {
        if (!is_refused(&t->p->sample[i]) || t->aside[i])
            continue;
        t->at = i;
        t->rows += i - t->first - from + 1;
        t->statements++;
        return BISECT_REFUSED;
    }
    t->statements++;
    return 0;
}

static int play_refused(void *arg, size_t at)
{
    struct play *t = arg;

    t->aside[t->first + at] = true;
    return 0;
}

static size_t play_suspect(void *arg, size_t from, size_t n)
{
    struct play *t = arg;

    return t->p->sample[t->at].message ? t->at - t->first : from + n;
}

static int play(struct preflight *p, size_t n_refused, size_t *ret_rows, size_t *ret_statements)
{
    struct play t = {.p = p};
    const struct bisect b = {
        .apply = play_rows, .single = play_refused, .suspect = play_suspect, .arg = &t};
    size_t chunk = p->n_sample;
    int r = 0;

    if (n_refused)
        chunk = (size_t)fmax(50, sqrt(STATEMENT_ROWS * (double)p->n_sample / (double)n_refused));
    for (; !r && t.first < p->n_sample; t.first += chunk)
        r = bisect_run(&b, MIN(chunk, p->n_sample - t.first));
    *ret_rows = t.rows;
    *ret_statements = t.statements;
    return r;
}

size_t preflight_choose_chunk(const struct preflight *p, struct db_row chunk[COST])
{
    size_t every = (p->n_kept + COST - 1) / COST, n = 0;

    for (size_t i = 0; i < p->n_kept && n < COST; i++) {
        if (i / RUN_LENGTH % every)
            continue;
        chunk[n] = p->sample[i];
        chunk[n].position = (int64_t)n;
        n++;
    }
    return n;
}

/* Records that are good alone may meet in one chunk: then half of it. Twice, see at the top. */
static int run_chunk(struct preflight *p, const struct db_row *chunk, struct err *e)
{
    int r = 0;

    for (int i = 0; !r && p->n_cost && i < 2; i++) {
        *e = ERR_INIT;
        r = db_rehearse(p->db, &p->target, chunk, p->n_cost, &p->cost, e);
        if (r != DB_E_DATA)
            continue;
        p->n_cost /= 2;
        i = -1;
        r = 0;
    }
    return r;
}

/* One chunk of the good rows, for the second time: the pages have been touched by now, and what is written are the rows
 * alone. What refused ones cost besides comes on top of it. */
static int measure(struct preflight *p, size_t n_refused, struct err *e)
{
    struct db_row chunk[COST];
    size_t rows = 0, statements = 0;
    int r = play(p, n_refused, &rows, &statements);

    if (r)
        return r;
    p->n_kept = preflight_only_good(p);
    p->n_cost = preflight_choose_chunk(p, chunk);
    r = run_chunk(p, chunk, e);
    if (r || !p->n_cost)
        return r;
    double sample = (double)p->n_sample, n_cost = (double)p->n_cost;
    double written = (double)(p->n_kept + rows);
    double more = n_refused ? (double)(statements + n_refused) : 0;

    p->forecast.wal_row =
        ((double)p->cost.wal_bytes / n_cost * written + STATEMENT_WAL * more) / sample;
    p->forecast.seconds_row = p->cost.seconds / n_cost * (written + STATEMENT_ROWS * more) / sample;
    return 0;
}

/* ---- how long it takes ---- */

/* A database on this machine has its cores. SQLite has one writer. */
static int count_cores(struct preflight *p, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    int64_t given = p->request->args->database_cores;

    p->forecast.cores = given ? given : db_is_sqlite(p->db);
    if (p->forecast.cores)
        return 0;
    int r = db_read(p->db,
                    "SELECT coalesce(inet_server_addr() <<= '127.0.0.0/8' OR inet_server_addr() = "
                    "'::1', true)",
                    NULL, 0, &rows, e);

    if (!r && db_cell_is(&rows, 0, 0, "t"))
        p->forecast.cores = sysconf(_SC_NPROCESSORS_ONLN);
    return r;
}

double preflight_seconds(const struct preflight *p, int64_t connections)
{
    const struct forecast *f = &p->forecast;
    double alone = (f->compute_s + f->database_s) / (double)connections;

    return f->cores ? fmax(alone, f->database_s / (double)f->cores) : alone;
}

/* Pages of `pages` that a part of the rows touches when they lie anywhere (Yao). */
static double touched(double pages, double rows, double part)
{
    if (pages <= 0 || rows <= 0)
        return 0;
    return pages * (1 - pow(1 - fmin(part, 1), fmax(rows / pages, 1)));
}

/* Before anything is tried: what is tried leaves dead rows behind. */
static int read_sizes(struct preflight *p, struct err *e)
{
    CLEANUP(buf_deinit) struct buf table = BUF_INIT;

    if (db_is_sqlite(p->db))
        return 0;
    db_quote_table(&table, p->request->table);
    if (buf_ok(&table))
        return -ENOMEM;
    return db_read(p->db,
                   "SELECT pg_relation_size(c.oid), greatest(c.reltuples, 0), (SELECT "
                   "coalesce(sum(pg_relation_size(i.indexrelid)), 0) FROM pg_index i WHERE "
                   "i.indrelid = c.oid), (SELECT count(*) FROM pg_index i WHERE i.indrelid = "
                   "c.oid), CASE WHEN current_setting('full_page_writes') = 'on' THEN 1 ELSE 0 END "
                   "FROM pg_class c WHERE c.oid = to_regclass($1)",
                   (struct db_val[]){db_text(table.data)}, 1, &p->sizes, e);
}

static int forecast(struct preflight *p, struct err *e)
{
    const struct db_rows *rows = &p->sizes;
    struct forecast *f = &p->forecast;

    f->hot = p->cost.hot;
    f->rows = (double)p->changed;
    if (!p->by_row)
        f->rows *= (double)p->n_kept / (double)p->n_sample;
    f->compute_s = (double)p->compute_ns / 1e9;
    f->database_s = (double)p->changed * f->seconds_row + (double)p->computed_ns / 1e9;
    f->wal = (double)p->changed * f->wal_row;
    int r = count_cores(p, e);

    if (r || rows->n_rows == 0 || p->n_kept == 0 || (p->by_row && f->hot < 0))
        return r;
    double heap = db_cell_f64(rows, 0, 0), tuples = db_cell_f64(rows, 0, 1);
    double indexes = db_cell_f64(rows, 0, 2), moved = 1 - fmax(f->hot, 0);

    tuples = fmax(tuples, (double)p->n_records); /* never analysed, or less than there is */
    double part = f->rows / fmax(tuples, 1);

    f->heap_growth = heap * part * moved;
    f->index_growth = indexes * part * moved;
    f->full_pages =
        db_cell_i64(rows, 0, 4) * PAGE_IMAGE *
        (touched(heap / PAGE, tuples, part) +
         moved * touched(indexes / PAGE, tuples * (double)db_cell_i64(rows, 0, 3), part));
    /* A page of an index that is full is split, and its new half written once more. */
    f->wal += f->full_pages + f->index_growth;
    return 0;
}

/* The chunk's statement, for all of the sample and for a chunk of what it takes. */
static int rehearse(struct preflight *p, struct err *e)
{
    struct trial t = {.p = p, .e = e};
    int r =
        db_explain_chunk(p->db, &p->target, p->sample, MIN(p->n_sample, COST), &p->explained, e);

    if (!r)
        r = try_all(&t);
    return r ? r : measure(p, t.n_refused, e);
}

int preflight_sample(struct preflight *p, struct err *e)
{
    struct err why = ERR_INIT;

    gather(p);
    if (p->n_sample == 0 && p->own.tried == 0)
        return 0;
    int r = read_sizes(p, &why);

    if (!r)
        r = p->by_row ? preflight_own_sample(p, &why) : rehearse(p, &why);
    db_rehearsal_end(p->db);
    if (r == DB_E_SCHEMA) {
        check_add(p, CHECK_BLOCK, "statement", "mend the table or the migration",
                  "%s fails for every record: %s",
                  p->by_row ? "a statement of the migration" : "the chunk's statement", why.text);
        return 0;
    }
    if (r)
        return err_set(e, r, "the sample: %s", err_text(&why, r));
    return forecast(p, e);
}
