/* SPDX-License-Identifier: Apache-2.0 */
/* celeryc result: prints what is stored for a task. */

#include "celeryc/cli/cli.h"
#include "celeryc/redis/sync.h"
#include "celeryc/result/result.h"
#include "celeryc/worker/config.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>

#define CONNECT_MS 4000

struct result_options {
    struct cli_common common;
    bool wait, record;
    struct opt_num timeout;
};

#define AT(field) offsetof(struct result_options, field)

/* clang-format off */
static const struct opt opts[] = {
    {.name = "wait", .kind = OPT_FLAG, .group = "Result Options", .offset = AT(wait), .help = "Wait until the task has ended."},
    {.name = "timeout", .kind = OPT_FLOAT, .arg = "SECONDS", .group = "Result Options", .offset = AT(timeout), .help = "Wait no longer than this.", .initial = "for ever"},
    {.name = "record", .kind = OPT_FLAG, .group = "Result Options", .offset = AT(record), .help = "Print the whole stored record."},
    {.short_name = 't', .name = "task", .kind = OPT_MOOT_VALUE, .arg = "NAME"},
    {.name = "traceback", .kind = OPT_MOOT},
    CLI_COMMON_OPTS,
    {0},
};
/* clang-format on */

const struct opt_table cli_result_table = {
    .command = "result",
    .usage = "[OPTIONS] ID",
    .about = "Print the result of a task as JSON. Exit code 1 when it failed (exception and "
             "traceback go to "
             "stderr), 3 when there is no result yet.",
    .opts = opts,
};

static int fetch(const struct result_options *o, const struct settings *s, const char *id,
                 char **ret_record, struct err *e)
{
    CLEANUP(redis_endpoint_deinit) struct redis_endpoint ep = {.text = NULL};
    CLEANUP(redis_sync_close) struct redis_sync *c = NULL;
    const char *prefix = s->result_keyprefix ? s->result_keyprefix : "";
    bool has = false;
    int r = config_backend(o->common.result_backend, s, &ep, &has, e);
    if (r == 0 && !has)
        r = err_set(e, -EINVAL,
                    "no result backend: give --result-backend or CELERY_RESULT_BACKEND");
    if (r == 0)
        r = redis_sync_open(&ep, CONNECT_MS, &c, e);
    if (r)
        return r;
    if (!o->wait)
        return result_get(c, prefix, id, ret_record, e);
    r = result_wait(c, prefix, id, o->timeout.set ? (int64_t)(o->timeout.v * 1000) : -1, ret_record,
                    e);
    return r == -ETIMEDOUT ? 0 : r;
}

static int show(const struct result_options *o, const char *record)
{
    if (!record) {
        (void)fputs("PENDING\n", stderr);
        return CLI_EX_NOT_READY;
    }
    if (o->record) {
        (void)puts(record);
        return 0;
    }
    return cli_print_record(slice_str(record));
}

int cmd_result(int argc, char **argv)
{
    struct result_options o = {.wait = false};
    CLEANUP(strv_deinit) struct strv words = {NULL, 0};
    CLEANUP(settings_deinit) struct settings s = {.broker_url = NULL};
    CLEANUP(mem_free) char *record = NULL;
    struct err e = ERR_INIT;
    int code = CLI_EX_FAILED;
    if (cli_begin(&cli_result_table, argc, argv, &o, &words, &code) == 0) {
        if (words.n != 1) {
            code = cli_usage(&cli_result_table, words.n ? "Got unexpected extra arguments."
                                                        : "Missing argument 'ID'.");
        } else if (cli_settings(&o.common, &s) == 0) {
            int r = fetch(&o, &s, words.v[0], &record, &e);
            code = r ? cli_fail(&e, r) : show(&o, record);
        }
    }
    opt_clear(&cli_result_table, &o);
    return code;
}
