/* SPDX-License-Identifier: Apache-2.0 */
/* Gathering a report, its CSV parts and its manifest. The page is made in report_html.c. */

#include "planner/report.h"

#include "celeryc/base/clock.h"
#include "celeryc/batch/batch.h"
#include "celeryc/message/json.h"

#include <errno.h>

#define PART_ROWS 100000 /* of one CSV file */
#define FORMAT    1
#define RECENT_US (86400 * (int64_t)1000000) /* what ended before is reported by hand */

/* ---- the tables ---- */

static int read_tables(struct report *r, struct err *e)
{
    const struct {
        const char *sql;
        struct db_rows *to;
    } queries[] = {
        {"SELECT p.plan, p.kind, p.parent, p.migration, p.version, p.table_name, p.key_column, "
         "p.state, p.reason, p.store, p.queue, p.database, p.query, p.created_by, p.params, "
         "p.verification, @created@, @started@, @finished@ FROM scatter_plan p WHERE p.plan = $1",
         &r->head},
        {"SELECT p.total, coalesce(sum(b.position), 0), coalesce(sum(b.unchanged), 0), "
         "coalesce(sum(b.stale), 0), coalesce(sum(b.skipped), 0), coalesce(sum(b.quarantined), 0) "
         "FROM scatter_plan p LEFT JOIN scatter_batch b ON b.plan = p.plan WHERE p.plan = $1 GROUP "
         "BY p.plan",
         &r->counts},
        {"SELECT b.batch, b.state, b.records, b.position, b.unchanged, b.stale, b.skipped, "
         "b.quarantined, b.attempts, b.worker, b.error, @b_started@, @b_finished@, b.sha256 FROM "
         "scatter_batch b WHERE b.plan = $1 ORDER BY b.batch",
         &r->batches},
        {"SELECT worker, sum(records) FROM scatter_share WHERE plan = $1 GROUP BY worker ORDER BY "
         "sum(records) DESC, worker",
         &r->workers},
        {"SELECT outcome, error_class, sqlstate, message, count(*), sum(CASE WHEN resolved_by IS "
         "NULL THEN 1 ELSE 0 END), min(record_key) FROM scatter_outcome WHERE plan = $1 GROUP BY "
         "outcome, error_class, sqlstate, message ORDER BY count(*) DESC, outcome, "
         "coalesce(error_class, ''), coalesce(sqlstate, ''), coalesce(message, '')",
         &r->groups},
        {"SELECT v.id, @event_at@, v.batch, v.who, v.event, v.detail FROM scatter_event v WHERE "
         "v.plan = $1 ORDER BY v.id",
         &r->events},
        {"SELECT p.plan, p.kind, p.state, p.total FROM scatter_plan p WHERE p.parent = $1 ORDER BY "
         "p.created_at, p.plan",
         &r->children},
    };

    for (size_t i = 0; i < ARRAY_SIZE(queries); i++) {
        int code = db_read(r->db, queries[i].sql, (struct db_val[]){db_text(r->plan)}, 1,
                           queries[i].to, e);

        if (code)
            return code;
    }
    return r->head.n_rows ? 0
                          : err_set(e, -ENOENT, "there is no plan %s in this database", r->plan);
}

static void report_deinit(struct report *r)
{
    db_rows_deinit(&r->head);
    db_rows_deinit(&r->counts);
    db_rows_deinit(&r->batches);
    db_rows_deinit(&r->workers);
    db_rows_deinit(&r->groups);
    db_rows_deinit(&r->events);
    db_rows_deinit(&r->children);
    free(r->parts);
    store_close(r->store);
}

DEFINE_CLEANUP_VALUE(struct report, report_deinit)

int64_t report_ok(const struct report *r)
{
    int64_t ok = db_cell_i64(&r->counts, 0, 1);

    for (size_t i = 2; i < r->counts.n_cols; i++)
        ok -= db_cell_i64(&r->counts, 0, i);
    return ok;
}

int64_t report_open(const struct report *r)
{
    int64_t n = 0;

    for (size_t i = 0; i < r->groups.n_rows; i++)
        n += db_cell_i64(&r->groups, i, 5);
    return n;
}

double report_seconds(const struct report *r)
{
    int64_t from = db_cell_i64(&r->head, 0, HEAD_STARTED);
    int64_t to = db_cell_i64(&r->head, 0, HEAD_FINISHED);

    for (size_t i = 0; !to && i < r->batches.n_rows; i++)
        to = MAX(to, db_cell_i64(&r->batches, i, BATCH_FINISHED));
    return from && to > from ? (double)(to - from) / 1e6 : 0;
}

/* ---- parts ---- */

static int put_part(struct report *r, const char *object, struct slice bytes, int64_t rows,
                    const char *type, struct err *e)
{
    CLEANUP(buf_deinit) struct buf name = BUF_INIT;
    struct report_part *p;

    if (r->n_parts == r->cap_parts) {
        size_t cap = r->cap_parts ? 2 * r->cap_parts : 16;

        p = reallocarray(r->parts, cap, sizeof(*p));
        if (!p)
            return -ENOMEM;
        r->parts = p;
        r->cap_parts = cap;
    }
    p = &r->parts[r->n_parts];
    *p = (struct report_part){.rows = rows, .bytes = (int64_t)bytes.len};
    (void)snprintf(p->object, sizeof(p->object), "%s", object);
    batch_sha256(bytes, p->sha256);
    buf_appendf(&name, "%s/report/%s", r->plan, object);
    if (buf_ok(&name))
        return -ENOMEM;
    r->n_parts++;
    return store_put(r->store, name.data, bytes, type, 0, e);
}

static bool is_number(struct slice s)
{
    size_t i = s.len && (s.p[0] == '-' || s.p[0] == '+') ? 1 : 0, digits = 0;

    for (; i < s.len; i++) {
        if (s.p[i] >= '0' && s.p[i] <= '9')
            digits++;
        else if (s.p[i] != '.')
            return false;
    }
    return digits > 0;
}

static bool among(char c, const char *set)
{
    return c && strchr(set, c);
}

void report_csv_cell(struct buf *dst, struct slice s)
{
    bool formula = s.len && among(s.p[0], "=+-@\t\r") && !is_number(s);
    bool quoted = formula;

    for (size_t i = 0; i < s.len && !quoted; i++)
        quoted = among(s.p[i], "\",\r\n");
    if (!quoted) {
        buf_append_slice(dst, s);
        return;
    }
    buf_append_str(dst, formula ? "\"'" : "\"");
    for (size_t i = 0; i < s.len; i++) {
        if (s.p[i] == '"')
            buf_append_char(dst, '"');
        buf_append_char(dst, s.p[i]);
    }
    buf_append_char(dst, '"');
}

/* One outcome, streamed into files of PART_ROWS rows. */
struct csv {
    struct report *r;
    const char *outcome;
    struct buf text;
    int64_t rows;
    int number;
    struct err err;
};

#define OUTCOME_HEAD                                                                            \
    "table,key,batch,position,outcome,attempts,error_class,sqlstate,message,resolved_by,worker" \
    "\r\n"

static int flush(struct csv *c, struct err *e)
{
    char object[48];
    int code = buf_ok(&c->text);

    (void)snprintf(object, sizeof(object), "%s-%04d.csv", c->outcome, ++c->number);
    if (!code)
        code = put_part(c->r, object, buf_slice(&c->text), c->rows, "text/csv", e);
    buf_reset(&c->text);
    c->rows = 0;
    return code;
}

static int on_columns(const char *const *names, const char *const *types, size_t n, void *arg)
{
    (void)names;
    (void)types;
    (void)n;
    (void)arg;
    return 0;
}

static int on_row(const struct slice *values, size_t n, void *arg)
{
    struct csv *c = arg;

    if (c->rows == 0)
        buf_append_str(&c->text, OUTCOME_HEAD);
    report_csv_cell(&c->text, db_cell(&c->r->head, 0, HEAD_TABLE));
    for (size_t i = 0; i < n; i++) {
        buf_append_char(&c->text, ',');
        report_csv_cell(&c->text, values[i]);
    }
    buf_append_str(&c->text, "\r\n");
    return ++c->rows == PART_ROWS ? flush(c, &c->err) : buf_ok(&c->text);
}

static int write_outcome(struct report *r, const char *outcome, struct err *e)
{
    CLEANUP(buf_deinit) struct buf sql = BUF_INIT;
    struct csv c = {.r = r, .outcome = outcome, .text = BUF_INIT};
    const struct db_stream s = {on_columns, on_row, &c};
    struct err theirs = ERR_INIT;

    buf_append_str(&sql, "SELECT record_key, batch, position, outcome, attempts, error_class, "
                         "sqlstate, message, resolved_by, worker FROM scatter_outcome WHERE plan "
                         "= ");
    db_quote_text(&sql, slice_str(r->plan));
    buf_appendf(&sql, " AND outcome = '%s' ORDER BY batch, position", outcome);
    int code = buf_ok(&sql) ? -ENOMEM : db_stream_query(r->db, sql.data, &s, &theirs);

    if (code)
        code = err_set(e, code, "%s", c.err.text[0] ? c.err.text : err_text(&theirs, code));
    else if (c.rows)
        code = flush(&c, e);
    buf_deinit(&c.text);
    return code;
}

static void write_time(struct buf *b, int64_t us)
{
    char text[CLOCK_ISO_SIZE];

    if (!us)
        return;
    clock_iso_format(us, text);
    buf_append_str(b, text);
}

static int write_batches(struct report *r, struct err *e)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    buf_append_str(&b, "batch,state,records,position,unchanged,stale,skipped,quarantined,attempts,"
                       "worker,error,started,finished,sha256\r\n");
    for (size_t i = 0; i < r->batches.n_rows; i++) {
        for (size_t k = 0; k < BATCH_COLUMNS; k++) {
            if (k)
                buf_append_char(&b, ',');
            if (k == BATCH_STARTED || k == BATCH_FINISHED)
                write_time(&b, db_cell_i64(&r->batches, i, k));
            else
                report_csv_cell(&b, db_cell(&r->batches, i, k));
        }
        buf_append_str(&b, "\r\n");
    }
    return buf_ok(&b) ? -ENOMEM
                      : put_part(r, "batches.csv", buf_slice(&b), (int64_t)r->batches.n_rows,
                                 "text/csv", e);
}

static int write_events(struct report *r, struct err *e)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    buf_append_str(&b, "at,batch,who,event,detail\r\n");
    for (size_t i = 0; i < r->events.n_rows; i++) {
        write_time(&b, db_cell_i64(&r->events, i, 1));
        for (size_t k = 2; k < r->events.n_cols; k++) {
            buf_append_char(&b, ',');
            report_csv_cell(&b, db_cell(&r->events, i, k));
        }
        buf_append_str(&b, "\r\n");
    }
    return buf_ok(&b)
               ? -ENOMEM
               : put_part(r, "events.csv", buf_slice(&b), (int64_t)r->events.n_rows, "text/csv", e);
}

/* ---- the manifest ---- */

static void json_time(struct buf *b, const char *name, int64_t us)
{
    char text[CLOCK_ISO_SIZE];

    if (us)
        clock_iso_format(us, text);
    buf_appendf(b, ",\n \"%s\": ", name);
    json_write_string_or_null(b, slice_str(us ? text : NULL));
}

static void json_counts(struct buf *b, const struct report *r)
{
    static const char *const names[] = {"planned", NULL,      "unchanged",
                                        "stale",   "skipped", "quarantined"};
    int64_t planned = db_cell_i64(&r->counts, 0, 0), position = db_cell_i64(&r->counts, 0, 1);

    buf_append_str(b, ",\n \"counts\": {");
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (names[i])
            buf_appendf(b, "%s\"%s\": %lld", i ? ", " : "", names[i],
                        (long long)db_cell_i64(&r->counts, 0, i));
    buf_appendf(b, ", \"ok\": %lld, \"remaining\": %lld},\n \"open\": %lld,\n \"seconds\": %.3f",
                (long long)report_ok(r), (long long)(planned - position), (long long)report_open(r),
                report_seconds(r));
}

static void json_children(struct buf *b, const struct report *r)
{
    buf_append_str(b, ",\n \"children\": [");
    for (size_t i = 0; i < r->children.n_rows; i++) {
        buf_appendf(b, "%s{\"plan\": ", i ? ", " : "");
        json_write_string(b, db_cell(&r->children, i, 0));
        buf_appendf(b, ", \"kind\": \"%s\", \"state\": \"%s\", \"total\": %lld}",
                    db_cell(&r->children, i, 1).p, db_cell(&r->children, i, 2).p,
                    (long long)db_cell_i64(&r->children, i, 3));
    }
    buf_append_char(b, ']');
}

/* SHA-256 of the plan's own manifest, which names every batch file; null for a plan that was sent by hand. */
static void json_plan_digest(struct buf *b, const struct report *r)
{
    CLEANUP(buf_deinit) struct buf name = BUF_INIT, text = BUF_INIT;
    char digest[65];
    bool found = false;

    buf_appendf(&name, "%s/manifest.json", r->plan);
    if (!buf_ok(&name) && !store_get(r->store, name.data, 5000, &text, NULL)) {
        batch_sha256(buf_slice(&text), digest);
        found = true;
    }
    buf_append_str(b, ",\n \"plan_manifest_sha256\": ");
    json_write_string_or_null(b, slice_str(found ? digest : NULL));
}

static void json_parts(struct buf *b, const struct report *r)
{
    buf_append_str(b, ",\n \"csv\": \"RFC 4180; a text that begins with = + - @, tab or return and "
                      "is no number has an apostrophe in front\",\n \"parts\": [");
    for (size_t i = 0; i < r->n_parts; i++)
        buf_appendf(
            b, "%s\n  {\"object\": \"%s\", \"rows\": %lld, \"bytes\": %lld, \"sha256\": \"%s\"}",
            i ? "," : "", r->parts[i].object, (long long)r->parts[i].rows,
            (long long)r->parts[i].bytes, r->parts[i].sha256);
    buf_append_str(b, "]}\n");
}

static int write_manifest(struct report *r, char sha256[65], struct err *e)
{
    static const char *const names[HEAD_TEXTS] = {
        "plan",  "kind",   "parent", "migration", "version",  "table", "key",
        "state", "reason", "store",  "queue",     "database", "query", "created_by"};
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct slice params = db_cell(&r->head, 0, HEAD_PARAMS);
    struct slice verified = db_cell(&r->head, 0, HEAD_VERIFICATION);

    buf_appendf(&b, "{\"format\": %d", FORMAT);
    for (size_t i = 0; i < HEAD_TEXTS; i++) {
        buf_appendf(&b, ",\n \"%s\": ", names[i]);
        json_write_string_or_null(&b, db_cell(&r->head, 0, i));
    }
    buf_append_str(&b, ",\n \"params\": ");
    buf_append_slice(&b, params.len ? params : SLICE_LIT("{}"));
    json_time(&b, "created", db_cell_i64(&r->head, 0, HEAD_CREATED));
    json_time(&b, "started", db_cell_i64(&r->head, 0, HEAD_STARTED));
    json_time(&b, "finished", db_cell_i64(&r->head, 0, HEAD_FINISHED));
    json_counts(&b, r);
    buf_append_str(&b, ",\n \"verification\": ");
    buf_append_slice(&b, verified.len ? verified : SLICE_LIT("null"));
    json_children(&b, r);
    json_plan_digest(&b, r);
    json_parts(&b, r);
    if (buf_ok(&b))
        return -ENOMEM;
    int code = put_part(r, "manifest.json", buf_slice(&b), 0, "application/json", e);

    if (!code)
        (void)snprintf(sha256, 65, "%s", r->parts[r->n_parts - 1].sha256);
    return code;
}

/* ---- the report ---- */

static int write_parts(struct report *r, char sha256[65], struct err *e)
{
    static const char *const outcomes[] = {"quarantined", "skipped", "stale"};
    CLEANUP(buf_deinit) struct buf page = BUF_INIT;
    int code = write_batches(r, e);

    if (!code)
        code = write_events(r, e);
    for (size_t i = 0; !code && i < ARRAY_SIZE(outcomes); i++)
        code = write_outcome(r, outcomes[i], e);
    if (!code)
        code = report_html(r, &page);
    if (!code)
        code = put_part(r, "report.html", buf_slice(&page), 0, "text/html; charset=utf-8", e);
    return code ? code : write_manifest(r, sha256, e);
}

int report_write(struct db *db, const char *store_url, const char *plan, char ret_sha256[65],
                 struct err *e)
{
    CLEANUP(report_deinit) struct report r = {.db = db, .plan = plan};
    int code = db_plan_resolve(db, plan, e);

    if (!code)
        code = read_tables(&r, e);
    if (code)
        return code > 0 ? -EIO : code;
    if (!store_url)
        store_url = db_cell(&r.head, 0, HEAD_STORE).p;
    if (!*store_url)
        return err_set(e, -EINVAL, "plan %s names no store: give --store", plan);
    code = store_open(store_url, &r.store, e);
    if (!code)
        code = write_parts(&r, ret_sha256, e);
    if (!code)
        code = db_plan_note_report(db, plan, ret_sha256, e);
    return code > 0 ? -EIO : code;
}

int report_write_ended(struct db *db, int64_t *ret_n, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows plans = {0};
    struct err first = ERR_INIT;
    char sha256[65];
    int failed = 0;
    int code = db_read(db,
                       "SELECT p.plan FROM scatter_plan p WHERE p.state IN ('finished', 'failed', "
                       "'cancelled') AND p.report_sha256 IS NULL AND p.store <> '' AND @finished@ "
                       "> $1 ORDER BY p.finished_at, p.plan LIMIT 20",
                       (struct db_val[]){db_int(clock_wall_us() - RECENT_US)}, 1, &plans, e);

    *ret_n = 0;
    for (size_t i = 0; !code && i < plans.n_rows; i++) {
        struct err why = ERR_INIT;
        int r = report_write(db, NULL, db_cell(&plans, i, 0).p, sha256, &why);

        *ret_n += r == 0;
        if (r && !failed)
            failed = err_set(&first, r, "the report of plan %s: %s", db_cell(&plans, i, 0).p,
                             err_text(&why, r));
    }
    if (!code && failed)
        code = err_set(e, failed, "%s", first.text);
    return code > 0 ? -EIO : code;
}
