/* SPDX-License-Identifier: Apache-2.0 */
/* scatter-plan: parses the command line, runs one command, prints its result.
 *
 * The result goes to standard output, everything else to standard error. Exit codes: 0 done, 1 failed (one line says
 * what to do), 2 a mistake on the command line, 3 a check that does not hold, 128 + n ended by signal n. */

#include "celeryc/message/json.h"
#include "planner/plan.h"
#include "planner/stop.h"

#include <errno.h>

static void json_text(struct buf *dst, const char *name, const char *text)
{
    buf_appendf(dst, "\"%s\": ", name);
    json_write_string_or_null(dst, slice_str(text));
}

static void write_json(struct buf *dst, const struct result *r)
{
    buf_append_char(dst, '{');
    json_text(dst, "plan", r->plan);
    buf_appendf(dst, ", \"total\": %lld, \"batches\": %lld, \"enqueued\": %lld",
                (long long)r->total, (long long)r->batches, (long long)r->enqueued);
    if (r->dry_run) {
        buf_append_str(dst, ", \"dry_run\": true, ");
        json_text(dst, "first_key", r->first_key);
        buf_append_str(dst, ", ");
        json_text(dst, "last_key", r->last_key);
        buf_appendf(dst, ", \"sample\": [%s]", r->sample.data ? r->sample.data : "");
        if (r->preflight.len) {
            buf_append_str(dst, ", \"preflight\": ");
            buf_append_slice(dst, buf_slice(&r->preflight));
            buf_append_str(dst, ", ");
            json_text(dst, "preflight_text", r->preflight_text.data);
        }
    }
    if (r->note) {
        buf_append_str(dst, ", ");
        json_text(dst, "note", r->note);
    }
    buf_append_str(dst, "}\n");
}

static void write_text(struct buf *dst, const struct result *r)
{
    char total[32], batches[32], enqueued[32];

    (void)progress_number(r->total, total);
    (void)progress_number(r->batches, batches);
    (void)progress_number(r->enqueued, enqueued);
    if (r->total == 0) {
        buf_append_str(dst, "0 records: nothing to do\n");
        if (r->note)
            buf_appendf(dst, "note     %s\n", r->note);
        return;
    }
    buf_appendf(dst, "plan     %s%s\nrecords  %s in %s batches\n", r->plan ? r->plan : "",
                r->dry_run ? " (dry run: nothing was written)" : "", total, batches);
    if (r->dry_run)
        buf_appendf(dst, "keys     %s to %s\nsample   %s\n", r->first_key, r->last_key,
                    r->sample.data ? r->sample.data : "");
    else
        buf_appendf(dst, "store    %s\nsent     %s messages to queue %s\n",
                    r->store ? r->store : "", enqueued, r->queue ? r->queue : "");
    buf_append_slice(dst, buf_slice(&r->preflight_text));
    if (r->note)
        buf_appendf(dst, "note     %s\n", r->note);
}

static int run(const struct args *a, struct progress *p, struct buf *out, bool *ret_holds,
               struct err *e)
{
    CLEANUP(result_deinit) struct result r = {0};
    CLEANUP(servers_deinit) struct servers s = {0};
    int code = 0;

    switch (a->command) {
    case COMMAND_STATUS:
        return plan_status(a, out, e);
    case COMMAND_PAUSE:
    case COMMAND_RESUME:
    case COMMAND_CANCEL:
    case COMMAND_DRAIN:
        return plan_control(a, out, e);
    case COMMAND_SET:
        return plan_set(a, out, e);
    case COMMAND_SWEEP:
        return plan_sweep(a, out, e);
    case COMMAND_GOVERNOR:
        return plan_governor(a, out, e);
    case COMMAND_CREATE:
        code = plan_create(a, p, &r, e);
        break;
    case COMMAND_REDRIVE:
        code = plan_redrive(a, p, &r, e);
        break;
    case COMMAND_UNDO:
        code = plan_undo(a, p, &r, e);
        break;
    case COMMAND_REPORT:
        return plan_report(a, out, e);
    case COMMAND_AUDIT:
        return plan_audit(a, out, ret_holds, e);
    case COMMAND_VERIFY:
        return plan_verify(a, p, out, ret_holds, e);
    case COMMAND_ENQUEUE:
        code = servers_open_db(&s, a->database_url, e);
        if (!code)
            code = servers_open_broker(&s, a->broker, e);
        if (!code)
            code = plan_enqueue(&s, a, a->plan, p, &r, e);
        break;
    }
    if (code)
        return code;
    *ret_holds = !r.blocked;
    if (str_eq(a->format, "json"))
        write_json(out, &r);
    else
        write_text(out, &r);
    return buf_ok(out);
}

static int print(const struct buf *out)
{
    if (out->len && fwrite(out->data, 1, out->len, stdout) != out->len)
        return -EIO;
    return fflush(stdout) ? -EIO : 0;
}

static int failed(struct progress *p, struct err *e, int code)
{
    progress_clear(p);
    (void)fprintf(stderr, "scatter-plan: %s\n", err_text(e, code));
    return stop_signal() ? 128 + stop_signal() : code == ARGS_E_MISTAKE ? 2 : 1;
}

int main(int argc, char **argv)
{
    CLEANUP(args_deinit) struct args a = {0};
    CLEANUP(buf_deinit) struct buf out = BUF_INIT;
    struct progress p = {0};
    struct err e = ERR_INIT;
    bool holds = true;
    int code = args_parse(argc, argv, &a, &out, &e);

    if (code == ARGS_E_HELP)
        return print(&out) ? 1 : 0;
    if (code)
        return failed(&p, &e, code);
    stop_on_signals();
    progress_init(&p, a.progress);
    code = run(&a, &p, &out, &holds, &e);
    if (!code)
        code = print(&out);
    if (code)
        return failed(&p, &e, code);
    return holds ? 0 : 3;
}
