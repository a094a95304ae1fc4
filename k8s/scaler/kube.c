/* SPDX-License-Identifier: Apache-2.0 */
/* Finding the cluster, and the small calls: rights, rivals, Events. */

#include "k8s/scaler/kube.h"

#include "celeryc/base/clock.h"
#include "celeryc/base/codec.h"
#include "celeryc/base/limits.h"
#include "k8s/scaler/kube_priv.h"

#include <errno.h>
#include <unistd.h>

static const char *env(const char *name)
{
    const char *v =
        getenv(name); /* NOLINT(concurrency-mt-unsafe): nobody changes the environment */

    return v && *v ? v : NULL;
}

static int load_listed(const char *list, const char *context, struct kube_access *a, struct err *e)
{
    size_t n;

    list += strspn(list, ":");
    n = strcspn(list, ":");
    if (list[n + strspn(list + n, ":")])
        return err_set(e, -EINVAL,
                       "KUBECONFIG names several files: make one of them with `kubectl config view "
                       "--raw --flatten >FILE`");
    CLEANUP(mem_free) char *path = slice_dup((struct slice){list, n});

    return path ? kube_access_load(path, context, a, e) : -ENOMEM;
}

static int load_home(const char *context, struct kube_access *a, struct err *e)
{
    CLEANUP(buf_deinit) struct buf path = BUF_INIT;
    const char *home = env("HOME");

    buf_appendf(&path, "%s/.kube/config", home ? home : "");
    if (buf_ok(&path))
        return -ENOMEM;
    if (!home || access(path.data, F_OK))
        return err_set(e, -EINVAL,
                       "no cluster: not in a pod (KUBERNETES_SERVICE_HOST), no --kubeconfig, no "
                       "KUBECONFIG, no ~/.kube/config");
    return kube_access_load(path.data, context, a, e);
}

static int find_access(const struct kube_options *o, struct kube_access *a, struct err *e)
{
    const char *list = env("KUBECONFIG");

    if (o->kubeconfig)
        return kube_access_load(o->kubeconfig, o->context, a, e);
    if (list)
        return load_listed(list, o->context, a, e);
    if (env("KUBERNETES_SERVICE_HOST"))
        return kube_access_in_cluster(o->service_account, a, e);
    return load_home(o->context, a, e);
}

static int find_namespace(struct kube *k, const struct kube_options *o, struct err *e)
{
    const char *ns = o->namespace ? o->namespace : env("POD_NAMESPACE");

    if (!ns)
        ns = k->access.ns;
    if (!ns && k->access.in_cluster)
        return err_set(e, KUBE_E_CONFIG, "no namespace: set POD_NAMESPACE or give --namespace");
    k->ns = slice_dup(slice_str(ns ? ns : "default"));
    return k->ns ? kube_check_name("namespace", k->ns, e) : -ENOMEM;
}

int kube_open(const struct kube_options *o, struct kube **ret_k, struct err *e)
{
    CLEANUP(kube_close) struct kube *k = calloc(1, sizeof(*k));
    int code;

    if (!k || curl_global_init(CURL_GLOBAL_DEFAULT))
        return -ENOMEM;
    k->use_proxy = o->use_proxy;
    k->until_ns = INT64_MAX;
    code = find_access(o, &k->access, e);
    if (code)
        return code == -ENOMEM ? code : KUBE_E_CONFIG;
    code = find_namespace(k, o, e);
    if (code)
        return code;
    k->curl = curl_easy_init();
    if (!k->curl)
        return -ENOMEM;
    *ret_k = STEAL(k);
    return 0;
}

struct kube *kube_close(struct kube *k)
{
    if (!k)
        return NULL;
    if (k->curl)
        curl_easy_cleanup(k->curl);
    kube_access_deinit(&k->access);
    free(k->ns);
    free(k->token);
    free(k->target_uid);
    free(k->lease_text);
    free(k->lease_holder);
    free(k);
    return NULL;
}

const char *kube_server(const struct kube *k)
{
    return k->access.server;
}

const char *kube_namespace(const struct kube *k)
{
    return k->ns;
}

void kube_set_deadline(struct kube *k, int64_t until_ns)
{
    k->until_ns = until_ns;
}

int64_t kube_now_us(const struct kube *k)
{
    return k->date_us ? k->date_us + (clock_mono_ns() - k->date_at_ns) / 1000 : 0;
}

void kube_time_text(int64_t us, char dst[KUBE_TIME_SIZE])
{
    char whole[CLOCK_ISO_SIZE];

    clock_iso_format(us - us % KUBE_US_PER_S, whole);
    (void)snprintf(dst, KUBE_TIME_SIZE, "%.19s.%06dZ", whole, (int)(us % KUBE_US_PER_S));
}

/* ---- what else scales the Deployment ---- */

struct rival {
    const char *group, *plural, *kind;
};

static int read_rivals(struct kube *k, const struct rival *kind, const char *deployment,
                       char **ret_rival, struct err *e)
{
    CLEANUP(mem_free) char *more = NULL;
    int code = 0;

    for (unsigned page = 0; !code && !*ret_rival && page < LIMIT_KUBE_PAGES; page++) {
        CLEANUP(kube_reply_deinit) struct kube_reply r = {0};
        CLEANUP(buf_deinit) struct buf path = BUF_INIT;
        struct kube_request q = {.method = "GET", .what = kind->plural, .repeatable = true};

        kube_path(k, kind->group, &path);
        buf_appendf(&path, "%s?limit=500", kind->plural);
        kube_path_parameter(k, &path, "continue", more);
        if (buf_ok(&path))
            return -ENOMEM;
        q.path = path.data;
        code = kube_call(k, &q, &r, e);
        if (code == KUBE_E_CONFIG && r.status == 404) {
            *e = (struct err)ERR_INIT;
            return 0; /* the cluster has no such kind */
        }
        more = mem_free(more);
        if (!code)
            code = answer_rival(buf_slice(&r.body), kind->kind, deployment, ret_rival, &more, e);
        if (code < 0)
            code = kube_bad_answer(&q, code, e);
        if (!more)
            break;
    }
    return code;
}

int kube_rival_read(struct kube *k, const char *deployment, char **ret_rival, struct err *e)
{
    static const struct rival kinds[] = {
        {"/apis/autoscaling/v2", "horizontalpodautoscalers", "horizontalpodautoscaler"},
        {"/apis/keda.sh/v1alpha1", "scaledobjects", "scaledobject"},
    };

    CLEANUP(mem_free) char *found = NULL;
    int denied = 0;

    for (size_t i = 0; i < ARRAY_SIZE(kinds) && !found; i++) {
        struct err now = ERR_INIT;
        int code = read_rivals(k, &kinds[i], deployment, &found, &now);

        if (code && e && !denied)
            *e = now;
        if (code && code != KUBE_E_AUTH)
            return code;
        denied = code ? code : denied;
    }
    if (!found && denied)
        return denied;
    if (e)
        *e = (struct err)ERR_INIT;
    *ret_rival = STEAL(found);
    return 0;
}

/* ---- rights ---- */

static void write_member(struct buf *b, const char *key, const char *value)
{
    if (!value || !*value)
        return;
    buf_appendf(b, ",\"%s\":", key);
    json_write_string(b, slice_str(value));
}

int kube_may(struct kube *k, const struct kube_right *r, bool *ret_allowed, struct err *e)
{
    CLEANUP(kube_reply_deinit) struct kube_reply reply = {0};
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct kube_request q = {
        .method = "POST",
        .path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        .what = "selfsubjectaccessreviews",
        .content_type = "application/json",
        .repeatable = true,
    };
    int code;

    buf_append_str(&b,
                   "{\"apiVersion\":\"authorization.k8s.io/v1\",\"kind\":"
                   "\"SelfSubjectAccessReview\",\"spec\":{\"resourceAttributes\":{\"namespace\":");
    json_write_string(&b, slice_str(k->ns));
    write_member(&b, "group", r->group);
    write_member(&b, "resource", r->resource);
    write_member(&b, "subresource", r->subresource);
    write_member(&b, "name", r->name);
    write_member(&b, "verb", r->verb);
    buf_append_str(&b, "}}}");
    if (buf_ok(&b))
        return -ENOMEM;
    q.body = buf_slice(&b);
    code = kube_call(k, &q, &reply, e);
    if (!code)
        code = answer_allowed(buf_slice(&reply.body), ret_allowed, e);
    return code < 0 ? kube_bad_answer(&q, code, e) : code;
}

/* ---- Events ---- */

static void write_event(const struct kube *k, const char *deployment, const char *reason,
                        const char *text, struct buf *b)
{
    char now[KUBE_TIME_SIZE], seconds[KUBE_TIME_SIZE];
    uint64_t unique;

    random_bytes(&unique, sizeof(unique));
    kube_time_text(kube_now_us(k) ? kube_now_us(k) : clock_wall_us(), now);
    (void)snprintf(seconds, sizeof(seconds), "%.19sZ", now);
    buf_appendf(b,
                "{\"apiVersion\":\"v1\",\"kind\":\"Event\",\"metadata\":{\"name\":\"%s.%016llx\","
                "\"namespace\":\"%s\"},\"involvedObject\":{\"apiVersion\":\"apps/v1\",\"kind\":"
                "\"Deployment\",\"namespace\":\"%s\",\"name\":\"%s\"",
                deployment, (unsigned long long)unique, k->ns, k->ns, deployment);
    write_member(b, "uid", k->target_uid);
    buf_appendf(b,
                "},\"type\":\"Normal\",\"count\":1,\"firstTimestamp\":\"%s\",\"lastTimestamp\":"
                "\"%s\",\"source\":{\"component\":\"" KUBE_FIELD_MANAGER "\"}",
                seconds, seconds);
    write_member(b, "reason", reason);
    write_member(b, "message", text);
    buf_append_char(b, '}');
}

int kube_event(struct kube *k, const char *deployment, const char *reason, const char *text,
               struct err *e)
{
    CLEANUP(kube_reply_deinit) struct kube_reply r = {0};
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    CLEANUP(buf_deinit) struct buf path = BUF_INIT;
    struct kube_request q = {
        .method = "POST", .what = "events", .content_type = "application/json"};
    int code = kube_check_name("Deployment", deployment, e);

    if (code)
        return code;
    write_event(k, deployment, reason, text, &b);
    kube_path(k, KUBE_CORE, &path);
    buf_append_str(&path, "events?fieldManager=" KUBE_FIELD_MANAGER);
    if (buf_ok(&b) || buf_ok(&path))
        return -ENOMEM;
    q.path = path.data;
    q.body = buf_slice(&b);
    return kube_call(k, &q, &r, e);
}
