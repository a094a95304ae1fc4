/* SPDX-License-Identifier: Apache-2.0 */
/* The parts around the options. */

#include "k8s/scaler/completion.h"

#include "k8s/scaler/config.h"

static void write_bash(struct buf *b)
{
    buf_append_str(b, "# bash completion for scatter-scale\n_scatter_scale()\n{\n"
                      "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
                      "    case $prev in\n");
    for (const struct opt *o = options_table.opts; o->name; o++)
        opt_write_bash_values(b, o);
    buf_append_str(b, "    esac\n    COMPREPLY=($(compgen -W \"");
    opt_write_bash_words(b, &options_table);
    buf_append_str(b, "\" -- \"$cur\"))\n}\ncomplete -F _scatter_scale scatter-scale\n");
}

static void write_zsh(struct buf *b)
{
    buf_append_str(b,
                   "#compdef scatter-scale\n# zsh completion for scatter-scale\n_arguments \\\n");
    for (const struct opt *o = options_table.opts; o->name; o++)
        opt_write_zsh(b, o);
    buf_append_str(b, "            '--help[Show help]'\n");
}

static void man_rule(struct buf *b, const struct field *f, const struct decide_rules *defaults)
{
    CLEANUP(buf_deinit) struct buf value = BUF_INIT;

    field_write(&value, f, defaults);
    buf_append_str(b, ".TP\n.B ");
    opt_write_roff(b, f->name);
    buf_append_char(b, '\n');
    opt_write_roff(b, f->help);
    buf_append_str(b, " Default: ");
    opt_write_roff(b, value.data ? value.data : "");
    buf_append_str(b, ".\n");
}

static void write_man(struct buf *b)
{
    struct decide_rules defaults;

    decide_rules_default(&defaults);
    buf_append_str(b, ".TH SCATTER\\-SCALE 1 \"\" \"celeryc\" \"User Commands\"\n.SH NAME\n"
                      "scatter\\-scale \\- scale Celery workers on Kubernetes by their load\n"
                      ".SH SYNOPSIS\n.B scatter\\-scale\n.RI [ options ]\n.SH DESCRIPTION\n");
    opt_write_roff(b, options_table.about);
    buf_append_str(b, "\n.SH OPTIONS\n");
    for (const struct opt *o = options_table.opts; o->name; o++)
        opt_write_man(b, o);
    buf_append_str(b, ".SH RULES\nIn the file beside \\fIdeployment\\fR, or "
                      "\\fB\\-\\-set\\fR \\fIRULE=VALUE\\fR.\n");
    for (const struct field *f = rule_fields; f->name; f++)
        man_rule(b, f, &defaults);
    buf_append_str(
        b,
        ".SH FILES\nThe file of \\fB\\-\\-config\\fR:\n.PP\n.nf\n"
        "{\"redis\": {\"url_env\": \"REDIS_URL\"},\n"
        " \"targets\": [{\"deployment\": \"worker\", \"queues\": [\"celery\"],\n"
        "              \"concurrency\": 2, \"max\": 20}]}\n.fi\n"
        ".SH ENVIRONMENT\n"
        ".TP\n.B CELERY_BROKER_URL\nRedis, when neither an option nor the file names it.\n"
        ".TP\n.B POD_NAME, POD_NAMESPACE\nHolder of the Lease and namespace, inside a cluster.\n"
        ".TP\n.B KUBECONFIG\nA kubeconfig, outside of one.\n"
        ".SH EXIT STATUS\n0: done, held by a rule, or another one holds the Lease. 1: a case of "
        "\\fB\\-\\-replay\\fR did not come out as expected. 70: a defect of the program. 75: Redis "
        "or the API server could not be reached. 77: a right or a credential is missing. 78: the "
        "configuration is wrong. Nothing is ever lowered after an error.\n"
        ".SH SEE ALSO\n.BR celeryc (1),\n.BR scatter\\-plan (1)\n");
}

void completion_write(struct buf *dst, const char *kind)
{
    if (str_eq(kind, "bash"))
        write_bash(dst);
    else if (str_eq(kind, "zsh"))
        write_zsh(dst);
    else
        write_man(dst);
}
