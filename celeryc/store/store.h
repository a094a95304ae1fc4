/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* Object store: file:///dir and s3://bucket/prefix, blocking calls, safe to use from several threads with one store
 * each. Objects are whole; there is no listing (the manifest lists what there is). */

#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"

/* Positive codes that callers handle. */
#define STORE_E_NOT_FOUND 1
#define STORE_E_TRANSIENT 2 /* retries and deadline are used up; trying later may help */
#define STORE_E_DENIED    3 /* credentials or rights */

struct store;

/* url: file:///abs/dir or s3://bucket[/prefix]. S3 settings come from the environment as the AWS tools name them:
 * AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_REGION / AWS_DEFAULT_REGION (us-east-1), AWS_ACCESS_KEY_ID,
 * AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_CA_BUNDLE; SCATTER_S3_ADDRESSING=path|virtual|auto (auto: path style
 * when an endpoint is given). 0; -EINVAL with the fix named; -ENOMEM. */
int store_open(const char *url, struct store **ret_s, struct err *e) WARN_UNUSED;
struct store *store_close(struct store *s);
DEFINE_CLEANUP(struct store, store_close)

/* The three below return 0; STORE_E_*; -EINVAL (an unsafe name, a bucket that is not there, a wrong region), -E2BIG, -EIO
 * and other -Exxx; e holds one line that names the fix. name: components of printable bytes, none of them "." or "..".
 *
 * name is relative to the url ("plan/batch-000001.ndjson.zst"). Retries with backoff and jitter inside deadline_ms
 * (0: 60,000): 5xx, 429, SlowDown, resets, timeouts. */
int store_get(struct store *s, const char *name, int64_t deadline_ms, struct buf *dst,
              struct err *e) WARN_UNUSED;
/* Atomic: a reader sees all or nothing (file://: temporary file, fsync, rename). Folders of the name are made, the root
 * of a file:// store too (one level). content_type may be NULL. */
int store_put(struct store *s, const char *name, struct slice bytes, const char *content_type,
              int64_t deadline_ms, struct err *e) WARN_UNUSED;
/* 0 also when there is no such object. */
int store_delete(struct store *s, const char *name, int64_t deadline_ms, struct err *e) WARN_UNUSED;

const char *store_url(const struct store *s);
/* "<url>/<name>", freed by the caller. */
char *store_object_url(const struct store *s, const char *name);
/* Splits an object URL into a store URL (its directory) and a name, both freed by the caller. */
int store_split(const char *object_url, char **ret_store_url, char **ret_name,
                struct err *e) WARN_UNUSED;
