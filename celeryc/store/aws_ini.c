/* SPDX-License-Identifier: Apache-2.0 */
/* The AWS tools' settings files:
 *
 *   # comment                       ; comment
 *   [profile "name"]                quotes are optional
 *   key = value                     behind a space, # and ; begin a comment
 *   s3 =                            an empty value, and then deeper lines: s3.addressing_style
 *     addressing_style = path
 *
 * A deeper line below a value continues it in the AWS tools; no setting that is read here has such values, so it is
 * passed over. */

#include "celeryc/store/aws_ini.h"

#include "celeryc/base/limits.h"

#include <ctype.h>
#include <errno.h>

struct reader {
    struct aws_ini *ini;
    const char *section; /* NULL before the first */
    const char *parent;  /* the key above, whose deeper lines follow; NULL: none yet */
    bool parent_is_empty;
    size_t parent_indent;
    size_t line;
};

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static struct slice trim(struct slice s)
{
    while (s.len && is_space(s.p[s.len - 1]))
        s.len--;
    while (s.len && is_space(*s.p)) {
        s.p++;
        s.len--;
    }
    return s;
}

static int add(struct reader *r, const char *key, const char *value)
{
    struct aws_ini *ini = r->ini;

    if (ini->n >= LIMIT_AWS_SETTINGS)
        return -E2BIG;
    if (ini->n == ini->cap) {
        size_t cap = ini->cap ? 2 * ini->cap : 32;
        struct aws_ini_entry *entries = reallocarray(ini->entries, cap, sizeof(*entries));

        if (!entries)
            return -ENOMEM;
        ini->entries = entries;
        ini->cap = cap;
    }
    ini->entries[ini->n++] = (struct aws_ini_entry){r->section, key, value};
    return 0;
}

/* Words separated by one space, without quotes. */
static int read_section(struct reader *r, struct slice line, struct err *e)
{
    const char *end = memchr(line.p, ']', line.len);
    CLEANUP(buf_deinit) struct buf name = BUF_INIT;

    if (!end)
        return err_set(e, -EINVAL, "line %zu: no ] behind the section's name", r->line);
    struct slice inside = trim((struct slice){line.p + 1, (size_t)(end - line.p) - 1});

    for (size_t i = 0; i < inside.len; i++) {
        char c = inside.p[i];

        if (c == '"' || c == '\'' || (is_space(c) && is_space(inside.p[i - 1])))
            continue;
        buf_append_char(&name, (char)(is_space(c) ? ' ' : c));
    }
    if (!name.len && !name.failed)
        return err_set(e, -EINVAL, "line %zu: a section without a name", r->line);
    r->section = buf_ok(&name) ? NULL : arena_strdup(r->ini->arena, buf_slice(&name));
    r->parent = NULL;
    return r->section ? add(r, NULL, NULL) : -ENOMEM;
}

static struct slice without_comment(struct slice s)
{
    for (size_t i = 1; i < s.len; i++)
        if ((s.p[i] == '#' || s.p[i] == ';') && is_space(s.p[i - 1]))
            return (struct slice){s.p, i};
    return s;
}

static char *lower(struct arena *a, const char *prefix, struct slice key)
{
    char *name =
        prefix ? arena_printf(a, "%s.%.*s", prefix, (int)key.len, key.p) : arena_strdup(a, key);

    for (char *c = name; c && *c; c++)
        *c = (char)tolower((unsigned char)*c);
    return name;
}

static int read_setting(struct reader *r, struct slice line, size_t indent, struct err *e)
{
    bool deeper = r->parent && indent > r->parent_indent;
    const char *equals = memchr(line.p, '=', line.len), *key, *value;
    struct slice name, text;

    if (deeper && (!r->parent_is_empty || !equals))
        return 0;
    if (!r->section || !equals)
        return err_set(e, -EINVAL, "line %zu: expected %s", r->line,
                       r->section ? "key = value" : "a [section] first");
    name = trim((struct slice){line.p, (size_t)(equals - line.p)});
    text = (struct slice){equals + 1, (size_t)(line.p + line.len - equals) - 1};
    text = trim(without_comment(text));
    if (!name.len)
        return err_set(e, -EINVAL, "line %zu: a value without a key", r->line);
    key = lower(r->ini->arena, deeper ? r->parent : NULL, name);
    value = arena_strdup(r->ini->arena, text);
    if (!key || !value)
        return -ENOMEM;
    if (!deeper) {
        r->parent = key;
        r->parent_is_empty = text.len == 0;
        r->parent_indent = indent;
    }
    return add(r, key, value);
}

static int read_line(struct reader *r, struct slice raw, struct err *e)
{
    struct slice line = trim(raw);
    size_t indent = (size_t)(line.p - raw.p);

    if (!line.len || *line.p == '#' || *line.p == ';')
        return 0;
    if (memchr(line.p, '\0', line.len))
        return err_set(e, -EINVAL, "line %zu: a NUL byte", r->line);
    return *line.p == '[' ? read_section(r, line, e) : read_setting(r, line, indent, e);
}

int aws_ini_parse(struct slice text, struct aws_ini *ini, struct err *e)
{
    struct reader r = {.ini = ini};
    int code = 0;

    *ini = (struct aws_ini){.arena = arena_new()};
    if (!ini->arena)
        return -ENOMEM;
    if (text.len >= 3 && memcmp(text.p, "\xef\xbb\xbf", 3) == 0)
        text = (struct slice){text.p + 3, text.len - 3};
    while (text.len && !code) {
        const char *end = memchr(text.p, '\n', text.len);
        size_t n = end ? (size_t)(end - text.p) : text.len;

        r.line++;
        code = read_line(&r, (struct slice){text.p, n}, e);
        n += end ? 1 : 0;
        text = (struct slice){text.p + n, text.len - n};
    }
    if (code == -E2BIG)
        (void)err_set(e, code, "more than %u settings", LIMIT_AWS_SETTINGS);
    return code;
}

void aws_ini_deinit(struct aws_ini *ini)
{
    free(ini->entries);
    arena_free(ini->arena);
    *ini = (struct aws_ini){0};
}

bool aws_ini_has(const struct aws_ini *ini, const char *section)
{
    for (size_t i = 0; i < ini->n; i++)
        if (str_eq(ini->entries[i].section, section))
            return true;
    return false;
}

const char *aws_ini_get(const struct aws_ini *ini, const char *section, const char *key)
{
    for (size_t i = ini->n; i > 0; i--) {
        const struct aws_ini_entry *x = &ini->entries[i - 1];

        if (x->key && str_eq(x->section, section) && str_eq(x->key, key))
            return *x->value ? x->value : NULL;
    }
    return NULL;
}
