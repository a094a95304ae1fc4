/* SPDX-License-Identifier: Apache-2.0 */
/* The commands that change something (celery/worker/control.py control_command). What this worker cannot do is answered
 * with an error that says so: never with an ok that means nothing. */

#include "celeryc/control/control_priv.h"

#include "celeryc/base/log.h"
#include "celeryc/base/num.h"

#include <errno.h>
#include <math.h>

/* ---- limits ---- */

/* celery/utils/time.py rate(). False: it was answered with an error. */
static bool read_rate(struct call *c, struct json_val v, double *ret_rate)
{
    struct slice s;
    *ret_rate = 0;
    if (!json_truth(v))
        return true;
    if (json_f64(v, ret_rate) == 0)
        return true;
    if (json_string(c->arena, v, &s)) {
        reply_error(c, "Invalid rate limit string: ValueError('neither text nor number')");
        return false;
    }
    const char *slash = memchr(s.p, '/', s.len);
    struct slice number = {s.p, slash ? (size_t)(slash - s.p) : s.len};
    struct slice unit = slash ? (struct slice){slash + 1, s.len - number.len - 1} : SLICE_NULL;
    CLEANUP(buf_deinit) struct buf text = BUF_INIT, inner = BUF_INIT;
    if (unit.len && !slice_eq_str(unit, "s") && !slice_eq_str(unit, "m") &&
        !slice_eq_str(unit, "h")) {
        reply_raise(c, "KeyError", "%.*s", (int)MIN(unit.len, 100), unit.p);
        return false;
    }
    if (num_parse_f64(number, ret_rate) == 0)
        return true;
    buf_append_str(&inner, "could not convert string to float: ");
    write_repr(&inner, number);
    buf_append_str(&text, "Invalid rate limit string: ValueError(");
    write_repr(&text, buf_slice(&inner));
    buf_append_char(&text, ')');
    reply_error(c, text.data ? text.data : "Invalid rate limit string");
    return false;
}

static bool knows_task(struct call *c, struct json_val name, struct slice *ret_name)
{
    const struct task_registry *tasks = c->p->host->tasks(c->p->host->arg);
    return json_string(c->arena, name, ret_name) == 0 && tasks &&
           task_registry_find(tasks, *ret_name);
}

static void rate_limit(struct call *c)
{
    double rate;
    struct slice name;
    if (!read_rate(c, json_get(c->args, "rate_limit"), &rate))
        return;
    if (!knows_task(c, json_get(c->args, "task_name"), &name))
        reply_error(c, "unknown task");
    else if (rate == 0)
        reply_ok(c, "rate limit disabled successfully");
    else
        reply_error(c, "rate limits are not enforced by this release of celeryc");
}

static bool read_limit(struct call *c, const char *key, double *ret_seconds)
{
    struct json_val v = json_get(c->args, key);
    *ret_seconds = 0;
    if (json_is_null(v))
        return true;
    if (json_f64(v, ret_seconds) == 0 && isfinite(*ret_seconds) && *ret_seconds >= 0)
        return true;
    reply_raise(c, "ValueError", "%s is not a number of seconds", key);
    return false;
}

static void time_limit(struct call *c)
{
    double soft, hard;
    struct slice name;
    if (!read_limit(c, "soft", &soft) || !read_limit(c, "hard", &hard))
        return;
    if (!knows_task(c, json_get(c->args, "task_name"), &name)) {
        reply_error(c, "unknown task");
        return;
    }
    if (c->p->host->time_limit(name, soft, hard, c->p->host->arg)) {
        c->nomem = true;
        return;
    }
    log_info("New time limits for tasks of type %.*s: soft=%g hard=%g", (int)name.len, name.p, soft,
             hard);
    reply_ok(c, "time limits set successfully");
}

/* ---- events ---- */

static void enable_events(struct call *c)
{
    reply_error(c, "task events are not sent by this release of celeryc");
}

static void disable_events(struct call *c)
{
    reply_ok(c, "task events already disabled");
}

static void heartbeat(struct call *c)
{
    log_debug("Heartbeat requested by remote.");
    c->p->heartbeat = true;
    buf_append_str(&c->out, "null");
}

/* Nothing votes here: this worker is not in the gossip. */
static void election(struct call *c)
{
    buf_append_str(&c->out, "null");
}

/* ---- the pool ---- */

static void pool_size(struct call *c)
{
    char text[128];
    (void)snprintf(text, sizeof(text),
                   "%s is not supported: the number of children is set at the start (-c)", c->name);
    reply_error(c, text);
}

static void pool_restart(struct call *c)
{
    reply_raise(c, "ValueError", "Pool restarts not enabled");
}

static void autoscale(struct call *c)
{
    reply_raise(c, "ValueError", "Autoscale not enabled");
}

static void shut_down(struct call *c)
{
    log_warning("Got shutdown from remote");
    c->no_reply = true;
    c->p->host->shutdown(c->p->host->arg);
}

/* ---- queues ---- */

static void add_consumer(struct call *c)
{
    reply_error(c, "add_consumer is not supported: the queues are set at the start (-Q)");
}

static void cancel_consumer(struct call *c)
{
    struct slice name;
    if (json_string(c->arena, json_get(c->args, "queue"), &name)) {
        reply_raise(c, "TypeError", "queue is not a text");
        return;
    }
    for (const char *const *q = c->p->host->queues(c->p->host->arg); *q; q++) {
        if (slice_eq_str(name, *q)) {
            reply_error(c,
                        "cancel_consumer is not supported: the queues are set at the start (-Q)");
            return;
        }
    }
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    buf_append_str(&text, "no longer consuming from ");
    buf_append_slice(&text, name);
    if (buf_ok(&text))
        c->nomem = true;
    else
        reply_ok(c, text.data);
}

const struct command manage_commands[] = {
    {.name = "rate_limit", .fn = rate_limit, .required = {"task_name", "rate_limit"}},
    {.name = "time_limit", .fn = time_limit},
    {.name = "enable_events", .fn = enable_events, .strict = true},
    {.name = "disable_events", .fn = disable_events, .strict = true},
    {.name = "heartbeat", .fn = heartbeat, .strict = true},
    {.name = "election", .fn = election, .required = {"id", "topic"}},
    {.name = "pool_grow", .fn = pool_size},
    {.name = "pool_shrink", .fn = pool_size},
    {.name = "pool_restart", .fn = pool_restart},
    {.name = "autoscale", .fn = autoscale, .strict = true, .known = {"max", "min"}},
    {.name = "shutdown", .fn = shut_down},
    {.name = "add_consumer", .fn = add_consumer, .required = {"queue"}},
    {.name = "cancel_consumer", .fn = cancel_consumer, .required = {"queue"}},
    {0},
};
