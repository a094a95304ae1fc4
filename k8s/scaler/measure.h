/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* From what Redis, the workers and Kubernetes said to the numbers that the decision looks at. No I/O. */

#include "k8s/scaler/config.h"
#include "k8s/scaler/memory.h"

#define POD_CLASSES(X)                                   \
    X(ENDED, "ended") /* runs nothing, is not counted */ \
    X(TERMINATING, "terminating")                        \
    X(STARTING, "starting")                              \
    X(BUSY, "busy")                                      \
    X(IDLE, "idle")                                      \
    X(UNKNOWN, "unknown") /* should be heard, is not: counts as busy */

#define POD_CLASS_ENUM(name, text) POD_##name,

enum pod_class { POD_CLASSES(POD_CLASS_ENUM) POD_N_CLASSES };

const char *pod_class_text(enum pod_class c);

/* All that one run knows of one target. */
struct view {
    const struct target *target;
    const struct kube_target *kube;
    const struct kube_pods *pods;
    const struct load *load;   /* NULL: could not be read */
    const struct beats *beats; /* NULL likewise */
    int64_t now;               /* seconds, the API server's clock */
    int64_t plan_cap;          /* < 0: nothing known */
};

struct measured {
    struct decide_sample sample;
    enum pod_class *classes; /* of each pod */
    int64_t n[POD_N_CLASSES];
    int64_t missing;            /* asked for, but not there yet; they count as starting */
    size_t nodes;               /* workers whose heartbeats came from these pods */
    const char *bad_annotation; /* its value makes no sense: taken for a pause */
};

void measured_deinit(struct measured *m);
DEFINE_CLEANUP_VALUE(struct measured, measured_deinit)

/* Brings the memory up to date as well. 0, -ENOMEM. */
int measure(const struct view *v, struct memory *memory, struct measured *ret_m) WARN_UNUSED;
