/* SPDX-License-Identifier: Apache-2.0 */
/* A task that no plug-in here has, on a queue that other workers serve, too (celery/worker/consumer/consumer.py
 * on_unknown_task drops it). The others are asked; if one has it, the message is passed on, else it ends as in Celery.
 *
 *     NEW --others are being asked--> HELD (puzzled) --an answer, or none in time--> LEAVING
 *
 * Passed on means: to the tail of its list the first time, then by way of celeryc:delayed with a pause that doubles, so
 * that messages which only a busy neighbour can run cost little while they wait for it. The count stands in the message;
 * at LIMIT_BOUNCES it is set aside: nothing circles for ever. */

#include "celeryc/worker/worker_priv.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/codec.h"
#include "celeryc/base/limits.h"
#include "celeryc/base/log.h"

#define FIRST_PAUSE_US INT64_C(20000)
#define MAX_PAUSE_US   INT64_C(5000000)
#define ASK_AGAIN_US   INT64_C(1000000)
#define ANSWER_US      INT64_C(3000000) /* for the others to answer; they have a second */

static void refuse(struct delivery *d, const char *park_reason)
{
    log_error(
        "Received unregistered task of type '%.*s'.\n"
        "The message has been ignored and discarded.\n\n"
        "No plug-in of this worker has a task of that name, nor has another worker of the queue: "
        "load the one that\nhas it with -A, or send it to a queue of its own workers. Its id: "
        "%.*s, queue: %s",
        (int)d->m.task.len, d->m.task.p, (int)d->m.id.len, d->m.id.p, d->claim->queue);
    finish_unregistered(d, park_reason);
}

/* 0 the first time, then 20 ms, 40 ms, ... 5 s, each up to a quarter more. */
static int64_t pause_us(int64_t bounces)
{
    uint32_t dice;
    if (bounces < 2)
        return 0;
    int64_t us = bounces < 12 ? FIRST_PAUSE_US << (bounces - 2) : MAX_PAUSE_US;
    us = MIN(us, MAX_PAUSE_US);
    random_bytes(&dice, sizeof(dice));
    return us + (int64_t)dice % (us / 4);
}

static void pass_on(struct delivery *d, int64_t bounces)
{
    CLEANUP(buf_deinit) struct buf raw = BUF_INIT;
    int64_t pause = pause_us(bounces);
    if (message_write_bounced(&raw, &d->m, bounces)) {
        finish_delay(d, clock_wall_us() + ASK_AGAIN_US);
        return;
    }
    log_debug("Task " DELIVERY_FMT " is for another worker: passed on (%lld)", DELIVERY_ARGS(d),
              (long long)bounces);
    finish_forward(d, buf_slice(&raw), pause ? clock_wall_us() + pause : 0);
}

static void wait_for_answer(struct delivery *d)
{
    delivery_move(d, DELIVERY_HELD);
    d->puzzled = true;
    d->w->n_puzzled++;
    if (limits_hold(d, ANSWER_US))
        finish_delay(d, clock_wall_us() + ASK_AGAIN_US);
}

static void decide(struct delivery *d, bool may_wait)
{
    struct worker *w = d->w;
    int64_t bounces = message_bounces(&d->m) + 1;
    if (bounces > LIMIT_BOUNCES) {
        refuse(d, "It was passed on between workers too often.");
        return;
    }
    switch (control_census(w->control, d->m.task, d->claim->queue)) {
    case CENSUS_SOME:
        pass_on(d, bounces);
        return;
    case CENSUS_NONE:
        refuse(d, NULL);
        return;
    case CENSUS_ASKING:
        if (may_wait && w->n_puzzled < LIMIT_PUZZLED)
            wait_for_answer(d);
        else
            finish_delay(d, clock_wall_us() + ASK_AGAIN_US);
        return;
    case CENSUS_CANNOT:
        if (w->config->settings.enable_remote_control)
            pass_on(d, bounces);
        else
            refuse(d, NULL);
        return;
    }
}

void forward_unknown(struct delivery *d)
{
    decide(d, true);
}

void forward_due(struct delivery *d)
{
    decide(d, false);
}

void forward_counted(struct worker *w)
{
    struct list *held = &w->lists[DELIVERY_HELD];
    struct list *it = held->next;
    while (it != held) {
        struct list *next = it->next;
        struct delivery *d = LIST_ENTRY(it, struct delivery, node);
        if (d->puzzled)
            decide(d, false);
        it = next;
    }
    receive_pump(w);
    shutdown_step(w);
}
