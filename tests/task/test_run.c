/* SPDX-License-Identifier: Apache-2.0 */
/* task_run from envelope to outcome; what Celery 5.7 writes stands literally in the expectations. */

#include "one_run.h"

#include <errno.h>
#include <math.h>
#include <unistd.h>

/* ---- arguments ---- */

static int two_ints(struct celeryc_call *call)
{
    int64_t a, b;
    if (celeryc_args(call, "ii", &a, &b))
        return -1; /* an end of its own is not needed */
    return celeryc_return_int(call, a + b);
}

static int all_kinds(struct celeryc_call *call)
{
    double d = 0;
    bool b = false;
    const char *s = "-", *bytes = "-", *json = "-";
    size_t n_bytes = 1, n_json = 1;
    if (celeryc_args(call, "d|bsSj", &d, &b, &s, &bytes, &n_bytes, &json, &n_json))
        return celeryc_raise(call, "TypeError", "%s", celeryc_args_error(call));
    char out[256];
    (void)snprintf(out, sizeof out, "%g %d %s %.*s %.*s", d, b, s, (int)n_bytes, bytes, (int)n_json,
                   json);
    return celeryc_return_string(call, out);
}

static int no_args(struct celeryc_call *call)
{
    return celeryc_args(call, "") ? -1 : celeryc_return_none(call);
}

static int one_or_two(struct celeryc_call *call)
{
    int64_t a = 0, b = 7;
    return celeryc_args(call, "i|i", &a, &b) ? -1 : celeryc_return_int(call, a * 100 + b);
}

static const struct {
    body_fn fn;
    const char *args, *kwargs, *repr;
} bindings[] = {
    {two_ints, "[1, 2]", "{}", "3"},
    {two_ints, "[1]", "{\"b\": 5}", "6"},
    {two_ints, "[]", "{\"b\": 5, \"a\": 1, \"b\": 6}", "7"},
    {two_ints, "[true, 2]", "{}", "3"},
    {two_ints, "[1]", "{}", "TypeError(\"add() missing 1 required positional argument: 'b'\")"},
    {two_ints, "[]", "{}",
     "TypeError(\"add() missing 2 required positional arguments: 'a' and 'b'\")"},
    {two_ints, "[1, 2, 3]", "{}",
     "TypeError('add() takes 2 positional arguments but 3 were given')"},
    {two_ints, "[1]", "{\"a\": 2}", "TypeError(\"add() got multiple values for argument 'a'\")"},
    {two_ints, "[1, 2]", "{\"x\": 2}",
     "TypeError(\"add() got an unexpected keyword argument 'x'\")"},
    {two_ints, "[1, \"2\"]", "{}", "TypeError(\"add() argument 'b' must be int, not str\")"},
    {two_ints, "[1.5, 2]", "{}", "TypeError(\"add() argument 'a' must be int, not float\")"},
    {two_ints, "[null, 2]", "{}", "TypeError(\"add() argument 'a' must be int, not None\")"},
    {two_ints, "[1180591620717411303424, 2]", "{}",
     "TypeError(\"add() argument 'a' is too large for a 64-bit integer\")"},
    {no_args, "[]", "{}", "None"},
    {no_args, "[1]", "{}", "TypeError('add() takes 0 positional arguments but 1 was given')"},
    {one_or_two, "[1]", "{}", "107"},
    {one_or_two, "[1, 2]", "{}", "102"},
    {one_or_two, "[1, 2, 3]", "{}",
     "TypeError('add() takes from 1 to 2 positional arguments but 3 were given')"},
    {all_kinds, "[1]", "{}", "'1 0 - - -'"},
    {all_kinds, "[1.5, true, \"h\\u00e9\", \"raw\", {\"a\": [1.0, null]}]", "{}",
     "'1.5 1 hé raw {\"a\": [1.0, null]}'"},
    {all_kinds, "[0, false, \"\", {\"__type__\": \"base64\", \"__value__\": \"AGI=\"}, NaN]", "{}",
     "'0 0  '"},
    {all_kinds, "[0, 1]", "{}", "TypeError(\"add() argument 'b' must be bool, not int\")"},
    {all_kinds, "[0, true, \"a\\u0000b\"]", "{}",
     "TypeError('add() argument 3 contains a null character')"},
    {all_kinds, "[0, true, \"\", [1]]", "{}",
     "TypeError('add() argument 4 must be str or bytes, not list')"},
};

Test(args, bind_as_python_binds)
{
    for (size_t i = 0; i < ARRAY_SIZE(bindings); i++) {
        struct run r = start(bindings[i].fn, bindings[i].args, bindings[i].kwargs);
        r.task.arg_names = "a,b";
        run(&r);
        cr_assert(strncmp(text(&r.repr), bindings[i].repr, strlen(bindings[i].repr) - 1) == 0,
                  "case %zu: have %s", i, text(&r.repr));
        end(&r);
    }
}

Test(args, without_names_there_are_no_keywords)
{
    struct run r = start(two_ints, "[1]", "{\"b\": 2}");
    run(&r);
    EXPECT_TEXT(text(&r.repr), "TypeError(\"add() got an unexpected keyword argument 'b'\")");
    end(&r);
}

/* ---- ends ---- */

static int raise_value(struct celeryc_call *call)
{
    const char *type;
    if (celeryc_args(call, "s", &type))
        return -1;
#line 42 "tasks.c"
    return celeryc_raise(call, type, "%s", "boom");
}

Test(run, success_record)
{
    struct run r = start(two_ints, "[2, 3]", "{}");
    run(&r);
    cr_assert_eq(r.o.kind, OUTCOME_SUCCESS);
    cr_assert(r.o.store && r.o.runtime_ns > 0 && r.o.n_messages == 0);
    EXPECT_TEXT(record(&r),
                "{\"status\": \"SUCCESS\", \"result\": 5, \"traceback\": null, \"children\": [], "
                "\"date_done\": \"T\", \"task_id\": \"" ID "\"}");
    end(&r);
}

Test(run, extended_record_with_group_and_parent)
{
    struct run r = start(two_ints, "[2, 3]", "{}");
    r.settings.result_extended = true;
    r.message.group = SLICE_LIT("G");
    r.message.parent_id = SLICE_LIT("P");
    run(&r);
    EXPECT_TEXT(
        record(&r),
        "{\"status\": \"SUCCESS\", \"result\": 5, \"traceback\": null, \"children\": [], "
        "\"date_done\": \"T\", \"group_id\": \"G\", \"parent_id\": \"P\", \"name\": \"tasks.add\", "
        "\"args\": [2, 3], \"kwargs\": {}, \"worker\": \"w1@host\", \"retries\": 0, \"queue\": "
        "\"q1\", \"task_id\": \"" ID "\"}");
    end(&r);
}

Test(run, failure_record)
{
    struct run r = start(raise_value, "[\"ValueError\"]", "{}");
    run(&r);
    cr_assert_eq(r.o.kind, OUTCOME_FAILURE);
    EXPECT_TEXT(text(&r.repr), "ValueError('boom')");
    EXPECT_TEXT(text(&r.traceback), "Traceback (most recent call last):\n"
                                    "  File \"tasks.c\", line 42, in raise_value\n"
                                    "ValueError: boom\n");
    EXPECT_TEXT(
        record(&r),
        "{\"status\": \"FAILURE\", \"result\": {\"exc_type\": \"ValueError\", \"exc_message\": "
        "[\"boom\"], \"exc_module\": \"builtins\"}, \"traceback\": \"Traceback (most recent call "
        "last):\\n  File \\\"tasks.c\\\", line 42, in raise_value\\nValueError: boom\\n\", "
        "\"children\": [], \"date_done\": \"T\", \"task_id\": \"" ID "\"}");
    end(&r);
}

Test(run, exceptions_find_their_module)
{
    static const struct {
        const char *type, *name, *module;
    } cases[] = {
        {"KeyError", "KeyError", "builtins"},
        {"Exception", "Exception", "builtins"},
        {"shop.errors.Sold", "Sold", "shop.errors"},
        {"Sold", "Sold", "celeryc.errors"},
        {"UnicodeDecodeError", "UnicodeDecodeError", "celeryc.errors"}, /* takes five arguments */
        {"builtins.print", "print", "celeryc.errors"},                  /* no exception */
        {"builtins.OSError", "OSError", "builtins"},
        {"SoftTimeLimitExceeded", "SoftTimeLimitExceeded", "billiard.exceptions"},
        {"", "Exception", "celeryc.errors"},
        {".", ".", "celeryc.errors"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char args[128], want[256];
        (void)snprintf(args, sizeof args, "[\"%s\"]", cases[i].type);
        (void)snprintf(
            want, sizeof want,
            "{\"exc_type\": \"%s\", \"exc_message\": [\"boom\"], \"exc_module\": \"%s\"}",
            cases[i].name, i == 8 ? "builtins" : cases[i].module);
        struct run r = start(raise_value, args, "{}");
        run(&r);
        cr_assert(strstr(record(&r), want), "%s: %s", cases[i].type, record(&r));
        end(&r);
    }
}

static int raise_args(struct celeryc_call *call)
{
    return celeryc_raise_json(call, "ValueError", "[\"boom\",7]");
}

static int raise_garbage(struct celeryc_call *call)
{
    return celeryc_raise_json(call, "ValueError", "{no");
}

Test(run, exception_arguments)
{
    struct run r = start(raise_args, "[]", "{}");
    run(&r);
    EXPECT_TEXT(text(&r.repr), "ValueError('boom', 7)");
    cr_assert(strstr(text(&r.traceback), "\nValueError: ('boom', 7)\n"));
    cr_assert(strstr(record(&r), "\"exc_message\": [\"boom\", 7]"));
    end(&r);
    r = start(raise_garbage, "[]", "{}");
    run(&r);
    EXPECT_TEXT(text(&r.repr), "ValueError('{no')");
    end(&r);
}

static int key_error(struct celeryc_call *call)
{
    return celeryc_raise(call, "KeyError", "k");
}

Test(run, key_error_shows_its_key)
{
    struct run r = start(key_error, "[]", "{}");
    run(&r);
    cr_assert(strstr(text(&r.traceback), "\nKeyError: 'k'\n"));
    end(&r);
}

/* ---- retry ---- */

static int retry_value(struct celeryc_call *call)
{
    double countdown = 1;
    if (celeryc_args(call, "|d", &countdown))
        return -1;
    celeryc_retry_cause(call, "ValueError", "x");
    return celeryc_retry(call, countdown);
}

static int retry_plain(struct celeryc_call *call)
{
    return celeryc_retry(call, -1);
}

Test(run, retry_publishes_and_records)
{
    struct run r = start(retry_value, "[1]", "{}");
    run(&r);
    cr_assert_eq(r.o.kind, OUTCOME_RETRY);
    cr_assert(r.o.countdown == 1 && r.o.n_messages == 1 && r.o.store);
    cr_assert(slice_eq_str(r.o.messages[0].queue, "q1"));
    EXPECT_TEXT(text(&r.repr), "Retry in 1s: ValueError('x')");
    cr_assert(strstr(record(&r),
                     "{\"status\": \"RETRY\", \"result\": {\"exc_type\": \"ValueError\", "
                     "\"exc_message\": [\"x\"], \"exc_module\": \"builtins\"}"));
    cr_assert(
        strstr(record(&r), "\"children\": [[[\"" ID "\", null], null]], \"date_done\": null"));
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct message m;
    struct err e = ERR_INIT;
    cr_assert_eq(message_parse(a, r.o.messages[0].raw, &m, &e), 0);
    cr_assert(m.retries == 1 && m.has_eta && slice_eq_str(m.id, ID) && m.ignore_result == TRI_NO);
    cr_assert(slice_eq_str(m.parent_id, ID)); /* a root task becomes its own parent */
    end(&r);
}

Test(run, retry_texts)
{
    static const struct {
        body_fn fn;
        const char *args, *text;
    } cases[] = {
        {retry_value, "[0.05]", "Retry in 0.05s: ValueError('x')"},
        {retry_value, "[0]", "Retry in 0s: ValueError('x')"},
        {retry_value, "[-1]", "Retry in 180s: ValueError('x')"},
        {retry_plain, "[]", "Retry in 180s"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct run r = start(cases[i].fn, cases[i].args, "{}");
        run(&r);
        EXPECT_TEXT(text(&r.repr), cases[i].text);
        if (i == 3)
            cr_assert(strstr(record(&r), "\"result\": null"));
        end(&r);
    }
}

Test(run, retries_are_used_up)
{
    struct run r = start(retry_value, "[1]", "{}");
    r.message.retries = 3;
    run(&r);
    cr_assert_eq(r.o.kind, OUTCOME_FAILURE);
    cr_assert_eq(r.o.n_messages, 0);
    EXPECT_TEXT(text(&r.repr), "ValueError('x')");
    end(&r);
    r = start(retry_plain, "[1, \"b\"]", "{\"k\": null}");
    r.message.retries = 3;
    run(&r);
    cr_assert(strstr(record(&r),
                     "{\"exc_type\": \"MaxRetriesExceededError\", \"exc_message\": [\"Can't "
                     "retry tasks.add[" ID "] args:(1, 'b') kwargs:{'k': None}\"], "
                     "\"exc_module\": \"celery.exceptions\"}"));
    end(&r);
    r = start(retry_plain, "[]", "{}");
    r.message.retries = 1000;
    r.task.max_retries = CELERYC_RETRY_FOREVER;
    run(&r);
    cr_assert_eq(r.o.kind, OUTCOME_RETRY);
    end(&r);
    r = start(retry_plain, "[]", "{}");
    r.task.max_retries = CELERYC_RETRY_NEVER;
    run(&r);
    cr_assert_eq(r.o.kind, OUTCOME_FAILURE);
    end(&r);
}

static int backoff(struct celeryc_call *call)
{
    for (int i = 0; i < 200; i++) {
        double d = celeryc_backoff(call, 2, 600, true);
        if (d < 0 || d > 16 || d != floor(d))
            return celeryc_return_string(call, "out of range");
    }
    return celeryc_return_double(call, celeryc_backoff(call, 2, 600, false) * 1000 +
                                           celeryc_backoff(call, 0.5, 5, false));
}

Test(run, backoff_is_exponential)
{
    struct run r = start(backoff, "[]", "{}");
    r.message.retries = 3;
    run(&r);
    EXPECT_TEXT(text(&r.repr), "16005.0");
    end(&r);
}

/* ---- other ends ---- */

static int ignore(struct celeryc_call *call)
{
    return celeryc_ignore(call);
}

static int reject(struct celeryc_call *call)
{
    bool requeue;
    return celeryc_args(call, "b", &requeue) ? -1 : celeryc_reject(call, "no good", requeue);
}

/* An ignored member of a chord counts as null, and so does the last step that will not run; a step between does not. */
Test(run, ignored_member_counts)
{
    struct run r = start(ignore, "[]", "{}");
    r.message.group = SLICE_LIT("G");
    r.message.group_index = SLICE_LIT("2");
    r.message.embed = SLICE_LIT(
        "{\"callbacks\": null, \"errbacks\": null, \"chord\": {\"task\": \"b\", \"options\": {}}, "
        "\"chain\": [{\"task\": \"z\", \"options\": {\"task_id\": \"Z\", \"group_id\": \"H\", "
        "\"group_index\": 1, \"chord\": {\"task\": \"c\"}}}, "
        "{\"task\": \"y\", \"options\": {\"task_id\": \"Y\"}}]}");
    run(&r);
    cr_assert(r.o.kind == OUTCOME_IGNORE && !r.o.record.p && r.o.n_records == 0);
    cr_assert_eq(r.o.n_parts, 2);
    cr_assert(slice_eq_str(r.o.parts[0].group_id, "G") && slice_eq_str(r.o.parts[0].score, "2"));
    cr_assert(slice_eq_str(r.o.parts[0].member, "[1, \"" ID "\", \"IGNORED\", null]"));
    cr_assert(slice_eq_str(r.o.parts[1].group_id, "H") && slice_eq_str(r.o.parts[1].score, "1"));
    cr_assert(slice_eq_str(r.o.parts[1].member, "[1, \"Z\", \"IGNORED\", null]"));
    cr_assert(!r.o.parts[0].failed && !r.o.parts[1].failed);
    end(&r);
}

Test(run, ignore_and_reject)
{
    struct run r = start(ignore, "[]", "{}");
    run(&r);
    cr_assert(r.o.kind == OUTCOME_IGNORE && !r.o.record.p);
    end(&r);
    r = start(reject, "[true]", "{}");
    run(&r);
    cr_assert(r.o.kind == OUTCOME_REJECT && r.o.requeue && !r.o.record.p);
    end(&r);
    r = start(reject, "[false]", "{}");
    run(&r);
    cr_assert(r.o.kind == OUTCOME_REJECT && !r.o.requeue && r.o.store);
    cr_assert(strstr(record(&r), "\"status\": \"FAILURE\", \"result\": {\"exc_type\": \"Reject\", "
                                 "\"exc_message\": [\"no good\", false], \"exc_module\": "
                                 "\"celery.exceptions\"}, \"traceback\": null"));
    end(&r);
}

static int just_zero(struct celeryc_call *call)
{
    return 0;
}

static int just_five(struct celeryc_call *call)
{
    return 5;
}

static int not_json(struct celeryc_call *call)
{
    return celeryc_return_json(call, "{\"a\": }", 7);
}

static int odd_json(struct celeryc_call *call)
{
    static const char json[] =
        "{\"n\":1180591620717411303424,\"f\":1.0,\"x\":NaN,\"s\":\"\xc3\xa9\"}";
    return celeryc_return_json(call, json, sizeof json - 1);
}

Test(run, results)
{
    struct run r = start(just_zero, "[]", "{}");
    run(&r);
    cr_assert(strstr(record(&r), "\"result\": null"));
    end(&r);
    r = start(just_five, "[]", "{}");
    run(&r);
    EXPECT_TEXT(text(&r.repr), "RuntimeError('the task function returned 5')");
    end(&r);
    r = start(not_json, "[]", "{}");
    run(&r);
    cr_assert(strstr(record(&r), "\"exc_type\": \"EncodeError\""));
    cr_assert(strstr(record(&r), "\"exc_module\": \"kombu.exceptions\""));
    end(&r);
    r = start(odd_json, "[]", "{}");
    run(&r);
    cr_assert(strstr(record(&r),
                     "\"result\": {\"n\": 1180591620717411303424, \"f\": 1.0, \"x\": NaN, "
                     "\"s\": \"\\u00e9\"}"),
              "%s", record(&r));
    end(&r);
}

/* ---- what is stored: the table of wire-messages 3.6 ---- */

Test(run, ignored_results)
{
    static const struct {
        bool task, setting, errors;
        enum tristate header;
        bool success, failure;
    } cases[] = {
        {false, false, false, TRI_UNSET, true, true},
        {true, false, false, TRI_UNSET, false, false},
        {false, true, false, TRI_UNSET, false, false},
        {true, false, true, TRI_UNSET, false, true},
        {true, false, false, TRI_NO, true, true},
        {false, false, false, TRI_YES, false, false},
        {false, false, true, TRI_YES, false, true},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        for (int fails = 0; fails < 3; fails++) {
            struct run r = start(fails == 2 ? retry_value
                                 : fails    ? raise_args
                                            : just_zero,
                                 "[]", "{}");
            r.task.ignore_result = cases[i].task;
            r.settings.ignore_result = cases[i].setting;
            r.settings.store_errors_even_if_ignored = cases[i].errors;
            r.message.ignore_result = cases[i].header;
            run(&r);
            bool want = fails ? cases[i].failure : cases[i].success;
            cr_assert_eq(r.o.store, want, "case %zu fails %d", i, fails);
            cr_assert_eq(r.o.record.p != NULL, want);
            end(&r);
        }
}

/* ---- on the way ---- */

static int on_the_way(struct celeryc_call *call)
{
    if (celeryc_update_state(call, "PROGRESS", "{\"done\":1}") ||
        celeryc_update_state(call, "PROGRESS", "{no") != -1 ||
        celeryc_update_state(call, "FAILURE", "{}") != -1 ||
        celeryc_send(call, "other", "[1]", "{\"k\": 2}", NULL, 0, "C1") ||
        celeryc_send(call, "other", NULL, NULL, "fast", 2.5, "C2") ||
        celeryc_send(call, "other", "{}", NULL, NULL, 0, NULL) != -1 ||
        celeryc_send(call, "", NULL, NULL, NULL, 0, NULL) != -1)
        return -1;
    return celeryc_return_bool(call, celeryc_should_stop(call));
}

Test(run, states_and_messages)
{
    struct run r = start(on_the_way, "[]", "{}");
    r.task.track_started = true;
    atomic_store(&r.stop, 1);
    run(&r);
    char want[512];
    (void)snprintf(
        want, sizeof want,
        "{\"status\": \"STARTED\", \"result\": {\"pid\": %d, \"hostname\": \"w1@host\"}, "
        "\"traceback\": null, \"children\": [], \"date_done\": null, \"task_id\": \"" ID "\"}\n"
        "{\"status\": \"PROGRESS\", \"result\": {\"done\": 1}, \"traceback\": null, "
        "\"children\": [], \"date_done\": null, \"task_id\": \"" ID "\"}\n",
        (int)getpid());
    EXPECT_TEXT(text(&r.states), want);
    char *second = strchr(text(&r.sends), '\n') + 1;
    cr_assert(strncmp(text(&r.sends), "celery {", 8) == 0 && strncmp(second, "fast {", 6) == 0);
    cr_assert(strstr(text(&r.sends), "\"parent_id\": \"" ID "\""));
    cr_assert(strstr(text(&r.sends), "\"root_id\": \"" ID "\""));
    cr_assert(strstr(record(&r), "\"result\": true"));
    cr_assert(strstr(record(&r), "\"children\": [[[\"C1\", null], null], [[\"C2\", null], null]]"));
    end(&r);
}

/* ---- hostile bytes ---- */

Test(run, anything_becomes_an_outcome)
{
    CLEANUP(buf_deinit) struct buf raw = BUF_INIT;
    struct run first = start(two_ints, "[1, 2]", "{\"k\": [null]}");
    cr_assert_eq(message_write_new(&raw, &first.message), 0);
    end(&first);
    static const char bytes[] = {0, '"', '{', '}', '[', ',', '\\', 'x', '9', (char)0xff};
    for (size_t at = 0; at < raw.len; at += 3) {
        char old = raw.data[at];
        raw.data[at] = bytes[at % sizeof bytes];
        struct run r = start(two_ints, "[]", "{}");
        run_raw(&r, buf_slice(&raw));
        cr_assert(r.o.kind == OUTCOME_FAILURE || r.o.kind == OUTCOME_SUCCESS);
        end(&r);
        raw.data[at] = old;
    }
    for (size_t len = 0; len < raw.len; len += 7) {
        struct run r = start(two_ints, "[]", "{}");
        run_raw(&r, (struct slice){raw.data, len});
        cr_assert_eq(r.o.kind, OUTCOME_FAILURE);
        end(&r);
    }
}

Test(run, unknown_task)
{
    struct run r = start(two_ints, "[]", "{}");
    r.message.task = SLICE_LIT("tasks.other");
    run(&r);
    cr_assert(strstr(record(&r), "{\"exc_type\": \"NotRegistered\", \"exc_message\": "
                                 "[\"tasks.other\"], \"exc_module\": \"celery.exceptions\"}"));
    end(&r);
}

Test(run, verdicts)
{
    CLEANUP(buf_deinit) struct buf dst = BUF_INIT;
    struct task_settings s = {.node = "w1@host"};
    struct message m = {.id = SLICE_LIT("X"), .ignore_result = TRI_UNSET};
    cr_assert_eq(task_write_verdict(&dst, &s, &m, "REVOKED", "TaskRevokedError",
                                    "celery.exceptions", SLICE_LIT("[\"expired\"]")),
                 0);
    cr_assert(strstr(dst.data,
                     "{\"status\": \"REVOKED\", \"result\": {\"exc_type\": "
                     "\"TaskRevokedError\", \"exc_message\": [\"expired\"], \"exc_module\": "
                     "\"celery.exceptions\"}, \"traceback\": null, \"children\": []"));
    cr_assert(task_stores_error(&s, NULL, &m));
    m.ignore_result = TRI_YES;
    cr_assert(!task_stores_error(&s, NULL, &m));
}

/* A child's death is a retry: the message keeps its parent, the record has no children. */
Test(run, lost_retry)
{
    static const struct task_info t = {.name = "t", .max_retries = 3, .default_retry_delay = 2};
    const struct task_settings s = {.node = "w1@host"};
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(buf_deinit) struct buf raw = BUF_INIT;
    struct message_new n = {.task = SLICE_LIT("t"), .id = SLICE_LIT("X"), .queue = SLICE_LIT("q")};
    struct message m, again;
    struct err e = ERR_INIT;
    cr_assert_eq(message_write_new(&raw, &n), 0);
    cr_assert_eq(message_parse(a, buf_slice(&raw), &m, &e), 0);
    for (int ignored = 0; ignored < 2; ignored++) {
        CLEANUP(task_lost_retry_deinit) struct task_lost_retry r = {0};
        m.ignore_result = ignored ? TRI_YES : TRI_UNSET;
        cr_assert_eq(task_write_lost_retry(a, &s, &t, &m, SLICE_LIT("[\"gone\"]"), &r), 0);
        EXPECT_TEXT(text(&r.text), "Retry in 2s: WorkerLostError('gone')");
        cr_assert_eq(message_parse(a, buf_slice(&r.message), &again, &e), 0);
        cr_assert(again.retries == 1 && again.has_eta && !again.parent_id.p);
        cr_assert_eq(again.ignore_result, ignored ? TRI_YES : TRI_NO);
        cr_assert_eq(r.record.len == 0, ignored == 1);
        if (!ignored)
            cr_assert(strstr(r.record.data,
                             "{\"status\": \"RETRY\", \"result\": {\"exc_type\": "
                             "\"WorkerLostError\", \"exc_message\": [\"gone\"], \"exc_module\": "
                             "\"billiard.exceptions\"}, \"traceback\": null, \"children\": []"));
    }
    m.body = (struct json_val){JSON_K_STRING, SLICE_LIT("\"%%\"")};
    CLEANUP(task_lost_retry_deinit) struct task_lost_retry broken = {0};
    cr_assert_eq(task_write_lost_retry(a, &s, &t, &m, SLICE_LIT("[]"), &broken), MESSAGE_E_POISON);
}

/* ---- the encoded outcome ---- */

Test(outcome, survives_the_way)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(buf_deinit) struct buf bytes = BUF_INIT;
    struct outcome_message messages[2] = {{SLICE_LIT("q"), 3, SLICE_LIT("raw")},
                                          {SLICE_LIT("r"), 9, SLICE_LIT("")}};
    struct outcome o = {.kind = OUTCOME_RETRY,
                        .store = true,
                        .record = SLICE_LIT("{}"),
                        .repr = SLICE_NULL,
                        .countdown = 0.05,
                        .runtime_ns = 1234567890123,
                        .n_messages = 2,
                        .messages = messages};
    struct outcome back;
    struct err e = ERR_INIT;
    cr_assert_eq(outcome_encode(&o, &bytes), 0);
    cr_assert_eq(outcome_decode(a, buf_slice(&bytes), &back, &e), 0);
    cr_assert(back.kind == OUTCOME_RETRY && back.store && !back.requeue);
    cr_assert(back.countdown == 0.05 && back.runtime_ns == 1234567890123);
    cr_assert(slice_eq_str(back.record, "{}") && !back.repr.p && back.n_messages == 2);
    cr_assert(slice_eq_str(back.messages[1].queue, "r") && back.messages[1].priority == 9);
    for (size_t len = 0; len < bytes.len; len++)
        cr_assert_eq(outcome_decode(a, (struct slice){bytes.data, len}, &back, NULL), -EINVAL);
    buf_append_char(&bytes, 0);
    cr_assert_eq(outcome_decode(a, buf_slice(&bytes), &back, NULL), -EINVAL);
}
