/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Messages of batches, and the sweep that sends again what no message carries. */

#include "celeryc/db/db.h"
#include "celeryc/redis/sync.h"

/* Queues the command that pushes a batch's message to a list; redis_sync_flush sends it. 0, -ENOMEM. */
int migrate_queue_message(struct redis_sync *redis, const char *queue, const char *list,
                          const struct db_plan *p, const struct db_batch_row *b) WARN_UNUSED;

#define SWEEP_LEASE_MS 60000 /* of workers that say nothing else */

struct sweep_options {
    struct db *db;
    struct redis_sync *redis;
    const char *key_prefix;                      /* global_keyprefix; "" */
    const char *unacked_key, *unacked_index_key; /* NULL: kombu's */
    const char *plan;                            /* NULL: every plan */
    int64_t after_ms; /* a message that was sent so long ago, and that nobody has, counts as lost */
    /* Claims say nothing: who has the message may be parking it just now. */
    bool resumed;
    int64_t
        lease_ms; /* a claim of a message in `unacked` that is older counts as a dead worker's */
};

struct sweep_result {
    size_t looked_at, sent;
};

/* Tidies the control tables, then sends the messages of open batches that nobody works on and that no message carries. Sending
 * one too many is harmless. 0; -EIO and a text; DB_E_*. */
int migrate_sweep(const struct sweep_options *o, struct sweep_result *ret_r,
                  struct err *e) WARN_UNUSED;
