/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* AWS credentials: found as the AWS tools find them, kept, and renewed before they expire.
 *
 * The order: environment, web identity (IRSA), profile, container (EKS pod identity, ECS), instance metadata. What is
 * set but does not work ends the search with its error: going on would find another's rights. */

#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"

#define CREDS_E_ABSENT 10 /* a source that is not set up here; e says what was looked for */

struct creds {
    char *key_id, *secret;
    char *token;         /* of a session; NULL none */
    int64_t expires_us;  /* wall clock; 0 never */
    const char *source;  /* the name of where they came from, for people */
    uint64_t generation; /* changes with every renewal */
};

void creds_deinit(struct creds *c); /* clears the secrets */
DEFINE_CLEANUP_VALUE(struct creds, creds_deinit)

/* Gives them away: c is empty afterwards. */
static inline struct creds creds_take(struct creds *c)
{
    struct creds taken = *c;

    *c = (struct creds){0};
    return taken;
}

/* Keeps the credentials of a process; threads share it. */
struct creds_keeper;

/* How a keeper gets new ones and what time it is; other than the default in tests. source: the one that gave the last
 * ones, NULL for any. load: 0, STORE_E_TRANSIENT, STORE_E_DENIED, CREDS_E_ABSENT, -Exxx. */
struct creds_ways {
    int (*load)(const char *source, int64_t left_ms, struct creds *ret_c, struct err *e);
    int64_t (*now_us)(void);
};

struct creds_keeper *creds_keeper_new(const struct creds_ways *w); /* NULL: out of memory */
struct creds_keeper *creds_keeper_free(struct creds_keeper *k);
DEFINE_CLEANUP(struct creds_keeper, creds_keeper_free)
/* The one of this process, never freed. */
struct creds_keeper *creds_keeper_shared(void);

/* A copy of credentials that are good now. The first caller after their time renews them while others go on with the
 * old ones; when that fails, so does everybody for a while, as long as they are good. 0; STORE_E_TRANSIENT trying later
 * may help; STORE_E_DENIED refused; -EINVAL none found, or wrong settings; -Exxx. */
int creds_get(struct creds_keeper *k, int64_t left_ms, struct creds *ret_c,
              struct err *e) WARN_UNUSED;
/* S3 has refused these: they are not given again. False when asking again would only give the same. */
bool creds_reject(struct creds_keeper *k, const struct creds *c);

/* The chain. left_ms bounds all of its requests together, roughly. */
int creds_chain(const char *source, int64_t left_ms, struct creds *ret_c,
                struct err *e) WARN_UNUSED;
/* 0, CREDS_E_ABSENT, -EINVAL: one of the pair is missing or holds what no key has. */
int creds_environment(struct creds *ret_c, struct err *e) WARN_UNUSED;
