/* SPDX-License-Identifier: Apache-2.0 */
/* --check: everything that a run would need, tried one by one, with the fix where it fails. Writes nothing. */

#include "k8s/scaler/run.h"

#include "celeryc/base/clock.h"

#include <errno.h>

#define CHECK_S 30 /* for each target */

struct check {
    struct scaler *s;
    struct kube *kube; /* of the target that is looked at */
    FILE *out;
    int code;
};

/* One line; a code of 0 is good. */
static bool told(struct check *c, int code, const char *what, const char *text)
{
    (void)fprintf(c->out, "%-5s %s%s%s\n", code ? "FAIL" : "ok", what, text[0] ? ": " : "", text);
    c->code = MAX(c->code, code);
    return code == 0;
}

static bool told_redis(struct check *c, int r, struct err *e, const char *what)
{
    return told(c, r ? exit_of_redis(r, e) : 0, what, r ? err_text(e, r) : "");
}

static bool told_kube(struct check *c, int r, struct err *e, const char *what)
{
    return told(c, r < 0 ? EXIT_DEFECT : exit_of_kube(r), what, r ? err_text(e, r) : "");
}

/* ---- Redis ---- */

static void check_queues(struct check *c, struct redis_sync *redis, const struct target *t)
{
    CLEANUP(load_lists_deinit) struct load_lists lists = {0};
    CLEANUP(load_deinit) struct load l = {0};
    CLEANUP(buf_deinit) struct buf what = BUF_INIT;
    const struct load_keys *k = &c->s->c->keys;
    struct err e = ERR_INIT;
    int r = load_lists_init(&lists, k, &t->queues);

    if (r == 0)
        r = load_read(redis, k, &lists, &l, &e);
    if (r == 0)
        r = load_read_later(redis, k, &lists, &l, &e);
    buf_appendf(&what, "redis: load of %s", t->deployment);
    if (r == 0)
        buf_appendf(&what, ": %lld ready, %lld unacknowledged", (long long)l.ready,
                    (long long)l.unacked);
    if (buf_ok(&what) == 0)
        (void)told_redis(c, r, &e, what.data);
}

static void check_redis(struct check *c)
{
    CLEANUP(redis_endpoint_deinit) struct redis_endpoint ep = {0};
    CLEANUP(redis_sync_close) struct redis_sync *redis = NULL;
    CLEANUP(beats_deinit) struct beats beats = {0};
    CLEANUP(mem_free) char *url = NULL;
    CLEANUP(buf_deinit) struct buf what = BUF_INIT;
    struct err e = ERR_INIT;
    int r = config_redis_url(c->s->c, &url, &e);

    if (r == 0)
        r = redis_endpoint_parse(url, &ep, &e);
    if (r == 0)
        r = redis_endpoint_apply(&ep, NULL, &e);
    if (r == 0)
        r = redis_sync_open(&ep, 4000, &redis, &e);
    buf_appendf(&what, "redis: connection to %s", ep.masked ? ep.masked : "?");
    if (buf_ok(&what) || !told_redis(c, r, &e, what.data))
        return;
    r = load_listen(redis, &c->s->c->keys, ep.db, &e);
    (void)told_redis(c, r, &e, "redis: may listen to heartbeats");
    for (size_t i = 0; i < c->s->c->n_targets; i++)
        check_queues(c, redis, &c->s->c->targets[i]);
    if (r)
        return;
    r = load_heartbeats(redis, clock_mono_ns() + (int64_t)(c->s->c->heartbeat_s * (double)NS_PER_S),
                        &beats, &e);
    buf_reset(&what);
    buf_appendf(&what, "redis: heartbeats of %zu workers", beats.n);
    if (buf_ok(&what) == 0)
        (void)told_redis(c, r, &e, what.data);
}

/* ---- Kubernetes ---- */

static void check_right(struct check *c, const struct kube_right *right, bool needed)
{
    CLEANUP(buf_deinit) struct buf what = BUF_INIT;
    struct err e = ERR_INIT;
    bool allowed = false;
    int r = kube_may(c->kube, right, &allowed, &e);
    bool sub = right->subresource && right->subresource[0];

    buf_appendf(&what, "kubernetes: may %s %s%s%s%s%s", right->verb, right->resource,
                sub ? "/" : "", sub ? right->subresource : "", right->name ? " " : "",
                right->name ? right->name : "");
    if (buf_ok(&what))
        return;
    if (r)
        (void)told_kube(c, r, &e, what.data);
    else if (allowed || needed)
        (void)told(c, allowed ? 0 : EXIT_RIGHTS, what.data,
                   allowed ? "" : "no; the Role of the scaler's service account lacks it");
    else
        (void)fprintf(c->out, "-     %s: no, and it is not needed\n", what.data);
}

static void check_rights(struct check *c, const struct target *t)
{
    const struct {
        struct kube_right right;
        bool needed;
    } rights[] = {
        {{"apps", "deployments", NULL, t->deployment, "get"}, true},
        {{"apps", "deployments", "scale", t->deployment, "get"}, true},
        {{"apps", "deployments", "scale", t->deployment, "patch"}, true},
        {{"coordination.k8s.io", "leases", NULL, t->lease, "get"}, true},
        {{"coordination.k8s.io", "leases", NULL, t->lease, "update"}, true},
        {{"", "pods", NULL, NULL, "list"}, true},
        {{"", "pods", NULL, NULL, "patch"}, t->pod_costs},
        {{"", "events", NULL, NULL, "create"}, false},
        {{"autoscaling", "horizontalpodautoscalers", NULL, NULL, "list"}, false},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rights); i++)
        check_right(c, &rights[i].right, rights[i].needed);
}

static void check_rival(struct check *c, const struct target *t)
{
    CLEANUP(mem_free) char *rival = NULL;
    struct err e = ERR_INIT;
    int r = kube_rival_read(c->kube, t->deployment, &rival, &e);

    if (r == 0)
        (void)told(c, rival ? EXIT_CONFIG : 0, "kubernetes: nobody else scales it",
                   rival ? rival : "");
}

static void check_target(struct check *c, const struct target *t)
{
    CLEANUP(kube_target_deinit) struct kube_target deployment = {0};
    CLEANUP(kube_pods_deinit) struct kube_pods pods = {0};
    CLEANUP(mem_free) char *state = NULL;
    CLEANUP(buf_deinit) struct buf what = BUF_INIT;
    struct err e = ERR_INIT;
    int r;

    r = kube_target_read(c->kube, t->deployment, &deployment, &e);
    buf_appendf(&what, "kubernetes: Deployment %s", t->deployment);
    if (buf_ok(&what) || !told_kube(c, r, &e, what.data))
        return;
    r = kube_pods_read(c->kube, deployment.selector, &pods, &e);
    (void)told_kube(c, r, &e, "kubernetes: its pods");
    buf_reset(&what);
    buf_appendf(&what, "kubernetes: Lease %s", t->lease);
    e = ERR_INIT;
    r = kube_lease_peek(c->kube, t->lease, &state, &e);
    if (buf_ok(&what) == 0)
        (void)told_kube(c, r, &e, what.data);
    check_rights(c, t);
    check_rival(c, t);
}

int scaler_check(struct scaler *s, FILE *out)
{
    struct check c = {s, NULL, out, 0};

    (void)told(&c, 0, "configuration", "");
    check_redis(&c);
    for (size_t i = 0; i < s->c->n_targets; i++) {
        struct err e = ERR_INIT;
        int r;

        s->deadline_ns = clock_mono_ns() + CHECK_S * NS_PER_S;
        r = scaler_open_kube(s, i, &e);
        c.kube = s->seats[i].kube;
        if (told_kube(&c, r, &e, "kubernetes: configuration"))
            check_target(&c, &s->c->targets[i]);
    }
    return c.code;
}
