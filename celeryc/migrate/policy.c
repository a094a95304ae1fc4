/* SPDX-License-Identifier: Apache-2.0 */
/* What a failure is called, and what the plan wants done about it. */

#include "celeryc/migrate/policy.h"

#include "celeryc/base/num.h"
#include "celeryc/migrate/runtime.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>

#define ATTEMPTS_LIMIT 1000 /* retry:N */

void failure_set(struct failure *f, const char *error_class, bool transient, const char *fmt, ...)
{
    char text[sizeof(f->e.text)];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    *f = (struct failure){.transient = transient};
    (void)snprintf(f->error_class, sizeof(f->error_class), "%s", error_class);
    (void)snprintf(f->e.text, sizeof(f->e.text), "%s", text);
    db_mend_text(f->e.text);
}

void failure_from_db(struct failure *f, const struct db *db, int code)
{
    db_mend_text(f->e.text);
    if (code < 0) {
        (void)err_set(&f->e, code, "%s", err_errno(code));
        (void)snprintf(f->error_class, sizeof(f->error_class), "%s",
                       code == -ENOMEM ? "MemoryError" : "ValueError");
        f->sqlstate[0] = '\0';
        f->transient = code == -ENOMEM;
        return;
    }
    (void)snprintf(f->error_class, sizeof(f->error_class), "%s", db_error_class(db));
    (void)snprintf(f->sqlstate, sizeof(f->sqlstate), "%s", db_sqlstate(db));
    f->transient = code == DB_E_RETRY;
}

/* ---- names ---- */

static bool is_state(struct slice s)
{
    if (s.len != 2 && s.len != 5)
        return false;
    for (size_t i = 0; i < s.len; i++)
        if (!isdigit((unsigned char)s.p[i]) && !isupper((unsigned char)s.p[i]))
            return false;
    return true;
}

static bool names(struct slice item, const char *error_class, const char *sqlstate)
{
    if (is_state(item))
        return strncmp(sqlstate, item.p, item.len) == 0;
    return db_error_is(error_class, sqlstate, item);
}

bool failure_listed(const char *retry_on, const char *error_class, const char *sqlstate)
{
    const char *p = retry_on ? retry_on : "";

    error_class = error_class ? error_class : "";
    sqlstate = sqlstate ? sqlstate : "";
    while (*p) {
        size_t skip = strspn(p, ", \t");
        size_t len = strcspn(p + skip, ", \t");
        struct slice item = {p + skip, len};

        p += skip + len;
        if (item.len && names(item, error_class, sqlstate))
            return true;
    }
    return false;
}

/* ---- answers ---- */

static const enum db_action actions[] = {DB_ACT_RETRY, DB_ACT_QUARANTINE, DB_ACT_SKIP,
                                         DB_ACT_FAIL_BATCH, DB_ACT_FAIL_PLAN};

/* "skip", "retry", "retry:5". */
static int read_answer(struct slice word, struct policy_answer *ret_a)
{
    struct policy_answer a = {.max_attempts = POLICY_MAX_ATTEMPTS};

    if (word.len > 6 && memcmp(word.p, "retry:", 6) == 0) {
        int r = num_parse_i64((struct slice){word.p + 6, word.len - 6}, &a.max_attempts);

        if (r || a.max_attempts < 1 || a.max_attempts > ATTEMPTS_LIMIT)
            return -EINVAL;
        word.len = 5;
    }
    for (size_t i = 0; i < ARRAY_SIZE(actions); i++) {
        if (slice_eq_str(word, db_action_name(actions[i]))) {
            a.action = actions[i];
            *ret_a = a;
            return 0;
        }
    }
    return -EINVAL;
}

/* A plain string between its quotes: what policy_parse writes needs no escapes. */
static struct slice inside(struct json_val v)
{
    return v.kind == JSON_K_STRING ? (struct slice){v.raw.p + 1, v.raw.len - 2} : SLICE_LIT("");
}

static bool find_entry(const char *on_error, const char *error_class, const char *sqlstate,
                       struct policy_answer *ret_a)
{
    struct json_val all;
    struct json_iter it;

    if (!on_error || !*on_error || json_scan(slice_str(on_error), &all, NULL))
        return false;
    json_iter_init(&it, all);
    while (json_next(&it))
        if (names(inside(it.key), error_class, sqlstate) && !read_answer(inside(it.val), ret_a))
            return true;
    return false;
}

/* An item of the migration's .retry_on; what is no number of tries is the usual one. */
static bool find_own(const char *own, const char *error_class, const char *sqlstate,
                     struct policy_answer *ret_a)
{
    for (const char *p = own ? own : ""; *p;) {
        size_t skip = strspn(p, ", \t"), len = strcspn(p + skip, ", \t");
        struct slice item = {p + skip, len};
        const char *colon = len ? memchr(item.p, ':', len) : NULL;
        struct slice name = {item.p, colon ? (size_t)(colon - item.p) : len};
        int64_t times = 0;

        p += skip + len;
        if (name.len == 0 || !names(name, error_class, sqlstate))
            continue;
        *ret_a =
            (struct policy_answer){.action = DB_ACT_RETRY, .max_attempts = POLICY_MAX_ATTEMPTS};
        if (colon && !num_parse_i64((struct slice){colon + 1, len - name.len - 1}, &times) &&
            times > 0)
            ret_a->max_attempts = times;
        return true;
    }
    return false;
}

static bool is_cut_off(const char *sqlstate)
{
    static const char *const states[] = {"08", "57P", "58", "25P03"};

    for (size_t i = 0; i < ARRAY_SIZE(states); i++)
        if (strncmp(sqlstate, states[i], strlen(states[i])) == 0)
            return true;
    return false;
}

struct policy_answer policy_ask(const struct policy *p, const char *error_class,
                                const char *sqlstate)
{
    struct policy_answer a = {.max_attempts = POLICY_MAX_ATTEMPTS};

    error_class = error_class ? error_class : "";
    sqlstate = sqlstate ? sqlstate : "";
    if (!find_entry(p->on_error, error_class, sqlstate, &a) &&
        (failure_listed(p->retry_on, error_class, sqlstate) ||
         !find_own(p->own, error_class, sqlstate, &a)))
        a.action = failure_listed(p->retry_on, error_class, sqlstate)
                       ? DB_ACT_RETRY
                       : db_default_action(error_class, sqlstate);
    if (is_cut_off(sqlstate) && (a.action == DB_ACT_QUARANTINE || a.action == DB_ACT_SKIP))
        a.action = DB_ACT_RETRY;
    return a;
}

/* ---- --on-error ---- */

static struct slice trimmed(struct slice s)
{
    while (s.len && isspace((unsigned char)s.p[0]))
        s.p++, s.len--;
    while (s.len && isspace((unsigned char)s.p[s.len - 1]))
        s.len--;
    return s;
}

static bool is_name(struct slice s)
{
    for (size_t i = 0; i < s.len; i++)
        if (!isalnum((unsigned char)s.p[i]) && s.p[i] != '_' && s.p[i] != '.')
            return false;
    return s.len > 0;
}

static int parse_entry(struct slice text, struct buf *dst, struct err *e)
{
    const char *equals = memchr(text.p, '=', text.len);
    struct slice name = trimmed((struct slice){text.p, equals ? (size_t)(equals - text.p) : 0});
    struct slice word = SLICE_NULL;
    struct policy_answer a;

    if (equals)
        word = trimmed((struct slice){equals + 1, (size_t)(text.p + text.len - equals - 1)});
    if (!is_name(name) || !word.p || read_answer(word, &a))
        return err_set(e, -EINVAL,
                       "--on-error: \"%.*s\" is not NAME=ACTION: NAME a SQLSTATE, its first two "
                       "letters or an exception, ACTION one of retry, retry:N, quarantine, skip, "
                       "fail-batch, fail-plan",
                       (int)MIN(text.len, 80), text.p);
    if (is_state(name) && (a.action == DB_ACT_QUARANTINE || a.action == DB_ACT_SKIP)) {
        char state[6];

        (void)snprintf(state, sizeof(state), "%.*s", (int)name.len, name.p);
        if (is_cut_off(state))
            return err_set(e, -EINVAL,
                           "--on-error: %s is a broken connection, which says nothing of a "
                           "record: retry, fail-batch or fail-plan",
                           state);
    }
    json_write_string(dst, name);
    buf_append_str(dst, ": ");
    json_write_string(dst, word);
    return 0;
}

int policy_parse(const char *text, struct buf *dst, struct err *e)
{
    bool first = true;

    buf_append_char(dst, '{');
    while (*text) {
        size_t n = strcspn(text, ",");
        struct slice entry = trimmed((struct slice){text, n});

        text += n + (text[n] ? 1 : 0);
        if (entry.len == 0)
            continue;
        buf_append_str(dst, first ? "" : ", ");
        first = false;
        int r = parse_entry(entry, dst, e);

        if (r)
            return r;
    }
    buf_append_char(dst, '}');
    return buf_ok(dst);
}
