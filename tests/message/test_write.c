/* SPDX-License-Identifier: Apache-2.0 */
/* Envelopes against what Celery and kombu wrote for the same calls, byte for byte. */

#include "celeryc/base/clock.h"
#include "celeryc/message/message.h"
#include "vectors.h"

#include <criterion/criterion.h>
#include <errno.h>

static void same_bytes(struct buf *ours, struct slice theirs)
{
    CLEANUP(buf_deinit) struct buf want = BUF_INIT;

    buf_append_slice(&want, theirs);
    vectors_hide_tag(ours);
    vectors_hide_tag(&want);
    cr_assert_eq(buf_ok(ours), 0);
    cr_assert_str_eq(ours->data, want.data);
}

static struct slice raw_or_null(struct json_val v)
{
    return json_is_null(v) ? SLICE_NULL : v.raw;
}

static enum tristate truth(struct json_val v)
{
    return v.kind == JSON_K_TRUE ? TRI_YES : v.kind == JSON_K_FALSE ? TRI_NO : TRI_UNSET;
}

/* What Celery fills in by itself is taken from its own answer. */
static struct message_new new_from(struct vectors *v, struct json_val in, const struct message *out)
{
    return (struct message_new){
        .task = vectors_text(v, in, "task"),
        .id = vectors_text(v, in, "id"),
        .args = raw_or_null(json_get(in, "args")),
        .kwargs = raw_or_null(json_get(in, "kwargs")),
        .embed = raw_or_null(json_get(in, "embed")),
        .queue = vectors_text(v, in, "queue"),
        .root_id = vectors_text(v, in, "root_id"),
        .parent_id = vectors_text(v, in, "parent_id"),
        .group = vectors_text(v, in, "group"),
        .group_index = raw_or_null(json_get(in, "group_index")),
        .shadow = vectors_text(v, in, "shadow"),
        .reply_to = out->reply_to,
        .origin = out->origin,
        .eta_us = vectors_int(in, "eta_us"),
        .expires_us = vectors_int(in, "expires_us"),
        .now_us = vectors_int(in, "now_us"),
        .retries = vectors_int(in, "retries"),
        .time_limit_s = vectors_float(in, "time_limit"),
        .soft_time_limit_s = vectors_float(in, "soft_time_limit"),
        .priority = (int)vectors_int(in, "priority"),
        .ignore_result = truth(json_get(in, "ignore_result")),
    };
}

Test(message_write, new_equals_celery)
{
    struct vectors v;
    struct json_val line;
    size_t n = 0;

    for (vectors_open(&v, "new.jsonl"); vectors_next(&v, &line); n++) {
        CLEANUP(buf_deinit) struct buf ours = BUF_INIT;
        struct slice out = vectors_text(&v, line, "out");
        struct message_new given;
        struct message m;
        struct err e = ERR_INIT;

        cr_assert_eq(message_parse(v.arena, out, &m, &e), 0, "%s", e.text);
        given = new_from(&v, json_get(line, "in"), &m);
        cr_assert_eq(message_write_new(&ours, &given), 0);
        same_bytes(&ours, out);
    }
    cr_assert(n >= 50);
    vectors_close(&v);
}

Test(message_write, new_has_defaults_and_reads_back)
{
    CLEANUP(buf_deinit) struct buf out = BUF_INIT;
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct message_new n = {.task = SLICE_LIT("t"),
                            .id = SLICE_LIT("i"),
                            .queue = SLICE_LIT("q"),
                            .ignore_result = TRI_UNSET};
    struct message m;
    struct message_body b;
    struct err e = ERR_INIT;

    cr_assert_eq(message_write_new(&out, &n), 0);
    cr_assert_eq(message_parse(a, buf_slice(&out), &m, &e), 0, "%s", e.text);
    cr_assert_eq(message_body(a, &m, &b, &e), 0, "%s", e.text);
    cr_assert(slice_eq_str(m.root_id, "i"));
    cr_assert(slice_eq_str(m.routing_key, "q"));
    cr_assert(slice_eq_str(m.argsrepr, "()"));
    cr_assert(slice_eq_str(b.args.raw, "[]"));
    cr_assert(slice_eq_str(b.kwargs.raw, "{}"));
    cr_assert_eq(m.ignore_result, TRI_UNSET);
    cr_assert_eq(m.delivery_tag.len, 36);
    cr_assert(m.origin.len > 4 && memcmp(m.origin.p, "gen", 3) == 0);
}

Test(message_write, new_refuses_wrong_parts)
{
    CLEANUP(buf_deinit) struct buf out = BUF_INIT;
    struct message_new n = {.task = SLICE_LIT("t"), .id = SLICE_LIT("i"), .queue = SLICE_LIT("q")};

    n.args = SLICE_LIT("{}");
    cr_assert_eq(message_write_new(&out, &n), -EINVAL);
    n.args = SLICE_LIT("[1,");
    cr_assert_eq(message_write_new(&out, &n), -EINVAL);
    n.args = SLICE_NULL;
    n.kwargs = SLICE_LIT("[]");
    cr_assert_eq(message_write_new(&out, &n), -EINVAL);
}

Test(message_write, retry_equals_celery)
{
    struct vectors v;
    struct json_val line;
    size_t n = 0;

    for (vectors_open(&v, "retry.jsonl"); vectors_next(&v, &line); n++) {
        CLEANUP(buf_deinit) struct buf ours = BUF_INIT;
        struct message m;
        struct message_body b;
        struct err e = ERR_INIT;
        struct message_retry r = {
            .eta_us = vectors_int(line, "eta_us"),
            .now_us = vectors_int(line, "now_us"),
            .args = raw_or_null(json_get(line, "args")),
            .kwargs = raw_or_null(json_get(line, "kwargs")),
            .ignore_result = truth(json_get(line, "ignore_result")),
            .keep_parent = json_get(line, "keep_parent").kind == JSON_K_TRUE,
        };

        cr_assert_eq(message_parse(v.arena, vectors_text(&v, line, "in"), &m, &e), 0, "%s", e.text);
        cr_assert_eq(message_body(v.arena, &m, &b, &e), 0, "%s", e.text);
        cr_assert_eq(message_write_retry(&ours, &m, &b, &r), 0);
        same_bytes(&ours, vectors_text(&v, line, "out"));
    }
    cr_assert(n >= 50);
    vectors_close(&v);
}

Test(message_write, redelivered_equals_kombu)
{
    struct vectors v;
    struct json_val line;
    size_t n = 0;

    for (vectors_open(&v, "redelivered.jsonl"); vectors_next(&v, &line); n++) {
        CLEANUP(buf_deinit) struct buf ours = BUF_INIT;
        CLEANUP(buf_deinit) struct buf twice = BUF_INIT;
        struct slice out = vectors_text(&v, line, "out");

        cr_assert_eq(message_write_redelivered(&ours, vectors_text(&v, line, "in")), 0);
        cr_assert(slice_eq(buf_slice(&ours), out));
        cr_assert_eq(message_write_redelivered(&twice, buf_slice(&ours)), 0);
        cr_assert(slice_eq(buf_slice(&twice), out), "marking twice changes nothing");
    }
    cr_assert(n >= 10);
    vectors_close(&v);
}

Test(message_write, bounced_changes_one_property)
{
    static const char before[] =
        " {\"headers\": {\"task\": \"t\", \"id\": \"i\", \"celeryc_bounces\": 7}, \"body\": "
        "\"W10=\", "
        "\"content-type\": \"application/json\", \"content-encoding\": \"utf-8\", \"properties\": "
        "{\"delivery_tag\": \"d\", \"body_encoding\": \"base64\", \"delivery_info\": "
        "{\"exchange\": \"\", \"routing_key\": \"q\"}, \"x\": 1e400}} ";
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(buf_deinit) struct buf once = BUF_INIT, twice = BUF_INIT, wanted = BUF_INIT;
    struct message m;
    struct err e = ERR_INIT;

    cr_assert_eq(message_parse(a, slice_str(before), &m, &e), 0, "%s", e.text);
    cr_assert_eq(message_bounces(&m), 0, "a header is not the property");
    cr_assert_eq(message_write_bounced(&once, &m, 9), 0);
    buf_append(&wanted, before, sizeof(before) - 4);
    buf_append_str(&wanted, ", \"celeryc_bounces\": 9}} ");
    cr_assert(slice_eq(buf_slice(&once), buf_slice(&wanted)));
    cr_assert_eq(message_parse(a, buf_slice(&once), &m, &e), 0, "%s", e.text);
    cr_assert_eq(message_bounces(&m), 9);
    cr_assert_eq(message_write_bounced(&twice, &m, 10), 0);
    cr_assert_eq(message_parse(a, buf_slice(&twice), &m, &e), 0, "%s", e.text);
    cr_assert_eq(message_bounces(&m), 10);
    cr_assert_eq(twice.len, once.len + 1, "put over the one that was there");
}

Test(message_write, redelivered_touches_nothing_else)
{
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"not json", "not json"},
        {"[1]", "[1]"},
        {"", ""},
        {" {\"headers\":{ } , \"properties\":{\"delivery_info\":{\"a\":1}}}\n",
         " {\"headers\":{ \"redelivered\": true} , "
         "\"properties\":{\"delivery_info\":{\"a\":1, \"redelivered\": true}}}\n"},
        {"{\"properties\":{\"delivery_info\":{\"redelivered\":false,\"x\":1e5}},\"headers\":{\"a\":"
         "{}}}",
         "{\"properties\":{\"delivery_info\":{\"redelivered\":true,\"x\":1e5}},\"headers\":{\"a\":{"
         "}, "
         "\"redelivered\": true}}"},
        {"{\"headers\":null}", "{\"headers\":null}"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        CLEANUP(buf_deinit) struct buf out = BUF_INIT;

        cr_assert_eq(message_write_redelivered(&out, slice_str(cases[i].in)), 0);
        cr_assert(slice_eq_str(buf_slice(&out), cases[i].out), "case %zu: %s", i, out.data);
    }
}
