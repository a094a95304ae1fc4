/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* A stream socket to an endpoint: resolve, connect, read, write. Private to the folder. */

#include "celeryc/base/buf.h"
#include "celeryc/redis/endpoint.h"

#include <uv.h>

struct socket;

/* All come from the loop, except that none comes from inside socket_open. */
struct socket_callbacks {
    void (*on_connected)(void *arg);
    void (*on_read)(void *arg, const char *data, size_t len);
    void (*on_lost)(void *arg, const char *reason); /* also when connecting failed */
};

/* NULL when out of memory. cb and ep are borrowed for the life of the socket. */
struct socket *socket_open(uv_loop_t *loop, const struct redis_endpoint *ep,
                           const struct socket_callbacks *cb, void *arg);

/* No callback comes after this returns; the memory goes from the loop. NULL is taken. Returns NULL. */
struct socket *socket_abandon(struct socket *s);

/* The server has taken the connection and not yet agreed on TLS. */
bool socket_in_handshake(const struct socket *s);

/* Sends all of b and leaves it empty. 0 or -ENOMEM. Errors of the socket come by on_lost. */
int socket_write(struct socket *s, struct buf *b) WARN_UNUSED;
