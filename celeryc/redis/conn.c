/* SPDX-License-Identifier: Apache-2.0 */
/* The state machine of one connection.
 *
 *   IDLE --start--> [FINDING] --> CONNECTING --> GREETING --> UP
 *                       ^  |           |             |         |
 *                       |  +-----------+--> WAITING <+---------+   (backoff 0.1 s doubling to 2 s)
 *                       +----------------------+
 *   any --free--> CLOSED
 *
 * FINDING is only passed where Sentinel knows the server. conn_set_state is the one place that moves. One timer serves
 * every state: the connect deadline, the pause before the next attempt, the deadline of the oldest pending command, the
 * question to a server that has been silent. When the socket goes, every pending command (commands.c) gets NULL before
 * on_down. The socket is an object of its own that is abandoned on loss: a late callback finds no owner.
 *
 * What must never happen: a callback after redis_conn_free, or a state without a deadline. */
#include "celeryc/redis/conn.h"

#include <errno.h>
#include <string.h>

#include "celeryc/redis/conn_priv.h"
#include "celeryc/redis/reader.h"
#include "celeryc/redis/sentinel.h"
#include "celeryc/redis/socket.h"

#define CONNECT_TIMEOUT_MS 4000
#define REPLY_TIMEOUT_MS   10000
#define HEALTH_MS          5000
#define BACKOFF_FIRST_MS   100
#define BACKOFF_MAX_MS     2000

void conn_set_state(struct redis_conn *c, enum conn_state to)
{
#define TO(state) (1u << (state))
    static const unsigned moves[CONN_STATES] = {
        [CONN_IDLE] = TO(CONN_FINDING) | TO(CONN_CONNECTING) | TO(CONN_WAITING) | TO(CONN_CLOSED),
        [CONN_FINDING] = TO(CONN_CONNECTING) | TO(CONN_WAITING) | TO(CONN_CLOSED),
        [CONN_CONNECTING] = TO(CONN_GREETING) | TO(CONN_WAITING) | TO(CONN_CLOSED),
        [CONN_GREETING] = TO(CONN_UP) | TO(CONN_WAITING) | TO(CONN_CLOSED),
        [CONN_UP] = TO(CONN_WAITING) | TO(CONN_CLOSED),
        [CONN_WAITING] =
            TO(CONN_FINDING) | TO(CONN_CONNECTING) | TO(CONN_WAITING) | TO(CONN_CLOSED),
    };
    ASSERT(moves[c->state] & TO(to));
#undef TO
    c->state = to;
    if (to != CONN_UP)
        return;
    c->up_ms = c->read_ms;
    c->route.n_failed = 0;
    if (c->sentinel)
        sentinel_watch(c->sentinel, c->route.target.host, c->route.target.port);
}

void conn_release(struct redis_conn *c)
{
    if (c->state != CONN_CLOSED || c->n_handles || c->busy)
        return;
    redis_reader_free(c->reader);
    buf_deinit(&c->out);
    free(c->shas);
    free(c);
}

static void on_handle_closed(uv_handle_t *h)
{
    struct redis_conn *c = h->data;
    c->n_handles--;
    conn_release(c);
}

/* ---- connecting and losing ---- */

static void on_timer(uv_timer_t *t);

void conn_arm(struct redis_conn *c, int64_t ms)
{
    (void)uv_timer_start(&c->timer, on_timer, ms < 0 ? 0 : (uint64_t)ms, 0);
}

static void on_connected(void *arg)
{
    struct redis_conn *c = arg;
    redis_reader_free(c->reader);
    c->reader = redis_reader_new();
    if (!c->reader) {
        conn_lose(c, "out of memory", false);
        return;
    }
    conn_set_state(c, CONN_GREETING);
    c->read_ms = 0;
    (void)uv_timer_stop(&c->timer);
    conn_greet(c);
}

/* Before the first byte a server that hangs up may have expected another protocol. */
static void on_lost(void *arg, const char *reason)
{
    struct redis_conn *c = arg;
    const struct redis_endpoint *ep = &c->route.target;
    char text[512];
    bool silent =
        c->state == CONN_GREETING && c->read_ms == 0 && !ep->path && ep->o.tls.on != REDIS_YES;
    (void)snprintf(text, sizeof(text), "%s%s", reason,
                   silent ? " If this is a port for TLS, write rediss://." : "");
    conn_lose(c, text, false);
}

static void open_socket(struct redis_conn *c)
{
    static const struct socket_callbacks callbacks = {on_connected, conn_on_read, on_lost};
    conn_set_state(c, CONN_CONNECTING);
    conn_arm(c, c->o.connect_timeout_ms);
    c->socket = socket_open(c->loop, &c->route.target, &callbacks, c);
    if (!c->socket)
        conn_lose(c, "out of memory", false);
}

static void on_found(const char *host, int port, void *arg)
{
    struct redis_conn *c = arg;
    if (c->state != CONN_FINDING)
        return;
    if (route_aim_at(&c->route, host, port))
        conn_lose(c, "the Sentinel's answer is too long", true);
    else
        open_socket(c);
}

static void on_not_found(const char *reason, void *arg)
{
    struct redis_conn *c = arg;
    if (c->state == CONN_FINDING)
        conn_lose(c, reason, true);
}

static void on_moved(const char *host, int port, void *arg)
{
    char text[HOST_SIZE + 64];
    (void)snprintf(text, sizeof(text), "Sentinel says that the master is now %.255s:%d", host,
                   port);
    conn_lose(arg, text, false);
}

static void connect_now(struct redis_conn *c)
{
    c->generation++;
    buf_reset(&c->out);
    if (c->o.leader) {
        if (!redis_conn_is_up(c->o.leader)) {
            conn_set_state(c, CONN_WAITING);
            conn_arm(c, BACKOFF_MAX_MS);
            return;
        }
        route_follow(&c->route, &c->o.leader->route);
    } else if (c->sentinel) {
        conn_set_state(c, CONN_FINDING); /* has deadlines of its own */
        (void)uv_timer_stop(&c->timer);
        sentinel_ask(c->sentinel);
        return;
    } else {
        route_aim(&c->route);
    }
    open_socket(c);
}

/* A process that was frozen finds its deadlines passed although the answers lie in its sockets: one more turn. */
static void check_oldest(struct redis_conn *c)
{
    if (conn_oldest_deadline(c) > uv_now(c->loop)) {
        conn_arm_for_next(c);
    } else if (!c->last_look) {
        c->last_look = true;
        conn_arm(c, 1);
    } else {
        conn_lose(c, "Timeout reading from server", c->state != CONN_UP);
    }
}

static void on_timer(uv_timer_t *t)
{
    struct redis_conn *c = t->data;
    if (c->state == CONN_WAITING) {
        connect_now(c);
    } else if (c->state == CONN_CONNECTING) {
        conn_lose(c,
                  socket_in_handshake(c->socket)
                      ? "Timeout connecting to server: no answer in TLS; is it the port for TLS?"
                      : "Timeout connecting to server",
                  true);
    } else if (!list_empty(&c->pending)) {
        check_oldest(c);
    } else if (c->state == CONN_UP) {
        if (uv_now(c->loop) - c->read_ms >= (uint64_t)c->o.health_ms)
            redis_commandv(c, NULL, NULL, "PING", NULL);
        else
            conn_arm_for_next(c);
    }
}

static int64_t next_backoff(struct redis_conn *c)
{
    int64_t ms = c->backoff_ms;
    c->backoff_ms = MIN(c->backoff_ms * 2, BACKOFF_MAX_MS);
    /* Up to a quarter more, so that a fleet does not come back in step. */
    return ms + (int64_t)(uv_hrtime() / 1000 % (uint64_t)(ms / 4 + 1));
}

/* The pause before the next attempt; chooses its server. One that has held for a while has earned a quick return: a
 * server that takes us and refuses every write does not. */
static int64_t plan_retry(struct redis_conn *c, bool elsewhere)
{
    bool was_up = c->state == CONN_UP;
    if (was_up && uv_now(c->loop) - c->up_ms > BACKOFF_MAX_MS)
        c->backoff_ms = BACKOFF_FIRST_MS;
    if (c->sentinel) {
        if (c->state == CONN_GREETING && elsewhere)
            sentinel_distrust(c->sentinel);
        return next_backoff(c);
    }
    if (c->o.leader || (was_up && !elsewhere))
        return next_backoff(c);
    return route_next(&c->route) ? next_backoff(c) : 0;
}

void conn_lose(struct redis_conn *c, const char *reason, bool elsewhere)
{
    if (c->state == CONN_WAITING || c->state == CONN_CLOSED || c->state == CONN_IDLE)
        return;
    struct err why = ERR_INIT;
    (void)err_set(&why, -EIO, "%s", reason); /* reason may lie in a reply that goes */
    c->busy++;
    int64_t retry_ms = plan_retry(c, elsewhere || c->state == CONN_CONNECTING);
    conn_set_state(c, CONN_WAITING);
    c->generation++;
    c->client_id = 0;
    c->version = 0;
    c->run_id[0] = '\0';
    c->last_look = false;
    c->socket = socket_abandon(c->socket);
    if (c->sentinel)
        sentinel_rest(c->sentinel);
    buf_reset(&c->out);
    conn_arm(c, retry_ms);
    conn_fail_all(&c->pending);
    if (c->state == CONN_WAITING && c->cb.on_down)
        c->cb.on_down(c, why.text, retry_ms, c->arg);
    c->busy--;
    conn_release(c);
}

void redis_conn_drop(struct redis_conn *c, const char *reason)
{
    conn_lose(c, reason, false);
}

void redis_conn_hurry(struct redis_conn *c)
{
    if (c->state == CONN_WAITING)
        conn_arm(c, 0);
}

/* ---- life ---- */

/* What the endpoint says, else what the owner says, else the defaults. */
static void settle_options(struct redis_conn *c)
{
    const struct redis_options *given = &c->o.endpoint->o;
    struct redis_conn_options *o = &c->o;
    if (given->connect_timeout_ms)
        o->connect_timeout_ms = given->connect_timeout_ms;
    if (given->reply_timeout_ms)
        o->reply_timeout_ms = given->reply_timeout_ms;
    if (given->health_ms)
        o->health_ms = given->health_ms;
    if (!o->connect_timeout_ms)
        o->connect_timeout_ms = CONNECT_TIMEOUT_MS;
    if (!o->reply_timeout_ms)
        o->reply_timeout_ms = REPLY_TIMEOUT_MS;
    if (!o->health_ms)
        o->health_ms = HEALTH_MS;
    while (o->scripts && o->scripts[c->n_scripts])
        c->n_scripts++;
}

static void init_handles(struct redis_conn *c)
{
    (void)uv_timer_init(c->loop, &c->timer);
    (void)uv_prepare_init(c->loop, &c->prepare);
    c->timer.data = c->prepare.data = c;
    c->n_handles = 2;
    (void)uv_prepare_start(&c->prepare, conn_on_prepare);
    uv_unref((uv_handle_t *)&c->prepare);
}

struct redis_conn *redis_conn_new(uv_loop_t *loop, const struct redis_conn_options *o,
                                  const struct redis_callbacks *cb, void *arg)
{
    static const struct sentinel_callbacks sentinel = {on_found, on_not_found, on_moved};
    struct redis_conn *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->loop = loop;
    c->o = *o;
    c->cb = *cb;
    c->arg = arg;
    c->backoff_ms = BACKOFF_FIRST_MS;
    settle_options(c);
    route_init(&c->route, o->endpoint);
    c->shas = calloc(c->n_scripts + 1, sizeof(*c->shas));
    if (c->shas && o->endpoint->sentinels && !o->leader)
        c->sentinel = sentinel_new(loop, o->endpoint, &sentinel, c);
    if (!c->shas || (o->endpoint->sentinels && !o->leader && !c->sentinel)) {
        free(c->shas);
        free(c);
        return NULL;
    }
    list_init(&c->pending);
    list_init(&c->refused);
    init_handles(c);
    return c;
}

void redis_conn_start(struct redis_conn *c)
{
    if (c->state == CONN_IDLE)
        connect_now(c);
}

struct redis_conn *redis_conn_free(struct redis_conn *c)
{
    if (!c || c->state == CONN_CLOSED)
        return NULL;
    c->busy++;
    conn_set_state(c, CONN_CLOSED);
    c->socket = socket_abandon(c->socket);
    c->sentinel = sentinel_free(c->sentinel);
    conn_fail_all(&c->pending);
    conn_fail_all(&c->refused);
    uv_close((uv_handle_t *)&c->timer, on_handle_closed);
    uv_close((uv_handle_t *)&c->prepare, on_handle_closed);
    c->busy--;
    return NULL;
}

bool redis_conn_is_up(const struct redis_conn *c)
{
    return c->state == CONN_UP;
}

int64_t redis_conn_client_id(const struct redis_conn *c)
{
    return c->client_id;
}

const char *redis_conn_run_id(const struct redis_conn *c)
{
    return c->run_id;
}

int redis_conn_version(const struct redis_conn *c)
{
    return c->version;
}

const char *redis_conn_server(const struct redis_conn *c)
{
    return c->route.shown;
}
