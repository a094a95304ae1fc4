/* SPDX-License-Identifier: Apache-2.0 */
/* Tasks of the interop tests that no user needs: they die, nap, give up. Their Python twins, with the same names and
 * options, are in harness/interop_app.py. Built by the tests with nothing but the public header. */

#include <celeryc/task.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int append_line(const char *path, const char *line)
{
    char text[512];
    int n = snprintf(text, sizeof text, "%s\n", line);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    int ok;

    if (fd < 0)
        return -1;
    ok = write(fd, text, (size_t)n) == n;
    close(fd);
    return ok ? 0 : -1;
}

static void pause_for(double seconds)
{
    struct timespec left = {.tv_sec = (time_t)seconds,
                            .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};

    while (nanosleep(&left, &left) && errno == EINTR)
        ;
}

static int64_t count_lines(const char *path, const char *line)
{
    char text[512];
    int64_t n = 0;
    FILE *f = fopen(path, "re");

    if (!f)
        return -1;
    while (fgets(text, sizeof text, f)) {
        text[strcspn(text, "\n")] = '\0';
        n += !line || !strcmp(text, line);
    }
    fclose(f);
    return n;
}

/* Notes the start; the first one of a line lasts `seconds`, later ones no time. -1: the error is raised in *ret_end. */
static int64_t hold_once(struct celeryc_call *call, int *ret_end)
{
    const char *path, *line;
    double seconds;
    int64_t starts;

    if (celeryc_args(call, "ssd", &path, &line, &seconds)) {
        *ret_end = celeryc_raise(call, "TypeError", "%s", celeryc_args_error(call));
        return -1;
    }
    if (append_line(path, line) || (starts = count_lines(path, line)) < 0) {
        *ret_end = celeryc_raise(call, "OSError", "%s: %s", path, strerror(errno));
        return -1;
    }
    if (starts == 1)
        pause_for(seconds);
    return starts;
}

static int hold(struct celeryc_call *call)
{
    int end;
    int64_t starts = hold_once(call, &end);

    return starts < 0 ? end : celeryc_return_int(call, starts);
}
CELERYC_TASK("interop.hold", hold)
CELERYC_TASK("interop.hold_late", hold, .acks_late = true)
CELERYC_TASK("interop.hold_lost", hold, .retry_on_worker_lost = true, .default_retry_delay = 1)

/* The first start ends with a retry, that is with a message; later ones return. */
static int hold_retry(struct celeryc_call *call)
{
    int end;
    int64_t starts = hold_once(call, &end);

    if (starts < 0)
        return end;
    return starts == 1 ? celeryc_retry(call, 0.01) : celeryc_return_int(call, starts);
}
CELERYC_TASK("interop.hold_retry", hold_retry, .acks_late = true)

/* Notes "s <line> <pid>" at its start and "e <line> <pid>" at its end. */
static int note(struct celeryc_call *call)
{
    const char *path, *line;
    char text[256];
    double seconds;

    if (celeryc_args(call, "ssd", &path, &line, &seconds))
        return celeryc_raise(call, "TypeError", "%s", celeryc_args_error(call));
    snprintf(text, sizeof text, "s %s %d", line, (int)getpid());
    if (append_line(path, text))
        return celeryc_raise(call, "OSError", "%s: %s", path, strerror(errno));
    pause_for(seconds);
    text[0] = 'e';
    if (append_line(path, text))
        return celeryc_raise(call, "OSError", "%s: %s", path, strerror(errno));
    return celeryc_return_none(call);
}
CELERYC_TASK("interop.note", note)
CELERYC_TASK("interop.note_late", note, .acks_late = true)

/* Leaves a process behind that ends when its parent is gone; returns its pid. */
static int orphan(struct celeryc_call *call)
{
    int pipes[2];
    pid_t left = 0;

    if (pipe(pipes))
        return celeryc_raise(call, "OSError", "pipe: %s", strerror(errno));
    pid_t child = fork();
    if (child == 0) {
        pid_t parent = getpid();
        left = fork();
        if (left == 0) {
            close(pipes[0]);
            while (getppid() == parent)
                usleep(1000);
            _exit(0);
        }
        _exit(write(pipes[1], &left, sizeof left) == sizeof left ? 0 : 1);
    }
    if (child < 0 || waitpid(child, NULL, 0) != child ||
        read(pipes[0], &left, sizeof left) != sizeof left)
        return celeryc_raise(call, "OSError", "%s", strerror(errno));
    close(pipes[0]);
    close(pipes[1]);
    return celeryc_return_int(call, left);
}
CELERYC_TASK("interop.orphan", orphan)

/* An errback: notes the id of the task that failed. */
static int note_failure(struct celeryc_call *call)
{
    const char *failed, *path;

    if (celeryc_args(call, "ss", &failed, &path))
        return celeryc_raise(call, "TypeError", "%s", celeryc_args_error(call));
    if (append_line(path, failed))
        return celeryc_raise(call, "OSError", "%s: %s", path, strerror(errno));
    return celeryc_return_none(call);
}
CELERYC_TASK("interop.note_failure", note_failure, .acks_late = true)

static int die(struct celeryc_call *call)
{
    int64_t number;

    if (celeryc_args(call, "i", &number))
        return celeryc_raise(call, "TypeError", "%s", celeryc_args_error(call));
    kill(getpid(), (int)number);
    for (;;)
        pause();
}
CELERYC_TASK("interop.die", die)

static int die_requeue(struct celeryc_call *call)
{
    const char *path;
    int64_t n, starts;

    if (celeryc_args(call, "si", &path, &n))
        return celeryc_raise(call, "TypeError", "%s", celeryc_args_error(call));
    if (append_line(path, "start") || (starts = count_lines(path, NULL)) < 0)
        return celeryc_raise(call, "OSError", "%s: %s", path, strerror(errno));
    if (starts < n)
        kill(getpid(), SIGKILL);
    return celeryc_return_int(call, starts);
}
CELERYC_TASK("interop.die_requeue", die_requeue, .acks_late = true, .reject_on_worker_lost = true)

/* With retry_on_worker_lost, a death is a retry. */
CELERYC_TASK("interop.die_retry", die_requeue, .retry_on_worker_lost = true, .max_retries = 2,
             .default_retry_delay = 1)
CELERYC_TASK("interop.die_retry_late", die_requeue, .retry_on_worker_lost = true, .max_retries = 2,
             .default_retry_delay = 1, .acks_late = true, .reject_on_worker_lost = true)

static int leave(struct celeryc_call *call)
{
    int64_t code;

    if (celeryc_args(call, "i", &code))
        return celeryc_raise(call, "TypeError", "%s", celeryc_args_error(call));
    exit((int)code);
}
CELERYC_TASK("interop.leave", leave)

static int ignore(struct celeryc_call *call)
{
    return celeryc_ignore(call);
}
CELERYC_TASK("interop.ignore", ignore)
CELERYC_TASK("interop.ignore_late", ignore, .acks_late = true)

static int reject(struct celeryc_call *call)
{
    const char *path;
    bool requeue;
    int64_t starts;

    if (celeryc_args(call, "sb", &path, &requeue))
        return celeryc_raise(call, "TypeError", "%s", celeryc_args_error(call));
    if (append_line(path, "start") || (starts = count_lines(path, NULL)) < 0)
        return celeryc_raise(call, "OSError", "%s: %s", path, strerror(errno));
    return starts < 3 ? celeryc_reject(call, "not now", requeue) : celeryc_return_int(call, starts);
}
CELERYC_TASK("interop.reject", reject)
CELERYC_TASK("interop.reject_late", reject, .acks_late = true)

static int progress(struct celeryc_call *call)
{
    char meta[64];
    int64_t done;

    if (celeryc_args(call, "i", &done))
        return celeryc_raise(call, "TypeError", "%s", celeryc_args_error(call));
    snprintf(meta, sizeof meta, "{\"done\": %lld}", (long long)done);
    if (celeryc_update_state(call, "PROGRESS", meta))
        return celeryc_raise(call, "RuntimeError", "update_state failed");
    return celeryc_return_string(call, "complete");
}
CELERYC_TASK("interop.progress", progress)

static int quiet(struct celeryc_call *call)
{
    const char *path;

    if (celeryc_args(call, "s", &path))
        return celeryc_raise(call, "TypeError", "%s", celeryc_args_error(call));
    if (append_line(path, "ran"))
        return celeryc_raise(call, "OSError", "%s: %s", path, strerror(errno));
    return celeryc_return_int(call, 1);
}
CELERYC_TASK("interop.quiet", quiet, .ignore_result = true)

static int tracked(struct celeryc_call *call)
{
    double seconds;

    if (celeryc_args(call, "d", &seconds))
        return celeryc_raise(call, "TypeError", "%s", celeryc_args_error(call));
    pause_for(seconds);
    return celeryc_return_double(call, seconds);
}
CELERYC_TASK("interop.tracked", tracked, .track_started = true)

static int raise_many(struct celeryc_call *call)
{
    return celeryc_raise_json(call, "ValueError", "[\"boom\", 7, null, [\"x\", 1.5]]");
}
CELERYC_TASK("interop.raise_many", raise_many)

static int give_up(struct celeryc_call *call)
{
    bool with_cause;

    if (celeryc_args(call, "b", &with_cause))
        return celeryc_raise(call, "TypeError", "%s", celeryc_args_error(call));
    if (with_cause)
        celeryc_retry_cause(call, "KeyError", "gone");
    return celeryc_retry(call, 0.01);
}
CELERYC_TASK("interop.give_up", give_up, .max_retries = 2)

static int named(struct celeryc_call *call)
{
    int64_t a, b = 10;

    if (celeryc_args(call, "i|i", &a, &b))
        return celeryc_raise(call, "TypeError", "%s", celeryc_args_error(call));
    return celeryc_return_int(call, a - b);
}
CELERYC_TASK("interop.named", named, .arg_names = "a,b")

static int spawn(struct celeryc_call *call)
{
    static const char child[] = "interop-spawned";
    char id[128], args[64];
    int64_t a, b;

    if (celeryc_args(call, "ii", &a, &b))
        return celeryc_raise(call, "TypeError", "%s", celeryc_args_error(call));
    snprintf(id, sizeof id, "%s-%s", child, celeryc_task_id(call));
    snprintf(args, sizeof args, "[%lld, %lld]", (long long)a, (long long)b);
    if (celeryc_send(call, "examples.add", args, NULL, NULL, 0, id))
        return celeryc_raise(call, "RuntimeError", "send failed");
    return celeryc_return_string(call, id);
}
CELERYC_TASK("interop.spawn", spawn)
