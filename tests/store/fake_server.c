/* SPDX-License-Identifier: Apache-2.0 */
/* One thread serves one connection after the other. The mutex guards the list of requests. The thread ends when the
 * listening socket and the current connection are shut down from outside. */

#include "fake_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define REQUESTS_MAX 256

struct fake_server {
    pthread_mutex_t mutex;
    pthread_t thread;
    int listener, stop_pipe[2];
    int port;
    const struct fake_step *steps;
    size_t n_steps, next;
    struct fake_request requests[REQUESTS_MAX];
    size_t n_requests;
    unsigned connections;
};

/* Waits for bytes or the end; false at the end. */
static bool readable(struct fake_server *f, int fd)
{
    struct pollfd p[2] = {{fd, POLLIN, 0}, {f->stop_pipe[0], POLLIN, 0}};

    while (poll(p, 2, -1) < 0)
        ASSERT(errno == EINTR);
    return p[1].revents == 0;
}

static bool read_more(struct fake_server *f, int fd, struct buf *b)
{
    char bytes[65536];
    ssize_t n;

    if (!readable(f, fd))
        return false;
    n = recv(fd, bytes, sizeof(bytes), 0);
    if (n <= 0)
        return false;
    buf_append(b, bytes, (size_t)n);
    return true;
}

static size_t content_length(const char *head)
{
    const char *at = strcasestr(head, "\r\ncontent-length:");

    return at ? strtoul(at + 17, NULL, 10) : 0;
}

/* Reads one request off the connection and remembers it. */
static bool read_request(struct fake_server *f, int fd, struct buf *b)
{
    struct fake_request r = {.connection = f->connections};
    char *end;
    size_t head;

    while (!b->len || !(end = strstr(b->data, "\r\n\r\n")))
        if (!read_more(f, fd, b))
            return false;
    head = (size_t)(end - b->data) + 4;
    r.head = slice_dup((struct slice){b->data, head});
    r.body_len = content_length(r.head);
    if (strcasestr(r.head, "\r\nexpect: 100-continue"))
        ASSERT(send(fd, "HTTP/1.1 100 Continue\r\n\r\n", 25, MSG_NOSIGNAL) == 25);
    while (b->len < head + r.body_len) {
        if (!read_more(f, fd, b)) {
            free(r.head);
            return false;
        }
    }
    r.body = slice_dup((struct slice){b->data + head, r.body_len});
    buf_consume(b, head + r.body_len);
    (void)pthread_mutex_lock(&f->mutex);
    ASSERT(f->n_requests < REQUESTS_MAX);
    f->requests[f->n_requests++] = r;
    (void)pthread_mutex_unlock(&f->mutex);
    return true;
}

static bool answer(int fd, const struct fake_step *s, size_t promised)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    buf_appendf(&b, "HTTP/1.1 %d Fake\r\n%sContent-Length: %zu\r\n\r\n%s", s->status,
                s->headers ? s->headers : "", promised, s->body);
    return send(fd, b.data, b.len, MSG_NOSIGNAL) == (ssize_t)b.len;
}

static void reset(int fd)
{
    struct linger l = {1, 0};

    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
}

static void endless(struct fake_server *f, int fd)
{
    static char zeros[1 << 20];
    static const char head[] = "HTTP/1.1 200 Fake\r\nTransfer-Encoding: chunked\r\n\r\n";

    if (send(fd, head, sizeof(head) - 1, MSG_NOSIGNAL) < 0)
        return;
    while (send(fd, "100000\r\n", 8, MSG_NOSIGNAL) == 8 &&
           send(fd, zeros, sizeof(zeros), MSG_NOSIGNAL) == (ssize_t)sizeof(zeros) &&
           send(fd, "\r\n", 2, MSG_NOSIGNAL) == 2) {
        struct pollfd p = {f->stop_pipe[0], POLLIN, 0};

        if (poll(&p, 1, 0) > 0)
            return;
    }
}

/* False when the connection is over. */
static bool play(struct fake_server *f, int fd)
{
    const struct fake_step *s = &f->steps[f->next];

    f->next = MIN(f->next + 1, f->n_steps - 1);
    switch (s->kind) {
    case FAKE_ANSWER:
        return answer(fd, s, strlen(s->body));
    case FAKE_CUT:
        (void)answer(fd, s, strlen(s->body) + 100);
        return false;
    case FAKE_HUGE:
        (void)answer(fd, s, 2u << 30);
        return false;
    case FAKE_RESET:
        reset(fd);
        return false;
    case FAKE_GARBAGE:
        (void)!send(fd, "SSH-2.0-x\r\n", 11, MSG_NOSIGNAL);
        return false;
    case FAKE_ENDLESS:
        endless(f, fd);
        return false;
    case FAKE_SILENCE:
        (void)readable(f, fd); /* until the client gives up */
        return false;
    case FAKE_CLOSE:
        return false;
    }
    return false;
}

static void *serve(void *arg)
{
    struct fake_server *f = arg;

    while (readable(f, f->listener)) {
        CLEANUP(buf_deinit) struct buf b = BUF_INIT;
        int fd = accept4(f->listener, NULL, NULL, SOCK_CLOEXEC);

        if (fd < 0)
            break;
        f->connections++;
        while (read_request(f, fd, &b) && play(f, fd))
            ;
        (void)close(fd);
    }
    return NULL;
}

struct fake_server *fake_server_start(const struct fake_step *steps, size_t n)
{
    struct fake_server *f = calloc(1, sizeof(*f));
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);

    ASSERT(f);
    f->steps = steps;
    f->n_steps = n;
    f->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ASSERT(f->listener >= 0 && bind(f->listener, (struct sockaddr *)&a, len) == 0 &&
           listen(f->listener, 16) == 0 &&
           getsockname(f->listener, (struct sockaddr *)&a, &len) == 0 && pipe(f->stop_pipe) == 0);
    f->port = ntohs(a.sin_port);
    (void)pthread_mutex_init(&f->mutex, NULL);
    ASSERT(pthread_create(&f->thread, NULL, serve, f) == 0);
    return f;
}

struct fake_server *fake_server_stop(struct fake_server *f)
{
    if (!f)
        return NULL;
    ASSERT(write(f->stop_pipe[1], "x", 1) == 1);
    (void)pthread_join(f->thread, NULL);
    (void)close(f->stop_pipe[0]);
    (void)close(f->stop_pipe[1]);
    (void)close(f->listener);
    for (size_t i = 0; i < f->n_requests; i++) {
        free(f->requests[i].head);
        free(f->requests[i].body);
    }
    (void)pthread_mutex_destroy(&f->mutex);
    free(f);
    return NULL;
}

int fake_server_port(const struct fake_server *f)
{
    return f->port;
}

size_t fake_server_count(struct fake_server *f)
{
    size_t n;

    (void)pthread_mutex_lock(&f->mutex);
    n = f->n_requests;
    (void)pthread_mutex_unlock(&f->mutex);
    return n;
}

const struct fake_request *fake_server_request(struct fake_server *f, size_t i)
{
    ASSERT(i < fake_server_count(f));
    return &f->requests[i];
}
