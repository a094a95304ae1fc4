/* SPDX-License-Identifier: Apache-2.0 */
/* Signatures: from JSON to a tree and back.
 *
 *     {"task": str, "args": list, "kwargs": obj, "options": obj, "subtask_type": null|"chain"|..., "immutable": bool}
 *
 * Rebuilding follows Celery's from_dict: chains and groups keep their tasks and options only; a chord's header is its
 * list of tasks whichever form it had. Fields that we do not know are kept on plain tasks. Values are not looked at. */

#include "celeryc/canvas/canvas_priv.h"

#include "celeryc/base/limits.h"

#include <errno.h>

#define NO_ARGS   ((struct json_val){JSON_K_ARRAY, SLICE_LIT("[]")})
#define NO_KWARGS ((struct json_val){JSON_K_OBJECT, SLICE_LIT("{}")})
#define NONE      ((struct json_val){JSON_K_NONE, SLICE_NULL})

/* ---- lists ---- */

struct sigs *sigs_new(struct canvas *c)
{
    return canvas_alloc(c, sizeof(struct sigs));
}

void sigs_add(struct canvas *c, struct sigs *l, struct sig *s)
{
    if (canvas_grow(c, &l->v, l->n, &l->cap, sizeof(*l->v)))
        l->v[l->n++] = s;
}

struct sig *sig_new(struct canvas *c, enum sig_type type, const char *task)
{
    static const char *const names[] = {
        [SIG_CHAIN] = "\"chain\"", [SIG_GROUP] = "\"group\"", [SIG_CHORD] = "\"chord\""};
    struct sig *s = canvas_alloc(c, sizeof(*s));

    if (!s)
        return NULL;
    *s = (struct sig){.type = type, .task = slice_str(task), .args = NO_ARGS, .kwargs = NO_KWARGS};
    if (type == SIG_CHAIN || type == SIG_GROUP || type == SIG_CHORD) {
        s->subtask_type = (struct json_val){JSON_K_STRING, slice_str(names[type])};
        s->tasks = sigs_new(c);
        if (!s->tasks)
            return NULL;
    }
    return s;
}

struct sigs *sigs_copy(struct canvas *c, const struct sigs *l)
{
    struct sigs *copy = sigs_new(c);

    for (size_t i = 0; copy && i < l->n; i++)
        sigs_add(c, copy, l->v[i]);
    return c->code ? NULL : copy;
}

static struct sigs *clone_all(struct canvas *c, const struct sigs *l)
{
    struct sigs *copy = sigs_new(c);

    for (size_t i = 0; copy && i < l->n && c->code == 0; i++)
        sigs_add(c, copy, sig_clone(c, l->v[i]));
    return c->code ? NULL : copy;
}

struct sig *sig_clone(struct canvas *c, const struct sig *s)
{
    struct sig *copy = canvas_alloc(c, sizeof(*copy));

    if (!copy)
        return NULL;
    *copy = *s;
    copy->options = options_copy(c, &s->options);
    if (s->type == SIG_GROUP || (s->type == SIG_CHORD && s->header))
        copy->tasks = sigs_copy(c, s->tasks);
    else if (s->type == SIG_CHAIN || s->type == SIG_CHORD)
        copy->tasks = clone_all(c, s->tasks);
    copy->header = NULL;
    if (s->body)
        copy->body = sig_clone(c, s->body);
    return c->code ? NULL : copy;
}

/* ---- reading ---- */

/* The type, and whether Celery's constructor makes it immutable. */
static int read_type(struct canvas *c, struct json_val v, enum sig_type *ret_type, bool *ret_fixed)
{
    static const struct {
        const char *name;
        enum sig_type type;
        bool fixed;
    } types[] = {{"chain", SIG_CHAIN, false}, {"group", SIG_GROUP, false},
                 {"chord", SIG_CHORD, false}, {"chunks", SIG_CHUNKS, true},
                 {"xmap", SIG_TASK, true},    {"xstarmap", SIG_TASK, true}};
    struct slice name = SLICE_NULL;

    *ret_type = SIG_TASK;
    *ret_fixed = false;
    if (v.kind == JSON_K_STRING && json_string(c->arena, v, &name))
        return canvas_fail(c, -ENOMEM);
    if (json_is_null(v) || (name.p && name.len == 0))
        return 0;
    for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
        if (!name.p || !slice_eq_str(name, types[i].name))
            continue;
        *ret_type = types[i].type;
        *ret_fixed = types[i].fixed;
        return 0;
    }
    return canvas_bad(c, "unknown subtask_type");
}

static int read_tasks(struct canvas *c, struct json_val v, struct sigs *to)
{
    struct json_iter it;

    if (v.kind != JSON_K_ARRAY)
        return canvas_bad(c, "tasks are no list");
    for (json_iter_init(&it, v); json_next(&it);) {
        struct sig *member = NULL;
        int code = sig_read(c, it.val, &member);

        if (code)
            return code;
        sigs_add(c, to, member);
    }
    return c->code;
}

/* A list of tasks, a group or chain (whose tasks it is), or one task. */
static int read_header(struct canvas *c, struct json_val v, struct sig *s)
{
    struct sig *header;
    int code;

    if (v.kind == JSON_K_ARRAY)
        return read_tasks(c, v, s->tasks);
    code = sig_read(c, v, &header);
    if (code)
        return code;
    if (header->type == SIG_GROUP || header->type == SIG_CHAIN)
        s->tasks = header->tasks;
    else
        sigs_add(c, s->tasks, header);
    return c->code;
}

static int read_chord(struct canvas *c, struct json_val v, struct sig *s)
{
    struct json_val kwargs = json_get(v, "kwargs");
    struct json_val body = json_get(kwargs, "body");
    struct json_val own = json_get(kwargs, "kwargs");
    int code = read_header(c, json_get(kwargs, "header"), s);

    if (code)
        return code;
    if (own.kind == JSON_K_OBJECT)
        s->kwargs = own;
    s->immutable = json_get(v, "immutable").kind == JSON_K_TRUE;
    return json_is_null(body) ? 0 : sig_read(c, body, &s->body);
}

static int read_plain(struct canvas *c, struct json_val v, bool fixed, struct sig *s)
{
    struct json_val kwargs = json_get(v, "kwargs");

    s->subtask_type = s->type == SIG_CHUNKS ? json_get(v, "subtask_type") : NONE;
    s->origin = v;
    s->immutable = fixed || json_get(v, "immutable").kind == JSON_K_TRUE;
    if (kwargs.kind == JSON_K_OBJECT)
        s->kwargs = kwargs;
    else if (!json_is_null(kwargs))
        return canvas_bad(c, "kwargs are no object");
    return 0;
}

static int read_args(struct canvas *c, struct json_val v, struct sig *s)
{
    struct json_val args = json_get(v, "args");

    if (args.kind == JSON_K_ARRAY)
        s->args = args;
    else if (!json_is_null(args))
        return canvas_bad(c, "args are no list");
    return 0;
}

int sig_read(struct canvas *c, struct json_val v, struct sig **ret_s)
{
    enum sig_type type = SIG_TASK;
    bool fixed = false;
    struct sig *s;
    struct json_val options = json_get(v, "options"), task = json_get(v, "task");
    int code = v.kind == JSON_K_OBJECT ? read_type(c, json_get(v, "subtask_type"), &type, &fixed)
                                       : canvas_bad(c, "not an object");

    if (code)
        return code;
    s = sig_new(c, type, "");
    if (!s)
        return c->code;
    if (task.kind != JSON_K_STRING)
        return canvas_bad(c, "no task name");
    code = json_string(c->arena, task, &s->task);
    if (code)
        return canvas_fail(c, code);
    if (s->task.len == 0 || s->task.len > LIMIT_TASK_NAME)
        return canvas_bad(c, "no task name, or one that is too long");
    if (!json_is_null(options) && options.kind != JSON_K_OBJECT)
        return canvas_bad(c, "options are no object");
    code = options_read(c, options, &s->options);
    if (code == 0 && type != SIG_CHAIN && type != SIG_GROUP)
        code = read_args(c, v, s);
    if (code == 0 && type == SIG_CHORD)
        code = read_chord(c, v, s);
    else if (code == 0 && (type == SIG_CHAIN || type == SIG_GROUP))
        code = read_tasks(c, json_get(json_get(v, "kwargs"), "tasks"), s->tasks);
    else if (code == 0)
        code = read_plain(c, v, fixed, s);
    *ret_s = s;
    return code;
}

int sig_read_text(struct canvas *c, struct slice text, struct sig **ret_s)
{
    struct json_val v;
    int code = json_scan(text, &v, c->e);

    if (code == -ENOMEM)
        return canvas_fail(c, code);
    return code ? canvas_bad(c, "not JSON") : sig_read(c, v, ret_s);
}

int sig_of(struct canvas *c, const struct value *v, struct sig **ret_s)
{
    if (v->kind == VALUE_LIST)
        return canvas_bad(c, "a list where a signature should be");
    if (v->kind == VALUE_RAW)
        return sig_read(c, v->raw, ret_s);
    *ret_s = v->sig;
    return 0;
}

/* ---- arguments ---- */

/* dict(own, **more) */
static struct json_val merge_objects(struct canvas *c, struct json_val own, struct json_val more)
{
    struct buf b = BUF_INIT;
    struct options o, over;

    if (options_read(c, own, &o) || options_read(c, more, &over))
        return own;
    options_update(c, &o, &over);
    buf_append_char(&b, '{');
    for (size_t i = 0; i < o.n; i++) {
        buf_append_str(&b, i ? ", " : "");
        json_write_string(&b, o.v[i].key);
        buf_append_str(&b, ": ");
        value_write(c, &b, &o.v[i].value);
    }
    buf_append_char(&b, '}');
    return (struct json_val){JSON_K_OBJECT, canvas_keep(c, &b)};
}

void sig_prepend(struct canvas *c, struct sig *s, const struct partial *partial)
{
    struct values args = {0};

    if (!partial || s->immutable)
        return;
    if (partial->kwargs.kind == JSON_K_OBJECT && json_len(partial->kwargs) > 0)
        s->kwargs = merge_objects(c, s->kwargs, partial->kwargs);
    if (partial->args.n == 0)
        return;
    for (size_t i = 0; i < partial->args.n; i++)
        values_add(c, &args, partial->args.v[i]);
    for (size_t i = 0; i < s->partial.n; i++)
        values_add(c, &args, s->partial.v[i]);
    s->partial = args;
}

/* ---- writing ---- */

void sig_write_args(struct canvas *c, struct buf *dst, const struct sig *s)
{
    struct json_iter it;
    bool first = true;

    buf_append_char(dst, '[');
    for (size_t i = 0; i < s->partial.n; i++, first = false) {
        buf_append_str(dst, first ? "" : ", ");
        value_write(c, dst, &s->partial.v[i]);
    }
    for (json_iter_init(&it, s->args); json_next(&it); first = false) {
        buf_append_str(dst, first ? "" : ", ");
        json_write_normal(dst, it.val);
    }
    buf_append_char(dst, ']');
}

void value_write(struct canvas *c, struct buf *dst, const struct value *v)
{
    switch (v->kind) {
    case VALUE_RAW:
        json_write_normal(dst, v->raw);
        break;
    case VALUE_SIG:
        sig_write(c, dst, v->sig);
        break;
    case VALUE_LIST:
        buf_append_char(dst, '[');
        for (size_t i = 0; i < v->list->n; i++) {
            buf_append_str(dst, i ? ", " : "");
            value_write(c, dst, &v->list->v[i]);
        }
        buf_append_char(dst, ']');
        break;
    }
}

static void write_tasks(struct canvas *c, struct buf *dst, const struct sigs *l)
{
    buf_append_char(dst, '[');
    for (size_t i = 0; i < l->n; i++) {
        buf_append_str(dst, i ? ", " : "");
        sig_write(c, dst, l->v[i]);
    }
    buf_append_char(dst, ']');
}

static void write_kwargs(struct canvas *c, struct buf *dst, const struct sig *s)
{
    if (s->type == SIG_TASK || s->type == SIG_CHUNKS) {
        json_write_normal(dst, s->kwargs);
        return;
    }
    if (s->type != SIG_CHORD) {
        buf_append_str(dst, "{\"tasks\": ");
        write_tasks(c, dst, s->tasks);
        buf_append_char(dst, '}');
        return;
    }
    buf_append_str(dst, "{\"kwargs\": ");
    json_write_normal(dst, s->kwargs);
    buf_append_str(dst, ", \"header\": ");
    if (s->header)
        sig_write(c, dst, s->header);
    else
        write_tasks(c, dst, s->tasks);
    buf_append_str(dst, ", \"body\": ");
    if (s->body)
        sig_write(c, dst, s->body);
    else
        buf_append_str(dst, "null");
    buf_append_char(dst, '}');
}

/* What a newer or older Celery has put beside the six fields. */
static void write_unknown(struct buf *dst, const struct sig *s)
{
    static const char *const known[] = {"task",    "args",         "kwargs",
                                        "options", "subtask_type", "immutable"};
    struct json_iter it;

    for (json_iter_init(&it, s->origin); json_next(&it);) {
        bool mine = false;

        for (size_t i = 0; i < ARRAY_SIZE(known) && !mine; i++)
            mine = it.key.raw.len == strlen(known[i]) + 2 &&
                   memcmp(it.key.raw.p + 1, known[i], it.key.raw.len - 2) == 0;
        if (mine)
            continue;
        buf_append_str(dst, ", ");
        json_write_normal(dst, it.key);
        buf_append_str(dst, ": ");
        json_write_normal(dst, it.val);
    }
}

void sig_write(struct canvas *c, struct buf *dst, const struct sig *s)
{
    if (dst->len > LIMIT_MESSAGE_BYTES) {
        (void)canvas_bad(c, "what it would send is too large");
        return;
    }
    buf_append_str(dst, "{\"task\": ");
    json_write_string(dst, s->task);
    buf_append_str(dst, ", \"args\": ");
    sig_write_args(c, dst, s);
    buf_append_str(dst, ", \"kwargs\": ");
    write_kwargs(c, dst, s);
    buf_append_str(dst, ", \"options\": {");
    for (size_t i = 0; i < s->options.n; i++) {
        buf_append_str(dst, i ? ", " : "");
        json_write_string(dst, s->options.v[i].key);
        buf_append_str(dst, ": ");
        value_write(c, dst, &s->options.v[i].value);
    }
    buf_append_str(dst, "}, \"subtask_type\": ");
    if (json_is_null(s->subtask_type))
        buf_append_str(dst, "null");
    else
        json_write_normal(dst, s->subtask_type);
    buf_append_str(dst, s->immutable ? ", \"immutable\": true" : ", \"immutable\": false");
    write_unknown(dst, s);
    buf_append_char(dst, '}');
}

/* ---- links ---- */

/* A group's callback runs after its first member and cannot take the results of the others. */
static void link_first(struct canvas *c, struct sig *group, struct value callback)
{
    struct sig *linked = NULL, *copy = canvas_alloc(c, sizeof(*copy));

    if (group->tasks->n == 0) {
        (void)canvas_bad(c, "a callback for an empty group");
        return;
    }
    if (!copy || sig_of(c, &callback, &linked) || !linked)
        return;
    *copy = *linked;
    copy->immutable = true;
    sig_link(c, group->tasks->v[0], value_sig(copy));
}

void sig_link(struct canvas *c, struct sig *s, struct value callback)
{
    if (s->type == SIG_GROUP)
        link_first(c, s, callback);
    else if (s->type == SIG_CHORD && s->body)
        sig_link(c, s->body, callback);
    else
        option_append(c, &s->options, "link", callback);
}

void sig_link_error(struct canvas *c, struct sig *s, struct value errback)
{
    if (s->type == SIG_GROUP) {
        for (size_t i = 0; i < s->tasks->n; i++)
            sig_link_error(c, s->tasks->v[i], errback);
        return;
    }
    if (s->type != SIG_CHORD) {
        option_append(c, &s->options, "link_error", errback);
        return;
    }
    /* A chord in the header gets it in any case, and links it on by the same rule. */
    for (size_t i = 0; !s->header && i < s->tasks->n; i++) {
        if (c->s->header_errbacks)
            sig_link_error(c, s->tasks->v[i], errback);
        if (s->tasks->v[i]->type == SIG_CHORD)
            sig_link_error(c, s->tasks->v[i], errback);
    }
    if (s->body)
        sig_link_error(c, s->body, errback);
}
