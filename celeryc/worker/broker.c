/* SPDX-License-Identifier: Apache-2.0 */
/* The broker comes and goes: what is logged and counted of it, and the watchdog over it all. */

#include "celeryc/base/clock.h"
#include "celeryc/base/log.h"
#include "celeryc/worker/chord.h"
#include "celeryc/worker/watchdog.h"
#include "celeryc/worker/worker.h"
#include "celeryc/worker/worker_priv.h"

#include <errno.h>
#include <string.h>

#define N_PRIORITIES 10

/* Whoever reads this may send a task or a command: both are heard, or it was said why not. */
void worker_say_ready(struct worker *w)
{
    if (w->said_ready || !w->was_up || !w->control_settled)
        return;
    w->said_ready = true;
    log_info("%s ready.", w->config->node);
}

static void on_up(void *arg)
{
    struct worker *w = arg;
    w->was_up = true;
    w->outage = OUTAGE_NONE;
    watchdog_pat(w->watchdog);
    log_info("Connected to %s", transport_server(w->transport));
    worker_say_ready(w);
    if (w->config->has_backend && w->phase == PHASE_RUNNING)
        chord_watch(w);
    receive_pump(w);
}

static bool may_retry(const struct worker *w)
{
    const struct settings *s = &w->config->settings;
    if (!w->was_up && s->connection_retry_on_startup >= 0)
        return s->connection_retry_on_startup != 0;
    return s->connection_retry;
}

static void tell_failure(const struct worker *w, const char *reason, int64_t retry_ms)
{
    double max = w->config->settings.connection_max_retries;
    char of[32] = "";
    if (max > 0)
        (void)snprintf(of, sizeof(of), "/%.0f", max);
    log_error("consumer: Cannot connect to %s: %s.\nTrying again in %.2f seconds... (%u%s)",
              transport_server(w->transport), reason, (double)retry_ms / 1000, w->outage.tries, of);
}

static void on_down(const char *reason, int64_t retry_ms, void *arg)
{
    struct worker *w = arg;
    double max = w->config->settings.connection_max_retries;
    watchdog_pat(w->watchdog);
    if (w->phase > PHASE_RUNNING)
        return;
    if (w->was_up && w->outage.since_ms < 0)
        log_warning(
            "consumer: Connection to broker lost. Trying to re-establish the connection...");
    if (retry_ms == 0) {
        log_error("consumer: Cannot connect to %s: %s.\nWill retry using next failover.",
                  transport_server(w->transport), reason);
        return;
    }
    bool counted = outage_count(&w->outage, clock_mono_ns() / NS_PER_MS);
    if (!may_retry(w) || (max > 0 && w->outage.tries > max)) {
        log_critical("consumer: Cannot connect to %s: %s.", w->config->broker.masked, reason);
        shutdown_broken(w, 1);
        return;
    }
    if (counted)
        tell_failure(w, reason, retry_ms);
}

static void on_transport_fatal(const char *reason, void *arg)
{
    struct worker *w = arg;
    log_critical("worker: %s", reason);
    w->exit_code = 1;
    w->phase = PHASE_GONE;
    uv_stop(&w->loop);
}

/* ---- the watchdog ---- */

static bool hungry(void *arg)
{
    const struct worker *w = arg;
    return w->phase == PHASE_RUNNING && w->n[DELIVERY_RESERVED] + w->n[DELIVERY_STARTING] == 0 &&
           pool_free_slots(w->pool) > 0;
}

/* Every list of our queues: *at counts queues and priorities. */
static bool next_key(struct buf *dst, size_t *at, void *arg)
{
    const struct worker *w = arg;
    const struct strv *queues = &w->config->queues;
    for (; *at < queues->n * N_PRIORITIES; ++*at) {
        const char *queue = queues->v[*at / N_PRIORITIES];
        int priority = (int)(*at % N_PRIORITIES);
        CLEANUP(mem_free) char *key = transport_list_key(w->transport, queue, priority);
        CLEANUP(mem_free)
        char *before = priority ? transport_list_key(w->transport, queue, priority - 1) : NULL;
        if (!key || str_eq(key, before))
            continue; /* several priorities share a list */
        buf_append_str(dst, key);
        ++*at;
        return true;
    }
    return false;
}

static void on_deaf(int64_t n_waiting, void *arg)
{
    struct worker *w = arg;
    if (w->phase != PHASE_RUNNING)
        return;
    log_critical("worker: gone deaf: %lld message(s) wait in Redis, %zu slot(s) are free, and "
                 "nothing was claimed for %g s. The worker leaves with exit code %d, so that its "
                 "supervisor starts another (celeryc_watchdog_timeout)",
                 (long long)n_waiting, pool_free_slots(w->pool),
                 w->config->settings.watchdog_timeout, WORKER_EX_DEAF);
    shutdown_tell_state(w);
    w->exit_code = WORKER_EX_DEAF;
    shutdown_warm(w);
}

static int start_watchdog(struct worker *w)
{
    const struct watchdog_options o = {
        .endpoint = &w->config->broker,
        .timeout_ms = (int64_t)(w->config->settings.watchdog_timeout * 1000),
        .hungry = hungry,
        .next_key = next_key,
        .on_deaf = on_deaf,
        .arg = w,
    };
    if (o.timeout_ms <= 0)
        return 0;
    w->watchdog = watchdog_new(&w->loop, &o);
    return w->watchdog ? 0 : -ENOMEM;
}

int broker_start(struct worker *w)
{
    static const struct transport_events events = {
        .on_claim = receive_claim,
        .may_start = receive_may_start,
        .on_orphan = receive_orphan,
        .on_up = on_up,
        .on_down = on_down,
        .on_fatal = on_transport_fatal,
    };
    const struct worker_config *c = w->config;
    const struct settings *s = &c->settings;
    const struct transport_options o = {
        .endpoint = &c->broker,
        .node = c->node,
        .key_prefix = s->broker_keyprefix ? s->broker_keyprefix : "",
        .queues = (const char *const *)c->queues.v,
        .priority_steps = s->n_priority_steps ? s->priority_steps : NULL,
        .n_priority_steps = s->n_priority_steps,
        .sep = s->sep,
        .unacked_key = s->unacked_key,
        .unacked_index_key = s->unacked_index_key,
        .unacked_mutex_key = s->unacked_mutex_key,
        .visibility_timeout_ms = (int64_t)(s->visibility_timeout * 1000),
        .lease_ms = 30000,
        .beat_ms = 3000,
        .dead_after_ms = 12000,
    };
    int r = remote_start(w);
    if (r)
        return r;
    w->transport = transport_new(&w->loop, &o, &events, w);
    if (!w->transport)
        return -ENOMEM;
    if (c->has_backend && !c->same_backend) {
        w->backend = result_backend_new(&w->loop, &c->backend);
        if (!w->backend)
            return -ENOMEM;
    }
    transport_start(w->transport);
    return start_watchdog(w);
}
