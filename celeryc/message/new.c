/* SPDX-License-Identifier: Apache-2.0 */
/* A fresh task message: the bytes that kombu puts on the queue for send_task with JSON (celery/app/amqp.py as_task_v2,
 * kombu/transport/virtual/base.py). The order of keys is Python's order of insertion and is part of the format: chord
 * members and stored messages are compared as text. */

#include "celeryc/base/clock.h"
#include "celeryc/base/codec.h"
#include "celeryc/base/limits.h"
#include "celeryc/message/json_priv.h"
#include "celeryc/message/message_priv.h"

#include <errno.h>
#include <math.h>
#include <unistd.h>

#define HOST_NAME_SIZE 256
#define NO_EMBED       "{\"callbacks\": null, \"errbacks\": null, \"chain\": null, \"chord\": null}"

/* The parts of the body, checked. */
struct parts {
    struct json_val args, kwargs, embed, group_index;
};

/* text, or the default when it is absent. 0; -EINVAL not JSON of that kind. */
static int scan_part(struct slice text, const char *otherwise, enum json_kind kind,
                     struct json_val *ret_v)
{
    struct json_val v;
    int r;

    if (!text.p) {
        *ret_v = (struct json_val){kind, slice_str(otherwise)};
        return 0;
    }
    r = json_scan(text, &v, NULL);
    if (r)
        return -EINVAL;
    if (kind != JSON_K_NONE && v.kind != kind)
        return -EINVAL;
    *ret_v = v;
    return 0;
}

static int scan_parts(const struct message_new *n, struct parts *p)
{
    int r = scan_part(n->args, "[]", JSON_K_ARRAY, &p->args);

    if (r == 0)
        r = scan_part(n->kwargs, "{}", JSON_K_OBJECT, &p->kwargs);
    if (r == 0)
        r = scan_part(n->embed, NO_EMBED, JSON_K_OBJECT, &p->embed);
    if (r == 0)
        r = scan_part(n->group_index, "null", JSON_K_NONE, &p->group_index);
    return r;
}

static void write_body(struct buf *dst, const struct parts *p)
{
    CLEANUP(buf_deinit) struct buf body = BUF_INIT;

    buf_append_char(&body, '[');
    json_write_normal(&body, p->args);
    buf_append_str(&body, ", ");
    json_write_normal(&body, p->kwargs);
    buf_append_str(&body, ", ");
    json_write_normal(&body, p->embed);
    buf_append_char(&body, ']');
    if (body.failed)
        dst->failed = true;
    buf_append_char(dst, '"');
    base64_encode(dst, buf_slice(&body));
    buf_append_char(dst, '"');
}

static void write_time(struct buf *dst, int64_t us)
{
    char text[CLOCK_ISO_SIZE];

    if (!us) {
        buf_append_str(dst, "null");
        return;
    }
    clock_iso_format(us, text);
    json_write_string(dst, slice_str(text));
}

static void write_limit(struct buf *dst, double s)
{
    if (s == 0)
        buf_append_str(dst, "null");
    else if (s == floor(s) && fabs(s) < 1e15)
        json_write_i64(dst, (int64_t)s);
    else
        json_write_f64(dst, s);
}

static void write_repr(struct buf *dst, struct json_val v)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;

    json_write_repr(&text, v, true, LIMIT_REPR_BYTES);
    if (text.failed)
        dst->failed = true;
    json_write_string(dst, buf_slice(&text));
}

static void write_truth(struct buf *dst, enum tristate t)
{
    buf_append_str(dst, t == TRI_UNSET ? "null" : t == TRI_YES ? "true" : "false");
}

void message_write_origin(struct buf *dst)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    char host[HOST_NAME_SIZE] = "";

    if (gethostname(host, sizeof(host) - 1))
        host[0] = '\0';
    buf_appendf(&text, "gen%d@%s", (int)getpid(), host);
    if (text.failed)
        dst->failed = true;
    json_write_string(dst, buf_slice(&text));
}

static void write_headers(struct buf *dst, const struct message_new *n, const struct parts *p)
{
    buf_append_str(dst, "{\"lang\": \"py\", \"task\": ");
    json_write_string(dst, n->task);
    buf_append_str(dst, ", \"id\": ");
    json_write_string(dst, n->id);
    buf_append_str(dst, ", \"shadow\": ");
    json_write_string_or_null(dst, n->shadow);
    buf_append_str(dst, ", \"eta\": ");
    write_time(dst, n->eta_us);
    buf_append_str(dst, ", \"expires\": ");
    write_time(dst, n->expires_us);
    buf_append_str(dst, ", \"group\": ");
    json_write_string_or_null(dst, n->group);
    buf_append_str(dst, ", \"group_index\": ");
    json_write_normal(dst, p->group_index);
    buf_append_str(dst, ", \"retries\": ");
    json_write_i64(dst, n->retries);
    buf_append_str(dst, ", \"timelimit\": [");
    write_limit(dst, n->time_limit_s);
    buf_append_str(dst, ", ");
    write_limit(dst, n->soft_time_limit_s);
    buf_append_str(dst, "], \"root_id\": ");
    json_write_string(dst, n->root_id.len ? n->root_id : n->id);
    buf_append_str(dst, ", \"parent_id\": ");
    json_write_string_or_null(dst, n->parent_id);
    buf_append_str(dst, ", \"argsrepr\": ");
    write_repr(dst, p->args);
    buf_append_str(dst, ", \"kwargsrepr\": ");
    write_repr(dst, p->kwargs);
    buf_append_str(dst, ", \"origin\": ");
    if (n->origin.len)
        json_write_string(dst, n->origin);
    else
        message_write_origin(dst);
    buf_append_str(dst, ", \"ignore_result\": ");
    write_truth(dst, n->ignore_result);
    buf_append_str(dst,
                   ", \"replaced_task_nesting\": 0, \"stamped_headers\": null, \"stamps\": {}}");
}

/* Python computes with floats: int((expires - now).total_seconds() * 1000). A deadline that has passed gives 0. */
void message_write_expiration(struct buf *dst, int64_t expires_us, int64_t now_us)
{
    double s = (double)(expires_us - now_us) / 1e6;

    buf_appendf(dst, "\"expiration\": \"%lld\"", s < 0 ? 0LL : (long long)(s * 1000));
}

void message_write_routing(struct buf *dst, struct slice queue, struct slice priority)
{
    char tag[UUID_TEXT_SIZE];

    uuid4_text(tag);
    buf_append_str(dst, "\"delivery_info\": {\"exchange\": \"\", \"routing_key\": ");
    json_write_string(dst, queue);
    buf_append_str(dst, "}, \"priority\": ");
    buf_append_slice(dst, priority);
    buf_append_str(dst, ", \"body_encoding\": \"base64\", \"delivery_tag\": \"");
    buf_append_str(dst, tag);
    buf_append_char(dst, '"');
}

static void write_properties(struct buf *dst, const struct message_new *n)
{
    CLEANUP(buf_deinit) struct buf priority = BUF_INIT;

    json_write_i64(&priority, n->priority);
    if (priority.failed)
        dst->failed = true;
    buf_append_str(dst, "{\"correlation_id\": ");
    json_write_string(dst, n->id);
    buf_append_str(dst, ", \"reply_to\": ");
    json_write_string(dst, n->reply_to);
    buf_append_str(dst, ", \"delivery_mode\": 2, ");
    if (n->expires_us) {
        message_write_expiration(dst, n->expires_us, n->now_us);
        buf_append_str(dst, ", ");
    }
    message_write_routing(dst, n->queue, buf_slice(&priority));
    buf_append_char(dst, '}');
}

int message_write_new(struct buf *dst, const struct message_new *n)
{
    struct parts p;
    int r = scan_parts(n, &p);

    if (r)
        return r;
    buf_append_str(dst, "{\"body\": ");
    write_body(dst, &p);
    buf_append_str(dst,
                   ", \"content-encoding\": \"utf-8\", \"content-type\": \"application/json\", "
                   "\"headers\": ");
    write_headers(dst, n, &p);
    buf_append_str(dst, ", \"properties\": ");
    write_properties(dst, n);
    buf_append_char(dst, '}');
    return buf_ok(dst);
}
