/* SPDX-License-Identifier: Apache-2.0 */
/* The command line: forms, defaults, environment, and mistakes named. */

#include "planner/args.h"

#include <criterion/criterion.h>

#define WORDS 24

static int parse(const char *line, struct args *a, struct buf *text, struct err *e)
{
    static char copy[512];
    char *words[WORDS] = {NULL}, *save = NULL;
    int n = 0;

    (void)snprintf(copy, sizeof(copy), "scatter-plan %s", line);
    for (char *w = strtok_r(copy, " ", &save); w && n < WORDS; w = strtok_r(NULL, " ", &save))
        words[n++] = w;
    return args_parse(n, words, a, text, e);
}

static void clean_environment(void)
{
    const char *names[] = {"SCATTER_STORE", "SCATTER_DATABASE", "SCATTER_DATABASE_DEFAULT",
                           "SCATTER_DATABASE_A_B", "CELERY_BROKER_URL"};

    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        cr_assert_eq(unsetenv(names[i]), 0);
}

TestSuite(args, .init = clean_environment);

#define FULL "create --migration m --query q --store file:///s --database-url d -b r "

Test(args, forms_and_defaults)
{
    CLEANUP(args_deinit) struct args a = {0};
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    struct err e = ERR_INIT;

    cr_assert_eq(parse("create --migration m --query=a=b -A x.so -Ay.so --store file:///s -br "
                       "--database-url d --param k=v --param l=w --no-enqueue --progress none",
                       &a, &text, &e),
                 0, "%s", e.text);
    cr_assert_eq(a.command, COMMAND_CREATE);
    cr_assert_str_eq(a.query, "a=b");
    cr_assert_eq(a.plugins.n, 2);
    cr_assert_str_eq(a.plugins.items[0], "x.so");
    cr_assert_str_eq(a.plugins.items[1], "y.so");
    cr_assert_str_eq(a.broker, "r");
    cr_assert_eq(a.params.n, 2);
    cr_assert(a.no_enqueue);
    cr_assert_not(a.dry_run);
    cr_assert_eq(a.batch_size, 10000);
    cr_assert_eq(a.uploads, 8);
    cr_assert_str_eq(a.queue, "celery");
    cr_assert_str_eq(a.database, "default");
    cr_assert_str_eq(a.format, "text");
}

Test(args, environment)
{
    CLEANUP(args_deinit) struct args a = {0};
    CLEANUP(args_deinit) struct args b = {0};
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    struct err e = ERR_INIT;

    cr_assert_eq(setenv("SCATTER_STORE", "s3://b", 1), 0);
    cr_assert_eq(setenv("SCATTER_DATABASE", "plain", 1), 0);
    cr_assert_eq(setenv("SCATTER_DATABASE_A_B", "alias", 1), 0);
    cr_assert_eq(setenv("CELERY_BROKER_URL", "redis://h", 1), 0);
    cr_assert_eq(parse("create --migration m --query q", &a, &text, &e), 0, "%s", e.text);
    cr_assert_str_eq(a.database_url, "plain");
    cr_assert_str_eq(a.store, "s3://b");
    cr_assert_str_eq(a.broker, "redis://h");
    cr_assert_eq(parse("status --plan p --database a-b", &b, &text, &e), 0, "%s", e.text);
    cr_assert_str_eq(b.database_url, "alias");
}

static const struct {
    const char *line, *text;
} mistakes[] = {
    {"", "no command (see --help)"},
    {"made", "made: no such command (see --help)"},
    {"create --nope", "--nope: no such option (see --help)"},
    {"create -Z", "-Z: no such option (see --help)"},
    {"create x", "x: not an option (see --help)"},
    {"create --query", "--query needs a value: SQL"},
    {"create --stdin=x", "--stdin takes no value"},
    {"status --query x", "--query: no such option (see --help)"},
    {FULL "--batch-size 0", "--batch-size: \"0\" is not a positive number"},
    {FULL "--batch-size 1e3", "--batch-size: \"1e3\" is not a positive number"},
    {FULL "--batch-size 1000001", "--batch-size: at most 1000000"},
    {FULL "--upload-parallel 33", "--upload-parallel: at most 32"},
    {FULL "--upload-parallel -1", "--upload-parallel: \"-1\" is not a positive number"},
    {FULL "--format xml", "--format: \"xml\" is none of text|json"},
    {FULL "--stdin", "--query and --stdin exclude each other"},
    {"create --database-url d", "--migration is missing: which migration is to run?"},
    {"create --database-url d --migration m", "--query is missing: which records (or --stdin)?"},
    {"create --database-url d --migration m --query q",
     "no store: give --store or set SCATTER_STORE"},
    {"create --database-url d --migration m --query q --store s",
     "no broker: give -b or set CELERY_BROKER_URL"},
    {"enqueue --database-url d", "the plan's id is missing: which plan?"},
    {"enqueue --database-url d --plan p", "no broker: give -b or set CELERY_BROKER_URL"},
    {"redrive p --database-url d -b r --batch-size 1000001", "--batch-size: at most 1000000"},
    {"sweep --database-url d -b r --after 31536001", "--after: at most 31536000 seconds, a year"},
    {"sweep --database-url d -b r --every 9223372036854775807",
     "--every: at most 31536000 seconds, a year"},
    {"status --plan p",
     "no database: give --database-url or set SCATTER_DATABASE (or SCATTER_DATABASE_<ALIAS> for "
     "--database ALIAS)"},
};

Test(args, mistakes_are_named)
{
    for (size_t i = 0; i < ARRAY_SIZE(mistakes); i++) {
        CLEANUP(args_deinit) struct args a = {0};
        CLEANUP(buf_deinit) struct buf text = BUF_INIT;
        struct err e = ERR_INIT;

        cr_expect_eq(parse(mistakes[i].line, &a, &text, &e), ARGS_E_MISTAKE, "%zu", i);
        cr_expect_str_eq(e.text, mistakes[i].text, "%zu: %s", i, e.text);
    }
}

Test(args, help_fits_the_screen)
{
    const char *lines[] = {"--help",         "create --help",   "enqueue -h",   "status --help",
                           "set --help",     "governor --help", "sweep --help", "undo --help",
                           "redrive --help", "verify --help",   "--version"};

    for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
        CLEANUP(args_deinit) struct args a = {0};
        CLEANUP(buf_deinit) struct buf text = BUF_INIT;
        struct err e = ERR_INIT;

        cr_assert_eq(parse(lines[i], &a, &text, &e), ARGS_E_HELP);
        cr_assert_gt(text.len, 10);
        for (const char *p = text.data; *p; p++) {
            size_t n = strcspn(p, "\n");

            cr_expect_leq(n, 100, "%.*s", (int)n, p);
            cr_expect(n == 0 || p[n - 1] != ' ', "%.*s", (int)n, p);
            p += n;
        }
    }
}
