/* SPDX-License-Identifier: Apache-2.0 */
/* kubeconfigs, and the files that Kubernetes puts into a pod. */

#include "k8s/scaler/kube_access.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

static struct kube_access access_;
static struct kube_files files;
static struct err e;

static void clear(void)
{
    kube_access_deinit(&access_);
    kube_files_deinit(&files);
    e = (struct err)ERR_INIT;
}

TestSuite(kube_config, .fini = clear);

static int parse(const char *text, const char *context)
{
    clear();
    return kubeconfig_parse(slice_str(text), context, &access_, &files, &e);
}

#define HEAD                                                          \
    "apiVersion: v1\nkind: Config\ncurrent-context: one\ncontexts:\n" \
    "- name: one\n  context: {cluster: c, user: u, namespace: jobs}\n"
#define CLUSTER(more)                    \
    "clusters:\n- name: c\n  cluster:\n" \
    "    server: https://kube.example:6443/\n" more
#define USER(more) "users:\n- name: u\n  user:\n" more

Test(kube_config, reads_every_field_of_yaml)
{
    cr_assert_eq(parse(HEAD CLUSTER("    certificate-authority-data: Y2E=\n"
                                    "    tls-server-name: other.example\n"
                                    "    proxy-url: http://proxy:3128\n")
                           USER("    client-certificate-data: Y2VydA==\n    client-key: key.pem\n"
                                "    token: abc\n    tokenFile: token\n"),
                       NULL),
                 0, "%s", e.text);
    cr_assert_str_eq(access_.server, "https://kube.example:6443");
    cr_assert_str_eq(access_.ns, "jobs");
    cr_assert_str_eq(access_.ca_pem, "ca");
    cr_assert_str_eq(access_.cert_pem, "cert");
    cr_assert_str_eq(files.key, "key.pem");
    cr_assert_str_eq(access_.token, "abc");
    cr_assert_str_eq(access_.token_file, "token");
    cr_assert_str_eq(access_.tls_name, "other.example");
    cr_assert_str_eq(access_.proxy, "http://proxy:3128");
    cr_assert_not(access_.in_cluster);
}

Test(kube_config, reads_json_as_kubectl_writes_it)
{
    const char *text =
        "{\"kind\": \"Config\", \"apiVersion\": \"v1\", \"preferences\": {}, \"clusters\": "
        "[{\"name\": \"c\", \"cluster\": {\"server\": \"https://127.0.0.1:6443\"}}], \"users\": "
        "[{\"name\": \"u\", \"user\": {\"token\": \"t\"}}], \"contexts\": [{\"name\": \"a\", "
        "\"context\": {\"cluster\": \"c\", \"user\": \"u\"}}], \"current-context\": \"gone\"}";

    cr_assert_eq(parse(text, "a"), 0, "%s", e.text);
    cr_assert_str_eq(access_.token, "t");
    cr_assert_null(access_.ns);
    cr_assert_eq(parse(text, NULL), -EINVAL);
    cr_assert_str_eq(e.text, "kubeconfig: there is no context named \"gone\" in it");
}

Test(kube_config, refuses_what_cannot_work_and_names_the_way_out)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {HEAD CLUSTER("    insecure-skip-tls-verify: true\n") USER("    token: a\n"),
         "put the cluster's CA into certificate-authority-data"},
        {HEAD CLUSTER("") USER("    exec: {command: aws}\n"), "kubectl create token"},
        {HEAD CLUSTER("") USER("    auth-provider: {name: gcp}\n"), "kubectl proxy"},
        {HEAD CLUSTER("") USER("    username: me\n"), "\"username\", which is not supported"},
        {HEAD CLUSTER("") USER("    client-key: k\n"), "go together, one is missing"},
        {HEAD CLUSTER("    certificate-authority-data: '***'\n") USER("    token: a\n"),
         "is not the base64 of a PEM file"},
        {HEAD CLUSTER("") USER("    token: [a]\n"), "token is no text"},
        {HEAD CLUSTER(""), "there is no user named \"u\""},
        {HEAD, "there is no cluster named \"c\""},
        {HEAD "clusters: [{name: c, cluster: {}}]\n", "the cluster has no server"},
        {HEAD "clusters: [{name: c, cluster: {server: 'http://kube:1'}}]\n", "only https"},
        {HEAD "clusters: [{name: c, cluster: {server: 'https://u:p@kube'}}]\n",
         "server is not https://host[:port]"},
        {"kind: Config\n", "no current-context"},
        {"[1]", "not a mapping"},
        {"a: [", "yaml:"},
        {"{\"a\": ", "not JSON"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        cr_expect_lt(parse(cases[i].text, NULL), 0, "case %zu", i);
        cr_expect(strstr(e.text, cases[i].says), "case %zu: %s", i, e.text);
        cr_expect_null(strstr(e.text, "u:p@"));
    }
}

Test(kube_config, takes_plain_http_to_this_machine_only)
{
    static const char *const good[] = {"http://127.0.0.1:8001", "http://localhost:1",
                                       "http://[::1]:8001"};
    char text[256];

    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        (void)snprintf(text, sizeof(text),
                       HEAD "clusters: [{name: c, cluster: {server: '%s'}}]\n"
                            "users: [{name: u, user: {}}]\n",
                       good[i]);
        cr_expect_eq(parse(text, NULL), 0, "%s: %s", good[i], e.text);
    }
}

Test(kube_config, a_token_makes_exec_needless)
{
    cr_assert_eq(parse(HEAD CLUSTER("") USER("    token: a\n    exec: {command: x}\n"), NULL), 0);
}

/* ---- files ---- */

static char folder[] = "/tmp/kube_config.XXXXXX";

static void write_file(const char *name, const char *text)
{
    char path[128];
    FILE *f;

    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    f = fopen(path, "we");
    cr_assert(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

static void make_folder(void)
{
    cr_assert(mkdtemp(folder));
}

static void remove_folder(void)
{
    static const char *const names[] = {"config", "ca.crt", "token", "namespace", "ca.pem"};
    char path[128];

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        (void)snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
        (void)unlink(path);
    }
    (void)rmdir(folder);
    clear();
}

TestSuite(kube_files, .init = make_folder, .fini = remove_folder);

Test(kube_files, paths_count_from_the_kubeconfigs_folder)
{
    char path[128], expected[128];

    write_file("ca.pem", "the CA\n");
    write_file("config",
               HEAD CLUSTER("    certificate-authority: ca.pem\n") USER("    tokenFile: token\n"));
    (void)snprintf(path, sizeof(path), "%s/config", folder);
    (void)snprintf(expected, sizeof(expected), "%s/token", folder);
    cr_assert_eq(kube_access_load(path, NULL, &access_, &e), 0, "%s", e.text);
    cr_assert_str_eq(access_.ca_pem, "the CA");
    cr_assert_str_eq(access_.token_file, expected);
    write_file("config",
               HEAD CLUSTER("    certificate-authority: gone.pem\n") USER("    token: a\n"));
    kube_access_deinit(&access_);
    cr_assert_eq(kube_access_load(path, NULL, &access_, &e), -ENOENT);
    cr_assert(strstr(e.text, "gone.pem"), "%s", e.text);
}

static void set(const char *name, const char *value)
{
    cr_assert_eq(value ? setenv(name, value, 1) : unsetenv(name), 0);
}

Test(kube_files, a_pod_has_everything)
{
    set("KUBERNETES_SERVICE_HOST", "fd00::1");
    set("KUBERNETES_SERVICE_PORT", "443");
    write_file("ca.crt", "the CA\n");
    write_file("namespace", "jobs");
    cr_assert_eq(kube_access_in_cluster(folder, &access_, &e), 0, "%s", e.text);
    cr_assert_str_eq(access_.server, "https://[fd00::1]:443");
    cr_assert_str_eq(access_.ca_pem, "the CA");
    cr_assert_str_eq(access_.ns, "jobs");
    cr_assert(access_.in_cluster);
}

Test(kube_files, no_pod_is_told_what_to_do)
{
    static const struct {
        const char *host, *port, *says;
    } cases[] = {
        {NULL, "443", "--kubeconfig"},
        {"10.0.0.1", NULL, "--kubeconfig"},
        {"10.0.0.1", "70000", "is not a port"},
        {"a/../b", "443", "neither a host's name nor an address"},
        {"10.0.0.1", "443", "ca.crt"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        set("KUBERNETES_SERVICE_HOST", cases[i].host);
        set("KUBERNETES_SERVICE_PORT", cases[i].port);
        e = (struct err)ERR_INIT;
        cr_expect_lt(kube_access_in_cluster(folder, &access_, &e), 0, "case %zu", i);
        cr_expect(strstr(e.text, cases[i].says), "case %zu: %s", i, e.text);
    }
}
