/* SPDX-License-Identifier: Apache-2.0 */
/* The reader and writer of tables. A value that does not fit never gets into a struct. */

#include "k8s/scaler/fields.h"

#include "celeryc/base/strv.h"
#include "k8s/scaler/decide.h"

#include <errno.h>
#include <math.h>

const struct field *field_find(const struct field *table, struct slice name)
{
    for (const struct field *f = table; f->name; f++)
        if (slice_eq_str(name, f->name))
            return f;
    return NULL;
}

static int wrong(const struct field *f, struct json_val v, const char *what, struct err *e)
{
    return err_set(e, -EINVAL, "\"%s\": %.*s is not %s", f->name, (int)MIN(v.raw.len, 80),
                   v.raw.p ? v.raw.p : "", what);
}

static int set_word(const struct field *f, void *at, struct json_val v, struct err *e)
{
    CLEANUP(buf_deinit) struct buf all = BUF_INIT;

    for (int i = 0; f->words[i]; i++) {
        size_t n = strlen(f->words[i]);

        buf_appendf(&all, "%s\"%s\"", i ? ", " : "", f->words[i]);
        if (v.kind == JSON_K_STRING && v.raw.len == n + 2 &&
            memcmp(v.raw.p + 1, f->words[i], n) == 0) {
            *(int *)at = i;
            return 0;
        }
    }
    return err_set(e, -EINVAL, "\"%s\": %.*s is none of %s", f->name, (int)MIN(v.raw.len, 80),
                   v.raw.p ? v.raw.p : "", all.data ? all.data : "");
}

static int set_number(const struct field *f, void *at, struct json_val v, struct err *e)
{
    char range[64];
    double d;

    (void)snprintf(range, sizeof(range), "a%s number from %g to %g",
                   f->kind == FIELD_NUM ? "" : " whole", f->min, f->max);
    if (f->kind != FIELD_NUM && v.kind != JSON_K_INT)
        return wrong(f, v, range, e);
    if (json_f64(v, &d) || !(d >= f->min && d <= f->max))
        return wrong(f, v, range, e);
    if (f->kind == FIELD_NUM)
        *(double *)at = d;
    else
        *(int64_t *)at = (int64_t)d;
    return 0;
}

/* A text without NUL, which ends strings here. */
static int get_text(struct arena *a, const struct field *f, struct json_val v, struct slice *ret_s,
                    struct err *e)
{
    int r = json_string_z(a, v, ret_s);

    if (r == -ENOMEM)
        return r;
    if (r || ret_s->len == 0 || memchr(ret_s->p, '\0', ret_s->len))
        return wrong(f, v, "a text", e);
    return 0;
}

static int set_text(const struct field *f, char **at, struct json_val v, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct slice s;
    char *copy;
    int r = a ? get_text(a, f, v, &s, e) : -ENOMEM;

    if (r)
        return r;
    copy = slice_dup(s);
    if (!copy)
        return -ENOMEM;
    free(*at);
    *at = copy;
    return 0;
}

static int set_list(const struct field *f, struct strv *at, struct json_val v, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct json_iter it;
    int r = a ? 0 : -ENOMEM;

    if (v.kind != JSON_K_ARRAY || (double)json_len(v) > f->max || json_len(v) == 0)
        return err_set(e, -EINVAL, "\"%s\" is no list of 1 to %g texts", f->name, f->max);
    strv_deinit(at);
    for (json_iter_init(&it, v); r == 0 && json_next(&it);) {
        struct slice s;

        r = get_text(a, f, it.val, &s, e);
        if (r == 0)
            r = strv_add(at, s.p);
    }
    return r;
}

int field_set(const struct field *f, void *target, struct json_val v, struct err *e)
{
    void *at = (char *)target + f->offset;

    switch (f->kind) {
    case FIELD_BOOL:
        if (v.kind != JSON_K_TRUE && v.kind != JSON_K_FALSE)
            return wrong(f, v, "true or false", e);
        *(bool *)at = v.kind == JSON_K_TRUE;
        return 0;
    case FIELD_WORD:
        return set_word(f, at, v, e);
    case FIELD_TEXT:
        return set_text(f, at, v, e);
    case FIELD_LIST:
        return set_list(f, at, v, e);
    case FIELD_TIME:
        if (json_is_null(v)) {
            *(int64_t *)at = DECIDE_NEVER;
            return 0;
        }
        break;
    case FIELD_INT:
    case FIELD_NUM:
        break;
    }
    return set_number(f, at, v, e);
}

static const char *next_name(size_t i, const void *arg)
{
    const struct field *table = arg;

    return table[i].name;
}

static int unknown(const struct field *table, struct slice name, struct err *e)
{
    char text[64];
    const char *near;

    (void)snprintf(text, sizeof(text), "%.*s", (int)MIN(name.len, 63), name.p ? name.p : "");
    near = strv_nearest(text, next_name, table);
    return err_set(e, -EINVAL, "\"%s\" is not known%s%s%s", text, near ? "; did you mean \"" : "",
                   near ? near : "", near ? "\"?" : "");
}

int fields_read(const struct field *table, void *target, struct json_val object, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct json_iter it;

    if (!a)
        return -ENOMEM;
    if (object.kind != JSON_K_OBJECT)
        return err_set(e, -EINVAL, "an object {...} is expected");
    for (json_iter_init(&it, object); json_next(&it);) {
        const struct field *f;
        struct slice name;
        int r = json_string(a, it.key, &name);

        if (r)
            return r;
        f = field_find(table, name);
        r = f ? field_set(f, target, it.val, e) : unknown(table, name, e);
        if (r)
            return r;
    }
    return 0;
}

void fields_clear(const struct field *table, void *target)
{
    for (const struct field *f = table; f->name; f++) {
        void *at = (char *)target + f->offset;

        if (f->kind == FIELD_TEXT) {
            free(*(char **)at);
            *(char **)at = NULL;
        } else if (f->kind == FIELD_LIST) {
            strv_deinit(at);
        }
    }
}

void field_write(struct buf *dst, const struct field *f, const void *target)
{
    const void *at = (const char *)target + f->offset;

    switch (f->kind) {
    case FIELD_BOOL:
        buf_append_str(dst, *(const bool *)at ? "true" : "false");
        return;
    case FIELD_WORD:
        json_write_string(dst, slice_str(f->words[*(const int *)at]));
        return;
    case FIELD_NUM:
        json_write_f64(dst, *(const double *)at);
        return;
    case FIELD_TEXT:
        json_write_string_or_null(dst, slice_str(*(char *const *)at));
        return;
    case FIELD_LIST:
        for (size_t i = 0; i < ((const struct strv *)at)->n; i++) {
            buf_append_str(dst, i ? ", " : "[");
            json_write_string(dst, slice_str(((const struct strv *)at)->v[i]));
        }
        buf_append_str(dst, ((const struct strv *)at)->n ? "]" : "[]");
        return;
    case FIELD_TIME:
        if (*(const int64_t *)at == DECIDE_NEVER) {
            buf_append_str(dst, "null");
            return;
        }
        break;
    case FIELD_INT:
        break;
    }
    json_write_i64(dst, *(const int64_t *)at);
}

void fields_write(struct buf *dst, const struct field *table, const void *target)
{
    for (const struct field *f = table; f->name; f++) {
        buf_appendf(dst, "%s\"%s\": ", f == table ? "" : ", ", f->name);
        field_write(dst, f, target);
    }
}
