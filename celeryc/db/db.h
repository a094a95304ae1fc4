/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* A target database: the control tables and the fenced chunk, on PostgreSQL (libpq) and SQLite.
 *
 * One struct db is one connection, used by one thread. Blocking, every statement with a limit. No credential is ever
 * logged (url_masked). Session settings that planner and worker must share (TimeZone UTC, DateStyle ISO, IntervalStyle
 * postgres, bytea_output hex, extra_float_digits 1, READ COMMITTED) are set here, per transaction where PgBouncer
 * would lose them. */

#include "celeryc/base/arena.h"
#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"

#include <stdint.h>

/* Positive codes; db_error tells more. */
#define DB_E_RETRY \
    1 /* serialization, deadlock, lock or statement timeout, connection: try again later */
#define DB_E_DATA 2 /* a record's data is refused (SQLSTATE 22*, 23*): bisect */
#define DB_E_SCHEMA \
    3 /* missing table or column, no right, read-only: no record would fare better */
#define DB_E_FENCED 4 /* the lease token is no longer ours */

struct db;

/* postgresql://... (or postgres://, or a libpq conninfo string) and sqlite:///abs/path[?mode=ro]. */
int db_open(const char *url, struct db **ret_db, struct err *e) WARN_UNUSED;
struct db *db_close(struct db *db);
DEFINE_CLEANUP(struct db, db_close)
bool db_is_sqlite(const struct db *db);
/* SQLSTATE of the last failure ("" when none; SQLite errors are mapped), error class name for people
 * ("UniqueViolation"). Valid until the next call. */
const char *db_sqlstate(const struct db *db);
const char *db_error_class(const struct db *db);

/* What becomes of a record or a batch that failed. */
enum db_action {
    DB_ACT_RETRY,      /* the batch is tried again from there */
    DB_ACT_QUARANTINE, /* the record is set aside */
    DB_ACT_SKIP,       /* the record is left as it is and listed */
    DB_ACT_FAIL_BATCH,
    DB_ACT_FAIL_PLAN,
};

/* Each byte that is no UTF-8 becomes a question mark. */
void db_mend_text(char *text);

/* The default for a refusal of the database, or for an exception of the migration (sqlstate ""). */
enum db_action db_default_action(const char *error_class, const char *sqlstate);
const char *db_action_name(enum db_action action);
/* Is the failure of this class, or of one above it, by Python's names? A module in front of a name is ignored. */
bool db_error_is(const char *error_class, const char *sqlstate, struct slice name);

/* Creates the control tables when they are missing (planner/schema/<dialect>.sql, embedded). */
int db_ensure_schema(struct db *db, struct err *e) WARN_UNUSED;

/* ---- plans and batches ---- */

/* A column of the plan's row that says how it is to be run: one of those that db_plan_insert knows. */
struct db_setting {
    const char *column, *value;
};

struct db_plan {
    const char *plan, *migration, *table, *key, *store, *queue, *database, *query, *params_json,
        *created_by;
    const char *columns_json; /* ["phone"] */
    const char *on_batch, *on_finish,
        *retry_on; /* NULL; retry_on: comma-separated SQLSTATE classes, names */
    const struct db_setting *settings;
    size_t n_settings;
    int64_t total, n_batches;
    const char *on_planned, *on_paused, *on_failed; /* NULL */
    /* Of a plan made from another one: "redrive", "undo" or "topup", and its id. It takes over the parent's rules
     * (error policy, limits, rate, windows). NULL: neither. */
    const char *kind, *parent;
    /* redrive: where in the parent each of its records was set aside, in the order of the records; batch_size of them
     * make a batch. */
    const struct db_drive *drives;
    size_t n_drives;
    int64_t batch_size;
    const int64_t *failed; /* redrive: the parent's failed batches of which it has the rest */
    size_t n_failed;
};

struct db_drive {
    int64_t batch, position;
};

struct db_batch_row {
    int64_t batch;
    const char *source, *sha256;
    int64_t count;
};

/* One transaction: plan row (state "planned") and all batch rows ("planned"). A plan that exists is left as it is. */
int db_plan_insert(struct db *db, const struct db_plan *p, const struct db_batch_row *rows,
                   size_t n, struct err *e) WARN_UNUSED;
/* planned -> queued for one batch range; idempotent. */
int db_batches_queued(struct db *db, const char *plan, int64_t first, int64_t last,
                      struct err *e) WARN_UNUSED;

/* For the (resumable) enqueue phase. The plan's row, strings in the arena; state names as in db_plan_status.
 * -ENOENT: no such plan, or no control tables yet. */
int db_plan_get(struct db *db, const char *plan, struct arena *a, struct db_plan *ret_p,
                const char **ret_state, struct err *e) WARN_UNUSED;
/* The batches that are still "planned" (no message sent yet), by number, from `first` on, at most max: rows (strings in
 * the arena). *ret_n 0: none left. */
int db_batches_planned(struct db *db, const char *plan, int64_t first, size_t max, struct arena *a,
                       struct db_batch_row *rows, size_t *ret_n, struct err *e) WARN_UNUSED;

/* ---- the state of a plan ---- */

enum db_plan_state {
    DB_PLAN_PLANNED,
    DB_PLAN_QUEUED,
    DB_PLAN_RUNNING,
    DB_PLAN_DRAINING, /* batches that were begun are finished, no other is begun; then paused */
    DB_PLAN_PAUSED,
    DB_PLAN_FINISHED,
    DB_PLAN_FAILED,
    DB_PLAN_CANCELLED,
};

#define DB_PLAN_MASK(state) (1U << (state))
#define DB_PLAN_OVER                                                 \
    (DB_PLAN_MASK(DB_PLAN_FINISHED) | DB_PLAN_MASK(DB_PLAN_FAILED) | \
     DB_PLAN_MASK(DB_PLAN_CANCELLED))

const char *db_plan_state_name(enum db_plan_state s);
int db_plan_state_parse(struct slice text,
                        enum db_plan_state *ret_s) WARN_UNUSED; /* 0 or -EINVAL */

struct db_plan_move {
    const char *plan;
    enum db_plan_state to;
    unsigned
        from; /* DB_PLAN_MASK of the states it may be moved from; 0: wherever that is allowed */
    const char *who, *reason; /* for people; NULL */
};

/* The one way in which a plan changes its state, in a transaction of its own. *ret_moved false: it was in that state
 * already, or in none of `from`. -ENOENT: no such plan; -EINVAL: a state from which there is no way. */
int db_plan_set_state(struct db *db, const struct db_plan_move *m, bool *ret_moved,
                      struct err *e) WARN_UNUSED;

enum db_plan_verb { DB_PLAN_PAUSE, DB_PLAN_RESUME, DB_PLAN_CANCEL, DB_PLAN_DRAIN };

/* What people ask for. Workers obey with their next chunk; after a resume the caller sends what the sweep finds. *ret_changed
 * false: there was nothing to do. -ENOENT, -EINVAL as above. */
int db_plan_control(struct db *db, enum db_plan_verb verb, const char *plan, const char *who,
                    const char *reason, bool *ret_changed, struct err *e) WARN_UNUSED;

/* The window in which a plan may run is over: it is paused until the next one begins. */
int db_plan_close_window(struct db *db, const char *plan, struct err *e) WARN_UNUSED;

struct db_window {
    const char *plan;
    const char *windows;    /* JSON, to be kept; NULL: as it is */
    int64_t ends_s, next_s; /* Unix time; 0: nothing known */
    const char *reason;     /* for a plan that waits for its window */
};

int db_plan_window(struct db *db, const struct db_window *w, struct err *e) WARN_UNUSED;

/* What every worker obeys from its next chunk on. */
struct db_plan_knobs {
    const char *plan, *who;
    bool set_rate, set_chunk_ms, set_max_workers;
    double rate; /* 0, here and below: no limit, or the worker's own */
    int64_t chunk_ms, max_workers;
};

int db_plan_set(struct db *db, const struct db_plan_knobs *k,
                struct err *e) WARN_UNUSED; /* -ENOENT */

/* What a worker obeys at once: it comes with every chunk, and with a heartbeat where no chunk is due. */
struct db_orders {
    enum db_plan_state state; /* of the plan: only running and draining let a batch go on */
    bool closed;              /* its maintenance window is over */
    bool stopped;             /* everything on this database stands still */
    double
        rate; /* records a second for this batch, its share; INFINITY: no limit; 0: none just now */
    int64_t chunk_ms; /* 0: the worker's own */
};

enum db_claim_state {
    DB_CLAIM_OURS,      /* go: lease taken, position and counts given */
    DB_CLAIM_DONE,      /* batch done: ack */
    DB_CLAIM_CANCELLED, /* plan cancelled or failed: ack */
    DB_CLAIM_PAUSED,    /* plan paused: parked, ack */
    DB_CLAIM_BUSY,      /* a live lease: retry at lease_until */
};

struct db_counts {
    int64_t unchanged, stale, skipped, quarantined; /* ok = position - their sum */
};

#define DB_MAX_FAILURE_RATE 0.05 /* of a plan that names none */

struct db_claim {
    enum db_claim_state state;
    int64_t token;    /* fences every later statement */
    int64_t position; /* records finished, in file order */
    struct db_counts counts;
    int64_t attempts;       /* claims so far, this one included */
    int64_t retry_after_ms; /* DB_CLAIM_BUSY */
    int64_t failed_at;      /* position of the record that stopped the batch last; -1 */
    int64_t failed_times;   /* how often in a row */
    double max_failure_rate;
    char *retry_on; /* of the plan; NULL; freed by db_claim_deinit, as the next three */
    char *on_error; /* JSON, see migrate/policy.h */
    char *on_batch, *on_finish;
    char *owner;        /* who holds a live lease */
    bool plan_finished; /* the whole plan is finished or failed */
};

void db_claim_deinit(struct db_claim *c);
DEFINE_CLEANUP_VALUE(struct db_claim, db_claim_deinit)

struct db_claim_request {
    const struct db_plan *plan; /* from the batch header and message: inserted when missing */
    const struct db_batch_row
        *batch;         /* likewise; source NULL: only a row that is there (-ENOENT) */
    const char *worker; /* node name, for people */
    const char *owner; /* incarnation or "pid@host"; may equal the old owner's after a redelivery */
    bool takeover;     /* the old owner is known to be dead */
    int64_t lease_ms;
};

/* 0 with the state; -EBADMSG: the row is of another file (SHA-256) or migration; DB_E_RETRY, DB_E_SCHEMA. */
int db_batch_claim(struct db *db, const struct db_claim_request *q, struct db_claim *ret_c,
                   struct err *e) WARN_UNUSED;

/* ---- the chunk ---- */

enum db_outcome {
    DB_O_CHANGED, /* new values to write */
    DB_O_UNCHANGED,
    DB_O_SKIPPED,
    DB_O_QUARANTINED,
    DB_O_DONE,  /* changed by statements of the migration's own, or outside of the database */
    DB_O_STALE, /* found by db_tx_guard */
};

struct db_row {
    enum db_outcome outcome;
    int64_t position;          /* in the file, 0.. */
    const struct slice *old;   /* the key's columns, then the read ones; p NULL is NULL */
    const struct slice *fresh; /* DB_O_CHANGED: one per write column; p NULL is NULL */
    const bool *set;           /* DB_O_CHANGED: which write columns are set; NULL: all */
    const char *error_class, *sqlstate, *message; /* skipped (message), quarantined */
    int64_t attempts;                             /* at this record; 0 is 1 */
};

struct db_target {
    const char *table, *key; /* key: several columns are separated by commas (base/key.h) */
    const char *const *reads;
    size_t n_reads;
    const char *const *writes;
    size_t n_writes;
};

struct db_chunk {
    const char *plan;
    int64_t batch;
    int64_t token;
    int64_t old_position, new_position;
    const struct db_target *target;
    const struct db_row *rows; /* new_position - old_position of them */
    size_t n_rows;
    int64_t lease_ms;
    const char *worker; /* node name: scatter_share, scatter_outcome */
    bool open; /* the transaction of db_tx_begin is open, and is committed with the chunk */
};

struct db_chunk_result {
    int64_t stale;           /* found by the guard in this chunk */
    struct db_orders orders; /* read in the same round trip */
};

/* One transaction: guarded change, checkpoint, outcomes, counts. 0 done; DB_E_FENCED: nothing was written and the lease
 * is another's; DB_E_RETRY: unknown or not done (db_batch_position tells); DB_E_DATA, DB_E_SCHEMA: rolled back. */
int db_chunk_apply(struct db *db, const struct db_chunk *c, struct db_chunk_result *ret_r,
                   struct err *e) WARN_UNUSED;

/* How the values of a chunk's changes travel, on PostgreSQL: as arrays, or by COPY where that is quicker (chunk.h). */
enum db_copy { DB_COPY_AUTO, DB_COPY_ALWAYS, DB_COPY_NEVER };

void db_set_copy(struct db *db, enum db_copy copy);
/* Why, though it was to go by COPY, a chunk went as arrays, and all after it do: there may be no temporary table. NULL:
 * that has not happened. */
const char *db_copy_refused(const struct db *db);

/* ---- a chunk whose changes come one after the other: in pieces, or as the migration's own statements (tx.c) ---- */

/* BEGIN and the fence: the batch's row is locked and its lease renewed. Codes as db_chunk_apply. Ended by db_chunk_apply
 * with `open`, or by db_tx_rollback. */
int db_tx_begin(struct db *db, const struct db_chunk *c, struct err *e) WARN_UNUSED;
/* ret_stale[i]: row i of the chunk does not hold its planned values any more. The others are locked, in file order, so
 * that they hold them to the end of the transaction. */
int db_tx_guard(struct db *db, const struct db_chunk *c, bool *ret_stale,
                struct err *e) WARN_UNUSED;
/* This kind of database takes a chunk in pieces. */
bool db_tx_has_pieces(const struct db *db);

/* A change that was refused alone. */
struct db_refusal {
    size_t at; /* among the changes */
    char sqlstate[6];
    const char *text;
};

/* A chunk that is written in pieces, so that a refusal takes back little. */
struct db_pieces {
    const struct db_chunk *chunk;
    const size_t *row; /* the rows that are changed, n of them */
    size_t n, size;    /* size: changes of a piece */
    size_t most;       /* refusals; then it ends early, as it does after a quarter of the lease */
    struct arena *arena;
    /* The answer. */
    size_t at;   /* changes that are done: written, stale or refused */
    bool *stale; /* of each change: its row does not hold the planned values; all false before */
    struct db_refusal *refused;
    size_t n_refused;
};

/* In the open transaction. 0: p->at >= 1 changes are done. After a failure, which is told of no change alone, the transaction
 * is to be rolled back. */
int db_tx_write(struct db *db, struct db_pieces *p, struct err *e) WARN_UNUSED;
/* Makes a refusal the last failure of the database; its code. */
int db_refusal_tell(struct db *db, const struct db_refusal *f, struct err *e);
struct db_rows;
/* A statement of the migration's; one that would end the transaction is refused. */
int db_tx_run(struct db *db, const char *sql, const struct slice *values, size_t n,
              struct db_rows *ret_rows, struct err *e) WARN_UNUSED;
void db_tx_rollback(struct db *db);
/* By its first word; for statistics only. */
bool db_tx_only_reads(const char *sql);

/* ---- new values that the database computes (SQL files) ---- */

struct db_compute {
    const struct db_target *target;
    const char
        *body; /* a SELECT over `old` that gives the key and the written columns by their names */
    const struct db_row *rows; /* their old values; n_rows 0: the statement is only checked */
    size_t n_rows;
    int64_t lease_ms;
    struct arena *arena; /* of the values */
    bool free_names;     /* target->writes are no columns of the table */
    struct slice *fresh; /* n_rows * n_writes, set for those that are found */
    bool *found;         /* the SELECT gave a row */
};

/* In a read-only transaction of its own. Codes as db_chunk_apply. */
int db_compute(struct db *db, const struct db_compute *q, struct err *e) WARN_UNUSED;

/* Reads token, position and counts FOR UPDATE after an unknown outcome. DB_E_FENCED when the token is another's. */
int db_batch_position(struct db *db, const char *plan, int64_t batch, int64_t token,
                      int64_t *ret_position, struct db_counts *ret_counts,
                      struct err *e) WARN_UNUSED;

struct db_beat {
    const char *plan;
    int64_t batch, token, lease_ms;
    int64_t throttled_ms; /* waited since the last beat */
};

/* Where no chunk is due: the lease goes on, and what is to be obeyed comes back. DB_E_FENCED. */
int db_batch_beat(struct db *db, const struct db_beat *b, struct db_orders *ret_o,
                  struct err *e) WARN_UNUSED;
/* The same beside a call that takes long, on a connection of its own: never waits for the batch's row. *ret_renewed false:
 * it was not wanted, or the row is locked, so that nobody else can have it either. DB_E_FENCED. */
int db_batch_watch(struct db *db, const struct db_beat *b, bool wanted, struct db_orders *ret_o,
                   bool *ret_renewed, struct err *e) WARN_UNUSED;
/* Only what is to be obeyed, in the caller's transaction. DB_E_FENCED. */
int db_batch_look(struct db *db, const struct db_beat *b, struct db_orders *ret_o,
                  struct err *e) WARN_UNUSED;
/* How long a connection to SQLite waits for its turn to write; 20 s without this. */
void db_set_patience(struct db *db, int64_t patience_ms);

struct db_finish {
    bool plan_finished; /* this was the last batch: the caller sends on_finish */
    struct db_counts counts;
    int64_t ok;
    double duration_s; /* from the first claim */
};

/* running -> done when position == count; also plan -> finished with the last one. Idempotent for our token. */
int db_batch_finish(struct db *db, const char *plan, int64_t batch, int64_t token,
                    struct db_finish *ret_f, struct err *e) WARN_UNUSED;

/* Why a batch failed as a whole. */
struct db_failure {
    const char *error_class, *sqlstate, *message;
};

enum db_release_kind {
    DB_RELEASE_CLEAN,     /* pause, shutdown: does not count as an attempt */
    DB_RELEASE_RETRY,     /* will be tried again, error says why */
    DB_RELEASE_FAILED,    /* given up; a message that comes again may claim it again */
    DB_RELEASE_FAIL_PLAN, /* likewise, and the plan fails with it: no record would fare better */
};

struct db_release {
    enum db_release_kind kind;
    const char *error;                /* text for people; NULL */
    const struct db_failure *failure; /* DB_RELEASE_FAILED: the same in parts, for on_batch; NULL */
    bool plan_finished;               /* set: this failure was the end of the last open batch */
};

/* Gives the lease up: state queued (parked when the plan is paused, draining or failed, cancelled when it is), or
 * failed. */
int db_batch_release(struct db *db, const char *plan, int64_t batch, int64_t token,
                     struct db_release *rel, struct err *e) WARN_UNUSED;

/* ---- the sweep ---- */

/* Ends what nobody will end any more: batches of dead workers in plans that do not go on, plans that have drained. */
int db_sweep_tidy(struct db *db, struct err *e) WARN_UNUSED;

struct db_sweep {
    const char *plan; /* NULL: every plan */
    int64_t after_ms; /* only what was sent so long ago */
    size_t max;
};

struct db_lost {
    const char *plan;
    struct db_batch_row row;
};

/* Open batches that nobody works on and whose message was sent long enough ago, at most max; marked as sent just now, so
 * that of several sweeps one takes each. Strings in the arena. */
int db_sweep_take(struct db *db, const struct db_sweep *s, struct arena *a, struct db_lost *lost,
                  size_t *ret_n, struct err *e) WARN_UNUSED;

/* Pauses the plan when more of its records were set aside, or of the batch's, than it allows. Asked after a chunk that set
 * some aside. *ret_paused: the limit is passed. */
int db_plan_check_limits(struct db *db, const char *plan, int64_t batch, const char *who,
                         bool *ret_paused, struct err *e) WARN_UNUSED;

/* What does not add up in the control tables (planner/schema/audit.sql); n 0: nothing. Texts are the arena's. */
struct db_audit_line {
    const char *violation;
    int64_t batch; /* 0: the plan */
    int64_t found, expected;
};

struct db_audit {
    struct db_audit_line *lines;
    size_t n;
};

int db_plan_audit(struct db *db, const char *plan, struct arena *a, struct db_audit *ret_x,
                  struct err *e) WARN_UNUSED;
/* ---- plans made from plans (child.c) ---- */

/* Marks what re-drives of the plan, or the plan as a re-drive, have done as resolved, all the way up. Idempotent. */
int db_plan_resolve(struct db *db, const char *plan, struct err *e) WARN_UNUSED;
/* Marks the open outcomes of a plan whose row is no longer there ("gone" in resolved_by): nothing is left to do. */
int db_plan_forget_gone(struct db *db, const char *plan, const char *sql_gone, int64_t *ret_n,
                        struct err *e) WARN_UNUSED;
/* Keeps the JSON of a verification, or the SHA-256 of the report's manifest, in the plan's row. */
int db_plan_note_verification(struct db *db, const char *plan, const char *json,
                              struct err *e) WARN_UNUSED;
int db_plan_note_report(struct db *db, const char *plan, const char *sha256,
                        struct err *e) WARN_UNUSED;

/* ---- callbacks on their way (outbox.c) ---- */

struct db_outbox_row {
    int64_t id;
    const char *plan, *event, *queue;         /* queue: the plan's */
    const char *signature, *kwargs, *task_id; /* signature: a task's name, or JSON */
};

/* Takes up to max callbacks that are to be sent now, so that nobody else sends them as well for a while: fresh ones of
 * the plan (NULL: of none), and those that have waited for age_s without being marked. Rows live in the arena. */
int db_outbox_claim(struct db *db, const char *plan, double age_s, size_t max, struct arena *a,
                    struct db_outbox_row **ret_rows, size_t *ret_n, struct err *e) WARN_UNUSED;
/* It was sent; or, with an error text, it could not be and waits for another try. */
int db_outbox_sent(struct db *db, int64_t id, const char *error, struct err *e) WARN_UNUSED;
/* A delivery that comes again: what was sent for its batch, and for the end of its plan, may have been lost. */
int db_outbox_again(struct db *db, const char *plan, int64_t batch, struct err *e) WARN_UNUSED;

/* ---- the governor: how fast all migrations of this database may be ---- */

struct db_governor {
    bool stopped; /* the kill switch */
    double rate;  /* INFINITY: no limit */
    double floor, pressure;
    const char *reason, *limits, *holder; /* limits: JSON */
};

int db_governor_read(struct db *db, struct arena *a, struct db_governor *ret_g,
                     struct err *e) WARN_UNUSED;
int db_governor_stop(struct db *db, bool stopped, struct err *e) WARN_UNUSED;
/* limits: JSON; "{}": nothing is watched, and no governor is needed. */
int db_governor_limit(struct db *db, const char *limits, double floor, struct err *e) WARN_UNUSED;
/* One of all who ask within three seconds is elected, and stays it while it asks. */
int db_governor_elect(struct db *db, const char *who, bool *ret_elected, struct err *e) WARN_UNUSED;
/* What the elected one (g->holder) says; without effect when it is another by now. */
int db_governor_write(struct db *db, const struct db_governor *g, const char *sensors,
                      struct err *e) WARN_UNUSED;
int db_governor_pause_all(struct db *db, const char *who, const char *reason,
                          struct err *e) WARN_UNUSED;

struct db_sample {
    double wal_bytes, replayed_bytes; /* written so far, and replayed by the slowest replica */
    const char *replica;              /* its name, in the arena; NULL: there is none */
    double lag_s;                     /* as the replica says itself; 0 when it says nothing */
    int64_t waits, blocked, archive;
    double done; /* records finished in plans that are running */
};

/* PostgreSQL only. archive: also what waits to be archived, which takes the right pg_monitor. */
int db_governor_sample(struct db *db, bool archive, struct arena *a, struct db_sample *ret_s,
                       struct err *e) WARN_UNUSED;

/* ---- reading ---- */

struct db_plan_status {
    char *state; /* planned queued running paused finished failed cancelled */
    char *migration, *store, *on_finish, *queue;
    char *reason; /* why it is paused or failed; NULL */
    int64_t total, n_batches, batches_done, batches_failed, batches_running;
    int64_t ok, unchanged, stale, skipped, quarantined, remaining;
    int64_t created_us, started_us, finished_us; /* 0 unknown */
};

void db_plan_status_deinit(struct db_plan_status *s);
DEFINE_CLEANUP_VALUE(struct db_plan_status, db_plan_status_deinit)
/* -ENOENT: no such plan. */
int db_plan_status(struct db *db, const char *plan, struct db_plan_status *ret_s,
                   struct err *e) WARN_UNUSED;

/* What the plans of a queue that are not at their end have left. */
struct db_queue_plan {
    bool runs;           /* neither paused nor outside of its window, and nothing is stopped */
    int64_t max_workers; /* batches at a time; 0: no limit */
    int64_t remaining;   /* records */
};

/* At most 1,000 plans, freed by the caller with free(3). 0; DB_E_SCHEMA also without control tables. */
int db_queue_plans(struct db *db, const char *queue, struct db_queue_plan **ret_plans,
                   size_t *ret_n, struct err *e) WARN_UNUSED;

/* Failures of a plan or batch as JSON array text, at most n, for callbacks and reports:
 * [{"batch", "key", "outcome", "error_class", "sqlstate", "message"}, ...]. batch 0: all. */
int db_failures_json(struct db *db, const char *plan, int64_t batch, size_t n, struct buf *dst,
                     struct err *e) WARN_UNUSED;

/* ---- planning ---- */

/* Streams a query inside one read-only snapshot. on_columns once with names and PostgreSQL type names (SQLite:
 * declared types or ""), then on_row per row (values in text form, p NULL is NULL; borrowed for the call). A callback's
 * non-zero return stops the stream and is returned. */
struct db_stream {
    int (*on_columns)(const char *const *names, const char *const *types, size_t n, void *arg);
    int (*on_row)(const struct slice *values, size_t n, void *arg);
    void *arg;
};

int db_stream_query(struct db *db, const char *query, const struct db_stream *s,
                    struct err *e) WARN_UNUSED;

/* Checks before anything is made: table and columns exist and may be updated, database is not read-only, control
 * tables are there or could be made. Leaves nothing. 0; DB_E_SCHEMA with the fix named. */
int db_check_target(struct db *db, const struct db_target *t, struct err *e) WARN_UNUSED;
