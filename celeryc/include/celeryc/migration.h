/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Write a data migration in C: a function from a record's old values to its new ones.
 *
 *     #include <celeryc/migration.h>
 *
 *     static int renumber(const struct scatter_record *r, struct scatter_change *c)
 *     {
 *         const char *old = scatter_text(r, "phone");
 *         ...
 *         return scatter_set_text(c, "phone", fresh);
 *     }
 *     SCATTER_MIGRATION("phones.vn_renumber", .record = renumber, .table = "parcel", .key = "id",
 *                       .reads = {"phone"}, .writes = {"phone"})
 *
 * The runtime fetches the batch, calls the function for each record, and writes the changes with one guarded
 * statement per chunk that also moves the checkpoint (DESIGN section 7). A record whose row no longer holds the
 * planned old values is counted as stale and never overwritten. A record for which the function sets nothing is
 * unchanged. The function must depend on nothing but the record and the parameters: it may be called again for the
 * same record after a crash, and its effect still happens once.
 *
 * Two other kinds of function take the place of .record (docs/MIGRATIONS.md):
 *
 *   .row = fn       runs its own statements in the chunk's transaction, for records whose rows still hold the planned old
 *                   values; they are locked. What it does in the database happens once, and nothing of it stays when the
 *                   record fails or is skipped.
 *   .external = fn  does something outside of the database, at least once for each record: a crash may repeat the calls
 *                   since the last checkpoint, each with the idempotency key that it had.
 *
 * Besides it a migration may have .check, which says of a record that was done whether it is as it should be now
 * (scatter-plan verify), and .undo_row or .undo_external, which take back what .row or .external did for a record
 * (scatter-plan undo; docs/AFTER.md). What .record did is taken back without it.
 *
 * ABI 1: first version. ABI 2: .row, .external, .retry_on, scatter_stop_wanted, scatter_postpone. ABI 3: .check,
 * .undo_row, .undo_external. */

#include <celeryc/task.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SCATTER_ABI         3
#define SCATTER_MAX_COLUMNS 32

struct scatter_record;
struct scatter_change;

struct scatter_tx;
struct scatter_rows;

typedef int (*scatter_record_fn)(const struct scatter_record *r, struct scatter_change *c);
typedef int (*scatter_row_fn)(const struct scatter_record *r, struct scatter_tx *tx,
                              struct scatter_change *c);

/* planned: the old values, as the function had them; now: what stands in the columns that are read or written. 0 when it
 * is well; else scatter_fail(c, class, reason). */
typedef int (*scatter_check_fn)(const struct scatter_record *planned,
                                const struct scatter_record *now, struct scatter_change *c);

struct scatter_migration {
    const char *name; /* also the Celery task's name */
    scatter_record_fn record;
    const char *table;                       /* default target; the plan may name another */
    const char *key;                         /* default "id" */
    const char *reads[SCATTER_MAX_COLUMNS];  /* planned and guarded */
    const char *writes[SCATTER_MAX_COLUMNS]; /* may be set */
    const char *version;                     /* shown in reports; NULL */
    /* since ABI 2; exactly one of record, row and external is set */
    scatter_row_fn row;
    scatter_record_fn external;
    /* Failures of a record that another try may cure, "ConnectionError:5,55P03": exceptions and SQLSTATEs, with the
     * number of tries. The batch waits in between, longer each time; what the plan says of them comes first. */
    const char *retry_on;
    /* since ABI 3 */
    scatter_check_fn check;
    scatter_row_fn
        undo_row; /* the record has the old values; its row is locked, whatever it holds now */
    scatter_record_fn undo_external;
};

#define SCATTER_MIGRATION(migration_name, ...)                                                    \
    static const struct scatter_migration CELERYC_CAT_(scatter_migration_, __LINE__) = {          \
        .name = (migration_name), __VA_ARGS__};                                                   \
    __attribute__((constructor)) static void CELERYC_CAT_(scatter_migration_add_, __LINE__)(void) \
    {                                                                                             \
        scatter_migration_register(&CELERYC_CAT_(scatter_migration_, __LINE__),                   \
                                   sizeof(struct scatter_migration), SCATTER_ABI);                \
    }

CELERYC_API void scatter_migration_register(const struct scatter_migration *m, size_t size,
                                            int abi);

/* ---- the record: values in text form (as PostgreSQL writes them), NULL for SQL NULL ---- */
CELERYC_API const char *scatter_key(const struct scatter_record *r);
/* A column outside of `reads` is the author's mistake: the record fails with KeyError, the result is NULL. */
CELERYC_API const char *scatter_text(const struct scatter_record *r, const char *column);
/* 0; 1 for SQL NULL; -1 not an integer (the record fails with ValueError unless the function handles it). */
CELERYC_API int scatter_int(const struct scatter_record *r, const char *column, int64_t *ret_v);
/* A parameter of the plan (--param k=v), NULL when absent. */
CELERYC_API const char *scatter_param(const struct scatter_record *r, const char *name);

/* The same text whenever this record of this plan is tried: "plan/batch/position". */
CELERYC_API const char *scatter_idempotency_key(const struct scatter_record *r);

/* For a function that takes long: should it come to an end? NULL: no. Else why: "paused", "cancelled", "failed" (the plan
 * is), "window" (it is over), "stopped" (all plans of the database are), "worker" (it ends, or the task's soft limit is
 * reached), or "lost": another worker has the batch, and whatever is done from now on is done twice. Cheap; what it knows is a
 * second old. A function that never asks is obeyed behind its record. */
CELERYC_API const char *scatter_stop_wanted(const struct scatter_record *r);

/* ---- statements of a .row function; parameters $1, $2, ... and results are texts, NULL is SQL NULL ---- */
/* 0, or a value that the function must return: the statement has failed, and the record with it. A statement may not
 * begin, end or divide the transaction. ret_changed (may be NULL): rows inserted, updated or deleted. */
CELERYC_API int scatter_exec(struct scatter_tx *tx, const char *sql, const char *const *values,
                             size_t n, int64_t *ret_changed);
/* The same for a query; the rows are there until the function returns. */
CELERYC_API int scatter_query(struct scatter_tx *tx, const char *sql, const char *const *values,
                              size_t n, const struct scatter_rows **ret_rows);
CELERYC_API size_t scatter_rows_len(const struct scatter_rows *rows);
CELERYC_API const char *scatter_cell(const struct scatter_rows *rows, size_t row, size_t column);
/* "postgresql" or "sqlite" */
CELERYC_API const char *scatter_dialect(const struct scatter_tx *tx);

/* ---- the change; each returns what the function should return ---- */
CELERYC_API int scatter_set_text(struct scatter_change *c, const char *column, const char *value);
CELERYC_API int scatter_set_int(struct scatter_change *c, const char *column, int64_t value);
CELERYC_API int scatter_set_null(struct scatter_change *c, const char *column);
/* The record is left as it is and listed with the reason. */
CELERYC_API int scatter_skip(struct scatter_change *c, const char *reason);
/* The record is set aside (quarantined) with the error class and message. */
CELERYC_API int scatter_fail(struct scatter_change *c, const char *error_class, const char *format,
                             ...) __attribute__((format(printf, 3, 4)));

/* The record is left for later: nothing is written for it, nothing is counted, and it is called again when the batch goes
 * on. Only when scatter_stop_wanted has said why; without that it fails. */
CELERYC_API int scatter_postpone(struct scatter_change *c);

static inline int scatter_unchanged(struct scatter_change *c)
{
    (void)c;
    return 0;
}

#ifdef __cplusplus
}
#endif
