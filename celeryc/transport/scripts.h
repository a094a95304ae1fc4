/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The Lua scripts of the transport. Private to the folder.
 *
 * Arguments 1-9 are the same for all (see SCRIPT_HEAD in scripts.c): workers, worker hash, me, epoch, unacked, index,
 * claims, running, delayed. What follows stands above each script. "gone" as a status reply means that this worker is
 * not registered (or the call comes from an older connection): nothing was done. */

#include "celeryc/redis/conn.h"

/* What one call gives back of the delayed messages. */
#define GIVE_BACK_MAX   "2000"
#define GIVE_BACK_BYTES "4194304"

#define DEATHS_KEPT_S \
    "604800" /* a message's deaths are remembered for so long after the last one */

extern const struct redis_script script_enter, script_beat, script_waiters, script_claim,
    script_ops, script_renew, script_leave, script_promote, script_claim_delayed, script_mourn,
    script_collect, script_fetch, script_requeue, script_adopt, script_bury;

extern const struct redis_script *const transport_scripts[]; /* NULL-terminated */
