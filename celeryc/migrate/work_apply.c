/* SPDX-License-Identifier: Apache-2.0 */
/* Writing a chunk, and finding the records that the database refuses.
 *
 *   no record was refused lately:  the whole chunk as one statement and one transaction
 *   else, and when that failed:    one transaction as well, in pieces: BEGIN, fence -> piece by piece, each behind a
 *                                  savepoint -> checkpoint, COMMIT
 *   where there are no pieces:     parts of the chunk, each a transaction of its own
 *
 * A refused record costs what stands in front of it in its piece, which is taken back and done again, and the tries until
 * it is alone (bisect.c); a piece costs a statement. The rarer refusals are, the larger are the pieces. The transaction
 * holds one savepoint at a time, and some ten to hundred subtransactions: never one for each record.
 * Whatever goes wrong otherwise (a lock, a lost connection) takes the transaction back whole. A constraint that is checked
 * at COMMIT refuses the chunk there: then it is done in parts. */

#include "celeryc/base/clock.h"
#include "celeryc/migrate/beat.h"
#include "celeryc/migrate/bisect.h"
#include "celeryc/migrate/work.h"
#include "celeryc/task/run.h"

#include <errno.h>
#include <math.h>

#define PIECE_ROWS \
    20 /* what a piece costs besides its rows, in rows; twice, as half of it is lost by a refusal */
#define PIECE_MIN      50
#define PIECE_FIRST    500
#define PIECES_REFUSED 20 /* then the transaction ends: the plan's limits are to be asked */
/* Beside the codes of db/: the chunk is to be had in parts only; the transaction is to end behind what is written. */
#define PIECES_NEVER 102
#define TRIED_MEMORY \
    200000.0 /* records after which half of what was learnt about refusals is forgotten */

static void learn_refusals(struct connection *c, size_t n, size_t refused)
{
    c->tried += (double)n;
    c->refused += (double)refused;
    if (c->tried > TRIED_MEMORY) {
        c->tried /= 2;
        c->refused /= 2;
    }
}

/* ---- one transaction ---- */

static void count_rows(struct work *w, const struct db_row *rows, size_t n)
{
    struct job *j = w->j;
    struct breaker *b = &j->conn->breaker;
    size_t bad = 0;

    for (size_t i = 0; i < n; i++) {
        j->counts.unchanged += rows[i].outcome == DB_O_UNCHANGED;
        j->counts.skipped += rows[i].outcome == DB_O_SKIPPED;
        bad += rows[i].outcome == DB_O_QUARANTINED;
    }
    j->counts.quarantined += (int64_t)bad;
    w->unchecked = w->unchecked || bad;
    if (!bad)
        breaker_add_good(b, n);
    for (size_t i = 0; bad && i < n; i++)
        breaker_add(b, rows[i].outcome == DB_O_QUARANTINED);
}

int work_apply_once(struct work *w, struct db_row *rows, size_t n)
{
    struct job *j = w->j;
    const struct db_chunk c = work_chunk(w, rows, n);
    struct db_chunk_result res = {0};
    int r;

    w->f->e = ERR_INIT;
    r = db_chunk_apply(j->conn->db, &c, &res, &w->f->e);
    if (r)
        return r;
    j->position = c.new_position;
    j->counts.stale += res.stale;
    count_rows(w, rows, n);
    pace_told(&w->pace, &res.orders, n);
    beat_renewed(j->beat);
    w->quick_retries = 0;
    if (!j->advanced)
        task_call_advanced(j->call);
    j->advanced = true;
    return 0;
}

/* ---- refused records ---- */

/* Is it a record's fault, by what the plan says of it? A statement that failed for another reason fails as a whole. */
bool work_is_refusal(const struct work *w, int code)
{
    const struct db *db = w->j->conn->db;

    if (code <= 0 || code == DB_E_FENCED)
        return false;
    switch (policy_ask(&w->j->policy, db_error_class(db), db_sqlstate(db)).action) {
    case DB_ACT_QUARANTINE:
    case DB_ACT_SKIP:
        return true;
    case DB_ACT_RETRY:
        return code == DB_E_DATA; /* of that record, not of the others */
    default:
        return false;
    }
}

/* The record was refused alone: it is marked and goes with the next statement, or ends the work. */
int work_set_aside(struct work *w, size_t at)
{
    struct db_row *row = &w->rows[at];
    const struct db *db = w->j->conn->db;
    const char *class = arena_strdup(w->arena, slice_str(db_error_class(db)));
    const char *state = arena_strdup(w->arena, slice_str(db_sqlstate(db)));
    char *text = arena_strdup(w->arena, slice_str(w->f->e.text));

    if (!class || !state || !text)
        return -ENOMEM;
    db_mend_text(text);
    enum db_action action = work_answer(w->j, row->position, class, state);

    if (row->outcome != DB_O_CHANGED || (action != DB_ACT_QUARANTINE && action != DB_ACT_SKIP)) {
        failure_from_db(w->f, db, DB_E_DATA);
        w->pending = *w->f;
        w->pending_end = row->outcome == DB_O_CHANGED ? work_end_of(action) : WORK_FAILED;
        return WORK_STOPPED_HERE;
    }
    row->outcome = action == DB_ACT_SKIP ? DB_O_SKIPPED : DB_O_QUARANTINED;
    row->error_class = class;
    row->sqlstate = state;
    row->message = text;
    row->attempts = work_attempts(w->j, row->position);
    w->n_refused++;
    return 0;
}

static int set_aside(void *arg, size_t at)
{
    return work_set_aside(arg, at);
}

static size_t suspected(void *arg, size_t from, size_t n)
{
    struct work *w = arg;

    return from + bisect_suspect(w->rows + from, n, w->target.n_writes, w->f->e.text);
}

static int apply_part(void *arg, size_t from, size_t n)
{
    struct work *w = arg;
    int r = work_apply_once(w, w->rows + from, n);

    return work_is_refusal(w, r) ? BISECT_REFUSED : r;
}

/* ---- in pieces ---- */

bool work_has_pieces(const struct work *w)
{
    const struct scatter_migration *m = w->j->m;

    return !m->row && !m->external && !w->j->conn->no_pieces && db_tx_has_pieces(w->j->conn->db);
}

static size_t piece_size(const struct connection *c)
{
    double n = c->refused > 0 ? sqrt(PIECE_ROWS * c->tried / c->refused) : INFINITY;

    return n < PIECE_MIN ? PIECE_MIN : n < (double)SIZE_MAX / 2 ? (size_t)n : SIZE_MAX;
}

static void mark_rows(struct db_row *rows, size_t n, enum db_outcome from, enum db_outcome to)
{
    for (size_t i = 0; i < n; i++)
        if (rows[i].outcome == from)
            rows[i].outcome = to;
}

static int list_changes(struct work *w, size_t n, struct db_pieces *p)
{
    size_t *row = arena_alloc_array(w->arena, n, sizeof(*row));

    p->stale = arena_alloc_array(w->arena, n, sizeof(*p->stale));
    if (!row || !p->stale)
        return -ENOMEM;
    memset(p->stale, 0, n * sizeof(*p->stale));
    for (size_t i = 0; i < n; i++)
        if (w->rows[i].outcome == DB_O_CHANGED)
            row[p->n++] = i;
    p->row = row;
    return 0;
}

/* A transaction must end well within its lease, and the plan's limits want to be asked between. */
static bool is_enough(const struct work *w, int64_t began_ns)
{
    return w->n_refused >= PIECES_REFUSED ||
           clock_mono_ns() - began_ns > w->j->rt->options.lease_ms / 4 * NS_PER_MS;
}

/* ret_n: the rows in front of which it stopped, all of them with 0 or WORK_STOPPED_HERE. Any other code of db/: nothing is
 * to be kept. */
static int write_pieces(struct work *w, size_t n, struct db_pieces *p, size_t *ret_n)
{
    int64_t began_ns = clock_mono_ns();
    int r = 0;

    *ret_n = n;
    while (!r && p->at < p->n) {
        w->f->e = ERR_INIT;
        r = db_tx_write(w->j->conn->db, p, &w->f->e);
        if (r == 0)
            break;
        if (!p->alone)
            return r == DB_E_RETRY ? r : PIECES_NEVER;
        if (!work_is_refusal(w, r))
            return r;
        *ret_n = p->row[p->at];
        r = work_set_aside(w, *ret_n);
        if (r)
            break;
        p->at++;
        *ret_n = is_enough(w, began_ns) ? *ret_n + 1 : n;
        if (*ret_n < n)
            break;
    }
    for (size_t i = 0; i < p->at; i++)
        if (w->rows[p->row[i]].outcome == DB_O_CHANGED)
            w->rows[p->row[i]].outcome = p->stale[i] ? DB_O_STALE : DB_O_DONE;
    return r;
}

/* The checkpoint behind what was written, and COMMIT. */
static int commit_pieces(struct work *w, size_t n)
{
    if (n == 0) {
        db_tx_rollback(w->j->conn->db);
        return 0;
    }
    w->open = true;
    int r = work_apply_once(w, w->rows, n);

    w->open = false;
    return r && work_is_refusal(w, r) ? PIECES_NEVER : r;
}

/* 0, WORK_STOPPED_HERE, PIECES_NEVER, or a code of db/. */
static int apply_pieces(struct work *w, size_t n, size_t size)
{
    struct db *db = w->j->conn->db;
    const struct db_chunk c = work_chunk(w, w->rows, n);
    struct db_pieces p = {.chunk = &c, .size = size};
    int r = list_changes(w, n, &p);

    w->f->e = ERR_INIT;
    if (!r)
        r = db_tx_begin(db, &c, &w->f->e);
    if (r)
        return r;
    r = write_pieces(w, n, &p, &n);
    if (r == 0 || r == WORK_STOPPED_HERE) {
        int committed = commit_pieces(w, n);

        r = committed ? committed : r;
    } else {
        db_tx_rollback(db);
    }
    if (r == PIECES_NEVER) {
        w->j->conn->no_pieces = true;
        mark_rows(w->rows, c.n_rows, DB_O_DONE, DB_O_CHANGED);
        mark_rows(w->rows, c.n_rows, DB_O_STALE, DB_O_CHANGED);
    }
    return r;
}

/* ---- a chunk ---- */

static int apply_parts(struct work *w, size_t n)
{
    const struct bisect b = {
        .apply = apply_part, .single = set_aside, .suspect = suspected, .arg = w};

    return bisect_run(&b, n);
}

static int apply_rows(struct work *w, size_t n)
{
    size_t size = piece_size(w->j->conn);
    int r;

    if (!work_has_pieces(w))
        return apply_parts(w, n);
    if (size >= n) {
        r = apply_part(w, 0, n);
        if (r != BISECT_REFUSED)
            return r;
        size = MIN(size, PIECE_FIRST);
    }
    r = apply_pieces(w, n, size);
    return r == PIECES_NEVER ? apply_parts(w, n) : r;
}

int work_apply(struct work *w, size_t n)
{
    int64_t before = w->j->position;

    w->n_refused = 0;
    int r = apply_rows(w, n);

    size_t done = (size_t)(w->j->position - before);

    if (done > 0)
        learn_refusals(w->j->conn, done, w->n_refused);
    if (r == 0 && done < n)
        w->pending_end = WORK_DONE; /* the record behind the chunk has not come yet */
    return r;
}
