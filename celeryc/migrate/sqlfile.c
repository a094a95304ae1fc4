/* SPDX-License-Identifier: Apache-2.0 */
#include "celeryc/migrate/sqlfile.h"

#include "celeryc/base/key.h"
#include "celeryc/base/limits.h"

#include <errno.h>
#include <strings.h>

/* The function of such a migration is the database. */
static int not_called(const struct scatter_record *r, struct scatter_change *c)
{
    (void)r;
    return scatter_unchanged(c);
}

static struct slice trimmed(struct slice s)
{
    while (s.len && strchr(" \t\r\n;", s.p[0]))
        s.p++, s.len--;
    while (s.len && strchr(" \t\r\n;", s.p[s.len - 1]))
        s.len--;
    return s;
}

static bool is_name(struct slice s, const char *name)
{
    return s.len == strlen(name) && strncasecmp(s.p, name, s.len) == 0;
}

static int set_text(struct arena *a, struct slice value, const char **ret_text)
{
    *ret_text = arena_strdup(a, value);
    return *ret_text ? 0 : -ENOMEM;
}

static int set_list(struct arena *a, struct slice value, const char **list, const char *what,
                    struct err *e)
{
    size_t n = 0;

    memset(list, 0, SCATTER_MAX_COLUMNS * sizeof(*list));
    for (size_t i = 0; i <= value.len;) {
        const char *comma = memchr(value.p + i, ',', value.len - i);
        size_t end = comma ? (size_t)(comma - value.p) : value.len;
        struct slice name = trimmed((struct slice){value.p + i, end - i});

        i = end + 1;
        if (name.len == 0)
            return err_set(e, -EINVAL, "\"-- %s:\" has an empty name", what);
        if (n == SCATTER_MAX_COLUMNS)
            return err_set(e, -EINVAL, "\"-- %s:\" has more than %d columns", what,
                           SCATTER_MAX_COLUMNS);
        for (size_t k = 0; k < n; k++)
            if (slice_eq_str(name, list[k]))
                return err_set(e, -EINVAL, "\"-- %s:\" names %s twice", what, list[k]);
        if (set_text(a, name, &list[n++]))
            return -ENOMEM;
    }
    return 0;
}

/* One comment line; what is not "name: value" with a name of ours is just a comment. */
static int read_comment(struct slice line, struct arena *a, struct sql_file *f, struct err *e)
{
    const char *colon = memchr(line.p, ':', line.len);

    if (!colon)
        return 0;
    struct slice name = trimmed((struct slice){line.p, (size_t)(colon - line.p)});
    struct slice value =
        trimmed((struct slice){colon + 1, line.len - (size_t)(colon - line.p) - 1});

    if (is_name(name, "table"))
        return set_text(a, value, &f->m.table);
    if (is_name(name, "key"))
        return set_text(a, value, &f->m.key);
    if (is_name(name, "version"))
        return set_text(a, value, &f->m.version);
    if (is_name(name, "reads"))
        return set_list(a, value, f->m.reads, "reads", e);
    return is_name(name, "writes") ? set_list(a, value, f->m.writes, "writes", e) : 0;
}

/* Takes the comments off the front of the text. */
static int read_comments(struct slice *text, struct arena *a, struct sql_file *f, struct err *e)
{
    int r = 0;

    while (!r) {
        *text = trimmed(*text);
        if (text->len < 2 || memcmp(text->p, "--", 2) != 0)
            break;
        const char *end = memchr(text->p, '\n', text->len);
        size_t len = end ? (size_t)(end - text->p) : text->len;

        r = read_comment((struct slice){text->p + 2, len - 2}, a, f, e);
        text->p += len;
        text->len -= len;
    }
    return r;
}

static bool is_select(const char *text)
{
    return strncasecmp(text, "select", 6) == 0 || strncasecmp(text, "with", 4) == 0;
}

/* Is this line "-- NAME:", and nothing else? */
static bool begins_section(struct slice line, const char *name)
{
    line = trimmed(line);
    if (line.len < 3 || memcmp(line.p, "--", 2) != 0 || line.p[line.len - 1] != ':')
        return false;
    return is_name(trimmed((struct slice){line.p + 2, line.len - 3}), name);
}

static const char *const sections[] = {"check", "undo"};

/* The text up to the next section, whose name and text are taken off. */
static struct slice take_section(struct slice *rest, const char **ret_next)
{
    struct slice text = *rest;

    *ret_next = NULL;
    for (size_t at = 0; at < text.len;) {
        const char *end = memchr(text.p + at, '\n', text.len - at);
        size_t stop = end ? (size_t)(end - text.p) : text.len;

        for (size_t i = 0; i < ARRAY_SIZE(sections); i++)
            if (begins_section((struct slice){text.p + at, stop - at}, sections[i]))
                *ret_next = sections[i];
        if (*ret_next) {
            *rest = (struct slice){text.p + stop, text.len - stop};
            return trimmed((struct slice){text.p, at});
        }
        at = stop + 1;
    }
    *rest = SLICE_LIT("");
    return trimmed(text);
}

static int read_sections(struct slice text, struct arena *a, struct sql_file *f, struct err *e)
{
    const char *name = NULL;
    int r = set_text(a, take_section(&text, &name), &f->body);

    while (!r && name) {
        const char *this = name, *found = NULL;
        const char **into = this == sections[0] ? &f->check : &f->undo;

        r = set_text(a, take_section(&text, &name), &found);
        if (!r && *into)
            r = err_set(e, -EINVAL, "\"-- %s:\" stands there twice", this);
        if (!r && !is_select(found))
            r = err_set(e, -EINVAL, "behind \"-- %s:\" there must be one SELECT", this);
        *into = found;
    }
    return r;
}

static int check(const struct sql_file *f, struct err *e)
{
    struct key key;
    size_t at;

    if (!f->m.table || !*f->m.table)
        return err_set(e, -EINVAL, "there is no \"-- table: NAME\" at its beginning");
    if (key_parse(f->m.key, &key))
        return err_set(e, -EINVAL, "\"-- key:\" has an empty or repeated name, or too many");
    if (!f->m.writes[0])
        return err_set(e, -EINVAL, "there is no \"-- writes: COLUMN, ...\" at its beginning");
    for (size_t i = 0; i < SCATTER_MAX_COLUMNS && f->m.writes[i]; i++)
        if (key_find(f->m.key, f->m.writes[i], &at))
            return err_set(e, -EINVAL, "\"-- writes:\" holds the key %s, which must not change",
                           f->m.writes[i]);
    if (!is_select(f->body))
        return err_set(e, -EINVAL,
                       "behind the comments there must be one SELECT, as in SELECT id, "
                       "upper(name) AS name FROM old");
    return 0;
}

int sql_file_parse(struct slice text, struct arena *a, struct sql_file *ret_f, struct err *e)
{
    struct sql_file f = {.m = {.name = MIGRATE_SQL, .record = not_called, .key = "id"}};

    if (text.len > LIMIT_SQL_BYTES)
        return err_set(e, -EINVAL, "larger than %u KiB", LIMIT_SQL_BYTES >> 10);
    if (text.len && memchr(text.p, '\0', text.len))
        return err_set(e, -EINVAL, "holds a NUL byte");
    int r = read_comments(&text, a, &f, e);

    if (!r)
        r = read_sections(text, a, &f, e);
    if (!r)
        r = check(&f, e);
    if (!r)
        *ret_f = f;
    return r;
}
