/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Numbers from text: the whole slice must be the number, no white space, no sign unless said. */

#include "celeryc/base/buf.h"

int num_parse_i64(struct slice s, int64_t *ret_v) WARN_UNUSED;  /* a leading '-' is allowed */
int num_parse_u64(struct slice s, uint64_t *ret_v) WARN_UNUSED; /* 0, -EINVAL, -ERANGE */
int num_parse_u32(struct slice s, uint32_t *ret_v) WARN_UNUSED;
int num_parse_f64(struct slice s, double *ret_v)
    WARN_UNUSED; /* C locale, '-' allowed; no inf, no nan: -EINVAL; -ERANGE too big */

/* Seconds from "30", "1.5", "250ms", "2m", "1h": -> ns. 0, -EINVAL, -ERANGE. */
int num_parse_duration_ns(struct slice s, int64_t *ret_ns) WARN_UNUSED;
