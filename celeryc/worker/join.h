/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The results of a chord's header, put together: from the counted parts, and for a header with groups in it in the
 * shape of the saved group result. No I/O. */

#include "celeryc/base/arena.h"
#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"

#define JOIN_E_FAILED  1 /* a member failed or was revoked */
#define JOIN_E_MISSING 2 /* results of the tree are not there yet: see join_missing */

struct join;

struct join *join_new(void); /* NULL: out of memory */
struct join *join_free(struct join *j);
DEFINE_CLEANUP(struct join, join_free)

/* Both take the stored bytes, compressed or not. 0, -ENOMEM, -EINVAL or -E2BIG with a text. */
int join_saved(struct join *j, struct slice stored, struct err *e) WARN_UNUSED; /* empty: none */
int join_part(struct join *j, struct slice stored, struct err *e) WARN_UNUSED;

/* Why a chord fails. Without a tree: the text of the failed part, for canvas_chord_error. With one: the repr of the
 * exception, as Celery tells it. */
struct join_failure {
    struct slice member, text;
};

/* The results in order, JSON texts, which live as long as j. 0, -ENOMEM, JOIN_E_FAILED, JOIN_E_MISSING. */
int join_results(struct join *j, size_t *ret_n, const struct slice **ret_results,
                 struct join_failure *ret_failure) WARN_UNUSED;

/* What the failed parts say of errbacks that were called, as canvas_fail_body takes it, in the arena. 0, -ENOMEM. */
int join_called(struct join *j, struct arena *a, struct slice *ret) WARN_UNUSED;

/* After JOIN_E_MISSING: the ids of at most `most` tasks whose result is missing. Valid until the next call. */
void join_missing(struct join *j, size_t most, size_t *ret_n, const struct slice **ret_ids);
/* The stored record of the index-th of these ids. One that is not ready or cannot be read is as if it were not there.
 * 0, -ENOMEM. */
int join_found(struct join *j, size_t index, struct slice stored) WARN_UNUSED;
/* For texts of one round of looking; emptied by join_missing. */
struct arena *join_scratch(struct join *j);
