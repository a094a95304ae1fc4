/* SPDX-License-Identifier: Apache-2.0 */
/* From the manifest to the control rows and the messages, in a run or in one that takes up a killed one's work. */

#include "planner/create.h"

#include "celeryc/message/json.h"
#include "planner/marker.h"
#include "planner/outbox.h"
#include "planner/settings.h"

static int columns_text(const struct manifest *m, struct buf *b)
{
    buf_append_char(b, '[');
    for (size_t i = 0; i < m->n_columns; i++) {
        if (i)
            buf_append_str(b, ", ");
        json_write_string(b, slice_str(m->columns[i]));
    }
    buf_append_char(b, ']');
    return buf_ok(b);
}

static int batch_rows(struct creation *c, struct arena *a, const struct manifest *m,
                      struct db_batch_row **ret_rows)
{
    struct db_batch_row *rows = arena_alloc_array(a, m->n_batches, sizeof(*rows));

    if (!rows)
        return -ENOMEM;
    for (size_t i = 0; i < m->n_batches; i++) {
        const char *source =
            arena_printf(a, "%s/%s/%s", store_url(c->servers.store), m->plan, m->batches[i].object);

        if (!source)
            return -ENOMEM;
        rows[i] = (struct db_batch_row){.batch = m->batches[i].batch,
                                        .source = source,
                                        .sha256 = m->batches[i].sha256,
                                        .count = m->batches[i].count};
    }
    *ret_rows = rows;
    return 0;
}

static int insert_rows(struct creation *c, const struct manifest *m, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(buf_deinit) struct buf columns = BUF_INIT;
    struct db_batch_row *rows = NULL;
    struct settings settings;
    int code = a ? columns_text(m, &columns) : -ENOMEM;

    if (!code)
        code = batch_rows(c, a, m, &rows);
    if (!code)
        code = settings_read(&settings, m->settings_json, a, e);
    if (code)
        return code;
    struct db_plan p = {.plan = m->plan,
                        .migration = m->migration,
                        .table = m->table,
                        .key = m->key,
                        .store = store_url(c->servers.store),
                        .queue = m->queue,
                        .database = m->database,
                        .query = m->query ? m->query : "",
                        .params_json = m->params_json,
                        .created_by = m->created_by ? m->created_by : "",
                        .columns_json = columns.data,
                        .on_planned = m->on_planned,
                        .on_batch = m->on_batch,
                        .on_paused = m->on_paused,
                        .on_failed = m->on_failed,
                        .on_finish = m->on_finish,
                        .retry_on = m->retry_on,
                        .settings = settings.list,
                        .n_settings = settings.n,
                        .kind = m->kind,
                        .parent = m->parent,
                        .batch_size = c->args->batch_size,
                        .total = m->total,
                        .n_batches = (int64_t)m->n_batches};

    if (c->child) {
        p.drives = c->child->drives;
        p.n_drives = c->child->n_drives;
        p.failed = c->child->failed;
        p.n_failed = c->child->n_failed;
    }
    code = db_plan_insert(c->servers.db, &p, rows, m->n_batches, e);
    if (code)
        return err_prefix(
            e, final(code),
            "plan %s is in the store but not in the database; run again with --plan %s", m->plan,
            m->plan);
    return 0;
}

int creation_fill_result(struct creation *c, const char *first_key, const char *last_key)
{
    struct result *r = c->result;

    r->dry_run = c->args->dry_run;
    r->plan = slice_dup(slice_str(c->request.plan));
    r->store = slice_dup(slice_str(store_url(c->servers.store)));
    r->queue = slice_dup(slice_str(c->args->queue));
    r->first_key = slice_dup(slice_str(first_key));
    r->last_key = slice_dup(slice_str(last_key));
    return r->plan && r->store && r->queue && r->first_key && r->last_key ? 0 : -ENOMEM;
}

int creation_commit_rows(struct creation *c, const struct manifest *m, struct err *e)
{
    int code = final(db_ensure_schema(c->servers.db, e));

    if (!code)
        code = insert_rows(c, m, e);
    if (!code)
        code = final(windows_begin(c->servers.db, c->args, m->plan, e));
    if (!code)
        code = final(marker_delete(c->servers.store, m->plan, e));
    if (!code) {
        c->result->total = m->total;
        c->result->batches = (int64_t)m->n_batches;
        code =
            creation_fill_result(c, m->batches[0].first_key, m->batches[m->n_batches - 1].last_key);
    }
    return code;
}

int creation_send_messages(struct creation *c, struct err *e)
{
    int64_t n;
    int code;

    if (c->args->no_enqueue)
        return 0;
    code = plan_enqueue(&c->servers, c->args, c->request.plan, c->progress, c->result, e);
    if (!code)
        code = outbox_send_all(c->servers.db, c->args, c->request.plan, OUTBOX_ABANDONED_S, &n, e);
    return code;
}

int creation_finish_known(struct creation *c, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct db_plan p = {0};
    const char *state = NULL;
    int code = a ? db_plan_get(c->servers.db, c->request.plan, a, &p, &state, e) : -ENOMEM;

    if (code)
        return final(code);
    c->result->total = p.total;
    c->result->batches = p.n_batches;
    code = creation_fill_result(c, "", "");
    /* Left by a run that was killed behind its control rows; of no use, and in nobody's way. */
    (void)!marker_delete(c->servers.store, c->request.plan, NULL);
    return code ? code : creation_send_messages(c, e);
}
