/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The command line of scatter-plan: one table of options that is parsed and printed as help. */

#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"

#include <stdint.h>

enum command {
    COMMAND_CREATE = 1,
    COMMAND_ENQUEUE = 2,
    COMMAND_STATUS = 4,
    COMMAND_PAUSE = 256,
    COMMAND_RESUME = 512,
    COMMAND_CANCEL = 1024,
    COMMAND_DRAIN = 2048,
    COMMAND_SET = 4096,
    COMMAND_SWEEP = 8192,
    COMMAND_GOVERNOR = 16384,
    COMMAND_REDRIVE = 8,
    COMMAND_UNDO = 16,
    COMMAND_VERIFY = 32,
    COMMAND_REPORT = 64,
    COMMAND_AUDIT = 1 << 20,
};

struct scatter_migration;

struct args_list {
    const char **items;
    size_t n;
};

/* Values borrow argv or the environment. */
struct args {
    enum command command;
    const char *migration, *query, *database_url, *database, *store, *broker, *key_prefix, *queue;
    const char *table, *key, *columns, *on_batch, *on_finish, *retry_on, *on_error, *plan,
        *created_by;
    const char *on_planned, *on_paused, *on_failed;
    const char *format, *progress;
    /* control */
    const char *reason;
    struct args_list windows;
    struct args_list words; /* behind the plan: NAME=VALUE; of governor: what to do */
    int64_t every_s, after_s;
    bool attached;
    /* plans made from plans, and their checks */
    const char *child, *error_class, *sqlstate, *outcome, *check;
    int64_t limit, batch, sample;
    bool top_up, no_residue, judged_by_check, inverse;
    bool add_columns; /* of a child: columns that a newer migration reads are added, not missed */
    const struct scatter_migration *sql; /* --migration sql:FILE, parsed; NULL */
    const char *statement;               /* its text */
    struct args_list plugins, params;
    const char *max_quarantine, *max_quarantine_batch, *max_failure_rate;
    int64_t batch_size, canary, uploads;
    int64_t workers, database_cores; /* of the forecast; 0: not said */
    bool from_stdin, no_enqueue, dry_run, files, external;
};

void args_deinit(struct args *a);
DEFINE_CLEANUP_VALUE(struct args, args_deinit)

/* What the caller has to do instead of running a command. */
#define ARGS_E_HELP    1 /* ret_text was asked for: print it, exit 0 */
#define ARGS_E_MISTAKE 2 /* e names it: exit 2 */

/* 0, ARGS_E_*, -ENOMEM. text gets the help or version when it was asked for. Fills in defaults and the environment. */
int args_parse(int argc, char **argv, struct args *ret_a, struct buf *text,
               struct err *e) WARN_UNUSED;
