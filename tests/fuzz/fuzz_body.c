/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as the body of a message: the first says which serializer, which protocol and what a retry is written with.
 * A body that is read can be shown and retried, and the retry holds the same arguments. */

#include "celeryc/base/codec.h"
#include "celeryc/message/message_priv.h"
#include "celeryc/message/wire_priv.h"
#include "fuzz.h"

#define KINDS 3

static const char *const types[KINDS] = {"json", "msgpack", "yaml"};

/* One for each serializer that a retry is written with; kept for the whole process. */
static const struct wire *writer(size_t i)
{
    static struct wire *wires[KINDS];
    const struct wire_options o = {.accept = "json,msgpack,yaml", .serializer = types[i]};

    if (!wires[i])
        ASSERT(wire_new(&o, &wires[i], NULL) == 0);
    return wires[i];
}

static void envelope(struct buf *dst, enum content c, bool protocol1, struct slice body)
{
    buf_append_str(dst, "{\"body\": \"");
    base64_encode(dst, body);
    buf_appendf(dst, "\", \"content-type\": \"%s\", \"headers\": ", content_type(c));
    buf_append_str(dst, protocol1 ? "{}" : "{\"task\": \"t\", \"id\": \"i\"}");
    buf_append_str(dst, ", \"properties\": {\"delivery_info\": {\"exchange\": \"\", "
                        "\"routing_key\": \"q\"}, \"body_encoding\": \"base64\", "
                        "\"delivery_tag\": \"tag\"}}");
}

static int read(struct arena *a, const struct wire *w, struct slice raw, struct message *m,
                struct message_body *b)
{
    struct err e = ERR_INIT;
    int r = message_parse_as(a, w, raw, m, &e);

    if (r == 0)
        r = message_body(a, m, b, &e);
    ASSERT(r == 0 || (r == MESSAGE_E_POISON && e.text[0]));
    return r;
}

static void check_same(struct json_val a, struct json_val b)
{
    CLEANUP(buf_deinit) struct buf left = BUF_INIT;
    CLEANUP(buf_deinit) struct buf right = BUF_INIT;

    json_write_normal(&left, a);
    json_write_normal(&right, b);
    if (!slice_eq(buf_slice(&left), buf_slice(&right))) {
        (void)fprintf(stderr, "%s\n%s\n", left.data, right.data);
        abort();
    }
}

static void check_retry(struct arena *a, const struct message *m, const struct message_body *b)
{
    CLEANUP(buf_deinit) struct buf shown = BUF_INIT;
    CLEANUP(buf_deinit) struct buf raw = BUF_INIT;
    const struct message_retry retry = {.now_us = 1};
    struct message_body body;
    struct message again;

    message_write_args_repr(&shown, m, b);
    ASSERT(message_write_retry(&raw, m, b, &retry) == 0);
    ASSERT(read(a, m->wire, buf_slice(&raw), &again, &body) == 0);
    /* msgpack and YAML hold values, not the text of a number or a typed value. */
    if (!slice_eq_str(again.content_type, "application/json"))
        return;
    check_same(b->args, body.args);
    check_same(b->kwargs, body.kwargs);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(buf_deinit) struct buf raw = BUF_INIT;
    struct message_body b;
    struct message m;

    if (size == 0)
        return 0;
    envelope(&raw, (enum content)(data[0] % KINDS), data[0] & 64,
             (struct slice){(const char *)data + 1, size - 1});
    if (read(a, writer(data[0] / KINDS % KINDS), buf_slice(&raw), &m, &b) == 0)
        check_retry(a, &m, &b);
    return 0;
}
