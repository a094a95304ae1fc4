/* SPDX-License-Identifier: Apache-2.0 */
/* The builder keeps one batch in memory, and of the finished ones what the manifest says.
 *
 * A key may come once: rows must be ordered so that a repeated one shows next to (or below) its twin. What a row is
 * refused for is said with its key, and then nothing of the plan is kept. */

#include "planner/builder.h"

#include "celeryc/base/limits.h"
#include "celeryc/message/json.h"
#include "planner/stop.h"

#include <errno.h>

struct builder {
    struct builder_options o;
    struct batch_writer *writer;
    struct batch_header header; /* plan, migration, table, key, columns are borrowed */
    size_t width;               /* key and columns */
    size_t *at;                 /* where each of them stands in a row */
    size_t row_width;
    char **types; /* width, for the header */
    enum batch_kind *kinds, *row_kinds;
    struct slice *fields;
    enum key_order order;
    struct buf last_key, first_key;
    int64_t total;
    struct manifest_batch *batches;
    size_t n_batches, cap_batches;
    char *sample[BUILDER_SAMPLE];
    size_t n_sample;
};

struct builder *builder_new(const struct builder_options *o)
{
    struct builder *b = calloc(1, sizeof(*b));
    const struct request *r = o->request;

    if (!b)
        return NULL;
    b->o = *o;
    b->width = r->n_columns + 1;
    b->writer = batch_writer_new();
    b->at = calloc(b->width, sizeof(*b->at));
    b->types = calloc(b->width, sizeof(*b->types));
    b->kinds = calloc(b->width, sizeof(*b->kinds));
    b->row_kinds = calloc(b->width, sizeof(*b->row_kinds));
    b->fields = calloc(b->width, sizeof(*b->fields));
    if (!b->writer || !b->at || !b->types || !b->kinds || !b->row_kinds || !b->fields)
        return builder_free(b);
    return b;
}

struct builder *builder_free(struct builder *b)
{
    if (!b)
        return NULL;
    batch_writer_free(b->writer);
    free(b->at);
    for (size_t i = 0; b->types && i < b->width; i++)
        free(b->types[i]);
    free(b->types);
    free(b->kinds);
    free(b->row_kinds);
    free(b->fields);
    buf_deinit(&b->last_key);
    buf_deinit(&b->first_key);
    for (size_t i = 0; i < b->n_batches; i++) {
        free(b->batches[i].object);
        free(b->batches[i].first_key);
        free(b->batches[i].last_key);
    }
    free(b->batches);
    for (size_t i = 0; i < b->n_sample; i++)
        free(b->sample[i]);
    free(b);
    return NULL;
}

/* ---- columns ---- */

static int missing(const char *what, const char *name, const char *const *names, size_t n,
                   struct err *e)
{
    CLEANUP(buf_deinit) struct buf there = BUF_INIT;

    for (size_t i = 0; i < n; i++)
        buf_appendf(&there, "%s%s", i ? ", " : "", names[i]);
    return err_set(e, -EINVAL, "the query has no %s \"%s\" (it gives %s): add it, or correct %s",
                   what, name, there.len ? there.data : "nothing",
                   str_eq(what, "column") ? "--columns" : "--key");
}

struct row_columns {
    const char *const *names, *const *types;
    size_t n;
};

/* Where the name stands, n when nowhere. */
static int find_column(const struct row_columns *c, const char *name, size_t *ret_at, struct err *e)
{
    size_t found = c->n;

    for (size_t i = 0; i < c->n; i++) {
        if (!str_eq(c->names[i], name))
            continue;
        if (found < c->n)
            return err_set(e, -EINVAL, "the query gives two columns named \"%s\": rename one (AS)",
                           name);
        found = i;
    }
    *ret_at = found;
    return 0;
}

static int set_type(struct builder *b, size_t k, const char *type)
{
    free(b->types[k]);
    b->types[k] = NULL;
    b->kinds[k] = batch_kind_of_type(type);
    if (!type || !*type)
        return 0;
    b->types[k] = slice_dup(slice_str(type));
    return b->types[k] ? 0 : -ENOMEM;
}

static int place(struct builder *b, size_t k, const char *what, const char *name,
                 const struct row_columns *c, struct err *e)
{
    size_t at = 0;
    int code = find_column(c, name, &at, e);

    if (code)
        return code;
    if (at == c->n)
        return missing(what, name, c->names, c->n, e);
    b->at[k] = at;
    return set_type(b, k, c->types ? c->types[at] : NULL);
}

int builder_columns(struct builder *b, const char *const *names, const char *const *types, size_t n,
                    enum key_order order, struct err *e)
{
    const struct request *r = b->o.request;
    const struct row_columns c = {names, types, n};
    int code = place(b, 0, "key column", r->key, &c, e);

    for (size_t i = 0; i < r->n_columns && !code; i++)
        code = place(b, i + 1, "column", r->columns[i], &c, e);
    b->row_width = n;
    b->order = order;
    return code;
}

/* ---- keys ---- */

static int compare_bytes(struct slice a, struct slice b)
{
    size_t n = MIN(a.len, b.len);
    int c = n ? memcmp(a.p, b.p, n) : 0;

    if (c)
        return c;
    return a.len < b.len ? -1 : a.len > b.len;
}

/* Decimal integers of any size; -0 is 0. */
static int compare_integers(struct slice a, struct slice b)
{
    bool neg_a = a.len && a.p[0] == '-', neg_b = b.len && b.p[0] == '-';
    int c;

    if (neg_a != neg_b)
        return neg_a ? -1 : 1;
    if (neg_a)
        return compare_integers((struct slice){b.p + 1, b.len - 1},
                                (struct slice){a.p + 1, a.len - 1});
    c = a.len < b.len ? -1 : a.len > b.len;
    return c ? c : compare_bytes(a, b);
}

static bool is_integer(struct slice s)
{
    size_t i = s.len && s.p[0] == '-' ? 1 : 0;

    if (i == s.len)
        return false;
    for (; i < s.len; i++)
        if (s.p[i] < '0' || s.p[i] > '9')
            return false;
    return true;
}

static int bad_key(const struct builder *b, struct slice key, const char *what, struct err *e)
{
    return err_set(e, -EINVAL, "record %lld: key \"%.*s\" %s: %s", (long long)b->total + 1,
                   (int)MIN(key.len, 80), key.p ? key.p : "", what, b->o.fix_order);
}

static int check_key(struct builder *b, struct slice key, enum batch_kind kind, struct err *e)
{
    int c;

    if (!key.p)
        return err_set(e, -EINVAL, "record %lld: the key \"%s\" is NULL: add WHERE %s IS NOT NULL",
                       (long long)b->total + 1, b->o.request->key, b->o.request->key);
    if (b->order == KEY_BY_VALUE)
        b->order = kind == BATCH_NUMBER ? KEY_INTEGER : KEY_BYTES;
    if (b->order == KEY_INTEGER && !is_integer(key))
        return bad_key(b, key, "is no integer as the others are", e);
    if (b->total == 0)
        return 0;
    if (b->order == KEY_INTEGER)
        c = compare_integers(buf_slice(&b->last_key), key);
    else if (b->order == KEY_BYTES)
        c = compare_bytes(buf_slice(&b->last_key), key);
    else
        c = slice_eq(buf_slice(&b->last_key), key) ? 0 : -1;
    if (c == 0)
        return bad_key(b, key, "comes twice", e);
    return c < 0 ? 0 : bad_key(b, key, "comes after a greater one", e);
}

static void remember(struct buf *b, struct slice key)
{
    buf_reset(b);
    buf_append_slice(b, key);
}

/* ---- rows and batches ---- */

static int add_sample(struct builder *b)
{
    CLEANUP(buf_deinit) struct buf t = BUF_INIT;

    for (size_t i = 0; i < b->width; i++) {
        buf_append_str(&t, i ? ", " : "[");
        if (b->row_kinds[i] == BATCH_TEXT || !b->fields[i].p)
            json_write_string_or_null(&t, b->fields[i]);
        else
            buf_append_slice(&t, b->fields[i]);
    }
    buf_append_char(&t, ']');
    b->sample[b->n_sample] = buf_take(&t);
    return b->sample[b->n_sample++] ? 0 : -ENOMEM;
}

static int add_record(struct builder *b, struct err *e)
{
    int code = batch_writer_add(b->writer, b->fields, b->row_kinds, b->width);

    if (code == -EILSEQ)
        return err_set(
            e, -EINVAL,
            "the record with key \"%.*s\" holds a NUL character or a text that is not UTF-8: "
            "leave it out of the query or mend it",
            (int)MIN(b->fields[0].len, 80), b->fields[0].p);
    if (code == -E2BIG)
        return err_set(e, -EINVAL, "the record with key \"%.*s\" is larger than %u MiB",
                       (int)MIN(b->fields[0].len, 80), b->fields[0].p, LIMIT_BATCH_LINE >> 20);
    return code;
}

/* The finished batch's entry; the batch counts only once it is complete. */
static int new_entry(struct builder *b, struct manifest_batch **ret_m)
{
    struct manifest_batch *m;
    char name[40];

    if (b->n_batches == b->cap_batches) {
        size_t cap = b->cap_batches ? 2 * b->cap_batches : 64;

        m = reallocarray(b->batches, cap, sizeof(*m));
        if (!m)
            return -ENOMEM;
        b->batches = m;
        b->cap_batches = cap;
    }
    m = &b->batches[b->n_batches];
    *m = (struct manifest_batch){.batch = (int64_t)b->n_batches + 1};
    b->n_batches++;
    batch_object_name(m->batch, name);
    m->count = (int64_t)batch_writer_len(b->writer);
    m->object = slice_dup(slice_str(name));
    m->first_key = slice_dup(buf_slice(&b->first_key));
    m->last_key = slice_dup(buf_slice(&b->last_key));
    *ret_m = m;
    return m->object && m->first_key && m->last_key ? 0 : -ENOMEM;
}

static int finish_batch(struct builder *b, struct err *e)
{
    const struct request *r = b->o.request;
    CLEANUP(buf_deinit) struct buf object = BUF_INIT;
    struct manifest_batch *m;
    bool typed = false;
    int code = new_entry(b, &m);

    if (code)
        return code;
    for (size_t i = 0; i < b->width; i++)
        typed = typed || b->types[i];
    struct batch_header h = {.plan = (char *)r->plan,
                             .batch = m->batch,
                             .migration = (char *)r->args->migration,
                             .table = (char *)r->table,
                             .key = (char *)r->key,
                             .columns = r->columns,
                             .types = typed ? b->types : NULL,
                             .n_columns = r->n_columns};

    code = batch_writer_finish(b->writer, &h, &object, m->sha256);
    if (code || b->o.dry_run)
        return code;
    return b->o.on_batch(m, &object, b->o.arg, e);
}

int builder_row(struct builder *b, const struct slice *values, const enum batch_kind *kinds,
                size_t n, struct err *e)
{
    int code;

    if (stop_requested())
        return err_set(e, -EINTR, "interrupted");
    if (n != b->row_width)
        return err_set(e, -EINVAL, "record %lld has %zu values for %zu columns",
                       (long long)b->total + 1, n, b->row_width);
    for (size_t i = 0; i < b->width; i++) {
        b->fields[i] = values[b->at[i]];
        b->row_kinds[i] = kinds ? kinds[b->at[i]] : b->kinds[i];
    }
    code = check_key(b, b->fields[0], b->row_kinds[0], e);
    if (!code)
        code = add_record(b, e);
    if (!code && b->o.dry_run && b->n_sample < BUILDER_SAMPLE)
        code = add_sample(b);
    if (code)
        return code;
    b->total++;
    remember(&b->last_key, b->fields[0]);
    if (batch_writer_len(b->writer) == 1)
        remember(&b->first_key, b->fields[0]);
    if (buf_ok(&b->last_key) || buf_ok(&b->first_key))
        return -ENOMEM;
    if ((b->total & 1023) == 0)
        progress_update(b->o.progress, b->total, (int64_t)b->n_batches, -1);
    /* The canary's last record ends a batch, so that its batches hold nothing else. */
    if ((int64_t)batch_writer_len(b->writer) == b->o.request->args->batch_size ||
        b->total == b->o.request->args->canary)
        return finish_batch(b, e);
    return 0;
}

int builder_finish(struct builder *b, struct err *e)
{
    return batch_writer_len(b->writer) ? finish_batch(b, e) : 0;
}

int64_t builder_total(const struct builder *b)
{
    return b->total;
}

const struct manifest_batch *builder_batches(const struct builder *b, size_t *ret_n)
{
    *ret_n = b->n_batches;
    return b->batches;
}

const char *builder_sample(const struct builder *b, size_t i)
{
    return i < b->n_sample ? b->sample[i] : NULL;
}
