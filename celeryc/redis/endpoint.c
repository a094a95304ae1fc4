/* SPDX-License-Identifier: Apache-2.0 */
/* kombu's URL forms for Redis, parsed once.
 *
 * The path of redis:// is the database number after one or more slashes ("", "/", "//5" and "/5" are 0, 0, 5, 5); the
 * path of redis+socket:// is the socket, its database the query key virtual_host. Query keys that kombu does not know
 * are refused, as it refuses them: an option that is silently ignored is worse than an error. Texts never show the
 * password. */
#include "celeryc/redis/endpoint.h"

#include <errno.h>
#include <string.h>

#include "celeryc/base/buf.h"
#include "celeryc/base/num.h"
#include "celeryc/base/url.h"

#define REDIS_PORT   6379
#define MAX_DATABASE 1000000

static int refuse_scheme(const char *scheme, const char *masked, struct err *e)
{
    if (str_eq(scheme, "rediss"))
        return err_set(e, -EINVAL,
                       "%s: TLS (rediss://) is not supported yet; use redis:// or redis+socket://",
                       masked);
    if (str_eq(scheme, "sentinel"))
        return err_set(e, -EINVAL,
                       "%s: Sentinel is not supported yet; give the master's redis:// URL", masked);
    return err_set(e, -EINVAL,
                   "%s: celeryc speaks only Redis; use redis://host:6379/0 or "
                   "redis+socket:///path/to/redis.sock",
                   masked);
}

static int parse_db(const char *text, const char *masked, int *ret_db, struct err *e)
{
    uint32_t db = 0;
    if (*text && (num_parse_u32(slice_str(text), &db) || db > MAX_DATABASE))
        return err_set(e, -EINVAL, "%s: database must be a number, as in redis://host:6379/0",
                       masked);
    *ret_db = (int)db;
    return 0;
}

/* Only `allowed` may stand in the query; allowed NULL: nothing. */
static int check_query(const struct url *u, const char *allowed, const char *masked, struct err *e)
{
    const char *p = u->query;
    while (p && *p) {
        size_t len = strcspn(p, "&");
        size_t key = strcspn(p, "=&");
        if (key && strncmp(p, "ssl_", 4) == 0)
            return err_set(e, -EINVAL, "%s: TLS options (ssl_*) are not supported yet", masked);
        if (key && !(allowed && key == strlen(allowed) && strncmp(p, allowed, key) == 0))
            return err_set(e, -EINVAL,
                           "%s: unknown option \"%.*s\" in the URL; transport options belong in "
                           "broker_transport_options",
                           masked, (int)MIN(key, (size_t)64), p);
        p += len;
        if (*p)
            p++;
    }
    return 0;
}

static int parse_socket(struct url *u, const char *masked, struct redis_endpoint *ep, struct err *e)
{
    if (!u->path || u->path[0] != '/' || u->path[1] == '\0')
        return err_set(e, -EINVAL,
                       "%s: the path of the socket is missing; write redis+socket:///path", masked);
    if (u->host && *u->host)
        return err_set(e, -EINVAL, "%s: three slashes come before the path of a socket", masked);
    if (strlen(u->path) > 107)
        return err_set(e, -EINVAL, "%s: the path of the socket is longer than 107 bytes", masked);
    int r = check_query(u, "virtual_host", masked, e);
    if (r)
        return r;
    CLEANUP(mem_free) char *db = url_query(u, "virtual_host");
    r = parse_db(db ? db + strspn(db, "/") : "", masked, &ep->db, e);
    if (r)
        return r;
    ep->path = STEAL(u->path);
    return 0;
}

/* redis://user:**@host:port/vhost, as kombu's Connection.as_uri shows it; the default vhost shows as "/". */
static char *kombu_uri(const struct url *u, const char *host, int port)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    buf_append_str(&b, "redis://");
    if (u->user && *u->user)
        buf_append_str(&b, u->user);
    if (u->password && *u->password)
        buf_append_str(&b, ":**");
    if ((u->user && *u->user) || (u->password && *u->password))
        buf_append_char(&b, '@');
    for (const char *p = host; *p; p++) {
        if (*p == ':')
            buf_append_str(&b, "%3A");
        else
            buf_append_char(&b, *p);
    }
    const char *path = u->path && *u->path ? u->path + 1 : "";
    buf_appendf(&b, ":%d/%s", port, *path ? path : "/");
    return buf_take(&b);
}

static int parse_tcp(struct url *u, const char *masked, struct redis_endpoint *ep, struct err *e)
{
    const char *path = u->path ? u->path : "";
    int r = parse_db(path + strspn(path, "/"), masked, &ep->db, e);
    if (!r)
        r = check_query(u, NULL, masked, e);
    if (r)
        return r;
    ep->port = u->port ? u->port : REDIS_PORT;
    bool default_host = !u->host || !*u->host;
    char *shown = kombu_uri(u, default_host ? "localhost" : u->host, ep->port);
    if (!shown)
        return -ENOMEM;
    free(ep->masked);
    ep->masked = shown;
    ep->host = default_host ? slice_dup(SLICE_LIT("127.0.0.1")) : STEAL(u->host);
    return ep->host ? 0 : -ENOMEM;
}

int redis_endpoint_parse(const char *url, struct redis_endpoint *ret_ep, struct err *e)
{
    CLEANUP(redis_endpoint_deinit) struct redis_endpoint ep = {0};
    CLEANUP(url_deinit) struct url u = {0};

    ep.text = slice_dup(slice_str(url));
    ep.masked = url_masked(url);
    if (!ep.text || !ep.masked)
        return -ENOMEM;
    if (strchr(url, ';'))
        return err_set(e, -EINVAL, "%s: a list of servers is not supported yet; give one URL",
                       ep.masked);
    struct err why = ERR_INIT;
    int r = url_parse(url, &u, &why);
    if (r == -ENOMEM)
        return r;
    if (r)
        return err_set(e, r, "%s: %s; write redis://host:6379/0", ep.masked, err_text(&why, r));
    if (str_eq(u.scheme, "redis"))
        r = parse_tcp(&u, ep.masked, &ep, e);
    else if (str_eq(u.scheme, "redis+socket") || str_eq(u.scheme, "socket"))
        r = parse_socket(&u, ep.masked, &ep, e);
    else
        r = refuse_scheme(u.scheme, ep.masked, e);
    if (r)
        return r;
    if (u.user && *u.user)
        ep.user = STEAL(u.user);
    if (u.password && *u.password)
        ep.password = STEAL(u.password);
    *ret_ep = ep;
    ep = (struct redis_endpoint){0};
    return 0;
}

void redis_endpoint_deinit(struct redis_endpoint *ep)
{
    free(ep->text);
    free(ep->masked);
    free(ep->host);
    free(ep->path);
    free(ep->user);
    free(ep->password);
    *ep = (struct redis_endpoint){0};
}

bool redis_endpoint_same(const struct redis_endpoint *a, const struct redis_endpoint *b)
{
    return a->db == b->db && a->port == b->port && str_eq(a->host, b->host) &&
           str_eq(a->path, b->path);
}
