/* SPDX-License-Identifier: Apache-2.0 */
/* Errbacks of the new style: called in a child, with what failed. For a task that failed in a child that is the same
 * one, before its end is reported; what the master decides (a chord, a lost child) comes as a job of its own, whose
 * text is
 *
 *     {"sig": <signature>, "id", "root_id", "task", "type", "module", "args": [...], "traceback"}
 *
 * An errback has no result: what it raises is logged, as in Celery. */

#include "celeryc/base/log.h"
#include "celeryc/task/call_priv.h"

#include <errno.h>

static const char *text_z(struct arena *a, struct slice s)
{
    return s.p ? arena_strdup(a, s) : NULL;
}

static void log_end(struct celeryc_call *in)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    if (in->end == END_RETRY && in->has_cause) {
        in->end = END_RAISE; /* called directly there is nothing to retry */
        in->exception = in->cause;
    }
    if (in->end != END_RAISE)
        return;
    exception_write_traceback(&text, &in->exception, &in->place, in->task->info.name,
                              in->task->file);
    log_error("Errback '%s' raised an exception\n%s", in->task->info.name,
              text.data ? text.data : "");
}

static int call_one(const struct celeryc_call *base, const struct canvas_call *c,
                    const struct task_entry *t, struct message_body *body)
{
    struct arena *a = base->arena;
    const struct celeryc_failure f = {
        .task_id = text_z(a, c->task_id),
        .task = text_z(a, c->task),
        .exc_type = text_z(a, c->x.type),
        .exc_module = text_z(a, c->x.module),
        .exc_args = text_z(a, c->x.args),
        .traceback = text_z(a, c->x.traceback),
    };
    if (!f.task_id || !f.exc_type || !f.exc_module || !f.exc_args)
        return -ENOMEM;
    struct celeryc_call in = {
        .registry = base->registry,
        .task = t,
        .settings = base->settings,
        .host = base->host,
        .arena = a,
        .m = base->m,
        .body = body,
        .queue = base->queue,
        .id = f.task_id,
        .hostname = base->hostname,
        .effects = canvas_effects_init(a),
    };
    int rc = t->errback(&in, &f);
    if (rc && in.end == END_NONE)
        call_fail(&in, in.args_error ? "TypeError" : "RuntimeError",
                  slice_str(in.args_error ? in.args_error : "the errback returned an error"));
    log_end(&in);
    buf_deinit(&in.children);
    buf_deinit(&in.result);
    buf_deinit(&in.retry_options);
    return in.failed_alloc ? -ENOMEM : 0;
}

int call_errback(const struct celeryc_call *base, const struct canvas_call *c)
{
    struct json_val sig;
    struct slice name = SLICE_NULL;
    if (json_scan(c->errback, &sig, NULL) || json_string(base->arena, json_get(sig, "task"), &name))
        return 0;
    const struct task_entry *t = task_registry_entry(base->registry, name);
    if (!t || !t->errback)
        return 0;
    struct message_body body = {.args = json_get(sig, "args"), .kwargs = json_get(sig, "kwargs")};
    if (body.args.kind != JSON_K_ARRAY)
        body.args = (struct json_val){JSON_K_ARRAY, SLICE_LIT("[]")};
    if (body.kwargs.kind != JSON_K_OBJECT)
        body.kwargs = (struct json_val){JSON_K_OBJECT, SLICE_LIT("{}")};
    return call_one(base, c, t, &body);
}

/* ---- as a job ---- */

int task_errback_write(struct buf *dst, const struct canvas_call *c)
{
    buf_append_str(dst, "{\"sig\": ");
    buf_append_slice(dst, c->errback);
    buf_append_str(dst, ", \"id\": ");
    json_write_string(dst, c->task_id);
    buf_append_str(dst, ", \"root_id\": ");
    json_write_string_or_null(dst, c->root_id);
    buf_append_str(dst, ", \"task\": ");
    json_write_string_or_null(dst, c->task);
    buf_append_str(dst, ", \"type\": ");
    json_write_string(dst, c->x.type);
    buf_append_str(dst, ", \"module\": ");
    json_write_string(dst, c->x.module);
    buf_append_str(dst, ", \"args\": ");
    buf_append_slice(dst, c->x.args.p ? c->x.args : SLICE_LIT("[]"));
    buf_append_str(dst, ", \"traceback\": ");
    json_write_string_or_null(dst, c->x.traceback);
    buf_append_char(dst, '}');
    return buf_ok(dst);
}

static int take(struct arena *a, struct json_val v, const char *key, struct slice *ret_s)
{
    struct json_val field = json_get(v, key);
    *ret_s = SLICE_NULL;
    return json_is_null(field) ? 0 : json_string_z(a, field, ret_s);
}

/* The text is the master's own. */
static int parse(struct arena *a, struct slice text, struct canvas_call *ret_c)
{
    struct json_val v;
    int rc = json_scan(text, &v, NULL);
    if (rc == 0)
        rc = take(a, v, "id", &ret_c->task_id);
    if (rc == 0)
        rc = take(a, v, "root_id", &ret_c->root_id);
    if (rc == 0)
        rc = take(a, v, "task", &ret_c->task);
    if (rc == 0)
        rc = take(a, v, "type", &ret_c->x.type);
    if (rc == 0)
        rc = take(a, v, "module", &ret_c->x.module);
    if (rc == 0)
        rc = take(a, v, "traceback", &ret_c->x.traceback);
    if (rc)
        return rc;
    ret_c->errback = json_get(v, "sig").raw;
    ret_c->x.args = json_get(v, "args").raw;
    return ret_c->errback.p && ret_c->x.args.p ? 0 : -EINVAL;
}

/* NOLINTNEXTLINE(readability-function-size): as task_run */
int task_run_errback(const struct task_registry *r, const struct task_settings *s,
                     const struct task_host *h, struct arena *a, struct slice text, struct buf *dst)
{
    struct message m = {0};
    struct canvas_call c = {.task_id = SLICE_NULL};
    const struct outcome o = {.kind = OUTCOME_IGNORE};
    arena_reset(a);
    int rc = parse(a, text, &c);
    if (rc)
        return rc;
    m.id = c.task_id;
    m.root_id = c.root_id;
    m.task = c.task;
    const struct celeryc_call base = {.registry = r,
                                      .settings = s,
                                      .host = h,
                                      .arena = a,
                                      .m = &m,
                                      .queue = slice_str(s->default_queue),
                                      .hostname = s->node};
    rc = call_errback(&base, &c);
    return rc ? rc : outcome_encode(&o, dst);
}
