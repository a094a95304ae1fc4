/* SPDX-License-Identifier: Apache-2.0 */
/* The tasks that every Celery worker has (celery/app/builtins.py). Canvases need accumulate and starmap; the others are
 * what older clients send. celery.chord_unlock needs the result backend and is in client/unlock.c. */

#include "celeryc/task/builtins.h"

#include "celeryc/task/call_priv.h"

#include <errno.h>

#define NO_KWARGS ((struct json_val){JSON_K_OBJECT, SLICE_LIT("{}")})

bool task_is_builtin(const char *name)
{
    return strncmp(name, "celery.", 7) == 0;
}

/* ---- arguments: by position or by name, any others are let through ---- */

static struct json_val param(const struct celeryc_call *call, size_t i, const char *name)
{
    struct json_val v = json_at(call->body->args, i);
    return v.kind != JSON_K_NONE ? v : json_get(call->body->kwargs, name);
}

static int missing(struct celeryc_call *call, const char *what)
{
    const char *name = celeryc_task_name(call) + strlen("celery.");
    return celeryc_raise(call, "TypeError", "%s() needs %s", name, what);
}

static int return_value(struct celeryc_call *call, struct json_val v)
{
    return celeryc_return_json(call, v.raw.p, v.raw.len);
}

/* ---- celery.accumulate(*args, index=None): the body of a group that has replaced a task ---- */

static int accumulate(struct celeryc_call *call)
{
    struct json_val index = json_get(call->body->kwargs, "index");
    int64_t i, n = (int64_t)json_len(call->body->args);
    if (json_is_null(index))
        return return_value(call, call->body->args);
    if (json_i64(index, &i))
        return celeryc_raise(call, "TypeError", "tuple indices must be integers or slices");
    if (i < -n || i >= n)
        return celeryc_raise(call, "IndexError", "tuple index out of range");
    return return_value(call, json_at(call->body->args, (size_t)(i < 0 ? i + n : i)));
}

/* ---- celery.map, celery.starmap: a task called here, once for each element ---- */

/* How the inner call ended is how the outer one ends, unless it gave a value. In Python a task that is called directly
 * cannot be retried: its exception is raised instead. */
static bool take_end(struct celeryc_call *call, struct celeryc_call *in)
{
    call->children = in->children;
    call->effects = in->effects;
    call->failed_alloc |= in->failed_alloc;
    if (in->end == END_NONE || in->end == END_RETURN)
        return true;
    call->end = in->end;
    call->exception = in->exception;
    call->place = in->place;
    call->requeue = in->requeue;
    if (in->end == END_RETRY && in->has_cause) {
        call->end = END_RAISE;
        call->exception = in->cause;
    } else if (in->end == END_RETRY) {
        call_fail(call, "Retry", SLICE_LIT("Task can be retried"));
    } else if (in->end == END_REPLACE) {
        call_fail(call, "RuntimeError",
                  SLICE_LIT("a task that is called by celery.map has no place to give away"));
    }
    return false;
}

/* False: the call has ended. */
static bool call_here(struct celeryc_call *call, const struct task_entry *t, struct json_val args,
                      struct buf *dst)
{
    struct message m = *call->m;
    struct message_body body = {.args = args, .kwargs = NO_KWARGS};
    struct celeryc_call in = {
        .registry = call->registry,
        .task = t,
        .settings = call->settings,
        .host = call->host,
        .arena = call->arena,
        .m = &m,
        .body = &body,
        .queue = call->queue,
        .id = call->id,
        .hostname = call->hostname,
        .ignore_result = call->ignore_result,
        .children = call->children,
        .effects = call->effects,
    };
    m.retries = 0;
    call_function(&in);
    bool value = take_end(call, &in);
    if (value && in.end == END_NONE)
        buf_append_str(dst, "null");
    else if (value && buf_ok(&in.result) == 0)
        buf_append_slice(dst, buf_slice(&in.result));
    call->failed_alloc |= in.result.failed;
    buf_deinit(&in.result);
    buf_deinit(&in.retry_options);
    return value;
}

static const struct task_entry *inner_task(struct celeryc_call *call)
{
    struct slice name = SLICE_NULL;
    struct json_val sig = param(call, 0, "task");
    int rc = json_string(call->arena, json_get(sig, "task"), &name);
    if (rc) {
        call->failed_alloc |= rc == -ENOMEM;
        (void)missing(call, "a signature as 'task'");
        return NULL;
    }
    const struct task_entry *t = task_registry_entry(call->registry, name);
    if (!t)
        call_fail(call, "NotRegistered", name);
    return t;
}

/* The arguments of one element: itself, or what it holds. */
static bool arguments_of(struct celeryc_call *call, struct json_val element, bool star,
                         struct json_val *ret_args)
{
    if (star) {
        *ret_args = element;
        if (element.kind == JSON_K_ARRAY)
            return true;
        (void)celeryc_raise(call, "TypeError", "argument after * must be a list");
        return false;
    }
    const char *text = arena_printf(call->arena, "[%.*s]", (int)element.raw.len, element.raw.p);
    *ret_args = (struct json_val){JSON_K_ARRAY, slice_str(text)};
    call->failed_alloc |= !text;
    return text;
}

static int call_each(struct celeryc_call *call, bool star)
{
    struct json_val it = param(call, 1, "it");
    CLEANUP(buf_deinit) struct buf list = BUF_INIT;
    struct json_iter i;
    bool first = true;
    const struct task_entry *t = inner_task(call);
    if (!t)
        return 0;
    if (it.kind != JSON_K_ARRAY)
        return missing(call, "a list as 'it'");
    buf_append_char(&list, '[');
    for (json_iter_init(&i, it); json_next(&i); first = false) {
        struct json_val args;
        buf_append_str(&list, first ? "" : ", ");
        if (!arguments_of(call, i.val, star, &args) || !call_here(call, t, args, &list))
            return 0;
    }
    buf_append_char(&list, ']');
    if (buf_ok(&list) < 0) {
        call->failed_alloc = true;
        return 0;
    }
    return celeryc_return_json(call, list.data, list.len);
}

static int map(struct celeryc_call *call)
{
    return call_each(call, false);
}

static int starmap(struct celeryc_call *call)
{
    return call_each(call, true);
}

/* ---- tasks that apply what they are given ---- */

static void put_field(struct buf *dst, const char *name, struct json_val v)
{
    buf_appendf(dst, "\"%s\": ", name);
    if (v.kind == JSON_K_NONE)
        buf_append_str(dst, "null");
    else
        json_write_normal(dst, v);
}

static struct slice keep(struct celeryc_call *call, struct buf *b)
{
    const char *text = buf_ok(b) < 0 ? NULL : arena_strdup(call->arena, buf_slice(b));
    call->failed_alloc |= !text;
    return (struct slice){text, text ? b->len : 0};
}

static int return_applied(struct celeryc_call *call, const struct call_application *a)
{
    struct slice result;
    if (call_apply(call, a, &result))
        return 0;
    return celeryc_return_json(call, result.p, result.len);
}

/* celery.chunks(task, it, n) */
static int chunks(struct celeryc_call *call)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    buf_append_str(&b, "{\"task\": \"celery.chunks\", \"kwargs\": {");
    put_field(&b, "task", param(call, 0, "task"));
    buf_append_str(&b, ", ");
    put_field(&b, "it", param(call, 1, "it"));
    buf_append_str(&b, ", ");
    put_field(&b, "n", param(call, 2, "n"));
    buf_append_str(&b, "}, \"subtask_type\": \"chunks\", \"immutable\": true}");
    const struct call_application a = {.signature = keep(call, &b)};
    return a.signature.p ? return_applied(call, &a) : 0;
}

/* The elements of a list of partial arguments. */
static int take_partial(struct celeryc_call *call, struct json_val v, struct call_application *a)
{
    struct json_iter it;
    struct slice *args = arena_alloc_array(call->arena, json_len(v), sizeof(struct slice));
    call->failed_alloc |= !args;
    if (!args)
        return -ENOMEM;
    for (json_iter_init(&it, v); v.kind == JSON_K_ARRAY && json_next(&it);)
        args[a->n++] = it.val.raw;
    a->args = args;
    return 0;
}

/* celery.chord(header, body, partial_args=()): what an old client sends instead of the chord itself. */
static int chord(struct celeryc_call *call)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct call_application a = {.signature = SLICE_NULL};
    buf_append_str(&b, "{\"task\": \"celery.chord\", \"args\": [], \"kwargs\": {\"kwargs\": {}, ");
    put_field(&b, "header", param(call, 0, "header"));
    buf_append_str(&b, ", ");
    put_field(&b, "body", param(call, 1, "body"));
    buf_append_str(&b, "}, \"subtask_type\": \"chord\"}");
    a.signature = keep(call, &b);
    if (!a.signature.p || take_partial(call, param(call, 2, "partial_args"), &a))
        return 0;
    return return_applied(call, &a);
}

/* celery.group(tasks, result, group_id, partial_args, add_to_parent=True): its members, whose ids the result names. */
static int group(struct celeryc_call *call)
{
    struct json_val tasks = param(call, 0, "tasks"), result = param(call, 1, "result");
    struct call_application a = {.signature = SLICE_NULL};
    CLEANUP(buf_deinit) struct buf options = BUF_INIT;
    struct json_iter it;
    if (tasks.kind != JSON_K_ARRAY || result.kind != JSON_K_ARRAY)
        return missing(call, "lists as 'tasks' and 'result'");
    buf_append_char(&options, '{');
    put_field(&options, "group_id", param(call, 2, "group_id"));
    buf_append_str(&options, ", \"add_to_parent\": false}");
    a.options = keep(call, &options);
    if (!a.options.p || take_partial(call, param(call, 3, "partial_args"), &a))
        return 0;
    for (json_iter_init(&it, tasks); json_next(&it);) {
        struct slice one;
        a.signature = it.val.raw;
        if (call_apply(call, &a, &one))
            return 0;
    }
    if (param(call, 4, "add_to_parent").kind != JSON_K_FALSE)
        call_add_children(call, result.raw);
    return return_value(call, result);
}

/* celery.chain */
static int chain(struct celeryc_call *call)
{
    return celeryc_raise(call, "NotImplementedError", "chain is not a real task");
}

/* celery.backend_cleanup: Redis lets results expire by itself. */
static int backend_cleanup(struct celeryc_call *call)
{
    return celeryc_return_none(call);
}

/* ---- the table ---- */

int task_builtins_register(struct task_registry *r, struct err *e)
{
    static const struct celeryc_task all[] = {
        {.name = "celery.accumulate", .run = accumulate},
        {.name = "celery.backend_cleanup", .run = backend_cleanup},
        {.name = "celery.chain", .run = chain},
        {.name = "celery.chord", .run = chord},
        {.name = "celery.chunks", .run = chunks},
        {.name = "celery.group", .run = group},
        {.name = "celery.map", .run = map},
        {.name = "celery.starmap", .run = starmap},
    };
    for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
        if (task_registry_find(r, slice_str(all[i].name)))
            continue; /* a plug-in has its own */
        int rc = task_registry_add(r, &all[i], NULL, NULL, e);
        if (rc)
            return rc;
    }
    return 0;
}
