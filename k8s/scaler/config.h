/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What scatter-scale is told: options, a file, the environment. */

#include "celeryc/base/opt.h"
#include "celeryc/base/strv.h"
#include "k8s/scaler/kube.h"
#include "k8s/scaler/load.h"
#include "k8s/scaler/rules.h"

/* The command line. */
struct options {
    char *config, *broker, *key_prefix, *deployment, *lease, *namespace, *kubeconfig, *context;
    char *dry_run, *replay, *listen, *textfile, *state, *completion;
    struct strv queues, set;
    struct opt_num interval_s, deadline_s;
    bool explain, check, loop, pod_costs, without_heartbeat, proxy, version;
};

extern const struct opt_table options_table;

void options_clear(struct options *o);
/* 0, OPT_E_USAGE, -ENOMEM. */
int options_read(struct options *o, int argc, char **argv, struct err *e) WARN_UNUSED;
/* The options, then every rule that a file or --set may give. */
void options_write_help(struct buf *dst);

/* One Deployment. */
struct target {
    char *deployment;
    struct strv queues;
    char *lease;           /* default: scatter-scale-<deployment> */
    bool pod_costs;        /* may write the cost of removing a pod */
    bool heartbeats;       /* false: the workers run --without-heartbeat */
    int64_t start_grace_s; /* how long a pod may be silent after its start */
    double
        short_task_s; /* tasks as short as that may be cut short: they end within the grace period */
    double avg_task_s;               /* policy drain: how long a task takes; 0: measured */
    char *plans_url, *plans_url_env; /* database with scatter plans */
    double plan_rate;                /* records a second of one pod */
    double plan_drain_s;             /* within how long the records should be done */
    struct decide_rules rules;
};

struct config {
    char *redis_url, *redis_url_env, *redis_url_file; /* the first that is given */
    char *key_prefix, *sep;
    struct load_keys keys; /* prefix and sep borrow the two above */
    double heartbeat_s;    /* how long heartbeats are listened for */
    char *namespace, *kubeconfig, *context;
    struct target *targets;
    size_t n_targets;
};

extern const struct field target_fields[]; /* of struct target; the rules stand beside them */

void config_deinit(struct config *c);
DEFINE_CLEANUP_VALUE(struct config, config_deinit)

/* File, options, environment, checked. 0; -EINVAL, -ENOENT, -EACCES with a text that names file and fix; -ENOMEM. */
int config_load(const struct options *o, struct config *ret_c, struct err *e) WARN_UNUSED;
/* The text of a file alone, for tests. */
int config_parse(struct slice text, struct config *c, struct err *e) WARN_UNUSED;
/* The URL, found anew at each run: a mounted secret may have been renewed. Freed by the caller. */
int config_redis_url(const struct config *c, char **ret_url, struct err *e) WARN_UNUSED;
