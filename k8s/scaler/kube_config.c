/* SPDX-License-Identifier: Apache-2.0 */
/* A kubeconfig's text: the context asked for, its cluster and its user.
 *
 * YAML is turned into JSON text by message/ (aliases, depth and size are limited there), so one reader serves both. What
 * cannot work here is refused with the way out: exec and auth-provider run programs of a desktop, and a connection that
 * is not verified would hand the token to anybody. */

#include "celeryc/base/codec.h"
#include "celeryc/base/limits.h"
#include "celeryc/base/url.h"
#include "celeryc/message/json.h"
#include "celeryc/message/wire.h"
#include "k8s/scaler/kube_access.h"

#include <arpa/inet.h>
#include <errno.h>
#include <strings.h>

struct reader {
    struct arena *arena;
    struct err *e;
};

/* The text of a member, NULL when it is absent or null. */
static int text_of(struct reader *r, struct json_val v, const char *key, char **ret_text)
{
    struct json_val member = json_get(v, key);
    struct slice s;
    int code;

    if (json_is_null(member))
        return 0;
    code = json_string(r->arena, member, &s);
    if (code == -ENOMEM)
        return code;
    if (code || (s.len && memchr(s.p, '\0', s.len)))
        return err_set(r->e, -EINVAL, "kubeconfig: %s is no text", key);
    if (!s.len)
        return 0;
    free(*ret_text);
    *ret_text = slice_dup(s);
    return *ret_text ? 0 : -ENOMEM;
}

/* base64 of PEM. */
static int data_of(struct reader *r, struct json_val v, const char *key, char **ret_text)
{
    CLEANUP(mem_free) char *text = NULL;
    CLEANUP(buf_deinit) struct buf pem = BUF_INIT;
    int code = text_of(r, v, key, &text);

    if (code || !text)
        return code;
    code = base64_decode(&pem, slice_str(text));
    if (code == -EINVAL || (!code && pem.len && memchr(pem.data, '\0', pem.len)))
        return err_set(r->e, -EINVAL, "kubeconfig: %s is not the base64 of a PEM file", key);
    if (code)
        return code;
    free(*ret_text);
    *ret_text = buf_take(&pem);
    return *ret_text ? 0 : -ENOMEM;
}

/* The member `what` ("cluster") of the element of `list` ("clusters") with that name. */
static int find_named(struct reader *r, struct json_val config, const char *list, const char *what,
                      const char *name, struct json_val *ret_v)
{
    struct json_iter it;

    json_iter_init(&it, json_get(config, list));
    while (json_next(&it)) {
        struct slice s;
        int code = json_string(r->arena, json_get(it.val, "name"), &s);

        if (code == -ENOMEM)
            return code;
        if (code || !slice_eq_str(s, name))
            continue;
        *ret_v = json_get(it.val, what);
        return 0;
    }
    return err_set(r->e, -EINVAL, "kubeconfig: there is no %s named \"%.200s\" in it", what, name);
}

static bool is_loopback(const char *host)
{
    struct in_addr four;
    struct in6_addr six;

    if (strcasecmp(host, "localhost") == 0)
        return true;
    if (inet_pton(AF_INET, host, &four) == 1)
        return (ntohl(four.s_addr) >> 24) == 127;
    return inet_pton(AF_INET6, host, &six) == 1 && IN6_IS_ADDR_LOOPBACK(&six);
}

static int check_server(struct reader *r, struct kube_access *a)
{
    CLEANUP(url_deinit) struct url u = {0};
    size_t n;
    int code;

    if (!a->server)
        return err_set(r->e, -EINVAL, "kubeconfig: the cluster has no server");
    code = url_parse(a->server, &u, NULL);
    if (code == -ENOMEM)
        return code;
    if (code || !*u.host || u.user || u.password || u.query)
        return err_set(r->e, -EINVAL, "kubeconfig: server is not https://host[:port]");
    if (!str_eq(u.scheme, "https") && !(str_eq(u.scheme, "http") && is_loopback(u.host)))
        return err_set(r->e, -EINVAL,
                       "kubeconfig: server %s://%s: only https, or http to this machine "
                       "(kubectl proxy)",
                       u.scheme, u.host);
    for (n = strlen(a->server); n && a->server[n - 1] == '/'; n--)
        a->server[n - 1] = '\0';
    return 0;
}

static int read_cluster(struct reader *r, struct json_val v, struct kube_access *a,
                        struct kube_files *f)
{
    int code = text_of(r, v, "server", &a->server);

    if (!code)
        code = text_of(r, v, "certificate-authority", &f->ca);
    if (!code)
        code = data_of(r, v, "certificate-authority-data", &a->ca_pem);
    if (!code)
        code = text_of(r, v, "tls-server-name", &a->tls_name);
    if (!code)
        code = text_of(r, v, "proxy-url", &a->proxy);
    if (code)
        return code;
    if (json_get(v, "insecure-skip-tls-verify").kind == JSON_K_TRUE)
        return err_set(
            r->e, -EINVAL,
            "kubeconfig: insecure-skip-tls-verify is not supported, the token would go to "
            "whoever answers: put the cluster's CA into certificate-authority-data");
    return check_server(r, a);
}

static int read_user(struct reader *r, struct json_val v, struct kube_access *a,
                     struct kube_files *f)
{
    static const char *const foreign[] = {"exec", "auth-provider", "username"};
    int code = text_of(r, v, "token", &a->token);

    if (!code)
        code = text_of(r, v, "tokenFile", &a->token_file);
    if (!code)
        code = text_of(r, v, "client-certificate", &f->cert);
    if (!code)
        code = data_of(r, v, "client-certificate-data", &a->cert_pem);
    if (!code)
        code = text_of(r, v, "client-key", &f->key);
    if (!code)
        code = data_of(r, v, "client-key-data", &a->key_pem);
    if (code)
        return code;
    for (size_t i = 0; i < ARRAY_SIZE(foreign); i++) {
        if (!json_is_null(json_get(v, foreign[i])) && !a->token && !a->token_file)
            return err_set(
                r->e, -EINVAL,
                "kubeconfig: the user logs in with \"%s\", which is not supported: run "
                "`kubectl proxy` and name http://127.0.0.1:8001 as the server, or put the "
                "output of `kubectl create token SERVICEACCOUNT` into token",
                foreign[i]);
    }
    if ((f->cert || a->cert_pem) != (f->key || a->key_pem))
        return err_set(r->e, -EINVAL,
                       "kubeconfig: client-certificate and client-key go together, one is missing");
    return 0;
}

static int to_json(struct reader *r, struct slice text, struct json_val *ret_v)
{
    CLEANUP(wire_free) struct wire *w = NULL;
    struct slice json = text;
    size_t i = 0;
    int code;

    if (text.len > LIMIT_CONFIG_BYTES)
        return err_set(r->e, -E2BIG, "kubeconfig: larger than %u bytes", LIMIT_CONFIG_BYTES);
    while (i < text.len && strchr(" \t\r\n", text.p[i]) && text.p[i])
        i++;
    if (i == text.len || text.p[i] != '{') {
        const struct wire_options yaml = {.accept = "yaml"};

        code = wire_new(&yaml, &w, r->e);
        if (!code)
            code = wire_read(w, r->arena, SLICE_LIT("application/x-yaml"), text, &json, r->e);
        if (code)
            return code;
    }
    code = json_scan(json, ret_v, r->e);
    if (!code && ret_v->kind != JSON_K_OBJECT)
        return err_set(r->e, -EINVAL, "kubeconfig: not a mapping");
    return code;
}

static int read_context(struct reader *r, struct json_val config, const char *context,
                        struct kube_access *a, struct kube_files *f)
{
    CLEANUP(mem_free) char *current = NULL, *cluster_name = NULL, *user_name = NULL;
    struct json_val v, cluster, user;
    int code = text_of(r, config, "current-context", &current);

    if (!code && !context && !current)
        return err_set(r->e, -EINVAL, "kubeconfig: no current-context: name one with --context");
    if (!code)
        code = find_named(r, config, "contexts", "context", context ? context : current, &v);
    if (!code)
        code = text_of(r, v, "cluster", &cluster_name);
    if (!code)
        code = text_of(r, v, "user", &user_name);
    if (!code)
        code = text_of(r, v, "namespace", &a->ns);
    if (!code)
        code = find_named(r, config, "clusters", "cluster", cluster_name ? cluster_name : "",
                          &cluster);
    if (!code)
        code = read_cluster(r, cluster, a, f);
    if (code || !user_name)
        return code;
    code = find_named(r, config, "users", "user", user_name, &user);
    return code ? code : read_user(r, user, a, f);
}

int kubeconfig_parse(struct slice text, const char *context, struct kube_access *ret_a,
                     struct kube_files *ret_files, struct err *e)
{
    CLEANUP(arena_free) struct arena *arena = arena_new();
    CLEANUP(kube_access_deinit) struct kube_access a = {0};
    CLEANUP(kube_files_deinit) struct kube_files f = {0};
    struct reader r = {arena, e};
    struct json_val config;
    int code;

    if (!arena)
        return -ENOMEM;
    code = to_json(&r, text, &config);
    if (!code)
        code = read_context(&r, config, context, &a, &f);
    if (code)
        return code;
    *ret_a = a;
    *ret_files = f;
    a = (struct kube_access){0};
    f = (struct kube_files){0};
    return 0;
}
