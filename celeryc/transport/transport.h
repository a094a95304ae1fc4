/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* kombu's Redis transport as a worker needs it, without its holes (DESIGN section 4).
 *
 * Owns three connections (commands, one blocked waiter per queue, subscriber for CLIENT TRACKING), the incarnation's
 * liveness entry, leases, and the restore of dead incarnations. Knows nothing of tasks: it hands out claims (raw
 * bytes under a fresh field) and takes them back as started, finished, returned, delayed or parked.
 *
 * What must never happen: a message outside of a list, `unacked`, `celeryc:running:<me>` or `celeryc:delayed`; an
 * effect of a finish whose claim was lost; a claim by a worker that is not registered.
 *
 * Keys (all after global_keyprefix; format version 2 stands in celeryc:worker:<me> field "v"; a restorer reads 1 and 2
 * and leaves entries of another version alone):
 *   <queue>[SEP<step>]            list    kombu's
 *   unacked, unacked_index        kombu's; field = <me>:<seq, 48 digits>, value = [raw, "", "<queue>"] by concatenation
 *   celeryc:workers               zset    <me> -> Redis time (ms) of the last beat, every 3 s
 *   celeryc:worker:<me>           hash    v, node, queues (JSON), waiters (client ids, blanks between), run (run_id that
 *                                         the ids belong to), started (ms), epoch (registrations), batch and answer
 *                                         (number and reply of the last batch of operations)
 *   celeryc:waiting:<me>:<queue>  list    what a BLMOVE brought and no claim took yet
 *   celeryc:claims:<me>           hash    field -> list key that it came from (the note); since 2, NUL and the task's id
 *                                         behind it when a late-ack task has started
 *   celeryc:deaths:<id>           string  how often that message died after it had started; lives 7 days
 *   celeryc:running:<me>          hash    field -> value as in unacked (early-ack tasks that have started)
 *   celeryc:delayed               zset    due time (ms, Redis clock) -> name: the task's id, or id NUL uuid, or uuid
 *   celeryc:delayed:messages      hash    name -> "2" NUL <list key> NUL raw (format 2; in format 1 there is no such
 *                                         entry, and the member itself is <list key> NUL <uuid> NUL raw)
 *   celeryc:dead:<queue>          list    JSON object {"v":1,"reason","time","queue","raw"(base64)}
 *   celeryc:fired:<nonce>         string  the messages of that chord are published (backend of its own only); lives a day
 *   celeryc:restoring:<dead>      string  who restores it; lives 10 s; saves work, nothing depends on it
 *   celeryc:stray                 list    raw messages whose own list was a key of another type */

#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"
#include "celeryc/redis/conn.h"
#include "celeryc/redis/endpoint.h"
#include "celeryc/result/effects.h"

#include <uv.h>

struct transport_options {
    const struct redis_endpoint *endpoint;
    const char *node;          /* w1@host */
    const char *key_prefix;    /* global_keyprefix, "" */
    const char *const *queues; /* NULL-terminated, in consumption order */
    const int *priority_steps; /* NULL: 0,3,6,9 */
    size_t n_priority_steps;
    const char *sep;               /* NULL: "\x06\x16" */
    const char *unacked_key;       /* NULL: unacked */
    const char *unacked_index_key; /* NULL: unacked_index */
    const char *unacked_mutex_key; /* NULL: unacked_mutex */
    int64_t visibility_timeout_ms; /* 3,600,000: used by our part in kombu's sweep only */
    int64_t lease_ms;              /* 30,000 */
    int64_t beat_ms;               /* 3,000 */
    int64_t dead_after_ms; /* 12,000: an observer has itself seen the score unchanged for so long */
};

#define TRANSPORT_MAX_DEATHS 3 /* a message that has died so often is set aside */

/* A message that is ours until it is given back. */
struct claim {
    char *field; /* <me>:<seq>, owned */
    char *raw;   /* owned, raw_len bytes, NUL-terminated */
    size_t raw_len;
    size_t queue_index; /* into options.queues; SIZE_MAX: an orphan of a queue that is not ours */
    const char *queue;  /* borrowed from the transport */
    bool
        started; /* already in celeryc:running:<me>; set it when a start is answered DONE (a hint only) */
    bool poison; /* of an orphan: it has died too often and is to be parked */
};

struct claim *claim_free(struct claim *c);
DEFINE_CLEANUP(struct claim, claim_free)

/* A message to push in the same script as a finish: LPUSH to the list of its priority. */
struct transport_push {
    const char *queue;
    int priority;
    struct slice raw;
};

/* A record to store and publish in the same script (skipped when the stored one is SUCCESS). key.p NULL: none. */
struct transport_record {
    struct slice key; /* full key, which is also the channel */
    struct slice value;
    int64_t ttl_s; /* 0: no expiry */
};

/* All that the end of a delivery does besides removing its claim: one step with it. */
struct transport_end {
    const struct transport_record *record; /* NULL: none */
    const struct result_effects *effects;  /* NULL: none */
    size_t n_push;
    const struct transport_push *push; /* after the effects' starts, before their parts */
};

/* The end of a chord that was claimed: its body's messages (and what else follows), if the claim still stands. */
struct transport_fire {
    struct slice key;      /* of the chord */
    struct slice fire_key; /* where its note is */
    const char *token;     /* of the claim */
    bool failed;           /* the chord has failed: only .s goes */
    struct transport_end end;
};

struct transport;

enum transport_done {
    TRANSPORT_DONE, /* the effect happened, once */
    TRANSPORT_LOST, /* the claim was no longer ours: nothing happened */
    TRANSPORT_CLAIMED, /* done, and a part of it completed its chord: it is ours to fire, under the effects' token */
    TRANSPORT_POISON, /* a death was counted, and it was one too many */
};

/* Callbacks come from the loop. The transport retries over reconnects by itself, so a done callback always comes
 * (unless transport_free comes first). The claim may be freed as soon as the call has returned. */
typedef void (*transport_done_fn)(enum transport_done done, void *arg);

struct transport_events {
    /* Takes ownership of each claim. */
    void (*on_claim)(struct claim *c_take, void *arg);
    /* Wake-up peek (optional, may be NULL): may the message be started in the claim itself? true only for a task
     * that is known, early-ack, due now and surely run next. Called with the bytes that a waiter brought. */
    bool (*may_start)(struct slice raw, void *arg);
    /* A dead worker's started early-ack task, now in our running hash: finish it as lost. */
    void (*on_orphan)(struct claim *c_take, const char *dead_node, void *arg);
    void (*on_up)(void *arg); /* registered; claims follow */
    void (*on_down)(const char *reason, int64_t retry_ms, void *arg);
    void (*on_fatal)(const char *reason,
                     void *arg); /* an ACL or version problem that no retry mends */
};

struct transport *transport_new(uv_loop_t *loop, const struct transport_options *o,
                                const struct transport_events *ev, void *arg);
void transport_start(struct transport *t);
const char *transport_incarnation(const struct transport *t);
/* Masked URL of the server that is used, or tried. Valid until the loop turns. */
const char *transport_server(const struct transport *t);
/* The list of a queue and priority under these options. Freed by the caller; NULL: out of memory. */
char *transport_list_key(const struct transport *t, const char *queue, int priority);

/* How many more claims we could use now (0: none; stops and unblocks the waiters). Cheap, call at every change. */
void transport_want(struct transport *t, size_t n_free);

/* Early-ack start: unacked -> running. Batched per loop turn. done: LOST means run nothing. */
void transport_start_claim(struct transport *t, const struct claim *c, transport_done_fn fn,
                           void *arg);

/* A late-ack task was started: if the worker dies now, a death of this message is counted. */
void transport_note_start(struct transport *t, const struct claim *c, struct slice id);

/* A child died of it: counted at once. The claim stays. done: DONE, LOST, POISON. */
void transport_count_death(struct transport *t, const struct claim *c, struct slice id,
                           transport_done_fn fn, void *arg);

/* It has ended, or has come further for good: earlier deaths do not count any more. */
void transport_forget_deaths(struct transport *t, struct slice id);

/* The end of a delivery: removes the claim, and only if it was there stores the record and pushes the messages. */
void transport_finish(struct transport *t, const struct claim *c,
                      const struct transport_record *record, size_t n_push,
                      const struct transport_push *push, transport_done_fn fn, void *arg);

/* The same with everything that an end may carry. The answer may be TRANSPORT_CLAIMED. */
void transport_finish_with(struct transport *t, const struct claim *c,
                           const struct transport_end *end, transport_done_fn fn, void *arg);

/* Effects and messages that belong to no claim. fn may be NULL. */
void transport_apply(struct transport *t, const struct transport_end *end, transport_done_fn fn,
                     void *arg);

/* Publishes the body of a chord and cleans up in one step. LOST: somebody else has fired it, or does. */
void transport_fire_chord(struct transport *t, const struct transport_fire *fire,
                          transport_done_fn fn, void *arg);

/* For a backend of its own: the messages, unless celeryc:fired:<nonce> is there already, which is set in the same step
 * and lives a day. Done either way. */
void transport_publish_once(struct transport *t, const char *nonce, size_t n_push,
                            const struct transport_push *push, transport_done_fn fn, void *arg);

/* The chord is cleaned up: its marker is not needed any more. */
void transport_forget_once(struct transport *t, const char *nonce);

/* One of the scripts of result/chord.h on the command connection, now. NULL as the reply: not connected, or lost. */
void transport_eval(struct transport *t, const struct redis_script *s, redis_reply_fn fn, void *arg,
                    size_t n, const struct slice *argv);

/* Back to the queue: head (next to be consumed; shutdown, recall) or tail (reject requeue). redelivered: mark it. */
void transport_return(struct transport *t, const struct claim *c, bool head, bool redelivered,
                      transport_done_fn fn, void *arg);

/* To celeryc:delayed until due (wall clock us); any celeryc promotes it. name: the task's id, by which it is found. */
void transport_delay(struct transport *t, const struct claim *c, struct slice name, int64_t due_us,
                     transport_done_fn fn, void *arg);

/* Passes a message on with other bytes: to the tail of its list, or, if due_us is not 0, by way of celeryc:delayed. */
void transport_forward(struct transport *t, const struct claim *c, struct slice name,
                       struct slice raw, int64_t due_us, transport_done_fn fn, void *arg);

/* Claims delayed messages of our queues before they are due, by name; those that are there come as claims. A courtesy:
 * nothing happens while the connection is away. */
void transport_claim_delayed(struct transport *t, size_t n, const struct slice *names);

/* Of all workers that live, as far as we have seen: the one that speaks for them where one is enough. */
bool transport_is_first(const struct transport *t);

/* To celeryc:dead:<queue> with a reason; record (may be NULL) is stored in the same step. */
void transport_park_with(struct transport *t, const struct claim *c, const char *reason,
                         const struct transport_end *end, transport_done_fn fn, void *arg);
void transport_park(struct transport *t, const struct claim *c, const char *reason,
                    const struct transport_record *record, transport_done_fn fn, void *arg);

/* Mid-task state: stores unless SUCCESS is there. fn may be NULL. */
void transport_store(struct transport *t, const struct transport_record *record,
                     transport_done_fn fn, void *arg);

/* Message of a running task. fn may be NULL. */
void transport_publish(struct transport *t, const struct transport_push *push, transport_done_fn fn,
                       void *arg);

/* Stops claiming now, unblocks and awaits the waiters, returns what they brought. fn once nothing can be claimed. */
void transport_stop_claiming(struct transport *t, void (*fn)(void *arg), void *arg);

/* Leaves: liveness entry removed, fn when Redis has answered or deadline_ms has passed. Then transport_free. */
void transport_leave(struct transport *t, int64_t deadline_ms, void (*fn)(void *arg), void *arg);

/* Ends at once, as a crash would: claims stay and are restored by others. From a callback only as its last act. The
 * memory goes from the loop. */
struct transport *transport_free(struct transport *t);

/* Helpers for programs without a worker (celeryc call, purge, scatter-plan): the list key of a queue and priority.
 * Freed by the caller. */
char *transport_queue_key(const char *key_prefix, const char *queue, int priority);
