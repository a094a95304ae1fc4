/* SPDX-License-Identifier: Apache-2.0 */
/* Parsing of the command line from one table, which also makes the help.
 *
 * Forms: --name VALUE, --name=VALUE, -X VALUE, -XVALUE. What is not given comes from the environment or a default;
 * URLs with passwords are better there than in the process list. */

#include "planner/args.h"
#include "planner/plan.h"

#include "celeryc/base/limits.h"
#include "celeryc/base/num.h"
#include "planner/upload.h"

#include <ctype.h>
#include <errno.h>
#include <unistd.h>

#define DEFAULT_BATCH_SIZE 10000
#define SECONDS_MAX        31536000

#define VERB     (COMMAND_PAUSE | COMMAND_RESUME | COMMAND_CANCEL | COMMAND_DRAIN)
#define OPERATOR (VERB | COMMAND_SET | COMMAND_SWEEP | COMMAND_GOVERNOR)
#define SENDING  (COMMAND_ENQUEUE | COMMAND_RESUME | COMMAND_SWEEP) /* need the broker */
#define BROKER   (MAKE | COMMAND_ENQUEUE | COMMAND_SWEEP | VERB)
#define CHILD    (COMMAND_REDRIVE | COMMAND_UNDO)          /* plans made from a plan */
#define MAKE     (COMMAND_CREATE | CHILD | COMMAND_VERIFY) /* --top-up makes one */
#define ALL      (MAKE | COMMAND_REPORT | COMMAND_ENQUEUE | COMMAND_STATUS | COMMAND_AUDIT | OPERATOR)

enum kind {
    KIND_TEXT,
    KIND_LIST, /* may be given again */
    KIND_FLAG,
    KIND_COUNT,
    KIND_CHOICE, /* one of the words in arg, separated by | */
};

struct option {
    const char *name;
    char letter;
    enum kind kind;
    unsigned commands;
    size_t offset;
    const char *arg, *help;
};

#define AT(member) offsetof(struct args, member)

static const struct option options[] = {
    {"migration", 0, KIND_TEXT, COMMAND_CREATE, AT(migration), "NAME",
     "the migration's registered name, which is also the task's name; or sql:FILE, a migration in "
     "SQL"},
    {"app", 'A', KIND_LIST, MAKE, AT(plugins), "PLUGIN.so",
     "plug-in that knows the migration; may be given again (environment: SCATTER_PLUGINS, "
     "separated by colons)"},
    {"query", 0, KIND_TEXT, COMMAND_CREATE, AT(query), "SQL",
     "SELECT that gives the key and the columns of every record; put in key order by scatter-plan"},
    {"stdin", 0, KIND_FLAG, COMMAND_CREATE | COMMAND_UNDO, AT(from_stdin), NULL,
     "read the records from standard input instead: NDJSON, first {\"columns\": [...]}, then "
     "arrays"},
    {"database-url", 0, KIND_TEXT, ALL, AT(database_url), "URL",
     "target database, postgresql://... or sqlite:///path (environment: SCATTER_DATABASE_<ALIAS>, "
     "SCATTER_DATABASE)"},
    {"database", 0, KIND_TEXT, ALL, AT(database), "ALIAS",
     "name by which workers know that database (default: default)"},
    {"store", 0, KIND_TEXT, MAKE | COMMAND_REPORT | COMMAND_ENQUEUE, AT(store), "URL",
     "s3://bucket/prefix or file:///dir (environment: SCATTER_STORE)"},
    {"broker", 'b', KIND_TEXT, BROKER, AT(broker), "URL",
     "redis://... (environment: CELERY_BROKER_URL)"},
    {"global-keyprefix", 0, KIND_TEXT, BROKER, AT(key_prefix), "TEXT",
     "Celery's global_keyprefix of the broker"},
    {"queue", 0, KIND_TEXT, MAKE | COMMAND_ENQUEUE, AT(queue), "NAME",
     "queue that gets the batches (default: celery; of a plan that is there: its own)"},
    {"batch-size", 0, KIND_COUNT, MAKE, AT(batch_size), "N",
     "records of one batch (default: 10000)"},
    {"upload-parallel", 0, KIND_COUNT, MAKE, AT(uploads), "N",
     "batches that are written to the store at a time, each held in memory (default: 8, at most "
     "32)"},
    {"table", 0, KIND_TEXT, COMMAND_CREATE, AT(table), "TABLE",
     "table to change (default: the migration's)"},
    {"key", 0, KIND_TEXT, COMMAND_CREATE, AT(key), "COLUMN",
     "its unique key column, or several as A,B (default: the migration's, else id)"},
    {"columns", 0, KIND_TEXT, COMMAND_CREATE | COMMAND_UNDO, AT(columns), "A,B",
     "columns whose old values are kept (default: what the migration reads)"},
    {"param", 0, KIND_LIST, COMMAND_CREATE, AT(params), "K=V",
     "parameter for the migration; may be given again"},
    {"on-planned", 0, KIND_TEXT, MAKE, AT(on_planned), "SIGNATURE",
     "callback when the plan is made: a task's name, or a signature or canvas as JSON"},
    {"on-batch", 0, KIND_TEXT, MAKE, AT(on_batch), "SIGNATURE", "callback after each batch"},
    {"on-paused", 0, KIND_TEXT, MAKE, AT(on_paused), "SIGNATURE",
     "callback when the plan is paused, by people or by a limit"},
    {"on-failed", 0, KIND_TEXT, MAKE, AT(on_failed), "SIGNATURE",
     "callback when the plan has failed"},
    {"on-finish", 0, KIND_TEXT, MAKE, AT(on_finish), "SIGNATURE",
     "callback after the last batch, whether the plan is finished or failed"},
    {"retry-on", 0, KIND_TEXT, COMMAND_CREATE, AT(retry_on), "LIST",
     "SQLSTATEs, their classes or exception names that put a batch back for later, separated by "
     "commas"},
    {"on-error", 0, KIND_TEXT, COMMAND_CREATE, AT(on_error), "NAME=ACTION,...",
     "what becomes of failures, the first that matches: NAME a SQLSTATE (23505), its first two "
     "letters "
     "or an exception (ValueError); ACTION retry, retry:N, quarantine, skip, fail-batch or "
     "fail-plan"},
    {"max-quarantine", 0, KIND_TEXT, COMMAND_CREATE, AT(max_quarantine), "N|P%",
     "records that may be set aside, in all or of a hundred; one more pauses the plan"},
    {"max-quarantine-batch", 0, KIND_TEXT, COMMAND_CREATE, AT(max_quarantine_batch), "N|P%",
     "the same for a batch"},
    {"max-failure-rate", 0, KIND_TEXT, COMMAND_CREATE, AT(max_failure_rate), "P%|off",
     "part of the last 1,000 records tried that may be set aside; more pauses the plan (default: "
     "5%)"},
    {"canary", 0, KIND_COUNT, COMMAND_CREATE, AT(canary), "N",
     "the first N records alone, then the plan pauses until scatter-plan resume"},
    {"plan", 0, KIND_TEXT, ALL, AT(plan), "ID",
     "id of the plan (create: a fresh one by default; an interrupted one is finished)"},
    {"as", 0, KIND_TEXT, CHILD | COMMAND_VERIFY, AT(child), "ID",
     "id of the new plan (default: a fresh one)"},
    {"class", 0, KIND_TEXT, COMMAND_REDRIVE, AT(error_class), "NAME",
     "only records with this error class"},
    {"sqlstate", 0, KIND_TEXT, COMMAND_REDRIVE, AT(sqlstate), "CODE",
     "only records with this SQLSTATE, or of this class of two characters"},
    {"outcome", 0, KIND_CHOICE, COMMAND_REDRIVE, AT(outcome), "quarantined|stale|skipped|failed",
     "only records with this outcome (default: quarantined and stale ones); failed: what batches "
     "that failed have left"},
    {"limit", 0, KIND_COUNT, COMMAND_REDRIVE, AT(limit), "N", "the first N of them"},
    {"batch", 0, KIND_COUNT, COMMAND_UNDO, AT(batch), "N", "only this batch"},
    {"inverse", 0, KIND_FLAG, COMMAND_UNDO, AT(inverse), NULL,
     "the migration is in no plug-in and has an inverse of its own (undo_row, undo_external)"},
    {"check", 0, KIND_TEXT, COMMAND_VERIFY, AT(check), "SQL",
     "condition that must hold for every record that was done, as \"phone ~ '^0[0-9]{9}$'\""},
    {"sample", 0, KIND_COUNT, COMMAND_VERIFY, AT(sample), "N",
     "check N records, spread evenly, instead of all"},
    {"no-residue", 0, KIND_FLAG, COMMAND_VERIFY, AT(no_residue), NULL,
     "do not run the plan's query again"},
    {"judged-by-check", 0, KIND_FLAG, COMMAND_VERIFY, AT(judged_by_check), NULL,
     "somebody else checks the records: that one still matches the query does not count against "
     "it"},
    {"top-up", 0, KIND_FLAG, COMMAND_VERIFY, AT(top_up), NULL,
     "make a plan of the records that match now and were not there before"},
    {"created-by", 0, KIND_TEXT, MAKE | OPERATOR, AT(created_by), "WHO",
     "name for the records (default: the user)"},
    {"no-enqueue", 0, KIND_FLAG, MAKE, AT(no_enqueue), NULL,
     "send no messages yet; scatter-plan enqueue does it later"},
    {"dry-run", 0, KIND_FLAG, CHILD, AT(dry_run), NULL, "count the records, make nothing"},
    {"dry-run", 0, KIND_FLAG, COMMAND_CREATE, AT(dry_run), NULL,
     "write nothing: run the migration on all records, and the statement on a sample that is "
     "rolled "
     "back; errors, forecast and checks are told; exit code 3 when one of them blocks"},
    {"external", 0, KIND_FLAG, COMMAND_CREATE, AT(external), NULL,
     "with --dry-run, of a migration that is in no plug-in: its effect is outside of the database"},
    {"workers", 0, KIND_COUNT, COMMAND_CREATE, AT(workers), "N",
     "with --dry-run: how many workers there will be, for the forecast of the time"},
    {"database-cores", 0, KIND_COUNT, COMMAND_CREATE, AT(database_cores), "N",
     "with --dry-run: processor cores of the database, for the same (default: this machine's, when "
     "it is here)"},
    {"files", 0, KIND_FLAG, COMMAND_AUDIT, AT(files), NULL,
     "fetch the batch files too, and compare their digests and counts"},
    {"window", 0, KIND_LIST, COMMAND_CREATE, AT(windows), "DAYS HH:MM-HH:MM ZONE",
     "when the plan may run, as \"Mon-Fri 01:00-05:00 Asia/Ho_Chi_Minh\"; may be given again"},
    {"reason", 0, KIND_TEXT, VERB, AT(reason), "TEXT", "why, for the status and the records"},
    {"every", 0, KIND_COUNT, COMMAND_SWEEP, AT(every_s), "SECONDS",
     "go on and sweep again after so long, until stopped"},
    {"after", 0, KIND_COUNT, COMMAND_SWEEP, AT(after_s), "SECONDS",
     "only batches whose message was sent so long ago (default: 60)"},
    {"attached", 0, KIND_FLAG, COMMAND_SWEEP, AT(attached), NULL,
     "with --every: end when the process that started this one is gone"},
    {"format", 0, KIND_CHOICE, ALL, AT(format), "text|json", "form of the result (default: text)"},
    {"progress", 0, KIND_CHOICE, MAKE | COMMAND_ENQUEUE, AT(progress), "none|bar|json",
     "progress on standard error (default: bar on a terminal)"},
};

static const struct {
    const char *name;
    enum command command;
    const char *help;
} commands[] = {
    {"create", COMMAND_CREATE, "freeze the records of a query into batches and enqueue them"},
    {"enqueue", COMMAND_ENQUEUE, "send the messages of a plan that are not sent yet"},
    {"status", COMMAND_STATUS, "show how far a plan is"},
    {"pause", COMMAND_PAUSE, "stop a plan's work within two seconds; nothing is lost"},
    {"resume", COMMAND_RESUME, "let a paused plan go on: its batches are sent again"},
    {"cancel", COMMAND_CANCEL, "end a plan for good; what was done stays, and can be undone"},
    {"drain", COMMAND_DRAIN, "finish the batches that were begun, begin no other, then pause"},
    {"set", COMMAND_SET, "retune a plan while it runs: rate=N, chunk_ms=N, workers=N (or none)"},
    {"sweep", COMMAND_SWEEP, "send the messages of batches that no message carries any more"},
    {"governor", COMMAND_GOVERNOR,
     "how fast all plans of a database may be: show, set max_lag_s=N ..., stop, start"},
    {"redrive", COMMAND_REDRIVE, "make a plan of the records that another one set aside"},
    {"undo", COMMAND_UNDO, "make a plan that writes the old values of another one back"},
    {"verify", COMMAND_VERIFY, "check what a plan has done; exit code 3 when it does not hold"},
    {"report", COMMAND_REPORT, "write the report of a plan into the store"},
    {"audit", COMMAND_AUDIT,
     "check that every record is accounted for; exit code 3 when it is not"},
};

void args_deinit(struct args *a)
{
    if (!a)
        return;
    free(a->plugins.items);
    free(a->params.items);
    free(a->words.items);
    free(a->windows.items);
    *a = (struct args){0};
}

/* ---- help ---- */

static void write_commands(struct buf *text)
{
    buf_append_str(text, "usage: scatter-plan COMMAND [PLAN] [options]\n\n");
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        buf_appendf(text, "  %-10s %s\n", commands[i].name, commands[i].help);
    buf_append_str(text, "\n  scatter-plan COMMAND --help   options of a command\n"
                         "  scatter-plan --version        version\n");
}

/* Appends the words of text, broken before column 100, at the given indentation. */
static void write_wrapped(struct buf *dst, const char *text, size_t indent)
{
    size_t column = indent;

    while (*text) {
        size_t n = strcspn(text, " ");

        if (column > indent && column + 1 + n > 99) {
            buf_appendf(dst, "\n%*s", (int)indent, "");
            column = indent;
        } else if (column > indent) {
            buf_append_char(dst, ' ');
            column++;
        }
        buf_append(dst, text, n);
        column += n;
        text += n + (text[n] ? 1 : 0);
    }
    buf_append_char(dst, '\n');
}

/* What stands behind the command's name. */
static const char *words_of(enum command command)
{
    switch (command) {
    case COMMAND_CREATE:
        return "";
    case COMMAND_SET:
        return " PLAN NAME=VALUE ...";
    case COMMAND_SWEEP:
        return " [PLAN]";
    case COMMAND_GOVERNOR:
        return " [show|set NAME=VALUE ...|stop|start]";
    default:
        return " PLAN";
    }
}

static void write_help(struct buf *text, size_t command)
{
    buf_appendf(text, "usage: scatter-plan %s%s [options]\n\n%s\n\noptions:\n",
                commands[command].name, words_of(commands[command].command),
                commands[command].help);
    for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
        const struct option *o = &options[i];
        char left[64];

        if (!(o->commands & commands[command].command))
            continue;
        (void)snprintf(left, sizeof(left), "%s%c%s--%s%s%s", o->letter ? "-" : "  ",
                       o->letter ? o->letter : ' ', o->letter ? ", " : " ", o->name,
                       o->arg ? " " : "", o->arg ? o->arg : "");
        buf_appendf(text, "  %-34s", left);
        if (strlen(left) > 33)
            buf_appendf(text, "\n%36s", "");
        write_wrapped(text, o->help, 36);
    }
}

/* ---- parsing ---- */

static const struct option *find_option(enum command command, struct slice name, char letter)
{
    for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
        const struct option *o = &options[i];

        if ((o->commands & command) && (letter ? o->letter == letter : slice_eq_str(name, o->name)))
            return o;
    }
    return NULL;
}

static int list_add(struct args_list *l, const char *value)
{
    const char **items = reallocarray(l->items, l->n + 1, sizeof(*items));

    if (!items)
        return -ENOMEM;
    l->items = items;
    l->items[l->n++] = value;
    return 0;
}

static bool is_choice(const char *choices, const char *value)
{
    size_t n = strlen(value);

    for (const char *p = choices;; p++) {
        size_t len = strcspn(p, "|");

        if (len == n && memcmp(p, value, n) == 0)
            return true;
        p += len;
        if (!*p)
            return false;
    }
}

static int store_value(struct args *a, const struct option *o, const char *value, struct err *e)
{
    void *at = (char *)a + o->offset;

    switch (o->kind) {
    case KIND_FLAG:
        *(bool *)at = true;
        return 0;
    case KIND_LIST:
        return list_add(at, value);
    case KIND_COUNT:
        if (num_parse_i64(slice_str(value), at) || *(int64_t *)at < 1)
            return err_set(e, ARGS_E_MISTAKE, "--%s: \"%s\" is not a positive number", o->name,
                           value);
        return 0;
    case KIND_CHOICE:
        if (!is_choice(o->arg, value))
            return err_set(e, ARGS_E_MISTAKE, "--%s: \"%s\" is none of %s", o->name, value, o->arg);
        break;
    case KIND_TEXT:
        break;
    }
    *(const char **)at = value;
    return 0;
}

/* One option at argv[*i]; steps over its value. */
static int parse_option(struct args *a, char **argv, int argc, int *i, struct err *e)
{
    const char *word = argv[*i], *value = NULL;
    const struct option *o;

    if (word[1] == '-') {
        size_t n = strcspn(word + 2, "=");

        o = find_option(a->command, (struct slice){word + 2, n}, 0);
        value = word[2 + n] ? word + 3 + n : NULL;
    } else {
        o = find_option(a->command, SLICE_NULL, word[1]);
        value = word[1] && word[2] ? word + 2 : NULL;
    }
    if (!o)
        return err_set(e, ARGS_E_MISTAKE, "%s: no such option (see --help)", word);
    if (o->kind == KIND_FLAG && value)
        return err_set(e, ARGS_E_MISTAKE, "--%s takes no value", o->name);
    if (o->kind != KIND_FLAG && !value) {
        if (*i + 1 >= argc)
            return err_set(e, ARGS_E_MISTAKE, "--%s needs a value: %s", o->name, o->arg);
        value = argv[++*i];
    }
    return store_value(a, o, value, e);
}

/* ---- environment and defaults ---- */

static const char *env(const char *name)
{
    const char *v = getenv(name); /* NOLINT(concurrency-mt-unsafe): read once, at the start */

    return v && *v ? v : NULL;
}

static const char *database_env(const char *alias)
{
    CLEANUP(buf_deinit) struct buf name = BUF_INIT;
    const char *v;

    buf_append_str(&name, "SCATTER_DATABASE_");
    for (; *alias; alias++)
        buf_append_char(
            &name, (char)(isalnum((unsigned char)*alias) ? toupper((unsigned char)*alias) : '_'));
    v = buf_ok(&name) ? NULL : env(name.data);
    return v;
}

static void fill_in(struct args *a)
{
    if (!a->database)
        a->database = "default";
    if (!a->database_url)
        a->database_url = database_env(a->database);
    if (!a->database_url && str_eq(a->database, "default"))
        a->database_url = env("SCATTER_DATABASE");
    if (!a->store)
        a->store = env("SCATTER_STORE");
    if (!a->broker)
        a->broker = env("CELERY_BROKER_URL");
    if (!a->key_prefix)
        a->key_prefix = "";
    if (!a->queue && a->command == COMMAND_CREATE)
        a->queue = "celery";
    if (!a->batch_size)
        a->batch_size = DEFAULT_BATCH_SIZE;
    if (!a->after_s)
        a->after_s = 60;
    if (!a->uploads)
        a->uploads = 8;
    if (!a->format)
        a->format = "text";
    if (!a->progress)
        a->progress = isatty(STDERR_FILENO) ? "bar" : "none";
    if (!a->created_by)
        a->created_by = env("USER") ? env("USER") : "";
}

static int check_create(const struct args *a, struct err *e)
{
    if (!a->migration)
        return err_set(e, ARGS_E_MISTAKE, "--migration is missing: which migration is to run?");
    if (!a->query && !a->from_stdin)
        return err_set(e, ARGS_E_MISTAKE, "--query is missing: which records (or --stdin)?");
    CLEANUP(buf_deinit) struct buf windows = BUF_INIT;
    int r = windows_json(a, &windows, e);

    if (r)
        return r == -EINVAL ? ARGS_E_MISTAKE : r;
    if (a->query && a->from_stdin)
        return err_set(e, ARGS_E_MISTAKE, "--query and --stdin exclude each other");
    if (!a->store)
        return err_set(e, ARGS_E_MISTAKE, "no store: give --store or set SCATTER_STORE");
    if (!a->broker && !a->no_enqueue && !a->dry_run)
        return err_set(e, ARGS_E_MISTAKE, "no broker: give -b or set CELERY_BROKER_URL");
    return 0;
}

static int check(const struct args *a, struct err *e)
{
    if (!a->database_url)
        return err_set(e, ARGS_E_MISTAKE,
                       "no database: give --database-url or set SCATTER_DATABASE (or "
                       "SCATTER_DATABASE_<ALIAS> for --database ALIAS)");
    if (a->uploads > UPLOAD_THREADS_MAX)
        return err_set(e, ARGS_E_MISTAKE, "--upload-parallel: at most %u", UPLOAD_THREADS_MAX);
    if (a->batch_size > LIMIT_BATCH_RECORDS)
        return err_set(e, ARGS_E_MISTAKE, "--batch-size: at most %u", LIMIT_BATCH_RECORDS);
    if (a->after_s > SECONDS_MAX || a->every_s > SECONDS_MAX)
        return err_set(e, ARGS_E_MISTAKE, "--%s: at most %d seconds, a year",
                       a->after_s > SECONDS_MAX ? "after" : "every", SECONDS_MAX);
    if (a->command == COMMAND_CREATE)
        return check_create(a, e);
    if (!a->plan && !(a->command & (COMMAND_SWEEP | COMMAND_GOVERNOR)))
        return err_set(e, ARGS_E_MISTAKE, "the plan's id is missing: which plan?");
    bool sends = (a->command & SENDING) ||
                 (!a->no_enqueue && !a->dry_run && ((a->command & CHILD) || a->top_up));
    if (sends && !a->broker)
        return err_set(e, ARGS_E_MISTAKE, "no broker: give -b or set CELERY_BROKER_URL");
    return 0;
}

static bool is_help(const char *word)
{
    return str_eq(word, "--help") || str_eq(word, "-h");
}

static int find_command(const char *word, size_t *ret_i, struct buf *text, struct err *e)
{
    if (!word || is_help(word)) {
        write_commands(text);
        return word ? ARGS_E_HELP : err_set(e, ARGS_E_MISTAKE, "no command (see --help)");
    }
    if (str_eq(word, "--version")) {
        buf_append_str(text, "scatter-plan " SCATTER_VERSION "\n");
        return ARGS_E_HELP;
    }
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        if (str_eq(commands[i].name, word)) {
            *ret_i = i;
            return 0;
        }
    }
    return err_set(e, ARGS_E_MISTAKE, "%s: no such command (see --help)", word);
}

int args_parse(int argc, char **argv, struct args *ret_a, struct buf *text, struct err *e)
{
    CLEANUP(args_deinit) struct args a = {0};
    size_t command = 0;
    int code = find_command(argc > 1 ? argv[1] : NULL, &command, text, e);

    if (code)
        return code;
    a.command = commands[command].command;
    for (int i = 2; i < argc; i++) {
        if (is_help(argv[i])) {
            write_help(text, command);
            return ARGS_E_HELP;
        }
        if (argv[i][0] != '-' && !a.plan && !(a.command & (COMMAND_CREATE | COMMAND_GOVERNOR))) {
            a.plan = argv[i];
            continue;
        }
        if (argv[i][0] != '-' && (a.command & (COMMAND_SET | COMMAND_GOVERNOR))) {
            code = list_add(&a.words, argv[i]);
            if (code)
                return code;
            continue;
        }
        if (argv[i][0] != '-')
            return err_set(e, ARGS_E_MISTAKE, "%s: not an option (see --help)", argv[i]);
        code = parse_option(&a, argv, argc, &i, e);
        if (code)
            return code;
    }
    fill_in(&a);
    code = check(&a, e);
    if (code)
        return code;
    *ret_a = a;
    a = (struct args){0};
    return 0;
}
