/* SPDX-License-Identifier: Apache-2.0 */
/* What a running task may do on its way: store a state of its own, send another task. Both leave at once, through the
 * host; the children of the record list every id in the order in which it was sent. */

#include "celeryc/base/clock.h"
#include "celeryc/base/codec.h"
#include "celeryc/base/limits.h"
#include "celeryc/task/call_priv.h"

#include <math.h>

struct slice call_children(struct celeryc_call *call)
{
    if (buf_ok(&call->children) < 0)
        return SLICE_NULL;
    return slice_str(
        arena_printf(call->arena, "[%s]", call->children.data ? call->children.data : ""));
}

struct record call_record(const struct celeryc_call *call, const char *status,
                          struct slice children)
{
    const struct message *m = call->m;
    struct record r = {
        .status = status,
        .children = children,
        .group_id = m->group,
        .parent_id = m->parent_id,
        .task_id = m->id,
        .extended = call->settings->result_extended && !call->plain_record,
        .name = m->task,
        .args = call->body ? call->body->args.raw : SLICE_NULL,
        .kwargs = call->body ? call->body->kwargs.raw : SLICE_NULL,
        .worker = slice_str(call->hostname),
        .queue = m->routing_key,
        .retries = m->retries,
    };
    if (r.extended) {
        r.stamped_headers = json_get(m->headers, "stamped_headers");
        r.stamps = json_get(m->headers, "stamps");
    }
    return r;
}

/* A reader rebuilds an exception from the result of these states and chokes on anything else. */
static bool state_fits(const char *state, struct json_val meta)
{
    bool exception = str_eq(state, "FAILURE") || str_eq(state, "RETRY") || str_eq(state, "REVOKED");
    if (!exception)
        return true;
    return json_get(meta, "exc_type").kind == JSON_K_STRING &&
           json_get(meta, "exc_message").kind == JSON_K_ARRAY;
}

int celeryc_update_state(struct celeryc_call *call, const char *state, const char *meta_json)
{
    struct json_val meta;
    struct err e = ERR_INIT;
    if (!state || !*state || json_scan(slice_str(meta_json ? meta_json : "null"), &meta, &e) < 0 ||
        !state_fits(state, meta))
        return -1;
    CLEANUP(buf_deinit) struct buf result = BUF_INIT;
    CLEANUP(buf_deinit) struct buf record = BUF_INIT;
    json_write_normal(&result, meta);
    struct record r = call_record(call, state, call_children(call));
    if (buf_ok(&result) < 0 || !r.children.p)
        return -1;
    r.result = buf_slice(&result);
    bool ready = str_eq(state, "SUCCESS") || str_eq(state, "FAILURE") || str_eq(state, "REVOKED");
    r.done_us = ready ? clock_wall_us() : 0;
    if (record_write(&record, &r) < 0)
        return -1;
    if (call->host->state)
        call->host->state(call->host->arg, buf_slice(&record));
    return 0;
}

void task_call_advanced(struct celeryc_call *call)
{
    if (call->host->state && call->m->redelivered)
        call->host->state(call->host->arg, SLICE_LIT(""));
}

static int parse_arguments(const char *text, enum json_kind kind, struct slice *ret_text)
{
    struct json_val v;
    struct err e = ERR_INIT;
    *ret_text = SLICE_NULL;
    if (!text)
        return 0;
    if (json_scan(slice_str(text), &v, &e) < 0 || v.kind != kind)
        return -1;
    *ret_text = v.raw;
    return 0;
}

int celeryc_send(struct celeryc_call *call, const char *name, const char *args_json,
                 const char *kwargs_json, const char *queue, double countdown, const char *task_id)
{
    char fresh[UUID_TEXT_SIZE];
    uuid4_text(fresh);
    const char *id = task_id ? task_id : fresh;
    const struct task_info *t = task_registry_find(call->registry, slice_str(name));
    if (!queue)
        queue = t && t->queue ? t->queue : call->settings->default_queue;
    struct message_new n = {
        .task = slice_str(name),
        .id = slice_str(id),
        .queue = slice_str(queue),
        .priority = t ? t->priority : 0,
        .root_id = call->m->root_id.p ? call->m->root_id : call->m->id,
        .parent_id = call->m->id,
        .now_us = clock_wall_us(),
        .ignore_result = TRI_UNSET,
        .wire = call->settings->wire,
    };
    if (n.task.len == 0 || n.task.len > LIMIT_TASK_NAME || n.id.len == 0 || n.queue.len == 0 ||
        !isfinite(countdown) || parse_arguments(args_json, JSON_K_ARRAY, &n.args) < 0 ||
        parse_arguments(kwargs_json, JSON_K_OBJECT, &n.kwargs) < 0)
        return -1;
    if (countdown > 0)
        n.eta_us = n.now_us + (int64_t)(fmin(countdown, 1e10) * 1e6);
    if (t && t->expires > 0)
        n.expires_us = n.now_us + (int64_t)(fmin(t->expires, 1e10) * 1e6);
    CLEANUP(buf_deinit) struct buf raw = BUF_INIT;
    if (message_write_new(&raw, &n) < 0)
        return -1;
    if (call->children.len > 0)
        buf_append_str(&call->children, ", ");
    buf_append_str(&call->children, "[[");
    json_write_string(&call->children, n.id);
    buf_append_str(&call->children, ", null], null]");
    if (call->host->send)
        call->host->send(call->host->arg, n.queue, n.priority, buf_slice(&raw));
    return 0;
}
