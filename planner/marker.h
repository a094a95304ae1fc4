/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* <plan>/planning.json: says that a planner is at work on a plan, or was when it died. */

#include "celeryc/store/store.h"

#define MARKER_NAME "planning.json"

/* Whether a marker is there. */
int marker_find(struct store *s, const char *plan, bool *ret_found, struct err *e) WARN_UNUSED;
/* Writes ours, which also proves that the store can be written; nonce gets what is ours in it. */
int marker_put(struct store *s, const char *plan, char nonce[33], struct err *e) WARN_UNUSED;
/* -EBUSY when somebody else's marker stands there now. */
int marker_check(struct store *s, const char *plan, const char *nonce, struct err *e) WARN_UNUSED;
int marker_delete(struct store *s, const char *plan, struct err *e) WARN_UNUSED;

/* "<plan>/<name>", freed by the caller; NULL without memory. */
char *plan_object(const char *plan, const char *name);
