/* SPDX-License-Identifier: Apache-2.0 */
/* The header line of a batch file: JSON object to struct and back (format in batch.h). */

#include "celeryc/base/key.h"
#include "celeryc/base/limits.h"
#include "celeryc/batch/batch_priv.h"

#include <errno.h>

void batch_header_deinit(struct batch_header *h)
{
    if (!h)
        return;
    if (h->types)
        strings_free(h->types, batch_width(h));
    free(h->plan);
    free(h->migration);
    free(h->table);
    free(h->key);
    free(h->statement);
    strings_free(h->columns, h->n_columns);
    *h = (struct batch_header){0};
}

size_t batch_width(const struct batch_header *h)
{
    return key_width(h->key) + h->n_columns;
}

/* Up to the next comma that stands outside of brackets: "numeric(8,2)" is one type. */
static size_t type_len(const char *p)
{
    size_t n = 0;

    for (int depth = 0; p[n] && (p[n] != ',' || depth > 0); n++)
        depth += (p[n] == '(') - (p[n] == ')');
    return n;
}

/* "int8,text" for a key of two columns; others' headers may have less, or more. */
static int split_key_types(const struct member *m, struct batch_header *h)
{
    size_t n = key_width(h->key);
    char *text = NULL;
    int code = member_string(m, "key_type", true, &text);

    const char *p = text;

    for (size_t i = 0; !code && p && i < n; i++) {
        size_t len = type_len(p);

        if (len && !(h->types[i] = slice_dup((struct slice){p, len})))
            code = -ENOMEM;
        p += len + (p[len] ? 1 : 0);
    }
    free(text);
    return code;
}

/* types = [key's types..., column_types...]; stays NULL when neither is known. */
static int read_types(const struct member *m, struct batch_header *h)
{
    bool columns = !json_is_null(json_get(m->object, "column_types"));
    char **texts = NULL;
    size_t n = 0;
    int code;

    if (!columns && json_is_null(json_get(m->object, "key_type")))
        return 0;
    h->types = calloc(batch_width(h) + 1, sizeof(*h->types));
    if (!h->types)
        return -ENOMEM;
    code = split_key_types(m, h);
    if (code || !columns)
        return code;
    code = member_strings(m, "column_types", true, &texts, &n);
    if (code)
        return code;
    if (n != h->n_columns) {
        strings_free(texts, n);
        return err_set(m->err, -EBADMSG, "%s: %zu \"column_types\" for %zu columns", m->what, n,
                       h->n_columns);
    }
    if (n)
        memcpy(h->types + key_width(h->key), texts, n * sizeof(*texts));
    free(texts);
    return 0;
}

static int read_members(const struct member *m, struct batch_header *h)
{
    int code = member_format(m);
    struct key key;

    if (!code)
        code = member_string(m, "plan", false, &h->plan);
    if (!code)
        code = member_int(m, "batch", false, 1, INT64_MAX, &h->batch);
    if (!code)
        code = member_string(m, "migration", false, &h->migration);
    if (!code)
        code = member_string(m, "table", false, &h->table);
    if (!code)
        code = member_string(m, "key", false, &h->key);
    if (!code)
        code = member_strings(m, "columns", false, &h->columns, &h->n_columns);
    if (!code)
        code = member_int(m, "count", false, 0, LIMIT_BATCH_RECORDS, &h->count);
    if (!code)
        code = member_int(m, "total_batches", true, 0, INT64_MAX, &h->total_batches);
    if (!code)
        code = member_string(m, "statement", true, &h->statement);
    if (!code && *h->key && key_parse(h->key, &key))
        code = err_set(m->err, -EBADMSG, "%s: \"key\" has an empty or repeated name, or too many",
                       m->what);
    return code ? code : read_types(m, h);
}

static bool has_empty(const struct batch_header *h)
{
    return !*h->plan || !*h->migration || !*h->table || !*h->key;
}

int header_parse(struct slice line, struct batch_header *ret_h, struct err *e)
{
    CLEANUP(batch_header_deinit) struct batch_header h = {0};
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct member m = {.arena = a, .what = "header", .err = e};
    int code;

    if (!a)
        return -ENOMEM;
    code = json_scan(line, &m.object, NULL);
    if (code == -ENOMEM)
        return code;
    if (code || m.object.kind != JSON_K_OBJECT)
        return err_set(e, -EBADMSG, "header: not a JSON object");
    code = read_members(&m, &h);
    if (code)
        return code;
    if (has_empty(&h))
        return err_set(e, -EBADMSG, "header: plan, migration, table and key must not be empty");
    *ret_h = h;
    h = (struct batch_header){0};
    return 0;
}

static void write_member(struct buf *dst, const char *key, const char *text)
{
    buf_appendf(dst, ", \"%s\": ", key);
    json_write_string_or_null(dst, slice_str(text));
}

static void write_array(struct buf *dst, const char *key, char *const *texts, size_t n)
{
    buf_appendf(dst, ", \"%s\": [", key);
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_append_str(dst, ", ");
        json_write_string_or_null(dst, slice_str(texts[i]));
    }
    buf_append_char(dst, ']');
}

static void write_key_types(struct buf *dst, char *const *types, size_t n)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    bool known = false;

    for (size_t i = 0; i < n; i++) {
        known = known || types[i];
        buf_appendf(&text, "%s%s", i ? "," : "", types[i] ? types[i] : "");
    }
    json_write_string_or_null(dst, known ? buf_slice(&text) : SLICE_NULL);
    dst->failed = dst->failed || text.failed;
}

void header_write(struct buf *dst, const struct batch_header *h, size_t count)
{
    buf_appendf(dst, "{\"format\": %d", BATCH_FORMAT);
    write_member(dst, "plan", h->plan);
    buf_appendf(dst, ", \"batch\": %lld", (long long)h->batch);
    write_member(dst, "migration", h->migration);
    write_member(dst, "table", h->table);
    write_member(dst, "key", h->key);
    write_array(dst, "columns", h->columns, h->n_columns);
    if (h->types) {
        size_t n = key_width(h->key);

        buf_append_str(dst, ", \"key_type\": ");
        write_key_types(dst, h->types, n);
        write_array(dst, "column_types", h->types + n, h->n_columns);
    } else {
        buf_append_str(dst, ", \"key_type\": null, \"column_types\": null");
    }
    buf_appendf(dst, ", \"count\": %zu, \"total_batches\": ", count);
    if (h->total_batches)
        json_write_i64(dst, h->total_batches);
    else
        buf_append_str(dst, "null");
    if (h->statement)
        write_member(dst, "statement", h->statement);
    buf_append_str(dst, "}\n");
}
