/* SPDX-License-Identifier: Apache-2.0 */
/* Result records and chords on a server of their own.
 *
 * A call is kept until it is answered: what is out when the connection goes is sent again in the same order. That is
 * harmless: records are written again, parts are counted once by id and index, members are added once by nonce, a
 * claim that is already ours counts as claimed. A record is never written over SUCCESS. Calls of one loop turn leave in
 * one script call; only one is out at a time, so that order holds.
 *
 * What two servers cannot promise: the records and parts of a task are stored before its claim is removed on the
 * broker, so those of a claim that turns out to be lost stay stored (as they do in Celery). Nothing is lost by it, and
 * no part counts twice. A chord's body is published between two steps here; the broker keeps a marker, so that it is
 * sent once even when the worker dies between them. */
#include <string.h>

#include "celeryc/base/list.h"
#include "celeryc/base/log.h"
#include "celeryc/redis/conn.h"
#include "celeryc/result/chord.h"
#include "celeryc/result/late.h"
#include "celeryc/result/result.h"

#define STORES_PER_CALL 200
#define BYTES_PER_CALL  (1u << 20)

struct store {
    struct list link;
    result_done_fn fn;
    void *arg;
    size_t bytes;
    size_t n;
    struct slice argv[];
};

struct result_backend {
    struct redis_conn *conn;
    struct result_late *late;
    uv_prepare_t turn;
    struct list waiting;
    struct list out;
    bool sent;
    bool freed;
    bool told; /* an outage was logged */
    struct result_args args;
};

/* Calls, each a letter and its arguments:
 *   T key value ttl m EFFECTS      record (key "": none) and m arguments of effects
 *   B key token life m EFFECTS     the same without a record, if the chord is token's to fire: its claim is extended
 * Returns one character for each: 1 done, 0 the chord is not ours, 2 done and a chord was claimed. */
static const struct redis_script script_store = {
    "store",
    "local A = ARGV\n"
    "local call, pcall_ = redis.call, redis.pcall\n" RESULT_EFFECTS_LUA "local out, i = {}, 1\n"
    "while A[i] do\n"
    "  local ok, m = true, tonumber(A[i + 4])\n"
    "  if A[i] == 'T' then\n"
    "    store(A[i + 1], A[i + 2], A[i + 3])\n"
    "  else\n"
    "    ok = ours(A[i + 1], A[i + 2])\n"
    "    if ok then call('SET', A[i + 1] .. '.c', A[i + 2], 'EX', A[i + 3]) end\n"
    "  end\n"
    "  local claimed = ok and m > 0 and effects(i + 5, m)\n"
    "  out[#out + 1] = claimed and '2' or ok and '1' or '0'\n"
    "  i = i + 5 + m\n"
    "end\n"
    "return table.concat(out)\n",
};

static const struct redis_script *const scripts[] = {
    &script_store, &chord_read,   &chord_scan,         &chord_leaves,
    &chord_extend, &chord_settle, &result_late_script, NULL,
};

static enum result_done done_of(char answer)
{
    if (answer == '2')
        return RESULT_CLAIMED;
    return answer == '0' ? RESULT_LOST : RESULT_DONE;
}

static void note_records(struct result_backend *b, const struct store *s)
{
    size_t at = 0;
    struct slice key;
    if (slice_eq_str(s->argv[0], "T"))
        result_late_note(b->late, s->argv[1]);
    while (result_effects_next_record(s->n - 5, s->argv + 5, &at, &key))
        result_late_note(b->late, key);
}

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
    for (size_t i = 0; !list_empty(&done); i++) {
        struct store *s = LIST_ENTRY(done.next, struct store, link);
        list_remove(&s->link);
        note_records(b, s);
        if (s->fn && !b->freed)
            s->fn(done_of(i < reply->str.len ? reply->str.p[i] : '1'), s->arg);
        free(s);
    }
}

static void send_out(struct result_backend *b)
{
    b->args.n = 0;
    b->args.failed = false;
    LIST_FOREACH(it, &b->out) {
        const struct store *s = LIST_ENTRY(it, struct store, link);
        for (size_t i = 0; i < s->n; i++)
            result_args_add(&b->args, s->argv[i]);
    }
    if (b->args.failed) {
        redis_conn_drop(b->conn, "out of memory");
        return;
    }
    b->sent = true;
    redis_eval(b->conn, &script_store, on_stored, b, b->args.n, b->args.v);
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
        bytes += s->bytes;
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
    if (b->conn)
        b->late = result_late_new(loop, b->conn);
    if (!b->late) {
        redis_conn_free(b->conn);
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
    b->late = result_late_free(b->late);
    free_all(&b->waiting);
    free_all(&b->out);
    result_args_deinit(&b->args);
    uv_close((uv_handle_t *)&b->turn, on_closed);
    return NULL;
}

static void issue(struct result_backend *b, const struct result_args *a, result_done_fn fn,
                  void *arg)
{
    size_t bytes = 0;
    for (size_t i = 0; i < a->n; i++)
        bytes += a->v[i].len;
    struct store *s = a->failed ? NULL : malloc(sizeof(*s) + a->n * sizeof(*a->v) + bytes + 1);
    if (!s) {
        log_critical("result backend: out of memory; the result of %.*s is not stored",
                     a->n > 1 ? (int)MIN(a->v[1].len, (size_t)200) : 0, a->n > 1 ? a->v[1].p : "");
        return;
    }
    *s = (struct store){.fn = fn, .arg = arg, .bytes = bytes, .n = a->n};
    char *p = (char *)(s->argv + a->n);
    for (size_t i = 0; i < a->n; i++) {
        s->argv[i] = (struct slice){p, a->v[i].len};
        if (a->v[i].len)
            memcpy(p, a->v[i].p, a->v[i].len);
        p += a->v[i].len;
    }
    list_push_back(&b->waiting, &s->link);
}

/* A letter with three arguments and effects. */
static void call_with(struct result_backend *b, const struct slice first[3], int64_t seconds,
                      const struct result_effects *x, result_done_fn fn, void *arg)
{
    CLEANUP(arena_free) struct arena *arena = arena_new();
    CLEANUP(result_args_deinit)
    struct result_args a = {.arena = arena, .failed = !arena};
    for (size_t i = 0; i < 3; i++)
        result_args_add(&a, first[i]);
    if (arena) {
        result_args_i64(&a, MAX(seconds, 0));
        result_args_i64(&a, (int64_t)result_effects_width(x));
        result_args_effects(&a, x);
    }
    issue(b, &a, fn, arg);
}

void result_backend_apply(struct result_backend *b, const struct result_record *record,
                          const struct result_effects *x, result_done_fn fn, void *arg)
{
    static const struct result_record none;
    const struct result_record *r = record ? record : &none;
    const struct slice first[] = {SLICE_LIT("T"), r->key, r->value};
    call_with(b, first, r->ttl_s, x, fn, arg);
}

void result_backend_begin_fire(struct result_backend *b, struct slice key, const char *token,
                               int64_t life_s, const struct result_effects *x, result_done_fn fn,
                               void *arg)
{
    const struct slice first[] = {SLICE_LIT("B"), key, slice_str(token)};
    call_with(b, first, life_s, x, fn, arg);
}

void result_backend_eval(struct result_backend *b, const struct redis_script *s, redis_reply_fn fn,
                         void *arg, size_t n, const struct slice *argv)
{
    redis_eval(b->conn, s, fn, arg, n, argv);
}
