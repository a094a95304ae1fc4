/* SPDX-License-Identifier: Apache-2.0 */
/* The list of migrations. It is filled by the constructors of plug-ins, which have no place to report an error to, so
 * a fault is noted and told by migrate_register_tasks. Filled before any thread starts, only read afterwards. */

#include "celeryc/migrate/runtime.h"

#include "celeryc/base/limits.h"
#include "celeryc/base/num.h"

#include <errno.h>

static struct {
    struct migration_task **tasks;
    size_t len, cap;
    int fault;        /* -ENOMEM, -EINVAL */
    struct err error; /* its text */
    struct runtime runtime;
} known;

/* dlopen'd code refers to these only by its own undefined symbols: the linker takes them by this table. */
#define API_FUNCTION(name) (void (*)(void)) name

__attribute__((used)) static void (*const api[])(void) = {
    API_FUNCTION(scatter_migration_register),
    API_FUNCTION(scatter_key),
    API_FUNCTION(scatter_text),
    API_FUNCTION(scatter_int),
    API_FUNCTION(scatter_param),
    API_FUNCTION(scatter_set_text),
    API_FUNCTION(scatter_set_int),
    API_FUNCTION(scatter_set_null),
    API_FUNCTION(scatter_skip),
    API_FUNCTION(scatter_fail),
    API_FUNCTION(scatter_idempotency_key),
    API_FUNCTION(scatter_stop_wanted),
    API_FUNCTION(scatter_postpone),
    API_FUNCTION(scatter_exec),
    API_FUNCTION(scatter_query),
    API_FUNCTION(scatter_rows_len),
    API_FUNCTION(scatter_cell),
    API_FUNCTION(scatter_dialect),
};

static void note_fault(int code, const char *text, const char *name)
{
    if (!known.fault)
        known.fault = err_set(&known.error, code, "%s: %s", name, text);
}

static const char *fault_of(const struct scatter_migration *m)
{
    if (strlen(m->name) > LIMIT_TASK_NAME)
        return "the migration's name is too long";
    if (!!m->record + !!m->row + !!m->external != 1)
        return "the migration needs one function: .record, .row or .external";
    if ((m->undo_row && !m->row) || (m->undo_external && !m->external))
        return "the migration has .undo_row without .row, or .undo_external without .external";
    if (m->record && !m->writes[0])
        return "the migration has no .writes column";
    if (!m->table)
        return "the migration has no .table";
    if (migrate_find(m->name))
        return "two migrations have this name: load only one of the plug-ins, or rename one";
    return NULL;
}

static bool grow(void)
{
    if (known.len < known.cap)
        return true;
    size_t cap = known.cap ? known.cap * 2 : 16;
    struct migration_task **more = reallocarray(known.tasks, cap, sizeof(*more));

    if (!more)
        return false;
    known.tasks = more;
    known.cap = cap;
    return true;
}

static void add(const struct scatter_migration *m)
{
    struct migration_task *t = calloc(1, sizeof(*t));

    if (!t || !grow()) {
        note_fault(-ENOMEM, "out of memory", m->name);
        free(t);
        return;
    }
    t->m = *m;
    t->rt = &known.runtime;
    const char *fault = fault_of(&t->m);

    if (fault) {
        note_fault(-EINVAL, fault, m->name);
        free(t);
        return;
    }
    known.tasks[known.len++] = t;
}

static void add_inverse(const struct scatter_migration *m)
{
    struct scatter_migration inverse; /* its name lives as long as the process */

    if (!migrate_has_inverse(m))
        return;
    if (migrate_inverse(m, &inverse))
        note_fault(-ENOMEM, "out of memory", m->name);
    else
        add(&inverse);
}

/* A plug-in of an older header knows fewer fields: the missing ones are zero. */
void scatter_migration_register(const struct scatter_migration *m, size_t size, int abi)
{
    struct scatter_migration mine = {0};

    if (abi < 1 || abi > SCATTER_ABI || !m || !m->name || !m->name[0]) {
        note_fault(-EINVAL,
                   "built for another version, rebuild the plug-in with this version's "
                   "headers",
                   m && m->name ? m->name : "a migration");
        return;
    }
    memcpy(&mine, m, MIN(size, sizeof(mine)));
    if (!mine.key)
        mine.key = "id";
    add(&mine);
    add_inverse(&mine);
}

size_t migrate_count(void)
{
    return known.len;
}

const struct scatter_migration *migrate_at(size_t i)
{
    return i < known.len ? &known.tasks[i]->m : NULL;
}

const struct scatter_migration *migrate_find(const char *name)
{
    for (size_t i = 0; i < known.len; i++)
        if (str_eq(known.tasks[i]->m.name, name))
            return &known.tasks[i]->m;
    return NULL;
}

int migrate_check(struct err *e)
{
    return known.fault ? err_set(e, known.fault, "migration %s", known.error.text) : 0;
}

/* Seconds, as in "3", "90s" or "2m". */
static int lease_from_environment(int64_t *ms, struct err *e)
{
    const char *text = getenv("SCATTER_LEASE"); /* NOLINT(concurrency-mt-unsafe): one thread yet */
    int64_t ns;

    if (!text || !*text)
        return 0;
    if (num_parse_duration_ns(slice_str(text), &ns) || ns < 1000000000 || ns > 86400000000000)
        return err_set(e, -EINVAL, "SCATTER_LEASE=%s is no time between 1 s and 24 h, write 60s",
                       text);
    *ms = ns / 1000000;
    return 0;
}

static int copy_from_environment(enum db_copy *copy, struct err *e)
{
    static const char *const names[] = {
        [DB_COPY_AUTO] = "auto", [DB_COPY_ALWAYS] = "always", [DB_COPY_NEVER] = "never"};
    const char *text = getenv("SCATTER_COPY"); /* NOLINT(concurrency-mt-unsafe): as above */

    if (!text || !*text)
        return 0;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (str_eq(text, names[i])) {
            *copy = (enum db_copy)i;
            return 0;
        }
    }
    return err_set(e, -EINVAL, "SCATTER_COPY=%s is none of auto, always, never", text);
}

/* Every worker undoes, and runs SQL files; what they read and write comes with each batch file. */
static int register_own(struct task_registry *r, struct err *e)
{
    static struct migration_task own[] = {{.m = {.name = MIGRATE_RESTORE}},
                                          {.m = {.name = MIGRATE_SQL}}};
    int rc = 0;

    for (size_t i = 0; !rc && i < ARRAY_SIZE(own); i++) {
        const struct celeryc_task t = {.name = own[i].m.name,
                                       .acks_late = true,
                                       .reject_on_worker_lost = true,
                                       .max_retries = CELERYC_RETRY_FOREVER};

        own[i].rt = &known.runtime;
        rc = task_registry_add(r, &t, migrate_run, &own[i], e);
    }
    return rc;
}

int migrate_register_tasks(struct task_registry *r, const struct migrate_options *o, struct err *e)
{
    int rc = migrate_check(e);

    if (rc)
        return rc;
    known.runtime.options = *o;
    if (known.runtime.options.lease_ms <= 0)
        known.runtime.options.lease_ms = 60000;
    if (known.runtime.options.chunk_ms <= 0)
        known.runtime.options.chunk_ms = 250;
    rc = lease_from_environment(&known.runtime.options.lease_ms, e);
    if (!rc)
        rc = copy_from_environment(&known.runtime.options.copy, e);
    for (size_t i = 0; !rc && i < known.len; i++) {
        const struct celeryc_task t = {.name = known.tasks[i]->m.name,
                                       .acks_late = true,
                                       .reject_on_worker_lost = true,
                                       .max_retries = CELERYC_RETRY_FOREVER};

        rc = task_registry_add(r, &t, migrate_run, known.tasks[i], e);
    }
    return rc ? rc : register_own(r, e);
}
