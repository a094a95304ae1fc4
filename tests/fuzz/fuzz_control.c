/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a broadcast, or as its body: whatever runs answers with JSON. */

#include "../control/fake_host.h"
#include "fuzz.h"

static void run(struct slice raw)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(fake_host_deinit) struct fake_host f;
    struct mailbox_message m;
    struct err e = ERR_INIT;
    struct call c;
    struct json_val v;
    ASSERT(a && fake_host_init(&f) == 0);
    int r = mailbox_parse(a, NULL, "w1@h", raw, &m, &e);
    ASSERT(r == 0 || e.text[0]);
    if (r)
        return;
    panel_run(&f.panel, a, m.method, m.arguments, &c);
    ASSERT(c.no_reply || json_scan(buf_slice(&c.out), &v, NULL) == 0);
    buf_deinit(&c.out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(buf_deinit) struct buf raw = BUF_INIT;
    struct slice bytes = {(const char *)data, size};
    run(bytes);
    mailbox_write(&raw, NULL, bytes, SLICE_LIT("{\"clock\": 1}"), SLICE_LIT("e"), SLICE_LIT(""), 2);
    if (buf_ok(&raw) == 0)
        run(buf_slice(&raw));
    return 0;
}
