/* SPDX-License-Identifier: Apache-2.0 */
/* Commands with every allocation failing once: the reply is an error or what it would be, nothing leaks. */

#include "../base/nomem.h"
#include "fake_host.h"

#include <errno.h>
#include <string.h>

static int ask(const char *method, const char *arguments)
{
    CLEANUP(fake_host_deinit) struct fake_host f;
    int r = fake_host_init(&f);
    if (r)
        return r;
    CLEANUP(mem_free) char *reply = fake_host_ask(&f, method, arguments);
    return !reply || strstr(reply, "MemoryError") ? -ENOMEM : 0;
}

static int ask_all(void)
{
    int r = ask("active", "{}");
    if (r == 0)
        r = ask("stats", "{}");
    if (r == 0)
        r = ask("report", "{}");
    if (r == 0)
        r = ask("registered", "{\"taskinfoitems\": [\"acks_late\"]}");
    if (r == 0)
        r = ask("query_task", "{\"ids\": [\"running\"]}");
    return r;
}

static int ask_revoke(void)
{
    int r = ask("revoke", "{\"task_id\": [\"a\", \"running\"], \"terminate\": true}");
    if (r == 0)
        r = ask("revoke_by_stamped_headers",
                "{\"headers\": {\"owner\": \"ann\"}, \"terminate\": true}");
    return r;
}

static int parse(void)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(buf_deinit) struct buf raw = BUF_INIT;
    struct mailbox_message m;
    mailbox_write(&raw, NULL,
                  SLICE_LIT("{\"method\": \"ping\", \"pattern\": \"w(1|2)*\", \"matcher\": "
                            "\"pcre\", \"reply_to\": {\"exchange\": \"e\", \"routing_key\": "
                            "\"\\u006b\"}}"),
                  SLICE_LIT("{}"), SLICE_LIT("e"), SLICE_LIT(""), 2);
    return !a || buf_ok(&raw) ? -ENOMEM : mailbox_parse(a, NULL, "w1@h", buf_slice(&raw), &m, NULL);
}

int main(void)
{
    (void)nomem_sweep("looking", ask_all);
    (void)nomem_sweep("revoking", ask_revoke);
    (void)nomem_sweep("reading", parse);
    return 0;
}
