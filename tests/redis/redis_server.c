/* SPDX-License-Identifier: Apache-2.0 */
/* Starts redis-server as a child that dies with the test, and waits for it by connecting. */
#include "tests/redis/redis_server.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "celeryc/base/clock.h"

static void child(const struct redis_server *s, const char *const *args)
{
    const char *argv[32] = {
        "redis-server", "--port", "0",         "--unixsocket", s->socket,     "--save", "",
        "--dir",        s->dir,   "--logfile", "redis.log",    "--daemonize", "no"};
    size_t n = 13;
    for (size_t i = 0; args && args[i] && n < 31; i++)
        argv[n++] = args[i];
    argv[n] = NULL;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)execvp(argv[0], (char *const *)argv);
    _exit(127);
}

static void launch(struct redis_server *s, const char *const *args)
{
    /* It is started again when it ends: a port that was free a moment ago may be somebody else's for a moment. */
    int64_t deadline = clock_mono_ns() + 45 * NS_PER_S;
    for (s->pid = 0;;) {
        if (s->pid == 0 || waitpid(s->pid, NULL, WNOHANG) == s->pid)
            s->pid = fork();
        ASSERT(s->pid >= 0);
        if (s->pid == 0)
            child(s, args);
        CLEANUP(redis_sync_close) struct redis_sync *c = NULL;
        struct err e = ERR_INIT;
        if (redis_sync_open(&s->endpoint, 5000, &c, &e) == 0 || strstr(e.text, "password") ||
            strstr(e.text, "NOAUTH") || strstr(e.text, "refused"))
            if (!strstr(e.text, "Connection refused"))
                return;
        ASSERT(clock_mono_ns() < deadline);
        struct timespec pause = {0, 2 * NS_PER_MS};
        (void)nanosleep(&pause, NULL); /* between attempts; the loop ends when the server answers */
    }
}

void redis_server_start(struct redis_server *s, const char *const *args)
{
    (void)signal(SIGPIPE, SIG_IGN); /* as every program that uses a connection does */
    *s = (struct redis_server){.dir = "/tmp/celeryc-test-XXXXXX"};
    ASSERT(mkdtemp(s->dir));
    (void)snprintf(s->socket, sizeof(s->socket), "%s/redis.sock", s->dir);
    (void)snprintf(s->url, sizeof(s->url), "redis+socket://%s", s->socket);
    ASSERT(redis_endpoint_parse(s->url, &s->endpoint, NULL) == 0);
    launch(s, args);
}

void redis_server_kill(struct redis_server *s)
{
    if (!s->pid)
        return;
    (void)kill(s->pid, SIGCONT);
    (void)kill(s->pid, SIGKILL);
    (void)waitpid(s->pid, NULL, 0);
    s->pid = 0;
}

void redis_server_restart(struct redis_server *s, const char *const *args)
{
    redis_server_kill(s);
    launch(s, args);
}

void redis_server_stop(struct redis_server *s)
{
    static const char *const names[] = {"redis.sock", "redis.log", "dump.rdb"};
    redis_server_kill(s);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        char path[160];
        (void)snprintf(path, sizeof(path), "%s/%s", s->dir, names[i]);
        (void)unlink(path);
    }
    (void)rmdir(s->dir);
    redis_endpoint_deinit(&s->endpoint);
}

static void print(struct buf *b, const struct redis_reply *r)
{
    if (r->kind == REDIS_R_INTEGER)
        buf_appendf(b, "%lld", (long long)r->integer);
    else if (r->kind == REDIS_R_ARRAY)
        for (size_t i = 0; i < r->n; i++) {
            if (i)
                buf_append_char(b, ' ');
            print(b, r->elem[i]);
        }
    else
        buf_append_slice(b, r->str);
}

char *redis_server_ask(const struct redis_server *s, ...)
{
    CLEANUP(redis_sync_close) struct redis_sync *c = NULL;
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct slice argv[64];
    size_t n = 0;
    va_list ap;
    va_start(ap, s);
    for (const char *w; n < 64 && (w = va_arg(ap, const char *)) != NULL;)
        argv[n++] = slice_str(w);
    va_end(ap);
    struct err e = ERR_INIT;
    const struct redis_reply *reply = NULL;
    int r = redis_sync_open(&s->endpoint, 5000, &c, &e);
    if (!r)
        r = redis_sync_command(c, n, argv, &reply, &e);
    if (r)
        buf_append_str(&b, err_text(&e, r));
    else
        print(&b, reply);
    return buf_take(&b);
}
