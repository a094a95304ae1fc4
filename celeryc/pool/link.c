/* SPDX-License-Identifier: Apache-2.0 */
/* The master's link to the zygote: starting it, orders to fork and to signal, news of children.
 *
 * Orders to fork go one at a time, so that descriptors never pile up on the way; signals are small and the zygote
 * always reads, so a full socket means that it is stuck, which ends the pool. */

#include "celeryc/base/log.h"
#include "celeryc/pool/pool_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void send_order(struct pool *p, const struct buf *b, const int *fds, size_t n_fds)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int) * 2)];
    } control = {0};
    struct iovec iov = {b->data, b->len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (!p->zygote_alive)
        return;
    if (n_fds > 0) {
        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
    }
    ssize_t n = buf_ok(b) < 0 ? -1 : sendmsg(p->link_fd, &msg, MSG_NOSIGNAL);
    if (n < 0 && errno == EPIPE)
        return; /* its end is reported by on_exit */
    if (n != (ssize_t)b->len)
        pool_fail(p, 70, "the process that forks the pool's children does not take orders");
}

void link_spawn(struct pool *p, size_t place)
{
    struct member *m;
    int fds[2];
    struct err e = ERR_INIT;
    int rc = member_new(p, place, &m, fds, &e);
    if (rc < 0) {
        pool_fail(p, 70, err_text(&e, rc));
        return;
    }
    p->forking = m;
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    size_t at = frame_begin(&b, FRAME_SPAWN, m->id);
    cursor_put_slice(&b, slice_str(m->process));
    buf_append_u32le(&b, p->n_threads);
    frame_end(&b, at);
    send_order(p, &b, fds, 2);
    (void)close(fds[0]);
    (void)close(fds[1]);
}

void link_signal(struct pool *p, const struct member *m, int signum, bool asked)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    size_t at = frame_begin(&b, FRAME_SIGNAL, m->id);
    buf_append_u32le(&b, (uint32_t)signum);
    buf_append_u32le(&b, asked);
    frame_end(&b, at);
    send_order(p, &b, NULL, 0);
}

static void send_settings(struct pool *p)
{
    const struct task_settings *s = p->o.settings;
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    size_t at = frame_begin(&b, FRAME_SETTINGS, 0);
    cursor_put_slice(&b, slice_str(s->node ? s->node : ""));
    cursor_put_slice(&b, slice_str(s->default_queue ? s->default_queue : "celery"));
    buf_append_char(&b,
                    (char)((s->result_extended ? 1 : 0) | (s->ignore_result ? 2 : 0) |
                           (s->store_errors_even_if_ignored ? 4 : 0) | (s->track_started ? 8 : 0) |
                           (s->inherit_parent_priority ? 16 : 0) | (s->header_errbacks ? 32 : 0)));
    cursor_put_f64(&b, s->time_limit);
    cursor_put_f64(&b, s->soft_time_limit);
    buf_append_u32le(&b, (uint32_t)s->default_priority);
    const struct wire_options *w = &s->wire_options;
    const char *const texts[] = {w->accept,       w->serializer,  w->compression, w->key,
                                 w->key_password, w->certificate, w->cert_store,  w->digest};
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
        cursor_put_slice(&b, slice_str(texts[i]));
    frame_end(&b, at);
    send_order(p, &b, NULL, 0);
}

/* ---- news ---- */

static struct member *member_by_id(struct pool *p, uint64_t id)
{
    for (size_t i = 0; i < p->n_members; i++)
        if (p->members[i] && p->members[i]->id == id)
            return p->members[i];
    return NULL;
}

static void on_table(struct pool *p, const struct frame *f)
{
    struct err e = ERR_INIT;
    int rc = p->table ? -EEXIST : task_registry_decode(f->body, &p->table, &e);
    if (rc < 0)
        pool_fail(p, 70, err_text(&e, rc));
    else
        pool_settle(p);
}

static void on_spawned(struct pool *p, const struct frame *f)
{
    struct cursor c = cursor_init(f->body);
    uint32_t pid = cursor_u32(&c), error = cursor_u32(&c);
    struct member *m = p->forking;
    if (c.bad || !m || m->id != f->id)
        return;
    p->forking = NULL;
    if (pid > 0) {
        member_spawned(m, (int)pid);
    } else {
        p->start_failures++;
        (void)snprintf(p->last_failure, sizeof p->last_failure, "fork: %s", err_errno((int)error));
        member_free(m);
    }
    pool_settle(p);
}

static void on_exited(struct pool *p, const struct frame *f)
{
    struct cursor c = cursor_init(f->body);
    int status = (int)cursor_u32(&c);
    bool oom = cursor_u32(&c) != 0;
    struct member *m = member_by_id(p, f->id);
    if (!c.bad && m)
        member_exited(m, status, oom);
}

static void on_error(struct pool *p, const struct frame *f)
{
    CLEANUP(mem_free) char *text = slice_dup(f->body);
    pool_fail(p, 1, text ? text : "a plug-in does not load");
}

static void take_news(struct pool *p)
{
    struct frame f;
    size_t size, at = 0;
    int rc;
    while ((rc = frame_parse((struct slice){p->link_in.data + at, p->link_in.len - at}, &f,
                             &size)) == 0) {
        if (f.type == FRAME_TABLE)
            on_table(p, &f);
        else if (f.type == FRAME_ERROR)
            on_error(p, &f);
        else if (f.type == FRAME_SPAWNED)
            on_spawned(p, &f);
        else if (f.type == FRAME_EXITED)
            on_exited(p, &f);
        at += size;
        if (p->freed)
            return;
    }
    buf_consume(&p->link_in, at);
    if (rc < 0)
        pool_fail(p, 70, "the program that the pool starts is of another version");
}

/* Takes all that is there. False: the zygote has closed its end. */
static bool read_link(struct pool *p)
{
    for (;;) {
        ssize_t n = read(p->link_fd, p->read_buf, READ_BYTES);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 && errno == EAGAIN;
        buf_append(&p->link_in, p->read_buf, (size_t)n);
    }
}

static void on_poll(uv_poll_t *h, int status, int events)
{
    struct pool *p = h->data;
    (void)status; /* an error shows when reading */
    (void)events;
    /* read_buf is used by members, too: all bytes are taken before any is acted on. */
    if (!read_link(p))
        (void)uv_poll_stop(h); /* on_exit_zygote follows */
    take_news(p);
}

/* What the children had finished and started is told, then that the pool is gone; only then what was lost with it, so that
 * the master does not take it for the fault of the tasks. */
static void fail_with_zygote(struct pool *p, int status, int signum)
{
    char text[128];
    for (size_t i = 0; i < p->n_members; i++) {
        struct member *m = p->members[i];
        size_t before = SIZE_MAX;
        if (m)
            member_read_last(m);
        while (m && m->n_started != before) {
            before = m->n_started;
            member_report_started(m);
        }
    }
    if (signum)
        (void)snprintf(text, sizeof text, "the pool's zygote was killed by signal %d", signum);
    else
        (void)snprintf(text, sizeof text, "the pool's zygote ended with exit code %d", status);
    pool_fail(p, 70, text);
}

/* Its children die with it (PR_SET_PDEATHSIG); nobody is left to say how. */
static void on_exit_zygote(uv_process_t *h, int64_t status, int signum)
{
    struct pool *p = h->data;
    p->zygote_alive = false;
    (void)uv_poll_stop(&p->link);
    (void)read_link(p);
    take_news(p);
    if (!p->stopping && !p->fatal)
        fail_with_zygote(p, (int)status, signum);
    if (p->freed)
        return;
    for (size_t i = 0; i < p->n_members; i++)
        if (p->members[i])
            member_exited(p->members[i], SIGKILL, false);
    p->forking = NULL;
    pool_settle(p);
}

int link_start(struct pool *p, struct err *e)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return err_set(e, -errno, "cannot make a socket pair: %s", err_errno(errno));
    size_t n_args = 0;
    while (p->o.zygote_argv && p->o.zygote_argv[n_args])
        n_args++;
    CLEANUP(mem_free) char **argv = calloc(n_args + 2, sizeof *argv);
    int rc = argv ? 0 : -ENOMEM;
    if (rc == 0) {
        argv[0] = (char *)p->o.program;
        for (size_t i = 0; i < n_args; i++)
            argv[i + 1] = (char *)p->o.zygote_argv[i];
        uv_stdio_container_t stdio[] = {
            {.flags = UV_IGNORE},
            {.flags = UV_INHERIT_FD, .data.fd = 1},
            {.flags = UV_INHERIT_FD, .data.fd = 2},
            {.flags = UV_INHERIT_FD, .data.fd = pair[1]},
        };
        uv_process_options_t options = {
            .exit_cb = on_exit_zygote,
            .file = p->o.program,
            .args = argv,
            .stdio = stdio,
            .stdio_count = ARRAY_SIZE(stdio),
        };
        p->process.data = p;
        rc = uv_spawn(p->loop, &p->process, &options);
        p->n_handles++; /* also when it failed: the handle is initialised */
        if (rc < 0)
            (void)err_set(e, rc, "cannot start %s: %s", p->o.program, uv_strerror(rc));
    }
    (void)close(pair[1]);
    p->zygote_alive = rc == 0;
    p->link_fd = pair[0];
    if (rc < 0)
        return rc;
    (void)fcntl(p->link_fd, F_SETFL, O_NONBLOCK);
    p->link.data = p;
    rc = uv_poll_init(p->loop, &p->link, p->link_fd);
    if (rc == 0) {
        p->n_handles++;
        rc = uv_poll_start(&p->link, UV_READABLE, on_poll);
    }
    if (rc < 0)
        return err_set(e, rc, "cannot watch the pool: %s", uv_strerror(rc));
    send_settings(p);
    return 0;
}

void link_shutdown(struct pool *p)
{
    (void)shutdown(p->link_fd, SHUT_WR);
}

static void on_closed(uv_handle_t *h)
{
    pool_handle_closed(h->data);
}

void link_close(struct pool *p)
{
    if (p->zygote_alive) {
        (void)uv_process_kill(&p->process, SIGKILL);
        (void)waitpid(p->process.pid, NULL, 0);
    }
    p->zygote_alive = false;
    if (p->process.data)
        uv_close((uv_handle_t *)&p->process, on_closed);
    if (p->link.data)
        uv_close((uv_handle_t *)&p->link, on_closed);
    if (p->link_fd >= 0)
        (void)close(p->link_fd);
    p->link_fd = -1;
    buf_deinit(&p->link_in);
}
