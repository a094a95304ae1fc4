/* SPDX-License-Identifier: Apache-2.0 */
/* What is told of a run: one JSON line, whose "sample" is a case for --replay; or the decision rule by rule. */

#include "k8s/scaler/run.h"

#include "celeryc/base/clock.h"
#include "celeryc/message/json.h"

static void write_text(struct buf *dst, const char *name, const char *text)
{
    buf_appendf(dst, ", \"%s\": ", name);
    json_write_string(dst, slice_str(text));
}

static void write_count(struct buf *dst, const char *name, int64_t n)
{
    buf_appendf(dst, ", \"%s\": %lld", name, (long long)n);
}

/* {"celery": {"0": 5, "9": 1}}: what lies in each list. */
static void write_queues(struct buf *dst, const struct scaler *s, const struct job *j)
{
    const struct load_keys *k = &s->c->keys;

    buf_append_str(dst, ", \"queues\": {");
    for (size_t i = 0; i < j->lists.queues.n; i++) {
        buf_append_str(dst, i ? ", " : "");
        json_write_string(dst, slice_str(j->lists.queues.v[i]));
        buf_append_str(dst, ": {");
        for (size_t p = 0; p < k->n_steps; p++)
            buf_appendf(dst, "%s\"%d\": %lld", p ? ", " : "", k->steps[p],
                        (long long)j->load.listed[i * k->n_steps + p]);
        buf_append_char(dst, '}');
    }
    buf_append_char(dst, '}');
}

static void write_load(struct buf *dst, const struct scaler *s, const struct job *j)
{
    const struct load *l = &j->load;

    write_queues(dst, s, j);
    write_count(dst, "later", l->later);
    write_count(dst, "unacked_later", l->unacked_later);
    write_count(dst, "oldest_unacked_s", l->oldest_unacked_s);
    write_count(dst, "delayed_due", l->delayed_due);
    write_count(dst, "dead_waiting", l->dead_waiting);
    write_count(dst, "dead_workers", l->dead_workers);
}

static void write_pods(struct buf *dst, const struct measured *m)
{
    buf_append_str(dst, ", \"pods\": {");
    for (int i = 1; i < POD_N_CLASSES; i++)
        buf_appendf(dst, "%s\"%s\": %lld", i > 1 ? ", " : "", pod_class_text((enum pod_class)i),
                    (long long)m->n[i]);
    buf_appendf(dst, ", \"missing\": %lld}", (long long)m->missing);
}

static const char *reason_of(const struct job *j)
{
    return j->decided      ? decide_reason_text(j->decision.reason)
           : j->not_leader ? "not-leader"
                           : "error";
}

static void write_decision(struct buf *dst, const struct scaler *s, const struct job *j)
{
    const struct decision *d = &j->decision;

    write_count(dst, "current", j->measured.sample.current);
    write_count(dst, "target", d->target);
    buf_appendf(dst, ", \"wrote\": %s", j->wrote ? "true" : "false");
    if (s->o->dry_run)
        write_text(dst, "dry_run", s->o->dry_run);
    write_count(dst, "up", d->up);
    write_count(dst, "down", d->down);
    write_count(dst, "cap", d->cap);
    write_text(dst, "capped_by", decide_cap_text(d->capped_by));
    buf_append_str(dst, ", \"sample\": {");
    fields_write(dst, sample_fields, &j->measured.sample);
    buf_append_char(dst, '}');
    write_pods(dst, &j->measured);
}

void job_write_line(struct buf *dst, const struct scaler *s, const struct job *j)
{
    char now[CLOCK_ISO_SIZE];

    clock_iso_format(clock_wall_us(), now);
    buf_appendf(dst, "{\"ts\": \"%s\"", now);
    write_text(dst, "deployment", j->target->deployment);
    write_text(dst, "reason", reason_of(j));
    if (j->decided)
        write_decision(dst, s, j);
    if (j->loaded)
        write_load(dst, s, j);
    if (j->where) {
        write_text(dst, "where", j->where);
        write_text(dst, "error", j->e.text);
    } else if (j->not_leader) {
        write_text(dst, "holder", j->e.text);
    }
    if (j->notes.len)
        buf_appendf(dst, ", \"notes\": [%s]", j->notes.data);
    write_count(dst, "ms", (clock_mono_ns() - j->started_ns) / NS_PER_MS);
    buf_append_str(dst, "}\n");
}

/* ---- explain ---- */

#define LL(n) ((long long)(n))

static void explain_load(struct buf *b, const struct scaler *s, const struct job *j)
{
    const struct decide_sample *m = &j->measured.sample;
    const struct load *l = &j->load;

    if (!j->loaded) {
        buf_appendf(b, "load         not known: %s\n", j->e.text);
        return;
    }
    buf_appendf(b, "ready        %lld messages are due within %lld s (%lld more are for later)\n",
                LL(m->ready), LL(s->c->keys.wake_lead_s), LL(l->later));
    for (size_t i = 0; i < j->lists.keys.n; i++)
        if (l->listed[i])
            buf_appendf(b, "             %lld in queue %s, priority step %d\n", LL(l->listed[i]),
                        j->lists.queues.v[i / s->c->keys.n_steps],
                        s->c->keys.steps[i % s->c->keys.n_steps]);
    if (l->delayed_due)
        buf_appendf(b, "             %lld put by by celeryc workers, due\n", LL(l->delayed_due));
    if (l->dead_waiting)
        buf_appendf(b, "             %lld in the hands of dead celeryc workers\n",
                    LL(l->dead_waiting));
    buf_appendf(b, "unacked      %lld due, %lld for later; the oldest for %lld s\n", LL(m->unacked),
                LL(l->unacked_later), LL(l->oldest_unacked_s));
    if (m->lost)
        buf_appendf(b, "lost         %lld started by workers that died\n", LL(m->lost));
    buf_appendf(b, "active       %lld tasks run, %lld were started since the last run\n",
                LL(m->active), LL(m->processed));
}

static void explain_pods(struct buf *b, const struct job *j)
{
    const struct measured *m = &j->measured;

    buf_appendf(b, "pods         %lld asked for", LL(m->sample.current));
    for (int i = 1; i < POD_N_CLASSES; i++)
        if (m->n[i])
            buf_appendf(b, ", %lld %s", LL(m->n[i]), pod_class_text((enum pod_class)i));
    if (m->missing)
        buf_appendf(b, ", %lld not there yet", LL(m->missing));
    buf_append_char(b, '\n');
    for (size_t i = 0; i < j->pods.n; i++)
        buf_appendf(b, "             %-12s %s\n", pod_class_text(m->classes[i]), j->pods.v[i].name);
}

static void explain_rules(struct buf *b, const struct job *j)
{
    const struct decide_rules *r = &j->target->rules;
    const struct decide_sample *m = &j->measured.sample;
    const struct decision *d = &j->decision;
    double per_pod = r->target_per_pod > 0 ? r->target_per_pod : (double)r->concurrency;

    buf_appendf(b, "in flight    at least %lld (for going up), at most %lld (for going down)\n",
                LL(d->in_flight_low), LL(d->in_flight_high));
    if (r->policy == DECIDE_DRAIN && m->rate > 0)
        buf_appendf(b, "policy       drain within %g s at %.3g tasks/s of a pod, %.3g/s come in\n",
                    r->drain_s, m->rate, m->arrivals);
    else
        buf_appendf(b, "policy       one pod for each %g messages%s\n", per_pod,
                    r->policy == DECIDE_DRAIN ? " (drain: the rate is not known yet)" : "");
    buf_appendf(b, "load asks    up to %lld, not below %lld%s\n", LL(d->up), LL(d->down),
                d->orphans ? " (one pod, to bring back what dead workers held)" : "");
    buf_appendf(b, "windows      up %lld (over %lld s), down %lld (over %lld s)\n", LL(d->up_held),
                LL(r->up_window_s), LL(d->down_held), LL(r->down_window_s));
    buf_appendf(b, "bounds       floor %lld%s, cap %lld%s%s\n", LL(d->floor),
                d->quiet ? " (quiet)" : "", LL(d->cap), d->capped_by ? ", reached: " : "",
                decide_cap_text(d->capped_by));
    buf_appendf(b, "busy floor   %lld pods are not known to be idle%s\n",
                LL(m->current - m->idle - m->starting), r->protect_busy ? "" : " (not protected)");
    if (m->rollout)
        buf_append_str(b, "rollout      under way: none is taken away\n");
    if (m->restarted)
        buf_append_str(b, "restarted    Redis is young or was emptied: none is taken away\n");
}

void job_write_explanation(struct buf *dst, const struct scaler *s, const struct job *j)
{
    const struct decision *d = &j->decision;

    buf_appendf(dst, "deployment   %s\n", j->target->deployment);
    if (!j->decided) {
        buf_appendf(dst, "decision     none: %s\n", j->e.text);
        return;
    }
    explain_load(dst, s, j);
    explain_pods(dst, j);
    if (j->measured.sample.ok)
        explain_rules(dst, j);
    buf_appendf(dst, "decision     %lld -> %lld: %s (%s)\n", LL(j->measured.sample.current),
                LL(d->target), decide_reason_text(d->reason), decide_reason_help(d->reason));
    if (j->notes.len)
        buf_appendf(dst, "notes        %s\n", j->notes.data);
}
