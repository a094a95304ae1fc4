/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The way back of a record in `unacked`. */

#include "celeryc/base/arena.h"
#include "celeryc/redis/conn.h"

#define ROUTE_LISTS 64

/* How the names of lists are made. */
struct route_keys {
    const char *prefix, *sep;
    const int *steps;
    size_t n_steps;
};

struct route {
    struct slice raw; /* the message, marked as redelivered */
    const char *lists[ROUTE_LISTS];
    size_t n; /* at least one */
};

/* members: those of the binding set of its exchange, an empty array for the anonymous one. Everything lives in the arena.
 * 0, -ENOMEM, -EINVAL no record, or it names no queue. */
int route_record(struct arena *a, const struct route_keys *k, struct slice value,
                 const struct redis_reply *members, struct route *ret_route) WARN_UNUSED;

/* kombu's list of a queue and priority. Freed by the caller; NULL: out of memory. */
char *route_list_key(const char *prefix, const char *queue, int priority, const char *sep,
                     const int *steps, size_t n_steps);
