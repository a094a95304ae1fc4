/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as what stands in Redis: a dead letter, a claim's value, a record of `unacked` on its way back. */

#include "celeryc/message/message.h"
#include "celeryc/transport/route.h"
#include "celeryc/transport/stored.h"
#include "fuzz.h"

static void check_dead(struct arena *a, struct slice s)
{
    CLEANUP(buf_deinit) struct buf out = BUF_INIT;
    struct dead_entry d, again;
    struct err e = ERR_INIT;
    int r = dead_entry_parse(a, s, &d, &e);

    if (r) {
        ASSERT(r == STORED_E_VERSION || e.text[0]);
        return;
    }
    ASSERT(dead_entry_write(&out, d.queue, d.raw, d.reason.p) == 0);
    ASSERT(dead_entry_parse(a, buf_slice(&out), &again, &e) == 0);
    ASSERT(slice_eq(again.raw, d.raw));
}

static void check_split(struct slice s)
{
    struct slice raw, tail;

    if (stored_split(s, &raw, &tail) == 0)
        ASSERT(raw.p == s.p + 1 && tail.p == raw.p + raw.len && tail.p + tail.len == s.p + s.len);
}

static void check_route(struct arena *a, struct slice s)
{
    static const int steps[] = {0, 3, 6, 9};
    static const struct route_keys keys = {"p:", "\x06\x16", steps, 4};
    struct redis_reply member = {.kind = REDIS_R_STRING, .str = s}, *v[] = {&member};
    const struct redis_reply members = {.kind = REDIS_R_ARRAY, .n = 1, .elem = v};
    struct route route;

    if (route_record(a, &keys, s, &members, &route) == 0)
        ASSERT(route.n > 0 && route.raw.p && strncmp(route.lists[0], "p:", 2) == 0);
    /* The bytes as a member of a binding set. */
    static const char record[] = "[{\"properties\": {}}, \"ex\", \"a.b\"]";
    ASSERT(route_record(a, &keys, SLICE_LIT(record), &members, &route) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct slice s = {(const char *)data, size};

    ASSERT(a);
    check_dead(a, s);
    check_split(s);
    check_route(a, s);
    return 0;
}
