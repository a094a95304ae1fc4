/* SPDX-License-Identifier: Apache-2.0 */
/* Arguments: positional and keyword values bound to a format as Python binds a call, with Python's words for what does
 * not fit. Nothing is stored into the caller's variables before every argument has been checked. */

#include "celeryc/base/codec.h"
#include "celeryc/task/call_priv.h"

#include <errno.h>
#include <stdarg.h>

#define FORMAT_MAX 32 /* arguments of one task */

struct format {
    size_t n, n_required;
    char letters[FORMAT_MAX];
};

union value {
    int64_t i;
    double d;
    bool b;
    struct slice s;
};

/* The function's name as Python would show it: the last part of the task's. */
static const char *short_name(const struct celeryc_call *call)
{
    const char *dot = strrchr(call->task->info.name, '.');
    return dot && dot[1] ? dot + 1 : call->task->info.name;
}

PRINTF_LIKE(2, 3) static int set_error(struct celeryc_call *call, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    call->args_error = arena_printf(call->arena, "%s() %s", short_name(call), text);
    if (!call->args_error)
        call->args_error = "out of memory";
    return -1;
}

static int parse_format(struct celeryc_call *call, const char *format, struct format *ret_f)
{
    struct format f = {0};
    bool optional = false;
    for (const char *p = format; *p; p++) {
        if (*p == '|') {
            optional = true;
            continue;
        }
        if (!strchr("idbsSj", *p) || f.n == FORMAT_MAX)
            return set_error(call, "has a wrong celeryc_args format: \"%s\"", format);
        f.letters[f.n++] = *p;
        f.n_required += !optional;
    }
    *ret_f = f;
    return 0;
}

/* "'b'", or "argument 2" when the task has no names. */
static const char *param_name(const struct celeryc_call *call, size_t i)
{
    char *name = i < call->task->n_params ? arena_printf(call->arena, "'%s'", call->task->params[i])
                                          : arena_printf(call->arena, "%zu", i + 1);
    return name ? name : "?";
}

static int too_many(struct celeryc_call *call, const struct format *f, size_t given)
{
    const char *verb = given == 1 ? "was" : "were";
    if (f->n == f->n_required)
        return set_error(call, "takes %zu positional argument%s but %zu %s given", f->n,
                         f->n == 1 ? "" : "s", given, verb);
    return set_error(call, "takes from %zu to %zu positional arguments but %zu %s given",
                     f->n_required, f->n, given, verb);
}

static int missing(struct celeryc_call *call, const struct format *f, const struct json_val *vals)
{
    CLEANUP(buf_deinit) struct buf names = BUF_INIT;
    size_t n = 0, seen = 0;
    for (size_t i = 0; i < f->n_required; i++)
        n += vals[i].kind == JSON_K_NONE;
    for (size_t i = 0; i < f->n_required; i++) {
        if (vals[i].kind != JSON_K_NONE)
            continue;
        if (seen > 0)
            buf_append_str(&names, n == 2 ? " and " : seen + 1 == n ? ", and " : ", ");
        buf_append_str(&names, param_name(call, i));
        seen++;
    }
    return set_error(call, "missing %zu required positional argument%s: %s", n, n == 1 ? "" : "s",
                     names.data ? names.data : "");
}

static int bind_keyword(struct celeryc_call *call, const struct format *f, struct json_val key,
                        struct json_val val, struct json_val *vals)
{
    struct slice name;
    if (json_string_z(call->arena, key, &name) < 0)
        return set_error(call, "keywords must be strings");
    for (size_t i = 0; i < call->task->n_params && i < f->n; i++) {
        if (!slice_eq_str(name, call->task->params[i]))
            continue;
        if (vals[i].kind != JSON_K_NONE)
            return set_error(call, "got multiple values for argument '%s'", name.p);
        vals[i] = val;
        return 0;
    }
    return set_error(call, "got an unexpected keyword argument '%s'", name.p);
}

/* The value of each parameter; JSON_K_NONE for an optional one that was not given. */
static int bind(struct celeryc_call *call, const struct format *f, struct json_val *ret_vals)
{
    struct json_iter it;
    size_t n = json_len(call->body->args), i = 0;
    for (json_iter_init(&it, call->body->args); i < f->n && json_next(&it); i++)
        ret_vals[i] = it.val;
    struct json_val named[FORMAT_MAX];
    memcpy(named, ret_vals, sizeof named);
    json_iter_init(&it, call->body->kwargs);
    while (json_next(&it)) {
        /* A key that stands twice in the object has one value in Python: the last. */
        struct slice key = it.key.raw;
        struct json_iter rest = it;
        bool again = false;
        while (!again && json_next(&rest))
            again = slice_eq(rest.key.raw, key);
        if (!again && bind_keyword(call, f, it.key, it.val, named) < 0)
            return -1;
    }
    memcpy(ret_vals, named, sizeof named);
    if (n > f->n)
        return too_many(call, f, n);
    for (i = 0; i < f->n_required; i++)
        if (ret_vals[i].kind == JSON_K_NONE)
            return missing(call, f, ret_vals);
    return 0;
}

static const char *python_type(struct json_val v)
{
    switch (v.kind) {
    case JSON_K_NULL:
        return "None";
    case JSON_K_TRUE:
    case JSON_K_FALSE:
        return "bool";
    case JSON_K_INT:
        return "int";
    case JSON_K_FLOAT:
        return "float";
    case JSON_K_STRING:
        return "str";
    case JSON_K_ARRAY:
        return "list";
    default:
        return "dict";
    }
}

static int wrong_type(struct celeryc_call *call, size_t i, const char *want, struct json_val v)
{
    return set_error(call, "argument %s must be %s, not %s", param_name(call, i), want,
                     python_type(v));
}

static int convert_int(struct celeryc_call *call, size_t i, struct json_val v, int64_t *ret_i)
{
    if (v.kind == JSON_K_TRUE || v.kind == JSON_K_FALSE) {
        *ret_i = v.kind == JSON_K_TRUE;
        return 0;
    }
    int rc = json_i64(v, ret_i);
    if (rc == -ERANGE)
        return set_error(call, "argument %s is too large for a 64-bit integer",
                         param_name(call, i));
    return rc < 0 ? wrong_type(call, i, "int", v) : 0;
}

static int convert_text(struct celeryc_call *call, size_t i, struct json_val v, struct slice *ret_s)
{
    if (json_string_z(call->arena, v, ret_s) < 0)
        return wrong_type(call, i, "str", v);
    if (memchr(ret_s->p, '\0', ret_s->len))
        return set_error(call, "argument %s contains a null character", param_name(call, i));
    return 0;
}

/* A string's bytes, or those of kombu's wrappers {"__type__": "bytes" | "base64", "__value__": text}. */
static int convert_bytes(struct celeryc_call *call, size_t i, struct json_val v,
                         struct slice *ret_s)
{
    if (json_string_z(call->arena, v, ret_s) == 0)
        return 0;
    struct slice type, text;
    if (v.kind != JSON_K_OBJECT || json_len(v) != 2 ||
        json_string(call->arena, json_get(v, "__type__"), &type) < 0 ||
        json_string_z(call->arena, json_get(v, "__value__"), &text) < 0)
        return wrong_type(call, i, "str or bytes", v);
    if (slice_eq_str(type, "bytes")) {
        *ret_s = text;
        return 0;
    }
    CLEANUP(buf_deinit) struct buf bytes = BUF_INIT;
    if (!slice_eq_str(type, "base64") || base64_decode(&bytes, text) < 0)
        return wrong_type(call, i, "str or bytes", v);
    ret_s->p = arena_strdup(call->arena, buf_slice(&bytes));
    ret_s->len = bytes.len;
    return ret_s->p ? 0 : set_error(call, "ran out of memory");
}

static int convert(struct celeryc_call *call, char letter, size_t i, struct json_val v,
                   union value *ret_v)
{
    switch (letter) {
    case 'i':
        return convert_int(call, i, v, &ret_v->i);
    case 'd':
        if (v.kind != JSON_K_INT && v.kind != JSON_K_FLOAT)
            return wrong_type(call, i, "float", v);
        return json_f64(v, &ret_v->d) < 0
                   ? set_error(call, "argument %s is too large for a float", param_name(call, i))
                   : 0;
    case 'b':
        if (v.kind != JSON_K_TRUE && v.kind != JSON_K_FALSE)
            return wrong_type(call, i, "bool", v);
        ret_v->b = v.kind == JSON_K_TRUE;
        return 0;
    case 's':
        return convert_text(call, i, v, &ret_v->s);
    case 'S':
        return convert_bytes(call, i, v, &ret_v->s);
    default:
        ret_v->s = (struct slice){arena_strdup(call->arena, v.raw), v.raw.len};
        return ret_v->s.p ? 0 : set_error(call, "ran out of memory");
    }
}

/* Stores one value, or only walks past the variable of an optional argument that was not given. */
static void store(char letter, bool given, union value v, va_list *ap)
{
    void *to = va_arg(*ap, void *);
    size_t *len = letter == 'S' || letter == 'j' ? va_arg(*ap, size_t *) : NULL;
    if (!given)
        return;
    if (letter == 'i')
        *(int64_t *)to = v.i;
    else if (letter == 'd')
        *(double *)to = v.d;
    else if (letter == 'b')
        *(bool *)to = v.b;
    else
        *(const char **)to = v.s.p;
    if (len)
        *len = v.s.len;
}

int celeryc_args(struct celeryc_call *call, const char *format, ...)
{
    struct format f = {0};
    struct json_val vals[FORMAT_MAX] = {0};
    union value values[FORMAT_MAX] = {0};
    call->args_error = NULL;
    if (parse_format(call, format, &f) < 0 || bind(call, &f, vals) < 0)
        return -1;
    for (size_t i = 0; i < f.n; i++)
        if (vals[i].kind != JSON_K_NONE && convert(call, f.letters[i], i, vals[i], &values[i]) < 0)
            return -1;
    va_list ap;
    va_start(ap, format);
    for (size_t i = 0; i < f.n; i++)
        store(f.letters[i], vals[i].kind != JSON_K_NONE, values[i], &ap);
    va_end(ap);
    return 0;
}

const char *celeryc_args_error(struct celeryc_call *call)
{
    return call->args_error ? call->args_error : "";
}

/* NUL-terminated copies: authors will hand them to parsers that want that. */
static const char *json_text(struct celeryc_call *call, struct json_val v, size_t *ret_len)
{
    const char *text = arena_strdup(call->arena, v.raw);
    if (ret_len)
        *ret_len = text ? v.raw.len : 0;
    return text ? text : "";
}

const char *celeryc_args_json(struct celeryc_call *call, size_t *ret_len)
{
    return json_text(call, call->body->args, ret_len);
}

const char *celeryc_kwargs_json(struct celeryc_call *call, size_t *ret_len)
{
    return json_text(call, call->body->kwargs, ret_len);
}
