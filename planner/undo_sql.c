/* SPDX-License-Identifier: Apache-2.0 */
/* Undo of a file of SQL: the database computes the new values of the records that were done from the planned ones once more;
 * they are the guard. Where they come out otherwise than they did (the file reads a clock, or another table that has
 * changed), the guard refuses the record, which is then listed as stale. Written back are the old values, or what the
 * SELECT behind "-- undo:" gives. */

#include "planner/undo.h"

#include <errno.h>

#define LEASE_MS 60000

int undo_sql_begin(struct undo *u, struct err *e)
{
    struct sql_file *f = arena_alloc(u->parent.arena, sizeof(*f));
    int r = f ? sql_file_parse(slice_str(u->parent.statement), u->parent.arena, f, e) : -ENOMEM;

    if (r)
        return r;
    u->sql = f;
    u->sql_undo = f->undo;
    u->m = &f->m;
    return 0;
}

int undo_sql_file(struct undo *u, const struct batch_header *h, struct err *e)
{
    for (size_t i = 0; i < migrate_columns(u->m->reads); i++) {
        size_t at = 0;

        while (at < h->n_columns && !str_eq(h->columns[at], u->m->reads[i]))
            at++;
        if (at == h->n_columns)
            return err_set(e, -EBADMSG, "batch %lld of plan %s has no column %s",
                           (long long)h->batch, h->plan, u->m->reads[i]);
        u->places[i] = u->n_keys + at;
    }
    return 0;
}

static int compute(struct undo *u, const char *body, struct slice **ret_fresh, bool **ret_found,
                   struct err *e)
{
    const struct db_target t = {.table = u->parent.plan.table,
                                .key = u->parent.plan.key,
                                .reads = u->m->reads,
                                .n_reads = migrate_columns(u->m->reads),
                                .writes = u->m->writes,
                                .n_writes = u->n_guard};
    const struct db_compute q = {
        .target = &t,
        .body = body,
        .rows = u->old,
        .n_rows = u->n_waiting,
        .lease_ms = LEASE_MS,
        .arena = u->group,
        .fresh = arena_alloc_array(u->group, u->n_waiting * u->n_guard, sizeof(**ret_fresh)),
        .found = arena_alloc_array(u->group, u->n_waiting, sizeof(**ret_found))};

    if (!q.fresh || !q.found)
        return -ENOMEM;
    int r = db_compute(u->servers.db, &q, e);

    *ret_fresh = q.fresh;
    *ret_found = q.found;
    return r ? err_prefix(e, r > 0 ? -EIO : r,
                          "the plan's file of SQL, which has computed these records before")
             : 0;
}

/* The old value of a written column, where it is read. */
static struct slice old_value(const struct undo *u, const struct db_row *row, size_t write)
{
    for (size_t i = 0; i < migrate_columns(u->m->reads); i++)
        if (str_eq(u->m->reads[i], u->m->writes[write]))
            return row->old[u->n_keys + i];
    return SLICE_NULL;
}

static void add(struct undo *u, const struct db_row *row, const struct slice *restore)
{
    size_t width = u->n_keys + 2 * u->n_guard;
    struct slice *out = u->rows + u->n * width;

    memcpy(out, row->old, u->n_keys * sizeof(*out));
    for (size_t i = 0; i < u->n_guard; i++) {
        u->fresh[u->n * u->n_guard + i] = row->fresh[i];
        out[u->n_keys + u->n_guard + i] = restore ? restore[i] : old_value(u, row, i);
    }
    u->n++;
}

int undo_sql_flush(struct undo *u, struct builder *b, struct err *e)
{
    struct slice *fresh = NULL, *restore = NULL;
    bool *found = NULL, *restored = NULL;
    int r = u->n_waiting ? compute(u, u->sql->body, &fresh, &found, e) : 0;

    if (!r && u->n_waiting && u->sql_undo)
        r = compute(u, u->sql_undo, &restore, &restored, e);
    for (size_t i = 0; !r && i < u->n_waiting; i++) {
        struct db_row *row = &u->old[i];

        migrate_sql_row(u->m, u->n_keys, fresh + i * u->n_guard, found[i], row);
        if (row->outcome == DB_O_CHANGED && (!restore || restored[i]))
            add(u, row, restore ? restore + i * u->n_guard : NULL);
    }
    u->n_waiting = 0;
    u->old = NULL;
    return r ? r : undo_flush(u, b, e);
}

static int copy(struct arena *a, struct slice s, struct slice *ret_s)
{
    char *text = s.p ? arena_strdup(a, s) : NULL;

    *ret_s = (struct slice){text, s.len};
    return s.p && !text ? -ENOMEM : 0;
}

int undo_sql_add(struct undo *u, struct builder *b, const struct batch_record *record,
                 struct err *e)
{
    size_t n_reads = migrate_columns(u->m->reads);
    int r = undo_make_room(u);

    if (!r && !u->old)
        u->old = arena_alloc_array(u->group, UNDO_GROUP, sizeof(*u->old));
    struct slice *old = r ? NULL : arena_alloc_array(u->group, u->n_keys + n_reads, sizeof(*old));

    if (!old || !u->old)
        return -ENOMEM;
    for (size_t i = 0; !r && i < u->n_keys + n_reads; i++)
        r = copy(u->group, record->field[i < u->n_keys ? i : u->places[i - u->n_keys]], &old[i]);
    if (r)
        return r;
    u->old[u->n_waiting++] = (struct db_row){.outcome = DB_O_CHANGED, .old = old};
    return u->n_waiting == UNDO_GROUP ? undo_sql_flush(u, b, e) : 0;
}
