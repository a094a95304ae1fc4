/* SPDX-License-Identifier: Apache-2.0 */
/* A chunk whose changes are the statements of a .row function.
 *
 *   BEGIN, fence -> lock the rows that hold their planned values -> the function, record by record -> checkpoint, COMMIT
 *
 * There are no savepoints, so a record that fails after it has run a statement takes the chunk with it. What stood in
 * front of it is then done again, as a chunk of its own (w->limit); the record comes first in the one after that, where
 * only its outcome is written. What the database refuses at the checkpoint (a deferred constraint) is halved until the
 * record is alone. */

#include "celeryc/migrate/work.h"

#include "celeryc/migrate/beat.h"

#include <errno.h>

enum row_end {
    ROW_GO_ON,
    ROW_COMMIT,  /* what stands in front of the next record, and no more now */
    ROW_UNDO,    /* the record failed or is skipped, and had run a statement */
    ROW_LATER,   /* the record is left for later, and had run a statement */
    ROW_REFUSED, /* a statement of the record failed: code */
};

struct row_run {
    struct work *w;
    int64_t began_ns;
    size_t n; /* records that are done */
    int code;
};

static enum row_end run_record(struct row_run *run, struct db_row *row)
{
    struct work *w = run->w;
    struct scatter_tx tx = {.db = w->j->conn->db, .arena = w->arena, .beat = w->j->beat};
    struct migrate_call call = work_call(w, row);

    call.tx = &tx;
    beat_lend(tx.beat, tx.db);
    run->code = migrate_call(&call, row);
    beat_take_back(tx.beat);
    if (run->code == MIGRATE_POSTPONED) {
        run->code = 0;
        return tx.touched ? ROW_LATER : ROW_COMMIT;
    }
    if (run->code) {
        w->f->e = tx.e;
        return ROW_REFUSED;
    }
    bool failed = row->outcome == DB_O_QUARANTINED;

    if (tx.touched && (failed || row->outcome == DB_O_SKIPPED))
        return ROW_UNDO;
    if (failed && !work_settle_failed(w, row))
        return ROW_COMMIT;
    run->n++;
    return work_takes_too_long(w, run->began_ns) ? ROW_COMMIT : ROW_GO_ON;
}

static enum row_end run_records(struct row_run *run, const bool *stale, size_t n)
{
    enum row_end end = ROW_GO_ON;

    while (end == ROW_GO_ON && run->n < n) {
        struct db_row *row = &run->w->rows[run->n];

        if (stale[run->n]) {
            row->outcome = DB_O_STALE;
            run->n++;
        } else {
            end = run_record(run, row);
        }
    }
    return end;
}

/* The outcome of the first row alone, in a transaction of its own; nothing of what it did is left. */
static int set_first_aside(struct work *w, size_t *ret_n)
{
    int r = work_apply_once(w, w->rows, 1);

    if (!r)
        *ret_n = 1;
    return r;
}

static int refused(struct work *w, struct row_run *run, size_t *ret_n)
{
    if (!work_is_refusal(w, run->code))
        return run->code;
    if (run->n > 0) {
        w->limit = run->n;
        return 0;
    }
    w->limit = 0;
    w->rows[0].outcome = DB_O_CHANGED; /* it would have */
    int r = work_set_aside(w, 0);

    return r ? r : set_first_aside(w, ret_n);
}

static int undone(struct work *w, struct row_run *run, size_t *ret_n)
{
    if (run->n > 0) {
        w->limit = run->n;
        return 0;
    }
    w->limit = 0;
    if (w->rows[0].outcome == DB_O_QUARANTINED && !work_settle_failed(w, &w->rows[0]))
        return WORK_STOPPED_HERE;
    return set_first_aside(w, ret_n);
}

/* The checkpoint of what was done, and COMMIT. */
static int commit(struct work *w, struct row_run *run, size_t *ret_n)
{
    size_t n = run->n;

    w->open = true;
    run->code = work_apply_once(w, w->rows, n);
    w->open = false;
    if (!run->code) {
        w->limit = 0;
        *ret_n = n;
        return 0;
    }
    run->n = n / 2; /* a record alone: 0 */
    return refused(w, run, ret_n);
}

int work_row_chunk(struct work *w, size_t n, int64_t began_ns, size_t *ret_n)
{
    struct db *db = w->j->conn->db;
    struct row_run run = {.w = w, .began_ns = began_ns};
    struct db_chunk c;
    int r = work_fill_rows(w, n);
    bool *stale = r ? NULL : arena_alloc_array(w->arena, n, sizeof(*stale));

    *ret_n = 0;
    if (!stale)
        return -ENOMEM;
    c = work_chunk(w, w->rows, n);
    w->f->e = ERR_INIT;
    r = db_tx_begin(db, &c, &w->f->e);
    if (r)
        return r;
    r = db_tx_guard(db, &c, stale, &w->f->e);
    if (r) {
        db_tx_rollback(db);
        return r;
    }
    enum row_end end = run_records(&run, stale, n);

    if ((end == ROW_GO_ON || end == ROW_COMMIT) && run.n > 0)
        return commit(w, &run, ret_n);
    db_tx_rollback(db);
    if (end == ROW_LATER)
        w->limit = run.n;
    if (end == ROW_UNDO)
        return undone(w, &run, ret_n);
    return end == ROW_REFUSED ? refused(w, &run, ret_n) : 0;
}
