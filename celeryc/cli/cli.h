/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Subcommands of celeryc and what they share. */

#include "celeryc/base/opt.h"
#include "celeryc/redis/endpoint.h"
#include "celeryc/worker/settings.h"

#define CLI_EX_FAILED    1 /* it did not work, or the task failed */
#define CLI_EX_USAGE     2 /* wrong command line */
#define CLI_EX_NOT_READY 3 /* there is no result yet */

struct command {
    const char *name;
    int (*run)(int argc, char **argv); /* words after the subcommand; gives the exit code */
    const struct opt_table *options;   /* NULL: none */
    const char *summary;               /* NULL: not shown */
};

extern const struct command cli_commands[]; /* ends with name NULL */
extern const struct opt_table cli_call_table, cli_result_table, cli_purge_table, cli_tasks_table,
    cli_completion_table, cli_dead_table, cli_delayed_table, cli_doctor_table, cli_drain_table;

int cmd_worker(int argc, char **argv);
int cmd_zygote(int argc, char **argv);
int cmd_call(int argc, char **argv);
int cmd_result(int argc, char **argv);
int cmd_purge(int argc, char **argv);
int cmd_tasks(int argc, char **argv);
int cmd_dead(int argc, char **argv);
int cmd_delayed(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_drain(int argc, char **argv);
int cmd_completion(int argc, char **argv);
int cmd_help(int argc, char **argv);

/* What every client command takes; the first member of its options struct. */
struct cli_common {
    char *broker, *result_backend, *config, *workdir;
    struct strv apps;
    bool quiet;
};

#define CLI_COMMON_AT(field) offsetof(struct cli_common, field)

/* clang-format off */
#define CLI_COMMON_OPTS \
    {.short_name = 'b', .name = "broker", .kind = OPT_STRING, .arg = "URL", .group = "Connection", .offset = CLI_COMMON_AT(broker), \
     .help = "Broker. Also CELERY_BROKER_URL.", .initial = "redis://localhost:6379/0", .global = true}, \
    {.name = "result-backend", .kind = OPT_STRING, .arg = "URL", .group = "Connection", .offset = CLI_COMMON_AT(result_backend), \
     .help = "Result backend. Also CELERY_RESULT_BACKEND.", .initial = "results disabled", .global = true}, \
    {.name = "config", .kind = OPT_STRING, .arg = "FILE", .group = "Connection", .offset = CLI_COMMON_AT(config), \
     .help = "JSON file with settings by Celery's names.", .global = true}, \
    {.name = "workdir", .kind = OPT_STRING, .arg = "DIR", .offset = CLI_COMMON_AT(workdir), .global = true}, \
    {.short_name = 'A', .name = "app", .kind = OPT_LIST, .arg = "PLUGIN", .offset = CLI_COMMON_AT(apps), .global = true}, \
    {.short_name = 'q', .name = "quiet", .kind = OPT_FLAG, .offset = CLI_COMMON_AT(quiet), .global = true}, \
    {.short_name = 'C', .name = "no-color", .kind = OPT_MOOT, .global = true}, \
    {.name = "skip-checks", .kind = OPT_MOOT, .global = true}
/* clang-format on */

/* Prints the help when asked for. 0: go on; anything else: leave with *ret_code. */
int cli_begin(const struct opt_table *t, int argc, char **argv, void *options,
              struct strv *ret_positional, int *ret_code);
/* Goes to --workdir and reads --config. 0 or an error that was printed: leave with CLI_EX_FAILED. */
int cli_settings(const struct cli_common *o, struct settings *ret_s) WARN_UNUSED;
int cli_usage(const struct opt_table *t, const char *text); /* prints; gives CLI_EX_USAGE */
int cli_fail(struct err *e, int code);                      /* prints; gives CLI_EX_FAILED */

/* Prints a stored record: the result as JSON on stdout; a failure's exception and traceback on stderr.
 * Gives the exit code. */
int cli_print_record(struct slice record);

/* ---- celeryc call --canvas ---- */
struct canvas_call_options {
    const char *broker, *backend; /* NULL: not given */
    const char *signature;        /* JSON, "@file" or "-" */
    const char *options;          /* JSON object */
    bool wait;
    double timeout_s; /* negative: for ever */
};

/* Sends it and prints its id, or what comes of it. 0 with the exit code; OPT_E_USAGE, -Exxx with a text. */
int cli_call_canvas(const struct canvas_call_options *o, struct settings *s_take, struct err *e,
                    int *ret_code) WARN_UNUSED;
