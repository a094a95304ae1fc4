/* SPDX-License-Identifier: Apache-2.0 */
/* The keeper as governor. It samples, decides and writes once a second; whoever is not elected looks on.
 *
 * Seconds of lag are counted from what this process has seen written, and when: a replica whose replay stands still
 * reports nothing, and one that is idle reports nothing either. */

#include "planner/keeper.h"

#include "celeryc/base/clock.h"
#include "celeryc/message/json.h"

#include <errno.h>
#include <math.h>
#include <unistd.h>

#define MB (1024.0 * 1024.0)

void keeper_init(struct keeper *k, const struct args *a)
{
    char host[64] = "";

    (void)gethostname(host, sizeof(host) - 1);
    *k = (struct keeper){.args = a};
    (void)snprintf(k->name, sizeof(k->name), "%d@%s", (int)getpid(), host);
}

void keeper_deinit(struct keeper *k)
{
    servers_deinit(&k->servers);
    free(k->limits);
    k->limits = NULL;
}

/* ---- sensors ---- */

static void remember(struct keeper *k, double wal_bytes, int64_t now_ns)
{
    if (k->n_history == KEEPER_HISTORY) {
        memmove(&k->history[0], &k->history[1], sizeof(k->history) - sizeof(k->history[0]));
        k->n_history--;
    }
    k->history[k->n_history].wal_bytes = wal_bytes;
    k->history[k->n_history++].at_ns = now_ns;
}

/* Since when is there something that the replica has not replayed? */
static double seconds_behind(const struct keeper *k, double replayed, double written,
                             int64_t now_ns)
{
    if (replayed >= written)
        return 0;
    for (size_t i = k->n_history; i-- > 0;)
        if (k->history[i].wal_bytes <= replayed)
            return (double)(now_ns - k->history[i].at_ns) / 1e9;
    return k->n_history ? (double)(now_ns - k->history[0].at_ns) / 1e9 : 0;
}

static void read_sensors(struct keeper *k, const struct db_sample *d, struct governor_sample *s)
{
    int64_t now_ns = clock_mono_ns();
    double passed_s = k->last_ns ? (double)(now_ns - k->last_ns) / 1e9 : 0;

    *s = (struct governor_sample){.replica = d->replica, .done = d->done, .at_ns = now_ns};
    if (d->replica) {
        double behind_s = seconds_behind(k, d->replayed_bytes, d->wal_bytes, now_ns);

        s->of[SENSOR_LAG_S] = d->replayed_bytes >= d->wal_bytes ? 0 : fmax(behind_s, d->lag_s);
        s->of[SENSOR_LAG_MB] = fmax(d->wal_bytes - d->replayed_bytes, 0) / MB;
    }
    if (passed_s > 0)
        s->of[SENSOR_WAL] = (d->wal_bytes - k->last_wal) / MB / passed_s;
    s->of[SENSOR_ARCHIVE] = (double)d->archive;
    s->of[SENSOR_BLOCKED] = (double)d->blocked;
    s->of[SENSOR_WAITS] = (double)d->waits;
    remember(k, d->wal_bytes, now_ns);
    k->last_wal = d->wal_bytes;
    k->last_ns = now_ns;
}

static int write_sensors(struct buf *dst, const struct governor_sample *s)
{
    buf_append_char(dst, '{');
    for (int i = 0; i < N_SENSORS; i++)
        buf_appendf(dst, "%s\"%s\": %.6g", i ? ", " : "",
                    governor_sensor_name((enum sensor)i) + strlen("max_"), s->of[i]);
    buf_append_char(dst, '}');
    return buf_ok(dst);
}

/* ---- a step ---- */

static int take_limits(struct keeper *k, const struct db_governor *g, struct err *e)
{
    struct governor_limits l;

    if (k->limits && str_eq(k->limits, g->limits))
        return 0;
    int r = governor_limits_parse(g->limits, &l, e);

    if (r)
        return r;
    free(k->limits);
    k->limits = slice_dup(slice_str(g->limits));
    governor_init(&k->governor, &l, g->floor, g->rate);
    return k->limits ? 0 : -ENOMEM;
}

static int govern(struct keeper *k, struct arena *a, struct err *e)
{
    struct db *db = k->servers.db;
    CLEANUP(buf_deinit) struct buf sensors = BUF_INIT;
    struct governor_sample s;
    struct governor_verdict v;
    struct db_sample d;
    int r = db_governor_sample(db, k->governor.limits.of[SENSOR_ARCHIVE] > 0, a, &d, e);

    if (r)
        return r;
    read_sensors(k, &d, &s);
    governor_decide(&k->governor, &s, &v);
    r = write_sensors(&sensors, &s);
    if (!r)
        r = db_governor_write(
            db,
            &(struct db_governor){
                .rate = v.rate, .pressure = v.pressure, .reason = v.reason, .holder = k->name},
            sensors.data, e);
    if (!r && v.pause)
        r = db_governor_pause_all(db, "governor", v.reason, e);
    return r;
}

static int step(struct keeper *k, struct arena *a, bool *ret_needed, struct err *e)
{
    struct db_governor g;
    bool elected = false;
    int r = k->servers.db ? 0 : servers_open_db(&k->servers, k->args->database_url, e);

    if (!r)
        r = db_governor_read(k->servers.db, a, &g, e);
    if (r)
        return r;
    *ret_needed = !str_eq(g.limits, "{}") && !db_is_sqlite(k->servers.db);
    if (!*ret_needed)
        return 0;
    r = db_governor_elect(k->servers.db, k->name, &elected, e);
    if (!r && !elected) {
        free(k->limits); /* whoever is elected later starts from what is written there */
        k->limits = NULL;
        return 0;
    }
    if (!r)
        r = take_limits(k, &g, e);
    return r ? r : govern(k, a, e);
}

int keeper_step(struct keeper *k, bool *ret_needed, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    bool needed = false;
    int r = a ? step(k, a, &needed, e) : -ENOMEM;

    /* A database without control tables has nothing to govern. */
    if (r == DB_E_SCHEMA && k->servers.db && str_eq(db_sqlstate(k->servers.db), "42P01"))
        r = 0;
    if (r || !needed)
        servers_deinit(&k->servers);
    *ret_needed = needed;
    return r > 0 ? -EIO : r;
}
