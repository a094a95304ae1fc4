/* SPDX-License-Identifier: Apache-2.0 */
/* celeryc/migrate/signature.c and restore.c: arguments into canvases, and the migration that a batch file asks for. */

#include "celeryc/migrate/runtime.h"
#include "celeryc/migrate/signature.h"

#include <criterion/criterion.h>
#include <errno.h>

static const struct {
    const char *signature, *merged;
} merges[] = {
    {"{\"task\": \"t\"}", "{\"task\": \"t\", \"kwargs\": {\"a\": 1}}"},
    {"{\"task\": \"t\", \"kwargs\": null}", "{\"task\": \"t\", \"kwargs\": {\"a\": 1}}"},
    /* The last one wins, in Python as well. */
    {"{\"task\": \"t\", \"kwargs\": {\"a\": 2, \"b\": 3}, \"args\": [1e3]}",
     "{\"task\": \"t\", \"kwargs\": {\"a\": 2, \"b\": 3, \"a\": 1}, \"args\": [1e3]}"},
    {"{\"task\": \"t\", \"kwargs\": {}, \"immutable\": true}",
     "{\"task\": \"t\", \"kwargs\": {}, \"immutable\": true}"},
    {"{\"task\": \"celery.chain\", \"kwargs\": {\"tasks\": [{\"task\": \"x\"}, {\"task\": "
     "\"y\"}]}}",
     "{\"task\": \"celery.chain\", \"kwargs\": {\"tasks\": [{\"task\": \"x\", \"kwargs\": {\"a\": "
     "1}}, "
     "{\"task\": \"y\"}]}}"},
    {"{\"task\": \"celery.group\", \"kwargs\": {\"tasks\": [{\"task\": \"x\"}, {\"task\": "
     "\"y\"}]}}",
     "{\"task\": \"celery.group\", \"kwargs\": {\"tasks\": [{\"task\": \"x\", \"kwargs\": {\"a\": "
     "1}}, "
     "{\"task\": \"y\", \"kwargs\": {\"a\": 1}}]}}"},
    {"{\"task\": \"celery.chord\", \"kwargs\": {\"header\": {\"task\": \"celery.group\", "
     "\"kwargs\": "
     "{\"tasks\": [{\"task\": \"x\"}]}}, \"body\": {\"task\": \"y\"}}}",
     "{\"task\": \"celery.chord\", \"kwargs\": {\"header\": {\"task\": \"celery.group\", "
     "\"kwargs\": "
     "{\"tasks\": [{\"task\": \"x\", \"kwargs\": {\"a\": 1}}]}}, \"body\": {\"task\": \"y\"}}}"},
    {"{\"task\": \"celery.map\", \"kwargs\": {\"it\": []}}",
     "{\"task\": \"celery.map\", \"kwargs\": {\"it\": []}}"},
};

Test(signature, arguments_go_where_the_canvas_begins)
{
    for (size_t i = 0; i < ARRAY_SIZE(merges); i++) {
        CLEANUP(buf_deinit) struct buf b = BUF_INIT;
        struct err e = ERR_INIT;

        cr_assert_eq(
            callback_merge(slice_str(merges[i].signature), SLICE_LIT("{\"a\": 1}"), &b, &e), 0,
            "%s", e.text);
        cr_assert_str_eq(b.data, merges[i].merged);
    }
}

Test(signature, what_is_none_is_refused)
{
    static const char *const wrong[] = {
        "", "{", "[]", "{}", "{\"task\": 1}", "nul", "{\"task\": null}"};

    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        CLEANUP(buf_deinit) struct buf b = BUF_INIT;
        struct err e = ERR_INIT;

        cr_assert_eq(callback_merge(slice_str(wrong[i]), SLICE_LIT("{}"), &b, &e), -EINVAL);
        cr_assert(e.text[0], "the reason is told");
    }
    cr_assert(callback_is_signature(" {"));
    cr_assert_not(callback_is_signature("tasks.add"));
}

static int restore_of(size_t n, const char *const *columns, struct scatter_migration *ret_m,
                      struct err *e)
{
    static struct arena *a;
    const struct batch_header h = {
        .table = (char *)"t", .key = (char *)"id", .columns = (char **)columns, .n_columns = n};

    arena_free(a);
    a = arena_new();
    return migrate_restore(&h, a, ret_m, e);
}

Test(restore, columns_come_with_the_file)
{
    struct scatter_migration m;
    struct err e = ERR_INIT;

    cr_assert_eq(restore_of(4, (const char *[]){"b", "a", "restore:a", "restore:b"}, &m, &e), 0,
                 "%s", e.text);
    cr_assert_eq(migrate_columns(m.writes), 2);
    cr_assert_eq(migrate_columns(m.reads), 4);
    cr_assert_eq(migrate_guarded(&m), 2);
    cr_assert_str_eq(m.reads[0], "b");
    cr_assert_str_eq(m.reads[2], "restore:b");
    cr_assert_eq(restore_of(1, (const char *[]){"a"}, &m, &e), -EBADMSG);
    cr_assert_eq(restore_of(1, (const char *[]){"restore:a"}, &m, &e), -EBADMSG);
    cr_assert_eq(restore_of(3, (const char *[]){"a", "b", "restore:a"}, &m, &e), -EBADMSG);
    cr_assert_eq(restore_of(0, NULL, &m, &e), -EBADMSG);
}
