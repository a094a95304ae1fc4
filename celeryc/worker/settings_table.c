/* SPDX-License-Identifier: Apache-2.0 */
/* One line a setting, in the order of Celery's own list. A name that is missing here is an error for the user, so a
 * new Celery's settings are added when its wire is. */

#include "celeryc/worker/settings_table.h"

#include "celeryc/worker/settings.h"

#define AT(field) offsetof(struct settings, field)
#define REDIS(name, whose, option)                   \
    {                                                \
        name, SETTING_REDIS, AT(whose), option, NULL \
    }
#define MOOT(name)                        \
    {                                     \
        name, SETTING_MOOT, 0, NULL, NULL \
    }
#define WARN(name, values, text)                 \
    {                                            \
        name, SETTING_ONLY_WARN, 0, values, text \
    }
#define ONLY(name, values, text)            \
    {                                       \
        name, SETTING_ONLY, 0, values, text \
    }

static const char later[] = "not in this release";
static const char in_url[] = "put it into the URL";

const struct setting settings_worker[] = {
    {"accept_content", SETTING_CONTENT, 0, NULL, NULL},
    MOOT("result_accept_content"),
    WARN("enable_utc", "true", "times are written in UTC"),
    WARN("imports", "[]", "Python modules are not loaded; C tasks come with -A plugin.so"),
    WARN("include", "[]", "Python modules are not loaded; C tasks come with -A plugin.so"),
    WARN("timezone", "\"UTC\"|\"utc\"", "times are written in UTC"),
    MOOT("beat_*"),

    /* Ours: Celery has no such setting. */
    {"celeryc_watchdog_timeout", SETTING_SECONDS, AT(watchdog_timeout), NULL, NULL},

    {"broker_url", SETTING_URLS, AT(broker_url), NULL, NULL},
    ONLY("broker_read_url", "", "only broker_url is read"),
    ONLY("broker_write_url", "", "only broker_url is read"),
    ONLY("broker_transport", "\"redis\"", "only Redis is spoken"),
    {"broker_transport_options", SETTING_BROKER_OPTS, 0, NULL, NULL},
    {"broker_connection_timeout", SETTING_SECONDS, AT(connection_timeout), NULL, NULL},
    {"broker_connection_retry", SETTING_BOOL, AT(connection_retry), NULL, NULL},
    {"broker_connection_retry_on_startup", SETTING_TRISTATE, AT(connection_retry_on_startup), NULL,
     NULL},
    {"broker_connection_max_retries", SETTING_EXPIRY, AT(connection_max_retries), NULL, NULL},
    MOOT("broker_channel_error_retry"),
    {"broker_failover_strategy", SETTING_REDIS_STRATEGY, AT(broker_redis), NULL, NULL},
    MOOT("broker_heartbeat"),
    MOOT("broker_heartbeat_checkrate"),
    MOOT("broker_login_method"),
    MOOT("broker_native_delayed_delivery_queue_type"),
    MOOT("broker_pool_limit"),
    MOOT("broker_pool_acquire_timeout"),
    {"broker_use_ssl", SETTING_REDIS_TLS, AT(broker_redis), NULL, NULL},
    ONLY("broker_host", "", in_url),
    ONLY("broker_port", "", in_url),
    ONLY("broker_user", "", in_url),
    ONLY("broker_password", "", in_url),
    ONLY("broker_vhost", "", in_url),

    /* Of other result backends, which are refused where result_backend names them. */
    MOOT("cache_backend"),
    MOOT("cache_backend_options"),
    MOOT("cassandra_*"),
    MOOT("s3_*"),
    MOOT("azureblockblob_*"),
    MOOT("gcs_*"),
    MOOT("couchbase_backend_settings"),
    MOOT("arangodb_backend_settings"),
    MOOT("mongodb_backend_settings"),
    MOOT("cosmosdbsql_*"),
    MOOT("elasticsearch_*"),
    MOOT("database_*"),

    {"control_exchange", SETTING_STRING, AT(control_exchange), NULL, NULL},
    MOOT("control_*"),
    {"event_exchange", SETTING_STRING, AT(event_exchange), NULL, NULL},
    ONLY("event_serializer", "\"json\"", "events are written as JSON"),
    MOOT("event_*"),

    {"redis_backend_use_ssl", SETTING_REDIS_TLS, AT(backend_redis), NULL, NULL},
    ONLY("redis_db", "", in_url),
    ONLY("redis_host", "", in_url),
    ONLY("redis_username", "", in_url),
    ONLY("redis_password", "", in_url),
    ONLY("redis_port", "", in_url),
    MOOT("redis_max_connections"),
    REDIS("redis_socket_timeout", backend_redis, "socket_timeout"),
    REDIS("redis_socket_connect_timeout", backend_redis, "socket_connect_timeout"),
    MOOT("redis_retry_on_timeout"), /* always */
    REDIS("redis_socket_keepalive", backend_redis, "socket_keepalive"),
    REDIS("redis_backend_health_check_interval", backend_redis, "health_check_interval"),
    MOOT("redis_client_name"),
    ONLY("redis_backend_credential_provider", "", "credential providers are Python objects"),

    {"result_backend", SETTING_URLS, AT(result_backend), NULL, NULL},
    MOOT("result_cache_max"),
    /* Readers take uncompressed records whatever it says. */
    ONLY("result_compression",
         "\"gzip\"|\"zlib\"|\"bzip2\"|\"bzip\"|\"lzma\"|\"xz\"|\"brotli\"|\"zstd\"|\"zstandard\"|"
         "\"application/x-gzip\"|\"application/x-bz2\"|\"application/x-lzma\"|"
         "\"application/x-brotli\"|\"application/zstd\"",
         "there is no such compression"),
    MOOT("result_exchange"),
    MOOT("result_exchange_type"),
    {"result_expires", SETTING_EXPIRY, AT(result_expires), NULL, NULL},
    {"result_chord_expires", SETTING_SECONDS, AT(result_chord_expires), NULL, NULL},
    {"result_failure_expires", SETTING_SECONDS, AT(result_failure_expires), NULL, NULL},
    MOOT("result_persistent"),
    {"result_extended", SETTING_BOOL, AT(result_extended), NULL, NULL},
    ONLY("result_serializer", "\"json\"", "results are written as JSON"),
    {"result_backend_transport_options", SETTING_BACKEND_OPTS, 0, NULL, NULL},
    MOOT("result_chord_retry_interval"),
    {"result_chord_join_timeout", SETTING_SECONDS, AT(chord_join_timeout), NULL, NULL},
    MOOT("result_backend_thread_safe"),
    MOOT("result_backend_max_sleep_between_retries_ms"),
    MOOT("result_backend_max_retries"),
    MOOT("result_backend_base_sleep_between_retries_ms"),
    MOOT("result_backend_always_retry"),

    {"security_certificate", SETTING_STRING, AT(security_certificate), NULL, NULL},
    {"security_cert_store", SETTING_STRING, AT(security_cert_store), NULL, NULL},
    {"security_key", SETTING_SECRET, AT(security_key), NULL, NULL},
    {"security_key_password", SETTING_SECRET, AT(security_key_password), NULL, NULL},
    {"security_digest", SETTING_STRING, AT(security_digest), NULL, NULL},

    {"task_acks_late", SETTING_BOOL, AT(acks_late), NULL, NULL},
    {"task_acks_on_failure_or_timeout", SETTING_BOOL, AT(acks_on_failure_or_timeout), NULL, NULL},
    MOOT("task_acks_on_failure"), /* on Redis both values delete the message */
    {"task_acks_on_timeout", SETTING_TRISTATE, AT(acks_on_timeout), NULL, NULL},
    ONLY("task_always_eager", "false", "a worker cannot run eagerly"),
    ONLY("task_annotations", "{}|[]", "set the options in the plug-in (CELERYC_TASK)"),
    {"task_compression", SETTING_STRING, AT(task_compression), NULL, NULL},
    MOOT("task_create_missing_queues"),
    MOOT("task_create_missing_queue_type"),
    MOOT("task_create_missing_queue_exchange_type"),
    {"task_inherit_parent_priority", SETTING_BOOL, AT(inherit_parent_priority), NULL, NULL},
    MOOT("task_default_delivery_mode"),
    {"task_default_queue", SETTING_STRING, AT(default_queue), NULL, NULL},
    MOOT("task_default_queue_type"),
    MOOT("task_default_exchange"), /* direct exchanges are bypassed, as Celery itself does */
    ONLY("task_default_exchange_type", "\"direct\"", "queues are reached by name"),
    MOOT("task_default_routing_key"),
    ONLY("task_default_rate_limit", "", "rate limits are not in this release"),
    {"task_default_priority", SETTING_INT, AT(default_priority), NULL, NULL},
    MOOT("task_eager_propagates"),
    {"task_ignore_result", SETTING_BOOL, AT(ignore_result), NULL, NULL},
    MOOT("task_store_eager_result"),
    WARN("task_protocol", "2", "messages that tasks send are of protocol 2"),
    MOOT(
        "task_publish_retry"), /* sends are part of the finish and are repeated until Redis has them */
    MOOT("task_publish_retry_policy"),
    {"task_queues", SETTING_NAMES, AT(queues), NULL, NULL},
    MOOT("task_queue_max_priority"),
    {"task_reject_on_worker_lost", SETTING_BOOL, AT(reject_on_worker_lost), NULL, NULL},
    {"task_retry_on_worker_lost", SETTING_BOOL, AT(retry_on_worker_lost), NULL, NULL},
    WARN("task_remote_tracebacks", "false", "exceptions carry their traceback as text"),
    MOOT("task_repr_maxlevels"), /* argsrepr is for people, and three levels deep */
    WARN("task_routes", "{}|[]", "tasks that send tasks name the queue themselves"),
    WARN("task_send_sent_event", "false", "task events are not in this release"),
    {"task_serializer", SETTING_STRING, AT(task_serializer), NULL, NULL},
    {"task_soft_time_limit", SETTING_SECONDS, AT(soft_time_limit), NULL, NULL},
    {"task_time_limit", SETTING_SECONDS, AT(time_limit), NULL, NULL},
    {"task_store_errors_even_if_ignored", SETTING_BOOL, AT(store_errors_even_if_ignored), NULL,
     NULL},
    {"task_track_started", SETTING_BOOL, AT(track_started), NULL, NULL},
    {"task_allow_error_cb_on_chord_header", SETTING_BOOL, AT(header_errbacks), NULL, NULL},

    ONLY("worker_agent", "", "Python components cannot be loaded"),
    ONLY("worker_autoscaler", "\"celery.worker.autoscale:Autoscaler\"",
         "Python components cannot be loaded"),
    WARN("worker_cancel_long_running_tasks_on_connection_loss", "false",
         "claims are kept by leases, so running tasks go on and end normally"),
    {"worker_soft_shutdown_timeout", SETTING_SECONDS, AT(soft_shutdown_timeout), NULL, NULL},
    {"worker_enable_soft_shutdown_on_idle", SETTING_BOOL, AT(soft_shutdown_on_idle), NULL, NULL},
    {"worker_concurrency", SETTING_SCALAR, AT(concurrency), NULL, NULL},
    ONLY("worker_consumer", "\"celery.worker.consumer:Consumer\"",
         "Python components cannot be loaded"),
    ONLY("worker_direct", "false", later),
    MOOT("worker_disable_rate_limits"),
    {"worker_deduplicate_successful_tasks", SETTING_BOOL, AT(deduplicate_successful), NULL, NULL},
    {"worker_enable_remote_control", SETTING_BOOL, AT(enable_remote_control), NULL, NULL},
    MOOT("worker_hijack_root_logger"),
    MOOT("worker_log_color"),
    WARN("worker_log_datefmt", "", "log lines have Celery's default format"),
    WARN("worker_log_format", "\"[%(asctime)s: %(levelname)s/%(processName)s] %(message)s\"",
         "log lines have Celery's default format"),
    MOOT("worker_lost_wait"),
    ONLY("worker_max_memory_per_child", "", later),
    {"worker_max_tasks_per_child", SETTING_INT, AT(max_tasks_per_child), NULL, NULL},
    {"worker_pool", SETTING_STRING, AT(pool), NULL, NULL},
    MOOT("worker_pool_putlocks"),
    WARN("worker_pool_restarts", "false", later),
    MOOT("worker_pool_start_method"),
    MOOT("worker_proc_alive_timeout"),
    {"worker_prefetch_multiplier", SETTING_INT, AT(prefetch_multiplier), NULL, NULL},
    {"worker_eta_task_limit", SETTING_INT, AT(eta_task_limit), NULL, NULL},
    MOOT("worker_enable_prefetch_count_reduction"),
    {"worker_disable_prefetch", SETTING_BOOL, AT(disable_prefetch), NULL, NULL},
    MOOT("worker_redirect_stdouts"),
    MOOT("worker_redirect_stdouts_level"),
    WARN("worker_send_task_events", "false", "task events are not in this release"),
    WARN("worker_state_db", "", "revoked tasks are not kept in this release"),
    WARN("worker_task_log_datefmt", "", "log lines have Celery's default format"),
    WARN("worker_task_log_format",
         "\"[%(asctime)s: %(levelname)s/%(processName)s] %(task_name)s[%(task_id)s]: "
         "%(message)s\"",
         "log lines have Celery's default format"),
    ONLY("worker_timer", "", "Python components cannot be loaded"),
    MOOT("worker_timer_precision"),
    MOOT("worker_detect_quorum_queues"),
    {0},
};

const struct setting settings_broker_options[] = {
    {"visibility_timeout", SETTING_SECONDS, AT(visibility_timeout), NULL, NULL},
    {"global_keyprefix", SETTING_STRING, AT(broker_keyprefix), NULL, NULL},
    {"sep", SETTING_STRING, AT(sep), NULL, NULL},
    {"priority_steps", SETTING_STEPS, 0, NULL, NULL},
    {"unacked_key", SETTING_STRING, AT(unacked_key), NULL, NULL},
    {"unacked_index_key", SETTING_STRING, AT(unacked_index_key), NULL, NULL},
    {"unacked_mutex_key", SETTING_STRING, AT(unacked_mutex_key), NULL, NULL},
    MOOT("unacked_mutex_expire"),
    MOOT("unacked_restore_limit"),
    MOOT("unacked_restore_interval"),
    MOOT("unacked_restore_throttle"),
    ONLY("ack_emulation", "true", "claims are always kept in unacked"),
    WARN("queue_order_strategy", "\"round_robin\"", "queues are served in round robin"),
    ONLY("fanout_prefix", "true", "channels are named as by default"),
    ONLY("fanout_patterns", "true", "channels are named as by default"),
    MOOT("polling_interval"),
    REDIS("socket_timeout", broker_redis, "socket_timeout"),
    REDIS("socket_connect_timeout", broker_redis, "socket_connect_timeout"),
    REDIS("socket_keepalive", broker_redis, "socket_keepalive"),
    MOOT("socket_*"),
    MOOT("retry_on_timeout"), /* always */
    MOOT("max_connections"),
    REDIS("health_check_interval", broker_redis, "health_check_interval"),
    MOOT("reauth_check_interval"),
    MOOT("client_name"),
    MOOT("body_encoding"),
    MOOT("deadletter_queue"),
    REDIS("master_name", broker_redis, "master_name"),
    WARN("min_other_sentinels", "0", "the first Sentinel that answers is believed"),
    {"sentinel_kwargs", SETTING_REDIS_SENTINEL, AT(broker_redis), NULL, NULL},
    WARN("sentinel_fanout_compat", "false",
         "channels are named as by kombu since 5.4, the old names are not served"),
    MOOT("max_retries"),
    MOOT("interval_*"),
    MOOT("connect_retries_timeout"),
    {0},
};

const struct setting settings_backend_options[] = {
    {"global_keyprefix", SETTING_STRING, AT(result_keyprefix), NULL, NULL},
    MOOT("retry_policy"),
    {"result_chord_ordered", SETTING_NOT, AT(chord_unordered), NULL, NULL},
    MOOT("visibility_timeout"),
    MOOT("socket_*"),
    MOOT("retry_on_timeout"),
    MOOT("max_connections"),
    MOOT("health_check_interval"),
    MOOT("client_name"),
    MOOT("additional_connection_errors"),
    REDIS("master_name", backend_redis, "master_name"),
    WARN("min_other_sentinels", "0", "the first Sentinel that answers is believed"),
    {"sentinel_kwargs", SETTING_REDIS_SENTINEL, AT(backend_redis), NULL, NULL},
    {0},
};
