/* SPDX-License-Identifier: Apache-2.0 */
/* Telling others: on_batch after each batch, on_finish after the last one.
 *
 * Each callback has a task id that follows from plan and batch, so that sending it again (after a crash between the
 * database's commit and the message) gives no second task of another name. */

#include "celeryc/migrate/runtime.h"

struct totals {
    int64_t planned, ok, remaining;
    struct db_counts c;
    double duration_s;
};

static void write_counts(struct buf *b, const struct totals *t)
{
    buf_appendf(
        b,
        "\"counts\": {\"planned\": %lld, \"ok\": %lld, \"unchanged\": %lld, \"stale\": %lld, "
        "\"skipped\": %lld, \"quarantined\": %lld, \"remaining\": %lld}, \"duration\": ",
        (long long)t->planned, (long long)t->ok, (long long)t->c.unchanged, (long long)t->c.stale,
        (long long)t->c.skipped, (long long)t->c.quarantined, (long long)t->remaining);
    json_write_f64(b, t->duration_s);
}

/* Failures as the database lists them, with the batch's own in front when it failed as a whole. */
static void write_failures(struct buf *b, const struct job *j, int64_t batch,
                           const struct failure *f)
{
    CLEANUP(buf_deinit) struct buf list = BUF_INIT;
    struct err e = ERR_INIT;
    struct slice s = SLICE_LIT("[]");

    if (db_failures_json(j->conn->db, j->plan, batch, MIGRATE_MAX_FAILURES, &list, &e) == 0)
        s = buf_slice(&list);
    buf_append_str(b, ", \"failures\": ");
    if (!f) {
        buf_append_slice(b, s);
        return;
    }
    buf_appendf(b, "[{\"batch\": %lld, \"key\": null, \"outcome\": \"failed\", \"error_class\": ",
                (long long)j->number);
    json_write_string(b, slice_str(f->error_class));
    buf_append_str(b, ", \"sqlstate\": ");
    json_write_string_or_null(b, f->sqlstate[0] ? slice_str(f->sqlstate) : SLICE_NULL);
    buf_append_str(b, ", \"message\": ");
    json_write_string(b, slice_str(f->e.text));
    buf_append_char(b, '}');
    if (s.len > 2)
        buf_append_str(b, ", ");
    buf_append(b, s.p + 1, s.len - 1);
}

static void send(struct job *j, const char *name, const char *state, int64_t batch,
                 const struct totals *t, const struct failure *f)
{
    CLEANUP(buf_deinit) struct buf kwargs = BUF_INIT, id_name = BUF_INIT;
    char id[37];

    buf_append_str(&kwargs, "{\"plan\": ");
    json_write_string(&kwargs, slice_str(j->plan));
    if (batch)
        buf_appendf(&kwargs, ", \"batch\": %lld", (long long)batch);
    buf_append_str(&kwargs, ", \"migration\": ");
    json_write_string(&kwargs, slice_str(j->m->name));
    buf_append_str(&kwargs, ", \"state\": ");
    json_write_string(&kwargs, slice_str(state));
    buf_append_str(&kwargs, ", ");
    write_counts(&kwargs, t);
    buf_append_str(&kwargs, ", \"worker\": ");
    json_write_string(&kwargs, slice_str(celeryc_hostname(j->call)));
    write_failures(&kwargs, j, batch, f);
    buf_append_char(&kwargs, '}');
    buf_appendf(&id_name, "scatter:%s:", j->plan);
    if (batch)
        buf_appendf(&id_name, "%lld:on_batch", (long long)batch);
    else
        buf_append_str(&id_name, "on_finish");
    if (buf_ok(&kwargs) || buf_ok(&id_name)) {
        celeryc_log(j->call, CELERYC_ERROR, "out of memory, callback %s was not sent", name);
        return;
    }
    batch_name_id(buf_slice(&id_name), id);
    if (celeryc_send(j->call, name, NULL, kwargs.data, NULL, 0, id))
        celeryc_log(j->call, CELERYC_ERROR, "callback %s could not be sent", name);
}

static void send_on_finish(struct job *j)
{
    CLEANUP(db_plan_status_deinit) struct db_plan_status s = {0};
    struct err e = ERR_INIT;
    int r = db_plan_status(j->conn->db, j->plan, &s, &e);

    if (r) {
        celeryc_log(j->call, CELERYC_ERROR, "callback %s was not sent: %s", j->claim.on_finish,
                    err_text(&e, r));
        return;
    }
    const struct totals t = {.planned = s.total,
                             .ok = s.ok,
                             .remaining = s.remaining,
                             .c = {.unchanged = s.unchanged,
                                   .stale = s.stale,
                                   .skipped = s.skipped,
                                   .quarantined = s.quarantined},
                             .duration_s = s.finished_us && s.started_us
                                               ? (double)(s.finished_us - s.started_us) / 1e6
                                               : 0};

    send(j, j->claim.on_finish, s.state, 0, &t, NULL);
}

void callbacks_send(struct job *j, const char *state, const struct db_finish *fin, bool plan_ended,
                    const struct failure *f)
{
    if (j->claim.on_batch) {
        int64_t done = fin->ok + fin->counts.unchanged + fin->counts.stale + fin->counts.skipped +
                       fin->counts.quarantined;
        int64_t planned = j->batch ? (int64_t)batch_len(j->batch) : done;
        const struct totals t = {.planned = planned,
                                 .ok = fin->ok,
                                 .remaining = planned - done,
                                 .c = fin->counts,
                                 .duration_s = fin->duration_s};

        send(j, j->claim.on_batch, state, j->number, &t, f);
    }
    if (plan_ended && j->claim.on_finish)
        send_on_finish(j);
}
