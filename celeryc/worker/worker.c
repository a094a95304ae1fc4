/* SPDX-License-Identifier: Apache-2.0 */
/* Starts the parts of a worker in order, runs the loop, and takes them down.
 *
 * Order: log and pidfile, pool (the zygote loads the plug-ins and tells the task table), banner, transport (claims come
 * only when it is registered), "ready". Children inherit nothing of the loop: the zygote is executed anew. */

#include "celeryc/worker/worker.h"
#include "celeryc/worker/keeper.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/limits.h"
#include "celeryc/base/log.h"
#include "celeryc/base/opt.h"
#include "celeryc/task/builtins.h"
#include "celeryc/worker/banner.h"
#include "celeryc/worker/chord.h"
#include "celeryc/worker/errback.h"
#include "celeryc/worker/keeper.h"
#include "celeryc/worker/pidfile.h"
#include "celeryc/worker/queues.h"
#include "celeryc/worker/watchdog.h"
#include "celeryc/worker/worker_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

/* ---- the pool ---- */

static void write_banner(const struct worker *w)
{
    struct utsname u;
    char platform[sizeof(u.sysname) + sizeof(u.release) + sizeof(u.machine) + 4] = "Linux";
    if (uname(&u) == 0)
        (void)snprintf(platform, sizeof(platform), "%s-%s-%s", u.sysname, u.release, u.machine);
    char now[32] = "";
    time_t t = time(NULL);
    struct tm tm;
    if (localtime_r(&t, &tm))
        (void)strftime(now, sizeof(now), "%Y-%m-%d %H:%M:%S", &tm);
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    banner_write(&b, w->config, w->table, w->version, platform, now);
    if (buf_ok(&b) == 0) {
        (void)fwrite(b.data, 1, b.len, stdout);
        (void)fflush(stdout);
    }
}

static void warn_of_options(const struct worker *w)
{
    const struct strv *warnings = &w->config->settings.warnings;
    for (size_t i = 0; i < warnings->n; i++)
        log_warning("%s", warnings->v[i]);
    for (size_t i = 0; i < task_registry_len(w->table); i++) {
        const struct task_info *t = task_registry_at(w->table, i);
        if (t->rate_limit && *t->rate_limit)
            log_warning("task %s: its rate limit %s is not enforced in this release", t->name,
                        t->rate_limit);
    }
}

static bool has_own_tasks(const struct task_registry *table)
{
    for (size_t i = 0; i < task_registry_len(table); i++)
        if (!task_is_builtin(task_registry_at(table, i)->name))
            return true;
    return false;
}

/* What a --broker says, then the environment, as in config_broker. */
static void start_keepers(struct worker *w)
{
    const struct settings *s = &w->config->settings;
    const char *broker = opt_env("CELERYC_KEEPER_BROKER");

    if (!broker)
        broker = opt_env("CELERY_BROKER_URL");
    if (!broker)
        broker = s->broker_url && *s->broker_url ? s->broker_url : "redis://localhost:6379/0";
    const struct keeper_options o = {.databases = &w->config->databases,
                                     .broker = broker,
                                     .key_prefix = s->broker_keyprefix,
                                     .options = &s->broker_redis};

    if (keepers_start(&w->loop, &o, &w->keepers))
        log_warning("no memory to look after the databases: this worker does not sweep");
}

void worker_pool_ready(struct worker *w, const struct task_registry *table)
{
    if (w->phase != PHASE_STARTING)
        return;
    w->table = table;
    if (!has_own_tasks(table)) {
        /* It would fail every message as unregistered. */
        worker_pool_failed(w, "no tasks: name a plug-in that has some with -A plugin.so", 1);
        return;
    }
    if (!w->config->quiet)
        write_banner(w);
    warn_of_options(w);
    w->phase = PHASE_RUNNING;
    start_keepers(w);
    if (broker_start(w)) {
        log_critical("worker: out of memory");
        shutdown_broken(w, 1);
    }
}

void worker_pool_failed(struct worker *w, const char *reason, int exit_code)
{
    if (w->phase == PHASE_STARTING)
        (void)fprintf(stderr, "Error: %s\n", reason);
    else
        log_critical("worker: the pool broke down: %s", reason);
    shutdown_broken(w, exit_code ? exit_code : 1);
}

static int add_words(struct strv *l, const char *a, const char *b)
{
    int r = strv_add(l, a);
    return r || !b ? r : strv_add(l, b);
}

/* Databases travel in the environment: their URLs hold passwords, and anybody may read a command line. */
static int export_databases(const struct strv *databases)
{
    struct buf all = BUF_INIT;
    for (size_t i = 0; i < databases->n; i++)
        buf_appendf(&all, "%s%s", i ? "\n" : "", databases->v[i]);
    int r = buf_ok(&all);
    /* NOLINTNEXTLINE(concurrency-mt-unsafe): one thread */
    if (r == 0 && all.len && setenv("CELERYC_ZYGOTE_DATABASES", all.data, 1) != 0)
        r = -errno;
    buf_deinit(&all);
    return r;
}

static int zygote_words(const struct worker_config *c, struct strv *ret)
{
    static const char *const names[] = {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"};
    int r = add_words(ret, "zygote", NULL);
    if (r == 0)
        r = add_words(ret, "--loglevel", names[c->loglevel]);
    if (r == 0 && c->logfile)
        r = add_words(ret, "--logfile", c->logfile);
    if (r == 0)
        r = add_words(ret, "--default-queue", c->settings.default_queue);
    for (size_t i = 0; r == 0 && i < c->apps.n; i++)
        r = add_words(ret, "--app", c->apps.v[i]);
    return r;
}

static int start_pool(struct worker *w, struct err *e)
{
    const struct worker_config *c = w->config;
    CLEANUP(strv_deinit) struct strv words = {NULL, 0};
    int r = zygote_words(c, &words);
    if (r == 0)
        r = export_databases(&c->databases);
    if (r)
        return r;
    const struct pool_options o = {
        .kind = c->pool,
        .concurrency = c->concurrency,
        .program = w->program,
        .zygote_argv = (const char *const *)words.v,
        .settings = &w->settings,
        .max_tasks_per_child = c->max_tasks_per_child,
    };
    w->pool = pool_new(&w->loop, &o, &run_pool_events, w);
    return w->pool ? pool_start(w->pool, e) : -ENOMEM;
}

/* ---- up and down ---- */

static int init(struct worker *w)
{
    const struct settings *s = &w->config->settings;
    int64_t limit = s->eta_task_limit;
    w->held_limit = limit > 0 && limit < LIMIT_ETA_HELD ? (size_t)limit : LIMIT_ETA_HELD;
    w->settings = (struct task_settings){
        .node = w->config->node,
        .default_queue = s->default_queue,
        .result_extended = s->result_extended,
        .ignore_result = s->ignore_result || !w->config->has_backend,
        .store_errors_even_if_ignored = s->store_errors_even_if_ignored && w->config->has_backend,
        .track_started = s->track_started,
        .inherit_parent_priority = s->inherit_parent_priority,
        .default_priority = (int)MIN(s->default_priority, 9),
        .header_errbacks = s->header_errbacks,
        .time_limit = w->config->time_limit,
        .soft_time_limit = w->config->soft_time_limit,
        .wire = w->config->wire,
        .wire_options = settings_wire(s),
    };
    for (size_t i = 0; i < DELIVERY_STATES; i++)
        list_init(&w->lists[i]);
    list_init(&w->spare);
    list_init(&w->errbacks);
    w->scratch = arena_new();
    if (!w->scratch || remote_init(w) || dedup_init(w))
        return -ENOMEM;
    int rc = chord_setup(w);
    if (rc)
        return rc;
    uv_timer_t *timers[] = {&w->due_timer, &w->phase_timer, &w->gather_timer};
    for (size_t i = 0; i < ARRAY_SIZE(timers); i++) {
        int r = uv_timer_init(&w->loop, timers[i]);
        if (r)
            return r;
        timers[i]->data = w;
    }
    return shutdown_listen(w);
}

static void close_handle(uv_handle_t *h, void *arg)
{
    (void)arg;
    if (!uv_is_closing(h))
        uv_close(h, NULL);
}

static void deinit(struct worker *w)
{
    w->pool = pool_free(w->pool);
    w->control = control_free(w->control);
    w->transport = transport_free(w->transport);
    w->watchdog = watchdog_free(w->watchdog);
    w->backend = result_backend_free(w->backend);
    chord_teardown(w);
    errbacks_drop(w);
    for (size_t s = DELIVERY_RESERVED; s < DELIVERY_STATES; s++)
        while (!list_empty(&w->lists[s]))
            delivery_free(LIST_ENTRY(w->lists[s].next, struct delivery, node));
    keepers_stop(w->keepers);
    uv_walk(&w->loop, close_handle, NULL);
    (void)uv_run(&w->loop, UV_RUN_DEFAULT);
    w->keepers = keepers_free(w->keepers);
    int r = uv_loop_close(&w->loop);
    if (r)
        log_debug("worker: loop: %s", uv_strerror(r));
    delivery_drop_spare(w);
    due_deinit(&w->due);
    dedup_deinit(w);
    remote_deinit(w);
    arena_free(w->scratch);
    free(w->jobs);
    buf_deinit(&w->key);
    buf_deinit(&w->text);
}

static int purge_first(const struct worker_config *c, struct err *e)
{
    uint64_t n = 0;
    int r = queues_purge(&c->broker, &c->settings, &c->queues, &n, e);
    if (r == 0 && n)
        (void)printf("purge: Erased %llu message%s from the queue.\n\n", (unsigned long long)n,
                     n == 1 ? "" : "s");
    return r;
}

static int run(struct worker *w)
{
    struct err e = ERR_INIT;
    int r = uv_loop_init(&w->loop);
    if (r) {
        (void)fprintf(stderr, "Error: cannot make an event loop: %s\n", uv_strerror(r));
        return 1;
    }
    r = init(w);
    if (r == 0 && w->config->purge)
        r = purge_first(w->config, &e);
    if (r == 0)
        r = start_pool(w, &e);
    if (r == 0) {
        (void)uv_run(&w->loop, UV_RUN_DEFAULT);
        log_debug("worker: exit %d", w->exit_code);
    } else {
        (void)fprintf(stderr, "Error: %s\n", err_text(&e, r));
        w->exit_code = 1;
    }
    deinit(w);
    return w->exit_code;
}

static int open_log(const struct worker_config *c, struct err *e)
{
    int fd = STDERR_FILENO;
    if (c->logfile) {
        fd = open(c->logfile, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        if (fd < 0) {
            int r = -errno;
            return err_set(e, r, "cannot write --logfile %s: %s", c->logfile, err_errno(r));
        }
    }
    log_init(c->loglevel, "MainProcess", fd);
    return 0;
}

int worker_run(const struct worker_config *c, const char *program, const char *version)
{
    struct err e = ERR_INIT;
    bool stale = false;
    int r = open_log(c, &e);
    if (r == 0 && c->pidfile)
        r = pidfile_take(c->pidfile, &stale, &e);
    if (r) {
        (void)fprintf(stderr, "Error: %s\n", err_text(&e, r));
        return r == -EEXIST ? WORKER_EX_PIDFILE : 1;
    }
    if (stale)
        (void)fprintf(stderr, "Stale pidfile exists - Removing it.\n");
    struct worker *w = calloc(1, sizeof(*w));
    int code = 1;
    if (w) {
        w->config = c;
        w->outage = OUTAGE_NONE;
        w->program = program;
        w->version = version;
        code = run(w);
    }
    free(w);
    pidfile_remove(c->pidfile);
    return code;
}
