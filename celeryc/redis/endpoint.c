/* SPDX-License-Identifier: Apache-2.0 */
/* kombu's URL forms for Redis, parsed once.
 *
 * The path of redis:// is the database number after one or more slashes ("", "/", "//5" and "/5" are 0, 0, 5, 5); the
 * path of redis+socket:// is the socket, its database the query key virtual_host. A list has its servers between ';', as
 * kombu splits it, so a ';' in a password is written %3B. Of a list of Sentinels the first URL names the user, password
 * and database of the master. Query keys that nobody knows are refused, as kombu refuses them: an option that is
 * silently ignored is worse than an error. Texts never show the password. */
#include "celeryc/redis/endpoint.h"

#include <errno.h>
#include <string.h>

#include "celeryc/base/buf.h"
#include "celeryc/base/limits.h"
#include "celeryc/base/num.h"
#include "celeryc/base/url.h"
#include "celeryc/redis/options_priv.h"

#define REDIS_PORT    6379
#define SENTINEL_PORT 26379
#define MAX_DATABASE  1000000
#define MAX_KEY       64

static int parse_db(const char *text, const char *masked, int *ret_db, struct err *e)
{
    uint32_t db = 0;
    if (*text && (num_parse_u32(slice_str(text), &db) || db > MAX_DATABASE))
        return err_set(e, -EINVAL, "%s: database must be a number, as in redis://host:6379/0",
                       masked);
    *ret_db = (int)db;
    return 0;
}

static int set_option(const struct url *u, const char *key, const char *masked,
                      struct redis_endpoint *ep, struct err *e)
{
    bool plain = !strpbrk(key, "%+") && strlen(key) < MAX_KEY; /* as every option's name is */
    CLEANUP(mem_free) char *value = plain ? url_query(u, key) : NULL;
    if (plain && !value)
        return -ENOMEM;
    bool tls = str_eq(u->scheme, "rediss") || str_eq(u->scheme, "sentinel");
    if (strncmp(key, "ssl", 3) == 0 && !tls)
        return err_set(e, -EINVAL, "%s: TLS options (%s) need rediss:// in front", masked, key);
    struct err why = ERR_INIT;
    int r = plain ? redis_options_set(&ep->o, key, value, &why) : -ENOENT;
    if (r == -ENOENT)
        return err_set(e, -EINVAL,
                       "%s: unknown option \"%s\" in the URL; transport options belong in "
                       "broker_transport_options",
                       masked, key);
    return r ? err_set(e, r, "%s: %s", masked, err_text(&why, r)) : 0;
}

/* The query's options, but for `own`, which the caller reads (NULL: none). */
static int parse_query(const struct url *u, const char *own, const char *masked,
                       struct redis_endpoint *ep, struct err *e)
{
    const char *p = u->query;
    while (p && *p) {
        char key[MAX_KEY + 1] = "";
        size_t len = strcspn(p, "&");
        memcpy(key, p, MIN(strcspn(p, "=&"), (size_t)MAX_KEY));
        int r = *key && !(own && str_eq(key, own)) ? set_option(u, key, masked, ep, e) : 0;
        if (r)
            return r;
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
    int r = parse_query(u, "virtual_host", masked, ep, e);
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
    buf_appendf(&b, "%s://", u->scheme);
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

static int parse_tcp(struct url *u, const char *masked, int port, struct redis_endpoint *ep,
                     struct err *e)
{
    const char *path = u->path ? u->path : "";
    int r = parse_db(path + strspn(path, "/"), masked, &ep->db, e);
    if (!r)
        r = parse_query(u, NULL, masked, ep, e);
    if (r)
        return r;
    ep->port = u->port ? u->port : port;
    bool default_host = !u->host || !*u->host;
    char *shown = kombu_uri(u, default_host ? "localhost" : u->host, ep->port);
    if (!shown)
        return -ENOMEM;
    free(ep->masked);
    ep->masked = shown;
    ep->host = default_host ? slice_dup(SLICE_LIT("127.0.0.1")) : STEAL(u->host);
    return ep->host ? 0 : -ENOMEM;
}

static int parse_scheme(struct url *u, struct redis_endpoint *ep, struct err *e)
{
    if (str_eq(u->scheme, "redis"))
        return parse_tcp(u, ep->masked, REDIS_PORT, ep, e);
    if (str_eq(u->scheme, "redis+socket") || str_eq(u->scheme, "socket"))
        return parse_socket(u, ep->masked, ep, e);
    if (str_eq(u->scheme, "rediss")) {
        ep->o.tls.on = REDIS_YES;
        return parse_tcp(u, ep->masked, REDIS_PORT, ep, e);
    }
    if (str_eq(u->scheme, "sentinel")) {
        ep->is_sentinel = true;
        return parse_tcp(u, ep->masked, SENTINEL_PORT, ep, e);
    }
    return err_set(e, -EINVAL,
                   "%s: celeryc speaks only Redis; use redis://host:6379/0, rediss:// (TLS), "
                   "redis+socket:///path/to/redis.sock or sentinel://host:26379/0",
                   ep->masked);
}

static int parse_one(const char *url, struct redis_endpoint *ret_ep, struct err *e)
{
    CLEANUP(redis_endpoint_deinit) struct redis_endpoint ep = {0};
    CLEANUP(url_deinit) struct url u = {0};

    ep.text = slice_dup(slice_str(url));
    ep.masked = url_masked(url);
    if (!ep.text || !ep.masked)
        return -ENOMEM;
    struct err why = ERR_INIT;
    int r = url_parse(url, &u, &why);
    if (r == -ENOMEM)
        return r;
    if (r)
        return err_set(e, r, "%s: %s; write redis://host:6379/0", ep.masked, err_text(&why, r));
    r = parse_scheme(&u, &ep, e);
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

/* ---- lists ---- */

static struct redis_endpoint *endpoint_free(struct redis_endpoint *ep)
{
    if (!ep)
        return NULL;
    redis_endpoint_deinit(ep);
    free(ep);
    return NULL;
}

DEFINE_CLEANUP(struct redis_endpoint, endpoint_free)

/* One more at the end of the list that *at ends. */
static int append(const char *url, struct redis_endpoint ***at, struct err *e)
{
    CLEANUP(endpoint_free) struct redis_endpoint *ep = calloc(1, sizeof(*ep));
    if (!ep)
        return -ENOMEM;
    int r = parse_one(url, ep, e);
    if (r)
        return r;
    **at = ep;
    *at = &ep->next;
    ep = NULL;
    return 0;
}

static int parse_list(const char *text, struct redis_endpoint **ret_first, struct err *e)
{
    CLEANUP(endpoint_free) struct redis_endpoint *first = NULL;
    struct redis_endpoint **at = &first;
    size_t n = 0;
    for (const char *p = text;;) {
        size_t len = strcspn(p, ";");
        CLEANUP(mem_free) char *url = slice_dup((struct slice){p, len});
        if (!url)
            return -ENOMEM;
        /* "redis://a;" is one server; an empty text alone is an error that parse_one words. */
        int r = *url || !first ? append(url, &at, e) : 0;
        if (r)
            return r;
        if (++n > LIMIT_SERVERS)
            return err_set(e, -EINVAL, "a list of more than %d servers", LIMIT_SERVERS);
        if (!p[len])
            break;
        p += len + 1;
    }
    *ret_first = STEAL(first);
    return 0;
}

static char *join_masked(const struct redis_endpoint *first)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    for (const struct redis_endpoint *ep = first; ep; ep = ep->next)
        buf_appendf(&b, "%s%s", ep == first ? "" : ";", ep->masked);
    return buf_take(&b);
}

/* The list of Sentinels becomes one endpoint, the master, whose address they know. */
static int master_of(struct redis_endpoint **list_take, struct redis_endpoint *ret_ep)
{
    struct redis_endpoint *list = *list_take;
    char *masked = join_masked(list);
    if (!masked)
        return -ENOMEM;
    *ret_ep = (struct redis_endpoint){
        .masked = masked,
        .db = list->db,
        .user = STEAL(list->user),
        .password = STEAL(list->password),
        .o = list->o,
        .sentinels = list,
    };
    list->o = (struct redis_options){0};
    *list_take = NULL;
    int r = 0;
    for (struct redis_endpoint *s = list; s; s = s->next) {
        free(s->user);
        free(s->password);
        s->user = s->password = NULL;
        s->db = 0;
        if (r == 0) /* an option of the master may stand in any URL of the list */
            r = redis_options_merge(&ret_ep->o, &s->o);
        redis_options_deinit(&s->o);
    }
    return r;
}

static int check_list(const struct redis_endpoint *first, struct err *e)
{
    for (const struct redis_endpoint *ep = first; ep; ep = ep->next) {
        if (ep->is_sentinel != first->is_sentinel)
            return err_set(e, -EINVAL,
                           "%s: a list is either of servers or of Sentinels (sentinel://)",
                           ep->masked);
    }
    return 0;
}

int redis_endpoint_parse(const char *url, struct redis_endpoint *ret_ep, struct err *e)
{
    CLEANUP(endpoint_free) struct redis_endpoint *list = NULL;
    CLEANUP(redis_endpoint_deinit) struct redis_endpoint ep = {0};
    int r = parse_list(url, &list, e);
    if (r == 0)
        r = check_list(list, e);
    if (r)
        return r;
    if (list->is_sentinel) {
        r = master_of(&list, &ep);
        if (r)
            return r;
    } else {
        char *all = list->next ? join_masked(list) : STEAL(list->masked);
        if (!all)
            return -ENOMEM;
        free(list->masked);
        list->masked = all;
        ep = *list;
        *list = (struct redis_endpoint){0};
    }
    free(ep.text);
    ep.text = slice_dup(slice_str(url));
    if (!ep.text)
        return -ENOMEM;
    *ret_ep = ep;
    ep = (struct redis_endpoint){0};
    return 0;
}

/* ---- settings ---- */

static int apply_to_sentinels(struct redis_endpoint *ep, struct err *e)
{
    if (!ep->o.master_name)
        return err_set(e, -EINVAL,
                       "%s: which master? Set master_name in broker_transport_options (or "
                       "result_backend_transport_options), or write ?master_name=... into the URL",
                       ep->masked);
    for (struct redis_endpoint *s = ep->sentinels; s; s = s->next) {
        char *const text[] = {ep->o.sentinel_user, ep->o.sentinel_password};
        char **const at[] = {&s->user, &s->password};
        for (size_t i = 0; i < ARRAY_SIZE(at); i++) {
            char *copy = text[i] ? slice_dup(slice_str(text[i])) : NULL;
            if (text[i] && !copy)
                return -ENOMEM;
            free(*at[i]);
            *at[i] = copy;
        }
        int r = redis_tls_merge(&s->o.tls, &ep->o.sentinel_tls);
        if (r)
            return r;
        s->o.keepalive = ep->o.keepalive;
    }
    return 0;
}

static int check_tls(const struct redis_endpoint *ep, struct err *e)
{
    const struct redis_tls *t = &ep->o.tls;
    if (t->text[REDIS_TLS_KEYFILE] && !t->text[REDIS_TLS_CERTFILE])
        return err_set(e, -EINVAL, "%s: ssl_keyfile without ssl_certfile; give both", ep->masked);
    return 0;
}

int redis_endpoint_apply(struct redis_endpoint *ep, const struct redis_options *o, struct err *e)
{
    static const struct redis_options none;
    struct redis_endpoint *s = ep;
    do {
        int r = redis_options_merge(&s->o, o ? o : &none);
        if (r == 0)
            r = check_tls(s, e);
        if (r)
            return r;
        s = s->next;
    } while (s);
    return ep->sentinels ? apply_to_sentinels(ep, e) : 0;
}

void redis_endpoint_deinit(struct redis_endpoint *ep)
{
    for (struct redis_endpoint *next, *s = ep->next; s; s = next) {
        next = s->next;
        s->next = NULL;
        endpoint_free(s);
    }
    endpoint_free(ep->sentinels);
    free(ep->text);
    free(ep->masked);
    free(ep->host);
    free(ep->path);
    free(ep->user);
    free(ep->password);
    redis_options_deinit(&ep->o);
    *ep = (struct redis_endpoint){0};
}

void redis_endpoint_write_name(struct buf *dst, const struct redis_endpoint *ep)
{
    if (ep->path)
        buf_appendf(dst, "%s/%d", ep->path, ep->db);
    else if (ep->sentinels)
        buf_appendf(dst, "%s/%d", ep->o.master_name ? ep->o.master_name : "", ep->db);
    else
        buf_appendf(dst, "%s:%d/%d", ep->host, ep->port, ep->db);
}

static bool same_list(const struct redis_endpoint *a, const struct redis_endpoint *b)
{
    for (; a && b; a = a->next, b = b->next) {
        if (a->db != b->db || a->port != b->port || !str_eq(a->host, b->host) ||
            !str_eq(a->path, b->path))
            return false;
    }
    return !a && !b;
}

bool redis_endpoint_same(const struct redis_endpoint *a, const struct redis_endpoint *b)
{
    return same_list(a, b) && same_list(a->sentinels, b->sentinels) &&
           (!a->sentinels || str_eq(a->o.master_name, b->o.master_name));
}
