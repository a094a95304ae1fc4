/* SPDX-License-Identifier: Apache-2.0 */
/* The body: JSON string -> base64 -> compression -> signature -> serializer -> [args, kwargs, embed], or for protocol 1 and its hybrids an
 * object with args, kwargs and the links. Anything else is poison here, where a Python worker would die or drop the
 * task without a word. */

#include "celeryc/base/codec.h"
#include "celeryc/base/limits.h"
#include "celeryc/message/json_priv.h"
#include "celeryc/message/message_priv.h"
#include "celeryc/message/wire_priv.h"

#include <errno.h>

static int poison(struct err *e, const char *text)
{
    return err_set(e, MESSAGE_E_POISON, "%s", text);
}

/* base64 in the arena. Producers that wrap lines or add bytes after the padding are read as Python reads them. */
static int decode_base64(struct arena *a, struct slice src, struct slice *ret_s, struct err *e)
{
    char *dst = arena_alloc(a, BASE64_DECODED_MAX(src.len));
    size_t len;

    if (!dst)
        return -ENOMEM;
    if (base64_decode_to(dst, src, false, &len) && base64_decode_to(dst, src, true, &len))
        return poison(e, "body: bad base64");
    *ret_s = (struct slice){dst, len};
    return 0;
}

int message_body_value(struct arena *a, const struct message *m, struct json_val *ret_v,
                       struct err *e)
{
    struct err why = ERR_INIT;
    struct slice text;
    int r = json_string(a, m->body, &text);

    if (r == -EINVAL)
        return poison(e, "body is not a string");
    if (r == 0 && m->body_base64)
        r = decode_base64(a, text, &text, e);
    if (r == 0 && m->compression.len) {
        r = message_inflate(a, m->compression, text, &text, &why);
        if (r == -EINVAL)
            return err_set(e, MESSAGE_E_POISON, "body: %s", err_text(&why, r));
    }
    if (r)
        return r;
    if (text.len == 0)
        return poison(e, "body is empty");
    r = wire_decode(m->wire, a, content_find(m->content_type), text, &text, &why);
    if (r == 0)
        r = json_scan(text, ret_v, &why);
    if (r == -ENOMEM)
        return r;
    return r ? err_set(e, MESSAGE_E_POISON, "body: %s", err_text(&why, r)) : 0;
}

static int check_arguments(const struct message_body *b, struct err *e)
{
    if (json_is_null(b->args))
        return poison(e, "body: args is null");
    if (b->args.kind != JSON_K_ARRAY)
        return poison(e, "body: args is not an array");
    if (json_is_null(b->kwargs))
        return poison(e, "body: kwargs is null");
    if (b->kwargs.kind != JSON_K_OBJECT)
        return poison(e, "body: kwargs is not an object");
    return 0;
}

static void read_links(struct json_val object, struct message_body *b)
{
    const struct {
        struct slice name;
        struct json_val *dst;
    } links[] = {
        {SLICE_LIT("callbacks"), &b->callbacks},
        {SLICE_LIT("errbacks"), &b->errbacks},
        {SLICE_LIT("chain"), &b->chain},
        {SLICE_LIT("chord"), &b->chord},
    };
    struct json_iter it;

    json_iter_init(&it, object);
    while (json_next(&it)) {
        for (size_t i = 0; i < ARRAY_SIZE(links); i++) {
            if (json_key_is(it.key, links[i].name))
                *links[i].dst = it.val;
        }
    }
}

static struct json_val or_default(struct json_val v, const char *text, enum json_kind kind)
{
    return v.kind == JSON_K_NONE ? (struct json_val){kind, slice_str(text)} : v;
}

/* [args, kwargs, embed] */
static int read_array(struct json_val v, struct message_body *b, struct err *e)
{
    int r;

    if (json_len(v) != 3)
        return err_set(e, MESSAGE_E_POISON, "body: %zu elements instead of [args, kwargs, embed]",
                       json_len(v));
    b->args = json_at(v, 0);
    b->kwargs = json_at(v, 1);
    b->embed = json_at(v, 2);
    r = check_arguments(b, e);
    if (r)
        return r;
    if (b->embed.kind != JSON_K_OBJECT && b->embed.kind != JSON_K_NULL)
        return poison(e, "body: embed is not an object");
    read_links(b->embed, b);
    return 0;
}

/* Protocol 1. A body under protocol 2 headers is taken for one when it has args; chain does not exist here. */
static int read_object(const struct message *m, struct json_val v, struct message_body *b,
                       struct err *e)
{
    struct json_val args = json_get(v, "args");

    if (m->protocol == 2 && args.kind == JSON_K_NONE)
        return poison(e, "body: an object without args");
    b->args = or_default(args, "[]", JSON_K_ARRAY);
    b->kwargs = or_default(json_get(v, "kwargs"), "{}", JSON_K_OBJECT);
    b->embed = (struct json_val){JSON_K_NULL, SLICE_LIT("null")};
    read_links(v, b);
    b->chain = (struct json_val){JSON_K_NONE, SLICE_NULL};
    return check_arguments(b, e);
}

int message_body(struct arena *a, const struct message *m, struct message_body *ret_b,
                 struct err *e)
{
    struct message_body b = {{0}};
    struct json_val v;
    int r = message_body_value(a, m, &v, e);

    if (r)
        return r;
    if (v.kind == JSON_K_ARRAY && m->protocol == 2)
        r = read_array(v, &b, e);
    else if (v.kind == JSON_K_OBJECT)
        r = read_object(m, v, &b, e);
    else
        r = poison(e, v.kind == JSON_K_NULL ? "body is null" : "body is not [args, kwargs, embed]");
    if (r)
        return r;
    *ret_b = b;
    return 0;
}

void message_write_args_repr(struct buf *dst, const struct message *m, const struct message_body *b)
{
    buf_append_str(dst, "args:");
    if (m->argsrepr.p)
        buf_append_slice(dst, m->argsrepr);
    else
        json_write_repr(dst, b->args, false, LIMIT_REPR_BYTES);
    buf_append_str(dst, " kwargs:");
    if (m->kwargsrepr.p)
        buf_append_slice(dst, m->kwargsrepr);
    else
        json_write_repr(dst, b->kwargs, false, LIMIT_REPR_BYTES);
}
