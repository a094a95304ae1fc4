/* SPDX-License-Identifier: Apache-2.0 */
/* The transaction that a .row function is handed: its statements, with texts in and out.
 *
 * A statement that fails takes the whole transaction with it (there are no savepoints), so what was noted first stays,
 * and every later call fails at once. */

#include "celeryc/migrate/runtime.h"

#include "celeryc/base/limits.h"
#include "celeryc/db/rows.h"
#include "celeryc/migrate/beat.h"

#include <errno.h>

struct scatter_rows {
    size_t n_rows, n_cols;
    struct slice *cell;
};

static int fail(struct scatter_tx *tx, int code)
{
    tx->code = tx->code ? tx->code : code;
    return tx->code;
}

static int run(struct scatter_tx *tx, const char *sql, const char *const *values, size_t n,
               struct db_rows *ret_rows)
{
    struct slice slices[LIMIT_COLUMNS];

    if (tx->code)
        return tx->code;
    if (!sql || n > ARRAY_SIZE(slices))
        return fail(tx, -EINVAL);
    for (size_t i = 0; i < n; i++)
        slices[i] = slice_str(values[i]);
    tx->touched = true;
    beat_take_back(tx->beat);
    int r = db_tx_run(tx->db, sql, slices, n, ret_rows, &tx->e);

    if (r) /* what the database said of it must not be spoken over */
        return fail(tx, r);
    beat_lend(tx->beat, tx->db);
    tx->changed = tx->changed || (ret_rows->changed > 0 && !db_tx_only_reads(sql));
    return 0;
}

int scatter_exec(struct scatter_tx *tx, const char *sql, const char *const *values, size_t n,
                 int64_t *ret_changed)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    int r = run(tx, sql, values, n, &rows);

    if (r)
        return r;
    if (ret_changed)
        *ret_changed = rows.changed;
    return 0;
}

int scatter_query(struct scatter_tx *tx, const char *sql, const char *const *values, size_t n,
                  const struct scatter_rows **ret_rows)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    int r = run(tx, sql, values, n, &rows);

    if (r)
        return r;
    struct scatter_rows *out = arena_alloc(tx->arena, sizeof(*out));
    struct slice *cell = arena_alloc_array(tx->arena, rows.n_rows * rows.n_cols + 1, sizeof(*cell));

    if (!out || !cell)
        return fail(tx, -ENOMEM);
    for (size_t i = 0; i < rows.n_rows * rows.n_cols; i++) {
        struct slice s = rows.cell[i];
        char *copy = s.p ? arena_strdup(tx->arena, s) : NULL;

        if (s.p && !copy)
            return fail(tx, -ENOMEM);
        cell[i] = (struct slice){copy, s.len};
    }
    *out = (struct scatter_rows){.n_rows = rows.n_rows, .n_cols = rows.n_cols, .cell = cell};
    *ret_rows = out;
    return 0;
}

size_t scatter_rows_len(const struct scatter_rows *rows)
{
    return rows->n_rows;
}

const char *scatter_cell(const struct scatter_rows *rows, size_t row, size_t column)
{
    if (row >= rows->n_rows || column >= rows->n_cols)
        return NULL;
    return rows->cell[row * rows->n_cols + column].p;
}

const char *scatter_dialect(const struct scatter_tx *tx)
{
    return db_is_sqlite(tx->db) ? "sqlite" : "postgresql";
}
