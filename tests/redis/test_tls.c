/* SPDX-License-Identifier: Apache-2.0 */
/* TLS against a real server: what is trusted, what is not, and what people are told. */
#include "celeryc/redis/sync.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "celeryc/base/clock.h"
#include "tests/redis/certs.h"
#include "tests/redis/redis_server.h"

static char dir[] = "/tmp/celeryc-certs-XXXXXX";
static struct redis_server server;
static int tls_port, plain_port;

static const struct cert certs[] = {
    {"ca", NULL, NULL},
    {"other-ca", NULL, NULL},
    {"twin-ca", NULL, NULL, .subject = "ca"}, /* the name of the right one, and another key */
    {"server", "ca", "DNS:localhost,IP:127.0.0.1"},
    {"elsewhere", "ca", "DNS:redis.example"},
    {"expired", "ca", "DNS:localhost,IP:127.0.0.1", true},
    {"client", "ca", NULL},
    {"locked", "ca", NULL, false, "sesame"},
    {"stranger", "other-ca", NULL},
};

static int listen_on_free_port(int *ret_port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert(fd >= 0 && bind(fd, (struct sockaddr *)&at, len) == 0 && listen(fd, 8) == 0);
    cr_assert_eq(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    *ret_port = ntohs(at.sin_port);
    return fd;
}

static void start(const char *certificate, const char *client_certs, const char *protocols)
{
    char port[16], plain[16], cert[128], key[128], ca[128];
    (void)snprintf(port, sizeof(port), "%d", tls_port = certs_free_port());
    (void)snprintf(plain, sizeof(plain), "%d", plain_port = certs_free_port());
    (void)snprintf(cert, sizeof(cert), "%s/%s.pem", dir, certificate);
    (void)snprintf(key, sizeof(key), "%s/%s.key", dir, certificate);
    (void)snprintf(ca, sizeof(ca), "%s/ca.pem", dir);
    const char *args[] = {"--port",
                          plain,
                          "--tls-port",
                          port,
                          "--tls-cert-file",
                          cert,
                          "--tls-key-file",
                          key,
                          "--tls-ca-cert-file",
                          ca,
                          "--tls-protocols",
                          protocols,
                          "--tls-auth-clients",
                          client_certs,
                          NULL};
    redis_server_start(&server, args);
}

static void setup(void)
{
    (void)signal(SIGPIPE, SIG_IGN);
    cr_assert(mkdtemp(dir));
    for (size_t i = 0; i < ARRAY_SIZE(certs); i++)
        certs_make(dir, &certs[i]);
}

static void teardown(void)
{
    redis_server_stop(&server);
    certs_remove(dir);
}

TestSuite(tls, .init = setup, .fini = teardown, .timeout = 60);

/* "rediss://host:port/0?" and the query, where "@/" stands for the folder of certificates. */
static int try_host(const char *scheme, const char *host, int port, const char *query,
                    struct err *e)
{
    CLEANUP(buf_deinit) struct buf url = BUF_INIT;
    CLEANUP(redis_endpoint_deinit) struct redis_endpoint ep = {0};
    CLEANUP(redis_sync_close) struct redis_sync *s = NULL;
    const struct redis_reply *reply = NULL;
    *e = ERR_INIT;
    buf_appendf(&url, "%s://%s:%d/0?", scheme, host, port);
    for (const char *p = query; *p; p++) {
        if (*p == '@')
            buf_append_str(&url, dir);
        else
            buf_append_char(&url, *p);
    }
    cr_assert_eq(redis_endpoint_parse(url.data, &ep, e), 0, "%s: %s", url.data, e->text);
    cr_assert_eq(redis_endpoint_apply(&ep, NULL, e), 0, "%s: %s", url.data, e->text);
    int r = redis_sync_open(&ep, 2000, &s, e);
    if (r == 0)
        r = redis_sync_command(s, 2, (struct slice[]){SLICE_LIT("ECHO"), SLICE_LIT("hi")}, &reply,
                               e);
    if (r == 0)
        cr_assert(slice_eq_str(reply->str, "hi"));
    return r;
}

static int try(const char *query, struct err *e)
{
    return try_host("rediss", "127.0.0.1", tls_port, query, e);
}

#define accepted(query)                                  \
    do {                                                 \
        struct err e_;                                   \
        cr_assert_eq(try(query, &e_), 0, "%s", e_.text); \
    } while (0)
#define refused(query, words)                              \
    do {                                                   \
        struct err e_;                                     \
        cr_assert_neq(try(query, &e_), 0, "was accepted"); \
        cr_assert(strstr(e_.text, words), "%s", e_.text);  \
    } while (0)

Test(tls, trusts_what_the_given_ca_has_signed)
{
    start("server", "no", "TLSv1.2 TLSv1.3");
    accepted("ssl_ca_certs=@/ca.pem");
    accepted("ssl_ca_certs=@/ca.pem&ssl_cert_reqs=CERT_REQUIRED&ssl_check_hostname=true");
    refused("ssl_ca_certs=@/other-ca.pem", "name its CA with ssl_ca_certs");
    refused("ssl_ca_certs=@/twin-ca.pem", "name its CA with ssl_ca_certs");
    /* Nothing given: the system's store, which does not know this CA. Verified by default. */
    refused("", "the server's certificate is not trusted");
    accepted("ssl_cert_reqs=none");
    accepted("ssl_ca_certs=@/other-ca.pem&ssl_cert_reqs=CERT_NONE");
    struct err e;
    cr_assert_eq(try_host("rediss", "localhost", tls_port, "ssl_ca_certs=@/ca.pem", &e), 0, "%s",
                 e.text);
}

Test(tls, checks_the_host_name)
{
    start("elsewhere", "no", "TLSv1.3");
    refused("ssl_ca_certs=@/ca.pem", "certificate is not for 127.0.0.1");
    refused("ssl_ca_certs=@/ca.pem", "ssl_check_hostname=false");
    struct err e;
    cr_assert_neq(try_host("rediss", "localhost", tls_port, "ssl_ca_certs=@/ca.pem", &e), 0);
    cr_assert(strstr(e.text, "not for localhost"), "%s", e.text);
    accepted("ssl_ca_certs=@/ca.pem&ssl_check_hostname=false");
    refused("ssl_ca_certs=@/other-ca.pem&ssl_check_hostname=false", "not trusted");
}

Test(tls, an_expired_certificate_is_told)
{
    start("expired", "no", "TLSv1.3");
    refused("ssl_ca_certs=@/ca.pem", "not valid now (certificate has expired)");
}

static void client_certificates(const char *protocols)
{
    start("server", "yes", protocols);
    refused("ssl_ca_certs=@/ca.pem", "give ssl_certfile and ssl_keyfile");
    accepted("ssl_ca_certs=@/ca.pem&ssl_certfile=@/client.pem&ssl_keyfile=@/client.key");
    accepted("ssl_ca_certs=@/ca.pem&ssl_certfile=@/locked.pem&ssl_keyfile=@/locked.key"
             "&ssl_password=sesame");
    refused("ssl_ca_certs=@/ca.pem&ssl_certfile=@/stranger.pem&ssl_keyfile=@/stranger.key",
            "does not accept our certificate");
}

Test(tls, shows_a_client_certificate)
{
    client_certificates("TLSv1.3");
}

Test(tls, shows_a_client_certificate_in_tls_1_2)
{
    client_certificates("TLSv1.2");
}

Test(tls, names_the_file_that_is_wrong)
{
    start("server", "no", "TLSv1.3");
    refused("ssl_ca_certs=@/missing.pem", "ssl_ca_certs: cannot read certificates from");
    refused("ssl_ca_certs=@/ca.pem&ssl_certfile=@/missing.pem", "ssl_certfile: cannot read");
    refused("ssl_ca_certs=@/ca.pem&ssl_certfile=@/client.pem", "ssl_keyfile: cannot read");
    refused("ssl_ca_certs=@/ca.pem&ssl_certfile=@/client.pem&ssl_keyfile=@/server.key",
            "ssl_keyfile: ");
    refused("ssl_ca_certs=@/ca.pem&ssl_certfile=@/locked.pem&ssl_keyfile=@/locked.key",
            "needs ssl_password");
    refused("ssl_ca_data=nonsense", "ssl_ca_data holds no certificate");
    refused("ssl_ca_path=@/missing", "not trusted"); /* OpenSSL looks there when it needs a name */
}

Test(tls, takes_a_ca_from_the_settings_text)
{
    char path[128], pem[8192];
    start("server", "no", "TLSv1.3");
    (void)snprintf(path, sizeof(path), "%s/ca.pem", dir);
    FILE *f = fopen(path, "r");
    cr_assert(f);
    pem[fread(pem, 1, sizeof(pem) - 1, f)] = '\0';
    (void)fclose(f);
    CLEANUP(redis_endpoint_deinit) struct redis_endpoint ep = {0};
    CLEANUP(redis_options_deinit) struct redis_options o = {0};
    CLEANUP(redis_sync_close) struct redis_sync *s = NULL;
    struct err e = ERR_INIT;
    char url[64];
    (void)snprintf(url, sizeof(url), "redis://127.0.0.1:%d", tls_port);
    cr_assert_eq(redis_options_set(&o, "ssl_ca_data", pem, NULL), 0);
    cr_assert_eq(redis_endpoint_parse(url, &ep, NULL), 0);
    cr_assert_eq(redis_endpoint_apply(&ep, &o, NULL), 0);
    cr_assert_eq(redis_sync_open(&ep, 2000, &s, &e), 0, "%s", e.text);
}

Test(tls, tells_a_port_of_the_other_kind)
{
    struct err e;
    start("server", "no", "TLSv1.3");
    cr_assert_neq(try_host("rediss", "127.0.0.1", plain_port, "", &e), 0);
    cr_assert(strstr(e.text, "no answer in TLS; is it the port for TLS?"), "%s", e.text);
    cr_assert_neq(try_host("redis", "127.0.0.1", tls_port, "", &e), 0);
    cr_assert(strstr(e.text, "If this is a port for TLS, write rediss://."), "%s", e.text);
}

/* More than any record, both ways, and pipelined. */
Test(tls, carries_big_values)
{
    start("server", "no", "TLSv1.2 TLSv1.3");
    char url[256];
    CLEANUP(redis_endpoint_deinit) struct redis_endpoint ep = {0};
    CLEANUP(redis_sync_close) struct redis_sync *s = NULL;
    struct err e = ERR_INIT;
    (void)snprintf(url, sizeof(url), "rediss://127.0.0.1:%d?ssl_ca_certs=%s/ca.pem", tls_port, dir);
    cr_assert_eq(redis_endpoint_parse(url, &ep, NULL), 0);
    cr_assert_eq(redis_sync_open(&ep, 2000, &s, &e), 0, "%s", e.text);
    const size_t len = 20u << 20;
    CLEANUP(mem_free) char *big = malloc(len);
    cr_assert(big);
    for (size_t i = 0; i < len; i++)
        big[i] = (char)(i * 7 + i / 1000);
    const struct slice set[] = {SLICE_LIT("SET"), SLICE_LIT("k"), {big, len}};
    const struct slice get[] = {SLICE_LIT("GET"), SLICE_LIT("k")};
    const struct redis_reply *reply = NULL;
    cr_assert_eq(redis_sync_command(s, 3, set, &reply, &e), 0, "%s", e.text);
    cr_assert_eq(redis_sync_command(s, 2, get, &reply, &e), 0, "%s", e.text);
    cr_assert(slice_eq(reply->str, (struct slice){big, len}));
    for (int i = 0; i < 5000; i++)
        redis_sync_queue(s, 2, (struct slice[]){SLICE_LIT("INCR"), SLICE_LIT("n")});
    cr_assert_eq(redis_sync_flush(s, &e), 0, "%s", e.text);
    cr_assert_eq(
        redis_sync_command(s, 2, (struct slice[]){SLICE_LIT("GET"), SLICE_LIT("n")}, &reply, &e),
        0);
    cr_assert(slice_eq_str(reply->str, "5000"));
}

/* One that takes the connection and says nothing is given up in time, handshake or not. */
Test(tls, a_silent_server_is_given_up)
{
    start("server", "no", "TLSv1.3");
    struct err e;
    int port, fd = listen_on_free_port(&port);
    int64_t began = clock_mono_ns();
    int r = try_host("rediss", "127.0.0.1", port, "socket_connect_timeout=0.3", &e);
    cr_assert_neq(r, 0);
    cr_assert(strstr(e.text, "Timeout connecting to server"), "%s", e.text);
    cr_assert_lt(clock_mono_ns() - began, 2 * NS_PER_S);
    (void)close(fd);
}
