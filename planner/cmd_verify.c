/* SPDX-License-Identifier: Apache-2.0 */
/* scatter-plan verify: does the table hold what the plan says it did?
 *
 *   residue  the plan's query once more. Of the records that it still gives, and that the migration would still change
 *            (where its plug-in is loaded), those that the plan has done are residue, those that it has set aside or not
 *            reached are open, and those that it never had are late arrivals: --top-up makes a plan of them.
 *   check    a condition in SQL, on every record that the plan has done, or on a sample spread evenly over them; and the
 *            check that the migration brings (verify_check.c). Where that is all that can tell whether a record is done,
 *            one that still matches the query is no residue.
 *
 * Suspects are collected first; the batch files are then read once to say which of them are the plan's. */

#include "planner/stop.h"
#include "planner/verify.h"

#include "celeryc/base/map.h"

#include <errno.h>

#define CHECK_KEYS 500

struct verify {
    const struct args *args;
    struct parent parent;
    struct servers servers;
    struct batch_files files;
    const struct scatter_migration *m; /* NULL: matching the query is what counts */
    size_t reads[SCATTER_MAX_COLUMNS]; /* places of its columns in a row of the query */
    struct arena *row;
    bool residue;          /* the query can be run again */
    struct map *matching;  /* keys that it gives; a value of 1, or 2 once seen in a file */
    struct map *violating; /* keys for which the check does not hold */
    struct buf sample;     /* keys of a sample that wait to be checked, as SQL */
    size_t n_sample;
    int64_t stride, done, checked;
    struct finding in_plan, open, late, failed;
    struct checker *checker; /* the migration's own check; NULL: it has none */
    bool by_check;           /* and it decides instead of the query */
    int64_t n_done;          /* records, for its sample */
    struct err err;          /* of callbacks */
};

static void verify_deinit(struct verify *v)
{
    parent_deinit(&v->parent);
    servers_deinit(&v->servers);
    batch_files_deinit(&v->files);
    arena_free(v->row);
    map_free(v->matching);
    map_free(v->violating);
    buf_deinit(&v->sample);
    checker_free(v->checker);
    finding_deinit(&v->in_plan);
    finding_deinit(&v->open);
    finding_deinit(&v->late);
    finding_deinit(&v->failed);
}

DEFINE_CLEANUP_VALUE(struct verify, verify_deinit)

static int found(struct finding *f, struct slice key)
{
    return finding_add(f, key, NULL);
}

/* ---- the query once more ---- */

static char seen_once, seen_in_file; /* values of the map */

static int add_key(struct map *m, const struct slice *values, size_t n)
{
    CLEANUP(buf_deinit) struct buf key = BUF_INIT;

    key_text(&key, values, n);
    return buf_ok(&key) ? -ENOMEM : map_set(m, buf_slice(&key), &seen_once);
}

static int no_columns(const char *const *names, const char *const *types, size_t n, void *arg)
{
    (void)names;
    (void)types;
    (void)n;
    (void)arg;
    return 0;
}

/* Would the migration still do something with this row? It may answer that it cannot. */
static int would_change(struct verify *v, const struct slice *values, bool *ret_yes)
{
    size_t n_reads = migrate_columns(v->m->reads);
    struct db_row answer;

    arena_reset(v->row);
    struct slice *fields = arena_alloc_array(v->row, v->parent.n_keys + n_reads, sizeof(*fields));

    if (!fields)
        return -ENOMEM;
    for (size_t i = 0; i < v->parent.n_keys + n_reads; i++) {
        size_t at = i < v->parent.n_keys ? i : v->reads[i - v->parent.n_keys];
        char *copy = values[at].p ? arena_strdup(v->row, values[at]) : NULL; /* ends with a NUL */

        if (values[at].p && !copy)
            return -ENOMEM;
        fields[i] = (struct slice){copy, values[at].len};
    }
    int r = migrate_compute(v->m, v->parent.plan.key, v->parent.params, fields, v->row, &answer);

    *ret_yes = !r && (answer.outcome == DB_O_CHANGED || answer.outcome == DB_O_QUARANTINED);
    return r;
}

static int on_match(const struct slice *values, size_t n, void *arg)
{
    struct verify *v = arg;
    bool yes = true;
    int r = v->m ? would_change(v, values, &yes) : 0;

    (void)n;
    if (stop_requested())
        return err_set(&v->err, -EINTR, "interrupted");
    return r || !yes ? r : add_key(v->matching, values, v->parent.n_keys);
}

static void name_list(struct buf *sql, char *const *names, size_t n, bool first)
{
    for (size_t i = 0; i < n; i++) {
        buf_append_str(sql, i || !first ? ", " : "");
        db_quote_name(sql, slice_str(names[i]));
    }
}

static int run_stream(struct verify *v, const char *sql,
                      int (*on_row)(const struct slice *, size_t, void *), const char *what,
                      struct err *e)
{
    const struct db_stream s = {no_columns, on_row, v};
    struct err theirs = ERR_INIT;
    int r = db_stream_query(v->servers.db, sql, &s, &theirs);

    if (!r)
        return 0;
    return err_set(e, r > 0 ? -EIO : r, "%s: %s", what,
                   v->err.text[0] ? v->err.text : err_text(&theirs, r));
}

/* Columns that a plug-in reads and the plan does not have make the query alone the judge. */
static void place_reads(struct verify *v)
{
    const struct parent *p = &v->parent;

    v->m = migrate_find(p->plan.migration);
    if (v->m && !v->m->record)
        v->m = NULL;
    for (size_t i = 0; v->m && i < migrate_columns(v->m->reads); i++) {
        size_t at = p->n_columns;

        for (size_t k = 0; k < p->n_columns; k++)
            if (str_eq(p->columns[k], v->m->reads[i]))
                at = k;
        if (at == p->n_columns) {
            v->m = NULL;
            return;
        }
        v->reads[i] = p->n_keys + at;
    }
}

static int query_again(struct verify *v, struct err *e)
{
    CLEANUP(buf_deinit) struct buf sql = BUF_INIT;
    const struct parent *p = &v->parent;
    bool child = !str_eq(p->kind, "migrate") && !str_eq(p->kind, "topup");

    v->residue = !v->args->no_residue && *p->plan.query && !child;
    if (!v->residue)
        return 0;
    place_reads(v);
    buf_append_str(&sql, "SELECT ");
    name_list(&sql, p->keys, p->n_keys, true);
    name_list(&sql, p->columns, p->n_columns, false);
    buf_appendf(&sql, " FROM (%s\n) AS scatter_source", p->plan.query);
    return buf_ok(&sql) ? -ENOMEM : run_stream(v, sql.data, on_match, "the plan's query failed", e);
}

/* ---- the check ---- */

static int on_violation(const struct slice *values, size_t n, void *arg)
{
    struct verify *v = arg;

    return add_key(v->violating, values, n);
}

static int run_check(struct verify *v, const char *only, struct err *e)
{
    CLEANUP(buf_deinit) struct buf sql = BUF_INIT;

    buf_append_str(&sql, "SELECT ");
    name_list(&sql, v->parent.keys, v->parent.n_keys, true);
    buf_append_str(&sql, " FROM ");
    db_quote_table(&sql, v->parent.plan.table);
    buf_appendf(&sql, " WHERE %s (%s\n) IS NOT TRUE", only, v->args->check);
    return buf_ok(&sql) ? -ENOMEM : run_stream(v, sql.data, on_violation, "--check", e);
}

/* Every key whose row breaks it; which of them the plan has done the files will say. */
static int check_all(struct verify *v, struct err *e)
{
    return v->args->check && !v->args->sample ? run_check(v, "", e) : 0;
}

static int flush_sample(struct verify *v, struct err *e)
{
    if (v->n_sample == 0)
        return 0;
    buf_append_str(&v->sample, ") AND");
    int r = buf_ok(&v->sample) ? -ENOMEM : run_check(v, v->sample.data, e);

    buf_reset(&v->sample);
    v->n_sample = 0;
    return r;
}

static int add_to_sample(struct verify *v, const struct slice *key, struct err *e)
{
    buf_append_str(&v->sample, v->n_sample ? " OR (" : "((");
    for (size_t i = 0; i < v->parent.n_keys; i++) {
        buf_append_str(&v->sample, i ? " AND " : "");
        db_quote_name(&v->sample, slice_str(v->parent.keys[i]));
        buf_append_str(&v->sample, " = ");
        db_quote_text(&v->sample, key[i]);
    }
    buf_append_char(&v->sample, ')');
    return ++v->n_sample == CHECK_KEYS ? flush_sample(v, e) : 0;
}

/* ---- the files ---- */

static int judge(struct verify *v, const struct slice *key, bool done, struct err *e)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    int r = 0;

    key_text(&text, key, v->parent.n_keys);
    if (buf_ok(&text))
        return -ENOMEM;
    struct slice k = buf_slice(&text);

    if (map_get(v->matching, k)) {
        r = map_set(v->matching, k, &seen_in_file);
        if (!r)
            r = found(done ? &v->in_plan : &v->open, k);
    }
    if (r || !done || !v->args->check)
        return r;
    if (v->args->sample) {
        if (v->done++ % v->stride)
            return 0;
        v->checked++;
        return add_to_sample(v, key, e);
    }
    v->done++;
    v->checked++;
    return map_get(v->violating, k) ? found(&v->failed, k) : 0;
}

/* The migration's own check, of all records that were done or of a sample. */
static int check_record(struct verify *v, const struct batch *file, size_t n, struct err *e)
{
    if (!v->checker || v->n_done++ % v->stride)
        return 0;
    return checker_add(v->checker, batch_get_header(file), (int64_t)n, batch_at(file, n), e);
}

static int judge_batch(struct verify *v, const struct db_rows *list, size_t i, struct err *e)
{
    CLEANUP(batch_free) struct batch *file = NULL;
    CLEANUP(db_rows_deinit) struct db_rows aside = {0};
    const struct db_val at[] = {db_text(v->parent.plan.plan), db_int(db_cell_i64(list, i, 0))};
    int64_t position = db_cell_i64(list, i, 3);
    size_t next = 0;
    int r = batch_files_get(&v->files, db_cell(list, i, 1).p, db_cell(list, i, 2).p, &file, e);

    if (!r)
        r = db_read(v->servers.db,
                    "SELECT position FROM scatter_outcome WHERE plan = $1 AND batch = $2 ORDER BY "
                    "position",
                    at, 2, &aside, e);
    for (size_t n = 0; !r && n < batch_len(file); n++) {
        bool is_aside = next < aside.n_rows && db_cell_i64(&aside, next, 0) == (int64_t)n;

        next += is_aside;
        r = judge(v, batch_at(file, n)->field, !is_aside && (int64_t)n < position, e);
        if (!r && !is_aside && (int64_t)n < position)
            r = check_record(v, file, n, e);
    }
    if (!r && v->checker)
        r = checker_flush(v->checker, e); /* its keys' texts end with the file */
    return r > 0 ? -EIO : r;
}

static int late_key(struct slice key, void *value, void *arg)
{
    return value == &seen_once ? found(arg, key) : 0;
}

static int sampled_key(struct slice key, void *value, void *arg)
{
    (void)value;
    return found(arg, key);
}

static int judge_files(struct verify *v, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows list = {0};
    int64_t done = 0;
    int r = db_read(v->servers.db,
                    "SELECT batch, source, sha256, position FROM scatter_batch WHERE plan = $1 "
                    "ORDER BY batch",
                    (struct db_val[]){db_text(v->parent.plan.plan)}, 1, &list, e);

    for (size_t i = 0; !r && i < list.n_rows; i++)
        done += db_cell_i64(&list, i, 3);
    v->stride = v->args->sample ? MAX(done / v->args->sample, 1) : 1;
    for (size_t i = 0; !r && i < list.n_rows; i++)
        r = stop_requested() ? err_set(e, -EINTR, "interrupted") : judge_batch(v, &list, i, e);
    if (!r && v->args->sample)
        r = flush_sample(v, e);
    if (!r && v->args->sample)
        r = map_each(v->violating, sampled_key, &v->failed);
    if (!r)
        r = map_each(v->matching, late_key, &v->late);
    return r > 0 ? -EIO : r;
}

/* ---- the result ---- */

static bool holds(const struct verify *v)
{
    return (v->by_check || v->in_plan.n == 0) && v->failed.n == 0 && checker_holds(v->checker);
}

static int write_result(struct buf *b, const struct verify *v)
{
    buf_appendf(b, "{\"ok\": %s, \"residue\": ", holds(v) ? "true" : "false");
    if (v->residue) {
        buf_appendf(b, "{\"judged_by\": \"%s\"",
                    v->by_check ? "check"
                    : v->m      ? "migration"
                                : "query");
        finding_write(b, "residue", &v->in_plan);
        finding_write(b, "open", &v->open);
        finding_write(b, "late", &v->late);
        buf_append_char(b, '}');
    } else {
        buf_append_str(b, "null");
    }
    buf_append_str(b, ", \"check\": ");
    if (v->args->check) {
        buf_append_str(b, "{\"sql\": ");
        json_write_string(b, slice_str(v->args->check));
        buf_appendf(b, ", \"checked\": %lld, \"of\": %lld", (long long)v->checked,
                    (long long)v->done);
        finding_write(b, "failed", &v->failed);
        /* The rule of three: what none of n shows is rarer than 3/n, at 95 %. */
        if (v->args->sample && v->failed.n == 0 && v->checked)
            buf_appendf(b, ", \"below\": %.6f, \"confidence\": 0.95", 3.0 / (double)v->checked);
        buf_append_char(b, '}');
    } else {
        buf_append_str(b, "null");
    }
    buf_append_str(b, ", \"function\": ");
    checker_write(b, v->checker, v->n_done);
    buf_append_char(b, '}');
    return buf_ok(b);
}

static void text_finding(struct buf *b, const char *name, const struct finding *f, const char *what)
{
    char n[32];

    buf_appendf(b, "%-9s%s %s", name, progress_number(f->n, n), what);
    for (size_t i = 0; i < f->n_keys; i++)
        buf_appendf(b, "%s%s", i ? ", " : ": ", f->keys[i]);
    buf_append_str(b, f->n > (int64_t)f->n_keys ? ", ...\n" : "\n");
}

static void write_text(struct buf *b, const struct verify *v)
{
    char n[32], of[32];

    buf_appendf(b, "plan     %s %s\n", v->parent.plan.plan, holds(v) ? "holds" : "DOES NOT HOLD");
    if (v->residue) {
        text_finding(b, v->by_check ? "matching" : "residue", &v->in_plan,
                     v->by_check ? "records that were done still match the query, as the check may "
                                   "know"
                     : v->m      ? "records of the plan would still be changed by the migration"
                                 : "records of the plan still match its query");
        text_finding(b, "open", &v->open, "records were set aside or not reached, and still match");
        text_finding(b, "late", &v->late,
                     "records match that were not there when the plan was made (--top-up)");
    }
    if (v->args->check) {
        buf_appendf(b, "checked  %s of %s records\n", progress_number(v->checked, n),
                    progress_number(v->done, of));
        text_finding(b, "failed", &v->failed, "records break the check");
        if (v->args->sample && v->failed.n == 0 && v->checked)
            buf_appendf(b, "sample   at 95 %% confidence fewer than %.4f %% of all break it\n",
                        300.0 / (double)v->checked);
    }
    checker_text(b, v->checker, v->n_done);
}

/* ---- late arrivals as a plan ---- */

static int is_late(void *arg, const struct slice *values, size_t n, struct err *e)
{
    struct verify *v = arg;
    CLEANUP(buf_deinit) struct buf key = BUF_INIT;

    (void)n;
    (void)e;
    key_text(&key, values, v->parent.n_keys);
    if (buf_ok(&key))
        return -ENOMEM;
    return map_get(v->matching, buf_slice(&key)) == &seen_once ? 0 : 1;
}

static int top_up(struct verify *v, struct progress *p, struct result *r, struct err *e)
{
    struct plan_child child = {
        .kind = "topup", .parent = v->parent.plan.plan, .arg = v, .accept = is_late};

    if (!v->residue)
        return err_set(e, -EINVAL, "--top-up needs the query of plan %s to be run again",
                       v->parent.plan.plan);
    if (v->late.n == 0)
        return 0;
    v->parent.args.query = v->parent.plan.query;
    return plan_make(&v->parent.args, &child, p, r, e);
}

/* ---- the command ---- */

static int nothing_to_do(const struct verify *v, struct err *e)
{
    if (v->residue || v->args->check || v->checker)
        return 0;
    return err_set(e, -EINVAL, "plan %s has no query that could be run again: give --check",
                   v->parent.plan.plan);
}

static int verify(struct verify *v, struct err *e)
{
    int r = servers_open_db(&v->servers, v->args->database_url, e);

    if (!r)
        r = parent_load(&v->parent, v->servers.db, v->args, e);
    if (!r)
        r = checker_new(&v->parent, v->args->database_url, &v->checker, e);
    if (!r)
        r = query_again(v, e);
    v->by_check = !v->m && (v->checker || v->args->judged_by_check);
    if (!r)
        r = nothing_to_do(v, e);
    if (!r)
        r = check_all(v, e);
    if (!r)
        r = judge_files(v, e);
    return r > 0 ? -EIO : r;
}

int plan_verify(const struct args *a, struct progress *p, struct buf *dst, bool *ret_holds,
                struct err *e)
{
    CLEANUP(request_deinit) struct request plugins = {0};
    CLEANUP(result_deinit) struct result child = {0};
    CLEANUP(verify_deinit)
    struct verify v = {.args = a,
                       .row = arena_new(),
                       .matching = map_new(),
                       .violating = map_new(),
                       .sample = BUF_INIT,
                       .err = ERR_INIT};
    CLEANUP(buf_deinit) struct buf json = BUF_INIT;
    int r = v.row && v.matching && v.violating ? request_load_plugins(&plugins, a, e) : -ENOMEM;

    if (!r)
        r = verify(&v, e);
    if (!r)
        r = write_result(&json, &v);
    if (!r)
        r = db_plan_note_verification(v.servers.db, v.parent.plan.plan, json.data, e);
    if (!r && a->top_up)
        r = top_up(&v, p, &child, e);
    if (r)
        return r > 0 ? -EIO : r;
    *ret_holds = holds(&v);
    if (str_eq(a->format, "json")) {
        json.data[--json.len] = '\0';
        buf_append_slice(dst, buf_slice(&json));
        buf_append_str(dst, ", \"top_up\": ");
        json_write_string_or_null(dst, slice_str(child.plan));
        buf_append_str(dst, "}\n");
    } else {
        write_text(dst, &v);
        if (child.plan)
            buf_appendf(dst, "top-up   plan %s of %lld records\n", child.plan,
                        (long long)child.total);
    }
    return buf_ok(dst);
}
