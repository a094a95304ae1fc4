/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Chords whose last part was counted here, or whose claimer died: read, joined, fired. */

#include "celeryc/worker/effects.h"

struct worker;

int chord_setup(struct worker *w) WARN_UNUSED;
void chord_teardown(struct worker *w);

/* The store is reachable: looks for chords that nobody fires, now and every few seconds. */
void chord_watch(struct worker *w);

/* A call with these effects was answered CLAIMED: those of its parts that completed their chord are fired. Copies what
 * it needs. */
void chord_claimed(struct worker *w, const struct effects *e);

/* Shutdown: chords that wait for results of others are left to the next worker, the rest is finished. */
void chord_drain(struct worker *w);
