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

#define PAGE       8192.0
#define PAGE_IMAGE 7600.0 /* a page without its hole, on average */

/* ---- what the database refuses ---- */

struct trial {
    struct preflight *p;
    struct err *e;
    int code; /* that ended it */
};

static int try_rows(void *arg, size_t from, size_t n)
{
    struct trial *t = arg;
    struct db_rehearsal x;

    *t->e = ERR_INIT;
    int r = db_rehearse(t->p->db, &t->p->target, t->p->sample + from, n, &x, t->e);

    return r == DB_E_DATA ? BISECT_REFUSED : r;
}

static int refused(void *arg, size_t at)
{
    struct trial *t = arg;
    struct preflight *p = t->p;

    error_of(p, db_error_class(p->db), db_sqlstate(p->db), t->e->text)->sampled++;
    p->sample[at].outcome = DB_O_QUARANTINED;
    p->sample[at].error_class = "refused";
    return 0;
}

static size_t suspected(void *arg, size_t from, size_t n)
{
    struct trial *t = arg;

    return from + bisect_suspect(t->p->sample + from, n, t->p->target.n_writes, t->e->text);
}

static int by_position(const void *a, const void *b)
{
    const struct run *x = a, *y = b;

    return x->first < y->first ? -1 : x->first > y->first;
}

static void gather(struct preflight *p)
{
    qsort(p->runs, RUNS, sizeof(p->runs[0]), by_position);
    for (size_t i = 0; i < RUNS; i++) {
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
static size_t only_good(struct preflight *p)
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

static int measure(struct preflight *p, size_t n, struct err *e)
{
    struct db_rehearsal best = {0}, x;
    int r = db_rehearse(p->db, &p->target, p->sample, n, &best, e); /* touches the pages */

    for (int i = 0; !r && i < 2; i++) {
        r = db_rehearse(p->db, &p->target, p->sample, n, &x, e);
        if (r)
            break;
        if (i == 0 || x.seconds < best.seconds)
            best.seconds = x.seconds;
        if (i == 0 || x.wal_bytes < best.wal_bytes)
            best.wal_bytes = x.wal_bytes;
    }
    if (!r)
        p->cost = best;
    return r;
}

/* Pages of `pages` that a part of the rows touches when they lie anywhere (Yao). */
static double touched(double pages, double rows, double part)
{
    if (pages <= 0 || rows <= 0)
        return 0;
    return pages * (1 - pow(1 - fmin(part, 1), fmax(rows / pages, 1)));
}

static int forecast(struct preflight *p, size_t n_good, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    CLEANUP(buf_deinit) struct buf table = BUF_INIT;
    struct forecast *f = &p->forecast;

    f->hot = p->cost.hot;
    f->rows = (double)p->changed * (double)n_good / (double)p->n_sample;
    f->seconds_row = n_good ? p->cost.seconds / (double)n_good : 0;
    f->seconds = f->rows * f->seconds_row + (double)p->compute_ns / 1e9;
    if (db_is_sqlite(p->db) || !n_good)
        return 0;
    f->wal_row = (double)p->cost.wal_bytes / (double)n_good;
    db_quote_table(&table, p->request->table);
    if (buf_ok(&table))
        return -ENOMEM;
    int r =
        db_read(p->db,
                "SELECT pg_relation_size(c.oid), greatest(c.reltuples, 0), (SELECT "
                "coalesce(sum(pg_relation_size(i.indexrelid)), 0) FROM pg_index i WHERE "
                "i.indrelid = c.oid), (SELECT count(*) FROM pg_index i WHERE i.indrelid = "
                "c.oid), CASE WHEN current_setting('full_page_writes') = 'on' THEN 1 ELSE 0 END "
                "FROM pg_class c WHERE c.oid = to_regclass($1)",
                (struct db_val[]){db_text(table.data)}, 1, &rows, e);

    if (r || rows.n_rows == 0)
        return r;
    double heap = db_cell_f64(&rows, 0, 0), tuples = db_cell_f64(&rows, 0, 1);
    double indexes = db_cell_f64(&rows, 0, 2), moved = 1 - fmax(f->hot, 0);

    tuples = fmax(tuples, (double)p->n_records); /* never analysed, or less than there is */
    double part = f->rows / fmax(tuples, 1);

    f->heap_growth = heap * part * moved;
    f->index_growth = indexes * part * moved;
    f->full_pages =
        db_cell_i64(&rows, 0, 4) * PAGE_IMAGE *
        (touched(heap / PAGE, tuples, part) +
         moved * touched(indexes / PAGE, tuples * (double)db_cell_i64(&rows, 0, 3), part));
    /* A page of an index that is full is split, and its new half written once more. */
    f->wal = f->rows * f->wal_row + f->full_pages + f->index_growth;
    return 0;
}

int preflight_sample(struct preflight *p, struct err *e)
{
    struct err why = ERR_INIT;
    struct trial t = {.p = p, .e = &why};
    const struct bisect b = {.apply = try_rows, .single = refused, .suspect = suspected, .arg = &t};

    gather(p);
    if (p->n_sample == 0)
        return 0;
    for (size_t i = 0; i < p->n_sample; i++)
        p->kept[i] = &p->sample[i];
    int r = db_explain_chunk(p->db, &p->target, p->sample, p->n_sample, &p->explained, &why);

    if (!r)
        r = bisect_run(&b, p->n_sample);
    if (r == DB_E_SCHEMA) {
        check_add(p, CHECK_BLOCK, "statement", "mend the table or the migration",
                  "the chunk's statement fails for every record: %s", why.text);
        return 0;
    }
    if (r)
        return err_set(e, r, "the sample: %s", err_text(&why, r));
    size_t n_good = only_good(p);

    p->n_kept = n_good;
    r = n_good ? measure(p, n_good, e) : 0;
    return r ? r : forecast(p, n_good, e);
}
