/* SPDX-License-Identifier: Apache-2.0 */
/* celeryc call --canvas: sends a chain, group or chord as Celery writes it, through the client library. */

#include "celeryc/base/limits.h"
#include "celeryc/cli/cli.h"
#include "celeryc/client/client.h"
#include "celeryc/message/json.h"

#include <errno.h>
#include <stdio.h>

static void client_cleanup(struct celeryc_client **c)
{
    celeryc_client_free(*c);
}

static void sig_cleanup(struct celeryc_sig **s)
{
    celeryc_sig_free(*s);
}

static void result_cleanup(struct celeryc_result **r)
{
    celeryc_result_free(*r);
}

static int read_stream(FILE *f, const char *name, struct buf *dst, struct err *e)
{
    char chunk[8192];
    size_t n;
    while ((n = fread(chunk, 1, sizeof(chunk), f)) > 0 && dst->len <= LIMIT_MESSAGE_BYTES)
        buf_append(dst, chunk, n);
    if (ferror(f))
        return err_set(e, -EIO, "--canvas: cannot read %s", name);
    if (dst->len > LIMIT_MESSAGE_BYTES)
        return err_set(e, -E2BIG, "--canvas: %s is larger than %u bytes", name,
                       LIMIT_MESSAGE_BYTES);
    return buf_ok(dst);
}

/* The text itself, of a file, or of standard input. */
static int read_signature(const char *from, struct buf *dst, struct err *e)
{
    if (from[0] == '-' && !from[1])
        return read_stream(stdin, "standard input", dst, e);
    if (from[0] != '@') {
        buf_append_str(dst, from);
        return buf_ok(dst);
    }
    FILE *f = fopen(from + 1, "re");
    if (!f) {
        int r = -errno;
        return err_set(e, r, "--canvas: cannot read %s: %s", from + 1, err_errno(r));
    }
    int r = read_stream(f, from + 1, dst, e);
    (void)fclose(f);
    return r;
}

/* In the words for a single task. */
static int print(struct celeryc_result *result)
{
    CLEANUP(buf_deinit) struct buf record = BUF_INIT;
    const char *traceback = celeryc_result_traceback(result);
    buf_append_str(&record, "{\"status\": ");
    json_write_string(&record, slice_str(celeryc_result_state(result)));
    buf_append_str(&record, ", \"result\": ");
    buf_append_str(&record, celeryc_result_json(result, NULL));
    buf_append_str(&record, ", \"traceback\": ");
    json_write_string_or_null(&record, slice_str(traceback));
    buf_append_char(&record, '}');
    struct err e = ERR_INIT;
    int r = buf_ok(&record);
    return r ? cli_fail(&e, r) : cli_print_record(buf_slice(&record));
}

static int wait_and_print(const struct canvas_call_options *o, const struct celeryc_client *c,
                          struct celeryc_result *result, struct err *e, int *ret_code)
{
    int r = celeryc_result_wait(result, o->timeout_s);
    if (r == -ETIMEDOUT) {
        (void)fprintf(stderr, "Error: canvas %s has no result yet\n", celeryc_result_id(result));
        *ret_code = CLI_EX_NOT_READY;
        return 0;
    }
    if (r)
        return err_set(e, r, "%s", celeryc_client_error(c));
    *ret_code = print(result);
    return 0;
}

int cli_call_canvas(const struct canvas_call_options *o, struct settings *s_take, struct err *e,
                    int *ret_code)
{
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    CLEANUP(client) struct celeryc_client *c = NULL;
    CLEANUP(sig) struct celeryc_sig *s = NULL;
    CLEANUP(result) struct celeryc_result *result = NULL;
    int r = read_signature(o->signature, &text, e);
    if (r)
        return r;
    s = celeryc_sig_from_json(text.data, text.len);
    if (celeryc_sig_error(s))
        return err_set(e, OPT_E_USAGE, "Invalid value for '--canvas': %s", celeryc_sig_error(s));
    c = client_of_settings(s_take, o->broker, o->backend);
    if (!c)
        return -ENOMEM;
    if (o->wait && !client_has_backend(c))
        return err_set(e, -EINVAL, "%s",
                       celeryc_client_error(c)
                           ? celeryc_client_error(c)
                           : "--wait needs a result backend: give --result-backend or "
                             "CELERY_RESULT_BACKEND, the one that the workers use");
    result = celeryc_client_apply(c, s, o->options);
    if (!result)
        return err_set(e, -EIO, "%s", celeryc_client_error(c));
    if (o->wait)
        return wait_and_print(o, c, result, e, ret_code);
    (void)puts(celeryc_result_id(result));
    *ret_code = 0;
    return 0;
}
