/* SPDX-License-Identifier: Apache-2.0 */
/* celeryc zygote: not for people. A worker executes it; it loads the plug-ins and forks the pool's children.
 * Descriptor 3 is the socket to the master (docs/POOL_PROTOCOL.md). */

#include "celeryc/base/log.h"
#include "celeryc/cli/cli.h"
#include "celeryc/client/unlock.h"
#include "celeryc/migrate/registry.h"
#include "celeryc/pool/pool.h"
#include "celeryc/task/builtins.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MASTER_FD 3

struct zygote_options {
    char *loglevel, *logfile, *default_queue;
    struct strv apps;
};

#define AT(field) offsetof(struct zygote_options, field)

static const struct opt opts[] = {
    {.name = "loglevel", .kind = OPT_STRING, .offset = AT(loglevel)},
    {.name = "logfile", .kind = OPT_STRING, .offset = AT(logfile)},
    {.name = "default-queue", .kind = OPT_STRING, .offset = AT(default_queue)},
    {.short_name = 'A', .name = "app", .kind = OPT_REPEAT, .offset = AT(apps)},
    {0},
};

static const struct opt_table table = {.command = "zygote", .usage = "", .about = "", .opts = opts};

static void start_log(const struct zygote_options *o)
{
    enum log_level level = LOG_WARNING;
    int fd = STDERR_FILENO;
    if (o->loglevel && log_level_parse(o->loglevel, &level))
        level = LOG_WARNING;
    if (o->logfile) {
        int file = open(o->logfile, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        fd = file >= 0 ? file : fd;
    }
    log_init(level, "Zygote", fd);
}

/* "alias=URL" lines that the master put into the environment; they are taken out of it, tasks need not see them. */
static int take_databases(struct strv *ret)
{
    const char *all = opt_env("CELERYC_ZYGOTE_DATABASES");
    int r = 0;
    while (r == 0 && all && *all) {
        size_t len = strcspn(all, "\n");
        CLEANUP(mem_free) char *one = strndup(all, len);
        r = one ? strv_add(ret, one) : -ENOMEM;
        all += len + (all[len] == '\n');
    }
    (void)unsetenv("CELERYC_ZYGOTE_DATABASES"); /* NOLINT(concurrency-mt-unsafe): one thread */
    (void)unsetenv("CELERYC_KEEPER_BROKER");    /* NOLINT(concurrency-mt-unsafe): one thread */
    return r;
}

static int take_text(const char *name, const char **ret)
{
    const char *value = opt_env(name);
    *ret = value ? slice_dup(slice_str(value)) : NULL;
    (void)unsetenv(name); /* NOLINT(concurrency-mt-unsafe): one thread */
    return value && !*ret ? -ENOMEM : 0;
}

static int fill(struct task_registry *r, const struct zygote_options *o,
                const struct strv *databases, struct err *e)
{
    static const char *const none[] = {NULL};
    for (size_t i = 0; i < o->apps.n; i++) {
        int code = task_registry_load(r, o->apps.v[i], e);
        if (code)
            return code;
    }
    static struct unlock_options unlock; /* the registry borrows it */
    int code = take_text("CELERYC_ZYGOTE_CONFIG", &unlock.config);
    if (code == 0)
        code = take_text("CELERYC_ZYGOTE_BACKEND", &unlock.backend);
    if (code == 0)
        code = task_builtins_register(r, e);
    if (code == 0)
        code = unlock_register(r, &unlock, e);
    if (code)
        return code;
    const struct migrate_options m = {
        .databases = databases->v ? (const char *const *)databases->v : none,
        .lease_ms = 60000,
        .chunk_ms = 250,
        .default_queue = o->default_queue ? o->default_queue : "celery",
    };
    return migrate_register_tasks(r, &m, e);
}

int cmd_zygote(int argc, char **argv)
{
    /* Strings of these live as long as the process: the registry and the migrations borrow them. */
    static struct zygote_options o;
    static struct strv databases;
    struct err e = ERR_INIT;
    if (fcntl(MASTER_FD, F_GETFD) < 0) {
        (void)fputs("celeryc zygote is started by `celeryc worker` and is of no use alone.\n",
                    stderr);
        return CLI_EX_USAGE;
    }
    pool_zygote_init();
    int r = opt_parse(&table, argc, argv, &o, NULL, &e);
    start_log(&o);
    struct task_registry *registry = task_registry_new();
    if (!registry)
        return CLI_EX_FAILED;
    if (r == 0)
        r = take_databases(&databases);
    if (r == 0)
        r = fill(registry, &o, &databases, &e);
    pool_zygote_main(registry, r ? err_text(&e, r) : NULL);
}
