/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* A bounded set of names in the order they were added (celery/utils/collections.py LimitedSet): the oldest leaves first. */

#include "celeryc/base/buf.h"

struct revoked;

/* max: how many are kept. expires_ns: after so long an entry is forgotten, 0: never. NULL: out of memory. */
struct revoked *revoked_new(size_t max, int64_t expires_ns);
struct revoked *revoked_free(struct revoked *r);
DEFINE_CLEANUP(struct revoked, revoked_free)

/* Adds or renews; now_ns is monotonic. 0 or -ENOMEM (then the set is as before). */
int revoked_add(struct revoked *r, struct slice name, int64_t now_ns) WARN_UNUSED;
bool revoked_has(const struct revoked *r, struct slice name);
void revoked_purge(struct revoked *r, int64_t now_ns); /* forgets what has expired */
size_t revoked_len(const struct revoked *r);

/* Oldest first. fn must not change the set. */
void revoked_each(const struct revoked *r, void (*fn)(struct slice name, void *arg), void *arg);
