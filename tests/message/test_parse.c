/* SPDX-License-Identifier: Apache-2.0 */
/* Envelopes and bodies as producers send them, and every way in which one can be wrong. */

#include "celeryc/base/codec.h"
#include "celeryc/base/limits.h"
#include "celeryc/message/message.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <zlib.h>
#include <zstd.h>

#define PROPS                                                                                  \
    "{\"delivery_info\": {\"exchange\": \"\", \"routing_key\": \"celery\"}, \"priority\": 0, " \
    "\"body_encoding\": \"base64\", \"delivery_tag\": \"tag\"}"
#define PLAIN_PROPS                                                                             \
    "{\"delivery_info\": {\"exchange\": \"\", \"routing_key\": \"celery\"}, \"delivery_tag\": " \
    "\"tag\"}"
#define ENVELOPE(headers, props, body)                                            \
    "{\"body\": " body                                                            \
    ", \"content-encoding\": \"utf-8\", \"content-type\": \"application/json\", " \
    "\"headers\": " headers ", \"properties\": " props "}"
#define HEADERS(more) "{\"task\": \"app.add\", \"id\": \"i1\"" more "}"
#define GOOD_BODY     "\"[[1], {\\\"k\\\": 2}, {}]\""

struct parsed {
    struct arena *arena;
    struct message m;
    struct message_body b;
    struct err e;
    int code, body_code;
};

/* Parses and, when that works, decodes the body. Copies the bytes, so that a read behind them is caught. */
static void parse(struct parsed *p, const void *text, size_t len)
{
    char *copy;

    p->arena = arena_new();
    p->e = ERR_INIT;
    copy = malloc(len ? len : 1);
    memcpy(copy, text, len);
    p->code = message_parse(p->arena, (struct slice){copy, len}, &p->m, &p->e);
    p->body_code = p->code ? p->code : message_body(p->arena, &p->m, &p->b, &p->e);
}

static void done(struct parsed *p)
{
    free((char *)(uintptr_t)p->m.raw.p);
    p->arena = arena_free(p->arena);
}

static const char golden[] =
    "{\"body\": "
    "\"W1syLCAyXSwge30sIHsiY2FsbGJhY2tzIjogbnVsbCwgImVycmJhY2tzIjogbnVsbCwgImNoYWluIjogbnVsbCwgImNo"
    "b3JkI"
    "jogbnVsbH1d\", \"content-encoding\": \"utf-8\", \"content-type\": \"application/json\", "
    "\"headers\": {\"lang\": "
    "\"py\", \"task\": \"app.add\", \"id\": \"f6664080-a229-4cc3-a15b-aa192ce02440\", \"shadow\": "
    "null, \"eta\": null, "
    "\"expires\": null, \"group\": null, \"group_index\": null, \"retries\": 0, \"timelimit\": "
    "[null, null], "
    "\"root_id\": \"f6664080-a229-4cc3-a15b-aa192ce02440\", \"parent_id\": null, \"argsrepr\": "
    "\"(2, 2)\", "
    "\"kwargsrepr\": \"{}\", \"origin\": \"gen20281@vm\", \"ignore_result\": false, "
    "\"replaced_task_nesting\": 0, "
    "\"stamped_headers\": null, \"stamps\": {}}, \"properties\": {\"correlation_id\": "
    "\"f6664080-a229-4cc3-a15b-aa192ce02440\", \"reply_to\": "
    "\"ed2d2ddc-5f57-39e7-9189-4528bf8e75b6\", "
    "\"delivery_mode\": 2, \"delivery_info\": {\"exchange\": \"\", \"routing_key\": \"celery\"}, "
    "\"priority\": 0, "
    "\"body_encoding\": \"base64\", \"delivery_tag\": \"d0aecc69-21e3-4c2c-802a-48bde97f0823\"}}";

Test(parse, golden_capture)
{
    CLEANUP(buf_deinit) struct buf repr = BUF_INIT;
    struct parsed p;

    parse(&p, golden, sizeof(golden) - 1);
    cr_assert_eq(p.body_code, 0, "%s", p.e.text);
    cr_assert_eq(p.m.protocol, 2);
    cr_assert(slice_eq_str(p.m.task, "app.add"));
    cr_assert(slice_eq_str(p.m.id, "f6664080-a229-4cc3-a15b-aa192ce02440"));
    cr_assert(slice_eq(p.m.root_id, p.m.id));
    cr_assert_null(p.m.shadow.p);
    cr_assert_null(p.m.parent_id.p);
    cr_assert_null(p.m.group.p);
    cr_assert(!p.m.has_eta && !p.m.has_expires);
    cr_assert_eq(p.m.ignore_result, TRI_NO);
    cr_assert(slice_eq_str(p.m.reply_to, "ed2d2ddc-5f57-39e7-9189-4528bf8e75b6"));
    cr_assert(slice_eq_str(p.m.routing_key, "celery"));
    cr_assert(slice_eq_str(p.m.exchange, ""));
    cr_assert(slice_eq_str(p.m.delivery_tag, "d0aecc69-21e3-4c2c-802a-48bde97f0823"));
    cr_assert(slice_eq_str(p.b.args.raw, "[2, 2]"));
    cr_assert(json_is_null(p.b.chord) && json_is_null(p.b.callbacks));
    message_write_args_repr(&repr, &p.m, &p.b);
    cr_assert_str_eq(repr.data, "args:(2, 2) kwargs:{}");
    done(&p);
}

Test(parse, every_field)
{
    static const char text[] =
        ENVELOPE(HEADERS(", \"shadow\": \"s\\u00e9\", \"eta\": \"2026-11-22T14:36:35.5\", "
                         "\"expires\": \"2026-11-22 16:36+02:00\", "
                         "\"group\": \"g\", \"group_index\": 7, \"retries\": 3, \"timelimit\": "
                         "[10, 2.5], \"root_id\": \"r\", "
                         "\"parent_id\": \"p\", \"ignore_result\": true, "
                         "\"replaced_task_nesting\": 2, \"x\": {\"task\": \"no\"}"),
                 "{\"delivery_info\": {\"exchange\": \"ex\", \"routing_key\": \"rk\", "
                 "\"redelivered\": true}, \"priority\": 7, "
                 "\"delivery_tag\": \"tag\", \"body_encoding\": \"utf-8\"}",
                 "\"[[1], {\\\"k\\\": 2}, {\\\"chain\\\": [], \\\"callbacks\\\": [1]}]\"");
    struct parsed p;

    parse(&p, text, sizeof(text) - 1);
    cr_assert_eq(p.body_code, 0, "%s", p.e.text);
    cr_assert(slice_eq_str(p.m.shadow, "s\xc3\xa9"));
    cr_assert(p.m.has_eta && p.m.has_expires);
    cr_assert_eq(p.m.eta_us, INT64_C(1795358195500000), "a naive time is UTC");
    cr_assert_eq(p.m.expires_us, INT64_C(1795358160000000));
    cr_assert(slice_eq_str(p.m.eta_raw.raw, "\"2026-11-22T14:36:35.5\""));
    cr_assert(slice_eq_str(p.m.group, "g"));
    cr_assert(slice_eq_str(p.m.group_index.raw, "7"));
    cr_assert_eq(p.m.retries, 3);
    cr_assert_eq(p.m.time_limit_s, 10);
    cr_assert_eq(p.m.soft_time_limit_s, 2.5);
    cr_assert(slice_eq_str(p.m.root_id, "r"));
    cr_assert(slice_eq_str(p.m.parent_id, "p"));
    cr_assert_eq(p.m.ignore_result, TRI_YES);
    cr_assert_eq(p.m.replaced_task_nesting, 2);
    cr_assert_eq(p.m.priority, 7);
    cr_assert(p.m.redelivered);
    cr_assert(slice_eq_str(p.m.exchange, "ex"));
    cr_assert(slice_eq_str(p.b.chain.raw, "[]"));
    cr_assert(slice_eq_str(p.b.callbacks.raw, "[1]"));
    cr_assert(slice_eq_str(p.m.reply_to, ""));
    done(&p);
}

#define V1_BODY(head)                                                                              \
    "\"{" head                                                                                     \
    "\\\"args\\\": [1, 2], \\\"kwargs\\\": {}, \\\"group\\\": \\\"g\\\", \\\"group_index\\\": 3, " \
    "\\\"retries\\\": 1, \\\"eta\\\": \\\"2026-11-22T14:00:00+00:00\\\", \\\"utc\\\": true, "      \
    "\\\"callbacks\\\": [9], "                                                                     \
    "\\\"errbacks\\\": null, \\\"timelimit\\\": [9, null], \\\"taskset\\\": null, \\\"chord\\\": " \
    "{}}\""
#define V1_HEAD "\\\"task\\\": \\\"app.add\\\", \\\"id\\\": \\\"i1\\\", "

Test(parse, protocol_1)
{
    static const char *const texts[] = {
        ENVELOPE("{}", PLAIN_PROPS, V1_BODY(V1_HEAD)),
        ENVELOPE("null", PLAIN_PROPS, V1_BODY(V1_HEAD)),
        ENVELOPE("{\"redelivered\": true}", PLAIN_PROPS, V1_BODY(V1_HEAD)),
        ENVELOPE("{\"id\": \"i1\"}", PLAIN_PROPS,
                 V1_BODY("\\\"task\\\": \\\"app.add\\\", \\\"id\\\": \\\"other\\\", ")),
    };

    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        struct parsed p;

        parse(&p, texts[i], strlen(texts[i]));
        cr_assert_eq(p.body_code, 0, "%zu: %s", i, p.e.text);
        cr_assert_eq(p.m.protocol, 1);
        cr_assert(slice_eq_str(p.m.task, "app.add"));
        cr_assert(slice_eq_str(p.m.id, "i1"));
        cr_assert(slice_eq_str(p.m.group, "g"));
        cr_assert_eq(p.m.group_index.kind, JSON_K_NONE, "is not carried over");
        cr_assert_eq(p.m.retries, 1);
        cr_assert_eq(p.m.time_limit_s, 9);
        cr_assert(p.m.has_eta);
        cr_assert(slice_eq_str(p.b.args.raw, "[1, 2]"));
        cr_assert(slice_eq_str(p.b.callbacks.raw, "[9]"));
        cr_assert(slice_eq_str(p.b.chord.raw, "{}"));
        cr_assert_eq(p.b.chain.kind, JSON_K_NONE);
        done(&p);
    }
}

Test(parse, hybrid_and_short_protocol_1)
{
    static const char hybrid[] =
        ENVELOPE(HEADERS(", \"retries\": 5"), PLAIN_PROPS,
                 "\"{\\\"args\\\": [1], \\\"errbacks\\\": [2], \\\"retries\\\": 1}\"");
    static const char bare[] =
        ENVELOPE("{}", PLAIN_PROPS, "\"{\\\"task\\\": \\\"t\\\", \\\"id\\\": \\\"i\\\"}\"");
    struct parsed p;

    parse(&p, hybrid, sizeof(hybrid) - 1);
    cr_assert_eq(p.body_code, 0, "%s", p.e.text);
    cr_assert_eq(p.m.protocol, 2);
    cr_assert_eq(p.m.retries, 5);
    cr_assert(slice_eq_str(p.b.args.raw, "[1]"));
    cr_assert(slice_eq_str(p.b.kwargs.raw, "{}"));
    cr_assert(slice_eq_str(p.b.errbacks.raw, "[2]"));
    done(&p);
    parse(&p, bare, sizeof(bare) - 1);
    cr_assert_eq(p.body_code, 0, "%s", p.e.text);
    cr_assert(slice_eq_str(p.b.args.raw, "[]"));
    done(&p);
}

/* known: id and task could be read, so that a failure can be stored. */
static const struct {
    const char *text, *reason;
    bool known;
} poison[] = {
    {"", "not JSON", false},
    {"hello", "not JSON", false},
    {"{\"body\": \"\xff\"}", "UTF-8", false},
    {"[1, 2]", "not an object", false},
    {"{}", "no properties", false},
    {"{\"body\": \"\", \"headers\": " HEADERS("") "}", "no properties", true},
    {ENVELOPE(HEADERS(""), "null", GOOD_BODY), "no properties", true},
    {ENVELOPE(HEADERS(""), "[]", GOOD_BODY), "properties is not an object", true},
    {ENVELOPE(HEADERS(""), "{\"delivery_info\": {\"exchange\": \"\", \"routing_key\": \"q\"}}",
              GOOD_BODY),
     "no delivery_tag", true},
    {ENVELOPE(HEADERS(""), "{\"delivery_tag\": 5}", GOOD_BODY), "delivery_tag is not a string",
     true},
    {ENVELOPE(HEADERS(""), "{\"delivery_tag\": \"t\"}", GOOD_BODY), "no delivery_info", true},
    {ENVELOPE(HEADERS(""), "{\"delivery_tag\": \"t\", \"delivery_info\": []}", GOOD_BODY),
     "delivery_info is not an object", true},
    {ENVELOPE(HEADERS(""), "{\"delivery_tag\": \"t\", \"delivery_info\": {\"routing_key\": \"q\"}}",
              GOOD_BODY),
     "no delivery_info.exchange", true},
    {ENVELOPE(HEADERS(""), "{\"delivery_tag\": \"t\", \"delivery_info\": {\"exchange\": \"\"}}",
              GOOD_BODY),
     "no delivery_info.routing_key", true},
    {ENVELOPE(HEADERS(""),
              "{\"delivery_tag\": \"t\", \"body_encoding\": \"rot13\", \"delivery_info\": "
              "{\"exchange\": "
              "\"\", \"routing_key\": \"q\"}}",
              GOOD_BODY),
     "unknown body_encoding", true},
    {ENVELOPE(HEADERS(""), PROPS, "\"W1s\""), "bad base64", true},
    {ENVELOPE(HEADERS(""), PROPS, "\"////\""), "not JSON: unexpected character", true},
    {ENVELOPE(HEADERS(""), PROPS, "\"\""), "body is empty", true},
    {ENVELOPE(HEADERS(""), PROPS, "null"), "no body", true},
    {ENVELOPE(HEADERS(""), PROPS, "[1]"), "body is not a string", true},
    {ENVELOPE("{\"task\": \"t\"}", PLAIN_PROPS, GOOD_BODY), "no id", false},
    {ENVELOPE("{\"task\": \"t\", \"id\": null}", PLAIN_PROPS, GOOD_BODY), "no id", false},
    {ENVELOPE("{\"task\": \"t\", \"id\": 5}", PLAIN_PROPS, GOOD_BODY), "id is not a string", false},
    {ENVELOPE("{\"task\": \"t\", \"id\": {\"a\": 1}}", PLAIN_PROPS, GOOD_BODY),
     "id is not a string", false},
    {ENVELOPE("{\"task\": 5, \"id\": \"i1\"}", PLAIN_PROPS, GOOD_BODY), "task is not a string",
     false},
    {"{\"body\": " GOOD_BODY ", \"headers\": " HEADERS("") ", \"properties\": " PLAIN_PROPS "}",
     "no content-type", true},
    {"{\"body\": " GOOD_BODY
     ", \"content-type\": \"application/x-python-serialize\", \"headers\": " HEADERS(
         "") ", \"properties\": " PLAIN_PROPS "}",
     "content of type pickle (application/x-python-serialize): celeryc does not", true},
    {ENVELOPE(HEADERS(", \"compression\": \"application/x-nonsense\""), PROPS, GOOD_BODY),
     "compression application/x-nonsense is not supported", true},
    {ENVELOPE(HEADERS(", \"compression\": 1"), PROPS, GOOD_BODY), "compression is not a string",
     true},
    {ENVELOPE(HEADERS(", \"compression\": \"zlib\""), PROPS, "\"AAAA\""), "damaged zlib", true},
    {ENVELOPE(HEADERS(", \"compression\": \"zstd\""), PROPS, "\"AAAA\""), "zstd", true},
    {ENVELOPE(HEADERS(", \"eta\": \"\""), PLAIN_PROPS, GOOD_BODY), "eta is an empty string", true},
    {ENVELOPE(HEADERS(", \"eta\": 5"), PLAIN_PROPS, GOOD_BODY), "eta is not a time", true},
    {ENVELOPE(HEADERS(", \"eta\": \"soon\""), PLAIN_PROPS, GOOD_BODY),
     "eta is not an ISO 8601 time: soon", true},
    {ENVELOPE(HEADERS(", \"eta\": \"9999-12-31T24:00\""), PLAIN_PROPS, GOOD_BODY),
     "eta is out of range", true},
    {ENVELOPE(HEADERS(", \"expires\": \"\""), PLAIN_PROPS, GOOD_BODY), "expires is an empty string",
     true},
    {ENVELOPE(HEADERS(", \"expires\": [1]"), PLAIN_PROPS, GOOD_BODY), "expires is not a time",
     true},
    {ENVELOPE(HEADERS(", \"retries\": \"1\""), PLAIN_PROPS, GOOD_BODY), "retries is not", true},
    {ENVELOPE(HEADERS(", \"retries\": -1"), PLAIN_PROPS, GOOD_BODY), "retries is not", true},
    {ENVELOPE(HEADERS(", \"timelimit\": [1]"), PLAIN_PROPS, GOOD_BODY), "timelimit is not", true},
    {ENVELOPE(HEADERS(", \"timelimit\": [\"1\", 2]"), PLAIN_PROPS, GOOD_BODY), "timelimit is not",
     true},
    {ENVELOPE(HEADERS(", \"timelimit\": [NaN, 2]"), PLAIN_PROPS, GOOD_BODY), "timelimit is not",
     true},
    {ENVELOPE(HEADERS(", \"group\": 1"), PLAIN_PROPS, GOOD_BODY), "group is not a string", true},
    {ENVELOPE("[]", PLAIN_PROPS, GOOD_BODY), "headers is not an object", false},
    {ENVELOPE("null", PLAIN_PROPS, GOOD_BODY), "no task in the headers nor in the body", false},
    {ENVELOPE("{}", PLAIN_PROPS, GOOD_BODY), "no task in the headers nor in the body", false},
    {ENVELOPE("{}", PLAIN_PROPS, "\"{\\\"args\\\": []}\""),
     "no task in the headers nor in the body", false},
    {ENVELOPE("{}", PLAIN_PROPS, "\"{\\\"task\\\": \\\"t\\\"}\""), "no id", false},
    {ENVELOPE(HEADERS(""), PLAIN_PROPS, "\"[[1], {}]\""), "2 elements", true},
    {ENVELOPE(HEADERS(""), PLAIN_PROPS, "\"[[1], {}, {}, 4]\""), "4 elements", true},
    {ENVELOPE(HEADERS(""), PLAIN_PROPS, "\"\\\"text\\\"\""), "body is not [args, kwargs, embed]",
     true},
    {ENVELOPE(HEADERS(""), PLAIN_PROPS, "\"null\""), "body is null", true},
    {ENVELOPE(HEADERS(""), PLAIN_PROPS, "\"{\\\"a\\\": 1}\""), "an object without args", true},
    {ENVELOPE(HEADERS(""), PLAIN_PROPS, "\"[null, {}, {}]\""), "args is null", true},
    {ENVELOPE(HEADERS(""), PLAIN_PROPS, "\"[{}, {}, {}]\""), "args is not an array", true},
    {ENVELOPE(HEADERS(""), PLAIN_PROPS, "\"[[], null, {}]\""), "kwargs is null", true},
    {ENVELOPE(HEADERS(""), PLAIN_PROPS, "\"[[], [], {}]\""), "kwargs is not an object", true},
    {ENVELOPE(HEADERS(""), PLAIN_PROPS, "\"[[], {}, []]\""), "embed is not an object", true},
    {ENVELOPE("{}", PLAIN_PROPS,
              "\"{\\\"task\\\": \\\"t\\\", \\\"id\\\": \\\"i\\\", \\\"kwargs\\\": null}\""),
     "kwargs is null", true},
};

Test(parse, poison_has_a_reason)
{
    for (size_t i = 0; i < ARRAY_SIZE(poison); i++) {
        struct parsed p;

        parse(&p, poison[i].text, strlen(poison[i].text));
        cr_assert_eq(p.body_code, MESSAGE_E_POISON, "case %zu, %s: %d", i, poison[i].reason,
                     p.body_code);
        cr_assert(strstr(p.e.text, poison[i].reason), "case %zu: wanted %s, is %s", i,
                  poison[i].reason, p.e.text);
        cr_assert_eq(p.m.id.p && p.m.task.p, poison[i].known, "case %zu, %s", i, poison[i].reason);
        done(&p);
    }
}

Test(parse, a_defect_before_id_does_not_hide_it)
{
    static const char text[] =
        ENVELOPE("{\"eta\": 5, \"id\": \"i1\", \"task\": \"t\"}", PLAIN_PROPS, GOOD_BODY);
    struct parsed p;

    parse(&p, text, sizeof(text) - 1);
    cr_assert_eq(p.code, MESSAGE_E_POISON);
    cr_assert(slice_eq_str(p.m.id, "i1"));
    cr_assert(slice_eq_str(p.m.task, "t"));
    done(&p);
}

Test(parse, too_deep_is_poison)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct parsed p;

    buf_append_str(&b, "{\"headers\": ");
    for (int i = 0; i <= LIMIT_JSON_DEPTH; i++)
        buf_append_char(&b, '[');
    parse(&p, b.data, b.len);
    cr_assert_eq(p.code, MESSAGE_E_POISON);
    cr_assert(strstr(p.e.text, "too deep"), "%s", p.e.text);
    done(&p);
}

Test(parse, oddities_that_run)
{
    static const char *const texts[] = {
        /* unknown typed wrappers pass through; Python would die of the first one */
        ENVELOPE(HEADERS(", \"x\": {\"__type__\": \"zzz\", \"__value__\": 1}"), PLAIN_PROPS,
                 "\"[[{\\\"__type__\\\": \\\"zzz\\\", \\\"__value__\\\": 1}], {}, null]\""),
        ENVELOPE(HEADERS(", \"eta\": null, \"retries\": null, \"timelimit\": null"), PLAIN_PROPS,
                 GOOD_BODY),
        ENVELOPE(HEADERS(", \"timelimit\": [0, false]"), PLAIN_PROPS, GOOD_BODY),
        ENVELOPE(HEADERS(", \"compression\": null"), PLAIN_PROPS, GOOD_BODY),
        ENVELOPE(
            HEADERS(
                ", \"eta\": {\"__type__\": \"datetime\", \"__value__\": \"2026-11-22T14:00:00\"}"),
            PLAIN_PROPS, GOOD_BODY),
        /* base64 with line ends, and with more behind its padding */
        ENVELOPE(HEADERS(""), PROPS, "\"W1sxX\\nSwge30sI\\r\\nHt9XQ==\""),
        ENVELOPE(HEADERS(""), PROPS, "\"W1sxXSwge30sIHt9XQ==zzz\""),
    };

    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        struct parsed p;

        parse(&p, texts[i], strlen(texts[i]));
        cr_assert_eq(p.body_code, 0, "case %zu: %s", i, p.e.text);
        done(&p);
    }
}

Test(parse, uuid_objects_are_ids)
{
    static const char text[] =
        ENVELOPE("{\"task\": \"t\", \"id\": {\"__type__\": \"uuid\", \"__value__\": {\"hex\": "
                 "\"f6664080a2294cc3a15baa192ce02440\"}}}",
                 PLAIN_PROPS, GOOD_BODY);
    struct parsed p;

    parse(&p, text, sizeof(text) - 1);
    cr_assert_eq(p.code, 0, "%s", p.e.text);
    cr_assert(slice_eq_str(p.m.id, "f6664080-a229-4cc3-a15b-aa192ce02440"));
    done(&p);
}

Test(parse, priority_as_kombu_reads_it)
{
    static const struct {
        const char *text;
        int priority;
    } cases[] = {
        {"0", 0},
        {"5", 5},
        {"9", 9},
        {"10", 9},
        {"-1", 0},
        {"7.9", 7},
        {"\"4\"", 4},
        {"\" +6\\t\"", 0},
        {"\" +6 \"", 6},
        {"\"x\"", 0},
        {"null", 0},
        {"true", 1},
        {"false", 0},
        {"[]", 0},
        {"NaN", 0},
        {"Infinity", 0},
        {"99999999999999999999999", 9},
        {"-99999999999999999999999", 0},
    };

    static const int steps[] = {0, 0, 0, 3, 3, 3, 6, 6, 6, 9};

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        CLEANUP(buf_deinit) struct buf b = BUF_INIT;
        struct parsed p;

        buf_append_str(&b, "{\"body\": " GOOD_BODY
                           ", \"content-type\": \"application/json\", \"headers\": " HEADERS(
                               "") ", \"properties\": {\"delivery_tag\": \"t\", \"delivery_info\": "
                                   "{\"exchange\": null, "
                                   "\"routing_key\": \"q\"}, \"priority\": ");
        buf_append_str(&b, cases[i].text);
        buf_append_str(&b, "}}");
        parse(&p, b.data, b.len);
        cr_assert_eq(p.body_code, 0, "%s", p.e.text);
        cr_assert_eq(p.m.priority, cases[i].priority, "%s", cases[i].text);
        done(&p);
    }
    for (int i = 0; i < 10; i++)
        cr_assert_eq(message_priority_step(i), steps[i]);
    cr_assert_eq(message_priority_step(-5), 0);
    cr_assert_eq(message_priority_step(50), 9);
}

Test(parse, the_last_duplicate_wins)
{
    static const char text[] =
        "{\"headers\": {\"task\": \"a\", \"id\": \"a\", \"group\": \"a\"}, "
        "\"body\": 1, \"content-type\": "
        "\"application/json\", \"body\": " GOOD_BODY ", \"properties\": " PLAIN_PROPS
        ", \"headers\": {\"task\": \"x\", \"task\": \"b\", \"id\": \"i\"}}";
    struct parsed p;

    parse(&p, text, sizeof(text) - 1);
    cr_assert_eq(p.body_code, 0, "%s", p.e.text);
    cr_assert(slice_eq_str(p.m.task, "b"));
    cr_assert(slice_eq_str(p.m.id, "i"));
    cr_assert_null(p.m.group.p, "nothing is left of the first headers");
    done(&p);
}

/* More members than the scanner notes: the text is walked instead. */
Test(parse, many_headers)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct parsed p;

    buf_append_str(&b, "{\"body\": " GOOD_BODY
                       ", \"content-type\": \"application/json\", \"headers\": {");
    for (int i = 0; i < 500; i++)
        buf_appendf(&b, "\"h%d\": {\"task\": {\"id\": %d}}, ", i, i);
    buf_append_str(
        &b, "\"task\": \"t\", \"id\": \"i\", \"retries\": 2}, \"properties\": " PLAIN_PROPS "}");
    parse(&p, b.data, b.len);
    cr_assert_eq(p.body_code, 0, "%s", p.e.text);
    cr_assert(slice_eq_str(p.m.id, "i"));
    cr_assert_eq(p.m.retries, 2);
    cr_assert(slice_eq_str(p.m.routing_key, "celery"));
    done(&p);
}

static void parse_compressed(struct parsed *p, const char *name, const void *data, size_t len)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    buf_appendf(&b,
                "{\"content-type\": \"application/json\", \"headers\": " HEADERS(
                    ", \"compression\": \"%s\"") ", \"properties\": " PROPS ", \"body\": \"",
                name);
    base64_encode(&b, (struct slice){data, len});
    buf_append_str(&b, "\"}");
    parse(p, b.data, b.len);
}

Test(parse, compressed_bodies)
{
    static const char body[] = "[[\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"], {}, {}]";
    static const char *const zlib_names[] = {"application/x-gzip", "gzip", "zlib"};
    static const char *const zstd_names[] = {"application/zstd", "zstd", "zstandard"};
    unsigned char packed[512];
    uLongf zlib_len = sizeof(packed);
    struct parsed p;
    size_t len;

    cr_assert_eq(compress(packed, &zlib_len, (const Bytef *)body, sizeof(body) - 1), Z_OK);
    for (size_t i = 0; i < 3; i++) {
        parse_compressed(&p, zlib_names[i], packed, zlib_len);
        cr_assert_eq(p.body_code, 0, "%s", p.e.text);
        cr_assert_eq(p.b.args.raw.len, 52);
        done(&p);
    }
    parse_compressed(&p, "zlib", packed, zlib_len - 5);
    cr_assert_eq(p.body_code, MESSAGE_E_POISON, "cut off");
    done(&p);
    len = ZSTD_compress(packed, sizeof(packed), body, sizeof(body) - 1, 3);
    cr_assert(!ZSTD_isError(len));
    for (size_t i = 0; i < 3; i++) {
        parse_compressed(&p, zstd_names[i], packed, len);
        cr_assert_eq(p.body_code, 0, "%s", p.e.text);
        cr_assert_eq(p.b.args.raw.len, 52);
        done(&p);
    }
    parse_compressed(&p, "zstd", packed, len - 3);
    cr_assert_eq(p.body_code, MESSAGE_E_POISON, "cut off");
    cr_assert(strstr(p.e.text, "ends early"), "%s", p.e.text);
    done(&p);
}

Test(parse, a_bomb_is_refused)
{
    size_t size = LIMIT_MESSAGE_BYTES + 1000000;
    char *zeros = calloc(size, 1), *packed = malloc(1 << 20);
    size_t len = ZSTD_compress(packed, 1 << 20, zeros, size, 1);
    struct parsed p;

    cr_assert(!ZSTD_isError(len));
    parse_compressed(&p, "zstd", packed, len);
    cr_assert_eq(p.body_code, MESSAGE_E_POISON);
    cr_assert(strstr(p.e.text, "too big"), "%s", p.e.text);
    done(&p);
    free(zeros);
    free(packed);
}
