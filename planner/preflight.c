/* SPDX-License-Identifier: Apache-2.0 */
/* The way of the records through a preflight: outcomes are counted, new values kept for the unique indexes, and runs of
 * neighbouring records by lot for the sample. */

#include "planner/preflight_priv.h"
#include "planner/source.h"

#include "celeryc/base/clock.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>

struct preflight *preflight_free(struct preflight *p)
{
    if (!p)
        return NULL;
    db_fresh_free(p->fresh);
    db_close(p->fresh_db);
    db_close(p->sql_db);
    for (size_t i = 0; i < RUNS; i++)
        arena_free(p->runs[i].arena);
    arena_free(p->arena);
    arena_free(p->record);
    db_rows_deinit(&p->sizes);
    buf_deinit(&p->explained);
    free(p);
    return NULL;
}

/* What the database is asked about: the migration's columns, or those that the rows say they write. */
static int set_target(struct preflight *p)
{
    const struct request *r = p->request;

    p->target = (struct db_target){.table = r->table, .key = r->key};
    if (!p->m)
        return 0;
    p->target.reads = p->m->reads;
    p->target.n_reads = migrate_columns(p->m->reads);
    p->target.writes = p->by_row ? p->m->reads : p->m->writes; /* where a change can be seen */
    p->target.n_writes = migrate_columns(p->target.writes);
    for (size_t i = 0; i < p->target.n_reads; i++)
        for (size_t k = 0; k < r->n_columns; k++)
            if (str_eq(r->columns[k], p->m->reads[i]))
                p->reads[i] = p->key.n + k;
    return 0;
}

int preflight_new(const struct request *r, struct db *db, struct preflight **ret_p, struct err *e)
{
    CLEANUP(preflight_free) struct preflight *p = calloc(1, sizeof(*p));

    if (!p)
        return -ENOMEM;
    p->request = r;
    p->db = db;
    p->lot = 0x9e3779b97f4a7c15ULL; /* the same plan gives the same sample */
    p->m = r->args->sql ? r->args->sql : migrate_find(r->args->migration);
    p->by_row = p->m && p->m->row;
    p->external = p->m ? p->m->external != NULL : r->args->external;
    p->arena = arena_new();
    p->record = arena_new();
    if (!p->arena || !p->record || key_parse(r->key, &p->key))
        return -ENOMEM;
    if (json_scan(slice_str(r->params_json), &p->params, NULL))
        return -ENOMEM;
    int code = set_target(p);

    if (!code)
        code = db_open(r->args->database_url, &p->fresh_db, e);
    if (!code && r->args->sql)
        code = preflight_sql_open(p, e);
    if (code)
        return code > 0 ? -EIO : code;
    *ret_p = STEAL(p);
    return 0;
}

static size_t place(const char *const *names, size_t n, const char *prefix, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strncmp(names[i], prefix, strlen(prefix)) == 0 &&
            str_eq(names[i] + strlen(prefix), name))
            return i;
    return SIZE_MAX;
}

/* A migration that only Python knows: it reads the request's columns, and writes those that come with a "=" in front. */
static int computed_columns(struct preflight *p, const char *const *names, size_t n)
{
    const struct request *r = p->request;
    const char **writes = arena_alloc_array(p->arena, SCATTER_MAX_COLUMNS + 1, sizeof(*writes));

    if (!writes)
        return -ENOMEM;
    p->at_class = place(names, n, "+", "class");
    p->at_message = place(names, n, "+", "message");
    p->at_sqlstate = place(names, n, "+", "sqlstate");
    p->by_row = p->at_sqlstate < n;
    p->computed = p->at_class < n && p->at_message < n;
    for (size_t i = 0; i < n && p->target.n_writes < SCATTER_MAX_COLUMNS; i++) {
        if (names[i][0] != '=')
            continue;
        size_t k = p->target.n_writes++;

        writes[k] = arena_strdup(p->arena, slice_str(names[i] + 1));
        p->at_fresh[k] = i;
        p->at_set[k] = place(names, n, "?", names[i] + 1);
        p->computed = p->computed && writes[k] && p->at_set[k] < n;
    }
    p->target.writes = writes;
    p->target.reads = (const char *const *)r->columns;
    p->target.n_reads = r->n_columns;
    for (size_t i = 0; i < r->n_columns && i < SCATTER_MAX_COLUMNS; i++)
        p->reads[i] = p->key.n + i;
    return 0;
}

int preflight_columns(struct preflight *p, const char *const *names, size_t n)
{
    p->at_outcome = place(names, n, "+", "outcome");
    if (p->m || p->at_outcome == SIZE_MAX || p->computed)
        return 0;
    return computed_columns(p, names, n);
}

/* ---- errors ---- */

struct error_count *error_of(struct preflight *p, const char *name, const char *sqlstate,
                             const char *message)
{
    sqlstate = sqlstate ? sqlstate : "";
    for (size_t i = 0; i < p->n_errors; i++)
        if (str_eq(p->errors[i].name, name) && str_eq(p->errors[i].sqlstate, sqlstate))
            return &p->errors[i];
    if (p->n_errors == CLASSES)
        return &p->errors[CLASSES - 1];
    struct error_count *c = &p->errors[p->n_errors++];

    (void)snprintf(c->name, sizeof(c->name), "%s", name);
    (void)snprintf(c->sqlstate, sizeof(c->sqlstate), "%s", sqlstate);
    c->example = arena_strdup(p->arena, slice_str(message ? message : ""));
    return c;
}

void check_add(struct preflight *p, enum check_level level, const char *name, const char *fix,
               const char *format, ...)
{
    char text[1024];
    va_list ap;

    if (p->n_checks == CHECKS)
        return;
    va_start(ap, format);
    (void)vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    p->checks[p->n_checks++] = (struct check){
        .level = level, .name = name, .fix = fix, .text = arena_strdup(p->arena, slice_str(text))};
}

double upper_bound(double x, double n)
{
    const double z = 1.96;
    double p = n > 0 ? x / n : 0;

    if (n <= 0)
        return 1;
    return (p + z * z / (2 * n) + z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))) /
           (1 + z * z / n);
}

/* ---- records ---- */

static uint64_t draw(struct preflight *p)
{
    uint64_t z = (p->lot += 0x9e3779b97f4a7c15ULL);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

/* Which run takes the record: the first ones all, later ones by lot in the place of another. */
static void choose_run(struct preflight *p)
{
    if (p->n_records % RUN_LENGTH)
        return;
    int64_t number = p->n_runs++;
    int64_t at = number < RUNS ? number : (int64_t)(draw(p) % (uint64_t)(number + 1));

    p->keeping = at < RUNS ? &p->runs[at] : NULL;
    if (!p->keeping)
        return;
    if (p->keeping->arena)
        arena_reset(p->keeping->arena);
    p->keeping->n = 0;
    p->keeping->first = p->n_records;
}

int preflight_copy(struct arena *a, struct slice s, struct slice *ret_s)
{
    char *text = s.p ? arena_strdup(a, s) : NULL;

    if (s.p && !text)
        return -ENOMEM;
    *ret_s = (struct slice){text, s.len};
    return 0;
}

int preflight_old_values(const struct preflight *p, const struct slice *fields, struct arena *a,
                         struct slice **ret_old)
{
    size_t n = p->key.n + p->target.n_reads;
    struct slice *old = arena_alloc_array(a, n, sizeof(*old));

    if (!old)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        if (preflight_copy(a, fields[i < p->key.n ? i : p->reads[i - p->key.n]], &old[i]))
            return -ENOMEM;
    *ret_old = old;
    return 0;
}

/* A row whose outcome came with it. */
static int read_computed(const struct preflight *p, const struct slice *values, struct arena *a,
                         struct db_row *row)
{
    struct slice outcome = values[p->at_outcome], text;
    struct slice *fresh = arena_alloc_array(a, p->target.n_writes + 1, sizeof(*fresh));
    bool *set = arena_alloc_array(a, p->target.n_writes + 1, sizeof(*set));

    if (!fresh || !set)
        return -ENOMEM;
    row->outcome = slice_eq_str(outcome, "changed")   ? DB_O_CHANGED
                   : slice_eq_str(outcome, "skipped") ? DB_O_SKIPPED
                   : slice_eq_str(outcome, "failed")  ? DB_O_QUARANTINED
                                                      : DB_O_UNCHANGED;
    for (size_t i = 0; i < p->target.n_writes; i++) {
        if (preflight_copy(a, values[p->at_fresh[i]], &fresh[i]))
            return -ENOMEM;
        set[i] = slice_eq_str(values[p->at_set[i]], "t");
    }
    row->fresh = fresh;
    row->set = set;
    if (preflight_copy(a, values[p->at_class], &text))
        return -ENOMEM;
    row->error_class = text.p;
    if (preflight_copy(a, values[p->at_message], &text))
        return -ENOMEM;
    row->message = text.p;
    return 0;
}

static int compute(struct preflight *p, const struct slice *fields, const struct slice *values,
                   struct arena *a, struct db_row *row)
{
    struct slice *old = NULL;
    int r = preflight_old_values(p, fields, a, &old);

    *row = (struct db_row){.old = old};
    if (r)
        return r;
    if (p->computed)
        return read_computed(p, values, a, row);
    int64_t began_ns = clock_mono_ns();

    r = migrate_compute(p->m, p->target.key, p->params, old, a, row);
    p->compute_ns += clock_mono_ns() - began_ns;
    return r;
}

static int count(struct preflight *p, const struct db_row *row, struct err *e)
{
    int r = 0;

    switch (row->outcome) {
    case DB_O_CHANGED:
        p->changed++;
        if (!p->fresh)
            r = db_fresh_new(p->fresh_db, &p->target, &p->fresh, e);
        if (!r)
            r = db_fresh_add(p->fresh, row, e);
        break;
    case DB_O_UNCHANGED:
    case DB_O_STALE:
    case DB_O_DONE:
        p->unchanged++;
        break;
    case DB_O_SKIPPED:
        p->skipped++;
        break;
    case DB_O_QUARANTINED:
        p->failed++;
        error_of(p, row->error_class ? row->error_class : "Exception", row->sqlstate, row->message)
            ->records++;
        break;
    }
    return r > 0 ? -EIO : r;
}

/* The run that takes the record, or NULL. -ENOMEM. */
static int run_for(struct preflight *p, struct run **ret_run)
{
    choose_run(p);
    if (p->keeping && !p->keeping->arena)
        p->keeping->arena = arena_new();
    *ret_run = p->keeping;
    return p->keeping && !p->keeping->arena ? -ENOMEM : 0;
}

static int copy_row(struct preflight *p, struct arena *a, struct db_row *row)
{
    size_t n_old = p->key.n + p->target.n_reads, n = n_old + p->target.n_writes;
    struct slice *values = arena_alloc_array(a, n, sizeof(*values));

    if (!values)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        bool old = i < n_old;

        if ((old || row->fresh) &&
            preflight_copy(a, old ? row->old[i] : row->fresh[i - n_old], &values[i]))
            return -ENOMEM;
    }
    row->old = values;
    row->fresh = row->fresh ? values + n_old : NULL;
    return 0;
}

int preflight_take(struct preflight *p, const struct db_row *row, struct err *e)
{
    struct run *run;
    int r = run_for(p, &run);

    if (!r && run) {
        run->rows[run->n] = *row;
        r = copy_row(p, run->arena, &run->rows[run->n++]);
    }
    if (!r)
        r = count(p, row, e);
    p->n_records++;
    return r;
}

/* One that will be tried when it is in the sample. */
static int row_record(struct preflight *p, const struct slice *fields)
{
    struct run *run;
    struct slice *old = NULL;
    int r = run_for(p, &run);

    if (!r && run)
        r = preflight_old_values(p, fields, run->arena, &old);
    if (!r && run)
        run->rows[run->n++] = (struct db_row){.outcome = DB_O_CHANGED, .old = old};
    p->n_records++;
    return r;
}

static int value_record(struct preflight *p, const struct slice *fields, const struct slice *values,
                        struct err *e)
{
    struct db_row row;
    struct run *run;
    int r = run_for(p, &run);

    if (!run)
        arena_reset(p->record);
    if (!r)
        r = compute(p, fields, values, run ? run->arena : p->record, &row);
    if (!r && run)
        run->rows[run->n++] = row;
    if (!r)
        r = count(p, &row, e);
    p->n_records++;
    return r;
}

/* One that Python may have tried. */
static int told_record(struct preflight *p, const struct slice *fields, const struct slice *values)
{
    struct slice outcome = values[p->at_outcome];
    bool done = slice_eq_str(outcome, "done"), failed = slice_eq_str(outcome, "failed");
    struct db_row *row = &p->sample[p->n_sample];
    int r = 0;

    p->n_records++;
    if (slice_eq_str(outcome, "untried"))
        return 0;
    p->own.tried++;
    p->own.done += done;
    p->own.unchanged += slice_eq_str(outcome, "unchanged");
    p->own.skipped += slice_eq_str(outcome, "skipped");
    if (done && p->n_sample < PAIRS) {
        r = compute(p, fields, values, p->arena, row);
        row->outcome = DB_O_CHANGED;
        p->n_sample += r == 0;
    } else if (failed) {
        struct db_row error;

        r = read_computed(p, values, p->arena, &error);
        if (!r)
            error_of(p, error.error_class ? error.error_class : "Exception",
                     values[p->at_sqlstate].p, error.message)
                ->sampled++;
    }
    return r;
}

int preflight_record(struct preflight *p, const struct slice *fields, const struct slice *values,
                     struct err *e)
{
    if (p->by_row && p->computed)
        return told_record(p, fields, values);
    if (p->external || (!p->m && !p->computed)) {
        p->n_records++;
        return 0;
    }
    if (p->sql)
        return preflight_sql_record(p, fields, e);
    return p->by_row ? row_record(p, fields) : value_record(p, fields, values, e);
}

void preflight_took(struct preflight *p, const struct stdin_source *s)
{
    if (s->compute_s > 0 && s->compute_s < 1e9)
        p->compute_ns += (int64_t)(s->compute_s * 1e9);
    if (p->by_row && p->computed) {
        p->forecast.seconds_row = s->row_s;
        p->forecast.wal_row = s->row_wal;
    }
}

/* ---- the end ---- */

static int ask_indexes(struct preflight *p, struct err *e)
{
    if (!p->fresh)
        return 0;
    return db_fresh_collisions(p->fresh, p->arena, &p->collisions, &p->n_collisions, e);
}

int preflight_finish(struct preflight *p, struct buf *json, struct buf *text, bool *ret_blocked,
                     struct err *e)
{
    int r = p->sql ? preflight_sql_flush(p, e) : 0;

    if (!r)
        r = ask_indexes(p, e);
    if (!r)
        r = preflight_sample(p, e);
    if (!r)
        r = preflight_checks(p, e);
    if (r)
        return r > 0 ? -EIO : r;
    for (size_t i = 0; i < p->n_checks; i++)
        *ret_blocked = *ret_blocked || p->checks[i].level == CHECK_BLOCK;
    return preflight_report(p, json, text);
}
