/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Inside db/: the table of functions that each kind of database fills, and small results. */

#include "celeryc/base/key.h"
#include "celeryc/db/db.h"
#include "celeryc/db/rows.h"

/* A @token@ of shared SQL and what the dialect writes for it. Both tables hold the same names:
 * now       the current time as the control tables keep it
 * lease     the end of a lease of $1 milliseconds from now
 * left      milliseconds until b.lease_until (NULL: no lease)
 * age       seconds since b.started_at
 * ago       as now, $1 milliseconds before it
 * plan_age  seconds from p.started_at to p.finished_at, or to now
 * outbox_age  seconds since o was tried, or made
 * at3, at4  the Unix time $3, $4 as clock
 * clock_ago as clock, $1 milliseconds before it
 * clock     the current time as lease_until, window_ends, resume_at and beat_at are kept
 * silent    seconds since g.beat_at
 * created, started, finished, b_started, b_finished, event_at   p.created_at..., b.started_at..., v.at as
 *           microseconds since the epoch
 * lock_b, skip_b, lock_p, skip_o   row locks of an aliased table, without and with SKIP LOCKED
 * failures  the JSON array of the rows f (batch, record_key, outcome, error_class, sqlstate, message) */
struct db_token {
    const char *name, *text;
};

struct db_rehearsal;

struct db_ops {
    const struct db_token *tokens;
    struct db *(*close)(struct db *db);
    /* lease_ms 0: an ordinary control transaction. */
    int (*begin)(struct db *db, int64_t lease_ms, struct err *e);
    int (*exec)(struct db *db, const char *sql, const struct db_val *v, size_t n,
                struct db_rows *ret_r, struct err *e); /* ret_r may be NULL */
    int (*commit)(struct db *db, struct err *e);
    void (*rollback)(struct db *db);
    int (*ensure_schema)(struct db *db, struct err *e);
    int (*insert_batches)(struct db *db, const char *plan, const struct db_batch_row *rows,
                          size_t n, struct err *e);
    /* Drops what is remembered of target tables: they may have changed since the last batch. */
    void (*forget)(struct db *db);
    int (*chunk)(struct db *db, const struct db_chunk *c, struct db_chunk_result *ret_r,
                 struct err *e);
    /* The chunk in a transaction that is rolled back; plan not NULL: only how the statement would be run. */
    int (*rehearse)(struct db *db, const struct db_chunk *c, struct db_rehearsal *ret_x,
                    struct buf *plan, struct err *e);
    /* A transaction with the control rows and a savepoint, and back to that; left open when it is there. */
    int (*rehearsal_begin)(struct db *db, int64_t lease_ms, struct err *e);
    int (*rehearsal_back)(struct db *db, struct err *e);
    int (*guard)(struct db *db, const struct db_chunk *c, bool *ret_stale, struct err *e);
    /* See db_tx_write; NULL: this kind has none. */
    int (*write)(struct db *db, struct db_pieces *p, struct err *e);
    int (*compute)(struct db *db, const struct db_compute *q, struct err *e);
    int (*stream)(struct db *db, const char *query, const struct db_stream *s, struct err *e);
    int (*check_target)(struct db *db, const struct db_target *t, struct err *e);
};

struct db {
    const struct db_ops *ops;
    char sqlstate[6];
    char error_class[48];
    enum db_copy copy;
    char copy_refused[200]; /* see db_copy_refused; "": it was not */
};

extern const struct db_ops db_pg_ops, db_sqlite_ops;

int db_pg_open(const char *url, struct db **ret_db, struct err *e) WARN_UNUSED;
int db_sqlite_open(const char *path, bool read_only, struct db **ret_db, struct err *e) WARN_UNUSED;

/* Remembers a failure and gives the DB_E_ code that its SQLSTATE means. */
int db_fail(struct db *db, const char *sqlstate);
int db_code_of(const char *sqlstate);

/* ---- inside an open transaction ---- */

/* The plan's row; *ret_inserted 0: there was one. */
int db_plan_row_insert(struct db *db, const struct db_plan *p, int64_t *ret_inserted,
                       struct err *e) WARN_UNUSED;
/* What db_plan_insert writes of a plan besides its row: callbacks, parentage, the parent's rules, drives. */
int db_plan_extras(struct db *db, const struct db_plan *p, struct err *e) WARN_UNUSED;
/* The callbacks of a batch that is done or failed (f: why), and of a plan that came into a state. */
int db_outbox_batch(struct db *db, const char *plan, int64_t batch, const char *state,
                    const struct db_failure *f, struct err *e) WARN_UNUSED;
int db_outbox_plan(struct db *db, const char *plan, const char *state, const char *who,
                   struct err *e) WARN_UNUSED;
/* db_plan_resolve's statements. */
int db_resolve(struct db *db, const char *plan, struct err *e) WARN_UNUSED;
/* db_failures_json's, on the rows as they are in this transaction. */
int db_failures_list(struct db *db, const char *plan, int64_t batch, size_t n, struct buf *dst,
                     struct err *e) WARN_UNUSED;

/* The checkpoint did not move: DB_E_FENCED when the lease is another's, DB_E_RETRY when it is still ours (then the
 * position is another than the caller believed). */
int db_fenced(struct db *db, const struct db_chunk *c, struct err *e);

/* Ends a transaction: commits when r is 0, else rolls back and keeps r. */
int db_end(struct db *db, int r, struct err *e) WARN_UNUSED;
/* A line of the audit; batch 0: of the plan. */
int db_note_event(struct db *db, const char *plan, int64_t batch, const char *who,
                  const char *event, const char *detail, struct err *e) WARN_UNUSED;
/* db_plan_set_state inside a transaction that is open. */
int db_plan_move(struct db *db, const struct db_plan_move *m, bool *ret_moved,
                 struct err *e) WARN_UNUSED;

/* A plan that drains is paused when its last open batch has ended; inside a transaction that is open. */
int db_settle_drain(struct db *db, const char *plan, struct err *e) WARN_UNUSED;

/* db_plan_close_window inside a transaction that is open. */
int db_close_window(struct db *db, const char *plan, struct err *e) WARN_UNUSED;

/* What db_orders_read wants, of the tables p and g. Batches are counted only where a rate is to be shared. */
#define DB_ORDERS_LIVE " r.state = 'running' AND r.lease_until > @clock@"
#define DB_ORDERS_COLUMNS                                                                          \
    "p.state, coalesce(p.window_ends < @clock@, 1 = 0), p.rate, p.chunk_ms, CASE WHEN p.rate IS "  \
    "NOT NULL THEN (SELECT count(*) FROM scatter_batch r WHERE r.plan = p.plan AND" DB_ORDERS_LIVE \
    ") END, g.stopped, g.rate, g.floor_rate, CASE WHEN g.limits <> '{}' THEN "                     \
    "coalesce(@silent@, 1000000000.0) END, CASE WHEN g.rate IS NOT NULL OR g.limits <> '{}' THEN " \
    "(SELECT count(*) FROM scatter_batch r WHERE" DB_ORDERS_LIVE ") END"
#define DB_ORDERS_CELLS  10
#define DB_ORDERS_TABLES "scatter_plan p LEFT JOIN scatter_governor g ON g.id = 1"
int db_orders_read(const struct slice *cells, struct db_orders *ret_o) WARN_UNUSED;

/* May this row of scatter_batch (by its name or alias) have a message? Until the canary's records are done, only its
 * batches may. */
#define DB_OPEN_TO_SEND(b)                                                                      \
    "(SELECT y.canary IS NULL OR y.canary_at IS NOT NULL OR " b                                 \
    ".batch <= (SELECT coalesce(max(u.batch), 0) FROM (SELECT c.batch, sum(c.records) OVER "    \
    "(ORDER BY c.batch) AS upto FROM scatter_batch c WHERE c.plan = y.plan) u WHERE u.upto <= " \
    "y.canary) FROM scatter_plan y WHERE y.plan = " b ".plan)"

/* The control rows of rehearsed chunks, in the open transaction. */
int db_rehearsal_rows(struct db *db, struct err *e) WARN_UNUSED;

/* Inside the transaction that ends a batch. */
int db_check_failed_batches(struct db *db, const char *plan, struct err *e) WARN_UNUSED;
int db_check_canary(struct db *db, const char *plan, struct err *e) WARN_UNUSED;
/* Appends the first thing in the control tables that does not add up; nothing when all does. */
int db_audit_first(struct db *db, const char *plan, struct buf *dst, struct err *e) WARN_UNUSED;

/* Text with the dialect's words for its tokens. */
int db_expand(const struct db_ops *ops, const char *sql, struct buf *dst) WARN_UNUSED;
/* exec with the tokens replaced. */
int db_exec(struct db *db, const char *sql, const struct db_val *v, size_t n, struct db_rows *ret_r,
            struct err *e) WARN_UNUSED;

/* The key of a row as the control tables keep it: a single column's own text, or an array in the arena. -ENOMEM. */
int db_row_key(const struct db_chunk *c, const struct db_row *row, struct arena *a,
               struct slice *ret_s) WARN_UNUSED;
/* Parses the key of a target. DB_E_SCHEMA with a text. */
int db_target_key(struct db *db, const struct db_target *t, struct key *ret_k,
                  struct err *e) WARN_UNUSED;
