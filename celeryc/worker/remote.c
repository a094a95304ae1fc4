/* SPDX-License-Identifier: Apache-2.0 */
/* What the worker shows to remote control and lets it do: the panel's view of the lists of deliveries. */

#include "celeryc/worker/worker_priv.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/limits.h"
#include "celeryc/base/log.h"
#include "celeryc/transport/stored.h"
#include "celeryc/worker/conf.h"

#include <errno.h>

static void show(struct worker *w, enum delivery_state state, enum control_list list,
                 control_task_fn fn, void *fn_arg)
{
    LIST_FOREACH(it, &w->lists[state]) {
        struct delivery *d = LIST_ENTRY(it, struct delivery, node);
        bool active = list == CONTROL_ACTIVE;
        if (d->puzzled)
            continue;
        const struct control_task t = {
            .m = &d->m,
            .handle = d,
            .started_us = active ? d->started_us : 0,
            .acknowledged = active && !d->late,
            .pid = active ? d->pid : 0,
        };
        fn(list, &t, fn_arg);
    }
}

static void each_task(control_task_fn fn, void *fn_arg, void *arg)
{
    struct worker *w = arg;
    show(w, DELIVERY_RUNNING, CONTROL_ACTIVE, fn, fn_arg);
    show(w, DELIVERY_SENT, CONTROL_RESERVED, fn, fn_arg);
    show(w, DELIVERY_STARTING, CONTROL_RESERVED, fn, fn_arg);
    show(w, DELIVERY_RESERVED, CONTROL_RESERVED, fn, fn_arg);
    show(w, DELIVERY_HELD, CONTROL_SCHEDULED, fn, fn_arg);
}

static const struct task_registry *tasks(void *arg)
{
    return ((const struct worker *)arg)->table;
}

static const char *const *queues(void *arg)
{
    return (const char *const *)((const struct worker *)arg)->config->queues.v;
}

static void stats(struct control_stats *ret_stats, void *arg)
{
    struct worker *w = arg;
    const struct worker_config *c = w->config;
    size_t n = pool_pids(w->pool, w->pids, c->concurrency);
    *ret_stats = (struct control_stats){
        .uptime_s = (clock_mono_ns() - w->began_ns) / NS_PER_S,
        .totals = w->totals,
        .processed = w->processed,
        .active = w->n[DELIVERY_RUNNING],
        .pool = config_pool_name(c->pool),
        .concurrency = c->concurrency,
        .pids = w->pids,
        .n_pids = MIN(n, c->concurrency),
        .max_tasks_per_child = c->max_tasks_per_child,
        .soft_time_limit = c->soft_time_limit,
        .time_limit = c->time_limit,
        .prefetch_count = c->prefetch_multiplier < 0
                              ? (int64_t)c->concurrency
                              : (int64_t)c->concurrency * c->prefetch_multiplier,
    };
}

static void conf(struct buf *dst, bool with_defaults, void *arg)
{
    conf_write(dst, ((const struct worker *)arg)->config, with_defaults);
}

static const char *terminate(void *handle, int signum, void *arg)
{
    struct worker *w = arg;
    struct delivery *d = handle;
    if (w->config->pool == POOL_THREADS && w->config->concurrency > 1) {
        pool_soft_stop(w->pool, d->number);
        return "a thread cannot be killed alone: the task was asked to stop";
    }
    if (d->kill == KILL_NONE)
        d->kill = KILL_REVOKED;
    pool_kill(w->pool, d->number, signum);
    return NULL;
}

static int time_limit(struct slice name, double soft, double hard, void *arg)
{
    struct worker *w = arg;
    struct limits *l = map_get(w->time_limits, name);
    if (!l) {
        l = malloc(sizeof(*l));
        if (!l || map_set(w->time_limits, name, l)) {
            free(l);
            return -ENOMEM;
        }
    }
    *l = (struct limits){.soft = soft, .hard = hard};
    return 0;
}

static void warm(void *arg)
{
    shutdown_warm(arg);
}

static void on_listening(bool listening, void *arg)
{
    struct worker *w = arg;
    w->control_settled |= listening || w->was_up; /* else it may come yet */
    worker_say_ready(w);
}

static void revoked(size_t n, const struct slice *ids, void *arg)
{
    struct worker *w = arg;
    for (size_t i = 0; w->phase == PHASE_RUNNING && i < n; i += LIMIT_CLAIM_BATCH)
        transport_claim_delayed(w->transport, n - i, ids + i);
}

static void counted(void *arg)
{
    forward_counted(arg);
}

static bool lists_delayed(void *arg)
{
    return transport_is_first(((const struct worker *)arg)->transport);
}

void remote_count(struct delivery *d)
{
    struct worker *w = d->w;
    w->processed++;
    uintptr_t n = (uintptr_t)map_get(w->totals, d->m.task) + 1;
    if (map_set(w->totals, d->m.task, (void *)n))
        log_debug("out of memory: a task is not counted");
}

int remote_init(struct worker *w)
{
    w->began_ns = clock_mono_ns();
    w->totals = map_new();
    w->time_limits = map_new();
    w->pids = calloc(w->config->concurrency, sizeof(*w->pids));
    return w->totals && w->time_limits && w->pids ? 0 : -ENOMEM;
}

static int free_limits(struct slice name, void *value, void *arg)
{
    (void)name;
    (void)arg;
    free(value);
    return 0;
}

void remote_deinit(struct worker *w)
{
    if (w->time_limits)
        (void)map_each(w->time_limits, free_limits, NULL);
    map_free(w->time_limits);
    map_free(w->totals);
    free(w->pids);
}

int remote_start(struct worker *w)
{
    const struct worker_config *c = w->config;
    const struct settings *s = &c->settings;
    w->control_options = (struct control_options){
        .broker = &c->broker,
        .backend = c->has_backend ? &c->backend : NULL,
        .same_backend = c->same_backend,
        .node = c->node,
        .version = w->version,
        .wire = c->wire,
        .key_prefix = s->broker_keyprefix ? s->broker_keyprefix : "",
        .result_key_prefix = s->result_keyprefix ? s->result_keyprefix : "",
        .sep = s->sep,
        .control_exchange = s->control_exchange,
        .event_exchange = s->event_exchange,
        .listen = s->enable_remote_control,
        .mingle = c->mingle,
        .heartbeat_ms = c->heartbeat_ms,
        .result_ttl_s = (int64_t)s->result_expires,
        .delayed_page = &stored_delayed_page,
    };
    w->control_host = (struct control_host){
        .arg = w,
        .each_task = each_task,
        .tasks = tasks,
        .queues = queues,
        .stats = stats,
        .conf = conf,
        .terminate = terminate,
        .time_limit = time_limit,
        .shutdown = warm,
        .on_listening = on_listening,
        .revoked = revoked,
        .counted = counted,
        .lists_delayed = lists_delayed,
    };
    w->control = control_new(&w->loop, &w->control_options, &w->control_host);
    if (!w->control)
        return -ENOMEM;
    control_start(w->control);
    return 0;
}
