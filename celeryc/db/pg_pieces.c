/* SPDX-License-Identifier: Apache-2.0 */
/* PostgreSQL: the changes of a chunk in pieces, inside of the open transaction.
 *
 * A statement that fails takes back all that it did, and rows cost far more than statements. So one DO block writes the
 * changes piece by piece, each in a block with an EXCEPTION clause (a subtransaction), halves a piece that is refused until
 * the change is alone, and stops there. Nothing of it crosses the wire but the values, once, and the answer. The values and
 * the answer travel as settings of the transaction (scatter.*), because a DO block has neither parameters nor a result;
 * nothing is created, so that no right is needed and a pooler may stand between.
 *
 * What the server says of the refused row (its key, a value) is taken for a hint where to cut; a wrong one costs two tries.
 * Failures that are no record's fault (locks, deadlocks, limits) are passed on and end the transaction. */

#include "celeryc/db/pg.h"

#include "celeryc/base/num.h"

#include <errno.h>

#define HINTED_COLUMNS 8

struct builder {
    struct pg *pg;
    const struct db_pieces *p;
    const struct pg_target *target;
    struct pg_key key;
    struct arena *arena;
    struct err *e;
    bool partly;      /* some change leaves a column as it is */
    struct buf block; /* the text of the DO block */
    struct buf names; /* of the arrays: "k0, o0, n0" */
    struct buf slices;
    struct buf set; /* SELECT set_config(...), ... */
    const char **values;
    size_t n;
};

static void builder_deinit(struct builder *b)
{
    buf_deinit(&b->block);
    buf_deinit(&b->names);
    buf_deinit(&b->slices);
    buf_deinit(&b->set);
    arena_free(b->arena);
}

DEFINE_CLEANUP_VALUE(struct builder, builder_deinit)

/* ---- values ---- */

static void add_setting(struct builder *b, const char *name, const char *value)
{
    b->values[b->n++] = value;
    buf_appendf(&b->set, "%sset_config('scatter.%s', $%zu, true)", b->n > 1 ? ", " : "SELECT ",
                name, b->n);
}

enum part { PART_KEY = 'k', PART_OLD = 'o', PART_NEW = 'n', PART_FLAG = 'f' };

static struct slice pick(const struct builder *b, const struct db_row *row, enum part part,
                         size_t k)
{
    switch (part) {
    case PART_KEY:
        return row->old[k];
    case PART_OLD:
        return row->old[b->key.n + k];
    case PART_NEW:
        return row->set && !row->set[k] ? SLICE_NULL : row->fresh[k];
    case PART_FLAG:
        break;
    }
    return !row->set || row->set[k] ? SLICE_LIT("t") : SLICE_LIT("f");
}

/* Declares the array in the block, and gives its value when the block runs for the first time. */
static int add_array(struct builder *b, enum part part, size_t k, const char *type)
{
    CLEANUP(pg_array_deinit) struct pg_array a = PG_ARRAY_INIT;
    const char *name = arena_printf(b->arena, "%c%zu", part, k);
    const char *comma = b->names.len ? ", " : "";

    if (!name)
        return -ENOMEM;
    buf_appendf(&b->block, "%s %s[] := current_setting('scatter.%s');\n", name, type, name);
    buf_appendf(&b->names, "%s%s", comma, name);
    buf_appendf(&b->slices, "%s%s[lo:hi]", comma, name);
    if (b->p->at > 0)
        return 0;
    for (size_t i = 0; i < b->p->n; i++)
        pg_array_add(&a, pick(b, &b->p->chunk->rows[b->p->row[i]], part, k));
    const char *text = pg_array_end(&a);

    text = text ? arena_strdup(b->arena, slice_str(text)) : NULL;
    if (!text)
        return -ENOMEM;
    add_setting(b, name, text);
    return 0;
}

static int add_arrays(struct builder *b)
{
    const struct db_target *asked = b->p->chunk->target;
    int r = 0;

    for (size_t i = 0; !r && i < b->key.n; i++)
        r = add_array(b, PART_KEY, i, b->key.column[i]->type);
    for (size_t i = 0; !r && i < asked->n_reads; i++)
        r = add_array(b, PART_OLD, i, "text");
    for (size_t i = 0; !r && i < asked->n_writes; i++)
        r = add_array(b, PART_NEW, i, "text");
    for (size_t i = 0; !r && b->partly && i < asked->n_writes; i++)
        r = add_array(b, PART_FLAG, i, "boolean");
    return r;
}

/* ---- the block ---- */

static int add_sets(struct builder *b)
{
    const struct db_target *asked = b->p->chunk->target;
    const struct pg_column *col;

    for (size_t i = 0; i < asked->n_writes; i++) {
        int r = pg_target_column(b->pg, b->target, asked->writes[i], &col, b->e);

        if (r)
            return r;
        buf_append_str(&b->block, i ? ", " : "");
        db_quote_name(&b->block, slice_str(col->name));
        if (b->partly) {
            buf_appendf(&b->block, " = CASE WHEN v.f%zu THEN v.n%zu::%s ELSE t.", i, i, col->type);
            db_quote_name(&b->block, slice_str(col->name));
            buf_append_str(&b->block, " END");
        } else {
            buf_appendf(&b->block, " = v.n%zu::%s", i, col->type);
        }
    }
    return 0;
}

static int add_update(struct builder *b)
{
    const struct db_target *asked = b->p->chunk->target;
    const struct pg_column *col;

    buf_appendf(&b->block, "UPDATE %s AS t SET ", b->target->quoted);
    int r = add_sets(b);

    if (r)
        return r;
    buf_appendf(&b->block, " FROM unnest(%s) WITH ORDINALITY AS v (%s, i)", b->slices.data,
                b->names.data);
    for (size_t i = 0; i < b->key.n; i++) {
        buf_append_str(&b->block, i ? " AND t." : " WHERE t.");
        db_quote_name(&b->block, slice_str(b->key.column[i]->name));
        buf_appendf(&b->block, " = v.k%zu", i);
    }
    for (size_t i = 0; i < asked->n_reads; i++) {
        r = pg_target_column(b->pg, b->target, asked->reads[i], &col, b->e);
        if (r)
            return r;
        buf_append_str(&b->block, " AND t.");
        db_quote_name(&b->block, slice_str(col->name));
        buf_appendf(&b->block, "::text COLLATE \"C\" IS NOT DISTINCT FROM v.o%zu", i);
    }
    return 0;
}

/* Where the text that a failure quotes stands among the new values. */
static void add_places(struct builder *b, const char *text)
{
    size_t n = MIN(b->p->chunk->target->n_writes, (size_t)HINTED_COLUMNS);

    buf_append_str(&b->block, "coalesce(");
    for (size_t i = 0; i < n; i++)
        buf_appendf(&b->block, "%sarray_position(n%zu[lo:hi], %s)", i ? ", " : "", i, text);
    buf_append_str(&b->block, ", 0)");
}

/* bound: [lo, bound] was refused as a whole; point: what a hint says. */
static const char declarations[] = "lo integer := current_setting('scatter.at')::integer + 1;\n"
                                   "size integer := current_setting('scatter.size');\n"
                                   "total integer := current_setting('scatter.n');\n"
                                   "careful boolean := current_setting('scatter.careful');\n"
                                   "hi integer; bound integer := 0; point integer; hints integer;\n"
                                   "written bigint; missing text; stale text := '';\n"
                                   "failed boolean := false; state text; words text; detail text;\n"
                                   "BEGIN\n"
                                   "WHILE lo <= total LOOP\n"
                                   "IF bound < lo THEN\n"
                                   "bound := 0; point := 0; hints := 0;\n"
                                   "hi := least(lo + size - 1, total);\n"
                                   "ELSIF point > lo THEN hi := point - 1;\n"
                                   "ELSIF point = lo THEN hi := lo;\n"
                                   "ELSE hi := lo + (bound - lo) / 2;\n"
                                   "END IF;\n"
                                   "missing := NULL;\n"
                                   "BEGIN\n"
                                   "IF careful THEN\n"
                                   "WITH u AS (";

static const char after_careful[] =
    " RETURNING v.i) SELECT string_agg((lo - 1 + g.i)::text || ',', '') INTO missing "
    "FROM generate_series(1, hi - lo + 1) AS g (i) WHERE g.i NOT IN (SELECT u.i FROM u);\n"
    "ELSE\n";

static const char after_update[] =
    ";\nGET DIAGNOSTICS written = ROW_COUNT;\n"
    "IF written < hi - lo + 1 THEN RAISE EXCEPTION USING ERRCODE = 'SCSTL'; END IF;\n"
    "END IF;\n"
    "stale := stale || coalesce(missing, '');\n"
    "lo := hi + 1;\n"
    "EXCEPTION WHEN SQLSTATE 'SCSTL' THEN careful := true;\n"
    "WHEN OTHERS THEN\n"
    "GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, words = MESSAGE_TEXT, "
    "detail = PG_EXCEPTION_DETAIL;\n"
    "IF left(state, 2) IN ('08', '25', '40', '53', '55', '57', '58') THEN RAISE; END IF;\n"
    "failed := hi = lo;\n"
    "EXIT WHEN failed;\n"
    "bound := hi; point := 0; hints := hints + 1;\n"
    "IF hints <= 2 THEN\n"
    "point := CASE WHEN state = '23505' THEN ";

static const char the_end[] =
    " ELSE 0 END;\n"
    "IF point > 0 THEN point := lo + point - 1; END IF;\n"
    "END IF;\n"
    "END;\n"
    "END LOOP;\n"
    "PERFORM set_config('scatter.at', (lo - 1)::text, true), "
    "set_config('scatter.stale', stale, true), set_config('scatter.state', CASE WHEN failed THEN "
    "state ELSE '' END, true), set_config('scatter.words', coalesce(words, ''), true), "
    "set_config('scatter.detail', coalesce(detail, ''), true);\n"
    "END";

static int build_block(struct builder *b)
{
    buf_append_str(&b->block, "#variable_conflict use_variable\nDECLARE\n");
    int r = add_arrays(b);

    if (!r && (buf_ok(&b->names) || buf_ok(&b->slices)))
        r = -ENOMEM;
    buf_append_str(&b->block, declarations);
    if (!r)
        r = add_update(b);
    buf_append_str(&b->block, after_careful);
    if (!r)
        r = add_update(b);
    buf_append_str(&b->block, after_update);
    add_places(b, "substring(detail from '\\)=\\((.*)\\)')");
    buf_append_str(&b->block, " WHEN state IN ('23502', '23514') THEN coalesce(array_position("
                              "k0[lo:hi]::text[], substring(detail from '\\(([^,()]+)[,)]')), 0) "
                              "WHEN state LIKE '22%' THEN ");
    add_places(b, "substring(words from ': \"(.*)\"')");
    buf_append_str(&b->block, the_end);
    return r ? r : buf_ok(&b->block);
}

static int add_int(struct builder *b, const char *name, size_t v)
{
    const char *text = arena_printf(b->arena, "%zu", v);

    if (!text)
        return -ENOMEM;
    add_setting(b, name, text);
    return 0;
}

static bool is_partly(const struct db_pieces *p)
{
    for (size_t i = 0; i < p->n; i++) {
        const struct db_row *row = &p->chunk->rows[p->row[i]];

        for (size_t k = 0; row->set && k < p->chunk->target->n_writes; k++)
            if (!row->set[k])
                return true;
    }
    return false;
}

static int build(struct builder *b)
{
    const struct db_target *asked = b->p->chunk->target;
    int r = pg_target_get(b->pg, asked->table, &b->target, b->e);

    if (!r)
        r = pg_target_key(b->pg, b->target, asked, &b->key, b->e);
    if (r)
        return r;
    b->partly = is_partly(b->p);
    b->values = arena_alloc_array(b->arena, 4 + b->key.n + asked->n_reads + 2 * asked->n_writes,
                                  sizeof(*b->values));
    if (!b->values)
        return -ENOMEM;
    r = build_block(b);
    if (!r)
        r = add_int(b, "at", b->p->at);
    if (!r)
        r = add_int(b, "size", b->p->size);
    if (!r)
        r = add_int(b, "n", b->p->n);
    add_setting(b, "careful", b->p->any_stale ? "t" : "f");
    return r ? r : buf_ok(&b->set);
}

/* ---- running it ---- */

static int list_stale(struct db_pieces *p, const char *numbers)
{
    while (*numbers) {
        size_t n = strcspn(numbers, ",");
        int64_t i;

        if (num_parse_i64((struct slice){numbers, n}, &i) || i < 1 || (uint64_t)i > p->n)
            return -EBADMSG;
        p->stale[i - 1] = p->any_stale = true;
        numbers += n + (numbers[n] ? 1 : 0);
    }
    return 0;
}

/* Row: at, stale, state, words, detail. */
static int read_answer(struct pg *pg, struct db_pieces *p, PGresult *row, struct err *e)
{
    const char *state = PQgetvalue(row, 0, 2), *words = PQgetvalue(row, 0, 3);
    const char *detail = PQgetvalue(row, 0, 4);
    int64_t at = 0;

    if (num_parse_i64(slice_str(PQgetvalue(row, 0, 0)), &at) || at < (int64_t)p->at ||
        (uint64_t)at > p->n || list_stale(p, PQgetvalue(row, 0, 1)))
        return err_set(e, db_fail(&pg->db, "58000"), "the answer of a piece cannot be understood");
    p->at = (size_t)at;
    if (!*state)
        return 0;
    p->alone = p->at < p->n;
    return err_set(e, db_fail(&pg->db, state), "%.*s%s%s", (int)strcspn(words, "\n"), words,
                   *detail ? ": " : "", detail);
}

static int run(struct builder *b, struct db_pieces *p, const char *block)
{
    const struct pg_stmt stmts[] = {
        {b->set.data, (int)b->n, b->values},
        {.sql = block},
        {.sql = "SELECT current_setting('scatter.at'), current_setting('scatter.stale'), "
                "current_setting('scatter.state'), current_setting('scatter.words'), "
                "current_setting('scatter.detail')"}};
    PGresult *res[ARRAY_SIZE(stmts)] = {0};
    int r = pg_run(b->pg, stmts, ARRAY_SIZE(stmts), res, b->e);

    if (r)
        return r;
    r = read_answer(b->pg, p, res[2], b->e);
    for (size_t i = 0; i < ARRAY_SIZE(stmts); i++)
        PQclear(res[i]);
    return r;
}

int pg_write(struct db *db, struct db_pieces *p, struct err *e)
{
    CLEANUP(builder_deinit)
    struct builder b = {.pg = pg_of(db), .p = p, .arena = arena_new(), .e = e};
    CLEANUP(buf_deinit) struct buf sql = BUF_INIT;

    p->alone = false;
    int r = b.arena ? build(&b) : -ENOMEM;

    if (r)
        return r;
    char *text = PQescapeLiteral(b.pg->conn, b.block.data, b.block.len);

    if (!text)
        return -ENOMEM;
    buf_appendf(&sql, "DO %s", text);
    PQfreemem(text);
    return buf_ok(&sql) ? -ENOMEM : run(&b, p, sql.data);
}
