/* SPDX-License-Identifier: Apache-2.0 */
/* A fresh task message: the bytes that kombu puts on the queue for send_task with JSON (celery/app/amqp.py as_task_v2,
 * kombu/transport/virtual/base.py). The order of keys is Python's order of insertion and is part of the format: chord
 * members and stored messages are compared as text. */

#include "celeryc/base/clock.h"
#include "celeryc/base/codec.h"
#include "celeryc/base/limits.h"
#include "celeryc/message/json_priv.h"
#include "celeryc/message/message_priv.h"
#include "celeryc/message/wire_priv.h"

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

static int encode_body(const struct message_new *n, const struct parts *p, struct encoded *ret_x)
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
        return -ENOMEM;
    return wire_encode(n->wire, n->serializer, n->compression, buf_slice(&body), ret_x, n->why);
}

void message_write_start(struct buf *dst, const struct encoded *x)
{
    buf_append_str(dst, "{\"body\": \"");
    base64_encode(dst, buf_slice(&x->bytes));
    buf_appendf(dst, "\", \"content-encoding\": \"%s\", \"content-type\": \"%s\", \"headers\": ",
                x->content_encoding, x->content_type);
}

void message_write_compression(struct buf *dst, const struct encoded *x)
{
    if (x->compression)
        buf_appendf(dst, ", \"compression\": \"%s\"", x->compression);
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

/* ---- headers ---- */

/* Starts a header. False when the headers option has a value for it, which is then written. */
static bool begin(struct buf *dst, const struct message_new *n, const char *key)
{
    struct json_val over = json_get(n->headers, key);

    buf_append_str(dst, ", \"");
    buf_append_str(dst, key);
    buf_append_str(dst, "\": ");
    if (over.kind == JSON_K_NONE)
        return true;
    json_write_normal(dst, over);
    return false;
}

static void write_text(struct buf *dst, const struct message_new *n, const char *key,
                       struct slice text)
{
    if (begin(dst, n, key))
        json_write_string_or_null(dst, text);
}

static void write_verbatim(struct buf *dst, struct json_val v)
{
    if (v.kind == JSON_K_NONE)
        buf_append_str(dst, "null");
    else
        json_write_normal(dst, v);
}

static void write_moment(struct buf *dst, const struct message_new *n, const char *key,
                         struct json_val raw, int64_t us)
{
    if (!begin(dst, n, key))
        return;
    if (raw.kind == JSON_K_NONE)
        write_time(dst, us);
    else
        json_write_normal(dst, raw);
}

static void write_limits(struct buf *dst, const struct message_new *n)
{
    if (!begin(dst, n, "timelimit"))
        return;
    buf_append_char(dst, '[');
    if (n->time_limit_raw.kind != JSON_K_NONE)
        json_write_normal(dst, n->time_limit_raw);
    else
        write_limit(dst, n->time_limit_s);
    buf_append_str(dst, ", ");
    if (n->soft_time_limit_raw.kind != JSON_K_NONE)
        json_write_normal(dst, n->soft_time_limit_raw);
    else
        write_limit(dst, n->soft_time_limit_s);
    buf_append_char(dst, ']');
}

static void write_shown(struct buf *dst, const struct message_new *n, const char *key,
                        struct json_val given, struct json_val v)
{
    if (!begin(dst, n, key))
        return;
    if (json_is_null(given))
        write_repr(dst, v);
    else
        json_write_normal(dst, given);
}

/* Headers of the option that are none of Celery's. */
static void write_more_headers(struct buf *dst, const struct message_new *n)
{
    static const char *const known[] = {
        "lang",
        "task",
        "id",
        "shadow",
        "eta",
        "expires",
        "group",
        "group_index",
        "retries",
        "timelimit",
        "root_id",
        "parent_id",
        "argsrepr",
        "kwargsrepr",
        "origin",
        "stamps",
        "ignore_result",
        "stamped_headers",
        "replaced_task_nesting",
    };
    struct json_iter it;

    if (n->headers.kind != JSON_K_OBJECT) /* a signature's option may be anything */
        return;
    for (json_iter_init(&it, n->headers); json_next(&it);) {
        bool mine = false;

        for (size_t i = 0; i < ARRAY_SIZE(known) && !mine; i++)
            mine = json_key_is(it.key, slice_str(known[i]));
        if (mine)
            continue;
        buf_append_str(dst, ", ");
        json_write_normal(dst, it.key);
        buf_append_str(dst, ": ");
        json_write_normal(dst, it.val);
    }
}

static void write_identity(struct buf *dst, const struct message_new *n, const struct parts *p)
{
    struct json_val lang = json_get(n->headers, "lang");

    buf_append_str(dst, "{\"lang\": ");
    if (lang.kind == JSON_K_NONE)
        buf_append_str(dst, "\"py\"");
    else
        json_write_normal(dst, lang);
    if (begin(dst, n, "task"))
        json_write_string(dst, n->task);
    if (begin(dst, n, "id"))
        json_write_string(dst, n->id);
    write_text(dst, n, "shadow", n->shadow);
    write_moment(dst, n, "eta", n->eta_raw, n->eta_us);
    write_moment(dst, n, "expires", n->expires_raw, n->expires_us);
    write_text(dst, n, "group", n->group);
    if (begin(dst, n, "group_index"))
        json_write_normal(dst, p->group_index);
    if (begin(dst, n, "retries"))
        json_write_i64(dst, n->retries);
    write_limits(dst, n);
    write_text(dst, n, "root_id", n->root_id.len ? n->root_id : n->id);
    write_text(dst, n, "parent_id", n->parent_id);
}

static void write_headers(struct buf *dst, const struct message_new *n, const struct parts *p,
                          const struct encoded *x)
{
    write_identity(dst, n, p);
    write_shown(dst, n, "argsrepr", n->argsrepr, p->args);
    write_shown(dst, n, "kwargsrepr", n->kwargsrepr, p->kwargs);
    if (begin(dst, n, "origin")) {
        if (n->origin.len)
            json_write_string(dst, n->origin);
        else
            message_write_origin(dst);
    }
    if (begin(dst, n, "ignore_result"))
        write_truth(dst, n->ignore_result);
    if (begin(dst, n, "replaced_task_nesting"))
        json_write_i64(dst, n->replaced_task_nesting);
    if (begin(dst, n, "stamped_headers"))
        write_verbatim(dst, n->stamped_headers);
    if (begin(dst, n, "stamps")) {
        if (n->stamps.p)
            buf_append_slice(dst, n->stamps);
        else
            buf_append_str(dst, "{}");
    }
    write_more_headers(dst, n);
    message_write_compression(dst, x);
    buf_append_char(dst, '}');
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
    if (n->properties.len) {
        buf_append_str(dst, ", ");
        buf_append_slice(dst, n->properties);
    }
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
    CLEANUP(encoded_deinit) struct encoded x = {.bytes = BUF_INIT};
    struct parts p;
    int r = scan_parts(n, &p);

    if (r == 0)
        r = encode_body(n, &p, &x);
    if (r)
        return r;
    message_write_start(dst, &x);
    write_headers(dst, n, &p, &x);
    buf_append_str(dst, ", \"properties\": ");
    write_properties(dst, n);
    buf_append_char(dst, '}');
    return buf_ok(dst);
}
