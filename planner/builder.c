/* SPDX-License-Identifier: Apache-2.0 */
/* The builder keeps one batch in memory, and of the finished ones what the manifest says.
 *
 * A key may come once: rows must be ordered so that a repeated one shows next to (or below) its twin. What a row is
 * refused for is said with its key, and then nothing of the plan is kept. */

#include "planner/builder.h"

#include "celeryc/base/key.h"
#include "celeryc/base/limits.h"
#include "celeryc/message/json.h"
#include "planner/stop.h"

#include <errno.h>

struct builder {
    struct builder_options o;
    struct batch_writer *writer;
    struct key key;
    size_t width; /* key and columns */
    size_t *at;   /* where each of them stands in a row */
    size_t row_width;
    char **types; /* width, for the header */
    enum batch_kind *kinds, *row_kinds;
    struct slice *fields;
    enum key_order order[LIMIT_KEY_COLUMNS];
    struct buf last_value[LIMIT_KEY_COLUMNS]; /* of the last key, column by column */
    struct buf last_key, first_key;           /* as key_write writes them */
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
    ASSERT(key_parse(r->key, &b->key) == 0); /* the request was checked */
    b->width = r->n_columns + b->key.n;
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
    for (size_t i = 0; i < b->key.n; i++)
        buf_deinit(&b->last_value[i]);
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

static int missing(const char *what, struct slice name, const char *const *names, size_t n,
                   struct err *e)
{
    CLEANUP(buf_deinit) struct buf there = BUF_INIT;

    for (size_t i = 0; i < n; i++)
        buf_appendf(&there, "%s%s", i ? ", " : "", names[i]);
    return err_set(e, -EINVAL, "the query has no %s \"%.*s\" (it gives %s): add it, or correct %s",
                   what, (int)name.len, name.p, there.len ? there.data : "nothing",
                   str_eq(what, "column") ? "--columns" : "--key");
}

struct row_columns {
    const char *const *names, *const *types;
    size_t n;
};

/* Where the name stands, n when nowhere. */
static int find_column(const struct row_columns *c, struct slice name, size_t *ret_at,
                       struct err *e)
{
    size_t found = c->n;

    for (size_t i = 0; i < c->n; i++) {
        if (!slice_eq_str(name, c->names[i]))
            continue;
        if (found < c->n)
            return err_set(e, -EINVAL,
                           "the query gives two columns named \"%.*s\": rename one (AS)",
                           (int)name.len, name.p);
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

static int place(struct builder *b, size_t k, const char *what, struct slice name,
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
                    const enum key_order *order, struct err *e)
{
    const struct request *r = b->o.request;
    const struct row_columns c = {names, types, n};
    int code = 0;

    for (size_t i = 0; i < b->key.n && !code; i++) {
        code = place(b, i, "key column", b->key.column[i], &c, e);
        b->order[i] = order ? order[i] : KEY_DISTINCT;
    }
    for (size_t i = 0; i < r->n_columns && !code; i++)
        code = place(b, b->key.n + i, "column", slice_str(r->columns[i]), &c, e);
    b->row_width = n;
    if (!code && b->o.on_columns)
        code = b->o.on_columns(names, n, b->o.arg);
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

/* The key of the present row as people are told it, cut to a line. */
static int bad_key(const struct builder *b, const char *what, struct err *e)
{
    CLEANUP(buf_deinit) struct buf key = BUF_INIT;

    key_write(&key, b->fields, b->key.n);
    if (buf_ok(&key))
        return -ENOMEM;
    return err_set(e, -EINVAL, "record %lld: key \"%.*s\" %s: %s", (long long)b->total + 1,
                   (int)MIN(key.len, 80), key.data ? key.data : "", what, b->o.fix_order);
}

static int check_value(struct builder *b, size_t i, struct err *e)
{
    struct slice name = b->key.column[i];

    if (!b->fields[i].p)
        return err_set(e, -EINVAL,
                       "record %lld: the key \"%.*s\" is NULL: add WHERE %.*s IS NOT NULL",
                       (long long)b->total + 1, (int)name.len, name.p, (int)name.len, name.p);
    if (b->order[i] == KEY_BY_VALUE)
        b->order[i] = b->row_kinds[i] == BATCH_NUMBER ? KEY_INTEGER : KEY_BYTES;
    if (b->order[i] == KEY_INTEGER && !is_integer(b->fields[i]))
        return bad_key(b, "is no integer as the others are", e);
    return 0;
}

/* The last key's column beside this one's: below 0 in order, 0 the same. */
static int compare_value(const struct builder *b, size_t i)
{
    struct slice last = buf_slice(&b->last_value[i]), now = b->fields[i];

    if (b->order[i] == KEY_INTEGER)
        return compare_integers(last, now);
    if (b->order[i] == KEY_BYTES)
        return compare_bytes(last, now);
    return slice_eq(last, now) ? 0 : -1;
}

static int check_key(struct builder *b, struct err *e)
{
    int c = 0;

    for (size_t i = 0; i < b->key.n; i++) {
        int code = check_value(b, i, e);

        if (code)
            return code;
    }
    if (b->total == 0)
        return 0;
    for (size_t i = 0; i < b->key.n && c == 0; i++)
        c = compare_value(b, i);
    if (c == 0)
        return bad_key(b, "comes twice", e);
    return c < 0 ? 0 : bad_key(b, "comes after a greater one", e);
}

static int remember_key(struct builder *b)
{
    int code = 0;

    for (size_t i = 0; i < b->key.n; i++) {
        buf_reset(&b->last_value[i]);
        buf_append_slice(&b->last_value[i], b->fields[i]);
        code = code ? code : buf_ok(&b->last_value[i]);
    }
    buf_reset(&b->last_key);
    key_write(&b->last_key, b->fields, b->key.n);
    if (batch_writer_len(b->writer) == 1) {
        buf_reset(&b->first_key);
        buf_append_slice(&b->first_key, buf_slice(&b->last_key));
    }
    return code || buf_ok(&b->last_key) || buf_ok(&b->first_key) ? -ENOMEM : 0;
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
    CLEANUP(buf_deinit) struct buf key = BUF_INIT;
    int code = batch_writer_add(b->writer, b->fields, b->row_kinds, b->width);

    if (code != -EILSEQ && code != -E2BIG)
        return code;
    key_write(&key, b->fields, b->key.n);
    if (buf_ok(&key))
        return -ENOMEM;
    if (code == -EILSEQ)
        return err_set(
            e, -EINVAL,
            "the record with key \"%.*s\" holds a NUL character or a text that is not UTF-8: "
            "leave it out of the query or mend it",
            (int)MIN(key.len, 80), key.data ? key.data : "");
    return err_set(e, -EINVAL, "the record with key \"%.*s\" is larger than %u MiB",
                   (int)MIN(key.len, 80), key.data ? key.data : "", LIMIT_BATCH_LINE >> 20);
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
                             .n_columns = r->n_columns,
                             .statement = (char *)r->args->statement};

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
    code = check_key(b, e);
    if (!code)
        code = add_record(b, e);
    if (!code && b->o.dry_run && b->n_sample < BUILDER_SAMPLE)
        code = add_sample(b);
    if (!code && b->o.on_record)
        code = b->o.on_record(b->fields, values, b->o.arg, e);
    if (code)
        return code;
    b->total++;
    code = remember_key(b);
    if (code)
        return code;
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
