/* SPDX-License-Identifier: Apache-2.0 */
/* A chunk of an SQL file: the database computes the new values from the planned ones, in a read-only transaction; then they
 * are written as those of any other migration, by the guarded statement. What the database cannot compute is halved until
 * the record is alone. */

#include "celeryc/migrate/work.h"

#include <errno.h>

/* Is the new value of a written column another than the old one, where that was read? */
static bool differs(const struct scatter_migration *m, const struct db_row *row, size_t n_keys,
                    size_t write)
{
    struct slice fresh = row->fresh[write];

    for (size_t i = 0; i < migrate_columns(m->reads); i++) {
        struct slice old = row->old[n_keys + i];

        if (!str_eq(m->reads[i], m->writes[write]))
            continue;
        if (!old.p || !fresh.p)
            return old.p != fresh.p;
        return !slice_eq(old, fresh);
    }
    return true;
}

void migrate_sql_row(const struct scatter_migration *m, size_t n_keys, const struct slice *fresh,
                     bool found, struct db_row *row)
{
    row->fresh = fresh;
    row->outcome = DB_O_UNCHANGED;
    for (size_t i = 0; found && i < migrate_columns(m->writes); i++)
        if (differs(m, row, n_keys, i))
            row->outcome = DB_O_CHANGED;
}

static int refused(struct work *w, size_t n, int code, size_t *ret_n)
{
    if (!work_is_refusal(w, code))
        return code;
    w->limit = n / 2;
    if (n > 1)
        return 0;
    int r = work_set_aside(w, 0);

    if (!r)
        r = work_apply_once(w, w->rows, 1);
    if (!r)
        *ret_n = 1;
    return r;
}

int work_sql_chunk(struct work *w, size_t n, size_t *ret_n)
{
    size_t width = w->target.n_writes;
    int r = work_fill_rows(w, n);
    struct slice *fresh = r ? NULL : arena_alloc_array(w->arena, n * width, sizeof(*fresh));
    bool *found = fresh ? arena_alloc_array(w->arena, n, sizeof(*found)) : NULL;
    const struct db_compute q = {.target = &w->target,
                                 .body = w->j->sql,
                                 .rows = w->rows,
                                 .n_rows = n,
                                 .lease_ms = w->j->rt->options.lease_ms,
                                 .arena = w->arena,
                                 .fresh = fresh,
                                 .found = found};

    *ret_n = 0;
    if (!found)
        return -ENOMEM;
    w->f->e = ERR_INIT;
    r = db_compute(w->j->conn->db, &q, &w->f->e);
    if (r)
        return refused(w, n, r, ret_n);
    for (size_t i = 0; i < n; i++)
        migrate_sql_row(w->j->m, w->n_keys, fresh + i * width, found[i], &w->rows[i]);
    w->limit = 0;
    *ret_n = n;
    return work_apply(w, n);
}

enum work_end sql_prepare(struct job *j, struct failure *f)
{
    const struct batch_header *h = batch_get_header(j->batch);
    struct err e = ERR_INIT;
    struct sql_file *file;

    if (!str_eq(j->m->name, MIGRATE_SQL))
        return WORK_DONE;
    file = arena_alloc(j->arena, sizeof(*file));
    int r = file ? 0 : -ENOMEM;

    if (!r && !h->statement)
        r = err_set(&e, -EINVAL, "the batch file has no statement");
    if (!r)
        r = sql_file_parse(slice_str(h->statement), j->arena, file, &e);
    if (r) {
        failure_set(f, r == -ENOMEM ? "MemoryError" : "ValueError", r == -ENOMEM,
                    "the SQL of plan %s: %s", j->plan, err_text(&e, r));
        return r == -ENOMEM ? WORK_RETRY : WORK_FAILED;
    }
    j->m = &file->m;
    j->sql = file->body;
    return WORK_DONE;
}
