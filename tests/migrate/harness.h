/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Runs deliveries of a migration task in this process, against a real database and real batch files. */

#include "celeryc/batch/batch.h"
#include "celeryc/migrate/registry.h"
#include "celeryc/task/run.h"
#include "fixture.h"

#define LEASE_MS 2000

struct sent {
    char *queue, *raw;
};

struct harness {
    struct fixture db;
    char dir[64]; /* batch files */
    struct task_registry *registry;
    char database[300]; /* "default=URL" */
    const char *databases[2];
    struct sent sent[64];
    size_t n_sent;
    size_t n_advanced; /* how often a run told that it had come further */
    _Atomic uint32_t stop;
};

void harness_open(struct harness *h, enum fixture_kind kind);
void harness_close(struct harness *h);

/* Table parcel with n rows, id 1..n, phone "0162 000 0001" .. (every one to be changed), in batches of size records,
 * planned as plan "p" for migration `name`, files written. */
void harness_plan(struct harness *h, const char *name, int64_t n, int64_t size,
                  const char *on_batch, const char *on_finish, const char *retry_on);

struct delivery {
    enum outcome_kind kind;
    bool requeue;
    double countdown;
    char *record, *repr; /* text; freed by delivery_deinit */
};

void delivery_deinit(struct delivery *d);
DEFINE_CLEANUP_VALUE(struct delivery, delivery_deinit)
/* Runs the message of a batch once. */
struct delivery deliver(struct harness *h, const char *name, int64_t batch, bool redelivered);
/* The same with keyword arguments of the test's own. */
struct delivery deliver_kwargs(struct harness *h, const char *name, const char *kwargs,
                               bool redelivered);
/* Does the record's text hold this? */
void check_holds(const struct delivery *d, const char *text);

#define BOTH_WORKERS(name)                      \
    static void body_##name(struct harness *h); \
    Test(postgresql, name)                      \
    {                                           \
        static struct harness h;                \
        harness_open(&h, FIXTURE_POSTGRESQL);   \
        body_##name(&h);                        \
        harness_close(&h);                      \
    }                                           \
    Test(sqlite, name)                          \
    {                                           \
        static struct harness h;                \
        harness_open(&h, FIXTURE_SQLITE);       \
        body_##name(&h);                        \
        harness_close(&h);                      \
    }                                           \
    static void body_##name(struct harness *h)
