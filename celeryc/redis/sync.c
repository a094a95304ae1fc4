/* SPDX-License-Identifier: Apache-2.0 */
/* The connection of conn.c on a loop of its own, run only while a call waits; subscriptions go over a second one.
 *
 * An answer is copied into the arena of the object before its callback returns. A connection that is lost while an
 * answer is awaited is -EIO: the command may have run, and only the caller knows whether to send it again. The next call
 * connects anew. Pushes that come while something else is awaited are kept in order. */
#include "celeryc/redis/sync.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "celeryc/base/arena.h"
#include "celeryc/base/list.h"

#define REPLY_TIMEOUT_MS 30000

struct push {
    struct list link;
    struct arena *arena;
    struct redis_reply *reply;
};

struct redis_sync {
    uv_loop_t loop;
    bool loop_open;
    const struct redis_endpoint *ep;
    struct redis_conn *conn;
    struct redis_conn
        *sub; /* made by the first SUBSCRIBE: such a connection takes no other commands */
    uv_timer_t timer;
    bool timer_open;
    bool timed_out;
    bool failed; /* a connection attempt or the connection failed since the wait began */
    struct err why;
    char *masked;
    int64_t timeout_ms;
    struct arena *arena; /* of the last answer */
    struct redis_reply *reply;
    struct arena *push_arena; /* of the last push handed out */
    struct list pushes;
    size_t n_waiting; /* answers still to come */
    struct err first_error;
};

static struct redis_reply *copy_reply(struct arena *a, const struct redis_reply *from)
{
    struct redis_reply *to = arena_alloc(a, sizeof(*to));
    if (!to)
        return NULL;
    *to = *from;
    if (from->str.p && !(to->str.p = arena_strdup(a, from->str)))
        return NULL;
    if (from->kind != REDIS_R_ARRAY)
        return to;
    to->elem = arena_alloc_array(a, from->n, sizeof(*to->elem));
    if (!to->elem)
        return NULL;
    for (size_t i = 0; i < from->n; i++) {
        to->elem[i] = copy_reply(a, from->elem[i]);
        if (!to->elem[i])
            return NULL;
    }
    return to;
}

static void on_up(struct redis_conn *c, void *arg)
{
    struct redis_sync *s = arg;
    if (c == s->conn && s->sub)
        redis_conn_hurry(s->sub); /* it follows */
    uv_stop(&s->loop);
}

static void on_down(struct redis_conn *c, const char *reason, int64_t retry_ms, void *arg)
{
    struct redis_sync *s = arg;
    (void)c;
    if (retry_ms == 0)
        return; /* another server of the list is tried */
    s->failed = true;
    s->why.text[0] = '\0';
    (void)err_set(&s->why, -EIO, "%s", reason);
    uv_stop(&s->loop);
}

static struct push *push_free(struct push *p)
{
    if (!p)
        return NULL;
    arena_free(p->arena);
    free(p);
    return NULL;
}

static void on_push(struct redis_conn *c, const struct redis_reply *reply, void *arg)
{
    struct redis_sync *s = arg;
    struct push *p = calloc(1, sizeof(*p));
    if (p)
        p->arena = arena_new();
    if (p && p->arena)
        p->reply = copy_reply(p->arena, reply);
    if (!p || !p->reply) {
        push_free(p);
        redis_conn_drop(c, "out of memory");
        return;
    }
    list_push_back(&s->pushes, &p->link);
    uv_stop(&s->loop);
}

static void on_timeout(uv_timer_t *t)
{
    struct redis_sync *s = t->data;
    s->timed_out = true;
    uv_stop(&s->loop);
}

static void start_wait(struct redis_sync *s, int64_t timeout_ms)
{
    uv_update_time(&s->loop);
    s->timed_out = false;
    s->failed = false;
    if (timeout_ms >= 0)
        (void)uv_timer_start(&s->timer, on_timeout, (uint64_t)timeout_ms, 0);
    else
        (void)uv_timer_stop(&s->timer);
}

static int lost(struct redis_sync *s, struct err *e)
{
    return err_set(e, -EIO, "%s: %s", s->masked, s->why.text);
}

static int wait_up(struct redis_sync *s, const struct redis_conn *c, struct err *e)
{
    if (redis_conn_is_up(c))
        return 0;
    start_wait(s, s->timeout_ms);
    while (!redis_conn_is_up(c)) {
        (void)uv_run(&s->loop, UV_RUN_DEFAULT);
        /* A server that still loads its data is worth the wait; everything else is told at once. */
        if (s->failed && !strstr(s->why.text, "LOADING"))
            return lost(s, e);
        s->failed = false;
        if (s->timed_out)
            return err_set(e, -ETIMEDOUT, "%s: no answer within %lld ms", s->masked,
                           (long long)s->timeout_ms);
    }
    return 0;
}

static struct redis_conn *connection(struct redis_sync *s,
                                     void (*push)(struct redis_conn *c,
                                                  const struct redis_reply *reply, void *arg))
{
    struct redis_conn_options o = {.endpoint = s->ep,
                                   .connect_timeout_ms = s->timeout_ms,
                                   .reply_timeout_ms = REPLY_TIMEOUT_MS,
                                   .leader = push ? s->conn : NULL};
    struct redis_callbacks cb = {on_up, on_down, push};
    struct redis_conn *c = redis_conn_new(&s->loop, &o, &cb, s);
    if (c)
        redis_conn_start(c);
    return c;
}

int redis_sync_open(const struct redis_endpoint *ep, int64_t timeout_ms, struct redis_sync **ret_s,
                    struct err *e)
{
    CLEANUP(redis_sync_close) struct redis_sync *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    list_init(&s->pushes);
    s->timeout_ms = timeout_ms;
    s->masked = slice_dup(slice_str(ep->masked));
    s->arena = arena_new();
    int r = uv_loop_init(&s->loop);
    s->loop_open = r == 0;
    if (r)
        return err_set(e, r, "event loop: %s", err_errno(r));
    (void)uv_timer_init(&s->loop, &s->timer);
    s->timer.data = s;
    s->timer_open = true;
    s->ep = ep;
    (void)signal(SIGPIPE,
                 SIG_IGN); /* a server that hangs up is an error, not the end of the program */
    s->conn = connection(s, NULL);
    if (!s->conn || !s->masked || !s->arena)
        return -ENOMEM;
    r = wait_up(s, s->conn, e);
    if (r)
        return r;
    *ret_s = STEAL(s);
    return 0;
}

struct redis_sync *redis_sync_close(struct redis_sync *s)
{
    if (!s)
        return NULL;
    s->conn = redis_conn_free(s->conn);
    s->sub = redis_conn_free(s->sub);
    if (s->timer_open)
        uv_close((uv_handle_t *)&s->timer, NULL);
    if (s->loop_open) {
        while (uv_run(&s->loop, UV_RUN_DEFAULT))
            ; /* a uv_stop may still stand */
        int r = uv_loop_close(&s->loop);
        ASSERT(r == 0);
    }
    while (!list_empty(&s->pushes)) {
        struct push *p = LIST_ENTRY(s->pushes.next, struct push, link);
        list_remove(&p->link);
        push_free(p);
    }
    arena_free(s->arena);
    arena_free(s->push_arena);
    free(s->masked);
    free(s);
    return NULL;
}

static void on_reply(const struct redis_reply *reply, void *arg)
{
    struct redis_sync *s = arg;
    s->n_waiting--;
    if (reply && reply->kind == REDIS_R_ERROR)
        (void)err_set(&s->first_error, -EPROTO, "%s", reply->str.p);
    else if (reply && s->n_waiting == 0)
        s->reply = copy_reply(s->arena, reply);
    if (s->n_waiting == 0)
        uv_stop(&s->loop);
}

static int wait_replies(struct redis_sync *s, struct err *e)
{
    s->failed = false;
    (void)uv_timer_stop(&s->timer);
    while (s->n_waiting) {
        (void)uv_run(&s->loop, UV_RUN_DEFAULT);
        if (s->failed)
            return lost(s, e);
    }
    if (s->failed)
        return lost(s, e);
    if (!s->first_error.text[0])
        return 0;
    struct err first = s->first_error;
    s->first_error.text[0] = '\0'; /* told once */
    return err_set(e, -EPROTO, "%s", first.text);
}

static bool is_subscription(struct slice word)
{
    return slice_eq_str(word, "SUBSCRIBE") || slice_eq_str(word, "PSUBSCRIBE") ||
           slice_eq_str(word, "UNSUBSCRIBE") || slice_eq_str(word, "PUNSUBSCRIBE");
}

int redis_sync_subscribe(struct redis_sync *s, const char *word, size_t n,
                         const struct slice *channels, struct err *e)
{
    int r = redis_sync_flush(s, e);
    if (r)
        return r;
    if (!s->sub)
        s->sub = connection(s, on_push);
    if (!s->sub)
        return -ENOMEM;
    r = wait_up(s, s->sub, e);
    if (r)
        return r;
    s->first_error.text[0] = '\0';
    uv_update_time(&s->loop);
    for (size_t i = 0; i < n; i++) {
        const struct slice argv[] = {slice_str(word), channels[i]};
        s->n_waiting++;
        redis_command(s->sub, on_reply, s, 0, ARRAY_SIZE(argv), argv);
    }
    return wait_replies(s, e);
}

int redis_sync_command(struct redis_sync *s, size_t n, const struct slice *argv,
                       const struct redis_reply **ret_reply, struct err *e)
{
    int r = redis_sync_flush(s, e);
    if (r)
        return r;
    struct redis_conn *c = s->conn;
    if (is_subscription(argv[0])) {
        if (!s->sub)
            s->sub = connection(s, on_push);
        c = s->sub;
    }
    if (!c)
        return -ENOMEM;
    r = wait_up(s, c, e);
    if (r)
        return r;
    arena_reset(s->arena);
    s->reply = NULL;
    s->first_error.text[0] = '\0';
    s->n_waiting++;
    uv_update_time(&s->loop);
    redis_command(c, on_reply, s, 0, n, argv);
    r = wait_replies(s, e);
    if (r)
        return r;
    if (!s->reply)
        return -ENOMEM;
    *ret_reply = s->reply;
    return 0;
}

int redis_sync_eval(struct redis_sync *s, const struct redis_script *script, size_t n,
                    const struct slice *argv, const struct redis_reply **ret_reply, struct err *e)
{
    CLEANUP(mem_free) struct slice *all = calloc(n + 3, sizeof(*all));
    if (!all)
        return -ENOMEM;
    all[0] = SLICE_LIT("EVAL");
    all[1] = slice_str(script->source);
    all[2] = SLICE_LIT("0");
    if (n)
        memcpy(all + 3, argv, n * sizeof(*all));
    return redis_sync_command(s, n + 3, all, ret_reply, e);
}

void redis_sync_queue(struct redis_sync *s, size_t n, const struct slice *argv)
{
    struct err e = ERR_INIT;
    if (s->n_waiting == 0) {
        arena_reset(s->arena);
        s->reply = NULL;
        s->first_error.text[0] = '\0';
        int r = wait_up(s, s->conn, &e);
        if (r) {
            (void)err_set(&s->first_error, r, "%s", err_text(&e, r));
            return;
        }
    }
    if (s->first_error.text[0] && !redis_conn_is_up(s->conn))
        return;
    s->n_waiting++;
    redis_command(s->conn, on_reply, s, 0, n, argv);
}

int redis_sync_flush(struct redis_sync *s, struct err *e)
{
    int r = wait_replies(s, e);
    s->first_error.text[0] = '\0';
    arena_reset(s->arena);
    s->reply = NULL;
    return r;
}

int redis_sync_push(struct redis_sync *s, int64_t timeout_ms, const struct redis_reply **ret_reply,
                    struct err *e)
{
    s->push_arena = arena_free(s->push_arena);
    start_wait(s, timeout_ms);
    while (list_empty(&s->pushes)) {
        if (s->timed_out)
            return err_set(e, -ETIMEDOUT, "%s: nothing came within %lld ms", s->masked,
                           (long long)timeout_ms);
        (void)uv_run(&s->loop, UV_RUN_DEFAULT);
        if (s->failed)
            return lost(s, e);
    }
    (void)uv_timer_stop(&s->timer);
    struct push *p = LIST_ENTRY(s->pushes.next, struct push, link);
    list_remove(&p->link);
    s->push_arena = STEAL(p->arena);
    *ret_reply = p->reply;
    push_free(p);
    return 0;
}
