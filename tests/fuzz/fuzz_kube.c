/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a kubeconfig and as each answer of an API server. What is read of a Lease can be written again. */

#include "fuzz.h"
#include "k8s/scaler/kube_access.h"
#include "k8s/scaler/kube_answer.h"

static void check_config(struct slice s)
{
    CLEANUP(kube_access_deinit) struct kube_access a = {0};
    CLEANUP(kube_files_deinit) struct kube_files f = {0};
    struct err e = ERR_INIT;

    if (kubeconfig_parse(s, NULL, &a, &f, &e))
        ASSERT(e.text[0] && !a.server);
    else
        ASSERT(a.server && a.server[strlen(a.server) - 1] != '/');
}

static void check_lease(struct slice s)
{
    CLEANUP(answer_lease_deinit) struct answer_lease l = {0}, again = {0};
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct lease_change c = {.holder = "me",
                             .renewed = "2026-01-02T03:04:05.000006Z",
                             .duration_s = 55,
                             .state = "{\"a\":1}"};

    if (answer_lease(s, &l, NULL))
        return;
    ASSERT(lease_rewrite(s, &c, &b) == 0);
    ASSERT(answer_lease(buf_slice(&b), &again, NULL) == 0);
    ASSERT(str_eq(again.holder, "me") && str_eq(again.state, c.state));
    ASSERT(str_eq(again.resource_version, l.resource_version));
}

static void check_lists(struct slice s)
{
    CLEANUP(kube_pods_deinit) struct kube_pods pods = {0};
    CLEANUP(mem_free) char *more = NULL, *more_rivals = NULL, *rival = NULL;

    (void)!answer_pods(s, &pods, &more, NULL);
    for (size_t i = 0; i < pods.n; i++)
        ASSERT(pods.v[i].name && *pods.v[i].name);
    (void)!answer_rival(s, "kind", "worker", &rival, &more_rivals, NULL);
}

static void check_objects(struct slice s)
{
    CLEANUP(kube_target_deinit) struct kube_target t = {0};
    CLEANUP(answer_scale_deinit) struct answer_scale scale = {0};
    CLEANUP(mem_free) char *uid = NULL;
    struct answer_status status;
    bool allowed;

    if (answer_target(s, &t, &uid, NULL) == 0)
        ASSERT(t.replicas >= 0 && t.selector && *t.selector && t.resource_version);
    if (answer_scale(s, &scale, NULL) == 0)
        ASSERT(scale.replicas >= 0 && scale.resource_version);
    (void)!answer_allowed(s, &allowed, NULL);
    answer_status(s, &status);
    for (const char *p = status.message; *p; p++)
        ASSERT((unsigned char)*p >= 0x20);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice s = {(const char *)data, size};

    check_config(s);
    check_lease(s);
    check_lists(s);
    check_objects(s);
    return 0;
}
