/* SPDX-License-Identifier: Apache-2.0 */
/* The command line, one table. */

#include "k8s/scaler/config.h"

#include <errno.h>

#define AT(field) offsetof(struct options, field)

static const char *const dry_runs[] = {"client", "server", NULL};
static const char *const states[] = {"lease", "none", NULL};
static const char *const shells[] = {"bash", "zsh", "man", NULL};

#define WHAT "What to scale"
#define HOW  "How to run"
#define KUBE "Kubernetes"
#define SHOW "To look"

/* clang-format off */
static const struct opt opts[] = {
    {.name = "config", .short_name = 'c', .kind = OPT_STRING, .arg = "FILE", .group = WHAT, .offset = AT(config), .help = "JSON file with \"redis\", \"kubernetes\" and \"targets\". What else is given here is stronger."},
    {.name = "broker", .short_name = 'b', .kind = OPT_STRING, .arg = "URL", .group = WHAT, .offset = AT(broker), .help = "redis://..., as Celery writes it. Passwords are better in the environment: CELERY_BROKER_URL, or the variable that the file names."},
    {.name = "global-keyprefix", .kind = OPT_STRING, .arg = "TEXT", .group = WHAT, .offset = AT(key_prefix), .help = "Celery's global_keyprefix."},
    {.name = "deployment", .short_name = 'd', .kind = OPT_STRING, .arg = "NAME", .group = WHAT, .offset = AT(deployment), .help = "The Deployment of the workers; of a file with several targets only this one."},
    {.name = "queues", .short_name = 'Q', .kind = OPT_LIST, .arg = "NAMES", .group = WHAT, .offset = AT(queues), .help = "The queues that they consume.", .initial = "celery"},
    {.name = "set", .kind = OPT_REPEAT, .arg = "RULE=VALUE", .group = WHAT, .offset = AT(set), .help = "A rule of every target; may be given again. The rules are listed below."},
    {.name = "lease", .kind = OPT_STRING, .arg = "NAME", .group = WHAT, .offset = AT(lease), .help = "Lease that holds lock and memory.", .initial = "scatter-scale-DEPLOYMENT"},
    {.name = "pod-costs", .kind = OPT_FLAG, .group = WHAT, .offset = AT(pod_costs), .help = "Mark idle pods as the first to go (needs \"patch pods\")."},
    {.name = "without-heartbeat", .kind = OPT_FLAG, .group = WHAT, .offset = AT(without_heartbeat), .help = "The workers send no heartbeats: lower only when nothing waits and nothing is unacknowledged. Only for workers with acks_late."},
    {.name = "namespace", .short_name = 'n', .kind = OPT_STRING, .arg = "NAME", .group = KUBE, .offset = AT(namespace), .help = "Default: POD_NAMESPACE, the service account's, the context's."},
    {.name = "kubeconfig", .kind = OPT_STRING, .arg = "FILE", .group = KUBE, .offset = AT(kubeconfig), .help = "Default: KUBECONFIG, the service account of the pod, ~/.kube/config."},
    {.name = "context", .kind = OPT_STRING, .arg = "NAME", .group = KUBE, .offset = AT(context), .help = "Context of the kubeconfig."},
    {.name = "use-proxy", .kind = OPT_FLAG, .group = KUBE, .offset = AT(proxy), .help = "Use https_proxy and no_proxy inside a cluster, too."},
    {.name = "loop", .kind = OPT_FLAG, .group = HOW, .offset = AT(loop), .help = "Stay and run every --interval seconds."},
    {.name = "interval", .kind = OPT_FLOAT, .arg = "SECONDS", .min = 1, .group = HOW, .offset = AT(interval_s), .help = "Seconds between two runs of --loop.", .initial = "the shortest period_s"},
    {.name = "listen", .kind = OPT_STRING, .arg = "HOST:PORT", .group = HOW, .offset = AT(listen), .help = "--loop: serve /metrics and /livez here, \":9100\" on every address."},
    {.name = "textfile", .kind = OPT_STRING, .arg = "FILE", .group = HOW, .offset = AT(textfile), .help = "Write the metrics to this file after each run (for node_exporter)."},
    {.name = "deadline", .kind = OPT_FLOAT, .arg = "SECONDS", .min = 1, .group = HOW, .offset = AT(deadline_s), .help = "What a run may take.", .initial = "50"},
    {.name = "state", .kind = OPT_CHOICE, .choices = states, .group = HOW, .offset = AT(state), .help = "none: without a Lease, without a memory, for a trial.", .initial = "lease"},
    {.name = "dry-run", .kind = OPT_CHOICE, .choices = dry_runs, .group = SHOW, .offset = AT(dry_run), .help = "client: decide and write nothing; server: the API server checks the change and does not store it."},
    {.name = "explain", .kind = OPT_FLAG, .group = SHOW, .offset = AT(explain), .help = "Say how the decision came about, rule by rule; writes nothing."},
    {.name = "check", .kind = OPT_FLAG, .group = SHOW, .offset = AT(check), .help = "Check configuration, Redis, its rights and key types, the API server and every right there."},
    {.name = "replay", .kind = OPT_STRING, .arg = "FILE", .group = SHOW, .offset = AT(replay), .help = "Decide the cases of a file (\"-\": standard input), without Redis or Kubernetes."},
    {.name = "completion", .kind = OPT_CHOICE, .choices = shells, .group = SHOW, .offset = AT(completion), .help = "Print the completion for a shell, or the man page."},
    {.name = "version", .kind = OPT_FLAG, .group = SHOW, .offset = AT(version), .help = "Print the version."},
    {0},
};
/* clang-format on */

const struct opt_table options_table = {
    .program = "scatter-scale",
    .usage = "[OPTIONS]",
    .about = "Scales the Deployment of Celery workers by the load of their queues, to zero and "
             "back, and never takes away a pod that is not known to be idle. Run it every minute "
             "by a CronJob, or with --loop. One JSON line for each Deployment is printed. Exit "
             "codes: 0 done, held by a rule, or another one holds the Lease; 75 Redis or the API "
             "server cannot be reached, nothing was lowered; 77 a right is missing; 78 the "
             "configuration is wrong; 70 a defect of this program.",
    .opts = opts,
};

void options_clear(struct options *o)
{
    opt_clear(&options_table, o);
}

int options_read(struct options *o, int argc, char **argv, struct err *e)
{
    int r = opt_parse(&options_table, argc - 1, argv + 1, o, NULL, e);

    if (r)
        return r;
    if (o->loop && (o->explain || o->check || o->replay))
        return err_set(e, OPT_E_USAGE, "--loop does not go with --explain, --check or --replay");
    if (o->listen && !o->loop)
        return err_set(e, OPT_E_USAGE, "--listen needs --loop");
    if (o->listen && !strrchr(o->listen, ':'))
        return err_set(e, OPT_E_USAGE, "--listen: \"%s\" is no HOST:PORT", o->listen);
    return 0;
}

static void write_default(struct buf *dst, const struct field *f, const void *defaults)
{
    size_t start = dst->len;

    buf_appendf(dst, "  %s ", f->name);
    while (dst->len - start < 22 && !dst->failed)
        buf_append_char(dst, ' ');
    field_write(dst, f, defaults);
    buf_append_char(dst, ' ');
    while (dst->len - start < 34 && !dst->failed)
        buf_append_char(dst, ' ');
    buf_appendf(dst, "%s\n", f->help);
}

void options_write_help(struct buf *dst)
{
    struct decide_rules defaults;

    decide_rules_default(&defaults);
    opt_write_help(dst, &options_table);
    buf_append_str(dst, "\nRules, with their defaults; in the file beside \"deployment\", here "
                        "--set RULE=VALUE:\n");
    for (const struct field *f = rule_fields; f->name; f++)
        write_default(dst, f, &defaults);
}
