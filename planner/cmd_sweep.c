/* SPDX-License-Identifier: Apache-2.0 */
/* sweep: sends what was lost, once or every few seconds.
 *
 * With --every the program is a worker's keeper: it goes on until it is told to stop or, with --attached, until the
 * process that started it is gone. Between two sweeps it holds no connection. What goes wrong is told and tried again. */

#include "planner/plan.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/num.h"
#include "celeryc/migrate/sweep.h"
#include "planner/keeper.h"
#include "planner/outbox.h"
#include "planner/report.h"
#include "planner/stop.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

#define TURN_NS (NS_PER_S / 4)

/* Seconds, as in "3", "90s" or "2m"; a worker's lease. */
static int64_t lease_ms(void)
{
    const char *text = getenv("SCATTER_LEASE"); /* NOLINT(concurrency-mt-unsafe): one thread */
    int64_t ns;

    return text && *text && !num_parse_duration_ns(slice_str(text), &ns) ? ns / NS_PER_MS
                                                                         : SWEEP_LEASE_MS;
}

static int sweep_once(const struct args *a, struct sweep_result *ret_r, struct err *e)
{
    CLEANUP(servers_deinit) struct servers s = {0};
    int64_t n_callbacks, n_reports;
    int code = servers_open_db(&s, a->database_url, e);

    if (!code)
        code = servers_open_broker(&s, a->broker, e);
    if (code)
        return code;
    const struct sweep_options o = {.db = s.db,
                                    .redis = s.redis,
                                    .key_prefix = a->key_prefix,
                                    .plan = a->plan,
                                    .after_ms = a->after_s * 1000,
                                    .lease_ms = lease_ms()};

    if (a->plan)
        code = servers_find_plan(&s, a->plan, e);
    if (!code)
        code = windows_roll(s.db, a->plan, e);
    if (!code)
        code = migrate_sweep(&o, ret_r, e);
    /* A database that has no control tables has no plans. */
    if (code == DB_E_SCHEMA && !a->plan && str_eq(db_sqlstate(s.db), "42P01"))
        return 0;
    if (!code)
        code = outbox_send_all(s.db, a, a->plan, OUTBOX_ABANDONED_S, &n_callbacks, e);
    if (!code)
        code = report_write_ended(s.db, &n_reports, e);
    return code > 0 ? -EIO : code;
}

static bool is_alone(const struct args *a, pid_t parent)
{
    return a->attached && getppid() != parent;
}

/* Until the next sweep: a step of the governor every second, where there are limits. */
static void wait_until(struct keeper *k, pid_t parent, int64_t end_ns)
{
    int64_t step_ns = clock_mono_ns();
    bool governed = true, failing = false;

    while (!stop_requested() && !is_alone(k->args, parent) && clock_mono_ns() < end_ns) {
        const struct timespec t = {.tv_nsec = TURN_NS};

        if (governed && clock_mono_ns() >= step_ns) {
            struct err e = ERR_INIT;
            int code = keeper_step(k, &governed, &e);

            if (code && !failing)
                (void)fprintf(stderr, "scatter-plan: governor: %s\n", err_text(&e, code));
            failing = code != 0;
            governed = governed || failing;
            step_ns = clock_mono_ns() + NS_PER_S;
        }
        (void)nanosleep(&t, NULL);
    }
}

static int keep(const struct args *a)
{
    CLEANUP(mem_free) struct keeper *k = malloc(sizeof(*k));
    pid_t parent = getppid();
    bool failing = false;

    if (!k)
        return -ENOMEM;
    keeper_init(k, a);
    while (!stop_requested() && !is_alone(a, parent)) {
        struct sweep_result res = {0};
        struct err e = ERR_INIT;
        int64_t began_ns = clock_mono_ns();
        int code = sweep_once(a, &res, &e);

        if (code && !failing)
            (void)fprintf(stderr, "scatter-plan: sweep: %s\n", err_text(&e, code));
        if (res.sent)
            (void)fprintf(stderr, "scatter-plan: sweep: %zu lost messages were sent again\n",
                          res.sent);
        failing = code != 0;
        wait_until(k, parent, began_ns + a->every_s * NS_PER_S);
    }
    keeper_deinit(k);
    return 0;
}

int plan_sweep(const struct args *a, struct buf *dst, struct err *e)
{
    struct sweep_result res = {0};

    if (a->every_s)
        return keep(a);
    int code = sweep_once(a, &res, e);

    if (code)
        return code;
    if (str_eq(a->format, "json"))
        buf_appendf(dst, "{\"looked_at\": %zu, \"sent\": %zu}\n", res.looked_at, res.sent);
    else
        buf_appendf(dst, "%zu messages were sent again (%zu batches were looked at)\n", res.sent,
                    res.looked_at);
    return buf_ok(dst);
}
