/* SPDX-License-Identifier: Apache-2.0 */
/* Retries: the decision, which is taken before anything is published, and the delays.
 *
 * As in Task.retry: when the retries are used up, the cause is raised, or MaxRetriesExceededError without one. The
 * message is made when the function has returned: from the one that is run, or, with other options, from the signature
 * that Celery makes of a request. */

#include "celeryc/base/clock.h"
#include "celeryc/base/codec.h"
#include "celeryc/base/limits.h"
#include "celeryc/task/call_priv.h"

#include <errno.h>
#include <math.h>

#define COUNTDOWN_MAX (100.0 * 365 * 86400) /* seconds; later times cannot be written */

void celeryc_retry_cause(struct celeryc_call *call, const char *type, const char *message)
{
    int rc = exception_set_text(&call->cause, call->arena, type ? type : "",
                                slice_str(message ? message : ""));
    if (rc < 0)
        call->failed_alloc = true;
    call->has_cause = rc == 0;
}

void celeryc_retry_max(struct celeryc_call *call, int max_retries)
{
    call->has_retry_max = true;
    call->retry_max = max_retries == CELERYC_RETRY_NEVER ? 0 : max_retries;
}

static void raise_used_up(struct celeryc_call *call, struct place place)
{
    if (call->has_cause) {
        call->exception = call->cause;
    } else {
        CLEANUP(buf_deinit) struct buf text = BUF_INIT;
        buf_appendf(&text, "Can't retry %s[%s] args:", celeryc_task_name(call), call->id);
        json_write_repr(&text, call->body->args, true, LIMIT_TRACEBACK_BYTES);
        buf_append_str(&text, " kwargs:");
        json_write_repr(&text, call->body->kwargs, false, LIMIT_TRACEBACK_BYTES);
        if (buf_ok(&text) < 0 ||
            exception_set_text(&call->exception, call->arena, "MaxRetriesExceededError",
                               buf_slice(&text)) < 0)
            call->failed_alloc = true;
    }
    call->end = END_RAISE;
    call->place = place;
}

int celeryc_retry_at(struct celeryc_call *call, const char *file, int line, const char *function,
                     double countdown)
{
    struct place place = {file, line, function};
    int max = call->has_retry_max ? call->retry_max : call->task->info.max_retries;
    if (max >= 0 && call->m->retries >= max) {
        raise_used_up(call, place);
        return 0;
    }
    if (!(countdown >= 0))
        countdown = call->task->info.default_retry_delay;
    call->countdown = fmin(countdown, COUNTDOWN_MAX);
    call->end = END_RETRY;
    call->place = place;
    return 0;
}

int(celeryc_retry)(struct celeryc_call *call, double countdown)
{
    return celeryc_retry_at(call, NULL, 0, NULL, countdown);
}

/* ---- other arguments and options ---- */

static void keep_json(struct celeryc_call *call, const char *text, enum json_kind kind,
                      const char *error, struct slice *ret_text)
{
    struct json_val v;
    struct err e = ERR_INIT;
    *ret_text = SLICE_NULL;
    if (!text)
        return;
    int rc = json_scan(slice_str(text), &v, &e);
    if (rc || v.kind != kind) {
        call->failed_alloc |= rc == -ENOMEM;
        call->retry_error = error;
        return;
    }
    *ret_text = (struct slice){arena_strdup(call->arena, v.raw), v.raw.len};
    call->failed_alloc |= !ret_text->p;
}

void celeryc_retry_args(struct celeryc_call *call, const char *args_json, const char *kwargs_json)
{
    call->retry_error = NULL;
    keep_json(call, args_json, JSON_K_ARRAY, "the arguments of the retry are no JSON array",
              &call->retry_args);
    keep_json(call, kwargs_json, JSON_K_OBJECT,
              "the keyword arguments of the retry are no JSON object", &call->retry_kwargs);
}

/* The place of a parameter by its JSON key; n_params when it is none. */
static size_t param_at(const struct celeryc_call *call, struct json_val key)
{
    struct slice name;
    size_t i = 0;
    if (json_string_z(call->arena, key, &name) < 0)
        return call->task->n_params;
    while (i < call->task->n_params && !slice_eq_str(name, call->task->params[i]))
        i++;
    return i;
}

static void append_member(struct buf *dst, struct json_val key, struct json_val v)
{
    buf_append_str(dst, dst->len > 1 ? ", " : "");
    if (key.kind != JSON_K_NONE) {
        buf_append_slice(dst, key.raw);
        buf_append_str(dst, ": ");
    }
    buf_append_slice(dst, v.raw);
}

/* New arguments by position take the place of the old ones by keyword. */
static void drop_replaced_keywords(struct celeryc_call *call, size_t n_args, struct buf *kwargs)
{
    struct json_iter it;
    buf_append_char(kwargs, '{');
    for (json_iter_init(&it, call->body->kwargs); json_next(&it);)
        if (param_at(call, it.key) >= MIN(n_args, call->task->n_params))
            append_member(kwargs, it.key, it.val);
    buf_append_char(kwargs, '}');
}

/* New arguments by keyword take the place of the old ones by position. */
static void replace_positions(struct celeryc_call *call, struct json_val keywords, struct buf *args,
                              struct buf *kwargs)
{
    const size_t n = MIN(json_len(call->body->args), call->task->n_params);
    struct json_iter old, it;
    size_t i = 0;
    buf_append_char(args, '[');
    for (json_iter_init(&old, call->body->args); json_next(&old); i++) {
        struct json_val v = old.val;
        for (json_iter_init(&it, keywords); json_next(&it);)
            if (i < n && param_at(call, it.key) == i)
                v = it.val;
        append_member(args, (struct json_val){.kind = JSON_K_NONE}, v);
    }
    buf_append_char(args, ']');
    buf_append_char(kwargs, '{');
    for (json_iter_init(&it, keywords); json_next(&it);)
        if (param_at(call, it.key) >= n)
            append_member(kwargs, it.key, it.val);
    buf_append_char(kwargs, '}');
}

static void take_text(struct celeryc_call *call, struct buf *b, struct slice *ret_text)
{
    if (b->len == 0)
        return;
    *ret_text = (struct slice){buf_ok(b) ? NULL : arena_strdup(call->arena, buf_slice(b)), b->len};
    call->failed_alloc |= !ret_text->p;
}

/* When only the one or only the other was given anew, and a parameter would now have two values (Celery 5.7,
 * Task.retry). */
static void settle_retry_args(struct celeryc_call *call)
{
    CLEANUP(buf_deinit) struct buf args = BUF_INIT;
    CLEANUP(buf_deinit) struct buf kwargs = BUF_INIT;
    struct json_val v;
    struct err e = ERR_INIT;
    if (!call->retry_args.p == !call->retry_kwargs.p)
        return;
    if (json_scan(call->retry_args.p ? call->retry_args : call->retry_kwargs, &v, &e)) {
        call->failed_alloc = true;
        return;
    }
    if (call->retry_args.p)
        drop_replaced_keywords(call, json_len(v), &kwargs);
    else
        replace_positions(call, v, &args, &kwargs);
    take_text(call, &args, &call->retry_args);
    take_text(call, &kwargs, &call->retry_kwargs);
}

void celeryc_retry_option(struct celeryc_call *call, const char *option, const char *value_json)
{
    struct json_val v;
    struct err e = ERR_INIT;
    if (!option || !*option || json_scan(slice_str(value_json ? value_json : ""), &v, &e)) {
        call->retry_error = "an option of the retry is no JSON";
        return;
    }
    buf_append_str(&call->retry_options, ", ");
    json_write_string(&call->retry_options, slice_str(option));
    buf_append_str(&call->retry_options, ": ");
    json_write_normal(&call->retry_options, v);
    call->retry_has_eta |= str_eq(option, "eta");
}

static void put(struct buf *dst, const char *key, struct json_val v)
{
    buf_appendf(dst, ", \"%s\": ", key);
    if (json_is_null(v))
        buf_append_str(dst, "null");
    else
        buf_append_slice(dst, v.raw);
}

static void put_text(struct buf *dst, const char *key, struct slice text)
{
    buf_appendf(dst, ", \"%s\": ", key);
    json_write_string_or_null(dst, text.len ? text : SLICE_NULL);
}

static void put_stamps(struct buf *dst, const struct message *m)
{
    struct json_val names = json_get(m->headers, "stamped_headers");
    struct json_iter it;
    if (names.kind != JSON_K_ARRAY)
        return;
    put(dst, "stamped_headers", names);
    for (json_iter_init(&it, json_get(m->headers, "stamps")); json_next(&it);) {
        buf_append_str(dst, ", ");
        buf_append_slice(dst, it.key.raw);
        buf_append_str(dst, ": ");
        buf_append_slice(dst, it.val.raw);
    }
}

/* What Celery's request gives to the signature that it is published by again. */
static void put_request(struct buf *dst, const struct celeryc_call *call)
{
    const struct message *m = call->m;
    const struct message_body *b = call->body;
    struct json_val limits = json_get(m->headers, "timelimit");
    put_text(dst, "root_id", m->root_id.len ? m->root_id : m->id);
    put_text(dst, "parent_id", m->parent_id.len ? m->parent_id : m->id);
    put_text(dst, "group_id", m->group);
    put(dst, "group_index", m->group_index);
    put_text(dst, "shadow", m->shadow);
    put_text(dst, "reply_to", m->reply_to);
    put_text(dst, "origin", m->origin);
    put(dst, "link", b->callbacks);
    put(dst, "link_error", b->errbacks);
    put(dst, "chain", b->chain);
    put(dst, "chord", b->chord);
    put(dst, "expires", m->expires_raw);
    put(dst, "time_limit", json_at(limits, 0));
    put(dst, "soft_time_limit", json_at(limits, 1));
    buf_append_str(dst, ", \"headers\": ");
    message_write_custom_headers(dst, m);
    put_stamps(dst, m);
}

/* The text of the signature in the arena; p NULL when out of memory. */
static struct slice retry_signature(struct celeryc_call *call)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    const struct message *m = call->m;
    struct slice args = call->retry_args, kwargs = call->retry_kwargs;
    buf_append_str(&b, "{\"task\": ");
    json_write_string(&b, m->task);
    buf_append_str(&b, ", \"args\": ");
    buf_append_slice(&b, args.p ? args : call->body->args.raw);
    buf_append_str(&b, ", \"kwargs\": ");
    buf_append_slice(&b, kwargs.p ? kwargs : call->body->kwargs.raw);
    buf_append_str(&b, ", \"options\": {\"task_id\": ");
    json_write_string(&b, m->id);
    put_request(&b, call);
    buf_appendf(&b, ", \"retries\": %lld, \"priority\": %d, \"replaced_task_nesting\": %lld",
                (long long)m->retries + 1, m->priority, (long long)m->replaced_task_nesting);
    put_text(&b, "queue", call->queue.len > 0 ? call->queue : m->routing_key);
    if (call->ignore_result != TRI_UNSET)
        buf_append_str(&b, call->ignore_result == TRI_YES ? ", \"ignore_result\": true"
                                                          : ", \"ignore_result\": false");
    if (call->countdown > 0 && !call->retry_has_eta) {
        buf_append_str(&b, ", \"countdown\": ");
        json_write_f64(&b, call->countdown);
    }
    buf_append_slice(&b, buf_slice(&call->retry_options));
    buf_append_str(&b, "}}");
    if (buf_ok(&call->retry_options) < 0 || buf_ok(&b) < 0)
        return SLICE_NULL;
    return (struct slice){arena_strdup(call->arena, buf_slice(&b)), b.len};
}

static int wrong_retry(struct celeryc_call *call, const char *text)
{
    call_fail(call, "ValueError", slice_str(arena_printf(call->arena, "%s", text)));
    return CANVAS_E_BAD;
}

static int retry_by_signature(struct celeryc_call *call, struct canvas_message *ret_m)
{
    const struct canvas_settings s = task_canvas_settings(call->registry, call->settings);
    struct canvas_effects fx = canvas_effects_init(call->arena);
    struct slice text = retry_signature(call);
    struct err e = ERR_INIT;
    if (!text.p)
        return -ENOMEM;
    int rc = canvas_apply(&s, text, 0, NULL, SLICE_NULL, NULL, &fx, NULL, &e);
    if (rc > 0)
        return wrong_retry(call, e.text);
    if (rc == 0)
        *ret_m = fx.messages[0];
    return rc;
}

int call_retry_message(struct celeryc_call *call, struct buf *dst, struct canvas_message *ret_m)
{
    if (call->retry_error)
        return wrong_retry(call, call->retry_error);
    settle_retry_args(call);
    if (call->failed_alloc)
        return -ENOMEM;
    if (call->retry_options.len > 0)
        return retry_by_signature(call, ret_m);
    int64_t now_us = clock_wall_us();
    struct message_retry retry = {
        .eta_us = call->countdown > 0 ? now_us + (int64_t)(call->countdown * 1e6) : 0,
        .now_us = now_us,
        .args = call->retry_args,
        .kwargs = call->retry_kwargs,
        .ignore_result = call->ignore_result,
    };
    int rc = message_write_retry(dst, call->m, call->body, &retry);
    if (rc < 0)
        return rc;
    *ret_m = (struct canvas_message){
        .queue = call->queue.len > 0 ? call->queue : call->m->routing_key,
        .priority = call->m->priority,
        .raw = buf_slice(dst),
    };
    return 0;
}

int call_retry_effects(struct celeryc_call *call, const struct canvas_message *m, struct outcome *o)
{
    struct canvas_effects fx = call->effects;
    fx.messages = arena_alloc_array(call->arena, fx.n_messages + 1, sizeof *fx.messages);
    if (!fx.messages)
        return -ENOMEM;
    for (size_t i = 0; i < fx.n_messages; i++)
        fx.messages[i] = call->effects.messages[i];
    fx.messages[fx.n_messages++] = *m;
    call_add_children(call, fx.children);
    return call_lists(call->arena, &fx, o);
}

/* ---- by itself ---- */

void call_autoretry(struct celeryc_call *call)
{
    const struct task_entry *t = call->task;
    if (call->end != END_RAISE || call->failed_alloc ||
        !exception_matches(&call->exception, t->autoretry_for) ||
        exception_matches(&call->exception, t->dont_autoretry_for))
        return;
    double countdown = -1;
    if (t->retry_backoff > 0)
        countdown = celeryc_backoff(call, t->retry_backoff, t->retry_backoff_max, t->retry_jitter);
    call->cause = call->exception;
    call->has_cause = true;
    (void)celeryc_retry_at(call, call->place.file, call->place.line, call->place.function,
                           countdown);
}

double celeryc_backoff(const struct celeryc_call *call, double factor, double max, bool jitter)
{
    double base = floor(fmax(1.0, factor));
    double retries = fmin(fmax(0, (double)call->m->retries), 64);
    double delay = fmax(0, fmin(max, base * exp2(retries)));
    if (!jitter)
        return delay;
    uint64_t random;
    random_bytes(&random, sizeof random);
    return floor((double)(random >> 11) / 0x1p53 * (floor(fmin(delay, COUNTDOWN_MAX)) + 1));
}
