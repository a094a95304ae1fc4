/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Scripts that look at chords. The connection that holds the records must list them among its scripts. */

#include "celeryc/redis/conn.h"

/* What the worker reads at once at most; a chord with more fails with a clear text. */
#define CHORD_MAX_BYTES (256u << 20)

/* key, token, "1" when parts are a zset, limit of bytes.
 * Status "lost" (the claim is not this token's any more) or "large" (over the limit); else an array: the saved group
 * result or "", then the array of parts in order. */
extern const struct redis_script chord_read;

/* fire key, token, life of a claim (s), start of the notes that we may fire, how many at most.
 * Looks at some notes of celeryc:fire: what is done is removed, what nobody claims is claimed under the token. Returns
 * an array of chord keys and their notes. */
extern const struct redis_script chord_scan;

/* Keys of records. Returns the values, nil where there is none. */
extern const struct redis_script chord_leaves;

/* key, token, life (s). Celery's extend: 1 when the claim is ours for that long, else 0. */
extern const struct redis_script chord_extend;

/* key, token, "b" or "e", fire key. Cleans up after the chord when the claim is ours: 1, else 0. For a backend of its
 * own; where it is the broker's, cleaning and publishing are one step of the transport. */
extern const struct redis_script chord_settle;
