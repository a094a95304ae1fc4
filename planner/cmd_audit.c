/* SPDX-License-Identifier: Apache-2.0 */
/* scatter-plan audit: does every record of a plan have exactly one outcome, and does all of it add up?
 *
 * The question to the control tables stands in schema/audit.sql; with --files the batch objects are fetched and held against
 * their digests and counts too. */

#include "planner/child.h"
#include "planner/stop.h"

#include <errno.h>

struct audit {
    struct arena *arena;
    struct servers servers;
    struct db_plan_status status;
    struct db_audit found;
    struct buf files; /* what is wrong with them: JSON texts, separated by ", " */
    size_t n_bad, n_files;
};

static void audit_deinit(struct audit *x)
{
    servers_deinit(&x->servers);
    db_plan_status_deinit(&x->status);
    buf_deinit(&x->files);
    arena_free(x->arena);
}

DEFINE_CLEANUP_VALUE(struct audit, audit_deinit)

static void bad_file(struct audit *x, const char *text)
{
    buf_append_str(&x->files, x->n_bad++ ? ", " : "");
    json_write_string(&x->files, slice_str(text));
}

static int check_file(struct audit *x, struct batch_files *files, const struct db_rows *rows,
                      size_t row, struct err *e)
{
    CLEANUP(batch_free) struct batch *b = NULL;
    struct err why = ERR_INIT;
    char text[200];
    int r = batch_files_get(files, db_cell(rows, row, 1).p, db_cell(rows, row, 2).p, &b, &why);

    if (r == -ENOMEM)
        return r;
    if (stop_requested())
        return err_set(e, -EINTR, "interrupted");
    x->n_files++;
    if (r) {
        bad_file(x, why.text);
    } else if ((int64_t)batch_len(b) != db_cell_i64(rows, row, 3)) {
        (void)snprintf(text, sizeof(text), "batch %lld: the file has %zu records, its row %lld",
                       (long long)db_cell_i64(rows, row, 0), batch_len(b),
                       (long long)db_cell_i64(rows, row, 3));
        bad_file(x, text);
    }
    return 0;
}

static int check_files(struct audit *x, const char *plan, struct err *e)
{
    CLEANUP(batch_files_deinit) struct batch_files files = {0};
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    int r = db_read(x->servers.db,
                    "SELECT batch, source, sha256, records FROM scatter_batch WHERE plan = $1 "
                    "ORDER BY batch",
                    (struct db_val[]){db_text(plan)}, 1, &rows, e);

    for (size_t i = 0; !r && i < rows.n_rows; i++)
        r = check_file(x, &files, &rows, i, e);
    return r;
}

static void write_json(const struct audit *x, const char *plan, bool holds, struct buf *dst)
{
    const struct db_plan_status *s = &x->status;

    buf_append_str(dst, "{\"plan\": ");
    json_write_string(dst, slice_str(plan));
    buf_append_str(dst, ", \"state\": ");
    json_write_string(dst, slice_str(s->state));
    buf_appendf(dst,
                ", \"holds\": %s, \"planned\": %lld, \"ok\": %lld, \"unchanged\": %lld, \"stale\": "
                "%lld, \"skipped\": %lld, \"quarantined\": %lld, \"remaining\": %lld, "
                "\"violations\": [",
                holds ? "true" : "false", (long long)s->total, (long long)s->ok,
                (long long)s->unchanged, (long long)s->stale, (long long)s->skipped,
                (long long)s->quarantined, (long long)s->remaining);
    for (size_t i = 0; i < x->found.n; i++) {
        const struct db_audit_line *line = &x->found.lines[i];

        buf_append_str(dst, i ? ", {\"violation\": " : "{\"violation\": ");
        json_write_string(dst, slice_str(line->violation));
        buf_appendf(dst, ", \"batch\": %lld, \"found\": %lld, \"expected\": %lld}",
                    (long long)line->batch, (long long)line->found, (long long)line->expected);
    }
    buf_appendf(dst, "], \"files_checked\": %zu, \"files\": [%s]}\n", x->n_files,
                x->files.data ? x->files.data : "");
}

static void write_text(const struct audit *x, const char *plan, bool holds, struct buf *dst)
{
    const struct db_plan_status *s = &x->status;

    buf_appendf(dst,
                "plan %s (%s): %lld planned = %lld ok + %lld unchanged + %lld stale + %lld skipped "
                "+ %lld quarantined + %lld remaining\n",
                plan, s->state, (long long)s->total, (long long)s->ok, (long long)s->unchanged,
                (long long)s->stale, (long long)s->skipped, (long long)s->quarantined,
                (long long)s->remaining);
    for (size_t i = 0; i < x->found.n; i++) {
        const struct db_audit_line *line = &x->found.lines[i];

        buf_appendf(dst, "wrong    batch %lld: %s: %lld, expected %lld\n", (long long)line->batch,
                    line->violation, (long long)line->found, (long long)line->expected);
    }
    if (x->n_bad)
        buf_appendf(dst, "wrong    files: %s\n", x->files.data);
    else if (x->n_files)
        buf_appendf(dst, "files    %zu, all as they were planned\n", x->n_files);
    if (holds)
        buf_append_str(dst, "it adds up\n");
}

int plan_audit(const struct args *a, struct buf *dst, bool *ret_holds, struct err *e)
{
    CLEANUP(audit_deinit) struct audit x = {.arena = arena_new()};
    int r = x.arena ? servers_open_db(&x.servers, a->database_url, e) : -ENOMEM;

    if (!r)
        r = db_plan_status(x.servers.db, a->plan, &x.status, e);
    if (!r)
        r = db_plan_audit(x.servers.db, a->plan, x.arena, &x.found, e);
    if (!r && a->files)
        r = check_files(&x, a->plan, e);
    if (r || buf_ok(&x.files))
        return r > 0 ? -EIO : r ? r : -ENOMEM;
    *ret_holds = x.found.n == 0 && x.n_bad == 0;
    if (str_eq(a->format, "json"))
        write_json(&x, a->plan, *ret_holds, dst);
    else
        write_text(&x, a->plan, *ret_holds, dst);
    return buf_ok(dst);
}
