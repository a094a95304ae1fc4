/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* One small HTTP exchange with a service that gives credentials. */

#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"

#define AWS_HTTP_HEADERS 4

struct aws_http {
    const char *method; /* GET, PUT, POST */
    const char *url;
    const char *headers[AWS_HTTP_HEADERS]; /* "Name: value", up to the first NULL */
    struct slice body;
    bool direct; /* never through a proxy: the address means this machine or its host */
    const char *ca_bundle;
    int64_t connect_ms, total_ms;
};

struct aws_reply {
    long status;
    struct buf body; /* cleared and freed by aws_reply_deinit */
};

/* libcurl's own start, once in a process. */
void aws_http_init(void);

/* 0: there is an answer, whatever its status. STORE_E_TRANSIENT: there is none, and e says why (never with a header or
 * a body). -EINVAL: the URL or AWS_CA_BUNDLE is wrong. -E2BIG, -ENOMEM. */
int aws_http(const struct aws_http *q, struct aws_reply *ret_r, struct err *e) WARN_UNUSED;
void aws_reply_deinit(struct aws_reply *r);
DEFINE_CLEANUP_VALUE(struct aws_reply, aws_reply_deinit)

/* Length of the URL's scheme, host and port. */
int aws_origin_len(const char *url);
/* A status that another try may change. */
bool aws_status_is_transient(long status);
/* The text between <tag> and </tag>, cut at size and cleaned of control bytes; "" when there is none. */
void aws_element(struct slice xml, const char *tag, char *dst, size_t size);
