/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Asks Redis Sentinels where a master is. Private to the folder. */

#include "celeryc/redis/endpoint.h"

#include <uv.h>

struct sentinel;

/* All come from the loop, except that on_failed may come from inside sentinel_ask when memory is out. */
struct sentinel_callbacks {
    void (*on_found)(const char *host, int port, void *arg);
    void (*on_failed)(const char *reason, void *arg); /* every Sentinel was asked */
    void (*on_moved)(const char *host, int port, void *arg);
};

/* ep names the Sentinels and the master and is borrowed, as is cb. NULL: out of memory. */
struct sentinel *sentinel_new(uv_loop_t *loop, const struct redis_endpoint *ep,
                              const struct sentinel_callbacks *cb, void *arg);
/* Ends at once, also inside a callback; the memory goes from the loop. Takes and returns NULL. */
struct sentinel *sentinel_free(struct sentinel *s);

/* One on_found or on_failed follows. */
void sentinel_ask(struct sentinel *s);
/* From now on on_moved tells when the Sentinels name another master than this one. */
void sentinel_watch(struct sentinel *s, const char *host, int port);
/* Neither asked nor watched any more, until the next call. */
void sentinel_rest(struct sentinel *s);
/* What it said was wrong: another one is asked the next time. */
void sentinel_distrust(struct sentinel *s);
