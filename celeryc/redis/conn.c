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
 * question to a server that has been silent. Answers come in order, so pending commands are a queue; when the socket
 * goes, the whole queue gets NULL before on_down. The socket is an object of its own that is abandoned on loss: a late
 * callback finds no owner.
 *
 * What must never happen: a callback after redis_conn_free, a reply handed to the wrong command (an answer without a
 * pending command drops the connection), a callback from inside redis_command, or a state without a deadline. */
#include "celeryc/redis/conn.h"

#include <errno.h>
#include <stdarg.h>
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
#define OUT_KEEP_BYTES     (1u << 20)

struct pending {
    struct list link;
    redis_reply_fn fn;
    void *arg;
    uint64_t deadline_ms; /* uv_now */
};

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

static void release(struct redis_conn *c)
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
    release(c);
}

/* ---- pending commands ---- */

static void fail_all(struct list *l)
{
    while (!list_empty(l)) {
        struct pending *p = LIST_ENTRY(l->next, struct pending, link);
        list_remove(&p->link);
        if (p->fn)
            p->fn(NULL, p->arg);
        free(p);
    }
}

static void take_all(struct list *from, struct list *to)
{
    list_init(to);
    while (!list_empty(from)) {
        struct list *n = from->next;
        list_remove(n);
        list_push_back(to, n);
    }
}

static void on_timer(uv_timer_t *t);

void conn_arm(struct redis_conn *c, int64_t ms)
{
    (void)uv_timer_start(&c->timer, on_timer, ms < 0 ? 0 : (uint64_t)ms, 0);
}

/* When the oldest command is given up: its deadline, later while bytes still come (a big reply on a slow line). */
static uint64_t oldest_deadline(const struct redis_conn *c)
{
    const struct pending *p = LIST_ENTRY(c->pending.next, struct pending, link);
    if (c->state != CONN_UP)
        return p->deadline_ms;
    return MAX(p->deadline_ms, c->read_ms + (uint64_t)c->o.reply_timeout_ms);
}

/* Greeting and up: until the oldest command is given up, or it is time to ask a silent server. */
static void arm_for_next(struct redis_conn *c)
{
    bool health = c->state == CONN_UP && c->o.health_ms > 0;
    int64_t ms = c->o.health_ms;
    if (!list_empty(&c->pending)) {
        int64_t left = (int64_t)(oldest_deadline(c) - uv_now(c->loop));
        ms = health ? MIN(left, ms) : left;
    } else if (!health) {
        (void)uv_timer_stop(&c->timer);
        return;
    }
    conn_arm(c, ms);
}

static void enqueue(struct redis_conn *c, struct list *l, redis_reply_fn fn, void *arg,
                    int64_t deadline_ms)
{
    struct pending *p = calloc(1, sizeof(*p));
    if (!p) {
        c->out.failed = true; /* the flush drops the connection */
        if (fn)
            fn(NULL, arg);
        return;
    }
    if (deadline_ms <= 0)
        deadline_ms = c->o.reply_timeout_ms;
    *p = (struct pending){
        .fn = fn, .arg = arg, .deadline_ms = uv_now(c->loop) + (uint64_t)deadline_ms};
    bool first = list_empty(l);
    list_push_back(l, &p->link);
    if (l == &c->pending && first)
        arm_for_next(c);
}

void conn_send(struct redis_conn *c, redis_reply_fn fn, int64_t deadline_ms, size_t n,
               const struct slice *argv)
{
    redis_write_command(&c->out, n, argv);
    enqueue(c, &c->pending, fn, c, deadline_ms);
}

/* ---- replies ---- */

/* An error that a later attempt, perhaps on another server, can mend. BUSY: a script runs for long there. */
static bool means_not_now(struct slice text)
{
    static const char *const codes[] = {"READONLY", "LOADING",    "MASTERDOWN", "NOAUTH",
                                        "MISCONF",  "OOM",        "NOSCRIPT",   "NOREPLICAS",
                                        "BUSY",     "CLUSTERDOWN"};
    for (size_t i = 0; i < ARRAY_SIZE(codes); i++) {
        size_t len = strlen(codes[i]);
        if (text.len > len && memcmp(text.p, codes[i], len) == 0 && text.p[len] == ' ')
            return true;
        /* Redis 6.2 puts a script's error behind its own words: "ERR Error running script (...): ... -READONLY ..." */
        char inner[16];
        (void)snprintf(inner, sizeof(inner), " -%s ", codes[i]);
        if (text.len > 10 && memcmp(text.p, "ERR Error ", 10) == 0 &&
            memmem(text.p, text.len, inner, len + 3))
            return true;
    }
    return false;
}

/* In pub/sub mode answers to commands look like pushes: these kinds are answers. */
static bool is_push(const struct redis_conn *c, const struct redis_reply *reply)
{
    if (!c->cb.on_push || reply->kind != REDIS_R_ARRAY || reply->n == 0 ||
        reply->elem[0]->kind != REDIS_R_STRING)
        return false;
    struct slice kind = reply->elem[0]->str;
    return slice_eq_str(kind, "message") || slice_eq_str(kind, "pmessage");
}

static void handle_reply(struct redis_conn *c, const struct redis_reply *reply)
{
    if (is_push(c, reply)) {
        c->cb.on_push(c, reply, c->arg);
        return;
    }
    if (list_empty(&c->pending)) {
        conn_lose(c,
                  reply->kind == REDIS_R_ERROR ? reply->str.p
                                               : "the server sent an answer nobody asked for",
                  false);
        return;
    }
    if (c->state == CONN_UP && reply->kind == REDIS_R_ERROR && means_not_now(reply->str)) {
        conn_lose(c, reply->str.p, true); /* the command that it answers gets NULL, too */
        return;
    }
    struct pending *p = LIST_ENTRY(c->pending.next, struct pending, link);
    list_remove(&p->link);
    if (p->fn)
        p->fn(reply, p->arg);
    free(p);
}

static void on_read(void *arg, const char *data, size_t len)
{
    struct redis_conn *c = arg;
    unsigned generation = c->generation;
    c->read_ms = uv_now(c->loop);
    c->last_look = false;
    if (redis_reader_feed(c->reader, data, len)) {
        conn_lose(c, "a reply is over the limit, or memory is out", false);
        return;
    }
    c->busy++;
    for (;;) {
        const struct redis_reply *reply = NULL;
        struct err e = ERR_INIT;
        int r = redis_reader_next(c->reader, &reply, &e);
        if (r)
            conn_lose(c, err_text(&e, r), true);
        if (r || !reply)
            break;
        handle_reply(c, reply);
        if (c->generation != generation || c->state == CONN_CLOSED)
            break;
    }
    c->busy--;
    release(c);
}

/* ---- connecting and losing ---- */

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
    static const struct socket_callbacks callbacks = {on_connected, on_read, on_lost};
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
    if (oldest_deadline(c) > uv_now(c->loop)) {
        arm_for_next(c);
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
            arm_for_next(c);
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
    struct list lost;
    take_all(&c->pending, &lost);
    fail_all(&lost);
    if (c->state == CONN_WAITING && c->cb.on_down)
        c->cb.on_down(c, why.text, retry_ms, c->arg);
    c->busy--;
    release(c);
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

/* ---- writing ---- */

void redis_conn_flush(struct redis_conn *c)
{
    if (c->out.failed && c->socket) {
        conn_lose(c, "out of memory", false);
        return;
    }
    if (c->out.len == 0 || !c->socket || c->state == CONN_CONNECTING)
        return;
    if (socket_write(c->socket, &c->out))
        conn_lose(c, "out of memory", false);
    else if (c->out.cap > OUT_KEEP_BYTES)
        buf_deinit(&c->out);
}

static void on_prepare(uv_prepare_t *h)
{
    struct redis_conn *c = h->data;
    c->busy++;
    struct list refused;
    take_all(&c->refused, &refused);
    fail_all(&refused);
    redis_conn_flush(c);
    c->busy--;
    release(c);
}

void redis_command(struct redis_conn *c, redis_reply_fn fn, void *arg, int64_t deadline_ms,
                   size_t n, const struct slice *argv)
{
    if (c->state != CONN_UP) {
        enqueue(c, &c->refused, fn, arg, 0);
        return;
    }
    redis_write_command(&c->out, n, argv);
    enqueue(c, &c->pending, fn, arg, deadline_ms);
}

void redis_commandv(struct redis_conn *c, redis_reply_fn fn, void *arg, ...)
{
    struct slice argv[16];
    size_t n = 0;
    va_list ap;
    va_start(ap, arg);
    for (const char *word; (word = va_arg(ap, const char *)) != NULL;) {
        ASSERT(n < ARRAY_SIZE(argv));
        argv[n++] = slice_str(word);
    }
    va_end(ap);
    redis_command(c, fn, arg, 0, n, argv);
}

void redis_eval(struct redis_conn *c, const struct redis_script *s, redis_reply_fn fn, void *arg,
                size_t n, const struct slice *argv)
{
    if (c->state != CONN_UP) {
        enqueue(c, &c->refused, fn, arg, 0);
        return;
    }
    size_t i = 0;
    while (i < c->n_scripts && c->o.scripts[i] != s)
        i++;
    ASSERT(i < c->n_scripts);
    CLEANUP(mem_free) struct slice *all = calloc(n + 3, sizeof(*all));
    if (!all) {
        c->out.failed = true;
        enqueue(c, &c->pending, fn, arg, 0);
        return;
    }
    all[0] = SLICE_LIT("EVALSHA");
    all[1] = (struct slice){c->shas[i], SHA_BYTES};
    all[2] = SLICE_LIT("0");
    if (n)
        memcpy(all + 3, argv, n * sizeof(*all));
    redis_write_command(&c->out, n + 3, all);
    enqueue(c, &c->pending, fn, arg, 0);
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
    (void)uv_prepare_start(&c->prepare, on_prepare);
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
    struct list lost;
    take_all(&c->pending, &lost);
    fail_all(&lost);
    take_all(&c->refused, &lost);
    fail_all(&lost);
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

const char *redis_reply_error(const struct redis_reply *reply)
{
    if (!reply)
        return "connection lost";
    if (reply->kind == REDIS_R_ERROR)
        return reply->str.p;
    return "unexpected kind of answer";
}

bool redis_reply_ok(const struct redis_reply *reply)
{
    return reply && reply->kind != REDIS_R_ERROR;
}
