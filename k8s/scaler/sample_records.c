/* SPDX-License-Identifier: Apache-2.0 */
/* Records of `unacked`, which is one hash for all queues: each is parsed to know whose it is and when it is due. */

#include "k8s/scaler/sample_priv.h"

#include "celeryc/base/num.h"

#include <errno.h>

#define PAGE "100"

static struct redis_reply *copy_members(struct arena *a, const struct redis_reply *from)
{
    struct redis_reply *to = arena_alloc(a, sizeof(*to));

    if (!to)
        return NULL;
    *to = (struct redis_reply){.kind = REDIS_R_ARRAY, .n = from->n};
    to->elem = arena_alloc_array(a, from->n, sizeof(*to->elem));
    for (size_t i = 0; to->elem && i < from->n; i++) {
        const char *text = arena_strdup(a, from->elem[i]->str);

        to->elem[i] = arena_alloc(a, sizeof(**to->elem));
        if (!text || !to->elem[i])
            return NULL;
        *to->elem[i] =
            (struct redis_reply){.kind = REDIS_R_STRING, .str = {text, from->elem[i]->str.len}};
    }
    return to->elem ? to : NULL;
}

/* The binding set of an exchange, asked for once. */
static int find_members(struct sampler *s, struct slice exchange,
                        const struct redis_reply **ret_members, struct err *e)
{
    static const struct redis_reply none = {.kind = REDIS_R_ARRAY};
    const struct redis_reply *reply;
    const char *name;
    int r;

    *ret_members = &none;
    if (exchange.len == 0 || memchr(exchange.p, '\0', exchange.len))
        return 0;
    for (size_t i = 0; i < s->n_exchanges; i++) {
        if (slice_eq(s->exchanges[i], exchange)) {
            *ret_members = s->members[i];
            return 0;
        }
    }
    if (s->n_exchanges == SAMPLE_EXCHANGES)
        return 0;
    name = arena_strdup(s->bindings, exchange);
    CLEANUP(mem_free) char *key = name ? sample_key(s, "_kombu.binding.", name) : NULL;
    r = key ? sample_ask(s, &reply, e, "SMEMBERS", key, NULL) : -ENOMEM;
    if (r)
        return r;
    if (reply->kind != REDIS_R_ARRAY)
        return sample_strange("SMEMBERS", e);
    s->members[s->n_exchanges] = copy_members(s->bindings, reply);
    s->exchanges[s->n_exchanges] = (struct slice){name, exchange.len};
    if (!s->members[s->n_exchanges])
        return -ENOMEM;
    *ret_members = s->members[s->n_exchanges++];
    return 0;
}

/* value is copied: asking for bindings overwrites the reply that it stands in. */
static int take_record(struct sampler *s, struct slice value, struct tally *t, struct err *e)
{
    const struct redis_reply *members;
    enum load_due due;
    int r = find_members(s, load_record_exchange(s->arena, value), &members, e);

    if (r == 0)
        r = load_record_due(s->arena, s->lists, s->k, value, members, s->due_us, &due);
    if (r == 0)
        tally_count(t, due);
    t->seen++;
    t->bytes += value.len;
    return r;
}

static int copy_values(struct arena *a, const struct redis_reply *page, struct slice **ret_values)
{
    struct slice *v = arena_alloc_array(a, page->n / 2 + 1, sizeof(*v));

    for (size_t i = 0; v && i < page->n / 2; i++) {
        struct slice s = page->elem[2 * i + 1]->str;

        v[i] = (struct slice){arena_strdup(a, s), s.len};
        if (!v[i].p)
            return -ENOMEM;
    }
    *ret_values = v;
    return v ? 0 : -ENOMEM;
}

/* Every value of a hash, until it is enough. */
int sample_scan_hash(struct sampler *s, const char *key, struct tally *t, struct err *e)
{
    char cursor[24] = "0";
    int r = 0;

    do {
        const struct redis_reply *reply;
        struct slice *values = NULL;
        size_t n;

        r = sample_ask(s, &reply, e, "HSCAN", key, cursor, "COUNT", PAGE, NULL);
        if (r)
            return r;
        if (reply->kind != REDIS_R_ARRAY || reply->n != 2 ||
            reply->elem[0]->str.len >= sizeof(cursor) || reply->elem[1]->kind != REDIS_R_ARRAY)
            return sample_strange("HSCAN", e);
        (void)snprintf(cursor, sizeof(cursor), "%.*s", (int)reply->elem[0]->str.len,
                       reply->elem[0]->str.p);
        arena_reset(s->arena);
        n = reply->elem[1]->n / 2;
        r = copy_values(s->arena, reply->elem[1], &values);
        for (size_t i = 0; r == 0 && i < n; i++)
            r = take_record(s, values[i], t, e);
    } while (r == 0 && !str_eq(cursor, "0") && !tally_is_enough(s, t));
    return r;
}

int sample_unacked(struct sampler *s, struct err *e)
{
    CLEANUP(mem_free)
    char *hash = sample_key(s, "unacked", ""), *index = sample_key(s, "unacked_index", "");
    const struct redis_reply *reply;
    struct tally t = {0};
    double score;
    int64_t all = 0;
    int r = hash && index ? sample_ask_count(s, "HLEN", hash, &all, e) : -ENOMEM;

    if (r == 0)
        r = sample_ask(s, &reply, e, "ZRANGE", index, "0", "0", "WITHSCORES", NULL);
    if (r)
        return r;
    if (reply->kind != REDIS_R_ARRAY)
        return sample_strange("ZRANGE", e);
    if (reply->n == 2 && num_parse_f64(reply->elem[1]->str, &score) == 0)
        s->l->oldest_unacked_s = (int64_t)MAX(0.0, (double)s->l->now_us / 1e6 - score);
    if (all)
        r = sample_scan_hash(s, hash, &t, e);
    s->l->unacked = tally_of_all(t.due, &t, all);
    s->l->unacked_later = tally_of_all(t.later, &t, all);
    s->l->estimated = s->l->estimated || all > t.seen;
    return r;
}
