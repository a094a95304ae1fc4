/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Celery's settings by Celery's names, read from a JSON file (--config): one object, {"task_default_queue": "emails"}.
 *
 * Every name of Celery 5.7 is known here and is either applied, without meaning for this worker (accepted silently),
 * warned of, or refused: none is ignored in silence that somebody could rely on. */

#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"
#include "celeryc/base/strv.h"
#include "celeryc/message/wire.h"
#include "celeryc/redis/endpoint.h"

#include <stdbool.h>
#include <stdint.h>

#define SETTINGS_MAX_STEPS 10

struct settings {
    char *broker_url, *result_backend; /* NULL: unset; ';' between the URLs of a list */
    struct redis_options broker_redis, backend_redis;
    double connection_timeout; /* seconds; broker_redis may say another */
    char *default_queue;       /* NULL: "celery" */
    struct strv queues;        /* task_queues, names */
    char *pool, *concurrency;  /* as text, NULL: unset */

    double result_expires, result_failure_expires,
        result_chord_expires;  /* seconds, 0: never; the last two -1: as the first */
    double chord_join_timeout; /* seconds; what a claim on a chord lives is made of it */
    bool chord_unordered;      /* parts are a list, not a zset */
    bool result_extended, ignore_result, store_errors_even_if_ignored, track_started;

    bool acks_late, reject_on_worker_lost, retry_on_worker_lost;
    bool deduplicate_successful;
    bool acks_on_failure_or_timeout;
    int acks_on_timeout;                /* -1: as the one before */
    double time_limit, soft_time_limit; /* 0: none */
    bool inherit_parent_priority, header_errbacks;
    int64_t default_priority; /* of messages of registered tasks that tasks send */

    int64_t prefetch_multiplier; /* -1: not given */
    bool disable_prefetch;
    int64_t eta_task_limit;      /* 0: ours */
    int64_t max_tasks_per_child; /* 0: no limit */
    double soft_shutdown_timeout;
    bool soft_shutdown_on_idle;

    double watchdog_timeout; /* seconds, 0: none */
    bool connection_retry;
    int connection_retry_on_startup; /* -1: as connection_retry */
    double connection_max_retries;   /* a whole number; 0: for ever */

    /* broker_transport_options, result_backend_transport_options */
    double visibility_timeout; /* seconds */
    char *broker_keyprefix, *result_keyprefix;
    char *sep, *unacked_key, *unacked_index_key, *unacked_mutex_key; /* NULL: kombu's */
    int priority_steps[SETTINGS_MAX_STEPS];
    size_t n_priority_steps; /* 0: kombu's */

    bool enable_remote_control;
    char *control_exchange, *event_exchange; /* NULL: celery, celeryev */

    /* How messages are read and written; texts for wire_new, NULL: unset. */
    char *accept_content; /* with commas between */
    char *task_serializer, *task_compression;
    char *security_key, *security_key_password, *security_certificate, *security_cert_store,
        *security_digest;

    struct strv warnings; /* to be logged once the log is up */
};

void settings_init(struct settings *s); /* Celery's defaults */
void settings_deinit(struct settings *s);
DEFINE_CLEANUP_VALUE(struct settings, settings_deinit)

/* What of them is for wire_new; borrows. */
struct wire_options settings_wire(const struct settings *s);

/* 0; -EINVAL with the setting's name, what is wrong and the fix; -ENOMEM. */
int settings_parse(struct settings *s, struct slice text, struct err *e) WARN_UNUSED;
/* Reads a file of at most LIMIT_CONFIG_BYTES; also -Exxx of the file. */
int settings_load(struct settings *s, const char *path, struct err *e) WARN_UNUSED;
