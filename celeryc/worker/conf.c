/* SPDX-License-Identifier: Apache-2.0 */
/* The settings as `inspect conf` shows them: what differs from the default, or all that this worker knows. Passwords are
 * masked; settings without meaning for it are left out. */

#include "celeryc/worker/conf.h"

#include "celeryc/base/num.h"
#include "celeryc/message/json.h"
#include "celeryc/worker/settings_table.h"

#define FIELD(s, t, type) (*(const type *)((const char *)(s) + (t)->offset))

static void write_names(struct buf *dst, const struct strv *names)
{
    buf_append_char(dst, '[');
    for (size_t i = 0; i < names->n; i++) {
        buf_append_str(dst, i ? ", " : "");
        json_write_string(dst, slice_str(names->v[i]));
    }
    buf_append_char(dst, ']');
}

static void write_scalar(struct buf *dst, const char *text)
{
    int64_t number;
    if (text && num_parse_i64(slice_str(text), &number) == 0)
        buf_append_str(dst, text);
    else
        json_write_string_or_null(dst, slice_str(text));
}

/* Below zero is unset. */
static void write_double(struct buf *dst, double v, bool zero_is_null)
{
    if (v < 0 || (zero_is_null && v == 0))
        buf_append_str(dst, "null");
    else if (v == (double)(int64_t)v)
        json_write_i64(dst, (int64_t)v);
    else
        json_write_f64(dst, v);
}

static void write_steps(struct buf *dst, const struct settings *s)
{
    buf_append_char(dst, '[');
    for (size_t i = 0; i < s->n_priority_steps; i++)
        buf_appendf(dst, "%s%d", i ? ", " : "", s->priority_steps[i]);
    buf_append_char(dst, ']');
}

static void write_content(struct buf *dst, const struct settings *s)
{
    CLEANUP(strv_deinit) struct strv names = {NULL, 0};
    if (strv_add_commas(&names, s->accept_content ? s->accept_content : "json"))
        dst->failed = true;
    write_names(dst, &names);
}

static void write_table(struct buf *dst, const struct setting *table, const struct settings *s,
                        const struct settings *usual, bool all);

/* The value of one setting. False: it is as by default. */
static bool write_value(struct buf *dst, const struct setting *t, const struct settings *s,
                        const struct settings *usual, bool all)
{
    size_t before = dst->len;
    switch (t->kind) {
    case SETTING_BOOL:
        buf_append_str(dst, FIELD(s, t, bool) ? "true" : "false");
        return FIELD(s, t, bool) != FIELD(usual, t, bool);
    case SETTING_TRISTATE:
        buf_append_str(dst, FIELD(s, t, int) < 0 ? "null" : FIELD(s, t, int) ? "true" : "false");
        return FIELD(s, t, int) != FIELD(usual, t, int);
    case SETTING_INT:
        write_double(dst, (double)FIELD(s, t, int64_t), false);
        return FIELD(s, t, int64_t) != FIELD(usual, t, int64_t);
    case SETTING_SECONDS:
    case SETTING_EXPIRY:
        write_double(dst, FIELD(s, t, double), t->kind == SETTING_EXPIRY);
        return FIELD(s, t, double) != FIELD(usual, t, double);
    case SETTING_STRING:
    case SETTING_URLS:
        json_write_string_or_null(dst, slice_str(FIELD(s, t, char *)));
        return FIELD(s, t, char *) != NULL;
    case SETTING_SECRET:
        json_write_string_or_null(dst, slice_str(FIELD(s, t, char *) ? "********" : NULL));
        return FIELD(s, t, char *) != NULL;
    case SETTING_SCALAR:
        write_scalar(dst, FIELD(s, t, char *));
        return FIELD(s, t, char *) != NULL;
    case SETTING_NAMES:
        write_names(dst, &FIELD(s, t, struct strv));
        return FIELD(s, t, struct strv).n > 0;
    case SETTING_STEPS:
        write_steps(dst, s);
        return s->n_priority_steps > 0;
    case SETTING_CONTENT:
        write_content(dst, s);
        return s->accept_content != NULL;
    case SETTING_BROKER_OPTS:
    case SETTING_BACKEND_OPTS:
        buf_append_char(dst, '{');
        write_table(dst,
                    t->kind == SETTING_BROKER_OPTS ? settings_broker_options
                                                   : settings_backend_options,
                    s, usual, all);
        buf_append_char(dst, '}');
        return dst->len > before + 2;
    default:
        return false;
    }
}

static void write_table(struct buf *dst, const struct setting *table, const struct settings *s,
                        const struct settings *usual, bool all)
{
    CLEANUP(buf_deinit) struct buf value = BUF_INIT;
    size_t n = 0;
    for (const struct setting *t = table; t->name; t++) {
        buf_reset(&value);
        bool changed = write_value(&value, t, s, usual, all);
        if (value.len == 0 || (!changed && !all))
            continue;
        buf_append_str(dst, n++ ? ", " : "");
        json_write_string(dst, slice_str(t->name));
        buf_append_str(dst, ": ");
        buf_append_slice(dst, buf_slice(&value));
        if (buf_ok(&value))
            dst->failed = true;
    }
}

/* What is so in every worker of this kind, and what monitors look for; plug-ins stand where Celery has its modules. */
static void write_fixed(struct buf *dst, const struct worker_config *c, bool all)
{
    buf_append_str(dst, "\"deprecated_settings\": null, \"include\": ");
    write_names(dst, &c->apps);
    buf_append_str(dst, ", \"enable_utc\": true, \"timezone\": null, \"broker_heartbeat\": null, "
                        "\"worker_hijack_root_logger\": true, \"worker_log_color\": false, ");
    if (!all && !c->settings.accept_content)
        buf_append_str(dst, "\"accept_content\": [\"json\"], ");
}

void conf_write(struct buf *dst, const struct worker_config *c, bool with_defaults)
{
    struct settings usual, s = c->settings;
    char concurrency[24];
    settings_init(&usual);
    (void)snprintf(concurrency, sizeof(concurrency), "%zu", c->concurrency);
    /* What the command line and the environment said. The copy owns nothing. */
    s.broker_url = c->broker.masked;
    s.result_backend = c->has_backend ? c->backend.masked : NULL;
    s.concurrency = concurrency;
    char pool[16];
    (void)snprintf(pool, sizeof(pool), "%s", config_pool_name(c->pool));
    s.pool = pool;
    s.queues = c->queues;
    s.time_limit = c->time_limit;
    s.soft_time_limit = c->soft_time_limit;
    s.prefetch_multiplier = c->prefetch_multiplier;
    s.max_tasks_per_child = c->max_tasks_per_child;
    write_fixed(dst, c, with_defaults);
    write_table(dst, settings_worker, &s, &usual, with_defaults);
    settings_deinit(&usual);
}
