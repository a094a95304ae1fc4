/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Reads what settings say about reaching Redis. Each: 0; -EINVAL with the setting's name and the fix; -ENOMEM. */

#include "celeryc/base/arena.h"
#include "celeryc/base/err.h"
#include "celeryc/message/json.h"
#include "celeryc/redis/endpoint.h"

struct settings_place {
    struct arena *arena;
    const char *name; /* of the setting, with its group */
    struct err *e;
};

/* One of redis-py's options (redis_options_set); null is not said. */
int settings_take_option(const struct settings_place *at, struct redis_options *o,
                         const char *option, struct json_val v) WARN_UNUSED;
/* broker_use_ssl, redis_backend_use_ssl: true, false, or an object of ssl_ options */
int settings_take_tls(const struct settings_place *at, struct redis_options *o,
                      struct json_val v) WARN_UNUSED;
/* sentinel_kwargs */
int settings_take_sentinel(const struct settings_place *at, struct redis_options *o,
                           struct json_val v) WARN_UNUSED;
/* broker_failover_strategy */
int settings_take_strategy(const struct settings_place *at, struct redis_options *o,
                           struct json_val v) WARN_UNUSED;
/* A list of URLs, joined by ';' into *dst, whose text it replaces. */
int settings_take_urls(const struct settings_place *at, struct json_val v, char **dst) WARN_UNUSED;
