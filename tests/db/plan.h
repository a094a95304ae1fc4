/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* A small plan over the table parcel for the tests of claims and chunks. */

#include "fixture.h"

#define LEASE_MS 60000

extern const struct db_target parcel_target;

/* Table parcel with ids 1..n and phone "old<id>"; a plan "p" of n_batches batches of `count` records each. */
void make_parcels(struct fixture *f, int64_t n);
void make_plan(struct fixture *f, int64_t n_batches, int64_t count);
/* Claims batch of plan "p"; takeover as for a message that came again. */
struct db_claim claim(struct db *db, int64_t batch, bool takeover);
int64_t claim_token(struct db *db, int64_t batch); /* must be ours */

/* Changes phone old<id> to new<id> for the records [from, to) of a batch whose first id is first + 1. */
int change(struct db *db, int64_t batch, int64_t token, int64_t first, int64_t from, int64_t to,
           struct db_chunk_result *ret_r, struct err *e);
/* The same with a lease of the test's own. */
int change_leased(struct db *db, int64_t batch, int64_t token, int64_t first, int64_t from,
                  int64_t to, int64_t lease_ms, struct db_chunk_result *ret_r, struct err *e);
