/* SPDX-License-Identifier: Apache-2.0 */
/* What comes from outside into celeryc/redis: URLs (first byte 'u'), a server's TLS records ('t'), replies ('r'). */

#include "celeryc/redis/endpoint.h"
#include "celeryc/redis/reader.h"
#include "celeryc/redis/tls.h"
#include "fuzz.h"

static void check_url(struct slice s)
{
    CLEANUP(mem_free) char *text = slice_dup(s);
    CLEANUP(redis_endpoint_deinit) struct redis_endpoint ep = {0}, again = {0};
    CLEANUP(redis_options_deinit) struct redis_options o = {0};
    CLEANUP(buf_deinit) struct buf name = BUF_INIT;
    struct err e = ERR_INIT;

    ASSERT(text);
    if (redis_endpoint_parse(text, &ep, &e)) {
        ASSERT(e.text[0]);
        return;
    }
    ASSERT(ep.masked && ep.masked[0] && (ep.host || ep.path || ep.sentinels));
    ASSERT(redis_endpoint_parse(text, &again, &e) == 0 && redis_endpoint_same(&ep, &again));
    ASSERT(redis_options_set(&o, "master_name", "m", NULL) == 0);
    if (redis_endpoint_apply(&ep, &o, &e) == 0)
        redis_endpoint_write_name(&name, &ep);
}

/* In pieces: the first byte is the length of the first. */
static void check_tls(struct slice s)
{
    static const struct redis_tls options = {.on = REDIS_YES, .verify = REDIS_NO};
    CLEANUP(tls_free) struct tls *t = NULL;
    CLEANUP(buf_deinit) struct buf out = BUF_INIT;
    char clear[64];
    size_t first, n = 0;

    if (s.len == 0)
        return;
    first = MIN((size_t)(unsigned char)s.p[0], s.len - 1);
    ASSERT(tls_new(&options, "localhost", &t, NULL) == 0);
    tls_take_output(t, &out);
    ASSERT(out.len > 0);
    if (tls_feed(t, s.p + 1, first, NULL) == 0 &&
        tls_feed(t, s.p + 1 + first, s.len - 1 - first, NULL) == 0 && tls_is_open(t))
        (void)!tls_read(t, clear, sizeof(clear), &n, NULL);
    tls_take_output(t, &out);
}

static void check_replies(struct slice s)
{
    CLEANUP(redis_reader_free) struct redis_reader *r = redis_reader_new();
    const struct redis_reply *reply = NULL;
    struct err e = ERR_INIT;

    ASSERT(r);
    if (redis_reader_feed(r, s.p, s.len))
        return;
    do {
        reply = NULL;
    } while (redis_reader_next(r, &reply, &e) == 0 && reply);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice rest = {(const char *)data + 1, size - 1};

    if (size == 0)
        return 0;
    if (data[0] == 'u')
        check_url(rest);
    else if (data[0] == 't')
        check_tls(rest);
    else if (data[0] == 'r')
        check_replies(rest);
    return 0;
}
