/* SPDX-License-Identifier: Apache-2.0 */
/* From options to a request. A migration that a plug-in knows brings its table, key and columns; one that only Python
 * knows needs them on the command line. */

#include "planner/request.h"

#include "planner/settings.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/codec.h"
#include "celeryc/base/key.h"
#include "celeryc/base/limits.h"
#include "celeryc/message/json.h"
#include "celeryc/migrate/registry.h"
#include "celeryc/task/registry.h"

#include <ctype.h>
#include <errno.h>
#include <time.h>

#define PLAN_ID_MAX 100

void request_deinit(struct request *r)
{
    if (!r)
        return;
    task_registry_free(r->plugins);
    arena_free(r->arena);
    *r = (struct request){0};
}

int request_check_plan_id(const char *plan, struct err *e)
{
    size_t n = strlen(plan);
    bool good = n > 0 && n <= PLAN_ID_MAX && isalnum((unsigned char)plan[0]);

    for (size_t i = 0; good && i < n; i++)
        good = isalnum((unsigned char)plan[i]) || strchr("._-", plan[i]);
    return good ? 0
                : err_set(e, -EINVAL,
                          "plan id \"%.120s\": use letters, digits, '.', '_' and '-', at most %d "
                          "of them",
                          plan, PLAN_ID_MAX);
}

/* phones.vn_renumber-20261123T040506Z-9f3a */
static const char *fresh_plan_id(struct arena *a, const char *migration)
{
    time_t now = (time_t)(clock_wall_us() / 1000000);
    unsigned char r[2];
    struct tm tm;
    char stamp[32];
    char *id;

    random_bytes(r, sizeof(r));
    (void)gmtime_r(&now, &tm);
    (void)strftime(stamp, sizeof(stamp), "%Y%m%dT%H%M%SZ", &tm);
    id = arena_printf(a, "%.60s-%s-%02x%02x", migration, stamp, r[0], r[1]);
    for (char *p = id; p && *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("._-", *p))
            *p = '-';
    if (id && !isalnum((unsigned char)id[0]))
        id[0] = 'p';
    return id;
}

/* ---- the migration ---- */

static int load_plugins(struct request *r, struct err *e)
{
    const char *more =
        getenv("SCATTER_PLUGINS"); /* NOLINT(concurrency-mt-unsafe): one thread yet */
    int code = 0;

    r->plugins = task_registry_new();
    if (!r->plugins)
        return -ENOMEM;
    for (size_t i = 0; i < r->args->plugins.n && !code; i++)
        code = task_registry_load(r->plugins, r->args->plugins.items[i], e);
    while (more && *more && !code) {
        size_t n = strcspn(more, ":");

        if (n) {
            char *path = arena_strdup(r->arena, (struct slice){more, n});

            code = path ? task_registry_load(r->plugins, path, e) : -ENOMEM;
        }
        more += n + (more[n] ? 1 : 0);
    }
    return code;
}

static int unknown_migration(const struct request *r, struct err *e)
{
    CLEANUP(buf_deinit) struct buf known = BUF_INIT;

    for (size_t i = 0; i < migrate_count(); i++)
        buf_appendf(&known, "%s%s", i ? ", " : "", migrate_at(i)->name);
    return err_set(
        e, -ENOENT,
        "migration \"%s\" is in none of the loaded plug-ins (%s): correct --migration, load its "
        "plug-in with -A, or describe a Python migration by --table, --key and --columns",
        r->args->migration, known.len ? known.data : "none");
}

static bool has_column(const struct request *r, const char *name)
{
    for (size_t i = 0; i < r->n_columns; i++)
        if (str_eq(r->columns[i], name))
            return true;
    return false;
}

static int add_column(struct request *r, struct slice name, struct err *e)
{
    char *copy = arena_strdup(r->arena, name);

    if (!copy)
        return -ENOMEM;
    if (!*copy || has_column(r, copy))
        return err_set(e, -EINVAL, "--columns: an empty or repeated name");
    if (r->n_columns == LIMIT_COLUMNS)
        return err_set(e, -E2BIG, "--columns: more than %d", LIMIT_COLUMNS);
    r->columns[r->n_columns++] = copy;
    return 0;
}

static int columns_from_option(struct request *r, struct err *e)
{
    int code = 0;

    for (const char *p = r->args->columns; !code;) {
        size_t n = strcspn(p, ",");
        struct slice name = {p, n};

        while (name.len && name.p[0] == ' ')
            name.p++, name.len--;
        while (name.len && name.p[name.len - 1] == ' ')
            name.len--;
        code = add_column(r, name, e);
        p += n;
        if (!*p++)
            break;
    }
    return code;
}

static int set_columns(struct request *r, const struct scatter_migration *m, struct err *e)
{
    int code = 0;

    r->columns = arena_alloc_array(r->arena, LIMIT_COLUMNS, sizeof(*r->columns));
    if (!r->columns)
        return -ENOMEM;
    if (r->args->columns)
        code = columns_from_option(r, e);
    for (size_t i = 0; m && !code && i < SCATTER_MAX_COLUMNS && m->reads[i]; i++) {
        if (!r->args->columns || (r->args->add_columns && !has_column(r, m->reads[i])))
            code = add_column(r, slice_str(m->reads[i]), e);
        else if (!has_column(r, m->reads[i]))
            code = err_set(e, -EINVAL, "--columns must have \"%s\": migration %s reads it",
                           m->reads[i], m->name);
    }
    return code;
}

/* Without the blanks. */
static const char *key_text(struct request *r, const struct key *key)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    for (size_t i = 0; i < key->n; i++) {
        buf_append_str(&b, i ? "," : "");
        buf_append_slice(&b, key->column[i]);
    }
    return buf_ok(&b) ? NULL : arena_strdup(r->arena, buf_slice(&b));
}

static int set_migration(struct request *r, struct err *e)
{
    struct key key;
    const struct scatter_migration *m =
        r->args->sql ? r->args->sql : migrate_find(r->args->migration);

    if (!m && !(r->args->table && r->args->key && r->args->columns))
        return unknown_migration(r, e);
    r->table = r->args->table ? r->args->table : m->table;
    r->key = r->args->key ? r->args->key : m->key ? m->key : "id";
    if (key_parse(r->key, &key))
        return err_set(e, -EINVAL,
                       "--key %s: one column, or up to %d different ones separated by commas",
                       r->key, LIMIT_KEY_COLUMNS);
    r->key = key_text(r, &key);
    if (!r->key)
        return -ENOMEM;
    if (!r->table)
        return err_set(e, -EINVAL, "migration \"%s\" names no table: give --table",
                       r->args->migration);
    if (m) {
        r->writes = m->writes;
        while (r->n_writes < SCATTER_MAX_COLUMNS && m->writes[r->n_writes])
            r->n_writes++;
    }
    return set_columns(r, m, e);
}

/* ---- JSON texts ---- */

static int keep(struct request *r, struct buf *b, const char **ret_text)
{
    if (buf_ok(b))
        return -ENOMEM;
    *ret_text = arena_strdup(r->arena, buf_slice(b));
    return *ret_text ? 0 : -ENOMEM;
}

static int set_columns_json(struct request *r)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    buf_append_char(&b, '[');
    for (size_t i = 0; i < r->n_columns; i++) {
        if (i)
            buf_append_str(&b, ", ");
        json_write_string(&b, slice_str(r->columns[i]));
    }
    buf_append_char(&b, ']');
    return keep(r, &b, &r->columns_json);
}

static int set_params_json(struct request *r, struct err *e)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    const struct args_list *params = &r->args->params;

    buf_append_char(&b, '{');
    for (size_t i = 0; i < params->n; i++) {
        const char *text = params->items[i], *equals = strchr(text, '=');
        struct slice name = {text, equals ? (size_t)(equals - text) : 0};

        if (name.len == 0)
            return err_set(e, -EINVAL, "--param %s: expected NAME=VALUE", text);
        for (size_t k = 0; k < i; k++)
            if (strncmp(params->items[k], text, name.len + 1) == 0)
                return err_set(e, -EINVAL, "--param %.*s is given twice", (int)name.len, text);
        if (i)
            buf_append_str(&b, ", ");
        json_write_string(&b, name);
        buf_append_str(&b, ": ");
        json_write_string(&b, slice_str(equals + 1));
    }
    buf_append_char(&b, '}');
    return keep(r, &b, &r->params_json);
}

/* Without white space and semicolons at its end. */
static int set_query(struct request *r)
{
    const char *q = r->args->query ? r->args->query : "";
    size_t n = strlen(q);

    while (n && (isspace((unsigned char)q[n - 1]) || q[n - 1] == ';'))
        n--;
    r->query = arena_strdup(r->arena, (struct slice){q, n});
    return r->query ? 0 : -ENOMEM;
}

static int complete(struct request *r, struct err *e)
{
    int code = settings_check(r->args, e);

    if (!code)
        code = load_plugins(r, e);
    if (!code)
        code = set_migration(r, e);
    if (!code)
        code = set_columns_json(r);
    if (!code)
        code = set_params_json(r, e);
    if (!code)
        code = set_query(r);
    if (code)
        return code;
    r->plan = r->args->plan ? r->args->plan : fresh_plan_id(r->arena, r->args->migration);
    return r->plan ? request_check_plan_id(r->plan, e) : -ENOMEM;
}

int request_load_plugins(struct request *r, const struct args *a, struct err *e)
{
    int code;

    *r = (struct request){.arena = arena_new(), .args = a};
    code = r->arena ? load_plugins(r, e) : -ENOMEM;
    if (code)
        request_deinit(r);
    return code;
}

int request_init(struct request *r, const struct args *a, struct err *e)
{
    int code;

    *r = (struct request){.arena = arena_new(), .args = a};
    code = r->arena ? complete(r, e) : -ENOMEM;
    if (code)
        request_deinit(r);
    return code;
}
