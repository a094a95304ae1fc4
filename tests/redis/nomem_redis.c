/* SPDX-License-Identifier: Apache-2.0 */
/* Every allocation fails once: while URLs are read, and in a whole session with a real server, in clear and in TLS. */

#include "../base/nomem.h"
#include "tests/redis/certs.h"
#include "tests/redis/redis_server.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

static struct redis_server server;
static char dir[] = "/tmp/celeryc-certs-XXXXXX";
static struct redis_endpoint tls_endpoint;

static int read_url(const char *url)
{
    CLEANUP(redis_endpoint_deinit) struct redis_endpoint ep = {0};
    CLEANUP(redis_options_deinit) struct redis_options o = {0};
    struct err e = ERR_INIT;
    int r = redis_options_set(&o, "ssl_ca_certs", "/ca", &e);
    if (r == 0)
        r = redis_options_set(&o, "master_name", "m", &e);
    if (r == 0)
        r = redis_options_set_sentinel(&o, "password", "pw", &e);
    if (r == 0)
        r = redis_options_set_sentinel(&o, "ssl_ca_certs", "/ca", &e);
    if (r == 0)
        r = redis_endpoint_parse(url, &ep, &e);
    return r ? r : redis_endpoint_apply(&ep, &o, &e);
}

static int read_urls(void)
{
    int r =
        read_url("redis://u:p@h:1/2?socket_timeout=3;rediss://b?ssl_certfile=/c&ssl_keyfile=/k");
    if (r == 0)
        r = read_url("redis+socket:///a?virtual_host=3");
    return r ? r : read_url("sentinel://u:p@a/1;sentinel://b?ssl_ca_certs=/x");
}

static int connections(void)
{
    CLEANUP(redis_endpoint_deinit) struct redis_endpoint ep = {0};
    uv_loop_t loop;
    int r = redis_endpoint_parse("sentinel://127.0.0.1:1?master_name=m", &ep, NULL);
    if (r)
        return r;
    const struct redis_conn_options o = {.endpoint = &ep};
    const struct redis_callbacks cb = {NULL, NULL, NULL};
    ASSERT(uv_loop_init(&loop) == 0);
    struct redis_conn *c = redis_conn_new(&loop, &o, &cb, NULL);
    if (c) {
        redis_conn_start(c);
        (void)uv_run(&loop, UV_RUN_NOWAIT);
        redis_conn_free(c);
    }
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    ASSERT(uv_loop_close(&loop) == 0);
    return c ? 0 : -ENOMEM;
}

/* A connection that memory was short for is told as lost, by its reason. */
static int judge(int r, const char *text)
{
    bool memory = strstr(text, "memory") || strstr(text, "Cannot allocate");
    return r && memory ? -ENOMEM : r;
}

static int talk(const struct redis_endpoint *ep)
{
    CLEANUP(redis_sync_close) struct redis_sync *s = NULL;
    const struct redis_reply *reply = NULL;
    struct err e = ERR_INIT;
    int r = redis_sync_open(ep, 5000, &s, &e);
    if (r == 0)
        r = redis_sync_command(s, 2, (struct slice[]){SLICE_LIT("ECHO"), SLICE_LIT("x")}, &reply,
                               &e);
    if (r == 0)
        r = redis_sync_command(s, 2, (struct slice[]){SLICE_LIT("SUBSCRIBE"), SLICE_LIT("c")},
                               &reply, &e);
    return r ? judge(r, err_text(&e, r)) : 0;
}

static int talk_in_clear(void)
{
    return talk(&server.endpoint);
}

static int talk_in_tls(void)
{
    return talk(&tls_endpoint);
}

static void start(void)
{
    static const struct cert certs[] = {{"ca", NULL, NULL}, {"server", "ca", "IP:127.0.0.1"}};
    char port[16], ca[64], cert[64], key[64], url[128];
    ASSERT(mkdtemp(dir));
    for (size_t i = 0; i < ARRAY_SIZE(certs); i++)
        certs_make(dir, &certs[i]);
    (void)snprintf(port, sizeof(port), "%d", certs_free_port());
    (void)snprintf(ca, sizeof(ca), "%s/ca.pem", dir);
    (void)snprintf(cert, sizeof(cert), "%s/server.pem", dir);
    (void)snprintf(key, sizeof(key), "%s/server.key", dir);
    const char *args[] = {"--tls-port",
                          port,
                          "--tls-cert-file",
                          cert,
                          "--tls-key-file",
                          key,
                          "--tls-ca-cert-file",
                          ca,
                          "--tls-auth-clients",
                          "no",
                          NULL};
    redis_server_start(&server, args);
    (void)snprintf(url, sizeof(url), "rediss://127.0.0.1:%s?ssl_ca_certs=%s", port, ca);
    ASSERT(redis_endpoint_parse(url, &tls_endpoint, NULL) == 0);
}

int main(void)
{
    (void)signal(SIGPIPE, SIG_IGN);
    start();
    (void)nomem_sweep("urls", read_urls);
    (void)nomem_sweep("connections", connections);
    (void)nomem_sweep("in clear", talk_in_clear);
    (void)nomem_sweep("in TLS", talk_in_tls);
    redis_endpoint_deinit(&tls_endpoint);
    redis_server_stop(&server);
    certs_remove(dir);
    return 0;
}
