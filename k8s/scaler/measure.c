/* SPDX-License-Identifier: Apache-2.0 */
/* Each pod gets exactly one class, and whatever is not known to be idle counts as busy: a pod whose workers are not
 * heard, one that is heard for the first time, one that did a task since the last run.
 *
 * The last would keep all pods for ever where tasks are short and many, so there is one exception: a pod that runs
 * nothing at the moment and did so many tasks since the last run that none of them can have taken longer than
 * short_task_s counts as idle. What it takes up next ends within the grace period. */

#include "k8s/scaler/measure.h"

#include "celeryc/base/num.h"

#include <errno.h>
#include <math.h>

#define SMOOTH 0.3 /* of a new rate */

#define CLASS_TEXT(name, text) text,
static const char *const class_texts[] = {POD_CLASSES(CLASS_TEXT)};

const char *pod_class_text(enum pod_class c)
{
    return class_texts[c];
}

void measured_deinit(struct measured *m)
{
    free(m->classes);
    *m = (struct measured){0};
}

/* ---- pods ---- */

/* What the nodes of one pod said. */
struct heard {
    size_t nodes;
    int64_t active, processed; /* tasks started since the last run */
    bool fresh;                /* a node that was not there then */
};

static void hear(const struct view *v, const struct memory *memory, const char *pod,
                 struct heard *ret_h)
{
    *ret_h = (struct heard){0};
    for (size_t i = 0; v->beats && i < v->beats->n; i++) {
        const struct beat *b = &v->beats->v[i];
        const struct memory_node *was;

        if (!str_eq(beat_pod(b), pod))
            continue;
        was = memory_find_node(memory, b->node);
        ret_h->nodes++;
        ret_h->active += b->active;
        ret_h->fresh = ret_h->fresh || !was;
        /* A worker that started anew counts from zero. */
        ret_h->processed +=
            was && b->processed >= was->processed ? b->processed - was->processed : b->processed;
    }
}

/* Can none of the tasks that it did have taken long? */
static bool was_short(const struct view *v, const struct memory *memory, int64_t processed)
{
    const struct target *t = v->target;
    double seconds = (double)(v->now - memory->sampled_at);

    return memory->sampled_at != DECIDE_NEVER && seconds > 0 &&
           seconds * (double)t->rules.concurrency <= t->short_task_s * (double)processed;
}

static enum pod_class classify(const struct view *v, const struct memory *memory,
                               const struct kube_pod *p, const struct heard *h)
{
    const struct target *t = v->target;

    if (p->ended)
        return POD_ENDED;
    if (p->deleting)
        return POD_TERMINATING;
    if (!p->ready)
        return POD_STARTING;
    if (!t->heartbeats)
        return v->load && v->load->ready == 0 && v->load->unacked == 0 ? POD_IDLE : POD_BUSY;
    if (h->nodes == 0)
        return v->now - p->started_us / 1000000 < t->start_grace_s ? POD_STARTING : POD_UNKNOWN;
    if (h->active > 0 || h->fresh)
        return POD_BUSY;
    return h->processed == 0 || was_short(v, memory, h->processed) ? POD_IDLE : POD_BUSY;
}

static int measure_pods(const struct view *v, const struct memory *memory, struct measured *m)
{
    struct decide_sample *s = &m->sample;

    m->classes = calloc(v->pods->n + 1, sizeof(*m->classes));
    if (!m->classes)
        return -ENOMEM;
    for (size_t i = 0; i < v->pods->n; i++) {
        struct heard h;

        hear(v, memory, v->pods->v[i].name, &h);
        m->classes[i] = classify(v, memory, &v->pods->v[i], &h);
        m->n[m->classes[i]]++;
        m->nodes += h.nodes;
        if (m->classes[i] == POD_TERMINATING)
            continue; /* what it finishes is nothing for the others; a Python worker is silent by then */
        s->active += h.active;
        s->processed += h.processed;
    }
    s->busy = m->n[POD_BUSY];
    s->idle = m->n[POD_IDLE];
    s->unknown = m->n[POD_UNKNOWN];
    s->terminating = m->n[POD_TERMINATING];
    m->missing = MAX(0, s->current - (s->busy + s->idle + s->unknown + m->n[POD_STARTING]));
    s->starting = m->n[POD_STARTING] + m->missing;
    return 0;
}

/* ---- the Deployment ---- */

static bool is_true(const char *text)
{
    return str_eq(text, "true");
}

/* "false" is as good as no annotation; what is neither is taken for a pause. */
static bool is_flag(const char *text, struct measured *m)
{
    if (!text || str_eq(text, "false"))
        return false;
    if (!is_true(text))
        m->bad_annotation = text;
    return true;
}

static void measure_deployment(const struct view *v, struct measured *m)
{
    const struct kube_target *k = v->kube;
    struct decide_sample *s = &m->sample;

    s->current = k->replicas;
    s->rollout = k->observed_generation < k->generation || k->updated_replicas < k->status_replicas;
    s->no_up = is_flag(k->paused_scale_out, m);
    s->no_down = is_flag(k->paused_scale_in, m);
    if (is_flag(k->paused, m))
        s->pause = DECIDE_PAUSED;
    if (!k->paused_replicas)
        return;
    s->pause = DECIDE_PAUSED_AT;
    if (num_parse_i64(slice_str(k->paused_replicas), &s->paused_replicas) ||
        s->paused_replicas < 0 || s->paused_replicas > 100000) {
        s->pause = DECIDE_PAUSED;
        m->bad_annotation = k->paused_replicas;
    }
}

/* ---- the load ---- */

/* An empty Redis after a restart, a failover or a flush is not an empty queue. */
static bool was_emptied(const struct view *v, struct memory *memory, const struct measured *m)
{
    const struct load *l = v->load;
    int64_t window = v->target->rules.down_window_s;
    bool empty = l->ready + l->unacked + m->sample.active == 0;

    if ((memory->run_id[0] && !str_eq(memory->run_id, l->run_id)) ||
        (empty && memory->outstanding > 0 && !l->bound))
        memory->emptied_at = v->now;
    (void)snprintf(memory->run_id, sizeof(memory->run_id), "%s", l->run_id);
    return l->uptime_s < window ||
           (memory->emptied_at != DECIDE_NEVER && v->now - memory->emptied_at < window);
}

/* Tasks a second: of one pod, while there was enough to do for all, and those that come in. */
static void measure_rates(const struct view *v, struct memory *memory, struct decide_sample *s)
{
    double seconds = (double)(v->now - memory->sampled_at);
    int64_t pods = s->busy + s->idle + s->unknown;
    int64_t outstanding = s->ready + s->unacked;

    if (memory->sampled_at != DECIDE_NEVER && seconds > 0) {
        s->arrivals =
            MAX(0.0, (double)(outstanding - memory->outstanding + s->processed) / seconds);
        if (pods > 0 && s->processed > 0 && s->ready > 0) {
            double rate = (double)s->processed / (double)pods / seconds;

            memory->rate = memory->rate > 0 ? memory->rate + SMOOTH * (rate - memory->rate) : rate;
        }
    }
    s->rate = v->target->avg_task_s > 0
                  ? (double)v->target->rules.concurrency / v->target->avg_task_s
                  : memory->rate;
}

/* The nodes of these pods, for the next run. */
static int remember_nodes(const struct view *v, struct memory *memory)
{
    int r = 0;

    for (size_t i = 0; i < memory->n_nodes; i++)
        free(memory->nodes[i].name);
    memory->n_nodes = 0;
    for (size_t i = 0; r == 0 && i < v->beats->n; i++) {
        const struct beat *b = &v->beats->v[i];

        for (size_t j = 0; r == 0 && j < v->pods->n; j++)
            if (str_eq(beat_pod(b), v->pods->v[j].name))
                r = memory_add_node(memory, slice_str(b->node), b->processed);
    }
    return r;
}

static int64_t bounded(int64_t n)
{
    return MIN(n, INT64_C(1000000000));
}

int measure(const struct view *v, struct memory *memory, struct measured *ret_m)
{
    CLEANUP(measured_deinit) struct measured m = {0};
    struct decide_sample *s = &m.sample;
    int r;

    sample_default(s);
    s->now = v->now;
    s->plan_cap = v->plan_cap;
    s->ok = v->load && v->beats;
    measure_deployment(v, &m);
    r = measure_pods(v, memory, &m);
    if (r == 0 && v->load && v->beats) {
        s->ready = bounded(v->load->ready);
        s->unacked = bounded(v->load->unacked);
        s->lost = bounded(v->load->lost);
        s->restarted = was_emptied(v, memory, &m);
        measure_rates(v, memory, s);
        r = remember_nodes(v, memory);
        memory->sampled_at = v->now;
        memory->outstanding = s->ready + s->unacked;
    }
    if (r)
        return r;
    *ret_m = m;
    m = (struct measured){0};
    return 0;
}
