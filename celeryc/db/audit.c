/* SPDX-License-Identifier: Apache-2.0 */
/* Do the control tables add up? The question stands in planner/schema/audit.sql, for Python too. */

#include "celeryc/db/db_priv.h"

#include "schema_sql.h"

#include <errno.h>

/* Who did how much is told by another table than what was done: good to know, no reason to doubt a plan. */
#define SHARES "records finished by workers"

static int ask(struct db *db, const char *plan, struct db_rows *rows, struct err *e)
{
    const struct db_val v[] = {db_text(plan)};

    /* The texts of this file are no statement of ours with @tokens@. */
    return db->ops->exec(db, schema_audit, v, ARRAY_SIZE(v), rows, e);
}

static int copy_lines(const struct db_rows *rows, struct arena *a, struct db_audit *ret_x)
{
    struct db_audit_line *lines = arena_alloc_array(a, rows->n_rows + 1, sizeof(*lines));

    if (!lines)
        return -ENOMEM;
    for (size_t i = 0; i < rows->n_rows; i++) {
        lines[i] = (struct db_audit_line){.violation = arena_strdup(a, db_cell(rows, i, 0)),
                                          .batch = db_cell_i64(rows, i, 1),
                                          .found = db_cell_i64(rows, i, 2),
                                          .expected = db_cell_i64(rows, i, 3)};
        if (!lines[i].violation)
            return -ENOMEM;
    }
    *ret_x = (struct db_audit){.lines = lines, .n = rows->n_rows};
    return 0;
}

int db_plan_audit(struct db *db, const char *plan, struct arena *a, struct db_audit *ret_x,
                  struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    int r = db->ops->begin(db, 0, e);

    if (r)
        return r;
    r = ask(db, plan, &rows, e);
    db->ops->rollback(db);
    return r ? r : copy_lines(&rows, a, ret_x);
}

int db_audit_first(struct db *db, const char *plan, struct buf *dst, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    int r = ask(db, plan, &rows, e);

    for (size_t i = 0; !r && i < rows.n_rows; i++) {
        if (db_cell_is(&rows, i, 0, SHARES))
            continue;
        buf_appendf(dst, "audit: batch %lld: %s: %lld, expected %lld",
                    (long long)db_cell_i64(&rows, i, 1), db_cell(&rows, i, 0).p,
                    (long long)db_cell_i64(&rows, i, 2), (long long)db_cell_i64(&rows, i, 3));
        return buf_ok(dst);
    }
    return r;
}
