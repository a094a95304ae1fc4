/* SPDX-License-Identifier: Apache-2.0 */
/* Re-driving batches that failed as a whole: the keys behind their checkpoints come from the batch files, the values from
 * the table as it is now. Which batches were taken is written with the new plan's rows, so that none is taken twice. */

#include "planner/failed.h"

#include "planner/child.h"
#include "planner/stop.h"

#include <errno.h>

#define GROUP 500 /* keys of one query */

struct failed {
    const struct args *args;
    struct parent parent;
    struct servers servers;
    struct batch_files files;
    struct db_rows list; /* batch, source, sha256, position */
    int64_t *numbers;
    struct builder *builder;
    struct err err; /* of callbacks */
};

static void failed_deinit(struct failed *f)
{
    parent_deinit(&f->parent);
    servers_deinit(&f->servers);
    batch_files_deinit(&f->files);
    db_rows_deinit(&f->list);
    free(f->numbers);
}

DEFINE_CLEANUP_VALUE(struct failed, failed_deinit)

/* "SELECT keys, columns FROM table WHERE ", to be followed by a condition. */
static void write_select(const struct failed *f, struct buf *sql)
{
    const struct parent *p = &f->parent;

    buf_append_str(sql, "SELECT ");
    for (size_t i = 0; i < p->n_keys + p->n_columns; i++) {
        buf_append_str(sql, i ? ", " : "");
        db_quote_name(sql, slice_str(i < p->n_keys ? p->keys[i] : p->columns[i - p->n_keys]));
    }
    buf_append_str(sql, " FROM ");
    db_quote_table(sql, p->plan.table);
    buf_append_str(sql, " WHERE ");
}

static void write_key(const struct failed *f, const struct slice *key, bool first, struct buf *sql)
{
    buf_append_str(sql, first ? "(" : " OR (");
    for (size_t i = 0; i < f->parent.n_keys; i++) {
        buf_append_str(sql, i ? " AND " : "");
        db_quote_name(sql, slice_str(f->parent.keys[i]));
        buf_append_str(sql, " = ");
        db_quote_text(sql, key[i]);
    }
    buf_append_char(sql, ')');
}

static int on_columns(const char *const *names, const char *const *types, size_t n, void *arg)
{
    struct failed *f = arg;

    return builder_columns(f->builder, names, types, n, NULL, &f->err);
}

static int on_row(const struct slice *values, size_t n, void *arg)
{
    struct failed *f = arg;

    return builder_row(f->builder, values, NULL, n, &f->err);
}

static int stream(struct failed *f, struct buf *sql, struct err *e)
{
    const struct db_stream s = {on_columns, on_row, f};
    struct err theirs = ERR_INIT;

    for (size_t i = 0; i < f->parent.n_keys; i++) {
        buf_append_str(sql, i ? ", " : " ORDER BY ");
        db_quote_name(sql, slice_str(f->parent.keys[i]));
    }
    int r = buf_ok(sql) ? -ENOMEM : db_stream_query(f->servers.db, sql->data, &s, &theirs);

    if (!r)
        return 0;
    return err_set(e, r > 0 ? -EIO : r, "%s", f->err.text[0] ? f->err.text : err_text(&theirs, r));
}

static int prepare(void *arg, struct builder *b, struct err *e)
{
    struct failed *f = arg;
    CLEANUP(buf_deinit) struct buf sql = BUF_INIT;

    f->builder = b;
    write_select(f, &sql);
    buf_append_str(&sql, "1 = 0");
    return stream(f, &sql, e);
}

static int add_rest(struct failed *f, size_t row, struct err *e)
{
    CLEANUP(batch_free) struct batch *file = NULL;
    int r = batch_files_get(&f->files, db_cell(&f->list, row, 1).p, db_cell(&f->list, row, 2).p,
                            &file, e);

    for (size_t i = (size_t)db_cell_i64(&f->list, row, 3); !r && i < batch_len(file); i += GROUP) {
        CLEANUP(buf_deinit) struct buf sql = BUF_INIT;

        write_select(f, &sql);
        for (size_t k = i; k < MIN(i + GROUP, batch_len(file)); k++)
            write_key(f, batch_at(file, k)->field, k == i, &sql);
        r = stream(f, &sql, e);
    }
    return r;
}

static int run(void *arg, struct builder *b, struct err *e)
{
    struct failed *f = arg;
    int r = 0;

    f->builder = b;
    for (size_t i = 0; !r && i < f->list.n_rows; i++)
        r = stop_requested() ? err_set(e, -EINTR, "interrupted") : add_rest(f, i, e);
    return r;
}

static int look_at_parent(struct failed *f, struct err *e)
{
    int r = servers_open_db(&f->servers, f->args->database_url, e);

    if (!r)
        r = parent_load(&f->parent, f->servers.db, f->args, e);
    if (!r)
        r = db_read(f->servers.db,
                    "SELECT batch, source, sha256, position FROM scatter_batch WHERE plan = $1 AND "
                    "state = 'failed' AND driven_by IS NULL ORDER BY batch",
                    (struct db_val[]){db_text(f->args->plan)}, 1, &f->list, e);
    if (r)
        return r > 0 ? -EIO : r;
    f->numbers = calloc(f->list.n_rows + 1, sizeof(*f->numbers));
    if (!f->numbers)
        return -ENOMEM;
    for (size_t i = 0; i < f->list.n_rows; i++)
        f->numbers[i] = db_cell_i64(&f->list, i, 0);
    return 0;
}

int redrive_failed(const struct args *a, struct progress *p, struct result *ret_r, struct err *e)
{
    CLEANUP(failed_deinit) struct failed f = {.args = a, .err = ERR_INIT};
    int r = a->error_class || a->sqlstate || a->limit
                ? err_set(e, -EINVAL,
                          "--outcome failed takes whole batches: leave --class, --sqlstate and "
                          "--limit out")
                : look_at_parent(&f, e);

    if (r)
        return r;
    struct plan_child child = {.kind = "redrive",
                               .parent = f.parent.plan.plan,
                               .arg = &f,
                               .prepare = prepare,
                               .run = run,
                               .failed = f.numbers,
                               .n_failed = f.list.n_rows};

    return plan_make(&f.parent.args, &child, p, ret_r, e);
}
