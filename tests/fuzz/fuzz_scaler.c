/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as what the scaler reads: a heartbeat, a record of `unacked`, a message in a list, its own memory in a Lease,
 * its configuration. */

#include "fuzz.h"
#include "k8s/scaler/config.h"
#include "k8s/scaler/load.h"
#include "k8s/scaler/memory.h"

static void check_beat(struct slice s)
{
    CLEANUP(beats_deinit) struct beats b = {0};

    ASSERT(beats_take(&b, s) == 0 && beats_take(&b, s) == 0);
    ASSERT(b.n <= 1);
    if (b.n)
        ASSERT(b.v[0].active >= 0 && b.v[0].processed >= 0 && beat_pod(&b.v[0]));
}

static void check_record(struct slice s)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(load_lists_deinit) struct load_lists lists = {0};
    char *names[] = {(char[]){"celery"}, (char[]){"other"}};
    const struct strv queues = {names, 2};
    struct redis_reply member = {.kind = REDIS_R_STRING, .str = s}, *v[] = {&member};
    const struct redis_reply members = {.kind = REDIS_R_ARRAY, .n = 1, .elem = v};
    struct load_keys k;
    enum load_due due;

    load_keys_default(&k);
    ASSERT(a && load_lists_init(&lists, &k, &queues) == 0 && lists.keys.n == 8);
    ASSERT(load_record_due(a, &lists, &k, s, &members, 1, &due) == 0 && due <= LOAD_LATER);
    ASSERT(load_message_due(a, s, 1, &due) == 0 && due != LOAD_NOT_OURS);
    (void)load_record_exchange(a, s);
}

static void check_memory(struct slice s)
{
    CLEANUP(buf_deinit) struct buf first = BUF_INIT, second = BUF_INIT;
    struct memory m, again;
    struct err e = ERR_INIT;

    if (memory_parse(s, &m, &e)) {
        ASSERT(e.text[0] && m.n_nodes == 0 && m.d.n_wishes == 0);
        return;
    }
    memory_write(&first, &m);
    ASSERT(buf_ok(&first) == 0 && memory_parse(buf_slice(&first), &again, &e) == 0);
    memory_write(&second, &again);
    ASSERT(slice_eq(buf_slice(&first), buf_slice(&second)));
    memory_deinit(&m);
    memory_deinit(&again);
}

static void check_config(struct slice s)
{
    struct config c = {0};
    struct err e = ERR_INIT;

    if (config_parse(s, &c, &e))
        ASSERT(e.text[0]);
    config_deinit(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice s = {(const char *)data, size};

    check_beat(s);
    check_record(s);
    check_memory(s);
    check_config(s);
    return 0;
}
