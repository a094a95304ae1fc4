/* SPDX-License-Identifier: Apache-2.0 */
/* The end of a chord that a task of ours has watched over (celery.chord_unlock): its body, or its failure, goes with the
 * end of the task. */

#include "celeryc/base/log.h"
#include "celeryc/task/call_priv.h"

#include <errno.h>

static struct canvas_parent parent_of(const struct celeryc_call *call)
{
    const struct message *m = call->m;
    return (struct canvas_parent){m->id, m->root_id.len ? m->root_id : m->id, m->priority};
}

int task_chord_fire(struct celeryc_call *call, struct slice body, struct slice results)
{
    const struct canvas_settings s = task_canvas_settings(call->registry, call->settings);
    const struct canvas_parent parent = parent_of(call);
    const struct canvas_effects before = call->effects;
    struct err e = ERR_INIT;
    int rc = canvas_apply(&s, body, 1, &results, SLICE_NULL, &parent, &call->effects, NULL, &e);
    if (rc <= 0)
        return rc;
    call->effects = before;
    const char *text = arena_printf(call->arena, "Callback error: ValueError('%s')", e.text);
    return text ? task_chord_fail(call, body, text) : -ENOMEM;
}

int task_chord_fail(struct celeryc_call *call, struct slice body, const char *text)
{
    const struct canvas_settings s = task_canvas_settings(call->registry, call->settings);
    const struct canvas_parent parent = parent_of(call);
    CLEANUP(buf_deinit) struct buf args = BUF_INIT;
    buf_append_char(&args, '[');
    json_write_string(&args, slice_str(text));
    buf_append_char(&args, ']');
    const char *kept = buf_ok(&args) < 0 ? NULL : arena_strdup(call->arena, buf_slice(&args));
    if (!kept)
        return -ENOMEM;
    const struct canvas_exception x = {.type = SLICE_LIT("ChordError"),
                                       .module = SLICE_LIT("celery.exceptions"),
                                       .args = {kept, args.len}};
    log_error("%s[%s]: the chord has failed: %s", celeryc_task_name(call), call->id, text);
    return canvas_fail_body(&s, body, &x, NULL, SLICE_NULL, &parent, &call->effects);
}

const char *task_raised(struct celeryc_call *call)
{
    CLEANUP(buf_deinit) struct buf repr = BUF_INIT;
    if (call->end != END_RAISE)
        return NULL;
    record_write_exception_repr(&repr, call->exception.type, call->exception.args);
    const char *text = buf_ok(&repr) < 0 ? NULL : arena_strdup(call->arena, buf_slice(&repr));
    return text ? text : "an exception";
}
