/* SPDX-License-Identifier: Apache-2.0 */
/* The client against a Redis of its own, without any worker: what it sends, and what it makes of records. */

#include "../redis/redis_server.h"
#include "celeryc/base/buf.h"
#include "celeryc/base/clock.h"

#include <celeryc/client.h>

#include <criterion/criterion.h>
#include <errno.h>

static struct redis_server server;
static struct celeryc_client *client;

static void setup(void)
{
    redis_server_start(&server, NULL);
    client = celeryc_client_new(server.url, server.url, NULL);
}

static void teardown(void)
{
    celeryc_client_free(client);
    redis_server_stop(&server);
}

TestSuite(client, .init = setup, .fini = teardown);

#define ASK(...) redis_server_ask(&server, __VA_ARGS__, NULL)

static void expect(char *have, const char *want)
{
    cr_assert_str_eq(have, want, "have: %s\nwant: %s", have, want);
    free(have);
}

static struct celeryc_sig *sig(const char *name)
{
    return celeryc_signature(name, NULL, NULL);
}

static struct celeryc_result *apply(struct celeryc_sig *s)
{
    struct celeryc_result *r = celeryc_client_apply(client, s, NULL);
    celeryc_sig_free(s);
    cr_assert_not_null(r, "%s", celeryc_client_error(client));
    return r;
}

static void store(const char *id, const char *status, const char *result)
{
    char key[128], record[512];
    (void)snprintf(key, sizeof key, "celery-task-meta-%s", id);
    (void)snprintf(record, sizeof record,
                   "{\"status\": \"%s\", \"result\": %s, \"traceback\": \"tb\\n\", "
                   "\"children\": [], \"date_done\": null, \"task_id\": \"%s\"}",
                   status, result, id);
    free(ASK("SET", key, record));
}

#define FAILED \
    "{\"exc_type\": \"ValueError\", \"exc_message\": [\"boom\"], \"exc_module\": \"builtins\"}"

static struct celeryc_sig *named(const char *id)
{
    char text[64];
    (void)snprintf(text, sizeof text, "\"%s\"", id);
    return celeryc_sig_set(sig("t"), "task_id", text);
}

/* ---- sending ---- */

Test(client, opens_a_chord_and_sends_its_header)
{
    struct celeryc_sig *members[] = {named("a"), named("b")};
    struct celeryc_sig *s = celeryc_chord(celeryc_group(2, members), named("body"));
    struct celeryc_result *r = apply(celeryc_sig_set(s, "task_id", "\"g\""));
    cr_assert_str_eq(celeryc_result_id(r), "body");
    expect(ASK("GET", "celery-taskset-meta-g.s"), "2");
    expect(ASK("TTL", "celery-taskset-meta-g.s"), "86400");
    expect(ASK("LLEN", "celery"), "2");
    celeryc_result_free(r);
}

Test(client, sends_once_under_a_marker)
{
    celeryc_result_free(apply(named("a")));
    expect(ASK("LLEN", "celery"), "1");
    char *marker = ASK("KEYS", "celeryc:sent:*");
    cr_assert_not_null(strstr(marker, "celeryc:sent:"));
    free(marker);
}

Test(client, uses_the_settings)
{
    struct celeryc_client *other = celeryc_client_new(
        server.url, server.url,
        "{\"task_default_queue\": \"orders\", \"broker_transport_options\": {\"global_keyprefix\": "
        "\"p:\"}, \"result_backend_transport_options\": {\"global_keyprefix\": \"res\"}}");
    struct celeryc_sig *s = celeryc_sig_set(named("a"), "priority", "6");
    struct celeryc_result *r = celeryc_client_apply(other, s, NULL);
    cr_assert_not_null(r, "%s", celeryc_client_error(other));
    expect(ASK("LLEN", "p:orders\x06\x16"
                       "6"),
           "1");
    free(ASK("SET", "res_celery-task-meta-a", "{\"status\": \"SUCCESS\", \"result\": 1.0}"));
    cr_assert_eq(celeryc_result_wait(r, 5), 0);
    cr_assert_str_eq(celeryc_result_json(r, NULL), "1.0");
    celeryc_result_free(r);
    celeryc_sig_free(s);
    celeryc_client_free(other);
}

Test(client, tells_what_is_wrong)
{
    struct celeryc_sig *s = celeryc_signature("t", "[", NULL);
    cr_assert_null(celeryc_client_apply(client, s, NULL));
    cr_assert_not_null(strstr(celeryc_client_error(client), "args"));
    cr_assert_eq(celeryc_result_wait(NULL, -1), -EINVAL); /* nothing has to be checked before */
    cr_assert_null(celeryc_result_state(NULL));
    cr_assert_null(celeryc_result_json(NULL, NULL));
    cr_assert_eq(celeryc_result_forget(NULL), -EINVAL);
    celeryc_sig_free(s);
    s = sig("t");
    cr_assert_null(celeryc_client_apply(client, s, "[]"));
    cr_assert_not_null(strstr(celeryc_client_error(client), "options"));
    celeryc_sig_free(s);
    struct celeryc_client *wrong = celeryc_client_new("amqp://host", NULL, NULL);
    s = sig("t");
    cr_assert_null(celeryc_client_apply(wrong, s, NULL));
    cr_assert_not_null(strstr(celeryc_client_error(wrong), "amqp"));
    celeryc_sig_free(s);
    celeryc_client_free(wrong);
    expect(ASK("DBSIZE"), "0");
}

/* ---- waiting ---- */

Test(client, reads_what_is_there)
{
    struct celeryc_result *r = celeryc_client_result(client, "a");
    cr_assert_str_eq(celeryc_result_tuple(r), "[[\"a\", null], null]");
    cr_assert_str_eq(celeryc_result_state(r), "PENDING");
    cr_assert_null(celeryc_result_json(r, NULL));
    cr_assert_eq(celeryc_result_wait(r, 0.01), -ETIMEDOUT);
    store("a", "STARTED", "{\"pid\": 1}");
    cr_assert_str_eq(celeryc_result_state(r), "STARTED");
    cr_assert_eq(celeryc_result_wait(r, 0.01), -ETIMEDOUT);
    store("a", "SUCCESS", "{\"big\": 99999999999999999999, \"nan\": NaN}");
    cr_assert_eq(celeryc_result_wait(r, -1), 0);
    size_t len;
    cr_assert_str_eq(celeryc_result_json(r, &len), "{\"big\": 99999999999999999999, \"nan\": NaN}");
    cr_assert_eq(len, strlen(celeryc_result_json(r, NULL)));
    cr_assert_str_eq(celeryc_result_state(r), "SUCCESS");
    cr_assert_eq(celeryc_result_forget(r), 0);
    expect(ASK("DBSIZE"), "0");
    celeryc_result_free(r);
}

Test(client, the_first_member_that_failed_speaks_for_the_group)
{
    struct celeryc_sig *members[] = {named("a"), named("b"), named("c")};
    struct celeryc_result *r = apply(celeryc_group(3, members));
    store("c", "REVOKED", FAILED);
    store("b", "FAILURE", FAILED);
    cr_assert_str_eq(celeryc_result_state(r), "PENDING"); /* not all have ended */
    store("a", "SUCCESS", "1");
    cr_assert_eq(celeryc_result_wait(r, 5), 0);
    cr_assert_str_eq(celeryc_result_state(r), "FAILURE");
    cr_assert_str_eq(celeryc_result_json(r, NULL), FAILED);
    cr_assert_str_eq(celeryc_result_traceback(r), "tb\n");
    celeryc_result_free(r);
}

Test(client, a_step_that_failed_ends_the_wait)
{
    struct celeryc_sig *steps[] = {named("a"), named("b"), named("c")};
    struct celeryc_result *r = apply(celeryc_chain(3, steps));
    store("a", "SUCCESS", "1");
    store("b", "FAILURE", FAILED);
    cr_assert_eq(celeryc_result_wait(r, 5), 0);
    cr_assert_str_eq(celeryc_result_state(r), "FAILURE");
    celeryc_result_free(r);
}

Test(client, nesting_deeper_than_json_is_read)
{
    enum { STEPS = 1000 };
    struct celeryc_sig *steps[STEPS];
    for (size_t i = 0; i < STEPS; i++)
        steps[i] = sig("t");
    struct celeryc_result *r = apply(celeryc_chain(STEPS, steps));
    store(celeryc_result_id(r), "SUCCESS", "7");
    cr_assert_eq(celeryc_result_wait(r, 5), 0);
    cr_assert_str_eq(celeryc_result_json(r, NULL), "7");
    celeryc_result_free(r);
}

Test(client, what_cannot_be_read_is_not_there)
{
    struct celeryc_result *r = celeryc_client_result(client, "a");
    free(ASK("SET", "celery-task-meta-a", "{\"status\": 5"));
    cr_assert_str_eq(celeryc_result_state(r), "PENDING");
    celeryc_result_free(r);
}

Test(client, a_server_that_comes_back)
{
    struct celeryc_result *r = apply(named("a"));
    cr_assert_eq(celeryc_result_wait(r, 0.01), -ETIMEDOUT);
    redis_server_restart(&server, NULL);
    store("a", "SUCCESS", "1");
    cr_assert_eq(celeryc_result_wait(r, 10), 0, "%s", celeryc_client_error(client));
    celeryc_result_free(r);
    celeryc_result_free(apply(named("b")));
    expect(ASK("LLEN", "celery"), "1");
}

Test(client, a_server_that_stays_away)
{
    struct celeryc_result *r = apply(named("a"));
    redis_server_kill(&server);
    cr_assert_eq(celeryc_result_wait(r, 0.2), -ETIMEDOUT);
    cr_assert_not_null(strstr(celeryc_client_error(client), server.socket), "%s",
                       celeryc_client_error(client));
    celeryc_result_free(r);
}

Test(client, a_server_that_was_never_there)
{
    redis_server_kill(&server);
    int64_t began = clock_mono_ns();
    struct celeryc_sig *s = sig("t");
    cr_assert_null(celeryc_client_apply(client, s, NULL));
    cr_assert_not_null(strstr(celeryc_client_error(client), server.socket));
    celeryc_sig_free(s);
    struct celeryc_result *r = celeryc_client_result(client, "a");
    cr_assert_eq(celeryc_result_wait(r, -1), -EIO);
    celeryc_result_free(r);
    cr_assert_lt(clock_mono_ns() - began, 5 * NS_PER_S); /* told at once, whoever waits for ever */
}
