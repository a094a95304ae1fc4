/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* scatter-plan redrive --outcome failed. */

#include "planner/plan.h"

/* A plan of what the failed batches of another one have left behind their checkpoints. */
int redrive_failed(const struct args *a, struct progress *p, struct result *ret_r,
                   struct err *e) WARN_UNUSED;
