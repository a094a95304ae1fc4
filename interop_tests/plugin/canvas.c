/* SPDX-License-Identifier: Apache-2.0 */
/* Tasks that apply canvases, put one in their place, or add to their chord; the twins are in harness/interop_app.py. */

#include <celeryc/client.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int type_error(struct celeryc_call *call)
{
    return celeryc_raise(call, "TypeError", "%s", celeryc_args_error(call));
}

/* The first argument, a signature. NULL: it does not fit. */
static struct celeryc_sig *sig_argument(struct celeryc_call *call)
{
    const char *json;
    size_t len;

    return celeryc_args(call, "j", &json, &len) ? NULL : celeryc_sig_from_json(json, len);
}

static int apply(struct celeryc_call *call)
{
    struct celeryc_sig *s = sig_argument(call);
    const char *result;
    int rc;

    if (!s)
        return type_error(call);
    rc = celeryc_apply(call, s, NULL, &result);
    celeryc_sig_free(s);
    return rc ? rc : celeryc_return_json(call, result, strlen(result));
}
CELERYC_TASK("interop.apply", apply, .arg_names = "sig")

static int replace(struct celeryc_call *call)
{
    struct celeryc_sig *s = sig_argument(call);
    int rc;

    if (!s)
        return type_error(call);
    rc = celeryc_replace(call, s);
    celeryc_sig_free(s);
    return rc;
}
CELERYC_TASK("interop.replace", replace, .arg_names = "sig")

static int add_to_chord(struct celeryc_call *call)
{
    struct celeryc_sig *s = sig_argument(call);
    int rc;

    if (!s)
        return type_error(call);
    rc = celeryc_add_to_chord(call, s);
    celeryc_sig_free(s);
    return rc ? rc : celeryc_return_int(call, 0);
}
CELERYC_TASK("interop.add_to_chord", add_to_chord, .arg_names = "sig")

static int field(struct celeryc_call *call)
{
    const char *name, *json;
    size_t len;

    if (celeryc_args(call, "s", &name))
        return type_error(call);
    json = celeryc_request(call, name, &len);
    return json ? celeryc_return_json(call, json, len) : celeryc_return_none(call);
}
CELERYC_TASK("interop.field", field, .arg_names = "name", .expires = 500, .priority = 3)

/* Until it runs with other arguments. */
static int retry_as(struct celeryc_call *call)
{
    const char *json;
    int64_t n;
    size_t len;

    if (celeryc_args(call, "ij", &n, &json, &len))
        return type_error(call);
    if (celeryc_retries(call) == 0) {
        celeryc_retry_args(call, "[5, \"again\"]", "{}");
        celeryc_retry_option(call, "priority", "6");
        celeryc_retry_option(call, "headers", "{\"shop\": \"north\"}");
        return celeryc_retry(call, 0.01);
    }
    json = celeryc_request(call, "headers", &len);
    celeryc_log(call, CELERYC_INFO, "headers %s priority %d", json, celeryc_priority(call));
    return n == 5 ? celeryc_return_json(call, json, len) : celeryc_return_none(call);
}
CELERYC_TASK("interop.retry_as", retry_as)

static int flaky_file(struct celeryc_call *call)
{
    int64_t good;

    if (celeryc_args(call, "i", &good))
        return type_error(call);
    if (celeryc_retries(call) < good)
        return celeryc_raise(call, "FileNotFoundError", "not yet");
    return celeryc_return_int(call, celeryc_retries(call));
}
CELERYC_TASK("interop.flaky_file", flaky_file, .autoretry_for = "OSError", .max_retries = 2,
             .default_retry_delay = 0.01)

/* A new style errback: a line with what it was told. */
static int on_error(struct celeryc_call *call, const struct celeryc_failure *f)
{
    const char *path;
    char line[1024];
    double seconds = 0;
    int fd, n;

    if (celeryc_args(call, "s|d", &path, &seconds))
        return type_error(call);
    (void)usleep((unsigned)(seconds * 1e6));
    n = snprintf(line, sizeof line, "%s %s %s\n", f->task_id, f->exc_type, f->exc_args);
    fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, line, (size_t)n) != n)
        return celeryc_raise(call, "OSError", "%s cannot be written", path);
    close(fd);
    return celeryc_raise(call, "RuntimeError", "an errback's own failure changes nothing");
}
CELERYC_TASK("interop.on_error", NULL, .errback = on_error)
