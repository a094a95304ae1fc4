/* SPDX-License-Identifier: Apache-2.0 */
/* What shells and man pages want to know of an option, from the same tables as --help. */

#include "celeryc/base/opt.h"

#include <string.h>

void opt_write_bash_words(struct buf *dst, const struct opt_table *t)
{
    for (const struct opt *o = t->opts; o->name; o++) {
        if (!o->help)
            continue;
        if (o->short_name)
            buf_appendf(dst, " -%c", o->short_name);
        buf_appendf(dst, " --%s", o->name);
        if (o->alias)
            buf_appendf(dst, " --%s", o->alias);
    }
    buf_append_str(dst, " --help");
}

/* Values of one option by its spelling: fixed words, plug-ins, files or folders. */
void opt_write_bash_values(struct buf *dst, const struct opt *o)
{
    if (!o->help || !opt_takes_value(o))
        return;
    buf_append_str(dst, "        ");
    if (o->short_name)
        buf_appendf(dst, "-%c|", o->short_name);
    buf_appendf(dst, "--%s)", o->name);
    if (o->choices) {
        buf_append_str(dst, " COMPREPLY=($(compgen -W \"");
        for (const char *const *c = o->choices; *c; c++)
            buf_appendf(dst, "%s%s", c == o->choices ? "" : " ", *c);
        buf_append_str(dst, "\" -- \"$cur\"));");
    } else if (str_eq(o->arg, "FILE") || str_eq(o->arg, "PLUGIN")) {
        buf_append_str(dst, " compopt -o filenames; COMPREPLY=($(compgen -f -- \"$cur\"));");
    } else if (str_eq(o->arg, "DIR")) {
        buf_append_str(dst, " compopt -o filenames; COMPREPLY=($(compgen -d -- \"$cur\"));");
    }
    buf_append_str(dst, " return ;;\n");
}

void opt_write_zsh_quoted(struct buf *dst, const char *text)
{
    for (; *text; text++) {
        if (*text == '\'')
            buf_append_str(dst, "'\\''");
        else if (*text == '[' || *text == ']' || *text == ':')
            buf_appendf(dst, "\\%c", *text);
        else
            buf_append_char(dst, *text);
    }
}

static void zsh_action(struct buf *dst, const struct opt *o)
{
    if (!opt_takes_value(o))
        return;
    buf_append_char(dst, ':');
    opt_write_zsh_quoted(dst, o->arg ? o->arg : o->name);
    buf_append_char(dst, ':');
    if (o->choices) {
        buf_append_char(dst, '(');
        for (const char *const *c = o->choices; *c; c++)
            buf_appendf(dst, "%s%s", c == o->choices ? "" : " ", *c);
        buf_append_char(dst, ')');
    } else if (str_eq(o->arg, "FILE") || str_eq(o->arg, "PLUGIN")) {
        buf_append_str(dst, "_files");
    } else if (str_eq(o->arg, "DIR")) {
        buf_append_str(dst, "_files -/");
    }
}

void opt_write_zsh(struct buf *dst, const struct opt *o)
{
    bool many = o->kind == OPT_LIST || o->kind == OPT_REPEAT;
    buf_append_str(dst, "            ");
    if (o->short_name)
        buf_appendf(dst, "%s{-%c,--%s}'[", many ? "\\*" : "", o->short_name, o->name);
    else
        buf_appendf(dst, "'%s--%s[", many ? "*" : "", o->name);
    opt_write_zsh_quoted(dst, o->help);
    buf_append_char(dst, ']');
    zsh_action(dst, o);
    buf_append_str(dst, "' \\\n");
}

void opt_write_roff(struct buf *dst, const char *text)
{
    for (bool start = true; *text; text++) {
        if (start && (*text == '.' || *text == '\''))
            buf_append_str(dst, "\\&");
        if (*text == '\\')
            buf_append_str(dst, "\\e");
        else if (*text == '-')
            buf_append_str(dst, "\\-");
        else
            buf_append_char(dst, *text);
        start = *text == '\n';
    }
}

void opt_write_man(struct buf *dst, const struct opt *o)
{
    buf_append_str(dst, ".TP\n");
    if (o->short_name)
        buf_appendf(dst, "\\fB\\-%c\\fR, ", o->short_name);
    buf_append_str(dst, "\\fB\\-\\-");
    opt_write_roff(dst, o->name);
    buf_append_str(dst, "\\fR");
    if (opt_takes_value(o)) {
        buf_append_str(dst, " \\fI");
        if (o->choices)
            for (const char *const *c = o->choices; *c; c++)
                buf_appendf(dst, "%s%s", c == o->choices ? "" : "|", *c);
        else
            opt_write_roff(dst, o->arg ? o->arg : "VALUE");
        buf_append_str(dst, "\\fR");
    }
    buf_append_char(dst, '\n');
    opt_write_roff(dst, o->help);
    if (o->initial) {
        buf_append_str(dst, " Default: ");
        opt_write_roff(dst, o->initial);
        buf_append_char(dst, '.');
    }
    buf_append_char(dst, '\n');
}
