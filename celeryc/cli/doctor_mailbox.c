/* SPDX-License-Identifier: Apache-2.0 */
/* Remote control: reply lists that nobody reads any more, and workers that have a mailbox but do not answer.
 *
 * A reply list is an orphan when it has no expiry, and either no binding leads to it or nobody has touched it for an hour:
 * its client was killed. A worker is silent when its mailbox is bound and a ping is not answered within WAIT_MS. */

#include "celeryc/cli/doctor_priv.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/codec.h"
#include "celeryc/message/json.h"

#include <errno.h>
#include <time.h>

#define WAIT_MS   2000
#define POLL_MS   50
#define MAX_NODES "1000"

/* List, binding set, its part of the key without prefix, "1" to repair. Returns 1 for an orphan. */
static const struct redis_script orphan_script = {
    .name = "doctor_orphan",
    .source = "if redis.call('TYPE', ARGV[1]).ok ~= 'list' or redis.call('TTL', ARGV[1]) ~= -1 "
              "then return 0 end\n"
              "local queue, bound = ARGV[3], false\n"
              "for _, m in ipairs(redis.pcall('SMEMBERS', ARGV[2])) do\n"
              "  if string.sub(m, -#queue) == queue then bound = true end\n"
              "end\n"
              "if bound and redis.call('OBJECT', 'IDLETIME', ARGV[1]) < 3600 then return 0 end\n"
              "if ARGV[4] == '1' then redis.call('DEL', ARGV[1]) end\n"
              "return 1\n",
};

static const char *exchange_of(const struct doctor *d)
{
    return d->b.s.control_exchange ? d->b.s.control_exchange : "celery";
}

int doctor_replies(struct doctor *d, struct err *e)
{
    CLEANUP(strv_deinit) struct strv lists = {NULL, 0};
    const char *exchange = exchange_of(d);
    CLEANUP(mem_free) char *set = cli_key(&d->b, "_kombu.binding.reply.%s.pidbox", exchange);
    uint64_t n = 0;
    char glob[300];
    (void)snprintf(glob, sizeof(glob), "*.reply.%.200s.pidbox", exchange);
    int r = set ? cli_keys_like(&d->b, glob, &lists, e) : -ENOMEM;
    for (size_t i = 0; r == 0 && i < lists.n; i++) {
        const struct redis_reply *reply;
        const struct slice argv[] = {slice_str(lists.v[i]), slice_str(set),
                                     slice_str(lists.v[i] + strlen(d->b.prefix)),
                                     d->fix ? SLICE_LIT("1") : SLICE_LIT("0")};
        r = redis_sync_eval(d->b.redis, &orphan_script, ARRAY_SIZE(argv), argv, &reply, e);
        n += r == 0 && reply->integer == 1;
    }
    if (r == 0 && n)
        doctor_found(d, "replies", n, d->fix ? n : 0,
                     "%llu reply lists of remote control without a reader and without expiry.",
                     (unsigned long long)n);
    return r;
}

/* ---- silent workers ---- */

struct ping {
    struct doctor *d;
    const char *exchange;
    char oid[UUID_TEXT_SIZE];
    char *list, *set, *member, *channel;
    struct strv nodes; /* that have not answered yet */
};

/* "<sep><sep>w1@host.celery.pidbox" */
static int read_nodes(struct ping *p, struct err *e)
{
    struct doctor *d = p->d;
    CLEANUP(mem_free) char *set = cli_key(&d->b, "_kombu.binding.%s.pidbox", p->exchange);
    CLEANUP(buf_deinit) struct buf tail = BUF_INIT;
    const struct redis_reply *reply;
    size_t sep = 2 * strlen(d->b.s.sep ? d->b.s.sep : "\x06\x16");
    buf_appendf(&tail, ".%s.pidbox", p->exchange);
    if (!set || buf_ok(&tail))
        return -ENOMEM;
    int r = cli_ask(&d->b, &reply, e, "SSCAN", set, "0", "COUNT", MAX_NODES, NULL);
    for (size_t i = 0; r == 0 && reply->n == 2 && i < reply->elem[1]->n; i++) {
        struct slice m = reply->elem[1]->elem[i]->str;
        if (m.len <= sep + tail.len || memchr(m.p, '\0', m.len) ||
            !str_eq(m.p + m.len - tail.len, tail.data))
            continue;
        CLEANUP(mem_free) char *node = slice_dup((struct slice){m.p + sep, m.len - sep - tail.len});
        r = node ? strv_add(&p->nodes, node) : -ENOMEM;
    }
    return r;
}

static int send_ping(struct ping *p, struct err *e)
{
    CLEANUP(buf_deinit) struct buf body = BUF_INIT;
    CLEANUP(buf_deinit) struct buf raw = BUF_INIT;
    char ticket[UUID_TEXT_SIZE];
    const struct redis_reply *reply;
    uuid4_text(ticket);
    buf_appendf(&body,
                "{\"method\": \"ping\", \"arguments\": {}, \"destination\": null, \"pattern\": "
                "null, \"matcher\": null, \"ticket\": \"%s\", \"reply_to\": {\"exchange\": "
                "\"reply.%s.pidbox\", \"routing_key\": \"%s\"}}",
                ticket, p->exchange, p->oid);
    buf_append_str(&raw, "{\"body\": \"");
    base64_encode(&raw, buf_slice(&body));
    buf_appendf(&raw,
                "\", \"content-encoding\": \"utf-8\", \"content-type\": \"application/json\", "
                "\"headers\": {\"clock\": 1, \"expires\": 0}, \"properties\": {\"delivery_mode\": "
                "2, \"delivery_info\": {\"exchange\": \"%s.pidbox\", \"routing_key\": \"\"}, "
                "\"priority\": 0, \"body_encoding\": \"base64\", \"delivery_tag\": \"%s\"}}",
                p->exchange, ticket);
    if (buf_ok(&body) || buf_ok(&raw))
        return -ENOMEM;
    int r = cli_ask(&p->d->b, &reply, e, "SADD", p->set, p->member, NULL);
    return r ? r : cli_ask(&p->d->b, &reply, e, "PUBLISH", p->channel, raw.data, NULL);
}

/* A reply's body is {node: ...}. */
static void take_reply(struct ping *p, struct slice raw)
{
    struct arena *a = p->d->arena;
    struct json_val v;
    struct json_iter it;
    struct slice text, name;
    CLEANUP(buf_deinit) struct buf body = BUF_INIT;
    if (json_scan(raw, &v, NULL) || json_string(a, json_get(v, "body"), &text) ||
        base64_decode(&body, text) || json_scan(buf_slice(&body), &v, NULL))
        return;
    json_iter_init(&it, v);
    while (it.object && json_next(&it))
        if (json_string_z(a, it.key, &name) == 0)
            strv_drop(&p->nodes, name.p);
}

static int await_replies(struct ping *p, struct err *e)
{
    static const struct timespec poll = {.tv_nsec = POLL_MS * NS_PER_MS};
    int64_t end_ns = clock_mono_ns() + WAIT_MS * NS_PER_MS;
    int r = 0;
    /* To the end also when all have answered: meanwhile the queues show whether they grow. */
    while (r == 0 && clock_mono_ns() < end_ns) {
        const struct redis_reply *reply;
        (void)nanosleep(&poll, NULL);
        r = cli_ask(&p->d->b, &reply, e, "RPOP", p->list, NULL);
        if (r == 0 && reply->kind == REDIS_R_STRING)
            take_reply(p, reply->str);
    }
    return r;
}

static int ping_all(struct ping *p, struct err *e)
{
    const struct redis_reply *reply;
    const char *sep = p->d->b.s.sep ? p->d->b.s.sep : "\x06\x16";
    CLEANUP(buf_deinit) struct buf member = BUF_INIT;
    uuid4_text(p->oid);
    buf_appendf(&member, "%s%s%s%s.reply.%s.pidbox", p->oid, sep, sep, p->oid, p->exchange);
    p->member = buf_take(&member);
    p->list = cli_key(&p->d->b, "%s.reply.%s.pidbox", p->oid, p->exchange);
    p->set = cli_key(&p->d->b, "_kombu.binding.reply.%s.pidbox", p->exchange);
    p->channel = cli_key(&p->d->b, "/%d.%s.pidbox", p->d->b.ep.db, p->exchange);
    if (!p->member || !p->list || !p->set || !p->channel)
        return -ENOMEM;
    int r = send_ping(p, e);
    if (r == 0)
        r = await_replies(p, e);
    struct err ignored = ERR_INIT;
    (void)!cli_ask(&p->d->b, &reply, &ignored, "SREM", p->set, p->member, NULL);
    (void)!cli_ask(&p->d->b, &reply, &ignored, "DEL", p->list, NULL);
    return r;
}

int doctor_silent(struct doctor *d, struct err *e)
{
    struct ping p = {.d = d, .exchange = exchange_of(d)};
    int r = read_nodes(&p, e);
    if (r == 0)
        r = ping_all(&p, e);
    for (size_t i = 0; r == 0 && i < p.nodes.n; i++)
        doctor_found(d, "silent", 1, 0,
                     "Worker %s has a mailbox and does not answer: it was killed, or it is stuck.",
                     p.nodes.v[i]);
    free(p.member);
    free(p.list);
    free(p.set);
    free(p.channel);
    strv_deinit(&p.nodes);
    return r;
}
