/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The heartbeat of a batch beside a call that takes long: a record's function, something outside, a slow statement.
 *
 * A thread looks now and then whether the lease is about to end without a chunk, renews it under its token, and hears
 * what is to be obeyed meanwhile. Every function but beat_new takes NULL for "there is none". */

#include "celeryc/migrate/runtime.h"

struct beat;

/* Of a batch that was claimed. Without memory or threads there is none, and the batch is worked on all the same. */
struct beat *beat_new(struct job *j);
/* Ends the thread and its connection; says in the task's log what has gone wrong. */
struct beat *beat_free(struct beat *b);

/* A chunk, or a wait between two, has just renewed the lease and brought orders: what was heard before is old. */
void beat_renewed(struct beat *b);
/* What was heard since, once. false: nothing new. */
bool beat_heard(struct beat *b, struct db_orders *ret_o);
/* The batch is another worker's. */
bool beat_lost(struct beat *b);
/* Why a function that takes long should come to an end; NULL: it need not. */
const char *beat_stop_wanted(struct beat *b);

/* A .row function runs inside of the chunk's transaction. While it runs no statement, its connection is lent, so that the
 * server sees that this worker lives, and does not cut it off as one that was frozen. */
void beat_lend(struct beat *b, struct db *db);
void beat_take_back(struct beat *b);
