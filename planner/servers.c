/* SPDX-License-Identifier: Apache-2.0 */
/* Connections of a command, each opened once and checked before anything is made. */

#include "planner/plan.h"

#include "celeryc/base/url.h"
#include "celeryc/message/json.h"

#include <errno.h>

#define CONNECT_MS 5000
#define OPTIONS    "SCATTER_BROKER_OPTIONS"

void servers_deinit(struct servers *s)
{
    if (!s)
        return;
    db_close(s->db);
    store_close(s->store);
    redis_sync_close(s->redis);
    redis_endpoint_deinit(&s->endpoint);
    *s = (struct servers){0};
}

int servers_open_db(struct servers *s, const char *url, struct err *e)
{
    int code = db_open(url, &s->db, e);

    return code ? err_prefix(e, code > 0 ? -EIO : code,
                             "cannot open the database (--database-url, SCATTER_DATABASE)")
                : 0;
}

int servers_find_plan(struct servers *s, const char *plan, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct db_plan p = {0};
    const char *state = NULL;
    int code = a ? db_plan_get(s->db, plan, a, &p, &state, e) : -ENOMEM;

    return code > 0 ? -EIO : code;
}

/* ---- what stands beside the broker's URL ---- */

typedef int (*set_fn)(struct redis_options *o, const char *name, const char *value, struct err *e);

static int take_object(struct arena *a, struct json_val all, set_fn set, struct redis_options *o,
                       struct err *e);

/* One of redis-py's options, a text, a number or a boolean. */
static int take_option(struct arena *a, const char *name, struct json_val v, set_fn set,
                       struct redis_options *o, struct err *e)
{
    struct slice text = v.raw;

    if (v.kind == JSON_K_NULL)
        return 0;
    if (v.kind == JSON_K_OBJECT && set == redis_options_set && str_eq(name, "sentinel_kwargs"))
        return take_object(a, v, redis_options_set_sentinel, o, e);
    if (v.kind == JSON_K_OBJECT || v.kind == JSON_K_ARRAY)
        return err_set(e, -EINVAL, "%s is neither a text nor a number", name);
    if (v.kind == JSON_K_STRING && json_string_z(a, v, &text))
        return err_set(e, -EINVAL, "%s is no text", name);
    const char *value = arena_strdup(a, text);
    int r = value ? set(o, name, value, e) : -ENOMEM;

    return r == -ENOENT ? err_set(e, -EINVAL, "there is no option %s", name) : r;
}

static int take_object(struct arena *a, struct json_val all, set_fn set, struct redis_options *o,
                       struct err *e)
{
    struct json_iter it;
    struct slice name;
    int r = 0;

    json_iter_init(&it, all);
    while (!r && json_next(&it)) {
        if (json_string_z(a, it.key, &name))
            return err_set(e, -EINVAL, "a name is no text");
        r = take_option(a, name.p, it.val, set, o, e);
    }
    return r;
}

/* A JSON object in the environment: certificates and the like, as a worker's settings have them. */
static int broker_options(struct redis_options *o, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    const char *text = getenv(OPTIONS); /* NOLINT(concurrency-mt-unsafe): one thread */
    struct json_val all;
    int r = 0;

    if (!text || !*text)
        return 0;
    if (!a)
        return -ENOMEM;
    if (json_scan(slice_str(text), &all, NULL) || all.kind != JSON_K_OBJECT)
        r = err_set(e, -EINVAL, "it is no JSON object");
    else
        r = take_object(a, all, redis_options_set, o, e);
    return r ? err_prefix(e, r, OPTIONS) : 0;
}

/* Options of TLS (tls), or the others. */
static void copy_members(struct buf *dst, struct json_val all, bool tls, const char *separator)
{
    struct json_iter it;

    json_iter_init(&it, all);
    while (json_next(&it)) {
        if ((strncmp(it.key.raw.p, "\"ssl_", strlen("\"ssl_")) == 0) != tls ||
            slice_eq_str(it.key.raw, "\"ssl\""))
            continue;
        buf_append_str(dst, separator);
        buf_append_slice(dst, it.key.raw);
        buf_append_str(dst, ": ");
        buf_append_slice(dst, it.val.raw);
        separator = ", ";
    }
}

int servers_write_settings(struct buf *dst, const char *key_prefix)
{
    CLEANUP(buf_deinit) struct buf tls = BUF_INIT;
    const char *text = getenv(OPTIONS); /* NOLINT(concurrency-mt-unsafe): one thread */
    struct json_val all = {0};

    if (text && json_scan(slice_str(text), &all, NULL))
        all = (struct json_val){0};
    buf_append_str(dst, "\"broker_transport_options\": {\"global_keyprefix\": ");
    json_write_string(dst, slice_str(key_prefix));
    copy_members(dst, all, false, ", ");
    buf_append_char(dst, '}');
    copy_members(&tls, all, true, "");
    struct slice on = json_get(all, "ssl").raw;

    if (tls.len)
        buf_appendf(dst, ", \"broker_use_ssl\": {%s}", tls.data);
    else if (on.len)
        buf_appendf(dst, ", \"broker_use_ssl\": %s",
                    slice_eq_str(on, "true") || slice_eq_str(on, "\"true\"") ? "true" : "false");
    return buf_ok(&tls) ? -ENOMEM : buf_ok(dst);
}

int servers_open_broker(struct servers *s, const char *url, struct err *e)
{
    const struct redis_reply *reply = NULL;
    CLEANUP(redis_options_deinit) struct redis_options o = {0};
    int code = redis_endpoint_parse(url, &s->endpoint, e);

    if (!code)
        code = broker_options(&o, e);
    if (!code)
        code = redis_endpoint_apply(&s->endpoint, &o, e);
    if (!code)
        code = redis_sync_open(&s->endpoint, CONNECT_MS, &s->redis, e);
    if (!code)
        code = redis_sync_command(s->redis, 1, (struct slice[]){SLICE_LIT("PING")}, &reply, e);
    return code ? err_prefix(e, code > 0 ? -EIO : code,
                             "cannot use the broker (-b, CELERY_BROKER_URL)")
                : 0;
}

void result_deinit(struct result *r)
{
    if (!r)
        return;
    free(r->plan);
    free(r->store);
    free(r->queue);
    free(r->note);
    free(r->first_key);
    free(r->last_key);
    buf_deinit(&r->sample);
    buf_deinit(&r->preflight);
    buf_deinit(&r->preflight_text);
    *r = (struct result){0};
}
