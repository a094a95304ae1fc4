/* SPDX-License-Identifier: Apache-2.0 */
/* TLS by OpenSSL between two memory buffers.
 *
 * The certificate is verified against the given CA, or the system's store, and must name the host, unless the options say
 * otherwise. TLS 1.2 is the least. Nothing is kept between sessions: a renewed certificate or CA file serves the next
 * connection. Errors are one line that ends with what to do, because "certificate verify failed" alone is the start of a
 * search. */
#include "celeryc/redis/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <string.h>

struct tls {
    SSL_CTX *ctx;
    SSL *ssl;
    BIO *in, *out; /* the session's */
    char *host;
    char *key_password;
};

/* Why OpenSSL failed, in its words, or `otherwise`. Empties its queue. */
static const char *reason(const char *otherwise)
{
    unsigned long first = ERR_peek_error();
    const char *text = first ? ERR_reason_error_string(first) : NULL;
    ERR_clear_error();
    return text ? text : otherwise;
}

/* ---- setting up ---- */

static int add_ca_data(struct tls *t, const char *pem, struct err *e)
{
    BIO *b = BIO_new_mem_buf(pem, -1);
    if (!b)
        return -ENOMEM;
    size_t n = 0;
    X509 *x;
    while ((x = PEM_read_bio_X509(b, NULL, NULL, NULL)) != NULL) {
        n += X509_STORE_add_cert(SSL_CTX_get_cert_store(t->ctx), x) == 1;
        X509_free(x);
    }
    BIO_free(b);
    ERR_clear_error();
    return n ? 0 : err_set(e, -EINVAL, "ssl_ca_data holds no certificate in PEM form");
}

static int load_ca(struct tls *t, const struct redis_tls *o, struct err *e)
{
    const char *file = o->text[REDIS_TLS_CA_CERTS], *path = o->text[REDIS_TLS_CA_PATH];
    const char *data = o->text[REDIS_TLS_CA_DATA];
    if (file && SSL_CTX_load_verify_file(t->ctx, file) != 1)
        return err_set(e, -EINVAL, "ssl_ca_certs: cannot read certificates from %s: %s", file,
                       reason("no reason given"));
    if (path && SSL_CTX_load_verify_dir(t->ctx, path) != 1)
        return err_set(e, -EINVAL, "ssl_ca_path: cannot use the folder %s: %s", path,
                       reason("no reason given"));
    if (data)
        return add_ca_data(t, data, e);
    if (!file && !path && SSL_CTX_set_default_verify_paths(t->ctx) != 1)
        return err_set(e, -EINVAL, "cannot load the system's certificates: %s",
                       reason("no reason given"));
    return 0;
}

static int give_password(char *dst, int cap, int writing, void *arg)
{
    const char *password = ((const struct tls *)arg)->key_password;
    size_t len = password ? strlen(password) : 0;
    (void)writing;
    if (!password || len > (size_t)cap)
        return -1;
    memcpy(dst, password, len); /* NOLINT(bugprone-not-null-terminated-result): len goes along */
    return (int)len;
}

static int load_certificate(struct tls *t, const struct redis_tls *o, struct err *e)
{
    const char *cert = o->text[REDIS_TLS_CERTFILE];
    const char *key = o->text[REDIS_TLS_KEYFILE] ? o->text[REDIS_TLS_KEYFILE] : cert;
    if (!cert)
        return 0;
    SSL_CTX_set_default_passwd_cb(t->ctx, give_password);
    SSL_CTX_set_default_passwd_cb_userdata(t->ctx, t);
    if (SSL_CTX_use_certificate_chain_file(t->ctx, cert) != 1)
        return err_set(e, -EINVAL, "ssl_certfile: cannot read a certificate from %s: %s", cert,
                       reason("no reason given"));
    if (SSL_CTX_use_PrivateKey_file(t->ctx, key, SSL_FILETYPE_PEM) != 1)
        return err_set(e, -EINVAL,
                       "ssl_keyfile: cannot read a private key from %s: %s (an encrypted key needs "
                       "ssl_password)",
                       key, reason("no reason given"));
    if (SSL_CTX_check_private_key(t->ctx) != 1)
        return err_set(e, -EINVAL, "ssl_keyfile: %s is not the key of the certificate %s", key,
                       cert);
    return 0;
}

static bool is_address(const char *host)
{
    unsigned char bytes[sizeof(struct in6_addr)];
    return inet_pton(AF_INET, host, bytes) == 1 || inet_pton(AF_INET6, host, bytes) == 1;
}

static int expect_host(struct tls *t, const struct redis_tls *o)
{
    bool address = is_address(t->host);
    if (!address && SSL_set_tlsext_host_name(t->ssl, t->host) != 1)
        return -ENOMEM;
    if (o->check_host == REDIS_NO)
        return 0;
    X509_VERIFY_PARAM *p = SSL_get0_param(t->ssl);
    X509_VERIFY_PARAM_set_hostflags(p, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    int ok = address ? X509_VERIFY_PARAM_set1_ip_asc(p, t->host)
                     : X509_VERIFY_PARAM_set1_host(p, t->host, 0);
    return ok == 1 ? 0 : -ENOMEM;
}

static int make_session(struct tls *t, const struct redis_tls *o)
{
    t->ssl = SSL_new(t->ctx);
    t->in = BIO_new(BIO_s_mem());
    t->out = BIO_new(BIO_s_mem());
    if (!t->ssl || !t->in || !t->out) {
        BIO_free(t->in);
        BIO_free(t->out);
        return -ENOMEM;
    }
    BIO_set_mem_eof_return(t->in, -1); /* empty is not the end */
    BIO_set_mem_eof_return(t->out, -1);
    SSL_set_bio(t->ssl, t->in, t->out);
    SSL_set_connect_state(t->ssl);
    return expect_host(t, o);
}

static int go_on(struct tls *t, struct err *e);

int tls_new(const struct redis_tls *o, const char *host, struct tls **ret_t, struct err *e)
{
    CLEANUP(tls_free) struct tls *t = calloc(1, sizeof(*t));
    if (!t)
        return -ENOMEM;
    const char *password = o->text[REDIS_TLS_PASSWORD];
    ERR_clear_error();
    t->host = slice_dup(slice_str(host));
    t->key_password = password ? slice_dup(slice_str(password)) : NULL;
    t->ctx = SSL_CTX_new(TLS_client_method());
    if (!t->host || (password && !t->key_password) || !t->ctx)
        return -ENOMEM;
    (void)SSL_CTX_set_min_proto_version(t->ctx, TLS1_2_VERSION);
    (void)SSL_CTX_set_options(t->ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_verify(t->ctx, o->verify == REDIS_NO ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, NULL);
    int r = o->verify == REDIS_NO ? 0 : load_ca(t, o, e);
    if (r == 0)
        r = load_certificate(t, o, e);
    if (r == 0)
        r = make_session(t, o);
    if (r == 0)
        r = go_on(t, e); /* the client speaks first */
    if (r)
        return r;
    *ret_t = STEAL(t);
    return 0;
}

struct tls *tls_free(struct tls *t)
{
    if (!t)
        return NULL;
    SSL_free(t->ssl); /* and its BIOs */
    SSL_CTX_free(t->ctx);
    free(t->host);
    free(t->key_password);
    free(t);
    return NULL;
}

/* ---- failures, and what to do about them ---- */

static int not_verified(const struct tls *t, long code, struct err *e)
{
    const char *text = X509_verify_cert_error_string(code);
    switch (code) {
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
        return err_set(e, -EPROTO,
                       "the server's certificate is not for %s: connect by a name that it has, or "
                       "set ssl_check_hostname=false",
                       t->host);
    case X509_V_ERR_CERT_HAS_EXPIRED:
    case X509_V_ERR_CERT_NOT_YET_VALID:
        return err_set(e, -EPROTO,
                       "the server's certificate is not valid now (%s): renew it, or set the clock",
                       text);
    default:
        return err_set(e, -EPROTO,
                       "the server's certificate is not trusted (%s): name its CA with "
                       "ssl_ca_certs, or set ssl_cert_reqs=none to do without",
                       text);
    }
}

static int refused(int alert, struct err *e)
{
    switch (alert) {
    case SSL_AD_UNKNOWN_CA:
    case SSL_AD_BAD_CERTIFICATE:
    case SSL_AD_CERTIFICATE_EXPIRED:
    case SSL_AD_CERTIFICATE_UNKNOWN:
        return err_set(e, -EPROTO,
                       "the server does not accept our certificate (%s): give one of a CA that it "
                       "knows with ssl_certfile and ssl_keyfile",
                       SSL_alert_desc_string_long(alert));
    case SSL_AD_CERTIFICATE_REQUIRED:
    case SSL_AD_HANDSHAKE_FAILURE: /* what TLS 1.2 has for it */
        return err_set(e, -EPROTO,
                       "the server refused the handshake (%s): it may want a client's certificate; "
                       "give ssl_certfile and ssl_keyfile",
                       SSL_alert_desc_string_long(alert));
    default:
        return err_set(e, -EPROTO, "TLS: the server ended the session: %s",
                       SSL_alert_desc_string_long(alert));
    }
}

static int failed(const struct tls *t, struct err *e)
{
    unsigned long code = ERR_peek_last_error(); /* what came first may be a detail (EVP, ASN.1) */
    int why = ERR_GET_REASON(code);
    long verify = SSL_get_verify_result(t->ssl);
    if (ERR_GET_LIB(code) == ERR_LIB_SSL && why == SSL_R_CERTIFICATE_VERIFY_FAILED) {
        ERR_clear_error();
        return not_verified(t, verify, e);
    }
    if (ERR_GET_LIB(code) == ERR_LIB_SSL && why > SSL_AD_REASON_OFFSET) {
        ERR_clear_error();
        return refused(why - SSL_AD_REASON_OFFSET, e);
    }
    if (!SSL_is_init_finished(t->ssl) && ERR_GET_LIB(code) == ERR_LIB_SSL &&
        (why == SSL_R_WRONG_VERSION_NUMBER || why == SSL_R_PACKET_LENGTH_TOO_LONG)) {
        ERR_clear_error();
        return err_set(e, -EPROTO,
                       "the server does not speak TLS there: use its TLS port, or redis://");
    }
    return err_set(e, -EPROTO, "TLS: %s", reason("the session broke"));
}

/* ---- bytes ---- */

/* One step of the handshake, when it is not done yet. */
static int go_on(struct tls *t, struct err *e)
{
    if (SSL_is_init_finished(t->ssl))
        return 0;
    ERR_clear_error();
    int r = SSL_do_handshake(t->ssl);
    if (r == 1)
        return 0;
    int want = SSL_get_error(t->ssl, r);
    return want == SSL_ERROR_WANT_READ || want == SSL_ERROR_WANT_WRITE ? 0 : failed(t, e);
}

int tls_feed(struct tls *t, const char *p, size_t len, struct err *e)
{
    ASSERT(len <= INT_MAX);
    if (BIO_write(t->in, p, (int)len) != (int)len)
        return -ENOMEM;
    return go_on(t, e);
}

bool tls_is_open(const struct tls *t)
{
    return SSL_is_init_finished(t->ssl);
}

int tls_read(struct tls *t, char *dst, size_t cap, size_t *ret_n, struct err *e)
{
    size_t n = 0;
    ERR_clear_error();
    int r = SSL_read_ex(t->ssl, dst, cap, &n);
    if (r == 1) {
        *ret_n = n;
        return 0;
    }
    switch (SSL_get_error(t->ssl, r)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        *ret_n = 0;
        return 0;
    case SSL_ERROR_ZERO_RETURN:
        return -EPIPE;
    default:
        return failed(t, e);
    }
}

int tls_write(struct tls *t, struct slice s, struct err *e)
{
    size_t n = 0;
    ERR_clear_error();
    if (s.len == 0)
        return 0;
    /* The buffer grows, so all of it is taken. */
    if (SSL_write_ex(t->ssl, s.p, s.len, &n) != 1)
        return failed(t, e);
    ASSERT(n == s.len);
    return 0;
}

void tls_take_output(struct tls *t, struct buf *dst)
{
    char *data = NULL;
    long len = BIO_get_mem_data(t->out, &data);
    if (len <= 0)
        return;
    buf_append(dst, data, (size_t)len);
    (void)BIO_reset(t->out);
}
