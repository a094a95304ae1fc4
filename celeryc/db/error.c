/* SPDX-License-Identifier: Apache-2.0 */
/* What an SQLSTATE or an exception means: a code for the program, a class name for people (as Python's drivers name
 * them), and what becomes of the record or batch unless the plan says otherwise. The table is planner/schema/errors.txt,
 * which Python reads too. */

#include "celeryc/db/db_priv.h"

#include "errors_table.h"

static bool starts_with(const char *s, const char *beginning)
{
    return strncmp(s, beginning, strlen(beginning)) == 0;
}

/* The last entry matches everything. */
static size_t state_entry(const char *state)
{
    size_t i = 0;

    while (i + 1 < ARRAY_SIZE(state_table) && !starts_with(state, state_table[i].beginning))
        i++;
    return i;
}

int db_code_of(const char *state)
{
    switch (state_table[state_entry(state)].action) {
    case DB_ACT_RETRY:
        return DB_E_RETRY;
    case DB_ACT_QUARANTINE:
    case DB_ACT_SKIP:
        return DB_E_DATA;
    case DB_ACT_FAIL_BATCH:
    case DB_ACT_FAIL_PLAN:
        break;
    }
    return DB_E_SCHEMA;
}

int db_fail(struct db *db, const char *sqlstate)
{
    (void)snprintf(db->sqlstate, sizeof(db->sqlstate), "%s", sqlstate);
    (void)snprintf(db->error_class, sizeof(db->error_class), "%s",
                   state_table[state_entry(sqlstate)].name);
    return db_code_of(sqlstate);
}

/* "psycopg.errors.UniqueViolation" is named by its last part. */
static struct slice last_part(struct slice s)
{
    for (size_t i = s.len; i > 0; i--)
        if (s.p[i - 1] == '.')
            return (struct slice){s.p + i, s.len - i};
    return s;
}

bool db_error_is(const char *error_class, const char *sqlstate, struct slice name)
{
    struct slice mine = last_part(slice_str(error_class));

    name = last_part(name);
    if (slice_eq(mine, name) || slice_eq_str(name, "Exception"))
        return true;
    for (size_t i = 0; sqlstate[0] && i < ARRAY_SIZE(above_table); i++)
        if (slice_eq_str(name, above_table[i].name) &&
            starts_with(sqlstate, above_table[i].beginning))
            return true;
    for (size_t i = 0; i < ARRAY_SIZE(is_table); i++)
        if (slice_eq_str(mine, is_table[i].name) && slice_eq_str(name, is_table[i].parent))
            return true;
    return false;
}

enum db_action db_default_action(const char *error_class, const char *sqlstate)
{
    struct slice mine = last_part(slice_str(error_class));
    size_t i = 0;

    if (sqlstate[0])
        return state_table[state_entry(sqlstate)].action;
    while (i + 1 < ARRAY_SIZE(error_table) && !slice_eq_str(mine, error_table[i].name))
        i++;
    return error_table[i].action;
}

const char *db_action_name(enum db_action action)
{
    static const char *const names[] = {"retry", "quarantine", "skip", "fail-batch", "fail-plan"};

    return names[action];
}
