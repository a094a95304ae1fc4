/* SPDX-License-Identifier: Apache-2.0 */
/* The settings file. */

#include "celeryc/worker/settings.h"

#include <criterion/criterion.h>
#include <errno.h>

static int parse(const char *text, struct settings *s, struct err *e)
{
    settings_init(s);
    *e = ERR_INIT;
    return settings_parse(s, slice_str(text), e);
}

Test(settings, defaults_are_celerys)
{
    CLEANUP(settings_deinit) struct settings s;
    settings_init(&s);
    cr_assert_eq(s.result_expires, 86400);
    cr_assert_eq(s.visibility_timeout, 3600);
    cr_assert_eq(s.connection_max_retries, 100);
    cr_assert(s.connection_retry && s.acks_on_failure_or_timeout);
    cr_assert_not(s.acks_late || s.ignore_result || s.track_started);
}

Test(settings, values_of_every_kind_are_read)
{
    CLEANUP(settings_deinit) struct settings s;
    struct err e;
    const char *text =
        "{\"broker_url\": \"redis://h/1\", \"task_default_queue\": \"emails\", \"result_expires\": "
        "60.5,"
        " \"result_failure_expires\": 120, \"task_acks_late\": true, \"worker_concurrency\": 3,"
        " \"worker_prefetch_multiplier\": 0, \"broker_connection_retry_on_startup\": false,"
        " \"task_retry_on_worker_lost\": true, \"worker_deduplicate_successful_tasks\": true,"
        " \"task_inherit_parent_priority\": true, \"task_default_priority\": 4,"
        " \"task_allow_error_cb_on_chord_header\": true, \"result_compression\": \"zstd\","
        " \"task_acks_on_timeout\": false, \"task_queues\": [\"a\", {\"name\": \"b\", "
        "\"exchange\": \"x\"}],"
        " \"broker_transport_options\": {\"visibility_timeout\": 5, \"global_keyprefix\": \"pfx:\","
        " \"priority_steps\": [0, 5], \"sep\": \":\", \"socket_keepalive\": true},"
        " \"result_backend_transport_options\": {\"global_keyprefix\": \"res\"}}";
    cr_assert_eq(parse(text, &s, &e), 0, "%s", e.text);
    cr_assert_str_eq(s.broker_url, "redis://h/1");
    cr_assert_str_eq(s.default_queue, "emails");
    cr_assert_eq(s.result_expires, 60.5);
    cr_assert_eq(s.result_failure_expires, 120);
    cr_assert(s.acks_late);
    cr_assert_str_eq(s.concurrency, "3");
    cr_assert_eq(s.prefetch_multiplier, 0);
    cr_assert_eq(s.connection_retry_on_startup, 0);
    cr_assert_eq(s.acks_on_timeout, 0);
    cr_assert(s.retry_on_worker_lost && s.deduplicate_successful);
    cr_assert(s.inherit_parent_priority && s.header_errbacks);
    cr_assert_eq(s.default_priority, 4);
    cr_assert_eq(s.queues.n, 2);
    cr_assert_str_eq(s.queues.v[1], "b");
    cr_assert_eq(s.visibility_timeout, 5);
    cr_assert_str_eq(s.broker_keyprefix, "pfx:");
    cr_assert_str_eq(s.result_keyprefix, "res");
    cr_assert_str_eq(s.sep, ":");
    cr_assert_eq(s.n_priority_steps, 2);
    cr_assert_eq(s.priority_steps[1], 5);
    cr_assert_eq(s.warnings.n, 0);
}

Test(settings, how_redis_is_reached)
{
    CLEANUP(settings_deinit) struct settings s;
    struct err e;
    const char *text =
        "{\"broker_url\": [\"redis://a/1\", \"redis://b/1\"], \"result_backend\": \"redis://c\","
        " \"broker_failover_strategy\": \"shuffle\", \"broker_connection_timeout\": 2.5,"
        " \"broker_use_ssl\": {\"ssl_cert_reqs\": \"CERT_REQUIRED\", \"ssl_ca_certs\": \"/ca\"},"
        " \"redis_backend_use_ssl\": {\"ssl_cert_reqs\": 0, \"ssl_check_hostname\": false},"
        " \"redis_socket_timeout\": 120.0, \"redis_socket_connect_timeout\": null,"
        " \"redis_socket_keepalive\": false, \"redis_backend_health_check_interval\": 25,"
        " \"broker_transport_options\": {\"socket_timeout\": 3, \"master_name\": \"m\","
        " \"sentinel_kwargs\": {\"password\": \"pw\", \"ssl\": true}},"
        " \"result_backend_transport_options\": {\"master_name\": \"r\"}}";
    cr_assert_eq(parse(text, &s, &e), 0, "%s", e.text);
    cr_assert_str_eq(s.broker_url, "redis://a/1;redis://b/1");
    cr_assert_str_eq(s.result_backend, "redis://c");
    cr_assert_eq(s.connection_timeout, 2.5);
    const struct redis_options *b = &s.broker_redis, *r = &s.backend_redis;
    cr_assert_eq(b->shuffle, REDIS_YES);
    cr_assert_eq(b->tls.on, REDIS_YES);
    cr_assert_eq(b->tls.verify, REDIS_YES);
    cr_assert_str_eq(b->tls.text[REDIS_TLS_CA_CERTS], "/ca");
    cr_assert_eq(b->reply_timeout_ms, 3000);
    cr_assert_str_eq(b->master_name, "m");
    cr_assert_str_eq(b->sentinel_password, "pw");
    cr_assert_eq(b->sentinel_tls.on, REDIS_YES);
    cr_assert_eq(r->tls.verify, REDIS_NO);
    cr_assert_eq(r->tls.check_host, REDIS_NO);
    cr_assert_eq(r->reply_timeout_ms, 120000);
    cr_assert_eq(r->connect_timeout_ms, 0);
    cr_assert_eq(r->keepalive, REDIS_NO);
    cr_assert_eq(r->health_ms, 25000);
    cr_assert_str_eq(r->master_name, "r");
    cr_assert_eq(s.warnings.n, 0);
}

Test(settings, null_is_the_default_and_for_result_expires_never)
{
    CLEANUP(settings_deinit) struct settings s;
    struct err e;
    cr_assert_eq(
        parse(
            "{\"result_expires\": null, \"task_default_queue\": null, \"worker_concurrency\": null,"
            " \"task_annotations\": null, \"broker_use_ssl\": null}",
            &s, &e),
        0, "%s", e.text);
    cr_assert_eq(s.result_expires, 0);
    cr_assert_null(s.default_queue);
    cr_assert_null(s.concurrency);
}

/* Each of these must be refused, and the text must name what is wrong. */
Test(settings, refusals_name_the_setting)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"{\"task_default_que\": \"x\"}", "did you mean task_default_queue?"},
        {"{\"CELERY_BROKER_URL\": \"x\"}", "unknown setting CELERY_BROKER_URL"},
        {"{\"task_acks_late\": \"yes\"}", "setting task_acks_late: \"yes\" is not true or false"},
        {"{\"task_acks_late\": 1}", "task_acks_late"},
        {"{\"result_expires\": -1}", "result_expires"},
        {"{\"result_expires\": NaN}", "result_expires"},
        {"{\"result_expires\": \"1d\"}", "result_expires"},
        {"{\"worker_prefetch_multiplier\": 1.5}", "worker_prefetch_multiplier"},
        {"{\"task_default_queue\": 5}", "task_default_queue"},
        {"{\"result_compression\": \"gunzip\"}", "there is no such compression"},
        {"{\"task_default_queue\": \"a\\u0000b\"}", "task_default_queue"},
        {"{\"task_queues\": [1]}", "task_queues"},
        {"{\"task_queues\": {\"a\": {}}}", "task_queues"},
        {"{\"accept_content\": [\"pickle\"]}", "accept_content"},
        {"{\"accept_content\": [\"nonsense\"]}", "accept_content"},
        {"{\"accept_content\": []}", "accept_content"},
        {"{\"task_serializer\": 1}", "task_serializer"},
        {"{\"result_serializer\": \"pickle\"}", "result_serializer"},
        {"{\"broker_use_ssl\": 1}",
         "setting broker_use_ssl: 1 is neither true, false nor an object"},
        {"{\"broker_use_ssl\": {\"ca_certs\": \"/x\"}}",
         "unknown setting broker_use_ssl.ca_certs: for Redis the names begin with ssl_"},
        {"{\"broker_use_ssl\": {\"ssl_cert_reqs\": \"maybe\"}}",
         "setting broker_use_ssl: ssl_cert_reqs: \"maybe\" is not one of required, optional, none"},
        {"{\"redis_backend_use_ssl\": {\"ssl_ca\": \"/x\"}}",
         "unknown setting redis_backend_use_ssl.ssl_ca"},
        {"{\"redis_socket_timeout\": -1}", "setting redis_socket_timeout: socket_timeout"},
        {"{\"redis_socket_timeout\": []}", "setting redis_socket_timeout: [] is not"},
        {"{\"broker_failover_strategy\": \"random\"}", "round-robin"},
        {"{\"broker_url\": []}", "setting broker_url: the list is empty"},
        {"{\"broker_url\": [1]}", "setting broker_url: the list holds something else than URLs"},
        {"{\"broker_url\": {}}", "broker_url"},
        {"{\"broker_transport_options\": {\"sentinel_kwargs\": \"pw\"}}",
         "setting broker_transport_options.sentinel_kwargs: \"pw\" is not an object"},
        {"{\"broker_transport_options\": {\"sentinel_kwargs\": {\"passwd\": \"pw\"}}}",
         "unknown setting broker_transport_options.sentinel_kwargs.passwd"},
        {"{\"task_annotations\": {\"*\": {\"rate_limit\": \"1/s\"}}}", "task_annotations"},
        {"{\"worker_max_memory_per_child\": 1000}", "worker_max_memory_per_child"},
        {"{\"broker_transport_options\": {\"visibilty_timeout\": 5}}",
         "broker_transport_options.visibilty_timeout (did you mean visibility_timeout?)"},
        {"{\"broker_transport_options\": {\"master_name\": [\"m\"]}}", "master_name"},
        {"{\"broker_transport_options\": {\"priority_steps\": [3, 6]}}", "priority_steps"},
        {"{\"broker_transport_options\": {\"priority_steps\": [0, 0]}}", "priority_steps"},
        {"{\"broker_transport_options\": []}", "broker_transport_options"},
        {"[]", "not a JSON object"},
        {"{\"a\": 1", ""},
        {"", ""},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        CLEANUP(settings_deinit) struct settings s;
        struct err e;
        cr_assert_lt(parse(cases[i].text, &s, &e), 0, "%s was accepted", cases[i].text);
        cr_assert_neq(strstr(e.text, cases[i].says), NULL, "%s: \"%s\" does not say \"%s\"",
                      cases[i].text, e.text, cases[i].says);
    }
}

Test(settings, what_has_no_effect_is_warned_of)
{
    CLEANUP(settings_deinit) struct settings s;
    struct err e;
    cr_assert_eq(
        parse("{\"worker_send_task_events\": true, \"timezone\": \"Asia/Ho_Chi_Minh\","
              " \"accept_content\": [\"json\", \"pickle\"], \"task_send_sent_event\": false,"
              " \"timezone\": \"UTC\", \"beat_schedule\": {\"x\": 1}, \"broker_heartbeat\": 5}",
              &s, &e),
        0, "%s", e.text);
    cr_assert_eq(s.warnings.n, 3);
    cr_assert_neq(strstr(s.warnings.v[0], "worker_send_task_events"), NULL);
    cr_assert_neq(strstr(s.warnings.v[1], "timezone"), NULL);
    cr_assert_neq(strstr(s.warnings.v[2], "accept_content"), NULL);
}

Test(settings, missing_file_is_named)
{
    CLEANUP(settings_deinit) struct settings s;
    struct err e = ERR_INIT;
    settings_init(&s);
    cr_assert_eq(settings_load(&s, "no-such-file.json", &e), -ENOENT);
    cr_assert_neq(strstr(e.text, "no-such-file.json"), NULL, "%s", e.text);
}
