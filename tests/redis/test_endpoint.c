/* SPDX-License-Identifier: Apache-2.0 */
#include "celeryc/redis/endpoint.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "celeryc/base/buf.h"

struct good {
    const char *url, *host;
    int port;
    const char *path, *user, *password;
    int db;
    const char *masked;
};

static const struct good goods[] = {
    {"redis://", "127.0.0.1", 6379, NULL, NULL, NULL, 0, "redis://localhost:6379//"},
    {"redis://localhost", "localhost", 6379, NULL, NULL, NULL, 0, "redis://localhost:6379//"},
    {"redis://h:1234/5", "h", 1234, NULL, NULL, NULL, 5, "redis://h:1234/5"},
    {"redis://h//5", "h", 6379, NULL, NULL, NULL, 5, "redis://h:6379//5"},
    {"redis://h/", "h", 6379, NULL, NULL, NULL, 0, "redis://h:6379//"},
    {"redis://:s%40c@h:1/0", "h", 1, NULL, NULL, "s@c", 0, "redis://:**@h:1/0"},
    {"redis://u:p@h", "h", 6379, NULL, "u", "p", 0, "redis://u:**@h:6379//"},
    {"redis://u@h", "h", 6379, NULL, "u", NULL, 0, "redis://u@h:6379//"},
    {"redis://[::1]:7/2", "::1", 7, NULL, NULL, NULL, 2, "redis://%3A%3A1:7/2"},
    {"redis+socket:///a/b.sock", NULL, 0, "/a/b.sock", NULL, NULL, 0, "redis+socket:///a/b.sock"},
    {"redis+socket:///a%20b?virtual_host=3", NULL, 0, "/a b", NULL, NULL, 3, NULL},
    {"redis+socket:///a?virtual_host=/3", NULL, 0, "/a", NULL, NULL, 3, NULL},
    {"socket://:pw@/a", NULL, 0, "/a", NULL, "pw", 0, "socket://:**@/a"},
};

Test(endpoint, reads_kombus_forms)
{
    for (size_t i = 0; i < ARRAY_SIZE(goods); i++) {
        const struct good *g = &goods[i];
        CLEANUP(redis_endpoint_deinit) struct redis_endpoint ep = {0};
        struct err e = ERR_INIT;
        cr_assert_eq(redis_endpoint_parse(g->url, &ep, &e), 0, "%s: %s", g->url, e.text);
        cr_assert(str_eq(ep.host, g->host), "%s: host %s", g->url, ep.host);
        cr_assert_eq(ep.port, g->port, "%s: port %d", g->url, ep.port);
        cr_assert(str_eq(ep.path, g->path), "%s: path %s", g->url, ep.path);
        cr_assert(str_eq(ep.user, g->user), "%s: user %s", g->url, ep.user);
        cr_assert(str_eq(ep.password, g->password), "%s: password %s", g->url, ep.password);
        cr_assert_eq(ep.db, g->db, "%s: db %d", g->url, ep.db);
        if (g->masked)
            cr_assert_str_eq(ep.masked, g->masked);
    }
}

static const char *const bads[][2] = {
    {"amqp://guest@h//", "speaks only Redis"},
    {"rpc://", "speaks only Redis"},
    {"db+sqlite:///x", "speaks only Redis"},
    {"rediss://h", "TLS"},
    {"sentinel://h", "Sentinel"},
    {"redis://a/0;redis://b/0", "list of servers"},
    {"redis://h/zero", "database must be a number"},
    {"redis://h/-1", "database must be a number"},
    {"redis://h/99999999999", "database must be a number"},
    {"redis://h:0x1/0", "port"},
    {"redis://h/0?visibility_timeout=3", "unknown option \"visibility_timeout\""},
    {"redis://h/0?ssl_cert_reqs=none", "TLS options"},
    {"redis+socket://", "path of the socket is missing"},
    {"redis+socket:///", "path of the socket is missing"},
    {"redis+socket:///a?db=3", "unknown option \"db\""},
    {"localhost:6379", "redis://host:6379/0"},
    {"", "redis://host:6379/0"},
};

Test(endpoint, refuses_the_rest_by_name)
{
    for (size_t i = 0; i < ARRAY_SIZE(bads); i++) {
        CLEANUP(redis_endpoint_deinit) struct redis_endpoint ep = {0};
        struct err e = ERR_INIT;
        cr_assert_eq(redis_endpoint_parse(bads[i][0], &ep, &e), -EINVAL, "%s", bads[i][0]);
        cr_assert(strstr(e.text, bads[i][1]), "%s: %s", bads[i][0], e.text);
    }
}

Test(endpoint, never_shows_the_password)
{
    static const char *const urls[] = {"redis://u:hunter2@h/zero", "amqp://u:hunter2@h",
                                       "redis://:hunter2@h?x=1", "redis+socket://:hunter2@/"};
    for (size_t i = 0; i < ARRAY_SIZE(urls); i++) {
        CLEANUP(redis_endpoint_deinit) struct redis_endpoint ep = {0};
        struct err e = ERR_INIT;
        cr_assert_neq(redis_endpoint_parse(urls[i], &ep, &e), 0);
        cr_assert_null(strstr(e.text, "hunter2"), "%s", e.text);
    }
}

Test(endpoint, tells_the_same_server)
{
    CLEANUP(redis_endpoint_deinit) struct redis_endpoint a = {0}, b = {0}, c = {0};
    cr_assert_eq(redis_endpoint_parse("redis://h/1", &a, NULL), 0);
    cr_assert_eq(redis_endpoint_parse("redis://:pw@h:6379/1", &b, NULL), 0);
    cr_assert_eq(redis_endpoint_parse("redis://h/2", &c, NULL), 0);
    cr_assert(redis_endpoint_same(&a, &b));
    cr_assert_not(redis_endpoint_same(&a, &c));
}
