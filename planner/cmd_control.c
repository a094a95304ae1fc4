/* SPDX-License-Identifier: Apache-2.0 */
/* pause, resume, cancel, drain and set: the plan's row is written, workers obey with their next chunk. */

#include "planner/plan.h"

#include "celeryc/base/num.h"
#include "celeryc/message/json.h"
#include "celeryc/migrate/sweep.h"
#include "planner/outbox.h"

#include <errno.h>

#define TRIES 5

static const char *past(enum command c)
{
    switch (c) {
    case COMMAND_PAUSE:
        return "paused";
    case COMMAND_RESUME:
        return "resumed";
    case COMMAND_CANCEL:
        return "cancelled";
    default:
        return "drained";
    }
}

static int write_answer(struct buf *dst, const struct args *a, const struct db_plan_status *s,
                        bool changed, size_t sent)
{
    if (str_eq(a->format, "json")) {
        buf_append_str(dst, "{\"plan\": ");
        json_write_string(dst, slice_str(a->plan));
        buf_append_str(dst, ", \"state\": ");
        json_write_string(dst, slice_str(s->state));
        buf_appendf(dst, ", \"changed\": %s, \"sent\": %zu}\n", changed ? "true" : "false", sent);
    } else if (!changed) {
        buf_appendf(dst, "plan %s is %s: nothing to do\n", a->plan, s->state);
    } else {
        buf_appendf(dst, "plan %s is %s", a->plan, s->state);
        if (sent)
            buf_appendf(dst, ", %zu messages were sent", sent);
        if (str_eq(s->state, "draining"))
            buf_appendf(dst, ": its %lld open batches are finished, then it is paused",
                        (long long)s->batches_running);
        buf_append_char(dst, '\n');
    }
    return buf_ok(dst);
}

/* What a resumed plan needs goes at once; an interruption leaves the rest to the next sweep. */
static int send_again(struct servers *s, const struct args *a, size_t *ret_sent, struct err *e)
{
    const struct sweep_options o = {.db = s->db,
                                    .redis = s->redis,
                                    .key_prefix = a->key_prefix,
                                    .plan = a->plan,
                                    .resumed = true,
                                    .lease_ms = SWEEP_LEASE_MS};
    struct sweep_result res = {0};
    int code = migrate_sweep(&o, &res, e);

    if (code)
        return err_prefix(e, code < 0 ? code : -EIO,
                          "plan %s is resumed, but batches may lack their message; run "
                          "scatter-plan sweep",
                          a->plan);
    *ret_sent = res.sent;
    return 0;
}

/* Workers lock the same rows for a moment: what a lock has kept from us is tried again. */
static int control(struct db *db, enum db_plan_verb verb, const struct args *a, bool *ret_changed,
                   struct err *e)
{
    int code = DB_E_RETRY;

    for (int i = 0; i < TRIES && code == DB_E_RETRY; i++) {
        *e = ERR_INIT;
        code = db_plan_control(db, verb, a->plan, a->created_by, a->reason, ret_changed, e);
    }
    return code;
}

int plan_control(const struct args *a, struct buf *dst, struct err *e)
{
    CLEANUP(servers_deinit) struct servers s = {0};
    CLEANUP(db_plan_status_deinit) struct db_plan_status now = {0};
    enum db_plan_verb verb = a->command == COMMAND_PAUSE    ? DB_PLAN_PAUSE
                             : a->command == COMMAND_RESUME ? DB_PLAN_RESUME
                             : a->command == COMMAND_CANCEL ? DB_PLAN_CANCEL
                                                            : DB_PLAN_DRAIN;
    bool changed = false;
    int64_t n_callbacks;
    size_t sent = 0;
    int code = servers_open_db(&s, a->database_url, e);

    if (!code && verb == DB_PLAN_RESUME)
        code = servers_open_broker(&s, a->broker, e);
    if (!code)
        code = servers_find_plan(&s, a->plan, e);
    if (!code)
        code = control(s.db, verb, a, &changed, e);
    if (!code && verb == DB_PLAN_RESUME)
        code = windows_roll(s.db, a->plan, e);
    if (!code && verb == DB_PLAN_RESUME)
        code = send_again(&s, a, &sent, e);
    if (!code && a->broker)
        code = outbox_send_all(s.db, a, a->plan, OUTBOX_ABANDONED_S, &n_callbacks, e);
    if (!code)
        code = db_plan_status(s.db, a->plan, &now, e);
    if (code)
        return err_prefix(e, code < 0 ? code : -EIO, "the plan could not be %s", past(a->command));
    return write_answer(dst, a, &now, changed || sent, sent);
}

/* ---- set ---- */

static int set_number(const char *word, const char *name, const char *value, double *ret_v,
                      struct err *e)
{
    if (str_eq(value, "none")) {
        *ret_v = 0;
        return 0;
    }
    if (num_parse_f64(slice_str(value), ret_v) || !(*ret_v > 0) || *ret_v > 1e9)
        return err_set(e, ARGS_E_MISTAKE, "%s: %s is a number above 0, or none", word, name);
    return 0;
}

static int set_count(const char *word, const char *name, const char *value, int64_t most,
                     int64_t *ret_n, struct err *e)
{
    if (str_eq(value, "none")) {
        *ret_n = 0;
        return 0;
    }
    if (num_parse_i64(slice_str(value), ret_n) || *ret_n < 1 || *ret_n > most)
        return err_set(e, ARGS_E_MISTAKE, "%s: %s is a whole number from 1 to %lld, or none", word,
                       name, (long long)most);
    return 0;
}

/* One of rate=, chunk_ms=, workers=. */
static int set_word(const char *word, struct db_plan_knobs *k, struct err *e)
{
    const char *eq = strchr(word, '=');
    struct slice name = {word, eq ? (size_t)(eq - word) : 0};

    if (!eq)
        return err_set(e, ARGS_E_MISTAKE, "%s: write NAME=VALUE", word);
    if (slice_eq_str(name, "rate")) {
        k->set_rate = true;
        return set_number(word, "rate", eq + 1, &k->rate, e);
    }
    if (slice_eq_str(name, "chunk_ms")) {
        k->set_chunk_ms = true;
        return set_count(word, "chunk_ms", eq + 1, 60000, &k->chunk_ms, e);
    }
    if (slice_eq_str(name, "workers")) {
        k->set_max_workers = true;
        return set_count(word, "workers", eq + 1, INT32_MAX, &k->max_workers, e);
    }
    return err_set(e, ARGS_E_MISTAKE, "%s: what can be set is rate, chunk_ms and workers", word);
}

int plan_set(const struct args *a, struct buf *dst, struct err *e)
{
    CLEANUP(servers_deinit) struct servers s = {0};
    struct db_plan_knobs k = {.plan = a->plan, .who = a->created_by};
    int code = 0;

    for (size_t i = 0; !code && i < a->words.n; i++)
        code = set_word(a->words.items[i], &k, e);
    if (!code && a->words.n == 0)
        code = err_set(e, ARGS_E_MISTAKE, "nothing to set: rate=N, chunk_ms=N or workers=N");
    if (code)
        return code;
    code = servers_open_db(&s, a->database_url, e);
    if (!code)
        code = servers_find_plan(&s, a->plan, e);
    if (!code)
        code = db_plan_set(s.db, &k, e);
    if (code)
        return code == ARGS_E_MISTAKE || code < 0 ? code : -EIO;
    if (str_eq(a->format, "json")) {
        buf_append_str(dst, "{\"plan\": ");
        json_write_string(dst, slice_str(a->plan));
        buf_append_str(dst, ", \"changed\": true}\n");
    } else {
        buf_appendf(dst, "plan %s: set\n", a->plan);
    }
    return buf_ok(dst);
}
