/* SPDX-License-Identifier: Apache-2.0 */
/* What is done with a message, and how much is taken. */

#include "celeryc/worker/admission.h"

#include "celeryc/base/limits.h"

#include <criterion/criterion.h>

#define SECOND INT64_C(1000000)
#define NOW    (INT64_C(1800000000) * SECOND)

static const struct task_info a_task = {.name = "t"};

static enum admission decide(struct message m, const struct task_info *t, size_t held)
{
    const struct admission_facts f = {
        .task = t, .message = &m, .now_us = NOW, .held = held, .held_limit = 10};
    return admission_decide(&f);
}

Test(admission, plain_message_runs)
{
    cr_assert_eq(decide((struct message){0}, &a_task, 0), ADMISSION_NOW);
}

Test(admission, unknown_wins_over_everything)
{
    struct message m = {
        .has_eta = true, .eta_us = NOW + SECOND, .has_expires = true, .expires_us = NOW - 1};
    cr_assert_eq(decide(m, NULL, 0), ADMISSION_UNKNOWN);
}

Test(admission, expiry_is_checked_before_the_eta)
{
    struct message m = {
        .has_expires = true, .expires_us = NOW - 1, .has_eta = true, .eta_us = NOW + SECOND};
    cr_assert_eq(decide(m, &a_task, 0), ADMISSION_EXPIRED);
    m.expires_us = NOW; /* Celery: now > expires */
    cr_assert_eq(decide(m, &a_task, 0), ADMISSION_HOLD);
}

Test(admission, what_expires_before_its_eta_is_looked_at_then)
{
    struct message m = {.has_eta = true,
                        .eta_us = NOW + 3600 * SECOND,
                        .has_expires = true,
                        .expires_us = NOW + SECOND};
    cr_assert_eq(decide(m, &a_task, 0), ADMISSION_HOLD);
    cr_assert_eq(admission_due(&m), NOW + SECOND + 1);
    cr_assert(admission_expired(&m, admission_due(&m)));
    m.expires_us = NOW + 7200 * SECOND;
    cr_assert_eq(admission_due(&m), m.eta_us);
}

Test(admission, large_messages_wait_at_the_broker)
{
    struct message m = {.has_eta = true, .eta_us = NOW + SECOND};
    const struct admission_facts f = {.task = &a_task,
                                      .message = &m,
                                      .now_us = NOW,
                                      .held = 1,
                                      .held_limit = 10,
                                      .held_bytes = LIMIT_ETA_HELD_BYTES};
    cr_assert_eq(admission_decide(&f), ADMISSION_DELAY);
}

Test(admission, eta_near_far_and_past)
{
    struct message m = {.has_eta = true, .eta_us = NOW - SECOND};
    cr_assert_eq(decide(m, &a_task, 0), ADMISSION_NOW);
    m.eta_us = NOW;
    cr_assert_eq(decide(m, &a_task, 0), ADMISSION_NOW);
    m.eta_us = NOW + 300 * SECOND;
    cr_assert_eq(decide(m, &a_task, 9), ADMISSION_HOLD);
    cr_assert_eq(decide(m, &a_task, 10), ADMISSION_DELAY, "enough are held");
    m.eta_us = NOW + 300 * SECOND + 1;
    cr_assert_eq(decide(m, &a_task, 0), ADMISSION_DELAY);
}

static struct capacity_facts facts(void)
{
    return (struct capacity_facts){
        .accepting = true, .room = 6, .free_slots = 2, .concurrency = 4, .multiplier = -1};
}

Test(capacity, default_claims_what_the_pool_can_take)
{
    struct capacity_facts f = facts();
    cr_assert_eq(capacity_want(&f), 6);
    cr_assert_eq(capacity_hand_over(&f), 6);
    f.starting = 2;
    f.reserved = 1;
    cr_assert_eq(capacity_want(&f), 3);
    cr_assert_eq(capacity_hand_over(&f), 4);
    f.starting = 9;
    cr_assert_eq(capacity_want(&f), 0);
    cr_assert_eq(capacity_hand_over(&f), 0);
}

Test(capacity, nothing_when_not_accepting)
{
    struct capacity_facts f = facts();
    f.accepting = false;
    cr_assert_eq(capacity_want(&f), 0);
    cr_assert_eq(capacity_hand_over(&f), 0);
}

Test(capacity, multiplier_counts_everything_held)
{
    struct capacity_facts f = facts();
    f.multiplier = 4;
    f.in_pool = 6;
    f.reserved = 3;
    f.starting = 1;
    cr_assert_eq(capacity_want(&f), 6);
    f.in_pool = 20;
    cr_assert_eq(capacity_want(&f), 0);
    f.multiplier = INT64_MAX;
    cr_assert_eq(capacity_want(&f), LIMIT_CLAIM_BATCH - 24);
}

Test(capacity, no_limit_is_bounded_by_one_claim)
{
    struct capacity_facts f = facts();
    f.multiplier = 0;
    f.in_pool = 1000;
    f.reserved = 100;
    cr_assert_eq(capacity_want(&f), LIMIT_CLAIM_BATCH - 100);
    f.reserved = LIMIT_CLAIM_BATCH;
    cr_assert_eq(capacity_want(&f), 0);
}

Test(capacity, without_prefetch_only_free_slots)
{
    struct capacity_facts f = facts();
    f.no_prefetch = true;
    cr_assert_eq(capacity_want(&f), 2);
    f.starting = 2;
    cr_assert_eq(capacity_want(&f), 0);
}

Test(limits, message_over_task_over_worker)
{
    struct message m = {0};
    struct task_info t = {.name = "t"};
    struct limits l = limits_of(&m, &t, 0, 0);
    cr_assert(l.soft <= 0 && l.hard <= 0);
    l = limits_of(&m, &t, 3, 9);
    cr_assert(l.soft == 3 && l.hard == 9);
    t.time_limit = 8;
    l = limits_of(&m, &t, 3, 9);
    cr_assert(l.soft == 3 && l.hard == 8);
    m.soft_time_limit_s = 1;
    m.time_limit_s = 2;
    l = limits_of(&m, &t, 3, 9);
    cr_assert(l.soft == 1 && l.hard == 2);
}
