/* SPDX-License-Identifier: Apache-2.0 */
/* celeryc call: publishes one task as a Python client would, and may wait for its result. */

#include "celeryc/base/clock.h"
#include "celeryc/base/codec.h"
#include "celeryc/cli/cli.h"
#include "celeryc/message/message.h"
#include "celeryc/redis/sync.h"
#include "celeryc/result/result.h"
#include "celeryc/worker/config.h"
#include "celeryc/worker/queues.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>

#define CONNECT_MS 4000

struct call_options {
    struct cli_common common;
    char *args, *kwargs, *queue, *task_id, *eta, *expires, *canvas;
    struct opt_num countdown, priority, timeout;
    bool wait;
};

#define AT(field) offsetof(struct call_options, field)

/* clang-format off */
static const struct opt opts[] = {
    {.short_name = 'a', .name = "args", .kind = OPT_STRING, .arg = "JSON", .group = "Calling Options", .offset = AT(args), .help = "Positional arguments, a JSON array.", .initial = "[]"},
    {.short_name = 'k', .name = "kwargs", .kind = OPT_STRING, .arg = "JSON", .group = "Calling Options", .offset = AT(kwargs), .help = "Keyword arguments, a JSON object.", .initial = "{}"},
    {.name = "canvas", .kind = OPT_STRING, .arg = "JSON", .group = "Calling Options", .offset = AT(canvas), .help = "Instead of NAME: a signature as Celery writes it (task, chain, group or chord); @FILE reads it from a file, - from standard input."},
    {.name = "countdown", .kind = OPT_FLOAT, .arg = "SECONDS", .group = "Calling Options", .offset = AT(countdown), .help = "Run it so many seconds from now."},
    {.name = "eta", .kind = OPT_STRING, .arg = "TIME", .group = "Calling Options", .offset = AT(eta), .help = "Run it at this time (ISO 8601, UTC unless it says otherwise)."},
    {.name = "expires", .kind = OPT_STRING, .arg = "WHEN", .group = "Calling Options", .offset = AT(expires), .help = "Do not run it after so many seconds, or after this time."},
    {.name = "priority", .kind = OPT_INT, .arg = "0..9", .group = "Calling Options", .offset = AT(priority), .help = "0 is served first on Redis.", .initial = "0"},
    {.name = "task-id", .kind = OPT_STRING, .arg = "ID", .group = "Calling Options", .offset = AT(task_id), .help = "The task's id.", .initial = "a new UUID"},
    {.short_name = 'Q', .name = "queue", .kind = OPT_STRING, .arg = "QUEUE", .group = "Routing Options", .offset = AT(queue), .help = "Queue to send it to.", .initial = "task_default_queue, else celery"},
    {.name = "serializer", .kind = OPT_REFUSE, .arg = "NAME", .note = "messages are written as JSON"},
    {.name = "exchange", .kind = OPT_REFUSE, .arg = "NAME", .note = "name the queue with -Q"},
    {.name = "routing-key", .kind = OPT_REFUSE, .arg = "KEY", .note = "name the queue with -Q"},
    {.name = "wait", .kind = OPT_FLAG, .group = "Result Options", .offset = AT(wait), .help = "Wait and print the result as JSON instead of the id; a failure goes to stderr with exit code 1."},
    {.name = "timeout", .kind = OPT_FLOAT, .arg = "SECONDS", .group = "Result Options", .offset = AT(timeout), .help = "Wait no longer than this; exit code 3 then.", .initial = "for ever"},
    CLI_COMMON_OPTS,
    {0},
};
/* clang-format on */

const struct opt_table cli_call_table = {
    .command = "call",
    .usage = "[OPTIONS] NAME",
    .about = "Send a task by name, or a canvas, and print its id.",
    .opts = opts,
};

static int check_json(const char *text, enum json_kind kind, const char *what, struct err *e)
{
    struct json_val v;
    if (!text)
        return 0;
    if (json_scan(slice_str(text), &v, e))
        return err_prefix(e, OPT_E_USAGE, "Invalid value for '%s'", what);
    if (v.kind != kind)
        return err_set(e, OPT_E_USAGE, "Invalid value for '%s': not a JSON %s.", what,
                       kind == JSON_K_ARRAY ? "array" : "object");
    return 0;
}

static int64_t after(int64_t now_us, double seconds)
{
    return now_us + (int64_t)(seconds * 1e6);
}

static int parse_when(const char *text, int64_t now_us, const char *what, int64_t *ret_us,
                      struct err *e)
{
    char *end = NULL;
    double seconds = strtod(text, &end);
    if (end != text && *end == '\0' && seconds > -1e9 && seconds < 1e9) {
        *ret_us = after(now_us, seconds);
        return 0;
    }
    if (clock_iso_parse(slice_str(text), ret_us))
        return err_set(e, OPT_E_USAGE,
                       "Invalid value for '%s': '%s' is neither seconds nor an ISO 8601 time.",
                       what, text);
    return 0;
}

static int write_message(const struct call_options *o, const struct wire *w, const char *name,
                         const char *id, const char *queue, struct buf *dst, struct err *e)
{
    struct message_new m = {
        .task = slice_str(name),
        .id = slice_str(id),
        .args = slice_str(o->args),
        .kwargs = slice_str(o->kwargs),
        .queue = slice_str(queue),
        .now_us = clock_wall_us(),
        .priority = (int)o->priority.v,
        .ignore_result = TRI_UNSET,
        .wire = w,
        .why = e,
    };
    int r = check_json(o->args, JSON_K_ARRAY, "--args", e);
    if (r == 0)
        r = check_json(o->kwargs, JSON_K_OBJECT, "--kwargs", e);
    if (r == 0 && o->priority.v > 9)
        r = err_set(e, OPT_E_USAGE, "Invalid value for '--priority': at most 9.");
    if (r == 0 && o->eta && clock_iso_parse(slice_str(o->eta), &m.eta_us))
        r = err_set(e, OPT_E_USAGE, "Invalid value for '--eta': '%s' is no ISO 8601 time.", o->eta);
    if (r == 0 && o->countdown.set && o->countdown.v > 0)
        m.eta_us = after(m.now_us, o->countdown.v);
    if (r == 0 && o->expires)
        r = parse_when(o->expires, m.now_us, "--expires", &m.expires_us, e);
    return r ? r : message_write_new(dst, &m);
}

static int publish(const struct call_options *o, const struct settings *s, const char *queue,
                   struct slice raw, struct err *e)
{
    CLEANUP(redis_endpoint_deinit) struct redis_endpoint ep = {.text = NULL};
    CLEANUP(redis_sync_close) struct redis_sync *c = NULL;
    CLEANUP(buf_deinit) struct buf key = BUF_INIT;
    int r = config_broker(o->common.broker, s, &ep, e);
    if (r == 0)
        r = redis_sync_open(&ep, CONNECT_MS, &c, e);
    if (r)
        return r;
    queues_key(&key, s, queue, (int)o->priority.v);
    r = buf_ok(&key);
    if (r)
        return r;
    const struct slice argv[] = {SLICE_LIT("LPUSH"), buf_slice(&key), raw};
    const struct redis_reply *reply;
    return redis_sync_command(c, ARRAY_SIZE(argv), argv, &reply, e);
}

static int wait_and_print(const struct call_options *o, const struct settings *s, const char *id,
                          struct redis_endpoint *ep, struct err *e, int *ret_code)
{
    CLEANUP(redis_sync_close) struct redis_sync *c = NULL;
    CLEANUP(mem_free) char *record = NULL;
    int r = redis_sync_open(ep, CONNECT_MS, &c, e);
    if (r)
        return r;
    int64_t timeout_ms = o->timeout.set ? (int64_t)(o->timeout.v * 1000) : -1;
    r = result_wait(c, s->result_keyprefix ? s->result_keyprefix : "", id, timeout_ms, &record, e);
    if (r == -ETIMEDOUT) {
        (void)fprintf(stderr, "Error: task %s has no result yet\n", id);
        *ret_code = CLI_EX_NOT_READY;
        return 0;
    }
    if (r)
        return r;
    *ret_code = cli_print_record(slice_str(record));
    return 0;
}

static int call(const struct call_options *o, const struct settings *s, const char *name,
                struct err *e, int *ret_code)
{
    CLEANUP(redis_endpoint_deinit) struct redis_endpoint backend = {.text = NULL};
    CLEANUP(buf_deinit) struct buf raw = BUF_INIT;
    CLEANUP(wire_free) struct wire *wire = NULL;
    const struct wire_options wire_options = settings_wire(s);
    const char *queue = o->queue ? o->queue : s->default_queue ? s->default_queue : "celery";
    char fresh[UUID_TEXT_SIZE];
    bool has = false;
    uuid4_text(fresh);
    const char *id = o->task_id ? o->task_id : fresh;
    int r = config_backend(o->common.result_backend, s, &backend, &has, e);
    if (r == 0 && o->wait && !has)
        r = err_set(e, -EINVAL,
                    "--wait needs a result backend: give --result-backend or "
                    "CELERY_RESULT_BACKEND, the one that the workers use");
    if (r == 0)
        r = wire_new(&wire_options, &wire, e);
    if (r == 0)
        r = write_message(o, wire, name, id, queue, &raw, e);
    if (r == 0)
        r = publish(o, s, queue, buf_slice(&raw), e);
    if (r)
        return r;
    if (o->wait)
        return wait_and_print(o, s, id, &backend, e, ret_code);
    (void)puts(id);
    *ret_code = 0;
    return 0;
}

/* Options of the call by their Celery names. */
static int write_options(const struct call_options *o, struct buf *dst, struct err *e)
{
    int64_t when;
    buf_append_str(dst, "{\"task_id\": ");
    json_write_string_or_null(dst, slice_str(o->task_id));
    buf_append_str(dst, ", \"queue\": ");
    json_write_string_or_null(dst, slice_str(o->queue));
    if (o->priority.set)
        buf_appendf(dst, ", \"priority\": %d", (int)o->priority.v);
    if (o->countdown.set) {
        buf_append_str(dst, ", \"countdown\": ");
        json_write_f64(dst, o->countdown.v);
    }
    if (o->eta) {
        if (clock_iso_parse(slice_str(o->eta), &when))
            return err_set(e, OPT_E_USAGE, "Invalid value for '--eta': '%s' is no ISO 8601 time.",
                           o->eta);
        buf_append_str(dst, ", \"eta\": ");
        json_write_string(dst, slice_str(o->eta));
    }
    if (o->expires) {
        char text[CLOCK_ISO_SIZE];
        int r = parse_when(o->expires, clock_wall_us(), "--expires", &when, e);
        if (r)
            return r;
        clock_iso_format(when, text);
        buf_append_str(dst, ", \"expires\": ");
        json_write_string(dst, slice_str(text));
    }
    buf_append_char(dst, '}');
    return buf_ok(dst);
}

static int call_canvas(const struct call_options *o, struct settings *s, struct err *e,
                       int *ret_code)
{
    CLEANUP(buf_deinit) struct buf options = BUF_INIT;
    if (o->args || o->kwargs)
        return err_set(e, OPT_E_USAGE, "A canvas brings its arguments: leave --args and --kwargs.");
    int r = write_options(o, &options, e);
    if (r)
        return r;
    const struct canvas_call_options c = {.broker = o->common.broker,
                                          .backend = o->common.result_backend,
                                          .signature = o->canvas,
                                          .options = options.data,
                                          .wait = o->wait,
                                          .timeout_s = o->timeout.set ? o->timeout.v : -1};
    return cli_call_canvas(&c, s, e, ret_code);
}

int cmd_call(int argc, char **argv)
{
    struct call_options o = {.args = NULL};
    CLEANUP(strv_deinit) struct strv words = {NULL, 0};
    CLEANUP(settings_deinit) struct settings s = {.broker_url = NULL};
    struct err e = ERR_INIT;
    int code = CLI_EX_FAILED;
    if (cli_begin(&cli_call_table, argc, argv, &o, &words, &code) == 0) {
        if (words.n != (o.canvas ? 0 : 1)) {
            code = cli_usage(&cli_call_table, words.n ? "Got unexpected extra arguments."
                                                      : "Missing argument 'NAME'.");
        } else if (cli_settings(&o.common, &s) == 0) {
            int r = o.canvas ? call_canvas(&o, &s, &e, &code) : call(&o, &s, words.v[0], &e, &code);
            if (r)
                code = r == OPT_E_USAGE ? cli_usage(&cli_call_table, err_text(&e, -EINVAL))
                                        : cli_fail(&e, r);
        }
    }
    opt_clear(&cli_call_table, &o);
    return code;
}
