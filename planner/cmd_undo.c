/* SPDX-License-Identifier: Apache-2.0 */
/* scatter-plan undo: a plan that writes the old values of another one back.
 *
 * What was changed follows from the old batch files and the control tables: records before a batch's checkpoint that were
 * not set aside and that the migration changes. The new values, which are the guard, are computed once more, so a
 * record that somebody has changed since is reported as stale. A record of the new files is
 *     key, the guarded columns (new values), "restore:" columns (old values)
 * and the task is scatter.restore, which every worker has.
 *
 * Of a migration that only Python knows, manage.py scatter_undo computes the records and sends them to --stdin. Those of a
 * file of SQL the database computes again (undo_sql.c).
 *
 * A migration that makes its changes itself may bring an inverse: then the records that were done go into the new files as
 * they are, and the task is the inverse's. */

#include "planner/stop.h"
#include "planner/undo.h"

#include "celeryc/base/limits.h"
#include "celeryc/migrate/runtime.h"

#include <errno.h>

static void undo_deinit(struct undo *u)
{
    parent_deinit(&u->parent);
    servers_deinit(&u->servers);
    batch_files_deinit(&u->files);
    arena_free(u->group);
}

DEFINE_CLEANUP_VALUE(struct undo, undo_deinit)

/* ---- may it be undone? ---- */

static int refuse_running(struct undo *u, struct err *e)
{
    CLEANUP(db_rows_deinit) struct db_rows rows = {0};
    const char *plan = u->parent.plan.plan, *state = u->parent.state;
    int r;

    if (!str_eq(state, "finished") && !str_eq(state, "failed") && !str_eq(state, "cancelled") &&
        !str_eq(state, "paused"))
        return err_set(e, -EBUSY, "plan %s is %s: pause it, or cancel it, and undo it then", plan,
                       state);
    r = db_read(u->servers.db,
                "SELECT count(*) FROM scatter_batch b WHERE b.plan = $1 AND b.state = 'running' "
                "AND @left@ > 0",
                (struct db_val[]){db_text(plan)}, 1, &rows, e);
    if (!r && db_cell_i64(&rows, 0, 0) > 0)
        r = err_set(e, -EBUSY,
                    "%lld batches of plan %s are still being worked on: wait until they have "
                    "stopped (scatter-plan status %s)",
                    (long long)db_cell_i64(&rows, 0, 0), plan, plan);
    return r > 0 ? -EIO : r;
}

static int no_inverse(const struct undo *u, struct err *e)
{
    if (migrate_is_inverse(u->m))
        return err_set(e, -ENOTSUP,
                       "plan %s is an undo by the migration's own inverse: make a plan of the "
                       "migration once more instead",
                       u->parent.plan.plan);
    return err_set(e, -ENOTSUP,
                   "migration %s makes its changes itself: what they were is not known; give it %s "
                   "to say how they are taken back",
                   u->m->name, u->m->row ? ".undo_row" : ".undo_external");
}

static int refuse_irreversible(struct undo *u, struct err *e)
{
    const char *name = u->parent.plan.migration;

    if (u->parent.statement)
        return undo_sql_begin(u, e);
    if (u->args->from_stdin || str_eq(name, MIGRATE_RESTORE))
        return 0;
    u->m = migrate_find(name);
    u->inverse = u->args->inverse || (u->m && migrate_has_inverse(u->m));
    if (u->m && !u->m->record && (!u->inverse || migrate_is_inverse(u->m)))
        return no_inverse(u, e);
    if (!u->m && !u->inverse)
        return err_set(e, -ENOENT,
                       "migration %s is in none of the loaded plug-ins: load its plug-in with -A, "
                       "or, when it is written in Python, use manage.py scatter_undo",
                       name);
    return 0;
}

/* ---- columns ---- */

static bool is_column(const struct parent *p, const char *name)
{
    for (size_t i = 0; i < p->n_columns; i++)
        if (str_eq(p->columns[i], name))
            return true;
    return false;
}

/* What is guarded and written back: the written columns, whose old values are in the files. */
static int guarded(struct undo *u, const char ***ret_names, size_t *ret_n, struct err *e)
{
    const struct parent *p = &u->parent;
    const char **names = arena_alloc_array(p->arena, LIMIT_COLUMNS + 1, sizeof(*names));
    size_t n = 0;

    if (!names)
        return -ENOMEM;
    /* An undo's own columns come in pairs; standard input says its columns by itself. */
    for (size_t i = 0; !u->m && i < p->n_columns; i++)
        if (strncmp(p->columns[i], RESTORE_PREFIX, strlen(RESTORE_PREFIX)) != 0)
            names[n++] = p->columns[i];
    for (size_t i = 0; u->m && i < migrate_columns(u->m->writes); i++) {
        if (!is_column(p, u->m->writes[i]) && !u->sql_undo)
            return err_set(e, -ENOTSUP,
                           "migration %s writes column %s without reading it: its old value was "
                           "never kept, so it cannot be undone",
                           u->m->name, u->m->writes[i]);
        names[n++] = u->m->writes[i];
    }
    *ret_names = names;
    *ret_n = n;
    return 0;
}

/* For an inverse: all that the old files have. */
static int name_old_columns(struct undo *u)
{
    struct parent *p = &u->parent;

    u->n_keys = p->n_keys;
    u->n_old = p->n_columns;
    u->names = arena_alloc_array(p->arena, u->n_keys + u->n_old + 1, sizeof(*u->names));
    u->types = arena_alloc_array(p->arena, u->n_keys + u->n_old + 1, sizeof(*u->types));
    if (!u->names || !u->types)
        return -ENOMEM;
    for (size_t i = 0; i < u->n_keys + u->n_old; i++)
        u->names[i] = i < u->n_keys ? p->keys[i] : p->columns[i - u->n_keys];
    return 0;
}

static int name_columns(struct undo *u, struct err *e)
{
    struct parent *p = &u->parent;
    const char **guards = NULL;

    if (u->inverse)
        return name_old_columns(u);
    int r = guarded(u, &guards, &u->n_guard, e);

    if (r)
        return r;
    if (u->n_guard > SCATTER_MAX_COLUMNS / 2)
        return err_set(e, -E2BIG, "plan %s writes %zu columns; at most %d can be written back",
                       p->plan.plan, u->n_guard, SCATTER_MAX_COLUMNS / 2);
    u->n_keys = p->n_keys;
    u->names = arena_alloc_array(p->arena, u->n_keys + 2 * u->n_guard, sizeof(*u->names));
    u->types = arena_alloc_array(p->arena, u->n_keys + 2 * u->n_guard, sizeof(*u->types));
    if (!u->names || !u->types)
        return -ENOMEM;
    for (size_t i = 0; i < u->n_keys; i++)
        u->names[i] = p->keys[i];
    for (size_t i = 0; i < u->n_guard; i++) {
        const char *restore = arena_printf(p->arena, RESTORE_PREFIX "%s", guards[i]);

        if (!restore)
            return -ENOMEM;
        u->names[u->n_keys + i] = guards[i];
        u->names[u->n_keys + u->n_guard + i] = restore;
    }
    return 0;
}

/* "phone,restore:phone" */
static const char *columns_option(const struct undo *u)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    for (size_t i = 0; i < (u->inverse ? u->n_old : 2 * u->n_guard); i++)
        buf_appendf(&b, "%s%s", i ? "," : "", u->names[u->n_keys + i]);
    return buf_ok(&b) ? NULL : arena_strdup(u->parent.arena, b.len ? buf_slice(&b) : SLICE_LIT(""));
}

/* ---- records ---- */

int undo_flush(struct undo *u, struct builder *b, struct err *e)
{
    size_t width = u->n_keys + 2 * u->n_guard;
    int r = u->n ? db_canonical(u->servers.db, u->parent.plan.table, u->names + u->n_keys,
                                u->n_guard, u->fresh, u->n, u->group, e)
                 : 0;

    for (size_t i = 0; !r && i < u->n; i++) {
        struct slice *row = u->rows + i * width;

        memcpy(row + u->n_keys, u->fresh + i * u->n_guard, u->n_guard * sizeof(*row));
        r = builder_row(b, row, NULL, width, e);
    }
    u->n = 0;
    u->rows = u->fresh = NULL;
    arena_reset(u->group);
    return r > 0 ? -EIO : r;
}

int undo_make_room(struct undo *u)
{
    size_t width = u->n_keys + 2 * u->n_guard;

    if (u->rows)
        return 0;
    u->rows = arena_alloc_array(u->group, UNDO_GROUP * width, sizeof(*u->rows));
    u->fresh = arena_alloc_array(u->group, UNDO_GROUP * u->n_guard, sizeof(*u->fresh));
    return u->rows && u->fresh ? 0 : -ENOMEM;
}

/* Places in a record of an old file: of what the migration reads, and of what is written back. */
struct places {
    const struct scatter_migration *m;
    size_t reads[SCATTER_MAX_COLUMNS], old[SCATTER_MAX_COLUMNS];
};

static int find_places(const struct undo *u, const struct batch_header *h, struct places *ret_p,
                       struct err *e)
{
    size_t n_reads = migrate_columns(ret_p->m->reads);

    for (size_t i = 0; i < n_reads + u->n_guard; i++) {
        const char *name = i < n_reads ? ret_p->m->reads[i] : u->names[u->n_keys + (i - n_reads)];
        size_t at = h->n_columns;

        for (size_t k = 0; k < h->n_columns; k++)
            if (str_eq(h->columns[k], name))
                at = k;
        if (at == h->n_columns)
            return err_set(e, -EBADMSG, "batch %lld of plan %s has no column %s",
                           (long long)h->batch, h->plan, name);
        if (i < n_reads)
            ret_p->reads[i] = u->n_keys + at;
        else
            ret_p->old[i - n_reads] = u->n_keys + at;
    }
    return 0;
}

static int changed_answer(const struct undo *u, const struct slice *key, struct err *e)
{
    return err_set(e, -EBADMSG,
                   "the migration %s does not change the record with key \"%.80s\" any more, as it "
                   "did when the plan ran: load the version that ran",
                   u->parent.plan.migration, key->p);
}

/* One record that was done: nothing when the migration leaves it as it is. */
static int add(struct undo *u, struct builder *b, const struct places *p,
               const struct batch_record *rec, struct err *e)
{
    size_t n_reads = migrate_columns(p->m->reads), width = u->n_keys + 2 * u->n_guard;
    struct db_row answer;
    int r = undo_make_room(u);
    struct slice *fields =
        r ? NULL : arena_alloc_array(u->group, u->n_keys + n_reads, sizeof(*fields));

    if (!fields)
        return -ENOMEM;
    memcpy(fields, rec->field, u->n_keys * sizeof(*fields));
    for (size_t i = 0; i < n_reads; i++)
        fields[u->n_keys + i] = rec->field[p->reads[i]];
    r = migrate_compute(p->m, u->parent.plan.key, u->parent.params, fields, u->group, &answer);
    if (r || answer.outcome == DB_O_UNCHANGED)
        return r;
    if (answer.outcome != DB_O_CHANGED)
        return changed_answer(u, fields, e);
    struct slice *row = u->rows + u->n * width, *fresh = u->fresh + u->n * u->n_guard;

    for (size_t i = 0; i < width; i++) {
        size_t k = i < u->n_keys ? 0 : (i - u->n_keys) % u->n_guard;
        struct slice s = i < u->n_keys ? rec->field[i] : rec->field[p->old[k]];
        char *copy = s.p ? arena_strdup(u->group, s) : NULL;

        if (s.p && !copy)
            return -ENOMEM;
        row[i] = (struct slice){copy, s.len};
    }
    for (size_t i = 0; i < u->n_guard; i++)
        fresh[i] = answer.set && !answer.set[i] ? row[u->n_keys + i] : answer.fresh[i];
    u->n++;
    return u->n == UNDO_GROUP ? undo_flush(u, b, e) : 0;
}

/* The positions of a batch that were set aside, ascending. */
static int set_aside(struct undo *u, int64_t batch, struct db_rows *ret_rows, struct err *e)
{
    const struct db_val v[] = {db_text(u->parent.plan.plan), db_int(batch)};

    return db_read(u->servers.db,
                   "SELECT position FROM scatter_outcome WHERE plan = $1 AND batch = $2 "
                   "ORDER BY position",
                   v, 2, ret_rows, e);
}

/* What becomes of a record that was done. */
static int take(struct undo *u, struct builder *b, const struct places *p,
                const struct batch_record *rec, struct err *e)
{
    if (u->inverse)
        return builder_row(b, rec->field, NULL, u->n_keys + u->n_old, e);
    return u->sql ? undo_sql_add(u, b, rec, e) : add(u, b, p, rec, e);
}

static int add_batch(struct undo *u, struct builder *b, const struct db_rows *list, size_t row,
                     struct err *e)
{
    CLEANUP(batch_free) struct batch *file = NULL;
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(db_rows_deinit) struct db_rows aside = {0};
    int64_t batch = db_cell_i64(list, row, 0), position = db_cell_i64(list, row, 3);
    struct scatter_migration restore;
    struct places p = {.m = u->m};
    size_t next = 0;
    int r =
        a ? batch_files_get(&u->files, db_cell(list, row, 1).p, db_cell(list, row, 2).p, &file, e)
          : -ENOMEM;

    if (!r)
        r = set_aside(u, batch, &aside, e);
    if (!r && !p.m && !u->inverse) {
        r = migrate_restore(batch_get_header(file), a, &restore, e);
        p.m = &restore;
    }
    if (!r && u->sql)
        r = undo_sql_file(u, batch_get_header(file), e);
    else if (!r && !u->inverse)
        r = find_places(u, batch_get_header(file), &p, e);
    for (int64_t i = 0; !r && i < position && i < (int64_t)batch_len(file); i++) {
        if (next < aside.n_rows && db_cell_i64(&aside, next, 0) == i)
            next++;
        else
            r = take(u, b, &p, batch_at(file, (size_t)i), e);
    }
    if (!r && u->sql)
        r = undo_sql_flush(u, b, e);
    if (!r && u->n)
        r = undo_flush(u, b, e); /* its keys' texts end with the file */
    return r > 0 ? -EIO : r;
}

static int run(void *arg, struct builder *b, struct err *e)
{
    struct undo *u = arg;
    CLEANUP(db_rows_deinit) struct db_rows list = {0};
    const struct db_val v[] = {db_text(u->parent.plan.plan), db_int(u->args->batch)};
    int r = db_read(u->servers.db,
                    "SELECT batch, source, sha256, position FROM scatter_batch WHERE plan = $1 AND "
                    "position > 0 AND (batch = $2 OR CAST($2 AS bigint) = 0) ORDER BY batch",
                    v, ARRAY_SIZE(v), &list, e);

    for (size_t i = 0; !r && i < list.n_rows; i++)
        r = stop_requested() ? err_set(e, -EINTR, "interrupted") : add_batch(u, b, &list, i, e);
    return r > 0 ? -EIO : r;
}

static int prepare(void *arg, struct builder *b, struct err *e)
{
    struct undo *u = arg;
    size_t n = u->n_keys + (u->inverse ? u->n_old : u->n_guard);

    for (size_t i = 0; i < n; i++) {
        int r = db_column_type(u->servers.db, u->parent.plan.table, u->names[i], u->parent.arena,
                               &u->types[i], e);

        if (r)
            return r > 0 ? -EIO : r;
        if (i >= u->n_keys && !u->inverse)
            u->types[i + u->n_guard] = u->types[i];
    }
    return builder_columns(b, u->names, u->types, u->inverse ? n : n + u->n_guard, NULL, e);
}

/* ---- the command ---- */

/* --columns names the guards, then as many "restore:" columns. */
static int from_stdin(struct undo *u, struct args *c, struct err *e)
{
    const char *columns = u->args->columns,
               *first = columns ? strstr(columns, RESTORE_PREFIX) : NULL;

    if (!first)
        return err_set(
            e, -EINVAL,
            "--stdin needs --columns: the guarded ones, then as many with " RESTORE_PREFIX
            " in front");
    u->n_guard = 0;
    for (const char *p = columns; p < first; p++)
        u->n_guard += *p == ',';
    c->columns = columns;
    return 0;
}

static int look_at_parent(struct undo *u, struct err *e)
{
    int r = servers_open_db(&u->servers, u->args->database_url, e);

    if (!r)
        r = parent_load(&u->parent, u->servers.db, u->args, e);
    if (!r)
        r = refuse_running(u, e);
    if (!r)
        r = refuse_irreversible(u, e);
    if (!r && !u->args->from_stdin)
        r = name_columns(u, e);
    return r > 0 ? -EIO : r;
}

int plan_undo(const struct args *a, struct progress *p, struct result *ret_r, struct err *e)
{
    CLEANUP(request_deinit) struct request plugins = {0};
    CLEANUP(undo_deinit) struct undo u = {.args = a, .group = arena_new()};
    int r = u.group ? request_load_plugins(&plugins, a, e) : -ENOMEM;

    if (!r)
        r = look_at_parent(&u, e);
    if (r)
        return r;
    struct plan_child child = {.kind = "undo", .parent = u.parent.plan.plan, .arg = &u};
    struct args *c = &u.parent.args;

    if (!a->from_stdin) {
        child.prepare = prepare;
        child.run = run;
        c->columns = columns_option(&u);
        if (!c->columns)
            return -ENOMEM;
    } else {
        r = from_stdin(&u, c, e);
        if (r)
            return r;
    }
    child.n_guard = u.n_guard;
    c->sql = NULL; /* it is no plan of the file any more */
    c->statement = NULL;
    c->migration =
        u.inverse ? arena_printf(u.parent.arena, "%s" MIGRATE_UNDO, c->migration) : MIGRATE_RESTORE;
    if (!c->migration)
        return -ENOMEM;
    return plan_make(c, &child, p, ret_r, e);
}
