/* SPDX-License-Identifier: Apache-2.0 */
/* One plain task from its merged options to a message: which option becomes which header, property or part of the body
 * (wire-messages 1.6). An option that no layer of Celery knows becomes a property, as it does there. */

#include "celeryc/canvas/canvas_priv.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/num.h"

#include <errno.h>
#include <math.h>

#define MAX_DELAY_S 1e11 /* beyond it no date can be written */

/* Options that have a meaning of their own, so that they are no properties. */
static const char *const known_options[] = {
    "task_id",       "group_id",   "group_index",
    "root_id",       "parent_id",  "shadow",
    "retries",       "chord",      "chain",
    "link",          "link_error", "reply_to",
    "time_limit",    "countdown",  "soft_time_limit",
    "eta",           "expires",    "ignore_result",
    "headers",       "queue",      "stamped_headers",
    "exchange",      "declare",    "routing_key",
    "exchange_type", "serializer", "compression",
    "delivery_mode", "priority",   "retry",
    "retry_policy",  "timeout",    "confirm_timeout",
    "route_name",    "producer",   "add_to_parent",
    "connection",    "router",     "result_cls",
    "task_type",     "publisher",  "replaced_task_nesting",
    "immediate",     "mandatory",  "expiration",
};

/* ---- times ---- */

/* The text of a time: a string, or a typed datetime. */
static struct json_val time_text(const struct value *v)
{
    const struct json_val none = {JSON_K_NONE, SLICE_NULL};

    if (value_is_null(v) || v->kind != VALUE_RAW)
        return none;
    if (v->raw.kind == JSON_K_STRING)
        return v->raw;
    struct json_val text = json_get(v->raw, "__value__");
    return text.kind == JSON_K_STRING ? text : none;
}

static bool is_number(const struct value *v)
{
    return !value_is_null(v) && v->kind == VALUE_RAW &&
           (v->raw.kind == JSON_K_INT || v->raw.kind == JSON_K_FLOAT);
}

/* now + n seconds. */
static int64_t after(struct canvas *c, const struct value *v)
{
    double s;

    if (json_f64(v->raw, &s) || !isfinite(s) || fabs(s) > MAX_DELAY_S) {
        (void)canvas_bad(c, "countdown or expires is out of range");
        return 0;
    }
    return c->s->now_us + (int64_t)llround(s * 1e6);
}

static bool is_zero(const struct value *v)
{
    double s;

    return json_f64(v->raw, &s) == 0 && s == 0;
}

static void set_times(struct canvas *c, const struct options *o, const struct canvas_defaults *d,
                      struct message_new *n)
{
    const struct value *countdown = option_get(o, "countdown"), *expires = option_get(o, "expires");
    struct slice text;

    if (is_number(countdown) && !is_zero(countdown))
        n->eta_us = after(c, countdown);
    else
        n->eta_raw = time_text(option_get(o, "eta"));
    if (is_number(expires)) {
        n->expires_us = after(c, expires);
        return;
    }
    if (!expires && d->expires_s > 0) {
        n->expires_us = c->s->now_us + (int64_t)llround(fmin(d->expires_s, MAX_DELAY_S) * 1e6);
        return;
    }
    n->expires_raw = time_text(expires);
    if (n->expires_raw.kind == JSON_K_NONE)
        return;
    if (json_string(c->arena, n->expires_raw, &text) || clock_iso_parse(text, &n->expires_us))
        (void)canvas_bad(c, "expires is not a time");
}

/* ---- the rest of the headers ---- */

static struct json_val raw_option(const struct options *o, const char *key)
{
    const struct value *v = option_get(o, key);

    if (value_is_null(v) || v->kind != VALUE_RAW)
        return (struct json_val){JSON_K_NONE, SLICE_NULL};
    return v->raw;
}

/* What no worker would read counts as none. */
static int64_t count_option(const struct options *o, const char *key)
{
    int64_t n;

    return json_i64(raw_option(o, key), &n) || n < 0 || n > INT32_MAX ? 0 : n;
}

static void set_limits(const struct options *o, const struct canvas_defaults *d,
                       struct message_new *n)
{
    n->time_limit_raw = raw_option(o, "time_limit");
    n->soft_time_limit_raw = raw_option(o, "soft_time_limit");
    n->time_limit_s = d->time_limit_s;
    n->soft_time_limit_s = d->soft_time_limit_s;
}

static enum tristate ignores_result(const struct options *o, const struct canvas_defaults *d,
                                    bool registered)
{
    struct json_val v = raw_option(o, "ignore_result");

    if (v.kind == JSON_K_TRUE || v.kind == JSON_K_FALSE)
        return v.kind == JSON_K_TRUE ? TRI_YES : TRI_NO;
    if (!registered)
        return TRI_UNSET;
    return d->ignore_result ? TRI_YES : TRI_NO;
}

static void set_family(struct canvas *c, const struct options *o, struct message_new *n)
{
    const struct canvas_parent *p = c->parent;

    n->root_id = option_text(c, o, "root_id");
    n->parent_id = option_text(c, o, "parent_id");
    if (!n->root_id.p && p->id.p)
        n->root_id = p->root_id.len ? p->root_id : p->id;
    if (!n->parent_id.p && p->id.p)
        n->parent_id = p->id;
}

static void set_stamps(struct canvas *c, const struct options *o, struct message_new *n)
{
    struct json_val names = raw_option(o, "stamped_headers");
    struct buf b = BUF_INIT;
    struct json_iter it;
    bool first = true;

    if (names.kind != JSON_K_ARRAY)
        return;
    n->stamped_headers = names;
    buf_append_char(&b, '{');
    for (json_iter_init(&it, names); json_next(&it);) {
        struct slice name;
        const struct value *v;

        if (json_string(c->arena, it.val, &name) || !(v = option_find(o, name)))
            continue;
        buf_append_str(&b, first ? "" : ", ");
        json_write_normal(&b, it.val);
        buf_append_str(&b, ": ");
        value_write(c, &b, v);
        first = false;
    }
    buf_append_char(&b, '}');
    n->stamps = canvas_keep(c, &b);
}

static bool is_stamp(struct canvas *c, struct json_val names, struct slice key)
{
    struct json_iter it;

    for (json_iter_init(&it, names); json_next(&it);) {
        struct slice name;

        if (json_string(c->arena, it.val, &name) == 0 && slice_eq(name, key))
            return true;
    }
    return false;
}

static void set_properties(struct canvas *c, const struct options *o, struct message_new *n)
{
    struct buf b = BUF_INIT;

    for (size_t i = 0; i < o->n; i++) {
        struct slice key = o->v[i].key;
        bool known = is_stamp(c, n->stamped_headers, key);

        for (size_t k = 0; k < ARRAY_SIZE(known_options) && !known; k++)
            known = slice_eq_str(key, known_options[k]);
        if (known)
            continue;
        buf_append_str(&b, b.len ? ", " : "");
        json_write_string(&b, key);
        buf_append_str(&b, ": ");
        value_write(c, &b, &o->v[i].value);
    }
    if (b.len)
        n->properties = canvas_keep(c, &b);
    buf_deinit(&b);
}

/* ---- routing ---- */

/* With an exchange and a routing key and no queue the key stands for the queue: on Redis a direct exchange of a queue
 * has the queue's name as its key. */
static struct slice route(struct canvas *c, const struct options *o,
                          const struct canvas_defaults *d)
{
    struct slice queue = option_text(c, o, "queue");

    if (!queue.p && option_text(c, o, "exchange").p)
        queue = option_text(c, o, "routing_key");
    if (!queue.p)
        queue = d->queue;
    return queue.len ? queue : c->s->default_queue;
}

static int priority_of(const struct canvas *c, const struct options *o,
                       const struct canvas_defaults *d)
{
    double v;

    if (json_f64(raw_option(o, "priority"), &v) == 0 && isfinite(v))
        return v < 0 ? 0 : v > 255 ? 255 : (int)v;
    if (d->priority > 0 && !option_get(o, "priority"))
        return d->priority;
    return c->s->inherit_priority && c->parent->id.p ? c->parent->priority : 0;
}

/* ---- the body ---- */

static void write_links(struct canvas *c, struct buf *dst, const struct value *v)
{
    struct values l;

    if (value_is_null(v)) {
        buf_append_str(dst, "null");
        return;
    }
    l = values_of(c, v);
    value_write(c, dst, &(struct value){.kind = VALUE_LIST, .list = &l});
}

static void write_or_null(struct canvas *c, struct buf *dst, const struct value *v)
{
    if (value_is_null(v))
        buf_append_str(dst, "null");
    else
        value_write(c, dst, v);
}

static struct slice embed(struct canvas *c, const struct options *o)
{
    struct buf b = BUF_INIT;

    buf_append_str(&b, "{\"callbacks\": ");
    write_links(c, &b, option_get(o, "link"));
    buf_append_str(&b, ", \"errbacks\": ");
    write_links(c, &b, option_get(o, "link_error"));
    buf_append_str(&b, ", \"chain\": ");
    write_or_null(c, &b, option_get(o, "chain"));
    buf_append_str(&b, ", \"chord\": ");
    write_or_null(c, &b, option_get(o, "chord"));
    buf_append_char(&b, '}');
    return canvas_keep(c, &b);
}

static struct slice arguments(struct canvas *c, const struct sig *s)
{
    struct buf b = BUF_INIT;

    sig_write_args(c, &b, s);
    return canvas_keep(c, &b);
}

static bool trails(const struct options *o)
{
    return raw_option(o, "add_to_parent").kind != JSON_K_FALSE;
}

/* Times and limits go out as they came, and headers of one's own over Celery's. They can make a message that ends the
 * Python worker that receives it; the task that would send it fails instead. */
static int check_readable(struct canvas *c, struct slice text)
{
    struct err why = ERR_INIT;
    struct message m;
    int code;

    if (c->code)
        return c->code;
    code = message_parse(c->arena, text, &m, &why);
    if (code > 0 && m.refused)
        return 0; /* what the receiver accepts is its business */
    return code > 0 ? canvas_bad(c, why.text) : canvas_fail(c, code);
}

static int write_message(struct canvas *c, struct message_new *n)
{
    struct buf raw = BUF_INIT;
    struct err why = ERR_INIT;
    struct slice text = SLICE_NULL;
    int code;

    n->why = &why;
    code = c->code ? c->code : message_write_new(&raw, n);
    n->why = NULL;

    if (code == 0)
        text = canvas_keep(c, &raw);
    buf_deinit(&raw);
    if (code == -ENOMEM)
        return canvas_fail(c, code);
    if (code)
        return canvas_bad(c, why.text[0] ? why.text
                                         : "an argument or option is not what it should be");
    if (check_readable(c, text))
        return c->code;
    effect_message(c, n->queue, MIN(n->priority, 9), text);
    return c->code;
}

int task_send(struct canvas *c, const struct sig *s, const struct partial *partial,
              const struct options *options, struct result **ret_r)
{
    struct canvas_defaults d = {0};
    bool registered = c->s->lookup && c->s->lookup(c->s->arg, s->task, &d);
    if (registered && d.priority == 0)
        d.priority = c->s->default_priority;
    struct sig call = *s;
    struct slice id = option_text(c, options, "task_id");
    struct result *r;

    if (!id.p)
        id = canvas_uuid(c);
    sig_prepend(c, &call, partial);
    struct message_new n = {
        .task = s->task,
        .id = id,
        .args = arguments(c, &call),
        .kwargs = call.kwargs.raw,
        .embed = embed(c, options),
        .queue = route(c, options, &d),
        .group = option_text(c, options, "group_id"),
        .group_index = raw_option(options, "group_index").raw,
        .shadow = option_text(c, options, "shadow"),
        .reply_to = option_text(c, options, "reply_to"),
        .origin = option_text(c, options, "origin"),
        .now_us = c->s->now_us,
        .retries = count_option(options, "retries"),
        .priority = priority_of(c, options, &d),
        .ignore_result = ignores_result(options, &d, registered),
        .argsrepr = raw_option(options, "argsrepr"),
        .kwargsrepr = raw_option(options, "kwargsrepr"),
        .replaced_task_nesting = count_option(options, "replaced_task_nesting"),
        .headers = raw_option(options, "headers"),
        .wire = c->s->wire,
        .serializer = option_text(c, options, "serializer"),
        .compression = option_text(c, options, "compression"),
    };
    set_times(c, options, &d, &n);
    set_limits(options, &d, &n);
    set_family(c, options, &n);
    set_stamps(c, options, &n);
    set_properties(c, options, &n);
    if (write_message(c, &n))
        return c->code;
    r = result_new(c, id, false);
    if (trails(options))
        effect_child(c, r);
    if (ret_r)
        *ret_r = r;
    return c->code;
}
