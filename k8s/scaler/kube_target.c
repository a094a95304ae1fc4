/* SPDX-License-Identifier: Apache-2.0 */
/* The Deployment, its scale and its pods.
 *
 * What must never happen: a number written over one that somebody else has set meanwhile, or a write repeated without
 * looking. Each PATCH carries the resourceVersion of the Scale read just before it, and that read must still show the
 * number that the decision was made from. */

#include "celeryc/base/limits.h"
#include "k8s/scaler/kube_priv.h"

#include <errno.h>

int kube_target_read(struct kube *k, const char *deployment, struct kube_target *ret_t,
                     struct err *e)
{
    CLEANUP(kube_reply_deinit) struct kube_reply r = {0};
    CLEANUP(buf_deinit) struct buf path = BUF_INIT;
    CLEANUP(mem_free) char *what = NULL;
    struct kube_request q = {.method = "GET", .repeatable = true};
    int code = kube_check_name("Deployment", deployment, e);

    if (code)
        return code;
    kube_path(k, KUBE_APPS, &path);
    buf_appendf(&path, "deployments/%s", deployment);
    if (buf_ok(&path) || asprintf(&what, "deployments/%s", deployment) < 0)
        return -ENOMEM;
    q.path = path.data;
    q.what = what;
    code = kube_call(k, &q, &r, e);
    if (code)
        return code;
    k->target_uid = mem_free(k->target_uid);
    code = answer_target(buf_slice(&r.body), ret_t, &k->target_uid, e);
    return code ? kube_bad_answer(&q, code, e) : 0;
}

/* ---- pods ---- */

void kube_path_parameter(const struct kube *k, struct buf *path, const char *name,
                         const char *value)
{
    char *escaped;

    if (!value)
        return;
    escaped = curl_easy_escape(k->curl, value, (int)strlen(value));
    if (escaped)
        buf_appendf(path, "&%s=%s", name, escaped);
    else
        path->failed = true;
    curl_free(escaped);
}

static int read_pages(struct kube *k, const char *selector, struct kube_pods *pods, bool *expired,
                      struct err *e)
{
    CLEANUP(mem_free) char *more = NULL;
    int code = 0;

    for (unsigned page = 0; page < LIMIT_KUBE_PAGES; page++) {
        CLEANUP(kube_reply_deinit) struct kube_reply r = {0};
        CLEANUP(buf_deinit) struct buf path = BUF_INIT;
        struct kube_request q = {.method = "GET", .what = "pods", .repeatable = true};

        kube_path(k, KUBE_CORE, &path);
        buf_append_str(&path, "pods?limit=500");
        kube_path_parameter(k, &path, "labelSelector", selector);
        kube_path_parameter(k, &path, "continue", more);
        if (buf_ok(&path))
            return -ENOMEM;
        q.path = path.data;
        code = kube_call(k, &q, &r, e);
        *expired = code && r.status == 410;
        if (code)
            return code;
        more = mem_free(more);
        code = answer_pods(buf_slice(&r.body), pods, &more, e);
        if (code)
            return kube_bad_answer(&q, code, e);
        if (!more)
            return 0;
    }
    return err_set(e, KUBE_E_UNREACHABLE, "GET pods: the list does not end");
}

int kube_pods_read(struct kube *k, const char *selector, struct kube_pods *ret_p, struct err *e)
{
    bool expired = true;
    int code = 0;

    for (int i = 0; expired && i < KUBE_ATTEMPTS; i++) {
        CLEANUP(kube_pods_deinit) struct kube_pods pods = {0};
        struct err now = ERR_INIT;

        code = read_pages(k, selector, &pods, &expired, &now);
        if (code) {
            if (e)
                *e = now;
            continue;
        }
        *ret_p = pods;
        pods = (struct kube_pods){0};
    }
    if (!code && e)
        *e = (struct err)ERR_INIT;
    return code;
}

int kube_pod_cost_set(struct kube *k, const char *pod, int32_t cost, enum kube_write how,
                      struct err *e)
{
    CLEANUP(kube_reply_deinit) struct kube_reply r = {0};
    CLEANUP(buf_deinit) struct buf path = BUF_INIT;
    CLEANUP(buf_deinit) struct buf body = BUF_INIT;
    CLEANUP(mem_free) char *what = NULL;
    struct kube_request q = {.method = "PATCH",
                             .content_type = "application/merge-patch+json",
                             .repeatable = true}; /* the same again changes nothing */
    int code = kube_check_name("pod", pod, e);

    if (code)
        return code;
    kube_path(k, KUBE_CORE, &path);
    buf_appendf(&path, "pods/%s?fieldManager=" KUBE_FIELD_MANAGER "%s", pod,
                how == KUBE_DRY_RUN ? "&dryRun=All" : "");
    buf_appendf(&body, "{\"metadata\":{\"annotations\":{\"" KUBE_POD_DELETION_COST "\":\"%d\"}}}",
                cost);
    if (buf_ok(&path) || buf_ok(&body) || asprintf(&what, "pods/%s", pod) < 0)
        return -ENOMEM;
    q.path = path.data;
    q.what = what;
    q.body = buf_slice(&body);
    return kube_call(k, &q, &r, e);
}

/* ---- the scale ---- */

struct scaling {
    struct kube *k;
    const char *deployment;
    char *path, *what;
    int64_t from, to;
    enum kube_write how;
};

static int read_scale(const struct scaling *s, struct answer_scale *ret_scale, struct err *e)
{
    CLEANUP(kube_reply_deinit) struct kube_reply r = {0};
    struct kube_request q = {.method = "GET", .path = s->path, .what = s->what, .repeatable = true};
    int code = kube_call(s->k, &q, &r, e);

    if (code)
        return code;
    code = answer_scale(buf_slice(&r.body), ret_scale, e);
    return code ? kube_bad_answer(&q, code, e) : 0;
}

static int check_written(const struct scaling *s, const struct kube_request *q,
                         const struct kube_reply *r, struct err *e)
{
    CLEANUP(answer_scale_deinit) struct answer_scale scale = {0};
    int code = answer_scale(buf_slice(&r->body), &scale, e);

    if (code)
        return kube_bad_answer(q, code, e);
    if (scale.replicas == s->to)
        return 0;
    return err_set(e, KUBE_E_CONFIG,
                   "PATCH %s: the server answered %ld but left replicas at %lld instead of %lld: "
                   "does an admission webhook change it?",
                   s->what, r->status, (long long)scale.replicas, (long long)s->to);
}

static int patch_scale(const struct scaling *s, const char *version, struct kube_reply *r,
                       struct err *e)
{
    CLEANUP(buf_deinit) struct buf path = BUF_INIT;
    CLEANUP(buf_deinit) struct buf body = BUF_INIT;
    struct kube_request q = {
        .method = "PATCH", .what = s->what, .content_type = "application/merge-patch+json"};
    int code;

    buf_appendf(&path, "%s?fieldManager=" KUBE_FIELD_MANAGER "%s", s->path,
                s->how == KUBE_DRY_RUN ? "&dryRun=All" : "");
    buf_append_str(&body, "{\"metadata\":{\"resourceVersion\":");
    json_write_string(&body, slice_str(version));
    buf_appendf(&body, "},\"spec\":{\"replicas\":%lld}}", (long long)s->to);
    if (buf_ok(&path) || buf_ok(&body))
        return -ENOMEM;
    q.path = path.data;
    q.body = buf_slice(&body);
    code = kube_call(s->k, &q, r, e);
    return code ? code : check_written(s, &q, r, e);
}

/* One round: look, compare, write. *again: another round may help; *unclear: a write may have been carried out. */
static int scale_round(const struct scaling *s, int round, bool *unclear, bool *again,
                       struct err *e)
{
    CLEANUP(kube_reply_deinit) struct kube_reply r = {0};
    CLEANUP(answer_scale_deinit) struct answer_scale scale = {0};
    int code = read_scale(s, &scale, e);

    *again = false;
    if (code)
        return *unclear ? err_prefix(e, code, "whether %s was written is not known", s->what)
                        : code;
    if (*unclear && scale.replicas == s->to)
        return 0;
    if (scale.replicas != s->from)
        return err_set(e, KUBE_E_CONFLICT,
                       "%s: somebody else has set %lld replicas while %lld were decided from %lld",
                       s->what, (long long)scale.replicas, (long long)s->to, (long long)s->from);
    if (round == KUBE_ATTEMPTS)
        return err_set(e, *unclear ? KUBE_E_UNREACHABLE : KUBE_E_CONFLICT,
                       "PATCH %s: %d attempts, none was carried out", s->what, KUBE_ATTEMPTS);
    code = patch_scale(s, scale.resource_version, &r, e);
    *unclear = r.unclear;
    if (code == KUBE_E_CONFLICT || r.unclear)
        *again = kube_pause(s->k, round, r.retry_after_ms) == 0;
    return code;
}

int kube_scale_set(struct kube *k, const char *deployment, const struct kube_target *t, int64_t to,
                   enum kube_write how, struct err *e)
{
    CLEANUP(buf_deinit) struct buf path = BUF_INIT;
    CLEANUP(mem_free) char *what = NULL;
    struct scaling s = {
        .k = k, .deployment = deployment, .from = t->replicas, .to = to, .how = how};
    bool unclear = false, again = true;
    int code = kube_check_name("Deployment", deployment, e);

    if (code)
        return code;
    kube_path(k, KUBE_APPS, &path);
    buf_appendf(&path, "deployments/%s/scale", deployment);
    if (buf_ok(&path) || asprintf(&what, "deployments/%s/scale", deployment) < 0)
        return -ENOMEM;
    s.path = path.data;
    s.what = what;
    for (int round = 0; again && round <= KUBE_ATTEMPTS; round++) {
        struct err now = ERR_INIT;

        code = scale_round(&s, round, &unclear, &again, &now);
        if (e)
            *e = now;
    }
    return code;
}
