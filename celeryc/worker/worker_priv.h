/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The worker's parts among themselves. Everything here runs on the one loop; nothing is called from another thread. */

#include "celeryc/base/arena.h"
#include "celeryc/base/list.h"
#include "celeryc/base/map.h"
#include "celeryc/control/control.h"
#include "celeryc/control/revoked.h"
#include "celeryc/message/record.h"
#include "celeryc/pool/pool.h"
#include "celeryc/result/result.h"
#include "celeryc/transport/transport.h"
#include "celeryc/worker/admission.h"
#include "celeryc/worker/config.h"
#include "celeryc/worker/due.h"
#include "celeryc/worker/effects.h"
#include "celeryc/worker/outage.h"

#include <uv.h>

/* Where a delivery is. DELIVERY_MOVES in delivery.c says which moves there are. */
enum delivery_state {
    DELIVERY_NEW,      /* just made, in no list */
    DELIVERY_RESERVED, /* ours, waits for room in the pool */
    DELIVERY_HELD,     /* waits for its eta */
    DELIVERY_STARTING, /* early ack: Redis is being told that it starts */
    DELIVERY_SENT,     /* with the pool, not known to run */
    DELIVERY_RUNNING,
    DELIVERY_LEAVING, /* its end is on its way to Redis */
    DELIVERY_STATES,
};

enum kill_reason {
    KILL_NONE,
    KILL_TIME_LIMIT,
    KILL_NEIGHBOUR, /* runs in the child that another task's time limit kills (-P threads) */
    KILL_SHUTDOWN,
    KILL_REVOKED, /* remote control terminated it */
};

/* One message that we claimed. Owns the claim and everything parsed from it. */
struct delivery {
    struct list node;
    struct worker *w;
    uint64_t number; /* job number, in order of claiming */
    enum delivery_state state;
    struct claim *claim;
    struct arena *arena;
    struct message m;
    const struct task_info *task;
    bool late; /* acked after the run */
    enum kill_reason kill;
    struct limits limits;
    struct due due; /* eta while HELD, next limit while RUNNING */
    bool soft_done;
    bool puzzled; /* HELD: see forward.c */
    int64_t started_ns;
    int64_t started_us; /* wall clock, for people */
    int pid;
    bool forget_deaths;    /* LEAVING: earlier deaths of the message do not count any more */
    const char *lost_text; /* LEAVING: why it was lost, while its death is counted; in the arena */
    struct effects *effects; /* LEAVING: what follows from its end, NULL: nothing; in the arena */
    bool succeeded;          /* LEAVING */
    bool looked;             /* what is stored for it was looked at before its end */
    bool asked;              /* it was asked whether it has succeeded before */
};

enum phase {
    PHASE_STARTING, /* the pool is coming up */
    PHASE_RUNNING,
    PHASE_DRAINING, /* warm: running tasks end, the rest went back */
    PHASE_SOFT,     /* they were asked to stop */
    PHASE_COLD,     /* they were killed */
    PHASE_LEAVING,  /* nothing runs; ends are being acknowledged */
    PHASE_GONE,
};

#define N_SIGNALS 5

struct worker {
    uv_loop_t loop;
    const struct worker_config *config;
    const char *program, *version;
    struct task_settings settings;
    struct pool *pool;
    const struct task_registry *table; /* NULL until the pool is up */
    struct transport *transport;
    struct result_backend *backend; /* NULL: none, or the broker's */

    struct control *control; /* NULL until the transport is made */
    struct control_options control_options;
    struct control_host control_host;
    struct map *totals;      /* task name -> how many were started */
    struct map *time_limits; /* task name -> struct limits, set by remote control */
    uint64_t processed;
    int64_t began_ns;
    int *pids; /* room for one of each child */
    bool control_settled, said_ready;
    int n_leaving; /* transport and control that have not left yet */

    struct list lists[DELIVERY_STATES];
    size_t n[DELIVERY_STATES];
    struct delivery **jobs; /* by number modulo n_jobs, a power of two */
    size_t n_jobs;
    uint64_t next_number;
    struct list spare; /* deliveries kept for reuse */
    size_t n_spare;
    size_t held_limit, held_bytes;
    size_t n_puzzled; /* of the held: not known here, and the other workers are being asked */
    struct result_chords chords; /* how they are counted; no token */
    struct buf fire_key, note_start;
    struct list firing; /* chords on their way to their body */
    size_t n_chords;
    uv_timer_t chord_timer, pause_timer;
    uint64_t next_scan_ms; /* the loop's clock */
    bool scanning;
    char scan_token[RESULT_TOKEN_SIZE];
    struct revoked *successes; /* ids of late-ack tasks that succeeded here; NULL: not kept */

    struct list errbacks; /* of the new style, for failures that were decided here */
    size_t n_errbacks;
    uint64_t next_errback;

    struct due_heap due;
    uv_timer_t due_timer;
    int64_t due_at_ns; /* what due_timer is set to, 0: nothing */

    enum phase phase;
    bool claiming_stopped, ends_awaited, ends_overdue, pool_stopping, pool_gone, leaving;
    int n_interrupts;
    int exit_code;
    uv_timer_t phase_timer; /* the end of the phase */
    uv_timer_t gather_timer;
    uv_signal_t signals[N_SIGNALS];

    bool was_up;
    struct outage outage;
    struct keepers *keepers;   /* NULL: none */
    struct watchdog *watchdog; /* NULL: not yet, or switched off */
    struct buf key, text;      /* scratch of one call */
    struct arena *scratch;
    bool pumping;
};

static inline const char *delivery_name(const struct delivery *d)
{
    return d->m.shadow.p ? d->m.shadow.p : d->m.task.p;
}

/* printf's "%.*s[%.*s]" of a delivery */
#define DELIVERY_FMT "%.*s[%.*s]"
#define DELIVERY_ARGS(d)                                                            \
    (int)((d)->m.shadow.p ? (d)->m.shadow.len : (d)->m.task.len), delivery_name(d), \
        (int)(d)->m.id.len, (d)->m.id.p

/* ---- delivery.c ---- */
struct delivery *delivery_new(struct worker *w,
                              struct claim *c_take); /* NULL: out of memory, c freed */
void delivery_free(struct delivery *d); /* from any state; the claim is forgotten, not given back */
void delivery_move(struct delivery *d, enum delivery_state to);
void delivery_move_back(struct delivery *d); /* to RESERVED, at its place by number */
struct delivery *delivery_find(struct worker *w, uint64_t number);
void delivery_drop_spare(struct worker *w);

/* ---- receive.c ---- */
void receive_claim(struct claim *c_take, void *arg);
bool receive_may_start(struct slice raw, void *arg);
void receive_orphan(struct claim *c_take, const char *dead_node, void *arg);
/* Hands reserved deliveries to the pool and says what more could be claimed. Call after every change. */
void receive_pump(struct worker *w);
void receive_due(struct delivery *d); /* its eta has come */

/* ---- forward.c: tasks that are not known here ---- */
void forward_unknown(struct delivery *d);
void forward_due(struct delivery *d);   /* no answer came */
void forward_counted(struct worker *w); /* the others have answered, or cannot be asked */

/* ---- finish.c: ends of a delivery; each takes it out of the other states ---- */
void finish_outcome(struct delivery *d, const struct outcome *o);
/* A task that did not end by itself: status FAILURE or REVOKED with an exception. */
void finish_verdict(struct delivery *d, const char *status, const char *type, const char *module,
                    struct slice args_json);
/* FAILURE with an exception of billiard's; requeue: the message goes back to the tail as well; park_reason may be NULL. */
void finish_failed(struct delivery *d, const char *type, struct slice args_json, bool requeue,
                   const char *park_reason);
/* The record (p NULL: none) and what follows. */
void finish_with(struct delivery *d, struct slice record, const struct canvas_effects *fx);
void finish_discard(struct delivery *d); /* the claim was lost */
/* Set aside, with no record and no consequences. */
void finish_park_plain(struct delivery *d, const char *reason);
void finish_return(struct delivery *d, bool head, bool redelivered);
void finish_delay(struct delivery *d, int64_t due_us);
/* Passed on with other bytes: to the tail, or not before due_us. */
void finish_forward(struct delivery *d, struct slice raw, int64_t due_us);
/* Nobody has its task; park_reason: NULL, or it is set aside as well. */
void finish_unregistered(struct delivery *d, const char *park_reason);
void finish_park(struct delivery *d, const char *reason);
/* The body could not be decoded: set aside with the record that the child wrote. */
void finish_park_outcome(struct delivery *d, const char *reason, const struct outcome *o);
void finish_store(struct delivery *d, struct slice record); /* mid-task state */

/* ---- lost.c: its child or its node died ---- */
void finish_lost(struct delivery *d, const char *text);
void finish_poison(struct delivery *d, const char *text); /* lost once too often: set aside */

/* ---- lookup.c: what is stored for a task ---- */
struct lookup_result {
    bool known;                /* false: the store cannot be asked now */
    bool success;              /* SUCCESS is there; record is then readable */
    struct record_view record; /* in the delivery's arena */
};

typedef void (*lookup_fn)(const struct lookup_result *r, void *arg);
bool lookup_possible(const struct delivery *d); /* results are kept, and it has an id */
/* fn comes from the loop, once. The delivery must stay until then: LEAVING or STARTING. */
void lookup_record(struct delivery *d, lookup_fn fn, void *arg);
/* Runs a script of result/chord.h where the results are. */
void lookup_eval(struct worker *w, const struct redis_script *s, redis_reply_fn fn, void *arg,
                 size_t n, const struct slice *argv);

/* ---- dedup.c: worker_deduplicate_successful_tasks ---- */
int dedup_init(struct worker *w) WARN_UNUSED;
void dedup_deinit(struct worker *w);
bool dedup_takes(struct delivery *d); /* true: it is asked for, or has left */
void dedup_remember(struct delivery *d);

/* ---- run.c: the pool's events ---- */
extern const struct pool_events run_pool_events;

/* ---- remote.c: the view of remote control ---- */
int remote_init(struct worker *w) WARN_UNUSED;
void remote_deinit(struct worker *w);
int remote_start(struct worker *w) WARN_UNUSED;
void remote_count(struct delivery *d); /* it has started */

/* ---- limits.c: the timer ---- */
void limits_start(struct delivery *d);
int limits_hold(struct delivery *d, int64_t wait_us) WARN_UNUSED;
void limits_stop(struct delivery *d);
void limits_tick(uv_timer_t *t);

/* ---- shutdown.c ---- */
int shutdown_listen(struct worker *w) WARN_UNUSED;
void shutdown_tell_state(const struct worker *w); /* one line in the log */
void shutdown_step(struct worker *w); /* goes on when something changed; nothing while running */
void shutdown_started(
    struct delivery *d); /* a job began to run: stop it when that is where we are */
void shutdown_warm(struct worker *w);
void shutdown_cold(struct worker *w);
/* Something that cannot go on: ends as fast as it can be done without losing messages. */
void shutdown_broken(struct worker *w, int exit_code);

/* ---- broker.c ---- */
int broker_start(struct worker *w) WARN_UNUSED; /* transport, result backend, remote control */

/* ---- worker.c ---- */
void worker_say_ready(struct worker *w); /* once, when broker and mailbox are there */
void worker_pool_ready(struct worker *w, const struct task_registry *table);
void worker_pool_failed(struct worker *w, const char *reason, int exit_code);
