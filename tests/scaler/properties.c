/* SPDX-License-Identifier: Apache-2.0 */
/* Properties of the decision over random lives of a target: `properties [SAMPLES [SEED]]`.
 *
 * Each life has rules of its own and a run every few seconds to minutes. What the pods do follows the decisions, what
 * comes in does not. Prints the first violation with all that led to it. */

#include "k8s/scaler/decide.h"
#include "k8s/scaler/fields.h"
#include "k8s/scaler/memory.h"
#include "k8s/scaler/rules.h"

#include "celeryc/base/num.h"

#include <inttypes.h>

#define LIFE 160 /* runs of one life */

struct asked {
    int64_t at, pods;
};

struct life {
    uint64_t seed;
    struct decide_rules r;
    struct decide_state s;
    struct decide_sample m;
    struct decision d;
    struct asked asked[LIFE]; /* what each run that knew the load wanted */
    size_t n_asked;
    int64_t pace_s; /* between two runs, at most */
};

static uint64_t counts[DECIDE_N_REASONS];

/* ---- random ---- */

static uint64_t next(uint64_t *x)
{
    uint64_t z = (*x += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static int64_t up_to(struct life *l, int64_t max)
{
    return (int64_t)(next(&l->seed) % (uint64_t)(max + 1));
}

static bool one_in(struct life *l, int64_t n)
{
    return up_to(l, n - 1) == 0;
}

static int64_t often_zero(struct life *l, int64_t max)
{
    return one_in(l, 2) ? 0 : up_to(l, max);
}

static void random_rules(struct life *l)
{
    struct decide_rules *r = &l->r;

    decide_rules_default(r);
    r->max = one_in(l, 20) ? 0 : 1 + up_to(l, one_in(l, 4) ? 200 : 20);
    r->min = MIN(often_zero(l, 4), r->max);
    r->idle = one_in(l, 4) ? up_to(l, r->max) : 0;
    r->concurrency = 1 + up_to(l, 7);
    r->prefetch = up_to(l, 4);
    r->target_per_pod = one_in(l, 2) ? 0 : 0.5 + (double)up_to(l, 20);
    r->policy = one_in(l, 3) ? DECIDE_DRAIN : DECIDE_BACKLOG;
    r->drain_s = (double)(1 + up_to(l, 600));
    r->activation = 1 + often_zero(l, 5);
    r->activation_wait_s = up_to(l, 200);
    r->up_pods = 1 + up_to(l, 10);
    r->up_percent = up_to(l, 300);
    r->down_pods = 1 + up_to(l, 4);
    r->down_percent = up_to(l, 100);
    r->up_window_s = one_in(l, 2) ? 0 : up_to(l, 300);
    r->down_window_s = up_to(l, 600);
    r->zero_cooldown_s = up_to(l, 600);
    r->tolerance = one_in(l, 3) ? 0 : (double)up_to(l, 50) / 100;
    r->period_s = 1 + up_to(l, 90);
    r->max_hourly_cost = one_in(l, 4) ? (double)up_to(l, 10) : 0;
    r->pod_hourly_cost = 0.25;
    r->daily_budget = one_in(l, 6) ? (double)up_to(l, 100) : 0;
    r->on_error = one_in(l, 2) ? DECIDE_FALLBACK : DECIDE_HOLD;
    r->error_after = 1 + up_to(l, 3);
    r->error_replicas = up_to(l, r->max);
}

/* The pods of the last decision, split into classes. */
static void random_pods(struct life *l)
{
    struct decide_sample *m = &l->m;
    int64_t rest = m->current;

    m->busy = one_in(l, 3) ? 0 : up_to(l, rest);
    rest -= m->busy;
    m->unknown = one_in(l, 8) ? up_to(l, rest) : 0;
    rest -= m->unknown;
    m->starting = one_in(l, 3) ? up_to(l, rest) : 0;
    m->idle = rest - m->starting;
    m->terminating = one_in(l, 3) ? up_to(l, 5) : 0;
    m->active = m->busy ? up_to(l, m->busy * l->r.concurrency) : 0;
}

static void random_sample(struct life *l)
{
    struct decide_sample *m = &l->m;
    int64_t now = m->now + (one_in(l, 10) ? up_to(l, 3) : 1 + up_to(l, l->pace_s)),
            current = m->current;

    *m = (struct decide_sample){.now = now, .current = current, .plan_cap = -1};
    m->ok = !one_in(l, 12);
    m->restarted = one_in(l, 30);
    m->ready = often_zero(l, one_in(l, 5) ? 100000 : 40);
    m->unacked = often_zero(l, 40);
    m->lost = one_in(l, 20) ? up_to(l, 3) : 0;
    m->processed = often_zero(l, 20);
    m->rate = one_in(l, 3) ? 0 : (double)up_to(l, 100) / 50;
    m->arrivals = (double)often_zero(l, 10) / 10;
    m->rollout = one_in(l, 20);
    m->no_up = one_in(l, 25);
    m->no_down = one_in(l, 25);
    m->pause = one_in(l, 40) ? DECIDE_PAUSED : one_in(l, 40) ? DECIDE_PAUSED_AT : DECIDE_GO;
    m->paused_replicas = up_to(l, 30);
    m->plan_cap = one_in(l, 12) ? up_to(l, 10) : -1;
    random_pods(l);
}

/* ---- properties ---- */

static int broken(const struct life *l, const char *what)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    buf_appendf(&b, "%s\ntarget %lld, %s, up %lld, down %lld, floor %lld, cap %lld\nrules {", what,
                (long long)l->d.target, decide_reason_text(l->d.reason), (long long)l->d.up,
                (long long)l->d.down, (long long)l->d.floor, (long long)l->d.cap);
    fields_write(&b, rule_fields, &l->r);
    buf_append_str(&b, "}\nsample {");
    fields_write(&b, sample_fields, &l->m);
    (void)fprintf(stderr, "%s}\n", b.data ? b.data : "");
    return 1;
}

static bool same_decision(const struct decision *a, const struct decision *b)
{
    return a->target == b->target && a->reason == b->reason && a->capped_by == b->capped_by &&
           a->up == b->up && a->down == b->down && a->floor == b->floor;
}

static bool same_state(const struct decide_state *a, const struct decide_state *b)
{
    if (a->n_wishes != b->n_wishes || a->idle_since != b->idle_since ||
        a->waiting_since != b->waiting_since || a->last_up != b->last_up ||
        a->last_down != b->last_down || a->fails != b->fails)
        return false;
    for (size_t i = 0; i < a->n_wishes; i++)
        if (a->wishes[i].at != b->wishes[i].at || a->wishes[i].pods != b->wishes[i].pods)
            return false;
    return true;
}

static int check_same_again(const struct life *l, const struct decide_state *before)
{
    struct decide_state s = *before;
    struct decision d;

    decide(&l->r, &s, &l->m, &d);
    if (!same_decision(&d, &l->d) || !same_state(&s, &l->s))
        return broken(l, "the same input did not give the same output");
    return 0;
}

static int check_bounds(const struct life *l)
{
    const struct decide_sample *m = &l->m;
    int64_t target = l->d.target;

    if (target < 0 || target > MAX(m->current, l->d.cap))
        return broken(l, "more than the cap allows, or less than nothing");
    if (target < m->current && target < m->busy + m->unknown)
        return broken(l, "below the pods that are not known to be idle");
    if (target < m->current && target < l->d.floor && target < l->d.cap)
        return broken(l, "below the floor");
    if (!m->ok && target < m->current)
        return broken(l, "a failed sample lowered the pods");
    if (!m->ok && target > m->current && l->d.reason != DECIDE_R_ERROR_FALLBACK)
        return broken(l, "a failed sample raised the pods without a fallback");
    if ((target > m->current && m->no_up) || (target < m->current && m->no_down))
        return broken(l, "against what is paused");
    if (target < m->current && (m->rollout || m->restarted))
        return broken(l, "lowered in a rollout or behind an empty Redis");
    if (target == 0 && m->current > 0 && m->ok &&
        (m->ready || m->unacked || m->active || m->lost || m->processed) && l->d.cap > 0)
        return broken(l, "to zero while there is work");
    return 0;
}

static int check_more_work(const struct life *l, const struct decide_state *before)
{
    for (int64_t more = 1; more <= 1000; more *= 10) {
        struct decide_state s = *before;
        struct decide_sample m = l->m;
        struct decision d;

        m.ready += more;
        decide(&l->r, &s, &m, &d);
        if (d.target < l->d.target)
            return broken(l, "more work wanted fewer pods");
    }
    return 0;
}

static int check_second_run(const struct life *l)
{
    struct decide_state s = l->s;
    struct decide_sample m = l->m;
    struct decision d;

    m.current = l->d.target;
    decide(&l->r, &s, &m, &d);
    if (m.ok && d.target != l->d.target) /* failed runs are counted, each of them */
        return broken(l, "a second run at once changed the number again");
    return 0;
}

/* Whatever was wanted within the window is still there. */
static int check_window(const struct life *l)
{
    if (l->d.target >= l->m.current)
        return 0;
    for (size_t i = 0; i < l->n_asked; i++)
        if (l->m.now - l->asked[i].at <= l->r.down_window_s &&
            MIN(l->asked[i].pods, l->d.cap) > l->d.target)
            return broken(l, "lower than what was wanted within the window");
    return 0;
}

static int check(const struct life *l, const struct decide_state *before)
{
    int r = check_same_again(l, before);

    if (l->m.pause != DECIDE_GO) {
        int64_t at = l->m.pause == DECIDE_PAUSED ? l->m.current : l->m.paused_replicas;

        return r || l->d.target == at ? r : broken(l, "not as it was paused");
    }
    if (!r)
        r = check_bounds(l);
    if (!r && l->m.ok)
        r = check_more_work(l, before);
    if (!r)
        r = check_second_run(l);
    return r ? r : check_window(l);
}

static int live(struct life *l)
{
    random_rules(l);
    decide_state_init(&l->s);
    l->pace_s = one_in(l, 4) ? 4 : 90;
    l->m.now = 1700000000 + up_to(l, 100000);
    l->m.current = often_zero(l, 30);
    for (int i = 0; i < LIFE; i++) {
        struct decide_state before;

        random_sample(l);
        before = l->s;
        decide(&l->r, &l->s, &l->m, &l->d);
        counts[l->d.reason]++;
        if (check(l, &before))
            return 1;
        if (l->m.ok && l->m.current == 0)
            l->n_asked = 0; /* a new start */
        if (l->m.ok && l->m.pause == DECIDE_GO && l->m.current > 0)
            l->asked[l->n_asked++] =
                (struct asked){l->m.now, MIN(MAX(l->d.up, l->d.down), l->d.cap)};
        l->m.current = one_in(l, 60) ? up_to(l, 40) : l->d.target;
    }
    return 0;
}

int main(int argc, char **argv)
{
    uint64_t samples = 1000000, seed = 1;

    if ((argc > 1 && num_parse_u64(slice_str(argv[1]), &samples)) ||
        (argc > 2 && num_parse_u64(slice_str(argv[2]), &seed)))
        return 2;
    for (uint64_t i = 0; i * LIFE < samples; i++) {
        struct life l = {.seed = seed + i};

        if (live(&l)) {
            (void)fprintf(stderr, "life %" PRIu64 "\n", seed + i);
            return 1;
        }
    }
    for (size_t i = 0; i < DECIDE_N_REASONS; i++) {
        (void)printf("%-22s %9" PRIu64 "\n", decide_reason_text((enum decide_reason)i), counts[i]);
        if (counts[i] == 0 && samples >= 10000) {
            (void)fprintf(stderr, "%s never came up\n", decide_reason_text((enum decide_reason)i));
            return 1;
        }
    }
    return 0;
}
