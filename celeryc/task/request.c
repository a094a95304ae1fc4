/* SPDX-License-Identifier: Apache-2.0 */
/* The public API of <celeryc/task.h>: what a task may ask about its request. Texts are copies with a NUL in the call's
 * arena. */

#include "celeryc/task/call_priv.h"

static const char *text_or_null(const struct celeryc_call *call, struct slice s)
{
    return s.len ? arena_strdup(call->arena, s) : NULL;
}

const char *celeryc_root_id(const struct celeryc_call *call)
{
    const char *root = text_or_null(call, call->m->root_id);
    return root ? root : call->id;
}

const char *celeryc_parent_id(const struct celeryc_call *call)
{
    return text_or_null(call, call->m->parent_id);
}

const char *celeryc_group_id(const struct celeryc_call *call)
{
    return text_or_null(call, call->m->group);
}

int celeryc_priority(const struct celeryc_call *call)
{
    return call->m->priority;
}

static double first_limit(double message, double task, double worker)
{
    return message > 0 ? message : task > 0 ? task : worker;
}

double celeryc_time_limit(const struct celeryc_call *call)
{
    return first_limit(call->m->time_limit_s, call->task->info.time_limit,
                       call->settings->time_limit);
}

double celeryc_soft_time_limit(const struct celeryc_call *call)
{
    return first_limit(call->m->soft_time_limit_s, call->task->info.soft_time_limit,
                       call->settings->soft_time_limit);
}

/* ---- fields by name ---- */

static void put_delivery_info(struct buf *dst, const struct message *m)
{
    struct json_val priority = json_get(m->properties, "priority");
    buf_append_str(dst, "{\"exchange\": ");
    json_write_string(dst, m->exchange);
    buf_append_str(dst, ", \"routing_key\": ");
    json_write_string(dst, m->routing_key);
    buf_append_str(dst, ", \"priority\": ");
    buf_append_slice(dst, json_is_null(priority) ? SLICE_LIT("null") : priority.raw);
    buf_append_str(dst, m->redelivered ? ", \"redelivered\": true}" : ", \"redelivered\": false}");
}

/* Fields that Celery's request makes itself. False: this is none of them. */
static bool put_made(struct buf *dst, struct celeryc_call *call, const char *field)
{
    if (str_eq(field, "headers"))
        message_write_custom_headers(dst, call->m);
    else if (str_eq(field, "delivery_info"))
        put_delivery_info(dst, call->m);
    else if (str_eq(field, "hostname"))
        json_write_string(dst, slice_str(call->hostname));
    else if (str_eq(field, "is_eager") || str_eq(field, "called_directly"))
        buf_append_str(dst, "false");
    else if (str_eq(field, "id"))
        json_write_string(dst, call->m->id);
    else if (str_eq(field, "task"))
        json_write_string(dst, call->m->task);
    else if (str_eq(field, "retries"))
        json_write_i64(dst, call->m->retries);
    else
        return false;
    return true;
}

static struct json_val field_of(const struct celeryc_call *call, const char *field)
{
    const struct message_body *b = call->body;

    const struct {
        const char *name;
        struct json_val v;
    } fields[] = {
        {"args", b->args},
        {"kwargs", b->kwargs},
        {"callbacks", b->callbacks},
        {"errbacks", b->errbacks},
        {"chain", b->chain},
        {"chord", b->chord},
        {"properties", call->m->properties},
    };

    for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
        if (str_eq(field, fields[i].name))
            return fields[i].v;
    if (str_eq(field, "reply_to") || str_eq(field, "correlation_id"))
        return json_get(call->m->properties, field);
    return json_get(call->m->headers, field);
}

const char *celeryc_request(struct celeryc_call *call, const char *field, size_t *ret_len)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    if (ret_len)
        *ret_len = 0;
    if (!field)
        return NULL;
    if (!put_made(&b, call, field)) {
        struct json_val v = field_of(call, field);
        if (json_is_null(v))
            return NULL;
        json_write_normal(&b, v);
    }
    const char *text = buf_ok(&b) < 0 ? NULL : arena_strdup(call->arena, buf_slice(&b));
    if (!text)
        call->failed_alloc = true;
    else if (ret_len)
        *ret_len = b.len;
    return text;
}
