/* SPDX-License-Identifier: Apache-2.0 */
/* The connection against a real server, and against one that misbehaves. */
#include "celeryc/redis/conn.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/redis/redis_server.h"

struct fixture {
    uv_loop_t loop;
    uv_timer_t deadline;
    bool late;
    struct redis_conn *c;
    size_t n_up, n_down, n_null, n_reply, n_push;
    char reason[512];
    struct buf last; /* text of the last replies, one a line */
};

static struct redis_server server;
static struct fixture f;
static int64_t connect_ms = 500;

static void on_up(struct redis_conn *c, void *arg)
{
    struct fixture *x = arg;
    cr_assert(redis_conn_is_up(c));
    x->n_up++;
}

static void on_down(struct redis_conn *c, const char *reason, int64_t retry_ms, void *arg)
{
    struct fixture *x = arg;
    cr_assert_not(redis_conn_is_up(c));
    cr_assert_geq(retry_ms, 100);
    cr_assert_leq(retry_ms, 2500);
    x->n_down++;
    (void)snprintf(x->reason, sizeof(x->reason), "%s", reason);
}

static void on_push(struct redis_conn *c, const struct redis_reply *reply, void *arg)
{
    struct fixture *x = arg;
    (void)c;
    cr_assert_eq(reply->n, 3);
    buf_append_slice(&x->last, reply->elem[2]->str);
    x->n_push++;
}

static void on_reply(const struct redis_reply *reply, void *arg)
{
    struct fixture *x = arg;
    if (!reply) {
        x->n_null++;
        return;
    }
    x->n_reply++;
    if (reply->kind == REDIS_R_INTEGER)
        buf_appendf(&x->last, "%lld\n", (long long)reply->integer);
    else
        buf_appendf(&x->last, "%.*s\n", (int)MIN(reply->str.len, (size_t)200), reply->str.p);
}

static const struct redis_script script_add = {"add", "return ARGV[1] + ARGV[2]"};
static const struct redis_script *const scripts[] = {&script_add, NULL};

static void open_conn(const struct redis_endpoint *ep, bool pubsub)
{
    struct redis_conn_options o = {.endpoint = ep,
                                   .client_name = "t",
                                   .scripts = scripts,
                                   .connect_timeout_ms = connect_ms,
                                   .reply_timeout_ms = 500};
    struct redis_callbacks cb = {on_up, on_down, pubsub ? on_push : NULL};
    f.c = redis_conn_new(&f.loop, &o, &cb, &f);
    cr_assert(f.c);
    redis_conn_start(f.c);
}

static void on_deadline(uv_timer_t *t)
{
    ((struct fixture *)t->data)->late = true;
}

#define until(cond)                                                            \
    do {                                                                       \
        (void)uv_timer_start(&f.deadline, on_deadline, 30000, 0);              \
        while (!(cond)) {                                                      \
            cr_assert(!f.late, "waited in vain for %s (%s)", #cond, f.reason); \
            (void)uv_run(&f.loop, UV_RUN_ONCE);                                \
        }                                                                      \
        (void)uv_timer_stop(&f.deadline);                                      \
    } while (0)

static void setup(void)
{
    redis_server_start(&server, NULL);
    f = (struct fixture){.last = BUF_INIT};
    cr_assert_eq(uv_loop_init(&f.loop), 0);
    (void)uv_timer_init(&f.loop, &f.deadline);
    f.deadline.data = &f;
}

static void teardown(void)
{
    f.c = redis_conn_free(f.c);
    uv_close((uv_handle_t *)&f.deadline, NULL);
    (void)uv_run(&f.loop, UV_RUN_DEFAULT);
    if (uv_loop_close(&f.loop))
        abort();
    buf_deinit(&f.last);
    redis_server_stop(&server);
}

TestSuite(conn, .init = setup, .fini = teardown, .timeout = 90);

Test(conn, answers_in_order)
{
    open_conn(&server.endpoint, false);
    until(f.n_up == 1);
    cr_assert_gt(redis_conn_client_id(f.c), 0);
    cr_assert_eq(strlen(redis_conn_run_id(f.c)), 40);
    cr_assert_geq(redis_conn_version(f.c), 60200);
    for (int i = 0; i < 1000; i++)
        redis_commandv(f.c, on_reply, &f, "INCR", "n", NULL);
    redis_eval(f.c, &script_add, on_reply, &f, 2,
               (struct slice[]){SLICE_LIT("40"), SLICE_LIT("2")});
    cr_assert_eq(f.n_reply, 0);
    until(f.n_reply == 1001);
    cr_assert(strncmp(f.last.data, "1\n2\n3\n", 6) == 0);
    cr_assert_str_eq(f.last.data + f.last.len - 8, "1000\n42\n");
}

Test(conn, carries_big_values_both_ways)
{
    open_conn(&server.endpoint, false);
    until(f.n_up == 1);
    size_t len = 20u << 20;
    char *big = malloc(len);
    cr_assert(big);
    memset(big, 'x', len);
    struct slice argv[] = {SLICE_LIT("SET"), SLICE_LIT("k"), {big, len}};
    redis_command(f.c, on_reply, &f, 10000, 3, argv);
    redis_commandv(f.c, on_reply, &f, "STRLEN", "k", NULL);
    redis_commandv(f.c, on_reply, &f, "GET", "k", NULL);
    until(f.n_reply == 3);
    cr_assert(strncmp(f.last.data, "OK\n20971520\nxxxx", 16) == 0);
    free(big);
}

Test(conn, comes_back_after_a_kill)
{
    open_conn(&server.endpoint, false);
    until(f.n_up == 1);
    redis_commandv(f.c, on_reply, &f, "BLPOP", "never", "0", NULL);
    redis_conn_flush(f.c);
    free(redis_server_ask(&server, "CLIENT", "KILL", "TYPE", "normal", NULL));
    until(f.n_up == 2);
    cr_assert_eq(f.n_null, 1);
    cr_assert_eq(f.n_down, 1);
    cr_assert_str_eq(f.reason, "Connection closed by server.");
}

Test(conn, comes_back_after_a_restart)
{
    open_conn(&server.endpoint, false);
    until(f.n_up == 1);
    redis_server_kill(&server);
    until(f.n_down >= 2); /* lost, then refused */
    cr_assert(strstr(f.reason, "Error 111 connecting to unix socket: "), "%s", f.reason);
    redis_commandv(f.c, on_reply, &f, "PING", NULL);
    until(f.n_null == 1);
    redis_server_restart(&server, NULL);
    until(f.n_up == 2);
}

Test(conn, loads_scripts_again_when_they_are_flushed)
{
    open_conn(&server.endpoint, false);
    until(f.n_up == 1);
    free(redis_server_ask(&server, "SCRIPT", "FLUSH", NULL));
    struct slice argv[] = {SLICE_LIT("1"), SLICE_LIT("2")};
    redis_eval(f.c, &script_add, on_reply, &f, 2, argv);
    until(f.n_null == 1);
    until(f.n_up == 2);
    redis_eval(f.c, &script_add, on_reply, &f, 2, argv);
    until(f.n_reply == 1);
    cr_assert_str_eq(f.last.data, "3\n");
}

Test(conn, drops_a_server_that_says_nothing)
{
    open_conn(&server.endpoint, false);
    until(f.n_up == 1);
    free(redis_server_ask(&server, "CLIENT", "PAUSE", "1500", NULL));
    redis_commandv(f.c, on_reply, &f, "PING", NULL);
    until(f.n_null == 1);
    cr_assert_str_eq(f.reason, "Timeout reading from server");
    until(f.n_up == 2);
}

Test(conn, takes_pushes)
{
    open_conn(&server.endpoint, true);
    until(f.n_up == 1);
    redis_commandv(f.c, on_reply, &f, "SUBSCRIBE", "ch", NULL);
    redis_commandv(f.c, on_reply, &f, "PING", NULL);
    until(f.n_reply == 2);
    buf_reset(&f.last);
    free(redis_server_ask(&server, "PUBLISH", "ch", "hello", NULL));
    until(f.n_push == 1);
    cr_assert_str_eq(f.last.data, "hello");
}

Test(conn, tells_a_wrong_password)
{
    free(redis_server_ask(&server, "CONFIG", "SET", "requirepass", "right", NULL));
    char url[200];
    struct redis_endpoint ep;
    (void)snprintf(url, sizeof(url), "redis+socket://:wrong@%s", server.socket);
    cr_assert_eq(redis_endpoint_parse(url, &ep, NULL), 0);
    open_conn(&ep, false);
    until(f.n_down == 1);
    cr_assert(strstr(f.reason, "refused the user or password: WRONGPASS"), "%s", f.reason);
    f.c = redis_conn_free(f.c);
    redis_endpoint_deinit(&ep);
    open_conn(&server.endpoint, false);
    until(f.n_down == 2);
    cr_assert(strstr(f.reason, "wants a password"), "%s", f.reason);
}

Test(conn, tells_a_port_where_nobody_listens)
{
    struct redis_endpoint ep;
    cr_assert_eq(redis_endpoint_parse("redis://127.0.0.1:1/0", &ep, NULL), 0);
    open_conn(&ep, false);
    until(f.n_down == 1);
    cr_assert_str_eq(f.reason, "Error 111 connecting to 127.0.0.1:1. Connection refused.");
    f.c = redis_conn_free(f.c);
    redis_endpoint_deinit(&ep);
}

static void free_conn(const struct redis_reply *reply, void *arg)
{
    cr_assert(reply);
    (void)arg;
    f.c = redis_conn_free(f.c);
}

Test(conn, may_be_freed_in_a_callback)
{
    open_conn(&server.endpoint, false);
    until(f.n_up == 1);
    redis_commandv(f.c, free_conn, NULL, "PING", NULL);
    redis_commandv(f.c, on_reply, &f, "PING", NULL);
    until(f.c == NULL);
    cr_assert_eq(f.n_null, 1);
    cr_assert_eq(f.n_down, 0);
}

/* ---- a server that sends what it should not ---- */

struct fake {
    uv_pipe_t listener, client;
    bool accepted;
    const char *bytes;
    size_t len;
    char path[128];
    struct redis_endpoint endpoint;
};

static struct fake fake;

static void on_fake_written(uv_write_t *req, int status)
{
    (void)status;
    free(req);
}

static void on_fake_client(uv_stream_t *s, int status)
{
    if (status || fake.accepted)
        return;
    fake.accepted = true;
    (void)uv_pipe_init(&f.loop, &fake.client, 0);
    cr_assert_eq(uv_accept(s, (uv_stream_t *)&fake.client), 0);
    uv_buf_t b = uv_buf_init((char *)fake.bytes, (unsigned)fake.len);
    uv_write_t *w = malloc(sizeof(*w));
    cr_assert_eq(uv_write(w, (uv_stream_t *)&fake.client, &b, 1, on_fake_written), 0);
}

static void hostile(const char *bytes, size_t len, const char *expect)
{
    char url[160];
    fake = (struct fake){.bytes = bytes, .len = len};
    (void)snprintf(fake.path, sizeof(fake.path), "%s.fake", server.socket);
    (void)snprintf(url, sizeof(url), "redis+socket://%s", fake.path);
    cr_assert_eq(redis_endpoint_parse(url, &fake.endpoint, NULL), 0);
    (void)uv_pipe_init(&f.loop, &fake.listener, 0);
    cr_assert_eq(uv_pipe_bind(&fake.listener, fake.path), 0);
    cr_assert_eq(uv_listen((uv_stream_t *)&fake.listener, 4, on_fake_client), 0);
    f.n_down = 0;
    open_conn(&fake.endpoint, false);
    until(f.n_down == 1);
    cr_assert(strstr(f.reason, expect), "%.60s: %s", bytes, f.reason);
    cr_assert_eq(f.n_up, 0);
    f.c = redis_conn_free(f.c);
    uv_close((uv_handle_t *)&fake.listener, NULL);
    uv_close((uv_handle_t *)&fake.client, NULL);
    (void)uv_run(&f.loop, UV_RUN_DEFAULT);
    (void)unlink(fake.path);
    redis_endpoint_deinit(&fake.endpoint);
}

static void hostile_text(const char *bytes, const char *expect)
{
    hostile(bytes, strlen(bytes), expect);
}

Test(conn, survives_hostile_bytes)
{
    hostile_text("HTTP/1.1 400 Bad Request\r\n\r\n", "not a Redis server's reply");
    hostile_text("*2000000\r\n", "over the limit");
    hostile_text("*2147483647\r\n", "limit");
    hostile_text("*-5\r\n", "not a Redis server's reply");
    hostile_text("$-5\r\n", "not a Redis server's reply");
    hostile_text("*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
                 "not a Redis server's reply");
    hostile_text("+OK\r\n:7\r\n:7\r\n", "strange answer to INFO\0");
    hostile_text("-DENIED Redis is running in protected mode\r\n", "protected mode");
    hostile_text("+OK\r\n:1\r\n$3\r\nabc\r\n$3\r\nabc\r\n", "cannot load the script \"add\"");
    hostile("\0\0\0\0\0\0\0\0\r\n", 10, "not a Redis server's reply");
    hostile_text("$99999999999999999999\r\n", "");
}

Test(conn, refuses_a_reply_that_never_ends)
{
    size_t len = (64u << 20) + (1u << 20);
    char *big = malloc(len + 64);
    cr_assert(big);
    int head = snprintf(big, 64, "$%zu\r\n", len * 2);
    memset(big + head, 'x', len);
    connect_ms = 25000; /* a sanitizer on a busy machine */
    hostile(big, len, "limit");
    free(big);
}
