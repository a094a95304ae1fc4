/* SPDX-License-Identifier: Apache-2.0 */
/* The order of one run. The Lease is held from before anything is read until what was decided is written, so that two
 * scalers never act on each other's past; its text is the memory. Redis is asked while the heartbeats come in.
 *
 * What must never happen: a write without the Lease; a number that could not be read taken for zero. */

#include "k8s/scaler/run.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/log.h"
#include "celeryc/message/json.h"
#include "k8s/scaler/plans.h"

#include <errno.h>
#include <unistd.h>

#define CONNECT_MS  4000
#define REPLY_MS    8000
#define GIVE_UP_S   5
#define LEASE_SLACK 5 /* seconds that a Lease outlives the deadline of a run */

/* ---- jobs ---- */

static void job_init(struct job *j, struct scaler *s, size_t i)
{
    *j = (struct job){.target = &s->c->targets[i],
                      .seat = &s->seats[i],
                      .steps = s->c->keys.steps,
                      .plan_cap = -1,
                      .started_ns = clock_mono_ns()};
    memory_init(&j->memory);
}

static void job_deinit(struct job *j)
{
    memory_deinit(&j->memory);
    kube_target_deinit(&j->deployment);
    kube_pods_deinit(&j->pods);
    load_lists_deinit(&j->lists);
    load_deinit(&j->load);
    measured_deinit(&j->measured);
    free(j->lease_state);
    buf_deinit(&j->notes);
}

void job_note(struct job *j, const char *fmt, ...)
{
    CLEANUP(mem_free) char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    int n = vasprintf(&text, fmt, ap);
    va_end(ap);
    if (n < 0) {
        text = NULL;
        return;
    }
    buf_append_str(&j->notes, j->notes.len ? ", " : "");
    json_write_string(&j->notes, slice_str(text));
}

void job_fail(struct job *j, const char *where, int code, struct err *e)
{
    if (!j->where) {
        j->where = where;
        j->e = *e;
    }
    j->code = MAX(j->code, code);
}

int exit_of_kube(int r)
{
    switch (r) {
    case 0:
    case KUBE_E_CONFLICT:
        return EXIT_DONE;
    case KUBE_E_UNREACHABLE:
        return EXIT_UNREACHABLE;
    case KUBE_E_AUTH:
    case KUBE_E_DENIED:
        return EXIT_RIGHTS;
    case KUBE_E_CONFIG:
    case KUBE_E_NOT_FOUND:
        return EXIT_CONFIG;
    default:
        return EXIT_DEFECT;
    }
}

int exit_of_redis(int r, const struct err *e)
{
    static const char *const rights[] = {"NOPERM", "NOAUTH", "WRONGPASS", "password"};

    if (r == -ENOMEM)
        return EXIT_DEFECT;
    for (size_t i = 0; i < ARRAY_SIZE(rights); i++)
        if (strstr(e->text, rights[i]))
            return EXIT_RIGHTS;
    return strstr(e->text, "WRONGTYPE") ? EXIT_CONFIG : EXIT_UNREACHABLE;
}

int scaler_init(struct scaler *s, const struct options *o, const struct config *c)
{
    const char *pod = opt_env("POD_NAME");
    char host[65] = "";

    *s = (struct scaler){.o = o, .c = c, .seats = calloc(c->n_targets, sizeof(*s->seats))};
    (void)gethostname(host, sizeof(host) - 1);
    if (pod)
        (void)snprintf(s->holder, sizeof(s->holder), "%s", pod);
    else
        (void)snprintf(s->holder, sizeof(s->holder), "%s-%d", host, (int)getpid());
    return s->seats ? metrics_init(&s->metrics, c->n_targets) : -ENOMEM;
}

void scaler_deinit(struct scaler *s)
{
    for (size_t i = 0; s->seats && i < s->c->n_targets; i++)
        kube_close(s->seats[i].kube);
    free(s->seats);
    metrics_deinit(&s->metrics);
}

int scaler_open_kube(struct scaler *s, size_t i, struct err *e)
{
    const struct kube_options o = {.kubeconfig = s->c->kubeconfig,
                                   .context = s->c->context,
                                   .namespace = s->c->namespace,
                                   .use_proxy = s->o->proxy};
    int r = s->seats[i].kube ? 0 : kube_open(&o, &s->seats[i].kube, e);

    if (r == 0)
        kube_set_deadline(s->seats[i].kube, s->deadline_ns);
    return r;
}

static bool is_look(const struct scaler *s)
{
    return s->o->explain || s->o->dry_run;
}

/* ---- Kubernetes: lock, memory, Deployment, pods ---- */

static int take_lease(struct scaler *s, struct job *j, struct err *e)
{
    const struct target *t = j->target;
    int64_t wait_s = s->o->loop && s->o->interval_s.set ? (int64_t)s->o->interval_s.v : 0;
    int64_t period_s = s->o->loop ? MAX(t->rules.period_s, wait_s) : 0;
    int64_t run_s = s->o->deadline_s.set ? (int64_t)s->o->deadline_s.v : 50;

    if (str_eq(s->o->state, "none"))
        return 0;
    if (is_look(s))
        return kube_lease_peek(j->seat->kube, t->lease, &j->lease_state, e);
    int r = kube_lease_take(j->seat->kube, t->lease, s->holder, run_s + LEASE_SLACK + period_s,
                            &j->lease_state, e);
    j->seat->leased = r == 0;
    return r;
}

static void read_memory(struct job *j)
{
    struct err e = ERR_INIT;
    struct slice text = slice_str(j->lease_state);
    int r = memory_parse(text, &j->memory, &e);

    if (r)
        job_note(j, "the Lease's memory cannot be read (%s): this is taken for the first run",
                 err_text(&e, r));
}

/* False: this target is left alone in this run. */
static bool prepare(struct scaler *s, struct job *j, size_t i)
{
    struct err e = ERR_INIT;
    const char *where = "kubernetes";
    int r = scaler_open_kube(s, i, &e);

    if (r == 0) {
        where = "lease";
        r = take_lease(s, j, &e);
    }
    if (r == KUBE_E_CONFLICT) {
        j->not_leader = true;
        j->e = e;
        return false;
    }
    if (r == 0) {
        read_memory(j);
        where = "deployment";
        r = kube_target_read(j->seat->kube, j->target->deployment, &j->deployment, &e);
    }
    if (r == 0) {
        where = "pods";
        r = kube_pods_read(j->seat->kube, j->deployment.selector, &j->pods, &e);
    }
    if (r)
        job_fail(j, where, r < 0 ? EXIT_DEFECT : exit_of_kube(r), &e);
    j->read = r == 0;
    return j->read;
}

/* ---- Redis ---- */

struct broker {
    struct redis_endpoint ep;
    struct redis_sync *redis;
    struct beats beats;
    bool heard; /* heartbeats were listened for, or nobody is to be heard */
    int64_t since_ns;
    struct err why; /* it could not be reached or listened to */
    int code;
};

static void broker_close(struct broker *b)
{
    b->redis = redis_sync_close(b->redis);
    redis_endpoint_deinit(&b->ep);
    beats_deinit(&b->beats);
}

static int broker_open(struct scaler *s, struct broker *b, struct err *e)
{
    CLEANUP(mem_free) char *url = NULL;
    CLEANUP(redis_options_deinit) struct redis_options o = {.reply_timeout_ms = REPLY_MS};
    int r = config_redis_url(s->c, &url, e);

    if (r == 0)
        r = redis_endpoint_parse(url, &b->ep, e);
    if (r == 0)
        r = redis_endpoint_apply(&b->ep, &o, e);
    if (r)
        return r;
    return redis_sync_open(&b->ep, CONNECT_MS, &b->redis, e);
}

static bool is_anybody_to_hear(const struct job *jobs, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (jobs[i].loaded && jobs[i].target->heartbeats && jobs[i].pods.n)
            return true;
    return false;
}

static void broker_failed(struct broker *b, int r, struct err *e)
{
    b->why = *e;
    b->code = exit_of_redis(r, e);
}

static void start_listening(struct scaler *s, struct broker *b)
{
    struct err e = ERR_INIT;
    int r = broker_open(s, b, &e);

    if (r == 0)
        r = load_listen(b->redis, &s->c->keys, b->ep.db, &e);
    b->since_ns = clock_mono_ns();
    if (r)
        broker_failed(b, r, &e);
}

static void read_load(struct scaler *s, struct job *j, struct broker *b)
{
    struct err e = ERR_INIT;
    int r = load_lists_init(&j->lists, &s->c->keys, &j->target->queues);

    if (r == 0 && !b->code)
        r = load_read(b->redis, &s->c->keys, &j->lists, &j->load, &e);
    if (b->code)
        job_fail(j, "redis", b->code, &b->why);
    else if (r)
        job_fail(j, "redis", exit_of_redis(r, &e), &e);
    j->loaded = r == 0 && !b->code;
}

static void hear_workers(struct scaler *s, struct job *jobs, size_t n, struct broker *b)
{
    struct err e = ERR_INIT;
    int64_t until_ns = b->since_ns + (int64_t)(s->c->heartbeat_s * (double)NS_PER_S);
    int r = 0;

    if (b->code)
        return;
    if (is_anybody_to_hear(jobs, n))
        r = load_heartbeats(b->redis, MIN(until_ns, s->deadline_ns), &b->beats, &e);
    b->heard = r == 0;
    if (r)
        broker_failed(b, r, &e);
    for (size_t i = 0; r && i < n; i++)
        if (jobs[i].read)
            job_fail(&jobs[i], "redis", b->code, &b->why);
}

static bool nobody_runs(const struct beats *b)
{
    for (size_t i = 0; i < b->n; i++)
        if (b->v[i].active)
            return false;
    return true;
}

/* A task with an ETA lies in its list only as long as nobody takes it. */
static void read_later(struct scaler *s, struct job *j, struct broker *b)
{
    struct err e = ERR_INIT;
    int r;

    if (!j->loaded || !b->heard || j->load.ready == 0 ||
        (j->deployment.replicas > 0 && !nobody_runs(&b->beats)))
        return;
    r = load_read_later(b->redis, &s->c->keys, &j->lists, &j->load, &e);
    if (r == 0)
        return;
    j->loaded = false;
    job_fail(j, "redis", exit_of_redis(r, &e), &e);
}

/* ---- decide ---- */

static void notes(struct scaler *s, struct job *j, const struct broker *b)
{
    const struct measured *m = &j->measured;

    if (m->bad_annotation)
        job_note(j, "an annotation says \"%s\", which makes no sense: taken for a pause",
                 m->bad_annotation);
    if (j->load.estimated)
        job_note(j, "more messages than scan_limit (%lld): estimated from those that were read",
                 (long long)s->c->keys.scan_limit);
    if (!j->target->heartbeats)
        job_note(j, "without heartbeats: lowered only when nothing waits or is unacknowledged");
    else if (b->heard && m->nodes == 0 && m->n[POD_UNKNOWN])
        job_note(j, b->beats.n
                        ? "heartbeats came from other hosts only: start the workers with "
                          "--hostname NAME@%%h, so that what stands behind @ is the pod's name"
                        : "no heartbeat came: do the workers run --without-heartbeat, or on "
                          "another database?");
}

static void decide_job(struct scaler *s, struct job *j, const struct broker *b)
{
    const struct view v = {.target = j->target,
                           .kube = &j->deployment,
                           .pods = &j->pods,
                           .load = j->loaded ? &j->load : NULL,
                           .beats = b->heard ? &b->beats : NULL,
                           .now = kube_now_us(j->seat->kube) / 1000000,
                           .plan_cap = j->plan_cap};
    struct err e = ERR_INIT;

    if (measure(&v, &j->memory, &j->measured)) {
        (void)err_set(&e, -ENOMEM, "out of memory");
        job_fail(j, "redis", EXIT_DEFECT, &e);
        return;
    }
    j->before = j->memory.d;
    decide(&j->target->rules, &j->memory.d, &j->measured.sample, &j->decision);
    j->decided = true;
    notes(s, j, b);
}

/* ---- the end ---- */

static void give_back(struct scaler *s, struct job *j)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    struct err e = ERR_INIT;
    int r;

    if (!j->seat->leased)
        return;
    memory_write(&text, &j->memory);
    r = buf_ok(&text);
    if (r == 0)
        r = kube_lease_put(j->seat->kube, j->target->lease, j->decided ? text.data : NULL,
                           s->o->loop, &e);
    j->seat->leased = r == 0 && s->o->loop;
    if (r == KUBE_E_CONFLICT)
        job_note(j, "the Lease was lost on the way: %s", err_text(&e, r));
    else if (r)
        job_fail(j, "lease", r < 0 ? EXIT_DEFECT : exit_of_kube(r), &e);
}

static void report(struct scaler *s, struct job *j, size_t i)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;

    if (s->o->explain)
        job_write_explanation(&text, s, j);
    else
        job_write_line(&text, s, j);
    metrics_take(&s->metrics, i, j);
    if (buf_ok(&text) == 0)
        (void)fwrite(text.data, 1, text.len, stdout);
    (void)fflush(stdout);
    if (j->where)
        (void)fprintf(stderr, "scatter-scale: %s: %s\n", j->target->deployment, j->e.text);
}

static void run_jobs(struct scaler *s, struct job *jobs, size_t n)
{
    struct broker b = {0};

    start_listening(s, &b);
    for (size_t i = 0; i < n; i++) {
        job_init(&jobs[i], s, i);
        if (prepare(s, &jobs[i], i))
            read_load(s, &jobs[i], &b);
        if (jobs[i].read)
            plans_read(&jobs[i]);
    }
    hear_workers(s, jobs, n, &b);
    for (size_t i = 0; i < n; i++) {
        struct job *j = &jobs[i];

        if (j->read) {
            read_later(s, j, &b);
            decide_job(s, j, &b);
        }
        if (j->decided)
            job_act(s, j, b.redis, &b.beats);
        give_back(s, j);
        report(s, j, i);
    }
    broker_close(&b);
}

int scaler_run(struct scaler *s)
{
    size_t n = s->c->n_targets;
    double seconds = s->o->deadline_s.set ? s->o->deadline_s.v : 50;
    struct job *jobs = calloc(n, sizeof(*jobs));
    int code = 0;

    if (!jobs)
        return EXIT_DEFECT;
    s->deadline_ns = clock_mono_ns() + (int64_t)(seconds * (double)NS_PER_S);
    run_jobs(s, jobs, n);
    for (size_t i = 0; i < n; i++) {
        code = MAX(code, jobs[i].code);
        job_deinit(&jobs[i]);
    }
    free(jobs);
    return code;
}

void scaler_give_up(struct scaler *s)
{
    s->deadline_ns = clock_mono_ns() + GIVE_UP_S * NS_PER_S;
    for (size_t i = 0; i < s->c->n_targets; i++) {
        struct seat *seat = &s->seats[i];
        struct err e = ERR_INIT;

        if (!seat->leased)
            continue;
        kube_set_deadline(seat->kube, s->deadline_ns);
        (void)!kube_lease_put(seat->kube, s->c->targets[i].lease, NULL, false, &e);
        seat->leased = false;
    }
}
