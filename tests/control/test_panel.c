/* SPDX-License-Identifier: Apache-2.0 */
/* Commands to replies: the shapes, and the errors of a wrong call in Python's words. What is marked +id is to be stored as
 * REVOKED before the reply leaves. */

#include "fake_host.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <signal.h>

struct exchange {
    char method[32], arguments[160], reply[400];
};

static void check(const struct exchange *x)
{
    CLEANUP(fake_host_deinit) struct fake_host f;
    cr_assert_eq(fake_host_init(&f), 0);
    CLEANUP(mem_free) char *reply = fake_host_ask(&f, x->method, x->arguments);
    cr_assert_str_eq(reply, x->reply, "%s(%s):\n%s\n%s", x->method, x->arguments, reply, x->reply);
}

#define TASK(id, name, start, acked, pid)                                                     \
    "{\"id\": \"" id "\", \"name\": \"" name                                                  \
    "\", \"args\": [1, \"x\"], \"kwargs\": {\"k\": NaN}, \"type\": \"t.add\", \"hostname\": " \
    "\"w1@h\", \"time_start\": " start ", \"acknowledged\": " acked                           \
    ", \"delivery_info\": {\"exchange\": \"\", \"routing_key\": \"q\", \"priority\": 3, "     \
    "\"redelivered\": false}, \"worker_pid\": " pid "}"

ParameterizedTestParameters(panel, inspect)
{
    static struct exchange x[] = {
        {"ping", "{}", "{\"ok\": \"pong\"}"},
        {"ping", "null", "{\"ok\": \"pong\"}"},
        {"ping", "{\"any\": 1}", "{\"ok\": \"pong\"}"},
        {"clock", "{}", "{\"clock\": 0}"},
        {"active", "{}", "[" TASK("running", "t.add", "1.5", "true", "42") "]"},
        {"reserved", "{}", "[" TASK("waiting", "t.add", "null", "false", "null") "]"},
        {"dump_schedule", "{}",
         "[{\"eta\": \"2030-01-02T03:04:05+00:00\", \"priority\": 6, \"request\": " TASK(
             "later", "nick", "null", "false", "null") "}]"},
        {"query_task", "{\"ids\": [\"none\", \"waiting\", \"waiting\"]}",
         "{\"waiting\": [\"reserved\", " TASK("waiting", "t.add", "null", "false", "null") "]}"},
        {"query_task", "{\"ids\": \"none\"}", "{}"},
        {"registered", "{}", "[\"t.add\"]"},
        {"dump_tasks", "{\"builtins\": true, \"taskinfoitems\": [\"acks_late\", \"_x\", \"name\"]}",
         "[\"celery.hidden [acks_late=False name=celery.hidden]\", \"t.add [acks_late=True "
         "name=t.add]\"]"},
        {"revoked", "{}", "[]"},
        {"conf", "{}", "{\"a\": 1}"},
        {"conf", "{\"with_defaults\": true}", "{\"a\": 1, \"b\": null}"},
        {"hello", "{\"from_node\": \"w1@h\"}", "null"},
        {"hello", "{\"from_node\": \"w2@h\", \"revoked\": [\"a\", 5, \"b\", \"a\"]}",
         "{\"revoked\": [\"b\", \"a\"], \"clock\": 1}"},
        {"hello", "{\"from_node\": \"w2@h\", \"revoked\": {\"a\": [1.5, \"a\"], \"b\": 7}}",
         "{\"revoked\": [\"a\", \"b\"], \"clock\": 1}"},
    };
    return cr_make_param_array(struct exchange, x, ARRAY_SIZE(x));
}

ParameterizedTest(struct exchange *x, panel, inspect)
{
    check(x);
}

ParameterizedTestParameters(panel, errors)
{
    static struct exchange x[] = {
        {"nosuch", "{}", "{\"error\": \"KeyError('nosuch')\"}"},
        {"it's", "{}", "{\"error\": \"KeyError(\\\"it's\\\")\"}"},
        {"ping", "[1]", "{\"error\": \"TypeError('ping() argument after ** must be a mapping')\"}"},
        {"revoke", "{}",
         "{\"error\": \"TypeError(\\\"revoke() missing 1 required positional argument: "
         "'task_id'\\\")\"}"},
        {"terminate", "{}",
         "{\"error\": \"TypeError(\\\"terminate() missing 2 required positional arguments: "
         "'signal' and 'task_id'\\\")\"}"},
        {"report", "{\"x\": 1}",
         "{\"error\": \"TypeError(\\\"report() got an unexpected keyword argument 'x'\\\")\"}"},
        {"ping", "{\"state\": 1}",
         "{\"error\": \"TypeError(\\\"ping() got multiple values for argument 'state'\\\")\"}"},
        {"terminate", "{\"signal\": \"kill\", \"task_id\": \"a\"}",
         "{\"error\": \"TypeError('signal name must be uppercase string.')\"} +a"},
        {"terminate", "{\"signal\": 65, \"task_id\": \"a\"}",
         "{\"error\": \"ValueError('signal number out of range')\"} +a"},
        {"time_limit", "{\"task_name\": \"t.add\", \"hard\": \"x\"}",
         "{\"error\": \"ValueError('hard is not a number of seconds')\"}"},
        {"time_limit", "{\"task_name\": \"t.add\", \"hard\": NaN}",
         "{\"error\": \"ValueError('hard is not a number of seconds')\"}"},
        {"rate_limit", "{\"task_name\": \"t.add\", \"rate_limit\": \"9/x\"}",
         "{\"error\": \"KeyError('x')\"}"},
    };
    return cr_make_param_array(struct exchange, x, ARRAY_SIZE(x));
}

ParameterizedTest(struct exchange *x, panel, errors)
{
    check(x);
}

ParameterizedTestParameters(panel, revoke)
{
    static struct exchange x[] = {
        {"revoke", "{\"task_id\": \"a\"}", "{\"ok\": \"tasks {'a'} flagged as revoked\"} +a"},
        {"revoke", "{\"task_id\": [\"a\", \"b\", \"a\", 5, null]}",
         "{\"ok\": \"tasks {'a', 'b'} flagged as revoked\"} +a +b"},
        {"revoke", "{\"task_id\": []}", "{\"ok\": \"tasks set() flagged as revoked\"}"},
        {"revoke", "{\"task_id\": {\"a\": 1}}", "{\"ok\": \"tasks set() flagged as revoked\"}"},
        {"revoke", "{\"task_id\": [\"running\", \"waiting\"]}",
         "{\"ok\": \"tasks {'running', 'waiting'} flagged as revoked\"} +waiting"},
        {"revoke", "{\"task_id\": [\"waiting\", \"a\", \"running\"], \"terminate\": true}",
         "{\"ok\": \"terminate: running, waiting\"} +waiting +a"},
        {"terminate", "{\"task_id\": \"a\", \"signal\": \"TERM\"}",
         "{\"ok\": \"terminate: tasks unknown\"} +a"},
        {"revoke_by_stamped_headers", "{\"headers\": {\"owner\": \"ann\"}}",
         "{\"ok\": \"headers {'owner': 'ann'} flagged as revoked, but not terminated\"}"},
        {"revoke_by_stamped_headers", "{\"headers\": {\"owner\": [\"x\"]}, \"terminate\": true}",
         "{\"ok\": \"headers {'owner': ['x']} were not terminated\"}"},
        {"revoke_by_stamped_headers",
         "{\"headers\": [\"owner=ann\", \"n=1=2\"], \"terminate\": true, \"signal\": \"SIGKILL\"}",
         "{\"ok\": \"headers defaultdict(<class 'set'>, {'owner': {'ann'}}) revoked\"}"},
        {"revoke_by_stamped_headers", "{\"headers\": [\"x\"]}",
         "{\"error\": \"IndexError('list index out of range')\"}"},
        {"revoke_by_stamped_headers", "{\"headers\": 5}",
         "{\"error\": \"AttributeError(\\\"headers has no attribute 'items'\\\")\"}"},
    };
    return cr_make_param_array(struct exchange, x, ARRAY_SIZE(x));
}

ParameterizedTest(struct exchange *x, panel, revoke)
{
    check(x);
}

Test(panel, terminates_what_runs_only)
{
    CLEANUP(fake_host_deinit) struct fake_host f;
    cr_assert_eq(fake_host_init(&f), 0);
    free(fake_host_ask(&f, "revoke",
                       "{\"task_id\": [\"running\", \"waiting\"], \"terminate\": true}"));
    cr_assert_eq(f.n_terminated, 1);
    cr_assert_eq(f.signum, SIGTERM);
    free(fake_host_ask(&f, "terminate", "{\"task_id\": \"running\", \"signal\": \"SIGUSR1\"}"));
    cr_assert_eq(f.signum, SIGUSR1);
    f.refuses = true;
    CLEANUP(mem_free)
    char *reply = fake_host_ask(&f, "terminate", "{\"task_id\": \"running\", \"signal\": 9}");
    cr_assert_str_eq(reply, "{\"error\": \"NotImplementedError('it cannot')\"}");
}

Test(panel, stamps_are_remembered)
{
    CLEANUP(fake_host_deinit) struct fake_host f;
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    cr_assert_eq(fake_host_init(&f), 0);
    const struct message *stamped = &f.messages[CONTROL_ACTIVE];
    cr_assert_not(stamps_revoked(&f.panel, stamped, NULL));
    free(fake_host_ask(&f, "revoke_by_stamped_headers",
                       "{\"headers\": {\"owner\": \"joe\", \"other\": \"bob\"}}"));
    cr_assert_not(stamps_revoked(&f.panel, stamped, NULL));
    free(fake_host_ask(&f, "revoke_by_stamped_headers", "{\"headers\": {\"owner\": \"bob\"}}"));
    cr_assert(stamps_revoked(&f.panel, stamped, &text));
    cr_assert_str_eq(text.data, " (revoked by header: {'owner': 'bob'})");
    cr_assert_not(stamps_revoked(&f.panel, &f.messages[CONTROL_RESERVED], NULL));
    free(fake_host_ask(&f, "forget_stamps", "{}"));
    cr_assert_not(stamps_revoked(&f.panel, stamped, NULL));
}

Test(panel, other_commands)
{
    CLEANUP(fake_host_deinit) struct fake_host f;
    cr_assert_eq(fake_host_init(&f), 0);
    free(fake_host_ask(&f, "time_limit", "{\"task_name\": \"t.add\", \"soft\": 1, \"hard\": 2.5}"));
    cr_assert_eq(f.soft, 1);
    cr_assert_eq(f.hard, 2.5);
    CLEANUP(mem_free) char *null = fake_host_ask(&f, "heartbeat", "{}");
    cr_assert_str_eq(null, "null");
    cr_assert(f.panel.heartbeat);
    CLEANUP(mem_free) char *nothing = fake_host_ask(&f, "shutdown", "{}");
    cr_assert_str_eq(nothing, "nothing");
    cr_assert_eq(f.n_shutdowns, 1);
}

Test(panel, events_have_celerys_fields)
{
    CLEANUP(fake_host_deinit) struct fake_host f;
    CLEANUP(buf_deinit) struct buf text = BUF_INIT;
    struct json_val v;
    struct json_iter it;
    static const char *const keys[] = {
        "\"hostname\"", "\"utcoffset\"", "\"pid\"",     "\"clock\"",    "\"freq\"",
        "\"active\"",   "\"processed\"", "\"loadavg\"", "\"sw_ident\"", "\"sw_ver\"",
        "\"sw_sys\"",   "\"timestamp\"", "\"type\""};
    cr_assert_eq(fake_host_init(&f), 0);
    cr_assert_str_eq(event_write(&text, &f.panel, EVENT_ONLINE, 2000), "worker.online");
    cr_assert_eq(json_scan(buf_slice(&text), &v, NULL), 0);
    size_t n = 0;
    json_iter_init(&it, v);
    while (json_next(&it)) {
        cr_assert_lt(n, ARRAY_SIZE(keys));
        cr_assert(slice_eq_str(it.key.raw, keys[n++]));
    }
    cr_assert_eq(n, ARRAY_SIZE(keys));
    cr_assert(slice_eq_str(json_get(v, "freq").raw, "2.0"));
    cr_assert_eq(json_get(v, "utcoffset").kind, JSON_K_FLOAT);
    cr_assert(slice_eq_str(json_get(v, "clock").raw, "1"));
}
