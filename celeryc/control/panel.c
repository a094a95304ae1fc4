/* SPDX-License-Identifier: Apache-2.0 */
/* Finds a command, checks its arguments as Python's call would, runs it, and turns what it says into the reply's JSON
 * (kombu/pidbox.py Node.dispatch). Whatever goes wrong is a reply, {"error": repr of the exception}. */

#include "celeryc/control/control_priv.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/limits.h"
#include "celeryc/base/log.h"

#include <errno.h>
#include <stdarg.h>

#define REVOKE_EXPIRES_NS (10800 * NS_PER_S) /* celery/worker/state.py REVOKE_EXPIRES */

int panel_init(struct panel *p, const struct control_host *h, const struct control_options *o)
{
    *p = (struct panel){
        .host = h,
        .node = o->node,
        .version = o->version,
        .broker = o->broker,
        .backend = o->backend,
        .key_prefix = o->key_prefix,
        .ids = revoked_new(REVOKES_MAX, REVOKE_EXPIRES_NS),
        .stamps = revoked_new(REVOKES_MAX, 0),
    };
    return p->ids && p->stamps ? 0 : -ENOMEM;
}

void panel_deinit(struct panel *p)
{
    p->ids = revoked_free(p->ids);
    p->stamps = revoked_free(p->stamps);
}

/* ---- replies ---- */

void write_repr(struct buf *dst, struct slice text)
{
    CLEANUP(buf_deinit) struct buf json = BUF_INIT;
    struct json_val v;
    json_write_string(&json, text);
    if (buf_ok(&json) || json_scan(buf_slice(&json), &v, NULL))
        dst->failed = true;
    else
        json_write_python(dst, v);
}

static void reply_member(struct call *c, const char *key, struct slice text)
{
    buf_reset(&c->out);
    buf_appendf(&c->out, "{\"%s\": ", key);
    json_write_string(&c->out, text);
    buf_append_char(&c->out, '}');
}

void reply_ok(struct call *c, const char *text)
{
    reply_member(c, "ok", slice_str(text));
}

void reply_error(struct call *c, const char *text)
{
    reply_member(c, "error", slice_str(text));
}

void reply_raise(struct call *c, const char *type, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    buf_append_str(&b, type);
    buf_append_char(&b, '(');
    write_repr(&b, slice_str(text));
    buf_append_char(&b, ')');
    log_error("pidbox command error: %s", b.data ? b.data : type);
    reply_member(c, "error", buf_slice(&b));
}

bool json_truth(struct json_val v)
{
    double d;
    switch (v.kind) {
    case JSON_K_NONE:
    case JSON_K_NULL:
    case JSON_K_FALSE:
        return false;
    case JSON_K_TRUE:
        return true;
    case JSON_K_STRING:
        return v.raw.len > 2;
    case JSON_K_INT:
    case JSON_K_FLOAT:
        return json_f64(v, &d) != 0 || d != 0;
    case JSON_K_ARRAY:
    case JSON_K_OBJECT:
        return json_len(v) > 0;
    }
    return false;
}

/* ---- arguments ---- */

static bool add_name(struct call *c, struct json_val v, struct map *seen, struct slice *names,
                     size_t *n)
{
    struct slice s;
    if (v.kind != JSON_K_STRING)
        return true;
    if (json_string(c->arena, v, &s))
        return false;
    if (s.len > LIMIT_CONTROL_NAME || map_get(seen, s))
        return true;
    names[(*n)++] = s;
    return map_set(seen, s, c) == 0;
}

int call_names(struct call *c, const char *key, struct slice **ret_names, size_t *ret_n)
{
    struct json_val v = json_get(c->args, key);
    size_t room = v.kind == JSON_K_ARRAY ? json_len(v) : 1, n = 0;
    struct slice *names = arena_alloc_array(c->arena, room, sizeof(*names));
    CLEANUP(map_free) struct map *seen = map_new();
    if (!names || !seen)
        return -ENOMEM;
    bool ok = v.kind == JSON_K_ARRAY || add_name(c, v, seen, names, &n);
    struct json_iter it;
    json_iter_init(&it, v.kind == JSON_K_ARRAY ? v : (struct json_val){JSON_K_NULL, SLICE_NULL});
    while (ok && json_next(&it))
        ok = add_name(c, it.val, seen, names, &n);
    if (!ok)
        return -ENOMEM;
    *ret_names = names;
    *ret_n = n;
    return 0;
}

void panel_merge_revoked(struct panel *p, struct arena *a, struct json_val revoked)
{
    struct json_iter it;
    json_iter_init(&it, revoked);
    while (json_next(&it)) {
        struct slice id;
        struct json_val v = revoked.kind == JSON_K_OBJECT ? it.key : it.val;
        if (v.kind == JSON_K_STRING && json_string(a, v, &id) == 0 &&
            id.len <= LIMIT_CONTROL_NAME && revoked_add(p->ids, id, clock_mono_ns()))
            log_error("out of memory: a revoked id is not kept");
    }
}

/* ---- calling ---- */

static const struct command *find_command(struct slice name)
{
    const struct command *const tables[] = {inspect_commands, manage_commands, revoke_commands};
    for (size_t i = 0; i < ARRAY_SIZE(tables); i++)
        for (const struct command *t = tables[i]; t->name; t++)
            if (slice_eq_str(name, t->name) || (t->alias && slice_eq_str(name, t->alias)))
                return t;
    return NULL;
}

static bool is_known(const struct command *t, struct slice name)
{
    for (size_t i = 0; i < ARRAY_SIZE(t->required) && t->required[i]; i++)
        if (slice_eq_str(name, t->required[i]))
            return true;
    for (size_t i = 0; i < ARRAY_SIZE(t->known) && t->known[i]; i++)
        if (slice_eq_str(name, t->known[i]))
            return true;
    return false;
}

/* Python's TypeErrors of a call with keyword arguments. False: one was answered. */
static bool arguments_fit(struct call *c, const struct command *t)
{
    const char *missing[ARRAY_SIZE(t->required)];
    size_t n = 0;
    struct json_iter it;
    json_iter_init(&it, c->args);
    while (json_next(&it)) {
        struct slice key;
        if (json_string(c->arena, it.key, &key))
            continue;
        if (slice_eq_str(key, "state")) {
            reply_raise(c, "TypeError", "%s() got multiple values for argument 'state'", t->name);
            return false;
        }
        if (t->strict && !is_known(t, key)) {
            reply_raise(c, "TypeError", "%s() got an unexpected keyword argument '%.*s'", t->name,
                        (int)MIN(key.len, 200), key.p);
            return false;
        }
    }
    for (size_t i = 0; i < ARRAY_SIZE(t->required) && t->required[i]; i++)
        if (json_get(c->args, t->required[i]).kind == JSON_K_NONE)
            missing[n++] = t->required[i];
    if (n == 1)
        reply_raise(c, "TypeError", "%s() missing 1 required positional argument: '%s'", t->name,
                    missing[0]);
    else if (n == 2)
        reply_raise(c, "TypeError", "%s() missing 2 required positional arguments: '%s' and '%s'",
                    t->name, missing[0], missing[1]);
    return n == 0;
}

static void reply_unknown(struct call *c, struct json_val method)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    buf_append_str(&text, "KeyError(");
    json_write_python(&text, method);
    buf_append_char(&text, ')');
    log_error("pidbox command error: %.*s", (int)MIN(text.len, 200), text.data ? text.data : "");
    if (text.len > LIMIT_LOG_LINE)
        reply_error(c, "KeyError('...')");
    else
        reply_member(c, "error", buf_slice(&text));
}

void panel_run(struct panel *p, struct arena *a, struct json_val method, struct json_val arguments,
               struct call *ret_c)
{
    struct call *c = ret_c;
    *c = (struct call){.p = p, .arena = a, .args = arguments, .out = BUF_INIT};
    struct slice name = SLICE_NULL;
    if (method.kind == JSON_K_STRING && json_string(a, method, &name)) {
        reply_error(c, "MemoryError()");
        return;
    }
    const struct command *t = find_command(name);
    if (!t) {
        reply_unknown(c, method);
        return;
    }
    c->name = t->name;
    if (!json_truth(arguments)) {
        c->args = (struct json_val){JSON_K_OBJECT, SLICE_LIT("{}")};
    } else if (arguments.kind != JSON_K_OBJECT) {
        reply_raise(c, "TypeError", "%s() argument after ** must be a mapping", t->name);
        return;
    }
    if (!arguments_fit(c, t))
        return;
    t->fn(c);
    if (c->nomem || buf_ok(&c->out))
        reply_error(c, "MemoryError()");
    else if (c->out.len > LIMIT_CONTROL_REPLY)
        reply_error(c, "ValueError('the reply is over the limit for control messages')");
}
