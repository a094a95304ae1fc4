/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The two kinds of store behind store.h. Names and URLs have been checked when they come here. */

#include "celeryc/store/store.h"

#define STORE_DEADLINE_MS 60000

struct s3;

/* ---- file:// ---- (root: absolute, no trailing slash) */
int file_get(const char *root, const char *name, struct buf *dst, struct err *e) WARN_UNUSED;
int file_put(const char *root, const char *name, struct slice bytes, struct err *e) WARN_UNUSED;
int file_delete(const char *root, const char *name, struct err *e) WARN_UNUSED;

/* ---- s3:// ---- (rest: what stands behind "s3://") */
int s3_open(const char *rest, struct s3 **ret_s3, struct err *e) WARN_UNUSED;
struct s3 *s3_close(struct s3 *s);
DEFINE_CLEANUP(struct s3, s3_close)
int s3_get(struct s3 *s, const char *name, int64_t deadline_ms, struct buf *dst,
           struct err *e) WARN_UNUSED;
int s3_put(struct s3 *s, const char *name, struct slice bytes, const char *content_type,
           int64_t deadline_ms, struct err *e) WARN_UNUSED;
int s3_delete(struct s3 *s, const char *name, int64_t deadline_ms, struct err *e) WARN_UNUSED;
