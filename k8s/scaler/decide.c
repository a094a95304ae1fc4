/* SPDX-License-Identifier: Apache-2.0 */
/* The decision, rule by rule. What has been said first wins: pause, error, start from zero, up, down.
 *
 * Two numbers of tasks in flight are kept apart: what the live pods surely work on (for going up) and what may still be
 * running somewhere (for going down). Early-acked tasks are in no key of Redis, late-acked ones in `unacked` and in the
 * heartbeat; the gap between the two numbers is a dead band that is right for both. */

#include "k8s/scaler/decide.h"

#include <math.h>
#include <string.h>

#define DAY_S     86400
#define SLACK     1e-9       /* of a division that should come out even */
#define PODS_CEIL 1000000000 /* more than any cluster has, far from overflow */

#define REASON_TEXT(name, text, help) text,
#define REASON_HELP(name, text, help) help,

static const char *const reason_texts[] = {DECIDE_REASONS(REASON_TEXT)};
static const char *const reason_helps[] = {DECIDE_REASONS(REASON_HELP)};
static const char *const cap_texts[] = {"", "max", "cost", "budget", "plan"};

const char *decide_reason_text(enum decide_reason r)
{
    return reason_texts[r];
}

const char *decide_reason_help(enum decide_reason r)
{
    return reason_helps[r];
}

const char *decide_cap_text(enum decide_cap c)
{
    return cap_texts[c];
}

void decide_rules_default(struct decide_rules *r)
{
    *r = (struct decide_rules){
        .max = 20,
        .concurrency = 1,
        .prefetch = 4,
        .activation = 1,
        .activation_wait_s = 120,
        .up_pods = 10,
        .up_percent = 300,
        .down_pods = 2,
        .down_percent = 50,
        .down_window_s = 240,
        .zero_cooldown_s = 300,
        .tolerance = 0.1,
        .period_s = 60,
        .protect_busy = true,
        .error_after = 3,
    };
}

void decide_state_init(struct decide_state *s)
{
    *s = (struct decide_state){
        .idle_since = DECIDE_NEVER,
        .waiting_since = DECIDE_NEVER,
        .last_up = DECIDE_NEVER,
        .last_down = DECIDE_NEVER,
        .budget_at = DECIDE_NEVER,
    };
}

/* ---- small things ---- */

struct work {
    const struct decide_rules *r;
    const struct decide_sample *m;
    struct decide_state *s;
    struct decision *d;
};

static int64_t pods_of(double pods)
{
    double up = ceil(pods - SLACK);

    return up > 0 ? (int64_t)MIN(up, PODS_CEIL) : 0;
}

static int64_t divide_up(int64_t a, double b)
{
    return a > 0 ? pods_of((double)a / b) : 0;
}

static int64_t clamp(int64_t v, int64_t low, int64_t high)
{
    return MIN(MAX(v, low), high);
}

static void result(struct work *w, int64_t target, enum decide_reason reason)
{
    w->d->target = target;
    w->d->reason = reason;
}

/* Pods while there is work. */
static int64_t least(const struct decide_rules *r)
{
    return MAX(MAX(r->min, r->idle), 1);
}

/* Was it less than seconds ago? A time that never came was not. */
static bool within(const struct work *w, int64_t at, double seconds)
{
    return at != DECIDE_NEVER && (double)(w->m->now - at) < seconds;
}

/* ---- caps ---- */

static void lower_cap(struct work *w, double cap, enum decide_cap why)
{
    if (cap >= (double)w->d->cap)
        return;
    w->d->cap = cap > 0 ? (int64_t)floor(cap + SLACK) : 0;
    w->d->capped_by = why;
}

/* What the pods that are asked for have cost since the last run, and how many the rest of the day's money pays for. */
static void cap_by_budget(struct work *w)
{
    struct decide_state *s = w->s;
    int64_t now = w->m->now, day = now / DAY_S;
    double price = w->r->pod_hourly_cost;

    if (s->budget_day != day || s->budget_at == DECIDE_NEVER) {
        s->budget_day = day;
        s->budget_spent = 0;
    } else {
        s->budget_spent += (double)(now - s->budget_at) / 3600 * price * (double)w->m->current;
    }
    s->budget_at = now;
    lower_cap(
        w, (w->r->daily_budget - s->budget_spent) / (price * (double)(DAY_S - now % DAY_S) / 3600),
        DECIDE_CAP_BUDGET);
}

static void find_cap(struct work *w)
{
    const struct decide_rules *r = w->r;

    w->d->cap = PODS_CEIL;
    lower_cap(w, (double)r->max, DECIDE_CAP_MAX);
    if (r->pod_hourly_cost > 0 && r->max_hourly_cost > 0)
        lower_cap(w, r->max_hourly_cost / r->pod_hourly_cost, DECIDE_CAP_COST);
    if (r->pod_hourly_cost > 0 && r->daily_budget > 0)
        cap_by_budget(w);
    if (w->m->ok && w->m->plan_cap >= 0)
        lower_cap(w, (double)w->m->plan_cap, DECIDE_CAP_PLAN);
}

/* ---- the load ---- */

static int64_t load(const struct work *w, int64_t in_flight)
{
    const struct decide_rules *r = w->r;
    const struct decide_sample *m = w->m;

    if (r->policy == DECIDE_DRAIN && r->drain_s > 0 && m->rate > 0)
        return MAX(pods_of((double)m->ready / (m->rate * r->drain_s) + m->arrivals / m->rate),
                   divide_up(in_flight, (double)r->concurrency));
    return divide_up(m->ready + in_flight,
                     r->target_per_pod > 0 ? r->target_per_pod : (double)r->concurrency);
}

static void find_load(struct work *w)
{
    const struct decide_sample *m = w->m;
    struct decision *d = w->d;
    /* What pods that drain may still hold is in `unacked`, but is no new load. */
    int64_t draining = w->r->prefetch == 0 && m->terminating
                           ? m->unacked
                           : m->terminating * w->r->concurrency * (1 + w->r->prefetch);

    d->in_flight_low = MAX(m->active, m->unacked - draining);
    d->in_flight_high = m->unacked + m->active;
    d->stranded = (m->unacked > 0 || m->lost > 0) && m->active == 0 && m->busy == 0 &&
                  m->unknown == 0 && m->terminating == 0;
    d->orphans = d->stranded && m->ready == 0;
    d->up = d->orphans ? 1 : load(w, d->in_flight_low);
    d->down = d->orphans ? 1 : load(w, d->in_flight_high);
    /* Work done between two samples is work, too, and an empty Redis after a restart is not an empty queue. */
    d->quiet = m->ready == 0 && d->in_flight_high == 0 && m->lost == 0 && m->busy == 0 &&
               m->unknown == 0 && m->processed == 0 && !m->restarted;
}

/* ---- memory ---- */

/* The server's clock may have been set back. */
static void no_future(struct decide_state *s, int64_t now)
{
    int64_t *const times[] = {&s->idle_since, &s->waiting_since, &s->last_up, &s->last_down,
                              &s->budget_at};

    for (size_t i = 0; i < ARRAY_SIZE(times); i++)
        *times[i] = MIN(*times[i], now);
    for (size_t i = 0; i < s->n_wishes; i++)
        s->wishes[i].at = MIN(s->wishes[i].at, now);
}

static void forget(struct decide_state *s, int64_t now, int64_t keep_s)
{
    size_t n = 0;

    for (size_t i = 0; i < s->n_wishes; i++)
        if (now - s->wishes[i].at <= keep_s)
            s->wishes[n++] = s->wishes[i];
    s->n_wishes = n;
}

/* No room: the two oldest become one that holds the pods for longer. */
static void remember(struct decide_state *s, int64_t at, int64_t pods)
{
    if (s->n_wishes == DECIDE_MEMORY) {
        s->wishes[1].pods = MAX(s->wishes[0].pods, s->wishes[1].pods);
        memmove(s->wishes, s->wishes + 1, (DECIDE_MEMORY - 1) * sizeof(*s->wishes));
        s->n_wishes--;
    }
    s->wishes[s->n_wishes++] = (struct decide_wish){at, pods};
}

static void remember_only(struct work *w, int64_t pods)
{
    w->s->n_wishes = 0;
    remember(w->s, w->m->now, pods);
}

/* Up needs the wish for the whole window up, down for the whole window down. */
static void hold_wishes(struct work *w)
{
    const struct decide_rules *r = w->r;
    struct decision *d = w->d;
    struct decide_state *s = w->s;
    int64_t now = w->m->now;

    if (s->n_wishes == 0) /* the first run: as if what is there had just been asked for */
        remember(s, now - 1, w->m->current);
    forget(s, now, MAX(r->down_window_s, r->up_window_s));
    remember(s, now, MIN(MAX(d->up, d->down), d->cap));
    d->up_held = d->up;
    d->down_held = d->down;
    for (size_t i = 0; i < s->n_wishes; i++) {
        int64_t age = now - s->wishes[i].at;

        if (r->up_window_s && age <= r->up_window_s)
            d->up_held = MIN(d->up_held, s->wishes[i].pods);
        if (age <= r->down_window_s)
            d->down_held = MAX(d->down_held, s->wishes[i].pods);
    }
    d->up_held = MIN(MAX(d->up_held, d->floor), d->cap);
    d->down_held = MIN(MAX(d->down_held, d->floor), d->cap);
}

static void find_floor(struct work *w)
{
    struct decide_state *s = w->s;

    if (!w->d->quiet)
        s->idle_since = DECIDE_NEVER;
    else if (s->idle_since == DECIDE_NEVER)
        s->idle_since = w->m->now;
    w->d->floor = least(w->r);
    if (w->d->quiet && w->m->now - s->idle_since >= w->r->zero_cooldown_s)
        w->d->floor = w->r->idle;
}

/* ---- rules ---- */

static void hold_error(struct work *w)
{
    const struct decide_rules *r = w->r;
    int64_t current = w->m->current, least = MIN(r->error_replicas, w->d->cap);

    w->s->fails++;
    if (r->on_error != DECIDE_FALLBACK || w->s->fails < r->error_after) {
        result(w, current, DECIDE_R_ERROR_HOLD);
        return;
    }
    result(w, w->m->no_up ? current : MAX(current, least), DECIDE_R_ERROR_FALLBACK);
}

static void start(struct work *w)
{
    int64_t wish = MIN(MAX(least(w->r), w->d->up), w->d->cap);
    int64_t target = clamp(wish, 0, MAX(w->r->up_pods, 1));

    if (target == 0) {
        remember_only(w, 0);
        result(w, 0, DECIDE_R_CAPPED);
        return;
    }
    if (w->m->no_up) {
        remember_only(w, 0);
        result(w, 0, DECIDE_R_UP_PAUSED);
        return;
    }
    w->s->waiting_since = DECIDE_NEVER;
    w->s->last_up = w->m->now;
    remember_only(w, wish);
    result(w, target, target == wish ? DECIDE_R_ACTIVATE : DECIDE_R_ACTIVATE_LIMITED);
}

static void from_zero(struct work *w)
{
    struct decide_state *s = w->s;
    int64_t outstanding = w->m->ready + w->d->in_flight_low;
    bool wanted = w->d->stranded || w->r->idle > 0;

    s->idle_since = DECIDE_NEVER;
    if (outstanding <= 0 && !wanted) {
        s->waiting_since = DECIDE_NEVER;
        remember_only(w, 0);
        result(w, 0, DECIDE_R_IDLE);
        return;
    }
    if (s->waiting_since == DECIDE_NEVER)
        s->waiting_since = w->m->now;
    if (outstanding < w->r->activation && !wanted &&
        w->m->now - s->waiting_since < w->r->activation_wait_s) {
        remember_only(w, 0);
        result(w, 0, DECIDE_R_BELOW_ACTIVATION);
        return;
    }
    start(w);
}

static bool tolerable(const struct work *w, int64_t difference)
{
    return (double)difference <= w->r->tolerance * (double)w->m->current;
}

static void up(struct work *w)
{
    int64_t current = w->m->current, wish = w->d->up_held;
    int64_t step = MAX(w->r->up_pods, divide_up(current * w->r->up_percent, 100));
    int64_t target = MIN(wish, current + step);

    if (tolerable(w, wish - current) && wish != w->d->cap && current >= w->d->floor)
        result(w, current, DECIDE_R_TOLERANCE);
    else if (within(w, w->s->last_up, (double)w->r->period_s / 2))
        result(w, current, DECIDE_R_UP_TOO_SOON);
    else if (w->m->no_up)
        result(w, current, DECIDE_R_UP_PAUSED);
    else {
        w->s->last_up = w->m->now;
        result(w, target, target == wish ? DECIDE_R_UP : DECIDE_R_UP_LIMITED);
    }
}

static void lower(struct work *w)
{
    int64_t current = w->m->current, wish = w->d->down_held;
    int64_t step = MAX(w->r->down_pods, current * w->r->down_percent / 100);
    int64_t target = MAX(wish, current - step);
    int64_t busy_floor = current - (w->m->idle + w->m->starting);
    enum decide_reason why = target == wish ? DECIDE_R_DOWN : DECIDE_R_DOWN_LIMITED;

    if (w->r->protect_busy && busy_floor >= current) {
        result(w, current, DECIDE_R_BUSY_HOLD);
        return;
    }
    if (w->r->protect_busy && busy_floor > target) {
        target = busy_floor;
        why = DECIDE_R_DOWN_BUSY_LIMITED;
    }
    w->s->last_down = w->m->now;
    result(w, target, why);
}

static void down(struct work *w)
{
    int64_t current = w->m->current, wish = w->d->down_held;

    if (tolerable(w, current - wish) && wish > least(w->r) && current <= w->d->cap)
        result(w, current, DECIDE_R_TOLERANCE);
    else if (w->m->rollout)
        result(w, current, DECIDE_R_ROLLOUT_HOLD);
    else if (w->m->restarted)
        result(w, current, DECIDE_R_RESTART_HOLD);
    else if (within(w, w->s->last_down, (double)w->r->period_s / 2))
        result(w, current, DECIDE_R_DOWN_TOO_SOON);
    else if (w->m->no_down)
        result(w, current, DECIDE_R_DOWN_PAUSED);
    else
        lower(w);
}

static void running(struct work *w)
{
    w->s->waiting_since = DECIDE_NEVER;
    find_floor(w);
    hold_wishes(w);
    if (w->d->up_held > w->m->current)
        up(w);
    else if (w->d->down_held < w->m->current)
        down(w);
    else
        result(w, w->m->current,
               w->d->down < w->m->current ? DECIDE_R_STABILIZING : DECIDE_R_STEADY);
}

void decide(const struct decide_rules *r, struct decide_state *s, const struct decide_sample *m,
            struct decision *ret_d)
{
    struct work w = {r, m, s, ret_d};

    *ret_d = (struct decision){0};
    no_future(s, m->now);
    find_cap(&w);
    if (m->pause != DECIDE_GO) {
        result(&w, m->pause == DECIDE_PAUSED_AT ? m->paused_replicas : m->current, DECIDE_R_PAUSED);
        ret_d->capped_by = DECIDE_CAP_NONE;
        return;
    }
    if (!m->ok) {
        hold_error(&w);
        ret_d->capped_by = DECIDE_CAP_NONE;
        return;
    }
    s->fails = 0;
    find_load(&w);
    if (m->current == 0)
        from_zero(&w);
    else
        running(&w);
    if (MAX(ret_d->up, ret_d->down) <= ret_d->cap && ret_d->floor <= ret_d->cap)
        ret_d->capped_by = DECIDE_CAP_NONE;
}
