/* SPDX-License-Identifier: Apache-2.0 */
/* The envelope. One scan proves that the bytes are JSON, then each object is walked once. Whether a message is protocol
 * 2 is decided as Celery's consumer does it: by a `task` in the headers; without it the body is decoded and must be an
 * object that has one (protocol 1). Id and task are read before anything else can be found wrong, because a failure
 * can only be stored, and a chord only be told, when they are known. */

#include "celeryc/base/limits.h"
#include "celeryc/base/num.h"
#include "celeryc/message/json_priv.h"
#include "celeryc/message/message_priv.h"
#include "celeryc/message/wire_priv.h"

#include <errno.h>
#include <math.h>

#define PRIORITY_MAX 9

struct parse {
    struct arena *arena;
    struct message *m;
    struct err *err;
    struct json_val content_type, content_encoding;
    struct json_val body_encoding, delivery_tag, delivery_info, priority, reply_to;
    struct json_tape tape; /* last: never cleared */
};

static int poison(struct parse *p, const char *text)
{
    return err_set(p->err, MESSAGE_E_POISON, "%s", text);
}

struct wanted {
    struct slice name;
    struct json_val *dst;
};

/* Picks members of an object out; the last of several wins, as in Python. */
static void pick(const struct json_tape *t, struct json_val object, const struct wanted *wanted,
                 size_t n)
{
    struct json_members it;

    json_members_init(&it, t, object);
    while (json_members_next(&it)) {
        for (size_t i = 0; i < n; i++) {
            if (json_key_is(it.key, wanted[i].name)) {
                *wanted[i].dst = it.val;
                break;
            }
        }
    }
}

static void find_members(struct parse *p, struct json_val envelope)
{
    const struct wanted wanted[] = {
        {SLICE_LIT("body"), &p->m->body},
        {SLICE_LIT("content-encoding"), &p->content_encoding},
        {SLICE_LIT("content-type"), &p->content_type},
        {SLICE_LIT("headers"), &p->m->headers},
        {SLICE_LIT("properties"), &p->m->properties},
    };

    pick(&p->tape, envelope, wanted, ARRAY_SIZE(wanted));
}

static void find_properties(struct parse *p)
{
    const struct wanted wanted[] = {
        {SLICE_LIT("reply_to"), &p->reply_to},
        {SLICE_LIT("delivery_info"), &p->delivery_info},
        {SLICE_LIT("priority"), &p->priority},
        {SLICE_LIT("body_encoding"), &p->body_encoding},
        {SLICE_LIT("delivery_tag"), &p->delivery_tag},
    };

    pick(&p->tape, p->m->properties, wanted, ARRAY_SIZE(wanted));
}

/* A string that must be there. */
static int need_text(struct parse *p, struct json_val v, const char *what, struct slice *ret_s)
{
    int code;

    if (json_is_null(v))
        return err_set(p->err, MESSAGE_E_POISON, "no %s", what);
    code = json_string(p->arena, v, ret_s);
    return code == -EINVAL ? err_set(p->err, MESSAGE_E_POISON, "%s is not a string", what) : code;
}

static int clamp_priority(double v)
{
    if (!(v > 0))
        return 0;
    return v > PRIORITY_MAX ? PRIORITY_MAX : (int)v;
}

/* Text as Python's int() reads it; 0 when it is no number. */
static double text_number(struct slice text)
{
    int64_t n;

    while (text.len && json_is_space(text.p[0]))
        text = (struct slice){text.p + 1, text.len - 1};
    while (text.len && json_is_space(text.p[text.len - 1]))
        text.len--;
    if (text.len && text.p[0] == '+')
        text = (struct slice){text.p + 1, text.len - 1};
    return num_parse_i64(text, &n) ? 0 : (double)n;
}

/* Python's int() clamped to 0..9; whatever int() refuses is 0. */
static int read_priority(struct json_val v)
{
    double d = 0;

    if (v.kind == JSON_K_TRUE)
        return 1;
    if (v.kind == JSON_K_STRING)
        return clamp_priority(text_number(json_inside(v)));
    if (json_f64(v, &d) || (v.kind == JSON_K_FLOAT && isinf(d)))
        return 0;
    return clamp_priority(d);
}

static int read_delivery_info(struct parse *p)
{
    struct message *m = p->m;
    struct json_val exchange = {0}, routing_key = {0}, redelivered = {0};
    const struct wanted wanted[] = {
        {SLICE_LIT("exchange"), &exchange},
        {SLICE_LIT("routing_key"), &routing_key},
        {SLICE_LIT("redelivered"), &redelivered},
    };
    int code;

    if (json_is_null(p->delivery_info))
        return poison(p, "no delivery_info");
    if (p->delivery_info.kind != JSON_K_OBJECT)
        return poison(p, "delivery_info is not an object");
    pick(&p->tape, p->delivery_info, wanted, ARRAY_SIZE(wanted));
    if (exchange.kind == JSON_K_NULL)
        m->exchange = SLICE_LIT("");
    else if ((code = need_text(p, exchange, "delivery_info.exchange", &m->exchange)))
        return code;
    code = need_text(p, routing_key, "delivery_info.routing_key", &m->routing_key);
    m->redelivered = redelivered.kind == JSON_K_TRUE;
    return code;
}

static int read_body_encoding(struct parse *p)
{
    struct slice name;
    int code;

    if (json_is_null(p->body_encoding))
        return 0;
    code = json_string(p->arena, p->body_encoding, &name);
    if (code == -ENOMEM)
        return code;
    p->m->body_base64 = code == 0 && slice_eq_str(name, "base64");
    if (code || (!p->m->body_base64 && !slice_eq_str(name, "utf-8")))
        return poison(p, "unknown body_encoding");
    return 0;
}

static int read_properties(struct parse *p)
{
    struct message *m = p->m;
    int code;

    if (json_is_null(m->properties))
        return poison(p, "no properties");
    if (m->properties.kind != JSON_K_OBJECT)
        return poison(p, "properties is not an object");
    find_properties(p);
    code = need_text(p, p->delivery_tag, "delivery_tag", &m->delivery_tag);
    if (code == 0)
        code = read_delivery_info(p);
    if (code == 0)
        code = read_body_encoding(p);
    if (code)
        return code;
    m->priority = read_priority(p->priority);
    code = json_string(p->arena, p->reply_to, &m->reply_to);
    if (code == -EINVAL)
        m->reply_to = SLICE_LIT("");
    return code == -ENOMEM ? code : 0;
}

/* kombu's words, and what to do. */
static int refuse(struct parse *p, enum content c)
{
    const struct slice type = p->m->content_type;
    int len = (int)MIN(type.len, (size_t)64);

    p->m->refused = true;
    if (c == CONTENT_UNKNOWN)
        return err_set(
            p->err, MESSAGE_E_POISON,
            "Refusing to deserialize untrusted content of type %.*s: celeryc reads json, "
            "msgpack, yaml and auth",
            len, type.p);
    if (c == CONTENT_PICKLE)
        return err_set(p->err, MESSAGE_E_POISON,
                       "Refusing to deserialize untrusted content of type pickle (%.*s): celeryc "
                       "does not read it; let the sender use task_serializer = \"json\"",
                       len, type.p);
    return err_set(p->err, MESSAGE_E_POISON,
                   "Refusing to deserialize untrusted content of type %s (%.*s): add \"%s\" to "
                   "accept_content, or let the sender use another task_serializer",
                   content_name(c), len, type.p, content_name(c));
}

/* What message_body can decode is decided here, so that nobody runs a message that it then refuses by name. */
static int read_content(struct parse *p)
{
    struct message *m = p->m;
    int code = need_text(p, p->content_type, "content-type", &m->content_type);
    enum content content;

    if (code)
        return code;
    if (json_string(p->arena, p->content_encoding, &m->content_encoding) == -ENOMEM)
        return -ENOMEM;
    content = content_find(m->content_type);
    if (!wire_accepts(m->wire, content))
        return refuse(p, content);
    if (m->compression.p && m->compression.len && !message_inflate_known(m->compression))
        return err_set(p->err, MESSAGE_E_POISON, "compression %.*s is not supported",
                       (int)MIN(m->compression.len, (size_t)64), m->compression.p);
    if (json_is_null(m->body))
        return poison(p, "no body");
    if (m->body.kind != JSON_K_STRING)
        return poison(p, "body is not a string");
    return 0;
}

/* Protocol 1: the fields are in the body, the headers override them. */
static int read_protocol1(struct parse *p)
{
    struct json_val body;
    int code = message_body_value(p->arena, p->m, &body, p->err), headers_code;

    if (code)
        return code;
    if (body.kind != JSON_K_OBJECT || json_is_null(json_get(body, "task")))
        return poison(p, "not a task: no task in the headers nor in the body");
    code = message_read_fields(p->arena, NULL, body, true, p->m, p->err);
    if (code == -ENOMEM)
        return code;
    headers_code = message_read_fields(p->arena, &p->tape, p->m->headers, false, p->m, p->err);
    return code ? code : headers_code;
}

static int parse_envelope(struct parse *p)
{
    struct message *m = p->m;
    int fields_code, code;

    if (m->headers.kind != JSON_K_OBJECT && !json_is_null(m->headers))
        return poison(p, "headers is not an object");
    fields_code = message_read_fields(p->arena, &p->tape, m->headers, false, m, p->err);
    if (fields_code == -ENOMEM)
        return fields_code;
    m->protocol = m->task.p || fields_code ? 2 : 1;
    code = read_properties(p);
    if (code == 0)
        code = read_content(p);
    if ((code == 0 || m->refused) && m->protocol == 1) {
        int body_code = read_protocol1(p);

        code = code ? code : body_code;
    }
    if (code == -ENOMEM)
        return code;
    m->refused = m->refused && !fields_code;
    if (fields_code || code)
        return MESSAGE_E_POISON;
    if (!m->task.p)
        return poison(p, "no task");
    return m->id.p ? 0 : poison(p, "no id");
}

int message_parse_as(struct arena *a, const struct wire *w, struct slice raw, struct message *ret_m,
                     struct err *e)
{
    struct parse p;
    struct json_val envelope;

    memset(&p, 0, offsetof(struct parse, tape));
    p.arena = a;
    p.m = ret_m;
    p.err = e;
    *ret_m = (struct message){
        .raw = raw, .wire = w, .ignore_result = TRI_UNSET, .reply_to = SLICE_LIT("")};
    if (raw.len > LIMIT_MESSAGE_BYTES)
        return poison(&p, "the message is too big");
    if (json_scan_tape(raw, &p.tape, &envelope, e))
        return err_prefix(e, MESSAGE_E_POISON, "envelope");
    if (envelope.kind != JSON_K_OBJECT)
        return poison(&p, "envelope: not an object");
    find_members(&p, envelope);
    return parse_envelope(&p);
}

int message_priority_step(int priority)
{
    return MAX(MIN(priority, PRIORITY_MAX), 0) / 3 * 3;
}
