/* SPDX-License-Identifier: Apache-2.0 */
/* The start banner. */

#include "celeryc/worker/banner.h"

#include <criterion/criterion.h>
#include <string.h>

static int nothing(struct celeryc_call *call)
{
    (void)call;
    return 0;
}

static void banner(enum log_level level, struct buf *dst)
{
    static char a[] = "a.so", b[] = "b.so", zeta[] = "zeta", celery[] = "celery", node[] = "w1@box",
                url[] = "redis://:**@h:6379/0";
    static char *apps[] = {a, b, NULL}, *queues[] = {zeta, celery, NULL};
    struct worker_config c = {
        .apps = {apps, 2},
        .queues = {queues, 2},
        .node = node,
        .loglevel = level,
        .concurrency = 3,
        .broker = {.masked = url},
    };
    struct err e = ERR_INIT;
    CLEANUP(task_registry_free) struct task_registry *r = task_registry_new();
    const struct celeryc_task one = {.name = "tasks.add", .run = nothing},
                              two = {.name = "celery.ping", .run = nothing};
    cr_assert_eq(task_registry_add(r, &one, NULL, NULL, &e), 0, "%s", e.text);
    cr_assert_eq(task_registry_add(r, &two, NULL, NULL, &e), 0, "%s", e.text);
    banner_write(dst, &c, r, "0.1.0", "Linux-6", "2026-01-02 03:04:05");
    cr_assert_eq(buf_ok(dst), 0);
}

Test(banner, tells_what_runs_where)
{
    struct buf b = BUF_INIT;
    banner(LOG_INFO, &b);
    static const char *const parts[] = {
        " -------------- w1@box v0.1.0 (celeryc)\n",
        "Linux-6 2026-01-02 03:04:05\n",
        ".> app:         a.so, b.so\n",
        ".> transport:   redis://:**@h:6379/0\n",
        ".> results:     disabled://\n",
        ".> concurrency: 3 (prefork)\n",
        ".> celery           exchange=celery(direct) key=celery\n",
        "[tasks]\n  . tasks.add\n",
    };
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
        cr_assert_neq(strstr(b.data, parts[i]), NULL, "no \"%s\" in:\n%s", parts[i], b.data);
    cr_assert_lt(strstr(b.data, ".> celery"), strstr(b.data, ".> zeta"), "queues are sorted");
    cr_assert_eq(strstr(b.data, "celery.ping"), NULL, "built-in names are for DEBUG");
    buf_deinit(&b);
}

Test(banner, task_list_depends_on_the_level)
{
    struct buf quiet = BUF_INIT, loud = BUF_INIT;
    banner(LOG_WARNING, &quiet);
    banner(LOG_DEBUG, &loud);
    cr_assert_eq(strstr(quiet.data, "[tasks]"), NULL);
    cr_assert_neq(strstr(loud.data, "  . celery.ping\n"), NULL);
    buf_deinit(&quiet);
    buf_deinit(&loud);
}
