/* SPDX-License-Identifier: Apache-2.0 */
/* The tasks of Celery's t/integration/tasks.py that compute, sleep, write and fail. */

#include "values.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ERROR_SIZE 200

static int identity(struct celeryc_call *call)
{
    const char *x;
    size_t len;

    if (celeryc_args(call, "j", &x, &len))
        return wrong_arguments(call);
    return celeryc_return_json(call, x, len);
}
CELERYC_TASK(TASK("identity"), identity, .arg_names = "x")

static bool truthy(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_NULL:
    case JSON_FALSE:
        return false;
    case JSON_INTEGER:
    case JSON_REAL:
        return json_number_value(v) != 0;
    case JSON_STRING:
        return json_string_length(v) > 0;
    case JSON_ARRAY:
        return json_array_size(v) > 0;
    default:
        return json_is_true(v) || json_object_size(v) > 0;
    }
}

static int add(struct celeryc_call *call)
{
    char error[ERROR_SIZE];
    const char *text[3] = {NULL, NULL, "null"};
    size_t len[3] = {0, 0, 4};
    json_t *x, *y, *z, *sum;

    if (celeryc_args(call, "jj|j", &text[0], &len[0], &text[1], &len[1], &text[2], &len[2]))
        return wrong_arguments(call);
    x = tree_of(text[0], len[0]);
    y = tree_of(text[1], len[1]);
    z = tree_of(text[2], len[2]);
    sum = value_add(x, y, error, sizeof error);
    if (sum && truthy(z)) {
        json_t *more = value_add(sum, z, error, sizeof error);

        json_decref(sum);
        sum = more;
    }
    json_decref(x);
    json_decref(y);
    json_decref(z);
    return return_value(call, sum, error);
}
CELERYC_TASK(TASK("add"), add, .arg_names = "x,y,z")

static int add_two(struct celeryc_call *call)
{
    char error[ERROR_SIZE];
    const char *text[2];
    size_t len[2];
    json_t *x, *y, *sum;

    if (celeryc_args(call, "jj", &text[0], &len[0], &text[1], &len[1]))
        return wrong_arguments(call);
    x = tree_of(text[0], len[0]);
    y = tree_of(text[1], len[1]);
    sum = value_add(x, y, error, sizeof error);
    json_decref(x);
    json_decref(y);
    return return_value(call, sum, error);
}
CELERYC_TASK(TASK("add_not_typed"), add_two, .arg_names = "x,y")
CELERYC_TASK(TASK("add_ignore_result"), add_two, .arg_names = "x,y", .ignore_result = true)
CELERYC_TASK(TASK("add_with_result"), add_two, .arg_names = "x,y")

static int mul(struct celeryc_call *call)
{
    int64_t x, y;

    if (celeryc_args(call, "ii", &x, &y))
        return wrong_arguments(call);
    return celeryc_return_int(call, x * y);
}
CELERYC_TASK(TASK("mul"), mul, .arg_names = "x,y")

/* Its model has two ints, and so has its result. */
static int add_pydantic(struct celeryc_call *call)
{
    const char *text;
    size_t len;
    json_t *data, *result = NULL;

    if (celeryc_args(call, "j", &text, &len))
        return wrong_arguments(call);
    data = tree_of(text, len);
    if (json_is_integer(json_object_get(data, "x")) && json_is_integer(json_object_get(data, "y")))
        result = json_pack("{sI}", "result",
                           json_integer_value(json_object_get(data, "x")) +
                               json_integer_value(json_object_get(data, "y")));
    json_decref(data);
    return return_value(call, result, "x and y are to be ints");
}
CELERYC_TASK(TASK("add_pydantic"), add_pydantic, .arg_names = "data")
CELERYC_TASK(TASK("add_pydantic_string_annotations"), add_pydantic, .arg_names = "data")

static int tsum(struct celeryc_call *call)
{
    char error[ERROR_SIZE];
    const char *text;
    size_t len;
    json_t *nums, *sum;

    if (celeryc_args(call, "j", &text, &len))
        return wrong_arguments(call);
    nums = tree_of(text, len);
    sum = value_sum(nums, error, sizeof error);
    json_decref(nums);
    return return_value(call, sum, error);
}
CELERYC_TASK(TASK("tsum"), tsum, .arg_names = "nums")

/* Lists inside are summed first. */
static int xsum(struct celeryc_call *call)
{
    char error[ERROR_SIZE];
    const char *text;
    size_t len, i;
    json_t *nums, *flat, *sum = NULL;

    if (celeryc_args(call, "j", &text, &len))
        return wrong_arguments(call);
    nums = tree_of(text, len);
    flat = json_array();
    for (i = 0; i < json_array_size(nums); i++) {
        json_t *inner = json_array_get(nums, i);
        json_t *number =
            json_is_array(inner) ? value_sum(inner, error, sizeof error) : json_incref(inner);

        if (!number)
            break;
        json_array_append_new(flat, number);
    }
    if (i == json_array_size(nums))
        sum = value_sum(json_is_array(nums) ? flat : nums, error, sizeof error);
    json_decref(nums);
    json_decref(flat);
    return return_value(call, sum, error);
}
CELERYC_TASK(TASK("xsum"), xsum, .arg_names = "nums")

static int sum_and_record(struct celeryc_call *call)
{
    char error[ERROR_SIZE];
    const char *text, *key;
    size_t len;
    json_t *values, *sum, *id;
    int end = 0, code;

    if (celeryc_args(call, "js", &text, &len, &key))
        return wrong_arguments(call);
    values = tree_of(text, len);
    sum = value_sum(values, error, sizeof error);
    json_decref(values);
    if (!sum)
        return return_value(call, NULL, error);
    id = json_string(celeryc_task_id(call));
    code = redis_push(call, key, id, &end);
    json_decref(id);
    if (code == 0)
        return return_value(call, sum, NULL);
    json_decref(sum);
    return end;
}
CELERYC_TASK(TASK("sum_and_record"), sum_and_record, .arg_names = "values,redis_key")

/* ---- that take time ---- */

/* sleep(), in steps short enough to see a soft time limit; false when one came. */
static bool sleep_unless_stopped(struct celeryc_call *call, double seconds)
{
    for (; seconds > 0; seconds -= 0.05) {
        if (celeryc_should_stop(call))
            return false;
        sleep_for(seconds < 0.05 ? seconds : 0.05);
    }
    return !celeryc_should_stop(call);
}

static int delayed(struct celeryc_call *call, bool guarded)
{
    char error[ERROR_SIZE];
    const char *text;
    size_t len;
    double pause_time = 1;
    json_t *numbers, *sum;

    if (celeryc_args(call, "j|d", &text, &len, &pause_time))
        return wrong_arguments(call);
    if (!guarded)
        sleep_for(pause_time);
    else if (!sleep_unless_stopped(call, pause_time))
        return celeryc_return_int(call, 0);
    numbers = tree_of(text, len);
    sum = value_sum(numbers, error, sizeof error);
    json_decref(numbers);
    return return_value(call, sum, error);
}

static int delayed_sum(struct celeryc_call *call)
{
    return delayed(call, false);
}
CELERYC_TASK(TASK("delayed_sum"), delayed_sum, .arg_names = "numbers,pause_time")

static int delayed_sum_with_soft_guard(struct celeryc_call *call)
{
    return delayed(call, true);
}
CELERYC_TASK(TASK("delayed_sum_with_soft_guard"), delayed_sum_with_soft_guard,
             .arg_names = "numbers,pause_time")

/* Takes any further keyword arguments, which it ignores. */
static int sleeping(struct celeryc_call *call)
{
    json_t *args = args_tree(call), *kwargs = kwargs_tree(call);
    const json_t *i = json_array_get(args, 0);
    double seconds;
    bool known;

    if (!i)
        i = json_object_get(kwargs, "i");
    known = json_is_number(i);
    seconds = json_number_value(i);
    json_decref(args);
    json_decref(kwargs);
    if (!known)
        return celeryc_raise(call, "TypeError", "sleeping(i, **_)");
    sleep_for(seconds);
    return celeryc_return_none(call);
}
CELERYC_TASK(TASK("sleeping"), sleeping)

/* ---- with a trace outside ---- */

static int write_to_file_and_return_int(struct celeryc_call *call)
{
    const char *file_name;
    int64_t i;
    FILE *f;

    if (celeryc_args(call, "si", &file_name, &i))
        return wrong_arguments(call);
    f = fopen(file_name, "ae");
    if (!f)
        return celeryc_raise(call, "OSError", "%s", file_name);
    fprintf(f, "%lld\n", (long long)i);
    fclose(f);
    return celeryc_return_int(call, i);
}
CELERYC_TASK(TASK("write_to_file_and_return_int"), write_to_file_and_return_int,
             .arg_names = "file_name,i")

static int print_unicode(struct celeryc_call *call)
{
    const char *log_message = "håå®ƒ valmuefrø", *print_message = "hiöäüß";

    if (celeryc_args(call, "|ss", &log_message, &print_message))
        return wrong_arguments(call);
    celeryc_log(call, CELERYC_WARNING, "%s", log_message);
    puts(print_message);
    fflush(stdout);
    return celeryc_return_none(call);
}
CELERYC_TASK(TASK("print_unicode"), print_unicode, .arg_names = "log_message,print_message")

static int redis_echo(struct celeryc_call *call)
{
    const char *text, *key = "redis-echo";
    size_t len;
    json_t *message;
    int end = 0, code;

    if (celeryc_args(call, "j|s", &text, &len, &key))
        return wrong_arguments(call);
    message = tree_of(text, len);
    code = redis_push(call, key, message, &end);
    json_decref(message);
    return code < 0 ? end : celeryc_return_none(call);
}
CELERYC_TASK(TASK("redis_echo"), redis_echo, .arg_names = "message,redis_key")

static int redis_echo_group_id(struct celeryc_call *call)
{
    const char *ignored, *key = "redis-group-ids";
    size_t len;
    json_t *group;
    int end = 0, code;

    if (celeryc_args(call, "j|s", &ignored, &len, &key))
        return wrong_arguments(call);
    group = celeryc_group_id(call) ? json_string(celeryc_group_id(call)) : json_null();
    code = redis_push(call, key, group, &end);
    json_decref(group);
    return code < 0 ? end : celeryc_return_none(call);
}
CELERYC_TASK(TASK("redis_echo_group_id"), redis_echo_group_id, .arg_names = "_,redis_key")

static int redis_count(struct celeryc_call *call)
{
    const char *key = "redis-count";
    int end = 0;

    if (celeryc_args(call, "|s", &key))
        return wrong_arguments(call);
    return redis_increment(call, key, &end) < 0 ? end : celeryc_return_none(call);
}
CELERYC_TASK(TASK("redis_count"), redis_count, .arg_names = "redis_key")

/* ---- that fail ---- */

static int raise_error(struct celeryc_call *call)
{
    return celeryc_raise(call, "ValueError", "deliberate error");
}
CELERYC_TASK(TASK("raise_error"), raise_error)

static int fail(struct celeryc_call *call)
{
    json_t *args = args_tree(call);
    char *text;
    int end;

    json_array_insert_new(args, 0, json_string("Task expected to fail"));
    text = json_text(args);
    end = celeryc_raise_json(call, TASK("ExpectedException"), text);
    free(text);
    json_decref(args);
    return end;
}
CELERYC_TASK(TASK("fail"), fail)

static int fail_unpickleable(struct celeryc_call *call)
{
    const char *foo, *bar;

    if (celeryc_args(call, "ss", &foo, &bar))
        return wrong_arguments(call);
    return celeryc_raise(call, TASK("UnpickleableException"), "%s", foo);
}
CELERYC_TASK(TASK("fail_unpickleable"), fail_unpickleable, .arg_names = "foo,bar")

static int return_exception(struct celeryc_call *call)
{
    const char *text;
    size_t len;

    if (celeryc_args(call, "j", &text, &len))
        return wrong_arguments(call);
    return return_value(call, json_pack("[ob]", tree_of(text, len), 1), NULL);
}
CELERYC_TASK(TASK("return_exception"), return_exception, .arg_names = "e")

static int reject_then_succeed(struct celeryc_call *call)
{
    if (!celeryc_redelivered(call))
        return celeryc_reject(call, NULL, true);
    return celeryc_return_string(call, "second-pass");
}
CELERYC_TASK(TASK("reject_then_succeed"), reject_then_succeed, .acks_late = true)

static int reject_without_requeue(struct celeryc_call *call)
{
    return celeryc_reject(call, "rejected", false);
}
CELERYC_TASK(TASK("reject_without_requeue"), reject_without_requeue)

/* ---- errbacks ---- */

/* Old style: a task of its own, called with the id of the one that failed. */
static int errback_old_style(struct celeryc_call *call)
{
    const char *id;
    int end = 0;

    if (celeryc_args(call, "s", &id))
        return wrong_arguments(call);
    return redis_increment(call, id, &end) < 0 ? end : celeryc_return_string(call, id);
}
CELERYC_TASK(TASK("errback_old_style"), errback_old_style, .arg_names = "request_id")

static int errback_old_style_with_args(struct celeryc_call *call)
{
    const char *id, *label;
    json_t *message;
    int end = 0, code;

    if (celeryc_args(call, "ss", &id, &label))
        return wrong_arguments(call);
    message = json_string(label);
    code = redis_push(call, id, message, &end);
    json_decref(message);
    return code < 0 ? end : celeryc_return_none(call);
}
CELERYC_TASK(TASK("errback_old_style_with_args"), errback_old_style_with_args,
             .arg_names = "request_id,label")

/* New style: called where the failure was seen. As a task it has nothing to work on. */
static int only_an_errback(struct celeryc_call *call)
{
    return celeryc_raise(call, "TypeError", "called with something else than (request, exc, tb)");
}

static int errback_new_style(struct celeryc_call *call, const struct celeryc_failure *f)
{
    int end = 0;

    return redis_increment(call, f->task_id, &end) < 0 ? end
                                                       : celeryc_return_string(call, f->task_id);
}
CELERYC_TASK(TASK("errback_new_style"), only_an_errback, .errback = errback_new_style)

static int errback_new_style_with_args(struct celeryc_call *call, const struct celeryc_failure *f)
{
    const char *label;
    json_t *message;
    int end = 0, code;

    if (celeryc_args(call, "s", &label))
        return wrong_arguments(call);
    message = json_string(label);
    code = redis_push(call, f->task_id, message, &end);
    json_decref(message);
    return code < 0 ? end : celeryc_return_none(call);
}
CELERYC_TASK(TASK("errback_new_style_with_args"), only_an_errback,
             .errback = errback_new_style_with_args)
