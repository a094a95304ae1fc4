/* SPDX-License-Identifier: Apache-2.0 */
/* One message from bytes to outcome: decode, find the task, call its function, write what Celery would write.
 *
 *     parse envelope -> decode body -> [STARTED] -> function -> record (+ retry message) -> encoded outcome
 *
 * Whatever is wrong with the bytes becomes a failure of the task; a message whose id cannot be read gives an outcome
 * without a record. What must never happen: a run without an outcome, or bytes from the message taken on trust. */

#include "celeryc/task/run.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/limits.h"
#include "celeryc/task/call_priv.h"

#include <errno.h>
#include <math.h>
#include <unistd.h>

static const struct task_entry unknown_task = {.info = {.name = "unknown"}};

/* ---- which results are stored: wire-messages 3.6 ---- */

enum tristate task_ignores_result(const struct task_settings *s, const struct task_info *t,
                                  const struct message *m)
{
    if (m->ignore_result != TRI_UNSET)
        return m->ignore_result;
    return s->ignore_result || (t && t->ignore_result) ? TRI_YES : TRI_NO;
}

bool task_stores_error(const struct task_settings *s, const struct task_info *t,
                       const struct message *m)
{
    return task_ignores_result(s, t, m) == TRI_NO || s->store_errors_even_if_ignored ||
           (t && t->store_errors_even_if_ignored);
}

/* ---- ends ---- */

/* Everything that end_* make and the outcome borrows. */
struct end_bufs {
    struct buf record, repr, traceback, retry;
};

static void end_bufs_deinit(struct end_bufs *b)
{
    buf_deinit(&b->record);
    buf_deinit(&b->repr);
    buf_deinit(&b->traceback);
    buf_deinit(&b->retry);
}

DEFINE_CLEANUP_VALUE(struct end_bufs, end_bufs_deinit)

static int write_record(struct end_bufs *b, struct outcome *o, const struct record *r)
{
    if (!r->children.p)
        return -ENOMEM;
    if (!r->task_id.p) {
        o->store = false;
        return 0;
    }
    int rc = record_write(&b->record, r);
    o->record = buf_slice(&b->record);
    return rc;
}

static int end_success(struct celeryc_call *call, struct end_bufs *b, struct outcome *o)
{
    if (call->end == END_NONE)
        buf_append_str(&call->result, "null");
    if (buf_ok(&call->result) < 0)
        return -ENOMEM;
    struct json_val v;
    struct err e = ERR_INIT;
    if (json_scan(buf_slice(&call->result), &v, &e) == 0)
        json_write_repr(&b->repr, v, false, LIMIT_REPR_BYTES);
    int rc = call_follow_success(call, buf_slice(&call->result), o);
    if (rc)
        return rc;
    o->kind = OUTCOME_SUCCESS;
    o->store = call->ignore_result == TRI_NO;
    o->repr = buf_slice(&b->repr);
    if (!o->store)
        return buf_ok(&b->repr);
    struct record r = call_record(call, "SUCCESS", call_children(call));
    r.result = buf_slice(&call->result);
    r.done_us = clock_wall_us();
    return write_record(b, o, &r);
}

/* The record of an exception; traceback may be off (Reject has none). */
static int write_exception(struct celeryc_call *call, struct end_bufs *b, struct outcome *o,
                           const char *status, bool traceback)
{
    const struct exception *x = &call->exception;
    CLEANUP(buf_deinit) struct buf result = BUF_INIT;
    record_write_exception(&result, x->type, x->args, x->module);
    record_write_exception_repr(&b->repr, x->type, x->args);
    if (traceback)
        exception_write_traceback(&b->traceback, x, &call->place, call->task->info.name,
                                  call->task->file);
    if (buf_ok(&result) < 0 || buf_ok(&b->repr) < 0 || buf_ok(&b->traceback) < 0)
        return -ENOMEM;
    o->repr = buf_slice(&b->repr);
    o->traceback = buf_slice(&b->traceback);
    o->store = task_stores_error(call->settings, &call->task->info, call->m);
    struct record r = call_record(call, status, call_children(call));
    int rc = call_follow_failure(call, o);
    if (rc < 0 || !o->store)
        return rc;
    r.result = buf_slice(&result);
    r.traceback = o->traceback;
    r.done_us = clock_wall_us();
    return write_record(b, o, &r);
}

static int end_failure(struct celeryc_call *call, struct end_bufs *b, struct outcome *o)
{
    o->kind = OUTCOME_FAILURE;
    return write_exception(call, b, o, "FAILURE", true);
}

static int end_reject(struct celeryc_call *call, struct end_bufs *b, struct outcome *o)
{
    o->kind = OUTCOME_REJECT;
    o->requeue = call->requeue;
    if (call->requeue)
        return 0;
    return write_exception(call, b, o, "FAILURE", false);
}

/* "Retry in 1s": whole seconds without a fraction, as a Python int prints. */
void call_write_retry_in(struct buf *dst, double countdown)
{
    buf_append_str(dst, "Retry in ");
    if (countdown == floor(countdown))
        buf_appendf(dst, "%.0f", countdown);
    else
        json_write_f64(dst, countdown);
    buf_append_char(dst, 's');
}

/* "Retry in 1s: ValueError('x')" */
static void write_retry_text(struct buf *dst, const struct celeryc_call *call)
{
    call_write_retry_in(dst, call->countdown);
    if (call->has_cause) {
        buf_append_str(dst, ": ");
        record_write_exception_repr(dst, call->cause.type, call->cause.args);
    }
}

static int write_retry_record(struct celeryc_call *call, struct end_bufs *b, struct outcome *o)
{
    CLEANUP(buf_deinit) struct buf result = BUF_INIT;
    if (call->has_cause)
        record_write_exception(&result, call->cause.type, call->cause.args, call->cause.module);
    /* The retried task is a child of itself: retry() publishes it like any other. */
    if (call->children.len > 0)
        buf_append_str(&call->children, ", ");
    buf_append_str(&call->children, "[[");
    json_write_string(&call->children, call->m->id);
    buf_append_str(&call->children, ", null], null]");
    struct record r = call_record(call, "RETRY", call_children(call));
    if (call->has_cause)
        r.result = buf_slice(&result);
    r.traceback = o->traceback;
    return buf_ok(&result) < 0 ? -ENOMEM : write_record(b, o, &r);
}

static int end_retry(struct celeryc_call *call, struct end_bufs *b, struct outcome *o)
{
    struct canvas_message message;
    int rc = call_retry_message(call, &b->retry, &message);
    if (rc)
        return rc;
    rc = call_retry_effects(call, &message, o);
    if (rc)
        return rc;
    o->kind = OUTCOME_RETRY;
    o->countdown = call->countdown;
    write_retry_text(&b->repr, call);
    if (buf_ok(&b->repr) < 0)
        return -ENOMEM;
    o->repr = buf_slice(&b->repr);
    struct exception x;
    rc = exception_set_text(&x, call->arena, "Retry", o->repr);
    if (rc < 0)
        return rc;
    exception_write_traceback(&b->traceback, &x, &call->place, call->task->info.name,
                              call->task->file);
    o->traceback = buf_slice(&b->traceback);
    o->store = task_stores_error(call->settings, &call->task->info, call->m);
    if (buf_ok(&b->traceback) < 0)
        return -ENOMEM;
    return o->store ? write_retry_record(call, b, o) : 0;
}

static int end(struct celeryc_call *call, struct end_bufs *b, struct outcome *o)
{
    switch (call->end) {
    case END_NONE:
    case END_RETURN:
        return end_success(call, b, o);
    case END_RAISE:
        return end_failure(call, b, o);
    case END_RETRY:
        return end_retry(call, b, o);
    case END_REJECT:
        return end_reject(call, b, o);
    case END_REPLACE:
        o->kind = OUTCOME_IGNORE;
        return call_replace(call, o);
    case END_IGNORE:
        break;
    }
    o->kind = OUTCOME_IGNORE;
    return call_follow_ignored(call, o);
}

/* An end that is still to be found: a callback that cannot be sent turns success into failure. */
static int find_end(struct celeryc_call *call, struct end_bufs *b, struct outcome *o)
{
    int rc = end(call, b, o);
    if (rc != CANVAS_E_BAD)
        return rc;
    buf_reset(&b->repr);
    *o = (struct outcome){.runtime_ns = o->runtime_ns};
    return end(call, b, o);
}

/* What the frame to the master has to hold. */
static size_t outcome_size(const struct outcome *o)
{
    size_t size = o->record.len + o->repr.len + o->traceback.len + LIMIT_REPR_BYTES;
    for (size_t i = 0; i < o->n_messages; i++)
        size += o->messages[i].raw.len;
    for (size_t i = 0; i < o->n_records; i++)
        size += o->records[i].record.len;
    for (size_t i = 0; i < o->n_parts; i++)
        size += o->parts[i].member.len + o->parts[i].body.len;
    for (size_t i = 0; i < o->n_starts; i++)
        size += o->starts[i].saved.len;
    return size;
}

static int finish(struct celeryc_call *call, int64_t runtime_ns, struct buf *dst)
{
    CLEANUP(end_bufs_deinit) struct end_bufs b = {0};
    CLEANUP(end_bufs_deinit) struct end_bufs small = {0};
    struct outcome o = {.runtime_ns = runtime_ns};
    int rc = find_end(call, &b, &o);
    if (rc == 0 && outcome_size(&o) > LIMIT_FRAME_BYTES) {
        call->plain_record = true;
        call_fail(call, "ValueError",
                  slice_str(arena_printf(call->arena,
                                         "a result of %zu bytes is larger than the %u allowed",
                                         outcome_size(&o), LIMIT_FRAME_BYTES)));
        o = (struct outcome){.runtime_ns = runtime_ns};
        call->effects = canvas_effects_init(call->arena);
        rc = end(call, &small, &o);
    }
    if (rc == 0 && call->failed_alloc)
        rc = -ENOMEM;
    return rc < 0 ? rc : outcome_encode(&o, dst);
}

/* ---- the run ---- */

static void send_started(struct celeryc_call *call)
{
    bool wanted = call->settings->track_started || call->task->info.track_started;
    if (!wanted || call->ignore_result == TRI_YES || !call->host->state)
        return;
    CLEANUP(buf_deinit) struct buf result = BUF_INIT;
    CLEANUP(buf_deinit) struct buf record = BUF_INIT;
    buf_appendf(&result, "{\"pid\": %d, \"hostname\": ", (int)getpid());
    json_write_string(&result, slice_str(call->hostname));
    buf_append_char(&result, '}');
    struct record r = call_record(call, "STARTED", SLICE_LIT("[]"));
    r.result = buf_slice(&result);
    if (buf_ok(&result) == 0 && record_write(&record, &r) == 0)
        call->host->state(call->host->arg, buf_slice(&record));
}

void call_function(struct celeryc_call *call)
{
    const struct task_entry *t = call->task;
    if (!t->run_ctx && !t->run) {
        call_fail(call, "TypeError",
                  SLICE_LIT("an errback of (request, exc, traceback) is no task to be called"));
        return;
    }
    int rc = t->run_ctx ? t->run_ctx(call, t->ctx) : t->run(call);
    if (rc == 0 || call->end != END_NONE)
        return;
    if (call->args_error)
        call_fail(call, "TypeError", slice_str(call->args_error));
    else
        call_fail(call, "RuntimeError",
                  slice_str(arena_printf(call->arena, "the task function returned %d", rc)));
}

/* Everything between the envelope and the function that can go wrong fails the call instead. */
static int prepare(struct celeryc_call *call, const struct task_registry *r,
                   struct message_body *body)
{
    struct err e = ERR_INIT;
    const struct task_entry *t = task_registry_entry(r, call->m->task);
    bool known = t && (t->run || t->run_ctx || t->errback);
    int rc = message_body(call->arena, call->m, body, &e);
    if (rc < 0)
        return rc;
    if (rc == 0)
        call->body = body;
    if (!known) {
        call_fail(call, "NotRegistered", call->m->task);
        return MESSAGE_E_POISON;
    }
    call->task = t;
    call->ignore_result = task_ignores_result(call->settings, &t->info, call->m);
    if (rc == MESSAGE_E_POISON) {
        call_fail(call, "DecodeError", slice_str(err_text(&e, -EINVAL)));
        return rc;
    }
    if (body->args.kind == JSON_K_ARRAY && body->kwargs.kind == JSON_K_OBJECT)
        return 0;
    call_fail(call, "TypeError", SLICE_LIT("args must be a list and kwargs a dict"));
    return MESSAGE_E_POISON;
}

int task_run(const struct task_registry *r, const struct task_settings *s,
             const struct task_host *h, struct arena *a, struct slice queue, struct slice raw,
             struct buf *dst)
{
    struct message m = {0};
    struct message_body body = {0};
    struct err e = ERR_INIT;
    arena_reset(a);
    struct celeryc_call call = {
        .registry = r,
        .task = &unknown_task,
        .settings = s,
        .host = h,
        .arena = a,
        .m = &m,
        .queue = queue,
        .hostname = s->node,
        .ignore_result = TRI_NO,
        .effects = canvas_effects_init(a),
    };
    int64_t start_ns = clock_mono_ns();
    int rc = message_parse_as(a, s->wire, raw, &m, &e);
    if (rc == MESSAGE_E_POISON)
        call_fail(&call, "DecodeError", slice_str(err_text(&e, -EINVAL)));
    else if (rc == 0)
        rc = prepare(&call, r, &body);
    if (rc < 0)
        return rc;
    if (rc == 0) {
        call.id = arena_strdup(a, m.id);
        if (!call.id)
            return -ENOMEM;
        send_started(&call);
        call_function(&call);
        call_autoretry(&call);
    }
    rc = finish(&call, clock_mono_ns() - start_ns, dst);
    buf_deinit(&call.children);
    buf_deinit(&call.result);
    buf_deinit(&call.retry_options);
    return rc;
}
