/* SPDX-License-Identifier: Apache-2.0 */
/* Keyword arguments into a canvas. Texts are copied verbatim but for the objects on the way to the first tasks. */

#include "celeryc/migrate/signature.h"

#include "celeryc/message/json.h"

#include <errno.h>

static void merge(struct buf *dst, struct json_val sig, struct json_val kwargs);

/* {**own, **more} */
static void write_union(struct buf *dst, struct json_val own, struct json_val more)
{
    const struct json_val both[] = {own, more};
    bool first = true;

    buf_append_char(dst, '{');
    for (size_t i = 0; i < ARRAY_SIZE(both); i++) {
        struct json_iter it;

        json_iter_init(&it, both[i]);
        while (json_next(&it)) {
            buf_append_str(dst, first ? "" : ", ");
            buf_append_slice(dst, it.key.raw);
            buf_append_str(dst, ": ");
            buf_append_slice(dst, it.val.raw);
            first = false;
        }
    }
    buf_append_char(dst, '}');
}

/* The object with one member replaced, by what write gives. */
static void replace(struct buf *dst, struct json_val object, const char *name,
                    void (*write)(struct buf *dst, struct json_val old, struct json_val kwargs),
                    struct json_val kwargs)
{
    struct json_val old = json_get(object, name);
    struct json_iter it;
    bool seen = false;

    buf_append_char(dst, '{');
    json_iter_init(&it, object);
    for (bool first = true; json_next(&it); first = false) {
        bool ours = old.kind != JSON_K_NONE && it.val.raw.p == old.raw.p;

        buf_append_str(dst, first ? "" : ", ");
        buf_append_slice(dst, it.key.raw);
        buf_append_str(dst, ": ");
        if (ours)
            write(dst, old, kwargs);
        else
            buf_append_slice(dst, it.val.raw);
        seen = seen || ours;
    }
    if (!seen) {
        buf_appendf(dst, "%s\"%s\": ", json_len(object) ? ", " : "", name);
        write(dst, old, kwargs);
    }
    buf_append_char(dst, '}');
}

static void merge_first(struct buf *dst, struct json_val tasks, struct json_val kwargs)
{
    struct json_iter it;

    buf_append_char(dst, '[');
    json_iter_init(&it, tasks);
    for (bool first = true; json_next(&it); first = false) {
        buf_append_str(dst, first ? "" : ", ");
        if (first)
            merge(dst, it.val, kwargs);
        else
            buf_append_slice(dst, it.val.raw);
    }
    buf_append_char(dst, ']');
}

static void merge_each(struct buf *dst, struct json_val tasks, struct json_val kwargs)
{
    struct json_iter it;

    if (tasks.kind == JSON_K_OBJECT) { /* the header of a chord */
        merge(dst, tasks, kwargs);
        return;
    }
    buf_append_char(dst, '[');
    json_iter_init(&it, tasks);
    for (bool first = true; json_next(&it); first = false) {
        buf_append_str(dst, first ? "" : ", ");
        merge(dst, it.val, kwargs);
    }
    buf_append_char(dst, ']');
}

static void chain_kwargs(struct buf *dst, struct json_val own, struct json_val kwargs)
{
    replace(dst, own, "tasks", merge_first, kwargs);
}

static void group_kwargs(struct buf *dst, struct json_val own, struct json_val kwargs)
{
    replace(dst, own, "tasks", merge_each, kwargs);
}

static void chord_kwargs(struct buf *dst, struct json_val own, struct json_val kwargs)
{
    replace(dst, own, "header", merge_each, kwargs);
}

static bool is_task(struct json_val sig, const char *name)
{
    struct json_val task = json_get(sig, "task");

    return task.kind == JSON_K_STRING && task.raw.len == strlen(name) + 2 &&
           memcmp(task.raw.p + 1, name, strlen(name)) == 0;
}

static bool takes_none(struct json_val sig)
{
    return json_get(sig, "immutable").kind == JSON_K_TRUE || is_task(sig, "celery.map") ||
           is_task(sig, "celery.starmap") || is_task(sig, "celery.chunks");
}

/* Depth: that of the scanned text. */
static void merge(struct buf *dst, struct json_val sig, struct json_val kwargs)
{
    if (sig.kind != JSON_K_OBJECT || takes_none(sig))
        buf_append_slice(dst, sig.raw);
    else if (is_task(sig, "celery.chain"))
        replace(dst, sig, "kwargs", chain_kwargs, kwargs);
    else if (is_task(sig, "celery.group"))
        replace(dst, sig, "kwargs", group_kwargs, kwargs);
    else if (is_task(sig, "celery.chord"))
        replace(dst, sig, "kwargs", chord_kwargs, kwargs);
    else
        replace(dst, sig, "kwargs", write_union, kwargs);
}

int callback_merge(struct slice signature, struct slice kwargs, struct buf *dst, struct err *e)
{
    struct json_val sig, more;
    int r = json_scan(signature, &sig, e);

    if (r)
        return r == -ENOMEM ? r : err_prefix(e, -EINVAL, "the callback is not JSON");
    if (sig.kind != JSON_K_OBJECT || json_get(sig, "task").kind != JSON_K_STRING)
        return err_set(e, -EINVAL,
                       "the callback is no signature: write the name of a task, or a signature as "
                       "Celery's json.dumps(signature) does");
    r = json_scan(kwargs, &more, e);
    if (r)
        return r;
    merge(dst, sig, more);
    return buf_ok(dst);
}
