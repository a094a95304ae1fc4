/* SPDX-License-Identifier: Apache-2.0 */
/* What answers say, and what is no answer: a field of a wrong type is never a zero. */

#include "k8s/scaler/kube_answer.h"

#include <criterion/criterion.h>
#include <errno.h>

static struct err e;

#define DEPLOYMENT(spec, status)                                                                \
    "{\"kind\": \"Deployment\", \"metadata\": {\"resourceVersion\": \"7\", \"generation\": 3, " \
    "\"uid\": \"u\", \"annotations\": {\"scatter-scale/paused\": \"true\", \"x\": \"y\"}}, "    \
    "\"spec\": {\"selector\": {\"matchLabels\": {\"a\": \"b\"}}" spec "}, \"status\": {" status \
    "}}"

static int target(const char *text, struct kube_target *t)
{
    CLEANUP(mem_free) char *uid = NULL;

    e = (struct err)ERR_INIT;
    return answer_target(slice_str(text), t, &uid, &e);
}

Test(kube_answer, a_deployment)
{
    CLEANUP(kube_target_deinit) struct kube_target t = {0};

    cr_assert_eq(
        target(DEPLOYMENT(", \"replicas\": 4", "\"observedGeneration\": 2, \"replicas\": 5, "
                                               "\"updatedReplicas\": 1"),
               &t),
        0, "%s", e.text);
    cr_assert_eq(t.replicas, 4);
    cr_assert_eq(t.generation, 3);
    cr_assert_eq(t.observed_generation, 2);
    cr_assert_eq(t.status_replicas, 5);
    cr_assert_eq(t.updated_replicas, 1);
    cr_assert_str_eq(t.resource_version, "7");
    cr_assert_str_eq(t.selector, "a=b");
    cr_assert_str_eq(t.paused, "true");
    cr_assert_null(t.paused_replicas);
}

Test(kube_answer, a_deployment_without_replicas_asks_for_one)
{
    CLEANUP(kube_target_deinit) struct kube_target t = {0};

    cr_assert_eq(target(DEPLOYMENT("", ""), &t), 0, "%s", e.text);
    cr_assert_eq(t.replicas, 1);
}

Test(kube_answer, a_deployment_that_is_none)
{
    static const char *const bad[] = {
        DEPLOYMENT(", \"replicas\": -1", ""),
        DEPLOYMENT(", \"replicas\": \"4\"", ""),
        DEPLOYMENT(", \"replicas\": 4.0", ""),
        DEPLOYMENT(", \"replicas\": 99999999999", ""),
        DEPLOYMENT("", "\"replicas\": []"),
        DEPLOYMENT("", "\"observedGeneration\": \"1\""),
        DEPLOYMENT(", \"selector\": {}", ""),
        DEPLOYMENT(", \"selector\": {\"matchLabels\": {\"a\": \"b,c\"}}", ""),
        DEPLOYMENT(", \"selector\": {\"matchLabels\": {\"a\": 1}}", ""),
        DEPLOYMENT(", \"selector\": {\"matchExpressions\": [{\"key\": \"a\"}]}", ""),
        DEPLOYMENT(", \"selector\": {\"matchExpressions\": [{\"key\": \"a\", \"operator\": "
                   "\"In\", \"values\": []}]}",
                   ""),
        "{\"kind\": \"Deployment\", \"metadata\": {\"generation\": 1}}",
        "{\"kind\": \"Deployment\"}",
        "{\"kind\": \"Pod\"}",
        "[]",
        "",
    };

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct kube_target t = {0};

        cr_expect_eq(target(bad[i], &t), -EINVAL, "case %zu", i);
        cr_expect_neq(e.text[0], '\0');
        cr_expect_null(t.selector);
    }
}

Test(kube_answer, a_scale_without_replicas_is_zero_but_without_spec_is_none)
{
    CLEANUP(answer_scale_deinit) struct answer_scale s = {0};

    cr_assert_eq(
        answer_scale(
            SLICE_LIT(
                "{\"kind\": \"Scale\", \"metadata\": {\"resourceVersion\": \"1\"}, \"spec\": {}}"),
            &s, NULL),
        0);
    cr_assert_eq(s.replicas, 0);
    cr_assert_eq(
        answer_scale(SLICE_LIT("{\"kind\": \"Scale\", \"metadata\": {\"resourceVersion\": \"1\"}}"),
                     &s, NULL),
        -EINVAL);
    cr_assert_eq(answer_scale(SLICE_LIT("{\"kind\": \"Scale\", \"spec\": {}}"), &s, NULL), -EINVAL);
}

#define LEASE(meta, spec)                                                                         \
    "{\"kind\": \"Lease\", \"apiVersion\": \"coordination.k8s.io/v1\", \"metadata\": {\"name\": " \
    "\"l\", \"resourceVersion\": \"5\"" meta "}, \"spec\": {" spec "}}"

Test(kube_answer, a_lease_is_written_back_with_everything_that_is_not_ours)
{
    static const char before[] =
        LEASE(", \"managedFields\": [{}], \"labels\": {\"big\": 12345678901234567890}, "
              "\"annotations\": {\"a\\u0041\": \"x\", \"scatter-scale/state\": \"old\"}",
              "\"holderIdentity\": \"a\", \"renewTime\": \"2026-01-02T03:04:05.000006Z\", "
              "\"strategy\": \"later\"");
    static const char after[] =
        "{\"kind\":\"Lease\",\"apiVersion\":\"coordination.k8s.io/v1\",\"metadata\":{"
        "\"name\":\"l\",\"resourceVersion\":\"5\",\"labels\":{\"big\": 12345678901234567890},"
        "\"annotations\":{\"a\\u0041\":\"x\",\"scatter-scale/state\":\"n\\\"ew\"}},\"spec\":{"
        "\"strategy\":\"later\",\"holderIdentity\":\"\",\"acquireTime\":\"A\",\"renewTime\":\"R\","
        "\"leaseDurationSeconds\":55,\"leaseTransitions\":2}}";
    CLEANUP(answer_lease_deinit) struct answer_lease l = {0};
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct lease_change c = {.holder = "",
                             .acquired = "A",
                             .renewed = "R",
                             .duration_s = 55,
                             .transitions = 2,
                             .state = "n\"ew"};

    cr_assert_eq(answer_lease(SLICE_LIT(before), &l, NULL), 0);
    cr_assert_str_eq(l.holder, "a");
    cr_assert_str_eq(l.state, "old");
    cr_assert_eq(l.renewed_us, 1767323045000006);
    cr_assert_eq(lease_rewrite(SLICE_LIT(before), &c, &b), 0);
    cr_assert_str_eq(b.data, after);
}

Test(kube_answer, a_lease_that_is_none)
{
    static const char *const bad[] = {
        LEASE("", "\"renewTime\": \"yesterday\""),
        LEASE("", "\"leaseDurationSeconds\": \"55\""),
        LEASE("", "\"holderIdentity\": 1"),
        LEASE(", \"annotations\": {\"scatter-scale/state\": {}}", ""),
        LEASE("", "\"leaseTransitions\": -1"),
    };

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct answer_lease l = {0};

        cr_expect_eq(answer_lease(slice_str(bad[i]), &l, NULL), -EINVAL, "case %zu", i);
    }
}

Test(kube_answer, pods_of_strange_shapes)
{
    CLEANUP(kube_pods_deinit) struct kube_pods pods = {0};
    CLEANUP(mem_free) char *more = NULL;
    struct slice text = SLICE_LIT(
        "{\"kind\": \"PodList\", \"metadata\": {\"continue\": \"\"}, \"items\": ["
        "{\"metadata\": {\"name\": \"a\", \"annotations\": {"
        "\"controller.kubernetes.io/pod-deletion-cost\": \"99999999999\"}}},"
        "{\"metadata\": {\"name\": \"b\", \"deletionTimestamp\": \"2026-01-01T00:00:00Z\", "
        "\"annotations\": {\"controller.kubernetes.io/pod-deletion-cost\": \"-5\"}}, \"status\": "
        "{\"phase\": \"Running\", \"conditions\": [{\"type\": \"Ready\", \"status\": "
        "\"False\"}]}}]}");

    cr_assert_eq(answer_pods(text, &pods, &more, NULL), 0);
    cr_assert_null(more);
    cr_assert_eq(pods.n, 2);
    cr_assert_not(pods.v[0].has_cost);
    cr_assert(pods.v[1].has_cost && pods.v[1].cost == -5);
    cr_assert(pods.v[1].deleting);
    cr_assert_not(pods.v[1].ready);
    cr_assert_eq(
        answer_pods(SLICE_LIT("{\"kind\": \"PodList\", \"items\": [{}]}"), &pods, &more, NULL),
        -EINVAL);
    cr_assert_eq(
        answer_pods(SLICE_LIT("{\"kind\": \"PodList\", \"items\": {}}"), &pods, &more, NULL),
        -EINVAL);
}

Test(kube_answer, a_status_is_cut_and_clean)
{
    struct answer_status s;

    answer_status(SLICE_LIT("{\"kind\": \"Status\", \"message\": \"a\\nb\\u001b[0m\", \"reason\": "
                            "\"Expired\", \"details\": {\"name\": \"n\"}}"),
                  &s);
    cr_assert_str_eq(s.message, "a b [0m");
    cr_assert_str_eq(s.reason, "Expired");
    cr_assert_str_eq(s.name, "n");
    answer_status(SLICE_LIT("<html>\n"), &s);
    cr_assert_str_eq(s.message, "<html>");
    cr_assert_str_eq(s.name, "");
}
