/* SPDX-License-Identifier: Apache-2.0 */
/* The sweep: the database says which batches are open and that nobody works on them; the broker says which of them a
 * message still carries; the rest is sent.
 *
 * A message carries a batch when it waits in a list of the plan's queue, waits for its eta in celeryc:delayed, or stands
 * in kombu's `unacked` by the hand of a worker that lives: celeryc renews its claims, a Python worker does not, so that a
 * claim that is older than a lease says nothing. What is sent twice is claimed once. */

#include "celeryc/migrate/sweep.h"

#include "celeryc/base/clock.h"
#include "celeryc/batch/batch.h"
#include "celeryc/transport/stored.h"
#include "celeryc/transport/transport.h"

#include <errno.h>

#define TAKE       500 /* batches of one turn */
#define PAGE       200 /* messages of one answer */
#define PAGE_BYTES "4194304"
#define ID_LEN     ((size_t)36)

static const int priorities[] = {0, 3, 6, 9};

struct candidate {
    char id[ID_LEN + 1];
    const struct db_lost *lost;
    bool carried;
};

struct sweep {
    const struct sweep_options *o;
    struct arena *arena; /* of a turn */
    struct candidate *c;
    size_t n, n_carried;
    struct db_plan plan; /* of the candidates looked at last */
};

/* ---- what the broker has ---- */

static int by_id(const void *a, const void *b)
{
    return strcmp(((const struct candidate *)a)->id, ((const struct candidate *)b)->id);
}

/* The order in which they were planned. */
static int by_plan(const void *a, const void *b)
{
    const struct db_lost *x = a, *y = b;
    int order = strcmp(x->plan, y->plan);

    return order ? order : (x->row.batch > y->row.batch) - (x->row.batch < y->row.batch);
}

static int by_place(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;

    return (x->lost > y->lost) - (x->lost < y->lost);
}

static void look_at_id(struct sweep *s, const char *at)
{
    struct candidate key = {.carried = false};

    memcpy(key.id, at, ID_LEN);
    struct candidate *c = bsearch(&key, s->c, s->n, sizeof(*s->c), by_id);

    if (c && !c->carried) {
        c->carried = true;
        s->n_carried++;
    }
}

/* Task ids of a message stand behind "id": in its headers; other names that end in id do not have this quote. */
static void look_into(struct sweep *s, struct slice raw)
{
    static const char mark[] = "\"id\":";
    const char *p = raw.p, *end = raw.p + raw.len;

    while (p && (p = memmem(p, (size_t)(end - p), mark, sizeof(mark) - 1))) {
        p += sizeof(mark) - 1;
        if (p < end && *p == ' ')
            p++;
        if (p < end && *p == '"' && (size_t)(end - p) > ID_LEN + 1)
            look_at_id(s, p + 1);
    }
}

static void look_into_all(struct sweep *s, const struct redis_reply *reply, size_t step, size_t at)
{
    for (size_t i = at; reply->kind == REDIS_R_ARRAY && i < reply->n; i += step)
        look_into(s, reply->elem[i]->str);
}

static int look_at_list(struct sweep *s, const char *list, struct err *e)
{
    for (int64_t at = 0; s->n_carried < s->n; at += PAGE) {
        const struct redis_reply *reply = NULL;
        char from[24], to[24];

        (void)snprintf(from, sizeof(from), "%lld", (long long)at);
        (void)snprintf(to, sizeof(to), "%lld", (long long)at + PAGE - 1);
        int r = redis_sync_command(
            s->o->redis, 4,
            (struct slice[]){SLICE_LIT("LRANGE"), slice_str(list), slice_str(from), slice_str(to)},
            &reply, e);

        if (r)
            return r;
        look_into_all(s, reply, 1, 0);
        if (reply->n < PAGE)
            break;
    }
    return 0;
}

static int look_at_queue(struct sweep *s, const char *queue, struct err *e)
{
    int r = 0;

    for (size_t i = 0; !r && i < ARRAY_SIZE(priorities); i++) {
        CLEANUP(mem_free) char *list = transport_queue_key(s->o->key_prefix, queue, priorities[i]);

        r = list ? look_at_list(s, list, e) : -ENOMEM;
    }
    return r;
}

static char *key_of(const struct sweep *s, const char *name)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    buf_append_str(&b, s->o->key_prefix);
    buf_append_str(&b, name);
    return buf_take(&b);
}

static int look_at_delayed(struct sweep *s, struct err *e)
{
    CLEANUP(mem_free) char *key = key_of(s, "celeryc:delayed");
    const struct redis_reply *reply = NULL;
    size_t n = 1;

    if (!key)
        return -ENOMEM;
    for (size_t at = 0; n > 0 && s->n_carried < s->n; at += n) {
        char skip[24];

        (void)snprintf(skip, sizeof(skip), "%zu", at);
        const struct slice argv[] = {slice_str(key), slice_str(skip), SLICE_LIT("200"),
                                     SLICE_LIT(PAGE_BYTES)};
        int r =
            redis_sync_eval(s->o->redis, &stored_delayed_page, ARRAY_SIZE(argv), argv, &reply, e);

        if (r)
            return r;
        n = reply->kind == REDIS_R_ARRAY ? reply->n / 4 : 0;
        look_into_all(s, reply, 4, 3);
    }
    return 0;
}

/* Claims by the hand of a worker that lives, page by page: their values in one command. Index, hash, oldest score, skip,
 * how many. */
static const struct redis_script claims_script = {
    .name = "sweep_claims",
    .source = "local f = redis.call('ZRANGEBYSCORE', ARGV[1], ARGV[3], '+inf', 'LIMIT', ARGV[4], "
              "ARGV[5])\n"
              "if #f == 0 then return {} end\n"
              "local v = redis.call('HMGET', ARGV[2], unpack(f))\n"
              "for i = 1, #v do v[i] = v[i] or '' end\n"
              "return v\n",
};

static int look_at_claims(struct sweep *s, struct err *e)
{
    CLEANUP(mem_free)
    char *index = key_of(s, s->o->unacked_index_key ? s->o->unacked_index_key : "unacked_index");
    CLEANUP(mem_free) char *hash = key_of(s, s->o->unacked_key ? s->o->unacked_key : "unacked");
    double oldest_s = (double)clock_wall_us() / 1e6 - (double)s->o->lease_ms / 1000;
    const struct redis_reply *reply = NULL;
    char oldest[40], skip[24];
    size_t n = 1;

    if (!index || !hash)
        return -ENOMEM;
    (void)snprintf(oldest, sizeof(oldest), "%.3f", oldest_s);
    for (size_t at = 0; n > 0 && s->n_carried < s->n; at += n) {
        (void)snprintf(skip, sizeof(skip), "%zu", at);
        const struct slice argv[] = {slice_str(index), slice_str(hash), slice_str(oldest),
                                     slice_str(skip), SLICE_LIT("200")};
        int r = redis_sync_eval(s->o->redis, &claims_script, ARRAY_SIZE(argv), argv, &reply, e);

        if (r)
            return r;
        n = reply->kind == REDIS_R_ARRAY ? reply->n : 0;
        look_into_all(s, reply, 1, 0);
    }
    return 0;
}

/* ---- sending ---- */

static const char *queue_of(const struct sweep *s)
{
    return s->plan.queue && *s->plan.queue ? s->plan.queue : "celery";
}

static int load_plan(struct sweep *s, const char *plan, struct err *e)
{
    const char *state;

    if (s->plan.plan && str_eq(s->plan.plan, plan))
        return 0;
    return db_plan_get(s->o->db, plan, s->arena, &s->plan, &state, e);
}

/* Everything that the broker holds is looked through once, each queue once. */
static int look(struct sweep *s, const struct db_lost *lost, struct err *e)
{
    const char *seen = NULL;
    int r = s->o->resumed ? 0 : look_at_claims(s, e);

    if (!r)
        r = look_at_delayed(s, e);
    for (size_t i = 0; !r && i < s->n; i++) {
        r = load_plan(s, lost[i].plan, e);
        if (r || (seen && str_eq(seen, queue_of(s))))
            continue;
        seen = queue_of(s);
        r = look_at_queue(s, seen, e);
    }
    return r;
}

static int send_rest(struct sweep *s, struct sweep_result *res, struct err *e)
{
    int r = 0;

    for (size_t i = 0; !r && i < s->n; i++) {
        if (s->c[i].carried)
            continue;
        r = load_plan(s, s->c[i].lost->plan, e);
        CLEANUP(mem_free)
        char *list = r ? NULL : transport_queue_key(s->o->key_prefix, queue_of(s), 0);

        if (!r)
            r = list ? migrate_queue_message(s->o->redis, queue_of(s), list, &s->plan,
                                             &s->c[i].lost->row)
                     : -ENOMEM;
        res->sent += r == 0;
    }
    return r ? r : redis_sync_flush(s->o->redis, e);
}

static int turn(struct sweep *s, struct sweep_result *res, size_t *ret_n, struct err *e)
{
    const struct db_sweep q = {.plan = s->o->plan, .after_ms = s->o->after_ms, .max = TAKE};
    struct db_lost *lost;

    arena_reset(s->arena);
    s->plan = (struct db_plan){0};
    s->n = s->n_carried = 0;
    lost = arena_alloc_array(s->arena, TAKE, sizeof(*lost));
    s->c = arena_alloc_array(s->arena, TAKE, sizeof(*s->c));
    if (!lost || !s->c)
        return -ENOMEM;
    int r = db_sweep_take(s->o->db, &q, s->arena, lost, &s->n, e);

    if (!r && s->n)
        qsort(lost, s->n, sizeof(*lost), by_plan);
    for (size_t i = 0; !r && i < s->n; i++) {
        s->c[i] = (struct candidate){.lost = &lost[i]};
        batch_task_id(lost[i].plan, lost[i].row.batch, s->c[i].id);
    }
    *ret_n = s->n;
    res->looked_at += s->n;
    if (r || s->n == 0)
        return r;
    qsort(s->c, s->n, sizeof(*s->c), by_id);
    r = look(s, lost, e);
    if (r)
        return r;
    qsort(s->c, s->n, sizeof(*s->c), by_place);
    return send_rest(s, res, e);
}

int migrate_sweep(const struct sweep_options *o, struct sweep_result *ret_r, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct sweep s = {.o = o, .arena = a};
    struct sweep_result res = {0};
    size_t n = TAKE;

    if (!a)
        return -ENOMEM;
    int r = db_sweep_tidy(o->db, e);

    while (!r && n == TAKE)
        r = turn(&s, &res, &n, e);
    if (!r)
        *ret_r = res;
    return r;
}
