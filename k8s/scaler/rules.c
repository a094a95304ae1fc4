/* SPDX-License-Identifier: Apache-2.0 */
/* The tables of rules and samples. A rule's help is what --help says and what the documentation lists. */

#include "k8s/scaler/rules.h"

#include <errno.h>

static const char *const policies[] = {"backlog", "drain", NULL};
static const char *const on_errors[] = {"hold", "fallback", NULL};
static const char *const pauses[] = {"go", "paused", "paused-at", NULL};

#define PODS_MAX    100000
#define SECONDS_MAX 604800

#define INT(field, low, high, text)                         \
    {                                                       \
#        field, FIELD_INT, AT(field), low, high, NULL, text \
    }
#define NUM(field, low, high, text)                         \
    {                                                       \
#        field, FIELD_NUM, AT(field), low, high, NULL, text \
    }
#define AT(field) offsetof(struct decide_rules, field)

/* clang-format off */
const struct field rule_fields[] = {
    INT(min, 0, PODS_MAX, "Pods at least, while there is work."),
    INT(max, 0, PODS_MAX, "Pods at most."),
    INT(idle, 0, PODS_MAX, "Pods that stay when there is nothing to do."),
    INT(concurrency, 1, 10000, "Tasks that one pod runs at a time (celery worker -c)."),
    INT(prefetch, 0, 100000, "worker_prefetch_multiplier of the workers; 0: no limit."),
    NUM(target_per_pod, 0, FIELD_COUNT_MAX, "Outstanding messages for each pod; 0: its concurrency."),
    {"policy", FIELD_WORD, AT(policy), 0, 0, policies, "backlog: pods by the number of messages; drain: as many as finish them within drain_s."},
    NUM(drain_s, 0, SECONDS_MAX, "drain: seconds within which everything that waits should be done."),
    INT(activation, 1, FIELD_COUNT_MAX, "Messages that start the first pod."),
    INT(activation_wait_s, 0, SECONDS_MAX, "How long fewer messages than that may wait."),
    INT(up_pods, 1, PODS_MAX, "Pods that may be added in one run; the larger of this and up_percent."),
    INT(up_percent, 0, 100000, "The same as a share of the pods that are there."),
    INT(down_pods, 1, PODS_MAX, "Pods that may be taken away in one run; the larger of this and down_percent."),
    INT(down_percent, 0, 100, "The same as a share of the pods that are there."),
    INT(up_window_s, 0, SECONDS_MAX, "How long more pods must have been wanted before they are added."),
    INT(down_window_s, 0, SECONDS_MAX, "How long fewer pods must have been enough before any go."),
    INT(zero_cooldown_s, 0, SECONDS_MAX, "How long it must be quiet before only idle pods stay."),
    NUM(tolerance, 0, 1, "Share of the pods by which their number may be wrong."),
    INT(period_s, 1, SECONDS_MAX, "Seconds between two runs; half of it lie at least between two changes."),
    {"protect_busy", FIELD_BOOL, AT(protect_busy), 0, 0, NULL, "Never fewer pods than are not known to be idle."},
    NUM(max_hourly_cost, 0, FIELD_COUNT_MAX, "What all pods together may cost in an hour; 0: no cap."),
    NUM(pod_hourly_cost, 0, FIELD_COUNT_MAX, "What one pod costs in an hour."),
    NUM(daily_budget, 0, FIELD_COUNT_MAX, "What all pods together may cost in a day (UTC); 0: no cap."),
    {"on_error", FIELD_WORD, AT(on_error), 0, 0, on_errors, "When the load cannot be read: hold, or fallback to at least error_replicas. Neither lowers."},
    INT(error_after, 1, 1000000, "fallback: after so many failed runs in a row."),
    INT(error_replicas, 0, PODS_MAX, "fallback: pods at least."),
    {0},
};
#undef AT

#define AT(field)   offsetof(struct decide_sample, field)
#define COUNT(field) INT(field, 0, FIELD_COUNT_MAX, NULL)
#define BOOL(field) {#field, FIELD_BOOL, AT(field), 0, 0, NULL, NULL}

const struct field sample_fields[] = {
    {"now", FIELD_TIME, AT(now), 0, FIELD_TIME_MAX, NULL, NULL},
    BOOL(ok),
    BOOL(restarted),
    COUNT(ready),
    COUNT(unacked),
    COUNT(lost),
    COUNT(active),
    COUNT(processed),
    NUM(rate, 0, FIELD_COUNT_MAX, NULL),
    NUM(arrivals, 0, FIELD_COUNT_MAX, NULL),
    INT(busy, 0, PODS_MAX, NULL),
    INT(idle, 0, PODS_MAX, NULL),
    INT(unknown, 0, PODS_MAX, NULL),
    INT(starting, 0, PODS_MAX, NULL),
    INT(terminating, 0, PODS_MAX, NULL),
    INT(current, 0, PODS_MAX, NULL),
    BOOL(rollout),
    {"pause", FIELD_WORD, AT(pause), 0, 0, pauses, NULL},
    INT(paused_replicas, 0, PODS_MAX, NULL),
    BOOL(no_up),
    BOOL(no_down),
    INT(plan_cap, -1, PODS_MAX, NULL),
    {0},
};

/* clang-format on */

int rules_set(struct decide_rules *r, struct slice name, struct slice text, struct err *e)
{
    const struct field *f = field_find(rule_fields, name);
    struct json_val v;
    int code;

    if (!f)
        return err_set(e, -EINVAL, "there is no rule \"%.*s\" (see --help)", (int)name.len, name.p);
    if (f->kind == FIELD_WORD) { /* words need no quotes on the command line */
        CLEANUP(buf_deinit) struct buf quoted = BUF_INIT;

        json_write_string(&quoted, text);
        code = buf_ok(&quoted);
        return code ? code
                    : field_set(f, r, (struct json_val){JSON_K_STRING, buf_slice(&quoted)}, e);
    }
    if (json_scan(text, &v, NULL))
        return err_set(e, -EINVAL, "\"%s\": \"%.*s\" is not a value", f->name, (int)text.len,
                       text.p);
    return field_set(f, r, v, e);
}

int rules_check(const struct decide_rules *r, struct err *e)
{
    if (r->min > r->max)
        return err_set(e, -EINVAL, "min (%lld) is more than max (%lld)", (long long)r->min,
                       (long long)r->max);
    if (r->idle > r->max)
        return err_set(e, -EINVAL, "idle (%lld) is more than max (%lld)", (long long)r->idle,
                       (long long)r->max);
    if (r->policy == DECIDE_DRAIN && r->drain_s <= 0)
        return err_set(e, -EINVAL, "policy \"drain\" needs drain_s: within how many seconds?");
    if ((r->max_hourly_cost > 0 || r->daily_budget > 0) && r->pod_hourly_cost <= 0)
        return err_set(e, -EINVAL, "a cap of costs needs pod_hourly_cost");
    if (r->on_error == DECIDE_FALLBACK && r->error_replicas > r->max)
        return err_set(e, -EINVAL, "error_replicas (%lld) is more than max (%lld)",
                       (long long)r->error_replicas, (long long)r->max);
    return 0;
}

void sample_default(struct decide_sample *m)
{
    *m = (struct decide_sample){.ok = true, .plan_cap = -1};
}
