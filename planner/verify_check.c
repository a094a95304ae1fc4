/* SPDX-License-Identifier: Apache-2.0 */
/* The migration's own check of the records that were done, some hundred at a time: its function gets the planned values and
 * those that the table holds now, or the SELECT of a file of SQL runs over the planned ones. A row that is gone is only
 * counted: nobody says that it must stay. */

#include "planner/verify.h"

#include "celeryc/base/map.h"
#include "celeryc/migrate/sqlfile.h"

#include <errno.h>

#define GROUP    500
#define LEASE_MS 60000

struct item {
    int64_t batch, position;
    struct slice *planned; /* key, and what the migration reads */
    bool seen;
};

struct checker {
    const struct parent *parent;
    const struct scatter_migration *m;
    struct scatter_migration now; /* its reads: what m reads or writes */
    const char *sql;
    struct db *db; /* of its own */
    struct arena *arena, *group;
    struct item items[GROUP];
    size_t n;
    struct map *by_key;
    int64_t checked, gone;
    struct finding failed;
    struct err err;
};

/* ---- findings ---- */

void finding_deinit(struct finding *f)
{
    for (size_t i = 0; i < f->n_keys; i++) {
        free(f->keys[i]);
        free(f->reasons[i]);
    }
}

int finding_add(struct finding *f, struct slice key, const char *reason)
{
    f->n++;
    if (f->n_keys == SHOWN)
        return 0;
    char *copy = slice_dup(key), *why = reason ? slice_dup(slice_str(reason)) : NULL;

    if (!copy || (reason && !why)) {
        free(copy);
        free(why);
        return -ENOMEM;
    }
    f->reasons[f->n_keys] = why;
    f->keys[f->n_keys++] = copy;
    return 0;
}

void finding_write(struct buf *b, const char *name, const struct finding *f)
{
    buf_appendf(b, ", \"%s\": %lld, \"%s_keys\": [", name, (long long)f->n, name);
    for (size_t i = 0; i < f->n_keys; i++) {
        buf_append_str(b, i ? ", " : "");
        json_write_string(b, slice_str(f->keys[i]));
    }
    buf_append_char(b, ']');
}

/* ---- making it ---- */

struct checker *checker_free(struct checker *c)
{
    if (!c)
        return NULL;
    db_close(c->db);
    map_free(c->by_key);
    finding_deinit(&c->failed);
    arena_free(c->group);
    arena_free(c->arena);
    free(c);
    return NULL;
}

static bool has(const char *const *names, const char *name)
{
    for (size_t i = 0; i < migrate_columns(names); i++)
        if (str_eq(names[i], name))
            return true;
    return false;
}

static int columns_now(struct checker *c, struct err *e)
{
    size_t n = migrate_columns(c->m->reads);

    c->now = *c->m;
    for (size_t i = 0; i < migrate_columns(c->m->writes); i++) {
        if (has(c->m->reads, c->m->writes[i]))
            continue;
        if (n == SCATTER_MAX_COLUMNS)
            return err_set(e, -E2BIG, "migration %s reads and writes more than %d columns together",
                           c->m->name, SCATTER_MAX_COLUMNS);
        c->now.reads[n++] = c->m->writes[i];
    }
    return 0;
}

/* What there is to ask, from the plan's file of SQL or from a plug-in. */
static int find_check(struct checker *c, struct err *e)
{
    const struct parent *p = c->parent;

    if (!p->statement) {
        const struct scatter_migration *m = migrate_find(p->plan.migration);

        c->m = m && m->check ? m : NULL;
        return c->m ? columns_now(c, e) : 0;
    }
    struct sql_file *f = arena_alloc(c->arena, sizeof(*f));
    int r = f ? sql_file_parse(slice_str(p->statement), c->arena, f, e) : -ENOMEM;

    if (!r && f->check) {
        c->m = &f->m;
        c->sql = f->check;
    }
    return r;
}

int checker_new(const struct parent *p, const char *database_url, struct checker **ret_c,
                struct err *e)
{
    CLEANUP(checker_free) struct checker *c = calloc(1, sizeof(*c));

    if (!c)
        return -ENOMEM;
    c->parent = p;
    c->arena = arena_new();
    c->group = arena_new();
    c->by_key = map_new();
    if (!c->arena || !c->group || !c->by_key)
        return -ENOMEM;
    int r = find_check(c, e);

    if (r || !c->m)
        return r;
    r = db_open(database_url, &c->db, e);
    if (r)
        return r > 0 ? -EIO : r;
    *ret_c = STEAL(c);
    return 0;
}

/* ---- what stands there now ---- */

static int no_columns(const char *const *names, const char *const *types, size_t n, void *arg)
{
    (void)names;
    (void)types;
    (void)n;
    (void)arg;
    return 0;
}

static int fail(struct checker *c, const struct slice *key, const char *reason)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;

    key_text(&text, key, c->parent->n_keys);
    return buf_ok(&text) ? -ENOMEM : finding_add(&c->failed, buf_slice(&text), reason);
}

/* Values of a row end with a NUL for the function. */
static int copy_row(struct arena *a, const struct slice *values, size_t n, struct slice **ret)
{
    struct slice *out = arena_alloc_array(a, n + 1, sizeof(*out));

    for (size_t i = 0; out && i < n; i++) {
        char *copy = values[i].p ? arena_strdup(a, values[i]) : NULL;

        if (values[i].p && !copy)
            return -ENOMEM;
        out[i] = (struct slice){copy, values[i].len};
    }
    *ret = out;
    return out ? 0 : -ENOMEM;
}

static int on_row(const struct slice *values, size_t n, void *arg)
{
    struct checker *c = arg;
    CLEANUP(buf_deinit) struct buf key = BUF_INIT;
    struct slice *now = NULL;
    const char *reason = NULL;

    key_text(&key, values, c->parent->n_keys);
    if (buf_ok(&key) || copy_row(c->group, values, n, &now))
        return -ENOMEM;
    struct item *item = map_get(c->by_key, buf_slice(&key));

    if (!item)
        return 0;
    item->seen = true;
    const struct migrate_call call = {.m = c->m,
                                      .key = c->parent->plan.key,
                                      .params = c->parent->params,
                                      .fields = item->planned,
                                      .arena = c->group,
                                      .plan = c->parent->plan.plan,
                                      .batch = item->batch,
                                      .position = item->position};
    int r = migrate_call_check(&call, &c->now, now, &reason);

    return r || !reason ? r : fail(c, now, reason);
}

static void write_keys(struct checker *c, struct buf *sql)
{
    const struct parent *p = c->parent;

    for (size_t i = 0; p->n_keys == 1 && i < c->n; i++) {
        buf_append_str(sql, i ? ", " : " IN (");
        db_quote_text(sql, c->items[i].planned[0]);
    }
    for (size_t i = 0; p->n_keys > 1 && i < c->n; i++) {
        buf_append_str(sql, i ? " OR (" : "(");
        for (size_t k = 0; k < p->n_keys; k++) {
            buf_append_str(sql, k ? " AND " : "");
            db_quote_name(sql, slice_str(p->keys[k]));
            buf_append_str(sql, " = ");
            db_quote_text(sql, c->items[i].planned[k]);
        }
        buf_append_char(sql, ')');
    }
    if (p->n_keys == 1)
        buf_append_char(sql, ')');
}

static int ask_function(struct checker *c, struct err *e)
{
    CLEANUP(buf_deinit) struct buf sql = BUF_INIT;
    const struct parent *p = c->parent;
    const struct db_stream s = {no_columns, on_row, c};

    buf_append_str(&sql, "SELECT ");
    for (size_t i = 0; i < p->n_keys; i++) {
        buf_append_str(&sql, i ? ", " : "");
        db_quote_name(&sql, slice_str(p->keys[i]));
    }
    for (size_t i = 0; i < migrate_columns(c->now.reads); i++) {
        buf_append_str(&sql, ", ");
        db_quote_name(&sql, slice_str(c->now.reads[i]));
    }
    buf_append_str(&sql, " FROM ");
    db_quote_table(&sql, p->plan.table);
    buf_append_str(&sql, " WHERE ");
    if (p->n_keys == 1)
        db_quote_name(&sql, slice_str(p->keys[0]));
    write_keys(c, &sql);
    if (buf_ok(&sql))
        return -ENOMEM;
    int r = db_stream_query(c->db, sql.data, &s, e);

    for (size_t i = 0; i < c->n; i++)
        c->gone += !c->items[i].seen;
    return r;
}

/* ---- the SELECT of a file ---- */

static int ask_sql(struct checker *c, struct err *e)
{
    static const char *const reason[] = {"reason"};
    struct db_row *rows = arena_alloc_array(c->group, c->n, sizeof(*rows));
    struct slice *fresh = arena_alloc_array(c->group, c->n, sizeof(*fresh));
    bool *found = arena_alloc_array(c->group, c->n, sizeof(*found));
    const struct db_target t = {.table = c->parent->plan.table,
                                .key = c->parent->plan.key,
                                .reads = c->m->reads,
                                .n_reads = migrate_columns(c->m->reads),
                                .writes = reason,
                                .n_writes = 1};
    const struct db_compute q = {.target = &t,
                                 .body = c->sql,
                                 .rows = rows,
                                 .n_rows = c->n,
                                 .lease_ms = LEASE_MS,
                                 .arena = c->group,
                                 .free_names = true,
                                 .fresh = fresh,
                                 .found = found};

    if (!rows || !fresh || !found)
        return -ENOMEM;
    for (size_t i = 0; i < c->n; i++)
        rows[i].old = c->items[i].planned;
    int r = db_compute(c->db, &q, e);

    for (size_t i = 0; !r && i < c->n; i++)
        if (found[i])
            r = fail(c, c->items[i].planned, fresh[i].p ? fresh[i].p : "");
    return r;
}

/* ---- records ---- */

int checker_flush(struct checker *c, struct err *e)
{
    struct err why = ERR_INIT;

    if (c->n == 0)
        return 0;
    int r = c->sql ? ask_sql(c, &why) : ask_function(c, &why);

    c->checked += (int64_t)c->n;
    c->n = 0;
    arena_reset(c->group);
    c->by_key = map_free(c->by_key);
    c->by_key = map_new();
    if (r)
        return err_set(e, r > 0 ? -EIO : r, "the migration's check: %s", err_text(&why, r));
    return c->by_key ? 0 : -ENOMEM;
}

/* The places of the columns read; a file that was planned with others cannot be asked about. */
static int planned_values(struct checker *c, const struct batch_header *h,
                          const struct batch_record *record, struct slice *values, struct err *e)
{
    size_t n_keys = c->parent->n_keys;

    memcpy(values, record->field, n_keys * sizeof(*values));
    for (size_t i = 0; i < migrate_columns(c->m->reads); i++) {
        size_t at = 0;

        while (at < h->n_columns && !str_eq(h->columns[at], c->m->reads[i]))
            at++;
        if (at == h->n_columns)
            return err_set(e, -EBADMSG,
                           "batch %lld of plan %s has no column %s, which the migration's check "
                           "reads: load the version that ran",
                           (long long)h->batch, h->plan, c->m->reads[i]);
        values[n_keys + i] = record->field[n_keys + at];
    }
    return 0;
}

int checker_add(struct checker *c, const struct batch_header *h, int64_t position,
                const struct batch_record *record, struct err *e)
{
    CLEANUP(buf_deinit) struct buf key = BUF_INIT;
    size_t n = c->parent->n_keys + migrate_columns(c->m->reads);
    struct slice *values = arena_alloc_array(c->group, n + 1, sizeof(*values));
    struct item *item = &c->items[c->n];

    if (!values)
        return -ENOMEM;
    int r = planned_values(c, h, record, values, e);

    *item = (struct item){.batch = h->batch, .position = position};
    if (!r)
        r = copy_row(c->group, values, n, &item->planned);
    key_text(&key, values, c->parent->n_keys);
    if (!r)
        r = buf_ok(&key) ? -ENOMEM : map_set(c->by_key, buf_slice(&key), item);
    if (r)
        return r;
    return ++c->n == GROUP ? checker_flush(c, e) : 0;
}

/* ---- the result ---- */

bool checker_holds(const struct checker *c)
{
    return !c || c->failed.n == 0;
}

void checker_write(struct buf *b, const struct checker *c, int64_t of)
{
    if (!c) {
        buf_append_str(b, "null");
        return;
    }
    buf_appendf(b, "{\"checked\": %lld, \"of\": %lld, \"gone\": %lld", (long long)c->checked,
                (long long)of, (long long)c->gone);
    finding_write(b, "failed", &c->failed);
    buf_append_str(b, ", \"reasons\": [");
    for (size_t i = 0; i < c->failed.n_keys; i++) {
        buf_append_str(b, i ? ", " : "");
        json_write_string(b, slice_str(c->failed.reasons[i]));
    }
    buf_append_str(b, "]}");
}

void checker_text(struct buf *b, const struct checker *c, int64_t of)
{
    char n[32], all[32], gone[32];

    if (!c)
        return;
    buf_appendf(b, "check    %s of %s records by the migration, %s are gone\n",
                progress_number(c->checked, n), progress_number(of, all),
                progress_number(c->gone, gone));
    buf_appendf(b, "failed   %s records are not as they should be\n",
                progress_number(c->failed.n, n));
    for (size_t i = 0; i < c->failed.n_keys; i++)
        buf_appendf(b, "         %s: %s\n", c->failed.keys[i], c->failed.reasons[i]);
}
