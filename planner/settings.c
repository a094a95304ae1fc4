/* SPDX-License-Identifier: Apache-2.0 */
#include "planner/settings.h"

#include "celeryc/base/num.h"
#include "celeryc/message/json.h"
#include "celeryc/migrate/policy.h"
#include "celeryc/migrate/sqlfile.h"

#include <errno.h>

static int add(struct settings *s, struct arena *arena, const char *column, struct slice value)
{
    const char *copy = arena_strdup(arena, value);

    if (!copy)
        return -ENOMEM;
    ASSERT(s->n < SETTINGS_MAX);
    s->list[s->n++] = (struct db_setting){.column = column, .value = copy};
    return 0;
}

/* "0.1%": of the total, rounded down; "100": so many. */
static int parse_limit(const char *option, const char *text, int64_t total, int64_t *ret_n,
                       struct err *e)
{
    size_t len = strlen(text);
    double percent;

    if (len > 1 && text[len - 1] == '%') {
        if (!num_parse_f64((struct slice){text, len - 1}, &percent) && percent >= 0 &&
            percent <= 100) {
            *ret_n = (int64_t)((double)total * percent / 100);
            return 0;
        }
    } else if (!num_parse_i64((struct slice){text, len}, ret_n) && *ret_n >= 0) {
        return 0;
    }
    return err_set(e, -EINVAL, "--%s: \"%.40s\" is neither a number of records nor a part (0.1%%)",
                   option, text);
}

/* "5%", "0.05", "off". */
static int parse_rate(const char *text, double *ret_rate, struct err *e)
{
    size_t len = strlen(text);
    bool percent = len > 1 && text[len - 1] == '%';

    if (str_eq(text, "off")) {
        *ret_rate = 1;
        return 0;
    }
    if (!num_parse_f64((struct slice){text, len - percent}, ret_rate)) {
        *ret_rate /= percent ? 100 : 1;
        if (*ret_rate >= 0 && *ret_rate <= 1)
            return 0;
    }
    return err_set(e, -EINVAL, "--max-failure-rate: \"%.40s\" is none of 5%%, 0.05 and off", text);
}

static int add_limit(struct settings *s, struct arena *arena, const char *column,
                     const char *option, const char *text, int64_t total, struct err *e)
{
    char number[24];
    int64_t n = 0;
    int r = parse_limit(option, text, total, &n, e);

    if (r)
        return r;
    (void)snprintf(number, sizeof(number), "%lld", (long long)n);
    return add(s, arena, column, slice_str(number));
}

static int add_policy(struct settings *s, struct arena *arena, const char *text, struct err *e)
{
    CLEANUP(buf_deinit) struct buf json = BUF_INIT;
    int r = policy_parse(text, &json, e);

    return r ? r : add(s, arena, "policy", buf_slice(&json));
}

static int add_rate(struct settings *s, struct arena *arena, const char *text, struct err *e)
{
    char number[40];
    double rate = 0;
    int r = parse_rate(text, &rate, e);

    if (r)
        return r;
    (void)snprintf(number, sizeof(number), "%.17g", rate);
    return add(s, arena, "max_failure_rate", slice_str(number));
}

int settings_from_args(struct settings *s, const struct args *a, int64_t total, struct arena *arena,
                       struct err *e)
{
    char number[24];
    int r = 0;

    *s = (struct settings){0};
    if (a->on_error)
        r = add_policy(s, arena, a->on_error, e);
    if (!r && a->max_quarantine)
        r = add_limit(s, arena, "max_quarantined", "max-quarantine", a->max_quarantine, total, e);
    if (!r && a->max_quarantine_batch)
        r = add_limit(s, arena, "max_quarantined_batch", "max-quarantine-batch",
                      a->max_quarantine_batch, MIN(a->batch_size, total), e);
    if (!r && a->max_failure_rate)
        r = add_rate(s, arena, a->max_failure_rate, e);
    if (!r && a->canary) {
        (void)snprintf(number, sizeof(number), "%lld", (long long)MIN(a->canary, total));
        r = add(s, arena, "canary", slice_str(number));
    }
    if (!r && a->statement)
        r = add(s, arena, "statement", slice_str(a->statement));
    if (!r && a->sql && a->sql->version)
        r = add(s, arena, "version", slice_str(a->sql->version));
    return r;
}

int settings_check(const struct args *a, struct err *e)
{
    CLEANUP(arena_free) struct arena *arena = arena_new();
    struct settings s;

    return arena ? settings_from_args(&s, a, 1, arena, e) : -ENOMEM;
}

int settings_write(const struct settings *s, struct buf *dst)
{
    buf_append_char(dst, '{');
    for (size_t i = 0; i < s->n; i++) {
        buf_append_str(dst, i ? ", " : "");
        json_write_string(dst, slice_str(s->list[i].column));
        buf_append_str(dst, ": ");
        json_write_string(dst, slice_str(s->list[i].value));
    }
    buf_append_char(dst, '}');
    return buf_ok(dst);
}

int settings_read(struct settings *s, const char *json, struct arena *arena, struct err *e)
{
    struct json_val all;
    struct json_iter it;

    *s = (struct settings){0};
    if (!json)
        return 0;
    if (json_scan(slice_str(json), &all, e))
        return -EBADMSG;
    json_iter_init(&it, all);
    while (json_next(&it)) {
        struct slice column, value;

        if (s->n == SETTINGS_MAX || json_string_z(arena, it.key, &column) ||
            json_string_z(arena, it.val, &value))
            return err_set(e, -EBADMSG, "manifest: \"settings\" are not what a planner writes");
        s->list[s->n++] = (struct db_setting){.column = column.p, .value = value.p};
    }
    return 0;
}
