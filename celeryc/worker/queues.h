/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Queues as Redis lists: the key of a queue and priority under the settings, and emptying them. */

#include "celeryc/base/buf.h"
#include "celeryc/redis/endpoint.h"
#include "celeryc/worker/settings.h"

/* Appends the key of the list that holds messages of this priority (0..9, clamped). */
void queues_key(struct buf *dst, const struct settings *s, const char *queue, int priority);

/* Empties all priority lists of each queue, as Celery's purge; claimed messages stay. 0 with the number of messages
 * removed; -Exxx with a text. */
int queues_purge(const struct redis_endpoint *ep, const struct settings *s,
                 const struct strv *queues, uint64_t *ret_n, struct err *e) WARN_UNUSED;
