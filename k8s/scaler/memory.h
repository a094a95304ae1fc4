/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What is remembered between two runs, and its text in the Lease.
 *
 * MEMORY_VERSION stands in the text as "v". A scaler reads its own version and treats every other as no memory: the
 * first run never goes down, so that nothing is lost but a little time. Members may be added without a new version as
 * long as an older scaler may forget them. */

#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"
#include "k8s/scaler/decide.h"

#include <stdbool.h>

#define MEMORY_VERSION 1

struct memory_node {
    char *name; /* node name of a worker, "celery@pod" */
    int64_t processed;
};

struct memory {
    struct decide_state d;
    struct memory_node *nodes;
    size_t n_nodes;
    double rate;         /* tasks a second of one pod, smoothed; 0: not known */
    int64_t sampled_at;  /* the last run that could read everything; DECIDE_NEVER */
    int64_t outstanding; /* messages and running tasks that it saw */
    char run_id[48];     /* of the Redis that it saw, "" */
    int64_t emptied_at;  /* when Redis was last seen to be another one, or emptied */
};

void memory_init(struct memory *m);
void memory_deinit(struct memory *m);
DEFINE_CLEANUP_VALUE(struct memory, memory_deinit)

int memory_add_node(struct memory *m, struct slice name, int64_t processed) WARN_UNUSED;
const struct memory_node *memory_find_node(const struct memory *m, const char *name);

/* text.p NULL: no memory. 0; -EINVAL with the defect, ret_m as for no memory; -ENOMEM. */
int memory_parse(struct slice text, struct memory *ret_m, struct err *e) WARN_UNUSED;
void memory_write(struct buf *dst, const struct memory *m);
