/* SPDX-License-Identifier: Apache-2.0 */
/* What celeryc keeps beside kombu's keys (docs/REDIS_KEYS.md). Delayed messages that are due, and everything that dead
 * workers hold, wait for a worker that lives: without counting them nobody would start one. */

#include "k8s/scaler/sample_priv.h"

#include "celeryc/base/limits.h"

#include <errno.h>

#define DEAD_AFTER_MS 15000 /* they beat every 3 s */

/* Is list one of ours? */
static bool is_ours(const struct sampler *s, struct slice list)
{
    for (size_t i = 0; i < s->lists->keys.n; i++)
        if (slice_eq_str(list, s->lists->keys.v[i]))
            return true;
    return false;
}

/* Format 2: "2" NUL list NUL message. */
static bool is_ours_delayed(const struct sampler *s, struct slice value)
{
    const char *end;

    if (value.len < 3 || value.p[0] != '2' || value.p[1] != '\0')
        return false;
    value = (struct slice){value.p + 2, value.len - 2};
    end = memchr(value.p, '\0', value.len);
    return end && is_ours(s, (struct slice){value.p, (size_t)(end - value.p)});
}

static int take_delayed(struct sampler *s, const char *hash, struct slice name, struct tally *t,
                        struct err *e)
{
    const struct slice argv[] = {SLICE_LIT("HGET"), slice_str(hash), name};
    const struct redis_reply *reply;
    int r = redis_sync_command(s->redis, ARRAY_SIZE(argv), argv, &reply, e);

    if (r)
        return err_prefix(e, r, "HGET %s", hash);
    t->seen++;
    if (reply->kind == REDIS_R_STRING) {
        t->bytes += reply->str.len;
        t->due += is_ours_delayed(s, reply->str);
    } else {
        /* Format 1: the member is list NUL uuid NUL message. */
        const char *end = memchr(name.p, '\0', name.len);

        t->due += end && is_ours(s, (struct slice){name.p, (size_t)(end - name.p)});
    }
    return 0;
}

/* What celeryc workers have put by and is due; the first that lives gives it back to its list. */
static int read_delayed(struct sampler *s, struct err *e)
{
    CLEANUP(mem_free)
    char *zset = sample_key(s, "celeryc:delayed", ""),
         *hash = sample_key(s, "celeryc:delayed:messages", "");
    const struct redis_reply *reply;
    struct tally t = {0};
    struct slice *names;
    char due[32], limit[32];
    size_t n;
    int64_t all;
    int r;

    (void)snprintf(due, sizeof(due), "%lld", (long long)(s->due_us / 1000));
    (void)snprintf(limit, sizeof(limit), "%lld", (long long)s->k->scan_limit);
    r = zset && hash ? sample_ask(s, &reply, e, "ZCOUNT", zset, "-inf", due, NULL) : -ENOMEM;
    if (r)
        return r;
    all = reply->kind == REDIS_R_INTEGER ? reply->integer : 0;
    if (all == 0)
        return reply->kind == REDIS_R_INTEGER ? 0 : sample_strange("ZCOUNT", e);
    r = sample_ask(s, &reply, e, "ZRANGEBYSCORE", zset, "-inf", due, "LIMIT", "0", limit, NULL);
    if (r)
        return r;
    arena_reset(s->arena);
    n = reply->n;
    names = arena_alloc_array(s->arena, n, sizeof(*names));
    for (size_t i = 0; names && i < n; i++)
        names[i] =
            (struct slice){arena_strdup(s->arena, reply->elem[i]->str), reply->elem[i]->str.len};
    if (!names)
        return -ENOMEM;
    for (size_t i = 0; r == 0 && i < n && !tally_is_enough(s, &t); i++)
        r = names[i].p ? take_delayed(s, hash, names[i], &t, e) : -ENOMEM;
    s->l->delayed_due = tally_of_all(t.due, &t, all);
    s->l->ready += s->l->delayed_due;
    s->l->estimated = s->l->estimated || all > t.seen;
    return r;
}

static int read_dead_waiting(struct sampler *s, const char *id, struct err *e)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < s->lists->queues.n; i++) {
        CLEANUP(buf_deinit) struct buf key = BUF_INIT;
        int64_t n = 0;

        buf_appendf(&key, "%sceleryc:waiting:%s:%s", s->k->prefix, id, s->lists->queues.v[i]);
        r = buf_ok(&key);
        if (r == 0)
            r = sample_ask_count(s, "LLEN", key.data, &n, e);
        s->l->dead_waiting += n;
        s->l->ready += n;
    }
    return r;
}

static int read_dead(struct sampler *s, const char *id, struct err *e)
{
    CLEANUP(mem_free) char *running = sample_key(s, "celeryc:running:", id);
    struct tally t = {0};
    int64_t all = 0;
    int r = running ? sample_ask_count(s, "HLEN", running, &all, e) : -ENOMEM;

    if (r == 0 && all)
        r = sample_scan_hash(s, running, &t, e);
    s->l->lost += tally_of_all(t.due + t.later, &t, all);
    s->l->dead_workers++;
    return r ? r : read_dead_waiting(s, id, e);
}

static int read_workers(struct sampler *s, struct err *e)
{
    CLEANUP(mem_free) char *workers = sample_key(s, "celeryc:workers", "");
    CLEANUP(strv_deinit) struct strv dead = {0};
    const struct redis_reply *reply;
    char last[32], limit[32];
    int r;

    (void)snprintf(last, sizeof(last), "%lld", (long long)(s->l->now_us / 1000 - DEAD_AFTER_MS));
    (void)snprintf(limit, sizeof(limit), "%d", LIMIT_SCALER_DEAD);
    r = workers ? sample_ask(s, &reply, e, "ZRANGEBYSCORE", workers, "-inf", last, "LIMIT", "0",
                             limit, NULL)
                : -ENOMEM;
    if (r)
        return r;
    for (size_t i = 0; r == 0 && i < reply->n; i++)
        r = strv_add(&dead, reply->elem[i]->str.p);
    for (size_t i = 0; r == 0 && i < dead.n; i++)
        r = read_dead(s, dead.v[i], e);
    return r;
}

int sample_celeryc(struct sampler *s, struct err *e)
{
    int r = s->k->celeryc ? read_delayed(s, e) : 0;

    if (r == 0 && s->k->celeryc)
        r = read_workers(s, e);
    if (r == -EPROTO && strstr(e->text, "NOPERM"))
        return err_prefix(e, r,
                          "not allowed to read celeryc's keys (the rule is in docs/SCALER.md; "
                          "\"celeryc\": false when there are Python workers only)");
    return r;
}
