/* SPDX-License-Identifier: Apache-2.0 */
/* Pods in classes, and the rates. */

#include "k8s/scaler/measure.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#define NOW INT64_C(1800000000)

/* One pod "p" of one target, heard once, with a memory of 60 s ago. */
struct scene {
    char pod_name[8], node[16];
    struct target target;
    struct kube_target deployment;
    struct kube_pod pod;
    struct kube_pods pods;
    struct load load;
    struct beat beat;
    struct beats beats;
    struct memory memory;
    struct view view;
};

static void setup(struct scene *s)
{
    *s = (struct scene){
        .target = {.heartbeats = true, .start_grace_s = 60, .short_task_s = 15},
        .deployment = {.replicas = 1, .generation = 2, .observed_generation = 2},
        .pod_name = "p",
        .node = "celery@p",
        .pod = {.name = s->pod_name, .ready = true, .started_us = (NOW - 3600) * 1000000},
        .load = {.run_id = "r", .uptime_s = 100000, .bound = true},
        .beat = {.node = s->node, .processed = 7},
    };
    decide_rules_default(&s->target.rules);
    memory_init(&s->memory);
    cr_assert(zero(int, memory_add_node(&s->memory, SLICE_LIT("celery@p"), 7)));
    s->memory.sampled_at = NOW - 60;
    s->pods = (struct kube_pods){&s->pod, 1};
    s->beats = (struct beats){&s->beat, 1};
    s->view = (struct view){.target = &s->target,
                            .kube = &s->deployment,
                            .pods = &s->pods,
                            .load = &s->load,
                            .beats = &s->beats,
                            .now = NOW,
                            .plan_cap = -1};
}

static struct measured look(struct scene *s)
{
    struct measured m;

    cr_assert(zero(int, measure(&s->view, &s->memory, &m)));
    return m;
}

static enum pod_class class_of(struct scene *s)
{
    struct measured m = look(s);
    enum pod_class class = m.classes[0];

    measured_deinit(&m);
    memory_deinit(&s->memory);
    return class;
}

Test(measure, idle)
{
    struct scene s;

    setup(&s);
    cr_assert(eq(int, class_of(&s), POD_IDLE));
}

Test(measure, busy)
{
    struct scene s;

    setup(&s);
    s.beat.active = 1;
    cr_assert(eq(int, class_of(&s), POD_BUSY));
    setup(&s);
    s.beat.processed = 8; /* did a task since: it may have taken half a minute */
    cr_assert(eq(int, class_of(&s), POD_BUSY));
    setup(&s);
    (void)snprintf(s.node, sizeof(s.node), "other@p"); /* heard for the first time */
    s.beat.processed = 0;
    cr_assert(eq(int, class_of(&s), POD_BUSY));
    setup(&s);
    s.beat.processed = 3; /* started anew meanwhile, and did three */
    cr_assert(eq(int, class_of(&s), POD_BUSY));
}

/* 60 s and n tasks: none of them took longer than 60 / n seconds. */
Test(measure, short_tasks)
{
    struct scene s;

    setup(&s);
    s.beat.processed = 7 + 3;
    cr_assert(eq(int, class_of(&s), POD_BUSY));
    setup(&s);
    s.beat.processed = 7 + 4;
    cr_assert(eq(int, class_of(&s), POD_IDLE));
    setup(&s);
    s.beat.processed = 7 + 7;
    s.target.rules.concurrency = 2;
    cr_assert(eq(int, class_of(&s), POD_BUSY));
    setup(&s);
    s.beat.processed = 7 + 40;
    s.target.short_task_s = 0;
    cr_assert(eq(int, class_of(&s), POD_BUSY));
}

Test(measure, silent)
{
    struct scene s;

    setup(&s);
    s.beats.n = 0;
    cr_assert(eq(int, class_of(&s), POD_UNKNOWN));
    setup(&s);
    s.beats.n = 0;
    s.pod.started_us = (NOW - 59) * 1000000;
    cr_assert(eq(int, class_of(&s), POD_STARTING));
    setup(&s);
    (void)snprintf(s.node, sizeof(s.node), "celery@q");
    cr_assert(eq(int, class_of(&s), POD_UNKNOWN));
}

Test(measure, kubernetes_says)
{
    struct scene s;

    setup(&s);
    s.pod.deleting = true;
    cr_assert(eq(int, class_of(&s), POD_TERMINATING));
    setup(&s);
    s.pod.ready = false;
    cr_assert(eq(int, class_of(&s), POD_STARTING));
    setup(&s);
    s.pod.ended = true;
    cr_assert(eq(int, class_of(&s), POD_ENDED));
}

/* Without heartbeats only an empty queue says that nobody works. */
Test(measure, without_heartbeats)
{
    struct scene s;

    setup(&s);
    s.target.heartbeats = false;
    s.beats.n = 0;
    cr_assert(eq(int, class_of(&s), POD_IDLE));
    setup(&s);
    s.target.heartbeats = false;
    s.load.unacked = 1;
    cr_assert(eq(int, class_of(&s), POD_BUSY));
    setup(&s);
    s.target.heartbeats = false;
    s.view.load = NULL;
    cr_assert(eq(int, class_of(&s), POD_BUSY));
}

Test(measure, failed_sample)
{
    struct scene s;
    struct measured m;

    setup(&s);
    s.view.load = NULL;
    m = look(&s);
    cr_assert(not(m.sample.ok));
    cr_assert(eq(i64, s.memory.sampled_at, NOW - 60), "remembered as it was");
    cr_assert(eq(sz, s.memory.n_nodes, 1));
    measured_deinit(&m);
    memory_deinit(&s.memory);
}

Test(measure, pods_not_there_yet_are_starting)
{
    struct scene s;
    struct measured m;

    setup(&s);
    s.deployment.replicas = 5;
    m = look(&s);
    cr_assert(eq(i64, m.missing, 4));
    cr_assert(eq(i64, m.sample.starting, 4));
    cr_assert(eq(i64, m.sample.idle, 1));
    measured_deinit(&m);
    memory_deinit(&s.memory);
}

static bool is_restarted(struct scene *s)
{
    struct measured m = look(s);
    bool restarted = m.sample.restarted;

    measured_deinit(&m);
    return restarted;
}

/* Another process, or a Redis that lost everything: its emptiness says nothing for one window. */
Test(measure, restarted)
{
    struct scene s;

    setup(&s);
    cr_assert(not(is_restarted(&s)));
    (void)snprintf(s.load.run_id, sizeof(s.load.run_id), "s");
    cr_assert(is_restarted(&s));
    s.view.now += s.target.rules.down_window_s - 1;
    cr_assert(is_restarted(&s));
    s.view.now++;
    cr_assert(not(is_restarted(&s)));
    s.load.uptime_s = 100;
    cr_assert(is_restarted(&s));
    memory_deinit(&s.memory);

    setup(&s);
    s.load.bound = false;
    cr_assert(not(is_restarted(&s)), "there was nothing before either");
    s.load.ready = 5;
    cr_assert(not(is_restarted(&s)));
    s.load.ready = 0;
    cr_assert(is_restarted(&s), "flushed");
    memory_deinit(&s.memory);
}

Test(measure, rates)
{
    struct scene s;
    struct measured m;

    setup(&s);
    s.load.ready = 30;
    s.memory.outstanding = 20;
    s.beat.processed = 7 + 60;
    m = look(&s);
    cr_assert(epsilon_eq(dbl, m.sample.rate, 1.0, 1e-9), "60 tasks in 60 s");
    cr_assert(epsilon_eq(dbl, m.sample.arrivals, 70.0 / 60, 1e-9), "10 more, and 60 done");
    measured_deinit(&m);
    s.view.now += 60;
    s.beat.processed += 120;
    m = look(&s);
    cr_assert(epsilon_eq(dbl, m.sample.rate, 1.3, 1e-9), "smoothed");
    measured_deinit(&m);
    s.target.avg_task_s = 4;
    m = look(&s);
    cr_assert(epsilon_eq(dbl, m.sample.rate, 0.25, 1e-9), "as told");
    measured_deinit(&m);
    memory_deinit(&s.memory);
}

Test(measure, terminating_pods_work_for_nobody)
{
    struct scene s;
    struct measured m;

    setup(&s);
    s.pod.deleting = true;
    s.beat.active = 3;
    m = look(&s);
    cr_assert(eq(i64, m.sample.active, 0));
    cr_assert(eq(i64, m.sample.terminating, 1));
    measured_deinit(&m);
    memory_deinit(&s.memory);
}
