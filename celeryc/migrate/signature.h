/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What a callback of a plan is: the name of a task, or any signature as Celery writes it. */

#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"

/* Is it a signature (JSON), and no name? */
static inline bool callback_is_signature(const char *text)
{
    return text[strspn(text, " \t\r\n")] == '{';
}

/* The signature with our keyword arguments merged into the task, or tasks, that it begins with: the first of a chain, the
 * members of a group, the header of a chord; over what they have of the same name. An immutable one gets none, as in
 * Celery. 0; -EINVAL with a text; -ENOMEM. */
int callback_merge(struct slice signature, struct slice kwargs, struct buf *dst,
                   struct err *e) WARN_UNUSED;
