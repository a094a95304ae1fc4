/* SPDX-License-Identifier: Apache-2.0 */
/* celeryc completion: bash and zsh completion and the man page, all written from the option tables, so that they
 * cannot say anything else than --help does. packaging/ keeps what this prints. */

#include "celeryc/cli/cli.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

struct completion_options {
    struct cli_common common;
};

/* clang-format off */
static const struct opt opts[] = {
    CLI_COMMON_OPTS,
    {0},
};
/* clang-format on */

static const char *const kinds[] = {"bash", "zsh", "man", NULL};

const struct opt_table cli_completion_table = {
    .command = "completion",
    .usage = "bash|zsh|man",
    .words = kinds,
    .about = "Print completion for a shell (bash: source it; zsh: put it as _celeryc into a folder "
             "of $fpath), "
             "or the man page.",
    .opts = opts,
};

/* ---- bash ---- */

static void write_bash(struct buf *b)
{
    buf_append_str(b, "# bash completion for celeryc\n"
                      "_celeryc()\n{\n"
                      "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} "
                      "command= word\n"
                      "    for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n"
                      "        case $word in\n        ");
    const char *bar = "";
    for (const struct command *c = cli_commands; c->name; c++)
        if (c->summary) {
            buf_appendf(b, "%s%s", bar, c->name);
            bar = "|";
        }
    buf_append_str(b, ") command=$word; break ;;\n        esac\n    done\n    case $command in\n");
    for (const struct command *c = cli_commands; c->name; c++) {
        if (!c->options)
            continue;
        buf_appendf(b, "    %s)\n        case $prev in\n", c->name);
        for (const struct opt *o = c->options->opts; o->name; o++)
            opt_write_bash_values(b, o);
        buf_append_str(b, "        esac\n        COMPREPLY=($(compgen -W \"");
        opt_write_bash_words(b, c->options);
        for (const char *const *w = c->options->words; w && *w; w++)
            buf_appendf(b, " %s", *w);
        buf_append_str(b, "\" -- \"$cur\")) ;;\n");
    }
    buf_append_str(b, "    *)\n        COMPREPLY=($(compgen -W \"");
    for (const struct command *c = cli_commands; c->name; c++)
        if (c->summary)
            buf_appendf(b, "%s ", c->name);
    buf_append_str(b,
                   "--app --broker --result-backend --config --workdir --quiet --version --help\" "
                   "-- \"$cur\")) ;;\n    esac\n}\ncomplete -F _celeryc celeryc\n");
}

/* ---- zsh ---- */

static void zsh_words(struct buf *b, const char *const *w)
{
    buf_append_str(b, "            '1:what:(");
    for (const char *blank = ""; *w; w++, blank = " ")
        buf_appendf(b, "%s%s", blank, *w);
    buf_append_str(b, ")' \\\n");
}

static void write_zsh(struct buf *b)
{
    buf_append_str(b, "#compdef celeryc\n# zsh completion for celeryc\n"
                      "_celeryc()\n{\n    local context state line\n    typeset -A opt_args\n"
                      "    _arguments -C '--version[Show the version]' '--help[Show help]' "
                      "'1:command:->command' '*::argument:->argument'\n"
                      "    case $state in\n    command)\n        local -a commands\n"
                      "        commands=(\n");
    for (const struct command *c = cli_commands; c->name; c++) {
        if (!c->summary)
            continue;
        buf_appendf(b, "            '%s:", c->name);
        opt_write_zsh_quoted(b, c->summary);
        buf_append_str(b, "'\n");
    }
    buf_append_str(b, "        )\n        _describe command commands ;;\n    argument)\n"
                      "        case $words[1] in\n");
    for (const struct command *c = cli_commands; c->name; c++) {
        if (!c->options)
            continue;
        buf_appendf(b, "        %s)\n            _arguments \\\n", c->name);
        for (const struct opt *o = c->options->opts; o->name; o++)
            if (o->help)
                opt_write_zsh(b, o);
        if (c->options->words)
            zsh_words(b, c->options->words);
        buf_append_str(b, "            '--help[Show help]' ;;\n");
    }
    buf_append_str(b, "        esac ;;\n    esac\n}\n_celeryc \"$@\"\n");
}

/* ---- man ---- */

static void man_command(struct buf *b, const struct command *c)
{
    const struct opt_table *t = c->options;
    buf_append_str(b, ".SS celeryc ");
    buf_append_str(b, c->name);
    buf_append_char(b, ' ');
    opt_write_roff(b, t->usage);
    buf_append_char(b, '\n');
    opt_write_roff(b, t->about);
    buf_append_char(b, '\n');
    for (const struct opt *o = t->opts; o->name; o++)
        if (o->help)
            opt_write_man(b, o);
}

static void write_man(struct buf *b)
{
    buf_append_str(
        b, ".TH CELERYC 1 \"\" \"celeryc\" \"User Commands\"\n"
           ".SH NAME\nceleryc \\- Celery worker and client in C, for Redis\n"
           ".SH SYNOPSIS\n.B celeryc\n.I command\n.RI [ options ]\n"
           ".SH DESCRIPTION\nceleryc worker takes Celery tasks from Redis and runs those that its "
           "plug\\-ins, shared objects written against \\fI<celeryc/task.h>\\fR, define. "
           "Python workers may serve the same queues.\n"
           "The options \\fB\\-A\\fR, \\fB\\-b\\fR, \\fB\\-\\-result\\-backend\\fR, "
           "\\fB\\-\\-config\\fR, \\fB\\-\\-workdir\\fR and \\fB\\-q\\fR may stand before the "
           "command as well.\n.SH COMMANDS\n");
    for (const struct command *c = cli_commands; c->name; c++)
        if (c->options && c->summary)
            man_command(b, c);
    buf_append_str(
        b,
        ".SH SIGNALS OF THE WORKER\n"
        ".TP\n.B TERM\nWarm shutdown: claiming stops, messages that have not started go back to "
        "the head of their "
        "queue, running tasks end. With \\fBREMAP_SIGTERM=SIGQUIT\\fR in the environment as QUIT.\n"
        ".TP\n.B INT\nWarm shutdown with exit code 1; a second one is a cold shutdown.\n"
        ".TP\n.B QUIT\nCold shutdown: running tasks are killed; those that are acknowledged late "
        "go back to the "
        "head of their queue, others fail with WorkerLostError.\n"
        ".TP\n.B USR1\nLogs how many messages are in which state.\n"
        ".SH ENVIRONMENT\n"
        ".TP\n.B CELERY_BROKER_URL, CELERY_RESULT_BACKEND\nBroker and result backend when no "
        "option names them.\n"
        ".TP\n.B CELERY_WORKER_<OPTION>\nAny option of the worker, as "
        "CELERY_WORKER_CONCURRENCY=4.\n"
        ".TP\n.B SCATTER_DATABASE_<ALIAS>\nTarget database of migrations.\n"
        ".TP\n.B SCATTER_LEASE\nHow long a claim of a batch lasts (60s) unless it is renewed, "
        "which it "
        "is with every chunk.\n"
        ".TP\n.B SCATTER_COPY\nHow the values of a chunk travel to PostgreSQL: auto (by COPY where "
        "there are many), always, never (as arrays).\n"
        ".TP\n.B SCATTER_SWEEP\nHow often lost batches are looked for (30s; 0: never).\n"
        ".TP\n.B AWS_*, SCATTER_S3_*\nThe store of their batch files, as in scatter\\-plan (1).\n"
        ".SH EXIT STATUS\n0: all went well (the worker: TERM or QUIT). 1: it did not, or the task "
        "failed. "
        "2: wrong command line. 3: there is no result yet. 73: the pidfile is held by a live "
        "process. 75: the worker found itself deaf (messages waited, it had room, and nothing came "
        "for celeryc_watchdog_timeout seconds): start it again.\n"
        ".SH SEE ALSO\n.BR scatter\\-plan (1)\n");
}

int cmd_completion(int argc, char **argv)
{
    struct completion_options o = {.common = {.broker = NULL}};
    CLEANUP(strv_deinit) struct strv words = {NULL, 0};
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    int code = 0;
    if (cli_begin(&cli_completion_table, argc, argv, &o, &words, &code) == 0) {
        if (words.n == 1 && str_eq(words.v[0], "bash"))
            write_bash(&b);
        else if (words.n == 1 && str_eq(words.v[0], "zsh"))
            write_zsh(&b);
        else if (words.n == 1 && str_eq(words.v[0], "man"))
            write_man(&b);
        else
            code = cli_usage(&cli_completion_table, "Say bash, zsh or man.");
    }
    if (b.len && (buf_ok(&b) || fwrite(b.data, 1, b.len, stdout) != b.len))
        code = CLI_EX_FAILED;
    opt_clear(&cli_completion_table, &o);
    return code;
}
