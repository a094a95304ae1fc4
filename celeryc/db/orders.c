/* SPDX-License-Identifier: Apache-2.0 */
/* What a worker has to obey: read in the round trip of every chunk, and by a heartbeat where no chunk is due.
 *
 * A rate is shared by the batches that are being worked on just now: each gets the same part, and the smaller one of
 * its plan's and the governor's counts. A governor that has limits to watch and does not speak is taken for a bad sign:
 * its floor after 5 s, nothing after 15 s. */

#include "celeryc/db/db_priv.h"

#include "celeryc/base/num.h"

#include <errno.h>
#include <math.h>

#define SILENT_S 5.0
#define DEAD_S   15.0

/* Cells of DB_ORDERS_COLUMNS. */
enum {
    AT_STATE,
    AT_CLOSED,
    AT_RATE,
    AT_CHUNK_MS,
    AT_RUNNING,
    AT_STOPPED,
    AT_G_RATE,
    AT_FLOOR,
    AT_SILENT_S,
    AT_ALL_RUNNING
};

static double number(struct slice s, double missing)
{
    double v = missing;

    return !s.p || num_parse_f64(s, &v) ? missing : v;
}

static bool is_true(struct slice s)
{
    return slice_eq_str(s, "t") || slice_eq_str(s, "1");
}

static double governor_rate(const struct slice *cells)
{
    double rate = number(cells[AT_G_RATE], INFINITY);
    double silent_s = number(cells[AT_SILENT_S], 0);

    if (silent_s > DEAD_S)
        return 0;
    return silent_s > SILENT_S ? fmin(rate, number(cells[AT_FLOOR], 0)) : rate;
}

int db_orders_read(const struct slice *cells, struct db_orders *ret_o)
{
    double n = fmax(number(cells[AT_RUNNING], 1), 1),
           all = fmax(number(cells[AT_ALL_RUNNING], 1), 1);
    struct db_orders o = {
        .closed = is_true(cells[AT_CLOSED]),
        .stopped = is_true(cells[AT_STOPPED]),
        .chunk_ms = (int64_t)number(cells[AT_CHUNK_MS], 0),
        .rate = fmin(number(cells[AT_RATE], INFINITY) / n, governor_rate(cells) / all),
    };

    if (db_plan_state_parse(cells[AT_STATE], &o.state))
        return -EINVAL;
    *ret_o = o;
    return 0;
}

static int write_beat(struct db *db, const struct db_beat *b, struct db_orders *ret_o,
                      struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows beat = {0}, rows = {0};
    const struct db_val v[] = {db_int(b->lease_ms), db_text(b->plan), db_int(b->batch),
                               db_int(b->token), db_int(b->throttled_ms)};
    int r = db_exec(db,
                    "UPDATE scatter_batch SET lease_until = @lease@, throttled_ms = throttled_ms + "
                    "CAST($5 AS bigint) WHERE plan = $2 AND batch = $3 AND lease_token = $4 AND "
                    "state = 'running'",
                    v, ARRAY_SIZE(v), &beat, e);

    if (!r && beat.changed == 0)
        r = err_set(e, DB_E_FENCED, "batch %lld of plan %s belongs to another worker now",
                    (long long)b->batch, b->plan);
    if (!r)
        r = db_exec(db, "SELECT " DB_ORDERS_COLUMNS " FROM " DB_ORDERS_TABLES " WHERE p.plan = $1",
                    &v[1], 1, &rows, e);
    if (r)
        return r;
    if (rows.n_rows != 1 || db_orders_read(rows.cell, ret_o))
        return err_set(e, db_fail(db, "58000"), "the plan's row cannot be understood");
    return 0;
}

int db_batch_beat(struct db *db, const struct db_beat *b, struct db_orders *ret_o, struct err *e)
{
    struct db_orders o;
    int r = db->ops->begin(db, b->lease_ms, e);

    if (r)
        return r;
    r = db_end(db, write_beat(db, b, &o, e), e);
    if (!r)
        *ret_o = o;
    return r;
}

/* ---- beside a call that takes long ---- */

int db_batch_look(struct db *db, const struct db_beat *b, struct db_orders *ret_o, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    const struct db_val v[] = {db_text(b->plan), db_int(b->batch), db_int(b->token)};
    int r = db_exec(db,
                    "SELECT " DB_ORDERS_COLUMNS
                    ", (SELECT count(*) FROM scatter_batch x WHERE x.plan = $1 AND x.batch = $2 "
                    "AND x.lease_token = $3 AND x.state = 'running') FROM " DB_ORDERS_TABLES
                    " WHERE p.plan = $1",
                    v, ARRAY_SIZE(v), &rows, e);

    if (r)
        return r;
    if (rows.n_rows != 1 || db_cell_i64(&rows, 0, DB_ORDERS_CELLS) != 1)
        return err_set(e, DB_E_FENCED, "batch %lld of plan %s belongs to another worker now",
                       (long long)b->batch, b->plan);
    if (db_orders_read(rows.cell, ret_o))
        return err_set(e, db_fail(db, "58000"), "the plan's row cannot be understood");
    return 0;
}

/* A row that is locked is left alone: it is our own chunk that has it, or somebody who is about to claim it and sees
 * that the lease has not ended, or that it has. */
static int renew(struct db *db, const struct db_beat *b, bool *ret_renewed, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    const struct db_val v[] = {db_int(b->lease_ms), db_text(b->plan), db_int(b->batch),
                               db_int(b->token)};
    int r = db_exec(db,
                    "UPDATE scatter_batch SET lease_until = @lease@ WHERE plan = $2 AND batch = "
                    "(SELECT b.batch FROM scatter_batch b WHERE b.plan = $2 AND b.batch = $3 AND "
                    "b.lease_token = $4 AND b.state = 'running' @skip_b@)",
                    v, ARRAY_SIZE(v), &rows, e);

    if (!r)
        *ret_renewed = rows.changed == 1;
    return r;
}

int db_batch_watch(struct db *db, const struct db_beat *b, bool wanted, struct db_orders *ret_o,
                   bool *ret_renewed, struct err *e)
{
    bool renewed = false, alone = !wanted && db_is_sqlite(db); /* a reader needs no turn there */
    struct db_orders o;
    int r = alone ? 0 : db->ops->begin(db, b->lease_ms, e);

    if (r)
        return r;
    if (wanted)
        r = renew(db, b, &renewed, e);
    if (!r)
        r = db_batch_look(db, b, &o, e);
    if (!alone)
        r = db_end(db, r, e);
    if (r)
        return r;
    *ret_o = o;
    *ret_renewed = renewed;
    return 0;
}
