/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What chord.c (a chord that is read and joined) and chord_fire.c (its body, or its failure) share. */

#include "celeryc/base/list.h"
#include "celeryc/worker/chord.h"
#include "celeryc/worker/join.h"
#include "celeryc/worker/worker_priv.h"

#define CHORD_CLAIM_S 21 /* Celery's life of a claim while it publishes */

enum chord_state {
    CHORD_READING,
    CHORD_WAITING,
    CHORD_LOOKING,
    CHORD_PAUSED,
    CHORD_FIRING,
};

struct chord {
    struct list node;
    struct worker *w;
    struct arena *arena;
    enum chord_state state;
    struct slice key;
    char token[RESULT_TOKEN_SIZE];
    struct chord_note note;
    struct join *join;   /* parts, and what was found of missing results */
    struct slice called; /* by chords in the header, see canvas_fail_body; in the arena */
    struct effects fx;
    struct canvas_effects calls; /* errbacks to be called when it has been fired */
    bool failed;                 /* settle as an error */
    bool member_failed;          /* and because of a member */
    uint64_t fire_ms;            /* PAUSED: until then, time of the loop */
};

/* Out of the worker's list and gone. */
void chord_drop(struct chord *c);
void chord_drop_for_memory(struct chord *c);
void chord_tell_lost(const struct chord *c); /* a warning */

/* The ends: the body is sent with the results; or the chord has failed with x. settle_failed: as Celery after a failed
 * member, else after a body that cannot be sent. fail_with: ChordError("<what>: <text>"). */
void chord_send_body(struct chord *c, size_t n, const struct slice *results);
void chord_fail(struct chord *c, const struct canvas_exception *x,
                const struct canvas_exception *cause, bool settle_failed);
void chord_fail_with(struct chord *c, const char *what, struct slice text, bool settle_failed);
