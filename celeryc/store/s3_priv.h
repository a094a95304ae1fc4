/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The S3 client's own parts: settings, one attempt, and what an answer means. */

#include "celeryc/store/aws_settings.h"
#include "celeryc/store/creds.h"
#include "celeryc/store/store_priv.h"

#include <curl/curl.h>

struct s3 {
    CURL *curl; /* one handle, so that the connection is kept alive */
    char *bucket;
    char *prefix; /* without slashes at its ends, "" when absent */
    char *region;
    struct aws_settings aws;
    struct creds_keeper *keeper; /* borrowed */
    struct creds creds;          /* of the last attempt */
    const char *ca_bundle;       /* NULL: the system's */
    char *endpoint;              /* scheme://host[:port][/path], for people */
    char *base; /* what an object's path is appended to, without a trailing slash */
    const char *sse, *sse_key, *storage_class; /* for what is written; NULL: the bucket's default */
    char curl_error[CURL_ERROR_SIZE];
};

struct s3_request {
    const char *method; /* GET, PUT, DELETE */
    const char *name;
    struct slice body;
    const char *content_type; /* NULL none */
    struct buf *dst; /* GET: where a successful answer goes; cut back before each attempt */
    size_t dst_start;
};

/* What one attempt came to. */
struct s3_answer {
    CURLcode curl;
    long os_errno;
    long status; /* HTTP, 0: none came */
    int64_t retry_after_ms;
    bool too_big; /* the object is over LIMIT_OBJECT_BYTES */
    bool no_memory;
    bool expired;          /* the credentials are no longer good */
    char region[64];       /* where the bucket is, when the server says so; else "" */
    struct buf error_body; /* of an answer that is no success, cut */
};

#define S3_ERROR_BODY 16384

/* Copies the settings from the environment and builds base. 0; -EINVAL with the fix named; -ENOMEM. */
int s3_configure(struct s3 *s, const char *rest, struct err *e) WARN_UNUSED;
/* Turns to the bucket's own region. */
int s3_move(struct s3 *s, const char *region, struct err *e) WARN_UNUSED;
void s3_escape_path(struct buf *dst, const char *path);

/* Runs one attempt of at most left_ms. Only -ENOMEM fails; the rest is in the answer. */
int s3_attempt(struct s3 *s, const struct s3_request *q, int64_t left_ms, int64_t stall_s,
               struct s3_answer *ret_a) WARN_UNUSED;

/* Fills in a's expired and region. 0 for success, STORE_E_TRANSIENT when another attempt may help, else the final code. Sets the text. */
int s3_judge(const struct s3 *s, const struct s3_request *q, struct s3_answer *a,
             struct err *e) WARN_UNUSED;
