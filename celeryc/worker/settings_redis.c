/* SPDX-License-Identifier: Apache-2.0 */
/* Settings that say how Redis is reached: each is one of redis-py's options, whatever Celery calls it. */

#include "celeryc/worker/settings_redis.h"

#include "celeryc/worker/settings.h"

#include <errno.h>
#include <string.h>

#define MAX_VALUE 80 /* of a value that is shown */

typedef int (*set_fn)(struct redis_options *o, const char *name, const char *value, struct err *e);

/* The value as it would stand in a URL. NULL: it has no such form, or memory is out. */
static const char *as_text(struct arena *arena, struct json_val v)
{
    struct slice text = v.raw;
    if (v.kind == JSON_K_STRING && json_string(arena, v, &text))
        return NULL;
    if (v.kind == JSON_K_OBJECT || v.kind == JSON_K_ARRAY || memchr(text.p, '\0', text.len))
        return NULL;
    return arena_strdup(arena, text);
}

static int set(const struct settings_place *at, set_fn fn, struct redis_options *o,
               const char *option, struct json_val v)
{
    if (v.kind == JSON_K_NULL)
        return 0;
    const char *value = as_text(at->arena, v);
    if (!value)
        return err_set(at->e, -EINVAL, "setting %s: %.*s is not a string, number or boolean",
                       at->name, (int)MIN(v.raw.len, (size_t)MAX_VALUE), v.raw.p);
    struct err why = ERR_INIT;
    int r = fn(o, option, value, &why);
    if (r == -ENOENT)
        return err_set(at->e, -EINVAL, "unknown setting %s.%s", at->name, option);
    return r ? err_set(at->e, r, "setting %s: %s", at->name, err_text(&why, r)) : 0;
}

int settings_take_option(const struct settings_place *at, struct redis_options *o,
                         const char *option, struct json_val v)
{
    return set(at, redis_options_set, o, option, v);
}

static int set_each(const struct settings_place *at, set_fn fn, struct redis_options *o,
                    struct json_val object, bool only_tls)
{
    struct json_iter it;
    json_iter_init(&it, object);
    while (json_next(&it)) {
        struct slice name;
        int r = json_string(at->arena, it.key, &name);
        const char *option = r ? NULL : arena_strdup(at->arena, name);
        if (!option)
            return r ? r : -ENOMEM;
        if (only_tls && strncmp(option, "ssl_", 4) != 0)
            return err_set(at->e, -EINVAL,
                           "unknown setting %s.%.80s: for Redis the names begin with ssl_ "
                           "(ssl_cert_reqs, ssl_ca_certs, ssl_certfile, ssl_keyfile)",
                           at->name, option);
        r = set(at, fn, o, option, it.val);
        if (r)
            return r;
    }
    return 0;
}

/* kombu takes true and leaves the connection in clear all the same; here it is what it says. */
int settings_take_tls(const struct settings_place *at, struct redis_options *o, struct json_val v)
{
    if (v.kind == JSON_K_TRUE || v.kind == JSON_K_FALSE)
        return settings_take_option(at, o, "ssl", v);
    if (v.kind != JSON_K_OBJECT)
        return err_set(at->e, -EINVAL,
                       "setting %s: %.*s is neither true, false nor an object of ssl_ options",
                       at->name, (int)MIN(v.raw.len, (size_t)MAX_VALUE), v.raw.p);
    return set_each(at, redis_options_set, o, v, true);
}

int settings_take_sentinel(const struct settings_place *at, struct redis_options *o,
                           struct json_val v)
{
    if (v.kind != JSON_K_OBJECT)
        return err_set(at->e, -EINVAL, "setting %s: %.*s is not an object", at->name,
                       (int)MIN(v.raw.len, (size_t)MAX_VALUE), v.raw.p);
    return set_each(at, redis_options_set_sentinel, o, v, false);
}

int settings_take_strategy(const struct settings_place *at, struct redis_options *o,
                           struct json_val v)
{
    if (slice_eq_str(v.raw, "\"shuffle\"")) {
        o->shuffle = REDIS_YES;
        return 0;
    }
    if (slice_eq_str(v.raw, "\"round-robin\""))
        return 0;
    return err_set(at->e, -EINVAL, "setting %s: %.*s is neither \"round-robin\" nor \"shuffle\"",
                   at->name, (int)MIN(v.raw.len, (size_t)MAX_VALUE), v.raw.p);
}

int settings_take_urls(const struct settings_place *at, struct json_val v, char **dst)
{
    CLEANUP(buf_deinit) struct buf all = BUF_INIT;
    struct json_iter it;
    json_iter_init(&it, v);
    if (v.kind != JSON_K_ARRAY)
        return err_set(at->e, -EINVAL, "setting %s: %.*s is neither a URL nor a list of URLs",
                       at->name, (int)MIN(v.raw.len, (size_t)MAX_VALUE), v.raw.p);
    while (json_next(&it)) {
        const char *url = it.val.kind == JSON_K_STRING ? as_text(at->arena, it.val) : NULL;
        if (!url)
            return err_set(at->e, -EINVAL, "setting %s: the list holds something else than URLs",
                           at->name);
        buf_appendf(&all, "%s%s", all.len ? ";" : "", url);
    }
    if (!all.len)
        return err_set(at->e, -EINVAL, "setting %s: the list is empty", at->name);
    char *text = buf_take(&all);
    if (!text)
        return -ENOMEM;
    free(*dst);
    *dst = text;
    return 0;
}
