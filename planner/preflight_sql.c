/* SPDX-License-Identifier: Apache-2.0 */
/* The new values of a file of SQL: the database computes them for all records, some hundred at a time, on a connection of
 * its own. What it cannot compute is halved until the record is alone. */

#include "planner/preflight_priv.h"

#include "celeryc/base/clock.h"
#include "celeryc/migrate/sqlfile.h"

#include <errno.h>

#define LEASE_MS 60000

int preflight_sql_open(struct preflight *p, struct err *e)
{
    struct sql_file *f = arena_alloc(p->arena, sizeof(*f));
    int r = f ? sql_file_parse(slice_str(p->request->args->statement), p->arena, f, e) : -ENOMEM;

    if (!r)
        r = db_open(p->request->args->database_url, &p->sql_db, e);
    if (r)
        return r > 0 ? -EIO : r;
    p->sql = f->body;
    return 0;
}

/* The one record that the database cannot compute. */
static int refused(struct preflight *p, struct db_row *row, const struct err *e)
{
    row->outcome = DB_O_QUARANTINED;
    row->error_class = arena_strdup(p->record, slice_str(db_error_class(p->sql_db)));
    row->sqlstate = arena_strdup(p->record, slice_str(db_sqlstate(p->sql_db)));
    row->message = arena_strdup(p->record, slice_str(e->text));
    return row->error_class && row->sqlstate && row->message ? 0 : -ENOMEM;
}

static int compute(struct preflight *p, size_t from, size_t n, struct err *e)
{
    size_t width = p->target.n_writes;
    struct slice *fresh = arena_alloc_array(p->record, n * width, sizeof(*fresh));
    bool *found = arena_alloc_array(p->record, n, sizeof(*found));
    const struct db_compute q = {.target = &p->target,
                                 .body = p->sql,
                                 .rows = p->group + from,
                                 .n_rows = n,
                                 .lease_ms = LEASE_MS,
                                 .arena = p->record,
                                 .fresh = fresh,
                                 .found = found};

    if (!fresh || !found)
        return -ENOMEM;
    *e = ERR_INIT;
    int r = db_compute(p->sql_db, &q, e);

    if (r == DB_E_DATA && n > 1) {
        r = compute(p, from, n / 2, e);
        return r ? r : compute(p, from + n / 2, n - n / 2, e);
    }
    if (r == DB_E_DATA)
        return refused(p, &p->group[from], e);
    for (size_t i = 0; !r && i < n; i++)
        migrate_sql_row(p->m, p->key.n, fresh + i * width, found[i], &p->group[from + i]);
    return r;
}

int preflight_sql_flush(struct preflight *p, struct err *e)
{
    struct err why = ERR_INIT;
    int64_t began_ns = clock_mono_ns();
    int r = p->n_group ? compute(p, 0, p->n_group, &why) : 0;

    p->computed_ns += clock_mono_ns() - began_ns;
    if (r)
        return err_set(e, r > 0 ? -EIO : r, "the SELECT of the SQL file: %s", err_text(&why, r));
    for (size_t i = 0; !r && i < p->n_group; i++)
        r = preflight_take(p, &p->group[i], e);
    p->n_group = 0;
    arena_reset(p->record);
    return r;
}

int preflight_sql_record(struct preflight *p, const struct slice *fields, struct err *e)
{
    struct slice *old = NULL;
    int r = preflight_old_values(p, fields, p->record, &old);

    if (r)
        return r;
    p->group[p->n_group++] = (struct db_row){.outcome = DB_O_CHANGED, .old = old};
    return p->n_group == SQL_GROUP ? preflight_sql_flush(p, e) : 0;
}
