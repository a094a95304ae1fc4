/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Remote control and worker events: what `celery inspect`, `celery control`, monitors and other workers' mingle see.
 *
 * Owns two connections of its own (a subscriber for the mailbox, one for commands; a third when results are kept
 * elsewhere), the revoked ids, and the Lamport clock. Knows nothing of the consumer but what struct control_host shows.
 * Answers come from the master's loop, so they come at once however busy the children are.
 *
 * Matched: celery/worker/control.py, celery/worker/heartbeat.py, kombu/pidbox.py of 5.7. What must never happen: a reply
 * or an event that a Python peer cannot read (one bad event stops every worker that gossips), a push into a list that is
 * no reply queue, or a mailbox message, whatever its bytes, that does more than a line in the log. */

#include "celeryc/base/map.h"
#include "celeryc/message/message.h"
#include "celeryc/redis/endpoint.h"
#include "celeryc/task/registry.h"

#include <uv.h>

enum control_list {
    CONTROL_ACTIVE,    /* running */
    CONTROL_RESERVED,  /* received, has not started */
    CONTROL_SCHEDULED, /* waits for its eta */
};

/* A task of the worker as the panel shows it. Borrowed for the call. */
struct control_task {
    const struct message *m;
    void *handle;       /* the host's own */
    int64_t started_us; /* wall clock, 0: has not started */
    bool acknowledged;
    int pid; /* 0: none */
};

typedef void (*control_task_fn)(enum control_list list, const struct control_task *t, void *arg);

struct control_stats {
    int64_t uptime_s;
    const struct map *totals; /* task name -> how many were started, as (void *)(uintptr_t) */
    uint64_t processed;       /* their sum */
    size_t active;
    const char *pool; /* "prefork", "threads", "solo" */
    size_t concurrency;
    const int *pids; /* of the children; borrowed until the next call */
    size_t n_pids;
    int64_t max_tasks_per_child; /* 0: no limit */
    double soft_time_limit, time_limit;
    int64_t prefetch_count; /* 0: no limit */
};

/* What the worker lets the panel see and do. Called from the loop only. */
struct control_host {
    void *arg;
    /* Calls fn for every task that the worker holds; fn changes nothing. */
    void (*each_task)(control_task_fn fn, void *fn_arg, void *arg);
    const struct task_registry *(*tasks)(void *arg); /* NULL: not known yet */
    const char *const *(*queues)(void *arg);         /* NULL-terminated, in consumption order */
    void (*stats)(struct control_stats *ret_stats, void *arg);
    /* Appends the members of a JSON object of settings, separated by ", ". */
    void (*conf)(struct buf *dst, bool with_defaults, void *arg);
    /* Sends signum to the child that runs the task; it ends as REVOKED. NULL, or why this cannot be done here. */
    const char *(*terminate)(void *handle, int signum, void *arg);
    /* Limits of later runs in seconds, 0: none of its own. -ENOENT: no such task. */
    int (*time_limit)(struct slice name, double soft, double hard, void *arg);
    void (*shutdown)(void *arg); /* warm, exit code 0 */
    /* The mailbox is subscribed, or will not be for now. Called at every change. */
    void (*on_listening)(bool listening, void *arg);
    /* These ids were revoked just now; borrowed. */
    void (*revoked)(size_t n, const struct slice *ids, void *arg);
    /* A census has ended, well or not: ask again what you asked. */
    void (*counted)(void *arg);
    /* Is it this worker that lists what all of them share? */
    bool (*lists_delayed)(void *arg);
};

struct control_options {
    const struct redis_endpoint *broker;
    const struct redis_endpoint *backend; /* NULL: results are not kept */
    bool same_backend;                    /* the broker's server and database */
    const char *node, *version;
    const struct wire *wire;       /* how the mailbox is read and answered */
    const char *key_prefix;        /* global_keyprefix of the broker, "" */
    const char *result_key_prefix; /* and of the backend, "" */
    const char *sep;               /* NULL: "\x06\x16" */
    const char *control_exchange;  /* NULL: celery */
    const char *event_exchange;    /* NULL: celeryev */
    bool listen;                   /* worker_enable_remote_control */
    bool mingle;                   /* ask the other workers what was revoked, when listening */
    int64_t heartbeat_ms;          /* 0: no worker events */
    int64_t result_ttl_s;          /* of REVOKED records, 0: no expiry */
    /* How the messages are read that wait at the broker for their eta: key, how many to skip, how many at most, budget of
     * bytes; name, due time (ms), list, raw of each. NULL: there are none. */
    const struct redis_script *delayed_page;
};

struct control;

/* Everything in o and h is borrowed for its life. NULL: out of memory. */
struct control *control_new(uv_loop_t *loop, const struct control_options *o,
                            const struct control_host *h);
void control_start(struct control *c);

/* Is the task not to be run: its id, or one of its stamps, was revoked. log_text (may be NULL) gets what Celery appends to
 * its log line for a stamp. */
bool control_revoked_id(const struct control *c, struct slice id);
/* Flags an id as revoked, as Celery does with what has expired. */
void control_flag_revoked(struct control *c, struct slice id);
bool control_revoked(const struct control *c, const struct message *m, struct buf *log_text);

/* Do other workers know a task? What they answered is kept for some seconds, and asked again when a worker comes online. */
enum census {
    CENSUS_ASKING, /* fn of the options will be called when it is known */
    CENSUS_NONE,   /* nobody who serves the queue has it */
    CENSUS_SOME,   /* another worker that serves the queue has it */
    CENSUS_CANNOT, /* they cannot be asked now */
};

enum census control_census(struct control *c, struct slice task, const char *queue);

/* Says worker-offline, leaves the mailbox; fn when Redis has answered or deadline_ms has passed, never from inside. */
void control_leave(struct control *c, int64_t deadline_ms, void (*fn)(void *arg), void *arg);

/* Ends at once. The memory goes from the loop. */
struct control *control_free(struct control *c);
