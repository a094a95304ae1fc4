/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What the files of the sample share: one run of questions. */

#include "celeryc/base/arena.h"
#include "k8s/scaler/load.h"

#define SAMPLE_EXCHANGES 64 /* whose bindings are looked up */
#define SAMPLE_BYTES     (8u << 20)

struct sampler {
    struct redis_sync *redis;
    const struct load_keys *k;
    const struct load_lists *lists;
    struct load *l;
    struct arena *arena;    /* of one record */
    struct arena *bindings; /* of the run */
    struct slice exchanges[SAMPLE_EXCHANGES];
    struct redis_reply *members[SAMPLE_EXCHANGES];
    size_t n_exchanges;
    int64_t due_us; /* now and the lead */
};

/* Words up to NULL. An error reply is an error. */
int sample_ask(struct sampler *s, const struct redis_reply **ret_reply, struct err *e, ...)
    __attribute__((sentinel, warn_unused_result));
int sample_ask_count(struct sampler *s, const char *command, const char *key, int64_t *ret_n,
                     struct err *e) WARN_UNUSED;
int sample_strange(const char *what, struct err *e); /* -EPROTO */
char *sample_key(const struct sampler *s, const char *name,
                 const char *rest); /* freed by the caller */

/* Counted among the records that were seen; what was not seen is taken to be like them. */
struct tally {
    int64_t seen, due, later;
    size_t bytes;
};

static inline bool tally_is_enough(const struct sampler *s, const struct tally *t)
{
    return t->seen >= s->k->scan_limit || t->bytes >= SAMPLE_BYTES;
}

static inline int64_t tally_of_all(int64_t part, const struct tally *t, int64_t all)
{
    return t->seen && all > t->seen ? (int64_t)((double)part * (double)all / (double)t->seen + 0.5)
                                    : part;
}

static inline void tally_count(struct tally *t, enum load_due due)
{
    t->due += due == LOAD_DUE;
    t->later += due == LOAD_LATER;
}

/* Every value of a hash of records, until it is enough. */
int sample_scan_hash(struct sampler *s, const char *key, struct tally *t,
                     struct err *e) WARN_UNUSED;
int sample_unacked(struct sampler *s, struct err *e) WARN_UNUSED;
/* Delayed messages, and what dead celeryc workers hold. */
int sample_celeryc(struct sampler *s, struct err *e) WARN_UNUSED;
