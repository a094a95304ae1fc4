/* SPDX-License-Identifier: Apache-2.0 */
/* PostgreSQL: the changes of a chunk in pieces, inside of the open transaction.
 *
 * A statement that fails takes back all that it did, and rows cost far more than statements. So one DO block (planner/schema/pieces.sql)
 * writes the changes piece by piece, each in a block with an EXCEPTION clause (a subtransaction), cuts a piece that is
 * refused until the change is alone, tells of that and goes on. Nothing crosses the wire but the values, once, and the answer: as
 * settings of the transaction, because a DO block has neither parameters nor a result. Nothing is created, so that no right
 * is needed and a pooler may stand between.
 *
 * What the server says of the refused row (its key, a value) is taken for a hint where to cut; a wrong one costs two tries.
 * Failures that are no record's fault (locks, deadlocks, limits) are passed on and end the transaction. */

#include "celeryc/db/pg.h"

#include "celeryc/base/num.h"

#include <errno.h>

#include "schema_sql.h"

#define HINTED_COLUMNS 8

struct builder {
    struct pg *pg;
    const struct db_pieces *p;
    const struct pg_target *target;
    struct pg_key key;
    struct arena *arena;
    struct err *e;
    bool partly;       /* some change leaves a column as it is */
    struct buf block;  /* the text of the DO block */
    struct buf arrays; /* their declarations */
    struct buf names;  /* of the arrays: "k0, o0, n0" */
    struct buf slices;
    struct buf set; /* SELECT set_config(...), ... */
    const char **values;
    size_t n;
};

static void builder_deinit(struct builder *b)
{
    buf_deinit(&b->block);
    buf_deinit(&b->arrays);
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
    buf_appendf(&b->arrays, "%s %s[] := current_setting('scatter.%s');\n", name, type, name);
    buf_appendf(&b->names, "%s%s", comma, name);
    /* A subselect hides from the server how many there are: so it looks the rows up one by one, by the key's index, and
     * never reads the whole table for a piece. */
    buf_appendf(&b->slices, "%s(SELECT %s[lo:hi])", comma, name);
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

static int add_sets(struct builder *b, struct buf *dst)
{
    const struct db_target *asked = b->p->chunk->target;
    const struct pg_column *col;

    for (size_t i = 0; i < asked->n_writes; i++) {
        int r = pg_target_column(b->pg, b->target, asked->writes[i], &col, b->e);

        if (r)
            return r;
        buf_append_str(dst, i ? ", " : "");
        db_quote_name(dst, slice_str(col->name));
        if (b->partly) {
            buf_appendf(dst, " = CASE WHEN v.f%zu THEN v.n%zu::%s ELSE t.", i, i, col->type);
            db_quote_name(dst, slice_str(col->name));
            buf_append_str(dst, " END");
        } else {
            buf_appendf(dst, " = v.n%zu::%s", i, col->type);
        }
    }
    return 0;
}

static int add_update(struct builder *b, struct buf *dst)
{
    const struct db_target *asked = b->p->chunk->target;
    const struct pg_column *col;

    buf_appendf(dst, "UPDATE %s AS t SET ", b->target->quoted);
    int r = add_sets(b, dst);

    if (r)
        return r;
    buf_appendf(dst, " FROM unnest(%s) WITH ORDINALITY AS v (%s, i)", b->slices.data,
                b->names.data);
    for (size_t i = 0; i < b->key.n; i++) {
        buf_append_str(dst, i ? " AND t." : " WHERE t.");
        db_quote_name(dst, slice_str(b->key.column[i]->name));
        buf_appendf(dst, " = v.k%zu", i);
    }
    for (size_t i = 0; i < asked->n_reads; i++) {
        r = pg_target_column(b->pg, b->target, asked->reads[i], &col, b->e);
        if (r)
            return r;
        buf_append_str(dst, " AND t.");
        db_quote_name(dst, slice_str(col->name));
        buf_appendf(dst, "::text COLLATE \"C\" IS NOT DISTINCT FROM v.o%zu", i);
    }
    return 0;
}

/* Where the text that a failure quotes stands among the new values. */
static void add_places(const struct builder *b, const char *text, struct buf *dst)
{
    size_t n = MIN(b->p->chunk->target->n_writes, (size_t)HINTED_COLUMNS);

    buf_append_str(dst, "coalesce(");
    for (size_t i = 0; i < n; i++)
        buf_appendf(dst, "%sarray_position(n%zu[lo:hi], %s)", i ? ", " : "", i, text);
    buf_append_str(dst, ", 0)");
}

static int build_block(struct builder *b)
{
    CLEANUP(buf_deinit) struct buf update = BUF_INIT, detail = BUF_INIT, words = BUF_INIT;
    int r = add_arrays(b);

    if (!r && (buf_ok(&b->arrays) || buf_ok(&b->names) || buf_ok(&b->slices)))
        r = -ENOMEM;
    if (!r)
        r = add_update(b, &update);
    add_places(b, "substring(detail from '\\)=\\((.*)\\)')", &detail);
    add_places(b, "substring(words from ': \"(.*)\"')", &words);
    if (!r && (buf_ok(&update) || buf_ok(&detail) || buf_ok(&words)))
        r = -ENOMEM;
    if (r)
        return r;
    const struct db_token tokens[] = {{"arrays", b->arrays.data},
                                      {"update", update.data},
                                      {"in_detail", detail.data},
                                      {"in_words", words.data},
                                      {NULL, NULL}};

    return db_expand(&(struct db_ops){.tokens = tokens}, schema_pieces, &b->block);
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
        r = add_int(b, "size", b->p->size);
    if (!r)
        r = add_int(b, "total", b->p->n);
    if (!r)
        r = add_int(b, "most", b->p->most);
    if (!r)
        r = add_int(b, "ms", (size_t)b->p->chunk->lease_ms / 4);
    return r ? r : buf_ok(&b->set);
}

/* ---- running it ---- */

static int list_stale(struct db_pieces *p, const char *numbers)
{
    while (*numbers) {
        size_t n = strcspn(numbers, ",");
        int64_t i;

        if (num_parse_i64((struct slice){numbers, n}, &i) || i < 1 || (uint64_t)i > p->at)
            return -EBADMSG;
        p->stale[i - 1] = true;
        numbers += n + (numbers[n] ? 1 : 0);
    }
    return 0;
}

/* Rows: number from 1, state, words, detail. */
static int list_refused(struct db_pieces *p, PGresult *rows)
{
    int n = PQntuples(rows);

    p->refused = arena_alloc_array(p->arena, (size_t)n + 1, sizeof(*p->refused));
    if (!p->refused)
        return -ENOMEM;
    for (int i = 0; i < n; i++) {
        struct db_refusal *f = &p->refused[i];
        const char *words = PQgetvalue(rows, i, 2), *detail = PQgetvalue(rows, i, 3);
        int64_t at;

        if (num_parse_i64(slice_str(PQgetvalue(rows, i, 0)), &at) || at < 1 ||
            (uint64_t)at > p->at || (i && (size_t)at <= f[-1].at + 1))
            return -EBADMSG;
        *f = (struct db_refusal){.at = (size_t)at - 1};
        (void)snprintf(f->sqlstate, sizeof(f->sqlstate), "%s", PQgetvalue(rows, i, 1));
        f->text = arena_printf(p->arena, "%.*s%s%s", (int)strcspn(words, "\n"), words,
                               *detail ? ": " : "", detail);
        if (!f->text)
            return -ENOMEM;
    }
    p->n_refused = (size_t)n;
    return 0;
}

static int read_answer(struct pg *pg, struct db_pieces *p, PGresult *row, PGresult *refused,
                       struct err *e)
{
    int64_t at;
    int r = num_parse_i64(slice_str(PQgetvalue(row, 0, 0)), &at);

    if (!r && (at < 1 || (uint64_t)at > p->n))
        r = -EBADMSG;
    if (!r) {
        p->at = (size_t)at;
        r = list_stale(p, PQgetvalue(row, 0, 1));
    }
    if (!r)
        r = list_refused(p, refused);
    if (!r || r == -ENOMEM)
        return r;
    return err_set(e, db_fail(&pg->db, "58000"), "the answer of a chunk in pieces is malformed");
}

static int run(struct builder *b, struct db_pieces *p, const char *block)
{
    const struct pg_stmt stmts[] = {
        {b->set.data, (int)b->n, b->values},
        {.sql = block},
        {.sql = "SELECT current_setting('scatter.at'), current_setting('scatter.stale')"},
        {.sql = "SELECT * FROM unnest(current_setting('scatter.refused')::integer[], "
                "current_setting('scatter.states')::text[], "
                "current_setting('scatter.texts')::text[], "
                "current_setting('scatter.details')::text[])"}};
    PGresult *res[ARRAY_SIZE(stmts)] = {0};
    int r = pg_run(b->pg, stmts, ARRAY_SIZE(stmts), res, b->e);

    if (r)
        return r;
    r = read_answer(b->pg, p, res[2], res[3], b->e);
    for (size_t i = 0; i < ARRAY_SIZE(stmts); i++)
        PQclear(res[i]);
    return r;
}

int pg_write(struct db *db, struct db_pieces *p, struct err *e)
{
    CLEANUP(builder_deinit)
    struct builder b = {.pg = pg_of(db), .p = p, .arena = arena_new(), .e = e};
    CLEANUP(buf_deinit) struct buf sql = BUF_INIT;

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
