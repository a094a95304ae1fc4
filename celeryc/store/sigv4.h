/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* AWS Signature Version 4 of one request without a query. */

#include "celeryc/base/buf.h"

#include <time.h>

#define SIGV4_HEADERS_MAX 12
#define SIGV4_DATE_SIZE   17 /* "20261128T235959Z" */

struct sigv4_header {
    const char *name; /* lower case */
    const char *value;
};

struct sigv4 {
    const char *method, *path; /* path: escaped, as it is sent */
    const char *region, *service, *key_id, *secret;
    const char *date;         /* sigv4_date(); also the header x-amz-date */
    const char *payload_hash; /* SHA-256 in hex */
    const struct sigv4_header
        *headers;     /* what is signed, in any order: host, x-amz-* and what else is given */
    size_t n_headers; /* at most SIGV4_HEADERS_MAX */
};

void sigv4_date(time_t at, char dst[SIGV4_DATE_SIZE]);
/* SHA-256 in hex, appended. 0, -ENOMEM. */
int sigv4_hash(struct slice bytes, struct buf *dst) WARN_UNUSED;
/* The value of the header Authorization, appended. 0, -ENOMEM. */
int sigv4_authorization(const struct sigv4 *r, struct buf *dst) WARN_UNUSED;
