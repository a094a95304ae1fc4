/* SPDX-License-Identifier: Apache-2.0 */
/* Answers about one object: Status, Deployment, Scale, SelfSubjectAccessReview; the lists are in kube_list.c, the Lease
 * in kube_lease_text.c.
 *
 * A field that is missing where the API leaves it out when it is zero counts as zero; a field of a wrong type is an
 * error, never a zero. */

#include "k8s/scaler/kube_answer_priv.h"

#include "celeryc/base/clock.h"

#include <errno.h>

int answer_scan(struct slice body, const char *kind, struct json_val *ret_v, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct json_val v;
    struct slice is;
    int code;

    if (!a)
        return -ENOMEM;
    code = json_scan(body, &v, e);
    if (code)
        return code;
    code = json_string(a, json_get(v, "kind"), &is);
    if (code == -ENOMEM)
        return code;
    if (code || (kind && !slice_eq_str(is, kind)))
        return err_set(e, -EINVAL, "the answer is no %s", kind ? kind : "API object");
    *ret_v = v;
    return 0;
}

int answer_text(struct arena *a, struct json_val v, const char *path, char **ret_text,
                struct err *e)
{
    struct slice s;
    int code;

    if (json_is_null(v))
        return 0;
    code = json_string(a, v, &s);
    if (code == -ENOMEM)
        return code;
    if (code || (s.len && memchr(s.p, '\0', s.len)))
        return err_set(e, -EINVAL, "%s is no text", path);
    *ret_text = slice_dup(s);
    return *ret_text ? 0 : -ENOMEM;
}

int answer_count(struct json_val v, const char *path, int64_t absent, int64_t *ret_n, struct err *e)
{
    int64_t n = absent;

    if (!json_is_null(v) && (json_i64(v, &n) || n < 0 || n > INT32_MAX))
        return err_set(e, -EINVAL, "%s is no count", path);
    *ret_n = n;
    return 0;
}

int answer_time(struct arena *a, struct json_val v, const char *path, int64_t *ret_us,
                struct err *e)
{
    struct slice s;
    int code;

    *ret_us = 0;
    if (json_is_null(v))
        return 0;
    code = json_string(a, v, &s);
    if (code == -ENOMEM)
        return code;
    if (code || clock_iso_parse(s, ret_us))
        return err_set(e, -EINVAL, "%s is no time", path);
    return 0;
}

/* ---- Status ---- */

static void copy_clean(struct slice s, char *dst, size_t size)
{
    size_t n = MIN(s.len, size - 1);

    for (size_t i = 0; i < n; i++)
        dst[i] = (char)((unsigned char)s.p[i] < 0x20 || s.p[i] == 0x7f ? ' ' : s.p[i]);
    while (n && dst[n - 1] == ' ')
        n--;
    dst[n] = '\0';
}

static void copy_member(struct arena *a, struct json_val v, const char *key, char *dst, size_t size)
{
    struct slice s;

    if (json_string(a, json_get(v, key), &s) == 0)
        copy_clean(s, dst, size);
}

void answer_status(struct slice body, struct answer_status *ret_s)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct json_val v;

    *ret_s = (struct answer_status){0};
    if (a && answer_scan(body, "Status", &v, NULL) == 0) {
        copy_member(a, v, "message", ret_s->message, sizeof(ret_s->message));
        copy_member(a, v, "reason", ret_s->reason, sizeof(ret_s->reason));
        copy_member(a, json_get(v, "details"), "name", ret_s->name, sizeof(ret_s->name));
    } else {
        copy_clean(body, ret_s->message, 120);
    }
}

/* ---- Deployment ---- */

void kube_target_deinit(struct kube_target *t)
{
    free(t->resource_version);
    free(t->selector);
    free(t->paused);
    free(t->paused_replicas);
    free(t->paused_scale_in);
    free(t->paused_scale_out);
    *t = (struct kube_target){0};
}

static int read_annotations(struct arena *a, struct json_val v, struct kube_target *t,
                            struct err *e)
{
    int code = answer_text(a, json_get(v, KUBE_PAUSED), KUBE_PAUSED, &t->paused, e);

    if (!code)
        code = answer_text(a, json_get(v, KUBE_PAUSED_REPLICAS), KUBE_PAUSED_REPLICAS,
                           &t->paused_replicas, e);
    if (!code)
        code = answer_text(a, json_get(v, KUBE_PAUSED_SCALE_IN), KUBE_PAUSED_SCALE_IN,
                           &t->paused_scale_in, e);
    if (!code)
        code = answer_text(a, json_get(v, KUBE_PAUSED_SCALE_OUT), KUBE_PAUSED_SCALE_OUT,
                           &t->paused_scale_out, e);
    return code;
}

static int read_counts(struct json_val v, struct kube_target *t, struct err *e)
{
    struct json_val meta = json_get(v, "metadata"), status = json_get(v, "status");
    int64_t generation = 0, observed = 0;
    int code = answer_count(json_get(json_get(v, "spec"), "replicas"), "spec.replicas", 1,
                            &t->replicas, e);

    if (!code)
        code = answer_count(json_get(status, "replicas"), "status.replicas", 0, &t->status_replicas,
                            e);
    if (!code)
        code = answer_count(json_get(status, "updatedReplicas"), "status.updatedReplicas", 0,
                            &t->updated_replicas, e);
    if (code)
        return code;
    if (json_i64(json_get(meta, "generation"), &generation))
        return err_set(e, -EINVAL, "metadata.generation is no number");
    /* Absent until the controller has seen the object once. */
    if (!json_is_null(json_get(status, "observedGeneration")) &&
        json_i64(json_get(status, "observedGeneration"), &observed))
        return err_set(e, -EINVAL, "status.observedGeneration is no number");
    t->generation = generation;
    t->observed_generation = observed;
    return 0;
}

int answer_target(struct slice body, struct kube_target *ret_t, char **ret_uid, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(kube_target_deinit) struct kube_target t = {0};
    CLEANUP(mem_free) char *uid = NULL;
    struct json_val v, meta;
    int code = a ? answer_scan(body, "Deployment", &v, e) : -ENOMEM;

    if (code)
        return code;
    meta = json_get(v, "metadata");
    code = read_counts(v, &t, e);
    if (!code)
        code = answer_text(a, json_get(meta, "resourceVersion"), "metadata.resourceVersion",
                           &t.resource_version, e);
    if (!code)
        code = answer_text(a, json_get(meta, "uid"), "metadata.uid", &uid, e);
    if (!code)
        code = read_annotations(a, json_get(meta, "annotations"), &t, e);
    if (!code)
        code = answer_selector(a, json_get(json_get(v, "spec"), "selector"), &t.selector, e);
    if (code)
        return code;
    if (!t.resource_version)
        return err_set(e, -EINVAL, "metadata.resourceVersion is missing");
    *ret_t = t;
    t = (struct kube_target){0};
    *ret_uid = STEAL(uid);
    return 0;
}

/* ---- Scale ---- */

void answer_scale_deinit(struct answer_scale *s)
{
    free(s->resource_version);
    *s = (struct answer_scale){0};
}

int answer_scale(struct slice body, struct answer_scale *ret_s, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(answer_scale_deinit) struct answer_scale s = {0};
    struct json_val v;
    int code = a ? answer_scan(body, "Scale", &v, e) : -ENOMEM;

    if (!code && json_get(v, "spec").kind != JSON_K_OBJECT)
        return err_set(e, -EINVAL, "spec is missing");
    if (!code)
        code = answer_count(json_get(json_get(v, "spec"), "replicas"), "spec.replicas", 0,
                            &s.replicas, e);
    if (!code)
        code = answer_text(a, json_get(json_get(v, "metadata"), "resourceVersion"),
                           "metadata.resourceVersion", &s.resource_version, e);
    if (code)
        return code;
    if (!s.resource_version)
        return err_set(e, -EINVAL, "metadata.resourceVersion is missing");
    ret_s->replicas = s.replicas;
    ret_s->resource_version = STEAL(s.resource_version);
    return 0;
}

int answer_allowed(struct slice body, bool *ret_allowed, struct err *e)
{
    struct json_val v, allowed;
    int code = answer_scan(body, "SelfSubjectAccessReview", &v, e);

    if (code)
        return code;
    allowed = json_get(json_get(v, "status"), "allowed");
    if (allowed.kind != JSON_K_TRUE && allowed.kind != JSON_K_FALSE)
        return err_set(e, -EINVAL, "status.allowed is missing");
    *ret_allowed = allowed.kind == JSON_K_TRUE;
    return 0;
}
