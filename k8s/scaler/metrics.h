/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Metrics in Prometheus' text form, for a file or for /metrics. */

#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"
#include "k8s/scaler/decide.h"

struct job;
struct config;

#define METRIC_WHERES(X)        \
    X(REDIS, "redis")           \
    X(LEASE, "lease")           \
    X(DEPLOYMENT, "deployment") \
    X(PODS, "pods")             \
    X(SCALE, "scale")           \
    X(PLANS, "plans")           \
    X(KUBE, "kubernetes")

#define METRIC_WHERE_ENUM(name, text) METRIC_##name,

enum metric_where { METRIC_WHERES(METRIC_WHERE_ENUM) METRIC_N_WHERES };

/* What one target has come to since the start. */
struct metric_target {
    uint64_t decisions[DECIDE_N_REASONS], errors[METRIC_N_WHERES], writes;
    int64_t last_success; /* seconds since 1970, 0: never */
    struct buf gauges;    /* text of the last run */
};

struct metrics {
    struct metric_target *v; /* by the place of the target */
    size_t n;
};

int metrics_init(struct metrics *m, size_t n_targets) WARN_UNUSED;
void metrics_deinit(struct metrics *m);

/* Takes one target's run in. */
void metrics_take(struct metrics *m, size_t i, const struct job *j);
void metrics_write(struct buf *dst, const struct metrics *m, const struct config *c);

/* As a whole or not at all: a file beside it is renamed. 0, -Exxx. */
int metrics_save(const char *path, struct slice text, struct err *e) WARN_UNUSED;
