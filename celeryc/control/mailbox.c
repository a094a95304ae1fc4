/* SPDX-License-Identifier: Apache-2.0 */
/* Broadcasts in, replies and events out: kombu's envelope around a body (kombu/pidbox.py Node.handle_message).
 *
 * Whoever can PUBLISH can write here, so every field is checked before it is used and a size limit stands in front. */

#include "celeryc/control/control_priv.h"

#include "celeryc/base/codec.h"
#include "celeryc/base/limits.h"

#include <errno.h>

static int bad(struct err *e, const char *what)
{
    return err_set(e, -EINVAL, "%s", what);
}

/* The body's text in the arena: base64 unless the properties say otherwise. */
static int body_text(struct arena *a, struct json_val envelope, struct json_val properties,
                     struct slice *ret_text, struct err *e)
{
    struct slice text, encoding = SLICE_NULL;
    int r = json_string(a, json_get(envelope, "body"), &text);
    if (r)
        return r == -ENOMEM ? r : bad(e, "no body");
    struct json_val v = json_get(properties, "body_encoding");
    if (v.kind == JSON_K_STRING) {
        r = json_string(a, v, &encoding);
        if (r)
            return r;
    }
    if (!slice_eq_str(encoding, "base64")) {
        *ret_text = text;
        return 0;
    }
    char *plain = arena_alloc(a, BASE64_DECODED_MAX(text.len));
    if (!plain)
        return -ENOMEM;
    size_t len;
    if (base64_decode_to(plain, text, true, &len))
        return bad(e, "its body is not base64");
    *ret_text = (struct slice){plain, len};
    return 0;
}

static int text_member(struct arena *a, struct json_val v, const char *key, struct slice *ret_s)
{
    return json_string(a, json_get(v, key), ret_s);
}

/* A list of names or, as Python's `in` has it, a text that contains ours. */
static int in_destination(struct arena *a, struct json_val destination, const char *node,
                          bool *ret_in)
{
    struct slice me = slice_str(node), s;
    *ret_in = false;
    if (destination.kind == JSON_K_STRING) {
        int r = json_string(a, destination, &s);
        *ret_in = r == 0 && memmem(s.p, s.len, me.p, me.len) != NULL;
        return r;
    }
    struct json_iter it;
    json_iter_init(&it, destination);
    while (!*ret_in && json_next(&it)) {
        struct json_val name = destination.kind == JSON_K_OBJECT ? it.key : it.val;
        if (name.kind != JSON_K_STRING)
            continue;
        int r = json_string(a, name, &s);
        if (r)
            return r;
        *ret_in = slice_eq(s, me);
    }
    return 0;
}

static int select_node(struct arena *a, struct json_val body, const char *node, bool *ret_for_us,
                       struct err *e)
{
    struct json_val destination = json_get(body, "destination");
    struct json_val pattern = json_get(body, "pattern"), matcher = json_get(body, "matcher");
    if (json_truth(destination))
        return in_destination(a, destination, node, ret_for_us);
    if (!json_truth(pattern) || !json_truth(matcher)) {
        *ret_for_us = true;
        return 0;
    }
    struct slice pattern_text, matcher_text;
    int r = json_string(a, pattern, &pattern_text);
    if (r == 0)
        r = json_string(a, matcher, &matcher_text);
    if (r)
        return r == -ENOMEM ? r : bad(e, "its pattern or matcher is not a text");
    return match_name(a, slice_str(node), pattern_text, matcher_text, ret_for_us, e);
}

static int read_reply_to(struct arena *a, struct json_val body, struct mailbox_message *m,
                         struct err *e)
{
    struct json_val to = json_get(body, "reply_to");
    m->wants_reply = json_truth(to);
    if (!m->wants_reply)
        return 0;
    int r = text_member(a, to, "exchange", &m->exchange);
    if (r == 0)
        r = text_member(a, to, "routing_key", &m->routing_key);
    return r == -EINVAL ? bad(e, "its reply_to has no exchange and routing_key") : r;
}

int mailbox_read(struct arena *a, const struct wire *w, struct slice raw,
                 struct json_val *ret_envelope, struct json_val *ret_body, struct err *e)
{
    struct json_val envelope, body;
    struct slice text, type;
    if (raw.len > LIMIT_CONTROL_BYTES)
        return bad(e, "it is over the limit for control messages");
    int r = json_scan(raw, &envelope, e);
    if (r)
        return r == -ENOMEM ? r : -EINVAL;
    struct json_val properties = json_get(envelope, "properties");
    if (envelope.kind != JSON_K_OBJECT || properties.kind != JSON_K_OBJECT)
        return bad(e, "it is no kombu envelope");
    r = text_member(a, envelope, "content-type", &type);
    if (r)
        return r == -ENOMEM ? r : bad(e, "it has no content type");
    r = body_text(a, envelope, properties, &text, e);
    if (r == 0)
        r = wire_read(w, a, type, text, &text, e);
    if (r == 0)
        r = json_scan(text, &body, e);
    if (r)
        return r == -ENOMEM ? r : -EINVAL;
    if (body.kind != JSON_K_OBJECT)
        return bad(e, "its body is no object");
    *ret_envelope = envelope;
    *ret_body = body;
    return 0;
}

int mailbox_parse(struct arena *a, const struct wire *w, const char *node, struct slice raw,
                  struct mailbox_message *ret_m, struct err *e)
{
    struct mailbox_message m = {0};
    struct json_val envelope, body;
    int r = mailbox_read(a, w, raw, &envelope, &body, e);
    if (r)
        return r;
    if (json_i64(json_get(json_get(envelope, "headers"), "clock"), &m.clock) || m.clock < 0)
        m.clock = 0;
    r = select_node(a, body, node, &m.for_us, e);
    if (r == 0)
        r = read_reply_to(a, body, &m, e);
    if (r)
        return r;
    m.method = json_get(body, "method");
    m.arguments = json_get(body, "arguments");
    m.ticket = json_get(body, "ticket");
    if (m.method.kind == JSON_K_NONE)
        return bad(e, "it names no method");
    *ret_m = m;
    return 0;
}

void mailbox_write(struct buf *dst, const struct wire *w, struct slice body, struct slice headers,
                   struct slice exchange, struct slice routing_key, int delivery_mode)
{
    char tag[UUID_TEXT_SIZE];
    uuid4_text(tag);
    wire_write_start(dst, w, body);
    buf_append_slice(dst, headers);
    buf_appendf(dst, ", \"properties\": {\"delivery_mode\": %d, \"delivery_info\": {\"exchange\": ",
                delivery_mode);
    json_write_string(dst, exchange);
    buf_append_str(dst, ", \"routing_key\": ");
    json_write_string(dst, routing_key);
    buf_appendf(
        dst, "}, \"priority\": 0, \"body_encoding\": \"base64\", \"delivery_tag\": \"%s\"}}", tag);
}
