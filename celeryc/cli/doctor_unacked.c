/* SPDX-License-Identifier: Apache-2.0 */
/* `unacked` and its index: what is there for too long, what lacks its other half, what will be delivered twice.
 *
 * Repairs are kombu's own: an overdue entry goes back to its queue under kombu's mutex, in the script that looks whether it
 * still is overdue; an index entry without a record is dropped; a record without an index entry gets one, so that it comes
 * back when the visibility timeout has passed. */

#include "celeryc/cli/doctor_priv.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/codec.h"
#include "celeryc/message/json.h"
#include "celeryc/transport/route.h"
#include "celeryc/transport/stored.h"

#include <errno.h>

#define PAGE_FIELDS "200"
#define PAGE_BYTES  "4194304"
#define MAX_ROUNDS  100000

static const int kombu_steps[] = {0, 3, 6, 9};

/* Index, seconds. Returns how many are older, and the age of the oldest in seconds. */
static const struct redis_script overdue_script = {
    .name = "doctor_overdue",
    .source = "local t = redis.call('TIME')\n"
              "local now = tonumber(t[1])\n"
              "local n = redis.call('ZCOUNT', ARGV[1], '-inf', now - ARGV[2])\n"
              "local first = redis.call('ZRANGE', ARGV[1], 0, 0, 'WITHSCORES')\n"
              "return {n, first[2] and math.floor(now - first[2]) or 0}\n",
};

/* Index, unacked, cursor, "1" to repair. Returns the next cursor and how many have no record. */
static const struct redis_script index_script = {
    .name = "doctor_index",
    .source = "local r = redis.call('ZSCAN', ARGV[1], ARGV[3], 'COUNT', 500)\n"
              "local n = 0\n"
              "for i = 1, #r[2], 2 do\n"
              "  if redis.call('HEXISTS', ARGV[2], r[2][i]) == 0 then\n"
              "    n = n + 1\n"
              "    if ARGV[4] == '1' then redis.call('ZREM', ARGV[1], r[2][i]) end\n"
              "  end\n"
              "end\n"
              "return {r[1], n}\n",
};

/* Unacked, index, cursor, "1" to repair, budget. Returns the next cursor, how many have no index entry, and the values that
 * may have an eta, without those of celeryc, whose lease is renewed. */
static const struct redis_script record_script = {
    .name = "doctor_records",
    .source = "local t = redis.call('TIME')\n"
              "local r = redis.call('HSCAN', ARGV[1], ARGV[3], 'COUNT', 100)\n"
              "local n, out, budget = 0, {}, tonumber(ARGV[5])\n"
              "for i = 1, #r[2], 2 do\n"
              "  local field, value = r[2][i], r[2][i + 1]\n"
              "  if not redis.call('ZSCORE', ARGV[2], field) then\n"
              "    n = n + 1\n"
              "    if ARGV[4] == '1' then redis.call('ZADD', ARGV[2], 'NX', t[1], field) end\n"
              "  end\n"
              "  local ours = #field == 65 and string.find(field, '^%x+:%d+$')\n"
              "  if not ours and budget > 0 and string.find(value, '\"eta\": \"', 1, true) then\n"
              "    out[#out + 1] = value\n"
              "    budget = budget - #value\n"
              "  end\n"
              "end\n"
              "return {r[1], n, out}\n",
};

/* ---- overdue ---- */

struct sweep {
    struct doctor *d;
    char token[UUID_TEXT_SIZE], timeout[32];
    char *binding;
    struct slice *argv;
    size_t n;
};

/* The nine that the transport's scripts have in common; only two matter to a sweep. */
static size_t put_common(const struct sweep *s, struct slice *dst)
{
    for (size_t i = 0; i < 9; i++)
        dst[i] = SLICE_LIT("");
    dst[4] = slice_str(s->d->unacked);
    dst[5] = slice_str(s->d->index);
    dst[9] = slice_str(s->d->mutex);
    dst[10] = slice_str(s->token);
    dst[11] = slice_str(s->timeout);
    return 12;
}

static int add_record(struct sweep *s, const struct redis_reply *const *at)
{
    struct doctor *d = s->d;
    const struct settings *set = &d->b.s;
    const struct route_keys keys = {
        .prefix = d->b.prefix,
        .sep = set->sep ? set->sep : "\x06\x16",
        .steps = set->n_priority_steps ? set->priority_steps : kombu_steps,
        .n_steps = set->n_priority_steps ? set->n_priority_steps : ARRAY_SIZE(kombu_steps),
    };
    struct route route;
    int r = route_record(d->arena, &keys, at[1]->str, at[2], &route);
    if (r)
        return r == -ENOMEM ? r : 0; /* not ours to judge */
    char *field = arena_strdup(d->arena, at[0]->str);
    char *count = arena_printf(d->arena, "%zu", route.n);
    if (!field || !count)
        return -ENOMEM;
    s->argv[s->n++] = (struct slice){field, at[0]->str.len};
    s->argv[s->n++] = route.raw;
    s->argv[s->n++] = slice_str(count);
    for (size_t i = 0; i < route.n; i++)
        s->argv[s->n++] = slice_str(route.lists[i]);
    return 0;
}

/* *ret_moved 0: nothing is left, or somebody else sweeps. */
static int sweep_round(struct sweep *s, int64_t *ret_moved, struct err *e)
{
    struct doctor *d = s->d;
    struct slice ask[16];
    const struct redis_reply *reply;
    *ret_moved = 0;
    arena_reset(d->arena);
    size_t n = put_common(s, ask);
    ask[n++] = SLICE_LIT(PAGE_FIELDS);
    ask[n++] = SLICE_LIT(PAGE_BYTES);
    ask[n++] = slice_str(s->binding);
    int r = redis_sync_eval(d->b.redis, &stored_sweep, n, ask, &reply, e);
    if (r || reply->kind != REDIS_R_ARRAY || reply->n < 3)
        return r;
    s->argv =
        arena_alloc_array(d->arena, 12 + (reply->n / 3) * (3 + ROUTE_LISTS), sizeof(*s->argv));
    if (!s->argv)
        return -ENOMEM;
    s->n = put_common(s, s->argv);
    for (size_t i = reply->n / 3; r == 0 && i-- > 0;)
        r = add_record(s, (const struct redis_reply *const *)&reply->elem[3 * i]);
    if (r == 0)
        r = redis_sync_eval(d->b.redis, &stored_sweep_move, s->n, s->argv, &reply, e);
    if (r == 0)
        *ret_moved = reply->integer;
    return r;
}

static int restore(struct doctor *d, uint64_t *ret_moved, struct err *e)
{
    struct sweep s = {.d = d, .binding = cli_key(&d->b, "_kombu.binding.")};
    int64_t moved = 1;
    int r = s.binding ? 0 : -ENOMEM;
    uuid4_text(s.token);
    (void)snprintf(s.timeout, sizeof(s.timeout), "%.3f", d->b.s.visibility_timeout);
    for (int i = 0; r == 0 && moved > 0 && i < MAX_ROUNDS; i++) {
        r = sweep_round(&s, &moved, e);
        *ret_moved += (uint64_t)MAX(moved, 0);
    }
    free(s.binding);
    return r;
}

int doctor_overdue(struct doctor *d, struct err *e)
{
    char timeout[32];
    const struct redis_reply *reply;
    (void)snprintf(timeout, sizeof(timeout), "%.3f", d->b.s.visibility_timeout);
    const struct slice argv[] = {slice_str(d->index), slice_str(timeout)};
    int r = redis_sync_eval(d->b.redis, &overdue_script, ARRAY_SIZE(argv), argv, &reply, e);
    if (r)
        return r;
    uint64_t n = (uint64_t)reply->elem[0]->integer, moved = 0;
    int64_t oldest = reply->elem[1]->integer;
    if (n && d->fix)
        r = restore(d, &moved, e);
    if (n && r == 0)
        doctor_found(d, "unacked", n, moved,
                     "%llu messages are unacknowledged for longer than the visibility timeout of "
                     "%g s, the oldest for %lld s: their workers are gone and nobody restores.",
                     (unsigned long long)n, d->b.s.visibility_timeout, (long long)oldest);
    return r;
}

/* ---- pairs ---- */

static int next_cursor(char dst[24], const struct redis_reply *reply, size_t least, struct err *e)
{
    if (reply->kind != REDIS_R_ARRAY || reply->n < least || reply->elem[0]->str.len >= 24)
        return err_set(e, -EPROTO, "a scan was not answered with a cursor");
    (void)snprintf(dst, 24, "%.*s", (int)reply->elem[0]->str.len, reply->elem[0]->str.p);
    return 0;
}

static int check_index(struct doctor *d, struct err *e)
{
    char cursor[24] = "0";
    uint64_t n = 0;
    int r = 0;
    do {
        const struct redis_reply *reply;
        const struct slice argv[] = {slice_str(d->index), slice_str(d->unacked), slice_str(cursor),
                                     d->fix ? SLICE_LIT("1") : SLICE_LIT("0")};
        r = redis_sync_eval(d->b.redis, &index_script, ARRAY_SIZE(argv), argv, &reply, e);
        if (r == 0)
            r = next_cursor(cursor, reply, 2, e);
        if (r == 0)
            n += (uint64_t)reply->elem[1]->integer;
    } while (r == 0 && !str_eq(cursor, "0"));
    if (r == 0 && n)
        doctor_found(d, "index", n, d->fix ? n : 0,
                     "%llu entries of %s have no message: something deleted it by hand.",
                     (unsigned long long)n, d->index);
    return r;
}

/* Is the message's eta so far away that it is delivered again before? */
static bool is_far(struct arena *a, struct slice value, double timeout_s)
{
    struct json_val v;
    struct slice eta;
    int64_t eta_us;
    if (json_scan(value, &v, NULL) ||
        json_string(a, json_get(json_get(json_at(v, 0), "headers"), "eta"), &eta) ||
        clock_iso_parse(eta, &eta_us))
        return false;
    return (double)(eta_us - clock_wall_us()) / 1e6 > timeout_s;
}

static int check_records(struct doctor *d, struct err *e)
{
    char cursor[24] = "0";
    uint64_t n = 0, far = 0;
    int r = 0;
    do {
        const struct redis_reply *reply;
        const struct slice argv[] = {slice_str(d->unacked), slice_str(d->index), slice_str(cursor),
                                     d->fix ? SLICE_LIT("1") : SLICE_LIT("0"),
                                     SLICE_LIT(PAGE_BYTES)};
        r = redis_sync_eval(d->b.redis, &record_script, ARRAY_SIZE(argv), argv, &reply, e);
        if (r == 0)
            r = next_cursor(cursor, reply, 3, e);
        if (r)
            return r;
        n += (uint64_t)reply->elem[1]->integer;
        arena_reset(d->arena);
        for (size_t i = 0; i < reply->elem[2]->n; i++)
            far += is_far(d->arena, reply->elem[2]->elem[i]->str, d->b.s.visibility_timeout);
    } while (!str_eq(cursor, "0"));
    if (n)
        doctor_found(d, "records", n, d->fix ? n : 0,
                     "%llu messages in %s have no entry in its index: nobody would ever restore "
                     "them.",
                     (unsigned long long)n, d->unacked);
    if (far)
        doctor_found(d, "eta", far, 0,
                     "%llu messages that Python workers hold have an ETA beyond the visibility "
                     "timeout of %g s: they will be delivered again and run more than once. Raise "
                     "visibility_timeout above the longest ETA.",
                     (unsigned long long)far, d->b.s.visibility_timeout);
    return 0;
}

int doctor_pairs(struct doctor *d, struct err *e)
{
    int r = check_index(d, e);
    return r ? r : check_records(d, e);
}
