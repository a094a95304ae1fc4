/* SPDX-License-Identifier: Apache-2.0 */
/* The manifest: what a plan consists of, written last (format in batch.h).
 *
 * Reading checks what the planner relies on when it finishes somebody else's plan: batches numbered 1..n in order,
 * object names that stay inside of the plan's directory, digests that are digests, counts that add up. */

#include "celeryc/base/clock.h"
#include "celeryc/base/limits.h"
#include "celeryc/batch/batch_priv.h"

#include <errno.h>

void manifest_deinit(struct manifest *m)
{
    if (!m)
        return;
    free(m->plan);
    free(m->migration);
    free(m->table);
    free(m->key);
    free(m->query);
    free(m->store);
    free(m->queue);
    free(m->database);
    free(m->created_by);
    strings_free(m->columns, m->n_columns);
    free(m->params_json);
    free(m->settings_json);
    free(m->on_planned);
    free(m->on_batch);
    free(m->on_paused);
    free(m->on_failed);
    free(m->on_finish);
    free(m->kind);
    free(m->parent);
    free(m->retry_on);
    for (size_t i = 0; i < m->n_batches; i++) {
        free(m->batches[i].object);
        free(m->batches[i].first_key);
        free(m->batches[i].last_key);
    }
    free(m->batches);
    *m = (struct manifest){0};
}

static void write_member(struct buf *dst, const char *key, const char *text)
{
    buf_appendf(dst, "\"%s\": ", key);
    json_write_string_or_null(dst, slice_str(text));
}

static void write_batch(struct buf *dst, const struct manifest_batch *b)
{
    buf_appendf(dst, "  {\"batch\": %lld, ", (long long)b->batch);
    write_member(dst, "object", b->object);
    buf_appendf(dst, ", \"count\": %lld, ", (long long)b->count);
    write_member(dst, "first_key", b->first_key);
    buf_append_str(dst, ", ");
    write_member(dst, "last_key", b->last_key);
    buf_append_str(dst, ", ");
    write_member(dst, "sha256", b->sha256);
    buf_append_char(dst, '}');
}

int manifest_write(struct buf *dst, const struct manifest *m)
{
    const struct {
        const char *key, *text;
    } members[] = {
        {"plan", m->plan},
        {"kind", m->kind},
        {"parent", m->parent},
        {"migration", m->migration},
        {"table", m->table},
        {"key", m->key},
        {"query", m->query},
        {"store", m->store},
        {"queue", m->queue},
        {"database", m->database},
        {"created_by", m->created_by},
        {"on_planned", m->on_planned},
        {"on_batch", m->on_batch},
        {"on_paused", m->on_paused},
        {"on_failed", m->on_failed},
        {"on_finish", m->on_finish},
        {"retry_on", m->retry_on},
    };

    char created[CLOCK_ISO_SIZE];

    buf_appendf(dst, "{\"format\": %d", BATCH_FORMAT);
    for (size_t i = 0; i < ARRAY_SIZE(members); i++) {
        buf_append_str(dst, ",\n ");
        write_member(dst, members[i].key, members[i].text);
    }
    clock_iso_format(m->created_us, created);
    buf_append_str(dst, ",\n ");
    write_member(dst, "created", created);
    buf_append_str(dst, ",\n \"columns\": [");
    for (size_t i = 0; i < m->n_columns; i++) {
        if (i)
            buf_append_str(dst, ", ");
        json_write_string(dst, slice_str(m->columns[i]));
    }
    buf_appendf(dst, "],\n \"params\": %s,\n \"settings\": %s,\n \"total\": %lld,\n \"batches\": [",
                m->params_json ? m->params_json : "{}", m->settings_json ? m->settings_json : "{}",
                (long long)m->total);
    for (size_t i = 0; i < m->n_batches; i++) {
        buf_append_str(dst, i ? ",\n" : "\n");
        write_batch(dst, &m->batches[i]);
    }
    buf_append_str(dst, "]}\n");
    return buf_ok(dst);
}

static bool is_digest(const char *s)
{
    return strlen(s) == 64 && strspn(s, "0123456789abcdef") == 64;
}

static bool is_object_name(const char *s)
{
    return *s && *s != '.' && !strchr(s, '/') && !strchr(s, '\\');
}

static int read_batch(const struct member *m, int64_t number, struct manifest_batch *b)
{
    CLEANUP(mem_free) char *sha256 = NULL;
    int code = member_int(m, "batch", false, number, number, &b->batch);

    if (!code)
        code = member_string(m, "object", false, &b->object);
    if (!code)
        code = member_int(m, "count", false, 1, LIMIT_BATCH_RECORDS, &b->count);
    if (!code)
        code = member_string(m, "first_key", true, &b->first_key);
    if (!code)
        code = member_string(m, "last_key", true, &b->last_key);
    if (!code)
        code = member_string(m, "sha256", false, &sha256);
    if (code)
        return code;
    if (!is_digest(sha256))
        return err_set(m->err, -EBADMSG, "%s: \"sha256\" is not 64 lower hex digits", m->what);
    if (!is_object_name(b->object))
        return err_set(m->err, -EBADMSG, "%s: \"object\" is no plain file name", m->what);
    memcpy(b->sha256, sha256, sizeof(b->sha256));
    return 0;
}

static int read_batches(const struct member *top, struct manifest *ret_m)
{
    struct json_val v = json_get(top->object, "batches");
    size_t n = v.kind == JSON_K_ARRAY ? json_len(v) : 0;
    struct json_iter it;
    int64_t sum = 0;

    if (n == 0)
        return err_set(top->err, -EBADMSG, "manifest: \"batches\" is no array of batches");
    ret_m->batches = calloc(n, sizeof(*ret_m->batches));
    if (!ret_m->batches)
        return -ENOMEM;
    json_iter_init(&it, v);
    while (json_next(&it)) {
        char what[48];
        struct member m = {it.val, top->arena, what, top->err};
        struct manifest_batch *b = &ret_m->batches[ret_m->n_batches];
        int code;

        (void)snprintf(what, sizeof(what), "manifest: batch %zu", ++ret_m->n_batches);
        code = read_batch(&m, (int64_t)ret_m->n_batches, b);
        if (code)
            return code;
        if (__builtin_add_overflow(sum, b->count, &sum))
            return err_set(top->err, -EBADMSG, "manifest: the counts overflow");
    }
    if (sum != ret_m->total)
        return err_set(top->err, -EBADMSG, "manifest: total %lld, but the batches hold %lld",
                       (long long)ret_m->total, (long long)sum);
    return 0;
}

static int read_created(const struct member *m, struct manifest *ret_m)
{
    CLEANUP(mem_free) char *text = NULL;
    int code = member_string(m, "created", false, &text);

    if (code)
        return code;
    if (clock_iso_parse(slice_str(text), &ret_m->created_us))
        return err_set(m->err, -EBADMSG, "manifest: \"created\" is not a time");
    return 0;
}

static int read_object(const struct member *m, const char *key, char **ret_text)
{
    struct json_val v = json_get(m->object, key);

    if (!json_is_null(v) && v.kind != JSON_K_OBJECT)
        return err_set(m->err, -EBADMSG, "manifest: \"%s\" is not an object", key);
    *ret_text = slice_dup(json_is_null(v) ? SLICE_LIT("{}") : v.raw);
    return *ret_text ? 0 : -ENOMEM;
}

static int read_members(const struct member *m, struct manifest *r)
{
    const struct {
        const char *key;
        char **ret_text;
        bool optional;
    } members[] = {
        {"plan", &r->plan, false},
        {"migration", &r->migration, false},
        {"table", &r->table, false},
        {"key", &r->key, false},
        {"query", &r->query, true},
        {"store", &r->store, false},
        {"queue", &r->queue, false},
        {"database", &r->database, false},
        {"created_by", &r->created_by, true},
        {"kind", &r->kind, true},
        {"parent", &r->parent, true},
        {"on_planned", &r->on_planned, true},
        {"on_batch", &r->on_batch, true},
        {"on_paused", &r->on_paused, true},
        {"on_failed", &r->on_failed, true},
        {"on_finish", &r->on_finish, true},
        {"retry_on", &r->retry_on, true},
    };

    int code = member_format(m);

    for (size_t i = 0; i < ARRAY_SIZE(members) && !code; i++)
        code = member_string(m, members[i].key, members[i].optional, members[i].ret_text);
    if (!code)
        code = member_strings(m, "columns", false, &r->columns, &r->n_columns);
    if (!code)
        code = member_int(m, "total", false, 1, INT64_MAX, &r->total);
    if (!code)
        code = read_created(m, r);
    if (!code)
        code = read_object(m, "params", &r->params_json);
    if (!code)
        code = read_object(m, "settings", &r->settings_json);
    return code ? code : read_batches(m, r);
}

int manifest_parse(struct slice text, struct manifest *ret_m, struct err *e)
{
    CLEANUP(manifest_deinit) struct manifest r = {0};
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct member m = {.arena = a, .what = "manifest", .err = e};
    int code;

    if (!a)
        return -ENOMEM;
    code = json_scan(text, &m.object, NULL);
    if (code == -ENOMEM)
        return code;
    if (code || m.object.kind != JSON_K_OBJECT)
        return err_set(e, -EBADMSG, "manifest: not a JSON object");
    code = read_members(&m, &r);
    if (code)
        return code;
    *ret_m = r;
    r = (struct manifest){0};
    return 0;
}
