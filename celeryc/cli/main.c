/* SPDX-License-Identifier: Apache-2.0 */
/* celeryc: finds the subcommand. Options that Celery takes before the subcommand (-A, -b, ...) are handed on to it. */

#include "celeryc/cli/cli.h"
#include "celeryc/worker/config.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

const struct command cli_commands[] = {
    {"worker", cmd_worker, &worker_opt_table, "Start a worker."},
    {"call", cmd_call, &cli_call_table, "Send a task, and wait for its result if asked to."},
    {"result", cmd_result, &cli_result_table, "Print the result of a task."},
    {"purge", cmd_purge, &cli_purge_table, "Remove all messages from queues."},
    {"dead", cmd_dead, &cli_dead_table, "Show, retry or remove dead letters."},
    {"delayed", cmd_delayed, &cli_delayed_table,
     "Show messages that wait for their eta, or give them back."},
    {"doctor", cmd_doctor, &cli_doctor_table, "Look for what is wrong at the broker."},
    {"drain", cmd_drain, &cli_drain_table, "Give everything back to Celery."},
    {"tasks", cmd_tasks, &cli_tasks_table, "List the tasks of plug-ins."},
    {"completion", cmd_completion, &cli_completion_table,
     "Print shell completion or the man page."},
    {"help", cmd_help, NULL, "Show help for a command."},
    {"zygote", cmd_zygote, NULL, NULL},
    {0},
};

static const char *next_command(size_t i, const void *arg)
{
    const struct command *c = arg;
    return c[i].summary ? c[i].name : NULL;
}

static const struct command *find(const char *name)
{
    for (const struct command *c = cli_commands; c->name; c++)
        if (str_eq(c->name, name))
            return c;
    return NULL;
}

static void print_help(FILE *to)
{
    (void)fputs("Usage: celeryc [OPTIONS] COMMAND [ARGS]...\n\n"
                "  A Celery worker and client in C, for Redis.\n\n"
                "Options (they may also stand after the command):\n"
                "  -A, --app PLUGIN       Plug-in with tasks.\n"
                "  -b, --broker URL       Broker.\n"
                "  --result-backend URL   Result backend.\n"
                "  --config FILE          JSON file with settings by Celery's names.\n"
                "  --workdir DIR          Change to this directory first.\n"
                "  -q, --quiet            No start banner.\n"
                "  --version              Show the version and exit.\n"
                "  --help                 Show this message and exit.\n\n"
                "Commands:\n",
                to);
    for (const struct command *c = cli_commands; c->name; c++)
        if (c->summary)
            (void)fprintf(to, "  %-12s %s\n", c->name, c->summary);
}

int cmd_help(int argc, char **argv)
{
    const struct command *c = argc > 0 ? find(argv[0]) : NULL;
    if (!c || !c->options) {
        print_help(stdout);
        return 0;
    }
    char help[] = "--help", *words[] = {help, NULL};
    return c->run(1, words);
}

static int unknown_command(const char *name)
{
    const char *near = strv_nearest(name, next_command, cli_commands);
    (void)fprintf(stderr,
                  "Usage: celeryc [OPTIONS] COMMAND [ARGS]...\n"
                  "Try 'celeryc --help' for help.\n\nError: No such command '%s'.",
                  name);
    if (near)
        (void)fprintf(stderr, " Did you mean '%s'?", near);
    (void)fputc('\n', stderr);
    return CLI_EX_USAGE;
}

static const struct opt *global_option(const char *word)
{
    for (const struct opt *o = worker_opt_table.opts; o->name; o++) {
        size_t len = strlen(o->name);
        if (!o->global)
            continue;
        if (word[0] == '-' && word[1] != '-' && o->short_name && word[1] == o->short_name)
            return o;
        if (strncmp(word, "--", 2) == 0 && strncmp(word + 2, o->name, len) == 0 &&
            (word[2 + len] == '\0' || word[2 + len] == '='))
            return o;
    }
    return NULL;
}

/* Does the value of o stand in the next word? */
static bool value_follows(const struct opt *o, const char *word)
{
    if (!opt_takes_value(o))
        return false;
    return word[1] == '-' ? !strchr(word, '=') : word[2] == '\0';
}

int main(int argc, char **argv)
{
    int i = 1;
    while (i < argc && argv[i][0] == '-') {
        if (str_eq(argv[i], "--version")) {
            (void)puts(CELERYC_VERSION " (celeryc)");
            return 0;
        }
        if (str_eq(argv[i], "--help")) {
            print_help(stdout);
            return 0;
        }
        const struct opt *o = global_option(argv[i]);
        if (!o) {
            (void)fprintf(stderr, "Try 'celeryc --help' for help.\n\nError: No such option: %s\n",
                          argv[i]);
            return CLI_EX_USAGE;
        }
        i += value_follows(o, argv[i]) ? 2 : 1;
    }
    if (i >= argc) {
        print_help(stderr);
        return CLI_EX_USAGE;
    }
    const struct command *c = find(argv[i]);
    if (!c)
        return unknown_command(argv[i]);
    /* The words before the subcommand move behind it; argv[i..] becomes the subcommand's own. */
    char **words = calloc((size_t)argc + 1, sizeof(char *));
    if (!words)
        return CLI_EX_FAILED;
    size_t n = 0;
    for (int k = 1; k < argc; k++)
        if (k != i)
            words[n++] = argv[k];
    int code = c->run((int)n, words);
    free(words);
    return code;
}
