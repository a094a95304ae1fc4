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

#include "celeryc/migrate/beat.h"
#include "celeryc/migrate/bisect.h"
#include "celeryc/migrate/work.h"
#include "celeryc/task/run.h"

#include <errno.h>
#include <math.h>

#define PIECE_ROWS \
    60 /* what a piece costs besides its rows, in rows, and what a refusal makes of it */
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

static void tell_of_copy(struct job *j)
{
    const char *why = db_copy_refused(j->conn->db);

    if (why && !j->conn->told)
        celeryc_log(j->call, CELERYC_WARNING, "chunks go as arrays, not by COPY: %s", why);
    j->conn->told = why != NULL;
}

int work_apply_once(struct work *w, struct db_row *rows, size_t n)
{
    struct job *j = w->j;
    const struct db_chunk c = work_chunk(w, rows, n);
    struct db_chunk_result res = {0};
    int r;

    w->f->e = ERR_INIT;
    r = db_chunk_apply(j->conn->db, &c, &res, &w->f->e);
    tell_of_copy(j);
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

/* Each part a transaction of its own. */
static int apply_parts(struct work *w, size_t n)
{
    const struct bisect b = {
        .apply = apply_part, .single = set_aside, .suspect = suspected, .arg = w};

    return bisect_run(&b, n);
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

/* What the plan wants for those that were refused. WORK_STOPPED_HERE: *ret_n is the row that ends the work, and more may be
 * written than stands in front of it. */
static int settle_refused(struct work *w, const struct db_pieces *p, size_t *ret_n)
{
    for (size_t i = 0; i < p->n_refused; i++) {
        size_t at = p->row[p->refused[i].at];
        int r = db_refusal_tell(w->j->conn->db, &p->refused[i], &w->f->e);

        if (!work_is_refusal(w, r))
            return r;
        r = work_set_aside(w, at);
        if (r) {
            *ret_n = at;
            return r;
        }
    }
    return 0;
}

/* ret_n: with 0 the rows that are written or marked; with WORK_STOPPED_HERE as above. PIECES_NEVER, or a code of db/. */
static int write_pieces(struct work *w, size_t n, size_t size, size_t *ret_n)
{
    const struct db_chunk c = work_chunk(w, w->rows, n);
    struct db_pieces p = {.chunk = &c, .size = size, .most = PIECES_REFUSED, .arena = w->arena};
    int r = list_changes(w, n, &p);

    if (!r && p.n > 0)
        r = db_tx_write(w->j->conn->db, &p, &w->f->e);
    if (r)
        return r == DB_E_RETRY || r < 0 ? r : PIECES_NEVER;
    *ret_n = p.at < p.n ? p.row[p.at] : n;
    r = settle_refused(w, &p, ret_n);
    for (size_t i = 0; !r && i < p.at; i++)
        if (w->rows[p.row[i]].outcome == DB_O_CHANGED)
            w->rows[p.row[i]].outcome = p.stale[i] ? DB_O_STALE : DB_O_DONE;
    return r;
}

/* The checkpoint behind what was written, and COMMIT. */
static int commit_pieces(struct work *w, size_t n)
{
    w->open = true;
    int r = work_apply_once(w, w->rows, n);

    w->open = false;
    return r && work_is_refusal(w, r) ? PIECES_NEVER : r;
}

/* One transaction of at most n rows. As write_pieces; with WORK_STOPPED_HERE nothing is written. */
static int apply_pieces(struct work *w, size_t n, size_t size, size_t *ret_n)
{
    struct db *db = w->j->conn->db;
    const struct db_chunk c = work_chunk(w, w->rows, n);

    w->f->e = ERR_INIT;
    int r = db_tx_begin(db, &c, &w->f->e);

    if (r)
        return r;
    r = write_pieces(w, n, size, ret_n);
    if (r)
        db_tx_rollback(db);
    else
        r = commit_pieces(w, *ret_n);
    if (r == PIECES_NEVER) {
        w->j->conn->no_pieces = true;
        mark_rows(w->rows, n, DB_O_DONE, DB_O_CHANGED);
        mark_rows(w->rows, n, DB_O_STALE, DB_O_CHANGED);
    }
    return r;
}

/* A record that ends the work: what stands in front of it, where nothing is refused any more, is written by itself. */
static int apply_in_pieces(struct work *w, size_t n, size_t size)
{
    size_t done = 0;
    int r = apply_pieces(w, n, size, &done);

    if (r != WORK_STOPPED_HERE || done == 0)
        return r;
    n = done;
    r = apply_pieces(w, n, size, &done);
    if (r == PIECES_NEVER)
        r = apply_parts(w, n);
    else if (r == 0 && done < n)
        return 0; /* the record has not come yet */
    return r ? r : WORK_STOPPED_HERE;
}

/* ---- a chunk ---- */

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
    r = apply_in_pieces(w, n, size);
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
