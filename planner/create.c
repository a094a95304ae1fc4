/* SPDX-License-Identifier: Apache-2.0 */
/* Making a plan.
 *
 *   check everything -> marker -> batch objects -> manifest.json (the commit point) -> control rows, in one
 *   transaction -> messages
 *
 * Killed before the manifest, a plan does not exist: the next run under the same id overwrites the objects and deletes
 * those that it does not need. Killed after it, the next run goes on from the manifest, or from the control rows when
 * they are there, whatever its own query would give now. A run that fails by itself before the manifest takes its
 * objects away again. Rows and messages are never there without the objects that they name. */

#include "planner/create.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/limits.h"
#include "celeryc/migrate/sqlfile.h"
#include "planner/marker.h"
#include "planner/outbox.h"
#include "planner/settings.h"
#include "planner/stop.h"

#include <errno.h>
#include <strings.h>
#include <unistd.h>

#define CHECK_MS 5000

static void creation_deinit(struct creation *c)
{
    upload_free(c->upload);
    builder_free(c->builder);
    buf_deinit(&c->query.sql);
    buf_deinit(&c->settings);
    preflight_free(c->preflight);
    stdin_source_deinit(&c->input);
    request_deinit(&c->request);
    servers_deinit(&c->servers);
}

DEFINE_CLEANUP_VALUE(struct creation, creation_deinit)

/* ---- a plan that is there already ---- */

static int same_migration(const struct creation *c, const char *other, struct err *e)
{
    if (str_eq(other, c->args->migration))
        return 0;
    return err_set(e, -EEXIST, "plan %s exists already, for migration %s: choose another --plan",
                   c->request.plan, other);
}

static int find_rows(struct creation *c, bool *ret_found, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct err why = ERR_INIT;
    struct db_plan p = {0};
    const char *state = NULL;
    int code = a ? db_plan_get(c->servers.db, c->request.plan, a, &p, &state, &why) : -ENOMEM;

    *ret_found = code == 0;
    if (code == 0)
        return same_migration(c, p.migration, e);
    return code == -ENOENT ? 0 : err_set(e, final(code), "%s", err_text(&why, code));
}

static int get_manifest(struct creation *c, struct buf *dst, struct err *e)
{
    CLEANUP(mem_free) char *name = plan_object(c->request.plan, "manifest.json");

    return name ? store_get(c->servers.store, name, CHECK_MS, dst, e) : -ENOMEM;
}

/* *ret_found tells whether m was filled. */
static int find_manifest(struct creation *c, struct manifest *m, bool *ret_found, struct err *e)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    struct err why = ERR_INIT;
    int code = get_manifest(c, &text, &why);

    *ret_found = false;
    /* Without the right to list a bucket a missing object is "denied". Under a fresh id nothing can be there, and
     * the marker will show whether the store may be written. */
    if (code == STORE_E_NOT_FOUND ||
        (code == STORE_E_DENIED && !c->args->plan && !c->args->dry_run))
        return 0;
    if (code)
        return err_set(e, final(code), "%s", err_text(&why, code));
    code = manifest_parse(buf_slice(&text), m, &why);
    if (!code && !str_eq(m->plan, c->request.plan))
        code = err_set(&why, -EBADMSG, "it is the manifest of plan %s", m->plan);
    if (code)
        return err_set(e, code, "%s/%s/manifest.json: %s: choose another --plan, or delete it",
                       store_url(c->servers.store), c->request.plan, err_text(&why, code));
    *ret_found = true;
    return same_migration(c, m->migration, e);
}

/* ---- checks ---- */

static int open_servers(struct creation *c, struct err *e)
{
    const struct args *a = c->args;
    int code = servers_open_db(&c->servers, a->database_url, e);

    if (!code)
        code = store_open(a->store, &c->servers.store, e);
    if (!code && a->broker)
        code = servers_open_broker(&c->servers, a->broker, e);
    return final(code);
}

/* An SQL file that the database would refuse is refused here, not by each batch. */
static int check_statement(struct creation *c, const struct db_target *t, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(buf_deinit) struct buf why = BUF_INIT;
    struct sql_file f;

    if (!a)
        return -ENOMEM;
    int code = sql_file_parse(slice_str(c->args->statement), a, &f, e);
    const struct db_compute q = {.target = t, .body = f.body, .arena = a};

    if (!code)
        code = db_compute(c->servers.db, &q, e);
    return code ? err_prefix(e, final(code), "the SELECT of the SQL file is refused") : 0;
}

static int check_target(struct creation *c, struct err *e)
{
    const struct request *r = &c->request;
    struct db_target t = {.table = r->table,
                          .key = r->key,
                          .reads = (const char *const *)r->columns,
                          .n_reads =
                              c->child && c->child->n_guard ? c->child->n_guard : r->n_columns,
                          .writes = r->writes,
                          .n_writes = r->n_writes};

    int code = db_check_target(c->servers.db, &t, e);

    return code || !c->args->sql ? final(code) : check_statement(c, &t, e);
}

static int on_batch(const struct manifest_batch *m, struct buf *b, void *arg, struct err *e)
{
    struct creation *c = arg;
    CLEANUP(mem_free) char *name = plan_object(c->request.plan, m->object);

    return name ? final(upload_put(c->upload, name, b, e)) : -ENOMEM;
}

static int on_columns(const char *const *names, size_t n, void *arg)
{
    struct creation *c = arg;

    return preflight_columns(c->preflight, names, n);
}

static int on_record(const struct slice *fields, const struct slice *values, void *arg,
                     struct err *e)
{
    struct creation *c = arg;

    return preflight_record(c->preflight, fields, values, e);
}

static int prepare_source(struct creation *c, struct err *e)
{
    struct builder_options o = {
        .request = &c->request,
        .progress = c->progress,
        .dry_run = c->args->dry_run,
        .fix_order =
            c->args->from_stdin
                ? "send each key once and in key order (ORDER BY the key; texts byte by byte)"
                : "the query must give each key once (add DISTINCT, or mend its joins)",
        .on_batch = on_batch,
        .arg = c};

    if (c->args->dry_run && !c->child) {
        int code = preflight_new(&c->request, c->servers.db, &c->preflight, e);

        if (code)
            return code;
        o.on_columns = on_columns;
        o.on_record = on_record;
    }
    c->builder = builder_new(&o);
    if (!c->builder)
        return -ENOMEM;
    if (c->child && c->child->prepare)
        return c->child->prepare(c->child->arg, c->builder, e);
    if (c->child) {
        c->query.extra = c->child->extra;
        c->query.n_extra = c->child->n_extra;
        c->query.accept = c->child->accept;
        c->query.arg = c->child->arg;
    }
    if (!c->args->from_stdin)
        return query_source_prepare(&c->query, c->servers.db, &c->request, c->builder, e);
    stdin_source_init(&c->input, STDIN_FILENO);
    return stdin_source_prepare(&c->input, c->builder, e);
}

/* ---- the objects ---- */

static int read_records(struct creation *c, struct err *e)
{
    int code;

    progress_begin(c->progress, "planning");
    if (c->child && c->child->run)
        code = c->child->run(c->child->arg, c->builder, e);
    else if (c->args->from_stdin)
        code = stdin_source_run(&c->input, c->builder, e);
    else
        code = query_source_run(&c->query, c->servers.db, c->builder, e);
    if (!code)
        code = builder_finish(c->builder, e);
    if (!code && c->upload)
        code = upload_wait(c->upload, e);
    return final(code);
}

/* ---- the run ---- */

static int dry_run(struct creation *c, struct err *e)
{
    bool json = str_eq(c->args->format, "json"); /* one line */
    const struct manifest_batch *batches;
    size_t n;
    int code = read_records(c, e);

    if (code)
        return code;
    batches = builder_batches(c->builder, &n);
    progress_end(c->progress, builder_total(c->builder), (int64_t)n, -1);
    c->result->total = builder_total(c->builder);
    c->result->batches = (int64_t)n;
    for (size_t i = 0; builder_sample(c->builder, i); i++) {
        buf_append_str(&c->result->sample, !i ? "" : json ? ", " : ",\n         ");
        buf_append_str(&c->result->sample, builder_sample(c->builder, i));
    }
    if (buf_ok(&c->result->sample))
        return -ENOMEM;
    if (c->preflight)
        preflight_took(c->preflight, &c->input);
    if (c->preflight)
        code = preflight_finish(c->preflight, &c->result->preflight, &c->result->preflight_text,
                                &c->result->blocked, e);
    if (code)
        return final(code);
    return creation_fill_result(c, n ? batches[0].first_key : "", n ? batches[n - 1].last_key : "");
}

static struct manifest describe(const struct creation *c)
{
    const struct request *r = &c->request;
    const struct args *a = c->args;
    size_t n;
    /* Borrows everything: never given to manifest_deinit. */
    struct manifest m = {.plan = (char *)r->plan,
                         .migration = (char *)a->migration,
                         .table = (char *)r->table,
                         .key = (char *)r->key,
                         .query = (char *)r->query,
                         .store = (char *)store_url(c->servers.store),
                         .queue = (char *)a->queue,
                         .database = (char *)a->database,
                         .created_by = (char *)a->created_by,
                         .columns = r->columns,
                         .n_columns = r->n_columns,
                         .params_json = (char *)r->params_json,
                         .settings_json = c->settings.data,
                         .on_planned = (char *)a->on_planned,
                         .on_batch = (char *)a->on_batch,
                         .on_paused = (char *)a->on_paused,
                         .on_failed = (char *)a->on_failed,
                         .on_finish = (char *)a->on_finish,
                         .kind = c->child ? (char *)c->child->kind : NULL,
                         .parent = c->child ? (char *)c->child->parent : NULL,
                         .retry_on = (char *)a->retry_on,
                         .total = builder_total(c->builder),
                         .created_us = clock_wall_us()};

    m.batches = (struct manifest_batch *)builder_batches(c->builder, &n);
    m.n_batches = n;
    return m;
}

static int keep_settings(struct creation *c, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct settings s;
    int code = a ? settings_from_args(&s, c->args, builder_total(c->builder), a, e) : -ENOMEM;

    return code ? code : settings_write(&s, &c->settings);
}

/* Everything up to the commit point; a failure leaves nothing. */
static int make_objects(struct creation *c, struct manifest *ret_m, struct err *e)
{
    int code = final(marker_find(c->servers.store, c->request.plan, &c->leftovers, e));

    if (!code) {
        code = final(marker_put(c->servers.store, c->request.plan, c->nonce, e));
        c->marked = code == 0;
    }
    if (!code)
        code = final(upload_new(c->args->store, (unsigned)c->args->uploads, &c->upload, e));
    if (!code)
        code = read_records(c, e);
    if (code)
        return code;
    code = keep_settings(c, e);
    if (code)
        return code;
    *ret_m = describe(c);
    progress_end(c->progress, ret_m->total, (int64_t)ret_m->n_batches, ret_m->total);
    if (c->leftovers)
        code = creation_delete_leftovers(c, (int64_t)ret_m->n_batches, e);
    if (code || ret_m->total == 0)
        return code;
    code = marker_check(c->servers.store, c->request.plan, c->nonce, e);
    if (code == -EBUSY)
        c->marked = false; /* the other's */
    return final(code ? code : creation_put_manifest(c, ret_m, e));
}

static int make(struct creation *c, struct err *e)
{
    struct manifest m = {0};
    int code = make_objects(c, &m, e);

    if (code == -EBUSY)
        return code; /* the objects belong to the other planner now */
    if (code || m.total == 0)
        creation_take_back(c);
    if (code)
        return code;
    if (m.total == 0)
        return 0;
    code = creation_commit_rows(c, &m, e);
    return code ? code : creation_send_messages(c, e);
}

static int check_and_make(struct creation *c, struct err *e)
{
    CLEANUP(manifest_deinit) struct manifest old = {0};
    bool rows = false, manifest = false;
    int code = open_servers(c, e);

    if (!code && c->args->plan)
        code = find_rows(c, &rows, e);
    if (!code && rows && !c->args->dry_run)
        return creation_finish_known(c, e);
    if (!code)
        code = find_manifest(c, &old, &manifest, e);
    if (!code)
        code = check_target(c, e);
    if (code)
        return code;
    if (manifest && c->child && !c->args->dry_run) {
        /* Without its rows it is nobody's, and what it is to hold may be another set now. */
        code = final(creation_delete_manifest(c));
        if (code)
            return code;
    } else if (manifest && !c->args->dry_run) {
        code = creation_commit_rows(c, &old, e);
        return code ? code : creation_send_messages(c, e);
    }
    code = prepare_source(c, e);
    if (code)
        return final(code);
    if (c->args->dry_run)
        return dry_run(c, e);
    code = final(db_ensure_schema(c->servers.db, e));
    return code ? code : make(c, e);
}

int plan_make(const struct args *a, struct plan_child *child, struct progress *p,
              struct result *ret_r, struct err *e)
{
    CLEANUP(creation_deinit)
    struct creation c = {.args = a, .child = child, .progress = p, .result = ret_r};
    int code = outbox_check(a, e);

    c.input.fd = -1;
    if (!code)
        code = request_init(&c.request, a, e);
    if (code == -EINVAL)
        return ARGS_E_MISTAKE;
    return code ? code : check_and_make(&c, e);
}

#define SQL_PREFIX "sql:"

static int read_file(const char *path, struct buf *dst, struct err *e)
{
    FILE *f = fopen(path, "re");
    char part[4096];
    size_t n;

    if (!f)
        return err_set(e, -errno, "cannot read %s: %s", path, err_errno(errno));
    while ((n = fread(part, 1, sizeof(part), f)) > 0 && dst->len <= LIMIT_SQL_BYTES)
        buf_append(dst, part, n);
    int failed = ferror(f);

    (void)fclose(f);
    if (failed)
        return err_set(e, -EIO, "cannot read %s", path);
    return buf_ok(dst);
}

/* --migration sql:FILE: the file says what a plug-in would. */
static int create_from_file(const struct args *a, struct progress *p, struct result *ret_r,
                            struct err *e)
{
    CLEANUP(arena_free) struct arena *arena = arena_new();
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    const char *path = a->migration + strlen(SQL_PREFIX);
    struct args mine = *a;
    struct sql_file file;
    int code = arena ? read_file(path, &text, e) : -ENOMEM;

    if (code)
        return code;
    code = sql_file_parse(buf_slice(&text), arena, &file, e);
    if (code)
        return err_prefix(e, code, "%s", path);
    if (!file.m.version)
        file.m.version = path;
    mine.migration = MIGRATE_SQL;
    mine.sql = &file.m;
    mine.statement = text.data;
    return plan_make(&mine, NULL, p, ret_r, e);
}

int plan_create(const struct args *a, struct progress *p, struct result *ret_r, struct err *e)
{
    if (strncmp(a->migration, SQL_PREFIX, strlen(SQL_PREFIX)) == 0)
        return create_from_file(a, p, ret_r, e);
    return plan_make(a, NULL, p, ret_r, e);
}
