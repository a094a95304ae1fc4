/* SPDX-License-Identifier: Apache-2.0 */
/* What the catalogue and the server say of the plan: each check is ok, a warning, or blocks, with the fix. */

#include "planner/preflight_priv.h"

#include <errno.h>

#define BIG_TABLE 100000 /* rows; smaller ones may as well be read whole */

/* A question to PostgreSQL whose answer is one text, the names of what was found: NULL when there is nothing. $1 is the
 * quoted table, $2 the array of written columns. */
struct question {
    const char *name;
    enum check_level level;
    const char *sql, *found, *fix, *nothing;
};

#define WRITTEN(attnum, relation)                                       \
    "EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = " relation \
    " AND a.attnum = ANY(" attnum ") AND a.attname = ANY($2::text[]))"

static const struct question questions[] = {
    {"triggers", CHECK_WARN,
     "SELECT string_agg(t.tgname, ', ' ORDER BY t.tgname) FROM pg_trigger t WHERE t.tgrelid = "
     "to_regclass($1) AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgtype & 16 = 16 AND "
     "(t.tgattr = ''::int2vector OR " WRITTEN("t.tgattr::int2[]", "t.tgrelid") ")",
     "fires for every record that is changed: %s",
     "make sure that it may run so often, or disable it for the run (ALTER TABLE ... DISABLE "
     "TRIGGER)",
     "no trigger fires"},
    {"foreign keys", CHECK_WARN,
     "SELECT string_agg(c.conname || CASE WHEN c.conrelid = to_regclass($1) THEN '' ELSE ' of ' || "
     "c.conrelid::regclass::text END, ', ' ORDER BY c.conname) FROM pg_constraint c WHERE "
     "c.contype "
     "= 'f' AND ((c.conrelid = to_regclass($1) AND " WRITTEN(
         "c.conkey",
         "c.conrelid") ") OR (c.confrelid = to_regclass($1) AND " WRITTEN("c.confkey",
                                                                          "c.confrelid") "))",
     "checked for every new value: %s", "make sure that what the new values refer to is there",
     "none is on a written column"},
    {"check constraints", CHECK_OK,
     "SELECT string_agg(c.conname, ', ' ORDER BY c.conname) FROM pg_constraint c WHERE c.contype = "
     "'c' AND c.conrelid = to_regclass($1) AND " WRITTEN("c.conkey", "c.conrelid"),
     "on the written columns: %s", NULL, "none is on a written column"},
    {"generated columns", CHECK_BLOCK,
     "SELECT string_agg(a.attname, ', ') FROM pg_attribute a WHERE a.attrelid = to_regclass($1) "
     "AND "
     "a.attname = ANY($2::text[]) AND a.attgenerated <> ''",
     "cannot be written: %s", "leave them out of the migration's writes",
     "no written column is generated"},
    {"generated from them", CHECK_WARN,
     "SELECT string_agg(DISTINCT g.attname, ', ') FROM pg_attribute g JOIN pg_attrdef d ON "
     "d.adrelid = g.attrelid AND d.adnum = g.attnum JOIN pg_depend p ON p.classid = "
     "'pg_attrdef'::regclass AND p.objid = d.oid AND p.refobjid = g.attrelid JOIN pg_attribute a "
     "ON "
     "a.attrelid = g.attrelid AND a.attnum = p.refobjsubid WHERE g.attrelid = to_regclass($1) AND "
     "g.attgenerated <> '' AND a.attname = ANY($2::text[])",
     "are computed again with every change: %s",
     "make sure that their expressions take the new values", "no column is"},
    {"indexes", CHECK_WARN,
     "SELECT string_agg(i.indexrelid::regclass::text, ', ' ORDER BY i.indexrelid::regclass::text) "
     "FROM pg_index i WHERE i.indrelid = to_regclass($1) AND (" WRITTEN(
         "i.indkey::int2[]",
         "i.indrelid") " OR EXISTS (SELECT 1 FROM pg_depend p JOIN pg_attribute a ON a.attrelid = "
                       "i.indrelid AND "
                       "a.attnum = p.refobjsubid WHERE p.classid = 'pg_class'::regclass AND "
                       "p.objid = i.indexrelid AND "
                       "p.refobjid = i.indrelid AND a.attname = ANY($2::text[])))",
     "hold a written column, so that each change writes all indexes of the table (not HOT): %s",
     "drop what the application does not need before the run, and make it again after it",
     "none holds a written column: changes may stay on their page (HOT)"},
    {"old transactions", CHECK_WARN,
     "SELECT string_agg(format('pid %s of %s, %s min', pid, usename, round(extract(epoch FROM "
     "now() - "
     "xact_start) / 60)), ', ') FROM pg_stat_activity WHERE xact_start < now() - interval '10 min' "
     "AND pid <> pg_backend_pid() AND backend_type = 'client backend' AND $1 <> '' AND $2::text[] "
     "IS "
     "NOT NULL",
     "keep old row versions from being removed: %s", "end them before the run",
     "none is older than 10 min"},
    {"replication slots", CHECK_WARN,
     "SELECT string_agg(slot_name, ', ') FROM pg_replication_slots WHERE NOT active AND $1 <> '' "
     "AND "
     "$2::text[] IS NOT NULL",
     "are not read, so that all WAL of the run is kept for them: %s",
     "drop them, or start what reads them", "none stands still"},
    {"archiver", CHECK_WARN,
     "SELECT 'last failure ' || last_failed_time::text FROM pg_stat_archiver WHERE "
     "current_setting('archive_mode') <> 'off' AND last_failed_time > coalesce(last_archived_time, "
     "'-infinity') AND $1 <> '' AND $2::text[] IS NOT NULL",
     "fails: %s", "mend archive_command; the run's WAL fills the disk otherwise", "does not fail"},
    {"connections", CHECK_WARN,
     "SELECT CASE WHEN free.n < 10 THEN free.n::text END FROM (SELECT "
     "current_setting('max_connections')::int - count(*) AS n FROM pg_stat_activity WHERE "
     "backend_type "
     "= 'client backend' AND $1 <> '' AND $2::text[] IS NOT NULL) AS free",
     "each worker process takes one; free: %s", "raise max_connections, or start fewer workers",
     "each worker process takes one; 10 and more are free"},
};

/* Of a migration with statements of its own, the columns that were seen to change. */
static bool is_written(const struct preflight *p, size_t column)
{
    bool seen = !p->by_row;

    for (size_t i = 0; !seen && i < p->n_kept; i++)
        seen = p->sample[i].set && p->sample[i].set[column];
    return seen;
}

static int written_array(const struct preflight *p, struct buf *dst)
{
    size_t n = 0;

    buf_append_char(dst, '{');
    for (size_t i = 0; i < p->target.n_writes; i++) {
        if (!is_written(p, i))
            continue;
        buf_append_str(dst, n++ ? ",\"" : "\"");
        for (const char *s = p->target.writes[i]; *s; s++) {
            if (*s == '"' || *s == '\\')
                buf_append_char(dst, '\\');
            buf_append_char(dst, *s);
        }
        buf_append_char(dst, '"');
    }
    buf_append_char(dst, '}');
    return buf_ok(dst);
}

static int ask(struct preflight *p, const struct question *q, const struct db_val *v, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    int r = db_read(p->db, q->sql, v, 2, &rows, e);

    if (r < 0)
        return r;
    if (r) { /* a right that is missing, say */
        check_add(p, CHECK_WARN, q->name, "give the user the right to see it, or look yourself",
                  "could not be looked at: %s", e->text);
        *e = ERR_INIT;
        return 0;
    }
    struct slice found = rows.n_rows ? db_cell(&rows, 0, 0) : SLICE_NULL;
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;

    if (!found.p) {
        check_add(p, CHECK_OK, q->name, NULL, "%s", q->nothing);
        return 0;
    }
    const char *at = strstr(q->found, "%s");

    buf_append_slice(&text, (struct slice){q->found, (size_t)(at - q->found)});
    buf_append_slice(&text, found);
    if (buf_ok(&text))
        return -ENOMEM;
    check_add(p, q->level, q->name, q->fix, "%s", text.data);
    return 0;
}

/* ---- the key ---- */

static int check_key_postgresql(struct preflight *p, const char *table, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    CLEANUP(buf_deinit) struct buf keys = BUF_INIT;

    buf_append_char(&keys, '{');
    for (size_t i = 0; i < p->key.n; i++)
        buf_appendf(&keys, "%s\"%.*s\"", i ? "," : "", (int)p->key.column[i].len,
                    p->key.column[i].p);
    buf_append_char(&keys, '}');
    if (buf_ok(&keys))
        return -ENOMEM;
    int r =
        db_read(p->db,
                "SELECT count(*), (SELECT c.reltuples FROM pg_class c WHERE c.oid = "
                "to_regclass($1)) FROM pg_index i WHERE i.indrelid = to_regclass($1) AND "
                "i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND "
                "NOT EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = i.indrelid AND "
                "a.attnum = ANY((i.indkey::int2[])[0:i.indnkeyatts - 1]) AND a.attname <> "
                "ALL($2::text[]))",
                (struct db_val[]){db_text(table), db_text(keys.data)}, 2, &rows, e);

    if (r)
        return r;
    const char *plan = p->explained.data ? p->explained.data : "";
    bool scanned = strstr(plan, "Seq Scan on ") != NULL;

    if (db_cell_i64(&rows, 0, 0) == 0)
        check_add(p, CHECK_BLOCK, "key", "CREATE UNIQUE INDEX CONCURRENTLY on the key",
                  "%s has no unique index on %s: every chunk would read the whole table",
                  p->request->table, p->request->key);
    else if (scanned && db_cell_f64(&rows, 0, 1) > BIG_TABLE)
        check_add(p, CHECK_WARN, "key", "ANALYZE the table, and look at EXPLAIN",
                  "the chunk's statement reads the table whole, not by its key");
    else if (p->n_sample)
        check_add(p, CHECK_OK, "key", NULL,
                  scanned ? "unique; the table is so small that it is read whole"
                          : "unique, and the chunk's statement finds its rows by it");
    return 0;
}

static void check_key_sqlite(struct preflight *p)
{
    const char *plan = p->explained.data ? p->explained.data : "";

    if (strstr(plan, "SCAN"))
        check_add(p, CHECK_BLOCK, "key", "CREATE UNIQUE INDEX on the key",
                  "rows are not found by their key, every record would read the whole table: %s",
                  plan);
    else if (p->n_sample)
        check_add(p, CHECK_OK, "key", NULL, "rows are found by it");
}

/* ---- what was found before ---- */

static void check_collisions(struct preflight *p)
{
    for (size_t i = 0; i < p->n_collisions; i++) {
        const struct db_collision *c = &p->collisions[i];

        if (c->error)
            check_add(p, CHECK_WARN, "collisions", "look for equal new values yourself",
                      "%s could not be asked: %s", c->index, c->error);
        else if (c->among || c->existing)
            check_add(
                p, CHECK_BLOCK, "collisions",
                "mend the migration or the rows, or let them be set aside: --on-error "
                "23505=quarantine with --max-quarantine",
                "%s: %lld records would get a value that another one of the plan gets, %lld one "
                "that is there: %s",
                c->index, (long long)c->among, (long long)c->existing,
                c->example ? c->example : "");
        else if (c->passing)
            check_add(
                p, CHECK_WARN, "collisions", "run it in an order, or in two plans",
                "%s: %lld records would get a value that another one of the plan has until its "
                "turn",
                c->index, (long long)c->passing);
        else
            check_add(p, CHECK_OK, "collisions", NULL, "%s: no two records would meet", c->index);
    }
    if (p->n_collisions == 0 && p->fresh)
        check_add(p, CHECK_OK, "collisions", NULL, "no unique index holds a written column");
}

static void check_errors(struct preflight *p)
{
    double bad = (double)p->failed, sampled = 0;

    for (size_t i = 0; i < p->n_errors; i++)
        sampled += (double)p->errors[i].sampled;
    if (p->n_sample && !p->by_row) /* those have been counted as failed */
        bad += (double)p->changed * sampled / (double)p->n_sample;
    double rate = p->n_records ? bad / (double)p->n_records : 0;

    if (rate > DB_MAX_FAILURE_RATE && !p->request->args->max_failure_rate)
        check_add(
            p, CHECK_WARN, "errors",
            "mend the migration or leave the records out; --max-failure-rate off goes on anyway",
            "%.3g %% of the records would be set aside: the breaker pauses the plan at %g %%",
            rate * 100, DB_MAX_FAILURE_RATE * 100);
    else
        check_add(p, rate > 0 ? CHECK_WARN : CHECK_OK, "errors",
                  rate > 0 ? "look at the errors below before the run" : NULL,
                  "%.3g %% of the records would be set aside", rate * 100);
    if (p->n_records && p->changed + p->failed + p->skipped == 0)
        check_add(p, CHECK_WARN, "changes", "look at the query and the migration",
                  "no record would be changed");
}

int preflight_checks(struct preflight *p, struct err *e)
{
    CLEANUP(buf_deinit) struct buf table = BUF_INIT, written = BUF_INIT;
    int r = 0;

    if (!p->m && !p->computed && !p->external) {
        check_add(p, CHECK_WARN, "migration",
                  "manage.py scatter_plan --dry-run, when it is written in Python",
                  "%s is in none of the loaded plug-ins: its new values are not known here",
                  p->request->args->migration);
        return 0;
    }
    if (p->external)
        check_add(p, CHECK_WARN, "calls", "let a few records go first: --canary N",
                  "%s has its effect outside of the database: none of its %lld calls was made, and "
                  "errors and time are not known",
                  p->request->args->migration, (long long)p->n_records);
    else
        check_errors(p);
    check_collisions(p);
    if (db_is_sqlite(p->db)) {
        check_key_sqlite(p);
        return 0;
    }
    db_quote_table(&table, p->request->table);
    if (buf_ok(&table) || written_array(p, &written))
        return -ENOMEM;
    const struct db_val v[] = {db_text(table.data), db_text(written.data)};

    r = check_key_postgresql(p, table.data, e);
    for (size_t i = 0; !r && i < ARRAY_SIZE(questions); i++)
        r = ask(p, &questions[i], v, e);
    return r;
}
