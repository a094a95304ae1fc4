/* SPDX-License-Identifier: Apache-2.0 */
/* celery.chord_unlock(group_id, callback, interval=None, max_retries=None, result=[tuples]): looks whether all results
 * are there, is retried as long as they are not, then sends the body or fails the chord (celery/app/builtins.py).
 *
 * On Redis chords are counted and need no such task; it comes from clients that were told another backend. It runs in a
 * child and reads the results over a connection of its own. */

#include "celeryc/client/unlock.h"

#include "celeryc/client/client.h"
#include "celeryc/client/client_priv.h"
#include "celeryc/message/record.h"
#include "celeryc/task/run.h"

#include <errno.h>

#define INTERVAL_S 1.0 /* result_chord_retry_interval */

struct unlock {
    struct json_val args, kwargs;
};

static struct json_val param(const struct unlock *u, size_t i, const char *name)
{
    struct json_val v = json_at(u->args, i);
    return v.kind != JSON_K_NONE ? v : json_get(u->kwargs, name);
}

/* The header as one group result. */
static int write_tuple(const struct unlock *u, struct buf *dst)
{
    buf_append_str(dst, "[[");
    json_write_normal(dst, param(u, 0, "group_id"));
    buf_append_str(dst, ", null], ");
    json_write_normal(dst, param(u, 4, "result"));
    buf_append_char(dst, ']');
    return buf_ok(dst);
}

static int retry(struct celeryc_call *call, const struct unlock *u)
{
    double interval = INTERVAL_S;
    int64_t max = CELERYC_RETRY_FOREVER;
    struct json_val body = param(u, 1, "callback");
    if (json_f64(param(u, 2, "interval"), &interval) || !(interval >= 0))
        interval = INTERVAL_S;
    if (json_i64(param(u, 3, "max_retries"), &max) == 0)
        celeryc_retry_max(call, (int)MAX(0, MIN(max, INT32_MAX)));
    int end = celeryc_retry(call, interval);
    const char *raised = task_raised(call);
    if (!raised)
        return end;
    CLEANUP(buf_deinit) struct buf why = BUF_INIT;
    buf_appendf(&why, "chord_unlock could not be retried: %s", raised);
    if (buf_ok(&why) || task_chord_fail(call, body.raw, why.data))
        return celeryc_raise(call, "MemoryError", "out of memory");
    return end;
}

static int fail(struct celeryc_call *call, struct json_val body, const struct celeryc_result *r)
{
    CLEANUP(buf_deinit) struct buf why = BUF_INIT;
    client_write_failure(&why, r);
    if (buf_ok(&why) || task_chord_fail(call, body.raw, why.data))
        return celeryc_raise(call, "MemoryError", "out of memory");
    return celeryc_return_none(call);
}

static int look(struct celeryc_call *call, const struct unlock *u, struct celeryc_client *c)
{
    CLEANUP(buf_deinit) struct buf tuple = BUF_INIT;
    struct json_val body = param(u, 1, "callback");
    size_t len = 0;
    struct celeryc_result *r =
        write_tuple(u, &tuple) ? NULL : client_result_new(c, buf_slice(&tuple));
    int end;
    if (!r)
        return celeryc_raise(call, "ValueError", "the results of the header cannot be read");
    const char *state = celeryc_result_state(r);
    const char *json = state ? celeryc_result_json(r, &len) : NULL;
    if (!state)
        celeryc_retry_cause(call, "kombu.exceptions.OperationalError", celeryc_client_error(c));
    if (!json)
        end = retry(call, u);
    else if (!str_eq(state, "SUCCESS"))
        end = fail(call, body, r);
    else if (task_chord_fire(call, body.raw, (struct slice){json, len}))
        end = celeryc_raise(call, "MemoryError", "out of memory");
    else
        end = celeryc_return_none(call);
    celeryc_result_free(r);
    return end;
}

static int run(struct celeryc_call *call, void *ctx)
{
    const struct unlock_options *o = ctx;
    struct unlock u;
    struct settings settings;
    struct err e = ERR_INIT;
    size_t n_args, n_kwargs;
    const char *args = celeryc_args_json(call, &n_args);
    const char *kwargs = celeryc_kwargs_json(call, &n_kwargs);
    if (json_scan((struct slice){args, n_args}, &u.args, &e) ||
        json_scan((struct slice){kwargs, n_kwargs}, &u.kwargs, &e) ||
        param(&u, 1, "callback").kind != JSON_K_OBJECT ||
        param(&u, 4, "result").kind != JSON_K_ARRAY)
        return celeryc_raise(call, "TypeError", "chord_unlock() needs a group id, a body, results");
    settings_init(&settings);
    int r = o->config ? settings_load(&settings, o->config, &e) : 0;
    struct celeryc_client *c = r ? NULL : client_of_settings(&settings, NULL, o->backend);
    settings_deinit(&settings);
    if (!c || !client_has_backend(c)) {
        celeryc_client_free(c);
        return celeryc_raise(call, "RuntimeError", "this worker has no result backend");
    }
    int end = look(call, &u, c);
    celeryc_client_free(c);
    return end;
}

int unlock_register(struct task_registry *r, struct unlock_options *o, struct err *e)
{
    static const struct celeryc_task task = {.name = "celery.chord_unlock",
                                             .max_retries = CELERYC_RETRY_FOREVER,
                                             .default_retry_delay = INTERVAL_S,
                                             .ignore_result = true};
    if (task_registry_find(r, slice_str(task.name)))
        return 0;
    return task_registry_add(r, &task, run, o, e);
}
