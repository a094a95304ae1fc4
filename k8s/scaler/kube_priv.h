/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The client's own parts: one attempt, the calls made of attempts, and what an answer means. */

#include "k8s/scaler/kube.h"
#include "k8s/scaler/kube_access.h"
#include "k8s/scaler/kube_answer.h"

#include <curl/curl.h>
#include <stdbool.h>

#define KUBE_ATTEMPT_MS \
    INT64_C(10000) /* one attempt, so that a server that hangs leaves time for another */
#define KUBE_CONNECT_MS INT64_C(5000)
#define KUBE_ATTEMPTS   3
#define KUBE_US_PER_S   INT64_C(1000000)

#define KUBE_APPS "/apis/apps/v1"
#define KUBE_CORE "/api/v1"

struct kube {
    CURL *curl; /* one handle, so that the connection is kept alive */
    struct kube_access access;
    char *ns;
    bool use_proxy;
    int64_t until_ns;
    char *token; /* as it was sent last; "" none */
    /* The server's clock: what its Date said, and when that came. */
    int64_t date_us, date_at_ns;
    char *target_uid; /* of the Deployment read last, for Events */
    /* The Lease as it was written or read last, the holder that we are. */
    char *lease_text, *lease_holder;
    int64_t lease_duration_s;
    char curl_error[CURL_ERROR_SIZE];
};

struct kube_request {
    const char *method; /* GET, PATCH, PUT, POST */
    const char *path;   /* with its query, escaped */
    const char *what;   /* for people: "deployments/worker/scale" */
    struct slice body;
    const char *content_type; /* NULL: no body */
    bool repeatable;          /* may be sent again after an answer was lost */
};

/* What one attempt came to. */
struct kube_reply {
    CURLcode curl;
    long os_errno;
    long status; /* HTTP, 0: none came */
    bool too_big, no_memory;
    int64_t retry_after_ms; /* 0: not said */
    int64_t date_us;        /* 0: not said */
    struct buf body;
    bool unclear; /* a write may have been carried out though no answer says so */
};

void kube_reply_deinit(struct kube_reply *r);
DEFINE_CLEANUP_VALUE(struct kube_reply, kube_reply_deinit)

/* One attempt of at most left_ms. Only -ENOMEM fails; the rest is in the reply, which starts zeroed. */
int kube_attempt(struct kube *k, const struct kube_request *q, int64_t left_ms,
                 struct kube_reply *r) WARN_UNUSED;

/* What the reply means: 0 or the code of kube.h with its text. */
int kube_judge(const struct kube *k, const struct kube_request *q, const struct kube_reply *r,
               struct err *e) WARN_UNUSED;
/* May another attempt help? */
bool kube_is_transient(const struct kube *k, const struct kube_reply *r);

/* The request with its further attempts, inside the deadline. The reply is that of the last attempt, whatever the
 * code: r->status and r->unclear tell more. */
int kube_call(struct kube *k, const struct kube_request *q, struct kube_reply *r,
              struct err *e) WARN_UNUSED;

/* A reader of an answer said -EINVAL or -E2BIG: what stands there is no answer of an API server. */
int kube_bad_answer(const struct kube_request *q, int code, struct err *e) WARN_UNUSED;

/* Waits before the attempt after `attempt` (0 the first), or as long as the server said. 0; KUBE_E_UNREACHABLE: the
 * deadline comes first. */
int kube_pause(const struct kube *k, int attempt, int64_t retry_after_ms) WARN_UNUSED;

/* A DNS label or subdomain: what may stand in a path. 0 or KUBE_E_CONFIG. */
int kube_check_name(const char *kind, const char *name, struct err *e) WARN_UNUSED;
/* dst becomes "GROUP/namespaces/NS/"; the caller appends the rest and checks the buffer. */
void kube_path(const struct kube *k, const char *group, struct buf *dst);

/* Appends "&NAME=VALUE", escaped; nothing when value is NULL. */
void kube_path_parameter(const struct kube *k, struct buf *path, const char *name,
                         const char *value);

/* The token as it is now, in k->token. 0, KUBE_E_AUTH, -ENOMEM. */
int kube_read_token(struct kube *k, struct err *e) WARN_UNUSED;

#define KUBE_TIME_SIZE 32
void kube_time_text(int64_t us, char dst[KUBE_TIME_SIZE]); /* RFC 3339 with exactly 6 digits */
