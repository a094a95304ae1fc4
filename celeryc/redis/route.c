/* SPDX-License-Identifier: Apache-2.0 */
/* Which server a connection goes to.
 *
 * A list is tried in its order, starting where the last connection was, without a pause until all have failed (kombu's
 * round-robin); with "shuffle" each next one is drawn. The master of Sentinel has its address from sentinel.c. A
 * follower goes where its leader is. */
#include <errno.h>
#include <string.h>

#include "celeryc/base/codec.h"
#include "celeryc/redis/conn_priv.h"

static const struct redis_endpoint *nth(const struct redis_endpoint *ep, size_t n)
{
    while (n--)
        ep = ep->next;
    return ep;
}

static size_t draw(const struct route *r)
{
    uint32_t v = 0;
    random_bytes(&v, sizeof(v));
    return v % r->n;
}

void route_init(struct route *r, const struct redis_endpoint *ep)
{
    *r = (struct route){.head = ep, .at = ep, .n = 1};
    for (const struct redis_endpoint *s = ep->next; s; s = s->next)
        r->n++;
    if (ep->o.shuffle == REDIS_YES)
        r->at = nth(ep, draw(r));
    route_aim(r);
}

void route_aim(struct route *r)
{
    r->target = *r->at;
    /* The first one's text names the whole list. */
    const char *end = r->n > 1 && r->at == r->head ? strchr(r->at->masked, ';') : NULL;
    int len = end ? (int)(end - r->at->masked) : (int)strlen(r->at->masked);
    (void)snprintf(r->shown, sizeof(r->shown), "%.*s", len, r->at->masked);
}

int route_aim_at(struct route *r, const char *host, int port)
{
    if (strlen(host) >= sizeof(r->host))
        return -EINVAL;
    memcpy(r->host, host, strlen(host) + 1);
    r->target = *r->at;
    r->target.host = r->host;
    r->target.port = port;
    (void)snprintf(r->shown, sizeof(r->shown), "%s://%s:%d/%d",
                   r->at->o.tls.on == REDIS_YES ? "rediss" : "redis", host, port, r->at->db);
    return 0;
}

void route_follow(struct route *r, const struct route *leader)
{
    r->target = leader->target;
    if (leader->target.host == leader->host) {
        memcpy(r->host, leader->host, sizeof(r->host));
        r->target.host = r->host;
    }
    memcpy(r->shown, leader->shown, sizeof(r->shown));
}

bool route_next(struct route *r)
{
    if (r->n > 1 && r->head->o.shuffle == REDIS_YES)
        r->at = nth(r->head, draw(r));
    else
        r->at = r->at->next ? r->at->next : r->head;
    if (++r->n_failed < r->n)
        return false;
    r->n_failed = 0;
    return true;
}

bool route_has_choice(const struct route *r)
{
    return r->head->sentinels || (r->n > 1 && !r->head->is_sentinel);
}
