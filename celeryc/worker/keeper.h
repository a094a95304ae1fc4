/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The processes beside the pool that look after the target databases: `scatter-plan sweep --every`, one for each. */

#include "celeryc/base/strv.h"
#include "celeryc/redis/endpoint.h"

#include <uv.h>

struct keepers;

struct keeper_options {
    const struct strv
        *databases; /* "alias=URL"; SCATTER_DATABASE and SCATTER_DATABASE_<ALIAS> come on top */
    const char *broker, *key_prefix;     /* borrowed for the call */
    const struct redis_options *options; /* what the settings say beside the URL */
};

/* Starts one for each database that this worker knows. SCATTER_SWEEP says how often they sweep, 0: never. What cannot be
 * started is logged: a worker without them works, but nobody finds its lost messages. *ret_k is set whatever comes back. */
int keepers_start(uv_loop_t *loop, const struct keeper_options *o, struct keepers **ret_k)
    __attribute__((warn_unused_result));
/* Asks them to end; their handles are the loop's to close. Takes NULL. */
void keepers_stop(struct keepers *all);
/* After the loop has closed the handles. */
struct keepers *keepers_free(struct keepers *all);
