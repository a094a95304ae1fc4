/* SPDX-License-Identifier: Apache-2.0 */
/* celeryc tasks: what a worker with these plug-ins would know. */

#include "celeryc/cli/cli.h"
#include "celeryc/migrate/registry.h"
#include "celeryc/task/registry.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>

/* clang-format off */
static const struct opt opts[] = {
    CLI_COMMON_OPTS,
    {0},
};
/* clang-format on */

const struct opt_table cli_tasks_table = {
    .command = "tasks",
    .usage = "-A PLUGIN...",
    .about =
        "Load plug-ins and list their tasks with the options that differ from Celery's defaults.",
    .opts = opts,
};

static void print_task(const struct task_info *t)
{
    (void)printf("%s(%s)", t->name, t->arg_names ? t->arg_names : "");
    if (t->acks_late)
        (void)fputs(" acks_late", stdout);
    if (t->reject_on_worker_lost)
        (void)fputs(" reject_on_worker_lost", stdout);
    if (t->ignore_result)
        (void)fputs(" ignore_result", stdout);
    if (t->track_started)
        (void)fputs(" track_started", stdout);
    if (t->max_retries != 3)
        (void)printf(" max_retries=%d", t->max_retries);
    if (t->soft_time_limit > 0)
        (void)printf(" soft_time_limit=%g", t->soft_time_limit);
    if (t->time_limit > 0)
        (void)printf(" time_limit=%g", t->time_limit);
    if (t->rate_limit)
        (void)printf(" rate_limit=%s", t->rate_limit);
    if (t->retry_on_worker_lost)
        (void)fputs(" retry_on_worker_lost", stdout);
    if (t->queue)
        (void)printf(" queue=%s", t->queue);
    if (t->priority > 0)
        (void)printf(" priority=%d", t->priority);
    if (t->expires > 0)
        (void)printf(" expires=%g", t->expires);
    if (t->has_errback)
        (void)fputs(" errback", stdout);
    (void)fputc('\n', stdout);
}

static int list(const struct strv *apps, struct err *e)
{
    static const char *const none[] = {NULL};
    static const struct migrate_options m = {
        .databases = none, .lease_ms = 60000, .chunk_ms = 250, .default_queue = "celery"};
    CLEANUP(task_registry_free) struct task_registry *registry = task_registry_new();
    if (!registry)
        return -ENOMEM;
    int r = 0;
    for (size_t i = 0; r == 0 && i < apps->n; i++)
        r = task_registry_load(registry, apps->v[i], e);
    if (r == 0)
        r = migrate_register_tasks(registry, &m, e);
    for (size_t i = 0; r == 0 && i < task_registry_len(registry); i++)
        print_task(task_registry_at(registry, i));
    return r;
}

int cmd_tasks(int argc, char **argv)
{
    struct cli_common o = {.broker = NULL};
    struct err e = ERR_INIT;
    int code = CLI_EX_FAILED;
    if (cli_begin(&cli_tasks_table, argc, argv, &o, NULL, &code) == 0) {
        if (o.apps.n == 0) {
            code = cli_usage(&cli_tasks_table, "Missing option '-A' / '--app'.");
        } else {
            int r = list(&o.apps, &e);
            code = r ? cli_fail(&e, r) : 0;
        }
    }
    opt_clear(&cli_tasks_table, &o);
    return code;
}
