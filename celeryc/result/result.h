/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Result keys and the backend connection when it is not the broker's. */

#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"
#include "celeryc/redis/conn.h"
#include "celeryc/redis/endpoint.h"
#include "celeryc/redis/sync.h"
#include "celeryc/result/effects.h"

#include <uv.h>

/* [prefix]celery-task-meta-<id>; '_' goes between unless the prefix ends in : _ - or . (C:backends/base.py 981-994).
 * Appended to dst. */
void result_key(struct buf *dst, const char *key_prefix, struct slice task_id);
/* The same with celery-taskset-meta-<id>, the base of a chord's keys. */
void result_group_key(struct buf *dst, const char *key_prefix, struct slice group_id);
/* [prefix]celeryc:fire */
void result_fire_key(struct buf *dst, const char *key_prefix);

/* A backend of its own (another server or database than the broker's). */
struct result_backend;
struct result_backend *result_backend_new(uv_loop_t *loop, const struct redis_endpoint *ep);
struct result_backend *result_backend_free(struct result_backend *b);

enum result_done {
    RESULT_DONE,
    RESULT_LOST, /* begin_fire: the chord is not ours */
    RESULT_CLAIMED, /* done, and a part completed its chord: it is ours to fire, under the effects' token */
};

/* From the loop; never when memory is out or the backend is freed before. */
typedef void (*result_done_fn)(enum result_done done, void *arg);

/* Stores and publishes the record (may be NULL) unless SUCCESS is there, then applies the effects (may be NULL).
 * Retried over reconnects until it is done, in order; adds need a nonce for that. fn may be NULL. */
void result_backend_apply(struct result_backend *b, const struct result_record *record,
                          const struct result_effects *x, result_done_fn fn, void *arg);

/* The first step of firing a chord: if it is still the token's, its claim lives life_s from now and the effects are
 * applied. Then its messages are published on the broker, then chord_settle cleans up. */
void result_backend_begin_fire(struct result_backend *b, struct slice key, const char *token,
                               int64_t life_s, const struct result_effects *x, result_done_fn fn,
                               void *arg);

/* One of the scripts of chord.h, now; reply NULL: not connected, or lost. */
void result_backend_eval(struct result_backend *b, const struct redis_script *s, redis_reply_fn fn,
                         void *arg, size_t n, const struct slice *argv);

/* A client's wait (wire-messages 3.10): SUBSCRIBE, then GET, then messages until a READY state.
 * timeout_ms < 0: for ever. 0 with the record's text (freed by the caller); -ETIMEDOUT; -EIO. */
int result_wait(struct redis_sync *s, const char *key_prefix, const char *task_id,
                int64_t timeout_ms, char **ret_record, struct err *e) WARN_UNUSED;
/* The record now; *ret_record NULL when there is none. */
int result_get(struct redis_sync *s, const char *key_prefix, const char *task_id, char **ret_record,
               struct err *e) WARN_UNUSED;
