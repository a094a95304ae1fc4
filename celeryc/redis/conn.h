/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* One Redis connection on a libuv loop: pipelined commands, scripts, pub/sub pushes, reconnect with backoff.
 *
 * The folder is the only user of hiredis (its reader; the socket and its TLS are ours). States: down -> connecting ->
 * greeting (AUTH, SELECT, CLIENT SETNAME, CLIENT ID, INFO, SCRIPT LOAD) -> up -> down ... Every wait has a deadline, and a
 * connection that is silent is asked whether it lives. The errors READONLY, LOADING, MASTERDOWN, NOAUTH, MISCONF, OOM,
 * NOSCRIPT, NOREPLICAS, BUSY and CLUSTERDOWN mean "not now": they drop the connection, which comes back with backoff. An
 * endpoint may be a list of servers, or a master that Sentinels know: each attempt finds out which server it is. Commands are for a connection that is up; one issued in another state gets reply NULL in
 * the same loop turn (never from inside the call). A command whose answer is lost with the connection gets reply NULL:
 * it may or may not have run. The program must ignore SIGPIPE (libuv writes without MSG_NOSIGNAL). */

#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"
#include "celeryc/redis/endpoint.h"

#include <uv.h>

enum redis_reply_kind {
    REDIS_R_NIL,
    REDIS_R_STATUS,
    REDIS_R_STRING,
    REDIS_R_INTEGER,
    REDIS_R_ARRAY,
    REDIS_R_ERROR,
};

/* Owned by the connection; valid until the callback returns. Every string is capped by LIMIT_MESSAGE_BYTES, arrays
 * by LIMIT_REPLY_ELEMENTS, a whole reply by LIMIT_REPLY_BYTES. Strings are NUL-terminated past their length. */
struct redis_reply {
    enum redis_reply_kind kind;
    struct slice str; /* status, string, error text */
    int64_t integer;
    size_t n;
    struct redis_reply **elem;
};

struct redis_conn;

/* A Lua script, static const. The SHA1 is kept per connection. */
struct redis_script {
    const char *name; /* for error texts */
    const char *source;
};

typedef void (*redis_reply_fn)(const struct redis_reply *reply /* NULL: connection lost */,
                               void *arg);

struct redis_callbacks {
    void (*on_up)(struct redis_conn *c, void *arg);
    /* Called once per loss or failed attempt, after every pending callback got NULL. retry_ms: next attempt; 0: at once,
     * at the next server of the list. */
    void (*on_down)(struct redis_conn *c, const char *reason, int64_t retry_ms, void *arg);
    /* A pub/sub push: kind "message", "pmessage", ... NULL when the connection is not used for pub/sub. A pub/sub
     * connection subscribes to one channel or pattern per command. */
    void (*on_push)(struct redis_conn *c, const struct redis_reply *reply, void *arg);
};

struct redis_conn_options {
    const struct redis_endpoint *endpoint; /* borrowed for the life of the connection */
    const char *client_name;               /* CLIENT SETNAME, borrowed, may be NULL */
    const struct redis_script *const
        *scripts; /* loaded in the greeting; NULL-terminated, may be NULL */
    /* The endpoint's own options are stronger than these three. */
    int64_t
        connect_timeout_ms; /* 0: 4,000; of each step: asking a Sentinel, TLS included, greeting */
    int64_t
        reply_timeout_ms; /* 0: 10,000; a longer silence with a command pending drops the connection */
    int64_t health_ms; /* 0: 5,000; < 0: never. A connection that is silent for so long is asked */
    /* NULL, or one that outlives this: this one only goes where that one is up, to the very same server process. */
    const struct redis_conn *leader;
};

struct redis_conn *redis_conn_new(uv_loop_t *loop, const struct redis_conn_options *o,
                                  const struct redis_callbacks *cb,
                                  void *arg); /* NULL: out of memory */
void redis_conn_start(struct redis_conn *c);
/* Ends at once: pending callbacks get NULL, no callback comes after this returns; memory goes in the close callback
 * (run the loop once more). May be called from inside a callback. */
struct redis_conn *redis_conn_free(struct redis_conn *c);

bool redis_conn_is_up(const struct redis_conn *c);
int64_t
redis_conn_client_id(const struct redis_conn *c); /* CLIENT ID of the greeting, 0 when down */
const char *redis_conn_run_id(
    const struct redis_conn *c); /* the server's run_id of the greeting, "" when down */
int redis_conn_version(
    const struct redis_conn *c); /* 60204 for 6.2.4; 0 when down or not told by the server */
void redis_conn_drop(struct redis_conn *c,
                     const char *reason);    /* closes the socket; reconnects by itself */
void redis_conn_hurry(struct redis_conn *c); /* down: the next attempt is made now */
/* Masked URL of the server that it is at, or tries. Valid until the next attempt. */
const char *redis_conn_server(const struct redis_conn *c);

/* Issues one command. fn may be NULL (answer ignored). deadline_ms: 0 for the connection's; a blocking command gives
 * its own. Bytes leave in one write at the end of the loop turn. Out of memory: fn gets NULL. */
void redis_command(struct redis_conn *c, redis_reply_fn fn, void *arg, int64_t deadline_ms,
                   size_t n, const struct slice *argv);

/* Handy for constant words: redis_commandv(c, fn, arg, "PING", NULL). */
void redis_commandv(struct redis_conn *c, redis_reply_fn fn, void *arg, ...)
    __attribute__((sentinel));

/* EVALSHA name 0 argv... The script must stand in the options. */
void redis_eval(struct redis_conn *c, const struct redis_script *s, redis_reply_fn fn, void *arg,
                size_t n, const struct slice *argv);

/* Writes what is queued now instead of at the end of the turn (from a uv_prepare callback, say). */
void redis_conn_flush(struct redis_conn *c);

/* Text of an error reply or of a missing one, for logs. */
const char *redis_reply_error(const struct redis_reply *reply);
bool redis_reply_ok(const struct redis_reply *reply); /* not NULL and not an error */
