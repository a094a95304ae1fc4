/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* One run: sample, decide, act, for every target. Its parts are apart so that --explain and --check can use them. */

#include "k8s/scaler/measure.h"
#include "k8s/scaler/metrics.h"

/* sysexits.h has these */
#define EXIT_DONE        0
#define EXIT_DEFECT      70
#define EXIT_UNREACHABLE 75
#define EXIT_RIGHTS      77
#define EXIT_CONFIG      78

/* What is kept of one target from run to run of --loop. A connection holds one Lease. */
struct seat {
    struct kube *kube;
    bool leased;
};

struct scaler {
    const struct options *o;
    const struct config *c;
    struct seat *seats; /* of each target */
    char holder[256];   /* name in the Leases: the pod's */
    struct metrics metrics;
    int64_t deadline_ns;
};

int scaler_init(struct scaler *s, const struct options *o, const struct config *c) WARN_UNUSED;
void scaler_deinit(struct scaler *s);

/* One target in one run. */
struct job {
    const struct target *target;
    struct seat *seat;
    struct memory memory;
    struct kube_target deployment;
    struct kube_pods pods;
    struct load_lists lists;
    struct load load;
    struct measured measured;
    struct decide_state before; /* of the memory */
    struct decision decision;
    char *lease_state; /* text as it was read */
    bool read, loaded, decided, wrote, not_leader;
    int64_t plan_cap;
    bool plans_failed;
    const int *steps;  /* of priority; borrowed */
    int code;          /* worst exit code so far */
    const char *where; /* of the error: redis, lease, deployment, pods, scale, ... */
    struct err e;
    struct buf notes; /* JSON texts, separated by ", " */
    int64_t started_ns;
};

void job_note(struct job *j, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Keeps the first error and the worst exit code. */
void job_fail(struct job *j, const char *where, int code, struct err *e);
int exit_of_kube(int r);
int exit_of_redis(int r, const struct err *e);

/* Runs once over all targets; the exit code. Leases are given up, but by --loop. */
int scaler_run(struct scaler *s);

/* The end of --loop: what is held is given up, memory untouched. */
void scaler_give_up(struct scaler *s);

/* 0, or an exit code with the text: a connection to the API server. */
int scaler_open_kube(struct scaler *s, size_t i, struct err *e);

/* Changes the scale as decided. */
void job_act(struct scaler *s, struct job *j, struct redis_sync *redis, struct beats *beats);

/* One JSON line. */
void job_write_line(struct buf *dst, const struct scaler *s, const struct job *j);
/* The decision rule by rule, for people. */
void job_write_explanation(struct buf *dst, const struct scaler *s, const struct job *j);

/* --check: prints one line for each thing; the exit code. */
int scaler_check(struct scaler *s, FILE *out);
