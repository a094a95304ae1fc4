/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The worker's settings for people who ask. */

#include "celeryc/worker/config.h"

/* Appends the members of a JSON object, name to value, in the order of Celery's list; passwords masked. */
void conf_write(struct buf *dst, const struct worker_config *c, bool with_defaults);
