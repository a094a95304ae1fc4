/* SPDX-License-Identifier: Apache-2.0 */
/* canvas at the end of a pipe, for tests that compare it with Celery step by step.
 *
 * One request a line: {"op": ..., "raw": "<envelope>", ...}; one answer a line with everything that canvas gave:
 *     {"code": n, "error": "...", "messages": [[queue, priority, raw]...], "records": [[id, record]...],
 *      "parts": [[group, id, score, member, body, failed]...], "starts": [[group, size, saved]...],
 *      "adds": [[group, n]...], "children": [...]} */

#include "celeryc/canvas/canvas.h"
#include "celeryc/message/message.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOW_US INT64_C(1700000000000000)

struct request {
    struct arena *arena;
    struct json_val v;
    struct canvas_settings settings;
    struct message m;
    struct message_body b;
};

/* The tasks of harness/canvas_world.py and Celery's own are registered, without options. */
static bool lookup(void *arg, struct slice task, struct canvas_defaults *ret)
{
    (void)arg;
    (void)task;
    *ret = (struct canvas_defaults){0};
    return true;
}

static struct slice text_of(struct request *r, const char *key)
{
    struct json_val v = json_get(r->v, key);
    struct slice s = SLICE_NULL;

    if (v.kind == JSON_K_STRING && json_string(r->arena, v, &s))
        abort();
    return s;
}

static struct canvas_exception exception_of(struct request *r, const char *key)
{
    struct json_val v = json_get(r->v, key);
    struct canvas_exception x = {.args = json_get(v, "args").raw};

    if (json_is_null(v))
        return x;
    if (json_string(r->arena, json_get(v, "type"), &x.type) ||
        json_string(r->arena, json_get(v, "module"), &x.module))
        abort();
    return x;
}

static struct canvas_parent parent_of(const struct request *r)
{
    return (struct canvas_parent){r->m.id, r->m.root_id, r->m.priority};
}

static int fire(struct request *r, struct canvas_effects *fx, struct err *e)
{
    struct canvas_parent p = parent_of(r);
    struct json_val list = json_get(r->v, "results");
    size_t n = 0, len = json_len(list);
    struct slice *results = arena_alloc_array(r->arena, len, sizeof(*results));
    struct json_iter it;

    for (json_iter_init(&it, list); json_next(&it);)
        results[n++] = it.val.raw;
    return canvas_fire(&r->settings, json_get(r->v, "body").raw, n, results, &p, fx, e);
}

static int fail_body(struct request *r, struct canvas_effects *fx)
{
    struct canvas_parent p = parent_of(r);
    struct canvas_exception x, cause;

    if (canvas_chord_error(r->arena, text_of(r, "member"), &x, &cause))
        return -1;
    return canvas_fail_body(&r->settings, json_get(r->v, "body").raw, &x, &cause,
                            json_get(r->v, "called").raw, &p, fx);
}

static int run(struct request *r, struct canvas_effects *fx, struct err *e)
{
    struct slice op = text_of(r, "op"), value = json_get(r->v, "value").raw, raw;
    struct canvas_exception x = exception_of(r, "exception");

    raw = text_of(r, "raw");
    if (raw.p &&
        (message_parse(r->arena, raw, &r->m, e) || message_body(r->arena, &r->m, &r->b, e)))
        return -1;
    if (slice_eq_str(op, "success"))
        return canvas_success(&r->settings, &r->m, &r->b, value, fx, e);
    if (slice_eq_str(op, "failure"))
        return canvas_failure(&r->settings, &r->m, &r->b, &x, false, true, fx);
    if (slice_eq_str(op, "revoked"))
        return canvas_failure(&r->settings, &r->m, &r->b, &x, true, true, fx);
    if (slice_eq_str(op, "fire"))
        return fire(r, fx, e);
    if (slice_eq_str(op, "fail_body"))
        return fail_body(r, fx);
    if (slice_eq_str(op, "replace"))
        return canvas_replace(&r->settings, &r->m, &r->b, value, fx, e);
    if (slice_eq_str(op, "add"))
        return canvas_add_to_chord(&r->settings, &r->m, &r->b, value, fx, e);
    if (slice_eq_str(op, "apply"))
        return canvas_apply(&r->settings, value, 0, NULL, SLICE_NULL, NULL, fx, NULL, e);
    return err_set(e, -1, "unknown op");
}

static void put(struct buf *b, bool first, struct slice s)
{
    buf_append_str(b, first ? "" : ", ");
    json_write_string_or_null(b, s);
}

static void write_lists(struct buf *b, const struct canvas_effects *fx)
{
    buf_append_str(b, ", \"messages\": [");
    for (size_t i = 0; i < fx->n_messages; i++) {
        buf_append_str(b, i ? ", [" : "[");
        put(b, true, fx->messages[i].queue);
        buf_appendf(b, ", %d", fx->messages[i].priority);
        put(b, false, fx->messages[i].raw);
        buf_append_char(b, ']');
    }
    buf_append_str(b, "], \"records\": [");
    for (size_t i = 0; i < fx->n_records; i++) {
        buf_append_str(b, i ? ", [" : "[");
        put(b, true, fx->records[i].task_id);
        put(b, false, fx->records[i].record);
        buf_append_char(b, ']');
    }
    buf_append_str(b, "], \"adds\": [");
    for (size_t i = 0; i < fx->n_adds; i++) {
        buf_append_str(b, i ? ", [" : "[");
        put(b, true, fx->adds[i].group_id);
        buf_appendf(b, ", %lld]", (long long)fx->adds[i].n);
    }
}

static void write_chords(struct buf *b, const struct canvas_effects *fx)
{
    buf_append_str(b, "], \"parts\": [");
    for (size_t i = 0; i < fx->n_parts; i++) {
        const struct canvas_part *p = &fx->parts[i];

        buf_append_str(b, i ? ", [" : "[");
        put(b, true, p->group_id);
        put(b, false, p->task_id);
        put(b, false, p->score);
        put(b, false, p->member);
        put(b, false, p->body);
        buf_append_str(b, p->failed ? ", true]" : ", false]");
    }
    buf_append_str(b, "], \"starts\": [");
    for (size_t i = 0; i < fx->n_starts; i++) {
        buf_append_str(b, i ? ", [" : "[");
        put(b, true, fx->starts[i].group_id);
        buf_appendf(b, ", %lld", (long long)fx->starts[i].size);
        put(b, false, fx->starts[i].saved);
        buf_append_char(b, ']');
    }
    buf_append_str(b, "], \"children\": [");
    buf_append_slice(b, fx->children);
    buf_append_str(b, "]}\n");
}

static void answer(struct slice line)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct request r = {.arena = a,
                        .settings = {.default_queue = SLICE_LIT("celery"),
                                     .node = SLICE_LIT("w@oracle"),
                                     .now_us = NOW_US,
                                     .lookup = lookup}};
    struct canvas_effects fx = canvas_effects_init(a);
    struct err e = ERR_INIT;
    int code;

    if (!a || json_scan(line, &r.v, &e))
        abort();
    code = run(&r, &fx, &e);
    buf_appendf(&b, "{\"code\": %d, \"error\": ", code);
    json_write_string(&b, slice_str(e.text));
    write_lists(&b, &fx);
    write_chords(&b, &fx);
    if (fwrite(b.data, 1, b.len, stdout) != b.len || fflush(stdout))
        abort();
}

int main(void)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;

    while ((len = getline(&line, &cap, stdin)) > 0)
        answer((struct slice){line, (size_t)len});
    free(line);
    return 0;
}
