/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* A transport on a loop of its own against a private server, with everything it tells recorded. */

#include "celeryc/transport/transport.h"
#include "tests/redis/redis_server.h"

#define RIG_MAX 2048

struct rig {
    const struct redis_server *server;
    const struct redis_endpoint *endpoint; /* the server's, unless a proxy stands before it */
    uv_loop_t loop;
    uv_timer_t deadline;
    bool late;
    struct transport *t;
    struct claim *claims[RIG_MAX]; /* in the order of arrival */
    size_t n_claims;
    struct claim *orphans[RIG_MAX];
    size_t n_orphans;
    char orphan_node[64];
    size_t n_up, n_down;
    char fatal[512];
    char down[512];
    size_t n_done, n_lost;
    bool stopped, left;
    bool start_at_once; /* answer of may_start */
    size_t want;        /* kept up to date as claims arrive when auto_want */
    bool auto_want;
    struct transport_options options;
};

/* queues NULL: celery. The options are those of quick tests; change r->options between rig_init and rig_start. */
void rig_init(struct rig *r, const struct redis_server *s, const char *const *queues);
void rig_start(struct rig *r); /* and waits until it is up */
void rig_open(struct rig *r);  /* does not wait */
void rig_free(struct rig *r);  /* as a crash would: nothing is given back */

/* Runs the loop until cond is true; fails the test when it takes longer than 10 s. */
void rig_until_(struct rig *r, bool (*cond)(struct rig *r, void *arg), void *arg, const char *what);
void rig_want(struct rig *r, size_t n);
void rig_claims(struct rig *r, size_t n); /* waits for n claims in all */
void rig_done(struct rig *r, size_t n);   /* waits for n answers in all */
/* Waits until the words' answer is `expect`. */
void rig_until_answer(struct rig *r, const char *expect, const char *a, const char *b,
                      const char *c);
void rig_on_done(enum transport_done done, void *arg); /* arg: the rig */

/* The whole of a message as kombu writes it, with id and priority in it; freed by the caller. */
char *rig_message(const char *id, int priority);
void rig_push(const struct redis_server *s, const char *queue, const char *id, int priority);
/* The id inside a raw message, in a static buffer. */
const char *rig_id(const char *raw);

/* expect is what redis_server_ask answers. */
#define expect_answer(server, expect, ...)                             \
    do {                                                               \
        char *answer_ = redis_server_ask((server), __VA_ARGS__, NULL); \
        cr_assert_str_eq(answer_, (expect));                           \
        free(answer_);                                                 \
    } while (0)
