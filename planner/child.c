/* SPDX-License-Identifier: Apache-2.0 */
/* What commands that start from a plan have in common: its row, its batch files, its keys. */

#include "planner/child.h"

#include "celeryc/base/limits.h"
#include "celeryc/message/json.h"
#include "celeryc/migrate/sqlfile.h"

#include <errno.h>
#include <strings.h>

#define FETCH_MS 60000

/* ---- the plan ---- */

void parent_deinit(struct parent *p)
{
    if (!p)
        return;
    free(p->args.params.items);
    arena_free(p->arena);
    *p = (struct parent){0};
}

static int json_texts(struct arena *a, const char *text, char ***ret_items, size_t *ret_n)
{
    struct json_val v;
    struct json_iter it;
    size_t n = 0;

    if (json_scan(slice_str(text), &v, NULL) || v.kind != JSON_K_ARRAY)
        return -EINVAL;
    char **items = arena_alloc_array(a, json_len(v) + 1, sizeof(*items));

    if (!items)
        return -ENOMEM;
    json_iter_init(&it, v);
    while (json_next(&it)) {
        struct slice s;
        int r = json_string_z(a, it.val, &s);

        if (r)
            return r;
        items[n++] = (char *)s.p;
    }
    *ret_items = items;
    *ret_n = n;
    return 0;
}

/* "a,b" as names. */
static int split_names(struct arena *a, const char *text, char ***ret_items, size_t *ret_n)
{
    char **items = arena_alloc_array(a, strlen(text) + 1, sizeof(*items));
    size_t n = 0;

    if (!items)
        return -ENOMEM;
    for (const char *p = text;; p++) {
        size_t len = strcspn(p, ",");

        items[n] = arena_strdup(a, (struct slice){p, len});
        if (!items[n++])
            return -ENOMEM;
        p += len;
        if (!*p)
            break;
    }
    *ret_items = items;
    *ret_n = n;
    return 0;
}

/* {"k": "v"} as the --param options that gave it. */
static int param_options(struct parent *p, struct err *e)
{
    struct json_iter it;
    size_t n = 0;

    if (json_scan(slice_str(p->plan.params_json), &p->params, e) || p->params.kind != JSON_K_OBJECT)
        return err_set(e, -EBADMSG, "plan %s has parameters that are no JSON object", p->plan.plan);
    p->args.params.items = calloc(json_len(p->params) + 1, sizeof(*p->args.params.items));
    if (!p->args.params.items)
        return -ENOMEM;
    json_iter_init(&it, p->params);
    while (json_next(&it)) {
        struct slice name, value;
        int r = json_string_z(p->arena, it.key, &name);

        if (!r && it.val.kind == JSON_K_STRING)
            r = json_string_z(p->arena, it.val, &value);
        else
            value = it.val.raw;
        if (r)
            return r;
        p->args.params.items[n] =
            arena_printf(p->arena, "%s=%.*s", name.p, (int)value.len, value.p);
        if (!p->args.params.items[n++])
            return -ENOMEM;
    }
    p->args.params.n = n;
    return 0;
}

static const char *joined(struct arena *a, char *const *names, size_t n)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    for (size_t i = 0; i < n; i++)
        buf_appendf(&b, "%s%s", i ? "," : "", names[i]);
    return buf_ok(&b) ? NULL : arena_strdup(a, n ? buf_slice(&b) : SLICE_LIT(""));
}

/* A plan of an SQL file brings the file's text with it. */
static int sql_args(struct parent *p, struct err *e)
{
    struct sql_file *file = arena_alloc(p->arena, sizeof(*file));

    if (!file)
        return -ENOMEM;
    int r = sql_file_parse(slice_str(p->statement), p->arena, file, e);

    if (r)
        return err_prefix(e, r, "the SQL file that plan %s keeps", p->plan.plan);
    p->args.sql = &file->m;
    p->args.statement = p->statement;
    return 0;
}

static int child_args(struct parent *p, const struct args *a, struct err *e)
{
    struct args *c = &p->args;

    *c = *a;
    c->params = (struct args_list){0};
    c->plan = a->child;
    c->migration = p->plan.migration;
    c->table = p->plan.table;
    c->key = p->plan.key;
    c->columns = joined(p->arena, p->columns, p->n_columns);
    c->database = p->plan.database;
    c->queue = a->queue ? a->queue : p->plan.queue;
    c->store = a->store ? a->store : p->plan.store;
    c->add_columns = true;
    if (!c->columns)
        return -ENOMEM;
    if (!*c->store)
        return err_set(e, -EINVAL, "plan %s names no store: give --store", p->plan.plan);
    if (p->statement) {
        int r = sql_args(p, e);

        if (r)
            return r;
    }
    return param_options(p, e);
}

static int more_of_plan(struct parent *p, struct db *db, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    int r = db_read(db, "SELECT kind, statement FROM scatter_plan WHERE plan = $1",
                    (struct db_val[]){db_text(p->plan.plan)}, 1, &rows, e);

    if (r || rows.n_rows == 0)
        return r ? r : -ENOENT;
    p->kind = arena_strdup(p->arena, db_cell(&rows, 0, 0));
    if (db_cell(&rows, 0, 1).p)
        p->statement = arena_strdup(p->arena, db_cell(&rows, 0, 1));
    return p->kind ? 0 : -ENOMEM;
}

int parent_load(struct parent *p, struct db *db, const struct args *a, struct err *e)
{
    *p = (struct parent){.arena = arena_new()};
    int r = p->arena ? db_plan_get(db, a->plan, p->arena, &p->plan, &p->state, e) : -ENOMEM;

    if (!r)
        r = more_of_plan(p, db, e);
    if (!r && json_texts(p->arena, p->plan.columns_json, &p->columns, &p->n_columns))
        r = err_set(e, -EBADMSG, "plan %s has columns that are no list of names", a->plan);
    if (!r)
        r = split_names(p->arena, p->plan.key, &p->keys, &p->n_keys);
    return r ? r : child_args(p, a, e);
}

/* ---- keys ---- */

int parent_key_condition(const struct parent *p, struct db *db, struct buf *dst, struct err *e)
{
    bool sqlite = db_is_sqlite(db);

    for (size_t i = 0; i < p->n_keys; i++) {
        const char *type;
        int r = db_column_type(db, p->plan.table, p->keys[i], p->arena, &type, e);

        if (r)
            return r;
        buf_append_str(dst, i ? " AND t." : "t.");
        db_quote_name(dst, slice_str(p->keys[i]));
        if (p->n_keys == 1)
            buf_append_str(dst, sqlite ? " = o.record_key" : " = o.record_key::");
        else if (sqlite)
            buf_appendf(dst, " = json_extract(o.record_key, '$[%zu]')", i);
        else
            buf_appendf(dst, " = (o.record_key::json ->> %zu)::", i);
        if (!sqlite)
            buf_append_str(dst, type);
    }
    return buf_ok(dst);
}

void key_text(struct buf *dst, const struct slice *values, size_t n)
{
    if (n == 1) {
        buf_append_slice(dst, values[0]);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        buf_append_str(dst, i ? ", " : "[");
        json_write_string(dst, values[i]);
    }
    buf_append_char(dst, ']');
}

/* ---- batch files ---- */

void batch_files_deinit(struct batch_files *f)
{
    free(f->store_url);
    store_close(f->store);
    *f = (struct batch_files){0};
}

static int store_of(struct batch_files *f, char *url_take, struct err *e)
{
    if (f->store && str_eq(f->store_url, url_take)) {
        free(url_take);
        return 0;
    }
    batch_files_deinit(f);
    f->store_url = url_take;
    int r = store_open(url_take, &f->store, e);

    return r > 0 ? -EIO : r;
}

int batch_files_get(struct batch_files *f, const char *source, const char *sha256,
                    struct batch **ret_b, struct err *e)
{
    CLEANUP(mem_free) char *name = NULL;
    CLEANUP(buf_deinit) struct buf object = BUF_INIT;
    char *url = NULL, digest[65];
    int r = store_split(source, &url, &name, e);

    if (!r)
        r = store_of(f, url, e);
    if (!r)
        r = store_get(f->store, name, FETCH_MS, &object, e);
    if (r)
        return r > 0 ? -EIO : r;
    batch_sha256(buf_slice(&object), digest);
    if (strcasecmp(digest, sha256) != 0)
        return err_set(e, -EBADMSG, "%s is not the planned batch file: its SHA-256 differs",
                       source);
    r = batch_parse(buf_slice(&object), ret_b, e);
    return r ? err_prefix(e, r, "%s", source) : 0;
}
