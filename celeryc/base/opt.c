/* SPDX-License-Identifier: Apache-2.0 */
/* The option parser. It writes through the table's offsets only, and only values that were checked. */

#include "celeryc/base/opt.h"

#include "celeryc/base/num.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <string.h>
#include <strings.h>

bool opt_takes_value(const struct opt *o)
{
    return o->kind != OPT_FLAG && o->kind != OPT_MOOT && !(o->kind == OPT_REFUSE && o->arg == NULL);
}

const struct opt *opt_find(const struct opt_table *t, const char *name)
{
    for (const struct opt *o = t->opts; o->name; o++)
        if (str_eq(o->name, name) || (o->alias && str_eq(o->alias, name)))
            return o;
    return NULL;
}

static const struct opt *find_short(const struct opt_table *t, char c)
{
    for (const struct opt *o = t->opts; o->name; o++)
        if (o->short_name && o->short_name == c)
            return o;
    return NULL;
}

static const char *next_name(size_t i, const void *arg)
{
    const struct opt_table *t = arg;
    return t->opts[i].name;
}

static int set_number(const struct opt *o, const char *value, struct opt_num *n, struct err *e)
{
    double v = 0;
    int64_t whole = 0;
    int r;
    if (o->kind == OPT_INT) {
        r = num_parse_i64(slice_str(value), &whole);
        v = (double)whole;
    } else {
        r = num_parse_f64(slice_str(value), &v);
    }
    if (r)
        return err_set(e, OPT_E_USAGE, "Invalid value for '--%s': '%s' is not a valid %s.", o->name,
                       value, o->kind == OPT_INT ? "integer" : "number");
    if (v < o->min)
        return err_set(e, OPT_E_USAGE, "Invalid value for '--%s': %s is less than %g.", o->name,
                       value, o->min);
    *n = (struct opt_num){.set = true, .v = v};
    return 0;
}

static int set_string(char **dst, const char *value)
{
    char *copy = strdup(value);
    if (!copy)
        return -ENOMEM;
    free(*dst);
    *dst = copy;
    return 0;
}

static int set_choice(const struct opt *o, const char *value, char **dst, struct err *e)
{
    struct buf all = BUF_INIT;
    for (const char *const *c = o->choices; *c; c++) {
        if (strcasecmp(*c, value) == 0) {
            buf_deinit(&all);
            return set_string(dst, *c);
        }
        buf_appendf(&all, "%s%s", all.len ? ", " : "", *c);
    }
    int r = err_set(e, OPT_E_USAGE, "Invalid value for '--%s': '%s' is not one of %s.%s%s", o->name,
                    value, all.data ? all.data : "", o->note ? " " : "", o->note ? o->note : "");
    buf_deinit(&all);
    return r;
}

static int set_value(const struct opt *o, const char *value, void *target, struct err *e)
{
    void *at = (char *)target + o->offset;
    switch (o->kind) {
    case OPT_FLAG:
        *(bool *)at = true;
        return 0;
    case OPT_STRING:
        return set_string(at, value);
    case OPT_LIST:
        return strv_add_commas(at, value);
    case OPT_REPEAT:
        return strv_add(at, value);
    case OPT_INT:
    case OPT_FLOAT:
        return set_number(o, value, at, e);
    case OPT_CHOICE:
        return set_choice(o, value, at, e);
    case OPT_MOOT:
    case OPT_MOOT_VALUE:
        return 0;
    case OPT_REFUSE:
        return err_set(e, OPT_E_USAGE, "--%s is not supported: %s", o->name, o->note);
    }
    return 0;
}

struct line {
    const struct opt_table *table;
    int argc;
    char **argv;
    int i;
    void *target;
    bool seen[OPT_MAX]; /* by place in the table */
};

static int take(struct line *l, const struct opt *o, const char *attached, struct err *e)
{
    const char *value = attached;
    if (opt_takes_value(o) && !value) {
        if (l->i + 1 >= l->argc)
            return err_set(e, OPT_E_USAGE, "Option '--%s' requires an argument.", o->name);
        value = l->argv[++l->i];
    }
    if (!opt_takes_value(o) && attached)
        return err_set(e, OPT_E_USAGE, "Option '--%s' does not take a value.", o->name);
    l->seen[o - l->table->opts] = true;
    return set_value(o, value, l->target, e);
}

static int take_long(struct line *l, const char *word, struct err *e)
{
    const char *eq = strchr(word, '=');
    char name[64];
    (void)snprintf(name, sizeof(name), "%.*s", eq ? (int)MIN(eq - word, 63) : 63, word);
    const struct opt *o = opt_find(l->table, name);
    if (!o) {
        const char *near = strv_nearest(name, next_name, l->table);
        return err_set(e, OPT_E_USAGE, "No such option: --%s%s%s%s", name,
                       near ? " (did you mean --" : "", near ? near : "", near ? "?)" : "");
    }
    return take(l, o, eq ? eq + 1 : NULL, e);
}

static int take_short(struct line *l, const char *word, struct err *e)
{
    for (; *word; word++) {
        const struct opt *o = find_short(l->table, *word);
        if (!o)
            return err_set(e, OPT_E_USAGE, "No such option: -%c", *word);
        if (!opt_takes_value(o)) {
            int r = take(l, o, NULL, e);
            if (r)
                return r;
            continue;
        }
        const char *rest = word + 1;
        if (*rest == '=')
            rest++;
        return take(l, o, *rest ? rest : NULL, e);
    }
    return 0;
}

static bool env_true(const char *v)
{
    return strcasecmp(v, "1") == 0 || strcasecmp(v, "true") == 0 || strcasecmp(v, "yes") == 0 ||
           strcasecmp(v, "on") == 0;
}

const char *opt_env(const char *name)
{
    const char *v = getenv(name); /* NOLINT(concurrency-mt-unsafe): one thread, nobody changes it */
    return v && *v ? v : NULL;
}

/* The option's variable: CELERY_WORKER_TIME_LIMIT for time-limit. */
static const char *variable_of(const struct opt_table *t, const struct opt *o, char name[128])
{
    int n = snprintf(name, 128, "%s%s", t->env_prefix, o->name);
    for (char *c = name; n > 0 && *c; c++)
        *c = *c == '-' ? '_' : (char)toupper((unsigned char)*c);
    return opt_env(name);
}

static int take_environment(struct line *l, struct err *e)
{
    for (const struct opt *o = l->table->opts; o->name; o++) {
        char name[128];
        if (l->seen[o - l->table->opts] || o->kind == OPT_REFUSE)
            continue;
        const char *value = variable_of(l->table, o, name);
        if (!value || (!opt_takes_value(o) && !env_true(value)))
            continue;
        int r = set_value(o, value, l->target, e);
        if (r)
            return err_prefix(e, r, "environment %s", name);
    }
    return 0;
}

int opt_parse(const struct opt_table *t, int argc, char **argv, void *target,
              struct strv *ret_positional, struct err *e)
{
    size_t n = 0;
    while (t->opts[n].name)
        n++;
    ASSERT(n < OPT_MAX);
    struct line l = {.table = t, .argc = argc, .argv = argv, .target = target};
    bool options = true;
    for (l.i = 0; l.i < argc; l.i++) {
        const char *word = argv[l.i];
        int r;
        if (options && str_eq(word, "--")) {
            options = false;
            continue;
        }
        if (options && word[0] == '-' && word[1] == '-')
            r = take_long(&l, word + 2, e);
        else if (options && word[0] == '-' && word[1])
            r = take_short(&l, word + 1, e);
        else if (ret_positional)
            r = strv_add(ret_positional, word);
        else
            r = err_set(e, OPT_E_USAGE, "Got unexpected extra argument (%s)", word);
        if (r)
            return r;
    }
    return t->env_prefix ? take_environment(&l, e) : 0;
}

void opt_clear(const struct opt_table *t, void *target)
{
    for (const struct opt *o = t->opts; o->name; o++) {
        void *at = (char *)target + o->offset;
        if (o->kind == OPT_STRING || o->kind == OPT_CHOICE) {
            free(*(char **)at);
            *(char **)at = NULL;
        } else if (o->kind == OPT_LIST || o->kind == OPT_REPEAT) {
            strv_deinit(at);
        }
    }
}

bool opt_wants_help(int argc, char **argv)
{
    for (int i = 0; i < argc && !str_eq(argv[i], "--"); i++)
        if (str_eq(argv[i], "--help"))
            return true;
    return false;
}

/* ---- help ---- */

#define HELP_COLUMN 32
#define HELP_WIDTH  80

/* Words of text from column HELP_COLUMN on, wrapped. at: the column where the cursor stands. */
static void write_wrapped(struct buf *dst, const char *text, size_t at, size_t indent)
{
    bool first = true;
    while (*text) {
        size_t len = strcspn(text, " ");
        if (!first && at + 1 + len > HELP_WIDTH) {
            buf_append_char(dst, '\n');
            for (at = 0; at < indent; at++)
                buf_append_char(dst, ' ');
            first = true;
        }
        if (!first) {
            buf_append_char(dst, ' ');
            at++;
        }
        buf_append(dst, text, len);
        at += len;
        first = false;
        text += len;
        while (*text == ' ')
            text++;
    }
    buf_append_char(dst, '\n');
}

static void write_option(struct buf *dst, const struct opt *o)
{
    size_t start = dst->len;
    buf_append_str(dst, "  ");
    if (o->short_name)
        buf_appendf(dst, "-%c, ", o->short_name);
    buf_appendf(dst, "--%s", o->name);
    if (o->alias)
        buf_appendf(dst, ", --%s", o->alias);
    if (o->kind == OPT_CHOICE) {
        for (const char *const *c = o->choices; *c; c++)
            buf_appendf(dst, "%s%s", c == o->choices ? " [" : "|", *c);
        buf_append_char(dst, ']');
    } else if (opt_takes_value(o)) {
        buf_appendf(dst, " %s", o->arg ? o->arg : "VALUE");
    }
    size_t at = dst->len - start;
    if (at + 2 > HELP_COLUMN) {
        buf_append_char(dst, '\n');
        at = 0;
    }
    for (; at < HELP_COLUMN; at++)
        buf_append_char(dst, ' ');
    struct buf text = BUF_INIT;
    buf_append_str(&text, o->help);
    if (o->initial)
        buf_appendf(&text, "  [default: %s]", o->initial);
    write_wrapped(dst, text.data ? text.data : "", at, HELP_COLUMN);
    buf_deinit(&text);
}

static bool group_done(const struct opt_table *t, const struct opt *o)
{
    for (const struct opt *p = t->opts; p < o; p++)
        if (p->help && str_eq(p->group, o->group))
            return true;
    return false;
}

void opt_write_help(struct buf *dst, const struct opt_table *t)
{
    buf_appendf(dst, "Usage: %s%s%s %s\n\n  ", t->program ? t->program : "celeryc",
                t->command ? " " : "", t->command ? t->command : "", t->usage);
    write_wrapped(dst, t->about, 2, 2);
    for (const struct opt *o = t->opts; o->name; o++) {
        if (!o->help || group_done(t, o))
            continue;
        buf_appendf(dst, "\n%s:\n", o->group ? o->group : "Options");
        for (const struct opt *p = o; p->name; p++)
            if (p->help && str_eq(p->group, o->group))
                write_option(dst, p);
    }
    buf_append_str(dst, "\n  --help                        Show this message and exit.\n");
}
