/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* How a cluster is reached: from the files that Kubernetes puts into a pod, or from a kubeconfig. */

#include "celeryc/base/buf.h"
#include "celeryc/base/err.h"

/* Every text may be NULL unless said. A PEM text comes from the file or from the base64 of the kubeconfig; a path stays
 * a path when the file may change under us (the token). */
struct kube_access {
    char *server;   /* scheme://host[:port][/path] without a slash at its end; never NULL */
    char *ns;       /* the namespace it names */
    char *ca_pem;   /* NULL: the system's authorities */
    char *cert_pem; /* the client's certificate and key: both or none */
    char *key_pem;
    char *token;
    char *token_file; /* read again at each run and after a 401 */
    char *tls_name; /* the name that the server's certificate must have, when not the URL's host */
    char *proxy;
    bool in_cluster; /* proxies of the environment do not count */
};

void kube_access_deinit(struct kube_access *a);
DEFINE_CLEANUP_VALUE(struct kube_access, kube_access_deinit)

/* Reads a kubeconfig (YAML or JSON) and follows the paths in it, relative ones from the file's folder. context: NULL the
 * current one. 0; -EINVAL with the fix named; -E2BIG; -ENOMEM; -Exxx of a file. */
int kube_access_load(const char *path, const char *context, struct kube_access *ret_a,
                     struct err *e) WARN_UNUSED;

/* From KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT and the files in folder (NULL: where Kubernetes puts them).
 * 0; -EINVAL: this is no pod; -ENOMEM; -Exxx of a file. */
int kube_access_in_cluster(const char *folder, struct kube_access *ret_a,
                           struct err *e) WARN_UNUSED;

/* The kubeconfig's text alone, no file is opened: paths are left in *_file of the result. For kube_access_load and the
 * fuzzer. */
struct kube_files {
    char *ca, *cert, *key;
};

void kube_files_deinit(struct kube_files *f);
DEFINE_CLEANUP_VALUE(struct kube_files, kube_files_deinit)

int kubeconfig_parse(struct slice text, const char *context, struct kube_access *ret_a,
                     struct kube_files *ret_files, struct err *e) WARN_UNUSED;

/* A whole file without the white space at its end, freed by the caller. 0, -E2BIG, -EINVAL (a NUL inside), -Exxx. */
int kube_read_file(const char *path, char **ret_text, struct err *e) WARN_UNUSED;
