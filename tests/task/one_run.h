/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* One run of a task function through task_run, and all that it said. */

#include "celeryc/message/message.h"
#include "celeryc/task/run.h"

#include <criterion/criterion.h>

#define ID "11111111-2222-4333-8444-555555555555"

typedef int (*body_fn)(struct celeryc_call *call);

/* One run and all that it said. */
struct run {
    struct task_settings settings;
    struct celeryc_task task;
    struct message_new message;
    _Atomic uint32_t stop;
    struct arena *arena, *out_arena;
    struct buf bytes;
    struct outcome o;
    struct buf record, repr, traceback;
    struct buf states, sends;
    struct buf
        applied; /* messages that were applied on the way, a line each: queue, priority, raw */
    size_t n_applied_starts;
    bool refuse_apply;
};

struct run start(body_fn fn, const char *args, const char *kwargs);
void run_raw(struct run *r, struct slice raw);
void run(struct run *r);
void end(struct run *r);
const char *record(struct run *r); /* with the time of day taken out */
const char *text(const struct buf *b);

#define EXPECT_TEXT(have, want) cr_assert_str_eq(have, want, "have: %s\nwant: %s", have, want)
