/* SPDX-License-Identifier: Apache-2.0 */
/* One SQLite connection: opening, transactions, errors, the control tables.
 *
 * The file is put into WAL mode so that readers and the one writer do not stop each other; every writing transaction is
 * BEGIN IMMEDIATE, so that it waits for its turn at the start and never fails in the middle. Waiting is done by our own
 * busy handler with short pauses of random length: SQLite's grows to 100 ms, which starves a waiter beside a writer that
 * begins again at once. Results are mapped to SQLSTATEs, so that error policies are the same for both dialects. */

#include "celeryc/db/sqlite.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/codec.h"
#include "celeryc/base/limits.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "schema_sql.h"

#define BUSY_LIMIT_MS 20000

#define NOW_TEXT    "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
#define NOW_SECONDS "((julianday('now') - 2440587.5) * 86400.0)"
#define MICROS(x)   "CAST((julianday(" x ") - 2440587.5) * 86400000000.0 AS INTEGER)"

static const struct db_token tokens[] = {
    {"now", NOW_TEXT},
    {"lease", "(" NOW_SECONDS " + $1 / 1000.0)"},
    {"left", "CAST((b.lease_until - " NOW_SECONDS ") * 1000 AS INTEGER)"},
    {"age", "((julianday('now') - julianday(b.started_at)) * 86400.0)"},
    {"ago", "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-' || ($1 / 1000.0) || ' seconds')"},
    {"plan_age",
     "((julianday(coalesce(p.finished_at, 'now')) - julianday(p.started_at)) * 86400.0)"},
    {"outbox_age",
     "((julianday('now') - julianday(coalesce(o.tried_at, o.created_at))) * 86400.0)"},
    {"at3", "CAST($3 AS real)"},
    {"at4", "CAST($4 AS real)"},
    {"clock_ago", "(" NOW_SECONDS " - $1 / 1000.0)"},
    {"clock", NOW_SECONDS},
    {"silent", "(" NOW_SECONDS " - g.beat_at)"},
    {"created", MICROS("p.created_at")},
    {"started", MICROS("p.started_at")},
    {"finished", MICROS("p.finished_at")},
    {"b_started", MICROS("b.started_at")},
    {"b_finished", MICROS("b.finished_at")},
    {"event_at", MICROS("v.at")},
    {"lock_b", ""},
    {"skip_b", ""},
    {"lock_p", ""},
    {"skip_o", ""},
    {"failures", "json_group_array(json_object('batch', f.batch, 'key', f.record_key, 'outcome', "
                 "f.outcome, 'error_class', f.error_class, 'sqlstate', f.sqlstate, 'message', "
                 "f.message))"},
    {NULL, NULL},
};

/* ---- errors ---- */

struct code_state {
    int code;
    const char *state;
};

/* Extended codes first, then primary ones. */
static const struct code_state states[] = {
    {SQLITE_CONSTRAINT_UNIQUE, "23505"},
    {SQLITE_CONSTRAINT_PRIMARYKEY, "23505"},
    {SQLITE_CONSTRAINT_ROWID, "23505"},
    {SQLITE_CONSTRAINT_NOTNULL, "23502"},
    {SQLITE_CONSTRAINT_FOREIGNKEY, "23503"},
    {SQLITE_CONSTRAINT_CHECK, "23514"},
    {SQLITE_CONSTRAINT_TRIGGER, "P0001"},
    {SQLITE_CONSTRAINT, "23000"},
    {SQLITE_BUSY, "55P03"},
    {SQLITE_LOCKED, "55P03"},
    {SQLITE_READONLY, "25006"},
    {SQLITE_FULL, "53100"},
    {SQLITE_IOERR, "58030"},
    {SQLITE_CANTOPEN, "58P01"},
    {SQLITE_TOOBIG, "22001"},
    {SQLITE_MISMATCH, "22P02"},
    {SQLITE_INTERRUPT, "57014"},
    {SQLITE_AUTH, "42501"},
    {SQLITE_PERM, "42501"},
    {SQLITE_NOTADB, "42601"},
    {SQLITE_CORRUPT, "XX001"},
    {SQLITE_SCHEMA, "40001"},
};

static const char *state_of(int extended, const char *text)
{
    for (int mask = 0; mask < 2; mask++)
        for (size_t i = 0; i < ARRAY_SIZE(states); i++)
            if (states[i].code == (mask ? extended & 0xff : extended))
                return states[i].state;
    if (strstr(text, "no such table"))
        return "42P01";
    if (strstr(text, "no such column") || strstr(text, "has no column"))
        return "42703";
    return "42601";
}

int sqlite_fail(struct sqlite *q, struct err *e)
{
    const char *text = sqlite3_errmsg(q->conn);
    int extended = sqlite3_extended_errcode(q->conn);

    if ((extended & 0xff) == SQLITE_NOMEM)
        return -ENOMEM;
    int code = db_fail(&q->db, state_of(extended, text));

    return err_set(e, code, "%s", text);
}

/* ---- opening ---- */

static int wait_turn(void *arg, int n)
{
    struct sqlite *q = arg;
    uint8_t spread;

    if (n == 0)
        q->busy_since_ns = clock_mono_ns();
    if (clock_mono_ns() - q->busy_since_ns > q->patience_ms * NS_PER_MS)
        return 0;
    random_bytes(&spread, sizeof(spread));
    int64_t pause_ns = NS_PER_MS / 4 + (int64_t)spread * 8000 * MIN(n + 1, 4) / 4;
    struct timespec t = {.tv_nsec = (long)pause_ns};

    (void)nanosleep(&t, NULL);
    return 1;
}

void db_set_patience(struct db *db, int64_t patience_ms)
{
    if (db_is_sqlite(db))
        sqlite_of(db)->patience_ms = patience_ms;
}

static struct db *sqlite_close_db(struct db *db)
{
    struct sqlite *q = sqlite_of(db);

    (void)sqlite3_close(q->conn);
    free(q);
    return NULL;
}

static int set_up(struct sqlite *q, struct err *e)
{
    (void)sqlite3_extended_result_codes(q->conn, 1);
    (void)sqlite3_busy_handler(q->conn, wait_turn, q);
    if (sqlite3_exec(q->conn, "PRAGMA foreign_keys = ON; PRAGMA synchronous = FULL", NULL, NULL,
                     NULL))
        return sqlite_fail(q, e);
    /* Reads the file's header, so that what is no database is told here. */
    if (sqlite3_exec(q->conn, "PRAGMA schema_version", NULL, NULL, NULL))
        return sqlite_fail(q, e);
    /* A file that cannot be written can still be read in the mode it has. */
    if (sqlite3_db_readonly(q->conn, "main") == 0)
        (void)sqlite3_exec(q->conn, "PRAGMA journal_mode = WAL", NULL, NULL, NULL);
    return 0;
}

int db_sqlite_open(const char *path, bool read_only, struct db **ret_db, struct err *e)
{
    CLEANUP(db_close) struct db *db = NULL;
    struct sqlite *q;
    int r;

    if (access(path, F_OK) && !str_eq(path, ":memory:"))
        return err_set(e, -errno, "there is no SQLite file %s: %s", path, err_errno(errno));
    q = calloc(1, sizeof(*q));
    if (!q)
        return -ENOMEM;
    q->db.ops = &db_sqlite_ops;
    q->patience_ms = BUSY_LIMIT_MS;
    db = &q->db;
    r = sqlite3_open_v2(
        path, &q->conn,
        (read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE) | SQLITE_OPEN_NOMUTEX, NULL);
    if (r && q->conn)
        return err_prefix(e, sqlite_fail(q, e), "cannot open %s", path);
    if (r)
        return -ENOMEM;
    r = set_up(q, e);
    if (r)
        return err_prefix(e, r, "cannot open %s", path);
    *ret_db = STEAL(db);
    return 0;
}

/* ---- statements ---- */

int sqlite_prepare(struct sqlite *q, const char *sql, sqlite3_stmt **ret_s, struct err *e)
{
    sqlite3_stmt *s = NULL;

    if (sqlite3_prepare_v2(q->conn, sql, -1, &s, NULL))
        return sqlite_fail(q, e);
    *ret_s = s;
    return 0;
}

int sqlite_bind(struct sqlite *q, sqlite3_stmt *s, int number, struct db_val v, struct err *e)
{
    char name[16];
    int at, r;

    (void)snprintf(name, sizeof(name), "$%d", number);
    at = sqlite3_bind_parameter_index(s, name);
    if (at == 0)
        return 0;
    if (v.kind == DB_V_INT)
        r = sqlite3_bind_int64(s, at, v.i);
    else if (!v.s.p)
        r = sqlite3_bind_null(s, at);
    else
        r = sqlite3_bind_text64(s, at, v.s.p, v.s.len, SQLITE_STATIC, SQLITE_UTF8);
    return r ? sqlite_fail(q, e) : 0;
}

int sqlite_step_done(struct sqlite *q, sqlite3_stmt *s, struct err *e)
{
    int r = sqlite3_step(s);

    return r == SQLITE_DONE || r == SQLITE_ROW ? 0 : sqlite_fail(q, e);
}

static int read_rows(struct sqlite *q, sqlite3_stmt *s, struct db_rows *rows, struct err *e)
{
    struct slice cells[LIMIT_COLUMNS];
    int n = sqlite3_column_count(s), step, r;

    if ((size_t)n > ARRAY_SIZE(cells))
        return -E2BIG;
    r = db_rows_init(rows, (size_t)n);
    while (!r && (step = sqlite3_step(s)) == SQLITE_ROW) {
        for (int i = 0; i < n; i++) {
            const char *p = (const char *)sqlite3_column_text(s, i);

            cells[i] = (struct slice){p, p ? (size_t)sqlite3_column_bytes(s, i) : 0};
        }
        r = db_rows_add(rows, cells);
    }
    if (!r && step != SQLITE_DONE)
        r = sqlite_fail(q, e);
    return r;
}

int sqlite_exec(struct db *db, const char *sql, const struct db_val *v, size_t n,
                struct db_rows *ret_r, struct err *e)
{
    struct sqlite *q = sqlite_of(db);
    CLEANUP(sqlite_stmt) sqlite3_stmt *s = NULL;
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    int r = sqlite_prepare(q, sql, &s, e);

    for (size_t i = 0; !r && i < n; i++)
        r = sqlite_bind(q, s, (int)i + 1, v[i], e);
    if (!r)
        r = read_rows(q, s, &rows, e);
    if (r)
        return r;
    rows.changed = sqlite3_changes64(q->conn);
    if (ret_r) {
        *ret_r = rows;
        rows = (struct db_rows){0};
    }
    return 0;
}

static int run(struct sqlite *q, const char *sql, struct err *e)
{
    return sqlite3_exec(q->conn, sql, NULL, NULL, NULL) ? sqlite_fail(q, e) : 0;
}

int sqlite_begin(struct db *db, int64_t lease_ms, struct err *e)
{
    (void)lease_ms;
    return run(sqlite_of(db), "BEGIN IMMEDIATE", e);
}

int sqlite_commit(struct db *db, struct err *e)
{
    int r = run(sqlite_of(db), "COMMIT", e);

    if (r)
        sqlite_rollback(db);
    return r;
}

void sqlite_rollback(struct db *db)
{
    struct sqlite *q = sqlite_of(db);

    if (!sqlite3_get_autocommit(q->conn))
        (void)sqlite3_exec(q->conn, "ROLLBACK", NULL, NULL, NULL);
}

/* ---- the control tables ---- */

static int sqlite_ensure_schema(struct db *db, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    int r = sqlite_exec(db, "SELECT count(*) FROM sqlite_master WHERE name = 'scatter_governor'",
                        NULL, 0, &rows, e);

    if (!r && db_cell_is(&rows, 0, 0, "1"))
        return 0;
    if (!r)
        r = sqlite_begin(db, 0, e);
    if (!r)
        r = run(sqlite_of(db), schema_sqlite, e);
    if (!r)
        r = sqlite_commit(db, e);
    sqlite_rollback(db);
    return r ? err_prefix(e, r, "cannot create the control tables") : 0;
}

int sqlite_schema_here(struct db *db, struct err *e)
{
    return run(sqlite_of(db), schema_sqlite, e);
}

static int sqlite_rehearsal_begin(struct db *db, int64_t lease_ms, struct err *e)
{
    int r;

    if (!sqlite3_get_autocommit(sqlite_of(db)->conn))
        return 0;
    r = sqlite_begin(db, lease_ms, e);
    if (!r)
        r = sqlite_schema_here(db, e);
    if (!r)
        r = db_rehearsal_rows(db, e);
    if (!r)
        r = run(sqlite_of(db), "SAVEPOINT rehearsal", e);
    if (r)
        sqlite_rollback(db);
    return r;
}

static int sqlite_rehearsal_back(struct db *db, struct err *e)
{
    return run(sqlite_of(db), "ROLLBACK TO rehearsal", e);
}

static int sqlite_insert_batches(struct db *db, const char *plan, const struct db_batch_row *rows,
                                 size_t n, struct err *e)
{
    struct sqlite *q = sqlite_of(db);
    CLEANUP(sqlite_stmt) sqlite3_stmt *s = NULL;
    int r = sqlite_prepare(q,
                           "INSERT INTO scatter_batch (plan, batch, source, sha256, records) "
                           "VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
                           &s, e);

    for (size_t i = 0; !r && i < n; i++) {
        const struct db_val v[] = {db_text(plan), db_int(rows[i].batch), db_text(rows[i].source),
                                   db_text(rows[i].sha256), db_int(rows[i].count)};

        for (size_t k = 0; !r && k < ARRAY_SIZE(v); k++)
            r = sqlite_bind(q, s, (int)k + 1, v[k], e);
        if (!r)
            r = sqlite_step_done(q, s, e);
        (void)sqlite3_reset(s);
    }
    return r;
}

/* Columns are looked up in every chunk, inside its transaction. */
static void forget(struct db *db)
{
    (void)db;
}

const struct db_ops db_sqlite_ops = {
    .tokens = tokens,
    .close = sqlite_close_db,
    .begin = sqlite_begin,
    .exec = sqlite_exec,
    .commit = sqlite_commit,
    .rollback = sqlite_rollback,
    .ensure_schema = sqlite_ensure_schema,
    .insert_batches = sqlite_insert_batches,
    .forget = forget,
    .chunk = sqlite_chunk,
    .rehearse = sqlite_rehearse,
    .rehearsal_begin = sqlite_rehearsal_begin,
    .rehearsal_back = sqlite_rehearsal_back,
    .guard = sqlite_guard,
    .compute = sqlite_compute,
    .stream = sqlite_stream,
    .check_target = sqlite_check_target,
};
