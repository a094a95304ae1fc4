/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* How many pods there should be: one pure function of rules, memory and sample. No I/O, no clock, no randomness.
 *
 * What must never happen: fewer pods than are not known to be idle; a sample that failed lowering anything; a load of
 * which nothing is known taken for zero. Times are whole seconds of one wall clock (the API server's). */

#include "celeryc/base/util.h"

#include <stdbool.h>
#include <stdint.h>

#define DECIDE_NEVER  INT64_MIN /* a time that has not come */
#define DECIDE_MEMORY 60        /* how many past wishes are kept */

enum decide_policy {
    DECIDE_BACKLOG, /* pods = outstanding messages / target_per_pod */
    DECIDE_DRAIN,   /* pods that finish what is outstanding within drain_s */
};

enum decide_on_error {
    DECIDE_HOLD,
    DECIDE_FALLBACK, /* after error_after failed runs in a row at least error_replicas; raises only */
};

/* Rules of one target; decide_rules_default gives the defaults. */
struct decide_rules {
    int64_t min, max, idle; /* idle: how many stay when nothing is to do */
    int64_t concurrency;    /* tasks that one pod runs at a time */
    int64_t prefetch;       /* worker_prefetch_multiplier; 0: no limit */
    double target_per_pod;  /* <= 0: concurrency */
    enum decide_policy policy;
    double drain_s;
    int64_t activation;        /* outstanding messages that start the first pod */
    int64_t activation_wait_s; /* ... or how long fewer may wait */
    int64_t up_pods, up_percent, down_pods, down_percent; /* the larger of the two, each run */
    int64_t up_window_s, down_window_s;
    int64_t zero_cooldown_s; /* how long it must be quiet before the last pod goes */
    double tolerance;        /* share of the pods by which it may be wrong */
    int64_t period_s;        /* between two runs; half of it at least between two changes */
    bool protect_busy;
    double max_hourly_cost, pod_hourly_cost; /* 0: no cap */
    double daily_budget;                     /* 0: none; in the unit of pod_hourly_cost */
    enum decide_on_error on_error;
    int64_t error_after, error_replicas;
};

void decide_rules_default(struct decide_rules *r);

enum decide_pause {
    DECIDE_GO,
    DECIDE_PAUSED,    /* as it is */
    DECIDE_PAUSED_AT, /* at paused_replicas */
};

struct decide_sample {
    int64_t now;
    bool
        ok; /* everything could be read; false: the rest but now, current and pause is not looked at */
    bool
        restarted; /* Redis is younger than the window down or another one: its emptiness says nothing */
    int64_t ready;     /* messages that wait and are due */
    int64_t unacked;   /* claimed and not acknowledged, due */
    int64_t lost;      /* started by workers that died, to be finished by a live one */
    int64_t active;    /* tasks that run, by the heartbeats */
    int64_t processed; /* started since the last run */
    double rate;       /* tasks a second of one pod, 0: not known */
    double arrivals;   /* tasks a second that come in */
    int64_t busy, idle, unknown, starting, terminating; /* pods, each in one class */
    int64_t current;                                    /* replicas asked for */
    bool rollout;
    enum decide_pause pause;
    int64_t paused_replicas;
    bool no_up, no_down; /* held one way */
    int64_t plan_cap;    /* pods that scatter plans can use, < 0: nothing known of plans */
};

struct decide_wish {
    int64_t at, pods;
};

/* What is remembered from run to run; decide_state_init for the first. */
struct decide_state {
    struct decide_wish wishes[DECIDE_MEMORY]; /* the oldest first */
    size_t n_wishes;
    int64_t idle_since, waiting_since, last_up, last_down; /* DECIDE_NEVER */
    int64_t fails;
    int64_t budget_day; /* days since the epoch */
    double budget_spent;
    int64_t budget_at;
};

void decide_state_init(struct decide_state *s);

/* name, what the log says, help of --explain */
#define DECIDE_REASONS(X)                                                                       \
    X(IDLE, "idle", "no pod, nothing to do")                                                    \
    X(BELOW_ACTIVATION, "below-activation", "too little to start a pod for, not yet long")      \
    X(ACTIVATE, "activate", "work came: the first pods")                                        \
    X(ACTIVATE_LIMITED, "activate-rate-limited", "the first pods, as many as a step")           \
    X(UP, "up", "more work than pods")                                                          \
    X(UP_LIMITED, "up-rate-limited", "more work than pods, as far as a step")                   \
    X(UP_TOO_SOON, "up-too-soon", "raised a moment ago")                                        \
    X(DOWN, "down", "more pods than work, for the whole window")                                \
    X(DOWN_LIMITED, "down-rate-limited", "more pods than work, as far as a step")               \
    X(DOWN_BUSY_LIMITED, "down-busy-limited", "only the idle pods go")                          \
    X(DOWN_TOO_SOON, "down-too-soon", "lowered a moment ago")                                   \
    X(BUSY_HOLD, "busy-hold", "no pod is known to be idle")                                     \
    X(ROLLOUT_HOLD, "rollout-hold", "a rollout is under way")                                   \
    X(STABILIZING, "stabilizing", "fewer would do, but not for the whole window")               \
    X(STEADY, "steady", "as many as needed")                                                    \
    X(TOLERANCE, "within-tolerance", "wrong by less than the tolerance")                        \
    X(PAUSED, "paused", "paused by an annotation")                                              \
    X(UP_PAUSED, "up-paused", "raising is paused by an annotation")                             \
    X(DOWN_PAUSED, "down-paused", "lowering is paused by an annotation")                        \
    X(ERROR_HOLD, "error-hold", "the load is not known")                                        \
    X(ERROR_FALLBACK, "error-fallback", "the load is not known for long: the fallback")         \
    X(RESTART_HOLD, "restart-hold", "Redis started a moment ago: what it shows may not be all") \
    X(CAPPED, "capped", "work waits, but the cap allows no pod")

#define DECIDE_REASON_ENUM(name, text, help) DECIDE_R_##name,

enum decide_reason { DECIDE_REASONS(DECIDE_REASON_ENUM) DECIDE_N_REASONS };

enum decide_cap {
    DECIDE_CAP_NONE,
    DECIDE_CAP_MAX,
    DECIDE_CAP_COST,
    DECIDE_CAP_BUDGET,
    DECIDE_CAP_PLAN,
};

struct decision {
    int64_t target;
    enum decide_reason reason;
    enum decide_cap capped_by; /* what kept the wish down */
    /* How it came about, for people. */
    int64_t in_flight_low, in_flight_high;
    int64_t up, down;           /* what the load asks for */
    int64_t up_held, down_held; /* after the windows, floor and cap */
    int64_t floor, cap;
    bool stranded; /* held by a worker that died: a live one brings it back */
    bool orphans;  /* and nothing else is to do: one pod is enough for that */
    bool quiet;    /* nothing to do, nothing done */
};

const char *decide_reason_text(enum decide_reason r);
const char *decide_reason_help(enum decide_reason r);
const char *decide_cap_text(enum decide_cap c); /* "" for none */

/* s is read and replaced by what is to be remembered. */
void decide(const struct decide_rules *r, struct decide_state *s, const struct decide_sample *m,
            struct decision *ret_d);
