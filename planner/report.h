/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The report of a plan: <plan>/report/ in its store, made from the control tables alone.
 *
 *   <outcome>-0001.csv ...   records that are not plainly ok, batch by batch
 *   batches.csv, events.csv
 *   report.html              for people: one page, nothing from outside
 *   manifest.json            counts, and every part with its rows and SHA-256; written last
 *
 * The same tables give the same bytes: no clock, a fixed order, fixed forms of numbers. */

#include "celeryc/db/rows.h"
#include "celeryc/store/store.h"

struct report_part {
    char object[48]; /* name below report/ */
    int64_t rows, bytes;
    char sha256[65];
};

struct report {
    struct arena *arena;
    struct db *db;
    struct store *store;
    const char *plan;
    struct db_rows head;    /* report_head below */
    struct db_rows counts;  /* planned, position, unchanged, stale, skipped, quarantined */
    struct db_rows batches; /* report_batch below */
    struct db_rows workers; /* worker, records */
    struct db_rows groups;  /* outcome, error class, SQLSTATE, message, records, open ones, a key */
    struct db_rows events;  /* id, at, batch, who, event, detail */
    struct db_rows children; /* plan, kind, state, total */
    struct report_part *parts;
    size_t n_parts, cap_parts;
};

/* Columns of the plan's row, in the order in which the manifest tells them. */
enum report_head {
    HEAD_PLAN,
    HEAD_KIND,
    HEAD_PARENT,
    HEAD_MIGRATION,
    HEAD_VERSION,
    HEAD_TABLE,
    HEAD_KEY,
    HEAD_STATE,
    HEAD_REASON,
    HEAD_STORE,
    HEAD_QUEUE,
    HEAD_DATABASE,
    HEAD_QUERY,
    HEAD_CREATED_BY,
    HEAD_TEXTS, /* how many texts */
    HEAD_PARAMS = HEAD_TEXTS,
    HEAD_VERIFICATION,
    HEAD_CREATED,
    HEAD_STARTED,
    HEAD_FINISHED,
    HEAD_COLUMNS,
};

enum report_batch {
    BATCH_NUMBER_AT,
    BATCH_STATE_AT,
    BATCH_RECORDS,
    BATCH_POSITION,
    BATCH_UNCHANGED,
    BATCH_STALE,
    BATCH_SKIPPED,
    BATCH_QUARANTINED,
    BATCH_ATTEMPTS,
    BATCH_WORKER,
    BATCH_ERROR,
    BATCH_STARTED,
    BATCH_FINISHED,
    BATCH_SHA256,
    BATCH_COLUMNS,
};

int64_t report_ok(const struct report *r);
int64_t report_open(const struct report *r);   /* set aside and not resolved since */
double report_seconds(const struct report *r); /* from the first claim to the end; 0 unknown */

/* Writes everything and keeps the manifest's SHA-256 in the plan's row. store_url NULL: the plan's. */
int report_write(struct db *db, const char *store_url, const char *plan, char ret_sha256[65],
                 struct err *e) WARN_UNUSED;
/* Writes the reports of plans that have ended within a day and have none, or one that their tables have left behind.
 * *ret_n: how many. One that cannot be written does not keep the others from it; the first such error is returned. */
int report_write_ended(struct db *db, int64_t *ret_n, struct err *e) WARN_UNUSED;

/* A cell of a CSV file (RFC 4180): quoted where needed. A text that a spreadsheet would take for a formula gets an
 * apostrophe in front; numbers do not. */
void report_csv_cell(struct buf *dst, struct slice s);

/* The page. */
int report_html(const struct report *r, struct buf *dst) WARN_UNUSED;
