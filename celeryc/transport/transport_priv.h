/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What the files of this folder share. Nobody else includes it. */

#include "celeryc/base/arena.h"
#include "celeryc/base/list.h"
#include "celeryc/redis/conn.h"
#include "celeryc/result/late.h"
#include "celeryc/transport/scripts.h"
#include "celeryc/transport/transport.h"

#define MAX_WAITERS     8    /* queues beyond that rely on tracking */
#define MAX_STEPS       10   /* priority steps */
#define MAX_QUEUES      1024 /* of one worker */
#define OPS_PER_BATCH   200
#define BYTES_PER_BATCH (1u << 20)
#define CLAIM_BUDGET    (4u << 20) /* bytes of one claim's messages, roughly */
#define RESTORE_BUDGET  (4u << 20)
#define RESTORE_FIELDS  100
/* <me>:<seq>, 65 bytes: one more than Redis packs into a list pack by default. In one of those, every ZADD into the
 * index reads all scores before it (4 us a claim instead of 1). The scripts write the same. */
#define FIELD_FORMAT      "%s:%048llu"
#define FIELD_SIZE        96
#define HELD_BUCKETS      1024
#define CHECK_NO_TRACK_MS 1000 /* how often an idle worker looks when CLIENT TRACKING is refused */

enum transport_state {
    TRANSPORT_DOWN,     /* no command connection */
    TRANSPORT_ENTERING, /* registering, claims of a lost reply being sorted out */
    TRANSPORT_UP,
    TRANSPORT_DEAD, /* fatal error or freed: nothing happens any more */
};

enum wait_state {
    WAIT_NONE,
    WAIT_BLOCKED,    /* BLMOVE is out */
    WAIT_UNBLOCKING, /* CLIENT UNBLOCK was sent; the BLMOVE's answer is awaited */
};

struct queue {
    struct transport *t;
    size_t index;
    char *name;
    char *tail;              /* , "", "<name>"] : the end of the stored value */
    char *keys[MAX_STEPS];   /* prefix and step included */
    char *waiting;           /* celeryc:waiting:<me>:<queue>, prefix included */
    bool tracked[MAX_STEPS]; /* found empty, and its change will be told */
    bool dirty;              /* the waiting list may hold something */
    bool woken;              /* a BLMOVE brought something: claim now */
    /* the waiter, for the first MAX_WAITERS queues */
    struct redis_conn *conn;
    enum wait_state wait;
    bool ready;          /* its client id stands in our worker entry */
    int64_t old_id;      /* a client of an earlier connection that may still be blocked */
    char old_run_id[48]; /* the server run that old_id belongs to */
};

/* A claim that is ours, from its claim reply to the answer of what ended it. */
struct held {
    struct list link;
    struct held *next; /* in its bucket */
    uint64_t seq;
    bool started;
    struct op *mark; /* the note of its start, not sent yet */
};

/* An operation on claims or records, kept until answered (see ops.c). */
struct op {
    struct list link;
    char kind;
    bool ends; /* the claim is no longer ours once it is answered */
    bool head; /* a return to the head */
    uint64_t seq;
    transport_done_fn fn;
    void *arg;
    size_t bytes;
    size_t n;
    struct slice argv[];
};

/* Another worker as we have seen it. */
struct peer {
    struct list link;
    char *id;
    char *score; /* as Redis wrote it */
    int64_t still_ms;
    int64_t seen_ms; /* uv_now of the last look */
    bool present;
    bool strange; /* unknown version: left alone */
};

struct restore;

/* Orphans under way: their claims may stand under our name although the reply was lost. */
struct adoption {
    struct list link;
    uint64_t first, n;
    char *node;
};

struct transport {
    uv_loop_t *loop;
    struct transport_events ev;
    void *arg;
    enum transport_state state;
    bool stopping; /* no claims any more */
    bool leaving;
    int n_handles;

    /* options, copied */
    const struct redis_endpoint *endpoint;
    char *node, *prefix, *sep;
    int steps[MAX_STEPS];
    size_t n_steps;
    int64_t visibility_timeout_ms, lease_ms, beat_ms, dead_after_ms;

    char me[20];
    uint64_t epoch;
    uint64_t next_seq;
    struct arena *scratch; /* texts of the arguments being built */
    struct slice *args;
    size_t n_args, cap_args;
    bool args_failed;
    /* keys, prefix included */
    char *k_workers, *k_worker, *k_unacked, *k_index, *k_mutex, *k_claims, *k_running, *k_delayed,
        *k_stray, *k_deaths;

    struct redis_conn *cmd;
    struct result_late *late;
    struct redis_conn *sub;
    uv_prepare_t turn;
    uv_timer_t beat_timer, lease_timer, check_timer, promote_timer, sweep_timer, unblock_timer,
        leave_timer;

    /* claim.c */
    struct queue *queues;
    size_t n_queues;
    size_t *order; /* of service */
    size_t want;
    bool claiming;    /* a claim is out */
    bool reconciling; /* claims of a lost answer are being fetched */
    bool maybe_more;  /* the lists may hold something */
    uint64_t n_invalidated;
    uint64_t invalidated_at_claim;
    bool tracking;          /* CLIENT TRACKING is on for the present connections */
    bool tracking_denied;   /* told once */
    bool announced;         /* on_up was called for the present connection */
    bool policy_told;       /* maxmemory-policy was warned of */
    bool checking;          /* the claim that is out was asked for by the safety check alone */
    unsigned n_missed;      /* messages that only the safety check found, since the last wake-up */
    int64_t brief_until_ms; /* the loop's clock: waiters block briefly until then */
    char *hot;              /* raw that may start in the next claim */
    size_t hot_len;
    void (*stop_fn)(void *arg);
    void *stop_arg;

    /* ops.c */
    struct list fifo;  /* waiting to be sent */
    struct list heads; /* returns to the head, waiting */
    bool heads_sorted;
    struct list batch; /* sent or to be sent again under batch_number */
    uint64_t batch_number;
    bool batch_out;
    unsigned n_batch_errors;
    struct list held;
    struct held *buckets[HELD_BUCKETS];

    /* peers.c */
    struct list peers;
    bool beating;
    int64_t clock_offset_ms; /* Redis' clock minus ours */
    struct restore *restore;
    struct list adoptions;
    char **foreign_queues; /* names of queues that are not ours, for orphans */
    size_t n_foreign_queues;

    /* sweep.c */
    bool promoting, sweeping;
    int64_t next_due_ms; /* Redis' clock; 0 none known */

    /* leaving */
    void (*leave_fn)(void *arg);
    void *leave_arg;
    int64_t leave_ms;
    bool leave_sent;
};

/* ---- transport.c ---- */

/* Begins the arguments of a script with the nine common ones; valid until the next begin. */
void args_begin(struct transport *t);
void args_add(struct transport *t, struct slice s);
void args_str(struct transport *t, const char *s);
void args_i64(struct transport *t, int64_t v);
void args_seconds(struct transport *t, int64_t ms);
void args_eval(struct transport *t, const struct redis_script *s, redis_reply_fn fn, void *arg);

char *key_of(const struct transport *t, const char *format, const char *name); /* malloc */
bool is_gone(const struct redis_reply *reply); /* we are not registered any more */
bool is_status(const struct redis_reply *reply, const char *word);
void transport_enter(struct transport *t);

/* An error text that tells of missing rights. */
bool acl_refused(const char *text);
/* NULL: fine or lost. An error reply: the connection is dropped, or the transport dies of it. True when an error. */
bool reply_failed(struct transport *t, const struct redis_reply *reply);
void transport_die(struct transport *t, const char *reason);

/* ---- claim.c ---- */
int claim_setup(struct transport *t, const struct transport_options *o) WARN_UNUSED;
void claim_teardown(struct transport *t);
void claim_enter(struct transport *t); /* registered: everything may have come */
void claim_down(struct transport *t);
void claim_turn(struct transport *t);
void finish_stopping(struct transport *t); /* calls back when nothing can be claimed any more */
void on_check_timer(uv_timer_t *timer);
void on_unblock_timer(uv_timer_t *timer);

static inline bool queue_has_waiter(const struct queue *q)
{
    return q->index < MAX_WAITERS;
}

/* ---- track.c ---- */
int track_setup(struct transport *t) WARN_UNUSED;
void track_enter(struct transport *t);
void track_down(struct transport *t);
void track_turn(struct transport *t); /* idle: every key that no waiter watches is to be tracked */

/* ---- ends.c ---- */
void ends_note_records(struct transport *t, const struct op *op); /* op has been done */

/* ---- ops.c ---- */
/* Queues an operation like the given one, with a copy of its arguments. */
void ops_issue(struct transport *t, const struct op *like, size_t n, const struct slice *argv);
uint64_t claim_seq(const struct transport *t, const struct claim *c);
void ops_setup(struct transport *t);
void ops_teardown(struct transport *t);
void ops_turn(struct transport *t);   /* sends a batch when none is out */
void ops_resend(struct transport *t); /* the batch whose answer was lost */
bool ops_idle(const struct transport *t);
/* A claim that nobody was told of goes back to the head; tail_len: bytes of its stored value behind the message. */
void ops_return_field(struct transport *t, uint64_t seq, size_t tail_len, transport_done_fn fn,
                      void *arg);
int held_add(struct transport *t, uint64_t seq, bool started) WARN_UNUSED;
struct held *held_find(const struct transport *t, uint64_t seq);
int field_seq(const struct transport *t, struct slice field, uint64_t *ret_seq) WARN_UNUSED;

/* ---- peers.c ---- */
void peers_enter(struct transport *t);
void peers_down(struct transport *t);
void peers_teardown(struct transport *t);
void on_beat_timer(uv_timer_t *timer);
void on_lease_timer(uv_timer_t *timer);

/* ---- restore.c ---- */
void restore_begin(struct transport *t, const struct peer *p);
void restore_cancel(struct transport *t);
void restore_teardown(struct transport *t);
/* Sorts out claims under our name that we never heard of. fields: the answer of "enter". */
void reconcile(struct transport *t, const struct redis_reply *fields);
struct claim *claim_new(struct transport *t, uint64_t seq, struct slice raw, size_t queue_index,
                        const char *queue);

/* ---- sweep.c ---- */
void on_promote_timer(uv_timer_t *timer);
void on_sweep_timer(uv_timer_t *timer);
void promote_expect(struct transport *t, int64_t due_ms); /* Redis' clock; 0 none */
