/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The rules of a target and the numbers of a sample as they stand in files. */

#include "k8s/scaler/decide.h"
#include "k8s/scaler/fields.h"

extern const struct field rule_fields[];   /* of struct decide_rules */
extern const struct field sample_fields[]; /* of struct decide_sample */

/* One rule by name: {"max": 20} in a file is --set max=20. 0, -EINVAL. */
int rules_set(struct decide_rules *r, struct slice name, struct slice text,
              struct err *e) WARN_UNUSED;

/* What no single rule can tell: that they fit together. 0, -EINVAL. */
int rules_check(const struct decide_rules *r, struct err *e) WARN_UNUSED;

/* Nothing is wrong, nothing is there; plans are not known. */
void sample_default(struct decide_sample *m);
