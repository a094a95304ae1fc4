/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* A second message for clients that began to wait at the very moment a result was stored.
 *
 * Python's .get() sends SUBSCRIBE on one connection and GET on another without waiting for the first answer. Redis may
 * serve the GET first; a result that is stored in between is then missed by both, and the client waits for ever. It is
 * seen in one of a few thousand chains and chords once a worker is fast enough. So the keys of stored results are
 * remembered for a moment, and those that have a subscriber by then are published again. Clients take a result once, so
 * a message too many is harmless. */

#include "celeryc/redis/conn.h"

#include <uv.h>

struct result_late;

/* conn: where the results are; outlives the return value. NULL: out of memory. */
struct result_late *result_late_new(uv_loop_t *loop, struct redis_conn *conn);
struct result_late *
result_late_free(struct result_late *l); /* ended by the loop: run it once more */

/* The record under this key has been stored and published. */
void result_late_note(struct result_late *l, struct slice key);

extern const struct redis_script result_late_script; /* to be among the connection's scripts */
