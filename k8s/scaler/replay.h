/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* --replay: the decision alone, on cases from a file. */

#include "celeryc/base/err.h"

#include <stdio.h>

#define REPLAY_E_DIFFERS 1 /* at least one case did not come out as its "expect" says */

/* A case is {"name", "rules", "state", "sample", "expect": {"target", "reason", "state"}}, all optional; a file holds a
 * list of them or one on each line ("-": standard input, answered line by line). One JSON line for each on `out`:
 * name, target, reason, capped_by, state, and with "expect" whether it is as "expected".
 * 0; REPLAY_E_DIFFERS; -EINVAL no case, with its number; -EIO, -ENOENT the file; -ENOMEM. */
int replay(const char *path, FILE *out, struct err *e) WARN_UNUSED;
