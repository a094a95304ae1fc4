/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Inside migrate/: the work on one batch, shared by the kinds of migration (work.c; work_row.c for .row functions). */

#include "celeryc/migrate/pace.h"
#include "celeryc/migrate/runtime.h"

#define WORK_STOPPED_HERE 101 /* beside the codes of db/: w->pending_end says how the work ends */

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
    int quick_retries;         /* since the last commit */
    enum work_end pending_end; /* WORK_DONE; else the record behind the chunk ends the work, by: */
    struct failure pending;
    size_t n_refused; /* by the database, of the chunk */
    bool open;        /* the chunk's transaction is there already (.row) */
    size_t limit;     /* of the next chunk of a .row function; 0: none */
    bool unchecked;   /* records were set aside, and the plan's limits not asked since */
};

/* What the plan wants for a failure of the record at a position; one that has been retried often enough is set aside. */
enum db_action work_answer(const struct job *j, int64_t position, const char *error_class,
                           const char *sqlstate);
int64_t work_attempts(const struct job *j, int64_t position);
enum work_end work_end_of(enum db_action action);
/* The chunks can be written in pieces (work_apply.c). */
bool work_has_pieces(const struct work *w);
/* w->rows[0..n] are the records from the present position on, of which only the old values are known. -ENOMEM. */
int work_fill_rows(struct work *w, size_t n);
/* The call of the migration's function for that row; tx is the caller's matter. */
struct migrate_call work_call(const struct work *w, const struct db_row *row);
/* The chunk of n rows at the present position. */
struct db_chunk work_chunk(const struct work *w, const struct db_row *rows, size_t n);
/* A function that is slow for its first chunk must not hold the batch until the lease has ended. */
bool work_takes_too_long(const struct work *w, int64_t began_ns);
/* What the plan wants for a record that failed in the migration. false: the work ends in front of it. */
bool work_settle_failed(struct work *w, struct db_row *row);
/* Writes n rows at the present position. Codes of db/. */
int work_apply_once(struct work *w, struct db_row *rows, size_t n);
/* Is it a record's fault, by what the plan says of it? A statement that failed for another reason fails as a whole. */
bool work_is_refusal(const struct work *w, int code);
/* Row w->rows[at] was refused alone: it is marked (0), or ends the work (WORK_STOPPED_HERE). -ENOMEM. */
int work_set_aside(struct work *w, size_t at);

/* The n rows, without those that are refused alone; the position says how many of them, at least one. 0, WORK_STOPPED_HERE, or a code of db/. */
int work_apply(struct work *w, size_t n);
/* One chunk of an SQL file; as work_row_chunk. */
int work_sql_chunk(struct work *w, size_t n, size_t *ret_n);
/* One chunk of a .row function: at most n records, *ret_n of them committed. 0, WORK_STOPPED_HERE, or a code of db/. */
int work_row_chunk(struct work *w, size_t n, int64_t began_ns, size_t *ret_n);
