/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* How long the broker has been away, counted in Celery's tries. */

#include <stdbool.h>
#include <stdint.h>

struct outage {
    int64_t since_ms; /* of the first failure; -1: the broker is there */
    unsigned tries;
};

#define OUTAGE_NONE     \
    (struct outage)     \
    {                   \
        .since_ms = -1, \
    }

/* A failure at now_ms. True when it is one that Celery would have had, too: time for a line in the log. */
bool outage_count(struct outage *o, int64_t now_ms);
