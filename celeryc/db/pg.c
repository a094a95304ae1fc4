/* SPDX-License-Identifier: Apache-2.0 */
/* One PostgreSQL connection: opening, pipelines, transactions, errors.
 *
 * Every exchange is a pipeline of a few statements and one sync, read to its end, so that the connection is always
 * either idle or broken, never half read. Settings travel with each BEGIN (SET LOCAL by set_config), because a pooler in
 * transaction mode gives every transaction another session; named statements are never used for the same reason.
 * Each wait has a deadline of our own behind the server's statement_timeout: a silent server breaks the connection, and
 * what was in flight is then unknown (DB_E_RETRY), never assumed. */

#include "celeryc/db/pg.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/limits.h"
#include "celeryc/base/num.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include "schema_sql.h"

#define CONTROL_LIMIT_MS 30000 /* statement_timeout of a control transaction */
#define LOCK_LIMIT_MS    2000
#define INSERT_STEP      ((size_t)5000) /* batch rows of one statement */
#define ANSWER_GRACE_MS  10000 /* beyond statement_timeout until the server counts as lost */

/* Settings that planner and worker share: the text form of every value depends on them, and by the name the governor knows
 * our sessions, whatever the URL calls them. */
#define SETTINGS                                                                               \
    "SELECT set_config('statement_timeout', $1, true), set_config('lock_timeout', $2, true), " \
    "set_config('idle_in_transaction_session_timeout', $3, true), "                            \
    "set_config('TimeZone', 'UTC', true), set_config('DateStyle', 'ISO, MDY', true), "         \
    "set_config('IntervalStyle', 'postgres', true), set_config('bytea_output', 'hex', true), " \
    "set_config('extra_float_digits', '1', true), "                                            \
    "set_config('application_name', 'scatter', true)"

static const struct db_token tokens[] = {
    {"now", "clock_timestamp()"},
    {"lease", "clock_timestamp() + CAST($1 AS bigint) * interval '1 millisecond'"},
    {"left", "CAST(extract(epoch FROM b.lease_until - clock_timestamp()) * 1000 AS bigint)"},
    {"age", "extract(epoch FROM clock_timestamp() - b.started_at)"},
    {"ago", "clock_timestamp() - CAST($1 AS bigint) * interval '1 millisecond'"},
    {"plan_age", "extract(epoch FROM coalesce(p.finished_at, clock_timestamp()) - p.started_at)"},
    {"outbox_age", "extract(epoch FROM clock_timestamp() - coalesce(o.tried_at, o.created_at))"},
    {"at3", "to_timestamp(CAST($3 AS double precision))"},
    {"at4", "to_timestamp(CAST($4 AS double precision))"},
    {"clock_ago", "clock_timestamp() - CAST($1 AS bigint) * interval '1 millisecond'"},
    {"clock", "clock_timestamp()"},
    {"silent", "extract(epoch FROM clock_timestamp() - g.beat_at)"},
    {"created", "CAST(extract(epoch FROM p.created_at) * 1000000 AS bigint)"},
    {"started", "CAST(extract(epoch FROM p.started_at) * 1000000 AS bigint)"},
    {"finished", "CAST(extract(epoch FROM p.finished_at) * 1000000 AS bigint)"},
    {"b_started", "CAST(extract(epoch FROM b.started_at) * 1000000 AS bigint)"},
    {"b_finished", "CAST(extract(epoch FROM b.finished_at) * 1000000 AS bigint)"},
    {"event_at", "CAST(extract(epoch FROM v.at) * 1000000 AS bigint)"},
    {"lock_b", "FOR UPDATE OF b"},
    {"skip_b", "FOR UPDATE OF b SKIP LOCKED"},
    {"lock_p", "FOR NO KEY UPDATE OF p"},
    {"skip_o", "FOR UPDATE OF o SKIP LOCKED"},
    {"failures",
     "coalesce(json_agg(json_build_object('batch', f.batch, 'key', f.record_key, 'outcome', "
     "f.outcome, 'error_class', f.error_class, 'sqlstate', f.sqlstate, 'message', "
     "f.message)), '[]')"},
    {NULL, NULL},
};

/* ---- errors ---- */

/* The first line of the server's words, without its "ERROR:  " mark. */
static void set_server_text(struct err *e, int code, const PGresult *res, const char *fallback)
{
    const char *primary = res ? PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY) : NULL;
    const char *detail = res ? PQresultErrorField(res, PG_DIAG_MESSAGE_DETAIL) : NULL;

    if (!primary)
        primary = fallback;
    (void)err_set(e, code, "%.*s%s%s", (int)strcspn(primary, "\n"), primary, detail ? ": " : "",
                  detail ? detail : "");
}

int pg_fail(struct pg *pg, const PGresult *res, struct err *e)
{
    const char *state = res ? PQresultErrorField(res, PG_DIAG_SQLSTATE) : NULL;

    if (!state)
        state = PQstatus(pg->conn) == CONNECTION_BAD ? "08006" : "58000";
    int code = db_fail(&pg->db, state);

    set_server_text(e, code, res, PQerrorMessage(pg->conn));
    return code;
}

struct pg_told pg_told(const struct pg *pg)
{
    struct pg_told t;

    memcpy(t.sqlstate, pg->db.sqlstate, sizeof(t.sqlstate));
    memcpy(t.error_class, pg->db.error_class, sizeof(t.error_class));
    return t;
}

void pg_tell(struct pg *pg, const struct pg_told *t)
{
    memcpy(pg->db.sqlstate, t->sqlstate, sizeof(t->sqlstate));
    memcpy(pg->db.error_class, t->error_class, sizeof(t->error_class));
}

/* ---- the connection ---- */

static int connect_failed(struct pg *pg, struct err *e)
{
    const char *text = PQerrorMessage(pg->conn);
    const char *state = "08001";

    if (strstr(text, "authentication failed") || strstr(text, "no password supplied") ||
        strstr(text, "pg_hba.conf") || strstr(text, "role \""))
        state = "28000";
    else if (strstr(text, "does not exist"))
        state = "3D000";
    else if (strstr(text, "starting up") || strstr(text, "shutting down"))
        state = "57P03";
    int code = db_fail(&pg->db, state);

    return err_set(e, code, "%.*s", (int)strcspn(text, "\n"), text);
}

/* In front of the URL stand defaults that it may override, behind it what must not be overridden. */
static PGconn *connect_url(const char *url)
{
    static const char *const keys[] = {
        "connect_timeout",           "keepalives_idle",  "keepalives_interval",
        "keepalives_count",          "tcp_user_timeout", "dbname",
        "fallback_application_name", "client_encoding",  NULL};
    const char *const values[] = {"10", "10", "5", "3", "30000", url, "scatter", "UTF8", NULL};

    return PQconnectdbParams(keys, values, 1);
}

int pg_ready(struct pg *pg, struct err *e)
{
    if (PQstatus(pg->conn) == CONNECTION_OK && PQpipelineStatus(pg->conn) == PQ_PIPELINE_OFF &&
        PQtransactionStatus(pg->conn) == PQTRANS_IDLE)
        return 0;
    PQreset(pg->conn);
    if (PQstatus(pg->conn) != CONNECTION_OK)
        return connect_failed(pg, e);
    return 0;
}

static void ignore_notice(void *arg, const PGresult *res)
{
    (void)arg;
    (void)res;
}

static struct db *pg_close(struct db *db)
{
    struct pg *pg = pg_of(db);

    pg_target_forget(pg);
    PQfinish(pg->conn);
    free(pg);
    return NULL;
}

int db_pg_open(const char *url, struct db **ret_db, struct err *e)
{
    struct pg *pg = calloc(1, sizeof(*pg));
    int r = 0;

    if (!pg)
        return -ENOMEM;
    pg->db.ops = &db_pg_ops;
    pg->conn = connect_url(url);
    if (!pg->conn)
        r = -ENOMEM;
    else if (PQstatus(pg->conn) != CONNECTION_OK)
        r = connect_failed(pg, e);
    if (r) {
        (void)pg_close(&pg->db);
        return r;
    }
    (void)PQsetNoticeReceiver(pg->conn, ignore_notice, NULL);
    *ret_db = &pg->db;
    return 0;
}

/* ---- pipelines ---- */

/* The only cure for a server that does not answer: the socket goes, pg_ready connects again. */
static int give_up(struct pg *pg, struct err *e)
{
    int code = db_fail(&pg->db, "08006");

    (void)shutdown(PQsocket(pg->conn), SHUT_RDWR);
    (void)PQconsumeInput(pg->conn);
    return err_set(e, code, "the database did not answer in time");
}

int pg_result(struct pg *pg, PGresult **ret_res, struct err *e)
{
    int64_t wait_ms = pg->limit_ms ? pg->limit_ms + ANSWER_GRACE_MS : -1;
    int64_t end_ns = clock_mono_ns() + wait_ms * NS_PER_MS;

    while (PQisBusy(pg->conn)) {
        int64_t left_ms = wait_ms < 0 ? -1 : (end_ns - clock_mono_ns()) / NS_PER_MS;
        struct pollfd p = {.fd = PQsocket(pg->conn), .events = POLLIN};

        if (wait_ms >= 0 && left_ms <= 0)
            return give_up(pg, e);
        if (poll(&p, 1, (int)left_ms) < 0 && errno != EINTR)
            return give_up(pg, e);
        if (p.revents && !PQconsumeInput(pg->conn))
            return pg_fail(pg, NULL, e);
    }
    *ret_res = PQgetResult(pg->conn);
    return 0;
}

/* Reads the answer of one statement and the NULL behind it. */
static int read_one(struct pg *pg, PGresult **ret_res, struct err *e)
{
    PGresult *end = NULL;
    int r = pg_result(pg, ret_res, e);

    if (r)
        return r;
    if (!*ret_res)
        return pg_fail(pg, NULL, e);
    if (PQresultStatus(*ret_res) == PGRES_PIPELINE_SYNC)
        return 0;
    r = pg_result(pg, &end, e);
    PQclear(end);
    return r;
}

/* The failure that is told is the first; what follows it in the pipeline was aborted by it, and the connection may end
 * with it. */
static int read_all(struct pg *pg, size_t n, PGresult **results, struct err *e)
{
    struct pg_told first = {0};
    int failed = 0, r = 0;

    for (size_t i = 0; !r && i <= n; i++) {
        PGresult *res = NULL;

        r = read_one(pg, &res, e);
        if (!r && !failed && i < n && !pg_good(res)) {
            failed = pg_fail(pg, res, e);
            first = pg_told(pg);
        }
        if (r || i == n)
            PQclear(res);
        else
            results[i] = res;
    }
    if (failed)
        pg_tell(pg, &first);
    return failed ? failed : r;
}

static int send_all(struct pg *pg, const struct pg_stmt *stmts, size_t n, struct err *e)
{
    if (!PQenterPipelineMode(pg->conn))
        return pg_fail(pg, NULL, e);
    for (size_t i = 0; i < n; i++)
        if (!PQsendQueryParams(pg->conn, stmts[i].sql, stmts[i].n, NULL, stmts[i].values,
                               stmts[i].lengths, stmts[i].formats, 0))
            return pg_fail(pg, NULL, e);
    return PQpipelineSync(pg->conn) ? 0 : pg_fail(pg, NULL, e);
}

int pg_run(struct pg *pg, const struct pg_stmt *stmts, size_t n, PGresult **ret_results,
           struct err *e)
{
    PGresult *results[PG_MAX_STATEMENTS] = {0};
    int r;

    ASSERT(n <= PG_MAX_STATEMENTS);
    r = send_all(pg, stmts, n, e);
    if (!r)
        r = read_all(pg, n, results, e);
    if (PQstatus(pg->conn) == CONNECTION_OK)
        (void)PQexitPipelineMode(pg->conn);
    for (size_t i = 0; i < n; i++) {
        if (r)
            PQclear(results[i]);
        else
            ret_results[i] = results[i];
    }
    return r;
}

/* ---- transactions ---- */

void pg_begin_stmts(struct pg_begin *b, bool snapshot, int64_t lease_ms, struct pg_stmt stmts[2])
{
    int64_t limit_ms = lease_ms ? MAX(lease_ms / 2, 100) : CONTROL_LIMIT_MS;
    int64_t idle_ms = lease_ms ? MAX(lease_ms / 3, 100) : CONTROL_LIMIT_MS;

    b->limit_ms = snapshot ? 0 : limit_ms;
    (void)snprintf(b->limit, sizeof(b->limit), "%lld", (long long)b->limit_ms);
    (void)snprintf(b->lock, sizeof(b->lock), "%d", LOCK_LIMIT_MS);
    (void)snprintf(b->idle, sizeof(b->idle), "%lld", (long long)(snapshot ? 0 : idle_ms));
    b->values[0] = b->limit;
    b->values[1] = b->lock;
    b->values[2] = b->idle;
    stmts[0] =
        (struct pg_stmt){.sql = snapshot ? "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
                                         : "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"};
    stmts[1] = (struct pg_stmt){.sql = SETTINGS, .n = 3, .values = b->values};
}

static int pg_begin(struct db *db, int64_t lease_ms, struct err *e)
{
    struct pg *pg = pg_of(db);
    struct pg_begin b;
    struct pg_stmt stmts[2];
    PGresult *res[2];
    int r = pg_ready(pg, e);

    if (r)
        return r;
    pg_begin_stmts(&b, false, lease_ms, stmts);
    pg->limit_ms = b.limit_ms;
    r = pg_run(pg, stmts, 2, res, e);
    if (r) {
        pg_rollback(db);
        return r;
    }
    PQclear(res[0]);
    PQclear(res[1]);
    return 0;
}

static int pg_simple(struct pg *pg, const char *sql, struct err *e)
{
    PGresult *res = NULL;
    int r = pg_run(pg, &(struct pg_stmt){.sql = sql}, 1, &res, e);

    PQclear(r ? NULL : res);
    return r;
}

/* A COMMIT that the server turns into a ROLLBACK (a failed statement before it) is no success. */
static int pg_commit(struct db *db, struct err *e)
{
    struct pg *pg = pg_of(db);
    PGresult *res = NULL;
    int r = pg_run(pg, &(struct pg_stmt){.sql = "COMMIT"}, 1, &res, e);

    if (r) {
        pg_rollback(db);
        return r;
    }
    if (!pg_committed(res))
        r = err_set(e, db_fail(db, "40000"), "the transaction was rolled back at its end");
    PQclear(res);
    return r;
}

/* Nothing to do when the connection is gone: the server rolls back by itself. */
void pg_rollback(struct db *db)
{
    struct pg *pg = pg_of(db);
    struct err ignored = ERR_INIT;

    if (PQstatus(pg->conn) != CONNECTION_OK || PQtransactionStatus(pg->conn) == PQTRANS_IDLE)
        return;
    struct pg_told before = pg_told(pg);

    pg->rehearsing = false;
    (void)pg_simple(pg, "ROLLBACK", &ignored);
    pg_tell(pg, &before);
}

static int copy_result(const PGresult *res, struct db_rows *ret_r)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    int n_cols = PQnfields(res);
    struct slice cells[LIMIT_COLUMNS];
    int64_t changed = 0;
    int r;

    if ((size_t)n_cols > ARRAY_SIZE(cells))
        return -E2BIG;
    r = db_rows_init(&rows, (size_t)n_cols);
    for (int row = 0; !r && row < PQntuples(res); row++) {
        for (int col = 0; col < n_cols; col++)
            cells[col] =
                PQgetisnull(res, row, col)
                    ? SLICE_NULL
                    : (struct slice){PQgetvalue(res, row, col), (size_t)PQgetlength(res, row, col)};
        r = db_rows_add(&rows, cells);
    }
    if (r)
        return r;
    if (!num_parse_i64(slice_str(PQcmdTuples((PGresult *)res)), &changed))
        rows.changed = changed;
    *ret_r = rows;
    rows = (struct db_rows){0};
    return 0;
}

static int pg_exec(struct db *db, const char *sql, const struct db_val *v, size_t n,
                   struct db_rows *ret_r, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    const char **values = a ? arena_alloc_array(a, n + 1, sizeof(*values)) : NULL;
    PGresult *res = NULL;
    int r;

    if (!values)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        if (v[i].kind == DB_V_INT)
            values[i] = arena_printf(a, "%lld", (long long)v[i].i);
        else if (v[i].s.p)
            values[i] = arena_strdup(a, v[i].s);
        else
            continue;
        if (!values[i])
            return -ENOMEM;
    }
    r = pg_run(pg_of(db), &(struct pg_stmt){sql, (int)n, values}, 1, &res, e);
    if (r)
        return r;
    if (ret_r)
        r = copy_result(res, ret_r);
    PQclear(res);
    return r;
}

/* ---- the control tables ---- */

/* Asked first, so that a worker without the right to create tables can live with tables that are there. Two creators
 * take turns: CREATE TABLE IF NOT EXISTS is not safe against its own kind. */
int pg_schema_here(struct pg *pg, struct err *e)
{
    struct db *db = &pg->db;
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    int r = pg_exec(db, "SELECT to_regclass('scatter_governor') IS NOT NULL", NULL, 0, &rows, e);

    if (!r && db_cell_is(&rows, 0, 0, "t"))
        return 0;
    if (!r)
        r = pg_exec(db, "SELECT pg_advisory_xact_lock(7235421763)", NULL, 0, NULL, e);
    if (!r) {
        PGresult *res = PQexec(pg->conn, schema_postgresql);

        r = pg_good(res) ? 0 : pg_fail(pg, res, e);
        PQclear(res);
    }
    return r ? err_prefix(e, r, "cannot create the control tables") : 0;
}

/* Savepoints, so that tables which are not there are made once for all tries, and none of them stays. Constraints that
 * wait for COMMIT are asked at once: there will be none. */
static int open_rehearsal(struct pg *pg, int64_t lease_ms, struct err *e)
{
    int r = pg_begin(&pg->db, lease_ms, e);

    if (!r)
        r = pg_schema_here(pg, e);
    if (!r)
        r = db_rehearsal_rows(&pg->db, e);
    if (!r)
        r = pg_simple(pg, "SET CONSTRAINTS ALL IMMEDIATE", e);
    if (!r)
        r = pg_simple(pg, "SAVEPOINT rehearsal", e);
    pg->rehearsing = r == 0;
    if (r)
        pg_rollback(&pg->db);
    return r;
}

int pg_rehearsal_begin(struct db *db, int64_t lease_ms, struct err *e)
{
    struct pg *pg = pg_of(db);

    if (pg->rehearsing && PQtransactionStatus(pg->conn) == PQTRANS_INTRANS)
        return 0;
    return open_rehearsal(pg, lease_ms, e);
}

int pg_rehearsal_back(struct db *db, struct err *e)
{
    struct pg *pg = pg_of(db);
    struct pg_told before = pg_told(pg);
    int r = pg_simple(pg, "ROLLBACK TO SAVEPOINT rehearsal", e);

    pg_tell(pg, &before);
    return r;
}

static int pg_ensure_schema(struct db *db, struct err *e)
{
    int r = pg_begin(db, 0, e);

    if (!r)
        r = pg_schema_here(pg_of(db), e);
    if (!r)
        return pg_commit(db, e);
    pg_rollback(db);
    return r;
}

/* One statement of arrays for some thousand rows. */
static int insert_some(struct pg *pg, const char *plan, const struct db_batch_row *rows, size_t n,
                       struct err *e)
{
    CLEANUP(pg_array_deinit) struct pg_array batch = PG_ARRAY_INIT, source = PG_ARRAY_INIT;
    CLEANUP(pg_array_deinit) struct pg_array sha256 = PG_ARRAY_INIT, records = PG_ARRAY_INIT;
    PGresult *res = NULL;

    for (size_t i = 0; i < n; i++) {
        pg_array_add_int(&batch, rows[i].batch);
        pg_array_add(&source, slice_str(rows[i].source));
        pg_array_add(&sha256, slice_str(rows[i].sha256));
        pg_array_add_int(&records, rows[i].count);
    }
    const char *const values[] = {plan, pg_array_end(&batch), pg_array_end(&source),
                                  pg_array_end(&sha256), pg_array_end(&records)};

    for (size_t i = 1; i < ARRAY_SIZE(values); i++)
        if (!values[i])
            return -ENOMEM;
    int r = pg_run(pg,
                   &(struct pg_stmt){.sql = "INSERT INTO scatter_batch (plan, batch, source, "
                                            "sha256, records) SELECT $1::text, v.* FROM "
                                            "unnest($2::bigint[], $3::text[], $4::text[], "
                                            "$5::bigint[]) AS v ON CONFLICT DO NOTHING",
                                     .n = ARRAY_SIZE(values),
                                     .values = values},
                   1, &res, e);

    if (!r)
        PQclear(res);
    return r;
}

static int pg_insert_batches(struct db *db, const char *plan, const struct db_batch_row *rows,
                             size_t n, struct err *e)
{
    int r = 0;

    for (size_t i = 0; !r && i < n; i += INSERT_STEP)
        r = insert_some(pg_of(db), plan, rows + i, MIN(INSERT_STEP, n - i), e);
    return r;
}

static void forget(struct db *db)
{
    pg_target_forget(pg_of(db));
}

const struct db_ops db_pg_ops = {
    .tokens = tokens,
    .close = pg_close,
    .begin = pg_begin,
    .exec = pg_exec,
    .commit = pg_commit,
    .rollback = pg_rollback,
    .ensure_schema = pg_ensure_schema,
    .insert_batches = pg_insert_batches,
    .forget = forget,
    .chunk = pg_chunk,
    .rehearse = pg_rehearse,
    .rehearsal_begin = pg_rehearsal_begin,
    .rehearsal_back = pg_rehearsal_back,
    .guard = pg_guard,
    .write = pg_write,
    .compute = pg_compute,
    .stream = pg_stream,
    .check_target = pg_check_target,
};
