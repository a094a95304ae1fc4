/* SPDX-License-Identifier: Apache-2.0 */
/* One link per client connection: two pipes that copy to each other. */
#include "tests/transport/proxy.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "celeryc/base/list.h"

struct side {
    uv_pipe_t pipe;
    struct link *link;
    char in[65536];
};

struct link {
    struct list list;
    struct proxy *p;
    struct side client, server;
    uv_connect_t connect;
    int open;
    bool closing, cut;
};

struct proxy {
    uv_loop_t *loop;
    uv_pipe_t listener;
    struct list links;
    char *server_path, path[128], url[160];
    struct redis_endpoint endpoint;
    char *text;
    size_t n_swallowed;
};

static void on_side_closed(uv_handle_t *h)
{
    struct link *l = ((struct side *)h->data)->link;
    if (--l->open == 0)
        free(l);
}

static void link_close(struct link *l)
{
    if (l->closing)
        return;
    l->closing = true;
    list_remove(&l->list);
    uv_close((uv_handle_t *)&l->client.pipe, on_side_closed);
    uv_close((uv_handle_t *)&l->server.pipe, on_side_closed);
}

struct copy {
    uv_write_t req;
    char data[];
};

static void on_copied(uv_write_t *req, int status)
{
    (void)status;
    free(CONTAINER_OF(req, struct copy, req));
}

static void on_alloc(uv_handle_t *h, size_t size, uv_buf_t *buf)
{
    struct side *s = h->data;
    (void)size;
    *buf = uv_buf_init(s->in, sizeof(s->in));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct side *s = stream->data;
    struct link *l = s->link;
    struct proxy *p = l->p;
    if (n == 0)
        return;
    if (n < 0 || (s == &l->server && l->cut)) {
        link_close(l);
        return;
    }
    if (s == &l->client && p->text && memmem(buf->base, (size_t)n, p->text, strlen(p->text))) {
        free(p->text);
        p->text = NULL;
        p->n_swallowed++;
        l->cut = true;
    }
    struct copy *c = malloc(sizeof(*c) + (size_t)n);
    ASSERT(c);
    memcpy(c->data, buf->base, (size_t)n);
    uv_buf_t out = uv_buf_init(c->data, (unsigned)n);
    struct side *to = s == &l->client ? &l->server : &l->client;
    if (uv_write(&c->req, (uv_stream_t *)&to->pipe, &out, 1, on_copied)) {
        free(c);
        link_close(l);
    }
}

static void on_server(uv_connect_t *req, int status)
{
    struct link *l = CONTAINER_OF(req, struct link, connect);
    if (l->closing)
        return;
    if (status || uv_read_start((uv_stream_t *)&l->client.pipe, on_alloc, on_read) ||
        uv_read_start((uv_stream_t *)&l->server.pipe, on_alloc, on_read))
        link_close(l);
}

static void on_client(uv_stream_t *listener, int status)
{
    struct proxy *p = listener->data;
    struct link *l = calloc(1, sizeof(*l));
    ASSERT(l && status == 0);
    l->p = p;
    l->client.link = l->server.link = l;
    (void)uv_pipe_init(p->loop, &l->client.pipe, 0);
    (void)uv_pipe_init(p->loop, &l->server.pipe, 0);
    l->client.pipe.data = &l->client;
    l->server.pipe.data = &l->server;
    l->open = 2;
    list_push_back(&p->links, &l->list);
    ASSERT(uv_accept(listener, (uv_stream_t *)&l->client.pipe) == 0);
    uv_pipe_connect(&l->connect, &l->server.pipe, p->server_path, on_server);
}

struct proxy *proxy_new(uv_loop_t *loop, const char *server_path)
{
    struct proxy *p = calloc(1, sizeof(*p));
    ASSERT(p);
    p->loop = loop;
    list_init(&p->links);
    p->server_path = strdup(server_path);
    (void)snprintf(p->path, sizeof(p->path), "%s.proxy", server_path);
    (void)snprintf(p->url, sizeof(p->url), "redis+socket://%s", p->path);
    ASSERT(redis_endpoint_parse(p->url, &p->endpoint, NULL) == 0);
    (void)uv_pipe_init(loop, &p->listener, 0);
    p->listener.data = p;
    ASSERT(uv_pipe_bind(&p->listener, p->path) == 0);
    ASSERT(uv_listen((uv_stream_t *)&p->listener, 16, on_client) == 0);
    return p;
}

const struct redis_endpoint *proxy_endpoint(const struct proxy *p)
{
    return &p->endpoint;
}

void proxy_swallow(struct proxy *p, const char *text)
{
    free(p->text);
    p->text = strdup(text);
}

size_t proxy_swallowed(const struct proxy *p)
{
    return p->n_swallowed;
}

static void on_listener_closed(uv_handle_t *h)
{
    struct proxy *p = h->data;
    redis_endpoint_deinit(&p->endpoint);
    free(p->server_path);
    free(p->text);
    free(p);
}

void proxy_free(struct proxy *p)
{
    LIST_FOREACH(it, &p->links)
        link_close(LIST_ENTRY(it, struct link, list));
    (void)unlink(p->path);
    uv_close((uv_handle_t *)&p->listener, on_listener_closed);
}
