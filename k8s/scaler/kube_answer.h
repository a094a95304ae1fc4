/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What the API server's answers say. No I/O: any bytes may come, nothing is trusted, everything is limited. */

#include "celeryc/message/json.h"
#include "k8s/scaler/kube.h"

/* One JSON object of that kind (NULL: any that has a kind). 0, -EINVAL, -E2BIG. */
int answer_scan(struct slice body, const char *kind, struct json_val *ret_v,
                struct err *e) WARN_UNUSED;

/* Of a Status, or of any text that stands where one should: cut and without control bytes. */
struct answer_status {
    char message[400];
    char reason[64];
    char
        name[256]; /* details.name: the object that the answer is about, "" when it is about none */
};

void answer_status(struct slice body, struct answer_status *ret_s);

/* Each: 0, -EINVAL with the field that is wrong, -E2BIG, -ENOMEM. */
int answer_target(struct slice body, struct kube_target *ret_t, char **ret_uid,
                  struct err *e) WARN_UNUSED;

struct answer_scale {
    int64_t replicas; /* no spec.replicas is 0 */
    char *resource_version;
};

void answer_scale_deinit(struct answer_scale *s);
DEFINE_CLEANUP_VALUE(struct answer_scale, answer_scale_deinit)
int answer_scale(struct slice body, struct answer_scale *ret_s, struct err *e) WARN_UNUSED;

/* Appends a page; *ret_more is the token of the next one or NULL, freed by the caller. */
int answer_pods(struct slice body, struct kube_pods *pods, char **ret_more,
                struct err *e) WARN_UNUSED;

struct answer_lease {
    char *holder; /* NULL: free */
    char *resource_version;
    char *state;         /* the annotation KUBE_LEASE_STATE or NULL */
    char *acquired;      /* acquireTime as it stands there */
    int64_t renewed_us;  /* 0: never */
    int64_t duration_us; /* 0: not said */
    int64_t transitions;
};

void answer_lease_deinit(struct answer_lease *l);
DEFINE_CLEANUP_VALUE(struct answer_lease, answer_lease_deinit)
int answer_lease(struct slice body, struct answer_lease *ret_l, struct err *e) WARN_UNUSED;

/* The same Lease with other values, everything else as it was but managedFields. body has been read by answer_lease. */
struct lease_change {
    const char *holder; /* "" gives it up */
    const char *acquired, *renewed;
    int64_t duration_s, transitions;
    const char *state; /* NULL: as it is */
};

int lease_rewrite(struct slice body, const struct lease_change *c, struct buf *dst) WARN_UNUSED;

/* "kind/name" of the first element whose spec.scaleTargetRef is that Deployment; else NULL. */
int answer_rival(struct slice body, const char *kind, const char *deployment, char **ret_rival,
                 char **ret_more, struct err *e) WARN_UNUSED;

int answer_allowed(struct slice body, bool *ret_allowed, struct err *e) WARN_UNUSED;
