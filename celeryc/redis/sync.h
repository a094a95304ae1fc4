/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* A blocking client for command-line programs (celeryc call, scatter-plan): the same connection on a private loop. */

#include "celeryc/redis/conn.h"

struct redis_sync;

/* Ignores SIGPIPE from now on. Connects within timeout_ms; ep is borrowed until the close. A refusal is told at once. 0; -EIO/-ETIMEDOUT with a text naming the masked URL and the cause; -ENOMEM. */
int redis_sync_open(const struct redis_endpoint *ep, int64_t timeout_ms, struct redis_sync **ret_s,
                    struct err *e) WARN_UNUSED;
struct redis_sync *redis_sync_close(struct redis_sync *s);
DEFINE_CLEANUP(struct redis_sync, redis_sync_close)

/* One command and its answer, which is valid until the next call on s. An error reply is -EPROTO with its text. */
int redis_sync_command(struct redis_sync *s, size_t n, const struct slice *argv,
                       const struct redis_reply **ret_reply, struct err *e) WARN_UNUSED;
int redis_sync_eval(struct redis_sync *s, const struct redis_script *script, size_t n,
                    const struct slice *argv, const struct redis_reply **ret_reply,
                    struct err *e) WARN_UNUSED;

/* Pipelined: queue many, then wait for all. The first error reply is reported. */
void redis_sync_queue(struct redis_sync *s, size_t n, const struct slice *argv);
int redis_sync_flush(struct redis_sync *s, struct err *e) WARN_UNUSED;

/* Waits for one pub/sub push; -ETIMEDOUT, -EIO. timeout_ms < 0: for ever. SUBSCRIBE and its relatives (one channel
 * each) are given to redis_sync_command, which sends them over a second connection, so that other commands still work.
 * The push is valid until the next call of this function. */
int redis_sync_push(struct redis_sync *s, int64_t timeout_ms, const struct redis_reply **ret_reply,
                    struct err *e) WARN_UNUSED;

/* SUBSCRIBE or UNSUBSCRIBE (word) for many channels, in one go. 0, -EIO, -ETIMEDOUT, -EPROTO. */
int redis_sync_subscribe(struct redis_sync *s, const char *word, size_t n,
                         const struct slice *channels, struct err *e) WARN_UNUSED;
