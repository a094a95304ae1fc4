/* SPDX-License-Identifier: Apache-2.0 */
/* libmicrohttpd with a thread of its own. The run of the scaler hands a text over; `lock` guards text and alive_until_ns,
 * and nothing is called while it is held. */

#include "k8s/scaler/http.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/num.h"

#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS 32
#define TIMEOUT_S   10

struct http {
    struct MHD_Daemon *daemon;
    pthread_mutex_t lock;
    char *text;
    size_t len;
    int64_t alive_until_ns;
};

static enum MHD_Result reply(struct MHD_Connection *c, unsigned status, const char *type,
                             char *text_take, size_t len)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(len, text_take, MHD_RESPMEM_MUST_FREE);
    enum MHD_Result done;

    if (!r) {
        free(text_take);
        return MHD_NO;
    }
    (void)MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    done = MHD_queue_response(c, status, r);
    MHD_destroy_response(r);
    return done;
}

static enum MHD_Result reply_text(struct MHD_Connection *c, unsigned status, const char *text)
{
    char *copy = strdup(text);

    return copy ? reply(c, status, "text/plain; charset=utf-8", copy, strlen(copy)) : MHD_NO;
}

static enum MHD_Result reply_metrics(struct http *h, struct MHD_Connection *c)
{
    char *copy;
    size_t len;

    (void)pthread_mutex_lock(&h->lock);
    len = h->len;
    copy = slice_dup((struct slice){h->text ? h->text : "", len});
    (void)pthread_mutex_unlock(&h->lock);
    return copy ? reply(c, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", copy, len)
                : MHD_NO;
}

static bool is_alive(struct http *h)
{
    int64_t until_ns;

    (void)pthread_mutex_lock(&h->lock);
    until_ns = h->alive_until_ns;
    (void)pthread_mutex_unlock(&h->lock);
    return clock_mono_ns() < until_ns;
}

/* NOLINTBEGIN(readability-function-size,readability-non-const-parameter): the library's signature */
static enum MHD_Result on_request(void *arg, struct MHD_Connection *c, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_size, void **state)
{
    struct http *h = arg;

    (void)version;
    (void)upload;
    (void)state;
    if (*upload_size)
        return MHD_NO;
    if (!str_eq(method, "GET") && !str_eq(method, "HEAD"))
        return reply_text(c, MHD_HTTP_METHOD_NOT_ALLOWED, "GET only\n");
    if (str_eq(url, "/metrics"))
        return reply_metrics(h, c);
    if (str_eq(url, "/livez"))
        return is_alive(h) ? reply_text(c, MHD_HTTP_OK, "ok\n")
                           : reply_text(c, MHD_HTTP_SERVICE_UNAVAILABLE, "no run for too long\n");
    return reply_text(c, MHD_HTTP_NOT_FOUND, "/metrics and /livez are here\n");
}

/* NOLINTEND(readability-function-size,readability-non-const-parameter) */

/* A socket that listens; the library takes it as it is, so that v4 and v6 need no difference here. */
static int listen_at(const char *address, int *ret_fd, struct err *e)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_PASSIVE | AI_ADDRCONFIG};
    const char *colon = strrchr(address, ':');
    size_t n = colon ? (size_t)(colon - address) : 0;
    bool brackets = n >= 2 && address[0] == '[' && address[n - 1] == ']';
    CLEANUP(mem_free)
    char *host =
        slice_dup(brackets ? (struct slice){address + 1, n - 2} : (struct slice){address, n});
    struct addrinfo *found = NULL;
    int on = 1, fd, r;

    if (!colon || !host)
        return colon ? -ENOMEM : err_set(e, -EINVAL, "--listen: \"%s\" is no HOST:PORT", address);
    r = getaddrinfo(host[0] ? host : NULL, colon + 1, &hints, &found);
    if (r)
        return err_set(e, -EINVAL, "--listen %s: %s", address, gai_strerror(r));
    fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    r = fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) ||
                bind(fd, found->ai_addr, found->ai_addrlen) || listen(fd, CONNECTIONS)
            ? -errno
            : 0;
    freeaddrinfo(found);
    if (r == 0) {
        *ret_fd = fd;
        return 0;
    }
    if (fd >= 0)
        (void)close(fd);
    return err_set(e, r, "--listen %s: %s", address, err_errno(r));
}

int http_start(const char *address, struct http **ret_h, struct err *e)
{
    struct http *h = calloc(1, sizeof(*h));
    int fd = -1, r = h ? listen_at(address, &fd, e) : -ENOMEM;

    if (r) {
        free(h);
        return r;
    }
    (void)pthread_mutex_init(&h->lock, NULL);
    h->daemon =
        MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_AUTO, 0, NULL, NULL, on_request,
                         h, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS,
                         MHD_OPTION_CONNECTION_TIMEOUT, TIMEOUT_S, MHD_OPTION_END);
    if (!h->daemon) {
        (void)close(fd);
        http_stop(h);
        return err_set(e, -EIO, "--listen %s: the HTTP server did not start", address);
    }
    *ret_h = h;
    return 0;
}

struct http *http_stop(struct http *h)
{
    if (!h)
        return NULL;
    if (h->daemon)
        MHD_stop_daemon(h->daemon);
    (void)pthread_mutex_destroy(&h->lock);
    free(h->text);
    free(h);
    return NULL;
}

void http_publish(struct http *h, struct slice metrics, int64_t alive_until_ns)
{
    char *text = slice_dup(metrics), *old;

    (void)pthread_mutex_lock(&h->lock);
    old = h->text;
    h->text = text;
    h->len = text ? metrics.len : 0;
    h->alive_until_ns = alive_until_ns;
    (void)pthread_mutex_unlock(&h->lock);
    free(old);
}
