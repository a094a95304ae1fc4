/* SPDX-License-Identifier: Apache-2.0 */
/* mingle: after each connect the other workers are asked what was revoked (celery/worker/consumer/mingle.py).
 *
 * The replies lie in a list of our own, which is looked into a few times within a second by a script that empties it, so
 * no connection has to block. Celery's workers start only after that second; this one takes tasks at once, and what it learns
 * holds for what has not started by then. */

#include "celeryc/control/io_priv.h"

#include "celeryc/base/log.h"

#define ROUND_MS 250
#define ROUNDS   4

/* list: takes all that is there */
const struct redis_script mingle_collect = {
    "collect",
    "local all = redis.call('LRANGE', ARGV[1], 0, -1)\n"
    "redis.call('DEL', ARGV[1])\n"
    "return all\n",
};

void mingle_write_queue(struct buf *dst, const struct control *c, const char *oid)
{
    buf_appendf(dst, "%s.", oid);
    buf_append_slice(dst, buf_slice(&c->reply_exchange));
}

void mingle_write_member(struct buf *dst, const struct control *c, const char *oid)
{
    buf_appendf(dst, "%s%s%s", oid, c->sep, c->sep);
    mingle_write_queue(dst, c, oid);
}

/* {node: {"revoked": ..., "clock": n}}; null from ourselves. */
static void take_reply(struct control *c, struct slice raw)
{
    struct json_val envelope, body;
    struct json_iter it;
    int64_t clock;
    arena_reset(c->arena);
    if (mailbox_read(c->arena, c->o->wire, raw, &envelope, &body, NULL))
        return;
    json_iter_init(&it, body);
    while (it.object && json_next(&it)) {
        if (it.val.kind != JSON_K_OBJECT)
            continue;
        c->n_synced++;
        if (json_i64(json_get(it.val, "clock"), &clock) == 0 && clock > 0 &&
            (uint64_t)clock > c->panel.clock)
            c->panel.clock = (uint64_t)clock;
        c->panel.clock++;
        panel_merge_revoked(&c->panel, c->arena, json_get(it.val, "revoked"));
    }
}

static void collect(struct control *c, redis_reply_fn fn)
{
    CLEANUP(buf_deinit) struct buf list = BUF_INIT;
    buf_append_str(&list, c->o->key_prefix);
    mingle_write_queue(&list, c, c->oid);
    if (buf_ok(&list))
        return;
    const struct slice argv[] = {buf_slice(&list)};
    redis_eval(c->commands, &mingle_collect, fn, c, 1, argv);
}

static void finish(struct control *c)
{
    CLEANUP(buf_deinit) struct buf member = BUF_INIT;
    mingle_write_member(&member, c, c->oid);
    if (buf_ok(&member) == 0)
        io_unbind(c, buf_slice(&c->reply_exchange), buf_slice(&member));
    collect(c, NULL); /* what came in between is too late, and must not stay */
    c->oid[0] = '\0';
    if (c->n_synced) {
        log_info("mingle: sync with %zu nodes", c->n_synced);
        log_info("mingle: sync complete");
    } else {
        log_info("mingle: all alone");
    }
}

static void on_collected(const struct redis_reply *reply, void *arg)
{
    struct control *c = arg;
    if (c->freed || c->left || !c->oid[0] || !reply)
        return;
    for (size_t i = 0; redis_reply_ok(reply) && i < reply->n; i++)
        if (reply->elem[i]->kind == REDIS_R_STRING)
            take_reply(c, reply->elem[i]->str);
    if (c->mingle_rounds >= ROUNDS)
        finish(c);
}

static void on_round(uv_timer_t *t)
{
    struct control *c = t->data;
    if (++c->mingle_rounds >= ROUNDS)
        (void)uv_timer_stop(t);
    collect(c, on_collected);
}

struct names {
    struct buf *dst;
    size_t n;
};

static void write_name(struct slice name, void *arg)
{
    struct names *l = arg;
    buf_append_str(l->dst, l->n++ ? ", " : "");
    json_write_string(l->dst, name);
}

static void write_hello(struct buf *dst, struct control *c)
{
    CLEANUP(buf_deinit) struct buf body = BUF_INIT;
    CLEANUP(buf_deinit) struct buf headers = BUF_INIT;
    char ticket[UUID_TEXT_SIZE];
    struct names l = {&body, 0};
    uuid4_text(ticket);
    buf_append_str(&body, "{\"method\": \"hello\", \"arguments\": {\"from_node\": ");
    json_write_string(&body, slice_str(c->o->node));
    buf_append_str(&body, ", \"revoked\": [");
    revoked_each(c->panel.ids, write_name, &l);
    buf_appendf(&body,
                "]}, \"destination\": null, \"pattern\": null, \"matcher\": null, \"ticket\": "
                "\"%s\", \"reply_to\": {\"exchange\": ",
                ticket);
    json_write_string(&body, buf_slice(&c->reply_exchange));
    buf_appendf(&body, ", \"routing_key\": \"%s\"}}", c->oid);
    buf_appendf(&headers, "{\"clock\": %llu, \"expires\": 0}",
                (unsigned long long)++c->mailbox_clock);
    if (buf_ok(&body) || buf_ok(&headers))
        dst->failed = true;
    else
        mailbox_write(dst, c->o->wire, buf_slice(&body), buf_slice(&headers),
                      buf_slice(&c->exchange), SLICE_LIT(""), 2);
}

void mingle_start(struct control *c)
{
    CLEANUP(buf_deinit) struct buf member = BUF_INIT;
    CLEANUP(buf_deinit) struct buf raw = BUF_INIT;
    uuid4_text(c->oid);
    c->mingle_rounds = 0;
    c->n_synced = 0;
    mingle_write_member(&member, c, c->oid);
    write_hello(&raw, c);
    if (buf_ok(&member) || buf_ok(&raw)) {
        log_error("out of memory: the other workers are not asked what was revoked");
        return;
    }
    log_info("mingle: searching for neighbors");
    io_bind(c, buf_slice(&c->reply_exchange), buf_slice(&member));
    const struct slice argv[] = {SLICE_LIT("PUBLISH"), buf_slice(&c->channel), buf_slice(&raw)};
    redis_command(c->commands, io_log_refusal, (void *)"mingle", 0, ARRAY_SIZE(argv), argv);
    (void)uv_timer_start(&c->mingle, on_round, ROUND_MS, ROUND_MS);
}
