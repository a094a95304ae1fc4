/* SPDX-License-Identifier: Apache-2.0 */
/* Commands on their way and their answers.
 *
 * Answers come in order, so pending commands are a queue. Bytes leave in one write at the end of the loop turn.
 *
 * What must never happen: a reply handed to the wrong command (an answer without a pending command drops the connection),
 * or a callback from inside redis_command. */
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "celeryc/redis/conn_priv.h"
#include "celeryc/redis/reader.h"
#include "celeryc/redis/socket.h"

#define OUT_KEEP_BYTES (1u << 20)

struct pending {
    struct list link;
    redis_reply_fn fn;
    void *arg;
    uint64_t deadline_ms; /* uv_now */
};

/* Every command of the list gets NULL; those that are issued meanwhile come into the list anew. */
void conn_fail_all(struct list *from)
{
    struct list lost;
    list_init(&lost);
    while (!list_empty(from)) {
        struct list *n = from->next;
        list_remove(n);
        list_push_back(&lost, n);
    }
    while (!list_empty(&lost)) {
        struct pending *p = LIST_ENTRY(lost.next, struct pending, link);
        list_remove(&p->link);
        if (p->fn)
            p->fn(NULL, p->arg);
        free(p);
    }
}

/* When the oldest command is given up: its deadline, later while bytes still come (a big reply on a slow line). */
uint64_t conn_oldest_deadline(const struct redis_conn *c)
{
    const struct pending *p = LIST_ENTRY(c->pending.next, struct pending, link);
    if (c->state != CONN_UP)
        return p->deadline_ms;
    return MAX(p->deadline_ms, c->read_ms + (uint64_t)c->o.reply_timeout_ms);
}

/* Greeting and up: until the oldest command is given up, or it is time to ask a silent server. */
void conn_arm_for_next(struct redis_conn *c)
{
    bool health = c->state == CONN_UP && c->o.health_ms > 0;
    int64_t ms = c->o.health_ms;
    if (!list_empty(&c->pending)) {
        int64_t left = (int64_t)(conn_oldest_deadline(c) - uv_now(c->loop));
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
        conn_arm_for_next(c);
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

void conn_on_read(void *arg, const char *data, size_t len)
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
    conn_release(c);
}

/* ---- commands ---- */

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

void conn_on_prepare(uv_prepare_t *h)
{
    struct redis_conn *c = h->data;
    c->busy++;
    conn_fail_all(&c->refused);
    redis_conn_flush(c);
    c->busy--;
    conn_release(c);
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
