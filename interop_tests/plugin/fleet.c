/* SPDX-License-Identifier: Apache-2.0 */
/* The tasks of the random canvases; their twins in Python, and what they are for, are in harness/fleet_app.py. */

#include <celeryc/client.h>
#include <celeryc/task.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ARGS_SHOWN = 200, MARK_MAX = 64 };

static uint32_t crc(uint32_t sum, const char *p, size_t len)
{
    sum = ~sum;
    for (size_t i = 0; i < len; i++) {
        sum ^= (unsigned char)p[i];
        for (int bit = 0; bit < 8; bit++)
            sum = (sum >> 1) ^ (0xedb88320U & (0U - (sum & 1)));
    }
    return ~sum;
}

static uint32_t digest(struct celeryc_call *call)
{
    size_t n_args, n_kwargs;
    const char *args = celeryc_args_json(call, &n_args);
    const char *kwargs = celeryc_kwargs_json(call, &n_kwargs);

    return crc(crc(0, args, n_args), kwargs, n_kwargs);
}

/* The keyword arguments start with {"mark": "...". */
static void mark_of(struct celeryc_call *call, char mark[MARK_MAX])
{
    size_t len, n = 0;
    const char *kwargs = celeryc_kwargs_json(call, &len);
    static const char start[] = "{\"mark\": \"";

    mark[0] = '-';
    mark[1] = '\0';
    if (len < sizeof start || memcmp(kwargs, start, sizeof start - 1))
        return;
    for (const char *p = kwargs + sizeof start - 1; *p != '"' && n < MARK_MAX - 1; p++)
        mark[n++] = *p;
    mark[n] = '\0';
}

static void note_line(struct celeryc_call *call, const char *id, int64_t retries, const char *node,
                      const char *args, size_t len)
{
    char line[1024], mark[MARK_MAX];
    int fd = open(getenv("CANVAS_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    int n;

    mark_of(call, mark);
    n = snprintf(line, sizeof line, "%s\t%s\t%lld\t%s\t%08x\t%.*s\n", mark, id, (long long)retries,
                 node, digest(call), (int)(len < ARGS_SHOWN ? len : ARGS_SHOWN), args);
    if (fd < 0 || write(fd, line, (size_t)n) != n)
        abort();
    close(fd);
}

static void note(struct celeryc_call *call)
{
    size_t len;
    const char *args = celeryc_args_json(call, &len);

    note_line(call, celeryc_task_id(call), celeryc_retries(call), celeryc_hostname(call), args,
              len);
}

static int sum(struct celeryc_call *call)
{
    note(call);
    return celeryc_return_int(call, digest(call));
}
CELERYC_TASK("canvas.sum", sum)
CELERYC_TASK("canvas.late", sum, .acks_late = true)

static int echo(struct celeryc_call *call)
{
    size_t len;
    const char *args = celeryc_args_json(call, &len);

    note(call);
    return celeryc_return_json(call, args, len);
}
CELERYC_TASK("canvas.echo", echo)

static int fail(struct celeryc_call *call)
{
    char args[256], mark[MARK_MAX];

    note(call);
    mark_of(call, mark);
    snprintf(args, sizeof args, "[\"boom\", \"%s\", %u]", mark, digest(call));
    return celeryc_raise_json(call, "ValueError", args);
}
CELERYC_TASK("canvas.fail", fail)

/* {"mark": "...", "n": 2} */
static int again(struct celeryc_call *call)
{
    size_t len;
    const char *n = strstr(celeryc_kwargs_json(call, &len), "\"n\": ");

    note(call);
    if (n && celeryc_retries(call) < strtol(n + 5, NULL, 10))
        return celeryc_retry(call, 0.1);
    return celeryc_return_int(call, digest(call));
}
CELERYC_TASK("canvas.again", again)

static int give_up(struct celeryc_call *call)
{
    char mark[MARK_MAX];

    note(call);
    mark_of(call, mark);
    celeryc_retry_cause(call, "KeyError", mark);
    return celeryc_retry(call, 0.1);
}
CELERYC_TASK("canvas.give_up", give_up, .max_retries = 1)

/* {"mark": "...", "sig": {...}} */
static struct celeryc_sig *sig_of(struct celeryc_call *call)
{
    static const char key[] = "\"sig\": ";
    size_t len;
    const char *kwargs = celeryc_kwargs_json(call, &len);
    const char *sig = strstr(kwargs, key) + sizeof key - 1;

    return celeryc_sig_from_json(sig, (size_t)(kwargs + len - 1 - sig));
}

static int swap(struct celeryc_call *call)
{
    struct celeryc_sig *sig = sig_of(call);
    int end;

    note(call);
    end = celeryc_replace(call, sig);
    celeryc_sig_free(sig);
    return end;
}
CELERYC_TASK("canvas.swap", swap)

static int join(struct celeryc_call *call)
{
    struct celeryc_sig *sig;
    size_t len;
    const char *args = celeryc_args_json(call, &len);
    uint32_t value = crc(crc(0, args, len), "{}", 2);

    note(call);
    if (!celeryc_request(call, "chord", &len))
        return celeryc_return_int(call, value);
    sig = sig_of(call);
    if (celeryc_add_to_chord(call, sig))
        return celeryc_raise(call, "RuntimeError", "add_to_chord");
    celeryc_sig_free(sig);
    return celeryc_return_int(call, value);
}
CELERYC_TASK("canvas.join", join)

static int errback(struct celeryc_call *call)
{
    note(call);
    return celeryc_return_int(call, 1);
}
CELERYC_TASK("canvas.errback", errback)

static int not_a_task(struct celeryc_call *call)
{
    return celeryc_raise(call, "TypeError", "this is an errback");
}

static int inline_errback(struct celeryc_call *call, const struct celeryc_failure *f)
{
    char args[256];
    int len = snprintf(args, sizeof args, "[\"%s\", \"%s\"]", f->task_id, f->exc_type);

    note_line(call, "-", 0, "-", args, (size_t)len);
    return 0;
}
CELERYC_TASK("canvas.inline", not_a_task, .errback = inline_errback)
