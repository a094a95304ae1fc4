/* SPDX-License-Identifier: Apache-2.0 */
/* The tasks of Celery's t/integration/tasks.py that look at their request or run again. */

#include "values.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPECTED TASK("ExpectedException")

/* ---- that tell of the request ---- */

static json_t *ids_of(struct celeryc_call *call, const char *i, size_t len)
{
    const char *parent = celeryc_parent_id(call);

    return json_pack("[ss?o]", celeryc_root_id(call), parent, tree_of(i, len));
}

static int ids(struct celeryc_call *call)
{
    const char *i;
    size_t len;

    if (celeryc_args(call, "j", &i, &len))
        return wrong_arguments(call);
    return return_value(call, ids_of(call, i, len), NULL);
}
CELERYC_TASK(TASK("ids"), ids, .arg_names = "i")

static int collect_ids(struct celeryc_call *call)
{
    const char *res, *i;
    size_t res_len, len;

    if (celeryc_args(call, "jj", &res, &res_len, &i, &len))
        return wrong_arguments(call);
    return return_value(call, json_pack("[oo]", tree_of(res, res_len), ids_of(call, i, len)), NULL);
}
CELERYC_TASK(TASK("collect_ids"), collect_ids, .arg_names = "res,i")

static int return_field(struct celeryc_call *call, const char *field)
{
    size_t len;
    const char *json = celeryc_request(call, field, &len);

    return json ? celeryc_return_json(call, json, len) : celeryc_return_none(call);
}

static int return_request_eta(struct celeryc_call *call)
{
    return return_field(call, "eta");
}
CELERYC_TASK(TASK("return_request_eta"), return_request_eta)

static int return_properties(struct celeryc_call *call)
{
    return return_field(call, "properties");
}
CELERYC_TASK(TASK("return_properties"), return_properties)

static int return_priority(struct celeryc_call *call)
{
    char text[32];

    snprintf(text, sizeof text, "Priority: %d", celeryc_priority(call));
    return celeryc_return_string(call, text);
}
CELERYC_TASK(TASK("return_priority"), return_priority)

static json_t *limit(double seconds)
{
    return seconds > 0 ? json_real(seconds) : json_null();
}

static int return_request_time_limits(struct celeryc_call *call)
{
    return return_value(call,
                        json_pack("{soso}", "time_limit", limit(celeryc_time_limit(call)),
                                  "soft_time_limit", limit(celeryc_soft_time_limit(call))),
                        NULL);
}
CELERYC_TASK(TASK("return_request_time_limits"), return_request_time_limits)
CELERYC_TASK(TASK("task_with_declared_time_limits"), return_request_time_limits, .time_limit = 60,
             .soft_time_limit = 45)

/* ---- that run again ---- */

/* Python keeps the count as an attribute of the task, in the worker's child process. */
static int attempt;

static int retry(struct celeryc_call *call)
{
    const char *value = "null";
    size_t len = 4;

    if (celeryc_args(call, "|j", &value, &len))
        return wrong_arguments(call);
    if (strncmp(value, "null", len) != 0 && attempt++ >= 3) {
        attempt = 0;
        return celeryc_return_json(call, value, len);
    }
    celeryc_retry_cause(call, EXPECTED, "");
    return celeryc_retry(call, 5);
}
CELERYC_TASK(TASK("retry"), retry, .arg_names = "return_value", .default_retry_delay = 1)

/* countdown=..., max_retries=... of a call of Python's retry(). */
static int retry_as_told(struct celeryc_call *call, const json_t *how, double countdown,
                         int max_retries)
{
    const json_t *told = json_object_get(how, "countdown");
    const json_t *max = json_object_get(how, "max_retries");

    if (told)
        countdown = json_is_number(told) ? json_number_value(told) : -1;
    if (max)
        max_retries = (int)json_integer_value(max);
    celeryc_retry_max(call, max_retries);
    return celeryc_retry(call, countdown);
}

static int retry_unpickleable(struct celeryc_call *call)
{
    json_t *args = args_tree(call), *kwargs = kwargs_tree(call);
    const json_t *how = json_object_get(kwargs, "retry_kwargs");
    int end;

    if (json_array_size(args) != 2 || !json_is_object(how)) {
        end = celeryc_raise(call, "TypeError", "retry_unpickleable(foo, bar, *, retry_kwargs)");
    } else {
        celeryc_retry_cause(call, TASK("UnpickleableException"),
                            json_string_value(json_array_get(args, 0)));
        end = retry_as_told(call, how, -1, 3);
    }
    json_decref(args);
    json_decref(kwargs);
    return end;
}
CELERYC_TASK(TASK("retry_unpickleable"), retry_unpickleable, .default_retry_delay = 1)

static int retry_once(struct celeryc_call *call)
{
    json_t *kwargs;
    const json_t *expires;
    int end;

    if (celeryc_retries(call) > 0)
        return celeryc_return_int(call, celeryc_retries(call));
    kwargs = kwargs_tree(call);
    expires = json_object_get(kwargs, "expires");
    if (json_is_number(expires)) {
        char *text = json_text(expires);

        celeryc_retry_option(call, "expires", text);
        free(text);
    }
    end = retry_as_told(call, kwargs, 0.1, 1);
    json_decref(kwargs);
    return end;
}
CELERYC_TASK(TASK("retry_once"), retry_once, .max_retries = 1, .expires = 120)

static int retry_once_priority(struct celeryc_call *call)
{
    return celeryc_retries(call) > 0 ? celeryc_return_int(call, celeryc_priority(call))
                                     : celeryc_retry(call, 0.1);
}
CELERYC_TASK(TASK("retry_once_priority"), retry_once_priority, .max_retries = 1)

static int retry_once_headers(struct celeryc_call *call)
{
    return celeryc_retries(call) > 0 ? return_field(call, "headers") : celeryc_retry(call, 0.1);
}
CELERYC_TASK(TASK("retry_once_headers"), retry_once_headers, .max_retries = 1)

static int retry_once_at_once(struct celeryc_call *call)
{
    return celeryc_retries(call) > 0 ? celeryc_return_int(call, celeryc_retries(call))
                                     : celeryc_retry(call, 0);
}
CELERYC_TASK(TASK("retry_once_ignore_result"), retry_once_at_once, .ignore_result = true)
CELERYC_TASK(TASK("retry_once_with_result"), retry_once_at_once)

static json_t *outcome(struct celeryc_call *call, int64_t foo, int64_t bar)
{
    return json_pack("{sI sI sI sb}", "foo", (json_int_t)foo, "bar", (json_int_t)bar, "retries",
                     (json_int_t)celeryc_retries(call), "is_eager", 0);
}

/* The first run came by keywords, the second has foo and bar by position. */
static int retry_with_args_after_kwargs(struct celeryc_call *call)
{
    const char *label = "null";
    size_t len = 4;
    int64_t foo, bar;
    json_t *told;

    if (celeryc_args(call, "ii|j", &foo, &bar, &label, &len))
        return wrong_arguments(call);
    if (celeryc_retries(call) == 0) {
        char args[64];

        snprintf(args, sizeof args, "[%lld, %lld]", (long long)foo + 1, (long long)bar + 1);
        celeryc_retry_args(call, args, NULL);
        return celeryc_retry(call, 0);
    }
    told = outcome(call, foo, bar);
    json_object_set_new(told, "label", tree_of(label, len));
    return return_value(call, told, NULL);
}
CELERYC_TASK(TASK("retry_with_args_after_kwargs"), retry_with_args_after_kwargs, .max_retries = 1,
             .arg_names = "foo,bar,label")

/* The other way round, for foo alone. */
static int retry_with_kwargs_after_args(struct celeryc_call *call)
{
    int64_t foo, bar;

    if (celeryc_args(call, "ii", &foo, &bar))
        return wrong_arguments(call);
    if (celeryc_retries(call) == 0) {
        char kwargs[64];

        snprintf(kwargs, sizeof kwargs, "{\"foo\": %lld}", (long long)foo + 1);
        celeryc_retry_args(call, NULL, kwargs);
        return celeryc_retry(call, 0);
    }
    return return_value(call, outcome(call, foo, bar), NULL);
}
CELERYC_TASK(TASK("retry_with_kwargs_after_args"), retry_with_kwargs_after_args, .max_retries = 1,
             .arg_names = "foo,bar")

static int auto_retry(struct celeryc_call *call)
{
    if (celeryc_retries(call) > 0)
        return celeryc_return_int(call, celeryc_retries(call));
    return celeryc_raise_json(call, "ValueError", "[]");
}
CELERYC_TASK("auto_retry_class_task", auto_retry, .autoretry_for = "ValueError", .max_retries = 1,
             .retry_backoff = 1)
