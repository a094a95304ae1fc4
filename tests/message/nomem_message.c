/* SPDX-License-Identifier: Apache-2.0 */
/* Reading and writing messages with every allocation failing once. */

#include "../base/nomem.h"
#include "celeryc/message/record.h"

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

int main(void)
{
    (void)nomem_sweep("protocol 1", read_v1);
    (void)nomem_sweep("compressed", read_packed);
    (void)nomem_sweep("new", write_new);
    (void)nomem_sweep("retry", write_retry);
    (void)nomem_sweep("redelivered", write_redelivered);
    (void)nomem_sweep("record", write_record);
    return 0;
}
