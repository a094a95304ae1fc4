/* SPDX-License-Identifier: Apache-2.0 */
/* The commands that only look (celery/worker/control.py inspect_command). Keys, their order and their kinds are Celery's;
 * Flower and celery-exporter break on one that is missing. */

#include "celeryc/control/control_priv.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/limits.h"
#include "celeryc/base/log.h"

#include <errno.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

/* ---- tasks ---- */

static void write_arguments(struct buf *dst, struct arena *a, const struct message *m, bool safe)
{
    struct message_body body;
    bool small = m->body.raw.len <= LIMIT_CONTROL_ARGS;
    if (safe || !small || message_body(a, m, &body, NULL)) {
        buf_append_str(dst, ", \"args\": ");
        json_write_string(dst, m->argsrepr);
        buf_append_str(dst, ", \"kwargs\": ");
        json_write_string(dst, m->kwargsrepr);
        return;
    }
    buf_append_str(dst, ", \"args\": ");
    buf_append_slice(dst, body.args.raw);
    buf_append_str(dst, ", \"kwargs\": ");
    buf_append_slice(dst, body.kwargs.raw);
}

static void write_delivery(struct buf *dst, const struct message *m)
{
    buf_append_str(dst, "{\"exchange\": ");
    json_write_string(dst, m->exchange);
    buf_append_str(dst, ", \"routing_key\": ");
    json_write_string(dst, m->routing_key);
    buf_appendf(dst, ", \"priority\": %d, \"redelivered\": %s}", m->priority,
                m->redelivered ? "true" : "false");
}

void inspect_write_task(struct buf *dst, struct arena *a, const struct panel *p,
                        const struct control_task *t, bool safe)
{
    const struct message *m = t->m;
    buf_append_str(dst, "{\"id\": ");
    json_write_string(dst, m->id);
    buf_append_str(dst, ", \"name\": ");
    json_write_string(dst, m->shadow.len ? m->shadow : m->task);
    write_arguments(dst, a, m, safe);
    buf_append_str(dst, ", \"type\": ");
    json_write_string(dst, m->task);
    buf_append_str(dst, ", \"hostname\": ");
    json_write_string(dst, slice_str(p->node));
    buf_append_str(dst, ", \"time_start\": ");
    if (t->started_us)
        json_write_f64(dst, (double)t->started_us / 1e6);
    else
        buf_append_str(dst, "null");
    buf_appendf(dst,
                ", \"acknowledged\": %s, \"delivery_info\": ", t->acknowledged ? "true" : "false");
    write_delivery(dst, m);
    buf_append_str(dst, ", \"worker_pid\": ");
    if (t->pid)
        buf_appendf(dst, "%d}", t->pid);
    else
        buf_append_str(dst, "null}");
}

struct listing {
    struct call *c;
    enum control_list list;
    bool safe;
    size_t n;
};

static void separate(struct buf *dst, size_t *n)
{
    if ((*n)++)
        buf_append_str(dst, ", ");
}

/* What is over the limit anyway need not be written. */
static bool full(const struct call *c)
{
    return c->out.len > LIMIT_CONTROL_REPLY;
}

static void write_scheduled(struct call *c, const struct control_task *t, int64_t due_us)
{
    char eta[CLOCK_ISO_SIZE];
    clock_iso_format(due_us, eta);
    buf_appendf(&c->out, "{\"eta\": \"%s\", \"priority\": 6, \"request\": ", eta);
    inspect_write_task(&c->out, c->arena, c->p, t, false);
    buf_append_char(&c->out, '}');
}

static void list_task(enum control_list list, const struct control_task *t, void *arg)
{
    struct listing *l = arg;
    struct buf *dst = &l->c->out;
    if (list != l->list || full(l->c))
        return;
    separate(dst, &l->n);
    if (list == CONTROL_SCHEDULED)
        write_scheduled(l->c, t, t->m->eta_us);
    else
        inspect_write_task(dst, l->c->arena, l->c->p, t, l->safe);
}

/* What waits at the broker belongs to no worker; the earliest are shown. */
static void list_delayed(struct listing *l)
{
    const struct panel *p = l->c->p;
    for (size_t i = 0; i < p->n_delayed && !full(l->c); i++) {
        const struct control_task t = {.m = &p->delayed[i].m};
        separate(&l->c->out, &l->n);
        write_scheduled(l->c, &t, p->delayed[i].due_us);
    }
}

static void list_tasks(struct call *c, enum control_list list, bool safe)
{
    struct listing l = {c, list, safe, 0};
    buf_append_char(&c->out, '[');
    c->p->host->each_task(list_task, &l, c->p->host->arg);
    if (list == CONTROL_SCHEDULED)
        list_delayed(&l);
    buf_append_char(&c->out, ']');
}

static void active(struct call *c)
{
    list_tasks(c, CONTROL_ACTIVE, json_truth(json_get(c->args, "safe")));
}

static void reserved(struct call *c)
{
    list_tasks(c, CONTROL_RESERVED, false);
}

static void scheduled(struct call *c)
{
    list_tasks(c, CONTROL_SCHEDULED, false);
}

struct query {
    struct call *c;
    struct map *ids;
    size_t n;
};

static void query_one(enum control_list list, const struct control_task *t, void *arg)
{
    static const char *const names[] = {
        [CONTROL_ACTIVE] = "active",
        [CONTROL_RESERVED] = "reserved",
        [CONTROL_SCHEDULED] = "scheduled",
    };
    struct query *q = arg;
    if (full(q->c) || !map_remove(q->ids, t->m->id))
        return;
    separate(&q->c->out, &q->n);
    json_write_string(&q->c->out, t->m->id);
    buf_appendf(&q->c->out, ": [\"%s\", ", names[list]);
    inspect_write_task(&q->c->out, q->c->arena, q->c->p, t, false);
    buf_append_char(&q->c->out, ']');
}

static void query_task(struct call *c)
{
    CLEANUP(map_free) struct map *ids = map_new();
    size_t n;
    struct slice *names;
    if (!ids || call_names(c, "ids", &names, &n)) {
        c->nomem = true;
        return;
    }
    for (size_t i = 0; i < n; i++)
        if (map_set(ids, names[i], c))
            c->nomem = true;
    struct query q = {c, ids, 0};
    buf_append_char(&c->out, '{');
    c->p->host->each_task(query_one, &q, c->p->host->arg);
    for (size_t i = 0; i < c->p->n_delayed; i++)
        query_one(CONTROL_SCHEDULED, &(struct control_task){.m = &c->p->delayed[i].m}, &q);
    buf_append_char(&c->out, '}');
}

/* ---- what is registered ---- */

static bool write_flag(struct buf *dst, bool v)
{
    buf_append_str(dst, v ? "True" : "False");
    return true;
}

static bool write_seconds(struct buf *dst, double v)
{
    if (v <= 0)
        return false;
    json_write_f64(dst, v);
    return true;
}

/* str() of a task's attribute. False: None, or no such attribute. */
static bool write_attribute(struct buf *dst, const struct task_info *t, struct slice name)
{
    if (slice_eq_str(name, "name"))
        buf_append_str(dst, t->name);
    else if (slice_eq_str(name, "rate_limit") && t->rate_limit && *t->rate_limit)
        buf_append_str(dst, t->rate_limit);
    else if (slice_eq_str(name, "max_retries") && t->max_retries >= 0)
        buf_appendf(dst, "%d", t->max_retries);
    else if (slice_eq_str(name, "default_retry_delay"))
        buf_appendf(dst, "%g", t->default_retry_delay);
    else if (slice_eq_str(name, "serializer"))
        buf_append_str(dst, "json");
    else if (slice_eq_str(name, "acks_late"))
        return write_flag(dst, t->acks_late);
    else if (slice_eq_str(name, "ignore_result"))
        return write_flag(dst, t->ignore_result);
    else if (slice_eq_str(name, "track_started"))
        return write_flag(dst, t->track_started);
    else if (slice_eq_str(name, "reject_on_worker_lost"))
        return t->reject_on_worker_lost && write_flag(dst, true);
    else if (slice_eq_str(name, "store_errors_even_if_ignored"))
        return write_flag(dst, t->store_errors_even_if_ignored);
    else if (slice_eq_str(name, "time_limit"))
        return write_seconds(dst, t->time_limit);
    else if (slice_eq_str(name, "soft_time_limit"))
        return write_seconds(dst, t->soft_time_limit);
    else
        return false;
    return true;
}

static void write_registered(struct buf *dst, const struct task_info *t, size_t n,
                             const struct slice *items)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    CLEANUP(buf_deinit) struct buf value = BUF_INIT;
    buf_append_str(&text, t->name);
    size_t written = 0;
    for (size_t i = 0; i < n; i++) {
        buf_reset(&value);
        if (!write_attribute(&value, t, items[i]))
            continue;
        buf_append_str(&text, written++ ? " " : " [");
        buf_append_slice(&text, items[i]);
        buf_append_char(&text, '=');
        buf_append_slice(&text, buf_slice(&value));
    }
    if (written)
        buf_append_char(&text, ']');
    if (buf_ok(&text))
        dst->failed = true;
    json_write_string(dst, buf_slice(&text));
}

static void registered(struct call *c)
{
    static const struct slice usual[] = {{"rate_limit", 10}};
    const struct slice *items = usual;
    size_t n = 1, written = 0;
    struct slice *given;
    if (json_truth(json_get(c->args, "taskinfoitems"))) {
        if (call_names(c, "taskinfoitems", &given, &n)) {
            c->nomem = true;
            return;
        }
        items = given;
    }
    bool builtins = json_truth(json_get(c->args, "builtins"));
    const struct task_registry *tasks = c->p->host->tasks(c->p->host->arg);
    buf_append_char(&c->out, '[');
    for (size_t i = 0; tasks && i < task_registry_len(tasks) && !full(c); i++) {
        const struct task_info *t = task_registry_at(tasks, i);
        if (!builtins && strncmp(t->name, "celery.", 7) == 0)
            continue;
        separate(&c->out, &written);
        write_registered(&c->out, t, n, items);
    }
    buf_append_char(&c->out, ']');
}

/* ---- the worker ---- */

static void ping(struct call *c)
{
    reply_ok(c, "pong");
}

static void clock_command(struct call *c)
{
    buf_appendf(&c->out, "{\"clock\": %llu}", (unsigned long long)c->p->clock);
}

static void conf(struct call *c)
{
    buf_append_char(&c->out, '{');
    c->p->host->conf(&c->out, json_truth(json_get(c->args, "with_defaults")), c->p->host->arg);
    buf_append_char(&c->out, '}');
}

static void report(struct call *c)
{
    const struct panel *p = c->p;
    struct utsname u = {.sysname = "Linux"};
    (void)uname(&u);
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    CLEANUP(buf_deinit) struct buf settings = BUF_INIT;
    buf_appendf(
        &text,
        "\nsoftware -> celery:5.7 (celeryc:%s)\nplatform -> system:%s arch:%s\n            kernel "
        "version:%s imp:C\nsettings -> transport:redis results:%s\n\n",
        p->version, u.sysname, u.machine, u.release, p->backend ? p->backend->masked : "disabled");
    p->host->conf(&settings, false, p->host->arg);
    struct json_val v;
    struct json_iter it;
    CLEANUP(buf_deinit) struct buf object = BUF_INIT;
    buf_append_char(&object, '{');
    buf_append_slice(&object, buf_slice(&settings));
    buf_append_char(&object, '}');
    if (buf_ok(&object) || json_scan(buf_slice(&object), &v, NULL)) {
        c->nomem = true;
        return;
    }
    json_iter_init(&it, v);
    while (json_next(&it)) {
        buf_append(&text, it.key.raw.p + 1, it.key.raw.len - 2);
        buf_append_str(&text, ": ");
        json_write_python(&text, it.val);
        buf_append_char(&text, '\n');
    }
    if (buf_ok(&text))
        c->nomem = true;
    else
        reply_ok(c, text.data);
}

static void memsample(struct call *c)
{
    FILE *f = fopen("/proc/self/statm", "re");
    unsigned long pages = 0, resident = 0;
    char line[128] = "";
    if (f) {
        if (fgets(line, sizeof(line), f)) {
            char *end;
            pages = strtoul(line, &end, 10);
            resident = strtoul(end, NULL, 10);
        }
        (void)fclose(f);
    }
    if (pages)
        buf_appendf(&c->out, "\"%.6gMB\"",
                    (double)resident * (double)sysconf(_SC_PAGESIZE) / (1 << 20));
    else
        buf_append_str(&c->out, "null");
}

static void memdump(struct call *c)
{
    reply_raise(c, "NotImplementedError", "celeryc keeps no memory samples");
}

static void objgraph(struct call *c)
{
    reply_raise(c, "NotImplementedError", "celeryc has no Python objects to draw");
}

/* ---- active_queues ---- */

static void active_queues(struct call *c)
{
    size_t n = 0;
    buf_append_char(&c->out, '[');
    for (const char *const *q = c->p->host->queues(c->p->host->arg); *q; q++) {
        CLEANUP(buf_deinit) struct buf name = BUF_INIT;
        json_write_string(&name, slice_str(*q));
        if (buf_ok(&name)) {
            c->nomem = true;
            return;
        }
        separate(&c->out, &n);
        buf_appendf(&c->out,
                    "{\"name\": %s, \"exchange\": {\"name\": %s, \"type\": \"direct\", "
                    "\"arguments\": null, \"durable\": true, \"passive\": false, "
                    "\"auto_delete\": false, \"delivery_mode\": null, \"no_declare\": false}, "
                    "\"routing_key\": %s, \"queue_arguments\": null, \"binding_arguments\": null, "
                    "\"consumer_arguments\": null, \"durable\": true, \"exclusive\": false, "
                    "\"auto_delete\": false, \"no_ack\": false, \"alias\": null, \"bindings\": [], "
                    "\"no_declare\": null, \"expires\": null, \"message_ttl\": null, "
                    "\"max_length\": null, \"max_length_bytes\": null, \"max_priority\": null}",
                    name.data, name.data, name.data);
    }
    buf_append_char(&c->out, ']');
}

/* ---- stats ---- */

static int write_total(struct slice name, void *value, void *arg)
{
    struct buf *dst = arg;
    if (dst->data[dst->len - 1] != '{')
        buf_append_str(dst, ", ");
    json_write_string(dst, name);
    buf_appendf(dst, ": %llu", (unsigned long long)(uintptr_t)value);
    return dst->failed ? -ENOMEM : 0;
}

static void write_number(struct buf *dst, double v)
{
    if (v == (double)(int64_t)v)
        buf_appendf(dst, "%lld", (long long)v);
    else
        json_write_f64(dst, v);
}

static void write_pool(struct buf *dst, const struct control_stats *s)
{
    buf_appendf(dst,
                "{\"implementation\": \"celeryc.pool:%s\", \"max-concurrency\": %zu, "
                "\"processes\": [",
                s->pool, s->concurrency);
    for (size_t i = 0; i < s->n_pids; i++)
        buf_appendf(dst, "%s%d", i ? ", " : "", s->pids[i]);
    buf_append_str(dst, "], \"max-tasks-per-child\": ");
    if (s->max_tasks_per_child)
        buf_appendf(dst, "%lld", (long long)s->max_tasks_per_child);
    else
        buf_append_str(dst, "\"N/A\"");
    buf_append_str(dst, ", \"put-guarded-by-semaphore\": false, \"timeouts\": [");
    write_number(dst, s->soft_time_limit);
    buf_append_str(dst, ", ");
    write_number(dst, s->time_limit);
    buf_appendf(dst,
                "], \"writes\": {\"total\": %llu, \"avg\": \"%.2f\", \"all\": \"\", \"raw\": \"\", "
                "\"strategy\": \"fair\", \"inqueues\": {\"total\": %zu, \"active\": %zu}}",
                (unsigned long long)s->processed,
                s->processed && s->n_pids ? 1.0 / (double)s->n_pids : 0.0, s->n_pids, s->active);
    if (str_eq(s->pool, "threads"))
        buf_appendf(dst, ", \"threads\": %zu", s->concurrency);
    buf_append_char(dst, '}');
}

/* kombu's list has the first one, too; ours never shows a password. */
static void write_alternates(struct buf *dst, const struct redis_endpoint *first)
{
    for (const struct redis_endpoint *s = first; first->next && s; s = s->next) {
        /* The first one's text may name them all. */
        struct slice shown = {s->masked, strcspn(s->masked, ";")};
        buf_append_str(dst, s == first ? "" : ", ");
        json_write_string(dst, shown);
    }
}

static void write_broker(struct buf *dst, const struct panel *p)
{
    const struct redis_endpoint *ep = p->broker;
    const struct redis_endpoint *at = ep->sentinels ? ep->sentinels : ep; /* as kombu has it */
    bool tls = ep->o.tls.on == REDIS_YES;
    CLEANUP(buf_deinit) struct buf host = BUF_INIT;
    char virtual_host[16];
    size_t len = strlen(ep->text);
    bool named = ep->db || (len > 1 && str_eq(ep->text + len - 2, "/0"));
    (void)snprintf(virtual_host, sizeof(virtual_host), named ? "%d" : "/", ep->db);
    if (at->path)
        buf_appendf(&host, "redis+socket://%s", at->path);
    else
        buf_append_str(&host, at->host);
    if (buf_ok(&host))
        dst->failed = true;
    buf_append_str(dst, "{\"hostname\": ");
    json_write_string(dst, buf_slice(&host));
    buf_append_str(dst, ", \"userid\": ");
    json_write_string_or_null(dst, slice_str(ep->user));
    buf_appendf(dst,
                ", \"virtual_host\": \"%s\", \"port\": %d, \"insist\": false, \"ssl\": %s, "
                "\"transport\": \"%s\", \"connect_timeout\": 4, \"transport_options\": {",
                virtual_host, at->port ? at->port : 6379, tls ? "true" : "false",
                ep->sentinels ? "sentinel" : "redis");
    if (*p->key_prefix) {
        buf_append_str(dst, "\"global_keyprefix\": ");
        json_write_string(dst, slice_str(p->key_prefix));
    }
    buf_append_str(dst, "}, \"login_method\": null, \"uri_prefix\": \"redis\", \"heartbeat\": "
                        "120.0, \"failover_strategy\": \"round-robin\", \"alternates\": [");
    write_alternates(dst, at);
    buf_append_str(dst, "], \"credential_provider\": null}");
}

static double seconds(struct timeval tv)
{
    return (double)tv.tv_sec + (double)tv.tv_usec / 1e6;
}

static void write_usage(struct buf *dst)
{
    struct rusage u;
    if (getrusage(RUSAGE_SELF, &u)) {
        buf_append_str(dst, "\"N/A\"");
        return;
    }
    buf_append_str(dst, "{\"utime\": ");
    json_write_f64(dst, seconds(u.ru_utime));
    buf_append_str(dst, ", \"stime\": ");
    json_write_f64(dst, seconds(u.ru_stime));
    buf_appendf(dst,
                ", \"maxrss\": %ld, \"ixrss\": %ld, \"idrss\": %ld, \"isrss\": %ld, \"minflt\": "
                "%ld, \"majflt\": %ld, \"nswap\": %ld, \"inblock\": %ld, \"oublock\": %ld, "
                "\"msgsnd\": %ld, \"msgrcv\": %ld, \"nsignals\": %ld, \"nvcsw\": %ld, \"nivcsw\": "
                "%ld}",
                u.ru_maxrss, u.ru_ixrss, u.ru_idrss, u.ru_isrss, u.ru_minflt, u.ru_majflt,
                u.ru_nswap, u.ru_inblock, u.ru_oublock, u.ru_msgsnd, u.ru_msgrcv, u.ru_nsignals,
                u.ru_nvcsw, u.ru_nivcsw);
}

static void stats(struct call *c)
{
    struct buf *dst = &c->out;
    struct control_stats s = {0};
    c->p->host->stats(&s, c->p->host->arg);
    buf_append_str(dst, "{\"total\": {");
    if (buf_ok(dst) == 0 && s.totals)
        (void)map_each(s.totals, write_total, dst);
    buf_appendf(dst,
                "}, \"pid\": %d, \"clock\": \"%llu\", \"uptime\": %lld, \"pool\": ", (int)getpid(),
                (unsigned long long)c->p->clock, (long long)s.uptime_s);
    write_pool(dst, &s);
    buf_append_str(dst, ", \"broker\": ");
    write_broker(dst, c->p);
    buf_appendf(dst, ", \"prefetch_count\": %lld, \"rusage\": ", (long long)s.prefetch_count);
    write_usage(dst);
    buf_append_char(dst, '}');
}

/* ---- revoked, hello ---- */

struct names {
    struct buf *dst;
    size_t n;
};

static void write_name(struct slice name, void *arg)
{
    struct names *l = arg;
    separate(l->dst, &l->n);
    json_write_string(l->dst, name);
}

static void write_revoked(struct call *c)
{
    struct names l = {&c->out, 0};
    buf_append_char(&c->out, '[');
    revoked_each(c->p->ids, write_name, &l);
    buf_append_char(&c->out, ']');
}

/* mingle: a worker that starts asks what was revoked and says what it knows. */
static void hello(struct call *c)
{
    struct slice from;
    if (json_string(c->arena, json_get(c->args, "from_node"), &from))
        from = SLICE_NULL;
    if (slice_eq_str(from, c->p->node)) {
        buf_append_str(&c->out, "null");
        return;
    }
    log_info("sync with %.*s", (int)MIN(from.len, 200), from.p ? from.p : "");
    panel_merge_revoked(c->p, c->arena, json_get(c->args, "revoked"));
    revoked_purge(c->p->ids, clock_mono_ns());
    buf_append_str(&c->out, "{\"revoked\": ");
    write_revoked(c);
    buf_appendf(&c->out, ", \"clock\": %llu}", (unsigned long long)++c->p->clock);
}

const struct command inspect_commands[] = {
    {.name = "ping", .fn = ping},
    {.name = "active", .alias = "dump_active", .fn = active},
    {.name = "reserved", .alias = "dump_reserved", .fn = reserved},
    {.name = "scheduled", .alias = "dump_schedule", .fn = scheduled},
    {.name = "revoked", .alias = "dump_revoked", .fn = write_revoked},
    {.name = "registered", .alias = "dump_tasks", .fn = registered},
    {.name = "stats", .fn = stats},
    {.name = "conf", .alias = "dump_conf", .fn = conf},
    {.name = "report", .fn = report, .strict = true},
    {.name = "clock", .fn = clock_command},
    {.name = "active_queues", .fn = active_queues, .strict = true},
    {.name = "query_task", .fn = query_task, .required = {"ids"}},
    {.name = "memsample", .fn = memsample},
    {.name = "memdump", .fn = memdump},
    {.name = "objgraph", .fn = objgraph, .strict = true, .known = {"num", "max_depth", "type"}},
    {.name = "hello", .fn = hello, .required = {"from_node"}},
    {0},
};
