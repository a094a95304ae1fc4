/* SPDX-License-Identifier: Apache-2.0 */
/* Tasks "running" (stamped owner: ann, bob), "waiting" and "later"; registered: t.add, celery.hidden. */

#include "fake_host.h"

#include <errno.h>
#include <string.h>

#define ENVELOPE(id, headers)                                                           \
    "{\"body\": \"W1sxLCAieCJdLCB7ImsiOiBOYU59LCB7fV0=\", \"content-type\": "           \
    "\"application/json\", "                                                            \
    "\"content-encoding\": \"utf-8\", \"headers\": {\"task\": \"t.add\", \"id\": \"" id \
    "\", \"argsrepr\": \"(1, 'x')\", \"kwargsrepr\": \"{}\"" headers                    \
    "}, \"properties\": {\"body_encoding\": \"base64\", \"delivery_tag\": \"d\", "      \
    "\"priority\": 3, \"delivery_info\": {\"exchange\": \"\", \"routing_key\": \"q\"}}}"

static const char *const raw[3] = {
    ENVELOPE("running",
             ", \"stamped_headers\": [\"owner\"], \"stamps\": {\"owner\": [\"ann\", \"bob\"]}"),
    ENVELOPE("waiting", ""),
    ENVELOPE("later", ", \"shadow\": \"nick\", \"eta\": \"2030-01-02T03:04:05+00:00\""),
};

static int nothing(struct celeryc_call *call, void *ctx)
{
    (void)call;
    (void)ctx;
    return 0;
}

static void each_task(control_task_fn fn, void *fn_arg, void *arg)
{
    struct fake_host *f = arg;
    for (int i = 0; i < 3; i++) {
        struct control_task t = {.m = &f->messages[i], .handle = &f->messages[i]};
        if (i == CONTROL_ACTIVE) {
            t.started_us = 1500000;
            t.pid = 42;
            t.acknowledged = true;
        }
        fn((enum control_list)i, &t, fn_arg);
    }
}

static const struct task_registry *tasks(void *arg)
{
    return ((struct fake_host *)arg)->tasks;
}

static const char *const *queues(void *arg)
{
    static const char *const names[] = {"q", NULL};
    (void)arg;
    return names;
}

static void stats(struct control_stats *ret_stats, void *arg)
{
    static const int pids[] = {42, 43};
    struct fake_host *f = arg;
    *ret_stats = (struct control_stats){.uptime_s = 7,
                                        .totals = f->totals,
                                        .processed = 3,
                                        .active = 1,
                                        .pool = "prefork",
                                        .concurrency = 2,
                                        .pids = pids,
                                        .n_pids = 2,
                                        .time_limit = 2.5,
                                        .prefetch_count = 2};
}

static void conf(struct buf *dst, bool with_defaults, void *arg)
{
    (void)arg;
    buf_append_str(dst, "\"a\": 1");
    if (with_defaults)
        buf_append_str(dst, ", \"b\": null");
}

static const char *terminate(void *handle, int signum, void *arg)
{
    struct fake_host *f = arg;
    (void)handle;
    f->n_terminated++;
    f->signum = signum;
    return f->refuses ? "it cannot" : NULL;
}

static int time_limit(struct slice name, double soft, double hard, void *arg)
{
    struct fake_host *f = arg;
    (void)name;
    f->soft = soft;
    f->hard = hard;
    return 0;
}

static void shut_down(void *arg)
{
    ((struct fake_host *)arg)->n_shutdowns++;
}

static int fill(struct fake_host *f)
{
    f->arena = arena_new();
    f->tasks = task_registry_new();
    f->totals = map_new();
    if (!f->arena || !f->tasks || !f->totals)
        return -ENOMEM;
    int r = map_set(f->totals, SLICE_LIT("t.add"), (void *)3);
    const struct celeryc_task add = {.name = "t.add", .acks_late = true};
    const struct celeryc_task hidden = {.name = "celery.hidden"};
    if (r == 0)
        r = task_registry_add(f->tasks, &add, nothing, NULL, NULL);
    if (r == 0)
        r = task_registry_add(f->tasks, &hidden, nothing, NULL, NULL);
    for (size_t i = 0; r == 0 && i < 3; i++)
        r = message_parse(f->arena, slice_str(raw[i]), &f->messages[i], NULL);
    return r;
}

int fake_host_init(struct fake_host *f)
{
    *f = (struct fake_host){
        .host = {.arg = f,
                 .each_task = each_task,
                 .tasks = tasks,
                 .queues = queues,
                 .stats = stats,
                 .conf = conf,
                 .terminate = terminate,
                 .time_limit = time_limit,
                 .shutdown = shut_down},
    };
    f->options = (struct control_options){
        .broker = &f->broker, .node = "w1@h", .version = "1.2", .key_prefix = ""};
    int r = redis_endpoint_parse("redis://h/0", &f->broker, NULL);
    if (r == 0)
        r = fill(f);
    if (r)
        return r;
    f->has_panel = true;
    return panel_init(&f->panel, &f->host, &f->options);
}

void fake_host_deinit(struct fake_host *f)
{
    if (f->has_panel)
        panel_deinit(&f->panel);
    task_registry_free(f->tasks);
    map_free(f->totals);
    arena_free(f->arena);
    redis_endpoint_deinit(&f->broker);
}

char *fake_host_ask(struct fake_host *f, const char *method, const char *arguments)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(buf_deinit) struct buf name = BUF_INIT;
    struct json_val m, v;
    struct call c;
    json_write_string(&name, slice_str(method));
    if (!a || buf_ok(&name) || json_scan(buf_slice(&name), &m, NULL) ||
        json_scan(slice_str(arguments), &v, NULL))
        return NULL;
    panel_run(&f->panel, a, m, v, &c);
    if (c.no_reply)
        buf_append_str(&c.out, "nothing");
    for (size_t i = 0; i < c.n_store; i++)
        buf_appendf(&c.out, " +%.*s", (int)c.store[i].len, c.store[i].p);
    return buf_take(&c.out);
}
