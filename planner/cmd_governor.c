/* SPDX-License-Identifier: Apache-2.0 */
/* governor: show it, set its limits, stop and start everything on a database. */

#include "planner/keeper.h"
#include "planner/plan.h"

#include "celeryc/base/num.h"
#include "celeryc/message/json.h"

#include <errno.h>
#include <math.h>

int governor_limits_parse(const char *text, struct governor_limits *ret_l, struct err *e)
{
    struct governor_limits l = {.critical = 0};
    struct json_val v;
    int r = json_scan(slice_str(text), &v, e);

    for (int i = 0; !r && i < N_SENSORS; i++)
        (void)!json_f64(json_get(v, governor_sensor_name((enum sensor)i)), &l.of[i]);
    if (r)
        return err_prefix(e, -EINVAL, "scatter_governor.limits");
    (void)!json_f64(json_get(v, "critical"), &l.critical);
    (void)!json_f64(json_get(v, "ceiling"), &l.ceiling);
    *ret_l = l;
    return 0;
}

static void write_number(struct buf *dst, const char *name, double v)
{
    if (v > 0)
        buf_appendf(dst, "%s\"%s\": %.6g", dst->len > 1 ? ", " : "", name, v);
}

static int write_limits(struct buf *dst, const struct governor_limits *l)
{
    buf_append_char(dst, '{');
    for (int i = 0; i < N_SENSORS; i++)
        write_number(dst, governor_sensor_name((enum sensor)i), l->of[i]);
    write_number(dst, "critical", l->critical);
    write_number(dst, "ceiling", l->ceiling);
    buf_append_char(dst, '}');
    return buf_ok(dst);
}

static int set_floor(const char *word, double *floor, struct err *e)
{
    if (num_parse_f64(slice_str(word + strlen("floor=")), floor) || !(*floor > 0))
        return err_set(e, ARGS_E_MISTAKE, "%s: a number above 0", word);
    return 0;
}

static int set(struct db *db, const struct args *a, const struct db_governor *g, struct err *e)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    struct governor_limits l;
    double floor = g->floor;
    int r = governor_limits_parse(g->limits, &l, e);

    if (!r && a->words.n < 2)
        r = err_set(e, ARGS_E_MISTAKE, "nothing to set: max_lag_s=2, for example");
    if (!r && db_is_sqlite(db))
        r = err_set(e, -EINVAL, "an SQLite database has nothing that could be watched");
    for (size_t i = 1; !r && i < a->words.n; i++)
        r = strncmp(a->words.items[i], "floor=", 6) == 0
                ? set_floor(a->words.items[i], &floor, e)
                : governor_set_word(&l, a->words.items[i], e);
    if (!r)
        r = write_limits(&text, &l);
    return r ? r : db_governor_limit(db, text.data, floor, e);
}

static int show(struct buf *dst, const struct args *a, const struct db_governor *g)
{
    if (str_eq(a->format, "json")) {
        buf_appendf(dst, "{\"stopped\": %s, \"rate\": ", g->stopped ? "true" : "false");
        if (isinf(g->rate))
            buf_append_str(dst, "null");
        else
            buf_appendf(dst, "%.6g", g->rate);
        buf_appendf(dst, ", \"pressure\": %.3g, \"limits\": %s, \"reason\": ", g->pressure,
                    g->limits);
        json_write_string(dst, slice_str(g->reason));
        buf_append_str(dst, ", \"holder\": ");
        json_write_string(dst, slice_str(g->holder));
        buf_append_str(dst, "}\n");
        return buf_ok(dst);
    }
    buf_appendf(dst, "migrations   %s\nlimits       %s\n",
                g->stopped ? "STOPPED (scatter-plan governor start)" : "allowed", g->limits);
    if (isinf(g->rate))
        buf_append_str(dst, "rate         no limit\n");
    else
        buf_appendf(dst, "rate         %.0f records/s: %s\n", g->rate, g->reason);
    return buf_ok(dst);
}

int plan_governor(const struct args *a, struct buf *dst, struct err *e)
{
    CLEANUP(servers_deinit) struct servers s = {0};
    CLEANUP(arena_free) struct arena *arena = arena_new();
    const char *word = a->words.n ? a->words.items[0] : "show";
    struct db_governor g;

    if (a->words.n > 1 && !str_eq(word, "set"))
        return err_set(e, ARGS_E_MISTAKE, "%s: nothing can stand behind %s", a->words.items[1],
                       word);
    int r = arena ? servers_open_db(&s, a->database_url, e) : -ENOMEM;

    if (!r)
        r = db_ensure_schema(s.db, e);
    if (!r)
        r = db_governor_read(s.db, arena, &g, e);
    if (!r && (str_eq(word, "stop") || str_eq(word, "start")))
        r = db_governor_stop(s.db, str_eq(word, "stop"), e);
    else if (!r && str_eq(word, "set"))
        r = set(s.db, a, &g, e);
    else if (!r && !str_eq(word, "show"))
        return err_set(e, ARGS_E_MISTAKE, "%s: the governor knows show, set, stop and start", word);
    if (r == ARGS_E_MISTAKE)
        return r;
    if (!r)
        r = db_governor_read(s.db, arena, &g, e);
    if (r)
        return r < 0 ? r : -EIO;
    return show(dst, a, &g);
}
