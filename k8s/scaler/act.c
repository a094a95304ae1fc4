/* SPDX-License-Identifier: Apache-2.0 */
/* Writing what was decided: first the costs of removing pods, so that the idle ones go first; then a look whether they
 * are idle still; then the scale. Nothing is written when nothing changes. */

#include "k8s/scaler/run.h"

#include "celeryc/base/clock.h"

#include <errno.h>

#define COST_GO   (-1000)
#define COST_STAY 1000
#define LISTEN_S \
    2.5 /* a little more than between two heartbeats; the ReplicaSet controller sees the costs meanwhile */

struct act {
    struct scaler *s;
    struct job *j;
    struct redis_sync *redis;
    struct beats *beats;
    bool *chosen; /* by pod */
};

static enum kube_write how(const struct scaler *s)
{
    return str_eq(s->o->dry_run, "server") ? KUBE_DRY_RUN : KUBE_WRITE;
}

static int64_t active_of(const struct act *a, const char *pod)
{
    int64_t n = 0;

    for (size_t i = 0; i < a->beats->n; i++)
        if (str_eq(beat_pod(&a->beats->v[i]), pod))
            n += a->beats->v[i].active;
    return n;
}

/* Only where it differs. A right that is missing is said once; it goes on without costs. */
static bool set_cost(struct act *a, const struct kube_pod *p, int32_t cost)
{
    struct err e = ERR_INIT;
    int r;

    if (p->has_cost && p->cost == cost)
        return true;
    r = kube_pod_cost_set(a->j->seat->kube, p->name, cost, how(a->s), &e);
    if (r == 0 || r == KUBE_E_NOT_FOUND)
        return true;
    job_note(a->j, "no costs of pods: %s", err_text(&e, r));
    return false;
}

/* Pods that are only starting go first, whatever their cost. */
static bool set_costs(struct act *a, int64_t n_to_go)
{
    const struct kube_pods *pods = &a->j->pods;
    int64_t left = n_to_go - a->j->measured.sample.starting;

    for (size_t i = 0; i < pods->n; i++) {
        enum pod_class class = a->j->measured.classes[i];

        if (class == POD_IDLE && left > 0) {
            a->chosen[i] = true;
            left--;
            if (!set_cost(a, &pods->v[i], COST_GO))
                return false;

        } else if (class == POD_BUSY || class == POD_UNKNOWN) {
            if (!set_cost(a, &pods->v[i],
                          (int32_t)(COST_STAY + MIN(active_of(a, pods->v[i].name), 1000))))
                return false;
        }
    }
    return true;
}

/* How many of those chosen have begun to work meanwhile; they shall stay. */
static int64_t busy_again(struct act *a)
{
    int64_t n = 0;
    struct err e = ERR_INIT;
    int64_t until_ns = clock_mono_ns() + (int64_t)(LISTEN_S * (double)NS_PER_S);
    int r = load_heartbeats(a->redis, MIN(until_ns, a->s->deadline_ns), a->beats, &e);

    if (r)
        job_note(a->j, "no second look: %s", err_text(&e, r));
    for (size_t i = 0; i < a->j->pods.n; i++) {
        int64_t active = a->chosen[i] ? active_of(a, a->j->pods.v[i].name) : 0;

        if (active == 0)
            continue;
        n++;
        (void)set_cost(a, &a->j->pods.v[i], (int32_t)(COST_STAY + MIN(active, 1000)));
    }
    return r ? a->j->measured.sample.current : n;
}

/* The number of pods that may be asked for after all. */
static int64_t lower_safely(struct act *a)
{
    struct job *j = a->j;
    int64_t target = j->decision.target, current = j->measured.sample.current, again;

    if (!j->target->pod_costs || !j->target->heartbeats || !j->measured.sample.ok)
        return target;
    a->chosen = calloc(j->pods.n + 1, sizeof(*a->chosen));
    if (!a->chosen || !set_costs(a, current - target))
        return target;
    again = busy_again(a);
    if (again)
        job_note(j, "%lld of the idle pods took a task meanwhile and stay", (long long)again);
    return MIN(target + again, current);
}

static bool has_rival(struct act *a)
{
    CLEANUP(mem_free) char *rival = NULL;
    struct err e = ERR_INIT;
    int r = kube_rival_read(a->j->seat->kube, a->j->target->deployment, &rival, &e);

    if (r)
        job_note(a->j, "other autoscalers could not be looked for: %s", err_text(&e, r));
    if (r || !rival)
        return false;
    (void)err_set(&e, KUBE_E_CONFIG,
                  "%s scales this Deployment, too: delete one of them, nothing was written", rival);
    job_fail(a->j, "scale", EXIT_CONFIG, &e);
    return true;
}

static void tell(struct act *a, int64_t from, int64_t to)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    struct err e = ERR_INIT;

    buf_appendf(&text, "from %lld to %lld: %s, %s", (long long)from, (long long)to,
                decide_reason_text(a->j->decision.reason),
                decide_reason_help(a->j->decision.reason));
    if (buf_ok(&text) == 0)
        (void)!kube_event(a->j->seat->kube, a->j->target->deployment,
                          to > from ? "ScaledUp" : "ScaledDown", text.data, &e);
}

static void set_scale(struct act *a)
{
    struct job *j = a->j;
    struct err e = ERR_INIT;
    int64_t from = j->measured.sample.current, to = j->decision.target;
    int r;

    if (to < from)
        to = lower_safely(a);
    if (to == from)
        return;
    r = kube_scale_set(a->j->seat->kube, j->target->deployment, &j->deployment, to, how(a->s), &e);
    j->wrote = r == 0 && how(a->s) == KUBE_WRITE;
    j->decision.target = to;
    if (j->wrote)
        tell(a, from, to);
    if (r == 0)
        return;
    /* Nothing has changed, so nothing is to be waited for. */
    j->memory.d.last_up = j->before.last_up;
    j->memory.d.last_down = j->before.last_down;
    if (r == KUBE_E_CONFLICT)
        job_note(j, "somebody else has set another number meanwhile: %s", err_text(&e, r));
    else
        job_fail(j, "scale", r < 0 ? EXIT_DEFECT : exit_of_kube(r), &e);
}

void job_act(struct scaler *s, struct job *j, struct redis_sync *redis, struct beats *beats)
{
    struct act a = {s, j, redis, beats, NULL};

    if (j->decision.target == j->measured.sample.current || s->o->explain ||
        str_eq(s->o->dry_run, "client"))
        return;
    if (!has_rival(&a))
        set_scale(&a);
    free(a.chosen);
}
