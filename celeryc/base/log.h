/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Log lines in Celery's worker format: `[2026-01-02 03:04:05,678: INFO/MainProcess] text`.
 *
 * One write(2) a line, so that lines of several processes never mix. log_* takes the text first and then
 * key=value details. Secrets are never passed in. The format matched: celery/app/defaults.py worker_log_format. */

#include "celeryc/base/util.h"

#include <stdbool.h>
#include <stdint.h>

enum log_level {
    LOG_DEBUG,
    LOG_INFO,
    LOG_WARNING,
    LOG_ERROR,
    LOG_CRITICAL,
};

/* Called once per process before any thread starts. process: "MainProcess", "ForkPoolWorker-1". fd is borrowed. */
void log_init(enum log_level level, const char *process, int fd);
void log_set_level(enum log_level level);
void log_set_process(const char *process);
bool log_enabled(enum log_level level);

/* "DEBUG".."FATAL" in any case. Returns 0 or -EINVAL. */
int log_level_parse(const char *name, enum log_level *ret_level) WARN_UNUSED;

/* A line; text longer than LIMIT_LOG_LINE is cut with "...". Multi-line text is written as it is. */
void log_write(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* A line in Celery's task format: `[time: LEVEL/process] name[id]: text` for lines written from inside a task. */
void log_write_task(enum log_level level, const char *task_name, const char *task_id,
                    const char *fmt, ...) PRINTF_LIKE(4, 5);

#define log_debug(...)                         \
    do {                                       \
        if (log_enabled(LOG_DEBUG))            \
            log_write(LOG_DEBUG, __VA_ARGS__); \
    } while (0)
#define log_info(...)     log_write(LOG_INFO, __VA_ARGS__)
#define log_warning(...)  log_write(LOG_WARNING, __VA_ARGS__)
#define log_error(...)    log_write(LOG_ERROR, __VA_ARGS__)
#define log_critical(...) log_write(LOG_CRITICAL, __VA_ARGS__)
