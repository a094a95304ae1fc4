/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The batch file and the manifest (format 1). Bytes to structs, no I/O.
 *
 * Batch: zstd frame(s) of NDJSON, UTF-8, every line ended by one line feed. Line 1 is the header object
 *   {"format": 1, "plan": "...", "batch": 7, "migration": "...", "table": "parcel", "key": "id",
 *    "columns": ["phone"], "key_type": "int8", "column_types": ["text"], "count": 10000, "total_batches": null}
 * ("statement" besides, for a migration in SQL; key_type, column_types with its entries and total_batches may be null or absent: not known), then one array per
 * record: [key, old value, ...], each value a JSON string (the database's text form), number, true/false or null; the
 * key is never null. A key of several columns is named "a,b" (and typed "int8,text"); each record then starts with as
 * many values. Integers and booleans of the database are numbers and true/false, everything else its text form.
 * Rule for change: a reader refuses a higher "format"; fields may be added without a new number when a reader that
 * does not know them still does the right thing. */

#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"

#include <stdint.h>

#define BATCH_FORMAT 1

struct batch_header {
    char *plan;
    int64_t batch; /* 1.. */
    char *migration;
    char *table;
    char *key;
    char **columns; /* names, n_columns */
    char **
        types; /* PostgreSQL type names: of the key, then of the columns; entries may be NULL; NULL: none known */
    size_t n_columns;
    int64_t count;
    int64_t total_batches; /* 0 unknown */
    char *statement;       /* the file of a migration in SQL; NULL */
};

void batch_header_deinit(struct batch_header *h);
DEFINE_CLEANUP_VALUE(struct batch_header, batch_header_deinit)
/* How many values a record has: the key's, then the columns'. */
size_t batch_width(const struct batch_header *h);

/* How a value stands in the file. */
enum batch_kind {
    BATCH_TEXT,   /* a JSON string */
    BATCH_NUMBER, /* a JSON number, verbatim */
    BATCH_BOOL,   /* true or false */
};

/* One field of a record in text form: strings decoded, numbers with their exact text, "true"/"false"; p NULL is SQL
 * NULL. Each is followed by a NUL byte in memory and holds none itself. */
struct batch_record {
    size_t n;            /* batch_width */
    struct slice *field; /* the key first */
};

/* Reading: the whole object in memory (bounded by LIMIT_OBJECT_BYTES / LIMIT_BATCH_BYTES). */
struct batch;
/* 0; -EBADMSG with the place of the defect (line number) in e; -E2BIG; -ENOMEM. Checks every line and the count.
 * Keys are not compared with each other (the planner did). object may go when it returns. */
int batch_parse(struct slice object, struct batch **ret_b, struct err *e) WARN_UNUSED;
struct batch *batch_free(struct batch *b);
DEFINE_CLEANUP(struct batch, batch_free)
const struct batch_header *batch_get_header(const struct batch *b);
size_t batch_len(const struct batch *b);
/* Record i in file order; valid until batch_free. */
const struct batch_record *batch_at(const struct batch *b, size_t i);

/* Parses one record line in place: decodes strings into the line itself and ends every field with NUL (line[len] must
 * be writable and is overwritten as well). fields and kinds (may be NULL) have room for max. Also how scatter-plan
 * reads rows from standard input. 0; -EBADMSG with the defect and its column (no line number) in e. */
int batch_row_parse(char *line, size_t len, size_t max, struct slice *fields,
                    enum batch_kind *kinds, size_t *ret_n, struct err *e) WARN_UNUSED;

/* Writing: streaming into one buffer. */
struct batch_writer;
/* The header's count is written when it is finished: records are compressed behind a header that is known only at the
 * end, so the writer keeps the NDJSON of one batch and compresses in finish. */
struct batch_writer *batch_writer_new(void);
struct batch_writer *batch_writer_free(struct batch_writer *w);
DEFINE_CLEANUP(struct batch_writer, batch_writer_free)
/* fields: text forms, p NULL is NULL. kinds: NULL for all BATCH_TEXT. What is not a number or not a boolean ("t", "f",
 * "true", "false", "1", "0") although its kind says so is written as a string. -EILSEQ: not UTF-8 or holds a NUL byte;
 * -E2BIG: the line is over LIMIT_BATCH_LINE; -ENOMEM. A refused record leaves the writer as it was. */
int batch_writer_add(struct batch_writer *w, const struct slice *fields,
                     const enum batch_kind *kinds, size_t n) WARN_UNUSED;
size_t batch_writer_len(const struct batch_writer *w);
/* Appends the compressed object, fills sha256 (lower hex, 65 bytes) and empties the writer. h->count is ignored: the
 * number of added records is written. */
int batch_writer_finish(struct batch_writer *w, const struct batch_header *h, struct buf *dst,
                        char sha256[65]) WARN_UNUSED;

/* The kind for a PostgreSQL type name or an SQLite declared type (NULL: BATCH_TEXT). */
enum batch_kind batch_kind_of_type(const char *type);

struct manifest_batch {
    int64_t batch;
    char *object; /* name relative to the plan's directory */
    int64_t count;
    char *first_key, *last_key; /* as key_write writes them */
    char sha256[65];
};

/* JSON object: {"format": 1, "plan", "migration", "table", "key", "columns", "query", "store", "queue", "database",
 * "created_by", "created": ISO 8601, "params": {...}, "settings": {...}, "total": n, "batches": [{"batch", "object", "count",
 * "first_key", "last_key", "sha256"}, ...]}. Written last: the commit point of a plan. */
struct manifest {
    char *plan;
    char *migration;
    char *table, *key, *query, *store, *queue, *database, *created_by;
    char **columns;
    size_t n_columns;
    char *params_json;   /* object text */
    char *settings_json; /* likewise: columns of the plan's row */
    char *on_planned, *on_batch, *on_paused, *on_failed, *on_finish, *retry_on; /* NULL */
    char *kind, *parent; /* of a plan that was made from another one; NULL */
    int64_t total;
    int64_t created_us;
    struct manifest_batch *batches;
    size_t n_batches;
};

int manifest_write(struct buf *dst, const struct manifest *m) WARN_UNUSED;
/* 0; -EBADMSG with the defect in e (batches must be 1..n in order and their counts sum up to total); -ENOMEM. */
int manifest_parse(struct slice text, struct manifest *ret_m, struct err *e) WARN_UNUSED;
void manifest_deinit(struct manifest *m);
DEFINE_CLEANUP_VALUE(struct manifest, manifest_deinit)

void batch_sha256(struct slice bytes, char hex[65]);
/* "batch-000001.ndjson.zst" */
void batch_object_name(int64_t batch, char dst[40]);
/* UUIDv5-like id of a batch's message, derived from plan and batch: the same for every sender (also documented for
 * senders in other languages: uuid5(NAMESPACE_URL, "scatter:<plan>:<batch>")). dst: 37 bytes. */
void batch_task_id(const char *plan, int64_t batch, char dst[37]);
/* uuid5(NAMESPACE_URL, name), for the ids of callbacks. */
void batch_name_id(struct slice name, char dst[37]);
