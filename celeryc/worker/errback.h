/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Errbacks of the new style that the master has to have called. */

#include "celeryc/canvas/canvas.h"

#include <stdint.h>

struct worker;

/* Those that follow from a verdict. Copies what it needs. */
void errbacks_add(struct worker *w, const struct canvas_effects *fx);
/* Hands them to the pool, as far as it has room. */
void errbacks_pump(struct worker *w);
/* The worker leaves: what has not been called will not be. */
void errbacks_drop(struct worker *w);

/* What the pool reports about a job that is one. */
bool errback_is(uint64_t job);
void errback_done(struct worker *w, uint64_t job);
void errback_lost(struct worker *w, uint64_t job, const char *text);
void errback_recalled(struct worker *w, uint64_t job);
