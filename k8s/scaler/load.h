/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What Redis says about the load of some queues. Reads only, with bounds; any error makes the whole of it unknown.
 *
 * A list's length is not the load: running early-ack tasks are in no key (their workers' heartbeats tell of them),
 * tasks with an ETA are not due, `unacked` is one hash for all queues, and what dead celeryc workers hold is in keys of
 * their own. docs/SCALER.md says which keys and rights are needed. */

#include "celeryc/base/arena.h"
#include "celeryc/base/strv.h"
#include "celeryc/redis/sync.h"

#define LOAD_STEPS 10 /* priorities 0..9 */

/* How kombu names things; borrowed by everything else. */
struct load_keys {
    const char *prefix; /* global_keyprefix, "" */
    const char *sep;
    int steps[LOAD_STEPS];
    size_t n_steps;
    bool celeryc; /* are there celeryc workers, whose keys are read as well? */
    int64_t scan_limit;
    int64_t wake_lead_s; /* what is due by then counts as due */
};

void load_keys_default(struct load_keys *k);

/* ---- heartbeats ---- */

struct beat {
    char *node; /* "celery@pod" */
    int64_t active, processed;
};

struct beats {
    struct beat *v;
    size_t n;
};

void beats_deinit(struct beats *b);
DEFINE_CLEANUP_VALUE(struct beats, beats_deinit)

/* One message of the channel worker.*: the newest of a node replaces the one before. What is no heartbeat is left
 * alone. 0, -ENOMEM. */
int beats_take(struct beats *b, struct slice payload) WARN_UNUSED;

/* The pod that a node runs in: what stands behind "@". */
const char *beat_pod(const struct beat *b);

/* ---- records ---- */

enum load_due {
    LOAD_NOT_OURS,
    LOAD_DUE,
    LOAD_LATER, /* its ETA is past now_us */
};

struct load_lists {
    struct strv keys; /* list keys of our queues, all steps of the first, then of the second ... */
    struct strv queues;
};

void load_lists_deinit(struct load_lists *l);
DEFINE_CLEANUP_VALUE(struct load_lists, load_lists_deinit)

int load_lists_init(struct load_lists *l, const struct load_keys *k,
                    const struct strv *queues) WARN_UNUSED;

/* A message in a list. What cannot be read is due: a worker has to deal with it. 0, -ENOMEM. */
int load_message_due(struct arena *a, struct slice raw, int64_t now_us,
                     enum load_due *ret_due) WARN_UNUSED;
/* A value in `unacked` or celeryc:running:*, [message, exchange, routing_key]; members as for route_record. What names no
 * queue is not ours. 0, -ENOMEM. */
int load_record_due(struct arena *a, const struct load_lists *l, const struct load_keys *k,
                    struct slice value, const struct redis_reply *members, int64_t now_us,
                    enum load_due *ret_due) WARN_UNUSED;
/* The exchange that a record came by, "" for the anonymous one or none. */
struct slice load_record_exchange(struct arena *a, struct slice value);

/* ---- a sample ---- */

struct load {
    int64_t now_us; /* Redis' clock */
    int64_t uptime_s;
    char run_id[48];
    bool bound;           /* some queue of ours has a binding: it is not a Redis that was emptied */
    int64_t *listed;      /* length of each list of load_lists */
    int64_t ready, later; /* in lists, delayed, held by dead workers; due or not */
    int64_t unacked, unacked_later;
    int64_t oldest_unacked_s; /* how long the oldest of Python's claims stands */
    int64_t delayed_due;      /* part of ready: put by by celeryc workers, due */
    int64_t dead_waiting;     /* part of ready: in the hands of dead celeryc workers */
    int64_t lost;             /* started by them */
    int64_t dead_workers;
    bool estimated; /* more than scan_limit: the rest is taken to be like what was seen */
};

void load_deinit(struct load *l);
DEFINE_CLEANUP_VALUE(struct load, load_deinit)

/* Everything but the heartbeats and the ETAs in lists. 0, -Exxx with the server and the cause. */
int load_read(struct redis_sync *s, const struct load_keys *k, const struct load_lists *lists,
              struct load *ret_l, struct err *e) WARN_UNUSED;

/* How much of what lies in the lists is for later; moves it from ready to later. For when nobody takes it. */
int load_read_later(struct redis_sync *s, const struct load_keys *k, const struct load_lists *lists,
                    struct load *l, struct err *e) WARN_UNUSED;

/* Begins to listen for heartbeats; then takes what comes until until_ns (clock_mono_ns). */
int load_listen(struct redis_sync *s, const struct load_keys *k, int db, struct err *e) WARN_UNUSED;
int load_heartbeats(struct redis_sync *s, int64_t until_ns, struct beats *b,
                    struct err *e) WARN_UNUSED;
