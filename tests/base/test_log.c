/* SPDX-License-Identifier: Apache-2.0 */
/* Log lines into a pipe. */

#include "celeryc/base/limits.h"
#include "celeryc/base/log.h"

#include <criterion/criterion.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static int ends[2];
static char line[LIMIT_LOG_LINE + 100];

static void start(enum log_level level)
{
    cr_assert_eq(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
    log_init(level, "MainProcess", ends[1]);
}

/* What has been written so far. */
static const char *written(void)
{
    ssize_t n = read(ends[0], line, sizeof(line) - 1);

    line[n > 0 ? n : 0] = '\0';
    return line;
}

/* True when text is "[YYYY-MM-DD hh:mm:ss,mmm: " and then rest. */
static bool has_stamp_and(const char *text, const char *rest)
{
    static const char shape[] = "[dddd-dd-dd dd:dd:dd,ddd: ";

    for (size_t i = 0; i < sizeof(shape) - 1; i++) {
        if (shape[i] == 'd' ? !isdigit((unsigned char)text[i]) : text[i] != shape[i])
            return false;
    }
    return strcmp(text + sizeof(shape) - 1, rest) == 0;
}

Test(log, has_celerys_formats)
{
    start(LOG_INFO);
    log_info("Connected to %s", "redis://:**@h/0");
    cr_assert(has_stamp_and(written(), "INFO/MainProcess] Connected to redis://:**@h/0\n"), "%s",
              line);
    log_set_process("ForkPoolWorker-2");
    log_warning("two\nlines");
    cr_assert(has_stamp_and(written(), "WARNING/ForkPoolWorker-2] two\nlines\n"), "%s", line);
    log_write_task(LOG_ERROR, "app.add", "i1", "x=%d", 5);
    cr_assert(has_stamp_and(written(), "ERROR/ForkPoolWorker-2] app.add[i1]: x=5\n"), "%s", line);
    log_critical("c");
    cr_assert(has_stamp_and(written(), "CRITICAL/ForkPoolWorker-2] c\n"), "%s", line);
}

Test(log, respects_the_level)
{
    start(LOG_WARNING);
    log_debug("no");
    log_info("no");
    log_write_task(LOG_INFO, "t", "i", "no");
    cr_assert_str_eq(written(), "");
    log_set_level(LOG_DEBUG);
    log_debug("yes");
    cr_assert(has_stamp_and(written(), "DEBUG/MainProcess] yes\n"));
    cr_assert(log_enabled(LOG_DEBUG));
}

Test(log, cuts_long_lines_between_characters)
{
    CLEANUP(mem_free) char *text = malloc(3 * LIMIT_LOG_LINE);
    size_t len;

    for (size_t i = 0; i < 3 * LIMIT_LOG_LINE - 3; i += 3)
        memcpy(text + i, "\xe2\x98\x83", 4);
    start(LOG_INFO);
    for (int shift = 0; shift < 3; shift++) {
        log_info("%.*s%s", shift, "ab", text);
        len = strlen(written());
        cr_assert(len <= LIMIT_LOG_LINE && len > LIMIT_LOG_LINE - 20);
        cr_assert_str_eq(line + len - 7, "\xe2\x98\x83...\n");
    }
}

Test(log, keeps_errno_and_survives_a_full_pipe)
{
    start(LOG_INFO);
    while (write(ends[1], line, 4096) > 0)
        ;
    errno = ENOENT;
    log_info("lost");
    cr_assert_eq(errno, ENOENT);
}

Test(log, level_names)
{
    static const struct {
        const char *name;
        enum log_level level;
    } good[] = {{"debug", LOG_DEBUG},   {"INFO", LOG_INFO},   {"Warning", LOG_WARNING},
                {"WARN", LOG_WARNING},  {"error", LOG_ERROR}, {"critical", LOG_CRITICAL},
                {"FATAL", LOG_CRITICAL}};
    enum log_level level;

    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        cr_assert_eq(log_level_parse(good[i].name, &level), 0);
        cr_assert_eq(level, good[i].level);
    }
    cr_assert_eq(log_level_parse("", &level), -EINVAL);
    cr_assert_eq(log_level_parse("10", &level), -EINVAL);
}
