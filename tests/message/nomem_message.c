/* SPDX-License-Identifier: Apache-2.0 */
/* Reading and writing messages with every allocation failing once. */

#include "../base/nomem.h"
#include "celeryc/message/message_priv.h"
#include "celeryc/message/record.h"
#include "celeryc/message/wire_priv.h"

#include <errno.h>

static const char v1[] = "{\"body\": \"eyJ0YXNrIjogInQiLCAiaWQiOiAiaSIsICJhcmdzIjogWzFdfQ==\", "
                         "\"content-type\": \"application/json\", "
                         "\"headers\": {}, \"properties\": {\"body_encoding\": \"base64\", "
                         "\"delivery_tag\": \"t\\u0061g\", "
                         "\"delivery_info\": {\"exchange\": \"\", \"routing_key\": \"q\"}}}";
/* [[], {}, {}] as a zlib stream */
static const char packed[] =
    "{\"body\": \"eJyLjo7VUaiuBeFYABjWA/k=\", \"content-type\": \"application/json\", "
    "\"headers\": {\"task\": "
    "\"t\\u00e9\", \"id\": \"\\u0069\", \"compression\": \"zlib\"}, \"properties\": "
    "{\"body_encoding\": \"base64\", "
    "\"delivery_tag\": \"tag\", \"delivery_info\": {\"exchange\": \"\", \"routing_key\": \"q\"}}}";

static int read_one(struct slice raw)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct message m;
    struct message_body b;
    struct err e = ERR_INIT;
    int r;

    if (!a)
        return -ENOMEM;
    r = message_parse(a, raw, &m, &e);
    if (r == 0)
        r = message_body(a, &m, &b, &e);
    if (r == MESSAGE_E_POISON)
        (void)fprintf(stderr, "%s\n", e.text);
    return r;
}

static int read_v1(void)
{
    return read_one(SLICE_LIT(v1));
}

static int read_packed(void)
{
    return read_one(SLICE_LIT(packed));
}

static int write_new(void)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct message_new n = {.task = SLICE_LIT("t"),
                            .id = SLICE_LIT("i"),
                            .queue = SLICE_LIT("q"),
                            .args = SLICE_LIT("[1, \"x\"]"),
                            .kwargs = SLICE_LIT("{\"k\": [2.5]}")};

    return message_write_new(&b, &n);
}

static int write_retry(void)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct message_retry r = {.args = SLICE_LIT("[1, 2.5]")};
    struct message m;
    struct message_body body;
    int code;

    if (!a)
        return -ENOMEM;
    code = message_parse(a, SLICE_LIT(v1), &m, NULL);
    if (code == 0)
        code = message_body(a, &m, &body, NULL);
    return code ? code : message_write_retry(&b, &m, &body, &r);
}

static int write_redelivered(void)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    return message_write_redelivered(&b, SLICE_LIT(v1));
}

static int write_record(void)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct record r = {
        .status = "SUCCESS", .task_id = SLICE_LIT("i"), .done_us = 1, .traceback = SLICE_LIT("x")};

    record_write_exception_repr(&b, SLICE_LIT("E"), SLICE_LIT("[1.5]"));
    return record_write(&b, &r);
}

/* ["x", 2.5, b"\\xff"] and {"k": null} */
static const char msgpack[] =
    "\x93\x93\xa1x\xcb\x40\x04\x00\x00\x00\x00\x00\x00\xc4\x01\xff\x81\xa1k\xc0\x80";
static const char yaml[] =
    "[[&a {x: 1}, *a, !!binary /w==, 2024-01-02, 0x1F, \"\\ud83d\"], {k: 1.5}, {}]";

static int decode(enum content c, struct slice bytes)
{
    const struct wire_options o = {.accept = "json,msgpack,yaml"};
    CLEANUP(wire_free) struct wire *w = NULL;
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct slice json;
    struct err e = ERR_INIT;
    int r = a ? wire_new(&o, &w, &e) : -ENOMEM;

    if (r == 0)
        r = wire_decode(w, a, c, bytes, &json, &e);
    if (r == -EINVAL)
        (void)fprintf(stderr, "%s\n", e.text);
    return r;
}

static int read_msgpack(void)
{
    return decode(CONTENT_MSGPACK, (struct slice){msgpack, sizeof(msgpack) - 1});
}

static int read_yaml(void)
{
    return decode(CONTENT_YAML, SLICE_LIT(yaml));
}

static int encode(const char *serializer, const char *compression)
{
    CLEANUP(encoded_deinit) struct encoded x = {.bytes = BUF_INIT};
    struct err e = ERR_INIT;
    int r = wire_encode(NULL, slice_str(serializer), slice_str(compression),
                        SLICE_LIT("[[1, \"x\\u00e9\", {\"__type__\": \"base64\", "
                                  "\"__value__\": \"/w==\"}], {\"k\": 1.5}, {}]"),
                        &x, &e);

    if (r == -EINVAL)
        (void)fprintf(stderr, "%s\n", e.text);
    return r;
}

static int write_msgpack(void)
{
    return encode("msgpack", "zlib");
}

static int write_yaml(void)
{
    return encode("yaml", "zstd");
}

int main(void)
{
    (void)nomem_sweep("protocol 1", read_v1);
    (void)nomem_sweep("compressed", read_packed);
    (void)nomem_sweep("new", write_new);
    (void)nomem_sweep("retry", write_retry);
    (void)nomem_sweep("redelivered", write_redelivered);
    (void)nomem_sweep("record", write_record);
    (void)nomem_sweep("read msgpack", read_msgpack);
    (void)nomem_sweep("read YAML", read_yaml);
    (void)nomem_sweep("write msgpack", write_msgpack);
    (void)nomem_sweep("write YAML", write_yaml);
    return 0;
}
