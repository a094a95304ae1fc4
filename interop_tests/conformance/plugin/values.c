/* SPDX-License-Identifier: Apache-2.0 */
#include "values.h"

#include <errno.h>
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- values ---- */

static const char *python_type(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return "dict";
    case JSON_ARRAY:
        return "list";
    case JSON_STRING:
        return "str";
    case JSON_INTEGER:
        return "int";
    case JSON_REAL:
        return "float";
    case JSON_TRUE:
    case JSON_FALSE:
        return "bool";
    case JSON_NULL:
        break;
    }
    return "NoneType";
}

static bool is_number(const json_t *v)
{
    return json_is_number(v) || json_is_boolean(v);
}

static json_int_t integer(const json_t *v)
{
    return json_is_boolean(v) ? json_is_true(v) : json_integer_value(v);
}

static json_t *add_numbers(const json_t *a, const json_t *b)
{
    if (json_is_real(a) || json_is_real(b)) {
        double x = json_is_real(a) ? json_real_value(a) : (double)integer(a);
        double y = json_is_real(b) ? json_real_value(b) : (double)integer(b);

        return json_real(x + y);
    }
    return json_integer(integer(a) + integer(b));
}

static json_t *add_strings(const json_t *a, const json_t *b)
{
    size_t n = json_string_length(a), m = json_string_length(b);
    char *text = malloc(n + m + 1);
    json_t *sum;

    if (!text)
        return NULL;
    memcpy(text, json_string_value(a), n);
    memcpy(text + n, json_string_value(b), m);
    sum = json_stringn(text, n + m);
    free(text);
    return sum;
}

static json_t *add_lists(const json_t *a, const json_t *b)
{
    json_t *sum = json_array();
    size_t i;

    for (i = 0; i < json_array_size(a); i++)
        json_array_append(sum, json_array_get(a, i));
    for (i = 0; i < json_array_size(b); i++)
        json_array_append(sum, json_array_get(b, i));
    return sum;
}

json_t *value_add(const json_t *a, const json_t *b, char *error, size_t size)
{
    if (is_number(a) && is_number(b))
        return add_numbers(a, b);
    if (json_is_string(a) && json_is_string(b))
        return add_strings(a, b);
    if (json_is_array(a) && json_is_array(b))
        return add_lists(a, b);
    if (json_is_string(a) || json_is_array(a))
        snprintf(error, size, "can only concatenate %s (not \"%s\") to %s", python_type(a),
                 python_type(b), python_type(a));
    else
        snprintf(error, size, "unsupported operand type(s) for +: '%s' and '%s'", python_type(a),
                 python_type(b));
    return NULL;
}

json_t *value_sum(const json_t *list, char *error, size_t size)
{
    json_t *sum = json_integer(0);
    size_t i;

    if (!json_is_array(list)) {
        snprintf(error, size, "'%s' object is not iterable", python_type(list));
        json_decref(sum);
        return NULL;
    }
    for (i = 0; sum && i < json_array_size(list); i++) {
        json_t *next = value_add(sum, json_array_get(list, i), error, size);

        json_decref(sum);
        sum = next;
    }
    return sum;
}

char *json_text(const json_t *v)
{
    return json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));
}

/* ---- calls ---- */

json_t *tree_of(const char *json, size_t len)
{
    return json_loadb(json, len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
}

json_t *args_tree(struct celeryc_call *call)
{
    size_t len;
    const char *json = celeryc_args_json(call, &len);

    return tree_of(json, len);
}

json_t *kwargs_tree(struct celeryc_call *call)
{
    size_t len;
    const char *json = celeryc_kwargs_json(call, &len);

    return tree_of(json, len);
}

int return_value(struct celeryc_call *call, json_t *v, const char *error)
{
    char *text;
    int end;

    if (!v)
        return celeryc_raise(call, "TypeError", "%s", error);
    text = json_text(v);
    json_decref(v);
    end = text ? celeryc_return_json(call, text, strlen(text))
               : celeryc_raise(call, "MemoryError", "no memory for the result");
    free(text);
    return end;
}

int wrong_arguments(struct celeryc_call *call)
{
    return celeryc_raise(call, "TypeError", "%s", celeryc_args_error(call));
}

void sleep_for(double seconds)
{
    struct timespec left = {.tv_sec = (time_t)seconds,
                            .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};

    while (nanosleep(&left, &left) && errno == EINTR)
        ;
}

/* ---- Redis ---- */

static redisContext *redis; /* of this process: one task at a time runs in it */

static redisContext *connection(void)
{
    const char *host = getenv("REDIS_HOST"), *port = getenv("REDIS_PORT");

    if (redis && redis->err) {
        redisFree(redis);
        redis = NULL;
    }
    if (!redis)
        redis = redisConnect(host ? host : "localhost", port ? (int)strtol(port, NULL, 10) : 6379);
    return redis && !redis->err ? redis : NULL;
}

/* What redis-py sends for a value; bytes come in kombu's wrapper. */
static char *redis_bytes(const json_t *v)
{
    const char *type = json_string_value(json_object_get(v, "__type__"));

    if (type && !strcmp(type, "bytes"))
        v = json_object_get(v, "__value__");
    if (json_is_string(v))
        return strdup(json_string_value(v));
    return json_is_number(v) ? json_text(v) : NULL;
}

static int done(struct celeryc_call *call, redisReply *reply, int *ret_end)
{
    bool ok = reply && reply->type == REDIS_REPLY_INTEGER;

    if (!ok)
        *ret_end = celeryc_raise(call, "redis.exceptions.RedisError", "%s",
                                 reply   ? reply->str
                                 : redis ? redis->errstr
                                         : "no memory");
    freeReplyObject(reply);
    return ok ? 0 : -1;
}

int redis_push(struct celeryc_call *call, const char *key, const json_t *message, int *ret_end)
{
    char *bytes = redis_bytes(message);
    redisContext *c = connection();
    int code;

    if (!bytes) {
        *ret_end = celeryc_raise(call, "redis.exceptions.DataError",
                                 "Invalid input of type: '%s'. Convert to a bytes, string, int or "
                                 "float first.",
                                 python_type(message));
        return -1;
    }
    code = done(call, c ? redisCommand(c, "RPUSH %s %s", key, bytes) : NULL, ret_end);
    free(bytes);
    return code;
}

int redis_increment(struct celeryc_call *call, const char *key, int *ret_end)
{
    redisContext *c = connection();

    return done(call, c ? redisCommand(c, "INCR %s", key) : NULL, ret_end);
}
