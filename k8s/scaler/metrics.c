/* SPDX-License-Identifier: Apache-2.0 */
/* Gauges are those of the last run, counters those since the start (a one-shot run starts with each). */

#include "k8s/scaler/metrics.h"

#include "celeryc/base/clock.h"
#include "k8s/scaler/run.h"

#include <errno.h>

#define PREFIX "scatter_scale_"

#define WHERE_TEXT(name, text) text,
static const char *const where_texts[] = {METRIC_WHERES(WHERE_TEXT)};

int metrics_init(struct metrics *m, size_t n_targets)
{
    *m = (struct metrics){calloc(n_targets + 1, sizeof(*m->v)), n_targets};
    return m->v ? 0 : -ENOMEM;
}

void metrics_deinit(struct metrics *m)
{
    for (size_t i = 0; m->v && i < m->n; i++)
        buf_deinit(&m->v[i].gauges);
    free(m->v);
    *m = (struct metrics){0};
}

/* A label's value: backslash, quote and line feed have to be escaped. */
static void write_label(struct buf *dst, const char *text)
{
    for (; *text; text++) {
        if (*text == '\n')
            buf_append_str(dst, "\\n");
        else if (*text == '"' || *text == '\\')
            buf_appendf(dst, "\\%c", *text);
        else
            buf_append_char(dst, *text);
    }
}

/* The gauges of one target: "NAME LABELS VALUE" lines, put in order by metrics_write. */
static void gauge(struct buf *dst, const char *name, const char *deployment, const char *label,
                  const char *value, double v)
{
    buf_appendf(dst, PREFIX "%s{deployment=\"", name);
    write_label(dst, deployment);
    if (label) {
        buf_appendf(dst, "\",%s=\"", label);
        write_label(dst, value);
    }
    buf_appendf(dst, "\"} %.17g\n", v);
}

static void gauge_ready(struct buf *dst, const struct job *j)
{
    size_t n_steps = j->lists.keys.n / MAX(j->lists.queues.n, 1);

    for (size_t i = 0; n_steps && i < j->lists.keys.n; i++) {
        buf_append_str(dst, PREFIX "listed{deployment=\"");
        write_label(dst, j->target->deployment);
        buf_append_str(dst, "\",queue=\"");
        write_label(dst, j->lists.queues.v[i / n_steps]);
        buf_appendf(dst, "\",priority=\"%d\"} %lld\n", j->steps[i % n_steps],
                    (long long)j->load.listed[i]);
    }
}

static void write_gauges(struct buf *dst, const struct job *j)
{
    const struct decide_sample *s = &j->measured.sample;
    const char *d = j->target->deployment;

    if (j->loaded) {
        gauge_ready(dst, j);
        gauge(dst, "ready", d, NULL, NULL, (double)s->ready);
        gauge(dst, "later", d, NULL, NULL, (double)j->load.later);
        gauge(dst, "unacked", d, NULL, NULL, (double)s->unacked);
        gauge(dst, "lost", d, NULL, NULL, (double)s->lost);
        gauge(dst, "active", d, NULL, NULL, (double)s->active);
        gauge(dst, "rate", d, NULL, NULL, s->rate);
    }
    gauge(dst, "replicas", d, "kind", "current", (double)s->current);
    gauge(dst, "replicas", d, "kind", "target", (double)j->decision.target);
    gauge(dst, "replicas", d, "kind", "wanted", (double)j->decision.up);
    for (int i = 1; i < POD_N_CLASSES; i++)
        gauge(dst, "pods", d, "class", pod_class_text((enum pod_class)i), (double)j->measured.n[i]);
    for (int i = 1; i <= DECIDE_CAP_PLAN; i++)
        gauge(dst, "capped", d, "by", decide_cap_text((enum decide_cap)i),
              j->decision.capped_by == (enum decide_cap)i);
}

void metrics_take(struct metrics *m, size_t i, const struct job *j)
{
    struct metric_target *t = &m->v[i];

    buf_reset(&t->gauges);
    if (j->decided) {
        t->decisions[j->decision.reason]++;
        write_gauges(&t->gauges, j);
    }
    t->writes += j->wrote;
    for (int k = 0; j->where && k < METRIC_N_WHERES; k++)
        t->errors[k] += str_eq(where_texts[k], j->where);
    t->errors[METRIC_PLANS] += j->plans_failed;
    if (j->code == 0)
        t->last_success = clock_wall_us() / 1000000;
}

/* name, type, help of every metric; what is in the gauges' text is picked out by name. */
static const struct {
    const char *name, *type, *help;
} catalogue[] = {
    {"listed", "gauge", "Messages in the list of a queue and priority step."},
    {"ready", "gauge", "Messages that wait and are due."},
    {"later", "gauge", "Messages that wait for their ETA."},
    {"unacked", "gauge", "Messages that are claimed, not acknowledged, and due."},
    {"lost", "gauge", "Tasks that workers had started when they died."},
    {"active", "gauge", "Tasks that run, by the heartbeats."},
    {"rate", "gauge", "Tasks a second of one pod, smoothed."},
    {"replicas", "gauge", "Replicas: asked for, decided, wanted by the load."},
    {"pods", "gauge", "Pods by what they do."},
    {"capped", "gauge", "1: this kept the number of pods down."},
    {"decisions_total", "counter", "Decisions by reason."},
    {"errors_total", "counter", "Runs in which something could not be read or written."},
    {"writes_total", "counter", "Changes of the scale."},
    {"last_success_timestamp_seconds", "gauge",
     "When a run last came to its end without an error."},
};

static void copy_gauges(struct buf *dst, const struct buf *from, const char *name)
{
    size_t n = strlen(name);
    const char *p = from->data;

    while (p && *p) {
        const char *end = strchr(p, '\n');

        if (strncmp(p + sizeof(PREFIX) - 1, name, n) == 0 && p[sizeof(PREFIX) - 1 + n] == '{')
            buf_append(dst, p, (size_t)(end + 1 - p));
        p = end + 1;
    }
}

static void write_counters(struct buf *dst, const struct metric_target *t, const char *deployment,
                           const char *name)
{
    if (str_eq(name, "decisions_total"))
        for (int i = 0; i < DECIDE_N_REASONS; i++)
            if (t->decisions[i])
                gauge(dst, name, deployment, "reason", decide_reason_text((enum decide_reason)i),
                      (double)t->decisions[i]);
    if (str_eq(name, "errors_total"))
        for (int i = 0; i < METRIC_N_WHERES; i++)
            gauge(dst, name, deployment, "where", where_texts[i], (double)t->errors[i]);
    if (str_eq(name, "writes_total"))
        gauge(dst, name, deployment, NULL, NULL, (double)t->writes);
    if (str_eq(name, "last_success_timestamp_seconds") && t->last_success)
        gauge(dst, name, deployment, NULL, NULL, (double)t->last_success);
}

void metrics_write(struct buf *dst, const struct metrics *m, const struct config *c)
{
    for (size_t i = 0; i < ARRAY_SIZE(catalogue); i++) {
        const char *name = catalogue[i].name;

        buf_appendf(dst, "# HELP " PREFIX "%s %s\n# TYPE " PREFIX "%s %s\n", name,
                    catalogue[i].help, name, catalogue[i].type);
        for (size_t k = 0; k < m->n; k++) {
            copy_gauges(dst, &m->v[k].gauges, name);
            write_counters(dst, &m->v[k], c->targets[k].deployment, name);
        }
    }
}

int metrics_save(const char *path, struct slice text, struct err *e)
{
    CLEANUP(mem_free) char *temporary = NULL;
    FILE *f;
    int failed;

    if (asprintf(&temporary, "%s.tmp", path) < 0) {
        temporary = NULL;
        return -ENOMEM;
    }
    f = fopen(temporary, "we");
    if (!f)
        return err_set(e, -errno, "--textfile %s: %s", temporary, err_errno(errno));
    failed = fwrite(text.p, 1, text.len, f) != text.len ? errno : 0;
    if (fclose(f) && !failed)
        failed = errno;
    if (!failed && rename(temporary, path))
        failed = errno;
    return failed ? err_set(e, -failed, "--textfile %s: %s", path, err_errno(failed)) : 0;
}
