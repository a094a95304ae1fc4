/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* /metrics and /livez of --loop. */

#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"

struct http;

/* address: "HOST:PORT", ":PORT", "[v6]:PORT". 0; -EINVAL, -EADDRINUSE, ... */
int http_start(const char *address, struct http **ret_h, struct err *e) WARN_UNUSED;
struct http *http_stop(struct http *h);
DEFINE_CLEANUP(struct http, http_stop)

/* What /metrics shows, and until when (clock_mono_ns) /livez is content: a loop that hangs does not renew it. */
void http_publish(struct http *h, struct slice metrics, int64_t alive_until_ns);
