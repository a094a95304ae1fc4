/* SPDX-License-Identifier: Apache-2.0 */
/* Canvases from inside a task: applied now through the host, or with the end of the task, in one step with it. */

#include "celeryc/task/call_priv.h"

#include <celeryc/client.h>

#include <errno.h>

/* The signature's text; SLICE_NULL after failing the call. */
static struct slice text_of(struct celeryc_call *call, struct celeryc_sig *s)
{
    size_t len = 0;
    const char *json = celeryc_sig_json(s, &len);
    if (!json)
        call_fail(call, "ValueError", slice_str(celeryc_sig_error(s)));
    return (struct slice){json, len};
}

static int fail(struct celeryc_call *call, int code, struct err *e)
{
    if (code == -ENOMEM)
        call->failed_alloc = true;
    call_fail(call, "ValueError", slice_str(arena_printf(call->arena, "%s", err_text(e, -EINVAL))));
    return -1;
}

/* What is applied goes to the master in one frame: chords are opened before their messages are pushed. */
static int send_now(struct celeryc_call *call, const struct canvas_effects *fx, struct err *e)
{
    struct outcome o = {.kind = OUTCOME_SUCCESS};
    int rc = call_lists(call->arena, fx, &o);
    if (rc == 0 && call->host->apply)
        rc = call->host->apply(call->host->arg, &o);
    if (rc == -E2BIG)
        return err_set(e, rc, "what it would send is larger than a frame may be");
    return rc;
}

int call_apply(struct celeryc_call *call, const struct call_application *a,
               struct slice *ret_result)
{
    const struct canvas_settings settings = task_canvas_settings(call->registry, call->settings);
    const struct canvas_parent parent = {
        call->m->id, call->m->root_id.len ? call->m->root_id : call->m->id, call->m->priority};
    struct canvas_effects fx = canvas_effects_init(call->arena);
    struct err e = ERR_INIT;
    /* Messages may borrow the signature's text, which is the caller's; they leave before we return. */
    int rc = canvas_apply(&settings, a->signature, a->n, a->args, a->options, &parent, &fx,
                          ret_result, &e);
    if (rc == 0)
        rc = send_now(call, &fx, &e);
    if (rc)
        return fail(call, rc, &e);
    call_add_children(call, fx.children);
    return 0;
}

int celeryc_apply(struct celeryc_call *call, struct celeryc_sig *s, const char *options,
                  const char **ret_result)
{
    const struct call_application a = {.signature = text_of(call, s),
                                       .options = slice_str(options)};
    struct slice result;
    if (!a.signature.p || call_apply(call, &a, &result))
        return -1;
    if (ret_result)
        *ret_result = result.p; /* canvas leaves a NUL behind it */
    return 0;
}

int celeryc_replace(struct celeryc_call *call, struct celeryc_sig *s)
{
    struct slice text = text_of(call, s);
    if (!text.p)
        return 0;
    call->replacement = (struct slice){arena_strdup(call->arena, text), text.len};
    call->failed_alloc |= !call->replacement.p;
    call->end = END_REPLACE;
    return 0;
}

int celeryc_add_to_chord(struct celeryc_call *call, struct celeryc_sig *s)
{
    const struct canvas_settings settings = task_canvas_settings(call->registry, call->settings);
    const struct canvas_effects before = call->effects;
    struct slice text = text_of(call, s);
    struct err e = ERR_INIT;
    if (!text.p)
        return -1;
    const char *copy = arena_strdup(call->arena, text); /* it is sent when s may be gone */
    if (!copy)
        return fail(call, -ENOMEM, &e);
    int rc = canvas_add_to_chord(&settings, call->m, call->body, (struct slice){copy, text.len},
                                 &call->effects, &e);
    if (rc == 0)
        return 0;
    call->effects = before;
    return fail(call, rc, &e);
}

int call_replace(struct celeryc_call *call, struct outcome *o)
{
    const struct canvas_settings settings = task_canvas_settings(call->registry, call->settings);
    const struct canvas_effects before = call->effects;
    struct err e = ERR_INIT;
    int rc = canvas_replace(&settings, call->m, call->body, call->replacement, &call->effects, &e);
    if (rc > 0) {
        call->effects = before;
        call_fail(call, rc == CANVAS_E_REFUSED ? "ImproperlyConfigured" : "ValueError",
                  slice_str(arena_printf(call->arena, "%s", e.text)));
        return CANVAS_E_BAD;
    }
    return rc ? rc : call_take_effects(call, o);
}
