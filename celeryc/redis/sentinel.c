/* SPDX-License-Identifier: Apache-2.0 */
/* One connection to whichever Sentinel answers, kept as long as its owner wants to know about the master.
 *
 * A Sentinel that cannot be reached, does not know the master or was wrong about it is left for the next of the list.
 * While the owner's connection is up, the address is asked for again every WATCH_MS: that finds a failover whose
 * +switch-master message was lost, too, and a master that was cut off together with nobody but us. Sentinels tell the
 * address as they know it, so a worker must be able to reach the same one. */
#include "celeryc/redis/sentinel.h"

#include <errno.h>
#include <string.h>

#include "celeryc/base/num.h"
#include "celeryc/redis/conn_priv.h"

#define WATCH_MS  1000
#define ANSWER_MS 4000

enum sentinel_state {
    SENTINEL_RESTING,
    SENTINEL_ASKING,
    SENTINEL_WATCHING,
};

struct sentinel {
    const struct redis_endpoint *ep;
    const struct sentinel_callbacks *cb;
    void *arg;
    enum sentinel_state state;
    bool started, freed;
    struct redis_conn *conn;
    uv_timer_t timer;
    bool sent;       /* a question is out */
    size_t n_failed; /* Sentinels that could not be asked or did not know, since the question */
    char unknown
        [512]; /* what the last of these is told as; worth more than an address that is refused */
    char host[HOST_SIZE];
    int port; /* the master that is watched */
};

static void ask_now(struct sentinel *s);

static void fail(struct sentinel *s, const char *reason)
{
    if (s->state != SENTINEL_ASKING)
        return;
    s->state = SENTINEL_RESTING;
    s->cb->on_failed(reason, s->arg);
}

static void unknown(struct sentinel *s, const char *why)
{
    (void)snprintf(s->unknown, sizeof(s->unknown),
                   "%s knows no master named \"%.100s\" (%.200s); check master_name",
                   redis_conn_server(s->conn), s->ep->o.master_name, why);
    conn_lose(s->conn, s->unknown, true); /* on_down counts it */
}

static void tell(struct sentinel *s, const char *host, int port)
{
    if (s->state == SENTINEL_ASKING) {
        s->state = SENTINEL_RESTING;
        s->cb->on_found(host, port, s->arg);
    } else if (s->state == SENTINEL_WATCHING && (port != s->port || !str_eq(host, s->host))) {
        s->state = SENTINEL_RESTING;
        s->cb->on_moved(host, port, s->arg);
    }
}

static void on_address(const struct redis_reply *reply, void *arg)
{
    struct sentinel *s = arg;
    uint32_t port = 0;
    s->sent = false;
    if (!reply || s->freed || s->state == SENTINEL_RESTING)
        return;
    if (reply->kind != REDIS_R_ARRAY || reply->n != 2 || !reply->elem[0]->str.len ||
        num_parse_u32(reply->elem[1]->str, &port) || port == 0 || port > 65535) {
        unknown(s, reply->kind == REDIS_R_ERROR ? reply->str.p : "no address");
        return;
    }
    CLEANUP(mem_free) char *host = slice_dup(reply->elem[0]->str);
    if (host)
        tell(s, host, (int)port);
    else
        fail(s, "out of memory");
}

static void ask_now(struct sentinel *s)
{
    if (s->sent || !redis_conn_is_up(s->conn))
        return; /* on_up asks */
    s->sent = true;
    redis_commandv(s->conn, on_address, s, "SENTINEL", "GET-MASTER-ADDR-BY-NAME",
                   s->ep->o.master_name ? s->ep->o.master_name : "", NULL);
}

static void on_up(struct redis_conn *c, void *arg)
{
    struct sentinel *s = arg;
    (void)c;
    if (s->state != SENTINEL_RESTING)
        ask_now(s);
}

static void on_down(struct redis_conn *c, const char *reason, int64_t retry_ms, void *arg)
{
    struct sentinel *s = arg;
    char text[700];
    (void)c;
    (void)retry_ms;
    if (++s->n_failed < s->conn->route.n)
        return; /* the next one is tried */
    (void)snprintf(text, sizeof(text), "no Sentinel tells the master: %.600s",
                   s->unknown[0] ? s->unknown : reason);
    fail(s, text);
}

static void on_watch(uv_timer_t *t)
{
    struct sentinel *s = t->data;
    if (s->state == SENTINEL_WATCHING)
        ask_now(s);
}

struct sentinel *sentinel_new(uv_loop_t *loop, const struct redis_endpoint *ep,
                              const struct sentinel_callbacks *cb, void *arg)
{
    struct sentinel *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->ep = ep;
    s->cb = cb;
    s->arg = arg;
    int64_t timeout_ms = ep->o.connect_timeout_ms ? ep->o.connect_timeout_ms : ANSWER_MS;
    const struct redis_conn_options o = {.endpoint = ep->sentinels,
                                         .client_name = "celeryc-sentinel",
                                         .connect_timeout_ms = timeout_ms,
                                         .reply_timeout_ms = timeout_ms};
    const struct redis_callbacks on = {on_up, on_down, NULL};
    s->conn = redis_conn_new(loop, &o, &on, s);
    if (!s->conn) {
        free(s);
        return NULL;
    }
    (void)uv_timer_init(loop, &s->timer);
    s->timer.data = s;
    return s;
}

static void on_closed(uv_handle_t *h)
{
    free(h->data);
}

struct sentinel *sentinel_free(struct sentinel *s)
{
    if (!s)
        return NULL;
    s->freed = true;
    s->state = SENTINEL_RESTING;
    s->conn = redis_conn_free(s->conn);
    uv_close((uv_handle_t *)&s->timer, on_closed);
    return NULL;
}

void sentinel_ask(struct sentinel *s)
{
    s->state = SENTINEL_ASKING;
    s->n_failed = 0;
    s->unknown[0] = '\0';
    if (s->started)
        redis_conn_hurry(s->conn);
    s->started = true;
    redis_conn_start(s->conn);
    ask_now(s);
}

void sentinel_watch(struct sentinel *s, const char *host, int port)
{
    (void)snprintf(s->host, sizeof(s->host), "%s", host);
    s->port = port;
    s->state = SENTINEL_WATCHING;
    (void)uv_timer_start(&s->timer, on_watch, WATCH_MS, WATCH_MS);
}

void sentinel_rest(struct sentinel *s)
{
    s->state = SENTINEL_RESTING;
    (void)uv_timer_stop(&s->timer);
}

void sentinel_distrust(struct sentinel *s)
{
    conn_lose(s->conn, "its master was none", true);
}
