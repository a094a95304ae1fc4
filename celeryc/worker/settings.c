/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the settings file. It is JSON so that nothing has to be executed to read it; every error names the setting. */

#include "celeryc/worker/settings.h"

#include "celeryc/base/limits.h"
#include "celeryc/message/json.h"
#include "celeryc/worker/settings_redis.h"
#include "celeryc/worker/settings_table.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct reader {
    struct settings *s;
    struct arena *arena;
    const char *group; /* "broker_transport_options.", or "" */
    struct err *e;
};

void settings_init(struct settings *s)
{
    *s = (struct settings){
        .result_expires = 86400,
        .result_failure_expires = -1,
        .result_chord_expires = -1,
        .chord_join_timeout = 3,
        .acks_on_failure_or_timeout = true,
        .acks_on_timeout = -1,
        .prefetch_multiplier = -1,
        .watchdog_timeout = 60,
        .connection_retry = true,
        .connection_retry_on_startup = -1,
        .connection_max_retries = 100,
        .visibility_timeout = 3600,
        .enable_remote_control = true,
    };
}

void settings_deinit(struct settings *s)
{
    free(s->broker_url);
    free(s->result_backend);
    free(s->default_queue);
    strv_deinit(&s->queues);
    free(s->pool);
    free(s->concurrency);
    free(s->broker_keyprefix);
    free(s->result_keyprefix);
    free(s->sep);
    free(s->control_exchange);
    free(s->event_exchange);
    free(s->unacked_key);
    free(s->unacked_index_key);
    free(s->unacked_mutex_key);
    redis_options_deinit(&s->broker_redis);
    redis_options_deinit(&s->backend_redis);
    free(s->accept_content);
    free(s->task_serializer);
    free(s->task_compression);
    free(s->security_key);
    free(s->security_key_password);
    free(s->security_certificate);
    free(s->security_cert_store);
    free(s->security_digest);
    strv_deinit(&s->warnings);
    *s = (struct settings){0};
}

static bool name_fits(const char *pattern, struct slice name)
{
    size_t len = strlen(pattern);
    if (len && pattern[len - 1] == '*')
        return name.len >= len - 1 && memcmp(pattern, name.p, len - 1) == 0;
    return slice_eq_str(name, pattern);
}

static const char *next_setting(size_t i, const void *arg)
{
    return ((const struct setting *)arg)[i].name;
}

static int wrong(const struct reader *rd, const struct setting *t, struct json_val v,
                 const char *what)
{
    return err_set(rd->e, -EINVAL, "setting %s%s: %.*s is not %s", rd->group, t->name,
                   (int)MIN(v.raw.len, 80), v.raw.p, what);
}

static int text_of(const struct reader *rd, struct json_val v, char **dst)
{
    struct slice text;
    int r = json_string(rd->arena, v, &text);
    if (r)
        return r;
    if (memchr(text.p, '\0', text.len))
        return -EINVAL;
    char *copy = slice_dup(text);
    if (!copy)
        return -ENOMEM;
    free(*dst);
    *dst = copy;
    return 0;
}

static int take_number(const struct reader *rd, const struct setting *t, struct json_val v,
                       void *at)
{
    double number = 0;
    int64_t whole = 0;
    int r = t->kind == SETTING_INT ? json_i64(v, &whole) : json_f64(v, &number);
    if (r || (t->kind == SETTING_INT ? whole < 0 : !(number >= 0 && number < 1e15)))
        return wrong(rd, t, v,
                     t->kind == SETTING_INT ? "a whole number >= 0" : "a number of seconds >= 0");
    if (t->kind == SETTING_INT)
        *(int64_t *)at = whole;
    else
        *(double *)at = number;
    return 0;
}

static int take_names(const struct reader *rd, const struct setting *t, struct json_val v,
                      struct strv *at)
{
    strv_deinit(at);
    if (v.kind == JSON_K_STRING) {
        CLEANUP(mem_free) char *text = NULL;
        int r = text_of(rd, v, &text);
        return r ? r : strv_add_commas(at, text);
    }
    if (v.kind != JSON_K_ARRAY)
        return wrong(rd, t, v, "a list of queue names");
    struct json_iter it;
    json_iter_init(&it, v);
    while (json_next(&it)) {
        struct json_val name = it.val.kind == JSON_K_OBJECT ? json_get(it.val, "name") : it.val;
        CLEANUP(mem_free) char *text = NULL;
        if (name.kind != JSON_K_STRING || text_of(rd, name, &text))
            return wrong(rd, t, it.val, "a queue name, nor an object with a \"name\"");
        int r = strv_add(at, text);
        if (r)
            return r;
    }
    return 0;
}

static int take_steps(const struct reader *rd, const struct setting *t, struct json_val v)
{
    struct json_iter it;
    json_iter_init(&it, v);
    size_t n = 0;
    int64_t step, last = -1;
    while (json_next(&it)) {
        if (n == SETTINGS_MAX_STEPS || json_i64(it.val, &step) || step <= last || step > 9)
            return wrong(rd, t, v, "a rising list of priorities from 0 to 9");
        rd->s->priority_steps[n++] = (int)step;
        last = step;
    }
    if (v.kind != JSON_K_ARRAY || n == 0 || rd->s->priority_steps[0] != 0)
        return wrong(rd, t, v, "a rising list of priorities that starts with 0");
    rd->s->n_priority_steps = n;
    return 0;
}

static int warn(const struct reader *rd, const char *name, const char *text)
{
    struct buf b = BUF_INIT;
    buf_appendf(&b, "setting %s%s has no effect: %s", rd->group, name, text);
    int r = buf_ok(&b);
    if (r == 0)
        r = strv_add(&rd->s->warnings, b.data);
    buf_deinit(&b);
    return r;
}

/* The names with commas between. */
static int take_content(const struct reader *rd, const struct setting *t, struct json_val v)
{
    CLEANUP(buf_deinit) struct buf names = BUF_INIT;
    struct json_iter it;
    if (v.kind != JSON_K_ARRAY || json_len(v) == 0)
        return wrong(rd, t, v, "a list of serializers, [\"json\"]");
    for (json_iter_init(&it, v); json_next(&it);) {
        CLEANUP(mem_free) char *name = NULL;
        if (it.val.kind != JSON_K_STRING || text_of(rd, it.val, &name) ||
            !wire_knows_serializer(name))
            return wrong(rd, t, it.val, "a serializer (json, msgpack, yaml, auth)");
        if (str_eq(name, "pickle") || str_eq(name, "application/x-python-serialize")) {
            int r = warn(rd, t->name, "pickle is never read, such messages are set aside");
            if (r)
                return r;
            continue;
        }
        buf_append_str(&names, names.len ? "," : "");
        buf_append_str(&names, name);
    }
    if (names.failed)
        return -ENOMEM;
    if (names.len == 0)
        return wrong(rd, t, v, "a list with a serializer that this worker reads");
    free(rd->s->accept_content);
    rd->s->accept_content = buf_take(&names);
    return rd->s->accept_content ? 0 : -ENOMEM;
}

struct wire_options settings_wire(const struct settings *s)
{
    return (struct wire_options){
        .accept = s->accept_content,
        .serializer = s->task_serializer,
        .compression = s->task_compression,
        .key = s->security_key,
        .key_password = s->security_key_password,
        .certificate = s->security_certificate,
        .cert_store = s->security_cert_store,
        .digest = s->security_digest,
    };
}

/* Is v one of the JSON values between '|'? */
static bool among(const char *only, struct slice v)
{
    for (const char *p = only; *p;) {
        size_t len = strcspn(p, "|");
        if (slice_eq((struct slice){p, len}, v))
            return true;
        p += len + (p[len] == '|');
    }
    return false;
}

static int read_object(struct reader *rd, const struct setting *table, struct json_val v);

static int take_nested(struct reader *rd, const struct setting *t, struct json_val v)
{
    if (v.kind != JSON_K_OBJECT)
        return wrong(rd, t, v, "an object");
    bool broker = t->kind == SETTING_BROKER_OPTS;
    struct reader inner = *rd;
    inner.group = broker ? "broker_transport_options." : "result_backend_transport_options.";
    return read_object(&inner, broker ? settings_broker_options : settings_backend_options, v);
}

static int take_scalar(const struct reader *rd, const struct setting *t, struct json_val v,
                       char **at)
{
    if (v.kind == JSON_K_STRING || t->kind != SETTING_SCALAR) {
        int r = text_of(rd, v, at);
        return r == -EINVAL ? wrong(rd, t, v, "a string") : r;
    }
    if (v.kind != JSON_K_INT)
        return wrong(rd, t, v, "a whole number or a string");
    char *copy = slice_dup(v.raw);
    if (!copy)
        return -ENOMEM;
    free(*at);
    *at = copy;
    return 0;
}

static int take_redis(const struct reader *rd, const struct setting *t, struct json_val v, void *at)
{
    const char *name = arena_printf(rd->arena, "%s%s", rd->group, t->name);
    if (!name)
        return -ENOMEM;
    const struct settings_place place = {rd->arena, name, rd->e};
    switch (t->kind) {
    case SETTING_REDIS_TLS:
        return settings_take_tls(&place, at, v);
    case SETTING_REDIS_SENTINEL:
        return settings_take_sentinel(&place, at, v);
    case SETTING_REDIS_STRATEGY:
        return settings_take_strategy(&place, at, v);
    case SETTING_URLS:
        return settings_take_urls(&place, v, at);
    default:
        return settings_take_option(&place, at, t->only, v);
    }
}

static int take_bool(const struct reader *rd, const struct setting *t, struct json_val v, void *at)
{
    if (v.kind != JSON_K_TRUE && v.kind != JSON_K_FALSE)
        return wrong(rd, t, v, "true or false");
    if (t->kind == SETTING_BOOL)
        *(bool *)at = v.kind == JSON_K_TRUE;
    else if (t->kind == SETTING_NOT)
        *(bool *)at = v.kind == JSON_K_FALSE;
    else
        *(int *)at = v.kind == JSON_K_TRUE;
    return 0;
}

static int take(struct reader *rd, const struct setting *t, struct slice name, struct json_val v)
{
    void *at = (char *)rd->s + t->offset;
    if (v.kind == JSON_K_NULL) {
        if (t->kind == SETTING_EXPIRY)
            *(double *)at = 0;
        return 0;
    }
    switch (t->kind) {
    case SETTING_BOOL:
    case SETTING_NOT:
    case SETTING_TRISTATE:
        return take_bool(rd, t, v, at);
    case SETTING_INT:
    case SETTING_SECONDS:
    case SETTING_EXPIRY:
        return take_number(rd, t, v, at);
    case SETTING_STRING:
    case SETTING_SECRET:
    case SETTING_SCALAR:
        return take_scalar(rd, t, v, at);
    case SETTING_NAMES:
        return take_names(rd, t, v, at);
    case SETTING_URLS:
        return v.kind == JSON_K_STRING ? take_scalar(rd, t, v, at) : take_redis(rd, t, v, at);
    case SETTING_REDIS:
    case SETTING_REDIS_TLS:
    case SETTING_REDIS_SENTINEL:
    case SETTING_REDIS_STRATEGY:
        return take_redis(rd, t, v, at);
    case SETTING_STEPS:
        return take_steps(rd, t, v);
    case SETTING_CONTENT:
        return take_content(rd, t, v);
    case SETTING_BROKER_OPTS:
    case SETTING_BACKEND_OPTS:
        return take_nested(rd, t, v);
    case SETTING_MOOT:
        return 0;
    case SETTING_ONLY_WARN:
        return among(t->only, v.raw) ? 0 : warn(rd, t->name, t->note);
    case SETTING_ONLY:
        if (among(t->only, v.raw))
            return 0;
        return err_set(rd->e, -EINVAL, "setting %s%.*s: %.*s is not supported: %s", rd->group,
                       (int)name.len, name.p, (int)MIN(v.raw.len, 80), v.raw.p, t->note);
    }
    return 0;
}

static int read_object(struct reader *rd, const struct setting *table, struct json_val v)
{
    struct json_iter it;
    json_iter_init(&it, v);
    while (json_next(&it)) {
        struct slice name;
        int r = json_string(rd->arena, it.key, &name);
        if (r)
            return r;
        const struct setting *t = table;
        while (t->name && !name_fits(t->name, name))
            t++;
        if (!t->name) {
            const char *word = arena_strdup(rd->arena, name);
            const char *near = word ? strv_nearest(word, next_setting, table) : NULL;
            return err_set(rd->e, -EINVAL, "unknown setting %s%s%s%s%s", rd->group,
                           word ? word : "", near ? " (did you mean " : "", near ? near : "",
                           near ? "?)" : "");
        }
        r = take(rd, t, name, it.val);
        if (r)
            return r;
    }
    return 0;
}

int settings_parse(struct settings *s, struct slice text, struct err *e)
{
    struct json_val v;
    int r = json_scan(text, &v, e);
    if (r)
        return r;
    if (v.kind != JSON_K_OBJECT)
        return err_set(e, -EINVAL, "not a JSON object of settings");
    CLEANUP(arena_free) struct arena *arena = arena_new();
    if (!arena)
        return -ENOMEM;
    struct reader rd = {.s = s, .arena = arena, .group = "", .e = e};
    return read_object(&rd, settings_worker, v);
}

int settings_load(struct settings *s, const char *path, struct err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        int r = -errno;
        return err_set(e, r, "cannot read --config %s: %s", path, err_errno(r));
    }
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    char chunk[8192];
    ssize_t n;
    while ((n = read(fd, chunk, sizeof(chunk))) > 0 && b.len <= LIMIT_CONFIG_BYTES)
        buf_append(&b, chunk, (size_t)n);
    int r = n < 0 ? -errno : buf_ok(&b);
    (void)close(fd);
    if (r)
        return err_set(e, r, "cannot read --config %s: %s", path, err_errno(r));
    if (b.len > LIMIT_CONFIG_BYTES)
        return err_set(e, -E2BIG, "--config %s is larger than %u bytes", path, LIMIT_CONFIG_BYTES);
    r = settings_parse(s, buf_slice(&b), e);
    return r ? err_prefix(e, r, "--config %s", path) : 0;
}
