/* SPDX-License-Identifier: Apache-2.0 */
/* One attempt to reach a server and the stream that comes of it, in TLS where the endpoint says so.
 *
 * Every address of a name is tried in turn; what comes after the connection (TLS) is not tried again. The object outlives its owner's interest: after socket_abandon it only
 * waits for libuv to give back what is under way, then frees itself. A handle that failed to connect is closed and
 * replaced for the next address, so the stream lies in an object of its own. */
#include "celeryc/redis/socket.h"

#include <errno.h>
#include <netdb.h>
#include <string.h>

#include "celeryc/base/err.h"
#include "celeryc/redis/tls.h"

#define READ_BYTES        (64u << 10)
#define TLS_READ_BYTES    (16u << 10) /* one record */
#define KEEPALIVE_SECONDS 20

struct stream {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    };

    uv_connect_t connect;
    struct socket *s; /* NULL: nobody listens any more */
    char in[READ_BYTES];
};

struct socket {
    uv_loop_t *loop;
    const struct redis_endpoint *ep;
    const struct socket_callbacks *cb;
    void *arg;
    bool abandoned;
    bool resolving;
    uv_getaddrinfo_t resolve;
    struct addrinfo *list, *next; /* addresses not tried yet */
    struct stream *stream;
    struct tls *tls;  /* NULL: in clear */
    bool open;        /* on_connected was called */
    uv_timer_t defer; /* a failure inside socket_open is told from the loop */
    bool defer_open;
    int defer_error;
    bool read_first;
};

struct write {
    uv_write_t req;
    char *data;
};

static void socket_release(struct socket *s)
{
    if (!s->abandoned || s->resolving || s->defer_open)
        return;
    if (s->list)
        uv_freeaddrinfo(s->list);
    tls_free(s->tls);
    free(s);
}

static void on_stream_closed(uv_handle_t *h)
{
    free(CONTAINER_OF(h, struct stream, handle));
}

static void drop_stream(struct socket *s)
{
    struct stream *st = s->stream;
    if (!st)
        return;
    st->s = NULL;
    s->stream = NULL;
    uv_close(&st->handle, on_stream_closed);
}

/* redis-py's words, which people grep for. */
static void tell_lost(struct socket *s, int error)
{
    char text[512];
    if (s->open)
        (void)snprintf(text, sizeof(text), "Error %d while writing to socket. %s.", -error,
                       err_errno(error));
    else if (s->ep->path)
        (void)snprintf(text, sizeof(text), "Error %d connecting to unix socket: %s. %s.", -error,
                       s->ep->path, err_errno(error));
    else
        (void)snprintf(text, sizeof(text), "Error %d connecting to %s:%d. %s.", -error, s->ep->host,
                       s->ep->port, err_errno(error));
    s->cb->on_lost(s->arg, text);
}

static void on_defer_closed(uv_handle_t *h)
{
    struct socket *s = h->data;
    s->defer_open = false;
    socket_release(s);
}

static void on_defer(uv_timer_t *t)
{
    struct socket *s = t->data;
    if (s->abandoned)
        return;
    /* A second timer, not of this moment, has the loop poll in between. */
    if (s->read_first)
        (void)uv_timer_start(&s->defer, on_defer, 1, 0);
    else
        tell_lost(s, s->defer_error);
    s->read_first = false;
}

static void fail_later(struct socket *s, int error)
{
    s->defer_error = error;
    (void)uv_timer_start(&s->defer, on_defer, 0, 0);
}

/* ---- writing ---- */

static void lose(struct socket *s, const char *reason)
{
    drop_stream(s);
    s->cb->on_lost(s->arg, reason);
}

static void on_written(uv_write_t *req, int status)
{
    struct write *w = CONTAINER_OF(req, struct write, req);
    struct stream *st = CONTAINER_OF(req->handle, struct stream, stream);
    free(w->data);
    free(w);
    /* What the server said before it hung up may still lie in the socket, and tells more: it is read first. */
    if (status == 0 || !st->s || st->s->abandoned)
        return;
    st->s->read_first = true;
    fail_later(st->s, status);
}

static int write_raw(struct socket *s, struct buf *b)
{
    uv_buf_t whole = uv_buf_init(b->data, (unsigned)b->len);
    int n = b->len ? uv_try_write(&s->stream->stream, &whole, 1) : 0;
    if (n < 0)
        n = 0; /* a broken socket is told by uv_write */
    if ((size_t)n == b->len) {
        buf_reset(b);
        return 0;
    }
    struct write *w = calloc(1, sizeof(*w));
    if (!w)
        return -ENOMEM;
    size_t rest = b->len - (size_t)n;
    w->data = buf_take(b);
    uv_buf_t left = uv_buf_init(w->data + n, (unsigned)rest);
    int r = uv_write(&w->req, &s->stream->stream, &left, 1, on_written);
    if (r) {
        free(w->data);
        free(w);
        fail_later(s, r);
    }
    return 0;
}

static int write_tls_output(struct socket *s)
{
    CLEANUP(buf_deinit) struct buf out = BUF_INIT;
    tls_take_output(s->tls, &out);
    return buf_ok(&out) ? -ENOMEM : write_raw(s, &out);
}

int socket_write(struct socket *s, struct buf *b)
{
    if (!s->stream) {
        buf_reset(b);
        return 0;
    }
    if (!s->tls)
        return write_raw(s, b);
    int r = tls_write(s->tls, buf_slice(b), NULL);
    buf_reset(b);
    if (r == -ENOMEM)
        return r;
    if (r)
        fail_later(s, -EPIPE);
    return write_tls_output(s);
}

/* ---- reading ---- */

static void on_alloc(uv_handle_t *h, size_t size, uv_buf_t *ret_buf)
{
    struct stream *st = CONTAINER_OF(h, struct stream, handle);
    (void)size;
    *ret_buf = uv_buf_init(st->in, sizeof(st->in));
}

static void lose_tls(struct socket *s, int code, struct err *e)
{
    struct err where = ERR_INIT;
    (void)err_set(&where, -EIO, "%s:%d: %s", s->ep->host, s->ep->port, err_text(e, code));
    lose(s, code == -EPIPE ? "Connection closed by server." : where.text);
}

/* Every call of the owner may abandon the socket; it lives until the loop turns. */
static void read_tls(struct socket *s, const char *data, size_t len)
{
    char clear[TLS_READ_BYTES];
    struct err e = ERR_INIT;
    size_t n = 0;
    int r = tls_feed(s->tls, data, len, &e);
    int sent = write_tls_output(s); /* an alert of ours leaves even when the session has failed */
    if (r == 0)
        r = sent;
    if (r == 0 && !s->open && tls_is_open(s->tls)) {
        s->open = true;
        s->cb->on_connected(s->arg);
    }
    while (r == 0 && !s->abandoned && s->stream && s->open) {
        r = tls_read(s->tls, clear, sizeof(clear), &n, &e);
        if (r || n == 0)
            break;
        s->cb->on_read(s->arg, clear, n);
    }
    if (r && !s->abandoned && s->stream)
        lose_tls(s, r, &e);
}

static void on_stream_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct stream *st = CONTAINER_OF(stream, struct stream, stream);
    struct socket *s = st->s;
    if (!s || n == 0)
        return;
    if (n > 0) {
        if (s->tls)
            read_tls(s, buf->base, (size_t)n);
        else
            s->cb->on_read(s->arg, buf->base, (size_t)n);
        return;
    }
    char text[128];
    if (n == UV_EOF)
        (void)snprintf(text, sizeof(text), "Connection closed by server.");
    else
        (void)snprintf(text, sizeof(text), "Error while reading from server: %s.",
                       err_errno((int)n));
    lose(s, text);
}

/* ---- connecting ---- */

static void start_tls(struct socket *s)
{
    struct err e = ERR_INIT;
    int r = tls_new(&s->ep->o.tls, s->ep->host, &s->tls, &e);
    if (r == 0)
        r = write_tls_output(s);
    if (r)
        lose_tls(s, r, &e);
}

static void try_next(struct socket *s, int last_error);

static void on_stream_connected(uv_connect_t *req, int status)
{
    struct stream *st = CONTAINER_OF(req, struct stream, connect);
    struct socket *s = st->s;
    if (!s)
        return;
    if (status == 0)
        status = uv_read_start(&st->stream, on_alloc, on_stream_read);
    if (status) {
        drop_stream(s);
        try_next(s, status);
        return;
    }
    if (!s->ep->path) {
        (void)uv_tcp_nodelay(&st->tcp, 1);
        (void)uv_tcp_keepalive(&st->tcp, s->ep->o.keepalive != REDIS_NO, KEEPALIVE_SECONDS);
    }
    if (!s->ep->path && s->ep->o.tls.on == REDIS_YES) {
        start_tls(s);
        return;
    }
    s->open = true;
    s->cb->on_connected(s->arg);
}

/* A fresh stream for one address; sa NULL: the Unix socket. */
static int start_stream(struct socket *s, const struct sockaddr *sa)
{
    struct stream *st = calloc(1, sizeof(*st));
    if (!st)
        return -ENOMEM;
    int r = sa ? uv_tcp_init(s->loop, &st->tcp) : uv_pipe_init(s->loop, &st->pipe, 0);
    if (r) {
        free(st);
        return r;
    }
    st->s = s;
    s->stream = st;
    if (!sa) {
        uv_pipe_connect(&st->connect, &st->pipe, s->ep->path, on_stream_connected);
        return 0;
    }
    r = uv_tcp_connect(&st->connect, &st->tcp, sa, on_stream_connected);
    if (r)
        drop_stream(s);
    return r;
}

static void try_next(struct socket *s, int last_error)
{
    while (s->next) {
        const struct addrinfo *ai = s->next;
        s->next = ai->ai_next;
        last_error = start_stream(s, ai->ai_addr);
        if (last_error == 0)
            return;
    }
    fail_later(s, last_error);
}

static void on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *list)
{
    struct socket *s = CONTAINER_OF(req, struct socket, resolve);
    s->resolving = false;
    s->list = s->next = status == 0 ? list : NULL;
    if (s->abandoned) {
        socket_release(s);
        return;
    }
    if (status) {
        char text[512];
        (void)snprintf(text, sizeof(text), "Error %d connecting to %s:%d. %s.", status, s->ep->host,
                       s->ep->port, uv_strerror(status));
        s->cb->on_lost(s->arg, text);
        return;
    }
    try_next(s, -ENOENT);
}

static int start_resolve(struct socket *s)
{
    char port[16];
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    (void)snprintf(port, sizeof(port), "%d", s->ep->port);
    int r = uv_getaddrinfo(s->loop, &s->resolve, on_resolved, s->ep->host, port, &hints);
    s->resolving = r == 0;
    return r;
}

/* A numeric address needs no resolver (and no thread). */
static int start_tcp(struct socket *s)
{
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    if (uv_ip4_addr(s->ep->host, s->ep->port, &v4) == 0)
        return start_stream(s, (const struct sockaddr *)&v4);
    if (uv_ip6_addr(s->ep->host, s->ep->port, &v6) == 0)
        return start_stream(s, (const struct sockaddr *)&v6);
    return start_resolve(s);
}

struct socket *socket_open(uv_loop_t *loop, const struct redis_endpoint *ep,
                           const struct socket_callbacks *cb, void *arg)
{
    struct socket *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    *s = (struct socket){.loop = loop, .ep = ep, .cb = cb, .arg = arg, .defer_open = true};
    (void)uv_timer_init(loop, &s->defer);
    s->defer.data = s;
    int r = ep->path ? start_stream(s, NULL) : start_tcp(s);
    if (r)
        fail_later(s, r);
    return s;
}

bool socket_in_handshake(const struct socket *s)
{
    return s->tls && !s->open;
}

struct socket *socket_abandon(struct socket *s)
{
    if (!s)
        return NULL;
    s->abandoned = true;
    drop_stream(s);
    if (s->resolving)
        (void)uv_cancel((uv_req_t *)&s->resolve);
    uv_close((uv_handle_t *)&s->defer, on_defer_closed);
    return NULL;
}
