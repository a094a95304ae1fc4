/* SPDX-License-Identifier: Apache-2.0 */
/* The state machine of one connection.
 *
 *   IDLE --start--> RESOLVING -> CONNECTING -> GREETING -> UP
 *                       ^            |            |        |
 *                       +-- WAITING <+------------+--------+   (backoff 0.1 s doubling to 2 s)
 *   any --free--> CLOSED
 *
 * One timer serves every state: the connect deadline, the pause before the next attempt, the deadline of the oldest
 * pending command. Answers come in order, so pending commands are a queue; when the socket goes, the whole queue gets
 * NULL before on_down. The socket is an object of its own that is abandoned on loss: a late callback finds no owner.
 *
 * What must never happen: a callback after redis_conn_free, a reply handed to the wrong command (an answer without a
 * pending command drops the connection), or a callback from inside redis_command. */
#include "celeryc/redis/conn.h"

#include <errno.h>
#include <netdb.h>
#include <stdarg.h>
#include <string.h>

#include "celeryc/base/list.h"
#include "celeryc/base/num.h"
#include "celeryc/redis/reader.h"
#include "celeryc/redis/socket.h"

#define CONNECT_TIMEOUT_MS 4000
#define REPLY_TIMEOUT_MS   30000
#define BACKOFF_FIRST_MS   100
#define BACKOFF_MAX_MS     2000
#define SHA_BYTES          40
#define OUT_KEEP_BYTES     (1u << 20)

enum conn_state {
    CONN_IDLE,
    CONN_CONNECTING, /* resolving included */
    CONN_GREETING,
    CONN_UP,
    CONN_WAITING,
    CONN_CLOSED,
};

struct pending {
    struct list link;
    redis_reply_fn fn;
    void *arg;
    uint64_t deadline_ms; /* uv_now */
};

struct redis_conn {
    uv_loop_t *loop;
    struct redis_conn_options o;
    struct redis_callbacks cb;
    void *arg;
    enum conn_state state;
    uv_timer_t timer;
    uv_prepare_t prepare;
    int n_handles; /* timer and prepare that are not closed yet */
    int busy;      /* depth of our own frames that touch c after a callback */
    struct socket *socket;
    struct redis_reader *reader;
    struct buf out;
    struct list pending; /* sent, in order */
    struct list refused; /* issued while not up: get NULL in the prepare phase */
    uint64_t read_ms;    /* uv_now of the last bytes */
    unsigned generation; /* counts sockets, so that a loop over replies sees a change */
    int64_t backoff_ms;
    int64_t client_id;
    int version;
    char run_id[48];
    size_t n_scripts;
    char (*shas)[SHA_BYTES]; /* in the order of o.scripts */
    size_t greet_next_sha;
    struct err why; /* the first reason of the present loss */
};

static void conn_lose(struct redis_conn *c, const char *reason);

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

static void arm(struct redis_conn *c, int64_t ms)
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

static void arm_for_oldest(struct redis_conn *c)
{
    if (list_empty(&c->pending))
        (void)uv_timer_stop(&c->timer);
    else
        arm(c, (int64_t)(oldest_deadline(c) - uv_now(c->loop)));
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
    list_push_back(l, &p->link);
    if (l == &c->pending && !uv_is_active((uv_handle_t *)&c->timer))
        arm_for_oldest(c);
}

/* ---- the greeting ---- */

static void greet_failed(struct redis_conn *c, const char *what, const struct redis_reply *reply)
{
    char text[512];
    (void)snprintf(text, sizeof(text), "%s: %s", what, redis_reply_error(reply));
    conn_lose(c, text);
}

static void on_auth(const struct redis_reply *reply, void *arg)
{
    struct redis_conn *c = arg;
    if (!reply || redis_reply_ok(reply))
        return;
    greet_failed(c, "the server refused the user or password", reply);
}

/* The first answer of all: a server in protected mode or out of clients says so here and hangs up. */
static void on_setname(const struct redis_reply *reply, void *arg)
{
    struct redis_conn *c = arg;
    if (!reply || redis_reply_ok(reply))
        return;
    if (strncmp(reply->str.p, "DENIED", 6) == 0 || strncmp(reply->str.p, "ERR max", 7) == 0)
        greet_failed(c, "the server refused the connection", reply);
}

static void on_select(const struct redis_reply *reply, void *arg)
{
    struct redis_conn *c = arg;
    if (!reply || redis_reply_ok(reply))
        return;
    if (strncmp(reply->str.p, "NOAUTH", 6) == 0)
        greet_failed(c, "the server wants a password; give it in the URL", reply);
    else
        greet_failed(c, "cannot select the database", reply);
}

static void on_client_id(const struct redis_reply *reply, void *arg)
{
    struct redis_conn *c = arg;
    if (!reply)
        return;
    if (reply->kind == REDIS_R_INTEGER)
        c->client_id = reply->integer;
    else if (strncmp(reply->str.p ? reply->str.p : "", "NOAUTH", 6) == 0)
        greet_failed(c, "the server wants a password; give it in the URL", reply);
}

/* The value of "name:" in INFO's text. */
static struct slice info_value(struct slice info, const char *name)
{
    size_t len = strlen(name);
    const char *p = info.p, *end = info.p + info.len;
    while (p < end) {
        const char *eol = memchr(p, '\r', (size_t)(end - p));
        if (!eol)
            eol = end;
        if ((size_t)(eol - p) > len && memcmp(p, name, len) == 0 && p[len] == ':')
            return (struct slice){p + len + 1, (size_t)(eol - p) - len - 1};
        p = eol + 1;
        if (p < end && *p == '\n')
            p++;
    }
    return SLICE_NULL;
}

static int parse_version(struct slice s)
{
    uint32_t part[3] = {0};
    size_t n = 0;
    for (size_t i = 0; i < s.len && n < 3; i++) {
        if (s.p[i] == '.')
            n++;
        else if (s.p[i] >= '0' && s.p[i] <= '9' && part[n] < 1000)
            part[n] = part[n] * 10 + (uint32_t)(s.p[i] - '0');
        else
            return 0;
    }
    return (int)(part[0] * 10000 + part[1] * 100 + part[2]);
}

static void on_info(const struct redis_reply *reply, void *arg)
{
    struct redis_conn *c = arg;
    if (!reply || reply->kind == REDIS_R_ERROR)
        return; /* INFO may be denied: the run_id is then unknown */
    if (reply->kind != REDIS_R_STRING) {
        conn_lose(c, "not a Redis server: strange answer to INFO");
        return;
    }
    struct slice run_id = info_value(reply->str, "run_id");
    if (run_id.len < sizeof(c->run_id)) {
        memcpy(c->run_id, run_id.p ? run_id.p : "", run_id.len);
        c->run_id[run_id.len] = '\0';
    }
    c->version = parse_version(info_value(reply->str, "redis_version"));
}

static void on_script(const struct redis_reply *reply, void *arg)
{
    struct redis_conn *c = arg;
    if (!reply)
        return;
    if (reply->kind != REDIS_R_STRING || reply->str.len != SHA_BYTES) {
        char what[96];
        (void)snprintf(what, sizeof(what), "cannot load the script \"%s\"",
                       c->o.scripts[c->greet_next_sha]->name);
        greet_failed(c, what, reply);
        return;
    }
    memcpy(c->shas[c->greet_next_sha++], reply->str.p, SHA_BYTES);
}

static void on_greeted(const struct redis_reply *reply, void *arg)
{
    struct redis_conn *c = arg;
    if (!reply)
        return;
    if (reply->kind == REDIS_R_ERROR) {
        greet_failed(c, "the server refused PING", reply);
        return;
    }
    c->state = CONN_UP;
    c->backoff_ms = BACKOFF_FIRST_MS;
    if (c->cb.on_up)
        c->cb.on_up(c, c->arg);
}

static void send_now(struct redis_conn *c, redis_reply_fn fn, int64_t deadline_ms, size_t n,
                     const struct slice *argv)
{
    redis_write_command(&c->out, n, argv);
    enqueue(c, &c->pending, fn, c, deadline_ms);
}

static void send_words(struct redis_conn *c, redis_reply_fn fn, size_t n, const char *const *words)
{
    struct slice argv[4];
    for (size_t i = 0; i < n; i++)
        argv[i] = slice_str(words[i]);
    send_now(c, fn, c->o.connect_timeout_ms, n, argv);
}

static void greet(struct redis_conn *c)
{
    const struct redis_endpoint *ep = c->o.endpoint;
    c->state = CONN_GREETING;
    c->greet_next_sha = 0;
    (void)uv_timer_stop(&c->timer);
    if (ep->user)
        send_words(c, on_auth, 3,
                   (const char *[]){"AUTH", ep->user, ep->password ? ep->password : ""});
    else if (ep->password)
        send_words(c, on_auth, 2, (const char *[]){"AUTH", ep->password});
    if (ep->db) {
        char db[16];
        (void)snprintf(db, sizeof(db), "%d", ep->db);
        send_words(c, on_select, 2, (const char *[]){"SELECT", db});
    }
    if (c->o.client_name)
        send_words(c, on_setname, 3, (const char *[]){"CLIENT", "SETNAME", c->o.client_name});
    send_words(c, on_client_id, 2, (const char *[]){"CLIENT", "ID"});
    send_words(c, on_info, 2, (const char *[]){"INFO", "server"});
    for (size_t i = 0; i < c->n_scripts; i++)
        send_words(c, on_script, 3, (const char *[]){"SCRIPT", "LOAD", c->o.scripts[i]->source});
    send_words(c, on_greeted, 1, (const char *[]){"PING"});
    redis_conn_flush(c);
}

/* ---- replies ---- */

/* An error that a later attempt, perhaps on another server, can mend. */
static bool means_not_now(struct slice text)
{
    static const char *const codes[] = {"READONLY", "LOADING", "MASTERDOWN", "NOAUTH",
                                        "MISCONF",  "OOM",     "NOSCRIPT"};
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
        conn_lose(c, reply->kind == REDIS_R_ERROR ? reply->str.p
                                                  : "the server sent an answer nobody asked for");
        return;
    }
    if (c->state == CONN_UP && reply->kind == REDIS_R_ERROR && means_not_now(reply->str)) {
        conn_lose(c, reply->str.p); /* the command that it answers gets NULL with the others */
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
    if (redis_reader_feed(c->reader, data, len)) {
        conn_lose(c, "a reply is over the limit, or memory is out");
        return;
    }
    c->busy++;
    for (;;) {
        const struct redis_reply *reply = NULL;
        struct err e = ERR_INIT;
        int r = redis_reader_next(c->reader, &reply, &e);
        if (r)
            conn_lose(c, err_text(&e, r));
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
        conn_lose(c, "out of memory");
        return;
    }
    greet(c);
}

static void on_lost(void *arg, const char *reason)
{
    conn_lose(arg, reason);
}

static void connect_now(struct redis_conn *c)
{
    static const struct socket_callbacks callbacks = {on_connected, on_read, on_lost};
    c->state = CONN_CONNECTING;
    c->generation++;
    c->why.text[0] = '\0';
    buf_reset(&c->out);
    arm(c, c->o.connect_timeout_ms);
    c->socket = socket_open(c->loop, c->o.endpoint, &callbacks, c);
    if (!c->socket)
        conn_lose(c, "out of memory");
}

static void on_timer(uv_timer_t *t)
{
    struct redis_conn *c = t->data;
    if (c->state == CONN_WAITING) {
        connect_now(c);
    } else if (c->state == CONN_CONNECTING) {
        conn_lose(c, "Timeout connecting to server");
    } else if (!list_empty(&c->pending)) {
        if (oldest_deadline(c) <= uv_now(c->loop))
            conn_lose(c, "Timeout reading from server");
        else
            arm_for_oldest(c);
    }
}

static int64_t next_backoff(struct redis_conn *c)
{
    int64_t ms = c->backoff_ms;
    c->backoff_ms = MIN(c->backoff_ms * 2, BACKOFF_MAX_MS);
    /* Up to a quarter more, so that a fleet does not come back in step. */
    return ms + (int64_t)(uv_hrtime() / 1000 % (uint64_t)(ms / 4 + 1));
}

static void conn_lose(struct redis_conn *c, const char *reason)
{
    if (c->state == CONN_WAITING || c->state == CONN_CLOSED || c->state == CONN_IDLE)
        return;
    struct err why = ERR_INIT;
    (void)err_set(&why, -EIO, "%s", reason); /* reason may lie in a reply that goes */
    c->busy++;
    c->state = CONN_WAITING;
    c->generation++;
    c->client_id = 0;
    c->version = 0;
    c->run_id[0] = '\0';
    c->socket = socket_abandon(c->socket);
    buf_reset(&c->out);
    int64_t retry_ms = next_backoff(c);
    arm(c, retry_ms);
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
    conn_lose(c, reason);
}

/* ---- writing ---- */

void redis_conn_flush(struct redis_conn *c)
{
    if (c->out.failed && c->socket) {
        conn_lose(c, "out of memory");
        return;
    }
    if (c->out.len == 0 || !c->socket || c->state == CONN_CONNECTING)
        return;
    if (socket_write(c->socket, &c->out))
        conn_lose(c, "out of memory");
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

struct redis_conn *redis_conn_new(uv_loop_t *loop, const struct redis_conn_options *o,
                                  const struct redis_callbacks *cb, void *arg)
{
    struct redis_conn *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->loop = loop;
    c->o = *o;
    c->cb = *cb;
    c->arg = arg;
    c->backoff_ms = BACKOFF_FIRST_MS;
    if (!c->o.connect_timeout_ms)
        c->o.connect_timeout_ms = CONNECT_TIMEOUT_MS;
    if (!c->o.reply_timeout_ms)
        c->o.reply_timeout_ms = REPLY_TIMEOUT_MS;
    while (o->scripts && o->scripts[c->n_scripts])
        c->n_scripts++;
    c->shas = calloc(c->n_scripts + 1, sizeof(*c->shas));
    if (!c->shas) {
        free(c);
        return NULL;
    }
    list_init(&c->pending);
    list_init(&c->refused);
    (void)uv_timer_init(loop, &c->timer);
    (void)uv_prepare_init(loop, &c->prepare);
    c->timer.data = c->prepare.data = c;
    c->n_handles = 2;
    (void)uv_prepare_start(&c->prepare, on_prepare);
    uv_unref((uv_handle_t *)&c->prepare);
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
    c->state = CONN_CLOSED;
    c->socket = socket_abandon(c->socket);
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
