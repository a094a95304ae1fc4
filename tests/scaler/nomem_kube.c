/* SPDX-License-Identifier: Apache-2.0 */
/* kubeconfigs and answers with every allocation failing once: read in full, or -ENOMEM and nothing is left behind. */

#include "../base/nomem.h"
#include "k8s/scaler/kube_access.h"
#include "k8s/scaler/kube_answer.h"

#include <errno.h>

static int config_of(const char *text)
{
    CLEANUP(kube_access_deinit) struct kube_access a = {0};
    CLEANUP(kube_files_deinit) struct kube_files f = {0};
    int code = kubeconfig_parse(slice_str(text), NULL, &a, &f, NULL);

    return !code && (!str_eq(a.server, "https://k") || !str_eq(a.ca_pem, "ca")) ? -EINVAL : code;
}

static int yaml(void)
{
    return config_of("current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\n"
                     "clusters: [{name: c, cluster: {server: 'https://k/', "
                     "certificate-authority-data: Y2E=}}]\n"
                     "users: [{name: u, user: {tokenFile: t, client-key: k, "
                     "client-certificate: c}}]\n");
}

static int json(void)
{
    return config_of("{\"current-context\": \"a\", \"contexts\": [{\"name\": \"a\", \"context\": "
                     "{\"cluster\": \"c\"}}], \"clusters\": [{\"name\": \"c\", \"cluster\": "
                     "{\"server\": \"https://k\", \"certificate-authority-data\": \"Y2E=\"}}]}");
}

static int target(void)
{
    CLEANUP(kube_target_deinit) struct kube_target t = {0};
    CLEANUP(mem_free) char *uid = NULL;
    int code = answer_target(
        SLICE_LIT("{\"kind\": \"Deployment\", \"metadata\": {\"resourceVersion\": \"7\", \"uid\": "
                  "\"u\", \"generation\": 3, \"annotations\": {\"scatter-scale/paused\": \"t\"}}, "
                  "\"spec\": {\"selector\": {\"matchLabels\": {\"a\": \"b\"}, "
                  "\"matchExpressions\": [{\"key\": \"k\", \"operator\": \"In\", \"values\": "
                  "[\"x\", \"\\u0079\"]}]}}}"),
        &t, &uid, NULL);

    return !code && !str_eq(t.selector, "a=b,k in (x,y)") ? -EINVAL : code;
}

static int pods(void)
{
    CLEANUP(kube_pods_deinit) struct kube_pods p = {0};
    CLEANUP(mem_free) char *more = NULL;
    int code = answer_pods(
        SLICE_LIT("{\"kind\": \"PodList\", \"metadata\": {\"continue\": \"m\"}, \"items\": "
                  "[{\"metadata\": {\"name\": \"a\"}}, {\"metadata\": {\"name\": \"b\"}}, "
                  "{\"metadata\": {\"name\": \"c\"}}]}"),
        &p, &more, NULL);

    return !code && (p.n != 3 || !str_eq(more, "m")) ? -EINVAL : code;
}

static int lease(void)
{
    static const char text[] =
        "{\"kind\": \"Lease\", \"metadata\": {\"resourceVersion\": \"7\", \"annotations\": "
        "{\"scatter-scale/state\": \"s\"}}, \"spec\": {\"holderIdentity\": \"h\"}}";
    CLEANUP(answer_lease_deinit) struct answer_lease l = {0};
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct lease_change c = {.holder = "me", .renewed = "R", .duration_s = 1, .state = "n"};
    int code = answer_lease(SLICE_LIT(text), &l, NULL);

    if (!code)
        code = lease_rewrite(SLICE_LIT(text), &c, &b);
    return !code && !strstr(b.data, "\"scatter-scale/state\":\"n\"") ? -EINVAL : code;
}

static int rival(void)
{
    CLEANUP(mem_free) char *found = NULL, *more = NULL;
    int code = answer_rival(
        SLICE_LIT("{\"kind\": \"ScaledObjectList\", \"items\": [{\"metadata\": {\"name\": \"s\"}, "
                  "\"spec\": {\"scaleTargetRef\": {\"name\": \"w\"}}}]}"),
        "kind", "w", &found, &more, NULL);

    return !code && !str_eq(found, "kind/s") ? -EINVAL : code;
}

int main(void)
{
    (void)nomem_sweep("a kubeconfig in YAML", yaml);
    (void)nomem_sweep("a kubeconfig in JSON", json);
    (void)nomem_sweep("a Deployment", target);
    (void)nomem_sweep("pods", pods);
    (void)nomem_sweep("a Lease", lease);
    (void)nomem_sweep("a rival", rival);
    return 0;
}
