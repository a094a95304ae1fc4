/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Result keys and the backend connection when it is not the broker's. */

#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"
#include "celeryc/redis/endpoint.h"
#include "celeryc/redis/sync.h"

#include <uv.h>

/* [prefix]celery-task-meta-<id>; '_' goes between unless the prefix ends in : _ - or . (C:backends/base.py 981-994).
 * Appended to dst. */
void result_key(struct buf *dst, const char *key_prefix, struct slice task_id);

/* A backend of its own (another server or database than the broker's). */
struct result_backend;
struct result_backend *result_backend_new(uv_loop_t *loop, const struct redis_endpoint *ep);
struct result_backend *result_backend_free(struct result_backend *b);
/* SETEX (or SET when ttl_s is 0) and PUBLISH unless SUCCESS is stored; retried over reconnects until it is done, in
 * order. fn (may be NULL) comes from the loop when it is; never when memory is out or the backend is freed before. */
void result_backend_store(struct result_backend *b, struct slice key, struct slice value,
                          int64_t ttl_s, void (*fn)(void *arg), void *arg);

/* A client's wait (wire-messages 3.10): SUBSCRIBE, then GET, then messages until a READY state.
 * timeout_ms < 0: for ever. 0 with the record's text (freed by the caller); -ETIMEDOUT; -EIO. */
int result_wait(struct redis_sync *s, const char *key_prefix, const char *task_id,
                int64_t timeout_ms, char **ret_record, struct err *e) WARN_UNUSED;
/* The record now; *ret_record NULL when there is none. */
int result_get(struct redis_sync *s, const char *key_prefix, const char *task_id, char **ret_record,
               struct err *e) WARN_UNUSED;
