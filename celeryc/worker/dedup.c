/* SPDX-License-Identifier: Apache-2.0 */
/* worker_deduplicate_successful_tasks (celery/app/trace.py): a late-ack message that is delivered once more is not run
 * when its result is there already.
 *
 *     RESERVED --redelivered--> STARTING (the store is asked) --no SUCCESS--> RESERVED -> the pool
 *                                        \--SUCCESS--> what follows from it, if that is not known to have been sent -> gone
 *
 * The result may be there and its consequences not: in Celery they are published before, here with a backend of its own
 * after it. A record that lists children says that a Python worker, or one step with the record, has sent them. The
 * chord part is counted in any case, since a part counts once. */

#include "celeryc/worker/worker_priv.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/log.h"

#include <errno.h>

#define KEPT         1000
#define KEPT_NS      (INT64_C(3) * 3600 * NS_PER_S)
#define ASK_AGAIN_US INT64_C(1000000) /* after this long, when the store could not be asked */

int dedup_init(struct worker *w)
{
    if (!w->config->settings.deduplicate_successful)
        return 0;
    w->successes = revoked_new(KEPT, KEPT_NS);
    return w->successes ? 0 : -ENOMEM;
}

void dedup_deinit(struct worker *w)
{
    w->successes = revoked_free(w->successes);
}

void dedup_remember(struct delivery *d)
{
    struct worker *w = d->w;
    if (!w->successes || !d->late || !d->m.id.p)
        return;
    revoked_purge(w->successes, clock_mono_ns());
    if (revoked_add(w->successes, d->m.id, clock_mono_ns()))
        log_debug("out of memory: a success is not remembered");
}

static int follow(struct delivery *d, const struct record_view *record, struct canvas_effects *fx,
                  struct err *e)
{
    struct worker *w = d->w;
    const struct canvas_settings s = task_canvas_settings(w->table, &w->settings);
    const struct json_val null = {JSON_K_NULL, SLICE_LIT("null")};
    struct message_body body;
    int r = message_body(d->arena, &d->m, &body, e);
    if (r)
        return r < 0 ? r : 0; /* it has run all the same */
    if (w->config->same_backend && json_len(record->children) > 0)
        body.callbacks = body.chain = null;
    return canvas_success(&s, &d->m, &body, record->result.raw, fx, e);
}

static void skip(struct delivery *d, const struct record_view *record)
{
    struct canvas_effects fx = canvas_effects_init(d->arena);
    struct err e = ERR_INIT;
    log_info("Task " DELIVERY_FMT " Task already completed successfully.", DELIVERY_ARGS(d));
    int r = record ? follow(d, record, &fx, &e) : 0;
    if (r == 0) {
        d->succeeded = true;
        finish_with(d, SLICE_NULL, &fx);
    } else if (r == CANVAS_E_BAD) {
        log_error("Failed to dispatch chain/callbacks for deduplicated task " DELIVERY_FMT
                  ": %s\nThe message has been set aside in celeryc:dead:%s",
                  DELIVERY_ARGS(d), err_text(&e, -EINVAL), d->claim->queue);
        finish_park_plain(d, err_text(&e, -EINVAL));
    } else {
        finish_delay(d, clock_wall_us() + ASK_AGAIN_US);
    }
}

static void told(const struct lookup_result *r, void *arg)
{
    struct delivery *d = arg;
    struct worker *w = d->w;
    if (!r->known) {
        finish_delay(d, clock_wall_us() + ASK_AGAIN_US);
    } else if (r->success) {
        skip(d, &r->record);
    } else {
        d->asked = true;
        delivery_move_back(d);
    }
    receive_pump(w);
    shutdown_step(w);
}

bool dedup_takes(struct delivery *d)
{
    struct worker *w = d->w;
    if (!w->successes || !d->late || !d->m.redelivered || d->asked || !lookup_possible(d))
        return false;
    if (revoked_has(w->successes, d->m.id)) {
        skip(d, NULL);
        return true;
    }
    delivery_move(d, DELIVERY_STARTING);
    lookup_record(d, told, d);
    return true;
}
