/* SPDX-License-Identifier: Apache-2.0 */
/* Answers that are lists (pods, what else scales a Deployment), and label selectors. */

#include "celeryc/base/limits.h"
#include "celeryc/base/num.h"
#include "k8s/scaler/kube_answer_priv.h"

#include <errno.h>

/* ---- label selectors ---- */

/* Keys and values are names of Kubernetes; anything else would change what the selector says. */
static bool is_label(struct slice s)
{
    for (size_t i = 0; i < s.len; i++) {
        char c = s.p[i];

        if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') &&
            !strchr("-_./", c))
            return false;
    }
    return !s.len || !memchr(s.p, '\0', s.len);
}

static int append_label(struct arena *a, struct json_val v, struct buf *dst, struct err *e)
{
    struct slice s;
    int code = json_string(a, v, &s);

    if (code == -ENOMEM)
        return code;
    if (code || !is_label(s))
        return err_set(e, -EINVAL, "spec.selector holds what is no label");
    buf_append_slice(dst, s);
    return 0;
}

static int append_values(struct arena *a, struct json_val values, struct buf *dst, struct err *e)
{
    struct json_iter it;
    bool first = true;

    json_iter_init(&it, values);
    while (json_next(&it)) {
        int code;

        buf_append_char(dst, first ? '(' : ',');
        first = false;
        code = append_label(a, it.val, dst, e);
        if (code)
            return code;
    }
    if (first)
        return err_set(e, -EINVAL, "spec.selector has an operator without values");
    buf_append_char(dst, ')');
    return 0;
}

static int append_expression(struct arena *a, struct json_val v, struct buf *dst, struct err *e)
{
    static const struct {
        const char *name, *before, *between;
        bool values;
    } operators[] = {
        {"In", "", " in ", true},
        {"NotIn", "", " notin ", true},
        {"Exists", "", "", false},
        {"DoesNotExist", "!", "", false},
    };

    struct slice name;
    int code = json_string(a, json_get(v, "operator"), &name);

    if (code == -ENOMEM)
        return code;
    for (size_t i = 0; !code && i < ARRAY_SIZE(operators); i++) {
        if (!slice_eq_str(name, operators[i].name))
            continue;
        buf_append_str(dst, operators[i].before);
        code = append_label(a, json_get(v, "key"), dst, e);
        buf_append_str(dst, operators[i].between);
        return code || !operators[i].values ? code
                                            : append_values(a, json_get(v, "values"), dst, e);
    }
    return err_set(e, -EINVAL, "spec.selector has an operator that is not known");
}

int answer_selector(struct arena *a, struct json_val v, char **ret_selector, struct err *e)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct json_iter it;
    int code = 0;

    json_iter_init(&it, json_get(v, "matchLabels"));
    while (!code && json_next(&it)) {
        if (b.len)
            buf_append_char(&b, ',');
        code = append_label(a, it.key, &b, e);
        buf_append_char(&b, '=');
        if (!code)
            code = append_label(a, it.val, &b, e);
    }
    json_iter_init(&it, json_get(v, "matchExpressions"));
    while (!code && json_next(&it)) {
        if (b.len)
            buf_append_char(&b, ',');
        code = append_expression(a, it.val, &b, e);
    }
    if (code || buf_ok(&b))
        return code ? code : -ENOMEM;
    if (!b.len)
        return err_set(e, -EINVAL, "spec.selector is missing or empty");
    *ret_selector = buf_take(&b);
    return *ret_selector ? 0 : -ENOMEM;
}

/* ---- pods ---- */

void kube_pods_deinit(struct kube_pods *p)
{
    for (size_t i = 0; i < p->n; i++)
        free(p->v[i].name);
    free(p->v);
    *p = (struct kube_pods){0};
}

static bool is_text(struct arena *a, struct json_val v, const char *text)
{
    struct slice s;

    return json_string(a, v, &s) == 0 && slice_eq_str(s, text);
}

static bool is_ready(struct arena *a, struct json_val status)
{
    struct json_iter it;

    json_iter_init(&it, json_get(status, "conditions"));
    while (json_next(&it)) {
        if (is_text(a, json_get(it.val, "type"), "Ready"))
            return is_text(a, json_get(it.val, "status"), "True");
    }
    return false;
}

/* What is no number counts as none: the ReplicaSet controller reads it that way, too. */
static void read_cost(struct arena *a, struct json_val meta, struct kube_pod *p)
{
    struct json_val v = json_get(json_get(meta, "annotations"), KUBE_POD_DELETION_COST);
    struct slice s;
    int64_t n;

    if (json_string(a, v, &s) || num_parse_i64(s, &n) || n < INT32_MIN || n > INT32_MAX)
        return;
    p->has_cost = true;
    p->cost = (int32_t)n;
}

static int read_pod(struct arena *a, struct json_val v, struct kube_pod *p, struct err *e)
{
    struct json_val meta = json_get(v, "metadata"), status = json_get(v, "status");
    struct json_val phase = json_get(status, "phase");
    int64_t created = 0;
    int code = answer_text(a, json_get(meta, "name"), "a pod's metadata.name", &p->name, e);

    if (!code && (!p->name || !*p->name))
        return err_set(e, -EINVAL, "a pod without a name");
    if (!code)
        code = answer_time(a, json_get(status, "startTime"), "a pod's status.startTime",
                           &p->started_us, e);
    if (!code)
        code = answer_time(a, json_get(meta, "creationTimestamp"),
                           "a pod's metadata.creationTimestamp", &created, e);
    if (code)
        return code;
    if (!p->started_us)
        p->started_us = created;
    p->deleting = !json_is_null(json_get(meta, "deletionTimestamp"));
    p->ended = is_text(a, phase, "Succeeded") || is_text(a, phase, "Failed");
    p->ready = is_text(a, phase, "Running") && is_ready(a, status);
    read_cost(a, meta, p);
    return 0;
}

static int read_more(struct arena *a, struct json_val v, char **ret_more, struct err *e)
{
    CLEANUP(mem_free) char *more = NULL;
    int code = answer_text(a, json_get(json_get(v, "metadata"), "continue"), "metadata.continue",
                           &more, e);

    if (!code)
        *ret_more = more && *more ? STEAL(more) : NULL;
    return code;
}

static int add_pod(struct kube_pods *pods, struct kube_pod p)
{
    struct kube_pod *v = NULL;

    /* Grown by doubling: at the powers of two. */
    if ((pods->n & (pods->n - 1)) == 0) {
        v = reallocarray(pods->v, pods->n ? 2 * pods->n : 1, sizeof(*v));
        if (!v)
            return -ENOMEM;
        pods->v = v;
    }
    pods->v[pods->n++] = p;
    return 0;
}

int answer_pods(struct slice body, struct kube_pods *pods, char **ret_more, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct json_iter it;
    struct json_val v;
    int code = a ? answer_scan(body, "PodList", &v, e) : -ENOMEM;

    if (code)
        return code;
    if (!json_is_null(json_get(v, "items")) && json_get(v, "items").kind != JSON_K_ARRAY)
        return err_set(e, -EINVAL, "items is no list");
    json_iter_init(&it, json_get(v, "items"));
    while (json_next(&it)) {
        struct kube_pod p = {0};

        if (pods->n == LIMIT_KUBE_PODS)
            return err_set(e, -E2BIG, "more than %u pods match the selector", LIMIT_KUBE_PODS);
        code = read_pod(a, it.val, &p, e);
        if (!code)
            code = add_pod(pods, p);
        if (code) {
            free(p.name);
            return code;
        }
    }
    return read_more(a, v, ret_more, e);
}

/* ---- what else scales it ---- */

int answer_rival(struct slice body, const char *kind, const char *deployment, char **ret_rival,
                 char **ret_more, struct err *e)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    CLEANUP(mem_free) char *name = NULL;
    struct json_iter it;
    struct json_val v;
    int code = a ? answer_scan(body, NULL, &v, e) : -ENOMEM;

    if (code)
        return code;
    json_iter_init(&it, json_get(v, "items"));
    while (json_next(&it)) {
        struct json_val ref = json_get(json_get(it.val, "spec"), "scaleTargetRef");
        struct json_val of = json_get(ref, "kind");

        /* KEDA's kind is a Deployment when it says nothing. */
        if ((!json_is_null(of) && !is_text(a, of, "Deployment")) ||
            !is_text(a, json_get(ref, "name"), deployment))
            continue;
        code = answer_text(a, json_get(json_get(it.val, "metadata"), "name"), "metadata.name",
                           &name, e);
        if (!code && asprintf(ret_rival, "%s/%s", kind, name ? name : "?") < 0) {
            *ret_rival = NULL;
            code = -ENOMEM;
        }
        return code;
    }
    return read_more(a, v, ret_more, e);
}
