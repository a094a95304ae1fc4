/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Where a Redis server is: the URL forms of kombu (wire-transport 1.1), parsed once. */

#include "celeryc/base/err.h"

struct redis_endpoint {
    char *text;   /* the URL as given */
    char *masked; /* for people: password as "**", kombu's form (redis://localhost:6379//) */
    char *host;   /* NULL for a Unix socket */
    int port;
    char *path;     /* Unix socket, NULL for TCP */
    char *user;     /* NULL */
    char *password; /* NULL */
    int db;
};

/* redis://[user[:pw]@]host[:port][/db] and redis+socket:///path[?virtual_host=db] (also socket://, as result
 * backends are written). rediss:// and sentinel:// and failover lists are refused by name until they are built;
 * other schemes (amqp, rpc, db+...) are refused with the sentence that only Redis is spoken.
 * 0, -EINVAL with a text that names the URL masked and the fix, -ENOMEM. */
int redis_endpoint_parse(const char *url, struct redis_endpoint *ret_ep, struct err *e) WARN_UNUSED;
void redis_endpoint_deinit(struct redis_endpoint *ep);
DEFINE_CLEANUP_VALUE(struct redis_endpoint, redis_endpoint_deinit)

/* Same server and database: one script may do the work of both. */
bool redis_endpoint_same(const struct redis_endpoint *a, const struct redis_endpoint *b);
