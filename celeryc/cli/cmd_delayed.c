/* SPDX-License-Identifier: Apache-2.0 */
/* celeryc delayed: messages that wait at the broker for their eta. list and show look; flush gives them back to their
 * lists, where a Python worker takes them and waits itself. */

#include "celeryc/cli/broker.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/num.h"
#include "celeryc/message/message.h"
#include "celeryc/transport/stored.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>

#define PAGE       200
#define PAGE_BYTES "4194304"
#define LIST_LIMIT 100
#define FLUSH_PAGE "1000"

struct delayed_options {
    struct cli_common common;
    struct opt_num limit;
    bool all, json, force;
};

#define AT(field) offsetof(struct delayed_options, field)

/* clang-format off */
static const struct opt opts[] = {
    {.name = "limit", .kind = OPT_INT, .arg = "N", .min = 0, .offset = AT(limit), .help = "How many messages list shows; 0: all.", .initial = "100"},
    {.name = "all", .kind = OPT_FLAG, .offset = AT(all), .help = "flush: every message, instead of the named ones."},
    {.name = "json", .kind = OPT_FLAG, .offset = AT(json), .help = "One JSON object for each line."},
    {.short_name = 'f', .name = "force", .kind = OPT_FLAG, .offset = AT(force), .help = "flush: although celeryc workers live, which would put the messages by again."},
    CLI_COMMON_OPTS,
    {0},
};
/* clang-format on */

static const char *const actions[] = {"list", "show", "flush", NULL};

const struct opt_table cli_delayed_table = {
    .command = "delayed",
    .usage = "list|show|flush [ID...] [OPTIONS]",
    .words = actions,
    .about = "Messages that wait at the broker for their eta (more than five minutes away, or too "
             "many for a worker to hold). list shows them, the earliest first; show prints all of "
             "one; flush gives them back to their queues, for Python workers. To revoke one: "
             "celery control revoke ID. Exit code 1: an ID was not found.",
    .opts = opts,
};

enum action {
    DELAYED_LIST,
    DELAYED_SHOW,
    DELAYED_FLUSH,
};

struct delayed {
    struct cli_broker b;
    const struct delayed_options *o;
    enum action action;
    struct strv ids;
    char *key;
    struct arena *arena; /* of a page */
    struct buf out;
    uint64_t shown;
};

/* ---- output ---- */

static void write_json(struct buf *dst, const struct message *m,
                       const struct redis_reply *const *at, const char *due, bool whole)
{
    buf_append_str(dst, "{\"id\": ");
    json_write_string_or_null(dst, m->id);
    buf_append_str(dst, ", \"task\": ");
    json_write_string_or_null(dst, m->task);
    buf_appendf(dst, ", \"due\": \"%s\", \"list\": ", due);
    json_write_string(dst, at[2]->str);
    buf_appendf(dst, ", \"bytes\": %zu", at[3]->str.len);
    if (whole) {
        buf_append_str(dst, ", \"message\": ");
        json_write_string(dst, at[3]->str);
    }
    buf_append_str(dst, "}\n");
}

static void write_text(struct buf *dst, const struct message *m,
                       const struct redis_reply *const *at, const char *due, bool whole)
{
    struct slice task = m->task.p ? m->task : SLICE_LIT("?"), id = m->id.p ? m->id : at[0]->str;
    buf_appendf(dst, "%s  ", due);
    cli_write_plain(dst, at[2]->str);
    buf_append_str(dst, "  ");
    cli_write_plain(dst, task);
    buf_append_char(dst, '[');
    cli_write_plain(dst, id);
    buf_append_str(dst, "]\n");
    if (whole) {
        buf_append_char(dst, '\n');
        buf_append_slice(dst, at[3]->str);
        buf_append_char(dst, '\n');
    }
}

/* at: name, due time, list, raw */
static int print(struct delayed *d, const struct redis_reply *const *at)
{
    char due[CLOCK_ISO_SIZE];
    double due_ms = 0;
    struct message m = {.id = SLICE_NULL};
    arena_reset(d->arena);
    (void)!num_parse_f64(at[1]->str, &due_ms);
    clock_iso_format((int64_t)due_ms * 1000, due);
    if (message_parse(d->arena, at[3]->str, &m, NULL) == -ENOMEM)
        return -ENOMEM;
    buf_reset(&d->out);
    bool whole = d->action == DELAYED_SHOW;
    (d->o->json ? write_json : write_text)(&d->out, &m, at, due, whole);
    d->shown++;
    int r = buf_ok(&d->out);
    if (r == 0 && fwrite(d->out.data, 1, d->out.len, stdout) != d->out.len)
        r = -EIO;
    return r;
}

static int print_page(struct delayed *d, const struct redis_reply *reply, size_t *ret_n)
{
    int r = 0;
    *ret_n = reply->kind == REDIS_R_ARRAY ? reply->n / 4 : 0;
    for (size_t i = 0; r == 0 && i < *ret_n; i++)
        r = print(d, (const struct redis_reply *const *)&reply->elem[4 * i]);
    return r;
}

/* ---- list, show ---- */

static int list(struct delayed *d, struct err *e)
{
    uint64_t limit = d->o->limit.set ? (uint64_t)d->o->limit.v : LIST_LIMIT;
    int64_t total = 0;
    size_t n = 1;
    int r = cli_ask_i64(&d->b, &total, e, "ZCARD", d->key, NULL);
    if (limit == 0)
        limit = UINT64_MAX;
    while (r == 0 && n > 0 && d->shown < limit) {
        char skip[24], most[24];
        const struct redis_reply *reply;
        (void)snprintf(skip, sizeof(skip), "%llu", (unsigned long long)d->shown);
        (void)snprintf(most, sizeof(most), "%llu",
                       (unsigned long long)MIN(limit - d->shown, (uint64_t)PAGE));
        const struct slice argv[] = {slice_str(d->key), slice_str(skip), slice_str(most),
                                     SLICE_LIT(PAGE_BYTES)};
        r = redis_sync_eval(d->b.redis, &stored_delayed_page, ARRAY_SIZE(argv), argv, &reply, e);
        if (r == 0)
            r = print_page(d, reply, &n);
    }
    if (r == 0 && (uint64_t)total > d->shown)
        (void)fprintf(stderr, "%llu more: --limit 0 shows all.\n",
                      (unsigned long long)((uint64_t)total - d->shown));
    return r;
}

/* Runs script with celeryc:delayed, the given words, and one id. */
static int ask_of(struct delayed *d, const struct redis_script *script, const char *id,
                  const struct redis_reply **ret_reply, struct err *e)
{
    struct slice argv[] = {slice_str(d->key), slice_str(id), SLICE_LIT(PAGE_BYTES), slice_str(id)};
    if (script == &stored_delayed_find)
        return redis_sync_eval(d->b.redis, script, 2, argv, ret_reply, e);
    argv[1] = SLICE_LIT("1");
    return redis_sync_eval(d->b.redis, script, 4, argv, ret_reply, e);
}

static int not_found(const char *id)
{
    (void)fprintf(stderr, "Error: no delayed message %s.\n", id);
    return CLI_EX_FAILED;
}

static int show(struct delayed *d, struct err *e, int *ret_code)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < d->ids.n; i++) {
        const struct redis_reply *reply;
        size_t n = 0;
        r = ask_of(d, &stored_delayed_find, d->ids.v[i], &reply, e);
        if (r == 0)
            r = print_page(d, reply, &n);
        if (r == 0 && n == 0)
            *ret_code = not_found(d->ids.v[i]);
    }
    return r;
}

/* ---- flush ---- */

static int flush_named(struct delayed *d, int64_t *moved, struct err *e, int *ret_code)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < d->ids.n; i++) {
        const struct redis_reply *reply;
        r = ask_of(d, &stored_delayed_flush, d->ids.v[i], &reply, e);
        if (r == 0 && reply->integer > 0)
            *moved += reply->integer;
        else if (r == 0)
            *ret_code = not_found(d->ids.v[i]);
    }
    return r;
}

static int flush_all(struct delayed *d, int64_t *moved, struct err *e)
{
    const struct slice argv[] = {slice_str(d->key), SLICE_LIT(FLUSH_PAGE), SLICE_LIT(PAGE_BYTES)};
    const struct redis_reply *reply;
    int64_t total = 0, n = 1;
    int r = cli_ask_i64(&d->b, &total, e, "ZCARD", d->key, NULL);
    while (r == 0 && n > 0) {
        r = redis_sync_eval(d->b.redis, &stored_delayed_flush, ARRAY_SIZE(argv), argv, &reply, e);
        n = r == 0 ? reply->integer : 0;
        *moved += n;
        cli_progress(&d->b, "messages given back", (uint64_t)*moved,
                     (uint64_t)(n > 0 ? MAX(total, *moved + 1) : *moved));
    }
    return r;
}

static int flush(struct delayed *d, struct err *e, int *ret_code)
{
    int64_t moved = 0, alive = 0;
    int r = cli_live_workers(&d->b, &alive, e);
    if (r)
        return r;
    if (alive && !d->o->force) {
        (void)fprintf(stderr,
                      "Error: %lld celeryc %s and would put the messages by again: stop them "
                      "first, or say --force.\n",
                      (long long)alive, alive == 1 ? "worker lives" : "workers live");
        *ret_code = CLI_EX_FAILED;
        return 0;
    }
    r = d->o->all ? flush_all(d, &moved, e) : flush_named(d, &moved, e, ret_code);
    (void)printf("Gave back %lld delayed %s.\n", (long long)moved,
                 moved == 1 ? "message" : "messages");
    return r;
}

/* ---- the command ---- */

static int run(struct delayed *d, struct err *e, int *ret_code)
{
    d->key = cli_key(&d->b, "celeryc:delayed");
    d->arena = arena_new();
    if (!d->key || !d->arena)
        return -ENOMEM;
    *ret_code = 0;
    switch (d->action) {
    case DELAYED_LIST:
        return list(d, e);
    case DELAYED_SHOW:
        return show(d, e, ret_code);
    case DELAYED_FLUSH:
        return flush(d, e, ret_code);
    }
    return 0;
}

static int take_words(struct delayed *d, const struct strv *said)
{
    size_t action = 0;
    while (said->n && actions[action] && !str_eq(actions[action], said->v[0]))
        action++;
    if (!said->n || !actions[action])
        return cli_usage(&cli_delayed_table, "Say list, show or flush.");
    d->action = (enum action)action;
    for (size_t i = 1; i < said->n; i++)
        if (strv_add(&d->ids, said->v[i]))
            return CLI_EX_FAILED;
    if (d->action == DELAYED_LIST && d->ids.n)
        return cli_usage(&cli_delayed_table, "list takes no ID; show does.");
    if (d->action == DELAYED_SHOW && !d->ids.n)
        return cli_usage(&cli_delayed_table, "Name the messages to show.");
    if (d->action == DELAYED_FLUSH && !d->ids.n == !d->o->all)
        return cli_usage(&cli_delayed_table, "Name messages, or say --all.");
    return 0;
}

int cmd_delayed(int argc, char **argv)
{
    struct delayed_options o = {.all = false};
    struct delayed d = {.o = &o};
    CLEANUP(strv_deinit) struct strv said = {NULL, 0};
    struct err e = ERR_INIT;
    int code = CLI_EX_FAILED;
    if (cli_begin(&cli_delayed_table, argc, argv, &o, &said, &code) == 0 &&
        (code = take_words(&d, &said)) == 0) {
        code = CLI_EX_FAILED;
        int r = cli_broker_open(&d.b, &o.common, &e);
        if (r == 0)
            r = run(&d, &e, &code);
        if (r < 0)
            code = cli_fail(&e, r);
        cli_broker_close(&d.b);
    }
    free(d.key);
    buf_deinit(&d.out);
    d.arena = arena_free(d.arena);
    strv_deinit(&d.ids);
    opt_clear(&cli_delayed_table, &o);
    return code;
}
