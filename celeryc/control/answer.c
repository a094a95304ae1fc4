/* SPDX-License-Identifier: Apache-2.0 */
/* Replies, and the REVOKED records that are written before the reply to a revoke leaves.
 *
 * A reply is pushed by a script that looks its queue up in kombu's binding table: a client that has gone has no binding, and
 * only a list that is named like a reply queue is ever pushed to. A record is written in one step with the look at what
 * is there. A compressed one cannot be read by the script: it is fetched, read here, and replaced only if it is still
 * the same. */

#include "celeryc/control/io_priv.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/log.h"
#include "celeryc/message/record.h"
#include "celeryc/result/result.h"

#define IDS_PER_SCRIPT 200

/* prefix, exchange, routing key, separator, envelope. Only lists named like the exchange's reply queues. */
const struct redis_script answer_reply = {
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

/* Triples key, record, ttl: REVOKED over nothing and over states that nobody works on. Gives the numbers (from 1) of those
 * that are compressed; what is neither that nor a JSON record is left to whoever wrote it. */
const struct redis_script answer_revoke = {
    "revoke",
    "local may = {PENDING = true, RECEIVED = true, RETRY = true, REJECTED = true}\n"
    "local unclear = {}\n"
    "for i = 1, #ARGV, 3 do\n"
    "  local key, value, ttl = ARGV[i], ARGV[i + 1], ARGV[i + 2]\n"
    "  local old = redis.pcall('GETRANGE', key, 0, 127)\n"
    "  local state = type(old) == 'string' and string.match(old, "
    "'^{%s*\"status\"%s*:%s*\"([^\"]*)\"')\n"
    "  if old == '' or (state and may[state]) then\n"
    "    if ttl == '0' then redis.call('SET', key, value)\n"
    "    else redis.call('SETEX', key, ttl, value) end\n"
    "    redis.call('PUBLISH', key, value)\n"
    "  elseif type(old) == 'string' and string.sub(old, 2, 18) == 'celery-compressed' then\n"
    "    table.insert(unclear, (i + 2) / 3)\n"
    "  end\n"
    "end\n"
    "return unclear\n",
};

/* key, what was there, record, ttl */
const struct redis_script answer_swap = {
    "swap",
    "if redis.call('GET', ARGV[1]) ~= ARGV[2] then return 0 end\n"
    "if ARGV[4] == '0' then redis.call('SET', ARGV[1], ARGV[3])\n"
    "else redis.call('SETEX', ARGV[1], ARGV[4], ARGV[3]) end\n"
    "redis.call('PUBLISH', ARGV[1], ARGV[3])\n"
    "return 1\n",
};

void answer_send(struct control *c, const struct mailbox_message *m, struct slice reply)
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
        mailbox_write(&raw, c->o->wire, buf_slice(&body), buf_slice(&headers), m->exchange,
                      m->routing_key, 1);
    if (buf_ok(&raw) || !raw.len) {
        log_error("out of memory: a reply is not sent");
        return;
    }
    const struct slice argv[] = {slice_str(c->o->key_prefix), m->exchange, m->routing_key,
                                 slice_str(c->sep), buf_slice(&raw)};
    redis_eval(c->commands, &answer_reply, io_log_refusal, (void *)"reply", ARRAY_SIZE(argv), argv);
}

/* ---- records, then the reply ---- */

struct storing {
    struct control *c;
    struct arena *arena; /* holds everything here */
    struct mailbox_message m;
    struct slice reply;
    size_t n_out; /* answers of Redis that are awaited, and one while they are asked for */
};

/* Up to IDS_PER_SCRIPT ids of a storing, or one whose record is compressed. */
struct portion {
    struct storing *s;
    size_t n;
    const struct slice *ids;
};

static struct redis_conn *results_of(const struct control *c)
{
    return c->results ? c->results : c->commands;
}

static void done_with_one(struct storing *s)
{
    if (--s->n_out)
        return;
    if (s->m.wants_reply && !s->c->freed)
        answer_send(s->c, &s->m, s->reply);
    arena_free(s->arena);
    free(s);
}

static bool failed(const struct storing *s, const struct redis_reply *reply)
{
    if (redis_reply_ok(reply))
        return false;
    if (!s->c->freed)
        log_warning("Failed to mark a task as revoked in backend: %s", redis_reply_error(reply));
    return true;
}

static void write_ttl(char *dst, size_t size, const struct control *c)
{
    (void)snprintf(dst, size, "%lld", (long long)MAX(c->o->result_ttl_s, 0));
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

static void on_swapped(const struct redis_reply *reply, void *arg)
{
    struct portion *p = arg;
    (void)failed(p->s, reply);
    done_with_one(p->s);
}

static bool may_be_revoked(struct arena *a, struct slice stored)
{
    static const char *const states[] = {"\"PENDING\"", "\"RECEIVED\"", "\"RETRY\"",
                                         "\"REJECTED\""};
    struct slice text;
    struct record_view v;
    if (record_inflate(a, stored, &text, NULL) || record_parse(text, &v, NULL))
        return false;
    for (size_t i = 0; i < ARRAY_SIZE(states); i++)
        if (slice_eq_str(v.status.raw, states[i]))
            return true;
    return false;
}

static void on_compressed(const struct redis_reply *reply, void *arg)
{
    struct portion *p = arg;
    struct control *c = p->s->c;
    CLEANUP(buf_deinit) struct buf key = BUF_INIT;
    CLEANUP(buf_deinit) struct buf record = BUF_INIT;
    char ttl[24];
    bool wanted = !failed(p->s, reply) && !c->freed && reply->kind == REDIS_R_STRING &&
                  may_be_revoked(p->s->arena, reply->str);
    if (wanted) {
        result_key(&key, c->o->result_key_prefix, p->ids[0]);
        write_revoked(&record, p->ids[0]);
    }
    if (!wanted || buf_ok(&key) || buf_ok(&record)) {
        done_with_one(p->s);
        return;
    }
    write_ttl(ttl, sizeof(ttl), c);
    const struct slice argv[] = {buf_slice(&key), reply->str, buf_slice(&record), slice_str(ttl)};
    redis_eval(results_of(c), &answer_swap, on_swapped, p, ARRAY_SIZE(argv), argv);
}

static void look_at_compressed(struct storing *s, const struct slice *id)
{
    CLEANUP(buf_deinit) struct buf key = BUF_INIT;
    struct portion *p = arena_alloc(s->arena, sizeof(*p));
    result_key(&key, s->c->o->result_key_prefix, *id);
    if (!p || buf_ok(&key))
        return;
    *p = (struct portion){s, 1, id};
    s->n_out++;
    const struct slice argv[] = {SLICE_LIT("GET"), buf_slice(&key)};
    redis_command(results_of(s->c), on_compressed, p, 0, ARRAY_SIZE(argv), argv);
}

static void on_stored(const struct redis_reply *reply, void *arg)
{
    struct portion *p = arg;
    bool bad = failed(p->s, reply);
    for (size_t i = 0; !bad && !p->s->c->freed && i < reply->n; i++) {
        int64_t number = reply->elem[i]->integer;
        if (number >= 1 && (uint64_t)number <= p->n)
            look_at_compressed(p->s, &p->ids[number - 1]);
    }
    done_with_one(p->s);
}

/* False: out of memory. */
static bool store_portion(struct storing *s, size_t n, const struct slice *ids)
{
    struct slice argv[3 * IDS_PER_SCRIPT];
    size_t end[2 * IDS_PER_SCRIPT], from = 0;
    char ttl[24];
    CLEANUP(buf_deinit) struct buf all = BUF_INIT;
    struct portion *p = arena_alloc(s->arena, sizeof(*p));
    for (size_t i = 0; i < n; i++) {
        result_key(&all, s->c->o->result_key_prefix, ids[i]);
        end[2 * i] = all.len;
        write_revoked(&all, ids[i]);
        end[2 * i + 1] = all.len;
    }
    if (!p || buf_ok(&all))
        return false;
    write_ttl(ttl, sizeof(ttl), s->c);
    for (size_t i = 0; i < n; i++) {
        argv[3 * i] = (struct slice){all.data + from, end[2 * i] - from};
        argv[3 * i + 1] = (struct slice){all.data + end[2 * i], end[2 * i + 1] - end[2 * i]};
        argv[3 * i + 2] = slice_str(ttl);
        from = end[2 * i + 1];
    }
    *p = (struct portion){s, n, ids};
    s->n_out++;
    redis_eval(results_of(s->c), &answer_revoke, on_stored, p, 3 * n, argv);
    return true;
}

void answer_when_stored(struct control *c, const struct mailbox_message *m, struct call *call)
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
        if (!store_portion(s, MIN(call->n_store - i, (size_t)IDS_PER_SCRIPT), call->store + i))
            log_error("out of memory: REVOKED is not stored");
    done_with_one(s);
}
