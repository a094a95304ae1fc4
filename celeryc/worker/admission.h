/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What to do with a message, and how many more to take: decisions from facts, no I/O. */

#include "celeryc/message/message.h"
#include "celeryc/task/registry.h"

/* A near eta is waited for in the worker, a farther one in celeryc:delayed. */
#define ADMISSION_NEAR_US (INT64_C(300) * 1000000)

enum admission {
    ADMISSION_NOW,     /* run it when there is room */
    ADMISSION_HOLD,    /* near eta: keep it here until then */
    ADMISSION_DELAY,   /* far eta, or enough are held already */
    ADMISSION_UNKNOWN, /* no such task */
    ADMISSION_EXPIRED,
};

struct admission_facts {
    const struct task_info *task; /* NULL: not in the table */
    const struct message *message;
    int64_t now_us;    /* wall clock */
    size_t held;       /* messages held for their eta */
    size_t held_limit; /* and how many may be */
    size_t held_bytes; /* how large they are together */
};

enum admission admission_decide(const struct admission_facts *f);
/* When a message that waits is to be looked at again: at its eta, or when it has expired before. */
int64_t admission_due(const struct message *m);
bool admission_expired(const struct message *m, int64_t now_us);

struct capacity_facts {
    bool accepting;
    size_t room;       /* pool_room */
    size_t free_slots; /* pool_free_slots */
    size_t concurrency;
    int64_t multiplier; /* -1: not given; 0: no limit */
    bool no_prefetch;   /* worker_disable_prefetch */
    size_t reserved;    /* ours, waiting for room */
    size_t starting;    /* on their way to the pool */
    size_t in_pool;     /* sent or running */
};

/* How many more messages we could claim now. */
size_t capacity_want(const struct capacity_facts *f);
/* How many of the reserved ones may go to the pool now. */
size_t capacity_hand_over(const struct capacity_facts *f);

/* Limits of one run in seconds, 0: none. The message's win over the task's, those over the worker's; an element that
 * is 0 counts as unset (wire-messages 5.4). */
struct limits {
    double soft, hard;
};

struct limits limits_of(const struct message *m, const struct task_info *task, double worker_soft,
                        double worker_hard);
