/* SPDX-License-Identifier: Apache-2.0 */
/* Signed bodies (celery/security): base64 of
 *
 *     base64(signer) SEP base64(signature) SEP content type SEP content encoding SEP body
 *
 * with SEP the bytes 00 01. The signer is the certificate's issuer and serial number; the signature is RSA-PSS with the
 * longest salt, over the body as it stands. What must never happen: a body that is used before its signature was
 * found good. Keys and certificates are read once and not changed, so threads share them. */

#include "celeryc/base/codec.h"
#include "celeryc/base/limits.h"
#include "celeryc/base/map.h"
#include "celeryc/message/wire_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEP     "\0\1"
#define SEP_LEN 2

struct auth {
    EVP_PKEY *key;
    char *signer;      /* name of our certificate */
    struct map *certs; /* name -> X509 */
    X509 **list;
    size_t n_certs;
    EVP_MD *digest;
};

static void bio_done(BIO **p)
{
    BIO_free(*p);
}

static void pkey_ctx_done(EVP_MD_CTX **p)
{
    EVP_MD_CTX_free(*p);
}

static void x509_done(X509 **p)
{
    X509_free(*p);
}

#define SCOPED(fn) __attribute__((cleanup(fn)))

/* ---- files ---- */

static int read_file(const char *path, struct buf *dst, struct err *e)
{
    char chunk[8192];
    ssize_t n;
    int fd = open(path, O_RDONLY | O_CLOEXEC), r;

    if (fd < 0) {
        r = -errno;
        return err_set(e, r, "cannot read %s: %s", path, err_errno(r));
    }
    while ((n = read(fd, chunk, sizeof(chunk))) > 0 && dst->len <= LIMIT_PEM_BYTES)
        buf_append(dst, chunk, (size_t)n);
    r = n < 0 ? -errno : buf_ok(dst);
    (void)close(fd);
    if (r)
        return err_set(e, r, "cannot read %s: %s", path, err_errno(r));
    return dst->len > LIMIT_PEM_BYTES ? err_set(e, -E2BIG, "%s is no PEM file: it is too big", path)
                                      : 0;
}

/* Never asks at the terminal. */
static int give_password(char *dst, int size, int writing, void *arg)
{
    const char *password = arg;
    size_t len = password ? strlen(password) : 0;

    (void)writing;
    if (!password || len > (size_t)size)
        return -1;
    for (size_t i = 0; i < len; i++)
        dst[i] = password[i];
    return (int)len;
}

/* ---- certificates ---- */

static int expired(const X509 *cert)
{
    return X509_cmp_current_time(X509_get0_notAfter(cert)) <= 0;
}

static int append_issuer(struct buf *dst, const X509 *cert)
{
    const X509_NAME *issuer = X509_get_issuer_name(cert);

    for (int i = 0; i < X509_NAME_entry_count(issuer); i++) {
        const ASN1_STRING *value = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(issuer, i));
        unsigned char *utf8;
        int len = ASN1_STRING_to_UTF8(&utf8, value);

        if (len < 0)
            return -EINVAL;
        buf_append_str(dst, i ? " " : "");
        buf_append(dst, utf8, (size_t)len);
        OPENSSL_free(utf8);
    }
    return 0;
}

/* "US Acme Inc worker1 33756215": how messages name it. */
static int certificate_name(const X509 *cert, char **ret_name)
{
    CLEANUP(buf_deinit) struct buf name = BUF_INIT;
    BIGNUM *serial = ASN1_INTEGER_to_BN(X509_get0_serialNumber(cert), NULL);
    char *decimal = serial ? BN_bn2dec(serial) : NULL;
    int r = decimal ? append_issuer(&name, cert) : -ENOMEM;

    if (r == 0) {
        buf_append_char(&name, ' ');
        buf_append_str(&name, decimal);
        *ret_name = buf_take(&name);
        if (!*ret_name)
            r = -ENOMEM;
    }
    OPENSSL_free(decimal);
    BN_free(serial);
    return r;
}

static int load_certificate(const char *path, X509 **ret_cert, char **ret_name, struct err *e)
{
    CLEANUP(buf_deinit) struct buf pem = BUF_INIT;
    SCOPED(x509_done) X509 *cert = NULL;
    SCOPED(bio_done) BIO *bio = NULL;
    int r = read_file(path, &pem, e);

    if (r)
        return r;
    bio = BIO_new_mem_buf(pem.data ? pem.data : "", (int)pem.len);
    cert = bio ? PEM_read_bio_X509(bio, NULL, give_password, NULL) : NULL;
    ERR_clear_error();
    if (!bio)
        return -ENOMEM;
    if (!cert)
        return err_set(e, -EINVAL, "%s is not a certificate in PEM form", path);
    if (!X509_get0_pubkey(cert) || EVP_PKEY_get_base_id(X509_get0_pubkey(cert)) != EVP_PKEY_RSA)
        return err_set(e, -EINVAL, "%s: only certificates with RSA keys are supported", path);
    r = certificate_name(cert, ret_name);
    if (r)
        return r == -EINVAL ? err_set(e, r, "%s: its issuer cannot be read", path) : r;
    *ret_cert = STEAL(cert);
    return 0;
}

/* ---- making one ---- */

static int load_key(struct auth *a, const struct wire_options *o, struct err *e)
{
    CLEANUP(buf_deinit) struct buf pem = BUF_INIT;
    SCOPED(bio_done) BIO *bio = NULL;
    int r = read_file(o->key, &pem, e);

    if (r)
        return err_prefix(e, r, "security_key");
    bio = BIO_new_mem_buf(pem.data ? pem.data : "", (int)pem.len);
    if (!bio)
        return -ENOMEM;
    a->key = PEM_read_bio_PrivateKey(bio, NULL, give_password, (void *)(uintptr_t)o->key_password);
    ERR_clear_error();
    OPENSSL_cleanse(pem.data, pem.len);
    if (!a->key)
        return err_set(e, -EINVAL, "security_key: %s is not a private key in PEM form%s", o->key,
                       o->key_password ? ", or security_key_password is wrong"
                                       : " that is readable without security_key_password");
    if (EVP_PKEY_get_base_id(a->key) != EVP_PKEY_RSA)
        return err_set(e, -EINVAL, "security_key: %s: only RSA keys are supported", o->key);
    return 0;
}

/* What signs must be what others verify with. */
static int load_own(struct auth *a, const struct wire_options *o, struct err *e)
{
    SCOPED(x509_done) X509 *cert = NULL;
    int r = load_certificate(o->certificate, &cert, &a->signer, e);

    if (r)
        return err_prefix(e, r, "security_certificate");
    if (EVP_PKEY_eq(X509_get0_pubkey(cert), a->key) != 1)
        return err_set(e, -EINVAL, "security_certificate: %s does not belong to security_key %s",
                       o->certificate, o->key);
    return 0;
}

static int add_certificate(struct auth *a, const char *path, struct err *e)
{
    CLEANUP(mem_free) char *name = NULL;
    X509 *cert;
    int r = load_certificate(path, &cert, &name, e);

    if (r)
        return r;
    a->list[a->n_certs++] = cert;
    if (expired(cert))
        return err_set(e, -EINVAL, "the certificate %s (%s) has expired", name, path);
    if (map_get(a->certs, slice_str(name)))
        return err_set(e, -EINVAL, "the certificate %s is there twice (%s)", name, path);
    return map_set(a->certs, slice_str(name), cert);
}

static int load_files(struct auth *a, const glob_t *files, const char *store, struct err *e)
{
    int r = 0;

    if (files->gl_pathc == 0)
        return err_set(e, -EINVAL, "no certificates in %s", store);
    if (files->gl_pathc > LIMIT_CERTIFICATES)
        return err_set(e, -E2BIG, "too many files in %s", store);
    a->list = calloc(files->gl_pathc, sizeof(X509 *));
    if (!a->list)
        return -ENOMEM;
    for (size_t i = 0; r == 0 && i < files->gl_pathc; i++)
        r = add_certificate(a, files->gl_pathv[i], e);
    return r;
}

static int load_store(struct auth *a, const char *store, struct err *e)
{
    CLEANUP(buf_deinit) struct buf pattern = BUF_INIT;
    struct stat st;
    glob_t files;
    int r;

    buf_append_str(&pattern, store);
    if (stat(store, &st) == 0 && S_ISDIR(st.st_mode))
        buf_append_str(&pattern, "/*");
    if (buf_ok(&pattern))
        return -ENOMEM;
    /* NOLINTNEXTLINE(concurrency-mt-unsafe): at the start, while there is one thread */
    r = glob(pattern.data, 0, NULL, &files);
    if (r && r != GLOB_NOMATCH)
        return r == GLOB_NOSPACE ? -ENOMEM
                                 : err_set(e, -EIO, "security_cert_store: cannot read %s", store);
    if (r == GLOB_NOMATCH)
        return err_set(e, -EINVAL, "security_cert_store: no certificates in %s", store);
    r = load_files(a, &files, store, e);
    globfree(&files);
    return r ? err_prefix(e, r, "security_cert_store") : 0;
}

/* Python's names: sha256, sha3_256. */
static int load_digest(struct auth *a, const char *name, struct err *e)
{
    char openssl[32];
    size_t len = strlen(name);

    for (size_t i = 0; i <= len && len < sizeof(openssl); i++)
        openssl[i] = name[i] == '_' ? '-' : name[i];
    if (len < sizeof(openssl))
        a->digest = EVP_MD_fetch(NULL, openssl, NULL);
    ERR_clear_error();
    return a->digest ? 0 : err_set(e, -EINVAL, "security_digest: %s is not a digest", name);
}

int auth_new(const struct wire_options *o, struct auth **ret_a, struct err *e)
{
    CLEANUP(auth_free) struct auth *a = calloc(1, sizeof(*a));
    int r;

    if (!o->key || !o->certificate || !o->cert_store)
        return err_set(e, -EINVAL,
                       "the serializer auth needs the settings security_key, "
                       "security_certificate and security_cert_store");
    if (!a || !(a->certs = map_new()))
        return -ENOMEM;
    r = load_digest(a, o->digest ? o->digest : "sha256", e);
    if (r == 0)
        r = load_key(a, o, e);
    if (r == 0)
        r = load_own(a, o, e);
    if (r == 0)
        r = load_store(a, o->cert_store, e);
    if (r)
        return r;
    *ret_a = STEAL(a);
    return 0;
}

struct auth *auth_free(struct auth *a)
{
    if (!a)
        return NULL;
    for (size_t i = 0; i < a->n_certs; i++)
        X509_free(a->list[i]);
    free(a->list);
    map_free(a->certs);
    EVP_PKEY_free(a->key);
    EVP_MD_free(a->digest);
    free(a->signer);
    free(a);
    return NULL;
}

/* ---- signatures ---- */

/* The longest salt that fits the key; 0 when the key is too short for the digest. */
static int salt_length(const EVP_PKEY *key, const EVP_MD *digest)
{
    int coded = (EVP_PKEY_get_bits(key) + 6) / 8; /* bits - 1, rounded up */

    return coded - EVP_MD_get_size(digest) - 2;
}

static bool use_pss(EVP_PKEY_CTX *ctx, const EVP_PKEY *key, const EVP_MD *digest)
{
    int salt = salt_length(key, digest);

    return salt >= 0 && EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_PSS_PADDING) == 1 &&
           EVP_PKEY_CTX_set_rsa_pss_saltlen(ctx, salt) == 1;
}

static int make_signature(const struct auth *a, struct slice body, struct buf *dst)
{
    SCOPED(pkey_ctx_done) EVP_MD_CTX *md = EVP_MD_CTX_new();
    EVP_PKEY_CTX *ctx;
    size_t len = (size_t)EVP_PKEY_get_size(a->key);

    if (!md)
        return -ENOMEM;
    buf_reserve(dst, len);
    if (dst->failed)
        return -ENOMEM;
    if (EVP_DigestSignInit(md, &ctx, a->digest, NULL, a->key) != 1 ||
        !use_pss(ctx, a->key, a->digest) ||
        EVP_DigestSign(md, (unsigned char *)dst->data, &len, (const unsigned char *)body.p,
                       body.len) != 1) {
        ERR_clear_error();
        return -EINVAL;
    }
    dst->len = len;
    return 0;
}

static bool is_good(const struct auth *a, const X509 *cert, struct slice signature,
                    struct slice body)
{
    SCOPED(pkey_ctx_done) EVP_MD_CTX *md = EVP_MD_CTX_new();
    EVP_PKEY *key = X509_get0_pubkey(cert);
    EVP_PKEY_CTX *ctx;
    bool good = md && EVP_DigestVerifyInit(md, &ctx, a->digest, NULL, key) == 1 &&
                use_pss(ctx, key, a->digest) &&
                EVP_DigestVerify(md, (const unsigned char *)signature.p, signature.len,
                                 (const unsigned char *)body.p, body.len) == 1;

    ERR_clear_error();
    return good;
}

int auth_sign(const struct auth *a, struct buf *dst, enum content inner, struct slice body,
              struct err *e)
{
    CLEANUP(buf_deinit) struct buf signature = BUF_INIT;
    CLEANUP(buf_deinit) struct buf fields = BUF_INIT;
    int r = make_signature(a, body, &signature);

    if (r)
        return r == -EINVAL ? err_set(e, r, "auth: the body cannot be signed with this key") : r;
    base64_encode(&fields, slice_str(a->signer));
    buf_append(&fields, SEP, SEP_LEN);
    base64_encode(&fields, buf_slice(&signature));
    buf_append(&fields, SEP, SEP_LEN);
    buf_append_str(&fields, content_type(inner));
    buf_append(&fields, SEP "utf-8" SEP, SEP_LEN + 5 + SEP_LEN);
    buf_append_slice(&fields, body);
    if (fields.failed)
        return -ENOMEM;
    base64_encode(dst, buf_slice(&fields));
    return buf_ok(dst);
}

/* The piece in front of the next separator; false when there is none. */
static bool cut(struct slice *rest, struct slice *ret_piece)
{
    const char *at = rest->len ? memmem(rest->p, rest->len, SEP, SEP_LEN) : NULL;

    if (!at)
        return false;
    *ret_piece = (struct slice){rest->p, (size_t)(at - rest->p)};
    *rest = (struct slice){at + SEP_LEN, rest->len - ret_piece->len - SEP_LEN};
    return true;
}

static int unbase64(struct arena *arena, struct slice src, struct slice *ret_s, struct err *e)
{
    char *dst = arena_alloc(arena, BASE64_DECODED_MAX(src.len));
    size_t len;

    if (!dst)
        return -ENOMEM;
    if (base64_decode_to(dst, src, true, &len))
        return err_set(e, -EINVAL, "auth: bad base64");
    *ret_s = (struct slice){dst, len};
    return 0;
}

int auth_verify(const struct auth *a, struct arena *arena, struct slice text,
                enum content *ret_inner, struct slice *ret_body, struct err *e)
{
    struct slice rest, signer, signature, type, encoding;
    const X509 *cert;
    int r = unbase64(arena, text, &rest, e);

    if (r)
        return r;
    if (!cut(&rest, &signer) || !cut(&rest, &signature) || !cut(&rest, &type) ||
        !cut(&rest, &encoding))
        return err_set(e, -EINVAL, "auth: it is not signed");
    r = unbase64(arena, signer, &signer, e);
    if (r == 0)
        r = unbase64(arena, signature, &signature, e);
    if (r)
        return r;
    cert = map_get(a->certs, signer);
    if (!cert)
        return err_set(e, -EINVAL,
                       "auth: Unknown certificate: '%.*s'; add it to security_cert_store",
                       (int)MIN(signer.len, (size_t)200), signer.p);
    if (expired(cert))
        return err_set(e, -EINVAL, "auth: Expired certificate: '%.*s'",
                       (int)MIN(signer.len, (size_t)200), signer.p);
    if (!is_good(a, cert, signature, rest))
        return err_set(e, -EINVAL, "auth: Bad signature of '%.*s'",
                       (int)MIN(signer.len, (size_t)200), signer.p);
    *ret_inner = content_find(type);
    if (*ret_inner == CONTENT_AUTH || *ret_inner == CONTENT_PICKLE || *ret_inner == CONTENT_UNKNOWN)
        return err_set(e, -EINVAL, "auth: signed content of type %.*s is not read",
                       (int)MIN(type.len, (size_t)64), type.p);
    *ret_body = rest;
    return 0;
}
