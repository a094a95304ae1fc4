/* SPDX-License-Identifier: Apache-2.0 */
/* celeryc purge: empties queues after asking. */

#include "celeryc/cli/cli.h"
#include "celeryc/worker/config.h"
#include "celeryc/worker/queues.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct purge_options {
    struct cli_common common;
    struct strv queues, exclude;
    bool force;
};

#define AT(field) offsetof(struct purge_options, field)

/* clang-format off */
static const struct opt opts[] = {
    {.short_name = 'f', .name = "force", .kind = OPT_FLAG, .group = "Purging Options", .offset = AT(force), .help = "Do not ask."},
    {.short_name = 'Q', .name = "queues", .kind = OPT_LIST, .arg = "QUEUES", .group = "Purging Options", .offset = AT(queues), .help = "Queues to empty, comma-separated.", .initial = "task_queues, else task_default_queue"},
    {.short_name = 'X', .name = "exclude-queues", .kind = OPT_LIST, .arg = "QUEUES", .group = "Purging Options", .offset = AT(exclude), .help = "Queues to leave alone."},
    CLI_COMMON_OPTS,
    {0},
};
/* clang-format on */

const struct opt_table cli_purge_table = {
    .command = "purge",
    .usage = "[OPTIONS]",
    .about = "Remove all messages from queues, of every priority. Messages that a worker holds "
             "stay. There is no "
             "undo.",
    .opts = opts,
};

static int pick_queues(struct purge_options *o, const struct settings *s, struct strv *ret)
{
    const struct strv *from = o->queues.n ? &o->queues : &s->queues;
    int r = 0;
    for (size_t i = 0; r == 0 && i < from->n; i++)
        r = strv_has(ret, from->v[i]) ? 0 : strv_add(ret, from->v[i]);
    if (r == 0 && from->n == 0)
        r = strv_add(ret, s->default_queue ? s->default_queue : "celery");
    for (size_t i = 0; r == 0 && i < o->exclude.n; i++)
        strv_drop(ret, o->exclude.v[i]);
    return r;
}

static bool confirmed(const struct strv *queues)
{
    (void)printf("WARNING: This will remove all tasks from %s: ",
                 queues->n == 1 ? "queue" : "queues");
    for (size_t i = 0; i < queues->n; i++)
        (void)printf("%s%s", i ? ", " : "", queues->v[i]);
    (void)printf(".\n         There is no undo for this operation!\n\n"
                 "(to skip this prompt use the -f option)\n"
                 "Are you sure you want to delete all tasks? [y/N]: ");
    (void)fflush(stdout);
    char line[16];
    if (!fgets(line, sizeof(line), stdin))
        return false;
    line[strcspn(line, "\n")] = '\0';
    return strcasecmp(line, "y") == 0 || strcasecmp(line, "yes") == 0;
}

static int purge(struct purge_options *o, const struct settings *s, struct err *e, int *ret_code)
{
    CLEANUP(strv_deinit) struct strv queues = {NULL, 0};
    CLEANUP(redis_endpoint_deinit) struct redis_endpoint ep = {.text = NULL};
    uint64_t n = 0;
    int r = pick_queues(o, s, &queues);
    if (r == 0)
        r = config_broker(o->common.broker, s, &ep, e);
    if (r)
        return r;
    if (queues.n && !o->force && !confirmed(&queues)) {
        (void)fputs("Aborted!\n", stderr);
        *ret_code = CLI_EX_FAILED;
        return 0;
    }
    r = queues_purge(&ep, s, &queues, &n, e);
    if (r)
        return r;
    const char *word = queues.n == 1 ? "queue" : "queues";
    if (n)
        (void)printf("Purged %llu %s from %zu known task %s.\n", (unsigned long long)n,
                     n == 1 ? "message" : "messages", queues.n, word);
    else
        (void)printf("No messages purged from %zu %s.\n", queues.n, word);
    *ret_code = 0;
    return 0;
}

int cmd_purge(int argc, char **argv)
{
    struct purge_options o = {.force = false};
    CLEANUP(settings_deinit) struct settings s = {.broker_url = NULL};
    struct err e = ERR_INIT;
    int code = CLI_EX_FAILED;
    if (cli_begin(&cli_purge_table, argc, argv, &o, NULL, &code) == 0 &&
        cli_settings(&o.common, &s) == 0) {
        int r = purge(&o, &s, &e, &code);
        if (r)
            code = cli_fail(&e, r);
    }
    opt_clear(&cli_purge_table, &o);
    return code;
}
