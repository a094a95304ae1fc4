/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What a worker was told: command line over environment over --config over defaults, checked and put together. */

#include "celeryc/base/log.h"
#include "celeryc/base/opt.h"
#include "celeryc/pool/pool.h"
#include "celeryc/redis/endpoint.h"
#include "celeryc/worker/settings.h"

/* The options of `celeryc worker` as they stand on the line. */
struct worker_options {
    struct strv apps, queues, exclude_queues, databases;
    char *broker, *result_backend, *config, *workdir;
    char *hostname, *loglevel, *logfile, *pidfile;
    char *pool, *concurrency;
    struct opt_num prefetch_multiplier, max_tasks_per_child, time_limit, soft_time_limit;
    struct opt_num drain_timeout;
    struct opt_num heartbeat_interval;
    bool disable_prefetch, task_events, without_heartbeat, without_mingle, quiet, purge;
};

extern const struct opt_table worker_opt_table;

struct worker_config {
    struct settings settings;
    struct redis_endpoint broker, backend;
    struct wire *wire; /* how messages are read and written */
    bool has_backend;  /* false: results are disabled */
    bool same_backend; /* broker and backend are one server and database */

    struct strv apps;
    struct strv queues;    /* at least one */
    struct strv databases; /* "alias=URL" */
    char *node;
    char *logfile, *pidfile; /* NULL: none */
    enum log_level loglevel;
    enum pool_kind pool;
    size_t concurrency;
    int64_t prefetch_multiplier; /* -1: claim what the pool can take now; 0: no limit */
    int64_t max_tasks_per_child;
    double time_limit, soft_time_limit; /* 0: none */
    int64_t drain_timeout_ms;           /* -1: wait for ever */
    int64_t heartbeat_ms;               /* of worker events, 0: none */
    bool mingle;
    bool quiet, purge;
};

/* From parsed options (whose lists and strings are moved out). 0; OPT_E_USAGE for a wrong command line; -Exxx for wrong
 * settings, environment or files: the text names the cause and the fix. */
int config_make(struct worker_options *o, struct worker_config *ret_c, struct err *e) WARN_UNUSED;
void config_deinit(struct worker_config *c);
DEFINE_CLEANUP_VALUE(struct worker_config, config_deinit)

/* Broker and result backend as every subcommand finds them: option, CELERY_BROKER_URL / CELERY_RESULT_BACKEND, settings,
 * default. *ret_has is false when results are disabled. Both are the caller's to deinit. */
int config_broker(const char *option, const struct settings *s, struct redis_endpoint *ret_ep,
                  struct err *e) WARN_UNUSED;
int config_backend(const char *option, const struct settings *s, struct redis_endpoint *ret_ep,
                   bool *ret_has, struct err *e) WARN_UNUSED;

const char *config_pool_name(enum pool_kind kind);
