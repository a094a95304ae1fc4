/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The Kubernetes API as the scaler needs it: a Deployment's scale, its pods, one Lease. Blocking calls over libcurl.
 *
 * Every call ends within the deadline (kube_set_deadline), retries included: reads are tried again after a lost
 * connection, 429 and 5xx (Retry-After is honoured); a write whose answer was lost is never repeated blindly, the object
 * is read and compared. TLS is always verified. The token file is read at each call, so that a renewed one is used;
 * neither it nor any other secret stands in an error text. Strings that come back are owned by the struct they stand in.
 *
 * Every fallible call gives 0, -ENOMEM or one of enum kube_error with a text: "GET deployments/worker: 403: what the
 * server said; the fix", so that one line says where, what and what to do. */

#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"

#include <stdint.h>

enum kube_error {
    KUBE_E_UNREACHABLE =
        1, /* no connection, time-out, 429 or 5xx to the end, an answer that is no API object */
    KUBE_E_AUTH, /* 401, 403, a token that cannot be read: a right or a credential is missing */
    KUBE_E_CONFIG, /* kubeconfig, CA, certificate, URL; 400, 404 of a kind, 415, 422: nothing that time heals */
    KUBE_E_CONFLICT,  /* 409: somebody changed the object; of a Lease: another one holds it */
    KUBE_E_NOT_FOUND, /* 404: the named object is not there */
    KUBE_E_DENIED,    /* an admission webhook or a quota refused */
};

struct kube;

/* What is NULL is found: kubeconfig by KUBECONFIG, else the service account of the pod, else ~/.kube/config; namespace
 * by POD_NAMESPACE, the service account, the context. Borrowed for the call. */
struct kube_options {
    const char *kubeconfig, *context, *namespace;
    const char *service_account; /* the folder of the pod's token and CA */
    bool use_proxy;              /* inside a cluster the proxy variables are ignored unless asked */
};

int kube_open(const struct kube_options *o, struct kube **ret_k, struct err *e) WARN_UNUSED;
struct kube *kube_close(struct kube *k);
DEFINE_CLEANUP(struct kube, kube_close)

const char *kube_server(const struct kube *k); /* https://host:port, for people */
const char *kube_namespace(const struct kube *k);

/* Until when (clock_mono_ns) what is called from now on may take. */
void kube_set_deadline(struct kube *k, int64_t until_ns);

/* The API server's wall clock in microseconds: its last Date header, carried on by the monotonic clock. 0: it has not
 * answered yet. */
int64_t kube_now_us(const struct kube *k);

/* ---- the Deployment ---- */

/* Annotations by which people hold the scaler, absent: NULL. */
#define KUBE_ANNOTATION        "scatter-scale/"
#define KUBE_PAUSED            KUBE_ANNOTATION "paused"
#define KUBE_PAUSED_REPLICAS   KUBE_ANNOTATION "paused-replicas"
#define KUBE_PAUSED_SCALE_IN   KUBE_ANNOTATION "paused-scale-in"
#define KUBE_PAUSED_SCALE_OUT  KUBE_ANNOTATION "paused-scale-out"
#define KUBE_LEASE_STATE       KUBE_ANNOTATION "state"
#define KUBE_POD_DELETION_COST "controller.kubernetes.io/pod-deletion-cost"
#define KUBE_FIELD_MANAGER     "scatter-scale"

struct kube_target {
    int64_t replicas; /* asked for; a missing spec.replicas of a Deployment is 1 */
    int64_t generation, observed_generation;
    int64_t status_replicas, updated_replicas;
    char *resource_version;
    char *selector; /* as labelSelector wants it: "a=b,c in (d,e)" */
    char *paused, *paused_replicas, *paused_scale_in, *paused_scale_out;
};

void kube_target_deinit(struct kube_target *t);
DEFINE_CLEANUP_VALUE(struct kube_target, kube_target_deinit)

int kube_target_read(struct kube *k, const char *deployment, struct kube_target *ret_t,
                     struct err *e) WARN_UNUSED;

struct kube_pod {
    char *name;
    bool deleting;      /* deletionTimestamp */
    bool ended;         /* phase Succeeded or Failed: runs nothing */
    bool ready;         /* phase Running and condition Ready */
    int64_t started_us; /* status.startTime, else creationTimestamp; wall clock */
    bool has_cost;
    int32_t cost; /* KUBE_POD_DELETION_COST */
};

struct kube_pods {
    struct kube_pod *v;
    size_t n;
};

void kube_pods_deinit(struct kube_pods *p);
DEFINE_CLEANUP_VALUE(struct kube_pods, kube_pods_deinit)

/* Every page of them; a list that expired on the way (410) is begun again. */
int kube_pods_read(struct kube *k, const char *selector, struct kube_pods *ret_p,
                   struct err *e) WARN_UNUSED;

/* An HorizontalPodAutoscaler or a KEDA ScaledObject on the same Deployment: its "kind/name", NULL when there is none.
 * KUBE_E_AUTH: not allowed to look (the caller goes on). A cluster without the kind has none. */
int kube_rival_read(struct kube *k, const char *deployment, char **ret_rival,
                    struct err *e) WARN_UNUSED;

enum kube_write {
    KUBE_WRITE,
    KUBE_DRY_RUN, /* the server checks everything and stores nothing */
};

/* Merge patch on the scale subresource, only if the Deployment still asks for `from` replicas (t as it was read; a
 * resourceVersion that only the status has moved is read again, at most 3 times). The answer is checked: a 200 that did
 * not change the number is KUBE_E_CONFIG. KUBE_E_CONFLICT: somebody else has set another number. */
int kube_scale_set(struct kube *k, const char *deployment, const struct kube_target *t, int64_t to,
                   enum kube_write how, struct err *e) WARN_UNUSED;

/* Which pod a ReplicaSet removes first: the lowest cost. KUBE_E_NOT_FOUND: the pod is gone, which is fine. */
int kube_pod_cost_set(struct kube *k, const char *pod, int32_t cost, enum kube_write how,
                      struct err *e) WARN_UNUSED;

/* ---- the Lease: lock and memory ---- */

/* Takes it when it is free, ours or past its time by the server's clock; one PUT by resourceVersion. *ret_state: the
 * annotation KUBE_LEASE_STATE, NULL when there is none; freed by the caller. KUBE_E_CONFLICT: the text names the holder.
 * Again while held renews it (--loop). */
int kube_lease_take(struct kube *k, const char *lease, const char *holder, int64_t duration_s,
                    char **ret_state, struct err *e) WARN_UNUSED;

/* Writes the state (NULL: leaves it) and, unless keep, gives the Lease up; in the same PUT. KUBE_E_CONFLICT: it was lost
 * meanwhile. Only after kube_lease_take on the same k. */
int kube_lease_put(struct kube *k, const char *lease, const char *state, bool keep,
                   struct err *e) WARN_UNUSED;

/* Reads the state without taking anything, for dry runs and --explain. */
int kube_lease_peek(struct kube *k, const char *lease, char **ret_state, struct err *e) WARN_UNUSED;

/* ---- what else ---- */

struct kube_right {
    const char *group, *resource, *subresource, *name, *verb; /* "" or NULL where it has none */
};

/* May we? (SelfSubjectAccessReview) */
int kube_may(struct kube *k, const struct kube_right *r, bool *ret_allowed,
             struct err *e) WARN_UNUSED;

/* An Event on the Deployment: reason "ScaledUp", "ScaledDown", "Held". Failures do not matter much, KUBE_E_AUTH least. */
int kube_event(struct kube *k, const char *deployment, const char *reason, const char *text,
               struct err *e) WARN_UNUSED;
