/* SPDX-License-Identifier: Apache-2.0 */
/* What a failure is called, and whether a plan asks for another try.
 *
 * A name in --retry-on matches the class itself or what Python's database API puts above it; a code matches as a whole
 * SQLSTATE or as its first two letters. */

#include "celeryc/migrate/runtime.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>

void failure_set(struct failure *f, const char *error_class, bool transient, const char *fmt, ...)
{
    char text[sizeof(f->e.text)];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    *f = (struct failure){.transient = transient};
    (void)snprintf(f->error_class, sizeof(f->error_class), "%s", error_class);
    (void)snprintf(f->e.text, sizeof(f->e.text), "%s", text);
}

void failure_from_db(struct failure *f, const struct db *db, int code)
{
    if (code < 0) {
        (void)err_set(&f->e, code, "%s", err_errno(code));
        (void)snprintf(f->error_class, sizeof(f->error_class), "%s",
                       code == -ENOMEM ? "MemoryError" : "ValueError");
        f->sqlstate[0] = '\0';
        f->transient = code == -ENOMEM;
        return;
    }
    (void)snprintf(f->error_class, sizeof(f->error_class), "%s", db_error_class(db));
    (void)snprintf(f->sqlstate, sizeof(f->sqlstate), "%s", db_sqlstate(db));
    f->transient = code == DB_E_RETRY;
}

/* ---- --retry-on ---- */

struct parent {
    const char *name;
    const char *states[8]; /* prefixes */
};

/* PEP 249's classes and Python's own, by SQLSTATE. */
static const struct parent parents[] = {
    {"DatabaseError", {""}},
    {"OperationalError", {"08", "40", "53", "55", "57", "58"}},
    {"ConnectionError", {"08", "57P01", "57P02", "57P03", "57P05", "25P03"}},
    {"TimeoutError", {"57014", "55P03"}},
    {"IntegrityError", {"23"}},
    {"DataError", {"22"}},
    {"ProgrammingError", {"42", "3F", "3D"}},
    {"InternalError", {"25", "XX"}},
};

/* Python's exceptions by what they are. */
static const char *const python_parents[][2] = {
    {"ConnectionResetError", "ConnectionError"},
    {"ConnectionRefusedError", "ConnectionError"},
    {"ConnectionAbortedError", "ConnectionError"},
    {"BrokenPipeError", "ConnectionError"},
    {"ConnectionResetError", "OSError"},
    {"ConnectionRefusedError", "OSError"},
    {"ConnectionAbortedError", "OSError"},
    {"BrokenPipeError", "OSError"},
    {"ConnectionError", "OSError"},
    {"TimeoutError", "OSError"},
    {"KeyError", "LookupError"},
    {"IndexError", "LookupError"},
    {"ZeroDivisionError", "ArithmeticError"},
    {"OverflowError", "ArithmeticError"},
};

static bool starts_with(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

static bool is_state(struct slice s)
{
    if (s.len != 2 && s.len != 5)
        return false;
    for (size_t i = 0; i < s.len; i++)
        if (!isdigit((unsigned char)s.p[i]) && !isupper((unsigned char)s.p[i]))
            return false;
    return true;
}

/* "psycopg.errors.UniqueViolation" is named by its last part. */
static struct slice last_part(struct slice s)
{
    for (size_t i = s.len; i > 0; i--)
        if (s.p[i - 1] == '.')
            return (struct slice){s.p + i, s.len - i};
    return s;
}

static bool is_a(const char *error_class, const char *sqlstate, struct slice name)
{
    name = last_part(name);
    if (slice_eq(last_part(slice_str(error_class)), name) || slice_eq_str(name, "Exception"))
        return true;
    for (size_t i = 0; sqlstate[0] && i < ARRAY_SIZE(parents); i++)
        for (size_t k = 0; slice_eq_str(name, parents[i].name) && parents[i].states[k]; k++)
            if (starts_with(sqlstate, parents[i].states[k]))
                return true;
    for (size_t i = 0; i < ARRAY_SIZE(python_parents); i++)
        if (slice_eq_str(last_part(slice_str(error_class)), python_parents[i][0]) &&
            slice_eq_str(name, python_parents[i][1]))
            return true;
    return false;
}

bool failure_listed(const char *retry_on, const char *error_class, const char *sqlstate)
{
    const char *p = retry_on ? retry_on : "";

    error_class = error_class ? error_class : "";
    sqlstate = sqlstate ? sqlstate : "";
    while (*p) {
        size_t skip = strspn(p, ", \t");
        size_t len = strcspn(p + skip, ", \t");
        struct slice item = {p + skip, len};

        p += skip + len;
        if (item.len == 0)
            continue;
        if (is_state(item) && strncmp(sqlstate, item.p, item.len) == 0)
            return true;
        if (!is_state(item) && is_a(error_class, sqlstate, item))
            return true;
    }
    return false;
}
