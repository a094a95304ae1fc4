/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* A program's client among its files. */

#include "celeryc/base/arena.h"
#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"
#include "celeryc/message/wire.h"
#include "celeryc/redis/endpoint.h"
#include "celeryc/redis/sync.h"
#include "celeryc/worker/settings.h"

#include <celeryc/client.h>

struct celeryc_client {
    struct settings settings;
    struct redis_endpoint broker, backend;
    struct wire *wire; /* how messages are written */
    bool has_backend, same_backend;
    bool broken; /* URL or settings are wrong: error says how, for good */
    struct redis_sync *to_broker, *to_backend;
    struct err error;
};

/* Tries of one operation over lost connections: none is given up before RETRY_MS have passed without an answer. */
struct attempts {
    int64_t began_ns, deadline_ns; /* deadline 0: none but RETRY_MS */
};

struct attempts client_attempts(int64_t deadline_ns);
/* After -EIO or -ETIMEDOUT of a connection: waits a little. False: that was enough, or s is NULL, for there has never
 * been one. */
bool client_again(const struct attempts *a, const struct redis_sync *s, int code);

/* The connection to the result backend, made when there is none. 0; -EINVAL there is no backend; -EIO, -ETIMEDOUT. */
int client_backend(struct celeryc_client *c, struct redis_sync **ret_s, struct err *e) WARN_UNUSED;
const struct redis_sync *client_backend_now(const struct celeryc_client *c);
const char *client_result_prefix(const struct celeryc_client *c);
/* Remembers what went wrong; gives code. */
int client_fail(struct celeryc_client *c, int code, struct err *e);

/* The result of what was applied: its tuple. NULL: out of memory. */
struct celeryc_result *client_result_new(struct celeryc_client *c, struct slice tuple);
/* "Dependency <id> raised ValueError('x')" for a result that has failed. */
void client_write_failure(struct buf *dst, const struct celeryc_result *r);
