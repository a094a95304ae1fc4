/* SPDX-License-Identifier: Apache-2.0 */
/* PostgreSQL: the fenced chunk.
 *
 * First round trip: BEGIN, settings, one statement that moves the checkpoint (ck), credits the worker, lists what was
 * skipped or set aside, and updates the rows that still hold the planned values (u). Second: the stale rows when there
 * are any, and COMMIT. Without a row in ck nothing at all was written. A row that waited for a lock is checked again by
 * the server with its new values, so a change that came in between makes it stale and is never overwritten.
 *
 * Values travel as arrays of text and are cast to the columns' types; keys as an array of the key's own type, so that
 * the primary key's index finds them. */

#include "celeryc/db/pg.h"

#include "celeryc/base/clock.h"
#include "celeryc/db/rehearse.h"

#include <errno.h>

/* Parameters $1..$10 of every chunk; the arrays follow. */
enum {
    P_NEW = 1,
    P_LEASE,
    P_UNCHANGED,
    P_SKIPPED,
    P_QUARANTINED,
    P_PLAN,
    P_BATCH,
    P_TOKEN,
    P_OLD,
    P_WORKER
};

#define FIXED_PARAMS 10

struct statement {
    struct arena *arena;
    struct buf sql;
    const char **values;
    size_t n, cap;
};

static void statement_deinit(struct statement *s)
{
    buf_deinit(&s->sql);
}

DEFINE_CLEANUP_VALUE(struct statement, statement_deinit)

/* Arrays of the outcomes: position, key, kind, class, state, message, attempts. */
#define OUTCOME_ARRAYS 7

struct outcomes {
    struct arena *arena;
    struct pg_array a[OUTCOME_ARRAYS];
    size_t n;
};

struct counts {
    size_t changed;
    int64_t unchanged, skipped, quarantined;
    bool partly; /* some change leaves a column as it is */
};

static struct counts count_rows(const struct db_chunk *c)
{
    struct counts n = {0};

    for (size_t i = 0; i < c->n_rows; i++) {
        const struct db_row *row = &c->rows[i];

        n.changed += row->outcome == DB_O_CHANGED;
        n.unchanged += row->outcome == DB_O_UNCHANGED;
        n.skipped += row->outcome == DB_O_SKIPPED;
        n.quarantined += row->outcome == DB_O_QUARANTINED;
        for (size_t k = 0; row->outcome == DB_O_CHANGED && row->set && k < c->target->n_writes; k++)
            n.partly = n.partly || !row->set[k];
    }
    return n;
}

/* ---- outcomes ---- */

static void outcomes_deinit(struct outcomes *o)
{
    for (size_t i = 0; i < OUTCOME_ARRAYS; i++)
        pg_array_deinit(&o->a[i]);
}

DEFINE_CLEANUP_VALUE(struct outcomes, outcomes_deinit)

static int add_outcome(struct outcomes *o, const struct db_chunk *c, const struct db_row *row,
                       const char *outcome)
{
    bool stale = str_eq(outcome, "stale");
    struct slice key;

    if (db_row_key(c, row, o->arena, &key))
        return -ENOMEM;
    pg_array_add_int(&o->a[0], row->position);
    pg_array_add(&o->a[1], key);
    pg_array_add(&o->a[2], slice_str(outcome));
    pg_array_add(&o->a[3], slice_str(stale ? NULL : row->error_class));
    pg_array_add(&o->a[4], slice_str(stale ? NULL : row->sqlstate));
    pg_array_add(&o->a[5], slice_str(stale ? NULL : row->message));
    pg_array_add_int(&o->a[6], row->attempts ? row->attempts : 1);
    o->n++;
    return 0;
}

static int outcome_values(struct outcomes *o, const char **values)
{
    for (size_t i = 0; i < OUTCOME_ARRAYS; i++) {
        values[i] = pg_array_end(&o->a[i]);
        if (!values[i])
            return -ENOMEM;
    }
    return 0;
}

#define OUTCOME_COLUMNS                                                                     \
    "(plan, batch, worker, position, record_key, outcome, error_class, sqlstate, message, " \
    "attempts)"

/* ---- building the statement ---- */

static int add_value(struct statement *s, const char *value)
{
    if (s->n == s->cap)
        return -E2BIG;
    s->values[s->n++] = value;
    return 0;
}

static int add_int(struct statement *s, int64_t v)
{
    const char *text = arena_printf(s->arena, "%lld", (long long)v);

    return text ? add_value(s, text) : -ENOMEM;
}

static int fixed_params(struct statement *s, const struct db_chunk *c, const struct counts *n)
{
    const int64_t numbers[] = {c->new_position, c->lease_ms, n->unchanged, n->skipped,
                               n->quarantined};
    int r = 0;

    for (size_t i = 0; !r && i < ARRAY_SIZE(numbers); i++)
        r = add_int(s, numbers[i]);
    if (!r)
        r = add_value(s, c->plan);
    if (!r)
        r = add_int(s, c->batch);
    if (!r)
        r = add_int(s, c->token);
    if (!r)
        r = add_int(s, c->old_position);
    if (!r)
        r = add_value(s, c->worker);
    ASSERT(r || s->n == FIXED_PARAMS);
    buf_append_str(
        &s->sql,
        "WITH ck AS (UPDATE scatter_batch SET position = $1::bigint, lease_until = "
        "clock_timestamp() + $2::bigint * interval '1 millisecond', unchanged = unchanged + "
        "$3::bigint, skipped = skipped + $4::bigint, quarantined = quarantined + $5::bigint WHERE "
        "plan = $6::text AND batch = $7::bigint AND lease_token = $8::bigint AND position = "
        "$9::bigint AND state = 'running' RETURNING 1), s AS (INSERT INTO scatter_share (plan, "
        "batch, worker, records) SELECT $6::text, $7::bigint, $10::text, $1::bigint - $9::bigint "
        "FROM ck ON CONFLICT (plan, batch, worker) DO UPDATE SET records = scatter_share.records + "
        "excluded.records)");
    return r;
}

static int outcome_part(struct statement *s, struct outcomes *o)
{
    const char *values[OUTCOME_ARRAYS];
    int r = outcome_values(o, values);
    size_t first = s->n + 1;

    for (size_t i = 0; !r && i < OUTCOME_ARRAYS; i++)
        r = add_value(s, values[i]);
    buf_appendf(&s->sql,
                ", o AS (INSERT INTO scatter_outcome " OUTCOME_COLUMNS
                " SELECT $6::text, $7::bigint, $10::text, x.* FROM ck, unnest($%zu::bigint[], "
                "$%zu::text[], $%zu::text[], $%zu::text[], $%zu::text[], $%zu::text[], "
                "$%zu::integer[]) AS x)",
                first, first + 1, first + 2, first + 3, first + 4, first + 5, first + 6);
    return r;
}

/* One array in the arena's keeping: rows' values by pick. */
static int add_array(struct statement *s, const struct db_chunk *c,
                     struct slice (*pick)(const struct db_row *row, size_t k), size_t k)
{
    CLEANUP(pg_array_deinit) struct pg_array a = PG_ARRAY_INIT;

    for (size_t i = 0; i < c->n_rows; i++)
        if (c->rows[i].outcome == DB_O_CHANGED)
            pg_array_add(&a, pick(&c->rows[i], k));
    const char *text = pg_array_end(&a);

    text = text ? arena_strdup(s->arena, slice_str(text)) : NULL;
    return text ? add_value(s, text) : -ENOMEM;
}

static struct slice pick_old(const struct db_row *row, size_t k)
{
    return row->old[k];
}

static struct slice pick_fresh(const struct db_row *row, size_t k)
{
    return row->set && !row->set[k] ? SLICE_NULL : row->fresh[k];
}

static struct slice pick_set(const struct db_row *row, size_t k)
{
    return !row->set || row->set[k] ? SLICE_LIT("t") : SLICE_LIT("f");
}

/* SET "phone" = v.n0::text, or CASE when some rows keep their value. */
static int set_clause(struct statement *s, const struct db_chunk *c, const struct counts *n,
                      struct pg *pg, const struct pg_target *target, struct err *e)
{
    buf_appendf(&s->sql, ", u AS (UPDATE %s AS t SET ", target->quoted);
    for (size_t i = 0; i < c->target->n_writes; i++) {
        const struct pg_column *col;
        int r = pg_target_column(pg, target, c->target->writes[i], &col, e);

        if (r)
            return r;
        buf_append_str(&s->sql, i ? ", " : "");
        db_quote_name(&s->sql, slice_str(col->name));
        if (n->partly) {
            buf_appendf(&s->sql, " = CASE WHEN v.f%zu THEN v.n%zu::%s ELSE t.", i, i, col->type);
            db_quote_name(&s->sql, slice_str(col->name));
            buf_append_str(&s->sql, " END");
        } else {
            buf_appendf(&s->sql, " = v.n%zu::%s", i, col->type);
        }
    }
    return 0;
}

/* FROM unnest(keys, old values, new values, flags), numbered from 1 in file order. */
static int from_clause(struct statement *s, const struct db_chunk *c, const struct counts *n,
                       const struct pg_key *key)
{
    CLEANUP(buf_deinit) struct buf names = BUF_INIT;
    int r = 0;

    buf_append_str(&s->sql, " FROM unnest(");
    for (size_t i = 0; !r && i < key->n; i++) {
        buf_appendf(&s->sql, "%s$%zu::%s[]", i ? ", " : "", s->n + 1, key->column[i]->type);
        buf_appendf(&names, "%sk%zu", i ? ", " : "", i);
        r = add_array(s, c, pick_old, i);
    }
    for (size_t i = 0; !r && i < c->target->n_reads; i++) {
        buf_appendf(&s->sql, ", $%zu::text[]", s->n + 1);
        buf_appendf(&names, ", o%zu", i);
        r = add_array(s, c, pick_old, key->n + i);
    }
    for (size_t i = 0; !r && i < c->target->n_writes; i++) {
        buf_appendf(&s->sql, ", $%zu::text[]", s->n + 1);
        buf_appendf(&names, ", n%zu", i);
        r = add_array(s, c, pick_fresh, i);
    }
    for (size_t i = 0; !r && n->partly && i < c->target->n_writes; i++) {
        buf_appendf(&s->sql, ", $%zu::boolean[]", s->n + 1);
        buf_appendf(&names, ", f%zu", i);
        r = add_array(s, c, pick_set, i);
    }
    buf_append_str(&s->sql, ") WITH ORDINALITY AS v (");
    buf_append_slice(&s->sql, buf_slice(&names));
    buf_append_str(&s->sql, ", i)");
    return r ? r : buf_ok(&names);
}

static int update_part(struct statement *s, const struct db_chunk *c, const struct counts *n,
                       struct pg *pg, struct err *e)
{
    const struct pg_target *target;
    const struct pg_column *col;
    struct pg_key key;
    int r = pg_target_get(pg, c->target->table, &target, e);

    if (!r)
        r = pg_target_key(pg, target, c->target, &key, e);
    if (!r)
        r = set_clause(s, c, n, pg, target, e);
    if (!r)
        r = from_clause(s, c, n, &key);
    if (r)
        return r;
    for (size_t i = 0; i < key.n; i++) {
        buf_append_str(&s->sql, i ? " AND t." : " WHERE t.");
        db_quote_name(&s->sql, slice_str(key.column[i]->name));
        buf_appendf(&s->sql, " = v.k%zu", i);
    }
    for (size_t i = 0; i < c->target->n_reads; i++) {
        r = pg_target_column(pg, target, c->target->reads[i], &col, e);
        if (r)
            return r;
        buf_append_str(&s->sql, " AND t.");
        db_quote_name(&s->sql, slice_str(col->name));
        buf_appendf(&s->sql, "::text COLLATE \"C\" IS NOT DISTINCT FROM v.o%zu", i);
    }
    buf_append_str(&s->sql, " AND EXISTS (SELECT 1 FROM ck) RETURNING v.i)");
    return 0;
}

/* Row: rows of ck, numbers of the rows that the guard refused, the orders. */
static int select_part(struct statement *s, size_t n_changed)
{
    buf_append_str(&s->sql, " SELECT (SELECT count(*) FROM ck), ");
    if (n_changed)
        buf_appendf(&s->sql,
                    "CASE WHEN (SELECT count(*) FROM u) < %zu THEN (SELECT "
                    "string_agg(g.i::text, ',' ORDER BY g.i) FROM generate_series(1, %zu) AS g (i) "
                    "WHERE g.i NOT IN (SELECT u.i FROM u)) END",
                    n_changed, n_changed);
    else
        buf_append_str(&s->sql, "NULL::text");
    buf_append_str(&s->sql, ", ");
    return db_expand(&db_pg_ops,
                     DB_ORDERS_COLUMNS " FROM " DB_ORDERS_TABLES " WHERE p.plan = $6::text",
                     &s->sql);
}

static int build(struct statement *s, const struct db_chunk *c, const struct counts *n,
                 struct outcomes *o, struct pg *pg, struct err *e)
{
    int r = fixed_params(s, c, n);

    for (size_t i = 0; !r && i < c->n_rows; i++) {
        if (c->rows[i].outcome == DB_O_SKIPPED)
            r = add_outcome(o, c, &c->rows[i], "skipped");
        else if (c->rows[i].outcome == DB_O_QUARANTINED)
            r = add_outcome(o, c, &c->rows[i], "quarantined");
    }
    if (!r && o->n)
        r = outcome_part(s, o);
    if (!r && n->changed)
        r = update_part(s, c, n, pg, e);
    return r ? r : select_part(s, n->changed);
}

/* ---- running it ---- */

/* "3,17" are the third and the seventeenth changed row. */
static int list_stale(const struct db_chunk *c, const char *numbers, struct outcomes *o)
{
    size_t row = 0, seen = 0;

    while (*numbers) {
        char *end;
        size_t want = strtoul(numbers, &end, 10);

        for (; row < c->n_rows && seen < want; row++)
            if (c->rows[row].outcome == DB_O_CHANGED && ++seen == want &&
                add_outcome(o, c, &c->rows[row], "stale"))
                return -ENOMEM;
        numbers = *end ? end + 1 : end;
    }
    return 0;
}

/* The second round trip: stale rows, if any, and COMMIT. */
static int settle(struct pg *pg, const struct db_chunk *c, const char *stale_numbers,
                  int64_t *ret_stale, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(outcomes_deinit) struct outcomes o = {.arena = a};
    struct pg_stmt stmts[3];
    PGresult *res[3] = {0};
    char batch[24], count[24];
    const char *outcome_params[3 + OUTCOME_ARRAYS] = {c->plan, batch, c->worker};
    const char *count_params[] = {c->plan, batch, count};
    size_t n = 0;

    if (!a || list_stale(c, stale_numbers, &o))
        return -ENOMEM;
    for (size_t i = 0; i < c->n_rows; i++)
        if (c->rows[i].outcome == DB_O_STALE && add_outcome(&o, c, &c->rows[i], "stale"))
            return -ENOMEM;
    int64_t stale = (int64_t)o.n;

    (void)snprintf(batch, sizeof(batch), "%lld", (long long)c->batch);
    (void)snprintf(count, sizeof(count), "%lld", (long long)stale);
    if (stale) {
        if (outcome_values(&o, outcome_params + 3))
            return -ENOMEM;
        stmts[n++] = (struct pg_stmt){
            "INSERT INTO scatter_outcome " OUTCOME_COLUMNS
            " SELECT $1::text, $2::bigint, $3::text, "
            "x.* FROM unnest($4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[], "
            "$9::text[], $10::integer[]) AS x",
            ARRAY_SIZE(outcome_params), outcome_params};
        stmts[n++] =
            (struct pg_stmt){"UPDATE scatter_batch SET stale = stale + $3::bigint WHERE plan "
                             "= $1::text AND batch = $2::bigint",
                             ARRAY_SIZE(count_params), count_params};
    }
    stmts[n++] = (struct pg_stmt){.sql = "COMMIT"};
    int r = pg_run(pg, stmts, n, res, e);

    if (!r && !pg_committed(res[n - 1]))
        r = err_set(e, db_fail(&pg->db, "40000"), "the transaction was rolled back at its end");
    for (size_t i = 0; i < n; i++)
        PQclear(res[i]);
    if (!r)
        *ret_stale = stale;
    return r;
}

static int read_orders(struct pg *pg, PGresult *row, struct db_orders *ret_o, struct err *e)
{
    struct slice cells[DB_ORDERS_CELLS];

    for (int i = 0; i < DB_ORDERS_CELLS; i++)
        cells[i] = PQgetisnull(row, 0, i + 2) ? SLICE_NULL
                                              : (struct slice){PQgetvalue(row, 0, i + 2),
                                                               (size_t)PQgetlength(row, 0, i + 2)};
    if (db_orders_read(cells, ret_o))
        return err_set(e, db_fail(&pg->db, "58000"), "the plan's row cannot be understood");
    return 0;
}

static int send_chunk(struct pg *pg, const struct db_chunk *c, const struct statement *s,
                      struct db_chunk_result *ret_r, struct err *e)
{
    struct pg_begin b;
    struct pg_stmt stmts[3];
    PGresult *res[3] = {0};
    struct db_chunk_result out = {0};
    size_t skip = c->open ? 2 : 0; /* the transaction is there */
    int r;

    pg_begin_stmts(&b, false, c->lease_ms, stmts);
    pg->limit_ms = b.limit_ms;
    stmts[2] = (struct pg_stmt){s->sql.data, (int)s->n, s->values};
    r = pg_run(pg, stmts + skip, 3 - skip, res + skip, e);
    if (r)
        return r;
    PQclear(res[0]);
    PQclear(res[1]);
    CLEANUP(pg_clear) PGresult *row = res[2];

    if (PQntuples(row) != 1 || !str_eq(PQgetvalue(row, 0, 0), "1"))
        return DB_E_FENCED;
    r = read_orders(pg, row, &out.orders, e);
    if (!r)
        r = settle(pg, c, PQgetisnull(row, 0, 1) ? "" : PQgetvalue(row, 0, 1), &out.stale, e);
    if (!r)
        *ret_r = out;
    return r;
}

/* The statement of a chunk, and what it points into. */
struct prepared {
    struct arena *arena;
    struct outcomes outcomes;
    struct statement s;
};

static void prepared_deinit(struct prepared *p)
{
    outcomes_deinit(&p->outcomes);
    statement_deinit(&p->s);
    arena_free(p->arena);
}

DEFINE_CLEANUP_VALUE(struct prepared, prepared_deinit)

static int prepare(struct prepared *p, struct pg *pg, const struct db_chunk *c, struct err *e)
{
    struct counts n = count_rows(c);
    int r;

    *p = (struct prepared){.arena = arena_new()};
    if (!p->arena)
        return -ENOMEM;
    p->outcomes.arena = p->arena;
    p->s = (struct statement){.arena = p->arena, .sql = BUF_INIT};
    p->s.cap = FIXED_PARAMS + OUTCOME_ARRAYS + LIMIT_KEY_COLUMNS + c->target->n_reads +
               2 * c->target->n_writes;
    p->s.values = arena_alloc_array(p->arena, p->s.cap, sizeof(*p->s.values));
    if (!p->s.values)
        return -ENOMEM;
    r = c->open || pg->rehearsing ? 0 : pg_ready(pg, e);
    return r ? r : build(&p->s, c, &n, &p->outcomes, pg, e);
}

int pg_chunk(struct db *db, const struct db_chunk *c, struct db_chunk_result *ret_r, struct err *e)
{
    struct pg *pg = pg_of(db);
    CLEANUP(prepared_deinit) struct prepared p = {0};
    int r = prepare(&p, pg, c, e);

    if (!r)
        r = send_chunk(pg, c, &p.s, ret_r, e);
    pg_rollback(db);
    return r == DB_E_FENCED ? db_fenced(db, c, e) : r;
}

/* ---- running it, and taking it back ---- */

/* A statement that fails has written WAL as well, which is read when it was taken back. */
static int measure(struct pg *pg, const struct db_chunk *c, const struct statement *s,
                   struct db_rehearsal *x, struct err *e)
{
    struct db_meter before, after;
    const struct pg_stmt stmt = {s->sql.data, (int)s->n, s->values};
    PGresult *res[1] = {0};
    struct err mine = ERR_INIT;
    int r = db_rehearsal_meter(&pg->db, c->target->table, &before, e);

    if (r)
        return r;
    int64_t began_ns = clock_mono_ns();
    int failed = pg_run(pg, &stmt, 1, res, e);

    x->seconds = (double)(clock_mono_ns() - began_ns) / 1e9;
    if (failed && pg_rehearsal_back(&pg->db, &mine))
        return failed;
    PQclear(res[0]);
    r = db_rehearsal_meter(&pg->db, c->target->table, &after, failed ? &mine : e);
    if (r)
        return failed ? failed : r;
    x->hot = db_meter_hot(&before, &after);
    x->wal_bytes = after.wal - before.wal;
    return failed;
}

static int explain(struct pg *pg, struct statement *s, struct buf *dst, struct err *e)
{
    CLEANUP(buf_deinit) struct buf sql = BUF_INIT;
    PGresult *res[1] = {0};

    buf_append_str(&sql, "EXPLAIN (COSTS OFF) ");
    buf_append_slice(&sql, buf_slice(&s->sql));
    if (buf_ok(&sql))
        return -ENOMEM;
    const struct pg_stmt stmt = {sql.data, (int)s->n, s->values};
    int r = pg_run(pg, &stmt, 1, res, e);

    if (r)
        return r;
    for (int i = 0; i < PQntuples(res[0]); i++)
        buf_appendf(dst, "%s\n", PQgetvalue(res[0], i, 0));
    PQclear(res[0]);
    return buf_ok(dst);
}

int pg_rehearse(struct db *db, const struct db_chunk *c, struct db_rehearsal *ret_x,
                struct buf *plan, struct err *e)
{
    struct pg *pg = pg_of(db);
    CLEANUP(prepared_deinit) struct prepared p = {0};
    struct db_rehearsal x = {.wal_bytes = -1, .hot = -1};
    struct err back = ERR_INIT;
    int r = prepare(&p, pg, c, e);

    if (r)
        return r;
    r = pg_rehearsal_begin(db, c->lease_ms, e);
    if (r)
        return r;
    r = plan ? explain(pg, &p.s, plan, e) : measure(pg, c, &p.s, &x, e);
    if (pg_rehearsal_back(db, &back))
        pg_rollback(db);
    *ret_x = x;
    return r;
}
