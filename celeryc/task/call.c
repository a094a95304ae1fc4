/* SPDX-License-Identifier: Apache-2.0 */
/* The public API of <celeryc/task.h>: the request, and the ways a task function ends.
 *
 * Every end sets the call's state and gives the value that the function returns. The last end wins, so that a function
 * may raise after a failed return. An end never fails: what cannot be done (a result that is not JSON, no memory)
 * becomes a failure of the task. */

#include "celeryc/base/log.h"
#include "celeryc/task/call_priv.h"

#include <math.h>
#include <stdarg.h>

#define ENDED 0

const char *celeryc_task_id(const struct celeryc_call *call)
{
    return call->id;
}

const char *celeryc_task_name(const struct celeryc_call *call)
{
    return call->task->info.name;
}

const char *celeryc_hostname(const struct celeryc_call *call)
{
    return call->hostname;
}

int64_t celeryc_retries(const struct celeryc_call *call)
{
    return call->m->retries;
}

bool celeryc_redelivered(const struct celeryc_call *call)
{
    return call->m->redelivered;
}

bool celeryc_should_stop(const struct celeryc_call *call)
{
    return call->host->stop && atomic_load_explicit(call->host->stop, memory_order_relaxed) != 0;
}

/* Starts a result of the function's own. */
static struct buf *begin_return(struct celeryc_call *call)
{
    call->end = END_RETURN;
    buf_reset(&call->result);
    return &call->result;
}

int celeryc_return_none(struct celeryc_call *call)
{
    buf_append_str(begin_return(call), "null");
    return ENDED;
}

int celeryc_return_int(struct celeryc_call *call, int64_t v)
{
    json_write_i64(begin_return(call), v);
    return ENDED;
}

int celeryc_return_double(struct celeryc_call *call, double v)
{
    json_write_f64(begin_return(call), v);
    return ENDED;
}

int celeryc_return_bool(struct celeryc_call *call, bool v)
{
    buf_append_str(begin_return(call), v ? "true" : "false");
    return ENDED;
}

int celeryc_return_string(struct celeryc_call *call, const char *utf8)
{
    if (!utf8)
        return celeryc_return_none(call);
    json_write_string(begin_return(call), slice_str(utf8));
    return ENDED;
}

int celeryc_return_json(struct celeryc_call *call, const char *json, size_t len)
{
    struct json_val v;
    struct err e = ERR_INIT;
    int rc = json_scan((struct slice){json, json ? len : 0}, &v, &e);
    if (rc < 0) {
        char *text =
            arena_printf(call->arena, "ValueError('the result is not JSON: %s')", err_text(&e, rc));
        call_fail(call, "EncodeError", slice_str(text));
        return ENDED;
    }
    json_write_normal(begin_return(call), v);
    return ENDED;
}

static void end_raise(struct celeryc_call *call, int rc, struct place place)
{
    call->end = END_RAISE;
    call->place = place;
    if (rc < 0)
        call->failed_alloc = true;
}

void call_fail(struct celeryc_call *call, const char *type, struct slice text)
{
    int rc = exception_set_text(&call->exception, call->arena, type, text);
    end_raise(call, rc, (struct place){0});
}

/* The formatted text in the arena; p NULL when out of memory. */
__attribute__((format(printf, 2, 0))) static struct slice
format_text(struct celeryc_call *call, const char *format, va_list ap)
{
    va_list again;
    va_copy(again, ap);
    int len = vsnprintf(NULL, 0, format, again);
    va_end(again);
    char *text = len < 0 ? NULL : arena_alloc(call->arena, (size_t)len + 1);
    if (!text)
        return SLICE_NULL;
    (void)vsnprintf(text, (size_t)len + 1, format, ap);
    return (struct slice){text, (size_t)len};
}

static int raise_text(struct celeryc_call *call, struct place place, const char *type,
                      struct slice text)
{
    int rc =
        text.p ? exception_set_text(&call->exception, call->arena, type ? type : "", text) : -1;
    end_raise(call, rc, place);
    return ENDED;
}

int celeryc_raise_at(struct celeryc_call *call, const char *file, int line, const char *function,
                     const char *type, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    struct slice text = format_text(call, format, ap);
    va_end(ap);
    return raise_text(call, (struct place){file, line, function}, type, text);
}

int(celeryc_raise)(struct celeryc_call *call, const char *type, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    struct slice text = format_text(call, format, ap);
    va_end(ap);
    return raise_text(call, (struct place){0}, type, text);
}

int celeryc_raise_json_at(struct celeryc_call *call, const char *file, int line,
                          const char *function, const char *type, const char *args_json)
{
    struct place place = {file, line, function};
    struct slice text = slice_str(args_json ? args_json : "[]");
    struct json_val args;
    struct err e = ERR_INIT;
    if (json_scan(text, &args, &e) < 0 || args.kind != JSON_K_ARRAY)
        return raise_text(call, place, type, text); /* rather the author's text than nothing */
    CLEANUP(buf_deinit) struct buf normal = BUF_INIT;
    json_write_normal(&normal, args);
    int rc = buf_ok(&normal);
    if (rc == 0)
        rc = exception_set(&call->exception, call->arena, slice_str(type), buf_slice(&normal));
    end_raise(call, rc, place);
    return ENDED;
}

int(celeryc_raise_json)(struct celeryc_call *call, const char *type, const char *args_json)
{
    return celeryc_raise_json_at(call, NULL, 0, NULL, type, args_json);
}

int celeryc_ignore(struct celeryc_call *call)
{
    call->end = END_IGNORE;
    return ENDED;
}

int celeryc_reject(struct celeryc_call *call, const char *reason, bool requeue)
{
    CLEANUP(buf_deinit) struct buf args = BUF_INIT;
    buf_append_char(&args, '[');
    json_write_string_or_null(&args, slice_str(reason));
    buf_append_str(&args, requeue ? ", true]" : ", false]");
    int rc = buf_ok(&args);
    if (rc == 0)
        rc = exception_set(&call->exception, call->arena, SLICE_LIT("Reject"), buf_slice(&args));
    if (rc < 0)
        call->failed_alloc = true;
    call->end = END_REJECT;
    call->requeue = requeue;
    return ENDED;
}

void celeryc_log(struct celeryc_call *call, enum celeryc_level level, const char *format, ...)
{
    static const enum log_level levels[] = {LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERROR};
    enum log_level to = (unsigned)level < ARRAY_SIZE(levels) ? levels[level] : LOG_INFO;
    if (!log_enabled(to))
        return;
    va_list ap;
    va_start(ap, format);
    struct slice text = format_text(call, format, ap);
    va_end(ap);
    if (text.p)
        log_write_task(to, celeryc_task_name(call), call->id, "%s", text.p);
}
