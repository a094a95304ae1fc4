/* SPDX-License-Identifier: Apache-2.0 */
/* celeryc dead: the messages that were set aside in celeryc:dead:<queue>.
 *
 * Lists are read page by page from their old end. An entry is named by its task id, or by its handle, a hash of its
 * bytes, because what could not be parsed has no id. A retry moves entry by entry, each in one step: taken off the list
 * and pushed to its queue byte for byte; the count of its deaths is cleared. Entries of another version are shown as such
 * and never moved. */

#include "celeryc/cli/broker.h"

#include "celeryc/message/message.h"
#include "celeryc/transport/stored.h"
#include "celeryc/worker/queues.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>

#define PAGE_ENTRIES 50
#define PAGE_BYTES   "4194304"
#define LIST_LIMIT   100

struct dead_options {
    struct cli_common common;
    struct strv queues;
    struct opt_num limit;
    bool all, json, force;
};

#define AT(field) offsetof(struct dead_options, field)

/* clang-format off */
static const struct opt opts[] = {
    {.short_name = 'Q', .name = "queues", .kind = OPT_LIST, .arg = "QUEUES", .offset = AT(queues), .help = "Dead letters of these queues only, comma-separated.", .initial = "all"},
    {.name = "limit", .kind = OPT_INT, .arg = "N", .min = 0, .offset = AT(limit), .help = "How many entries list shows; 0: all.", .initial = "100"},
    {.name = "all", .kind = OPT_FLAG, .offset = AT(all), .help = "retry, purge: every entry, instead of the named ones."},
    {.name = "json", .kind = OPT_FLAG, .offset = AT(json), .help = "One JSON object for each line."},
    {.short_name = 'f', .name = "force", .kind = OPT_FLAG, .offset = AT(force), .help = "purge: do not ask."},
    CLI_COMMON_OPTS,
    {0},
};
/* clang-format on */

static const char *const actions[] = {"list", "show", "retry", "purge", NULL};

const struct opt_table cli_dead_table = {
    .command = "dead",
    .usage = "list|show|retry|purge [ID...] [OPTIONS]",
    .words = actions,
    .about = "Dead letters: messages that could not be parsed, or died three times while they ran. "
             "list shows them, the oldest first; show prints all of one, with its bytes; retry "
             "puts them back at the end of their queue as they were; purge removes them. ID is a "
             "task id or the handle that list shows. Exit code 1: an ID was not found.",
    .opts = opts,
};

enum action {
    DEAD_LIST,
    DEAD_SHOW,
    DEAD_RETRY,
    DEAD_PURGE,
};

/* ---- scripts ---- */

/* List, entries to skip at its old end, how many at most, budget of bytes. Returns them, the oldest first. */
static const struct redis_script page_script = {
    .name = "dead_page",
    .source = "local A = ARGV\n"
              "local r = redis.call('LRANGE', A[1], -(A[2] + A[3]), -(A[2] + 1))\n"
              "local out, budget = {}, tonumber(A[4])\n"
              "for i = #r, 1, -1 do\n"
              "  out[#out + 1] = r[i]\n"
              "  budget = budget - #r[i]\n"
              "  if budget <= 0 then break end\n"
              "end\n"
              "return out\n",
};

/* List, then for each: entry, the list it goes to or "", message, key of its deaths or "". Returns how many went. */
static const struct redis_script move_script = {
    .name = "dead_move",
    .source = "local A, n = ARGV, 0\n"
              "for i = 2, #A, 4 do\n"
              "  if redis.call('LREM', A[1], -1, A[i]) == 1 then\n"
              "    local r = A[i + 1] == '' or redis.pcall('LPUSH', A[i + 1], A[i + 2])\n"
              "    if type(r) == 'table' then\n"
              "      redis.call('RPUSH', A[1], A[i])\n"
              "    else\n"
              "      n = n + 1\n"
              "      if A[i + 3] ~= '' then redis.call('DEL', A[i + 3]) end\n"
              "    end\n"
              "  end\n"
              "end\n"
              "return n\n",
};

/* ---- one entry ---- */

struct letter {
    struct slice item;
    char handle[17];
    int state; /* 0; STORED_E_VERSION or -EINVAL: only item and error are there */
    struct err error;
    struct dead_entry d;
    struct message m; /* as far as it could be read */
};

/* FNV-1a. */
static void write_handle(struct slice item, char dst[17])
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < item.len; i++)
        h = (h ^ (unsigned char)item.p[i]) * UINT64_C(0x100000001b3);
    (void)snprintf(dst, 17, "%016llx", (unsigned long long)h);
}

static int letter_read(struct arena *a, struct slice item, struct letter *l)
{
    *l = (struct letter){.item = item, .error = ERR_INIT};
    write_handle(item, l->handle);
    l->state = dead_entry_parse(a, item, &l->d, &l->error);
    if (l->state)
        return l->state == -ENOMEM ? -ENOMEM : 0;
    return message_parse(a, l->d.raw, &l->m, NULL) == -ENOMEM ? -ENOMEM : 0;
}

static bool is_named(const struct letter *l, const struct strv *ids, bool *seen)
{
    bool named = false;
    for (size_t i = 0; i < ids->n; i++) {
        if (!str_eq(ids->v[i], l->handle) && !(l->m.id.p && slice_eq_str(l->m.id, ids->v[i])))
            continue;
        named = seen[i] = true;
    }
    return named;
}

/* ---- output ---- */

static void write_json(struct buf *dst, const struct letter *l, bool whole)
{
    buf_appendf(dst, "{\"handle\": \"%s\", ", l->handle);
    if (l->state) {
        buf_append_str(dst, "\"unreadable\": ");
        json_write_string(dst, slice_str(l->error.text));
        buf_append_str(dst, "}\n");
        return;
    }
    buf_append_str(dst, "\"queue\": ");
    json_write_string(dst, l->d.queue);
    buf_append_str(dst, ", \"time\": ");
    json_write_string(dst, l->d.time);
    buf_append_str(dst, ", \"task\": ");
    json_write_string_or_null(dst, l->m.task);
    buf_append_str(dst, ", \"id\": ");
    json_write_string_or_null(dst, l->m.id);
    buf_append_str(dst, ", \"reason\": ");
    json_write_string(dst, l->d.reason);
    buf_appendf(dst, ", \"bytes\": %zu", l->d.raw.len);
    if (whole) {
        struct json_val v; /* an entry that parsed has it */
        buf_append_str(dst, ", \"raw\": ");
        if (json_scan(l->item, &v, NULL) == 0)
            buf_append_slice(dst, json_get(v, "raw").raw);
    }
    buf_append_str(dst, "}\n");
}

static void write_line(struct buf *dst, const struct letter *l)
{
    buf_appendf(dst, "%s  ", l->handle);
    if (l->state) {
        buf_appendf(dst, "unreadable: %s\n", l->error.text);
        return;
    }
    cli_write_plain(dst, l->d.time);
    buf_append_str(dst, "  ");
    cli_write_plain(dst, l->d.queue);
    buf_append_str(dst, "  ");
    cli_write_plain(dst, l->m.task.p ? l->m.task : SLICE_LIT("?"));
    buf_append_char(dst, '[');
    cli_write_plain(dst, l->m.id.p ? l->m.id : SLICE_LIT("?"));
    buf_append_str(dst, "]  ");
    cli_write_plain(dst, l->d.reason);
    buf_append_char(dst, '\n');
}

static void write_all(struct buf *dst, const struct letter *l)
{
    write_line(dst, l);
    if (l->state)
        return;
    buf_append_char(dst, '\n');
    buf_append_slice(dst, l->d.reason);
    buf_append_str(dst, "\n\n");
    buf_append_slice(dst, l->d.raw);
    buf_append_char(dst, '\n');
}

/* ---- the walk ---- */

struct walk {
    struct cli_broker b;
    const struct dead_options *o;
    enum action action;
    struct strv ids;
    bool *seen; /* of each id */
    uint64_t limit, shown, moved, left, done, total;
    struct arena *arena; /* of a page */
    struct buf out;
    struct slice *argv;
    size_t n_argv;
};

static bool is_wanted(struct walk *w, const struct letter *l)
{
    if (w->action == DEAD_LIST)
        return w->shown < w->limit;
    return w->o->all || is_named(l, &w->ids, w->seen);
}

static int print(struct walk *w, const struct letter *l)
{
    buf_reset(&w->out);
    if (w->o->json)
        write_json(&w->out, l, w->action == DEAD_SHOW);
    else if (w->action == DEAD_SHOW)
        write_all(&w->out, l);
    else
        write_line(&w->out, l);
    w->shown++;
    int r = buf_ok(&w->out);
    if (r == 0 && fwrite(w->out.data, 1, w->out.len, stdout) != w->out.len)
        r = -EIO;
    return r;
}

static struct slice kept(struct walk *w, struct buf *b)
{
    char *copy = buf_ok(b) ? NULL : arena_strdup(w->arena, buf_slice(b));
    return (struct slice){copy, copy ? b->len : 0};
}

/* The priority that a message says it has, even one that cannot be run. */
static int priority_of(struct slice raw)
{
    struct json_val v;
    int64_t priority = 0;
    if (json_scan(raw, &v, NULL) ||
        json_i64(json_get(json_get(v, "properties"), "priority"), &priority))
        return 0;
    return (int)MAX(0, MIN(priority, 9));
}

static int add_move(struct walk *w, const struct letter *l)
{
    CLEANUP(buf_deinit) struct buf list = BUF_INIT;
    CLEANUP(buf_deinit) struct buf deaths = BUF_INIT;
    if (w->action == DEAD_RETRY)
        queues_key(&list, &w->b.s, l->d.queue.p, priority_of(l->d.raw));
    if (l->m.id.p)
        stored_deaths_key(&deaths, w->b.prefix, l->m.id);
    struct slice *at = &w->argv[w->n_argv];
    at[0] = l->item;
    at[1] = list.len ? kept(w, &list) : SLICE_LIT("");
    at[2] = w->action == DEAD_RETRY ? l->d.raw : SLICE_LIT("");
    at[3] = deaths.len ? kept(w, &deaths) : SLICE_LIT("");
    if (!at[1].p || !at[3].p)
        return -ENOMEM;
    w->n_argv += 4;
    return 0;
}

static int handle(struct walk *w, const struct letter *l)
{
    if (!is_wanted(w, l))
        return 0;
    if (w->action == DEAD_LIST || w->action == DEAD_SHOW)
        return print(w, l);
    if (l->state == 0)
        return add_move(w, l);
    w->left++;
    return 0;
}

/* Copies a page into the arena: the reply goes with the next call. */
static int copy_page(struct walk *w, const struct redis_reply *reply, struct slice **ret_items,
                     size_t *ret_n)
{
    struct slice *items = arena_alloc_array(w->arena, reply->n, sizeof(*items));
    if (!items)
        return -ENOMEM;
    for (size_t i = 0; i < reply->n; i++) {
        char *copy = arena_strdup(w->arena, reply->elem[i]->str);
        if (!copy)
            return -ENOMEM;
        items[i] = (struct slice){copy, reply->elem[i]->str.len};
    }
    *ret_items = items;
    *ret_n = reply->n;
    return 0;
}

static int move(struct walk *w, uint64_t *ret_moved, struct err *e)
{
    const struct redis_reply *reply;
    *ret_moved = 0;
    if (w->n_argv == 1)
        return 0;
    int r = redis_sync_eval(w->b.redis, &move_script, w->n_argv, w->argv, &reply, e);
    if (r == 0 && reply->kind == REDIS_R_INTEGER && reply->integer > 0)
        *ret_moved = (uint64_t)reply->integer;
    return r;
}

/* One page of at most max entries behind the first *skip ones; *ret_n 0: that was all. */
static int walk_page(struct walk *w, const char *list, uint64_t max, uint64_t *skip, size_t *ret_n,
                     struct err *e)
{
    char from[24], most[24];
    const struct redis_reply *reply;
    struct slice *items;
    (void)snprintf(from, sizeof(from), "%llu", (unsigned long long)*skip);
    (void)snprintf(most, sizeof(most), "%llu", (unsigned long long)MIN(max, PAGE_ENTRIES));
    const struct slice ask[] = {slice_str(list), slice_str(from), slice_str(most),
                                SLICE_LIT(PAGE_BYTES)};
    int r = redis_sync_eval(w->b.redis, &page_script, ARRAY_SIZE(ask), ask, &reply, e);
    if (r)
        return err_prefix(e, r, "%s", list);
    arena_reset(w->arena);
    r = copy_page(w, reply, &items, ret_n);
    if (r)
        return r;
    w->argv = arena_alloc_array(w->arena, *ret_n * 4 + 1, sizeof(*w->argv));
    if (!w->argv)
        return -ENOMEM;
    w->argv[0] = slice_str(list);
    w->n_argv = 1;
    for (size_t i = 0; r == 0 && i < *ret_n; i++) {
        struct letter l;
        r = letter_read(w->arena, items[i], &l);
        if (r == 0)
            r = handle(w, &l);
    }
    uint64_t moved = 0;
    if (r == 0)
        r = move(w, &moved, e);
    w->moved += moved;
    w->done += *ret_n;
    *skip += *ret_n - moved;
    return r;
}

/* What was there at the beginning: a worker may set aside again what was retried just now. */
static int walk_list(struct walk *w, const char *list, struct err *e)
{
    uint64_t skip = 0;
    int64_t left = 0;
    size_t n = 1;
    int r = cli_ask_i64(&w->b, &left, e, "LLEN", list, NULL);
    while (r == 0 && n > 0 && left > 0 && (w->action != DEAD_LIST || w->shown < w->limit)) {
        r = walk_page(w, list, (uint64_t)left, &skip, &n, e);
        left -= (int64_t)n;
        if (w->action == DEAD_RETRY || w->action == DEAD_PURGE)
            cli_progress(&w->b, "dead letters looked at", MIN(w->done, w->total), w->total);
    }
    return r;
}

static int find_lists(struct walk *w, struct strv *ret_lists, struct err *e)
{
    int r = 0;
    if (w->o->queues.n == 0)
        r = cli_keys(&w->b, "celeryc:dead:", ret_lists, e);
    for (size_t i = 0; r == 0 && i < w->o->queues.n; i++) {
        CLEANUP(mem_free) char *key = cli_key(&w->b, "celeryc:dead:%s", w->o->queues.v[i]);
        r = key ? strv_add(ret_lists, key) : -ENOMEM;
    }
    for (size_t i = 0; r == 0 && i < ret_lists->n; i++) {
        int64_t n = 0;
        r = cli_ask_i64(&w->b, &n, e, "LLEN", ret_lists->v[i], NULL);
        w->total += (uint64_t)MAX(n, 0);
    }
    return r;
}

static bool confirmed(const struct walk *w)
{
    char question[128];
    if (w->action != DEAD_PURGE || w->o->force)
        return true;
    if (w->o->all)
        (void)snprintf(question, sizeof(question), "Remove %llu dead letters for good?",
                       (unsigned long long)w->total);
    else
        (void)snprintf(question, sizeof(question), "Remove the named dead letters for good?");
    return cli_confirm(question);
}

static int report(const struct walk *w)
{
    int code = 0;
    if (w->action == DEAD_LIST && w->total > w->shown)
        (void)fprintf(stderr, "%llu more: --limit 0 shows all.\n",
                      (unsigned long long)(w->total - w->shown));
    if (w->action == DEAD_RETRY || w->action == DEAD_PURGE)
        (void)printf("%s %llu dead %s.\n", w->action == DEAD_RETRY ? "Retried" : "Removed",
                     (unsigned long long)w->moved, w->moved == 1 ? "letter" : "letters");
    if (w->left)
        (void)fprintf(stderr, "%llu left alone: they cannot be read by this version.\n",
                      (unsigned long long)w->left);
    for (size_t i = 0; i < w->ids.n; i++) {
        if (w->seen[i])
            continue;
        (void)fprintf(stderr, "Error: no dead letter %s.\n", w->ids.v[i]);
        code = CLI_EX_FAILED;
    }
    return w->left ? CLI_EX_FAILED : code;
}

static int run(struct walk *w, struct err *e, int *ret_code)
{
    CLEANUP(strv_deinit) struct strv lists = {NULL, 0};
    w->limit = w->o->limit.set ? (uint64_t)w->o->limit.v : LIST_LIMIT;
    if (w->limit == 0)
        w->limit = UINT64_MAX;
    w->arena = arena_new();
    w->seen = calloc(w->ids.n + 1, sizeof(*w->seen));
    if (!w->arena || !w->seen)
        return -ENOMEM;
    int r = find_lists(w, &lists, e);
    if (r)
        return r;
    if (!confirmed(w)) {
        (void)fputs("Aborted!\n", stderr);
        *ret_code = CLI_EX_FAILED;
        return 0;
    }
    for (size_t i = 0; r == 0 && i < lists.n; i++)
        r = walk_list(w, lists.v[i], e);
    if (r == 0)
        *ret_code = report(w);
    return r;
}

/* The word behind `dead`, and the ids behind that. */
static int take_words(struct walk *w, const struct strv *said)
{
    size_t action = 0;
    while (said->n && actions[action] && !str_eq(actions[action], said->v[0]))
        action++;
    if (!said->n || !actions[action])
        return cli_usage(&cli_dead_table, "Say list, show, retry or purge.");
    w->action = (enum action)action;
    for (size_t i = 1; i < said->n; i++)
        if (strv_add(&w->ids, said->v[i]))
            return CLI_EX_FAILED;
    if (w->action == DEAD_LIST && w->ids.n)
        return cli_usage(&cli_dead_table, "list takes no ID; show does.");
    if (w->action != DEAD_LIST && !w->ids.n == !(w->o->all && w->action != DEAD_SHOW))
        return cli_usage(&cli_dead_table, w->action == DEAD_SHOW
                                              ? "Name the dead letters to show."
                                              : "Name dead letters, or say --all.");
    return 0;
}

int cmd_dead(int argc, char **argv)
{
    struct dead_options o = {.all = false};
    struct walk w = {.o = &o};
    CLEANUP(strv_deinit) struct strv said = {NULL, 0};
    struct err e = ERR_INIT;
    int code = CLI_EX_FAILED;
    if (cli_begin(&cli_dead_table, argc, argv, &o, &said, &code) == 0 &&
        (code = take_words(&w, &said)) == 0) {
        code = CLI_EX_FAILED;
        int r = cli_broker_open(&w.b, &o.common, &e);
        if (r == 0)
            r = run(&w, &e, &code);
        if (r < 0)
            code = cli_fail(&e, r);
        cli_broker_close(&w.b);
    }
    free(w.seen);
    buf_deinit(&w.out);
    w.arena = arena_free(w.arena);
    strv_deinit(&w.ids);
    opt_clear(&cli_dead_table, &o);
    return code;
}
