/* SPDX-License-Identifier: Apache-2.0 */
/* Result records on a server of their own.
 *
 * A store is kept until it is answered: what is out when the connection goes is sent again in the same order, which
 * is harmless, since the same record is written twice at most. A record is never written over SUCCESS. Stores of one
 * loop turn leave in one script call; only one call is out at a time, so that order holds. */
#include <string.h>

#include "celeryc/base/list.h"
#include "celeryc/base/log.h"
#include "celeryc/redis/conn.h"
#include "celeryc/result/result.h"

#define STORES_PER_CALL 200
#define BYTES_PER_CALL  (1u << 20)

struct store {
    struct list link;
    struct slice key, value;
    int64_t ttl_s;
    void (*fn)(void *arg);
    void *arg;
    char bytes[];
};

struct result_backend {
    struct redis_conn *conn;
    uv_prepare_t turn;
    struct list waiting;
    struct list out;
    bool sent;
    bool freed;
    bool told; /* an outage was logged */
};

/* Triples: key, value, ttl. */
static const struct redis_script script_store = {
    "store",
    "for i = 1, #ARGV, 3 do\n"
    "  local key, value, ttl = ARGV[i], ARGV[i + 1], ARGV[i + 2]\n"
    "  if redis.pcall('GETRANGE', key, 0, 19) ~= '{\"status\": \"SUCCESS\"' then\n"
    "    if ttl == '0' then redis.call('SET', key, value)\n"
    "    else redis.call('SETEX', key, ttl, value) end\n"
    "    redis.call('PUBLISH', key, value)\n"
    "  end\n"
    "end\n"
    "return 1\n",
};

static const struct redis_script *const scripts[] = {&script_store, NULL};

static void on_stored(const struct redis_reply *reply, void *arg)
{
    struct result_backend *b = arg;
    b->sent = false;
    if (!reply || b->freed)
        return;
    if (reply->kind == REDIS_R_ERROR) {
        log_error("result backend: %s", reply->str.p);
        redis_conn_drop(b->conn, reply->str.p);
        return;
    }
    struct list done;
    list_init(&done);
    while (!list_empty(&b->out)) {
        struct list *first = b->out.next;
        list_remove(first);
        list_push_back(&done, first);
    }
    while (!list_empty(&done)) {
        struct store *s = LIST_ENTRY(done.next, struct store, link);
        list_remove(&s->link);
        if (s->fn && !b->freed)
            s->fn(s->arg);
        free(s);
    }
}

static void send_out(struct result_backend *b)
{
    struct slice argv[3 * STORES_PER_CALL];
    char ttl[STORES_PER_CALL][24];
    size_t n = 0;
    LIST_FOREACH(it, &b->out) {
        const struct store *s = LIST_ENTRY(it, struct store, link);
        (void)snprintf(ttl[n], sizeof(ttl[n]), "%lld", (long long)MAX(s->ttl_s, 0));
        argv[3 * n] = s->key;
        argv[3 * n + 1] = s->value;
        argv[3 * n + 2] = slice_str(ttl[n]);
        n++;
    }
    b->sent = true;
    redis_eval(b->conn, &script_store, on_stored, b, 3 * n, argv);
    redis_conn_flush(b->conn);
}

static void on_turn(uv_prepare_t *h)
{
    struct result_backend *b = h->data;
    if (b->sent || !redis_conn_is_up(b->conn))
        return;
    size_t n = 0, bytes = 0;
    LIST_FOREACH(it, &b->out)
        n++;
    while (n < STORES_PER_CALL && bytes < BYTES_PER_CALL && !list_empty(&b->waiting)) {
        struct store *s = LIST_ENTRY(b->waiting.next, struct store, link);
        list_remove(&s->link);
        list_push_back(&b->out, &s->link);
        bytes += s->value.len;
        n++;
    }
    if (n)
        send_out(b);
}

static void on_up(struct redis_conn *c, void *arg)
{
    struct result_backend *b = arg;
    (void)c;
    if (b->told)
        log_info("result backend: connected again");
    b->told = false;
}

static void on_down(struct redis_conn *c, const char *reason, int64_t retry_ms, void *arg)
{
    struct result_backend *b = arg;
    (void)c;
    (void)retry_ms;
    if (!b->told)
        log_error("result backend: %s Results are kept and stored when it is back.", reason);
    b->told = true;
}

struct result_backend *result_backend_new(uv_loop_t *loop, const struct redis_endpoint *ep)
{
    struct result_backend *b = calloc(1, sizeof(*b));
    if (!b)
        return NULL;
    struct redis_conn_options o = {
        .endpoint = ep, .client_name = "celeryc-result", .scripts = scripts};
    struct redis_callbacks cb = {on_up, on_down, NULL};
    b->conn = redis_conn_new(loop, &o, &cb, b);
    if (!b->conn) {
        free(b);
        return NULL;
    }
    list_init(&b->waiting);
    list_init(&b->out);
    (void)uv_prepare_init(loop, &b->turn);
    b->turn.data = b;
    (void)uv_prepare_start(&b->turn, on_turn);
    uv_unref((uv_handle_t *)&b->turn);
    redis_conn_start(b->conn);
    return b;
}

static void free_all(struct list *l)
{
    while (!list_empty(l)) {
        struct store *s = LIST_ENTRY(l->next, struct store, link);
        list_remove(&s->link);
        free(s);
    }
}

static void on_closed(uv_handle_t *h)
{
    free(h->data);
}

struct result_backend *result_backend_free(struct result_backend *b)
{
    if (!b)
        return NULL;
    b->freed = true;
    b->conn = redis_conn_free(b->conn);
    free_all(&b->waiting);
    free_all(&b->out);
    uv_close((uv_handle_t *)&b->turn, on_closed);
    return NULL;
}

void result_backend_store(struct result_backend *b, struct slice key, struct slice value,
                          int64_t ttl_s, void (*fn)(void *arg), void *arg)
{
    struct store *s = malloc(sizeof(*s) + key.len + value.len + 1);
    if (!s) {
        log_critical("result backend: out of memory; the result of %.*s is not stored",
                     (int)MIN(key.len, (size_t)200), key.p);
        return;
    }
    *s = (struct store){.ttl_s = ttl_s, .fn = fn, .arg = arg};
    if (key.len)
        memcpy(s->bytes, key.p, key.len);
    if (value.len)
        memcpy(s->bytes + key.len, value.p, value.len);
    s->key = (struct slice){s->bytes, key.len};
    s->value = (struct slice){s->bytes + key.len, value.len};
    list_push_back(&b->waiting, &s->link);
}
