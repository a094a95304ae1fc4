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
    {"rediss://u:p@h/1?ssl_cert_reqs=none", "h", 6379, NULL, "u", "p", 1, "rediss://u:**@h:6379/1"},
    {"redis://h;", "h", 6379, NULL, NULL, NULL, 0, "redis://h:6379//"},
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
    {"redis+sentinel://h", "speaks only Redis"},
    {"redis://a/0;sentinel://b/0", "either of servers or of Sentinels"},
    {"sentinel://a/0;redis://b/0", "either of servers or of Sentinels"},
    {"redis://a/0;b:6379/0", "redis://host:6379/0"},
    {"redis://a/0;rediss://b/x", "database must be a number"},
    {"rediss://h/0?ssl_cert_reqs=maybe",
     "ssl_cert_reqs: \"maybe\" is not one of required, optional, none"},
    {"rediss://h/0?ssl_check_hostname=perhaps", "ssl_check_hostname"},
    {"redis://h/0?socket%5Ftimeout=1", "unknown option \"socket%5Ftimeout\""},
    {"redis://h/0?an_option_whose_name_is_longer_than_any_that_there_could_ever_be_in_it=1",
     "unknown option \"an_option"},
    {"rediss://h/0?ssl_tls_version=1", "unknown option \"ssl_tls_version\""},
    {"redis://h/0?socket_timeout=0", "socket_timeout"},
    {"redis://h/0?socket_timeout=soon", "number of seconds"},
    {"redis://h/0?health_check_interval=1e9", "number of seconds"},
    {"redis://h/zero", "database must be a number"},
    {"redis://h/-1", "database must be a number"},
    {"redis://h/99999999999", "database must be a number"},
    {"redis://h:0x1/0", "port"},
    {"redis://h/0?visibility_timeout=3", "unknown option \"visibility_timeout\""},
    {"redis://h/0?ssl_cert_reqs=none", "TLS options (ssl_cert_reqs) need rediss://"},
    {"redis+socket:///a?ssl_ca_certs=/x", "need rediss://"},
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
    static const char *const urls[] = {"redis://u:hunter2@h/zero",
                                       "amqp://u:hunter2@h",
                                       "redis://:hunter2@h?x=1",
                                       "redis+socket://:hunter2@/",
                                       "redis://a;redis://u:hunter2@b/zero",
                                       "sentinel://:hunter2@a;redis://:hunter2@b"};
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

Test(endpoint, reads_a_list)
{
    CLEANUP(redis_endpoint_deinit) struct redis_endpoint ep = {0};
    struct err e = ERR_INIT;
    const char *url = "redis://:pw@a:1/2;rediss://b?ssl_ca_certs=%2Fca.pem;redis+socket:///s";
    cr_assert_eq(redis_endpoint_parse(url, &ep, &e), 0, "%s", e.text);
    cr_assert_str_eq(ep.masked, "redis://:**@a:1/2;rediss://b:6379//;redis+socket:///s");
    cr_assert_str_eq(ep.text, url);
    cr_assert_str_eq(ep.host, "a");
    cr_assert_eq(ep.o.tls.on, REDIS_UNSET);
    const struct redis_endpoint *b = ep.next;
    cr_assert_str_eq(b->host, "b");
    cr_assert_eq(b->o.tls.on, REDIS_YES);
    cr_assert_str_eq(b->o.tls.text[REDIS_TLS_CA_CERTS], "/ca.pem");
    cr_assert_str_eq(b->next->path, "/s");
    cr_assert_null(b->next->next);
}

Test(endpoint, reads_sentinels)
{
    CLEANUP(redis_endpoint_deinit) struct redis_endpoint ep = {0};
    CLEANUP(redis_options_deinit) struct redis_options o = {0};
    struct err e = ERR_INIT;
    cr_assert_eq(redis_endpoint_parse("sentinel://u:pw@a/3;sentinel://b:7", &ep, &e), 0, "%s",
                 e.text);
    cr_assert_str_eq(ep.masked, "sentinel://u:**@a:26379/3;sentinel://b:7//");
    cr_assert_null(ep.host);
    cr_assert_eq(ep.db, 3);
    cr_assert_str_eq(ep.user, "u");
    cr_assert_str_eq(ep.password, "pw");
    cr_assert_eq(redis_endpoint_apply(&ep, NULL, &e), -EINVAL);
    cr_assert(strstr(e.text, "master_name"), "%s", e.text);
    cr_assert_eq(redis_options_set(&o, "master_name", "mymaster", NULL), 0);
    cr_assert_eq(redis_options_set_sentinel(&o, "password", "spw", NULL), 0);
    cr_assert_eq(redis_endpoint_apply(&ep, &o, &e), 0);
    const struct redis_endpoint *first = ep.sentinels, *second = first->next;
    cr_assert_str_eq(first->host, "a");
    cr_assert_eq(first->port, 26379);
    cr_assert_str_eq(second->host, "b");
    cr_assert_eq(second->port, 7);
    cr_assert_null(second->next);
    cr_assert_null(second->user);
    cr_assert_str_eq(first->password, "spw");
    cr_assert_str_eq(second->password, "spw");
}

Test(endpoint, reads_the_master_name_in_the_url)
{
    CLEANUP(redis_endpoint_deinit) struct redis_endpoint ep = {0};
    cr_assert_eq(redis_endpoint_parse("sentinel://a?master_name=m", &ep, NULL), 0);
    cr_assert_eq(redis_endpoint_apply(&ep, NULL, NULL), 0);
    cr_assert_str_eq(ep.o.master_name, "m");
    redis_endpoint_deinit(&ep);
    cr_assert_eq(redis_endpoint_parse("sentinel://a;sentinel://b?master_name=n", &ep, NULL), 0);
    cr_assert_str_eq(ep.o.master_name, "n");
}

Test(endpoint, takes_celerys_spellings_of_cert_reqs)
{
    static const char *const yes[] = {"required", "CERT_REQUIRED", "optional", "CERT_OPTIONAL",
                                      "2"};
    static const char *const no[] = {"none", "CERT_NONE", "0"};
    CLEANUP(redis_options_deinit) struct redis_options o = {0};
    for (size_t i = 0; i < ARRAY_SIZE(yes); i++) {
        o.tls.verify = REDIS_UNSET;
        cr_assert_eq(redis_options_set(&o, "ssl_cert_reqs", yes[i], NULL), 0);
        cr_assert_eq(o.tls.verify, REDIS_YES, "%s", yes[i]);
    }
    for (size_t i = 0; i < ARRAY_SIZE(no); i++) {
        o.tls.verify = REDIS_UNSET;
        cr_assert_eq(redis_options_set(&o, "ssl_cert_reqs", no[i], NULL), 0);
        cr_assert_eq(o.tls.verify, REDIS_NO, "%s", no[i]);
    }
    cr_assert_eq(o.tls.on, REDIS_YES);
}

Test(endpoint, the_url_is_stronger_than_the_settings)
{
    CLEANUP(redis_endpoint_deinit) struct redis_endpoint ep = {0};
    CLEANUP(redis_options_deinit) struct redis_options o = {0};
    cr_assert_eq(redis_endpoint_parse("rediss://a?ssl_ca_certs=/url&socket_timeout=1.5;redis://b",
                                      &ep, NULL),
                 0);
    cr_assert_eq(redis_options_set(&o, "ssl_ca_certs", "/settings", NULL), 0);
    cr_assert_eq(redis_options_set(&o, "socket_timeout", "7", NULL), 0);
    cr_assert_eq(redis_options_set(&o, "health_check_interval", "0", NULL), 0);
    cr_assert_eq(redis_endpoint_apply(&ep, &o, NULL), 0);
    cr_assert_str_eq(ep.o.tls.text[REDIS_TLS_CA_CERTS], "/url");
    cr_assert_eq(ep.o.reply_timeout_ms, 1500);
    cr_assert_eq(ep.o.health_ms, -1);
    /* broker_use_ssl makes TLS of redis://, as in Celery. */
    cr_assert_eq(ep.next->o.tls.on, REDIS_YES);
    cr_assert_str_eq(ep.next->o.tls.text[REDIS_TLS_CA_CERTS], "/settings");
    cr_assert_eq(ep.next->o.reply_timeout_ms, 7000);
}

Test(endpoint, a_key_needs_its_certificate)
{
    CLEANUP(redis_endpoint_deinit) struct redis_endpoint ep = {0};
    struct err e = ERR_INIT;
    cr_assert_eq(redis_endpoint_parse("rediss://a?ssl_keyfile=/k", &ep, NULL), 0);
    cr_assert_eq(redis_endpoint_apply(&ep, NULL, &e), -EINVAL);
    cr_assert(strstr(e.text, "ssl_certfile"), "%s", e.text);
}

Test(endpoint, lists_are_the_same_server_by_server)
{
    static const char *const other[] = {"redis://a", "redis://a;redis://c", "redis://b;redis://a",
                                        "redis://a;redis://b;redis://c",
                                        "sentinel://a?master_name=m"};
    CLEANUP(redis_endpoint_deinit) struct redis_endpoint a = {0}, same = {0};
    cr_assert_eq(redis_endpoint_parse("redis://a;redis://b", &a, NULL), 0);
    cr_assert_eq(redis_endpoint_parse("redis://:pw@a/0;redis://b:6379", &same, NULL), 0);
    cr_assert(redis_endpoint_same(&a, &same));
    for (size_t i = 0; i < ARRAY_SIZE(other); i++) {
        CLEANUP(redis_endpoint_deinit) struct redis_endpoint b = {0};
        cr_assert_eq(redis_endpoint_parse(other[i], &b, NULL), 0);
        cr_assert_not(redis_endpoint_same(&a, &b), "%s", other[i]);
    }
    CLEANUP(redis_endpoint_deinit) struct redis_endpoint m = {0}, n = {0};
    cr_assert_eq(redis_endpoint_parse("sentinel://a?master_name=m", &m, NULL), 0);
    cr_assert_eq(redis_endpoint_parse("sentinel://a?master_name=n", &n, NULL), 0);
    cr_assert_not(redis_endpoint_same(&m, &n));
}
