/* SPDX-License-Identifier: Apache-2.0 */
/* PostgreSQL: the fenced chunk.
 *
 * First round trip: BEGIN, settings, one statement that moves the checkpoint (ck), credits the worker, lists what was
 * skipped or set aside, and updates the rows that still hold the planned values (u). Second: the stale rows when there
 * are any, and COMMIT. Without a row in ck nothing at all was written. A row that waited for a lock is checked again by
 * the server with its new values, so a change that came in between makes it stale and is never overwritten.
 *
 * Values travel as arrays of text, those of a large chunk by COPY (pg_copy.c), and are cast to the columns' types. */

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
    int *lengths, *formats;
    size_t n, cap;
    bool by_copy; /* the chunk's values are no parameters */
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
};

static struct counts count_rows(const struct db_chunk *c)
{
    struct counts n = {0};

    for (size_t i = 0; i < c->n_rows; i++) {
        n.changed += c->rows[i].outcome == DB_O_CHANGED;
        n.unchanged += c->rows[i].outcome == DB_O_UNCHANGED;
        n.skipped += c->rows[i].outcome == DB_O_SKIPPED;
        n.quarantined += c->rows[i].outcome == DB_O_QUARANTINED;
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

/* SET "phone" = v.n0::text, or CASE when some rows keep their value. */
static int set_clause(struct statement *s, const struct pg_values *v, struct pg *pg,
                      const struct pg_target *target, struct err *e)
{
    buf_appendf(&s->sql, ", u AS (UPDATE %s AS t SET ", target->quoted);
    for (size_t i = 0; i < v->c->target->n_writes; i++) {
        const struct pg_column *col;
        int r = pg_target_column(pg, target, v->c->target->writes[i], &col, e);

        if (r)
            return r;
        buf_append_str(&s->sql, i ? ", " : "");
        db_quote_name(&s->sql, slice_str(col->name));
        if (v->partly) {
            buf_appendf(&s->sql, " = CASE WHEN v.f%zu = 't' THEN v.n%zu::%s ELSE t.", i, i,
                        col->type);
            db_quote_name(&s->sql, slice_str(col->name));
            buf_append_str(&s->sql, " END");
        } else {
            buf_appendf(&s->sql, " = v.n%zu::%s", i, col->type);
        }
    }
    return 0;
}

/* FROM unnest(...), numbered from 1 in file order. */
static int from_arrays(struct statement *s, const struct pg_values *v)
{
    size_t width = pg_values_width(v);

    for (size_t i = 0; i < width; i++) {
        CLEANUP(buf_deinit) struct buf array = BUF_INIT;
        int r = pg_values_array(v, i, &array);

        if (r)
            return r;
        const char *copy = arena_strdup(s->arena, buf_slice(&array));

        if (!copy)
            return -ENOMEM;
        s->lengths[s->n] = (int)array.len;
        s->formats[s->n] = 1;
        r = add_value(s, copy);
        if (r)
            return r;
        buf_appendf(&s->sql, "%s$%zu::text[]", i ? ", " : " FROM unnest(", s->n);
    }
    CLEANUP(buf_deinit) struct buf names = BUF_INIT;

    pg_values_names(v, "", &names);
    if (buf_ok(&names))
        return -ENOMEM;
    buf_appendf(&s->sql, ") WITH ORDINALITY AS v (%s, i)", names.data);
    return 0;
}

/* Where an index begins with the key, its rows are looked up one by one, in file order, which is the key's: so rows are
 * locked in that order, and what a chunk costs does not depend on the size of the table. A plain equality would let the
 * server join by hash or merge instead, which reads the table, or its index from the first key on, whole. */
static void key_clause(struct statement *s, const struct pg_key *key)
{
    bool leads = false;

    for (size_t i = 0; i < key->n; i++)
        leads = leads || key->column[i]->leads;
    for (size_t i = 0; i < key->n; i++) {
        buf_append_str(&s->sql, i ? " AND t." : " WHERE t.");
        db_quote_name(&s->sql, slice_str(key->column[i]->name));
        buf_appendf(&s->sql, leads ? " = ANY (ARRAY[v.k%zu::%s])" : " = v.k%zu::%s", i,
                    key->column[i]->type);
    }
}

static int update_part(struct statement *s, const struct pg_values *v, struct pg *pg,
                       const struct pg_target *target, const struct pg_key *key, struct err *e)
{
    const struct db_target *asked = v->c->target;
    int r = set_clause(s, v, pg, target, e);

    if (!r && s->by_copy)
        buf_append_str(&s->sql, " FROM " PG_COPY_TABLE " AS v");
    else if (!r)
        r = from_arrays(s, v);
    if (r)
        return r;
    key_clause(s, key);
    for (size_t i = 0; i < asked->n_reads; i++) {
        const struct pg_column *col;

        r = pg_target_column(pg, target, asked->reads[i], &col, e);
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

/* What a chunk's statement is made of. */
struct parts {
    const struct db_chunk *c;
    struct counts n;
    struct pg_values values;
    const struct pg_target *target;
    struct pg_key key;
};

static int build(struct statement *s, const struct parts *p, struct outcomes *o, struct pg *pg,
                 struct err *e)
{
    const struct db_chunk *c = p->c;
    int r = fixed_params(s, c, &p->n);

    for (size_t i = 0; !r && i < c->n_rows; i++) {
        if (c->rows[i].outcome == DB_O_SKIPPED)
            r = add_outcome(o, c, &c->rows[i], "skipped");
        else if (c->rows[i].outcome == DB_O_QUARANTINED)
            r = add_outcome(o, c, &c->rows[i], "quarantined");
    }
    if (!r && o->n)
        r = outcome_part(s, o);
    if (!r && p->n.changed)
        r = update_part(s, &p->values, pg, p->target, &p->key, e);
    return r ? r : select_part(s, p->n.changed);
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

/* BEGIN, settings and the statement in one pipeline. */
static int send_arrays(struct pg *pg, const struct db_chunk *c, const struct pg_stmt *s,
                       PGresult **ret_row, struct err *e)
{
    struct pg_begin b;
    struct pg_stmt stmts[3];
    PGresult *res[3] = {0};
    size_t skip = c->open ? 2 : 0; /* the transaction is there */

    pg_begin_stmts(&b, false, c->lease_ms, stmts);
    pg->limit_ms = b.limit_ms;
    stmts[2] = *s;
    int r = pg_run(pg, stmts + skip, 3 - skip, res + skip, e);

    if (r)
        return r;
    PQclear(res[0]);
    PQclear(res[1]);
    *ret_row = res[2];
    return 0;
}

/* The statement of a chunk, and what it points into. */
struct prepared {
    struct arena *arena;
    struct outcomes outcomes;
    struct parts parts;
    struct statement s;
};

static void prepared_deinit(struct prepared *p)
{
    outcomes_deinit(&p->outcomes);
    statement_deinit(&p->s);
    p->arena = arena_free(p->arena);
}

DEFINE_CLEANUP_VALUE(struct prepared, prepared_deinit)

static struct pg_stmt stmt_of(const struct statement *s)
{
    return (struct pg_stmt){s->sql.data, (int)s->n, s->values, s->lengths, s->formats};
}

static int look_up(struct parts *p, struct pg *pg, struct err *e)
{
    int r = p->c->open || pg->rehearsing ? 0 : pg_ready(pg, e);

    if (!r && p->n.changed) {
        r = pg_target_get(pg, p->c->target->table, &p->target, e);
        if (!r)
            r = pg_target_key(pg, p->target, p->c->target, &p->key, e);
        p->values = pg_values_of(p->c, p->key.n);
    }
    return r;
}

static int prepare(struct prepared *p, struct pg *pg, const struct db_chunk *c, bool may_copy,
                   struct err *e)
{
    size_t cap = FIXED_PARAMS + OUTCOME_ARRAYS + LIMIT_KEY_COLUMNS + c->target->n_reads +
                 2 * c->target->n_writes;
    int r;

    *p = (struct prepared){.arena = arena_new(),
                           .parts = {.c = c, .n = count_rows(c), .values = {.c = c}}};
    if (!p->arena)
        return -ENOMEM;
    p->outcomes.arena = p->arena;
    p->s = (struct statement){.arena = p->arena,
                              .sql = BUF_INIT,
                              .cap = cap,
                              .values = arena_alloc_array(p->arena, cap, sizeof(*p->s.values)),
                              .lengths = arena_alloc_array(p->arena, cap, sizeof(*p->s.lengths)),
                              .formats = arena_alloc_array(p->arena, cap, sizeof(*p->s.formats))};
    if (!p->s.values || !p->s.lengths || !p->s.formats)
        return -ENOMEM;
    r = look_up(&p->parts, pg, e);
    if (r)
        return r;
    p->s.by_copy = may_copy && !c->open && pg_copy_wanted(pg, &p->parts.values);
    return build(&p->s, &p->parts, &p->outcomes, pg, e);
}

/* The first part of a chunk, after which only its stale rows and COMMIT are missing. */
static int send_first(struct pg *pg, const struct db_chunk *c, bool may_copy, PGresult **ret_row,
                      struct err *e)
{
    CLEANUP(prepared_deinit) struct prepared p = {0};
    int r = prepare(&p, pg, c, may_copy, e);

    if (r)
        return r;
    const struct pg_stmt s = stmt_of(&p.s);

    if (p.s.by_copy)
        return pg_copy_run(pg, &p.parts.values, c->lease_ms, &s, ret_row, e);
    return send_arrays(pg, c, &s, ret_row, e);
}

static int send_chunk(struct pg *pg, const struct db_chunk *c, struct db_chunk_result *ret_r,
                      struct err *e)
{
    CLEANUP(pg_clear) PGresult *row = NULL;
    struct db_chunk_result out = {0};
    int r = send_first(pg, c, true, &row, e);

    if (r == PG_COPY_REFUSED) {
        (void)snprintf(pg->db.copy_refused, sizeof(pg->db.copy_refused), "%s", err_text(e, -EPERM));
        pg_rollback(&pg->db);
        *e = ERR_INIT;
        r = send_first(pg, c, false, &row, e);
    }
    if (r)
        return r;
    if (PQntuples(row) != 1 || !str_eq(PQgetvalue(row, 0, 0), "1"))
        return DB_E_FENCED;
    r = read_orders(pg, row, &out.orders, e);
    if (!r)
        r = settle(pg, c, PQgetisnull(row, 0, 1) ? "" : PQgetvalue(row, 0, 1), &out.stale, e);
    if (!r)
        *ret_r = out;
    return r;
}

int pg_chunk(struct db *db, const struct db_chunk *c, struct db_chunk_result *ret_r, struct err *e)
{
    int r = send_chunk(pg_of(db), c, ret_r, e);

    pg_rollback(db);
    return r == DB_E_FENCED ? db_fenced(db, c, e) : r;
}

/* ---- running it, and taking it back ---- */

/* A statement that fails has written WAL as well, which is read when it was taken back. */
static int measure(struct pg *pg, const struct db_chunk *c, const struct statement *s,
                   struct db_rehearsal *x, struct err *e)
{
    struct db_meter before, after;
    const struct pg_stmt stmt = stmt_of(s);
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
    struct pg_stmt stmt = stmt_of(s);

    stmt.sql = sql.data;
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
    int r = prepare(&p, pg, c, false, e);

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
