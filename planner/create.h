/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Inside of create*.c: a plan in the making. */

#include "celeryc/base/buf.h"
#include "planner/child.h"
#include "planner/plan.h"
#include "planner/preflight.h"
#include "planner/source.h"
#include "planner/upload.h"

#include <errno.h>

struct creation {
    const struct args *args;
    struct plan_child *child; /* NULL: a plan of its own */
    struct progress *progress;
    struct result *result;
    struct servers servers;
    struct request request;
    struct builder *builder;
    struct query_source query;
    struct stdin_source input;
    struct upload *upload;
    struct preflight *preflight; /* of a dry run */
    struct buf settings;         /* as the manifest keeps them */
    bool leftovers;              /* of a killed planner, under this id */
    bool marked;                 /* our marker stands */
    bool committing;             /* the manifest may be there */
    char nonce[33];
};

/* Positive codes mean something only to who may go on after them; nobody here can. */
static inline int final(int code)
{
    return code > 0 ? -EIO : code;
}

/* ---- create_objects.c ---- */

/* Deletes a killed planner's batches above ours, as far as they can be found without a listing; from the last one down,
 * so that a kill in between leaves none behind a gap. */
int creation_delete_leftovers(struct creation *c, int64_t above, struct err *e) WARN_UNUSED;
int creation_delete_manifest(struct creation *c) WARN_UNUSED;
/* After a failure before the commit point: what was written goes away, as far as the store still answers. */
void creation_take_back(struct creation *c);
int creation_put_manifest(struct creation *c, const struct manifest *m, struct err *e) WARN_UNUSED;

/* ---- create_rows.c ---- */

int creation_fill_result(struct creation *c, const char *first_key,
                         const char *last_key) WARN_UNUSED;
/* From the manifest on: also where a run that was killed is taken up again. */
int creation_commit_rows(struct creation *c, const struct manifest *m, struct err *e) WARN_UNUSED;
int creation_send_messages(struct creation *c, struct err *e) WARN_UNUSED;
/* The same for a plan whose rows are there. */
int creation_finish_known(struct creation *c, struct err *e) WARN_UNUSED;
