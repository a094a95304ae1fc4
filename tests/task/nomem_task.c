/* SPDX-License-Identifier: Apache-2.0 */
/* Running tasks with every allocation failing once: a run gives an outcome or -ENOMEM, never half of one. */

#include "../base/nomem.h"
#include "celeryc/message/message.h"
#include "celeryc/task/builtins.h"
#include "celeryc/task/run.h"

#include <celeryc/client.h>

#include <errno.h>

static struct celeryc_sig *pair(void)
{
    struct celeryc_sig *members[] = {celeryc_signature("t.one", NULL, NULL),
                                     celeryc_signature("t.two", NULL, NULL)};
    return celeryc_chord(celeryc_group(2, members), celeryc_signature("t.sum", NULL, NULL));
}

static int apply(struct celeryc_call *call)
{
    const char *tuple;
    struct celeryc_sig *s = pair();
    int rc = celeryc_apply(call, s, "{\"priority\": 3}", &tuple);
    celeryc_sig_free(s);
    return rc ? rc : celeryc_return_json(call, tuple, strlen(tuple));
}

static int replace(struct celeryc_call *call)
{
    struct celeryc_sig *s = pair();
    int rc = celeryc_replace(call, s);
    celeryc_sig_free(s);
    return rc;
}

static int add(struct celeryc_call *call)
{
    struct celeryc_sig *s = celeryc_signature("t.more", NULL, NULL);
    int rc = celeryc_add_to_chord(call, s);
    celeryc_sig_free(s);
    return rc ? rc : celeryc_return_none(call);
}

static int retry(struct celeryc_call *call)
{
    celeryc_retry_args(call, "[2]", "{}");
    celeryc_retry_option(call, "queue", "\"slow\"");
    return celeryc_retry(call, 1);
}

static int fail(struct celeryc_call *call)
{
    (void)celeryc_request(call, "delivery_info", NULL);
    return celeryc_raise(call, "ValueError", "boom");
}

static int on_error(struct celeryc_call *call, const struct celeryc_failure *f)
{
    return celeryc_raise(call, "RuntimeError", "%s", f->exc_type);
}

static int echo(struct celeryc_call *call)
{
    size_t len;
    const char *json = celeryc_args_json(call, &len);
    return celeryc_return_json(call, json, len);
}

static const struct celeryc_task tasks[] = {
    {.name = "t.apply", .run = apply},
    {.name = "t.replace", .run = replace},
    {.name = "t.add", .run = add},
    {.name = "t.retry", .run = retry},
    {.name = "t.fail", .run = fail, .autoretry_for = "KeyError"},
    {.name = "t.error", .errback = on_error},
    {.name = "t.echo", .run = echo},
};

static struct task_registry *table;

static int take(void *arg, const struct outcome *o)
{
    (void)arg;
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    return outcome_encode(o, &b);
}

/* The message is made before anything fails. */
static struct buf raw;

static int run(void)
{
    const struct task_settings settings = {.node = "w1@host", .default_queue = "celery"};
    const struct task_host host = {.apply = take};
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(buf_deinit) struct buf out = BUF_INIT;
    struct outcome o;
    if (!a)
        return -ENOMEM;
    int r = task_run(table, &settings, &host, a, SLICE_LIT("q"), buf_slice(&raw), &out);
    return r ? r : outcome_decode(a, buf_slice(&out), &o, NULL);
}

static void sweep(const char *task, const char *args, const char *embed)
{
    struct message_new m = {
        .task = slice_str(task),
        .id = SLICE_LIT("an-id"),
        .args = slice_str(args),
        .embed = slice_str(embed),
        .group = SLICE_LIT("a-group"),
        .queue = SLICE_LIT("q"),
        .ignore_result = TRI_UNSET,
    };
    raw = BUF_INIT;
    if (message_write_new(&raw, &m))
        abort();
    (void)nomem_sweep(task, run);
    buf_deinit(&raw);
}

#define SIG(name)        \
    "{\"task\": \"" name \
    "\", \"args\": [], \"kwargs\": {}, \"options\": {}, \"subtask_type\": null}"

int main(void)
{
    static const char chord[] =
        "{\"callbacks\": null, \"errbacks\": null, \"chain\": null, \"chord\": " SIG("t.body") "}";
    static const char errbacks[] = "{\"callbacks\": null, \"errbacks\": [" SIG("t.error") ", " SIG(
        "t.old") "], \"chain\": null, \"chord\": null}";
    struct err e = ERR_INIT;
    table = task_registry_new();
    for (size_t i = 0; i < ARRAY_SIZE(tasks); i++)
        if (!table || task_registry_add(table, &tasks[i], NULL, NULL, &e))
            abort();
    if (task_builtins_register(table, &e))
        abort();
    sweep("t.apply", "[]", NULL);
    sweep("t.replace", "[]", chord);
    sweep("t.add", "[]", chord);
    sweep("t.retry", "[1]", NULL);
    sweep("t.fail", "[]", errbacks);
    sweep("celery.map", "[" SIG("t.echo") ", [1, 2]]", NULL);
    sweep("celery.chunks", "[" SIG("t.echo") ", [[1], [2]], 1]", NULL);
    sweep("celery.chord", "[[" SIG("t.echo") "], " SIG("t.echo") "]", NULL);
    sweep("celery.group", "[[" SIG("t.echo") "], [], \"g\", [1]]", NULL);
    task_registry_free(table);
    return 0;
}
