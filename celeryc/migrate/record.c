/* SPDX-License-Identifier: Apache-2.0 */
/* The two sides of a migration function: the record that it reads and the change that it makes.
 *
 * The function's last word wins: it may set a column and then skip or fail. A mistake of the function (a column that it
 * did not declare) makes the record fail, whatever it says afterwards, but never the batch: the next record may do
 * better. Nothing here allocates
 * outside of the chunk's arena. */

#include "celeryc/migrate/runtime.h"

#include "celeryc/base/key.h"
#include "celeryc/base/num.h"
#include "celeryc/migrate/beat.h"

#include <errno.h>
#include <stdarg.h>

#define OUT_OF_MEMORY (-ENOMEM)

size_t migrate_columns(const char *const *names)
{
    size_t n = 0;

    while (n < SCATTER_MAX_COLUMNS && names[n])
        n++;
    return n;
}

static bool find(const char *const *names, const char *column, size_t *ret_i)
{
    size_t n = migrate_columns(names);

    for (size_t i = 0; i < n; i++) {
        if (str_eq(names[i], column)) {
            *ret_i = i;
            return true;
        }
    }
    return false;
}

static int not_declared(struct scatter_change *c, const char *column, const char *list)
{
    if (c->mistake)
        return 0;
    c->mistake = true;
    return scatter_fail(c, "KeyError", "'%s' is not among the columns that the migration %s",
                        column ? column : "", list);
}

/* ---- the record ---- */

const char *scatter_key(const struct scatter_record *r)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    if (r->n_keys == 1)
        return r->fields[0].p;
    key_write(&b, r->fields, r->n_keys);
    return buf_ok(&b) ? NULL : arena_strdup(r->arena, buf_slice(&b));
}

static const struct slice *field(const struct scatter_record *r, const char *column)
{
    size_t i;

    if (find(r->migration->reads, column, &i))
        return &r->fields[r->n_keys + i];
    if (key_find(r->key, column, &i))
        return &r->fields[i];
    (void)not_declared(r->change, column, "reads");
    return NULL;
}

const char *scatter_text(const struct scatter_record *r, const char *column)
{
    const struct slice *f = field(r, column);

    return f ? f->p : NULL;
}

int scatter_int(const struct scatter_record *r, const char *column, int64_t *ret_v)
{
    const struct slice *f = field(r, column);

    if (!f)
        return -1;
    if (!f->p)
        return 1;
    if (!num_parse_i64(*f, ret_v))
        return 0;
    (void)scatter_fail(r->change, "ValueError", "column %s is no integer: '%.60s'", column, f->p);
    return -1;
}

const char *scatter_param(const struct scatter_record *r, const char *name)
{
    struct json_val v = json_get(r->params, name);
    struct slice s;

    if (json_is_null(v))
        return NULL;
    if (v.kind != JSON_K_STRING)
        return arena_strdup(r->arena, v.raw);
    return json_string_z(r->arena, v, &s) ? NULL : s.p;
}

const char *scatter_idempotency_key(const struct scatter_record *r)
{
    if (!r->plan)
        return NULL;
    return arena_printf(r->arena, "%s/%lld/%lld", r->plan, (long long)r->batch,
                        (long long)r->position);
}

const char *scatter_stop_wanted(const struct scatter_record *r)
{
    const char *why = beat_stop_wanted(r->beat);

    r->change->told = r->change->told || why;
    return why;
}

/* ---- the change ---- */

static int set_value(struct scatter_change *c, const char *column, struct slice value)
{
    size_t i;

    if (!find(c->migration->writes, column, &i))
        return not_declared(c, column, "writes");
    if (value.p) {
        value.p = arena_strdup(c->arena, value);
        if (!value.p)
            return OUT_OF_MEMORY;
    }
    c->fresh[i] = value;
    c->set[i] = true;
    c->outcome = DB_O_CHANGED;
    return 0;
}

int scatter_set_text(struct scatter_change *c, const char *column, const char *value)
{
    return set_value(c, column, slice_str(value));
}

int scatter_set_int(struct scatter_change *c, const char *column, int64_t value)
{
    char text[24];

    (void)snprintf(text, sizeof(text), "%lld", (long long)value);
    return set_value(c, column, slice_str(text));
}

int scatter_set_null(struct scatter_change *c, const char *column)
{
    return set_value(c, column, SLICE_NULL);
}

int scatter_skip(struct scatter_change *c, const char *reason)
{
    char *copy = arena_strdup(c->arena, slice_str(reason ? reason : ""));

    if (!copy)
        return OUT_OF_MEMORY;
    db_mend_text(copy);
    c->message = copy;
    c->error_class = NULL;
    c->outcome = DB_O_SKIPPED;
    return 0;
}

int scatter_fail(struct scatter_change *c, const char *error_class, const char *format, ...)
{
    char text[1024];
    va_list ap;

    va_start(ap, format);
    (void)vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    db_mend_text(text);
    c->message = arena_strdup(c->arena, slice_str(text));
    c->error_class =
        arena_strdup(c->arena, slice_str(error_class && *error_class ? error_class : "Exception"));
    if (!c->message || !c->error_class)
        return OUT_OF_MEMORY;
    c->outcome = DB_O_QUARANTINED;
    return 0;
}

/* Without an order to obey the batch would come back to the record at once, for ever. */
int scatter_postpone(struct scatter_change *c)
{
    c->postponed = c->told;
    if (c->told)
        return 0;
    return scatter_fail(c, "RuntimeError",
                        "a record is postponed only when scatter_stop_wanted() has said why");
}

/* ---- one record ---- */

static int new_change(const struct scatter_migration *m, struct arena *a, struct scatter_change *c)
{
    size_t n = migrate_columns(m->writes);

    *c = (struct scatter_change){
        .migration = m,
        .arena = a,
        .outcome = DB_O_UNCHANGED,
        .fresh = arena_alloc_array(a, n, sizeof(*c->fresh)),
        .set = arena_alloc_array(a, n, sizeof(*c->set)),
    };
    return c->fresh && c->set ? 0 : -ENOMEM;
}

/* NULL and "" are two values. */
static bool differ(struct slice a, struct slice b)
{
    if (!a.p || !b.p)
        return a.p != b.p;
    return !slice_eq(a, b);
}

/* Only what is another value is a change; columns that were not read may always be. all: every write column is set. */
static bool changes(const struct scatter_migration *m, const struct slice *reads,
                    const struct scatter_change *c, bool *ret_all)
{
    bool any = false;

    *ret_all = true;
    for (size_t i = 0; i < migrate_columns(m->writes); i++) {
        size_t k;

        if (!c->set[i]) {
            *ret_all = false;
            continue;
        }
        any = any || !find(m->reads, m->writes[i], &k) || differ(reads[k], c->fresh[i]);
    }
    return any;
}

/* The function of a row or of something outside has done its work itself. */
static enum db_outcome outcome_of(const struct migrate_call *call, struct scatter_change *c)
{
    if (c->outcome == DB_O_QUARANTINED || c->outcome == DB_O_SKIPPED || call->m->record)
        return c->outcome;
    if (c->outcome == DB_O_CHANGED) {
        (void)scatter_fail(c, "TypeError",
                           "only a .record function sets columns; this one has its own means");
        return DB_O_QUARANTINED;
    }
    return call->tx && !call->tx->changed ? DB_O_UNCHANGED : DB_O_DONE;
}

static int call_function(const struct migrate_call *call, const struct scatter_record *r,
                         struct scatter_change *c)
{
    if (call->m->row)
        return call->m->row(r, call->tx, c);
    return call->m->record ? call->m->record(r, c) : call->m->external(r, c);
}

static struct scatter_record record_of(const struct migrate_call *call, struct scatter_change *c)
{
    return (struct scatter_record){.migration = call->m,
                                   .fields = call->fields,
                                   .key = call->key,
                                   .n_keys = key_width(call->key),
                                   .params = call->params,
                                   .arena = call->arena,
                                   .change = c,
                                   .plan = call->plan,
                                   .batch = call->batch,
                                   .position = call->position,
                                   .beat = call->beat};
}

int migrate_call_check(const struct migrate_call *call, const struct scatter_migration *now_m,
                       const struct slice *now_fields, const char **ret_reason)
{
    struct scatter_change c;

    if (new_change(call->m, call->arena, &c))
        return -ENOMEM;
    const struct scatter_record planned = record_of(call, &c);
    struct scatter_record now = planned;

    now.migration = now_m;
    now.fields = now_fields;
    int rc = call->m->check(&planned, &now, &c);

    if (rc == OUT_OF_MEMORY)
        return -ENOMEM;
    if (rc && c.outcome != DB_O_QUARANTINED &&
        scatter_fail(&c, "RuntimeError", "the check function returned %d", rc))
        return -ENOMEM;
    *ret_reason = c.outcome == DB_O_QUARANTINED ? c.message : NULL;
    return 0;
}

int migrate_call(const struct migrate_call *call, struct db_row *ret_row)
{
    const struct scatter_migration *m = call->m;
    struct scatter_change c;
    bool all = true;

    if (new_change(m, call->arena, &c))
        return -ENOMEM;
    const struct scatter_record r = record_of(call, &c);
    int rc = call_function(call, &r, &c);

    if (call->tx && call->tx->code)
        return call->tx->code;
    if (rc == OUT_OF_MEMORY)
        return -ENOMEM;
    if (c.postponed)
        return MIGRATE_POSTPONED;
    if (rc && c.outcome != DB_O_QUARANTINED && c.outcome != DB_O_SKIPPED &&
        scatter_fail(&c, "RuntimeError", "the migration function returned %d", rc))
        return -ENOMEM;
    if (c.mistake)
        c.outcome = DB_O_QUARANTINED;
    if (m->record && c.outcome == DB_O_CHANGED && !changes(m, call->fields + r.n_keys, &c, &all))
        c.outcome = DB_O_UNCHANGED;
    *ret_row = (struct db_row){.outcome = outcome_of(call, &c),
                               .position = call->position,
                               .old = call->fields,
                               .fresh = c.fresh,
                               .set = all ? NULL : c.set,
                               .error_class = c.error_class,
                               .message = c.message};
    return 0;
}

int migrate_compute(const struct scatter_migration *m, const char *key, struct json_val params,
                    const struct slice *fields, struct arena *a, struct db_row *ret_row)
{
    const struct migrate_call call = {
        .m = m, .key = key, .params = params, .fields = fields, .arena = a};

    return migrate_call(&call, ret_row);
}
