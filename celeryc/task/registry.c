/* SPDX-License-Identifier: Apache-2.0 */
/* The task table: entries sorted by name, and its encoded form for the master.
 *
 * Format (version 2, little endian; a change of layout takes a new version, and master and zygote are always the same
 * program, so old versions are refused, not read):
 *
 *     u8 version | u32 count | count x ( name | arg_names | rate_limit | queue | u8 flags | u32 max_retries |
 *                                        u32 priority | f64 default_retry_delay | f64 time_limit |
 *                                        f64 soft_time_limit | f64 expires )
 *
 * A text is a u32 length (0xffffffff: NULL) and its bytes. What must never happen: two entries of one name. */

#include "celeryc/task/registry.h"

#include "celeryc/base/limits.h"
#include "celeryc/base/num.h"
#include "celeryc/task/cursor.h"
#include "celeryc/task/registry_priv.h"

#include <errno.h>
#include <math.h>

#define TABLE_VERSION       2
#define TABLE_MAX           100000
#define RETRIES_DEFAULT     3
#define RETRY_DELAY_DEFAULT 180.0
#define BACKOFF_MAX_DEFAULT 600.0

enum table_flag {
    FLAG_ACKS_LATE = 1,
    FLAG_ACKS_ON_FAILURE = 2,
    FLAG_REJECT_ON_WORKER_LOST = 4,
    FLAG_IGNORE_RESULT = 8,
    FLAG_STORE_ERRORS = 16,
    FLAG_TRACK_STARTED = 32,
    FLAG_RETRY_ON_WORKER_LOST = 64,
    FLAG_ERRBACK = 128,
};

struct task_registry {
    struct task_entry **entries;
    size_t len, cap;
};

static struct task_entry *entry_free(struct task_entry *t)
{
    if (!t)
        return NULL;
    free((char *)t->info.name);
    free((char *)t->info.arg_names);
    free((char *)t->info.rate_limit);
    free((char *)t->info.queue);
    free(t->autoretry_for);
    free(t->dont_autoretry_for);
    free(t->file);
    for (size_t i = 0; i < t->n_params; i++)
        free(t->params[i]);
    free(t->params);
    return mem_free(t);
}

DEFINE_CLEANUP(struct task_entry, entry_free)

struct task_registry *task_registry_new(void)
{
    return calloc(1, sizeof(struct task_registry));
}

struct task_registry *task_registry_free(struct task_registry *r)
{
    if (!r)
        return NULL;
    for (size_t i = 0; i < r->len; i++)
        entry_free(r->entries[i]);
    free(r->entries);
    return mem_free(r);
}

/* The index of name, or where it would stand. */
static size_t lower_bound(const struct task_registry *r, struct slice name, bool *ret_found)
{
    size_t lo = 0, hi = r->len;
    *ret_found = false;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        struct slice have = slice_str(r->entries[mid]->info.name);
        int order = memcmp(have.p, name.p ? name.p : "", MIN(have.len, name.len));
        if (order == 0)
            order = have.len < name.len ? -1 : have.len > name.len;
        if (order == 0) {
            *ret_found = true;
            return mid;
        }
        if (order < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

const struct task_entry *task_registry_entry(const struct task_registry *r, struct slice name)
{
    bool found;
    size_t i = lower_bound(r, name, &found);
    return found ? r->entries[i] : NULL;
}

size_t task_registry_len(const struct task_registry *r)
{
    return r->len;
}

const struct task_info *task_registry_at(const struct task_registry *r, size_t i)
{
    return i < r->len ? &r->entries[i]->info : NULL;
}

const struct task_info *task_registry_find(const struct task_registry *r, struct slice name)
{
    const struct task_entry *t = task_registry_entry(r, name);
    return t ? &t->info : NULL;
}

/* Takes the entry over, also on failure. */
static int insert_take(struct task_registry *r, struct task_entry *entry, struct err *e)
{
    CLEANUP(entry_free) struct task_entry *t = entry;
    bool found;
    size_t at = lower_bound(r, slice_str(t->info.name), &found);
    if (found) {
        const char *first = r->entries[at]->file;
        return err_set(
            e, -EEXIST,
            "task \"%s\" is defined twice, in %s and in %s: rename one, or load only one "
            "of the two",
            t->info.name, first ? first : "the program", t->file ? t->file : "the program");
    }
    if (r->len == r->cap) {
        size_t cap = r->cap ? r->cap * 2 : 16;
        struct task_entry **grown = reallocarray(r->entries, cap, sizeof *grown);
        if (!grown)
            return -ENOMEM;
        r->entries = grown;
        r->cap = cap;
    }
    memmove(r->entries + at + 1, r->entries + at, (r->len - at) * sizeof *r->entries);
    r->entries[at] = STEAL(t);
    r->len++;
    return 0;
}

static int check_name(const char *name, struct err *e)
{
    size_t len = name ? strlen(name) : 0;
    if (len == 0 || len > LIMIT_TASK_NAME)
        return err_set(e, -EINVAL, "a task's name has 1 to %d bytes, this one has %zu",
                       LIMIT_TASK_NAME, len);
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)name[i] <= ' ' || name[i] == 0x7f)
            return err_set(e, -EINVAL, "task name \"%s\" contains a space or a control character",
                           name);
    return 0;
}

/* "10", "10/s", "1.5/m", "100/h". */
static int check_rate(const char *name, const char *rate, struct err *e)
{
    if (!rate)
        return 0;
    const char *slash = strchr(rate, '/');
    struct slice number = {rate, slash ? (size_t)(slash - rate) : strlen(rate)};
    double v;
    bool unit_ok = !slash || (strlen(slash) == 2 && strchr("smh", slash[1]));
    if (!unit_ok || num_parse_f64(number, &v) < 0 || v < 0)
        return err_set(
            e, -EINVAL,
            "task \"%s\": rate_limit \"%s\" is not a rate: write it as \"10/s\", \"10/m\" "
            "or \"10/h\"",
            name, rate);
    return 0;
}

static bool name_char(char c, bool first)
{
    return c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (unsigned char)c >= 0x80 || (!first && c >= '0' && c <= '9');
}

/* Splits "a, b" into t->params. */
static int split_params(struct task_entry *t, struct err *e)
{
    const char *p = t->info.arg_names;
    if (!p)
        return 0;
    size_t n = 1;
    for (const char *q = p; *q; q++)
        n += *q == ',';
    t->params = calloc(n + 1, sizeof *t->params);
    if (!t->params)
        return -ENOMEM;
    p += strspn(p, " ");
    while (*p) {
        size_t len = 0;
        while (name_char(p[len], len == 0))
            len++;
        const char *after = p + len + strspn(p + len, " ");
        if (len == 0 || (*after && *after != ','))
            return err_set(e, -EINVAL,
                           "task \"%s\": arg_names \"%s\" is not a list of names: write \"a,b\"",
                           t->info.name, t->info.arg_names);
        t->params[t->n_params] = slice_dup((struct slice){p, len});
        if (!t->params[t->n_params])
            return -ENOMEM;
        t->n_params++;
        p = *after ? after + 1 + strspn(after + 1, " ") : after;
    }
    return 0;
}

static int copy_string(const char *from, const char **ret_to)
{
    *ret_to = from ? slice_dup(slice_str(from)) : NULL;
    return from && !*ret_to ? -ENOMEM : 0;
}

static int copy_options(struct task_entry *t, const struct celeryc_task *from, struct err *e)
{
    struct task_info *i = &t->info;
    const double seconds[] = {from->default_retry_delay, from->time_limit, from->soft_time_limit,
                              from->retry_backoff,       from->expires,    from->retry_backoff_max};
    for (size_t k = 0; k < ARRAY_SIZE(seconds); k++)
        if (!isfinite(seconds[k]) || seconds[k] < 0)
            return err_set(e, -EINVAL, "task \"%s\": a time in seconds is negative or no number",
                           i->name);
    if (from->max_retries < CELERYC_RETRY_NEVER)
        return err_set(e, -EINVAL,
                       "task \"%s\": max_retries %d: use a number, CELERYC_RETRY_FOREVER or "
                       "CELERYC_RETRY_NEVER",
                       i->name, from->max_retries);
    if (from->priority < 0 || from->priority > 9)
        return err_set(e, -EINVAL, "task \"%s\": priority %d: use 0 to 9", i->name, from->priority);
    i->acks_late = from->acks_late;
    i->acks_on_failure = !from->no_acks_on_failure;
    i->reject_on_worker_lost = from->reject_on_worker_lost;
    i->ignore_result = from->ignore_result;
    i->store_errors_even_if_ignored = from->store_errors_even_if_ignored;
    i->track_started = from->track_started;
    i->max_retries = from->max_retries == 0                     ? RETRIES_DEFAULT
                     : from->max_retries == CELERYC_RETRY_NEVER ? 0
                                                                : from->max_retries;
    i->default_retry_delay =
        from->default_retry_delay > 0 ? from->default_retry_delay : RETRY_DELAY_DEFAULT;
    i->time_limit = from->time_limit;
    i->soft_time_limit = from->soft_time_limit;
    i->retry_on_worker_lost = from->retry_on_worker_lost;
    i->has_errback = from->errback;
    i->priority = from->priority;
    i->expires = from->expires;
    t->retry_backoff = from->retry_backoff;
    t->retry_backoff_max =
        from->retry_backoff_max > 0 ? from->retry_backoff_max : BACKOFF_MAX_DEFAULT;
    t->retry_jitter = !from->no_retry_jitter;
    return check_rate(i->name, i->rate_limit, e);
}

/* What only a process that runs tasks needs. */
static int copy_strings(struct task_entry *t, const struct celeryc_task *from, const char *file)
{
    const char *more[3] = {NULL};
    int rc = copy_string(file, &more[0]);
    if (rc == 0)
        rc = copy_string(from->autoretry_for, &more[1]);
    if (rc == 0)
        rc = copy_string(from->dont_autoretry_for, &more[2]);
    t->file = (char *)more[0];
    t->autoretry_for = (char *)more[1];
    t->dont_autoretry_for = (char *)more[2];
    return rc;
}

int task_registry_insert(struct task_registry *r, const struct celeryc_task *from, task_ctx_fn fn,
                         void *ctx, const char *file, struct err *e)
{
    int rc = check_name(from->name, e);
    if (rc < 0)
        return rc;
    if (!from->run && !fn && !from->errback)
        return err_set(e, -EINVAL, "task \"%s\" has no function", from->name);
    CLEANUP(entry_free) struct task_entry *t = calloc(1, sizeof *t);
    if (!t)
        return -ENOMEM;
    t->run = from->run;
    t->errback = from->errback;
    t->run_ctx = fn;
    t->ctx = ctx;
    if (copy_string(from->name, &t->info.name) < 0 ||
        copy_string(from->arg_names, &t->info.arg_names) < 0 ||
        copy_string(from->rate_limit, &t->info.rate_limit) < 0 ||
        copy_string(from->queue, &t->info.queue) < 0 || copy_strings(t, from, file) < 0)
        return -ENOMEM;
    rc = copy_options(t, from, e);
    if (rc == 0)
        rc = split_params(t, e);
    if (rc < 0)
        return rc;
    return insert_take(r, STEAL(t), e);
}

int task_registry_add(struct task_registry *r, const struct celeryc_task *t, task_ctx_fn fn,
                      void *ctx, struct err *e)
{
    return task_registry_insert(r, t, fn, ctx, NULL, e);
}

static uint8_t pack_flags(const struct task_info *i)
{
    return (uint8_t)((i->acks_late ? FLAG_ACKS_LATE : 0) |
                     (i->acks_on_failure ? FLAG_ACKS_ON_FAILURE : 0) |
                     (i->reject_on_worker_lost ? FLAG_REJECT_ON_WORKER_LOST : 0) |
                     (i->ignore_result ? FLAG_IGNORE_RESULT : 0) |
                     (i->store_errors_even_if_ignored ? FLAG_STORE_ERRORS : 0) |
                     (i->track_started ? FLAG_TRACK_STARTED : 0) |
                     (i->retry_on_worker_lost ? FLAG_RETRY_ON_WORKER_LOST : 0) |
                     (i->has_errback ? FLAG_ERRBACK : 0));
}

static void unpack_flags(struct task_info *i, uint8_t flags)
{
    i->acks_late = flags & FLAG_ACKS_LATE;
    i->acks_on_failure = flags & FLAG_ACKS_ON_FAILURE;
    i->reject_on_worker_lost = flags & FLAG_REJECT_ON_WORKER_LOST;
    i->ignore_result = flags & FLAG_IGNORE_RESULT;
    i->store_errors_even_if_ignored = flags & FLAG_STORE_ERRORS;
    i->track_started = flags & FLAG_TRACK_STARTED;
    i->retry_on_worker_lost = flags & FLAG_RETRY_ON_WORKER_LOST;
    i->has_errback = flags & FLAG_ERRBACK;
}

int task_registry_encode(const struct task_registry *r, struct buf *dst)
{
    buf_append_char(dst, TABLE_VERSION);
    buf_append_u32le(dst, (uint32_t)r->len);
    for (size_t k = 0; k < r->len; k++) {
        const struct task_info *i = &r->entries[k]->info;
        cursor_put_slice(dst, slice_str(i->name));
        cursor_put_slice(dst, slice_str(i->arg_names));
        cursor_put_slice(dst, slice_str(i->rate_limit));
        cursor_put_slice(dst, slice_str(i->queue));
        buf_append_char(dst, (char)pack_flags(i));
        buf_append_u32le(dst, (uint32_t)i->max_retries);
        buf_append_u32le(dst, (uint32_t)i->priority);
        cursor_put_f64(dst, i->default_retry_delay);
        cursor_put_f64(dst, i->time_limit);
        cursor_put_f64(dst, i->soft_time_limit);
        cursor_put_f64(dst, i->expires);
    }
    return buf_ok(dst);
}

static int take_string(struct cursor *c, const char **ret_s)
{
    struct slice s = cursor_slice(c);
    *ret_s = s.p ? slice_dup(s) : NULL;
    return s.p && !*ret_s ? -ENOMEM : 0;
}

static int decode_entry(struct cursor *c, struct task_registry *r, struct err *e)
{
    CLEANUP(entry_free) struct task_entry *t = calloc(1, sizeof *t);
    if (!t)
        return -ENOMEM;
    struct task_info *i = &t->info;
    if (take_string(c, &i->name) < 0 || take_string(c, &i->arg_names) < 0 ||
        take_string(c, &i->rate_limit) < 0 || take_string(c, &i->queue) < 0)
        return -ENOMEM;
    unpack_flags(i, cursor_u8(c));
    i->max_retries = (int)cursor_u32(c);
    i->priority = (int)cursor_u32(c);
    i->default_retry_delay = cursor_f64(c);
    i->time_limit = cursor_f64(c);
    i->soft_time_limit = cursor_f64(c);
    i->expires = cursor_f64(c);
    if (c->bad || !i->name)
        return err_set(e, -EINVAL, "task table: cut short");
    return insert_take(r, STEAL(t), e);
}

int task_registry_decode(struct slice bytes, struct task_registry **ret_r, struct err *e)
{
    CLEANUP(task_registry_free) struct task_registry *r = task_registry_new();
    if (!r)
        return -ENOMEM;
    struct cursor c = cursor_init(bytes);
    uint8_t version = cursor_u8(&c);
    uint32_t count = cursor_u32(&c);
    if (c.bad || version != TABLE_VERSION || count > TABLE_MAX)
        return err_set(e, -EINVAL, "task table: version %u with %u entries is not readable",
                       version, count);
    for (uint32_t k = 0; k < count; k++) {
        int rc = decode_entry(&c, r, e);
        if (rc < 0)
            return rc;
    }
    if (c.left > 0)
        return err_set(e, -EINVAL, "task table: %zu bytes too many", c.left);
    *ret_r = STEAL(r);
    return 0;
}
