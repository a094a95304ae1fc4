/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The inside of a connection, for the files that make it up: conn.c (states, deadlines), commands.c (and their answers), greet.c (what is said
 * first), route.c (which server next), sentinel.c (where the master is). Private to the folder. */

#include "celeryc/base/list.h"
#include "celeryc/redis/conn.h"

#define SHA_BYTES 40
#define HOST_SIZE 256

enum conn_state {
    CONN_IDLE,
    CONN_FINDING,    /* a Sentinel is asked where the master is */
    CONN_CONNECTING, /* resolving and the TLS handshake included */
    CONN_GREETING,
    CONN_UP,
    CONN_WAITING,
    CONN_CLOSED,
    CONN_STATES,
};

struct sentinel;

/* Which server a connection goes to. */
struct route {
    const struct redis_endpoint *head, *at; /* the list, and its member that is tried */
    size_t n, n_failed;                     /* servers, and failures since all were tried */
    struct redis_endpoint
        target; /* borrows everything: `at`, with the address that was found out */
    char host[HOST_SIZE];
    char shown[HOST_SIZE + 64]; /* masked URL of the target, for people */
};

struct redis_conn {
    uv_loop_t *loop;
    struct redis_conn_options o;
    struct redis_callbacks cb;
    void *arg;
    enum conn_state state;
    uv_timer_t timer;
    uv_prepare_t prepare;
    int n_handles; /* timer and prepare that are not closed yet */
    int busy;      /* depth of our own frames that touch c after a callback */
    struct route route;
    struct sentinel *sentinel; /* NULL: none, or the leader has one */
    struct socket *socket;
    struct redis_reader *reader;
    struct buf out;
    struct list pending; /* sent, in order */
    struct list refused; /* issued while not up: get NULL in the prepare phase */
    uint64_t read_ms;    /* uv_now of the last bytes */
    uint64_t up_ms;      /* uv_now when it came up */
    bool last_look; /* the deadline has passed; one more turn for bytes that lie in the socket */
    unsigned generation; /* counts sockets, so that a loop over replies sees a change */
    int64_t backoff_ms;
    int64_t client_id;
    int version;
    char run_id[48];
    size_t n_scripts;
    char (*shas)[SHA_BYTES]; /* in the order of o.scripts */
    size_t greet_next_sha;
};

/* ---- conn.c ---- */
void conn_set_state(struct redis_conn *c, enum conn_state to);
/* The connection is of no use: on_down, and another attempt later. elsewhere: at the next server, if there is one. */
void conn_lose(struct redis_conn *c, const char *reason, bool elsewhere);
void conn_arm(struct redis_conn *c, int64_t ms); /* the timer */
void conn_release(
    struct redis_conn *c); /* after a frame that was counted in busy: the memory may go */

/* ---- commands.c ---- */
/* Queues a command in any state that has a socket. */
void conn_send(struct redis_conn *c, redis_reply_fn fn, int64_t deadline_ms, size_t n,
               const struct slice *argv);
void conn_on_read(void *arg, const char *data, size_t len);
void conn_on_prepare(uv_prepare_t *h);
void conn_fail_all(struct list *from);
uint64_t conn_oldest_deadline(const struct redis_conn *c); /* there is one */
void conn_arm_for_next(struct redis_conn *c);

/* ---- greet.c ---- */
void conn_greet(struct redis_conn *c);

/* ---- route.c ---- */
void route_init(struct route *r, const struct redis_endpoint *ep);
void route_aim(struct route *r);                                /* at the server of the list */
int route_aim_at(struct route *r, const char *host, int port)   /* as a Sentinel said; -EINVAL: */
    WARN_UNUSED;                                                /* the name is too long */
void route_follow(struct route *r, const struct route *leader); /* where the leader is */
/* After a failure. True when every server of the list has had its turn: time for a pause. */
bool route_next(struct route *r);
bool route_has_choice(const struct route *r); /* a replica may be met, the role is asked */
