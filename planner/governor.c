/* SPDX-License-Identifier: Apache-2.0 */
/* Additive patience, multiplicative retreat: below half a limit the rate grows by 5 % a step, between half a limit and
 * the limit it shrinks by up to a half, at the limit nothing is written until the sensor falls again, and what stays far
 * beyond it pauses the plans. The sensor that presses hardest counts, and its words are what people read. */

#include "planner/governor.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/num.h"
#include "planner/args.h"

#include <math.h>

#define SOFT     0.5 /* of a limit: from here on the rate goes down */
#define GROWTH   1.05
#define CRITICAL 3.0
#define SETTLED  4.0 /* times what goes through: such a rate is no limit any more */

static const struct {
    const char *name, *words, *unit;
} sensors[N_SENSORS] = {
    [SENSOR_LAG_S] = {"max_lag_s", "replica ", " s"},
    [SENSOR_LAG_MB] = {"max_lag_mb", "replica ", " MB"},
    [SENSOR_WAL] = {"max_wal_mb_s", "WAL", " MB/s"},
    [SENSOR_ARCHIVE] = {"max_archive_backlog", "WAL segments to be archived", ""},
    [SENSOR_BLOCKED] = {"max_blocked", "sessions blocked by migrations", ""},
    [SENSOR_WAITS] = {"max_lock_waits", "migrations waiting for locks", ""},
};

const char *governor_sensor_name(enum sensor s)
{
    return sensors[s].name;
}

int governor_set_word(struct governor_limits *l, const char *word, struct err *e)
{
    const char *eq = strchr(word, '=');
    struct slice name = {word, eq ? (size_t)(eq - word) : 0};
    double *at = NULL, v = 0;

    for (size_t i = 0; i < N_SENSORS; i++)
        if (slice_eq_str(name, sensors[i].name))
            at = &l->of[i];
    if (slice_eq_str(name, "critical"))
        at = &l->critical;
    if (slice_eq_str(name, "ceiling"))
        at = &l->ceiling;
    if (!at)
        return err_set(e, ARGS_E_MISTAKE,
                       "%s: what can be set is max_lag_s, max_lag_mb, max_wal_mb_s, "
                       "max_archive_backlog, max_blocked, max_lock_waits, critical, ceiling, floor",
                       word);
    if (!str_eq(eq + 1, "none") && (num_parse_f64(slice_str(eq + 1), &v) || !(v > 0) || v > 1e12))
        return err_set(e, ARGS_E_MISTAKE, "%s: a number above 0, or none", word);
    *at = v;
    return 0;
}

void governor_init(struct governor *g, const struct governor_limits *l, double floor, double rate)
{
    *g = (struct governor){.limits = *l, .floor = floor, .rate = rate};
}

/* Weighted over a few samples: chunks come in lumps. */
static void learn(struct governor *g, const struct governor_sample *s)
{
    double seconds = (double)(s->at_ns - g->at_ns) / 1e9;

    if (g->at_ns && seconds > 0 && s->done >= g->done)
        g->actual = 0.5 * g->actual + 0.5 * (s->done - g->done) / seconds;
    g->done = s->done;
    g->at_ns = s->at_ns;
    if (isinf(g->rate) || g->actual > g->free)
        g->free = fmax(g->actual, 0.9 * g->free);
}

static enum sensor hardest(const struct governor *g, const struct governor_sample *s,
                           double *ret_pressure)
{
    enum sensor worst = SENSOR_LAG_S;
    double most = -1;

    for (int i = 0; i < N_SENSORS; i++) {
        double limit = g->limits.of[i];
        double p = limit > 0 ? (s->of[i] - SOFT * limit) / ((1 - SOFT) * limit) : -1;

        if (p > most) {
            most = p;
            worst = (enum sensor)i;
        }
    }
    *ret_pressure = most;
    return worst;
}

static double most_allowed(const struct governor *g)
{
    return g->limits.ceiling > 0 ? g->limits.ceiling : INFINITY;
}

static double next_rate(const struct governor *g, double pressure)
{
    double base = isinf(g->rate) ? fmax(g->actual, g->floor) : g->rate;

    if (pressure >= 1)
        return 0;
    if (pressure > 0)
        return fmax(base <= 0 ? g->floor : base * (1 - 0.5 * pressure), g->floor);
    if (isinf(g->rate))
        return most_allowed(g);
    if (g->rate <= 0)
        return fmin(fmax(g->floor, g->free / 4), most_allowed(g));
    /* Only a rate that is used may grow. */
    if (g->actual < 0.5 * g->rate && g->rate > g->free)
        return g->rate > SETTLED * fmax(g->actual, g->floor) ? most_allowed(g) : g->rate * GROWTH;
    return fmin(g->rate * GROWTH, most_allowed(g));
}

static void explain(const struct governor *g, const struct governor_sample *s, enum sensor worst,
                    struct governor_verdict *v)
{
    char what[80];
    double free = fmax(g->free, 1);

    if (isinf(v->rate)) {
        v->reason[0] = '\0';
        return;
    }
    bool lag = worst == SENSOR_LAG_S || worst == SENSOR_LAG_MB;

    (void)snprintf(what, sizeof(what), "%s%s%s", sensors[worst].words,
                   lag && s->replica ? s->replica : "", lag ? " lag" : "");
    int percent = (int)fmax(fmin(100 * (1 - v->rate / free), 100), 0);

    if (v->pressure <= 0)
        (void)snprintf(v->reason, sizeof(v->reason), "at %.0f records/s, speeding up again",
                       v->rate);
    else
        (void)snprintf(v->reason, sizeof(v->reason), "%s%d %%: %s %.1f%s > %.1f%s",
                       v->rate <= 0 ? "stopped, throttled " : "throttled ", percent, what,
                       s->of[worst], sensors[worst].unit,
                       (v->rate <= 0 ? 1 : SOFT) * g->limits.of[worst], sensors[worst].unit);
}

void governor_decide(struct governor *g, const struct governor_sample *s,
                     struct governor_verdict *ret_v)
{
    double critical = g->limits.critical > 0 ? g->limits.critical : CRITICAL;
    struct governor_verdict v = {.pause = false};

    learn(g, s);
    enum sensor worst = hardest(g, s, &v.pressure);

    g->n_critical = g->limits.of[worst] > 0 && s->of[worst] >= critical * g->limits.of[worst]
                        ? g->n_critical + 1
                        : 0;
    v.pause = g->n_critical >= 2;
    v.rate = next_rate(g, v.pressure);
    g->rate = v.rate;
    explain(g, s, worst, &v);
    *ret_v = v;
}
