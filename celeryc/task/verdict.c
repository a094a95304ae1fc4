/* SPDX-License-Identifier: Apache-2.0 */
/* What the master writes for a task whose end no child has told: unknown, expired, revoked, timed out, lost. The same
 * record and the same consequences as if the task had raised that exception, or had been retried. */

#include "celeryc/base/clock.h"
#include "celeryc/task/call_priv.h"

#include <errno.h>

int task_write_verdict(struct buf *dst, const struct task_settings *s, const struct message *m,
                       const char *status, const char *type, const char *module,
                       struct slice args_json)
{
    CLEANUP(buf_deinit) struct buf result = BUF_INIT;
    record_write_exception(&result, slice_str(type), args_json, slice_str(module));
    if (buf_ok(&result) < 0)
        return -ENOMEM;
    struct celeryc_call call = {.settings = s, .m = m, .hostname = s->node};
    struct record r = call_record(&call, status, SLICE_LIT("[]"));
    r.result = buf_slice(&result);
    r.done_us = clock_wall_us();
    return record_write(dst, &r);
}

/* NOLINTNEXTLINE(readability-function-size): a verdict is state, type, module and arguments */
int task_verdict_effects(const struct task_registry *r, const struct task_settings *s,
                         const struct message *m, bool revoked, const char *type,
                         const char *module, struct slice args, struct canvas_effects *ret)
{
    const struct canvas_settings settings = task_canvas_settings(r, s);
    const struct canvas_exception x = {slice_str(type), slice_str(module), args, SLICE_NULL};
    struct message_body body;
    struct err e = ERR_INIT;
    if (!m->id.p || !m->properties.raw.p)
        return 0; /* nothing of it could be read */
    int rc = message_body(ret->arena, m, &body, &e);
    if (rc)
        return rc < 0 ? rc : 0;
    const struct task_info *t = r ? task_registry_find(r, m->task) : NULL;
    return canvas_failure(&settings, m, &body, &x, revoked, task_stores_error(s, t, m), ret);
}

/* ---- a lost task that is retried ---- */

static int write_retry_record(struct buf *dst, const struct task_settings *s,
                              const struct message *m, struct slice exception)
{
    struct celeryc_call call = {.settings = s, .m = m, .hostname = s->node};
    struct record r = call_record(&call, "RETRY", SLICE_LIT("[]"));
    r.result = exception;
    return record_write(dst, &r);
}

int task_write_lost_retry(struct arena *a, const struct task_settings *s, const struct task_info *t,
                          const struct message *m, struct slice args, struct task_lost_retry *ret)
{
    const struct slice type = SLICE_LIT("WorkerLostError");
    CLEANUP(buf_deinit) struct buf exception = BUF_INIT;
    struct message_body body;
    struct err e = ERR_INIT;
    int rc = message_body(a, m, &body, &e);
    if (rc)
        return rc;
    int64_t now_us = clock_wall_us();
    const struct message_retry retry = {
        .eta_us = now_us + (int64_t)(t->default_retry_delay * 1e6),
        .now_us = now_us,
        .ignore_result = task_ignores_result(s, t, m),
        .keep_parent = true,
    };
    rc = message_write_retry(&ret->message, m, &body, &retry);
    if (rc == 0 && task_stores_error(s, t, m)) {
        record_write_exception(&exception, type, args, SLICE_LIT("billiard.exceptions"));
        rc = buf_ok(&exception);
        if (rc == 0)
            rc = write_retry_record(&ret->record, s, m, buf_slice(&exception));
    }
    call_write_retry_in(&ret->text, t->default_retry_delay);
    buf_append_str(&ret->text, ": ");
    record_write_exception_repr(&ret->text, type, args);
    return rc ? rc : buf_ok(&ret->text);
}

void task_lost_retry_deinit(struct task_lost_retry *r)
{
    buf_deinit(&r->message);
    buf_deinit(&r->record);
    buf_deinit(&r->text);
}
