/* SPDX-License-Identifier: Apache-2.0 */
/* Records as Celery stores them (captures of its own). */

#include "celeryc/message/record.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <zlib.h>

#define DONE_US INT64_C(1795358296778014) /* 2026-11-22T14:38:16.778014 */

static struct json_val scanned(const char *text)
{
    struct json_val v;

    cr_assert_eq(json_scan(slice_str(text), &v, NULL), 0);
    return v;
}

Test(record, success)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct record r = {.status = "SUCCESS",
                       .result = SLICE_LIT("5"),
                       .done_us = DONE_US,
                       .task_id = SLICE_LIT("817f")};

    cr_assert_eq(record_write(&b, &r), 0);
    cr_assert_str_eq(
        b.data, "{\"status\": \"SUCCESS\", \"result\": 5, \"traceback\": null, \"children\": [], "
                "\"date_done\": \"2026-11-22T14:38:16.778014+00:00\", \"task_id\": \"817f\"}");
}

Test(record, failure_in_a_group)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    CLEANUP(buf_deinit) struct buf exc = BUF_INIT;
    struct record r = {.status = "FAILURE",
                       .traceback = SLICE_LIT("Traceback (most recent call last):\n é\n"),
                       .children = SLICE_LIT("null"),
                       .done_us = DONE_US,
                       .group_id = SLICE_LIT("a71a"),
                       .parent_id = SLICE_LIT("pp"),
                       .task_id = SLICE_LIT("e4e0")};

    record_write_exception(&exc, SLICE_LIT("ValueError"), SLICE_LIT("[\"boom\", 7]"),
                           SLICE_LIT("builtins"));
    r.result = buf_slice(&exc);
    cr_assert_eq(record_write(&b, &r), 0);
    cr_assert_str_eq(b.data, "{\"status\": \"FAILURE\", \"result\": {\"exc_type\": \"ValueError\", "
                             "\"exc_message\": [\"boom\", 7], "
                             "\"exc_module\": \"builtins\"}, \"traceback\": \"Traceback (most "
                             "recent call last):\\n \\u00e9\\n\", "
                             "\"children\": null, \"date_done\": "
                             "\"2026-11-22T14:38:16.778014+00:00\", \"group_id\": \"a71a\", "
                             "\"parent_id\": \"pp\", \"task_id\": \"e4e0\"}");
}

Test(record, extended_with_stamp)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct record r = {.status = "SUCCESS",
                       .result = SLICE_LIT("3"),
                       .task_id = SLICE_LIT("39dd"),
                       .extended = true,
                       .name = SLICE_LIT("app.add"),
                       .args = SLICE_LIT("[1, 2]"),
                       .kwargs = SLICE_LIT("{}"),
                       .worker = SLICE_LIT("w1@vm"),
                       .queue = SLICE_LIT("celery"),
                       .stamped_headers = scanned("[\"foo\"]"),
                       .stamps = scanned("{\"foo\": \"bar\", \"unnamed\": 1}")};

    cr_assert_eq(record_write(&b, &r), 0);
    cr_assert_str_eq(b.data, "{\"status\": \"SUCCESS\", \"result\": 3, \"traceback\": null, "
                             "\"children\": [], \"date_done\": null, "
                             "\"name\": \"app.add\", \"args\": [1, 2], \"kwargs\": {}, \"worker\": "
                             "\"w1@vm\", \"retries\": 0, "
                             "\"queue\": \"celery\", \"stamped_headers\": [\"foo\"], \"foo\": "
                             "\"bar\", \"task_id\": \"39dd\"}");
}

Test(record, exception_repr)
{
    static const struct {
        const char *type, *args, *repr;
    } cases[] = {
        {"ValueError", "[\"boom\", 7]", "ValueError('boom', 7)"},
        {"KeyError", "[\"it's\"]", "KeyError(\"it's\")"},
        {"E", "[]", "E()"},
        {"Outer.Inner", "[null, [1.0, true], {\"a\": \"\\n\"}]",
         "Inner(None, [1.0, True], {'a': '\\n'})"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        CLEANUP(buf_deinit) struct buf b = BUF_INIT;

        record_write_exception_repr(&b, slice_str(cases[i].type), slice_str(cases[i].args));
        cr_assert_str_eq(b.data, cases[i].repr);
    }
}

Test(record, reads_back)
{
    struct record_view v;
    struct err e = ERR_INIT;
    const char *text =
        "{\"status\": \"REVOKED\", \"result\": [1], \"task_id\": \"x\", \"date_done\": null}";

    cr_assert_eq(record_parse(slice_str(text), &v, &e), 0);
    cr_assert(record_ready(&v));
    cr_assert(slice_eq_str(v.result.raw, "[1]"));
    cr_assert_eq(v.children.kind, JSON_K_NONE);
    cr_assert_eq(record_parse(SLICE_LIT("{\"status\": \"RETRY\"}"), &v, &e), 0);
    cr_assert(!record_ready(&v));
    cr_assert_eq(record_parse(SLICE_LIT("{\"result\": 1}"), &v, &e), -EINVAL);
    cr_assert_eq(record_parse(SLICE_LIT("[]"), &v, &e), -EINVAL);
    cr_assert_eq(record_parse(SLICE_LIT("{"), &v, &e), -EINVAL);
    cr_assert_eq(record_parse(SLICE_NULL, &v, &e), -EINVAL);
}

Test(record, inflates_marked_values)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    static const char text[] = "{\"status\": \"SUCCESS\"}";
    unsigned char packed[128];
    uLongf len = sizeof(packed);
    struct err e = ERR_INIT;
    struct slice s;

    cr_assert_eq(compress(packed, &len, (const Bytef *)text, sizeof(text) - 1), Z_OK);
    buf_append(&b, "\0celery-compressed\0application/x-gzip", 37);
    cr_assert_eq(record_inflate(a, buf_slice(&b), &s, &e), -EINVAL, "no end of the name");
    buf_append_char(&b, '\0');
    buf_append(&b, packed, len);
    cr_assert_eq(record_inflate(a, buf_slice(&b), &s, &e), 0, "%s", e.text);
    cr_assert(slice_eq_str(s, text));
    cr_assert_eq(record_inflate(a, SLICE_LIT(text), &s, &e), 0);
    cr_assert_eq(s.p, text, "what is not compressed is not copied");
    b.data[b.len - 8] ^= 1;
    cr_assert_eq(record_inflate(a, buf_slice(&b), &s, &e), -EINVAL, "damaged");
}
