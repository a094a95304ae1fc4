/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Inside migrate/: what the parts of the runtime know of each other. */

#include "celeryc/batch/batch.h"
#include "celeryc/db/db.h"
#include "celeryc/message/json.h"
#include "celeryc/migrate/breaker.h"
#include "celeryc/migrate/policy.h"
#include "celeryc/migrate/registry.h"
#include "celeryc/migrate/sqlfile.h"

#define MIGRATE_MAX_FAILURES 100 /* listed in a callback */
#define MIGRATE_POSTPONED    102 /* beside the codes of db/: the function left the record for later */

struct beat;

/* ---- the record and its change, as the function sees them (record.c) ---- */

struct scatter_record {
    const struct scatter_migration *migration;
    const struct slice *fields; /* key's columns, then `reads` in the migration's order */
    const char *key;            /* the names of the key's columns */
    size_t n_keys;
    struct json_val params;        /* of the plan, an object or nothing */
    struct arena *arena;           /* of the chunk */
    struct scatter_change *change; /* where a mistake of the function is noted */
    const char *plan;              /* NULL: not of a batch */
    int64_t batch, position;
    struct beat *beat; /* NULL: nothing can be ordered */
};

struct scatter_change {
    const struct scatter_migration *migration;
    struct arena *arena;
    enum db_outcome outcome;
    struct slice *fresh; /* one per write column */
    bool *set;
    bool mistake;   /* of the function: the record fails */
    bool told;      /* that it should come to an end */
    bool postponed; /* so the record is left for later */
    const char *error_class, *message;
};

/* The transaction that a .row function is handed (row.c). */
struct scatter_tx {
    struct db *db;
    struct arena *arena; /* of the record */
    struct beat *beat;   /* to whom the connection is lent between statements */
    bool touched;        /* a statement ran for the present record */
    bool changed;        /* and changed something */
    int code;            /* of db/: a statement failed, and the transaction with it */
    struct err e;
};

/* One call of a migration's function. */
struct migrate_call {
    const struct scatter_migration *m;
    const char *key;
    struct json_val params;
    const struct slice *fields;
    struct arena *arena;
    struct scatter_tx *tx; /* of .row */
    const char *plan;
    int64_t batch, position;
    struct beat *beat;
};

/* Calls the function and turns its answer into a row. 0; -ENOMEM; a code of db/ when a statement failed;
 * MIGRATE_POSTPONED. */
int migrate_call(const struct migrate_call *c, struct db_row *ret_row) WARN_UNUSED;

size_t migrate_columns(const char *const *names); /* entries of reads or writes */
/* The same for a record of no batch, and a .record function. -ENOMEM. */
int migrate_compute(const struct scatter_migration *m, const char *key, struct json_val params,
                    const struct slice *fields, struct arena *a,
                    struct db_row *ret_row) WARN_UNUSED;

/* The same for a record of an SQL file (work_sql.c), whose new values the database has computed; found: it has. */
void migrate_sql_row(const struct scatter_migration *m, size_t n_keys, const struct slice *fresh,
                     bool found, struct db_row *row);

/* What the check function says of a record that was done; *ret_reason NULL: it is well. now_m->reads name the columns of
 * now_fields, behind the key. -ENOMEM. */
int migrate_call_check(const struct migrate_call *c, const struct scatter_migration *now_m,
                       const struct slice *now_fields, const char **ret_reason) WARN_UNUSED;

/* ---- inverses (restore.c) ---- */

/* A migration with .undo_row or .undo_external has a second one, which calls that: its own name with this behind it. */
#define MIGRATE_UNDO ".undo"

bool migrate_has_inverse(const struct scatter_migration *m);
bool migrate_is_inverse(const struct scatter_migration *m);
/* The second migration; its name is the caller's to free. -ENOMEM. */
int migrate_inverse(const struct scatter_migration *m, struct scatter_migration *ret_m) WARN_UNUSED;

/* ---- scatter.restore (restore.c) ---- */

#define MIGRATE_RESTORE "scatter.restore"
#define RESTORE_PREFIX  "restore:" /* of a column that holds what is to be written */

/* The migration that a batch file of an undo asks for: reads are the guarded columns, then the "restore:" ones. Texts
 * live in the arena and the header. -EBADMSG, -E2BIG with a text; -ENOMEM. */
int migrate_restore(const struct batch_header *h, struct arena *a, struct scatter_migration *ret_m,
                    struct err *e) WARN_UNUSED;
/* How many of the columns read are compared with the table, the first ones: all but for scatter.restore, and none for an
 * inverse, whose record has old values. */
size_t migrate_guarded(const struct scatter_migration *m);

/* ---- failures and what to do about them (policy.c) ---- */

struct failure {
    char error_class[64];
    char sqlstate[6];
    bool transient; /* may pass by itself: worth another try without being asked */
    struct err e;
};

void failure_set(struct failure *f, const char *error_class, bool transient, const char *fmt, ...)
    PRINTF_LIKE(4, 5);
/* From a code of db/ and the database's own words in f->e. */
void failure_from_db(struct failure *f, const struct db *db, int code);
/* Does the plan's --retry-on (comma-separated SQLSTATEs, SQLSTATE classes, exception names; NULL) name it? */
bool failure_listed(const char *retry_on, const char *error_class, const char *sqlstate);

/* ---- databases (connection.c) ---- */

/* One connection of this thread, with what it has learnt about speed. */
struct connection {
    struct connection *next;
    char *alias;
    struct db *db;
    double rows, seconds;  /* weighted, of the chunks so far */
    double tried, refused; /* records, weighted: how often the database refuses one */
    bool told;             /* that chunks go as arrays, not by COPY */
    bool no_pieces;        /* chunks cannot be written in pieces there */
    struct breaker breaker;
};

struct runtime {
    struct migrate_options options;
};

/* The connection for an alias, opened when it is the first of this thread. 0; -EINVAL: no such alias; else as db_open. */
int connection_get(const struct runtime *rt, const char *alias, struct connection **ret_c,
                   struct err *e) WARN_UNUSED;
/* Where the alias is; NULL: not known here. */
const char *connection_url(const struct runtime *rt, const char *alias);
/* Closes all connections of this thread. */
void connections_close(void);

/* ---- one delivery (run.c, work.c, callback.c) ---- */

struct job {
    struct celeryc_call *call;
    const struct runtime *rt;
    const struct scatter_migration *m;
    struct arena *arena; /* of the job */
    /* from the message */
    const char *plan, *source, *alias, *sha256;
    int64_t number;
    struct json_val params;
    struct batch *batch;
    const char *sql; /* of an SQL file: its SELECT; NULL */
    struct connection *conn;
    struct db_claim claim;
    struct policy policy; /* of the claim */
    struct db_counts counts;
    int64_t position, start_position;
    bool advanced;     /* the worker knows that the position has moved in this run */
    struct beat *beat; /* while records are worked on */
    int64_t began_ns;
};

/* What became of the records. */
enum work_end {
    WORK_DONE,
    WORK_STOPPED,    /* the task is to end soon */
    WORK_PAUSED,     /* the plan is */
    WORK_CANCELLED,  /* the plan is */
    WORK_STANDSTILL, /* nothing may be written for a while */
    WORK_FENCED,     /* another worker has the batch now */
    WORK_RETRY,      /* f: not now */
    WORK_FAILED,     /* f: not at all */
    WORK_FAIL_PLAN,  /* f: no record of the plan would fare better */
};

/* How often the record at the present position has stopped the batch before. */
static inline int64_t job_tries(const struct job *j)
{
    return j->claim.failed_at == j->position ? j->claim.failed_times : 0;
}

/* Applies the migration from the claimed position on. */
enum work_end work_batch(struct job *j, struct failure *f);

/* Fetches, checks and parses the batch file. WORK_DONE, WORK_RETRY or WORK_FAILED. */
enum work_end source_fetch(struct job *j, struct failure *f);

/* Makes j->m that of the file when it is scatter.restore. WORK_DONE, WORK_RETRY or WORK_FAILED. */
enum work_end restore_prepare(struct job *j, struct failure *f);
/* The same for scatter.sql. */
enum work_end sql_prepare(struct job *j, struct failure *f);

/* Sends the callbacks that are due for this plan. again: those of the batch may have been lost with an earlier delivery.
 * Called before the call is given its end. */
void callbacks_send(struct job *j, bool again);

int migrate_run(struct celeryc_call *call, void *ctx);

/* One registered migration and the runtime it runs under: the context of its task. */
struct migration_task {
    struct scatter_migration m;
    const struct runtime *rt;
};
