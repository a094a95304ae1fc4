/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Stands between a client and a server on Unix sockets and can lose an answer exactly: the request that holds a given
 * text reaches the server, and the connection is cut when the server answers it. */

#include "celeryc/redis/endpoint.h"

#include <uv.h>

struct proxy;

struct proxy *proxy_new(uv_loop_t *loop, const char *server_path);
const struct redis_endpoint *proxy_endpoint(const struct proxy *p);
void proxy_swallow(struct proxy *p, const char *text); /* once */
size_t proxy_swallowed(const struct proxy *p);
void proxy_free(struct proxy *p); /* the client side is cut; the memory goes from the loop */
