/* SPDX-License-Identifier: Apache-2.0 */
/* The files that a kubeconfig or a pod names. Nothing of them ever reaches an error text. */

#include "k8s/scaler/kube_access.h"

#include "celeryc/base/limits.h"
#include "celeryc/base/num.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define IN_CLUSTER_FOLDER "/var/run/secrets/kubernetes.io/serviceaccount"

void kube_access_deinit(struct kube_access *a)
{
    free(a->server);
    free(a->ns);
    free(a->ca_pem);
    free(a->cert_pem);
    free(a->key_pem);
    free(a->token);
    free(a->token_file);
    free(a->tls_name);
    free(a->proxy);
    *a = (struct kube_access){0};
}

void kube_files_deinit(struct kube_files *f)
{
    free(f->ca);
    free(f->cert);
    free(f->key);
    *f = (struct kube_files){0};
}

static int read_all(const char *path, struct buf *dst)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY), code;
    char chunk[4096];
    ssize_t n;

    if (fd < 0)
        return -errno;
    while ((n = read(fd, chunk, sizeof(chunk))) > 0 && dst->len <= LIMIT_CONFIG_BYTES)
        buf_append(dst, chunk, (size_t)n);
    code = n < 0 ? -errno : buf_ok(dst);
    (void)close(fd);
    return code;
}

int kube_read_file(const char *path, char **ret_text, struct err *e)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    int code = read_all(path, &b);

    if (code)
        return err_set(e, code, "cannot read %s: %s", path, err_errno(code));
    if (b.len > LIMIT_CONFIG_BYTES)
        return err_set(e, -E2BIG, "%s is larger than %u bytes", path, LIMIT_CONFIG_BYTES);
    if (b.len && memchr(b.data, '\0', b.len))
        return err_set(e, -EINVAL, "%s is no text file", path);
    while (b.len && strchr(" \t\r\n", b.data[b.len - 1]))
        b.data[--b.len] = '\0';
    if (!b.data)
        buf_append_str(&b, "");
    *ret_text = b.data ? buf_take(&b) : slice_dup(SLICE_LIT(""));
    return *ret_text ? 0 : -ENOMEM;
}

/* A relative path counts from the folder of `from`. */
static char *beside(const char *from, const char *path)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    const char *slash = strrchr(from, '/');

    if (*path != '/' && slash)
        buf_append(&b, from, (size_t)(slash - from) + 1);
    buf_append_str(&b, path);
    return buf_take(&b);
}

/* The data in the kubeconfig wins over the file, as with kubectl. */
static int load_pem(const char *from, const char *path, char **pem, struct err *e)
{
    CLEANUP(mem_free) char *full = NULL;

    if (!path || *pem)
        return 0;
    full = beside(from, path);
    return full ? kube_read_file(full, pem, e) : -ENOMEM;
}

int kube_access_load(const char *path, const char *context, struct kube_access *ret_a,
                     struct err *e)
{
    CLEANUP(kube_access_deinit) struct kube_access a = {0};
    CLEANUP(kube_files_deinit) struct kube_files f = {0};
    CLEANUP(mem_free) char *text = NULL, *token_file = NULL;
    int code = kube_read_file(path, &text, e);

    if (!code)
        code = kubeconfig_parse(slice_str(text), context, &a, &f, e);
    if (!code)
        code = load_pem(path, f.ca, &a.ca_pem, e);
    if (!code)
        code = load_pem(path, f.cert, &a.cert_pem, e);
    if (!code)
        code = load_pem(path, f.key, &a.key_pem, e);
    if (code)
        return err_prefix(e, code, "%s", path);
    if (a.token_file) {
        token_file = beside(path, a.token_file);
        if (!token_file)
            return -ENOMEM;
        free(a.token_file);
        a.token_file = STEAL(token_file);
    }
    *ret_a = a;
    a = (struct kube_access){0};
    return 0;
}

static const char *env(const char *name)
{
    const char *v =
        getenv(name); /* NOLINT(concurrency-mt-unsafe): nobody changes the environment */

    return v && *v ? v : NULL;
}

static int in_cluster_server(struct kube_access *a, struct err *e)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    const char *host = env("KUBERNETES_SERVICE_HOST"), *port = env("KUBERNETES_SERVICE_PORT");
    uint32_t number = 0;

    if (!host || !port)
        return err_set(e, -EINVAL,
                       "not in a pod (KUBERNETES_SERVICE_HOST is not set): name a cluster with "
                       "--kubeconfig FILE or KUBECONFIG");
    if (num_parse_u32(slice_str(port), &number) || number == 0 || number > 65535)
        return err_set(e, -EINVAL, "KUBERNETES_SERVICE_PORT is not a port");
    if (host[strspn(host, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.:-")])
        return err_set(e, -EINVAL,
                       "KUBERNETES_SERVICE_HOST is neither a host's name nor an address");
    if (strchr(host, ':'))
        buf_appendf(&b, "https://[%s]:%u", host, number);
    else
        buf_appendf(&b, "https://%s:%u", host, number);
    a->server = buf_take(&b);
    return a->server ? 0 : -ENOMEM;
}

static int path_in(const char *folder, const char *name, char **ret_path)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    buf_appendf(&b, "%s/%s", folder, name);
    *ret_path = buf_take(&b);
    return *ret_path ? 0 : -ENOMEM;
}

int kube_access_in_cluster(const char *folder, struct kube_access *ret_a, struct err *e)
{
    CLEANUP(kube_access_deinit) struct kube_access a = {.in_cluster = true};
    CLEANUP(mem_free) char *ca = NULL, *ns = NULL;
    const char *here = folder ? folder : IN_CLUSTER_FOLDER;
    int code = in_cluster_server(&a, e);

    if (!code)
        code = path_in(here, "token", &a.token_file);
    if (!code)
        code = path_in(here, "ca.crt", &ca);
    if (!code)
        code = path_in(here, "namespace", &ns);
    if (!code)
        code = kube_read_file(ca, &a.ca_pem, e);
    if (code)
        return code;
    /* Without this file POD_NAMESPACE or an option must say it. */
    if (access(ns, R_OK) == 0) {
        code = kube_read_file(ns, &a.ns, e);
        if (code)
            return code;
    }
    *ret_a = a;
    a = (struct kube_access){0};
    return 0;
}
