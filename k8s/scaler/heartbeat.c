/* SPDX-License-Identifier: Apache-2.0 */
/* Heartbeats: every worker publishes one every few seconds, also without -E. The bytes may be anybody's. */

#include "k8s/scaler/load.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/codec.h"
#include "celeryc/base/limits.h"
#include "celeryc/message/json.h"

#include <errno.h>

#define PATTERN "celeryev/worker.*"

void beats_deinit(struct beats *b)
{
    for (size_t i = 0; i < b->n; i++)
        free(b->v[i].node);
    free(b->v);
    *b = (struct beats){0};
}

const char *beat_pod(const struct beat *b)
{
    const char *at = strrchr(b->node, '@');

    return at ? at + 1 : b->node;
}

/* The event in kombu's envelope: JSON, mostly in base64. */
static int read_event(struct arena *a, struct slice payload, struct json_val *ret_event)
{
    struct json_val envelope;
    struct slice body, encoding;
    char *bytes;
    size_t len;

    if (payload.len > LIMIT_SCALER_EVENT || json_scan(payload, &envelope, NULL) ||
        json_string(a, json_get(envelope, "body"), &body))
        return -EINVAL;
    if (json_string(a, json_get(json_get(envelope, "properties"), "body_encoding"), &encoding) ==
            0 &&
        slice_eq_str(encoding, "base64")) {
        bytes = arena_alloc(a, BASE64_DECODED_MAX(body.len));
        if (!bytes)
            return -ENOMEM;
        if (base64_decode_to(bytes, body, true, &len))
            return -EINVAL;
        body = (struct slice){bytes, len};
    }
    return json_scan(body, ret_event, NULL) ? -EINVAL : 0;
}

static int put_beat(struct beats *b, struct slice node, int64_t active, int64_t processed)
{
    struct beat *v;

    for (size_t i = 0; i < b->n; i++) {
        if (!slice_eq_str(node, b->v[i].node))
            continue;
        b->v[i].active = active;
        b->v[i].processed = processed;
        return 0;
    }
    if (b->n >= LIMIT_SCALER_NODES)
        return 0; /* its pod counts as busy */
    v = reallocarray(b->v, b->n + 1, sizeof(*v));
    if (!v)
        return -ENOMEM;
    b->v = v;
    v[b->n] = (struct beat){slice_dup(node), active, processed};
    return v[b->n].node ? (b->n++, 0) : -ENOMEM;
}

static bool is_count(struct json_val v, int64_t *ret_n)
{
    return json_i64(v, ret_n) == 0 && *ret_n >= 0 && *ret_n <= 1000000000000;
}

int beats_take(struct beats *b, struct slice payload)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct json_val event;
    struct slice type, node;
    int64_t active, processed;
    int r = a ? read_event(a, payload, &event) : -ENOMEM;

    if (r)
        return r == -ENOMEM ? r : 0;
    if (json_string(a, json_get(event, "type"), &type) ||
        json_string(a, json_get(event, "hostname"), &node) ||
        !slice_eq_str(type, "worker-heartbeat") || node.len == 0 || node.len > LIMIT_CONTROL_NAME ||
        memchr(node.p, '\0', node.len) || !is_count(json_get(event, "active"), &active) ||
        !is_count(json_get(event, "processed"), &processed))
        return 0;
    return put_beat(b, node, active, processed);
}

/* ---- listening ---- */

static void append_literal(struct buf *pattern, const char *text)
{
    for (; *text; text++) {
        if (strchr("*?[]\\^", *text))
            buf_append_char(pattern, '\\');
        buf_append_char(pattern, *text);
    }
}

int load_listen(struct redis_sync *s, const struct load_keys *k, int db, struct err *e)
{
    CLEANUP(buf_deinit) struct buf pattern = BUF_INIT;
    const struct redis_reply *reply;
    int r;

    append_literal(&pattern, k->prefix);
    buf_appendf(&pattern, "/%d." PATTERN, db);
    r = buf_ok(&pattern);
    if (r)
        return r;
    const struct slice argv[] = {SLICE_LIT("PSUBSCRIBE"), buf_slice(&pattern)};
    r = redis_sync_command(s, ARRAY_SIZE(argv), argv, &reply, e);
    return r ? err_prefix(e, r, "PSUBSCRIBE %s", pattern.data) : 0;
}

int load_heartbeats(struct redis_sync *s, int64_t until_ns, struct beats *b, struct err *e)
{
    for (;;) {
        const struct redis_reply *push;
        struct err why = ERR_INIT;
        int64_t left_ms = (until_ns - clock_mono_ns()) / NS_PER_MS;
        int r = redis_sync_push(s, MAX(left_ms, 0), &push, &why);

        if (r == -ETIMEDOUT)
            return 0;
        if (r)
            return err_set(e, r, "%s", err_text(&why, r));
        if (push->kind == REDIS_R_ARRAY && push->n == 4 && push->elem[3]->kind == REDIS_R_STRING)
            r = beats_take(b, push->elem[3]->str);
        if (r)
            return r;
        if (left_ms <= 0)
            return 0;
    }
}
