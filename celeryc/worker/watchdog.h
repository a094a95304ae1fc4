/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Finds a worker that has gone deaf: work waits in Redis, the worker could take it, and nothing comes. */

#include "celeryc/base/buf.h"
#include "celeryc/redis/endpoint.h"

#include <uv.h>

struct watchdog;

struct watchdog_options {
    const struct redis_endpoint *endpoint;
    int64_t timeout_ms;
    /* Could a message be taken and run this moment? Not when busy, draining or starting. */
    bool (*hungry)(void *arg);
    /* Appends one list key a call, from *at = 0 on; false: there are no more. */
    bool (*next_key)(struct buf *dst, size_t *at, void *arg);
    /* n_waiting messages were there at each of the last looks, over timeout_ms. Called once. */
    void (*on_deaf)(int64_t n_waiting, void *arg);
    void *arg;
};

/* o is copied, what it points to is borrowed. NULL: out of memory. */
struct watchdog *watchdog_new(uv_loop_t *loop, const struct watchdog_options *o);
/* Ends at once. The memory goes from the loop. Takes NULL. */
struct watchdog *watchdog_free(struct watchdog *d);

/* A sign of life: a message was claimed, or the connection was tried, lost or made. */
void watchdog_pat(struct watchdog *d);
