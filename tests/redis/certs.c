/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/redis/certs.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "celeryc/base/util.h"

#define DAY_S 86400L

static FILE *open_file(const char *dir, const char *name, const char *ending, const char *mode)
{
    char path[256];
    (void)snprintf(path, sizeof(path), "%s/%s.%s", dir, name, ending);
    FILE *f = fopen(path, mode);
    ASSERT(f);
    return f;
}

static void add_extension(X509 *x, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, x, x, NULL, NULL, 0);
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    ASSERT(e && X509_add_ext(x, e, -1) == 1);
    X509_EXTENSION_free(e);
}

static X509 *unsigned_certificate(const struct cert *c, EVP_PKEY *key)
{
    static long serial;
    X509 *x = X509_new();
    ASSERT(x && X509_set_version(x, 2) == 1);
    ASSERT(ASN1_INTEGER_set(X509_get_serialNumber(x), ++serial) == 1);
    ASSERT(X509_gmtime_adj(X509_getm_notBefore(x), -10 * DAY_S));
    ASSERT(X509_gmtime_adj(X509_getm_notAfter(x), c->expired ? -DAY_S : 10 * DAY_S));
    ASSERT(X509_set_pubkey(x, key) == 1);
    X509_NAME *name = X509_get_subject_name(x);
    ASSERT(X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                                      (const unsigned char *)(c->subject ? c->subject : c->name),
                                      -1, -1, 0) == 1);
    add_extension(x, NID_basic_constraints, c->issuer ? "CA:FALSE" : "critical,CA:TRUE");
    if (c->names)
        add_extension(x, NID_subject_alt_name, c->names);
    return x;
}

static void sign(const char *dir, const struct cert *c, X509 *x, EVP_PKEY *own)
{
    if (!c->issuer) {
        ASSERT(X509_set_issuer_name(x, X509_get_subject_name(x)) == 1);
        ASSERT(X509_sign(x, own, EVP_sha256()) > 0);
        return;
    }
    FILE *f = open_file(dir, c->issuer, "pem", "r");
    X509 *ca = PEM_read_X509(f, NULL, NULL, NULL);
    (void)fclose(f);
    f = open_file(dir, c->issuer, "key", "r");
    EVP_PKEY *key = PEM_read_PrivateKey(f, NULL, NULL, NULL);
    (void)fclose(f);
    ASSERT(ca && key);
    ASSERT(X509_set_issuer_name(x, X509_get_subject_name(ca)) == 1);
    ASSERT(X509_sign(x, key, EVP_sha256()) > 0);
    X509_free(ca);
    EVP_PKEY_free(key);
}

void certs_make(const char *dir, const struct cert *c)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    ASSERT(key);
    X509 *x = unsigned_certificate(c, key);
    sign(dir, c, x, key);
    FILE *f = open_file(dir, c->name, "pem", "w");
    ASSERT(PEM_write_X509(f, x) == 1);
    (void)fclose(f);
    f = open_file(dir, c->name, "key", "w");
    ASSERT(PEM_write_PKCS8PrivateKey(f, key, c->password ? EVP_aes_128_cbc() : NULL, c->password,
                                     c->password ? (int)strlen(c->password) : 0, NULL, NULL) == 1);
    (void)fclose(f);
    X509_free(x);
    EVP_PKEY_free(key);
}

void certs_remove(const char *dir)
{
    DIR *d = opendir(dir);
    for (struct dirent *f; d && (f = readdir(d)) != NULL;)
        if (f->d_name[0] != '.')
            (void)unlinkat(dirfd(d), f->d_name, 0);
    if (d)
        (void)closedir(d);
    (void)rmdir(dir);
}

int certs_free_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ASSERT(fd >= 0 && bind(fd, (struct sockaddr *)&at, len) == 0);
    ASSERT(getsockname(fd, (struct sockaddr *)&at, &len) == 0);
    (void)close(fd);
    return ntohs(at.sin_port);
}
