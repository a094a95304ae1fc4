/* SPDX-License-Identifier: Apache-2.0 */
/* The master found by real Sentinels. */
#include <arpa/inet.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/redis/loop.h"
#include "tests/redis/redis_server.h"

static struct redis_server one, two;
static int port_one, port_two, port_sentinel;
static pid_t sentinel;
static char config[96];
static struct redis_endpoint ep;
static struct seen s;

static int free_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert(fd >= 0 && bind(fd, (struct sockaddr *)&at, len) == 0);
    cr_assert_eq(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    (void)close(fd);
    return ntohs(at.sin_port);
}

static void start_server(struct redis_server *r, int port)
{
    char text[16];
    (void)snprintf(text, sizeof(text), "%d", port);
    const char *args[] = {"--port", text, "--bind", "127.0.0.1", NULL};
    redis_server_start(r, args);
}

static void start_sentinel(const char *more)
{
    (void)snprintf(config, sizeof(config), "%s/sentinel.conf", one.dir);
    FILE *f = fopen(config, "w");
    cr_assert(f);
    (void)fprintf(f,
                  "port %d\nbind 127.0.0.1\ndir %s\nlogfile sentinel.log\n"
                  "sentinel monitor mymaster 127.0.0.1 %d 1\n%s\n",
                  port_sentinel, one.dir, port_one, more);
    (void)fclose(f);
    sentinel = fork();
    if (sentinel == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)execlp("redis-server", "redis-server", config, "--sentinel", (char *)NULL);
        _exit(127);
    }
}

static void setup(void)
{
    port_one = free_port();
    port_two = free_port();
    port_sentinel = free_port();
    start_server(&one, port_one);
    start_server(&two, port_two);
    s = (struct seen){.c = NULL};
    loop_open();
}

static void teardown(void)
{
    s.c = redis_conn_free(s.c);
    loop_close();
    redis_endpoint_deinit(&ep);
    if (sentinel) {
        (void)kill(sentinel, SIGKILL);
        (void)waitpid(sentinel, NULL, 0);
    }
    char log[96];
    (void)snprintf(log, sizeof(log), "%s/sentinel.log", one.dir);
    (void)unlink(config);
    (void)unlink(log);
    redis_server_stop(&one);
    redis_server_stop(&two);
}

TestSuite(sentinel, .init = setup, .fini = teardown, .timeout = 60);

static void connect_by(const char *query, const char *password)
{
    CLEANUP(redis_options_deinit) struct redis_options o = {0};
    struct err e = ERR_INIT;
    char url[200];
    (void)snprintf(url, sizeof(url), "sentinel://127.0.0.1:1;sentinel://127.0.0.1:%d%s",
                   port_sentinel, query);
    cr_assert_eq(redis_options_set(&o, "master_name", "mymaster", NULL), 0);
    if (password)
        cr_assert_eq(redis_options_set_sentinel(&o, "password", password, NULL), 0);
    cr_assert_eq(redis_endpoint_parse(url, &ep, &e), 0, "%s", e.text);
    cr_assert_eq(redis_endpoint_apply(&ep, &o, &e), 0, "%s", e.text);
    const struct redis_conn_options options = {
        .endpoint = &ep, .connect_timeout_ms = 500, .reply_timeout_ms = 500};
    loop_connect(&s, &options);
}

static void server_is(int port)
{
    char shown[64];
    (void)snprintf(shown, sizeof(shown), "redis://127.0.0.1:%d/0", port);
    cr_assert_str_eq(redis_conn_server(s.c), shown);
}

/* The first of the list is not there; the second one may need a moment to start. */
Test(sentinel, tells_where_the_master_is)
{
    start_sentinel("");
    connect_by("", NULL);
    until(s.n_up == 1);
    server_is(port_one);
    redis_commandv(s.c, seen_reply, &s, "ECHO", "hi", NULL);
    until(s.n_reply == 1);
    cr_assert_str_eq(s.last, "hi");
}

/* Nothing is lost of the connection; the Sentinel alone says that another one is the master now. */
Test(sentinel, is_asked_while_all_is_well)
{
    start_sentinel("");
    connect_by("", NULL);
    until(s.n_up == 1);
    char words[2][16];
    (void)snprintf(words[0], sizeof(words[0]), "%d", port_two);
    struct redis_endpoint at;
    char url[64];
    (void)snprintf(url, sizeof(url), "redis://127.0.0.1:%d", port_sentinel);
    cr_assert_eq(redis_endpoint_parse(url, &at, NULL), 0);
    struct redis_server as = {.endpoint = at};
    free(redis_server_ask(&as, "SENTINEL", "REMOVE", "mymaster", NULL));
    free(
        redis_server_ask(&as, "SENTINEL", "MONITOR", "mymaster", "127.0.0.1", words[0], "1", NULL));
    until(s.n_up == 2);
    server_is(port_two);
    redis_endpoint_deinit(&at);
}

Test(sentinel, a_replica_is_not_believed_to_be_the_master)
{
    char port[16];
    (void)snprintf(port, sizeof(port), "%d", port_two);
    free(redis_server_ask(&one, "REPLICAOF", "127.0.0.1", port, NULL));
    start_sentinel("");
    connect_by("", NULL);
    until(strstr(s.reason, "is a replica at the moment"));
    cr_assert_eq(s.n_up, 0);
    free(redis_server_ask(&one, "REPLICAOF", "NO", "ONE", NULL));
    until(s.n_up == 1);
    server_is(port_one);
}

Test(sentinel, an_unknown_name_is_told)
{
    start_sentinel("");
    connect_by("?master_name=other", NULL);
    until(strstr(s.reason, "knows no master named \"other\""));
    cr_assert(strstr(s.reason, "check master_name"), "%s", s.reason);
    cr_assert_geq(s.retry_ms, 100);
}

Test(sentinel, that_nobody_answers_is_told)
{
    connect_by("", NULL);
    until(s.n_down == 1);
    cr_assert(strstr(s.reason, "no Sentinel tells the master: Error 111 connecting to 127.0.0.1:"),
              "%s", s.reason);
}

Test(sentinel, its_password_is_of_sentinel_kwargs)
{
    start_sentinel("requirepass secret");
    connect_by("", NULL);
    until(strstr(s.reason, "the Sentinel wants a password; give it in sentinel_kwargs"));
    s.c = redis_conn_free(s.c);
    redis_endpoint_deinit(&ep);
    connect_by("", "wrong");
    until(strstr(s.reason, "the Sentinel refused the user or password of sentinel_kwargs"));
    s.c = redis_conn_free(s.c);
    redis_endpoint_deinit(&ep);
    connect_by("", "secret");
    until(s.n_up == 1);
}

Test(sentinel, may_be_freed_at_any_moment)
{
    start_sentinel("");
    for (int turns = 0; turns < 40; turns++) {
        connect_by("", NULL);
        for (int n = 0; n < turns; n++)
            (void)uv_run(&loop.uv, UV_RUN_NOWAIT);
        s.c = redis_conn_free(s.c);
        (void)uv_run(&loop.uv, UV_RUN_NOWAIT);
        redis_endpoint_deinit(&ep);
    }
}
