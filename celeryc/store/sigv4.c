/* SPDX-License-Identifier: Apache-2.0 */
/* The signature of a request, as S3 computes it again from what arrives.
 *
 * libcurl signs, too, but puts x-amz-server-side-encryption behind the longer header that begins with its name (up to
 * 8.2 at least), so that no object could be stored under a KMS key.
 * https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html */

#include "celeryc/store/sigv4.h"

#include "celeryc/base/codec.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#define HASH_BYTES 32

void sigv4_date(time_t at, char dst[SIGV4_DATE_SIZE])
{
    struct tm t;

    ASSERT(gmtime_r(&at, &t) && strftime(dst, SIGV4_DATE_SIZE, "%Y%m%dT%H%M%SZ", &t) == 16);
}

int sigv4_hash(struct slice bytes, struct buf *dst)
{
    unsigned char digest[HASH_BYTES];

    if (EVP_Digest(bytes.p ? bytes.p : "", bytes.len, digest, NULL, EVP_sha256(), NULL) != 1)
        return -ENOMEM;
    hex_encode(dst, (struct slice){(char *)digest, sizeof(digest)});
    return buf_ok(dst);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct sigv4_header *)a)->name, ((const struct sigv4_header *)b)->name);
}

static void names(struct buf *dst, const struct sigv4_header *h, size_t n)
{
    for (size_t i = 0; i < n; i++)
        buf_appendf(dst, "%s%s", i ? ";" : "", h[i].name);
}

/* headers are sorted. */
static int canonical_hash(const struct sigv4 *r, const struct sigv4_header *headers,
                          struct buf *dst)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    buf_appendf(&b, "%s\n%s\n\n", r->method, r->path);
    for (size_t i = 0; i < r->n_headers; i++)
        buf_appendf(&b, "%s:%s\n", headers[i].name, headers[i].value);
    buf_append_char(&b, '\n');
    names(&b, headers, r->n_headers);
    buf_appendf(&b, "\n%s", r->payload_hash);
    return buf_ok(&b) ? -ENOMEM : sigv4_hash(buf_slice(&b), dst);
}

/* key becomes HMAC(key, text). */
static int chain(unsigned char key[HASH_BYTES], size_t key_len, struct slice text)
{
    unsigned char out[HASH_BYTES];

    if (!HMAC(EVP_sha256(), key, (int)key_len, (const unsigned char *)text.p, text.len, out, NULL))
        return -ENOMEM;
    memcpy(key, out, sizeof(out));
    OPENSSL_cleanse(out, sizeof(out));
    return 0;
}

static int signature(const struct sigv4 *r, struct slice to_sign, struct buf *dst)
{
    CLEANUP(buf_deinit) struct buf secret = BUF_INIT;
    const struct slice steps[] = {slice_str(r->region), slice_str(r->service),
                                  SLICE_LIT("aws4_request"), to_sign};
    unsigned char key[HASH_BYTES];
    int code;

    buf_appendf(&secret, "AWS4%s", r->secret);
    code = buf_ok(&secret);
    if (!code && !HMAC(EVP_sha256(), secret.data, (int)secret.len, (const unsigned char *)r->date,
                       8, key, NULL))
        code = -ENOMEM;
    for (size_t i = 0; i < ARRAY_SIZE(steps) && !code; i++)
        code = chain(key, sizeof(key), steps[i]);
    if (!code)
        hex_encode(dst, (struct slice){(char *)key, sizeof(key)});
    if (secret.data)
        OPENSSL_cleanse(secret.data, secret.len);
    OPENSSL_cleanse(key, sizeof(key));
    return code ? code : buf_ok(dst);
}

int sigv4_authorization(const struct sigv4 *r, struct buf *dst)
{
    CLEANUP(buf_deinit) struct buf to_sign = BUF_INIT;
    struct sigv4_header headers[SIGV4_HEADERS_MAX];
    int code;

    ASSERT(r->n_headers <= SIGV4_HEADERS_MAX);
    memcpy(headers, r->headers, r->n_headers * sizeof(*headers));
    qsort(headers, r->n_headers, sizeof(*headers), by_name);
    buf_appendf(&to_sign, "AWS4-HMAC-SHA256\n%s\n%.8s/%s/%s/aws4_request\n", r->date, r->date,
                r->region, r->service);
    code = canonical_hash(r, headers, &to_sign);
    if (code)
        return code;
    buf_appendf(dst,
                "AWS4-HMAC-SHA256 Credential=%s/%.8s/%s/%s/aws4_request, SignedHeaders=", r->key_id,
                r->date, r->region, r->service);
    names(dst, headers, r->n_headers);
    buf_append_str(dst, ", Signature=");
    return signature(r, buf_slice(&to_sign), dst);
}
