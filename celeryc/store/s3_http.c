/* SPDX-License-Identifier: Apache-2.0 */
/* One attempt of one S3 request with libcurl.
 *
 * The bytes are part of the signature (x-amz-content-sha256), so that the server checks them. Answers are bounded while
 * they arrive. Redirects are not followed: a signature is for one host. */

#include "celeryc/base/clock.h"
#include "celeryc/base/limits.h"
#include "celeryc/store/curl_list.h"
#include "celeryc/store/s3_priv.h"
#include "celeryc/store/sigv4.h"

#include <ctype.h>
#include <errno.h>
#include <strings.h>

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

/* Keeps "x-amz-bucket-region: eu-west-3". */
static size_t on_header(char *p, size_t size, size_t n, void *arg)
{
    static const char name[] = "x-amz-bucket-region:";
    const size_t len = sizeof(name) - 1;
    struct transfer *t = arg;
    size_t i = len, k = 0;

    (void)size; /* always 1 */
    if (n <= len || strncasecmp(p, name, len) != 0)
        return n;
    while (i < n && p[i] == ' ')
        i++;
    for (; i < n && !isspace((unsigned char)p[i]) && k < sizeof(t->a->region) - 1; i++)
        t->a->region[k++] = p[i];
    t->a->region[k] = '\0';
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

static int add_header(struct curl_slist **l, const char *name, const char *value)
{
    CLEANUP(buf_deinit) struct buf b = BUF_INIT;

    buf_appendf(&b, "%s: %s", name, value);
    return buf_ok(&b) ? -ENOMEM : curl_list_add(l, b.data);
}

/* What is signed and sent: name, value, until NULL. */
struct headers {
    struct sigv4_header h[SIGV4_HEADERS_MAX];
    size_t n;
};

static void put(struct headers *l, const char *name, const char *value)
{
    if (value)
        l->h[l->n++] = (struct sigv4_header){name, value};
}

static void list(const struct s3 *s, const struct s3_request *q, const char *host, const char *date,
                 const char *hash, struct headers *l)
{
    bool write = str_eq(q->method, "PUT");

    put(l, "host", host);
    put(l, "x-amz-date", date);
    put(l, "x-amz-content-sha256", hash);
    put(l, "x-amz-security-token", s->creds.token);
    put(l, "content-type", q->content_type);
    put(l, "x-amz-server-side-encryption", write ? s->sse : NULL);
    put(l, "x-amz-server-side-encryption-aws-kms-key-id", write ? s->sse_key : NULL);
    put(l, "x-amz-storage-class", write ? s->storage_class : NULL);
}

/* Of "scheme://host:port/path": the host as it stands in the header, without a port that goes without saying. */
static int split(const char *url, struct buf *host, const char **ret_path)
{
    const char *at = strstr(url, "://") + 3, *usual = at - url == 8 ? ":443" : ":80";
    size_t n = strcspn(at, "/"), port = strlen(usual);

    *ret_path = at + n;
    if (n > port && strncmp(at + n - port, usual, port) == 0)
        n -= port;
    buf_append(host, at, n);
    return buf_ok(host);
}

static int make_headers(const struct s3 *s, const struct s3_request *q, const char *url,
                        struct curl_slist **ret_l)
{
    CLEANUP(curl_list_free) struct curl_slist *l = NULL;
    CLEANUP(buf_deinit) struct buf host = BUF_INIT, hash = BUF_INIT, authorization = BUF_INIT;
    struct headers signed_ones = {.n = 0};
    char date[SIGV4_DATE_SIZE];
    const char *path;
    int code = split(url, &host, &path);

    if (!code)
        code = sigv4_hash(q->body, &hash);
    if (code)
        return code;
    sigv4_date((time_t)(clock_wall_us() / 1000000), date);
    list(s, q, host.data, date, hash.data, &signed_ones);
    code = sigv4_authorization(&(struct sigv4){.method = q->method,
                                               .path = path,
                                               .region = s->region,
                                               .service = "s3",
                                               .key_id = s->creds.key_id,
                                               .secret = s->creds.secret,
                                               .date = date,
                                               .payload_hash = hash.data,
                                               .headers = signed_ones.h,
                                               .n_headers = signed_ones.n},
                               &authorization);
    if (!code)
        code = add_header(&l, "Authorization", authorization.data);
    for (size_t i = 0; i < signed_ones.n && !code; i++)
        code = add_header(&l, signed_ones.h[i].name, signed_ones.h[i].value);
    if (code)
        return code;
    *ret_l = STEAL(l);
    return 0;
}

static int make_url(const struct s3 *s, const struct s3_request *q, struct buf *url)
{
    buf_appendf(url, "%s/", s->base);
    s3_escape_path(url, q->name);
    return buf_ok(url);
}

static void set_common(struct transfer *t, const char *url, const struct curl_slist *headers)
{
    CURL *c = t->s->curl;

    curl_easy_reset(c); /* keeps the connections */
    curl_easy_setopt(c, CURLOPT_URL, url);
#if LIBCURL_VERSION_NUM >= 0x075500
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
#endif
    curl_easy_setopt(c, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "scatter");
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_NOPROGRESS, 1L);
    curl_easy_setopt(c, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, t->s->curl_error);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(c, CURLOPT_MAXFILESIZE_LARGE, (curl_off_t)LIMIT_OBJECT_BYTES);
    if (t->s->ca_bundle)
        curl_easy_setopt(c, CURLOPT_CAINFO, t->s->ca_bundle);
}

static void set_method(struct transfer *t)
{
    CURL *c = t->s->curl;

    if (str_eq(t->q->method, "PUT")) {
        curl_easy_setopt(c, CURLOPT_UPLOAD, 1L);
        /* Hardly any pause before a large body. */
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
    CLEANUP(curl_list_free) struct curl_slist *headers = NULL;
    CLEANUP(buf_deinit) struct buf url = BUF_INIT;
    struct transfer t = {.s = s, .q = q, .a = ret_a};
    curl_off_t retry_after = 0;
    int code = make_url(s, q, &url);

    if (!code)
        code = make_headers(s, q, url.data, &headers);
    if (code)
        return code;
    s->curl_error[0] = '\0';
    set_common(&t, url.data, headers);
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
