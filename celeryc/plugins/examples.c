/* SPDX-License-Identifier: Apache-2.0 */
/* Example tasks: a first plug-in to read, and what the tests run.
 *
 *     celeryc worker -A ./examples.so
 *
 * Every task names its arguments, so that callers may pass them by position or by keyword. */

#include <celeryc/client.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Arguments that do not fit are the caller's mistake: say so as Python would. */
static int type_error(struct celeryc_call *call)
{
    return celeryc_raise(call, "TypeError", "%s", celeryc_args_error(call));
}

/* examples.add(a, b): the sum; an int as long as both are. */
static int add(struct celeryc_call *call)
{
    int64_t a, b, sum;
    if (celeryc_args(call, "ii", &a, &b) == 0) {
        if (__builtin_add_overflow(a, b, &sum))
            return celeryc_raise(call, "OverflowError", "%lld + %lld does not fit into 64 bits",
                                 (long long)a, (long long)b);
        return celeryc_return_int(call, sum);
    }
    double x, y;
    if (celeryc_args(call, "dd", &x, &y))
        return type_error(call);
    return celeryc_return_double(call, x + y);
}
CELERYC_TASK("examples.add", add, .arg_names = "a,b")

/* examples.echo(value): any JSON, as it came. */
static int echo(struct celeryc_call *call)
{
    const char *json;
    size_t len;
    if (celeryc_args(call, "j", &json, &len))
        return type_error(call);
    return celeryc_return_json(call, json, len);
}
CELERYC_TASK("examples.echo", echo, .arg_names = "value")

static double now(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* examples.sleep(seconds): waits in small steps, so that a soft time limit or a shutdown ends it early; returns the
 * seconds that were asked for. */
static int sleep_task(struct celeryc_call *call)
{
    const char *json;
    size_t len;
    double seconds;
    if (celeryc_args(call, "d", &seconds) || celeryc_args(call, "j", &json, &len))
        return type_error(call);
    double end = now() + seconds, left;
    while ((left = end - now()) > 0 && !celeryc_should_stop(call)) {
        double step = left < 0.01 ? left : 0.01;
        struct timespec t = {.tv_sec = 0, .tv_nsec = (long)(step * 1e9)};
        (void)nanosleep(&t, NULL);
    }
    return celeryc_return_json(call, json, len);
}
CELERYC_TASK("examples.sleep", sleep_task, .arg_names = "seconds", .acks_late = true)

/* examples.fail(exc_type, message): raises that exception. */
static int fail(struct celeryc_call *call)
{
    const char *type = "ValueError", *message = "failed on purpose";
    if (celeryc_args(call, "|ss", &type, &message))
        return type_error(call);
    return celeryc_raise(call, type, "%s", message);
}
CELERYC_TASK("examples.fail", fail, .arg_names = "exc_type,message")

/* examples.flaky(key, n): fails and is retried after 0.05 s until attempt n, then returns n. The attempts are counted
 * by the message itself, so any worker may take the next one. */
static int flaky(struct celeryc_call *call)
{
    const char *key;
    int64_t n;
    if (celeryc_args(call, "si", &key, &n))
        return type_error(call);
    int64_t attempt = celeryc_retries(call) + 1;
    if (attempt >= n)
        return celeryc_return_int(call, n);
    char message[256];
    (void)snprintf(message, sizeof message, "%s: attempt %lld of %lld", key, (long long)attempt,
                   (long long)n);
    celeryc_retry_cause(call, "RuntimeError", message);
    return celeryc_retry(call, 0.05);
}
CELERYC_TASK("examples.flaky", flaky, .arg_names = "key,n", .max_retries = CELERYC_RETRY_FOREVER)

static int os_error(struct celeryc_call *call, int number, const char *path)
{
    const char *type = number == ENOENT   ? "FileNotFoundError"
                       : number == EACCES ? "PermissionError"
                                          : "OSError";
    errno = number; /* for %m */
    return celeryc_raise(call, type, "[Errno %d] %m: '%s'", number, path);
}

/* examples.append(path, line): adds a line to a file with a single write, so that lines of several workers never mix.
 * The ack comes after the run: when the worker dies in between, the line is there twice, never missing. */
static int append(struct celeryc_call *call)
{
    const char *path, *line;
    if (celeryc_args(call, "ss", &path, &line))
        return type_error(call);
    size_t len = strlen(line);
    char *text = malloc(len + 2);
    if (!text)
        return celeryc_raise(call, "MemoryError", "no memory for a line of %zu bytes", len);
    (void)snprintf(text, len + 2, "%s\n", line);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    ssize_t written = fd < 0 ? -1 : write(fd, text, len + 1);
    int number = errno;
    free(text);
    if (fd >= 0 && close(fd) < 0 && written >= 0) {
        number = errno;
        written = -1;
    }
    if (written < 0)
        return os_error(call, number, path);
    if ((size_t)written != len + 1)
        return celeryc_raise(call, "OSError", "only %zd of %zu bytes were written to '%s'", written,
                             len + 1, path);
    return celeryc_return_none(call);
}
CELERYC_TASK("examples.append", append, .arg_names = "path,line", .acks_late = true)

/* examples.total(numbers): the sum of a list; the body of a chord. */
static int total(struct celeryc_call *call)
{
    const char *json;
    size_t len;
    long long sum = 0;
    if (celeryc_args(call, "j", &json, &len))
        return type_error(call);
    for (const char *p = json + strcspn(json, "-0123456789"); *p; p += strcspn(p, "-0123456789")) {
        char *end;
        long long n = strtoll(p, &end, 10);
        if (end == p || *end == '.' || __builtin_add_overflow(sum, n, &sum))
            return celeryc_raise(call, "ValueError", "not a list of small integers: %s", json);
        p = end;
    }
    return celeryc_return_int(call, sum);
}
CELERYC_TASK("examples.total", total, .arg_names = "numbers")

/* A chord that adds i + i for each i below n, wherever the workers are, and sums it up. */
static struct celeryc_sig *doubles(int64_t n)
{
    struct celeryc_sig **members = calloc((size_t)n + 1, sizeof(*members));
    char args[64];
    if (!members)
        return NULL;
    for (int64_t i = 0; i < n; i++) {
        (void)snprintf(args, sizeof args, "[%lld, %lld]", (long long)i, (long long)i);
        members[i] = celeryc_signature("examples.add", args, NULL);
    }
    struct celeryc_sig *chord = celeryc_chord(celeryc_group((size_t)n, members),
                                              celeryc_signature("examples.total", NULL, NULL));
    free(members);
    return chord;
}

/* examples.fan_out(n): puts a chord in its own place. Whoever waits for this task gets the chord's result. */
static int fan_out(struct celeryc_call *call)
{
    int64_t n;
    if (celeryc_args(call, "i", &n))
        return type_error(call);
    if (n < 0 || n > 100000)
        return celeryc_raise(call, "ValueError", "n is between 0 and 100000");
    struct celeryc_sig *chord = doubles(n);
    int end = celeryc_replace(call, chord);
    celeryc_sig_free(chord);
    return end;
}
CELERYC_TASK("examples.fan_out", fan_out, .arg_names = "n")

/* examples.start(n): starts the same chord and goes on; returns the result's tuple, by which Python finds it again
 * (celery.result.result_from_tuple). */
static int start(struct celeryc_call *call)
{
    int64_t n;
    const char *tuple;
    if (celeryc_args(call, "i", &n))
        return type_error(call);
    if (n < 0 || n > 100000)
        return celeryc_raise(call, "ValueError", "n is between 0 and 100000");
    struct celeryc_sig *chord = doubles(n);
    int failed = celeryc_apply(call, chord, "{\"priority\": 3}", &tuple);
    celeryc_sig_free(chord);
    return failed ? failed : celeryc_return_json(call, tuple, strlen(tuple));
}
CELERYC_TASK("examples.start", start, .arg_names = "n")
