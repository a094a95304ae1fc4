/* SPDX-License-Identifier: Apache-2.0 */
/* PostgreSQL: the values of a chunk as columns of text, which the statement casts to the columns' types, and as arrays.
 *
 * Arrays go in binary form: number of dimensions, whether there are NULLs, the element's type, then size and first index
 * of the one dimension, then each element with its length in front, -1 for NULL, all in network order. Nothing is quoted
 * and nothing searched for quotes, here or there. */

#include "celeryc/db/pg.h"

#include <arpa/inet.h>
#include <errno.h>

#define TEXT_OID 25

struct pg_values pg_values_of(const struct db_chunk *c, size_t n_keys)
{
    struct pg_values v = {.c = c, .n_keys = n_keys};

    for (size_t i = 0; i < c->n_rows; i++) {
        const struct db_row *row = &c->rows[i];

        if (row->outcome != DB_O_CHANGED)
            continue;
        v.n_rows++;
        for (size_t k = 0; k < n_keys + c->target->n_reads; k++)
            v.n_bytes += row->old[k].len;
        for (size_t k = 0; k < c->target->n_writes; k++) {
            bool set = !row->set || row->set[k];

            v.n_bytes += set ? row->fresh[k].len : 0;
            v.partly = v.partly || !set;
        }
    }
    return v;
}

size_t pg_values_width(const struct pg_values *v)
{
    const struct db_target *t = v->c->target;

    return v->n_keys + t->n_reads + (v->partly ? 2 : 1) * t->n_writes;
}

struct slice pg_values_at(const struct pg_values *v, const struct db_row *row, size_t column)
{
    const struct db_target *t = v->c->target;
    size_t n_old = v->n_keys + t->n_reads;

    if (column < n_old)
        return row->old[column];
    size_t k = (column - n_old) % t->n_writes;
    bool set = !row->set || row->set[k];

    if (column >= n_old + t->n_writes)
        return set ? SLICE_LIT("t") : SLICE_LIT("f");
    return set ? row->fresh[k] : SLICE_NULL;
}

static void name_some(char letter, size_t n, const char *suffix, struct buf *dst)
{
    for (size_t i = 0; i < n; i++)
        buf_appendf(dst, "%s%c%zu%s", dst->len ? ", " : "", letter, i, suffix);
}

void pg_values_names(const struct pg_values *v, const char *suffix, struct buf *dst)
{
    const struct db_target *t = v->c->target;

    name_some('k', v->n_keys, suffix, dst);
    name_some('o', t->n_reads, suffix, dst);
    name_some('n', t->n_writes, suffix, dst);
    name_some('f', v->partly ? t->n_writes : 0, suffix, dst);
}

static void put_i32(struct buf *dst, int32_t n)
{
    uint32_t be = htonl((uint32_t)n);

    buf_append(dst, &be, sizeof(be));
}

int pg_values_array(const struct pg_values *v, size_t column, struct buf *dst)
{
    const int32_t head[] = {1, 1, TEXT_OID, (int32_t)v->n_rows, 1};

    for (size_t i = 0; i < ARRAY_SIZE(head); i++)
        put_i32(dst, head[i]);
    for (size_t i = 0; i < v->c->n_rows; i++) {
        if (v->c->rows[i].outcome != DB_O_CHANGED)
            continue;
        struct slice s = pg_values_at(v, &v->c->rows[i], column);

        put_i32(dst, s.p ? (int32_t)s.len : -1);
        buf_append_slice(dst, s);
    }
    return dst->len > INT32_MAX ? -E2BIG : buf_ok(dst);
}
