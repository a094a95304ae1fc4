/* SPDX-License-Identifier: Apache-2.0 */
/* What tasks the other workers have and which queues they serve: `registered` and `active_queues`, asked of all at once
 * when a task turns up that is not known here.
 *
 * The answers lie in a list of our own, as mingle's do, and are looked for until everybody who heard the question has
 * answered or a second has passed. They hold for KEEP_MS. That nobody has a task holds only for a census that began a
 * second after the last worker came online: a worker says so before it hears questions. */

#include "celeryc/control/io_priv.h"

#include "celeryc/base/limits.h"
#include "celeryc/base/log.h"

#include <errno.h>

#define ROUND_MS  50
#define ROUNDS    20
#define KEEP_MS   10000
#define SETTLE_MS 1000 /* from a worker's online to where it surely hears */

struct census_names {
    struct map *nodes; /* node -> something */
    struct map *names; /* 't' or 'q', node, NUL, task or queue -> something */
    int64_t asked_ms;  /* the loop's clock; when the question left */
    bool cut;          /* there were too many names: nothing can be said of what is missing */
};

struct census_state {
    struct census_names known, coming;
    char oid[UUID_TEXT_SIZE]; /* of the question that is out, "" when none is */
    int64_t online_ms;        /* when a worker came last, 0: never */
    int64_t expected, got;    /* replies */
    int rounds;
};

static void names_deinit(struct census_names *n)
{
    map_free(n->nodes);
    map_free(n->names);
    *n = (struct census_names){NULL, NULL, 0, false};
}

int census_init(struct control *c)
{
    c->census = calloc(1, sizeof(*c->census));
    return c->census ? 0 : -ENOMEM;
}

void census_deinit(struct control *c)
{
    if (!c->census)
        return;
    names_deinit(&c->census->known);
    names_deinit(&c->census->coming);
    free(c->census);
    c->census = NULL;
}

bool census_is_own(const struct control *c, struct slice routing_key)
{
    return c->census->oid[0] && slice_eq_str(routing_key, c->census->oid);
}

void census_online(struct control *c)
{
    c->census->online_ms = (int64_t)uv_now(c->loop);
}

/* ---- the answers ---- */

static bool name_key(struct buf *key, char kind, struct slice node, struct slice name)
{
    buf_reset(key);
    buf_append_char(key, kind);
    buf_append_slice(key, node);
    buf_append_char(key, '\0');
    buf_append_slice(key, name);
    return buf_ok(key) == 0;
}

static void add_name(struct census_names *n, char kind, struct slice node, struct slice name)
{
    CLEANUP(buf_deinit) struct buf key = BUF_INIT;
    if (name.len > LIMIT_CONTROL_NAME || map_len(n->names) >= LIMIT_CENSUS_NAMES ||
        !name_key(&key, kind, node, name) || map_set(n->names, buf_slice(&key), n))
        n->cut = true;
}

/* "tasks.add [rate_limit=10/m]" */
static struct slice bare_name(struct slice s)
{
    for (size_t i = 0; i + 1 < s.len && s.p[s.len - 1] == ']'; i++)
        if (s.p[i] == ' ' && s.p[i + 1] == '[')
            return (struct slice){s.p, i};
    return s;
}

static void take_node(struct control *c, struct slice node, struct json_val list)
{
    struct census_names *n = &c->census->coming;
    struct json_iter it;
    struct slice name;
    if (slice_eq_str(node, c->o->node) || list.kind != JSON_K_ARRAY)
        return;
    if (map_set(n->nodes, node, n))
        n->cut = true;
    json_iter_init(&it, list);
    while (json_next(&it)) {
        if (it.val.kind == JSON_K_STRING && json_string(c->arena, it.val, &name) == 0)
            add_name(n, 't', node, bare_name(name));
        else if (json_string(c->arena, json_get(it.val, "name"), &name) == 0)
            add_name(n, 'q', node, name);
    }
}

static void take_reply(struct control *c, struct slice raw)
{
    struct json_val envelope, body;
    struct json_iter it;
    struct slice node;
    c->census->got++;
    arena_reset(c->arena);
    if (mailbox_read(c->arena, c->o->wire, raw, &envelope, &body, NULL))
        return;
    json_iter_init(&it, body);
    while (it.object && json_next(&it))
        if (json_string(c->arena, it.key, &node) == 0)
            take_node(c, node, it.val);
}

/* ---- the question ---- */

static void collect(struct control *c, redis_reply_fn fn)
{
    CLEANUP(buf_deinit) struct buf list = BUF_INIT;
    buf_append_str(&list, c->o->key_prefix);
    mingle_write_queue(&list, c, c->census->oid);
    if (buf_ok(&list))
        return;
    const struct slice argv[] = {buf_slice(&list)};
    redis_eval(c->commands, &mingle_collect, fn, c, 1, argv);
}

static void end(struct control *c)
{
    struct census_state *s = c->census;
    CLEANUP(buf_deinit) struct buf member = BUF_INIT;
    mingle_write_member(&member, c, s->oid);
    if (buf_ok(&member) == 0)
        io_unbind(c, buf_slice(&c->reply_exchange), buf_slice(&member));
    collect(c, NULL); /* what came in between must not stay */
    (void)uv_timer_stop(&c->census_timer);
    s->oid[0] = '\0';
    names_deinit(&s->known);
    s->known = s->coming;
    s->coming = (struct census_names){NULL, NULL, 0, false};
    log_debug("remote control: %zu other workers have told their tasks", map_len(s->known.nodes));
    if (c->panel.host->counted)
        c->panel.host->counted(c->panel.host->arg);
}

void census_lost(struct control *c)
{
    if (!c->census->oid[0])
        return;
    c->census->oid[0] = '\0';
    (void)uv_timer_stop(&c->census_timer);
    names_deinit(&c->census->coming);
    if (c->panel.host->counted)
        c->panel.host->counted(c->panel.host->arg);
}

static void on_collected(const struct redis_reply *reply, void *arg)
{
    struct control *c = arg;
    if (c->freed || c->left || !reply || !c->census->oid[0])
        return;
    for (size_t i = 0; redis_reply_ok(reply) && i < reply->n; i++)
        if (reply->elem[i]->kind == REDIS_R_STRING)
            take_reply(c, reply->elem[i]->str);
    if (c->census->rounds >= ROUNDS || c->census->got >= c->census->expected)
        end(c);
}

static void on_round(uv_timer_t *t)
{
    struct control *c = t->data;
    if (++c->census->rounds >= ROUNDS)
        (void)uv_timer_stop(t);
    collect(c, on_collected);
}

/* How many hear it, ourselves included, who do not answer. Each is asked twice. */
static void on_asked(const struct redis_reply *reply, void *arg)
{
    struct control *c = arg;
    if (reply && reply->kind == REDIS_R_INTEGER && !c->freed)
        c->census->expected = 2 * (reply->integer - 1);
}

static void ask(struct control *c, const char *method, const char *arguments, redis_reply_fn fn)
{
    CLEANUP(buf_deinit) struct buf body = BUF_INIT;
    CLEANUP(buf_deinit) struct buf headers = BUF_INIT;
    CLEANUP(buf_deinit) struct buf raw = BUF_INIT;
    char ticket[UUID_TEXT_SIZE];
    uuid4_text(ticket);
    buf_appendf(&body,
                "{\"method\": \"%s\", \"arguments\": %s, \"destination\": null, \"pattern\": null, "
                "\"matcher\": null, \"ticket\": \"%s\", \"reply_to\": {\"exchange\": ",
                method, arguments, ticket);
    json_write_string(&body, buf_slice(&c->reply_exchange));
    buf_appendf(&body, ", \"routing_key\": \"%s\"}}", c->census->oid);
    buf_appendf(&headers, "{\"clock\": %llu, \"expires\": 0}",
                (unsigned long long)++c->mailbox_clock);
    if (buf_ok(&body) == 0 && buf_ok(&headers) == 0)
        mailbox_write(&raw, c->o->wire, buf_slice(&body), buf_slice(&headers),
                      buf_slice(&c->exchange), SLICE_LIT(""), 2);
    if (!raw.len || buf_ok(&raw))
        return; /* nobody answers, and that is how it ends */
    const struct slice argv[] = {SLICE_LIT("PUBLISH"), buf_slice(&c->channel), buf_slice(&raw)};
    redis_command(c->commands, fn, c, 0, ARRAY_SIZE(argv), argv);
}

static bool begin(struct control *c)
{
    struct census_state *s = c->census;
    CLEANUP(buf_deinit) struct buf member = BUF_INIT;
    names_deinit(&s->coming);
    s->coming = (struct census_names){map_new(), map_new(), (int64_t)uv_now(c->loop), false};
    uuid4_text(s->oid);
    mingle_write_member(&member, c, s->oid);
    if (!s->coming.nodes || !s->coming.names || buf_ok(&member)) {
        s->oid[0] = '\0';
        names_deinit(&s->coming);
        return false;
    }
    s->rounds = 0;
    s->got = 0;
    s->expected = INT64_MAX;
    io_bind(c, buf_slice(&c->reply_exchange), buf_slice(&member));
    ask(c, "active_queues", "{}", NULL);
    ask(c, "registered", "{\"builtins\": true}", on_asked);
    (void)uv_timer_start(&c->census_timer, on_round, ROUND_MS, ROUND_MS);
    return true;
}

/* ---- what is known ---- */

struct looking {
    const struct census_names *n;
    struct slice task;
    const char *queue;
    struct buf key;
};

static int has_both(struct slice node, void *value, void *arg)
{
    struct looking *l = arg;
    (void)value;
    return name_key(&l->key, 't', node, l->task) && map_get(l->n->names, buf_slice(&l->key)) &&
           name_key(&l->key, 'q', node, slice_str(l->queue)) &&
           map_get(l->n->names, buf_slice(&l->key));
}

static bool somebody_has(const struct census_names *n, struct slice task, const char *queue)
{
    struct looking l = {n, task, queue, BUF_INIT};
    bool has = map_each(n->nodes, has_both, &l) != 0;
    buf_deinit(&l.key);
    return has;
}

enum census control_census(struct control *c, struct slice task, const char *queue)
{
    const struct census_state *s = c->census;
    int64_t now_ms = (int64_t)uv_now(c->loop);
    bool fresh = s->known.nodes && now_ms - s->known.asked_ms < KEEP_MS;
    if (fresh && somebody_has(&s->known, task, queue))
        return CENSUS_SOME;
    bool settled = !s->online_ms || s->known.asked_ms >= s->online_ms + SETTLE_MS;
    if (fresh && settled && !s->known.cut)
        return CENSUS_NONE;
    if (s->oid[0])
        return CENSUS_ASKING;
    if (!c->o->listen || !c->announced || c->left || (fresh && s->known.cut))
        return CENSUS_CANNOT;
    return begin(c) ? CENSUS_ASKING : CENSUS_CANNOT;
}
