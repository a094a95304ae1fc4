/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Inside the preflight: what it has found, and its checks. */

#include "celeryc/base/key.h"
#include "celeryc/db/rehearse.h"
#include "celeryc/db/rows.h"
#include "celeryc/message/json.h"
#include "celeryc/migrate/runtime.h"
#include "planner/preflight.h"

#define RUN_LENGTH \
    25 /* consecutive records of a sample: what a page holds is changed together, as in the run */
#define RUNS      400
#define RUNS_MIN  40
#define SAMPLE    (RUN_LENGTH * RUNS) /* a class of 1 % is known to a tenth by so many */
#define COST      1000                /* records of them whose statement is measured */
#define SQL_GROUP 500                 /* records that the database computes at a time */
#define PAIRS     20
#define CLASSES   32
#define CHECKS    48

enum check_level { CHECK_OK, CHECK_WARN, CHECK_BLOCK };

struct check {
    enum check_level level;
    const char *name, *text, *fix;
};

/* Failures of one class: counted in the migration over all records, or found in the sample by the database. */
struct error_count {
    char name[64], sqlstate[6];
    const char *example;
    int64_t records, sampled;
};

/* Consecutive records, kept by lot. */
struct run {
    struct arena *arena;
    struct db_row rows[RUN_LENGTH];
    size_t n;
    int64_t first; /* position of the first one */
};

/* Of the sample of a migration that runs statements of its own: what its function answered. */
struct own {
    int64_t tried, done, unchanged, skipped;
};

struct forecast {
    double rows, wal, full_pages, heap_growth, index_growth, hot;
    double wal_row, seconds_row;
    double compute_s, database_s; /* of all records: in the migration, in the statements */
    int64_t cores;                /* of the database; 0: not known */
};

struct preflight {
    const struct request *request;
    const struct scatter_migration *m; /* NULL: only Python knows it */
    struct db *db;
    struct key key;
    struct json_val params;
    struct db_target target;
    bool by_row;   /* it runs statements of its own: what it does is known of the sample alone */
    bool external; /* it calls somebody: nothing is tried */
    struct own own;
    const char *sql; /* of an SQL file: its SELECT; NULL */
    struct db *sql_db;
    struct db_row group[SQL_GROUP]; /* records that wait to be computed */
    size_t n_group;
    int64_t computed_ns; /* by the database, for an SQL file */
    struct db_fresh *fresh;
    struct db *fresh_db;
    size_t reads[SCATTER_MAX_COLUMNS]; /* places of what the migration reads, behind the key */
    bool computed;                     /* the rows bring outcomes of their own, at: */
    size_t at_outcome, at_class, at_message, at_sqlstate, at_fresh[SCATTER_MAX_COLUMNS],
        at_set[SCATTER_MAX_COLUMNS];
    struct arena *arena, *record;
    struct run runs[RUNS], *keeping; /* the run that takes the next record; NULL: none */
    uint64_t lot;
    int64_t n_records, n_runs;
    int64_t changed, unchanged, skipped, failed;
    int64_t compute_ns; /* in the migration, of all records */
    struct error_count errors[CLASSES];
    size_t n_errors;
    /* asked at the end */
    struct db_row sample[SAMPLE]; /* changed ones */
    size_t n_sample, n_kept;
    struct buf explained;
    struct db_rehearsal cost; /* of n_cost good rows */
    size_t n_cost;
    struct db_rows sizes; /* of the table and its indexes (PostgreSQL) */
    struct forecast forecast;
    struct db_collision *collisions;
    size_t n_collisions;
    struct check checks[CHECKS];
    size_t n_checks;
};

void check_add(struct preflight *p, enum check_level level, const char *name, const char *fix,
               const char *format, ...) PRINTF_LIKE(5, 6);
struct error_count *error_of(struct preflight *p, const char *name, const char *sqlstate,
                             const char *message);
/* Of x in n: the upper end of Wilson's interval at 95 %. */
double upper_bound(double x, double n);

/* What is made of a record that comes from elsewhere than the record's own call; copied where it is kept. */
int preflight_take(struct preflight *p, const struct db_row *row, struct err *e) WARN_UNUSED;
int preflight_old_values(const struct preflight *p, const struct slice *fields, struct arena *a,
                         struct slice **ret_old) WARN_UNUSED;
int preflight_copy(struct arena *a, struct slice s, struct slice *ret_s) WARN_UNUSED;
/* Brings the changed records of the sample to its front; how many they are. */
size_t preflight_only_good(struct preflight *p);
/* Neighbours from all over them, as many as a chunk may have. */
size_t preflight_choose_chunk(const struct preflight *p, struct db_row chunk[COST]);

/* preflight_sql.c: opens the connection; takes a record; computes those that wait. */
int preflight_sql_open(struct preflight *p, struct err *e) WARN_UNUSED;
int preflight_sql_record(struct preflight *p, const struct slice *fields,
                         struct err *e) WARN_UNUSED;
int preflight_sql_flush(struct preflight *p, struct err *e) WARN_UNUSED;

/* preflight_own.c: the sample through the function, and what it says of all records. */
int preflight_own_sample(struct preflight *p, struct err *e) WARN_UNUSED;

/* The records that the errors of a sample stand for. */
static inline double preflight_basis(const struct preflight *p)
{
    return p->by_row ? (double)p->n_records : (double)p->changed;
}

static inline double preflight_tried(const struct preflight *p)
{
    return p->by_row ? (double)p->own.tried : (double)p->n_sample;
}

/* The sample through the real statement (preflight_sample.c); the catalogue and the server (preflight_checks.c); what is
 * printed (preflight_report.c). */
int preflight_sample(struct preflight *p, struct err *e) WARN_UNUSED;
int preflight_checks(struct preflight *p, struct err *e) WARN_UNUSED;
/* How long the run takes with so many connections, as far as the database and the migration decide. */
double preflight_seconds(const struct preflight *p, int64_t connections);
int preflight_report(struct preflight *p, struct buf *json, struct buf *text) WARN_UNUSED;
