/* SPDX-License-Identifier: Apache-2.0 */
/* Pidfiles and CPU quotas: what surrounds the process. */

#include "celeryc/worker/cpus.h"
#include "celeryc/worker/pidfile.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char path[] = "pidfile-XXXXXX";

static void put(const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    (void)close(fd);
}

static void setup(void)
{
    int fd = mkstemp(path);
    (void)close(fd);
    (void)unlink(path);
}

static void teardown(void)
{
    (void)unlink(path);
}

TestSuite(pidfile, .init = setup, .fini = teardown);

Test(pidfile, fresh_one_holds_the_pid)
{
    bool stale = true;
    struct err e = ERR_INIT;
    cr_assert_eq(pidfile_take(path, &stale, &e), 0, "%s", e.text);
    cr_assert_not(stale);
    char text[32] = "", mine[32];
    int fd = open(path, O_RDONLY);
    cr_assert_gt(read(fd, text, sizeof(text) - 1), 0);
    (void)close(fd);
    (void)snprintf(mine, sizeof(mine), "%d\n", (int)getpid());
    cr_assert_str_eq(text, mine);
    pidfile_remove(path);
    cr_assert_neq(access(path, F_OK), 0);
}

Test(pidfile, live_process_keeps_it)
{
    char text[32];
    bool stale = false;
    struct err e = ERR_INIT;
    (void)snprintf(text, sizeof(text), "%d\n", (int)getppid());
    put(text);
    cr_assert_eq(pidfile_take(path, &stale, &e), -EEXIST);
    cr_assert_neq(strstr(e.text, path), NULL, "%s", e.text);
}

Test(pidfile, stale_ones_are_taken_over)
{
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    (void)waitpid(child, NULL, 0);
    char dead[32], own[32];
    (void)snprintf(dead, sizeof(dead), "%d\n", (int)child);
    (void)snprintf(own, sizeof(own), "%d\n", (int)getpid());
    const char *const texts[] = {
        dead, own, "", "12", "not a pid\n", "0\n", "99999999999999999999\n"};
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        bool stale = false;
        struct err e = ERR_INIT;
        put(texts[i]);
        cr_assert_eq(pidfile_take(path, &stale, &e), 0, "\"%s\": %s", texts[i], e.text);
        cr_assert(stale);
        pidfile_remove(path);
    }
}

Test(pidfile, folder_that_is_not_there)
{
    bool stale;
    struct err e = ERR_INIT;
    cr_assert_eq(pidfile_take("no/such/folder/x.pid", &stale, &e), -ENOENT);
    cr_assert_neq(strstr(e.text, "no/such/folder/x.pid"), NULL, "%s", e.text);
}

Test(cpus, quota_texts)
{
    cr_assert_eq(cpus_quota("200000 100000"), 2);
    cr_assert_eq(cpus_quota("50000 100000\n"), 0.5);
    cr_assert_eq(cpus_quota("max 100000"), 0);
    cr_assert_eq(cpus_quota("-1 100000"), 0);
    cr_assert_eq(cpus_quota("100000 0"), 0);
    cr_assert_eq(cpus_quota("100000"), 0);
    cr_assert_eq(cpus_quota(""), 0);
}

Test(cpus, there_is_at_least_one)
{
    cr_assert_geq(cpus_available(), 1);
}
