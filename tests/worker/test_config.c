/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of the worker, and who wins over whom. */

#include "celeryc/worker/config.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MAX_WORDS 16

static struct worker_options options;
static struct worker_config config;
static struct err error;

static void setup(void)
{
    options = (struct worker_options){.broker = NULL};
    config = (struct worker_config){.node = NULL};
    error = ERR_INIT;
    (void)unsetenv("CELERY_BROKER_URL");
    (void)unsetenv("CELERY_RESULT_BACKEND");
}

static void teardown(void)
{
    opt_clear(&worker_opt_table, &options);
    config_deinit(&config);
}

TestSuite(config, .init = setup, .fini = teardown);

/* words: separated by spaces */
static int parse(const char *words)
{
    char line[512], *argv[MAX_WORDS], *save = NULL;
    int argc = 0;
    (void)snprintf(line, sizeof(line), "%s", words);
    for (char *w = strtok_r(line, " ", &save); w; w = strtok_r(NULL, " ", &save))
        argv[argc++] = w;
    int r = opt_parse(&worker_opt_table, argc, argv, &options, NULL, &error);
    return r ? r : config_make(&options, &config, &error);
}

Test(config, defaults)
{
    cr_assert_eq(parse(""), 0, "%s", error.text);
    cr_assert_str_eq(config.broker.text, "redis://localhost:6379/0");
    cr_assert_not(config.has_backend);
    cr_assert_eq(config.queues.n, 1);
    cr_assert_str_eq(config.queues.v[0], "celery");
    cr_assert_eq(config.loglevel, LOG_WARNING);
    cr_assert_eq(config.pool, POOL_PREFORK);
    cr_assert_geq(config.concurrency, 1);
    cr_assert_eq(config.prefetch_multiplier, -1);
    cr_assert_eq(config.drain_timeout_ms, -1);
    cr_assert_eq(strncmp(config.node, "celery@", 7), 0);
}

Test(config, every_spelling_of_an_option)
{
    cr_assert_eq(
        parse("-A a.so,b.so --app=c.so -Q x,y -Qz -c3 -P threads -n w1@h -linfo --time-limit=2.5"),
        0, "%s", error.text);
    cr_assert_eq(config.apps.n, 3);
    cr_assert_str_eq(config.apps.v[2], "c.so");
    cr_assert_eq(config.queues.n, 3);
    cr_assert_str_eq(config.queues.v[2], "z");
    cr_assert_eq(config.concurrency, 3);
    cr_assert_eq(config.pool, POOL_THREADS);
    cr_assert_str_eq(config.node, "w1@h");
    cr_assert_eq(config.loglevel, LOG_INFO);
    cr_assert_eq(config.time_limit, 2.5);
}

Test(config, line_over_environment_over_default)
{
    (void)setenv("CELERY_BROKER_URL", "redis://env/1", 1);
    (void)setenv("CELERY_RESULT_BACKEND", "redis://env/1", 1);
    cr_assert_eq(parse(""), 0, "%s", error.text);
    cr_assert_str_eq(config.broker.host, "env");
    cr_assert(config.has_backend && config.same_backend);
    teardown();
    setup();
    (void)setenv("CELERY_BROKER_URL", "redis://env/1", 1);
    (void)setenv("CELERY_WORKER_CONCURRENCY", "7", 1);
    (void)setenv("CELERY_WORKER_QUEUES", "e1,e2", 1);
    cr_assert_eq(parse("-b redis://line/2 -Q l"), 0, "%s", error.text);
    cr_assert_str_eq(config.broker.host, "line");
    cr_assert_eq(config.concurrency, 7);
    cr_assert_eq(config.queues.n, 1);
    cr_assert_str_eq(config.queues.v[0], "l");
}

Test(config, settings_file_is_under_both)
{
    char path[] = "settings-XXXXXX", line[128];
    int fd = mkstemp(path);
    const char text[] =
        "{\"broker_url\": \"redis://file/3\", \"worker_concurrency\": 5, \"worker_pool\": \"solo\","
        " \"task_time_limit\": 9, \"task_default_queue\": \"dq\", \"timezone\": \"Europe/Oslo\"}";
    cr_assert_eq(write(fd, text, sizeof(text) - 1), (ssize_t)sizeof(text) - 1);
    (void)close(fd);
    (void)snprintf(line, sizeof(line), "--config %s -P prefork --soft-time-limit 4", path);
    int r = parse(line);
    (void)unlink(path);
    cr_assert_eq(r, 0, "%s", error.text);
    cr_assert_str_eq(config.broker.host, "file");
    cr_assert_eq(config.concurrency, 5);
    cr_assert_eq(config.pool, POOL_PREFORK);
    cr_assert_eq(config.time_limit, 9);
    cr_assert_eq(config.soft_time_limit, 4);
    cr_assert_str_eq(config.queues.v[0], "dq");
    cr_assert_eq(config.settings.warnings.n, 1);
}

Test(config, solo_is_one_slot)
{
    cr_assert_eq(parse("-P solo -c 8"), 0, "%s", error.text);
    cr_assert_eq(config.concurrency, 1);
}

Test(config, excluded_queues_and_none_left)
{
    cr_assert_eq(parse("-Q a,b,a -X b"), 0, "%s", error.text);
    cr_assert_eq(config.queues.n, 1);
    teardown();
    setup();
    cr_assert_eq(parse("-Q a -X a"), OPT_E_USAGE);
}

/* A wrong command line is a usage error whose text names the cause. */
Test(config, usage_errors)
{
    static const struct {
        const char *words, *says;
    } cases[] = {
        {"--concurency 3", "did you mean --concurrency?"},
        {"--nonsense-at-all", "No such option: --nonsense-at-all"},
        {"-Z", "No such option: -Z"},
        {"-c three", "neither a number nor 'auto'"},
        {"-c -1", "neither a number nor 'auto'"},
        {"-c 99999999", "at most"},
        {"-c", "requires an argument"},
        {"-P gevent", "not one of prefork, threads, solo"},
        {"-l loud", "not one of DEBUG"},
        {"--time-limit x", "not a valid number"},
        {"--time-limit -1", "less than 0"},
        {"--max-tasks-per-child 1.5", "not a valid integer"},
        {"--quiet=1", "does not take a value"},
        {"-D", "not supported"},
        {"--autoscale 3,1", "not supported"},
        {"-B", "celery beat"},
        {"stray", "unexpected extra argument (stray)"},
        {"--database nourl", "ALIAS=URL"},
        {"--database =x", "ALIAS=URL"},
        {"-n w@%q", "--hostname"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        setup();
        cr_assert_eq(parse(cases[i].words), OPT_E_USAGE, "%s was accepted", cases[i].words);
        cr_assert_neq(strstr(error.text, cases[i].says), NULL, "%s: \"%s\" does not say \"%s\"",
                      cases[i].words, error.text, cases[i].says);
        teardown();
    }
}

Test(config, other_brokers_and_backends_are_refused)
{
    static const char *const lines[] = {"-b amqp://h//",
                                        "-b redis+sentinel://h:1",
                                        "--result-backend rpc://",
                                        "--result-backend db+sqlite:///x",
                                        "--result-backend cache+memcached://h",
                                        "-b redis://h/notanumber"};
    for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
        setup();
        int r = parse(lines[i]);
        cr_assert_lt(r, 0, "%s gave %d", lines[i], r);
        cr_assert_neq(strstr(error.text, "edis"), NULL, "%s: %s", lines[i], error.text);
        teardown();
    }
}

Test(config, passwords_do_not_show_in_errors)
{
    cr_assert_lt(parse("-b amqp://user:hunter2@h//"), 0);
    cr_assert_eq(strstr(error.text, "hunter2"), NULL, "%s", error.text);
    teardown();
    setup();
    cr_assert_lt(parse("--result-backend rpc://user:hunter2@h//"), 0);
    cr_assert_eq(strstr(error.text, "hunter2"), NULL, "%s", error.text);
}

Test(config, harmless_options_are_accepted)
{
    cr_assert_eq(parse("--without-gossip --without-mingle --without-heartbeat -O fair "
                       "--pool-start-method fork -E"),
                 0, "%s", error.text);
    cr_assert_eq(config.settings.warnings.n, 1, "-E is warned of");
}

Test(config, prefetch_multiplier_zero_falls_back_to_the_setting)
{
    cr_assert_eq(parse("--prefetch-multiplier 0"), 0, "%s", error.text);
    cr_assert_eq(config.prefetch_multiplier, -1);
    teardown();
    setup();
    cr_assert_eq(parse("--prefetch-multiplier 2"), 0, "%s", error.text);
    cr_assert_eq(config.prefetch_multiplier, 2);
}

Test(config, help_shows_groups_and_defaults)
{
    struct buf b = BUF_INIT;
    opt_write_help(&b, &worker_opt_table);
    static const char *const parts[] = {"Usage: celeryc worker [OPTIONS]",
                                        "Pool Options:",
                                        "-c, --concurrency N",
                                        "[default: auto]",
                                        "[prefork|threads|solo]",
                                        "--drain-timeout",
                                        "--help"};
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
        cr_assert_neq(strstr(b.data, parts[i]), NULL, "no \"%s\" in:\n%s", parts[i], b.data);
    for (const char *line = b.data; *line;) {
        size_t len = strcspn(line, "\n");
        cr_assert_leq(len, 100, "%.*s", (int)len, line);
        line += len + (line[len] == '\n');
    }
    buf_deinit(&b);
}

/* Every option can be told from every other. */
Test(config, no_spelling_twice)
{
    for (const struct opt *a = worker_opt_table.opts; a->name; a++) {
        for (const struct opt *b = a + 1; b->name; b++) {
            cr_assert_str_neq(a->name, b->name);
            cr_assert(!a->short_name || a->short_name != b->short_name, "-%c", a->short_name);
        }
        cr_assert(a->kind != OPT_REFUSE || a->note, "--%s does not say why", a->name);
    }
}
