/* SPDX-License-Identifier: Apache-2.0 */
/* The table of worker options and the order in which line, environment, settings file and defaults are asked. */

#include "celeryc/worker/config.h"

#include "celeryc/base/limits.h"
#include "celeryc/base/num.h"
#include "celeryc/worker/cpus.h"
#include "celeryc/worker/nodename.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define AT(field) offsetof(struct worker_options, field)

static const char *const levels[] = {"DEBUG",    "INFO",  "WARNING", "ERROR",
                                     "CRITICAL", "FATAL", NULL};
static const char *const pools[] = {"prefork", "threads", "solo", NULL};
static const char *const profiles[] = {"default", "fair", NULL};

static const char later[] = "it is not in this release";

/* clang-format off */
static const struct opt worker_opts[] = {
    {.short_name = 'A', .name = "app", .kind = OPT_LIST, .arg = "PLUGIN", .group = "Application", .offset = AT(apps), .global = true,
     .help = "Plug-in with tasks (a shared object). May be repeated, or a comma-separated list."},
    {.short_name = 'b', .name = "broker", .kind = OPT_STRING, .arg = "URL", .group = "Application", .offset = AT(broker), .global = true,
     .help = "Broker: redis://[user:password@]host[:port]/db, rediss:// (TLS), redis+socket:///path?virtual_host=db, sentinel://host:26379/db, or several with ';' between. Also CELERY_BROKER_URL.",
     .initial = "redis://localhost:6379/0"},
    {.name = "result-backend", .kind = OPT_STRING, .arg = "URL", .group = "Application", .offset = AT(result_backend), .global = true,
     .help = "Where results are kept, a URL of the same forms. Also CELERY_RESULT_BACKEND.", .initial = "results disabled"},
    {.name = "config", .kind = OPT_STRING, .arg = "FILE", .group = "Application", .offset = AT(config), .global = true,
     .help = "JSON file with settings by Celery's names (task_default_queue, result_expires, ...)."},
    {.name = "workdir", .kind = OPT_STRING, .arg = "DIR", .group = "Application", .offset = AT(workdir), .global = true,
     .help = "Change to this directory first."},
    {.short_name = 'q', .name = "quiet", .kind = OPT_FLAG, .group = "Application", .offset = AT(quiet), .global = true,
     .help = "No start banner."},
    {.short_name = 'C', .name = "no-color", .kind = OPT_MOOT, .group = "Application", .global = true},
    {.name = "skip-checks", .kind = OPT_MOOT, .group = "Application", .global = true},
    {.name = "loader", .kind = OPT_REFUSE, .arg = "LOADER", .global = true, .note = "Python loaders do not apply; load C tasks with -A plugin.so"},

    {.short_name = 'n', .name = "hostname", .kind = OPT_STRING, .arg = "NODE", .group = "Worker Options", .offset = AT(hostname),
     .help = "Node name. Expands %h (host name), %n (its first label), %d (domain).", .initial = "celery@%h"},
    {.short_name = 'l', .name = "loglevel", .kind = OPT_CHOICE, .choices = levels, .group = "Worker Options", .offset = AT(loglevel),
     .help = "Log level.", .initial = "WARNING"},
    {.short_name = 'O', .name = "optimization", .kind = OPT_MOOT_VALUE, .arg = "PROFILE", .choices = profiles, .group = "Worker Options",
     .help = "Accepted for Celery's sake: jobs always go to a child that is free (fair)."},
    {.name = "prefetch-multiplier", .kind = OPT_INT, .arg = "N", .group = "Worker Options", .offset = AT(prefetch_multiplier),
     .help = "Hold up to concurrency times N messages.", .initial = "only what can run now, and a little ahead for small tasks"},
    {.name = "disable-prefetch", .kind = OPT_FLAG, .group = "Worker Options", .offset = AT(disable_prefetch),
     .help = "Never claim a message before a slot is free for it."},
    {.name = "drain-timeout", .kind = OPT_FLOAT, .arg = "SECONDS", .group = "Worker Options", .offset = AT(drain_timeout),
     .help = "After TERM, let running tasks end for so long; then ask them to stop, and after 5 seconds more requeue what is acked late.",
     .initial = "wait for ever"},
    {.name = "database", .kind = OPT_REPEAT, .arg = "ALIAS=URL", .group = "Worker Options", .offset = AT(databases),
     .help = "Target database of migrations, may be repeated. Also SCATTER_DATABASE_<ALIAS>."},
    {.short_name = 'S', .name = "statedb", .kind = OPT_REFUSE, .arg = "PATH", .note = "revoked tasks are not kept in this release"},
    {.short_name = 'D', .name = "detach", .kind = OPT_REFUSE,
     .note = "run it under systemd or in a container, or with setsid: celeryc stays in the foreground"},

    {.short_name = 'c', .name = "concurrency", .kind = OPT_STRING, .arg = "N", .group = "Pool Options", .offset = AT(concurrency),
     .help = "Tasks that run at the same time, or auto: the CPUs that affinity and the control group's quota allow.", .initial = "auto"},
    {.short_name = 'P', .name = "pool", .kind = OPT_CHOICE, .choices = pools, .group = "Pool Options", .offset = AT(pool),
     .help = "prefork: one child a slot; threads: one child with a thread a slot; solo: one child, one thread.", .initial = "prefork",
     .note = "(eventlet and gevent are Python's.)"},
    {.short_name = 'E', .name = "task-events", .alias = "events", .kind = OPT_FLAG, .group = "Pool Options", .offset = AT(task_events),
     .help = "Task events for monitors: accepted with a warning, not sent in this release."},
    {.name = "time-limit", .kind = OPT_FLOAT, .arg = "SECONDS", .group = "Pool Options", .offset = AT(time_limit),
     .help = "Hard limit: the child is killed and the task fails with TimeLimitExceeded."},
    {.name = "soft-time-limit", .kind = OPT_FLOAT, .arg = "SECONDS", .group = "Pool Options", .offset = AT(soft_time_limit),
     .help = "Soft limit: celeryc_should_stop() turns true in the task."},
    {.name = "max-tasks-per-child", .kind = OPT_INT, .arg = "N", .group = "Pool Options", .offset = AT(max_tasks_per_child),
     .help = "Replace a child after so many tasks.", .initial = "no limit"},
    {.name = "pool-start-method", .kind = OPT_MOOT_VALUE, .arg = "METHOD"},
    {.name = "max-memory-per-child", .kind = OPT_REFUSE, .arg = "KIB", .note = later},

    {.short_name = 'Q', .name = "queues", .kind = OPT_LIST, .arg = "QUEUES", .group = "Queue Options", .offset = AT(queues),
     .help = "Queues to consume from, comma-separated.", .initial = "task_queues, else task_default_queue"},
    {.short_name = 'X', .name = "exclude-queues", .kind = OPT_LIST, .arg = "QUEUES", .group = "Queue Options", .offset = AT(exclude_queues),
     .help = "Queues to leave out."},
    {.name = "purge", .alias = "discard", .kind = OPT_FLAG, .group = "Queue Options", .offset = AT(purge),
     .help = "Empty the queues before starting. There is no undo."},
    {.short_name = 'I', .name = "include", .kind = OPT_REFUSE, .arg = "MODULES", .note = "Python modules are not loaded; load C tasks with -A plugin.so"},

    {.name = "without-gossip", .kind = OPT_MOOT, .group = "Features", .help = "Accepted: there is no gossip in this release."},
    {.name = "without-mingle", .kind = OPT_FLAG, .group = "Features", .offset = AT(without_mingle),
     .help = "Do not ask the other workers at the start what was revoked."},
    {.name = "without-heartbeat", .kind = OPT_FLAG, .group = "Features", .offset = AT(without_heartbeat),
     .help = "No worker-online, -heartbeat and -offline events."},
    {.name = "heartbeat-interval", .kind = OPT_INT, .arg = "SECONDS", .group = "Features", .offset = AT(heartbeat_interval),
     .help = "Between two worker-heartbeat events.", .initial = "2"},
    {.name = "autoscale", .kind = OPT_REFUSE, .arg = "MAX,MIN", .note = later},
    {.short_name = 'B', .name = "beat", .kind = OPT_REFUSE, .note = "run `celery beat` beside the worker"},
    {.short_name = 's', .name = "schedule-filename", .alias = "schedule", .kind = OPT_REFUSE, .arg = "FILE", .note = "run `celery beat` beside the worker"},
    {.name = "scheduler", .kind = OPT_REFUSE, .arg = "CLASS", .note = "run `celery beat` beside the worker"},

    {.short_name = 'f', .name = "logfile", .kind = OPT_STRING, .arg = "FILE", .group = "Daemonization Options", .offset = AT(logfile),
     .help = "Append the log to a file; % signs expand as in --hostname.", .initial = "stderr"},
    {.name = "pidfile", .kind = OPT_STRING, .arg = "FILE", .group = "Daemonization Options", .offset = AT(pidfile),
     .help = "Write the process id to a file; exit 73 when a live process holds it."},
    {.name = "uid", .kind = OPT_REFUSE, .arg = "USER", .note = "start it as that user"},
    {.name = "gid", .kind = OPT_REFUSE, .arg = "GROUP", .note = "start it as that group"},
    {.name = "umask", .kind = OPT_REFUSE, .arg = "UMASK", .note = "set it in the shell or the service file"},
    {.name = "executable", .kind = OPT_REFUSE, .arg = "PATH", .note = "there is no Python to run"},
    {0},
};
/* clang-format on */

const struct opt_table worker_opt_table = {
    .command = "worker",
    .usage = "[OPTIONS]",
    .about = "Start a worker: it takes Celery tasks from Redis and runs those of its plug-ins.",
    .env_prefix = "CELERY_WORKER_",
    .opts = worker_opts,
};

static const char *first(const char *a, const char *b, const char *c)
{
    if (a && *a)
        return a;
    return b && *b ? b : c;
}

static int parse_url(const char *url, const struct redis_options *o, struct redis_endpoint *ret_ep,
                     struct err *e)
{
    CLEANUP(redis_endpoint_deinit) struct redis_endpoint ep = {0};
    int r = redis_endpoint_parse(url, &ep, e);
    if (r == 0)
        r = redis_endpoint_apply(&ep, o, e);
    if (r)
        return r;
    *ret_ep = ep;
    ep = (struct redis_endpoint){0};
    return 0;
}

/* broker_connection_timeout, where neither the URL nor the transport options say one. */
static void set_connect_timeout(struct redis_endpoint *ep, double seconds)
{
    for (; seconds > 0 && ep; ep = ep->next)
        if (!ep->o.connect_timeout_ms)
            ep->o.connect_timeout_ms =
                MAX((int64_t)(MIN(seconds, LIMIT_TIMEOUT_SECONDS) * 1000), 1);
}

int config_broker(const char *option, const struct settings *s, struct redis_endpoint *ret_ep,
                  struct err *e)
{
    const char *url = first(option, opt_env("CELERY_BROKER_URL"), s->broker_url);
    int r = parse_url(url && *url ? url : "redis://localhost:6379/0", &s->broker_redis, ret_ep, e);
    if (r == 0)
        set_connect_timeout(ret_ep, s->connection_timeout);
    return r ? err_prefix(e, r, "broker") : 0;
}

int config_backend(const char *option, const struct settings *s, struct redis_endpoint *ret_ep,
                   bool *ret_has, struct err *e)
{
    const char *url = first(option, opt_env("CELERY_RESULT_BACKEND"), s->result_backend);
    *ret_has = url && *url && strncasecmp(url, "disabled", 8) != 0;
    if (!*ret_has)
        return 0;
    int r = parse_url(url, &s->backend_redis, ret_ep, e);
    return r ? err_prefix(e, r, "result backend") : 0;
}

const char *config_pool_name(enum pool_kind kind)
{
    return pools[kind];
}

static int parse_pool(const char *name, enum pool_kind *ret_kind, struct err *e)
{
    for (size_t i = 0; pools[i]; i++) {
        if (strcasecmp(name, pools[i]) == 0) {
            *ret_kind = (enum pool_kind)i;
            return 0;
        }
    }
    if (strcasecmp(name, "processes") == 0) {
        *ret_kind = POOL_PREFORK;
        return 0;
    }
    return err_set(e, -EINVAL, "worker_pool: '%s' is not one of prefork, threads, solo", name);
}

static int parse_concurrency(const char *text, enum pool_kind kind, size_t *ret_n, struct err *e)
{
    uint32_t n = 0;
    if (text && strcasecmp(text, "auto") != 0 && num_parse_u32(slice_str(text), &n) != 0)
        return err_set(e, OPT_E_USAGE,
                       "Invalid value for '--concurrency': '%s' is neither a number nor 'auto'.",
                       text);
    static const uint32_t limits[] = {
        [POOL_PREFORK] = LIMIT_CHILDREN, [POOL_THREADS] = LIMIT_THREADS, [POOL_SOLO] = UINT32_MAX};
    if (n > limits[kind])
        return err_set(e, OPT_E_USAGE, "Invalid value for '--concurrency': at most %u.",
                       limits[kind]);
    size_t cpus = n ? 0 : cpus_available();
    *ret_n = n ? n : MIN(cpus, limits[kind]);
    if (kind == POOL_SOLO)
        *ret_n = 1;
    return 0;
}

static int make_pool(const struct worker_options *o, struct worker_config *c, struct err *e)
{
    const char *pool = first(o->pool, c->settings.pool, "prefork");
    int r = parse_pool(pool, &c->pool, e);
    if (r)
        return r;
    const char *n =
        o->concurrency && !str_eq(o->concurrency, "0") ? o->concurrency : c->settings.concurrency;
    r = parse_concurrency(n, c->pool, &c->concurrency, e);
    if (r)
        return r;
    c->prefetch_multiplier = o->prefetch_multiplier.set && o->prefetch_multiplier.v > 0
                                 ? (int64_t)o->prefetch_multiplier.v
                                 : c->settings.prefetch_multiplier;
    c->max_tasks_per_child = o->max_tasks_per_child.set ? (int64_t)o->max_tasks_per_child.v
                                                        : c->settings.max_tasks_per_child;
    c->time_limit = o->time_limit.set ? o->time_limit.v : c->settings.time_limit;
    c->soft_time_limit =
        o->soft_time_limit.set ? o->soft_time_limit.v : c->settings.soft_time_limit;
    c->drain_timeout_ms = o->drain_timeout.set ? (int64_t)ceil(o->drain_timeout.v * 1000) : -1;
    c->settings.disable_prefetch |= o->disable_prefetch;
    c->heartbeat_ms = 2000;
    if (o->heartbeat_interval.set && o->heartbeat_interval.v > 0)
        c->heartbeat_ms = (int64_t)(MIN(o->heartbeat_interval.v, 86400) * 1000);
    if (o->without_heartbeat)
        c->heartbeat_ms = 0;
    return 0;
}

static int make_queues(struct worker_options *o, struct worker_config *c, struct err *e)
{
    struct strv *from = o->queues.n ? &o->queues : &c->settings.queues;
    const char *fallback = first(c->settings.default_queue, "celery", NULL);
    for (size_t i = 0; i < from->n; i++) {
        int r = strv_has(&c->queues, from->v[i]) ? 0 : strv_add(&c->queues, from->v[i]);
        if (r)
            return r;
    }
    if (from->n == 0) {
        int r = strv_add(&c->queues, fallback);
        if (r)
            return r;
    }
    for (size_t i = 0; i < o->exclude_queues.n; i++)
        strv_drop(&c->queues, o->exclude_queues.v[i]);
    if (c->queues.n == 0)
        return err_set(e, OPT_E_USAGE, "No queue is left to consume from (--exclude-queues).");
    if (c->settings.default_queue)
        return 0;
    c->settings.default_queue = strdup("celery");
    return c->settings.default_queue ? 0 : -ENOMEM;
}

static int make_databases(struct worker_options *o, struct worker_config *c, struct err *e)
{
    if (o->databases.n > LIMIT_DATABASE_ALIASES)
        return err_set(e, OPT_E_USAGE, "At most %d --database options.", LIMIT_DATABASE_ALIASES);
    for (size_t i = 0; i < o->databases.n; i++) {
        const char *eq = strchr(o->databases.v[i], '=');
        if (!eq || eq == o->databases.v[i] || !eq[1])
            return err_set(e, OPT_E_USAGE,
                           "Invalid value for '--database': say ALIAS=URL, for example "
                           "default=postgresql://user@host/name");
    }
    c->databases = o->databases;
    o->databases = (struct strv){NULL, 0};
    return 0;
}

static int make_names(const struct worker_options *o, struct worker_config *c, struct err *e)
{
    CLEANUP(mem_free) char *host = nodename_host();
    if (!host)
        return -ENOMEM;
    int r = nodename_make(o->hostname, host, &c->node, e);
    if (r)
        return err_prefix(e, r == -EINVAL ? OPT_E_USAGE : r, "--hostname");
    if (o->logfile && *o->logfile)
        r = nodename_path(o->logfile, c->node, &c->logfile, e);
    if (r == 0 && o->pidfile && *o->pidfile)
        r = nodename_path(o->pidfile, c->node, &c->pidfile, e);
    return r == -EINVAL ? OPT_E_USAGE : r;
}

static int make_urls(const struct worker_options *o, struct worker_config *c, struct err *e)
{
    int r = config_broker(o->broker, &c->settings, &c->broker, e);
    if (r)
        return r;
    r = config_backend(o->result_backend, &c->settings, &c->backend, &c->has_backend, e);
    if (r)
        return r;
    c->same_backend = c->has_backend && redis_endpoint_same(&c->broker, &c->backend);
    return 0;
}

static int make_wire(struct worker_config *c, struct err *e)
{
    const struct wire_options o = settings_wire(&c->settings);
    return wire_new(&o, &c->wire, e);
}

int config_make(struct worker_options *o, struct worker_config *ret_c, struct err *e)
{
    CLEANUP(config_deinit) struct worker_config c = {.loglevel = LOG_WARNING};
    settings_init(&c.settings);
    if (o->workdir && chdir(o->workdir) != 0) {
        int r = -errno;
        return err_set(e, r, "--workdir %s: %s", o->workdir, err_errno(r));
    }
    int r = o->config ? settings_load(&c.settings, o->config, e) : 0;
    if (r == 0)
        r = make_wire(&c, e);
    if (r == 0 && o->loglevel)
        r = log_level_parse(o->loglevel, &c.loglevel);
    if (r == 0)
        r = make_names(o, &c, e);
    if (r == 0)
        r = make_urls(o, &c, e);
    if (r == 0)
        r = make_pool(o, &c, e);
    if (r == 0)
        r = make_queues(o, &c, e);
    if (r == 0)
        r = make_databases(o, &c, e);
    if (r == 0 && o->task_events)
        r = strv_add(&c.settings.warnings, "-E: task events are not sent in this release");
    if (r)
        return r;
    c.apps = o->apps;
    o->apps = (struct strv){NULL, 0};
    c.mingle = !o->without_mingle;
    c.quiet = o->quiet;
    c.purge = o->purge;
    *ret_c = c;
    c = (struct worker_config){0};
    return 0;
}

void config_deinit(struct worker_config *c)
{
    settings_deinit(&c->settings);
    wire_free(c->wire);
    redis_endpoint_deinit(&c->broker);
    redis_endpoint_deinit(&c->backend);
    strv_deinit(&c->apps);
    strv_deinit(&c->queues);
    strv_deinit(&c->databases);
    free(c->node);
    free(c->logfile);
    free(c->pidfile);
    *c = (struct worker_config){0};
}
