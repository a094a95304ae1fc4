/* SPDX-License-Identifier: Apache-2.0 */
#include "celeryc/task/registry.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <unistd.h>

static int nothing(struct celeryc_call *call)
{
    return 0;
}

static int errback(struct celeryc_call *call, const struct celeryc_failure *f)
{
    (void)f;
    return nothing(call);
}

static int with_context(struct celeryc_call *call, void *ctx)
{
    return 0;
}

static int add(struct task_registry *r, const char *name, struct err *e)
{
    struct celeryc_task t = {.name = name, .run = nothing};
    return task_registry_add(r, &t, NULL, NULL, e);
}

Test(registry, finds_by_name_in_order)
{
    CLEANUP(task_registry_free) struct task_registry *r = task_registry_new();
    static const char *const names[] = {"m", "a", "z", "aa", "b.c", "b"};
    static const char *const sorted[] = {"a", "aa", "b", "b.c", "m", "z"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        cr_assert_eq(add(r, names[i], NULL), 0);
    cr_assert_eq(task_registry_len(r), 6);
    for (size_t i = 0; i < 6; i++)
        cr_assert_str_eq(task_registry_at(r, i)->name, sorted[i]);
    cr_assert_null(task_registry_at(r, 6));
    cr_assert_str_eq(task_registry_find(r, SLICE_LIT("aa"))->name, "aa");
    cr_assert_null(task_registry_find(r, SLICE_LIT("aaa")));
    cr_assert_null(task_registry_find(r, SLICE_NULL));
}

Test(registry, fills_in_defaults)
{
    CLEANUP(task_registry_free) struct task_registry *r = task_registry_new();
    cr_assert_eq(add(r, "x", NULL), 0);
    const struct task_info *i = task_registry_find(r, SLICE_LIT("x"));
    cr_assert(i->acks_on_failure && !i->acks_late && !i->ignore_result);
    cr_assert_eq(i->max_retries, 3);
    cr_assert_eq(i->default_retry_delay, 180.0);
    struct celeryc_task never = {.name = "n", .run = nothing, .max_retries = CELERYC_RETRY_NEVER};
    cr_assert_eq(task_registry_add(r, &never, NULL, NULL, NULL), 0);
    cr_assert_eq(task_registry_find(r, SLICE_LIT("n"))->max_retries, 0);
}

Test(registry, refuses_what_makes_no_sense)
{
    static const struct celeryc_task bad[] = {
        {.name = NULL, .run = nothing},
        {.name = "", .run = nothing},
        {.name = "with space", .run = nothing},
        {.name = "line\nbreak", .run = nothing},
        {.name = "no.function"},
        {.name = "rate", .run = nothing, .rate_limit = "fast"},
        {.name = "rate", .run = nothing, .rate_limit = "10/d"},
        {.name = "rate", .run = nothing, .rate_limit = "10/"},
        {.name = "rate", .run = nothing, .rate_limit = "-1/s"},
        {.name = "names", .run = nothing, .arg_names = "a b"},
        {.name = "names", .run = nothing, .arg_names = "a,,b"},
        {.name = "names", .run = nothing, .arg_names = "1a"},
        {.name = "time", .run = nothing, .time_limit = -1},
        {.name = "time", .run = nothing, .default_retry_delay = __builtin_nan("")},
        {.name = "retries", .run = nothing, .max_retries = -3},
        {.name = "priority", .run = nothing, .priority = 10},
        {.name = "expires", .run = nothing, .expires = -1},
    };
    CLEANUP(task_registry_free) struct task_registry *r = task_registry_new();
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct err e = ERR_INIT;
        cr_assert_eq(task_registry_add(r, &bad[i], NULL, NULL, &e), -EINVAL, "case %zu", i);
        cr_assert(e.text[0], "case %zu has no text", i);
    }
    cr_assert_eq(task_registry_len(r), 0);
    struct celeryc_task context = {.name = "context"};
    cr_assert_eq(task_registry_add(r, &context, with_context, NULL, NULL), 0);
    struct err e = ERR_INIT;
    cr_assert_eq(add(r, "context", &e), -EEXIST);
    cr_assert(strstr(e.text, "\"context\"") && strstr(e.text, "twice"));
}

Test(registry, loads_a_plug_in_with_all_options)
{
    struct err e = ERR_INIT;
    CLEANUP(task_registry_free) struct task_registry *r = task_registry_new();
    cr_assert_eq(task_registry_load(r, GOOD_SO, &e), 0, "%s", e.text);
    const struct task_info *i = task_registry_find(r, SLICE_LIT("good.task"));
    cr_assert_not_null(i);
    cr_assert(i->acks_late && !i->acks_on_failure && i->reject_on_worker_lost && i->ignore_result &&
              i->store_errors_even_if_ignored && i->track_started);
    cr_assert_eq(i->max_retries, -1);
    cr_assert(i->default_retry_delay == 1.5 && i->time_limit == 20 && i->soft_time_limit == 10);
    cr_assert_str_eq(i->rate_limit, "10/s");
    /* A second table sees the same plug-in, although its constructors do not run again. */
    CLEANUP(task_registry_free) struct task_registry *again = task_registry_new();
    cr_assert_eq(task_registry_load(again, GOOD_SO, &e), 0);
    cr_assert_eq(task_registry_len(again), 1);
}

Test(registry, loads_a_plug_in_of_an_older_header)
{
    struct err e = ERR_INIT;
    CLEANUP(task_registry_free) struct task_registry *r = task_registry_new();
    cr_assert_eq(task_registry_load(r, OLDER_SO, &e), 0, "%s", e.text);
    const struct task_info *i = task_registry_find(r, SLICE_LIT("older.task"));
    cr_assert_not_null(i);
    cr_assert_eq(i->max_retries, 7);
    cr_assert_str_eq(i->rate_limit, "10/s");
    cr_assert(!i->retry_on_worker_lost && !i->has_errback && !i->queue && i->priority == 0 &&
              i->expires == 0);
}

Test(registry, keeps_the_newer_options_on_the_way_to_the_master)
{
    const struct celeryc_task t = {.name = "t",
                                   .run = nothing,
                                   .errback = errback,
                                   .retry_on_worker_lost = true,
                                   .queue = "fast",
                                   .priority = 7,
                                   .expires = 2.5};
    struct err e = ERR_INIT;
    CLEANUP(task_registry_free) struct task_registry *r = task_registry_new();
    CLEANUP(task_registry_free) struct task_registry *far = NULL;
    CLEANUP(buf_deinit) struct buf bytes = BUF_INIT;
    cr_assert_eq(task_registry_add(r, &t, NULL, NULL, &e), 0, "%s", e.text);
    cr_assert_eq(task_registry_encode(r, &bytes), 0);
    cr_assert_eq(task_registry_decode(buf_slice(&bytes), &far, &e), 0, "%s", e.text);
    const struct task_info *i = task_registry_find(far, SLICE_LIT("t"));
    cr_assert(i->retry_on_worker_lost && i->has_errback && i->priority == 7 && i->expires == 2.5);
    cr_assert_str_eq(i->queue, "fast");
}

Test(registry, names_a_plug_in_as_shells_do)
{
    struct err e = ERR_INIT;
    CLEANUP(task_registry_free) struct task_registry *r = task_registry_new();
    char dir[] = "/tmp/registry-XXXXXX", before[4096];
    cr_assert(getcwd(before, sizeof before) && mkdtemp(dir) && chdir(dir) == 0);
    cr_assert_eq(symlink(GOOD_SO, "mine.so"), 0);
    cr_assert_eq(task_registry_load(r, "mine", &e), 0, "%s", e.text);
    CLEANUP(task_registry_free) struct task_registry *whole = task_registry_new();
    cr_assert_eq(task_registry_load(whole, "mine.so", &e), 0, "%s", e.text);
    cr_assert(task_registry_len(r) == 1 && task_registry_len(whole) == 1);
    cr_assert(unlink("mine.so") == 0 && chdir(before) == 0 && rmdir(dir) == 0);
}

static void refused(const char *path, int code, const char *cause, const char *fix)
{
    struct err e = ERR_INIT;
    CLEANUP(task_registry_free) struct task_registry *r = task_registry_new();
    int rc = task_registry_load(r, path, &e);
    cr_assert_eq(rc, code, "%s gave %d", path, rc);
    cr_assert(strstr(e.text, cause), "no \"%s\" in: %s", cause, e.text);
    cr_assert(strstr(e.text, fix), "no \"%s\" in: %s", fix, e.text);
    cr_assert(!strchr(e.text, '\n'));
}

Test(registry, says_why_a_plug_in_does_not_load)
{
    refused("", -ENOENT, "empty", "give the path");
    refused("no_such_plugin", -ENOENT, "./no_such_plugin not found", "-A");
    refused("/etc/passwd", -EINVAL, "/etc/passwd", "cc -shared");
    refused(UNDEFINED_SO, -EINVAL, "celeryc_not_invented_yet", "rebuild it");
    refused(NEWER_SO, -EINVAL, "ABI 2", "install a newer celeryc");
    refused(CLASH_SO, -EEXIST, "same.name", "rename one");
}

Test(registry, travels)
{
    CLEANUP(task_registry_free) struct task_registry *r = task_registry_new();
    CLEANUP(task_registry_free) struct task_registry *back = NULL;
    CLEANUP(buf_deinit) struct buf bytes = BUF_INIT;
    struct celeryc_task full = {.name = "full",
                                .run = nothing,
                                .arg_names = "a,b",
                                .rate_limit = "1/m",
                                .acks_late = true,
                                .max_retries = 7,
                                .default_retry_delay = 0.25,
                                .soft_time_limit = 3};
    struct err e = ERR_INIT;
    cr_assert_eq(task_registry_add(r, &full, NULL, NULL, NULL), 0);
    cr_assert_eq(add(r, "plain", NULL), 0);
    cr_assert_eq(task_registry_encode(r, &bytes), 0);
    cr_assert_eq(task_registry_decode(buf_slice(&bytes), &back, &e), 0);
    cr_assert_eq(task_registry_len(back), 2);
    const struct task_info *i = task_registry_find(back, SLICE_LIT("full"));
    cr_assert(i->acks_late && i->acks_on_failure && i->max_retries == 7);
    cr_assert(i->default_retry_delay == 0.25 && i->soft_time_limit == 3);
    cr_assert(strcmp(i->arg_names, "a,b") == 0 && strcmp(i->rate_limit, "1/m") == 0);
    cr_assert_null(task_registry_find(back, SLICE_LIT("plain"))->arg_names);
    for (size_t len = 0; len < bytes.len; len++) {
        struct task_registry *cut = NULL;
        cr_assert_eq(task_registry_decode((struct slice){bytes.data, len}, &cut, NULL), -EINVAL);
        cr_assert_null(cut);
    }
}
