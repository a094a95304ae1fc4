/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The parts of the folder that talk to Redis, among themselves: control.c (connections, life), answer.c (replies, REVOKED
 * records), delayed.c (what waits at the broker), mingle.c (asking the others at the start), census.c (asking them what tasks
 * they have). */

#include "celeryc/base/codec.h"
#include "celeryc/control/control_priv.h"
#include "celeryc/redis/conn.h"

#define CONTROL_BINDING_MS 3600000 /* kombu's least deadline of an expiring binding */

struct control {
    uv_loop_t *loop;
    const struct control_options *o;
    struct panel panel;
    struct redis_conn *mailbox, *commands, *results; /* results: NULL when it is commands */
    struct arena *arena;                             /* of the message at hand */
    uv_timer_t beat, bind, mingle, census_timer;
    struct census_state *census;
    int n_timers;
    struct buf channel, exchange, reply_exchange, queue, event_channel, online_channel;
    const struct redis_script *scripts[8];
    const char *sep;
    uint64_t mailbox_clock;
    bool subscribed, announced, told, gone, freed;
    char oid[UUID_TEXT_SIZE]; /* of the mingle under way, "" when there is none */
    int mingle_rounds;
    size_t n_synced;
    void (*left)(void *arg);
    void *left_arg;
};

/* ---- control.c ---- */
void io_log_refusal(const struct redis_reply *reply, void *arg); /* arg: what was tried */
/* SADD of a binding that expires, with its deadline. member is "rk SEP SEP queue". */
void io_bind(struct control *c, struct slice exchange, struct slice member);
void io_unbind(struct control *c, struct slice exchange, struct slice member);

/* ---- answer.c ---- */
extern const struct redis_script answer_reply, answer_revoke, answer_swap;
void answer_send(struct control *c, const struct mailbox_message *m, struct slice reply);
/* Stores REVOKED for the call's ids, then replies. Takes c->arena, in which everything lies. */
void answer_when_stored(struct control *c, const struct mailbox_message *m, struct call *call);

/* ---- delayed.c ---- */
/* Does the answer tell of what waits at the broker? Then it is asked first, and the answer follows. */
bool delayed_wanted(const struct control *c, const struct mailbox_message *m);
void delayed_ask(struct control *c, const struct mailbox_message *m);

/* ---- census.c ---- */
int census_init(struct control *c) WARN_UNUSED;
void census_deinit(struct control *c);
void census_lost(struct control *c);   /* a connection is gone: what was asked is not answered */
void census_online(struct control *c); /* a worker has come: what is known is old soon */
bool census_is_own(const struct control *c, struct slice routing_key); /* of our own question */

/* ---- mingle.c ---- */
/* The list that replies to oid go to, and its binding. */
void mingle_write_queue(struct buf *dst, const struct control *c, const char *oid);
void mingle_write_member(struct buf *dst, const struct control *c, const char *oid);
extern const struct redis_script mingle_collect;
void mingle_start(struct control *c);
