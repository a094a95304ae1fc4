/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Command-line options as tables: one table parses, prints the help, and feeds completion and the man page.
 *
 * Forms understood: --name value, --name=value, -x value, -xvalue, -xyz for flags, "--" ends options. An option that is
 * not on the line is looked up in the environment under the table's prefix (CELERY_WORKER_LOGLEVEL). Usage errors are
 * positive OPT_E_USAGE: a program prints the text and exits 2, as Celery's does. */

#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"
#include "celeryc/base/strv.h"

#include <stdint.h>

#define OPT_E_USAGE 1

enum opt_kind {
    OPT_FLAG,       /* bool */
    OPT_STRING,     /* char *, the last one wins */
    OPT_LIST,       /* struct strv: repeatable, each value split at commas */
    OPT_REPEAT,     /* struct strv: repeatable, values kept whole */
    OPT_INT,        /* struct opt_num, >= min */
    OPT_FLOAT,      /* struct opt_num, >= min */
    OPT_CHOICE,     /* char *, one of choices in any case */
    OPT_MOOT,       /* accepted, means nothing here (a flag) */
    OPT_MOOT_VALUE, /* the same with a value */
    OPT_REFUSE,     /* not to be had; note says what to do instead */
};

struct opt_num {
    bool set;
    double v;
};

struct opt {
    const char *name;
    const char *alias; /* another long name, or NULL */
    enum opt_kind kind;
    char short_name; /* 0: none */
    bool global;     /* may stand before the subcommand, too */
    const char *arg; /* how the help calls the value */
    const char *group;
    const char *help;    /* NULL: not shown */
    const char *initial; /* the default as text for people, NULL: none worth showing */
    const char *const *choices;
    double min;
    size_t offset;
    const char *note;
};

#define OPT_MAX 96 /* options of one table */

struct opt_table {
    const char *program; /* NULL: celeryc */
    const char *command; /* "worker"; NULL: the program has but one */
    const char *usage;   /* "[OPTIONS]" */
    const char *const
        *words; /* what the first word after the command may be, for completion; NULL: anything */
    const char *about;
    const char *env_prefix; /* NULL: no environment */
    const struct opt *opts; /* ends with name NULL; fewer than OPT_MAX */
};

/* target is the struct that the offsets speak of, zeroed by the caller (who frees its strings and lists, also after a
 * failure). 0; OPT_E_USAGE; -ENOMEM. ret_positional may be NULL when the command takes none. */
int opt_parse(const struct opt_table *t, int argc, char **argv, void *target,
              struct strv *ret_positional, struct err *e) WARN_UNUSED;

/* Frees what the table's options hold in target. */
void opt_clear(const struct opt_table *t, void *target);

/* True when argv asks for --help before any "--". */
bool opt_wants_help(int argc, char **argv);
void opt_write_help(struct buf *dst, const struct opt_table *t);

/* An environment variable; NULL when it is not there or empty. */
const char *opt_env(const char *name);

const struct opt *opt_find(const struct opt_table *t, const char *name);
bool opt_takes_value(const struct opt *o);

/* ---- completion and man page ---- */

void opt_write_bash_words(struct buf *dst, const struct opt_table *t); /* " -x --name ... --help" */
void opt_write_bash_values(struct buf *dst, const struct opt *o); /* a branch of `case $prev` */
void opt_write_zsh_quoted(struct buf *dst, const char *text);
void opt_write_zsh(struct buf *dst, const struct opt *o); /* a line of _arguments */
void opt_write_roff(struct buf *dst, const char *text);
void opt_write_man(struct buf *dst, const struct opt *o);
