/* SPDX-License-Identifier: Apache-2.0 */
/* One delivery of a batch: message -> file -> claim -> records -> end.
 *
 * The message is acknowledged only when the batch is done, cancelled, failed or parked, or when another delivery is known
 * to carry it on: a batch that is busy or was taken over makes this message wait until the lease has ended and look
 * again. Nothing is remembered between deliveries; the database says how far the batch is. */

#include "celeryc/base/clock.h"
#include "celeryc/migrate/runtime.h"

#include <errno.h>
#include <unistd.h>

#define RETRY_FACTOR_S 2.0
#define RETRY_MAX_S    300.0
#define STANDSTILL_S   10.0 /* until a batch looks again whether the governor lets it go on */

/* ---- the message ---- */

static const char *text_of(struct job *j, struct json_val kwargs, const char *name)
{
    struct slice s;

    return json_string_z(j->arena, json_get(kwargs, name), &s) || strlen(s.p) != s.len ? NULL : s.p;
}

static int bad_argument(struct job *j, const char *name, const char *what)
{
    return celeryc_raise(j->call, "TypeError", "%s() needs the keyword argument '%s': %s",
                         j->m->name, name, what);
}

/* true: go on. Else the task has ended. */
static bool read_message(struct job *j)
{
    struct json_val kwargs, params;
    struct err e = ERR_INIT;
    struct slice text;

    text.p = celeryc_kwargs_json(j->call, &text.len);
    if (json_scan(text, &kwargs, &e)) {
        (void)celeryc_raise(j->call, "TypeError", "the keyword arguments are no JSON object");
        return false;
    }
    j->plan = text_of(j, kwargs, "plan");
    j->source = text_of(j, kwargs, "source");
    j->alias = text_of(j, kwargs, "database");
    j->sha256 = text_of(j, kwargs, "sha256");
    params = json_get(kwargs, "params");
    if (!j->plan || !*j->plan)
        (void)bad_argument(j, "plan", "the id of the plan");
    else if (json_i64(json_get(kwargs, "batch"), &j->number) || j->number < 1)
        (void)bad_argument(j, "batch", "the number of the batch, from 1 on");
    else if (!j->source)
        (void)bad_argument(j, "source", "the URL of the batch file");
    else if (!json_is_null(params) && params.kind != JSON_K_OBJECT)
        (void)bad_argument(j, "params", "an object");
    else {
        j->params = params;
        if (!j->alias || !*j->alias)
            j->alias = "default";
        return true;
    }
    return false;
}

/* ---- ends ---- */

static int retry_in(struct job *j, double seconds)
{
    celeryc_retry_max(j->call, CELERYC_RETRY_FOREVER);
    return celeryc_retry(j->call, seconds);
}

/* Retries are counted by claims, not by deliveries: a message that only waited has not failed. */
static int retry_for(struct job *j, const struct failure *f)
{
    celeryc_retry_cause(j->call, f->error_class, f->e.text);
    return retry_in(j, celeryc_backoff(j->call, RETRY_FACTOR_S, RETRY_MAX_S, true));
}

static int raise_failure(struct job *j, const struct failure *f)
{
    return celeryc_raise(j->call, f->error_class, "%s", f->e.text);
}

static int return_state(struct job *j, const char *state)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    const struct db_counts *c = &j->counts;
    int64_t planned = j->batch ? (int64_t)batch_len(j->batch) : j->position;
    double seconds = (double)(clock_mono_ns() - j->began_ns) / 1e9;
    double rate = seconds > 0 ? (double)(j->position - j->start_position) / seconds : 0;

    buf_append_str(&b, "{\"plan\": ");
    json_write_string(&b, slice_str(j->plan));
    buf_appendf(
        &b,
        ", \"batch\": %lld, \"state\": \"%s\", \"counts\": {\"planned\": %lld, \"ok\": %lld, "
        "\"unchanged\": %lld, \"stale\": %lld, \"skipped\": %lld, \"quarantined\": %lld, "
        "\"remaining\": %lld}, \"duration\": %.6f, \"records_per_second\": %.1f, \"worker\": ",
        (long long)j->number, state, (long long)planned,
        (long long)(j->position - c->unchanged - c->stale - c->skipped - c->quarantined),
        (long long)c->unchanged, (long long)c->stale, (long long)c->skipped,
        (long long)c->quarantined, (long long)(planned - j->position), seconds, rate);
    json_write_string(&b, slice_str(celeryc_hostname(j->call)));
    buf_append_char(&b, '}');
    if (buf_ok(&b))
        return celeryc_raise(j->call, "MemoryError", "out of memory");
    return celeryc_return_json(j->call, b.data, b.len);
}

/* ---- claiming ---- */

static int claim(struct job *j, struct err *e)
{
    const struct batch_header *h = j->batch ? batch_get_header(j->batch) : NULL;
    CLEANUP(buf_deinit) struct buf columns = BUF_INIT;
    char owner[64];

    buf_append_char(&columns, '[');
    for (size_t i = 0; h && i < h->n_columns; i++) {
        buf_append_str(&columns, i ? ", " : "");
        json_write_string(&columns, slice_str(h->columns[i]));
    }
    buf_append_char(&columns, ']');
    if (buf_ok(&columns))
        return -ENOMEM;
    (void)snprintf(owner, sizeof(owner), "%d@", (int)getpid());
    const char *name = celeryc_hostname(j->call);
    const char *who = arena_printf(j->arena, "%s%s", owner, name ? name : "");
    const struct db_plan plan = {
        .plan = j->plan,
        .migration = j->m->name,
        .table = h ? h->table : NULL,
        .key = h ? h->key : NULL,
        .columns_json = columns.data,
        .database = j->alias,
        .params_json = json_is_null(j->params) ? NULL : arena_strdup(j->arena, j->params.raw),
        .created_by = name,
        .n_batches = h ? h->total_batches : 0};
    const struct db_batch_row row = {.batch = j->number,
                                     .source = h ? j->source : NULL,
                                     .sha256 = j->sha256,
                                     .count = h ? h->count : 0};
    const struct db_claim_request q = {.plan = &plan,
                                       .batch = &row,
                                       .worker = name,
                                       .owner = who,
                                       .takeover = celeryc_redelivered(j->call),
                                       .lease_ms = j->rt->options.lease_ms};

    if (!who)
        return -ENOMEM;
    int r = db_batch_claim(j->conn->db, &q, &j->claim, e);

    /* A connection that was idle may have been cut without a word: once more on a new one. */
    if (r == DB_E_RETRY && !celeryc_should_stop(j->call)) {
        *e = ERR_INIT;
        r = db_batch_claim(j->conn->db, &q, &j->claim, e);
    }
    if (!r) {
        j->position = j->start_position = j->claim.position;
        j->counts = j->claim.counts;
        j->policy = (struct policy){
            .on_error = j->claim.on_error, .retry_on = j->claim.retry_on, .own = j->m->retry_on};
    }
    return r;
}

/* ---- the end of the work ---- */

static int release(struct job *j, enum db_release_kind kind, const char *text,
                   const struct db_failure *f)
{
    struct db_release rel = {.kind = kind, .error = text, .failure = f};
    struct err e = ERR_INIT;
    return db_batch_release(j->conn->db, j->plan, j->number, j->claim.token, &rel, &e);
}

/* A batch that cannot be failed in the database (it is away) must not be acknowledged. */
static int end_failed(struct job *j, const struct failure *f, enum db_release_kind kind)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    const struct db_failure parts = {f->error_class, f->sqlstate, f->e.text};

    buf_appendf(&text, "%s%s%s: %s", f->error_class, f->sqlstate[0] ? " " : "", f->sqlstate,
                f->e.text);
    int r = buf_ok(&text) ? -ENOMEM : release(j, kind, text.data, &parts);

    if (r == DB_E_FENCED)
        return retry_in(j, (double)j->rt->options.lease_ms / 1000);
    if (r)
        return retry_for(j, f);
    callbacks_send(j, false);
    return raise_failure(j, f);
}

static int end_retry(struct job *j, const struct failure *f)
{
    struct policy_answer a = policy_ask(&j->policy, f->error_class, f->sqlstate);
    int64_t tries = job_tries(j) + 1;

    if (tries >= a.max_attempts) {
        struct failure last = *f;

        (void)err_prefix(&last.e, 0, "given up after %lld attempts", (long long)tries);
        return end_failed(j, &last, DB_RELEASE_FAILED);
    }
    /* When the database is away the lease ends by itself. */
    (void)release(j, DB_RELEASE_RETRY, f->e.text, NULL);
    celeryc_log(j->call, CELERYC_WARNING, "batch %lld of plan %s will be tried again: %s: %s",
                (long long)j->number, j->plan, f->error_class, f->e.text);
    return retry_for(j, f);
}

static int end_done(struct job *j)
{
    struct db_finish fin = {0};
    struct failure f = {0};
    int r = db_batch_finish(j->conn->db, j->plan, j->number, j->claim.token, &fin, &f.e);

    if (r == DB_E_FENCED)
        return retry_in(j, (double)j->rt->options.lease_ms / 1000);
    if (r) {
        failure_from_db(&f, j->conn->db, r);
        return end_retry(j, &f);
    }
    callbacks_send(j, false);
    return return_state(j, "done");
}

/* The plan is paused; its sweep sends the batch again when somebody has resumed it. */
static int parked(struct job *j)
{
    breaker_forget(&j->conn->breaker);
    return return_state(j, "parked");
}

static int work(struct job *j)
{
    struct failure f = {0};

    switch (work_batch(j, &f)) {
    case WORK_DONE:
        return end_done(j);
    case WORK_STOPPED:
        (void)release(j, DB_RELEASE_CLEAN, NULL, NULL);
        return celeryc_reject(j->call, "the worker stops", true);
    case WORK_PAUSED:
        (void)release(j, DB_RELEASE_CLEAN, NULL, NULL);
        callbacks_send(j, false); /* a limit that this batch reached may have paused the plan */
        return parked(j);
    case WORK_CANCELLED:
        (void)release(j, DB_RELEASE_CLEAN, NULL, NULL);
        return return_state(j, "cancelled");
    case WORK_STANDSTILL:
        (void)release(j, DB_RELEASE_CLEAN, NULL, NULL);
        return retry_in(j, STANDSTILL_S);
    case WORK_FENCED:
        return retry_in(j, (double)j->rt->options.lease_ms / 1000);
    case WORK_RETRY:
        return end_retry(j, &f);
    case WORK_FAIL_PLAN:
        return end_failed(j, &f, DB_RELEASE_FAIL_PLAN);
    case WORK_FAILED:
        break;
    }
    return end_failed(j, &f, DB_RELEASE_FAILED);
}

/* A batch that was done before: the callbacks may have been lost with the worker that sent them. */
static int already_done(struct job *j)
{
    callbacks_send(j, celeryc_redelivered(j->call));
    return return_state(j, "done");
}

static int claimed(struct job *j)
{
    switch (j->claim.state) {
    case DB_CLAIM_OURS:
        return work(j);
    case DB_CLAIM_DONE:
        return already_done(j);
    case DB_CLAIM_CANCELLED:
        return return_state(j, "cancelled");
    case DB_CLAIM_PAUSED:
        return parked(j);
    case DB_CLAIM_BUSY:
        break;
    }
    return retry_in(j, (double)j->claim.retry_after_ms / 1000 + 0.05);
}

/* The claim itself failed: nothing is held. */
static int claim_failed(struct job *j, int code, struct failure *f)
{
    failure_from_db(f, j->conn->db, code);
    return f->transient ? retry_for(j, f) : raise_failure(j, f);
}

/* The file cannot be had. A batch that was planned here is failed, so that its plan can end; a message that came by
 * itself only fails as a task. */
static int without_file(struct job *j, const struct failure *f)
{
    struct failure other = {0};

    j->batch = batch_free(j->batch); /* its header is not to be trusted */
    int r = claim(j, &other.e);

    if (r == -ENOENT || r == -EBADMSG)
        return raise_failure(j, f);
    if (r)
        return claim_failed(j, r, &other);
    if (j->claim.state != DB_CLAIM_OURS)
        return claimed(j);
    if (policy_ask(&j->policy, f->error_class, f->sqlstate).action == DB_ACT_RETRY)
        return end_retry(j, f);
    return end_failed(j, f, DB_RELEASE_FAILED);
}

static int run(struct job *j)
{
    struct failure f = {0};
    int r;

    if (!read_message(j))
        return 0;
    r = connection_get(j->rt, j->alias, &j->conn, &f.e);
    if (r < 0 || r == DB_E_SCHEMA)
        return celeryc_raise(j->call, r == -EINVAL ? "LookupError" : "OperationalError", "%s",
                             err_text(&f.e, r));
    if (r) {
        failure_set(&f, "OperationalError", true, "%s", f.e.text);
        return retry_for(j, &f);
    }
    switch (source_fetch(j, &f)) {
    case WORK_DONE:
        break;
    case WORK_RETRY:
        if (celeryc_retries(j->call) < POLICY_MAX_ATTEMPTS)
            return retry_for(j, &f);
        return without_file(j, &f);
    default:
        return without_file(j, &f);
    }
    r = claim(j, &f.e);
    return r ? claim_failed(j, r, &f) : claimed(j);
}

int migrate_run(struct celeryc_call *call, void *ctx)
{
    const struct migration_task *t = ctx;
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct job j = {.call = call, .rt = t->rt, .m = &t->m, .arena = a, .began_ns = clock_mono_ns()};

    if (!a)
        return celeryc_raise(call, "MemoryError", "out of memory");
    int r = run(&j);

    j.batch = batch_free(j.batch);
    db_claim_deinit(&j.claim);
    return r;
}
