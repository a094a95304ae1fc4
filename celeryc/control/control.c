/* SPDX-License-Identifier: Apache-2.0 */
/* The connections: mailbox in, replies, REVOKED records and events out.
 *
 * The subscriber SUBSCRIBEs to the one channel of the mailbox (kombu's PSUBSCRIBE of the same text; the key prefix may hold
 * what a pattern would read). Worker-online follows when mailbox and command connection are both up, after every
 * reconnect, so that nobody is told of a worker that would not hear. A reply is pushed by a script that looks its queue up
 * in kombu's binding table: a client that left has no binding, and nothing else than a reply queue is ever pushed to.
 * A revoke answers when its records are stored, as Celery does. Nothing here waits for a child. */

#include "celeryc/control/control_priv.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/log.h"
#include "celeryc/message/record.h"
#include "celeryc/redis/conn.h"
#include "celeryc/result/result.h"

#include <errno.h>

#define PING_MS        25000   /* kombu's health_check_interval */
#define BINDING_MS     3600000 /* kombu's least deadline of an expiring binding */
#define IDS_PER_SCRIPT 200

struct control {
    uv_loop_t *loop;
    const struct control_options *o;
    struct panel panel;
    struct redis_conn *mailbox, *commands, *results; /* results: NULL when it is commands */
    struct arena *arena;
    uv_timer_t beat, ping, bind;
    int n_timers;
    struct buf channel, exchange, reply_exchange, queue, event_channel;
    const char *sep;
    uint64_t mailbox_clock;
    bool subscribed, announced, told, gone, freed;
    void (*left)(void *arg);
    void *left_arg;
};

/* prefix, exchange, routing key, separator, envelope. Only lists named like the exchange's reply queues. */
static const struct redis_script script_reply = {
    "reply",
    "local prefix, exchange, rk, sep, raw = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]\n"
    "local tail, n = '.' .. exchange, 0\n"
    "for _, m in ipairs(redis.call('SMEMBERS', prefix .. '_kombu.binding.' .. exchange)) do\n"
    "  local first = string.find(m, sep, 1, true)\n"
    "  if first and string.sub(m, 1, first - 1) == rk then\n"
    "    local at = first\n"
    "    while true do\n"
    "      local later = string.find(m, sep, at + #sep, true)\n"
    "      if not later then break end\n"
    "      at = later\n"
    "    end\n"
    "    local queue = string.sub(m, at + #sep)\n"
    "    if string.sub(queue, -#tail) == tail then\n"
    "      local r = redis.pcall('LPUSH', prefix .. queue, raw)\n"
    "      if type(r) == 'number' then\n"
    "        redis.call('PEXPIRE', prefix .. queue, 60000)\n"
    "        n = n + 1\n"
    "      end\n"
    "    end\n"
    "  end\n"
    "end\n"
    "return n\n",
};

/* Triples key, record, ttl: REVOKED over nothing and over states that nobody works on. A record that is not plain JSON
 * (compressed, say) is left to those who wrote it. */
static const struct redis_script script_revoke = {
    "revoke",
    "local may = {PENDING = true, RECEIVED = true, RETRY = true, REJECTED = true}\n"
    "for i = 1, #ARGV, 3 do\n"
    "  local key, value, ttl = ARGV[i], ARGV[i + 1], ARGV[i + 2]\n"
    "  local old = redis.pcall('GETRANGE', key, 0, 127)\n"
    "  local state = type(old) == 'string' and string.match(old, "
    "'^{%s*\"status\"%s*:%s*\"([^\"]*)\"')\n"
    "  if old == '' or (state and may[state]) then\n"
    "    if ttl == '0' then redis.call('SET', key, value)\n"
    "    else redis.call('SETEX', key, ttl, value) end\n"
    "    redis.call('PUBLISH', key, value)\n"
    "  end\n"
    "end\n"
    "return 1\n",
};

/* prefix, exchange, member, ttl ms: kombu's binding of a queue that expires, with its deadline. */
static const struct redis_script script_bind = {
    "bind",
    "local t = redis.call('TIME')\n"
    "redis.call('SADD', ARGV[1] .. '_kombu.binding.' .. ARGV[2], ARGV[3])\n"
    "redis.call('ZADD', ARGV[1] .. '_kombu.binding_deadlines', 'GT',\n"
    "  string.format('%d', t[1] * 1000 + math.floor(t[2] / 1000) + ARGV[4]), ARGV[2])\n"
    "return 1\n",
};

/* prefix, exchange, member */
static const struct redis_script script_unbind = {
    "unbind",
    "redis.call('SREM', ARGV[1] .. '_kombu.binding.' .. ARGV[2], ARGV[3])\n"
    "redis.call('SREM', ARGV[1] .. '_kombu.binding_permanent.' .. ARGV[2], ARGV[3])\n"
    "return 1\n",
};

static const struct redis_script *const scripts[] = {&script_reply, &script_revoke, &script_bind,
                                                     &script_unbind, NULL};
static const struct redis_script *const result_scripts[] = {&script_revoke, NULL};

static struct slice prefix_of(const struct control *c)
{
    return slice_str(c->o->key_prefix);
}

static void log_refusal(const struct redis_reply *reply, void *arg)
{
    if (reply && !redis_reply_ok(reply))
        log_error("remote control: %s: %s", (const char *)arg, redis_reply_error(reply));
}

/* ---- events ---- */

static void publish_event(struct control *c, enum event_kind kind, redis_reply_fn fn, void *arg)
{
    CLEANUP(buf_deinit) struct buf body = BUF_INIT;
    CLEANUP(buf_deinit) struct buf raw = BUF_INIT;
    CLEANUP(buf_deinit) struct buf headers = BUF_INIT;
    CLEANUP(buf_deinit) struct buf channel = BUF_INIT;
    const char *key = event_write(&body, &c->panel, kind, c->o->heartbeat_ms);
    buf_append_str(&headers, "{\"hostname\": ");
    json_write_string(&headers, slice_str(c->o->node));
    buf_append_char(&headers, '}');
    mailbox_write(&raw, buf_slice(&body), buf_slice(&headers),
                  slice_str(c->o->event_exchange ? c->o->event_exchange : "celeryev"),
                  slice_str(key), 1);
    buf_append_slice(&channel, buf_slice(&c->event_channel));
    buf_append_str(&channel, key);
    if (buf_ok(&body) || buf_ok(&raw) || buf_ok(&headers) || buf_ok(&channel)) {
        log_error("out of memory: an event is not sent");
        return;
    }
    const struct slice argv[] = {SLICE_LIT("PUBLISH"), buf_slice(&channel), buf_slice(&raw)};
    redis_command(c->commands, fn ? fn : log_refusal, fn ? arg : (void *)"PUBLISH", 0,
                  ARRAY_SIZE(argv), argv);
}

static void on_beat(uv_timer_t *t)
{
    struct control *c = t->data;
    if (redis_conn_is_up(c->commands))
        publish_event(c, EVENT_HEARTBEAT, NULL, NULL);
}

/* ---- replies ---- */

static void send_reply(struct control *c, const struct mailbox_message *m, struct slice reply)
{
    CLEANUP(buf_deinit) struct buf body = BUF_INIT;
    CLEANUP(buf_deinit) struct buf headers = BUF_INIT;
    CLEANUP(buf_deinit) struct buf raw = BUF_INIT;
    if (!slice_eq(m->exchange, buf_slice(&c->reply_exchange))) {
        log_error("remote control: a reply was asked for by way of %.*s, which is no mailbox",
                  (int)MIN(m->exchange.len, 100), m->exchange.p);
        return;
    }
    buf_append_char(&body, '{');
    json_write_string(&body, slice_str(c->o->node));
    buf_append_str(&body, ": ");
    buf_append_slice(&body, reply);
    buf_append_char(&body, '}');
    buf_append_str(&headers, "{\"ticket\": ");
    buf_append_slice(&headers, m->ticket.raw.len ? m->ticket.raw : SLICE_LIT("null"));
    buf_appendf(&headers, ", \"clock\": %llu}", (unsigned long long)++c->mailbox_clock);
    if (buf_ok(&body) == 0 && buf_ok(&headers) == 0)
        mailbox_write(&raw, buf_slice(&body), buf_slice(&headers), m->exchange, m->routing_key, 1);
    if (buf_ok(&raw) || !raw.len) {
        log_error("out of memory: a reply is not sent");
        return;
    }
    const struct slice argv[] = {prefix_of(c), m->exchange, m->routing_key, slice_str(c->sep),
                                 buf_slice(&raw)};
    redis_eval(c->commands, &script_reply, log_refusal, (void *)"reply", ARRAY_SIZE(argv), argv);
}

/* ---- revoke: records, then the reply ---- */

struct storing {
    struct control *c;
    struct arena *arena; /* holds m and reply */
    struct mailbox_message m;
    struct slice reply;
    size_t n_out;
};

static void stored(const struct redis_reply *reply, void *arg)
{
    struct storing *s = arg;
    struct control *c = s->c;
    if (!redis_reply_ok(reply) && !c->freed)
        log_warning("Failed to mark a task as revoked in backend: %s", redis_reply_error(reply));
    if (--s->n_out)
        return;
    if (s->m.wants_reply && !c->freed)
        send_reply(c, &s->m, s->reply);
    arena_free(s->arena);
    free(s);
}

static void write_revoked(struct buf *dst, struct slice id)
{
    CLEANUP(buf_deinit) struct buf result = BUF_INIT;
    record_write_exception(&result, SLICE_LIT("TaskRevokedError"), SLICE_LIT("[\"revoked\"]"),
                           SLICE_LIT("celery.exceptions"));
    const struct record r = {
        .status = "REVOKED",
        .result = buf_slice(&result),
        .children = SLICE_LIT("null"),
        .done_us = clock_wall_us(),
        .task_id = id,
    };
    if (buf_ok(&result) || record_write(dst, &r))
        dst->failed = true;
}

/* One script for up to IDS_PER_SCRIPT ids. */
static int store_some(struct control *c, struct storing *s, size_t n, const struct slice *ids)
{
    struct slice argv[3 * IDS_PER_SCRIPT];
    size_t key_len[IDS_PER_SCRIPT], record_len[IDS_PER_SCRIPT], at = 0;
    char ttl[24];
    CLEANUP(buf_deinit) struct buf all = BUF_INIT;
    (void)snprintf(ttl, sizeof(ttl), "%lld", (long long)MAX(c->o->result_ttl_s, 0));
    for (size_t i = 0; i < n; i++) {
        size_t before = all.len;
        result_key(&all, c->o->result_key_prefix, ids[i]);
        key_len[i] = all.len - before;
        before = all.len;
        write_revoked(&all, ids[i]);
        record_len[i] = all.len - before;
    }
    if (buf_ok(&all))
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        argv[3 * i] = (struct slice){all.data + at, key_len[i]};
        at += key_len[i];
        argv[3 * i + 1] = (struct slice){all.data + at, record_len[i]};
        at += record_len[i];
        argv[3 * i + 2] = slice_str(ttl);
    }
    s->n_out++;
    redis_eval(c->results ? c->results : c->commands, &script_revoke, stored, s, 3 * n, argv);
    return 0;
}

/* Takes c->arena, in which everything lies. */
static void store_revoked(struct control *c, const struct mailbox_message *m, struct call *call)
{
    struct storing *s = malloc(sizeof(*s));
    struct arena *fresh = arena_new();
    char *reply = arena_strdup(c->arena, buf_slice(&call->out));
    if (!s || !fresh || !reply) {
        free(s);
        arena_free(fresh);
        log_error("out of memory: REVOKED is not stored");
        return;
    }
    *s = (struct storing){c, c->arena, *m, {reply, call->out.len}, 1};
    c->arena = fresh;
    for (size_t i = 0; i < call->n_store; i += IDS_PER_SCRIPT)
        if (store_some(c, s, MIN(call->n_store - i, (size_t)IDS_PER_SCRIPT), call->store + i))
            log_error("out of memory: REVOKED is not stored");
    static const struct redis_reply none = {.kind = REDIS_R_NIL};
    stored(&none, s);
}

/* ---- the mailbox ---- */

static void run_command(struct control *c, const struct mailbox_message *m)
{
    struct call call;
    panel_run(&c->panel, c->arena, m->method, m->arguments, &call);
    if (call.n_store && c->o->backend)
        store_revoked(c, m, &call);
    else if (m->wants_reply && !call.no_reply)
        send_reply(c, m, buf_slice(&call.out));
    buf_deinit(&call.out);
    if (c->panel.heartbeat) {
        c->panel.heartbeat = false;
        if (c->o->heartbeat_ms && redis_conn_is_up(c->commands))
            publish_event(c, EVENT_ASKED, NULL, NULL);
    }
}

static void on_push(struct redis_conn *conn, const struct redis_reply *reply, void *arg)
{
    struct control *c = arg;
    (void)conn;
    struct mailbox_message m;
    struct err e = ERR_INIT;
    const struct redis_reply *payload = reply->elem[reply->n - 1];
    if (payload->kind != REDIS_R_STRING || c->left)
        return;
    c->panel.clock++;
    arena_reset(c->arena);
    /* Values that pass through, as the ticket, must outlive the push when the reply waits for a store. */
    char *raw = arena_strdup(c->arena, payload->str);
    int r = raw ? mailbox_parse(c->arena, c->o->node, (struct slice){raw, payload->str.len}, &m, &e)
                : -ENOMEM;
    if (r) {
        log_error("Control command error: %s", err_text(&e, r));
        return;
    }
    if ((uint64_t)m.clock > c->mailbox_clock)
        c->mailbox_clock = (uint64_t)m.clock;
    c->mailbox_clock++;
    if (m.for_us)
        run_command(c, &m);
}

/* ---- connections ---- */

static void bind_mailbox(struct control *c)
{
    CLEANUP(buf_deinit) struct buf member = BUF_INIT;
    char ttl[24];
    buf_appendf(&member, "%s%s", c->sep, c->sep);
    buf_append_slice(&member, buf_slice(&c->queue));
    (void)snprintf(ttl, sizeof(ttl), "%d", BINDING_MS);
    if (buf_ok(&member))
        return;
    const struct slice argv[] = {prefix_of(c), buf_slice(&c->exchange), buf_slice(&member),
                                 slice_str(ttl)};
    redis_eval(c->commands, &script_bind, log_refusal, (void *)"binding", ARRAY_SIZE(argv), argv);
}

static void on_bind(uv_timer_t *t)
{
    struct control *c = t->data;
    if (redis_conn_is_up(c->commands))
        bind_mailbox(c);
}

/* Both are there: now the world may know. */
static void announce(struct control *c)
{
    bool ready = redis_conn_is_up(c->commands) && (!c->o->listen || c->subscribed) && !c->left;
    if (!ready || c->announced)
        return;
    c->announced = true;
    if (c->told)
        log_info("remote control: connected again");
    c->told = false;
    if (c->o->listen)
        bind_mailbox(c);
    if (c->o->heartbeat_ms)
        publish_event(c, EVENT_ONLINE, NULL, NULL);
    c->panel.host->on_listening(true, c->panel.host->arg);
}

static void on_subscribed(const struct redis_reply *reply, void *arg)
{
    struct control *c = arg;
    if (!reply)
        return;
    if (redis_reply_ok(reply)) {
        c->subscribed = true;
        announce(c);
        return;
    }
    log_error("remote control: cannot subscribe to %s: %s. The worker goes on without it; allow "
              "the channel (ACL rule &%s).",
              c->channel.data, redis_reply_error(reply), c->channel.data);
    c->panel.host->on_listening(false, c->panel.host->arg);
}

static void on_mailbox_up(struct redis_conn *conn, void *arg)
{
    struct control *c = arg;
    const struct slice argv[] = {SLICE_LIT("SUBSCRIBE"), buf_slice(&c->channel)};
    redis_command(conn, on_subscribed, c, 0, ARRAY_SIZE(argv), argv);
}

static void on_commands_up(struct redis_conn *conn, void *arg)
{
    (void)conn;
    announce(arg);
}

static void lost(struct control *c, const char *reason)
{
    c->announced = false;
    if (!c->told && !c->left) {
        c->told = true;
        log_warning("remote control: %s", reason);
    }
    c->panel.host->on_listening(false, c->panel.host->arg);
}

static void on_mailbox_down(struct redis_conn *conn, const char *reason, int64_t retry_ms,
                            void *arg)
{
    struct control *c = arg;
    (void)conn;
    (void)retry_ms;
    c->subscribed = false;
    lost(c, reason);
}

static void on_commands_down(struct redis_conn *conn, const char *reason, int64_t retry_ms,
                             void *arg)
{
    (void)conn;
    (void)retry_ms;
    lost(arg, reason);
}

/* A half-open connection is found by a silence after this. */
static void on_ping(uv_timer_t *t)
{
    struct control *c = t->data;
    if (c->mailbox && redis_conn_is_up(c->mailbox))
        redis_commandv(c->mailbox, NULL, NULL, "PING", NULL);
}

/* ---- life ---- */

static int name_things(struct control *c)
{
    const struct control_options *o = c->o;
    const char *exchange = o->control_exchange ? o->control_exchange : "celery";
    const char *events = o->event_exchange ? o->event_exchange : "celeryev";
    buf_appendf(&c->exchange, "%s.pidbox", exchange);
    buf_appendf(&c->reply_exchange, "reply.%s.pidbox", exchange);
    buf_appendf(&c->queue, "%s.%s.pidbox", o->node, exchange);
    buf_appendf(&c->channel, "%s/%d.%s.pidbox", o->key_prefix, o->broker->db, exchange);
    buf_appendf(&c->event_channel, "%s/%d.%s/", o->key_prefix, o->broker->db, events);
    const struct buf *all[] = {&c->exchange, &c->reply_exchange, &c->queue, &c->channel,
                               &c->event_channel};
    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        if (buf_ok(all[i]))
            return -ENOMEM;
    return 0;
}

static void connect_all(struct control *c)
{
    const struct control_options *o = c->o;
    const struct redis_conn_options mailbox = {.endpoint = o->broker,
                                               .client_name = "celeryc-control"};
    const struct redis_conn_options commands = {
        .endpoint = o->broker, .client_name = "celeryc-control", .scripts = scripts};
    const struct redis_conn_options results = {
        .endpoint = o->backend, .client_name = "celeryc-control", .scripts = result_scripts};
    const struct redis_callbacks on_mailbox = {on_mailbox_up, on_mailbox_down, on_push};
    const struct redis_callbacks on_commands = {on_commands_up, on_commands_down, NULL};
    const struct redis_callbacks on_results = {NULL, NULL, NULL};
    c->commands = redis_conn_new(c->loop, &commands, &on_commands, c);
    if (o->listen)
        c->mailbox = redis_conn_new(c->loop, &mailbox, &on_mailbox, c);
    if (o->listen && o->backend && !o->same_backend)
        c->results = redis_conn_new(c->loop, &results, &on_results, c);
}

static void start_timer(struct control *c, uv_timer_t *t, uv_timer_cb fn, int64_t ms)
{
    (void)uv_timer_init(c->loop, t); /* never fails */
    t->data = c;
    c->n_timers++;
    if (ms)
        (void)uv_timer_start(t, fn, (uint64_t)ms, (uint64_t)ms);
}

static struct control *release(struct control *c)
{
    struct buf *bufs[] = {&c->channel, &c->exchange, &c->reply_exchange, &c->queue,
                          &c->event_channel};
    for (size_t i = 0; i < ARRAY_SIZE(bufs); i++)
        buf_deinit(bufs[i]);
    panel_deinit(&c->panel);
    arena_free(c->arena);
    free(c);
    return NULL;
}

struct control *control_new(uv_loop_t *loop, const struct control_options *o,
                            const struct control_host *h)
{
    struct control *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->loop = loop;
    c->o = o;
    c->sep = o->sep ? o->sep : "\x06\x16";
    c->arena = arena_new();
    if (panel_init(&c->panel, h, o) || !c->arena || name_things(c))
        return release(c);
    connect_all(c);
    start_timer(c, &c->beat, on_beat, o->heartbeat_ms);
    start_timer(c, &c->ping, on_ping, o->listen ? PING_MS : 0);
    start_timer(c, &c->bind, on_bind, o->listen ? BINDING_MS / 3 : 0);
    if (!c->commands || (o->listen && !c->mailbox) ||
        (o->listen && o->backend && !o->same_backend && !c->results))
        return control_free(c);
    return c;
}

void control_start(struct control *c)
{
    redis_conn_start(c->commands);
    if (c->mailbox)
        redis_conn_start(c->mailbox);
    if (c->results)
        redis_conn_start(c->results);
}

static void on_closed(uv_handle_t *h)
{
    struct control *c = h->data;
    if (--c->n_timers == 0)
        release(c);
}

struct control *control_free(struct control *c)
{
    if (!c)
        return NULL;
    c->freed = true;
    c->mailbox = redis_conn_free(c->mailbox);
    c->results = redis_conn_free(c->results);
    c->commands = redis_conn_free(c->commands);
    uv_timer_t *timers[] = {&c->beat, &c->ping, &c->bind};
    for (size_t i = 0; i < ARRAY_SIZE(timers); i++)
        uv_close((uv_handle_t *)timers[i], on_closed);
    return NULL;
}

static void leave_once(struct control *c)
{
    void (*fn)(void *arg) = c->left;
    (void)uv_timer_stop(&c->beat);
    if (c->freed || c->gone)
        return;
    c->gone = true;
    fn(c->left_arg);
}

static void on_left(const struct redis_reply *reply, void *arg)
{
    (void)reply;
    leave_once(arg);
}

static void on_leave_deadline(uv_timer_t *t)
{
    leave_once(t->data);
}

void control_leave(struct control *c, int64_t deadline_ms, void (*fn)(void *arg), void *arg)
{
    (void)uv_timer_start(&c->beat, on_leave_deadline, (uint64_t)deadline_ms, 0);
    c->left = fn;
    c->left_arg = arg;
    if (c->o->heartbeat_ms && redis_conn_is_up(c->commands))
        publish_event(c, EVENT_OFFLINE, NULL, NULL);
    CLEANUP(buf_deinit) struct buf member = BUF_INIT;
    buf_appendf(&member, "%s%s", c->sep, c->sep);
    buf_append_slice(&member, buf_slice(&c->queue));
    const struct slice argv[] = {prefix_of(c), buf_slice(&c->exchange), buf_slice(&member)};
    redis_eval(c->commands, &script_unbind, NULL, NULL, ARRAY_SIZE(argv), argv);
    const struct slice ping[] = {SLICE_LIT("PING")};
    redis_command(c->commands, on_left, c, 0, 1, ping);
}

bool control_revoked_id(const struct control *c, struct slice id)
{
    return revoked_has(c->panel.ids, id);
}

bool control_revoked(const struct control *c, const struct message *m, struct buf *log_text)
{
    return control_revoked_id(c, m->id) || stamps_revoked(&c->panel, m, log_text);
}
