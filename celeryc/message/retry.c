/* SPDX-License-Identifier: Apache-2.0 */
/* The message that Task.retry publishes, made from the message that is being run (celery/app/task.py
 * signature_from_request, celery/app/base.py send_task). Headers are built anew in Celery's order, values are copied
 * as they stand in the old text; then come the custom headers. The body is kept byte for byte when it is one that
 * Celery could have written and nothing in it changes. */

#include "celeryc/base/clock.h"
#include "celeryc/base/codec.h"
#include "celeryc/base/limits.h"
#include "celeryc/message/json_priv.h"
#include "celeryc/message/message_priv.h"
#include "celeryc/message/wire_priv.h"

#include <errno.h>
#include <math.h>

struct retry {
    const struct message *m;
    const struct message_body *b;
    const struct message_retry *r;
    struct json_val args, kwargs;
    struct encoded body;
};

static void write_or_null(struct buf *dst, struct json_val v)
{
    if (json_is_null(v))
        buf_append_str(dst, "null");
    else
        buf_append_slice(dst, v.raw);
}

/* ---- custom headers ---- */

/* Every attribute of Celery's request class, and what its own code leaves out besides. Any other header is the user's. */
static bool is_known_header(struct json_val key)
{
    static const char *const known[] = {
        "__dict__",
        "__doc__",
        "__init__",
        "__module__",
        "__repr__",
        "__weakref__",
        "_children",
        "_filter_x_death_headers",
        "_get_custom_headers",
        "_protected",
        "args",
        "argsrepr",
        "as_execution_options",
        "callbacks",
        "called_directly",
        "chain",
        "children",
        "chord",
        "clear",
        "compression",
        "correlation_id",
        "delivery_info",
        "errbacks",
        "eta",
        "expires",
        "get",
        "group",
        "group_index",
        "headers",
        "hostname",
        "id",
        "ignore_result",
        "is_eager",
        "kwargs",
        "kwargsrepr",
        "lang",
        "logfile",
        "loglevel",
        "origin",
        "parent_id",
        "properties",
        "replaced_task_nesting",
        "reply_to",
        "retries",
        "root_id",
        "shadow",
        "soft_time_limit",
        "stamped_headers",
        "stamps",
        "task",
        "taskset",
        "time_limit",
        "timelimit",
        "update",
        "utc",
        /* RabbitMQ's, dropped against cycles. */
        "x-death",
        "x-first-death-exchange",
        "x-first-death-queue",
        "x-first-death-reason",
        "x-last-death-exchange",
        "x-last-death-queue",
        "x-last-death-reason",
    };

    for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
        if (json_key_is(key, slice_str(known[i])))
            return true;
    }
    return false;
}

/* "name": value, each after a separator; the first without one when it stands alone. */
static void write_custom_headers(struct buf *dst, const struct message *m, bool alone)
{
    struct json_iter it;

    for (json_iter_init(&it, m->headers); json_next(&it);) {
        if (is_known_header(it.key))
            continue;
        buf_append_str(dst, alone ? "" : ", ");
        alone = false;
        json_write_normal(dst, it.key);
        buf_append_str(dst, ": ");
        buf_append_slice(dst, it.val.raw);
    }
}

void message_write_custom_headers(struct buf *dst, const struct message *m)
{
    buf_append_char(dst, '{');
    write_custom_headers(dst, m, true);
    buf_append_char(dst, '}');
}

/* Stamps that are named in stamped_headers, in that order; both or none. */
static void write_stamps(struct buf *dst, const struct message *m)
{
    struct json_val names = json_get(m->headers, "stamped_headers");
    struct json_val stamps = json_get(m->headers, "stamps");
    struct json_iter it;
    bool first = true;

    if (names.kind != JSON_K_ARRAY || stamps.kind != JSON_K_OBJECT) {
        buf_append_str(dst, ", \"stamped_headers\": null, \"stamps\": {}");
        return;
    }
    buf_append_str(dst, ", \"stamped_headers\": ");
    buf_append_slice(dst, names.raw);
    buf_append_str(dst, ", \"stamps\": {");
    for (json_iter_init(&it, names); json_next(&it);) {
        struct json_iter stamp;

        for (json_iter_init(&stamp, stamps); json_next(&stamp);) {
            if (it.val.kind != JSON_K_STRING || !slice_eq(stamp.key.raw, it.val.raw))
                continue;
            buf_append_str(dst, first ? "" : ", ");
            buf_append_slice(dst, stamp.key.raw);
            buf_append_str(dst, ": ");
            buf_append_slice(dst, stamp.val.raw);
            first = false;
        }
    }
    buf_append_char(dst, '}');
}

/* ---- headers ---- */

/* A signature's args are a tuple, whatever the body had. */
static void write_reprs(struct buf *dst, const struct retry *t)
{
    CLEANUP(buf_deinit) struct buf args = BUF_INIT;
    CLEANUP(buf_deinit) struct buf kwargs = BUF_INIT;

    json_write_repr(&args, t->args, true, LIMIT_REPR_BYTES);
    json_write_repr(&kwargs, t->kwargs, false, LIMIT_REPR_BYTES);
    if (args.failed || kwargs.failed)
        dst->failed = true;
    buf_append_str(dst, ", \"argsrepr\": ");
    json_write_string(dst, buf_slice(&args));
    buf_append_str(dst, ", \"kwargsrepr\": ");
    json_write_string(dst, buf_slice(&kwargs));
}

static void write_limit(struct buf *dst, double s)
{
    if (s == 0)
        buf_append_str(dst, "null");
    else if (s == floor(s) && s < 1e15)
        json_write_i64(dst, (int64_t)s);
    else
        json_write_f64(dst, s);
}

static void write_timelimit(struct buf *dst, const struct message *m)
{
    struct json_val raw = json_get(m->headers, "timelimit");

    if (raw.kind == JSON_K_ARRAY && json_len(raw) == 2) {
        json_write_normal(dst, raw);
        return;
    }
    buf_append_char(dst, '[');
    write_limit(dst, m->time_limit_s);
    buf_append_str(dst, ", ");
    write_limit(dst, m->soft_time_limit_s);
    buf_append_char(dst, ']');
}

static void write_expires(struct buf *dst, const struct message *m)
{
    char text[CLOCK_ISO_SIZE];

    if (m->expires_raw.kind == JSON_K_STRING || !m->has_expires) {
        write_or_null(dst, m->expires_raw);
        return;
    }
    clock_iso_format(m->expires_us, text); /* it was a datetime object */
    json_write_string(dst, slice_str(text));
}

static struct slice first_text(struct slice a, struct slice b)
{
    return a.len ? a : b;
}

static void write_origin(struct buf *dst, const struct message *m)
{
    if (m->origin.len)
        json_write_string(dst, m->origin);
    else
        message_write_origin(dst);
}

static void write_identity(struct buf *dst, const struct retry *t)
{
    const struct message *m = t->m;
    char eta[CLOCK_ISO_SIZE];

    buf_append_str(dst, "{\"lang\": \"py\", \"task\": ");
    json_write_string(dst, m->task);
    buf_append_str(dst, ", \"id\": ");
    json_write_string(dst, m->id);
    buf_append_str(dst, ", \"shadow\": ");
    json_write_string_or_null(dst, first_text(m->shadow, SLICE_NULL));
    buf_append_str(dst, ", \"eta\": ");
    if (t->r->eta_us) {
        clock_iso_format(t->r->eta_us, eta);
        json_write_string(dst, slice_str(eta));
    } else {
        buf_append_str(dst, "null");
    }
    buf_append_str(dst, ", \"expires\": ");
    write_expires(dst, m);
    buf_append_str(dst, ", \"group\": ");
    json_write_string_or_null(dst, m->group);
    buf_append_str(dst, ", \"group_index\": ");
    write_or_null(dst, m->group_index);
    buf_append_str(dst, ", \"retries\": ");
    json_write_i64(dst, m->retries + 1);
    buf_append_str(dst, ", \"timelimit\": ");
    write_timelimit(dst, m);
}

static void write_headers(struct buf *dst, const struct retry *t)
{
    const struct message *m = t->m;
    enum tristate ignore = t->r->ignore_result;

    write_identity(dst, t);
    buf_append_str(dst, ", \"root_id\": ");
    json_write_string(dst, first_text(m->root_id, m->id));
    buf_append_str(dst, ", \"parent_id\": ");
    json_write_string_or_null(dst,
                              t->r->keep_parent ? m->parent_id : first_text(m->parent_id, m->id));
    write_reprs(dst, t);
    buf_append_str(dst, ", \"origin\": ");
    write_origin(dst, m);
    buf_append_str(dst, ", \"ignore_result\": ");
    buf_append_str(dst, ignore == TRI_UNSET ? "null" : ignore == TRI_YES ? "true" : "false");
    buf_append_str(dst, ", \"replaced_task_nesting\": ");
    json_write_i64(dst, m->replaced_task_nesting);
    write_stamps(dst, m);
    write_custom_headers(dst, m, false);
    message_write_compression(dst, &t->body);
    buf_append_char(dst, '}');
}

/* ---- body and properties ---- */

static int write_body(struct buf *body, const struct retry *t)
{
    const struct message_body *b = t->b;

    buf_append_char(body, '[');
    json_write_normal(body, t->args);
    buf_append_str(body, ", ");
    json_write_normal(body, t->kwargs);
    buf_append_str(body, ", {\"callbacks\": ");
    write_or_null(body, b->callbacks);
    buf_append_str(body, ", \"errbacks\": ");
    write_or_null(body, b->errbacks);
    buf_append_str(body, ", \"chain\": ");
    write_or_null(body, b->chain);
    buf_append_str(body, ", \"chord\": ");
    write_or_null(body, b->chord);
    buf_append_str(body, "}]");
    return buf_ok(body);
}

static int encode_body(struct retry *t)
{
    CLEANUP(buf_deinit) struct buf body = BUF_INIT;
    int r = write_body(&body, t);

    if (r)
        return r;
    r = wire_encode(t->m->wire, SLICE_NULL, SLICE_NULL, buf_slice(&body), &t->body, NULL);
    if (r == -EINVAL)
        r = wire_encode(t->m->wire, SLICE_LIT("json"), SLICE_NULL, buf_slice(&body), &t->body,
                        NULL);
    return r;
}

/* The body can stay when it is one that Celery could have written and the writer would choose the same form. A
 * signature is always our own: the sender's certificate may have expired when the retry is read. */
static bool keeps_body(const struct retry *t)
{
    const struct message *m = t->m;
    const struct wire *w = m->wire;
    enum content c = w ? w->serializer : CONTENT_JSON;
    const char *compression = m->compression.len ? compression_type(m->compression) : NULL;

    return !t->r->args.p && !t->r->kwargs.p && m->protocol == 2 && m->body_base64 &&
           t->b->embed.kind == JSON_K_OBJECT && c != CONTENT_AUTH &&
           c == content_find(m->content_type) && str_eq(compression, w ? w->compression : NULL);
}

static void write_start(struct buf *dst, struct retry *t)
{
    enum content c = content_find(t->m->content_type);

    buf_append_str(dst, "{\"body\": ");
    buf_append_slice(dst, t->m->body.raw);
    t->body.compression = t->m->compression.len ? compression_type(t->m->compression) : NULL;
    buf_appendf(dst, ", \"content-encoding\": \"%s\", \"content-type\": \"%s\", \"headers\": ",
                content_encoding(c), content_type(c));
}

static void write_properties(struct buf *dst, const struct retry *t)
{
    const struct message *m = t->m;
    struct json_val priority = json_get(m->properties, "priority");

    buf_append_str(dst, "{\"correlation_id\": ");
    json_write_string(dst, m->id);
    buf_append_str(dst, ", \"reply_to\": ");
    json_write_string(dst, m->reply_to);
    buf_append_str(dst, ", \"origin\": ");
    write_origin(dst, m);
    buf_append_str(dst, ", \"delivery_mode\": 2, ");
    if (m->has_expires) {
        message_write_expiration(dst, m->expires_us, t->r->now_us);
        buf_append_str(dst, ", ");
    }
    message_write_routing(dst, m->routing_key,
                          json_is_null(priority) ? SLICE_LIT("0") : priority.raw);
    buf_append_char(dst, '}');
}

/* A new argument list, or the old one. */
static int replace(struct slice text, enum json_kind kind, struct json_val *v)
{
    struct json_val fresh;

    if (!text.p)
        return 0;
    if (json_scan(text, &fresh, NULL) || fresh.kind != kind)
        return -EINVAL;
    *v = fresh;
    return 0;
}

static int begin(struct buf *dst, struct retry *t)
{
    int code;

    if (keeps_body(t)) {
        write_start(dst, t);
        return 0;
    }
    code = encode_body(t);
    if (code == 0)
        message_write_start(dst, &t->body);
    return code;
}

int message_write_retry(struct buf *dst, const struct message *m, const struct message_body *b,
                        const struct message_retry *r)
{
    struct retry t = {.m = m, .b = b, .r = r, .args = b->args, .kwargs = b->kwargs};
    int code = replace(r->args, JSON_K_ARRAY, &t.args);

    if (code == 0)
        code = replace(r->kwargs, JSON_K_OBJECT, &t.kwargs);
    if (code == 0)
        code = begin(dst, &t);
    if (code == 0) {
        write_headers(dst, &t);
        buf_append_str(dst, ", \"properties\": ");
        write_properties(dst, &t);
        buf_append_char(dst, '}');
        code = buf_ok(dst);
    }
    encoded_deinit(&t.body);
    return code;
}
