/* SPDX-License-Identifier: Apache-2.0 */
/* What a task applies, puts in its place, adds to its chord, retries with; and signatures as they are built. What Celery
 * 5.7 writes stands literally in the expectations. */

#include "one_run.h"

#include <celeryc/client.h>

#define SIG(name, args)                        \
    "{\"task\": \"" name "\", \"args\": " args \
    ", \"kwargs\": {}, \"options\": {}, \"subtask_type\": null, \"immutable\": false}"
#define GROUP_ID "99999999-2222-4333-8444-555555555555"

static struct celeryc_sig *sig(const char *name)
{
    return celeryc_signature(name, NULL, NULL);
}

static void expect_sig(struct celeryc_sig *s, const char *want)
{
    cr_assert_not_null(s);
    cr_assert_null(celeryc_sig_error(s), "%s", celeryc_sig_error(s));
    EXPECT_TEXT(celeryc_sig_json(s, NULL), want);
    celeryc_sig_free(s);
}

static void expect_error(struct celeryc_sig *s, const char *want)
{
    cr_assert_not_null(s);
    cr_assert_null(celeryc_sig_json(s, NULL));
    cr_assert_not_null(strstr(celeryc_sig_error(s), want), "%s", celeryc_sig_error(s));
    celeryc_sig_free(s);
}

/* ---- building ---- */

Test(sig, of_a_task)
{
    expect_sig(
        celeryc_signature("t", "[1, 99999999999999999999, NaN]", "{\"x\":1.0}"),
        "{\"task\": \"t\", \"args\": [1, 99999999999999999999, NaN], \"kwargs\": {\"x\": 1.0}, "
        "\"options\": {}, \"subtask_type\": null, \"immutable\": false}");
    expect_sig(
        celeryc_sig_set(celeryc_sig_immutable(sig("t")), "queue", "\"fast\""),
        "{\"task\": \"t\", \"args\": [], \"kwargs\": {}, \"options\": {\"queue\": \"fast\"}, "
        "\"subtask_type\": null, \"immutable\": true}");
}

Test(sig, canvases)
{
    expect_sig(celeryc_chain(2, (struct celeryc_sig *[]){sig("a"), sig("b")}),
               "{\"task\": \"celery.chain\", \"args\": [], \"kwargs\": {\"tasks\": [" SIG(
                   "a", "[]") ", " SIG("b", "[]") "]}, \"options\": {}, \"subtask_type\": "
                                                  "\"chain\", \"immutable\": false}");
    /* chain(group, task) is a chord, as in Python. */
    struct celeryc_sig *header = celeryc_group(2, (struct celeryc_sig *[]){sig("a"), sig("b")});
    expect_sig(celeryc_chain(2, (struct celeryc_sig *[]){header, sig("c")}),
               "{\"task\": \"celery.chord\", \"args\": [], \"kwargs\": {\"kwargs\": {}, "
               "\"header\": [" SIG("a", "[]") ", " SIG("b", "[]") "], \"body\": " SIG(
                   "c", "[]") "}, \"options\": {}, "
                              "\"subtask_type\": \"chord\", \"immutable\": false}");
    expect_sig(celeryc_starmap(sig("a"), "[[1,2]]"),
               "{\"task\": \"celery.starmap\", \"args\": [], \"kwargs\": {\"task\": " SIG(
                   "a", "[]") ", "
                              "\"it\": [[1, 2]]}, \"options\": {}, \"subtask_type\": null, "
                              "\"immutable\": true}");
}

Test(sig, stamps_reach_every_task_and_link)
{
    struct celeryc_sig *s = celeryc_sig_link(sig("a"), sig("l"));
    s = celeryc_sig_stamp(celeryc_sig_stamp(s, "x", "1"), "x", "2");
    expect_sig(
        s,
        "{\"task\": \"a\", \"args\": [], \"kwargs\": {}, \"options\": {\"link\": [{\"task\": "
        "\"l\", "
        "\"args\": [], \"kwargs\": {}, \"options\": {\"x\": 2, \"stamped_headers\": [\"x\"]}, "
        "\"subtask_type\": null, \"immutable\": false}], \"x\": 2, \"stamped_headers\": [\"x\"]}, "
        "\"subtask_type\": null, \"immutable\": false}");
}

Test(sig, errors_travel_up)
{
    expect_error(celeryc_signature("t", "[1", NULL), "args: ");
    expect_error(celeryc_signature("t", "{}", NULL), "args are no JSON array");
    expect_error(celeryc_signature("", NULL, NULL), "no task name");
    expect_error(celeryc_sig_from_json("[]", 2), "not an object");
    expect_error(celeryc_chunks(sig("a"), "[1]", 0), "less than one");
    struct celeryc_sig *broken = celeryc_sig_set(sig("b"), "queue", "fast");
    expect_error(celeryc_chain(2, (struct celeryc_sig *[]){sig("a"), broken}), "queue: ");
    expect_error(celeryc_sig_link(sig("a"), celeryc_signature("t", NULL, "[]")), "kwargs are no");
    cr_assert_null(celeryc_group(2, (struct celeryc_sig *[]){sig("a"), NULL}));
    struct celeryc_sig *s = sig("a"), *copy = celeryc_sig_copy(s);
    celeryc_sig_free(s);
    expect_sig(copy, SIG("a", "[]"));
}

/* ---- in a task ---- */

static int apply_chord(struct celeryc_call *call)
{
    const char *result = NULL;
    struct celeryc_sig *s = celeryc_chord(
        celeryc_group(2, (struct celeryc_sig *[]){sig("tasks.one"), sig("tasks.two")}),
        celeryc_sig_set(sig("tasks.sum"), "task_id", "\"the-body\""));
    int rc = celeryc_apply(call, s, "{\"queue\": \"fast\"}", &result);
    celeryc_sig_free(s);
    return rc ? rc : celeryc_return_json(call, result, strlen(result));
}

static size_t count(const struct buf *b, const char *what)
{
    size_t n = 0;
    for (const char *p = text(b); (p = strstr(p, what)); p++)
        n++;
    return n;
}

Test(canvas_task, applies_a_chord_now)
{
    struct run r = start(apply_chord, "[]", "{}");
    run(&r);
    cr_assert_eq(r.o.kind, OUTCOME_SUCCESS, "%s", text(&r.repr));
    cr_assert_eq(r.n_applied_starts, 1);
    cr_assert_eq(count(&r.applied, "fast 0 {"), 2, "%s", text(&r.applied));
    cr_assert_eq(count(&r.applied, "\"parent_id\": \"" ID "\""), 2);
    cr_assert_eq(count(&r.applied, "\"root_id\": \"" ID "\""), 2);
    /* The result is the tuple of the body under that of the header, and the children list it. */
    cr_assert_not_null(strstr(record(&r), "\"result\": [[\"the-body\", [["), "%s", record(&r));
    cr_assert_not_null(strstr(record(&r), "\"children\": [[["), "%s", record(&r));
    end(&r);
}

Test(canvas_task, applies_nothing_that_is_broken)
{
    struct run r = start(apply_chord, "[]", "{}");
    r.refuse_apply = true;
    run(&r);
    cr_assert_eq(r.o.kind, OUTCOME_FAILURE);
    EXPECT_TEXT(text(&r.repr), "ValueError('what it would send is larger than a frame may be')");
    end(&r);
}

static int apply_bad(struct celeryc_call *call)
{
    struct celeryc_sig *s = celeryc_signature("t", "[", NULL);
    int rc = celeryc_apply(call, s, NULL, NULL);
    celeryc_sig_free(s);
    return rc;
}

Test(canvas_task, a_broken_signature_fails_the_task)
{
    struct run r = start(apply_bad, "[]", "{}");
    run(&r);
    cr_assert_eq(r.o.kind, OUTCOME_FAILURE);
    cr_assert_not_null(strstr(text(&r.repr), "ValueError('args: "), "%s", text(&r.repr));
    end(&r);
}

static int replace_with_chain(struct celeryc_call *call)
{
    struct celeryc_sig *s =
        celeryc_chain(2, (struct celeryc_sig *[]){sig("tasks.a"), sig("tasks.b")});
    int rc = celeryc_replace(call, s);
    celeryc_sig_free(s);
    return rc;
}

Test(canvas_task, is_replaced)
{
    struct run r = start(replace_with_chain, "[]", "{}");
    run(&r);
    cr_assert_eq(r.o.kind, OUTCOME_IGNORE, "%s", text(&r.repr));
    cr_assert_eq(r.o.n_messages, 1);
    cr_assert(!r.o.store);
    cr_assert_not_null(strstr(r.o.messages[0].raw.p, "\"replaced_task_nesting\": 1"));
    end(&r);
}

static int replace_with_nothing(struct celeryc_call *call)
{
    struct celeryc_sig *s = celeryc_chain(0, NULL);
    int rc = celeryc_replace(call, s);
    celeryc_sig_free(s);
    return rc;
}

Test(canvas_task, is_not_replaced_by_nothing)
{
    struct run r = start(replace_with_nothing, "[]", "{}");
    run(&r);
    cr_assert_eq(r.o.kind, OUTCOME_FAILURE);
    EXPECT_TEXT(text(&r.repr), "ImproperlyConfigured('Cannot replace with an empty chain')");
    end(&r);
}

static int grow(struct celeryc_call *call)
{
    struct celeryc_sig *s = sig("tasks.more");
    int rc = celeryc_add_to_chord(call, s);
    celeryc_sig_free(s);
    if (rc)
        return rc;
    return celeryc_retries(call) ? celeryc_return_int(call, 1) : celeryc_retry(call, 0);
}

static const char in_chord[] =
    "{\"callbacks\": null, \"errbacks\": null, \"chain\": null, \"chord\": " SIG("body", "[]") "}";

Test(canvas_task, adds_to_its_chord_with_its_end)
{
    struct run r = start(grow, "[]", "{}");
    r.message.embed = slice_str(in_chord);
    r.message.group = SLICE_LIT(GROUP_ID);
    r.message.group_index = SLICE_LIT("3");
    r.message.retries = 1;
    run(&r);
    cr_assert_eq(r.o.kind, OUTCOME_SUCCESS, "%s", text(&r.repr));
    cr_assert_eq(r.o.n_adds, 1);
    cr_assert(slice_eq_str(r.o.adds[0].group_id, GROUP_ID));
    cr_assert_eq(r.o.n_messages, 1);
    cr_assert_eq(r.o.n_parts, 1); /* its own */
    cr_assert_eq(r.applied.len, 0);
    end(&r);
}

Test(canvas_task, adds_to_its_chord_when_it_is_retried)
{
    struct run r = start(grow, "[]", "{}");
    r.message.embed = slice_str(in_chord);
    r.message.group = SLICE_LIT(GROUP_ID);
    run(&r);
    cr_assert_eq(r.o.kind, OUTCOME_RETRY);
    cr_assert_eq(r.o.n_adds, 1);
    cr_assert_eq(r.o.n_messages, 2);
    end(&r);
}

Test(canvas_task, adds_to_no_chord)
{
    struct run r = start(grow, "[]", "{}");
    run(&r);
    EXPECT_TEXT(text(&r.repr), "ValueError('Current task is not member of any chord')");
    end(&r);
}

/* ---- the request ---- */

static int ask(struct celeryc_call *call)
{
    char out[512];
    (void)snprintf(out, sizeof out, "%s %s %s %d %g %g", celeryc_root_id(call),
                   celeryc_parent_id(call) ? celeryc_parent_id(call) : "-",
                   celeryc_group_id(call) ? celeryc_group_id(call) : "-", celeryc_priority(call),
                   celeryc_time_limit(call), celeryc_soft_time_limit(call));
    return celeryc_return_string(call, out);
}

Test(request, at_the_top)
{
    struct run r = start(ask, "[]", "{}");
    r.settings.time_limit = 30;
    run(&r);
    EXPECT_TEXT(text(&r.repr), "'" ID " - - 0 30 0'");
    end(&r);
}

Test(request, inside)
{
    struct run r = start(ask, "[]", "{}");
    r.message.root_id = SLICE_LIT("r");
    r.message.parent_id = SLICE_LIT("p");
    r.message.group = SLICE_LIT("g");
    r.message.priority = 6;
    r.message.time_limit_s = 7;
    r.task.time_limit = 9;
    r.task.soft_time_limit = 5;
    run(&r);
    EXPECT_TEXT(text(&r.repr), "'r p g 6 7 5'");
    end(&r);
}

static int ask_field(struct celeryc_call *call)
{
    const char *field, *json;
    size_t len;
    if (celeryc_args(call, "s", &field))
        return -1;
    json = celeryc_request(call, field, &len);
    return json ? celeryc_return_json(call, json, len) : celeryc_return_none(call);
}

static void expect_field(const char *field, const char *want)
{
    char args[64];
    (void)snprintf(args, sizeof args, "[\"%s\"]", field);
    struct run r = start(ask_field, args, "{}");
    struct json_val headers;
    cr_assert_eq(json_scan(SLICE_LIT("{\"mine\": [1.0]}"), &headers, NULL), 0);
    r.message.headers = headers;
    run(&r);
    cr_assert_not_null(strstr(record(&r), want), "%s: %s", field, record(&r));
    end(&r);
}

Test(request, fields)
{
    expect_field("headers", "\"result\": {\"mine\": [1.0]}");
    expect_field("mine", "\"result\": [1.0]");
    expect_field("delivery_info",
                 "\"result\": {\"exchange\": \"\", \"routing_key\": \"q1\", \"priority\": 0, "
                 "\"redelivered\": false}");
    expect_field("properties", "\"correlation_id\": \"" ID "\"");
    expect_field("timelimit", "\"result\": [null, null]");
    expect_field("eta", "\"result\": null");
    expect_field("no such", "\"result\": null");
    expect_field("args", "\"result\": [\"args\"]");
    expect_field("hostname", "\"result\": \"w1@host\"");
}

/* ---- retries ---- */

static int retry_otherwise(struct celeryc_call *call)
{
    celeryc_retry_args(call, "[2]", NULL);
    celeryc_retry_option(call, "queue", "\"slow\"");
    celeryc_retry_option(call, "priority", "5");
    celeryc_retry_option(call, "time_limit", "9");
    return celeryc_retry(call, 10);
}

Test(retry, with_other_arguments_and_options)
{
    struct run r = start(retry_otherwise, "[1]", "{\"k\": 1}");
    struct json_val headers;
    cr_assert_eq(json_scan(SLICE_LIT("{\"mine\": [1.0]}"), &headers, NULL), 0);
    r.message.headers = headers;
    r.message.retries = 1;
    run(&r);
    cr_assert_eq(r.o.kind, OUTCOME_RETRY, "%s", text(&r.repr));
    cr_assert_eq(r.o.n_messages, 1);
    const struct outcome_message *m = &r.o.messages[0];
    cr_assert(slice_eq_str(m->queue, "slow"));
    cr_assert_eq(m->priority, 5);
    struct message again;
    struct message_body body;
    struct err e = ERR_INIT;
    cr_assert_eq(message_parse(r.arena, m->raw, &again, &e), 0, "%s", e.text);
    cr_assert_eq(message_body(r.arena, &again, &body, &e), 0);
    cr_assert(slice_eq_str(again.id, ID));
    cr_assert(slice_eq_str(again.parent_id, ID));
    cr_assert_eq(again.retries, 2);
    cr_assert_eq(again.time_limit_s, 9);
    cr_assert(again.has_eta);
    cr_assert(slice_eq_str(body.args.raw, "[2]"));
    cr_assert(slice_eq_str(body.kwargs.raw, "{\"k\": 1}"));
    cr_assert(slice_eq_str(json_get(again.headers, "mine").raw, "[1.0]"));
    end(&r);
}

/* What `new_args` and `new_kwargs` make of a call of f(foo, bar, label), as Celery 5.7 does. */
static const char *new_args, *new_kwargs;

static int retry_anew(struct celeryc_call *call)
{
    celeryc_retry_args(call, new_args, new_kwargs);
    return celeryc_retry(call, 0);
}

static void expect_retried(const char *args, const char *kwargs, const char *want_args,
                           const char *want_kwargs)
{
    struct run r = start(retry_anew, args, kwargs);
    struct message again;
    struct message_body body;
    struct err e = ERR_INIT;
    r.task.arg_names = "foo,bar,label";
    run(&r);
    cr_assert_eq(r.o.n_messages, 1);
    cr_assert_eq(message_parse(r.arena, r.o.messages[0].raw, &again, &e), 0, "%s", e.text);
    cr_assert_eq(message_body(r.arena, &again, &body, &e), 0);
    cr_assert(slice_eq_str(body.args.raw, want_args), "%.*s", (int)body.args.raw.len,
              body.args.raw.p);
    cr_assert(slice_eq_str(body.kwargs.raw, want_kwargs), "%.*s", (int)body.kwargs.raw.len,
              body.kwargs.raw.p);
    end(&r);
}

Test(retry, no_parameter_gets_two_values)
{
    new_args = "[2, 3]";
    expect_retried("[]", "{\"foo\": 1, \"bar\": 2, \"label\": 1.0}", "[2, 3]", "{\"label\": 1.0}");
    expect_retried("[1]", "{\"bar\": 2}", "[2, 3]", "{}");
    expect_retried("[1]", "{\"more\": 2}", "[2, 3]", "{\"more\": 2}");
    new_args = "[2, 3, 4, 5]";
    expect_retried("[]", "{\"label\": 2}", "[2, 3, 4, 5]", "{}");
    new_args = NULL;
    new_kwargs = "{\"foo\": 2, \"more\": 3}";
    expect_retried("[1, 1.0]", "{\"label\": 4}", "[2, 1.0]", "{\"more\": 3}");
    expect_retried("[]", "{\"foo\": 4}", "[]", "{\"foo\": 2, \"more\": 3}");
    new_args = "[2]";
    expect_retried("[1]", "{\"foo\": 4}", "[2]", "{\"foo\": 2, \"more\": 3}");
}

static int retry_badly(struct celeryc_call *call)
{
    celeryc_retry_option(call, "queue", "slow");
    return celeryc_retry(call, 10);
}

Test(retry, with_bad_options_fails)
{
    struct run r = start(retry_badly, "[]", "{}");
    run(&r);
    cr_assert_eq(r.o.kind, OUTCOME_FAILURE);
    EXPECT_TEXT(text(&r.repr), "ValueError('an option of the retry is no JSON')");
    end(&r);
}

static int missing_file(struct celeryc_call *call)
{
    return celeryc_raise(call, "FileNotFoundError", "gone");
}

static enum outcome_kind autoretry(const char *these, const char *not_these, int64_t retries,
                                   double *ret_countdown)
{
    struct run r = start(missing_file, "[]", "{}");
    r.task.autoretry_for = these;
    r.task.dont_autoretry_for = not_these;
    r.task.retry_backoff = 2;
    r.task.retry_backoff_max = 5;
    r.task.no_retry_jitter = true;
    r.message.retries = retries;
    run(&r);
    enum outcome_kind kind = r.o.kind;
    *ret_countdown = r.o.countdown;
    end(&r);
    return kind;
}

Test(retry, by_itself)
{
    double countdown;
    cr_assert_eq(autoretry("ValueError, OSError", NULL, 0, &countdown), OUTCOME_RETRY);
    cr_assert_eq(countdown, 2);
    cr_assert_eq(autoretry("Exception", NULL, 1, &countdown), OUTCOME_RETRY);
    cr_assert_eq(countdown, 4);
    cr_assert_eq(autoretry("*", NULL, 2, &countdown), OUTCOME_RETRY);
    cr_assert_eq(countdown, 5);
    cr_assert_eq(autoretry("IOError", NULL, 3, &countdown), OUTCOME_FAILURE); /* used up */
    cr_assert_eq(autoretry("ValueError", NULL, 0, &countdown), OUTCOME_FAILURE);
    cr_assert_eq(autoretry("OSError", "FileNotFoundError", 0, &countdown), OUTCOME_FAILURE);
    cr_assert_eq(autoretry(NULL, NULL, 0, &countdown), OUTCOME_FAILURE);
}

/* ---- errbacks of the new style ---- */

static char told[1024];

static int note_failure(struct celeryc_call *call, const struct celeryc_failure *f)
{
    const char *extra;
    if (celeryc_args(call, "s", &extra))
        return -1;
    size_t len = strlen(told);
    (void)snprintf(told + len, sizeof told - len, "%s|%s|%s|%s|%s|%s|%s;", celeryc_task_id(call),
                   f->task_id, f->task, f->exc_type, f->exc_module, f->exc_args, extra);
    return celeryc_raise(call, "RuntimeError", "changes nothing");
}

static int boom(struct celeryc_call *call)
{
    return celeryc_raise(call, "ValueError", "boom");
}

static const char with_errbacks[] = "{\"callbacks\": null, \"errbacks\": [" SIG(
    "tasks.add", "[\"x\"]") ", " SIG("tasks.old", "[]") "], \"chain\": null, \"chord\": null}";

Test(errback, is_called_with_the_failure)
{
    told[0] = '\0';
    struct run r = start(boom, "[]", "{}");
    r.task.errback = note_failure;
    r.message.embed = slice_str(with_errbacks);
    run(&r);
    cr_assert_eq(r.o.kind, OUTCOME_FAILURE);
    EXPECT_TEXT(text(&r.repr), "ValueError('boom')");
    EXPECT_TEXT(told, ID "|" ID "|tasks.add|ValueError|builtins|[\"boom\"]|x;");
    cr_assert_eq(r.o.n_messages, 1); /* the other one is sent */
    cr_assert_not_null(memmem(r.o.messages[0].raw.p, r.o.messages[0].raw.len, "tasks.old", 9));
    end(&r);
}

Test(errback, is_called_as_a_job)
{
    told[0] = '\0';
    CLEANUP(task_registry_free) struct task_registry *table = task_registry_new();
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(buf_deinit) struct buf job = BUF_INIT;
    CLEANUP(buf_deinit) struct buf done = BUF_INIT;
    const struct celeryc_task task = {.name = "tasks.errback", .errback = note_failure};
    const struct task_settings settings = {.node = "w1@host", .default_queue = "celery"};
    const struct task_host host = {.arg = NULL};
    const struct canvas_call c = {.errback = slice_str(SIG("tasks.errback", "[\"x\"]")),
                                  .task_id = SLICE_LIT(ID),
                                  .task = SLICE_LIT("t"),
                                  .x = {.type = SLICE_LIT("WorkerLostError"),
                                        .module = SLICE_LIT("billiard.exceptions"),
                                        .args = SLICE_LIT("[1]")}};
    struct err e = ERR_INIT;
    cr_assert_eq(task_registry_add(table, &task, NULL, NULL, &e), 0, "%s", e.text);
    cr_assert_eq(task_errback_write(&job, &c), 0);
    cr_assert_eq(task_run_errback(table, &settings, &host, a, buf_slice(&job), &done), 0);
    EXPECT_TEXT(told, ID "|" ID "|t|WorkerLostError|billiard.exceptions|[1]|x;");
    struct outcome o;
    cr_assert_eq(outcome_decode(a, buf_slice(&done), &o, &e), 0);
    cr_assert_eq(o.kind, OUTCOME_IGNORE);
}

Test(errback, is_no_task)
{
    struct run r = start(NULL, "[]", "{}");
    r.task.errback = note_failure;
    run(&r);
    cr_assert_eq(r.o.kind, OUTCOME_FAILURE);
    cr_assert_not_null(strstr(text(&r.repr), "TypeError("));
    end(&r);
}
