/* SPDX-License-Identifier: Apache-2.0 */
/* Applies chunks as a C worker does, for tests/bench/bench_chunk.py, which tells on standard input how: lines of
 * "WAY ROWS CHUNKS" (WAY: 1 by COPY, 2 as arrays), each answered by the seconds that those chunks took. Usage:
 * chunk_driver URL COLUMNS BYTES RECORDS, with a table `bench` of ids 1..RECORDS and of COLUMNS texts c0, ... of BYTES
 * each. What a chunk writes is what the next one over the same ids expects; the making of values is not measured. */

#include "celeryc/base/clock.h"
#include "celeryc/base/num.h"
#include "celeryc/db/db.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_COLUMNS 64

struct bench {
    struct db *db;
    struct db_target target;
    const char *column[MAX_COLUMNS];
    size_t width, n_records;
    int *generation; /* of each id's values */
    size_t at;       /* the next id, from 0 */
    int64_t token, position;
};

static _Noreturn void die(const char *what, int r, struct err *e)
{
    (void)fprintf(stderr, "chunk_driver: %s: %s\n", what, err_text(e, r));
    exit(1);
}

static int64_t number(const char *text)
{
    int64_t n = 0;

    if (num_parse_i64(slice_str(text), &n) || n < 0)
        die(text, -EINVAL, &ERR_INIT);
    return n;
}

/* "0000000042.003.000001xxx..." */
static struct slice value(struct arena *a, size_t id, size_t column, int generation, size_t width)
{
    char head[64];
    char *text = arena_alloc(a, width + 1);

    if (!text)
        die("values", -ENOMEM, &ERR_INIT);
    (void)snprintf(head, sizeof(head), "%010zu.%03zu.%06d", id, column, generation);
    memset(text, 'x', width);
    memcpy(text, head, MIN(width, strlen(head)));
    return (struct slice){text, width};
}

static void make_rows(struct bench *b, struct arena *a, struct db_row *rows, size_t n)
{
    size_t n_columns = b->target.n_writes;

    for (size_t i = 0; i < n; i++) {
        size_t id = b->at + i + 1;
        struct slice *old = arena_alloc_array(a, 2 * n_columns + 1, sizeof(*old));
        const char *key = old ? arena_printf(a, "%zu", id) : NULL;

        if (!key)
            die("values", -ENOMEM, &ERR_INIT);
        old[0] = slice_str(key);
        for (size_t k = 0; k < n_columns; k++) {
            old[1 + k] = value(a, id, k, b->generation[id - 1], b->width);
            old[1 + n_columns + k] = value(a, id, k, b->generation[id - 1] + 1, b->width);
        }
        b->generation[id - 1]++;
        rows[i] = (struct db_row){.outcome = DB_O_CHANGED,
                                  .position = b->position + (int64_t)i,
                                  .old = old,
                                  .fresh = old + 1 + n_columns};
    }
}

static int64_t run_chunk(struct bench *b, size_t n)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct db_row *rows = a ? arena_alloc_array(a, n, sizeof(*rows)) : NULL;
    struct db_chunk_result res = {0};
    struct err e = ERR_INIT;

    if (!rows || n > b->n_records)
        die("a chunk", rows ? -EINVAL : -ENOMEM, &e);
    if (b->at + n > b->n_records)
        b->at = 0;
    make_rows(b, a, rows, n);
    const struct db_chunk c = {.plan = "bench",
                               .batch = 1,
                               .token = b->token,
                               .old_position = b->position,
                               .new_position = b->position + (int64_t)n,
                               .target = &b->target,
                               .rows = rows,
                               .n_rows = n,
                               .lease_ms = 600000,
                               .worker = "bench"};
    int64_t began_ns = clock_mono_ns();
    int r = db_chunk_apply(b->db, &c, &res, &e);
    int64_t took_ns = clock_mono_ns() - began_ns;

    if (r || res.stale)
        die(r ? "a chunk" : "a chunk found rows that are stale", r, &e);
    b->position = c.new_position;
    b->at += n;
    return took_ns;
}

static void begin(struct bench *b, const char *url)
{
    static const struct db_batch_row batch = {1, "file:///bench", "0", INT64_C(1) << 40};
    static const struct db_plan plan = {.plan = "bench",
                                        .migration = "bench",
                                        .table = "bench",
                                        .key = "id",
                                        .store = "file:///bench",
                                        .queue = "bench",
                                        .database = "default",
                                        .columns_json = "[]",
                                        .n_batches = 1,
                                        .total = INT64_C(1) << 40};
    CLEANUP(db_claim_deinit) struct db_claim claim = {0};
    const struct db_claim_request q = {.plan = &plan,
                                       .batch = &batch,
                                       .worker = "bench",
                                       .owner = "bench",
                                       .takeover = true,
                                       .lease_ms = 600000};
    struct err e = ERR_INIT;
    int r = db_open(url, &b->db, &e);

    if (!r)
        r = db_ensure_schema(b->db, &e);
    if (!r)
        r = db_plan_insert(b->db, &plan, &batch, 1, &e);
    if (!r)
        r = db_batch_claim(b->db, &q, &claim, &e);
    if (r || claim.state != DB_CLAIM_OURS)
        die("the plan", r, &e);
    b->token = claim.token;
    b->position = claim.position;
}

int main(int argc, char **argv)
{
    struct bench b = {0};
    size_t n_columns = argc == 5 ? (size_t)number(argv[2]) : 0;
    size_t way, rows, chunks;

    if (n_columns < 1 || n_columns > MAX_COLUMNS)
        die("usage: chunk_driver URL COLUMNS BYTES RECORDS", -EINVAL, &ERR_INIT);
    b.width = (size_t)number(argv[3]);
    b.n_records = (size_t)number(argv[4]);
    b.generation = calloc(b.n_records, sizeof(*b.generation));
    for (size_t k = 0; k < n_columns; k++)
        if (asprintf((char **)&b.column[k], "c%zu", k) < 0)
            die("columns", -ENOMEM, &ERR_INIT);
    b.target = (struct db_target){.table = "bench",
                                  .key = "id",
                                  .reads = b.column,
                                  .n_reads = n_columns,
                                  .writes = b.column,
                                  .n_writes = n_columns};
    if (!b.generation)
        die("records", -ENOMEM, &ERR_INIT);
    begin(&b, argv[1]);
    while (scanf("%zu %zu %zu", &way, &rows, &chunks) == 3) { /* NOLINT(cert-err34-c) */
        int64_t took_ns = 0;

        db_set_copy(b.db, (enum db_copy)way);
        for (size_t i = 0; i < chunks; i++)
            took_ns += run_chunk(&b, rows);
        (void)printf("%.9f\n", (double)took_ns / 1e9);
        (void)fflush(stdout);
    }
    b.db = db_close(b.db);
    return 0;
}
