/* SPDX-License-Identifier: Apache-2.0 */
/* A pidfile is stale when it does not hold a pid, holds our own (pid 1 in a container), or nobody we may signal has it. */

#include "celeryc/worker/pidfile.h"

#include "celeryc/base/buf.h"
#include "celeryc/base/num.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

static bool stale(const char *path, pid_t *ret_pid)
{
    char text[32];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT;
    ssize_t n = read(fd, text, sizeof(text));
    (void)close(fd);
    uint32_t pid;
    if (n < 2 || text[n - 1] != '\n' || num_parse_u32((struct slice){text, (size_t)n - 1}, &pid) ||
        pid == 0 || (pid_t)pid == getpid())
        return true;
    *ret_pid = (pid_t)pid;
    return kill((pid_t)pid, 0) != 0 && (errno == ESRCH || errno == EPERM);
}

static int make(const char *path)
{
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
    if (fd < 0)
        return -errno;
    char text[32];
    int len = snprintf(text, sizeof(text), "%d\n", (int)getpid());
    int r = write(fd, text, (size_t)len) == len ? 0 : -EIO;
    if (close(fd) != 0)
        r = -EIO;
    if (r)
        (void)unlink(path);
    return r;
}

int pidfile_take(const char *path, bool *ret_stale, struct err *e)
{
    pid_t pid = 0;
    bool was_stale = false;
    int r = make(path);
    if (r == -EEXIST && stale(path, &pid)) {
        (void)unlink(path);
        was_stale = true;
        r = make(path);
    }
    if (r == -EEXIST)
        return err_set(e, r, "pidfile %s already exists: another worker runs with pid %d", path,
                       (int)pid);
    if (r)
        return err_set(e, r, "cannot write pidfile %s: %s", path, err_errno(r));
    *ret_stale = was_stale;
    return 0;
}

void pidfile_remove(const char *path)
{
    if (path)
        (void)unlink(path);
}
