/* SPDX-License-Identifier: Apache-2.0 */
/* Tasks for the pool's tests. */

#include <celeryc/client.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int echo(struct celeryc_call *call)
{
    const char *json;
    size_t len;
    if (celeryc_args(call, "j", &json, &len))
        return -1;
    return celeryc_return_json(call, json, len);
}
CELERYC_TASK("t.echo", echo)

static int pid(struct celeryc_call *call)
{
    return celeryc_return_int(call, getpid());
}
CELERYC_TASK("t.pid", pid)

static int die(struct celeryc_call *call)
{
    int64_t sig;
    if (celeryc_args(call, "i", &sig))
        return -1;
    (void)kill(getpid(), (int)sig);
    return celeryc_return_none(call);
}
CELERYC_TASK("t.die", die)

static int leave(struct celeryc_call *call)
{
    int64_t code;
    if (celeryc_args(call, "i", &code))
        return -1;
    _exit((int)code);
}
CELERYC_TASK("t.leave", leave)

/* Writes nonsense to the master, as a task that overwrites memory might. */
static int garbage(struct celeryc_call *call)
{
    for (int fd = 3; fd < 32; fd++) {
        struct stat st;
        if (fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode))
            (void)!write(fd, "this is no frame of this protocol", 33);
    }
    (void)pause();
    return celeryc_return_none(call);
}
CELERYC_TASK("t.garbage", garbage)

static void nap(void)
{
    (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* Runs until the file is there: the test decides when it ends. */
static int wait_file(struct celeryc_call *call)
{
    const char *path;
    if (celeryc_args(call, "s", &path))
        return -1;
    while (access(path, F_OK) != 0 && !celeryc_should_stop(call))
        nap();
    return celeryc_return_string(call, celeryc_should_stop(call) ? "stopped" : "seen");
}
CELERYC_TASK("t.wait", wait_file)

static int big(struct celeryc_call *call)
{
    int64_t n;
    if (celeryc_args(call, "i", &n))
        return -1;
    char *text = malloc((size_t)n + 1);
    if (!text)
        return -1;
    memset(text, 'x', (size_t)n);
    text[n] = '\0';
    int rc = celeryc_return_string(call, text);
    free(text);
    return rc;
}
CELERYC_TASK("t.big", big)

static int progress(struct celeryc_call *call)
{
    if (celeryc_update_state(call, "PROGRESS", "{\"done\": 1}") ||
        celeryc_send(call, "other.task", "[1]", NULL, NULL, 0, "child-id"))
        return -1;
    struct celeryc_sig *members[] = {celeryc_signature("a", NULL, NULL),
                                     celeryc_signature("b", NULL, NULL)};
    struct celeryc_sig *s =
        celeryc_chord(celeryc_group(2, members), celeryc_signature("c", NULL, NULL));
    int rc = celeryc_apply(call, s, NULL, NULL);
    celeryc_sig_free(s);
    return rc ? rc : celeryc_return_none(call);
}
CELERYC_TASK("t.progress", progress)
