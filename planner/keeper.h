/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What a worker's keeper does every second: it asks to be governor, and is it when it was elected. */

#include "planner/governor.h"
#include "planner/plan.h"

#define KEEPER_HISTORY 600

struct keeper {
    const struct args *args;
    char name[80];
    struct servers servers; /* open while this one governs or may be elected */
    struct governor governor;
    char *limits; /* as they were read last */

    struct {
        double wal_bytes;
        int64_t at_ns;
    } history
        [KEEPER_HISTORY]; /* when which WAL was written: how old is what a replica has not replayed? */

    size_t n_history;
    double last_wal;
    int64_t last_ns;
};

void keeper_init(struct keeper *k, const struct args *a);
void keeper_deinit(struct keeper *k);
/* One step; *ret_needed: there are limits, so that it should be asked again in a second. */
int keeper_step(struct keeper *k, bool *ret_needed, struct err *e) WARN_UNUSED;
/* The limits from their JSON. */
int governor_limits_parse(const char *text, struct governor_limits *ret_l,
                          struct err *e) WARN_UNUSED;
