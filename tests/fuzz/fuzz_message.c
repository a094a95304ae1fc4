/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a queue element: a message that parses can be retried and put back, and reads as the same task then. */

#include "celeryc/message/record.h"
#include "fuzz.h"

static void check_retry(struct arena *a, const struct message *m, const struct message_body *b)
{
    CLEANUP(buf_deinit) struct buf out = BUF_INIT;
    struct message_retry r = {.eta_us = 1, .now_us = 1, .keep_parent = m->retries % 2};
    struct message again;
    struct message_body body;
    struct err e = ERR_INIT;
    int code;

    ASSERT(message_write_retry(&out, m, b, &r) == 0);
    if (m->retries == INT32_MAX)
        return;
    code = message_parse(a, buf_slice(&out), &again, &e);
    if (code == 0)
        code = message_body(a, &again, &body, &e);
    if (code) {
        (void)fprintf(stderr, "%s\n%s\n", e.text, out.data);
        abort();
    }
    ASSERT(slice_eq(again.id, m->id) && slice_eq(again.task, m->task));
    ASSERT(again.retries == m->retries + 1);
}

static void check_redelivered(struct arena *a, struct slice raw, const struct message *m)
{
    CLEANUP(buf_deinit) struct buf out = BUF_INIT;
    struct message again;

    ASSERT(message_write_redelivered(&out, raw) == 0);
    if (!m)
        return;
    ASSERT(message_parse(a, buf_slice(&out), &again, NULL) == 0);
    ASSERT(again.redelivered);
    ASSERT(slice_eq(again.id, m->id) && slice_eq(again.delivery_tag, m->delivery_tag));
}

static void check_bounced(struct arena *a, const struct message *m)
{
    CLEANUP(buf_deinit) struct buf out = BUF_INIT;
    struct message again;

    ASSERT(message_write_bounced(&out, m, 12) == 0);
    ASSERT(message_parse(a, buf_slice(&out), &again, NULL) == 0);
    ASSERT(message_bounces(&again) == 12);
    ASSERT(slice_eq(again.id, m->id) && slice_eq(again.delivery_tag, m->delivery_tag));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(buf_deinit) struct buf shown = BUF_INIT;
    struct slice raw = {(const char *)data, size}, text;
    struct message m;
    struct message_body b;
    struct record_view view;
    struct err e = ERR_INIT;
    int code = message_parse(a, raw, &m, &e);

    check_redelivered(a, raw, code ? NULL : &m);
    if (code == 0) {
        check_bounced(a, &m);
        code = message_body(a, &m, &b, &e);
        if (code == 0) {
            message_write_args_repr(&shown, &m, &b);
            check_retry(a, &m, &b);
        }
    }
    ASSERT(code == 0 || (code == MESSAGE_E_POISON && e.text[0]));
    if (record_inflate(a, raw, &text, NULL) == 0 && record_parse(text, &view, NULL) == 0)
        (void)record_ready(&view);
    return 0;
}
