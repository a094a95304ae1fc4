/* SPDX-License-Identifier: Apache-2.0 */
/* One attempt of one S3 request with libcurl, signed by libcurl (AWS SigV4).
 *
 * The header x-amz-content-sha256 is always given: libcurl before 8 does not make one, and the server then checks the
 * bytes against it. Answers are bounded while they arrive. Redirects are not followed: a signature is for one host. */

#include "celeryc/base/codec.h"
#include "celeryc/base/limits.h"
#include "celeryc/base/num.h"
#include "celeryc/store/s3_priv.h"

#include <errno.h>
#include <openssl/evp.h>

struct transfer {
    struct s3 *s;
    const struct s3_request *q;
    struct s3_answer *a;
    size_t sent;
};

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
    struct transfer *t = arg;
    long status = 0;

    (void)size; /* always 1 */
    (void)curl_easy_getinfo(t->s->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status >= 200 && status < 300) {
        if (!t->q->dst)
            return n;
        if (t->q->dst->len - t->q->dst_start + n > LIMIT_OBJECT_BYTES) {
            t->a->too_big = true;
            return 0;
        }
        buf_append(t->q->dst, p, n);
        t->a->no_memory = t->q->dst->failed;
        return t->a->no_memory ? 0 : n;
    }
    if (t->a->error_body.len < S3_ERROR_BODY)
        buf_append(&t->a->error_body, p, MIN(n, S3_ERROR_BODY - t->a->error_body.len));
    return n;
}

static size_t on_read(char *p, size_t size, size_t n, void *arg)
{
    struct transfer *t = arg;
    size_t room = size * n, left = t->q->body.len - t->sent, take = MIN(room, left);

    if (take)
        memcpy(p, t->q->body.p + t->sent, take);
    t->sent += take;
    return take;
}

static int on_seek(void *arg, curl_off_t offset, int origin)
{
    struct transfer *t = arg;

    if (origin != SEEK_SET || offset < 0 || (uint64_t)offset > t->q->body.len)
        return CURL_SEEKFUNC_CANTSEEK;
    t->sent = (size_t)offset;
    return CURL_SEEKFUNC_OK;
}

static struct curl_slist *slist_free(struct curl_slist *l)
{
    curl_slist_free_all(l);
    return NULL;
}

DEFINE_CLEANUP(struct curl_slist, slist_free)

static int add_header(struct curl_slist **l, const char *name, const char *value)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;
    struct curl_slist *next;

    buf_appendf(&b, "%s: %s", name, value);
    next = buf_ok(&b) ? NULL : curl_slist_append(*l, b.data);
    if (!next)
        return -ENOMEM;
    *l = next;
    return 0;
}

static int content_sha256(struct slice body, struct buf *dst)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned n = 0;

    if (EVP_Digest(body.p ? body.p : "", body.len, digest, &n, EVP_sha256(), NULL) != 1)
        return -ENOMEM;
    hex_encode(dst, (struct slice){(char *)digest, n});
    return buf_ok(dst);
}

static int make_headers(const struct s3 *s, const struct s3_request *q, struct curl_slist **ret_l)
{
    CLEANUP(slist_free) struct curl_slist *l = NULL;
    CLEANUP(buf_deinit) struct buf sha = BUF_INIT;
    int code = content_sha256(q->body, &sha);

    if (!code)
        code = add_header(&l, "x-amz-content-sha256", sha.data);
    if (!code && s->token)
        code = add_header(&l, "x-amz-security-token", s->token);
    if (!code && q->content_type)
        code = add_header(&l, "Content-Type", q->content_type);
    if (code)
        return code;
    *ret_l = STEAL(l);
    return 0;
}

static int make_texts(const struct s3 *s, const struct s3_request *q, struct buf *url,
                      struct buf *sigv4)
{
    buf_appendf(url, "%s/", s->base);
    s3_escape_path(url, q->name);
    buf_appendf(sigv4, "aws:amz:%s:s3", s->region);
    return buf_ok(url) || buf_ok(sigv4) ? -ENOMEM : 0;
}

static void set_common(struct transfer *t, const char *url, const char *sigv4,
                       const struct curl_slist *headers)
{
    CURL *c = t->s->curl;

    curl_easy_reset(c); /* keeps the connections */
    curl_easy_setopt(c, CURLOPT_URL, url);
#if LIBCURL_VERSION_NUM >= 0x075500
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
#endif
    curl_easy_setopt(c, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(c, CURLOPT_AWS_SIGV4, sigv4);
    curl_easy_setopt(c, CURLOPT_USERNAME, t->s->key_id);
    curl_easy_setopt(c, CURLOPT_PASSWORD, t->s->secret);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "scatter");
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_NOPROGRESS, 1L);
    curl_easy_setopt(c, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, t->s->curl_error);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(c, CURLOPT_MAXFILESIZE_LARGE, (curl_off_t)LIMIT_OBJECT_BYTES);
    if (t->s->ca_bundle)
        curl_easy_setopt(c, CURLOPT_CAINFO, t->s->ca_bundle);
}

static void set_method(struct transfer *t)
{
    CURL *c = t->s->curl;

    if (str_eq(t->q->method, "PUT")) {
        curl_easy_setopt(c, CURLOPT_UPLOAD, 1L);
        /* Hardly any pause before a large body. (A header "Expect:" would do, but libcurl 7.88 signs it.) */
        curl_easy_setopt(c, CURLOPT_EXPECT_100_TIMEOUT_MS, 1L);
        curl_easy_setopt(c, CURLOPT_INFILESIZE_LARGE, (curl_off_t)t->q->body.len);
        curl_easy_setopt(c, CURLOPT_READFUNCTION, on_read);
        curl_easy_setopt(c, CURLOPT_READDATA, t);
        curl_easy_setopt(c, CURLOPT_SEEKFUNCTION, on_seek);
        curl_easy_setopt(c, CURLOPT_SEEKDATA, t);
    } else if (str_eq(t->q->method, "DELETE")) {
        curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, "DELETE");
    } else {
        curl_easy_setopt(c, CURLOPT_HTTPGET, 1L);
    }
}

static void set_limits(CURL *c, int64_t left_ms, int64_t stall_s)
{
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)MAX(left_ms, 1));
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, (long)MAX(MIN(left_ms, 5000), 1));
    /* A transfer that does not move at all for stall_s is given up and tried again. */
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, (long)stall_s);
}

int s3_attempt(struct s3 *s, const struct s3_request *q, int64_t left_ms, int64_t stall_s,
               struct s3_answer *ret_a)
{
    CLEANUP(slist_free) struct curl_slist *headers = NULL;
    CLEANUP(buf_deinit) struct buf url = BUF_INIT;
    CLEANUP(buf_deinit) struct buf sigv4 = BUF_INIT;
    struct transfer t = {.s = s, .q = q, .a = ret_a};
    curl_off_t retry_after = 0;
    int code = make_texts(s, q, &url, &sigv4);

    if (!code)
        code = make_headers(s, q, &headers);
    if (code)
        return code;
    s->curl_error[0] = '\0';
    set_common(&t, url.data, sigv4.data, headers);
    set_method(&t);
    set_limits(s->curl, left_ms, stall_s);
    ret_a->curl = curl_easy_perform(s->curl);
    (void)curl_easy_getinfo(s->curl, CURLINFO_RESPONSE_CODE, &ret_a->status);
    (void)curl_easy_getinfo(s->curl, CURLINFO_OS_ERRNO, &ret_a->os_errno);
    if (curl_easy_getinfo(s->curl, CURLINFO_RETRY_AFTER, &retry_after) == CURLE_OK)
        ret_a->retry_after_ms = MIN(MAX(retry_after, 0), 3600) * 1000;
    curl_easy_setopt(s->curl, CURLOPT_HTTPHEADER, NULL); /* the list dies here */
    return ret_a->no_memory || buf_ok(&ret_a->error_body) ? -ENOMEM : 0;
}
