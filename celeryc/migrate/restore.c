/* SPDX-License-Identifier: Apache-2.0 */
/* scatter.restore, the migration of undo plans: writes values that stand in the batch file; and the inverses that
 * migrations with statements of their own, or an effect outside, declare.
 *
 * A file of it has each column twice: under its own name with the value that must be there now, which is the guard, and
 * as "restore:<name>" with the value to write. So its columns are known only with the file. */

#include "celeryc/migrate/runtime.h"

#include <errno.h>

static int restore_record(const struct scatter_record *r, struct scatter_change *c)
{
    for (size_t i = 0; i < migrate_columns(r->migration->writes); i++) {
        const char *column = r->migration->writes[i];
        const char *from = arena_printf(r->arena, RESTORE_PREFIX "%s", column);

        if (!from)
            return -ENOMEM;
        const char *value = scatter_text(r, from);
        int rc = value ? scatter_set_text(c, column, value) : scatter_set_null(c, column);

        if (rc)
            return rc;
    }
    return 0;
}

static bool is_source(const char *column)
{
    return strncmp(column, RESTORE_PREFIX, strlen(RESTORE_PREFIX)) == 0;
}

static bool has_source(const struct batch_header *h, const char *column)
{
    for (size_t i = 0; i < h->n_columns; i++)
        if (is_source(h->columns[i]) && str_eq(h->columns[i] + strlen(RESTORE_PREFIX), column))
            return true;
    return false;
}

int migrate_restore(const struct batch_header *h, struct arena *a, struct scatter_migration *ret_m,
                    struct err *e)
{
    struct scatter_migration m = {
        .name = MIGRATE_RESTORE, .record = restore_record, .table = h->table, .key = h->key};
    size_t n = 0;

    for (size_t i = 0; i < h->n_columns; i++) {
        if (is_source(h->columns[i]))
            continue;
        if (!has_source(h, h->columns[i]))
            return err_set(e, -EBADMSG, "the batch file has no column " RESTORE_PREFIX "%s",
                           h->columns[i]);
        if (2 * n + 2 > SCATTER_MAX_COLUMNS)
            return err_set(e, -E2BIG, "the batch file has more than %d columns to write back",
                           SCATTER_MAX_COLUMNS / 2);
        m.writes[n++] = h->columns[i];
    }
    if (n == 0)
        return err_set(e, -EBADMSG, "the batch file has no column to write back");
    for (size_t i = 0; i < n; i++) {
        m.reads[i] = m.writes[i];
        m.reads[n + i] = arena_printf(a, RESTORE_PREFIX "%s", m.writes[i]);
        if (!m.reads[n + i])
            return -ENOMEM;
    }
    *ret_m = m;
    return 0;
}

bool migrate_has_inverse(const struct scatter_migration *m)
{
    return (m->row && m->undo_row) || (m->external && m->undo_external);
}

bool migrate_is_inverse(const struct scatter_migration *m)
{
    return (m->row && m->row == m->undo_row) || (m->external && m->external == m->undo_external);
}

int migrate_inverse(const struct scatter_migration *m, struct scatter_migration *ret_m)
{
    char *name;

    if (asprintf(&name, "%s" MIGRATE_UNDO, m->name) < 0)
        return -ENOMEM;
    *ret_m = *m;
    ret_m->name = name;
    ret_m->row = m->undo_row;
    ret_m->external = m->undo_external;
    ret_m->check = NULL;
    return 0;
}

size_t migrate_guarded(const struct scatter_migration *m)
{
    if (migrate_is_inverse(m))
        return 0;
    return str_eq(m->name, MIGRATE_RESTORE) ? migrate_columns(m->writes)
                                            : migrate_columns(m->reads);
}

enum work_end restore_prepare(struct job *j, struct failure *f)
{
    struct err e = ERR_INIT;
    struct scatter_migration *m;

    if (!str_eq(j->m->name, MIGRATE_RESTORE))
        return WORK_DONE;
    m = arena_alloc(j->arena, sizeof(*m));
    int r = m ? migrate_restore(batch_get_header(j->batch), j->arena, m, &e) : -ENOMEM;

    if (r) {
        failure_set(f, r == -ENOMEM ? "MemoryError" : "ValueError", r == -ENOMEM, "%s (plan %s)",
                    err_text(&e, r), j->plan);
        return r == -ENOMEM ? WORK_RETRY : WORK_FAILED;
    }
    j->m = m;
    return WORK_DONE;
}
