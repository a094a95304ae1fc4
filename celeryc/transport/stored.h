/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What celeryc keeps in Redis beside kombu's keys, read back from bytes. docs/REDIS_KEYS.md lists the formats. */

#include "celeryc/base/arena.h"
#include "celeryc/base/err.h"
#include "celeryc/message/json.h"
#include "celeryc/redis/conn.h"

/* Written by another version of celeryc: to be left alone. */
#define STORED_E_VERSION 1

/* An element of celeryc:dead:<queue>: {"v": 1, "reason", "time", "queue", "raw": base64}. */
#define DEAD_VERSION 1

struct dead_entry {
    struct slice reason, time, queue; /* NUL-terminated */
    struct slice raw;                 /* the message as it was, any bytes */
};

/* Everything lives in the arena. 0; -ENOMEM; -EINVAL no such entry, with the defect in e; STORED_E_VERSION. */
int dead_entry_parse(struct arena *a, struct slice text, struct dead_entry *ret_d,
                     struct err *e) WARN_UNUSED;

int dead_entry_write(struct buf *dst, struct slice queue, struct slice raw,
                     const char *reason) WARN_UNUSED;

/* A value in `unacked` or celeryc:running:<id> that celeryc wrote: the raw message, and what stands behind it, which begins
 * with ", \"\", " and holds the queue's name. 0, -EINVAL. */
int stored_split(struct slice value, struct slice *ret_raw, struct slice *ret_tail) WARN_UNUSED;

/* <prefix>celeryc:deaths:<id>, where a message's deaths are counted. */
#define STORED_ID_BYTES 1024 /* of an id that count */
void stored_deaths_key(struct buf *dst, const char *prefix, struct slice id);

/* Delayed messages by due time. 1 celeryc:delayed, 2 how many to skip, 3 how many at most, 4 budget of bytes. Returns for
 * each: name, due time (ms), list or "" (of another version), raw. */
extern const struct redis_script stored_delayed_page;
/* The same of certain names: 1 celeryc:delayed, then names; only those that are there. */
extern const struct redis_script stored_delayed_find;
/* Gives delayed messages back to the ends of their lists. 1 celeryc:delayed, 2 how many at most, 3 budget of bytes, then
 * names; none: the earliest. Returns how many. */
extern const struct redis_script stored_delayed_flush;

/* kombu's sweep of `unacked`: what is overdue, and its way back (scripts.c says what they take). */
extern const struct redis_script stored_sweep, stored_sweep_move;
