/* SPDX-License-Identifier: Apache-2.0 */
#include "keys.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <sys/stat.h>

#define PATH_SIZE 4096

static FILE *create(const char *folder, const char *name, const char *ending)
{
    char path[PATH_SIZE];
    FILE *f;

    ASSERT(snprintf(path, sizeof(path), "%s/%s%s", folder, name, ending) < PATH_SIZE);
    f = fopen(path, "w");
    ASSERT(f);
    return f;
}

static void write_certificate(const char *folder, const char *name, EVP_PKEY *key, int days)
{
    X509 *cert = X509_new();
    X509_NAME *issuer = X509_get_subject_name(cert);
    char store[PATH_SIZE];
    FILE *f;

    ASSERT(X509_NAME_add_entry_by_txt(issuer, "C", MBSTRING_ASC, (const unsigned char *)"CZ", -1,
                                      -1, 0));
    ASSERT(X509_NAME_add_entry_by_txt(issuer, "CN", MBSTRING_ASC, (const unsigned char *)name, -1,
                                      -1, 0));
    ASSERT(X509_set_issuer_name(cert, issuer) && X509_set_pubkey(cert, key));
    ASSERT(ASN1_INTEGER_set_uint64(X509_get_serialNumber(cert), 12345678901234567890u));
    ASSERT(X509_gmtime_adj(X509_getm_notBefore(cert), -30L * 86400));
    ASSERT(X509_gmtime_adj(X509_getm_notAfter(cert), days * 86400L));
    ASSERT(X509_sign(cert, key, EVP_sha256()));
    ASSERT(snprintf(store, sizeof(store), "%s/store", folder) < PATH_SIZE);
    (void)mkdir(store, 0700);
    f = create(store, name, ".crt");
    ASSERT(PEM_write_X509(f, cert) && fclose(f) == 0);
    X509_free(cert);
}

void keys_make(const char *folder, const char *name, int days, const char *password)
{
    EVP_PKEY *key = EVP_RSA_gen(2048);
    FILE *f = create(folder, name, ".key");

    ASSERT(key);
    ASSERT(PEM_write_PrivateKey(f, key, password ? EVP_aes_128_cbc() : NULL, NULL, 0, NULL,
                                (void *)(uintptr_t)password));
    ASSERT(fclose(f) == 0);
    write_certificate(folder, name, key, days);
    EVP_PKEY_free(key);
}
