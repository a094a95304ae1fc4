/* SPDX-License-Identifier: Apache-2.0 */
/* The row of the governor: who is elected, what is allowed, and what the server says of itself. */

#include "celeryc/db/db_priv.h"

#include <errno.h>
#include <math.h>

int db_governor_read(struct db *db, struct arena *a, struct db_governor *ret_g, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    struct db_governor g = {.rate = INFINITY};
    int r = db_read(db,
                    "SELECT g.stopped, g.rate, g.floor_rate, g.pressure, g.reason, g.limits, "
                    "coalesce(g.holder, '') FROM scatter_governor g WHERE g.id = 1",
                    NULL, 0, &rows, e);

    if (r)
        return r;
    if (rows.n_rows == 0)
        return err_set(e, -ENOENT, "scatter_governor has lost its row");
    g.stopped = db_cell_true(&rows, 0, 0);
    if (db_cell(&rows, 0, 1).p)
        g.rate = db_cell_f64(&rows, 0, 1);
    g.floor = db_cell_f64(&rows, 0, 2);
    g.pressure = db_cell_f64(&rows, 0, 3);
    g.reason = arena_strdup(a, db_cell(&rows, 0, 4));
    g.limits = arena_strdup(a, db_cell(&rows, 0, 5));
    g.holder = arena_strdup(a, db_cell(&rows, 0, 6));
    if (!g.reason || !g.limits || !g.holder)
        return -ENOMEM;
    *ret_g = g;
    return 0;
}

static int run(struct db *db, const char *sql, const struct db_val *v, size_t n,
               int64_t *ret_changed, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    int r = db->ops->begin(db, 0, e);

    if (r)
        return r;
    r = db_end(db, db_exec(db, sql, v, n, &rows, e), e);
    if (!r && ret_changed)
        *ret_changed = rows.changed;
    return r;
}

int db_governor_stop(struct db *db, bool stopped, struct err *e)
{
    return run(db,
               stopped ? "UPDATE scatter_governor SET stopped = (1 = 1) WHERE id = 1"
                       : "UPDATE scatter_governor SET stopped = (1 = 0) WHERE id = 1",
               NULL, 0, NULL, e);
}

/* Whoever is to be governor has half a minute to take note of limits that are new. */
int db_governor_limit(struct db *db, const char *limits, double floor, struct err *e)
{
    char number[40];

    (void)snprintf(number, sizeof(number), "%.6g", floor);
    const struct db_val v[] = {db_int(-30000), db_text(limits), db_text(number)};

    return run(
        db,
        "UPDATE scatter_governor SET limits = $2, floor_rate = CAST($3 AS double precision), "
        "rate = NULL, pressure = 0, reason = '', beat_at = @clock_ago@ WHERE id = 1",
        v, ARRAY_SIZE(v), NULL, e);
}

int db_governor_elect(struct db *db, const char *who, bool *ret_elected, struct err *e)
{
    const struct db_val v[] = {db_int(3000), db_text(who)};
    int64_t changed = 0;
    int r =
        run(db,
            "UPDATE scatter_governor SET holder = $2, beat_at = @clock@ WHERE id = 1 AND limits "
            "<> '{}' AND (holder = $2 OR holder IS NULL OR beat_at IS NULL OR beat_at < "
            "@clock_ago@ OR beat_at > @clock@)",
            v, ARRAY_SIZE(v), &changed, e);

    if (!r)
        *ret_elected = changed == 1;
    return r;
}

int db_governor_write(struct db *db, const struct db_governor *g, const char *sensors,
                      struct err *e)
{
    char rate[40], pressure[40];

    (void)snprintf(rate, sizeof(rate), "%.6g", isinf(g->rate) ? 0 : g->rate);
    (void)snprintf(pressure, sizeof(pressure), "%.6g", g->pressure);
    const struct db_val v[] = {db_text(isinf(g->rate) ? NULL : rate), db_text(pressure),
                               db_text(g->reason), db_text(sensors), db_text(g->holder)};

    return run(
        db,
        "UPDATE scatter_governor SET rate = CAST($1 AS double precision), pressure = CAST($2 AS "
        "double precision), reason = $3, sensors = $4, beat_at = @clock@ WHERE id = 1 AND "
        "holder = $5",
        v, ARRAY_SIZE(v), NULL, e);
}

int db_governor_pause_all(struct db *db, const char *who, const char *reason, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    int r = db_read(db, "SELECT plan FROM scatter_plan WHERE state IN ('queued', 'running')", NULL,
                    0, &rows, e);

    for (size_t i = 0; !r && i < rows.n_rows; i++) {
        const struct db_plan_move m = {.plan = db_cell(&rows, i, 0).p,
                                       .to = DB_PLAN_PAUSED,
                                       .from = DB_PLAN_MASK(DB_PLAN_QUEUED) |
                                               DB_PLAN_MASK(DB_PLAN_RUNNING),
                                       .who = who,
                                       .reason = reason};
        bool moved;

        r = db_plan_set_state(db, &m, &moved, e);
    }
    return r;
}

/* Sums over the replicas would hide the slowest one. Sessions of ours are known by the name that
 * every transaction of theirs gives itself. */
static const char sample_sql[] =
    "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0'), (SELECT count(*) FROM pg_stat_activity "
    "WHERE "
    "wait_event_type = 'Lock' AND application_name = 'scatter'), (SELECT count(*) FROM "
    "pg_stat_activity a WHERE a.wait_event_type = 'Lock' AND a.application_name <> 'scatter' AND "
    "EXISTS (SELECT 1 FROM pg_stat_activity o WHERE o.pid = ANY (pg_blocking_pids(a.pid)) AND "
    "o.application_name = 'scatter')), (SELECT coalesce(sum(b.position), 0) FROM scatter_batch b "
    "JOIN "
    "scatter_plan p ON p.plan = b.plan WHERE p.state IN ('running', 'draining')), "
    "r.application_name, pg_wal_lsn_diff(r.replay_lsn, '0/0'), coalesce(extract(epoch FROM "
    "r.replay_lag), 0) FROM (SELECT 1) one LEFT JOIN pg_stat_replication r ON r.replay_lsn IS NOT "
    "NULL ORDER BY r.replay_lsn NULLS LAST LIMIT 1";

int db_governor_sample(struct db *db, bool archive, struct arena *a, struct db_sample *ret_s,
                       struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0}, ready = {0};
    int r = db_read(db, sample_sql, NULL, 0, &rows, e);

    if (!r && archive)
        r = db_read(db, "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'",
                    NULL, 0, &ready, e);
    if (r)
        return r;
    struct db_sample s = {.wal_bytes = db_cell_f64(&rows, 0, 0),
                          .waits = db_cell_i64(&rows, 0, 1),
                          .blocked = db_cell_i64(&rows, 0, 2),
                          .done = db_cell_f64(&rows, 0, 3),
                          .archive = archive ? db_cell_i64(&ready, 0, 0) : 0};

    if (db_cell(&rows, 0, 5).p) {
        s.replica = arena_strdup(a, db_cell(&rows, 0, 4));
        s.replayed_bytes = db_cell_f64(&rows, 0, 5);
        s.lag_s = db_cell_f64(&rows, 0, 6);
        if (!s.replica)
            return -ENOMEM;
    }
    *ret_s = s;
    return 0;
}
