/* SPDX-License-Identifier: Apache-2.0 */
/* What subcommands share: help, usage errors, settings, and the printing of a result. */

#include "celeryc/cli/cli.h"
#include "celeryc/message/record.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

int cli_usage(const struct opt_table *t, const char *text)
{
    (void)fprintf(stderr, "Usage: celeryc %s %s\nTry 'celeryc %s --help' for help.\n\nError: %s\n",
                  t->command, t->usage, t->command, text);
    return CLI_EX_USAGE;
}

int cli_fail(struct err *e, int code)
{
    (void)fprintf(stderr, "Error: %s\n", err_text(e, code));
    return CLI_EX_FAILED;
}

int cli_begin(const struct opt_table *t, int argc, char **argv, void *options,
              struct strv *ret_positional, int *ret_code)
{
    if (opt_wants_help(argc, argv)) {
        struct buf b = BUF_INIT;
        opt_write_help(&b, t);
        (void)fputs(b.data ? b.data : "", stdout);
        buf_deinit(&b);
        *ret_code = 0;
        return 1;
    }
    struct err e = ERR_INIT;
    int r = opt_parse(t, argc, argv, options, ret_positional, &e);
    if (r)
        *ret_code = r == OPT_E_USAGE ? cli_usage(t, err_text(&e, -EINVAL)) : cli_fail(&e, r);
    return r;
}

int cli_settings(const struct cli_common *o, struct settings *ret_s)
{
    struct err e = ERR_INIT;
    settings_init(ret_s);
    int r = 0;
    if (o->workdir && chdir(o->workdir) != 0)
        r = err_set(&e, -errno, "--workdir %s: %s", o->workdir, err_errno(errno));
    if (r == 0 && o->config)
        r = settings_load(ret_s, o->config, &e);
    if (r)
        (void)cli_fail(&e, r);
    return r;
}

static void print_text(struct arena *a, struct json_val v, FILE *to)
{
    struct slice text;
    if (json_string(a, v, &text) == 0)
        (void)fprintf(to, "%.*s\n", (int)text.len, text.p);
}

/* A state without its quotes. */
static struct slice bare(struct json_val v)
{
    if (v.kind == JSON_K_STRING && v.raw.len >= 2)
        return (struct slice){v.raw.p + 1, v.raw.len - 2};
    return v.raw;
}

static void print_failure(const struct record_view *v)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    if (!a)
        return;
    if (!json_is_null(v->traceback))
        print_text(a, v->traceback, stderr);
    struct slice type = SLICE_NULL;
    if (json_string(a, json_get(v->result, "exc_type"), &type))
        type = SLICE_NULL;
    struct json_val args = json_get(v->result, "exc_message");
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    if (type.p && args.kind == JSON_K_ARRAY)
        record_write_exception_repr(&text, type, args.raw);
    else
        buf_append_slice(&text, v->result.raw);
    struct slice status = bare(v->status);
    (void)fprintf(stderr, "%.*s: %s\n", (int)status.len, status.p, text.data ? text.data : "");
}

int cli_print_record(struct slice record)
{
    struct record_view v;
    struct err e = ERR_INIT;
    int r = record_parse(record, &v, &e);
    if (r)
        return cli_fail(&e, r);
    if (slice_eq_str(v.status.raw, "\"SUCCESS\"")) {
        (void)printf("%.*s\n", (int)v.result.raw.len, v.result.raw.p);
        return 0;
    }
    if (record_ready(&v)) {
        print_failure(&v);
        return CLI_EX_FAILED;
    }
    struct slice status = bare(v.status);
    (void)fprintf(stderr, "%.*s\n", (int)status.len, status.p);
    return CLI_EX_NOT_READY;
}
