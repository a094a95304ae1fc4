/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The batch file and the manifest (format 1). Bytes to structs, no I/O.
 *
 * Batch: zstd frame of NDJSON. Line 1 is the header object
 *   {"format": 1, "plan": "...", "batch": 7, "migration": "...", "table": "parcel", "key": "id",
 *    "columns": ["phone"], "count": 10000, "key_types"/"column_types": PostgreSQL type names or null,
 *    "total_batches": n or null}
 * then one array per record: [key, old value, ...], each value a JSON string (text form), number, true/false or null.
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
        types; /* PostgreSQL type names: key first, then columns; entries may be NULL; n_columns + 1 */
    size_t n_columns;
    int64_t count;
    int64_t total_batches; /* 0 unknown */
};

void batch_header_deinit(struct batch_header *h);
DEFINE_CLEANUP_VALUE(struct batch_header, batch_header_deinit)

/* One field of a record in text form. Numbers keep their exact text; p NULL is SQL NULL. */
struct batch_record {
    size_t n;            /* n_columns + 1 */
    struct slice *field; /* field[0] is the key */
};

/* Reading: the whole object in memory (bounded by LIMIT_OBJECT_BYTES / LIMIT_BATCH_BYTES). */
struct batch;
/* 0; -EBADMSG with the place of the defect (line number) in e; -E2BIG; -ENOMEM. Checks every line and the count. */
int batch_parse(struct slice object, struct batch **ret_b, struct err *e) WARN_UNUSED;
struct batch *batch_free(struct batch *b);
DEFINE_CLEANUP(struct batch, batch_free)
const struct batch_header *batch_get_header(const struct batch *b);
size_t batch_len(const struct batch *b);
/* Record i in file order; valid until batch_free. */
const struct batch_record *batch_at(const struct batch *b, size_t i);

/* Writing: streaming into one buffer. */
struct batch_writer;
/* The header's count is written when it is finished: records are compressed behind a header that is known only at the
 * end, so the writer keeps the NDJSON of one batch and compresses in finish. */
struct batch_writer *batch_writer_new(void);
struct batch_writer *batch_writer_free(struct batch_writer *w);
DEFINE_CLEANUP(struct batch_writer, batch_writer_free)
int batch_writer_add(struct batch_writer *w, const struct slice *fields,
                     size_t n) WARN_UNUSED; /* -EILSEQ: not UTF-8 */
size_t batch_writer_len(const struct batch_writer *w);
/* Appends the compressed object, fills sha256 (lower hex, 65 bytes) and empties the writer. */
int batch_writer_finish(struct batch_writer *w, const struct batch_header *h, struct buf *dst,
                        char sha256[65]) WARN_UNUSED;

struct manifest_batch {
    int64_t batch;
    char *object; /* name relative to the plan's directory */
    int64_t count;
    char *first_key, *last_key;
    char sha256[65];
};

struct manifest {
    char *plan;
    char *migration;
    char *table, *key, *query, *store, *queue, *database, *created_by;
    char **columns;
    size_t n_columns;
    char *params_json; /* object text */
    int64_t total;
    int64_t created_us;
    struct manifest_batch *batches;
    size_t n_batches;
};

int manifest_write(struct buf *dst, const struct manifest *m) WARN_UNUSED;
int manifest_parse(struct slice text, struct manifest *ret_m, struct err *e) WARN_UNUSED;
void manifest_deinit(struct manifest *m);
DEFINE_CLEANUP_VALUE(struct manifest, manifest_deinit)

void batch_sha256(struct slice bytes, char hex[65]);
/* "batch-000001.ndjson.zst" */
void batch_object_name(int64_t batch, char dst[40]);
/* UUIDv5-like id of a batch's message, derived from plan and batch: the same for every sender (also documented for
 * senders in other languages: uuid5(NAMESPACE_URL, "scatter:<plan>:<batch>")). dst: 37 bytes. */
void batch_task_id(const char *plan, int64_t batch, char dst[37]);
