/* SPDX-License-Identifier: Apache-2.0 */
/* What follows from the end of a task, put into its outcome: canvas computes it, the master applies it together with
 * the record, or not at all. */

#include "celeryc/base/clock.h"
#include "celeryc/task/call_priv.h"

#include <errno.h>

static bool lookup(void *arg, struct slice task, struct canvas_defaults *ret)
{
    const struct task_info *t = task_registry_find(arg, task);
    if (!t)
        return false;
    *ret = (struct canvas_defaults){.time_limit_s = t->time_limit,
                                    .soft_time_limit_s = t->soft_time_limit,
                                    .ignore_result = t->ignore_result,
                                    .queue = slice_str(t->queue),
                                    .priority = t->priority,
                                    .expires_s = t->expires,
                                    .errback = t->has_errback};
    return true;
}

struct canvas_settings task_canvas_settings(const struct task_registry *r,
                                            const struct task_settings *s)
{
    return (struct canvas_settings){
        .default_queue = slice_str(s->default_queue ? s->default_queue : "celery"),
        .node = slice_str(s->node),
        .wire = s->wire,
        .inherit_priority = s->inherit_parent_priority,
        .default_priority = s->default_priority,
        .header_errbacks = s->header_errbacks,
        .result_extended = s->result_extended,
        .now_us = clock_wall_us(),
        .lookup = r ? lookup : NULL,
        .arg = (void *)r,
    };
}

static int copy_messages(struct arena *a, const struct canvas_effects *fx, struct outcome *o)
{
    if (fx->n_messages == 0)
        return 0;
    o->messages = arena_alloc_array(a, fx->n_messages, sizeof *o->messages);
    if (!o->messages)
        return -ENOMEM;
    for (size_t i = 0; i < fx->n_messages; i++)
        o->messages[i] = (struct outcome_message){fx->messages[i].queue, fx->messages[i].priority,
                                                  fx->messages[i].raw};
    o->n_messages = fx->n_messages;
    return 0;
}

int call_lists(struct arena *a, const struct canvas_effects *fx, struct outcome *o)
{
    o->n_records = fx->n_records;
    o->records = fx->records;
    o->n_parts = fx->n_parts;
    o->parts = fx->parts;
    o->n_starts = fx->n_starts;
    o->starts = fx->starts;
    o->n_adds = fx->n_adds;
    o->adds = fx->adds;
    return copy_messages(a, fx, o);
}

void call_add_children(struct celeryc_call *call, struct slice tuples)
{
    if (!tuples.p)
        return;
    buf_append_str(&call->children, call->children.len > 0 ? ", " : "");
    buf_append_slice(&call->children, tuples);
}

int call_take_effects(struct celeryc_call *call, struct outcome *o)
{
    for (size_t i = 0; i < call->effects.n_calls; i++) {
        int rc = call_errback(call, &call->effects.calls[i]);
        if (rc)
            return rc;
    }
    call_add_children(call, call->effects.children);
    return call_lists(call->arena, &call->effects, o);
}

int call_follow_success(struct celeryc_call *call, struct slice result, struct outcome *o)
{
    const struct canvas_settings s = task_canvas_settings(call->registry, call->settings);
    const struct canvas_effects before = call->effects;
    struct err e = ERR_INIT;
    int rc = canvas_success(&s, call->m, call->body, result, &call->effects, &e);
    if (rc == CANVAS_E_BAD) {
        call->effects = before;
        call_fail(call, "ValueError", slice_str(arena_printf(call->arena, "%s", e.text)));
    }
    return rc ? rc : call_take_effects(call, o);
}

int call_follow_failure(struct celeryc_call *call, struct outcome *o)
{
    const struct canvas_settings s = task_canvas_settings(call->registry, call->settings);
    const struct exception *x = &call->exception;
    const struct canvas_exception failed = {x->type, x->module, x->args,
                                            o->traceback.len ? o->traceback : SLICE_NULL};
    int rc = canvas_failure(&s, call->m, call->body, &failed, false, o->store, &call->effects);
    return rc ? rc : call_take_effects(call, o);
}

int call_follow_ignored(struct celeryc_call *call, struct outcome *o)
{
    const struct canvas_settings s = task_canvas_settings(call->registry, call->settings);
    int rc = canvas_ignored(&s, call->m, call->body, &call->effects);
    return rc ? rc : call_take_effects(call, o);
}
