/* SPDX-License-Identifier: Apache-2.0 */
/* Queues that grow, dead letters, celeryc's own keys, and the server that holds them all. */

#include "celeryc/cli/doctor_priv.h"

#include "celeryc/worker/queues.h"

#include <errno.h>

#define GROWTH 100 /* messages more at the end than at the beginning are worth a word */

static const int kombu_steps[] = {0, 3, 6, 9};

/* ---- queues ---- */

/* A member is routing key, pattern, queue, with the separator between. Reply and event queues are no task queues. */
static int add_member(struct doctor *d, struct slice member)
{
    const char *sep = d->b.s.sep ? d->b.s.sep : "\x06\x16", *queue = NULL;
    const char *at = member.p, *end = member.p + member.len;
    while ((at = memmem(at, (size_t)(end - at), sep, strlen(sep))))
        queue = at = at + strlen(sep);
    if (!queue || queue == end || memchr(queue, '\0', (size_t)(end - queue)) ||
        strstr(queue, ".pidbox") || strncmp(queue, "celeryev", 8) == 0)
        return 0;
    return strv_has(&d->queues, queue) ? 0 : strv_add(&d->queues, queue);
}

static int find_queues(struct doctor *d, struct err *e)
{
    CLEANUP(strv_deinit) struct strv sets = {NULL, 0};
    int r = cli_keys(&d->b, "_kombu.binding.", &sets, e);
    for (size_t i = 0; r == 0 && i < sets.n; i++) {
        const struct redis_reply *reply;
        r = cli_ask(&d->b, &reply, e, "SSCAN", sets.v[i], "0", "COUNT", "1000", NULL);
        if (r == -EPROTO)
            r = 0; /* a key of another kind */
        else
            for (size_t k = 0; r == 0 && reply->n == 2 && k < reply->elem[1]->n; k++)
                r = add_member(d, reply->elem[1]->elem[k]->str);
    }
    return r;
}

static int length_of(struct doctor *d, const char *queue, uint64_t *ret_n, struct err *e)
{
    const struct settings *s = &d->b.s;
    size_t n_steps = s->n_priority_steps ? s->n_priority_steps : ARRAY_SIZE(kombu_steps);
    const int *steps = s->n_priority_steps ? s->priority_steps : kombu_steps;
    *ret_n = 0;
    for (size_t i = 0; i < n_steps; i++) {
        CLEANUP(buf_deinit) struct buf key = BUF_INIT;
        int64_t n = 0;
        queues_key(&key, s, queue, steps[i]);
        if (buf_ok(&key))
            return -ENOMEM;
        struct err ignored = ERR_INIT;
        int r = cli_ask_i64(&d->b, &n, &ignored, "LLEN", key.data, NULL);
        if (r && r != -EPROTO)
            return err_set(e, r, "%s", err_text(&ignored, r));
        *ret_n += r ? 0 : (uint64_t)n;
    }
    return 0;
}

int doctor_queues_begin(struct doctor *d, struct err *e)
{
    int r = find_queues(d, e);
    if (r)
        return r;
    d->lengths = calloc(d->queues.n + 1, sizeof(*d->lengths));
    if (!d->lengths)
        return -ENOMEM;
    for (size_t i = 0; r == 0 && i < d->queues.n; i++)
        r = length_of(d, d->queues.v[i], &d->lengths[i], e);
    return r;
}

int doctor_queues_end(struct doctor *d, struct err *e)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < d->queues.n; i++) {
        uint64_t n = 0;
        r = length_of(d, d->queues.v[i], &n, e);
        if (r == 0 && n >= d->lengths[i] + GROWTH)
            doctor_found(d, "queue", n - d->lengths[i], 0,
                         "Queue %s grows: from %llu to %llu messages while this was looked at.",
                         d->queues.v[i], (unsigned long long)d->lengths[i], (unsigned long long)n);
    }
    return r;
}

/* ---- celeryc's own keys ---- */

int doctor_dead_letters(struct doctor *d, struct err *e)
{
    CLEANUP(strv_deinit) struct strv lists = {NULL, 0};
    CLEANUP(mem_free) char *stray = cli_key(&d->b, "celeryc:stray");
    int64_t n = 0;
    int r = stray ? cli_keys(&d->b, "celeryc:dead:", &lists, e) : -ENOMEM;
    for (size_t i = 0; r == 0 && i < lists.n; i++) {
        r = cli_ask_i64(&d->b, &n, e, "LLEN", lists.v[i], NULL);
        if (r == 0 && n)
            doctor_found(d, "dead", (uint64_t)n, 0, "%lld dead letters in %s: celeryc dead list.",
                         (long long)n, lists.v[i]);
    }
    if (r == 0)
        r = cli_ask_i64(&d->b, &n, e, "LLEN", stray, NULL);
    if (r == 0 && n)
        doctor_found(d, "stray", (uint64_t)n, 0,
                     "%lld messages in %s: the key of their queue was of another type.",
                     (long long)n, stray);
    return r;
}

/* Messages, zset, cursor, "1" to repair. Returns the next cursor and how many have no time. */
static const struct redis_script delayed_script = {
    .name = "doctor_delayed",
    .source = "local t = redis.call('TIME')\n"
              "local r = redis.call('HSCAN', ARGV[1], ARGV[3], 'COUNT', 200)\n"
              "local n = 0\n"
              "for i = 1, #r[2], 2 do\n"
              "  if not redis.call('ZSCORE', ARGV[2], r[2][i]) then\n"
              "    n = n + 1\n"
              "    if ARGV[4] == '1' then redis.call('ZADD', ARGV[2], 'NX', t[1] * 1000, r[2][i]) "
              "end\n"
              "  end\n"
              "end\n"
              "return {r[1], n}\n",
};

int doctor_delayed(struct doctor *d, struct err *e)
{
    CLEANUP(mem_free) char *zset = cli_key(&d->b, "celeryc:delayed");
    CLEANUP(mem_free) char *hash = cli_key(&d->b, "celeryc:delayed:messages");
    char cursor[24] = "0";
    int64_t messages = 0, times = 0;
    uint64_t n = 0;
    int r = zset && hash ? cli_ask_i64(&d->b, &messages, e, "HLEN", hash, NULL) : -ENOMEM;
    if (r == 0)
        r = cli_ask_i64(&d->b, &times, e, "ZCARD", zset, NULL);
    if (r || messages <= times)
        return r;
    do {
        const struct redis_reply *reply;
        const struct slice argv[] = {slice_str(hash), slice_str(zset), slice_str(cursor),
                                     d->fix ? SLICE_LIT("1") : SLICE_LIT("0")};
        r = redis_sync_eval(d->b.redis, &delayed_script, ARRAY_SIZE(argv), argv, &reply, e);
        if (r)
            return r;
        n += (uint64_t)reply->elem[1]->integer;
        (void)snprintf(cursor, sizeof(cursor), "%.*s", (int)MIN(reply->elem[0]->str.len, 23),
                       reply->elem[0]->str.p);
    } while (!str_eq(cursor, "0"));
    if (n)
        doctor_found(d, "delayed", n, d->fix ? n : 0,
                     "%llu delayed messages have no time when they are due.",
                     (unsigned long long)n);
    return 0;
}

/* Workers zset, start of the keys of claims, of running tasks. Returns how many workers are dead and what they hold. */
static const struct redis_script corpses_script = {
    .name = "doctor_workers",
    .source = "local t = redis.call('TIME')\n"
              "local dead = redis.call('ZRANGEBYSCORE', ARGV[1], '-inf', t[1] * 1000 - 15000,\n"
              "  'LIMIT', 0, 1000)\n"
              "local held = 0\n"
              "for i = 1, #dead do\n"
              "  held = held + redis.call('HLEN', ARGV[2] .. dead[i])\n"
              "end\n"
              "return {#dead, held}\n",
};

int doctor_dead_workers(struct doctor *d, struct err *e)
{
    CLEANUP(mem_free) char *workers = cli_key(&d->b, "celeryc:workers");
    CLEANUP(mem_free) char *claims = cli_key(&d->b, "celeryc:claims:");
    const struct redis_reply *reply;
    if (!workers || !claims)
        return -ENOMEM;
    const struct slice argv[] = {slice_str(workers), slice_str(claims)};
    int r = redis_sync_eval(d->b.redis, &corpses_script, ARRAY_SIZE(argv), argv, &reply, e);
    if (r == 0 && reply->elem[0]->integer)
        doctor_found(
            d, "dead-workers", (uint64_t)reply->elem[0]->integer, 0,
            "%lld celeryc workers have not beaten for 15 s or more and hold %lld messages. "
            "Any celeryc that runs gives them back.",
            (long long)reply->elem[0]->integer, (long long)reply->elem[1]->integer);
    return r;
}

/* ---- the server ---- */

int doctor_memory(struct doctor *d, struct err *e)
{
    static const char field[] = "maxmemory_policy:";
    const struct redis_reply *reply;
    int r = cli_ask(&d->b, &reply, e, "INFO", "memory", NULL);
    if (r || reply->kind != REDIS_R_STRING)
        return r;
    const char *at = strstr(reply->str.p, field);
    if (!at)
        return 0;
    at += strlen(field);
    int len = (int)strcspn(at, "\r\n");
    if (strncmp(at, "noeviction", 10) != 0)
        doctor_found(d, "memory", 1, 0,
                     "maxmemory-policy is %.*s: short of memory, the server evicts messages and "
                     "claims. Set it to noeviction.",
                     len, at);
    return 0;
}
