/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Putting options together. Private to the folder. */

#include "celeryc/redis/endpoint.h"

/* What `to` does not say is taken from `from`. 0, -ENOMEM. */
int redis_tls_merge(struct redis_tls *to, const struct redis_tls *from) WARN_UNUSED;
int redis_options_merge(struct redis_options *to, const struct redis_options *from) WARN_UNUSED;
