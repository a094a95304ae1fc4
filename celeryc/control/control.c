/* SPDX-License-Identifier: Apache-2.0 */
/* The connections and their life: the mailbox in, events out.
 *
 * The subscriber SUBSCRIBEs to the one channel of the mailbox (kombu's PSUBSCRIBE of the same text; the key prefix may hold
 * what a pattern would read). Worker-online follows when mailbox and command connection are both up, after every
 * reconnect, so that nobody is told of a worker that would not hear. Nothing here waits for a child. */

#include "celeryc/control/io_priv.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/log.h"

#include <errno.h>

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

static const struct redis_script *const scripts[] = {
    &answer_reply, &answer_revoke, &answer_swap, &mingle_collect, &script_bind, &script_unbind};
static const struct redis_script *const result_scripts[] = {&answer_revoke, &answer_swap, NULL};

static struct slice prefix_of(const struct control *c)
{
    return slice_str(c->o->key_prefix);
}

void io_log_refusal(const struct redis_reply *reply, void *arg)
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
    mailbox_write(&raw, NULL, buf_slice(&body), buf_slice(&headers),
                  slice_str(c->o->event_exchange ? c->o->event_exchange : "celeryev"),
                  slice_str(key), 1);
    buf_append_slice(&channel, buf_slice(&c->event_channel));
    buf_append_str(&channel, key);
    if (buf_ok(&body) || buf_ok(&raw) || buf_ok(&headers) || buf_ok(&channel)) {
        log_error("out of memory: an event is not sent");
        return;
    }
    const struct slice argv[] = {SLICE_LIT("PUBLISH"), buf_slice(&channel), buf_slice(&raw)};
    redis_command(c->commands, fn ? fn : io_log_refusal, fn ? arg : (void *)"PUBLISH", 0,
                  ARRAY_SIZE(argv), argv);
}

static void on_beat(uv_timer_t *t)
{
    struct control *c = t->data;
    if (redis_conn_is_up(c->commands))
        publish_event(c, EVENT_HEARTBEAT, NULL, NULL);
}

/* ---- the mailbox ---- */

static void run_command(struct control *c, const struct mailbox_message *m)
{
    struct call call;
    if (delayed_wanted(c, m)) {
        delayed_ask(c, m);
        return;
    }
    panel_run(&c->panel, c->arena, m->method, m->arguments, &call);
    if (call.n_store && c->o->backend)
        answer_when_stored(c, m, &call);
    else if (m->wants_reply && !call.no_reply)
        answer_send(c, m, buf_slice(&call.out));
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
    if (reply->n == 3 && slice_eq(reply->elem[1]->str, buf_slice(&c->online_channel))) {
        census_online(c);
        return;
    }
    c->panel.clock++;
    arena_reset(c->arena);
    /* Values that pass through, as the ticket, must outlive the push when the reply waits for a store. */
    char *raw = arena_strdup(c->arena, payload->str);
    int r = raw ? mailbox_parse(c->arena, c->o->wire, c->o->node,
                                (struct slice){raw, payload->str.len}, &m, &e)
                : -ENOMEM;
    if (r) {
        log_error("Control command error: %s", err_text(&e, r));
        return;
    }
    if ((uint64_t)m.clock > c->mailbox_clock)
        c->mailbox_clock = (uint64_t)m.clock;
    c->mailbox_clock++;
    bool own = m.wants_reply && ((c->oid[0] && slice_eq_str(m.routing_key, c->oid)) ||
                                 census_is_own(c, m.routing_key));
    if (m.for_us && !own)
        run_command(c, &m);
}

/* ---- connections ---- */

void io_bind(struct control *c, struct slice exchange, struct slice member)
{
    char ttl[24];
    (void)snprintf(ttl, sizeof(ttl), "%d", CONTROL_BINDING_MS);
    const struct slice argv[] = {prefix_of(c), exchange, member, slice_str(ttl)};
    redis_eval(c->commands, &script_bind, io_log_refusal, (void *)"binding", ARRAY_SIZE(argv),
               argv);
}

void io_unbind(struct control *c, struct slice exchange, struct slice member)
{
    const struct slice argv[] = {prefix_of(c), exchange, member};
    redis_eval(c->commands, &script_unbind, NULL, NULL, ARRAY_SIZE(argv), argv);
}

static void bind_mailbox(struct control *c, bool bind)
{
    CLEANUP(buf_deinit) struct buf member = BUF_INIT;
    buf_appendf(&member, "%s%s", c->sep, c->sep);
    buf_append_slice(&member, buf_slice(&c->queue));
    if (buf_ok(&member))
        return;
    (bind ? io_bind : io_unbind)(c, buf_slice(&c->exchange), buf_slice(&member));
}

static void on_bind(uv_timer_t *t)
{
    struct control *c = t->data;
    if (redis_conn_is_up(c->commands))
        bind_mailbox(c, true);
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
        bind_mailbox(c, true);
    if (c->o->heartbeat_ms)
        publish_event(c, EVENT_ONLINE, NULL, NULL);
    if (c->o->listen && c->o->mingle)
        mingle_start(c);
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
    /* Not needed to work: without it what is known of the others may be some seconds old. */
    const struct slice online[] = {SLICE_LIT("SUBSCRIBE"), buf_slice(&c->online_channel)};
    redis_command(conn, NULL, NULL, 0, ARRAY_SIZE(online), online);
}

static void on_commands_up(struct redis_conn *conn, void *arg)
{
    struct control *c = arg;
    (void)conn;
    if (c->mailbox)
        redis_conn_hurry(c->mailbox); /* it follows this one */
    announce(c);
}

static void lost(struct control *c, const char *reason)
{
    c->announced = false;
    c->oid[0] = '\0';
    (void)uv_timer_stop(&c->mingle);
    census_lost(c);
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
    struct control *c = arg;
    (void)conn;
    (void)retry_ms;
    lost(c, reason);
    if (c->mailbox) /* it may stand at a server that is not the master any more */
        redis_conn_drop(c->mailbox, reason);
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
    buf_appendf(&c->online_channel, "%sworker.online",
                c->event_channel.data ? c->event_channel.data : "");
    const struct buf *all[] = {&c->exchange, &c->reply_exchange, &c->queue,
                               &c->channel,  &c->event_channel,  &c->online_channel};
    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        if (buf_ok(all[i]))
            return -ENOMEM;
    return 0;
}

static void connect_all(struct control *c)
{
    const struct control_options *o = c->o;
    _Static_assert(ARRAY_SIZE(scripts) + 2 <= ARRAY_SIZE(c->scripts), "room for one more and NULL");
    memcpy(c->scripts, scripts, sizeof(scripts));
    c->scripts[ARRAY_SIZE(scripts)] = o->delayed_page;
    const struct redis_conn_options commands = {
        .endpoint = o->broker, .client_name = "celeryc-control", .scripts = c->scripts};
    const struct redis_conn_options results = {
        .endpoint = o->backend, .client_name = "celeryc-control", .scripts = result_scripts};
    const struct redis_callbacks on_mailbox = {on_mailbox_up, on_mailbox_down, on_push};
    const struct redis_callbacks on_commands = {on_commands_up, on_commands_down, NULL};
    const struct redis_callbacks on_results = {NULL, NULL, NULL};
    c->commands = redis_conn_new(c->loop, &commands, &on_commands, c);
    const struct redis_conn_options mailbox = {
        .endpoint = o->broker, .client_name = "celeryc-control", .leader = c->commands};
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
    struct buf *bufs[] = {&c->channel, &c->exchange,      &c->reply_exchange,
                          &c->queue,   &c->event_channel, &c->online_channel};
    for (size_t i = 0; i < ARRAY_SIZE(bufs); i++)
        buf_deinit(bufs[i]);
    panel_deinit(&c->panel);
    census_deinit(c);
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
    if (panel_init(&c->panel, h, o) || !c->arena || name_things(c) || census_init(c))
        return release(c);
    connect_all(c);
    start_timer(c, &c->beat, on_beat, o->heartbeat_ms);
    start_timer(c, &c->bind, on_bind, o->listen ? CONTROL_BINDING_MS / 3 : 0);
    start_timer(c, &c->mingle, NULL, 0);
    start_timer(c, &c->census_timer, NULL, 0);
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
    uv_timer_t *timers[] = {&c->beat, &c->bind, &c->mingle, &c->census_timer};
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
    (void)uv_timer_stop(&c->mingle);
    (void)uv_timer_stop(&c->census_timer);
    if (c->o->listen)
        bind_mailbox(c, false);
    const struct slice ping[] = {SLICE_LIT("PING")};
    redis_command(c->commands, on_left, c, 0, 1, ping);
}

bool control_revoked_id(const struct control *c, struct slice id)
{
    return revoked_has(c->panel.ids, id);
}

void control_flag_revoked(struct control *c, struct slice id)
{
    if (revoked_add(c->panel.ids, id, clock_mono_ns()))
        log_error("out of memory: an id is not flagged as revoked");
}

bool control_revoked(const struct control *c, const struct message *m, struct buf *log_text)
{
    return control_revoked_id(c, m->id) || stamps_revoked(&c->panel, m, log_text);
}
