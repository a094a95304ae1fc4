/* SPDX-License-Identifier: Apache-2.0 */
/* The questions to Redis. No script, no write, nothing that stops the server for long: counts, and pages of at most
 * scan_limit records and SAMPLE_BYTES, from which the rest is estimated. */

#include "k8s/scaler/sample_priv.h"

#include "celeryc/base/num.h"

#include <errno.h>

#define WORDS     8
#define LIST_PAGE 50

/* ---- asking ---- */

int sample_ask(struct sampler *s, const struct redis_reply **ret_reply, struct err *e, ...)
{
    struct slice argv[WORDS] = {SLICE_NULL};
    const char *word;
    size_t n = 0;
    va_list ap;
    int r;

    va_start(ap, e);
    while ((word = va_arg(ap, const char *))) {
        ASSERT(n < WORDS);
        argv[n++] = slice_str(word);
    }
    va_end(ap);
    r = redis_sync_command(s->redis, n, argv, ret_reply, e);
    return r ? err_prefix(e, r, "%s %s", argv[0].p, n > 1 ? argv[1].p : "") : 0;
}

int sample_strange(const char *what, struct err *e)
{
    return err_set(e, -EPROTO, "%s: a strange answer", what);
}

int sample_ask_count(struct sampler *s, const char *command, const char *key, int64_t *ret_n,
                     struct err *e)
{
    const struct redis_reply *reply;
    int r = sample_ask(s, &reply, e, command, key, NULL);

    if (r)
        return r;
    if (reply->kind != REDIS_R_INTEGER || reply->integer < 0)
        return sample_strange(command, e);
    *ret_n = reply->integer;
    return 0;
}

char *sample_key(const struct sampler *s, const char *name, const char *rest)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    buf_append_str(&b, s->k->prefix);
    buf_append_str(&b, name);
    buf_append_str(&b, rest);
    return buf_take(&b);
}

/* ---- the server ---- */

static int read_clock(struct sampler *s, struct err *e)
{
    const struct redis_reply *reply;
    int64_t seconds, micros;
    int r = sample_ask(s, &reply, e, "TIME", NULL);

    if (r)
        return r;
    if (reply->kind != REDIS_R_ARRAY || reply->n != 2 ||
        num_parse_i64(reply->elem[0]->str, &seconds) || num_parse_i64(reply->elem[1]->str, &micros))
        return sample_strange("TIME", e);
    s->l->now_us = seconds * 1000000 + micros;
    s->due_us = s->l->now_us + s->k->wake_lead_s * 1000000;
    return 0;
}

static int read_role(struct sampler *s, struct err *e)
{
    const struct redis_reply *reply;
    int r = sample_ask(s, &reply, e, "ROLE", NULL);

    if (r)
        return r;
    if (reply->kind != REDIS_R_ARRAY || reply->n == 0)
        return sample_strange("ROLE", e);
    return slice_eq_str(reply->elem[0]->str, "master")
               ? 0
               : err_set(e, -EPROTO, "this Redis is a replica (%.*s), which may lag behind",
                         (int)MIN(reply->elem[0]->str.len, 20), reply->elem[0]->str.p);
}

/* The value of a line "name:value". */
static struct slice info_line(struct slice text, const char *name)
{
    const char *p = memmem(text.p, text.len, name, strlen(name));
    size_t rest;

    if (!p)
        return SLICE_NULL;
    p += strlen(name);
    rest = text.len - (size_t)(p - text.p);
    const char *end = memchr(p, '\r', rest);
    return (struct slice){p, end ? (size_t)(end - p) : rest};
}

static int read_info(struct sampler *s, struct err *e)
{
    const struct redis_reply *reply;
    struct slice run_id;
    int r = sample_ask(s, &reply, e, "INFO", "server", NULL);

    if (r)
        return r;
    if (reply->kind != REDIS_R_STRING)
        return sample_strange("INFO", e);
    run_id = info_line(reply->str, "\nrun_id:");
    if (num_parse_i64(info_line(reply->str, "\nuptime_in_seconds:"), &s->l->uptime_s) ||
        run_id.len == 0 || run_id.len >= sizeof(s->l->run_id))
        return sample_strange("INFO server", e);
    memcpy(s->l->run_id, run_id.p, run_id.len);
    s->l->run_id[run_id.len] = '\0';
    return 0;
}

/* ---- lists ---- */

static int read_lists(struct sampler *s, struct err *e)
{
    int r = 0;

    s->l->listed = calloc(s->lists->keys.n + 1, sizeof(*s->l->listed));
    if (!s->l->listed)
        return -ENOMEM;
    for (size_t i = 0; r == 0 && i < s->lists->keys.n; i++) {
        r = sample_ask_count(s, "LLEN", s->lists->keys.v[i], &s->l->listed[i], e);
        s->l->ready += s->l->listed[i];
    }
    return r;
}

/* A queue's binding set is made by its first worker or sender and stays. */
static int read_bound(struct sampler *s, struct err *e)
{
    int r = 0;

    for (size_t i = 0; r == 0 && !s->l->bound && i < s->lists->queues.n; i++) {
        CLEANUP(mem_free) char *key = sample_key(s, "_kombu.binding.", s->lists->queues.v[i]);
        const struct redis_reply *reply;

        r = key ? sample_ask(s, &reply, e, "TYPE", key, NULL) : -ENOMEM;
        if (r == 0)
            s->l->bound = !slice_eq_str(reply->str, "none");
    }
    return r;
}

/* ---- all of it ---- */

void load_deinit(struct load *l)
{
    free(l->listed);
    *l = (struct load){0};
}

static int read_all(struct sampler *s, struct err *e)
{
    int (*const parts[])(struct sampler *, struct err *) = {
        read_role, read_clock, read_info, read_lists, read_bound, sample_unacked, sample_celeryc,
    };
    int r = 0;

    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(parts); i++)
        r = parts[i](s, e);
    return r;
}

int load_read(struct redis_sync *redis, const struct load_keys *k, const struct load_lists *lists,
              struct load *ret_l, struct err *e)
{
    CLEANUP(arena_free) struct arena *arena = arena_new(), *bindings = arena_new();
    CLEANUP(load_deinit) struct load l = {0};
    struct sampler s = {
        .redis = redis, .k = k, .lists = lists, .l = &l, .arena = arena, .bindings = bindings};
    int r = arena && bindings ? read_all(&s, e) : -ENOMEM;

    if (r)
        return r;
    *ret_l = l;
    l = (struct load){0};
    return 0;
}

/* The end that is consumed first, a page at a time. */
static int scan_list(struct sampler *s, const char *key, int64_t length, struct tally *t,
                     struct err *e)
{
    int r = 0;

    for (int64_t done = 0; r == 0 && done < length && !tally_is_enough(s, t); done += LIST_PAGE) {
        const struct redis_reply *reply;
        char from[32], to[32];

        (void)snprintf(from, sizeof(from), "%lld", (long long)(-done - LIST_PAGE));
        (void)snprintf(to, sizeof(to), "%lld", (long long)(-done - 1));
        r = sample_ask(s, &reply, e, "LRANGE", key, from, to, NULL);
        if (r == 0 && (reply->kind != REDIS_R_ARRAY))
            r = sample_strange("LRANGE", e);
        for (size_t i = 0; r == 0 && i < reply->n; i++) {
            enum load_due due;

            arena_reset(s->arena);
            r = load_message_due(s->arena, reply->elem[i]->str, s->due_us, &due);
            if (r == 0)
                tally_count(t, due);
            t->seen++;
            t->bytes += reply->elem[i]->str.len;
        }
        if (r == 0 && reply->n < LIST_PAGE)
            break;
    }
    return r;
}

int load_read_later(struct redis_sync *redis, const struct load_keys *k,
                    const struct load_lists *lists, struct load *l, struct err *e)
{
    CLEANUP(arena_free) struct arena *arena = arena_new();
    struct sampler s = {.redis = redis,
                        .k = k,
                        .lists = lists,
                        .l = l,
                        .arena = arena,
                        .due_us = l->now_us + k->wake_lead_s * 1000000};
    int r = arena ? 0 : -ENOMEM;

    for (size_t i = 0; r == 0 && i < lists->keys.n; i++) {
        struct tally t = {0};
        int64_t later;

        if (l->listed[i] == 0)
            continue;
        r = scan_list(&s, lists->keys.v[i], l->listed[i], &t, e);
        later = MIN(tally_of_all(t.later, &t, l->listed[i]), l->listed[i]);
        l->ready -= later;
        l->later += later;
        l->estimated = l->estimated || l->listed[i] > t.seen;
    }
    return r;
}
