/* SPDX-License-Identifier: Apache-2.0 */
/* celeryc drain --to-celery: the way back to Python workers alone. Every message under a celeryc: key goes back to the list
 * that Celery reads; what had started and was acknowledged early must not run twice and becomes a dead letter. Dead letters
 * stay: most of them would kill a Python worker.
 *
 * Each step moves a message in one script, so that a drain that is killed is simply run again. Entries of an unknown format
 * are left alone. */

#include "celeryc/cli/broker.h"

#include "celeryc/base/arena.h"
#include "celeryc/message/message.h"
#include "celeryc/transport/stored.h"
#include "celeryc/worker/queues.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>

#define PAGE       100
#define FLUSH_PAGE "1000"
#define PAGE_BYTES "4194304"

struct drain_options {
    struct cli_common common;
    bool to_celery, force;
};

#define AT(field) offsetof(struct drain_options, field)

/* clang-format off */
static const struct opt opts[] = {
    {.name = "to-celery", .kind = OPT_FLAG, .offset = AT(to_celery), .help = "Say it: this is a step away from celeryc."},
    {.short_name = 'f', .name = "force", .kind = OPT_FLAG, .offset = AT(force), .help = "Although celeryc workers live: what they run now runs again elsewhere."},
    CLI_COMMON_OPTS,
    {0},
};
/* clang-format on */

const struct opt_table cli_drain_table = {
    .command = "drain",
    .usage = "--to-celery [OPTIONS]",
    .about = "Give every message that celeryc keeps under keys of its own back to the lists that "
             "Celery reads, when Python workers take over. Stop the celeryc workers first. Tasks "
             "that a killed worker had started and acknowledged early become dead letters, which "
             "stay. Exit code 1: something could not be given back.",
    .opts = opts,
};

struct drain {
    struct cli_broker b;
    struct arena *arena;
    char *unacked, *index, *claims, *running;
    uint64_t n_back, n_delayed, n_dead, n_left;
};

/* Claims, running, unacked, then fields. Returns for each: "u", "r" or "", note, value. */
static const struct redis_script look_script = {
    .name = "drain_look",
    .source = "local out, o = {}, 0\n"
              "for i = 4, #ARGV do\n"
              "  local place, value = 'u', redis.call('HGET', ARGV[3], ARGV[i])\n"
              "  if not value then place, value = 'r', redis.call('HGET', ARGV[2], ARGV[i]) end\n"
              "  if not value then place, value = '', '' end\n"
              "  out[o + 1], out[o + 2], out[o + 3] = place,\n"
              "    redis.call('HGET', ARGV[1], ARGV[i]) or '', value\n"
              "  o = o + 3\n"
              "end\n"
              "return out\n",
};

/* Claims, index, hash of the entry, field, how, list or "" (only the note goes), message. Returns 1 when it went. */
static const struct redis_script move_script = {
    .name = "drain_move",
    .source = "local A = ARGV\n"
              "local moved = 0\n"
              "if A[6] ~= '' and redis.call('HEXISTS', A[3], A[4]) == 1 then\n"
              "  if type(redis.pcall(A[5], A[6], A[7])) ~= 'number' then return 0 end\n"
              "  redis.call('HDEL', A[3], A[4])\n"
              "  redis.call('ZREM', A[2], A[4])\n"
              "  moved = 1\n"
              "end\n"
              "redis.call('HDEL', A[1], A[4])\n"
              "return moved\n",
};

/* Waiting list, queue. Returns how many went. */
static const struct redis_script waiting_script = {
    .name = "drain_waiting",
    .source = "local n = 0\n"
              "while n < 1000 do\n"
              "  local r = redis.pcall('LMOVE', ARGV[1], ARGV[2], 'LEFT', 'RIGHT')\n"
              "  if not r or type(r) == 'table' then break end\n"
              "  n = n + 1\n"
              "end\n"
              "return n\n",
};

/* ---- what one worker holds ---- */

static int by_name_down(const void *a, const void *b)
{
    return strcmp(*(char *const *)b, *(char *const *)a);
}

static int add_fields(struct drain *d, const char *key, struct strv *fields, struct err *e)
{
    const struct redis_reply *reply;
    int r = cli_ask(&d->b, &reply, e, "HKEYS", key, NULL);
    for (size_t i = 0; r == 0 && i < reply->n; i++)
        if (!strv_has(fields, reply->elem[i]->str.p))
            r = strv_add(fields, reply->elem[i]->str.p);
    return r;
}

/* What an entry becomes. how NULL: it cannot be read and stays. */
struct fate {
    const char *hash, *how;
    struct slice list, raw;
};

static int queue_of(struct arena *a, struct slice tail, struct slice *ret_queue)
{
    struct json_val v;
    size_t skip = strlen(", \"\", ");
    struct slice text = {tail.p + skip, tail.len - skip - 1};
    return json_scan(text, &v, NULL) ? -EINVAL : json_string_z(a, v, ret_queue);
}

static int dead_list(struct drain *d, struct slice queue, struct fate *f)
{
    CLEANUP(mem_free) char *list = cli_key(&d->b, "celeryc:dead:%s", queue.p);
    char *kept = list ? arena_strdup(d->arena, slice_str(list)) : NULL;
    CLEANUP(buf_deinit) struct buf item = BUF_INIT;
    if (!kept || dead_entry_write(&item, queue, f->raw,
                                  "Its worker was killed while it ran this task, which was "
                                  "acknowledged before."))
        return -ENOMEM;
    char *text = arena_strdup(d->arena, buf_slice(&item));
    f->list = slice_str(kept);
    f->raw = (struct slice){text, item.len};
    f->how = "LPUSH";
    return text ? 0 : -ENOMEM;
}

static int live_list(struct drain *d, struct slice queue, struct slice note, struct fate *f)
{
    CLEANUP(buf_deinit) struct buf marked = BUF_INIT;
    CLEANUP(buf_deinit) struct buf list = BUF_INIT;
    if (note.len)
        buf_append(&list, note.p, strnlen(note.p, note.len)); /* a started one has NUL and its id */
    else
        queues_key(&list, &d->b.s, queue.p, 0);
    if (message_write_redelivered(&marked, f->raw) || buf_ok(&list))
        return -ENOMEM;
    char *name = arena_strdup(d->arena, buf_slice(&list));
    char *text = arena_strdup(d->arena, buf_slice(&marked));
    f->list = slice_str(name);
    f->raw = (struct slice){text, marked.len};
    f->how = "RPUSH";
    return name && text ? 0 : -ENOMEM;
}

static int decide(struct drain *d, const struct redis_reply *const *at, struct fate *f)
{
    struct slice tail, queue, note = at[1]->str;
    bool started = slice_eq_str(at[0]->str, "r");
    *f = (struct fate){.hash = started ? d->running : d->unacked};
    if (at[0]->str.len == 0) {
        f->how = "RPUSH"; /* the note alone goes */
        f->list = SLICE_LIT("");
        f->raw = SLICE_LIT("");
        return 0;
    }
    if (stored_split(at[2]->str, &f->raw, &tail) || queue_of(d->arena, tail, &queue))
        return 0;
    /* A late-ack task in the running hash, with an id in its note, was about to be set aside. */
    return started ? dead_list(d, queue, f) : live_list(d, queue, note, f);
}

static int move(struct drain *d, const char *field, const struct fate *f, struct err *e)
{
    const struct redis_reply *reply;
    if (!f->how) {
        d->n_left++;
        return 0;
    }
    const struct slice argv[] = {slice_str(d->claims),
                                 slice_str(d->index),
                                 slice_str(f->hash),
                                 slice_str(field),
                                 slice_str(f->how),
                                 f->list,
                                 f->raw};
    int r = redis_sync_eval(d->b.redis, &move_script, ARRAY_SIZE(argv), argv, &reply, e);
    if (r || !f->list.len)
        return r;
    if (reply->integer != 1)
        d->n_left++;
    else if (str_eq(f->how, "RPUSH"))
        d->n_back++;
    else
        d->n_dead++;
    return 0;
}

static int drain_page(struct drain *d, size_t n, char *const *fields, struct err *e)
{
    struct slice argv[3 + PAGE];
    struct fate fates[PAGE];
    const struct redis_reply *reply;
    arena_reset(d->arena);
    argv[0] = slice_str(d->claims);
    argv[1] = slice_str(d->running);
    argv[2] = slice_str(d->unacked);
    for (size_t i = 0; i < n; i++)
        argv[3 + i] = slice_str(fields[i]);
    int r = redis_sync_eval(d->b.redis, &look_script, 3 + n, argv, &reply, e);
    for (size_t i = 0; r == 0 && i < n; i++)
        r = decide(d, (const struct redis_reply *const *)&reply->elem[3 * i], &fates[i]);
    for (size_t i = 0; r == 0 && i < n; i++)
        r = move(d, fields[i], &fates[i], e);
    return r;
}

/* Fields count up, so the newest go first and the oldest ends nearest the head. */
static int drain_worker(struct drain *d, const char *id, struct err *e)
{
    CLEANUP(strv_deinit) struct strv fields = {NULL, 0};
    free(d->claims);
    free(d->running);
    d->claims = cli_key(&d->b, "celeryc:claims:%s", id);
    d->running = cli_key(&d->b, "celeryc:running:%s", id);
    int r = d->claims && d->running ? 0 : -ENOMEM;
    if (r == 0)
        r = add_fields(d, d->claims, &fields, e);
    if (r == 0)
        r = add_fields(d, d->running, &fields, e);
    if (fields.n)
        qsort(fields.v, fields.n, sizeof(*fields.v), by_name_down);
    for (size_t i = 0; r == 0 && i < fields.n; i += PAGE)
        r = drain_page(d, MIN(fields.n - i, (size_t)PAGE), fields.v + i, e);
    return r;
}

static int drain_waiting(struct drain *d, struct err *e)
{
    CLEANUP(strv_deinit) struct strv lists = {NULL, 0};
    size_t skip = strlen(d->b.prefix) + strlen("celeryc:waiting:");
    int r = cli_keys(&d->b, "celeryc:waiting:", &lists, e);
    for (size_t i = 0; r == 0 && i < lists.n; i++) {
        const char *queue = strchr(lists.v[i] + skip, ':');
        CLEANUP(mem_free) char *list = queue ? cli_key(&d->b, "%s", queue + 1) : NULL;
        const struct redis_reply *reply;
        if (!list)
            continue;
        const struct slice argv[] = {slice_str(lists.v[i]), slice_str(list)};
        r = redis_sync_eval(d->b.redis, &waiting_script, 2, argv, &reply, e);
        d->n_back += r == 0 && reply->integer > 0 ? (uint64_t)reply->integer : 0;
    }
    return r;
}

/* ---- workers ---- */

/* Of a format that we know? Then it is emptied, and forgotten when nothing is left. */
static int bury(struct drain *d, const char *id, struct err *e)
{
    CLEANUP(mem_free) char *entry = cli_key(&d->b, "celeryc:worker:%s", id);
    CLEANUP(mem_free) char *workers = cli_key(&d->b, "celeryc:workers");
    const struct redis_reply *reply;
    int64_t left = 0, started = 0;
    if (!entry || !workers)
        return -ENOMEM;
    int r = cli_ask(&d->b, &reply, e, "HGET", entry, "v", NULL);
    if (r == 0 && reply->str.len && !slice_eq_str(reply->str, "1") &&
        !slice_eq_str(reply->str, "2")) {
        (void)fprintf(stderr, "Worker %s is of an unknown format: left alone.\n", id);
        d->n_left++;
        return 0;
    }
    if (r == 0)
        r = drain_worker(d, id, e);
    if (r == 0)
        r = cli_ask_i64(&d->b, &left, e, "HLEN", d->claims, NULL);
    if (r == 0)
        r = cli_ask_i64(&d->b, &started, e, "HLEN", d->running, NULL);
    if (r || left + started)
        return r;
    r = cli_ask(&d->b, &reply, e, "ZREM", workers, id, NULL);
    return r ? r : cli_ask(&d->b, &reply, e, "DEL", entry, NULL);
}

static int add_ids(struct drain *d, const char *start, struct strv *ids, struct err *e)
{
    CLEANUP(strv_deinit) struct strv keys = {NULL, 0};
    size_t skip = strlen(d->b.prefix) + strlen(start);
    int r = cli_keys(&d->b, start, &keys, e);
    for (size_t i = 0; r == 0 && i < keys.n; i++)
        if (!strv_has(ids, keys.v[i] + skip))
            r = strv_add(ids, keys.v[i] + skip);
    return r;
}

static int drain_workers(struct drain *d, struct err *e)
{
    static const char *const starts[] = {"celeryc:worker:", "celeryc:claims:", "celeryc:running:"};
    CLEANUP(strv_deinit) struct strv ids = {NULL, 0};
    CLEANUP(mem_free) char *workers = cli_key(&d->b, "celeryc:workers");
    const struct redis_reply *reply;
    int r = workers ? cli_ask(&d->b, &reply, e, "ZRANGE", workers, "0", "-1", NULL) : -ENOMEM;
    for (size_t i = 0; r == 0 && i < reply->n; i++)
        r = strv_add(&ids, reply->elem[i]->str.p);
    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(starts); i++)
        r = add_ids(d, starts[i], &ids, e);
    for (size_t i = 0; r == 0 && i < ids.n; i++)
        r = bury(d, ids.v[i], e);
    return r;
}

/* ---- the rest ---- */

static int drain_delayed(struct drain *d, struct err *e)
{
    CLEANUP(mem_free) char *key = cli_key(&d->b, "celeryc:delayed");
    const struct redis_reply *reply;
    int64_t n = 1, left = 0;
    int r = key ? 0 : -ENOMEM;
    while (r == 0 && n > 0) {
        const struct slice argv[] = {slice_str(key), SLICE_LIT(FLUSH_PAGE), SLICE_LIT(PAGE_BYTES)};
        r = redis_sync_eval(d->b.redis, &stored_delayed_flush, ARRAY_SIZE(argv), argv, &reply, e);
        n = r == 0 ? reply->integer : 0;
        d->n_delayed += (uint64_t)n;
    }
    if (r == 0)
        r = cli_ask_i64(&d->b, &left, e, "ZCARD", key, NULL);
    d->n_left += (uint64_t)left;
    return r;
}

/* Counts and marks, which hold no message. */
static int forget(struct drain *d, struct err *e)
{
    static const char *const starts[] = {"celeryc:deaths:", "celeryc:restoring:", "celeryc:fired:"};
    int r = 0;
    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(starts); i++) {
        CLEANUP(strv_deinit) struct strv keys = {NULL, 0};
        const struct redis_reply *reply;
        r = cli_keys(&d->b, starts[i], &keys, e);
        for (size_t k = 0; r == 0 && k < keys.n; k++)
            r = cli_ask(&d->b, &reply, e, "DEL", keys.v[k], NULL);
    }
    return r;
}

static int run(struct drain *d, const struct drain_options *o, struct err *e, int *ret_code)
{
    const struct settings *s = &d->b.s;
    int64_t alive = 0;
    d->arena = arena_new();
    d->unacked = cli_key(&d->b, "%s", s->unacked_key ? s->unacked_key : "unacked");
    d->index = cli_key(&d->b, "%s", s->unacked_index_key ? s->unacked_index_key : "unacked_index");
    int r = d->arena && d->unacked && d->index ? cli_live_workers(&d->b, &alive, e) : -ENOMEM;
    if (r)
        return r;
    if (alive && !o->force) {
        (void)fprintf(stderr, "Error: %lld celeryc %s: stop them first, or say --force.\n",
                      (long long)alive, alive == 1 ? "worker lives" : "workers live");
        return 0;
    }
    r = drain_waiting(d, e);
    if (r == 0)
        r = drain_workers(d, e);
    if (r == 0)
        r = drain_delayed(d, e);
    if (r == 0)
        r = forget(d, e);
    (void)printf("Gave back %llu claimed and %llu delayed messages.\n",
                 (unsigned long long)d->n_back, (unsigned long long)d->n_delayed);
    if (d->n_dead)
        (void)printf("%llu tasks had been started: they are dead letters now (celeryc dead "
                     "list).\n",
                     (unsigned long long)d->n_dead);
    if (d->n_left)
        (void)fprintf(stderr, "%llu could not be given back: celeryc doctor.\n",
                      (unsigned long long)d->n_left);
    *ret_code = d->n_left ? CLI_EX_FAILED : 0;
    return r;
}

int cmd_drain(int argc, char **argv)
{
    struct drain_options o = {.force = false};
    struct drain d = {.n_back = 0};
    struct err e = ERR_INIT;
    int code = CLI_EX_FAILED;
    if (cli_begin(&cli_drain_table, argc, argv, &o, NULL, &code) == 0) {
        int r = 0;
        if (!o.to_celery) {
            code = cli_usage(&cli_drain_table, "Say --to-celery.");
        } else {
            r = cli_broker_open(&d.b, &o.common, &e);
            if (r == 0)
                r = run(&d, &o, &e, &code);
            cli_broker_close(&d.b);
        }
        if (r < 0)
            code = cli_fail(&e, r);
    }
    free(d.unacked);
    free(d.index);
    free(d.claims);
    free(d.running);
    d.arena = arena_free(d.arena);
    opt_clear(&cli_drain_table, &o);
    return code;
}
