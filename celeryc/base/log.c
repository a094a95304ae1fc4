/* SPDX-License-Identifier: Apache-2.0 */
/* Log lines. The state here is one of the few static ones: log_init runs before any thread, afterwards the level is
 * atomic and the process name stands under a mutex. A line is built on the stack and leaves by one write(2), so that
 * lines of threads and processes never mix. Nothing here may block for long or take a lock over a system call: a
 * descriptor that stays full for WRITE_WAIT_MS loses the line. */

#include "celeryc/base/log.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/limits.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#define PROCESS_NAME_SIZE 64
#define WRITE_WAIT_MS     100
#define STAMP_SIZE        32

static _Atomic int log_level = LOG_INFO;
static _Atomic int log_fd = STDERR_FILENO;

/* Guards log_process; nothing else may be taken with it, and it is never held over a system call. */
static pthread_mutex_t process_lock = PTHREAD_MUTEX_INITIALIZER;
static char log_process[PROCESS_NAME_SIZE] = "MainProcess";

static const char *const level_names[] = {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"};

void log_init(enum log_level level, const char *process, int fd)
{
    atomic_store(&log_fd, fd);
    log_set_level(level);
    log_set_process(process);
}

void log_set_level(enum log_level level)
{
    atomic_store_explicit(&log_level, (int)level, memory_order_relaxed);
}

void log_set_process(const char *process)
{
    (void)pthread_mutex_lock(&process_lock);
    (void)snprintf(log_process, sizeof(log_process), "%s", process);
    (void)pthread_mutex_unlock(&process_lock);
}

bool log_enabled(enum log_level level)
{
    return (int)level >= atomic_load_explicit(&log_level, memory_order_relaxed);
}

int log_level_parse(const char *name, enum log_level *ret_level)
{
    for (size_t i = 0; i < ARRAY_SIZE(level_names); i++) {
        if (strcasecmp(name, level_names[i]) == 0) {
            *ret_level = (enum log_level)i;
            return 0;
        }
    }
    if (strcasecmp(name, "FATAL") == 0) {
        *ret_level = LOG_CRITICAL;
        return 0;
    }
    if (strcasecmp(name, "WARN") == 0) {
        *ret_level = LOG_WARNING;
        return 0;
    }
    return -EINVAL;
}

/* "2026-01-02 03:04:05,678" in local time. The part up to the second is kept for each thread, because the C library
 * takes its time zone lock for every conversion. */
static void format_stamp(char dst[STAMP_SIZE])
{
    static _Thread_local time_t known_s = -1;
    static _Thread_local char known[STAMP_SIZE];
    int64_t now_us = clock_wall_us();
    time_t now_s = (time_t)(now_us / 1000000);
    struct tm tm;

    if (now_s != known_s) {
        if (!localtime_r(&now_s, &tm) || !strftime(known, sizeof(known), "%Y-%m-%d %H:%M:%S", &tm))
            known[0] = '\0';
        known_s = now_s;
    }
    (void)snprintf(dst, STAMP_SIZE, "%.23s,%03d", known, (int)(now_us / 1000 % 1000));
}

static void write_all(int fd, const char *p, size_t len)
{
    while (len) {
        ssize_t n = write(fd, p, len);

        if (n >= 0) {
            p += n;
            len -= (size_t)n;
        } else if (errno == EAGAIN) {
            struct pollfd pfd = {.fd = fd, .events = POLLOUT};

            if (poll(&pfd, 1, WRITE_WAIT_MS) == 0)
                return;
        } else if (errno != EINTR) {
            return;
        }
    }
}

/* The head of a line: stamp, level, process and for task lines the task. Gives its length. */
static size_t format_head(char *dst, size_t size, enum log_level level, const char *task_name,
                          const char *task_id)
{
    char stamp[STAMP_SIZE], process[PROCESS_NAME_SIZE];
    int n;

    format_stamp(stamp);
    (void)pthread_mutex_lock(&process_lock);
    memcpy(process, log_process, sizeof(process));
    (void)pthread_mutex_unlock(&process_lock);
    if (task_name)
        n = snprintf(dst, size, "[%s: %s/%s] %s[%s]: ", stamp, level_names[level], process,
                     task_name, task_id ? task_id : "???");
    else
        n = snprintf(dst, size, "[%s: %s/%s] ", stamp, level_names[level], process);
    return MIN((size_t)MAX(n, 0), size - 1);
}

static PRINTF_LIKE(4, 0) void write_line(enum log_level level, const char *task_name,
                                         const char *task_id, const char *fmt, va_list ap)
{
    int saved_errno = errno; /* callers log and then look at errno */
    char line[LIMIT_LOG_LINE];
    const size_t room = sizeof(line) - sizeof("...\n");
    size_t len = format_head(line, room, level, task_name, task_id);
    int n, dots = 3;

    errno = saved_errno; /* for %m */
    n = vsnprintf(line + len, room - len, fmt, ap);
    if (n > 0 && (size_t)n >= room - len) {
        len = room - 1;
        /* Not in the middle of a UTF-8 character: the last one goes when it has several bytes. */
        while (len && ((unsigned char)line[len - 1] & 0xc0) == 0x80)
            len--;
        if (len && (unsigned char)line[len - 1] >= 0xc0)
            len--;
        while (len < sizeof(line) - 1 && dots--)
            line[len++] = '.';
    } else {
        len += (size_t)MAX(n, 0);
    }
    line[len++] = '\n';
    write_all(atomic_load(&log_fd), line, len);
    errno = saved_errno;
}

void log_write(enum log_level level, const char *fmt, ...)
{
    va_list ap;

    if (!log_enabled(level))
        return;
    va_start(ap, fmt);
    write_line(level, NULL, NULL, fmt, ap);
    va_end(ap);
}

void log_write_task(enum log_level level, const char *task_name, const char *task_id,
                    const char *fmt, ...)
{
    va_list ap;

    if (!log_enabled(level))
        return;
    va_start(ap, fmt);
    write_line(level, task_name ? task_name : "???", task_id, fmt, ap);
    va_end(ap);
}
